/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object that the holder's parts share. One thread, one epoll; no locks.
 *
 * From the bottom:
 *
 *   pager-link.c      epoll and timer; what is said to the pager
 *   source-or-here.c  which of two copies of CRIU's processes may run
 *   guard-client.c    what the guard is told
 *   fetcher.c         a process that fetches content
 *   spaces.c          what is held; reads userfaultfds under the gate
 *   accept.c          clients until their first message is whole
 *   criu.c            CRIU's processes, many on a connection
 *   asks.c            a client that asks by a socket
 *   pager.c           the pager's process, and what it says
 *   holder.c          the loop, start and end
 */
#ifndef FF_PAGER_HOLDER_INTERNAL_H
#define FF_PAGER_HOLDER_INTERNAL_H

#include <sys/socket.h>

#include "pager/holder/config.h"
#include "pager/holder/guard.h"
#include "pager/holder/log.h"
#include "pager/holder/space-record.h"
#include "pager/holder/vmm-wire.h"
#include "pager/holder/wire.h"

#define FF_HOLDER_SPACES 1024
/* A client and its descendants: so many at a time; more of them wait in fork(). */
#define FF_HOLDER_FAMILY 256
#define FF_HOLDER_PENDING 64

typedef struct FfHolder FfHolder;

/* What an epoll event is about: KIND << 32 | index. */
typedef enum {
    FF_ON_LISTEN,
    FF_ON_SIGNAL,
    FF_ON_LINK,
    FF_ON_PAGER, /* its pidfd */
    FF_ON_TIMER,
    FF_ON_PENDING,
    FF_ON_UFFD,
    FF_ON_TOLD,    /* of a root */
    FF_ON_CLIENT,  /* a root's pidfd */
    FF_ON_GUARD,   /* the link to it */
    FF_ON_SOCK,    /* a root's socket: all that have it have ended, or closed it */
    FF_ON_ASK,     /* the socket where a client asks */
    FF_ON_TALK,    /* FfHolderAsks.talk_fd */
    FF_ON_FETCHER, /* FfHolderFetcher.link */
} FfHolderOn;

typedef struct {
    uint64_t id; /* 0: free. A number that is never used again, and the index */
    int root;    /* index; of a root its own */
    int parent;  /* index; of a root -1 */
    int next;    /* in the family, from the root on; -1: the end */
    int uffd;    /* -1: dropped, and here only as the root of others */
    int memfd, news;
    int told, sock, pidfd; /* of a root; else -1 */
    FfSpaceRecord *rec;
    bool ready;          /* there may be something to read; its epoll is not armed */
    bool full;           /* not before the pager has made room */
    bool said_room;      /* of a root: there is no room for a child of it */
    unsigned n_family;   /* of a root: how many are in it */
    bool probe;          /* of a root: the pager must be told that somebody may have ended */
    uint64_t connection; /* of a root of CRIU's; FfPending.connection */
    unsigned tries;      /* pagers that died before they took it */
    bool guarded;        /* the guard that runs has been told to hold it */
    bool runs; /* of a root that a fetcher's pages are for: it was seen after its restore */
} FfHeldSpace;

typedef struct {
    int sock; /* -1: free */
    int uffd; /* -1: not yet */
    pid_t pid;
    uid_t uid;
    int pidfd;
    gint64 since_us;
    uint64_t connection; /* of CRIU's: a number of its own, when it has passed a client */
    bool lost;           /* of CRIU's: one of its processes has ended before it was restored */
    int depth;           /* of brackets */
    bool in_text, escaped, whole;
    uint32_t end; /* of what is whole */
    uint32_t len;
    unsigned dialect;
    char *bytes; /* FF_SPACE_RECORD_HELLO_MAX */
} FfPending;

/* Of FfHolderAsks. */
typedef struct {
    uint64_t id; /* of its space */
    FfVmmAsk in; /* the request that is being read: LEN bytes of it */
    unsigned len;
    uint64_t sent; /* bytes of the answer */
    bool waiting;  /* it was read, and the answer is not sent, or not all of it */
    bool deaf;     /* it has said what is none: it waits for ever */
    bool closed;   /* the other end has closed the socket */
    bool told;     /* of the first answer */
    bool finished; /* the talk has an end */
} FfHeldAsks;

struct FfHolder {
    const FfHolderConfig *cfg;
    int epoll, signals, timer, null_fd;
    bool ending;
    int exit_status;
    uint64_t last_number, last_connection;
    FfHeldSpace space[FF_HOLDER_SPACES];
    FfPending pending[FF_HOLDER_PENDING];
    /* Of a child that may be forked: there before anything is read. -1: none. */
    int spare;
    int guard;         /* the link to it; -1: none runs */
    bool unguarded;    /* it does not know all: no fork is read until it does */
    bool kept_guarded; /* the one that runs has been told of FfArrival.kept_open */
    bool said_unguarded;
    GArray *owed; /* guard-client.c; NULL: nothing yet */
    FfHeldAsks asks;
    uint64_t restored; /* FfPending.connection; 0: not yet, or there is no fetcher */
    gint64 restored_us;
    bool said_restored;
    bool given_up;               /* FF_HOLD_GIVEN_UP has come */
    FfDescendantsLog *offspring; /* the guards'; NULL: there is no fetcher, or it has given up */
    bool fetched;                /* FF_HOLD_FETCHED has come */
    bool committed;              /* FF_HOLD_COMMIT was sent */
    bool fetcher_guarded;        /* the guard that runs has been told to hold its connection */
    /* the pager */
    pid_t pid;    /* 0: none */
    bool hurries; /* the clients have no other copy: it ends when all is placed */
    bool told_hurry;
    int pidfd, link;
    uint64_t told_number; /* up to this one it knows all spaces (FfHeldSpace.id, without index) */
    bool told_ready;
    gint64 started_us;
    gint64 timer_us; /* when it ends (monotonic); 0: it is not set */
    bool deaf;       /* the listening socket is not watched: no fd is free */
};

/* Whom the guard must hold, as nobody else has a userfaultfd of it. */
typedef enum { FF_GUARDED_CHILDREN, FF_GUARDED_ALL, FF_GUARDED_NONE } FfGuarded;

/* What is different with each kind of clients; of one holder all are of one kind. */
struct FfArrival {
    /* From now on they can come. FALSE and errno. */
    bool (*begin)(FfHolder *h);
    /* Something has come from one that has connected. */
    void (*on_pending)(FfHolder *h, FfPending *p);
    /* The holder is about to end. NULL: what is under way is nobody's loss. */
    void (*accept_last)(FfHolder *h);
    /* A connection that must not end as long as there is a guard; -1: there is none now. NULL: of
     * none. */
    int (*kept_open)(const FfHolder *h);
    /* N clients are left. NULL: nothing is said of them. */
    void (*say_left)(unsigned n);
    FfGuarded guarded;
    bool registers_later; /* its memory; ff_holder_registered() follows */
    bool ends_unseen;     /* a client can end without an event */
};

/* ---- pager-link.c
 * ---------------------------------------------------------------------------------- */
bool ff_holder_watch(FfHolder *h, int fd, FfHolderOn on, unsigned index, uint32_t events);
/* FD (-1: nothing) is not watched any more, and is -1. Closing alone does not end that where
 * somebody else has the same open file: a socket that several clients came by, what the guard or
 * the pager has a copy of. Its events would come for ever then, and be taken for those of the
 * one that has its place. */
void ff_holder_close(FfHolder *h, int *fd);
/* What has no event of its own is tried again: after MS at the latest. */
void ff_holder_set_timer(FfHolder *h, unsigned ms);
/* The pager is new, and knows nothing. */
void ff_holder_tell_anew(FfHolder *h);
/* All that the pager does not know yet, as far as its socket has room; the rest when it has. */
void ff_holder_tell_pager(FfHolder *h);
void ff_holder_tell_probe(FfHolder *h, FfHeldSpace *root);

/* ---- source-or-here.c
 * -------------------------------------------------------------------------------- */
/* Clients of another connection run already: these would be their second copies. */
bool ff_holder_has_restored_others(const FfHolder *h, uint64_t connection);
/* CRIU may end it no more: all threads of PID have been let go. */
bool ff_holder_is_let_run(pid_t pid, int pidfd);
/* A client of CONNECTION has ended, and was not seen to run; cannot continue (WHY). So the other
 * copies are not given up, and run again. */
void ff_holder_lost(FfHolder *h, uint64_t connection);
void ff_holder_refused(FfHolder *h, uint64_t connection, const char *why);

/* ---- guard-client.c
 * ------------------------------------------------------------------------------- */
/* All that it does not know, and starts it if none runs. FALSE and errno: that was said, and the
 * timer tries again. */
bool ff_holder_tell_guard(FfHolder *h);
/* The holder is about to end: not before the guard knows all, or nobody is left that needs it. */
void ff_holder_end_guarded(FfHolder *h);
/* An event of the link to it. */
void ff_holder_on_guard(FfHolder *h);
/* S has its userfaultfd. */
void ff_holder_hold(FfHolder *h, const FfHeldSpace *s);
/* The fetcher's connection is not needed any more. */
void ff_holder_let_server_go(FfHolder *h);
/* S has all of its pages, or no memory any more. */
void ff_holder_let_go(FfHolder *h, FfHeldSpace *s);
/* The other copies are given up: nobody is killed for their sake. */
void ff_holder_let_kept_go(FfHolder *h);
/* Of CONNECTION: all that are no spaces any more, and that have not ended, were seen to run. */
bool ff_holder_kept_run(FfHolder *h, uint64_t connection);
/* S stays as it is until its process is gone. */
void ff_holder_kill_process(FfHeldSpace *s);
/* The process of S may not continue; if it is not known, it stands still. S is about to be
 * released, and may have lost its fds. */
void ff_holder_kill_space(FfHolder *h, FfHeldSpace *s);
/* The same of one that is no space. Takes UFFD and PIDFD (-1: not known). */
void ff_holder_kill(FfHolder *h, uint64_t connection, int uffd, int pidfd);

/* ---- accept.c -------------------------------------------------------------------------------- */
/* FfArrival.begin. */
bool ff_holder_listen(FfHolder *h);
void ff_holder_accept(FfHolder *h);
void ff_holder_on_pending(FfHolder *h, unsigned i);
/* P's place is free from now on; closes what it has. */
void ff_holder_forget(FfHolder *h, FfPending *p);
/* The first fd that came with MH is P's userfaultfd, whatever it is; others are closed. */
void ff_holder_keep_fd(FfPending *p, struct msghdr *mh);
#define FF_HOLDER_NO_UFFD                                                                          \
    "it has passed no userfaultfd, or there was no file free for it (ulimit -n)"

/* ---- asks.c ---------------------------------------------------------------------------------- */
void ff_holder_on_ask(FfHolder *h, uint32_t events);
void ff_holder_on_talk(FfHolder *h);
/* The pager may have answered. */
void ff_holder_answer(FfHolder *h);

/* ---- fetcher.c ------------------------------------------------------------------------------- */
bool ff_holder_fetcher_begin(FfHolder *h);
void ff_holder_on_fetcher(FfHolder *h);
/* CRIU lets the clients of CONNECTION run. FALSE: they may not, as others do, and are killed. */
bool ff_holder_restored(FfHolder *h, uint64_t connection);
/* Is it time to have the other copies given up? */
void ff_holder_look(FfHolder *h);
/* All that could be fetched was, and nobody needs any of it any more: the end. */
void ff_holder_end_if_placed(FfHolder *h);

/* ---- spaces.c -------------------------------------------------------------------------------- */
/* Only the clients of CONNECTION may continue. */
void ff_holder_keep_only(FfHolder *h, uint64_t connection);
/* All clients of CONNECTION that have not ended were seen to run. */
bool ff_holder_all_run(FfHolder *h, uint64_t connection);
/* All clients of the connection have registered their memory. */
void ff_holder_registered(FfHolder *h, uint64_t connection);
/* Takes P's fds. FALSE: it is refused, and that was said. */
bool ff_holder_add_client(FfHolder *h, FfPending *p);
/* A space without a userfaultfd, of a client whose first message is HELLO. NULL and errno. */
FfHeldSpace *ff_holder_add_without(FfHolder *h, pid_t pid, uid_t uid, const void *hello,
                                   uint32_t len);
void ff_holder_on_uffd(FfHolder *h, unsigned i);
void ff_holder_on_told(FfHolder *h, unsigned root);
/* FD, of ROOT: readable, or hung up, as somebody has ended. */
void ff_holder_on_end(FfHolder *h, unsigned root, FfHolderOn on);
/* The pager has died: nobody is inside any gate. */
void ff_holder_reset_gates(FfHolder *h);
/* What could not be read for want of something. */
void ff_holder_try_again(FfHolder *h);
/* FAILED: its pages have not come, so it may not continue. */
void ff_holder_drop(FfHolder *h, uint64_t id, bool failed);
FfHeldSpace *ff_holder_find(FfHolder *h, uint64_t id);

/* ---- pager.c --------------------------------------------------------------------------------- */
void ff_holder_start_pager(FfHolder *h);
void ff_holder_on_pager_end(FfHolder *h);
void ff_holder_on_link(FfHolder *h);
void ff_holder_end_pager(FfHolder *h);
/* Who is to end, when the clients have no other copy any more: it does when they have all pages. */
void ff_holder_hurry(FfHolder *h);

#endif
