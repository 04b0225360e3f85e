/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * INIT: what the relay tells an engine at its start, read and checked.
 *
 * The main loop's thread only.
 */
#ifndef FF_ENGINE_INIT_H
#define FF_ENGINE_INIT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "contract/state.h"

typedef struct {
    FfStateHeader *state;
    int state_fd, monitor_fd, pidfd, pagemap_fd, maps_fd, mem_fd; /* -1: not given */
    int inner_fd;         /* device-state socket of a migration whose engine died; -1: none */
    int device_fd;        /* copy of its device state; -1: none */
    int file_fd;          /* the file that it is restored from; -1: none */
    int lease_fd;         /* its description with a lease; -1: none */
    int listener_fd;      /* where its source comes to; -1: none */
    int tls_fd;           /* its TLS credentials; -1: none */
    int taps_fd;          /* gives QEMU its taps (guest/agent/taps.h); -1: it needs none */
    int discard_fd;       /* arms QEMU's hook for discards (contract/discards.h); -1: none */
    int sharers_fd;       /* contract/sharers.h; -1: none waits for pages */
    int backends_fd;      /* contract/backends.h; -1: no device's process is followed */
    char *discard_error;  /* why there is none; NULL: null, or an older relay's */
    int uffds[FF_KINDS];  /* -1: not given */
    GArray *incoming_fds; /* of int: FF_LISTENER_HELD, in their order */
    int pact_fd,
        heir_fd;         /* of an upgrade whose engine died (contract/upgrade-commit.h); -1: none */
    char **command_line; /* QEMU's, as the user gave it; NULL: not known */
    char *vhost_user;    /* of farfault run; NULL: an older relay does not say */
    GPtrArray *listening; /* FfInheritedMonitor * */
    GArray *given;        /* of FfGiven */
    int door;             /* where the next QEMU's relay asks this one's; -1: none */
    int front,
        front_door; /* of the process that stays (guest/relay/placeholder.h); -1: there is none */
    GPtrArray *ram; /* FfRamBlock *; gpa is not known here */
    char *uffd_error[FF_KINDS];             /* why there is none of a kind; NULL: null */
    char *incoming, *engine_refused, *name; /* NULL: null */
    bool lends; /* the relay has FF_KIND_PROTECT's for the engine that asks, or says why not */
    bool incoming_taken, start_paused;
    bool leaves_backends; /* where QEMU stays as a front; FALSE: an older relay cannot */
    bool backends_later;  /* only what was plugged since its start is followed (FfStatePlugged) */
    int qemu_pid;
} FfEngineInit;

/* Of INIT's JSON and FDS, which are taken (their places set to -1). */
FfEngineInit *ff_engine_init_new(const char *json, gsize length, int *fds, unsigned n_fds,
                                 GError **error);
/* Memory backend ID now has MEMFD (borrowed), or is gone (-1). */
void ff_engine_init_set_ram(FfEngineInit *init, const char *id, uint64_t size, uint64_t page_size,
                            int memfd);
void ff_engine_init_free(FfEngineInit *init);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfEngineInit, ff_engine_init_free)

#endif
