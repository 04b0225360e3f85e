/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engines of the old and the new QEMU say to each other while one takes over the guest of
 * the other (docs/design/upgrade.md): messages over a SOCK_SEQPACKET pair, with fds. A function
 * waits until the socket is shut down or the peer is gone, or for LIMIT_MS (-1: no limit), no
 * longer. One thread at each end.
 */
#ifndef FF_MIGRATION_UPGRADE_LINK_H
#define FF_MIGRATION_UPGRADE_LINK_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/rights.h"

typedef enum {
    FF_UPGRADE_OFFER = 1, /* new: its memory (FfUpgradeBlock), and fds of FfUpgradeFd */
    FF_UPGRADE_ACCEPT,    /* old: its memory is guarded; one fd, the pact */
    FF_UPGRADE_READY,     /* new: it waits for device state; its disks and devices, a line each */
    FF_UPGRADE_DEVICE,    /* old: a piece of it */
    FF_UPGRADE_LOADED,    /* new: it has it all; the guest does not run */
    FF_UPGRADE_GIVE,      /* old: the pact says GIVEN */
    FF_UPGRADE_RUNNING,   /* new: the pact says TAKEN, and the guest is as it was */
    FF_UPGRADE_LIFTED,    /* new: no memory is guarded any more */
    FF_UPGRADE_FAILED,    /* either: why, one line */
    FF_UPGRADE_LEFT,      /* old: its QEMU has no back-end in another process any more */
} FfUpgradeType;

typedef enum {
    FF_UPGRADE_FD_PIDFD,
    FF_UPGRADE_FD_UFFD,
    FF_UPGRADE_FD_MAPS,
    FF_UPGRADE_FDS,
} FfUpgradeFd;

typedef struct {
    char id[128];
    uint64_t size, page_size;
    uint64_t dev, ino; /* of the memfd */
} FfUpgradeBlock;
static_assert(sizeof(FfUpgradeBlock) == 160, "sent between two versions of farfault");

#define FF_UPGRADE_PIECE (64u << 10)

typedef struct {
    FfUpgradeType type;
    uint32_t length;
    union {
        uint8_t bytes[FF_UPGRADE_PIECE];
        FfUpgradeBlock blocks[FF_UPGRADE_PIECE / sizeof(FfUpgradeBlock)];
    };
} FfUpgradeMessage;

/* 0, -ETIMEDOUT or -errno. */
int ff_upgrade_send(int fd, int limit_ms, FfUpgradeType type, const void *data, size_t len,
                    const int *fds, unsigned n_fds);
/* The next message. RIGHTS: its fds, the caller's. 0, -EPIPE: the peer is gone; -ETIMEDOUT;
 * -errno. */
int ff_upgrade_receive(int fd, int limit_ms, FfUpgradeMessage *m, FfRights *rights);
/* The next message, which must be of TYPE; FALSE and ERROR: it is another, or there is none. PEER
 * is what the other end is called. Fds that come with any but N_FDS of them are closed; else they
 * are the caller's. */
bool ff_upgrade_await(int fd, int limit_ms, FfUpgradeType type, const char *peer,
                      FfUpgradeMessage *m, int *fds, unsigned n_fds, GError **error);
/* ERROR: what M (RC: of the receive) says of the peer's end; FALSE. */
bool ff_upgrade_peer_error(const FfUpgradeMessage *m, int rc, const char *peer, GError **error);

#endif
