/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the driver stands on: the functions by which it reaches the relay and QEMU (FfDriverPort),
 * and what it is told at its start (FfDriverConfig). The engine has the real ones, tests put fakes
 * there.
 */
#ifndef FF_QAPI_PORT_H
#define FF_QAPI_PORT_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "contract/link.h"
#include "contract/state.h"
#include "contract/vmm.h"

/* QEMU's answer on the private monitor: RESULT is its "return" (borrowed), or NULL with ERROR. */
typedef void (*FfPortReply)(JsonNode *result, const GError *error, gpointer data);

/* Error of a command: the class is the code, the description the message. */
#define FF_DRIVER_ERROR (ff_driver_error_quark())
GQuark ff_driver_error_quark(void);
typedef enum {
    FF_DRIVER_ERROR_GENERIC,
    FF_DRIVER_ERROR_COMMAND_NOT_FOUND,
    FF_DRIVER_ERROR_FILE_TOO_LARGE, /* RLIMIT_FSIZE: the memory cannot be a file */
} FfDriverError;

/* A memory backend that is plugged later, made ours. */
typedef struct {
    const char *text; /* what QEMU is to be given in place of the arguments; NULL: as it came */
    const char *id;
    uint64_t size, page_size;
    int memfd;     /* its memory, owned by the callee; -1 if text is NULL */
    int64_t fdset; /* QEMU's copy of it, for remove-fd when the command is answered */
} FfPortObject;
typedef void (*FfPortObjectReply)(const FfPortObject *object, const GError *error, gpointer data);

/* A monitor that listens. */
typedef struct {
    char *id;
    int fd;
} FfInheritedMonitor;

/* A copy of an fd that QEMU was given by NUMBER. */
typedef struct {
    int number, fd;
} FfGiven;

typedef struct {
    /* Sends one frame to the relay; FD is borrowed, -1 for none. */
    void (*send)(void *opaque, FfLinkType type, unsigned mon, uint32_t seq, const char *payload,
                 size_t length, int fd);
    /* Runs COMMAND on the private monitor. ARGS (borrowed) and FD (borrowed, -1: none) go with
     * it. REPLY is called exactly once, never from inside. */
    void (*inner)(void *opaque, const char *command, JsonObject *args, int fd, FfPortReply reply,
                  gpointer data);
    /* The client's capabilities (an array as query-migrate-capabilities gives it) or parameters
     * as the undo log has them; NULL while there is no undo log. Free with json_node_unref(). */
    JsonNode *(*view)(void *opaque, bool parameters);
    /* Changes the undo log's capabilities (array of statuses) or parameters (object). */
    bool (*set_view)(void *opaque, bool parameters, JsonNode *changes, GError **error);
    /* Rewrites the arguments of object-add (TEXT: JSON, or key=value from the human monitor) and
     * makes the memory. REPLY is called exactly once, perhaps from inside. */
    void (*object_add)(void *opaque, const char *text, FfPortObjectReply reply, gpointer data);
    /* The guest's memory has one more (MEMFD, borrowed) or one less (-1) backend. */
    void (*ram_changed)(void *opaque, const char *id, uint64_t size, uint64_t page_size, int memfd);
    /* Whether the backend ID is memory of the guest's that farfault made. */
    bool (*has_ram)(void *opaque, const char *id);
    /* The virtual machine for a migration that is about to start; borrowed until the next call. */
    FfVmm *(*vmm)(void *opaque);
    /* QEMU's version, major * 10000 + minor * 100 + micro; 0: not known yet. */
    unsigned (*version)(void *opaque);
    /* One line for QEMU's stderr. */
    void (*log)(void *opaque, const char *line);
    /* This engine ends as one that crashed, so the relay starts another one: something is under way
     * that it cannot continue. The driver hears nothing any more. */
    void (*fail)(void *opaque);
} FfDriverPort;

/* What the driver is told at its start; strings and pointers are borrowed for its life. */
typedef struct {
    const FfDriverPort *port;
    void *port_opaque;
    FfStateHeader *state;
    int state_fd;
    const int *uffds; /* by kind (FF_KINDS), -1: none */
    int pagemap_fd, maps_fd, pidfd;
    int mem_fd;           /* taken; the first migration has it. -1: none */
    int tls_fd;           /* ff_tls_keep() of that migration, -1: none */
    int inner_fd;         /* of a migration whose engine died, -1: none */
    int device_fd;        /* the same: the copy of its device state, -1: none */
    int pact_fd, heir_fd; /* the same, of an upgrade (contract/upgrade-commit.h), -1: none */
    int taps_fd;          /* an eventfd that gives QEMU its taps, -1: it needs none */
    int qemu_pid;
    char *const *command_line; /* QEMU's, as the user gave it; NULL: not known */
    const char *vhost_user;    /* of farfault run: --vhost-user; NULL: not known */
    bool leaves_backends; /* so does its relay where QEMU stays; FALSE: an older one does not */
    const GPtrArray *listening; /* FfInheritedMonitor *; can be NULL */
    const GArray *given;        /* of FfGiven; can be NULL */
    int door;                   /* of its relay, for clients that go along; lent; -1: none */
    int front, front_door; /* pidfd, and its relay's door, of the process that stays as the guest's
                              front (guest/relay/placeholder.h); lent; -1: there is none */
    int file_fd;           /* the same: the file that it is restored from, -1: none */
    int lease_fd;          /* the same: its description with a lease, -1: none */
    int listener_fd;       /* the same: where its source comes to, -1: none */
    GArray *incoming_fds;  /* of int; taken: where the engine before this one listened, and nobody
                              had been greeted. Can be NULL */
    bool start_paused;
    const char *incoming;       /* URI of -incoming; NULL: not given */
    bool incoming_taken;        /* QEMU was given "defer" in its place */
    const char *engine_refused; /* NULL: nothing stands against the engine */
    bool shares_ram;            /* the guest's memory is farfault's, and shared by its doing */
    char *const *uffd_error;    /* why there is none of a kind; each can be NULL */
    bool lends;                 /* TAKE_UFFD may be asked */
    bool follows_devices;       /* some are other processes, and the engine is to follow them */
    bool follows_plugged;       /* and those that the state has (FfStatePlugged) */
    int sharers_fd;             /* contract/sharers.h; -1: none */
    int discard_fd;             /* arms QEMU's hook for discards (contract/discards.h), -1: none */
    const char *discard_error;  /* why there is none; NULL: an older relay does not say */
} FfDriverConfig;

/* Seconds without a command and with nothing under way, after which IDLE is sent. */
#define FF_DRIVER_LINGER 5

#endif
