/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rig of the relay's tests: a real QEMU (-machine none), the real relay in front of two of
 * its monitors, a third monitor that is reached directly, and an engine whose link the test
 * itself holds. Everything that is waited for has a deadline.
 */
#ifndef FF_TESTS_RELAY_RIG_H
#define FF_TESTS_RELAY_RIG_H

#include <stdbool.h>
#include <sys/types.h>

#include "contract/discards.h"
#include "contract/link.h"
#include "contract/state.h"
#include "tests/lib/stream.h"

#define RIG_MONITORS 2

typedef struct {
    pid_t qemu, relay;
    char *dir;
    int engine_listener;
    bool killed; /* the relay was */
    int agent;   /* the agent's end of the hand-over socket */
    int peer;    /* the test's end of monitor 0, or what the relay connects to; -1: it listens */
    bool mute;   /* engines do not say that they have INIT */
    int protect, maps;    /* RigConfig's */
    int hook;             /* what arms the hook in QEMU; here there is none */
    FfDiscards *discards; /* the same, as the engine has it */
    int log;              /* memfd: QEMU's and the relay's stderr */
    int state_fd;         /* -1: the relay made it, and takes it along */

    /* the engine */
    int engine; /* connection that keeps its process alive; -1: none */
    FfLink *link;
    bool link_closed;
    GQueue frames; /* RigFrame * */
    FfStateHeader *state;
    bool deaf; /* PING is not answered; else it is, and is no frame for the test */
    struct RigFrame *init_frame;
    const char *init; /* its text */
} Rig;

typedef struct RigFrame {
    FfLinkHeader header;
    GBytes *payload;
    char *text; /* payload, NUL-terminated */
    int *fds;   /* header.n_fds of them, owned */
} RigFrame;

typedef enum {
    RIG_LISTEN,
    RIG_CONNECTED, /* a socket that is connected already */
    RIG_STDIO,
    RIG_CONNECT, /* to a unix socket of the test, again a second after each end */
} RigKind;

typedef struct {
    RigKind kind; /* of monitor 0; the other one listens */
    bool daemonize;
    const char *incoming; /* taken over from -incoming; NULL: none */
    const char *engine;   /* path; NULL: the test's own */
    bool quiet_agent;     /* no hello is sent */
    int protect;          /* sent as the userfaultfd for write protection; 0: a file that is none */
    int maps;             /* the same as QEMU's /proc/PID/maps */
    bool old_agent;       /* it has no hook, and says what one of before the hook said */
    const char *faults;   /* of the relay: POINT=ACTION;... (fault.h); NULL: none */
    const char *deadlines; /* of the relay, NAME=MS,... (base/failpoint-deadline.h); can be NULL */
    int uffd_errno;
    bool keeps_state; /* Rig.state_fd is the relay's state memfd, which outlives it */
} RigConfig;

Rig *rig_new(const RigConfig *config); /* CONFIG can be NULL */
/* Ends QEMU and checks that the relay ends too. */
void rig_free(Rig *rig);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rig, rig_free)
bool rig_has_faults(void); /* of this build */
bool rig_fault_happened(Rig *rig, unsigned i);
void rig_kill_qemu(Rig *rig);
/* Waits for the relay's end; returns its exit status, or -SIGNAL. */
int rig_wait_relay(Rig *rig);
/* Reaps nothing. */
bool rig_relay_has_ended(Rig *rig);
char *rig_log(Rig *rig);
void rig_send_hello(Rig *rig, int uffd_errno, pid_t pid);

/* A client of monitor INDEX, or of QEMU itself (-1). Reads the greeting; leaves negotiation mode
 * if NEGOTIATE (with "oob" if OOB). */
Stream *rig_client(Rig *rig, int index, bool negotiate, bool oob);
/* Only connects to monitor INDEX. */
Stream *rig_dial(Rig *rig, int index);
/* The client of monitor 0 that RigConfig.kind asked for. Reads the greeting and negotiates. */
Stream *rig_peer(Rig *rig);
void rig_send(Stream *client, const char *text);
char *rig_line(Stream *client);
/* The next line must have TEXT in it. */
void rig_expect(Stream *client, const char *text);
/* Nothing has come, and nothing comes before the answer to a command on monitor OTHER. */
void rig_expect_nothing(Rig *rig, Stream *client, int other);
void rig_expect_end(Stream *client);

/* The engine was started: takes its link and INIT. */
void rig_engine_start(Rig *rig);
RigFrame *rig_frame(Rig *rig, FfLinkType type);
void rig_frame_free(RigFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RigFrame, rig_frame_free)
void rig_answer(Rig *rig, const RigFrame *command, FfLinkType type, const char *text);
void rig_engine_send(Rig *rig, FfLinkType type, unsigned mon, uint32_t seq, const char *text);
void rig_filter(Rig *rig, uint32_t filter);
void rig_engine_crash(Rig *rig);
/* The process of the engine; it lives on when it is forgotten by rig_engine_crash(), as long as the
 * returned fd is open. */
int rig_engine_process(Rig *rig);
/* No engine is started for MS. */
void rig_expect_no_engine(Rig *rig, unsigned ms);
/* Waits until the relay has closed the link. */
void rig_engine_let_go(Rig *rig);

#endif
