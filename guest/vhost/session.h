/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection of a front-end (QEMU) to a back-end, with somebody in between: what each of them
 * says is passed on, and noted as far as it is needed for
 *
 *   logging: the back-end's writes to guest memory go to a log of ours, without QEMU's knowledge;
 *   draining: a ring is stopped when the back-end has finished what it has taken from it;
 *   holding: the back-end is given neither memory nor rings until all of the guest's memory is
 *       there, and QEMU is answered as if it had them;
 *   waiting: or it is given them before, and waits for pages itself (PAGEFAULT);
 *   absence: it is another QEMU's still, and this one is answered as it would be by the back-end.
 *
 * docs/design/vhost-user.md says why. Knows no socket: messages come in by a call and go out by
 * one. One thread; no locks.
 */
#ifndef FF_GUEST_VHOST_SESSION_H
#define FF_GUEST_VHOST_SESSION_H

#include "guest/vhost/message.h"
#include "guest/vhost/rings.h"

typedef struct FfVhostSession FfVhostSession;

/* What the device is. */
typedef enum {
    FF_VHOST_DISK,    /* what is in its rings is finished before they stop */
    FF_VHOST_NETWORK, /* a ring for receiving is never empty: a ring stops at once */
} FfVhostKind;

typedef struct {
    /* MSG is to be sent; the callee's. Calls nothing of the session. */
    void (*to_backend)(FfVhostMessage *msg, void *opaque);
    void (*to_qemu)(FfVhostMessage *msg, void *opaque);
    /* ff_vhost_session_again() is wanted in a moment: nothing tells when a back-end has finished a
     * request, as the guest may have asked for no interrupt. */
    void (*again)(void *opaque);
    /* What ff_vhost_session_log_begin() has asked for is done: from here on the back-end logs, or
     * ff_vhost_session_lost() says why not. */
    void (*logs)(void *opaque);
    /* The guest is about to use the device, while its memory is held back: TRUE if somebody can
     * answer for pages that the back-end misses, in what it will have (regions). NULL: nobody. */
    bool (*can_wait)(void *opaque);
    /* Optional: the guest has begun to use the device, and waits for it until all of its memory is
     * there. */
    void (*stands)(void *opaque);
    /* Somebody is to answer the back-end's faults (ff_vhost_session_faults()), and
     * ff_vhost_session_handed() is called then; to see whether the back-end has registered all of
     * it, and ff_vhost_session_checked() is called then. */
    bool (*hand)(void *opaque); /* FALSE: nobody can, and the device stands */
    /* Optional: it need not wait until another back-end has gone that way; else
     * ff_vhost_session_may_wait() is called. */
    bool (*may_begin)(void *opaque);
    void (*check)(void *opaque);
    /* Nothing is missing any more: what it has registered need not be (ff_vhost_session_faults()).
     */
    void (*all_there)(void *opaque);
} FfVhostSessionOps;

FfVhostSession *ff_vhost_session_new(FfVhostKind kind, const FfVhostSessionOps *ops, void *opaque);
void ff_vhost_session_free(FfVhostSession *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfVhostSession, ff_vhost_session_free)

/* One message (taken). FALSE: the connection is of no use any more. */
bool ff_vhost_session_from_qemu(FfVhostSession *s, FfVhostMessage *msg);
bool ff_vhost_session_from_backend(FfVhostSession *s, FfVhostMessage *msg);
bool ff_vhost_session_again(FfVhostSession *s);
/* Messages of QEMU's that wait. */
unsigned ff_vhost_session_waiting(const FfVhostSession *s);

/* A ring was stopped that was not empty, and none was begun since: the back-end may write though
 * the guest stands, and no log tells what. */
bool ff_vhost_session_is_unfinished(const FfVhostSession *s);
/* Why the back-end's writes cannot be logged, one line; NULL: they can. */
const char *ff_vhost_session_unloggable(const FfVhostSession *s);
/* Bytes that a log of the guest's memory has, as the back-end knows it now. */
uint64_t ff_vhost_session_log_bytes(const FfVhostSession *s);
/* The memory that the back-end has; *N of them. Their fds are *FDS, which stay the session's. */
const FfVhostRegion *ff_vhost_session_regions(const FfVhostSession *s, unsigned *n,
                                              const int **fds);
/* Has the back-end log into FD (duplicated), of SIZE bytes, as soon as it owes QEMU no answer; then
 * ops.logs() is called, perhaps from inside. */
void ff_vhost_session_log_begin(FfVhostSession *s, int fd, uint64_t size);
/* Why what is in the log may not be all, one line; NULL: it is all. While it logs, and until the
 * next ff_vhost_session_log_begin(). */
const char *ff_vhost_session_lost(const FfVhostSession *s);
/* The back-end has a ring that was started, and not stopped. */
bool ff_vhost_session_runs(const FfVhostSession *s);
void ff_vhost_session_log_end(FfVhostSession *s);

/* From now on the back-end gets nothing that has to do with memory, unless it waits for pages (see
 * ops.can_wait()); HOLD FALSE: it gets what was
 * held. -EBUSY: it has memory already. */
int ff_vhost_session_hold(FfVhostSession *s, bool hold);
/* The same of a back-end that has memory, all of which is there, until
 * ff_vhost_session_hold(s, false): it writes nothing, as it begins no ring. -EBUSY: one runs. */
int ff_vhost_session_park(FfVhostSession *s);

/* ---- pages that the back-end waits for ------------------------------------------------------- */

/* Of a back-end that is to be answered for; all of it stays the session's. */
typedef struct {
    const FfVhostRegion *regions; /* .user: its own addresses */
    const int *fds;               /* their files */
    unsigned n;
    int uffd;
    bool checks; /* ops.check() was called, and is not answered */
} FfVhostWaits;

/* FALSE: there is nothing to be answered for. */
bool ff_vhost_session_faults(const FfVhostSession *s, FfVhostWaits *waits);
/* Where region I of it is, as the back-end did not say (.user is 0). */
void ff_vhost_session_set_address(FfVhostSession *s, unsigned i, uint64_t addr);
/* TRUE between the first word of ours on that and the beginning of the ring. */
bool ff_vhost_session_is_on_its_way(const FfVhostSession *s);
/* Somebody can answer now (ops.can_wait()), who could not. FALSE: the connection is of no use any
 * more. */
bool ff_vhost_session_may_wait(FfVhostSession *s);
bool ff_vhost_session_handed(FfVhostSession *s);
/* Nobody answers, between ops.hand() and ff_vhost_session_handed(): its device stands, or does so
 * already. FALSE: it is not between them. */
bool ff_vhost_session_stands(FfVhostSession *s);
/* Which word of ours on that is not answered, or that nobody answers the back-end's faults; 0: it
 * goes on. A back-end need not know such a word. */
unsigned ff_vhost_session_asks(const FfVhostSession *s);
/* TRUE: it may map something, or has, that cannot be told from what another one of its process
 * maps. */
bool ff_vhost_session_maps(const FfVhostSession *s);
bool ff_vhost_session_checked(FfVhostSession *s);

/* ---- there is no back-end yet ---------------------------------------------------------------- */

/* What it has answered to that which QEMU asks when it makes the device. */
typedef struct {
    uint64_t offered, offered_protocol;  /* features */
    uint64_t queues, slots;              /* 0: it was not asked */
    uint8_t config[FF_VHOST_MAX_CONFIG]; /* from its beginning */
    uint32_t config_size;                /* bytes; 0: it was not asked */
} FfVhostKnown;

/* FALSE: it has not said yet what it can do, or something is odd. */
bool ff_vhost_session_known(const FfVhostSession *s, FfVhostKnown *known);
/* Of a connection that comes after another one: QEMU asks some of it only once, when it makes the
 * device. What the back-end says now counts. */
void ff_vhost_session_remember(FfVhostSession *s, const FfVhostKnown *known);
/* QEMU is answered what is KNOWN, and what it says is held until there is a back-end. A question to
 * which no answer is known waits for it (ff_vhost_session_waiting()). */
FfVhostSession *ff_vhost_session_new_absent(FfVhostKind kind, const FfVhostKnown *known,
                                            const FfVhostSessionOps *ops, void *opaque);
bool ff_vhost_session_is_absent(const FfVhostSession *s);
/* Here it is. One that cannot do what was said of it breaks the session with its first answers. */
void ff_vhost_session_arrived(FfVhostSession *s);

/* ---- another process goes on with it --------------------------------------------------------- */

/* What a session knows while nothing is under way. */
typedef struct {
    uint64_t features, protocol;        /* that QEMU has set */
    uint64_t offered, offered_protocol; /* by the back-end */
    bool has_features, knows_offer, foreign_log, was_reset;
    FfVhostKnown known;                          /* but for what it has offered */
    bool unfinished;                             /* a ring was stopped that was not empty */
    const char *odd;                             /* why the back-end cannot be logged; NULL */
    gint64 waited, in_vain, came_back_at;        /* us, by the monotonic clock */
    uint64_t caught_up[FF_VHOST_MAX_RINGS / 64]; /* rings, a bit each */
    FfVhostRings rings;
} FfVhostRest;

/* Nothing is under way: no answer is owed, no message waits or is held, there is no log, and
 * nobody waits for pages. */
bool ff_vhost_session_rests(const FfVhostSession *s);
/* Of one that rests; all that it points to stays the session's. */
FfVhostRest ff_vhost_session_describe(const FfVhostSession *s);
/* Takes .rings of REST. */
FfVhostSession *ff_vhost_session_resume(FfVhostKind kind, FfVhostRest *rest,
                                        const FfVhostSessionOps *ops, void *opaque);

#endif
