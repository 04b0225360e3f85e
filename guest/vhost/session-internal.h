/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object behind session.h, for session.c, session-absent.c, session-faults.c and
 * session-rest.c. */
#ifndef FF_GUEST_VHOST_SESSION_INTERNAL_H
#define FF_GUEST_VHOST_SESSION_INTERNAL_H

#include "guest/vhost/session.h"

/* How far a back-end is on its way to guest memory that is not all there. */
typedef enum {
    FF_VHOST_FAULTS_NONE,
    FF_VHOST_FAULTS_WANTED, /* as soon as nobody owes an answer */
    /* Asked for: its userfaultfd, that it listens, its addresses of the memory. */
    FF_VHOST_FAULTS_ADVISE,
    FF_VHOST_FAULTS_LISTEN,
    /* It was given a file without content in the memory's place; it has registered that; it has
     * touched it, and is told that all is there. */
    FF_VHOST_FAULTS_TRIAL,
    FF_VHOST_FAULTS_TRIAL_SYNC,
    FF_VHOST_FAULTS_TRIAL_FAILED,
    FF_VHOST_FAULTS_TABLE,
    FF_VHOST_FAULTS_HANDED, /* the back-end waits until somebody answers its faults */
    FF_VHOST_FAULTS_SYNC,   /* it registers */
    FF_VHOST_FAULTS_CHECK,  /* it has, or so it is being looked whether */
    FF_VHOST_FAULTS_ON,
    FF_VHOST_FAULTS_END,    /* told that every page is there */
    FF_VHOST_FAULTS_CANNOT, /* it gave no userfaultfd, or touches what it has not registered */
} FfVhostFaults;

struct FfVhostSession {
    const FfVhostSessionOps *ops;
    void *opaque;
    FfVhostKind kind;
    uint64_t features, protocol;        /* that QEMU has set */
    uint64_t offered, offered_protocol; /* by the back-end */
    bool has_features, knows_offer;     /* .features, .offered are known */
    FfVhostKnown known;                 /* but for what it has offered */
    const char *odd;                    /* something came that is not understood here */
    unsigned owed;                      /* answers to QEMU */
    GQueue ours;                        /* requests whose answers are ours, in order */
    GQueue waiting;                     /* FfVhostMessage * of QEMU's */
    FfVhostRings rings;
    /* logging */
    int log; /* fd; -1: none is wanted, or the back-end has it */
    uint64_t log_size;
    int marks; /* fd of the one that it has; -1: it has none */
    uint64_t marks_size;
    bool logs;        /* the back-end was told, or is being told */
    bool ends_log;    /* it must be told that it need not any more */
    bool foreign_log; /* QEMU has set a log of its own */
    bool was_reset;   /* the device, since it was told; its rings were empty */
    const char *lost;
    /* stopping */
    bool unfinished;       /* a ring was stopped that was not empty, and none was begun since */
    FfVhostMessage *reset; /* a network's, which waits until its rings have stopped; NULL: none */
    FfVhostMessage *stopping;              /* the message that waits for it; NULL: none */
    gint64 stopping_since, stopping_until; /* us */
    gint64 waited, in_vain;                /* us, less what has come back ... */
    gint64 came_back_at;                   /* ... until then; 0: nothing was waited */
    /* holding */
    bool holds;
    bool parked;     /* it has memory, and gets no ring; with .holds */
    bool absent;     /* there is no back-end, or it was not seen yet that it is the one expected */
    bool introduced; /* .absent: it has been told what QEMU had said first, and is asked the rest */
    GQueue held;     /* FfVhostMessage *; what is left of them when nothing is held is to be sent */
    /* waiting for pages */
    FfVhostFaults faults;
    int uffd;                                         /* the back-end's; -1: none */
    int trial;                                        /* the file without content; -1: none */
    FfVhostRegion theirs[FF_VHOST_MAX_FAULT_REGIONS]; /* .user: the back-end's address */
    int their_fds[FF_VHOST_MAX_FAULT_REGIONS];        /* own ones */
    unsigned n_theirs;
    bool unanswered; /* nobody answers its faults, and none of its rings begins */
    uint64_t caught_up[FF_VHOST_MAX_RINGS / 64]; /* rings of which something was used unheard */
    bool stale;     /* memory has changed since it was told: no ring begins before all is there */
    bool ends_wait; /* it must be told that all is there */
};

/* ---- session-faults.c ------------------------------------------------------------------------ */

/* A word of ours to the back-end; with ANSWERED an answer comes to it. */
void ff_vhost_say(FfVhostSession *s, FfVhostMessage *msg, bool answered);
/* Something of ring I is held back. */
bool ff_vhost_holds_ring(const FfVhostSession *s, uint32_t i);
/* QEMU begins a ring of a back-end whose memory is held. */
void ff_vhost_faults_want(FfVhostSession *s);
/* Nobody owes an answer. */
void ff_vhost_faults_begin(FfVhostSession *s);
/* MSG answers REQUEST, one of ours. FALSE: it is not understood. */
bool ff_vhost_faults_answered(FfVhostSession *s, uint32_t request, FfVhostMessage *msg);
/* Somebody answers; it was seen that all is registered. */
void ff_vhost_faults_handed(FfVhostSession *s);
void ff_vhost_faults_checked(FfVhostSession *s);
/* Every page is there; tells the back-end, when nobody owes an answer. */
void ff_vhost_faults_end(FfVhostSession *s);
void ff_vhost_faults_tell_end(FfVhostSession *s);
/* What the back-end has of the memory is not what QEMU has said, and waits. */
bool ff_vhost_faults_keep(const FfVhostSession *s);
bool ff_vhost_is_memory(const FfVhostMessage *msg);
void ff_vhost_faults_clear(FfVhostSession *s);

/* ---- session-absent.c ------------------------------------------------------------------------ */

/* The back-end's answer MSG to a question of QEMU's is noted. */
void ff_vhost_absent_note(FfVhostSession *s, const FfVhostMessage *msg);
/* MSG has a part of the configuration, as the back-end has it or as QEMU has set it. */
void ff_vhost_absent_note_config(FfVhostSession *s, const FfVhostMessage *msg);
/* MSG is a question to which no answer is known. */
bool ff_vhost_absent_must_wait(const FfVhostSession *s, const FfVhostMessage *msg);
/* MSG is a question; it was answered. */
bool ff_vhost_absent_answer(FfVhostSession *s, const FfVhostMessage *msg);
/* MSG answers REQUEST, one of ours to a back-end that has arrived. FALSE: it is another one. */
bool ff_vhost_absent_answered(FfVhostSession *s, uint32_t request, const FfVhostMessage *msg);

#endif
