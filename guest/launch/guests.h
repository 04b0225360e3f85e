/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guests of this host, and what their engines have done. Nobody is asked: what is said of a
 * guest is in its QEMU's command line, and in its state memfd. One thread.
 */
#ifndef FF_GUEST_LAUNCH_GUESTS_H
#define FF_GUEST_LAUNCH_GUESTS_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "contract/totals.h"

/* An upgrade that is under way (docs/upgrade.md), and what this process is in it. */
typedef enum {
    FF_HOST_UPGRADE_NONE,
    FF_HOST_UPGRADE_OLD,  /* the first one, and has the guest */
    FF_HOST_UPGRADE_LEFT, /* the first one, which the guest has left */
    FF_HOST_UPGRADE_NEW,  /* the next one, that the guest may go to */
    FF_HOST_UPGRADE_HAS,  /* the next one, and has the guest */
} FfHostUpgrade;

typedef struct {
    pid_t pid;            /* of QEMU */
    char *name;           /* of -name; empty if it has none. As QEMU has it: any bytes */
    char *uuid;           /* of -uuid; empty if it has none */
    bool served;          /* its relay, or an engine, lives */
    uint64_t state_inode; /* of its state memfd, which relay and engine have open; 0: unreadable */
    uint8_t session[16];  /* of its last migration between two QEMUs; zeros: none, or unreadable */
    bool waits;           /* it was started with -incoming, and nothing has come so far */
    FfHostUpgrade upgrade;
    bool front;       /* it has no guest any more, and stays for those who know it */
    bool arrived;     /* its migration from another QEMU, TOTALS.running, is over for the guest */
    bool moved;       /* a migration by an engine has completed: it runs elsewhere */
    char peer[256];   /* ... there, as far as that is known (a URI); from QEMU's user as well */
    uint32_t carried; /* FfStateTotals.carried: a migration of QEMU's own */
    bool counted;     /* TOTALS are there: this user may read them */
    FfTotals totals;  /* written by a process of QEMU's user: no number in it may be trusted */
} FfHostGuest;

/* All that this user may look at, by pid (FfHostGuest, freed with the array). */
GPtrArray *ff_guests_find(void);

/* The value of QEMU's option NAME ("uuid") in a command line of LEN bytes, as /proc/PID/cmdline has
 * it; the last one counts. Borrowed; NULL if there is none. */
const char *ff_guests_option(const char *cmdline, size_t len, const char *name);

#endif
