/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a holder is told when it begins. */
#ifndef FF_PAGER_HOLDER_CONFIG_H
#define FF_PAGER_HOLDER_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A client that asks for its pages by a socket (asks.c). All fds are borrowed. */
typedef struct {
    int fault_fd; /* where it asks */
    int talk_fd;  /* of a socketpair, to the process that replays the rest of its snapshot: that one
                     is told of the first answer (a byte), or that there is none (its end); and says
                     when the guest may run (a byte) */
    pid_t pid;
    uid_t uid;
    const void *hello; /* its first message, for the pager */
    uint32_t hello_len;
    const void *answer; /* where the pager leaves the pages of an answer; NULL: answers have none */
    uint64_t answer_len;
} FfHolderAsks;

/* A process that fetches what clients miss, and must outlive pagers. Where the content comes from
 * there is a copy of each client that stands still until it is heard of: so all clients end before
 * `server` is closed by the last process that has it. */
typedef struct {
    int link; /* borrowed; FfHoldFetch. Its end before FF_HOLD_GIVEN_UP: clients that miss pages are
                 killed */
    int server; /* its connection; taken */
} FfHolderFetcher;

/* How clients come here, and what becomes of them without us (internal.h). */
typedef struct FfArrival FfArrival;
/* Each connects to `listen_fd` and says who it is in its first message, with its userfaultfd, of
 * which it has a copy. */
extern const FfArrival ff_arrival_message;
/* CRIU's: many on a connection, and without a copy. */
extern const FfArrival ff_arrival_criu;
/* One, which asks: FfHolderConfig.asks. */
extern const FfArrival ff_arrival_asks;

typedef struct {
    const FfArrival *arrival;
    int listen_fd;      /* of a unix stream socket, listening; taken. -1: there is `asks` */
    char **pager_argv;  /* how this program becomes the pager, whose link is FF_HOLD_LINK_FD */
    const int *inherit; /* fds that it has as FF_HOLD_LINK_FD + 1 and so on; -1: it has none */
    unsigned n_inherit;
    const uid_t *uids; /* who may connect besides the holder's own user and root */
    unsigned n_uids;
    unsigned dialect; /* FfSpaceRecord.dialect of all clients, where no message says it */
    /* Of ff_arrival_message: which dialect begins with these LEN bytes (1 or more); -1: none. And
     * the length of the answer (in ANSWER, ROOM at most) to a whole message without a userfaultfd,
     * 0: it is no question; CONTENT: `content`. Both look at what is hostile in this process. */
    int (*recognise)(const char *bytes, size_t len);
    size_t (*answer)(unsigned dialect, const char *bytes, size_t len, uint64_t content,
                     char *answer, size_t room);
    uint64_t content;               /* bytes of the pager's content */
    const FfHolderFetcher *fetcher; /* of CRIU's clients; NULL: none */
    const FfHolderAsks *asks;       /* of ff_arrival_asks; the end of it is the holder's */
} FfHolderConfig;

#endif
