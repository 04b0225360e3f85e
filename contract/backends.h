/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine asks the relay about back-ends of devices that are processes of their own
 * (vhost-user), on a SOCK_SEQPACKET pair of which each engine gets one end in INIT
 * ("device-backends").
 * One request, one answer. The relay stands in their sockets (guest/relay/backends.c); the log is a
 * memfd of the engine's making into which they write.
 *
 * The engine's end: the coordinator's thread alone.
 */
#ifndef FF_CONTRACT_BACKENDS_H
#define FF_CONTRACT_BACKENDS_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FF_BACKENDS_PROBE = 1, /* whether a migration can follow their writes, or hold them back */
    FF_BACKENDS_LOG,       /* with the memfd of the log: answered when all of them log into it */
    FF_BACKENDS_LOST,      /* whether the log tells of all that they wrote */
    FF_BACKENDS_END,       /* no log any more */
    FF_BACKENDS_LOOK,      /* the phase in the state memfd has changed */
    FF_BACKENDS_KNOWN,     /* what one of them has told QEMU (guest/relay/vhost-rest.h) */
    FF_BACKENDS_STAND,     /* the guest stands: whether all of them have finished */
    FF_BACKENDS_LEAVE,     /* the guest is another QEMU's: their connections end */
    FF_BACKENDS_TAKE,      /* the QEMU whose they were has left them */
} FfBackendsOp;

/* KNOWN, with the number: the answer goes to another QEMU, and STAND looks whether it is true
 * still. With number 0 all that was lent before is forgotten. */
#define FF_BACKENDS_LENT (1u << 31)

#define FF_BACKENDS_REGIONS 64

/* A region of guest memory that a back-end has. */
typedef struct {
    uint64_t guest, size; /* guest-physical address; bytes */
    uint64_t offset;      /* of its beginning in the file ... */
    uint64_t dev, ino;    /* ... which is this one */
} FfBackendRegion;
static_assert(sizeof(FfBackendRegion) == 40, "sent between processes");

typedef struct {
    uint32_t op;
    uint32_t flag; /* PROBE: 1: of a destination, whose back-ends are held back. LOST: 1: the
                      guest stands, so they must have finished. KNOWN: which one, from 0 on, and
                      FF_BACKENDS_LENT */
} FfBackendsRequest;
static_assert(sizeof(FfBackendsRequest) == 8, "sent between processes");

typedef struct {
    uint32_t op;
    uint32_t n_regions;
    uint64_t log_bytes; /* that a log must have */
    uint32_t busy;      /* PROBE: 1: they may write to the guest though it stands, and nothing tells
                           what: QEMU cannot carry it either */
    uint32_t padding;
    FfBackendRegion regions[FF_BACKENDS_REGIONS];
    char ids[1024]; /* PROBE: chardevs of QEMU's that the relay stands in, each with a newline.
                       KNOWN: a JSON object with "id", its chardev; "": there is none of this number
                     */
    char why[256];  /* why not, one line; "": all is well */
} FfBackendsAnswer;
static_assert(sizeof(FfBackendsAnswer) == 24 + 40 * FF_BACKENDS_REGIONS + 1280,
              "sent between processes");

/* Asks the relay at SOCKET and waits for its answer. FD: goes with it; -1: none. FALSE and ERROR:
 * there is none, or it is .why (G_IO_ERROR_BUSY, if .busy). */
bool ff_backends_ask(int socket, FfBackendsOp op, uint32_t flag, int fd, FfBackendsAnswer *answer,
                     GError **error);

#endif
