/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A `farfault pager` of the build for a test: in a folder of its own, with a memory file, and with
 * named points at which it dies.
 */
#ifndef FF_TESTS_PAGER_DAEMON_H
#define FF_TESTS_PAGER_DAEMON_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    char *dir, *socket, *control, *file, *log;
    pid_t pid; /* of the holder; 0: ended */
} Daemon;

/* FILL writes page PAGE (PAGE_SIZE bytes) of the memory file; FALSE: it is a hole. FAULTS: as
 * FARFAULT_FAULTS without its folder, or NULL. MORE: an option, or NULL. */
typedef bool (*DaemonFill)(unsigned page, void *buf);
Daemon *daemon_start(unsigned pages, uint64_t page_size, DaemonFill fill, const char *faults,
                     const char *more);
/* The next one that is started is another user's, may have so many processes and threads, and says
 * what it says to that fd. 0, 0, -1: as usual. */
typedef struct {
    uid_t uid;
    unsigned processes;
    int said_to;
    const char *file;        /* NULL: it is made by FILL */
    const char *page_server; /* an option more, or NULL */
    bool dies;               /* before it listens */
    /* It restores to a Cloud Hypervisor, from its own folder, which this fills before: it ends by
     * itself (daemon_wait()). */
    void (*restores)(const char *dir, const char *socket, void *opaque);
    void *opaque;
    /* It takes a snapshot of a Cloud Hypervisor into this folder. No file may be larger than
     * `file_max` bytes (0: as usual). */
    const char *into;
    uint64_t file_max;
} DaemonKind;
void daemon_next(const DaemonKind *kind);
/* Waits for its end: the exit status. */
int daemon_wait(Daemon *d);
/* Ends it by SIGTERM, if it still runs. */
void daemon_stop(Daemon *d);
/* Of the pager that runs now; 0: none. */
pid_t daemon_pager(const Daemon *d);
/* Of the guard. */
pid_t daemon_guard(const Daemon *d);
/* Kills the guard, and waits until the holder knows. */
void daemon_kill_guard(const Daemon *d);
/* Has the Ith point of FAULTS been reached? */
bool daemon_fault_happened(const Daemon *d, unsigned i);
/* What it knows of its clients; waits for a pager that answers. */
JsonNode *daemon_report(const Daemon *d);
/* Waits until TEXT is in what it has said. */
void daemon_wait_said(const Daemon *d, const char *text);
char *daemon_said(const Daemon *d);

/* PID has N threads. There is no event of it. */
void daemon_wait_threads(pid_t pid, unsigned n);
/* A thread of PID, or of its children, waits in a function of the kernel that has WHERE in its
 * name; "userfault": for a page, or for an event to be read. */
bool is_waiting_in(pid_t pid, const char *where);
/* PID has ended with 0. */
void assert_ended_well(pid_t pid);

#endif
