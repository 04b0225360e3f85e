/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU does at a reboot, a shutdown, a panic of the guest, or when its watchdog barks, as far
 * as a client has said it (set-action): QEMU does not tell. FfStateHeader.actions has of each kind
 * the number of a value from 1, 0: nobody has said it. Pure; any thread.
 */
#ifndef FF_CONTRACT_ACTIONS_H
#define FF_CONTRACT_ACTIONS_H

#include <stdint.h>

#define FF_ACTIONS 4
#define FF_ACTION_KINDS                                                                            \
    {                                                                                              \
        "reboot", "shutdown", "panic", "watchdog"                                                  \
    }
#define FF_ACTION_WATCHDOG 3 /* which of them */
#define FF_ACTION_VALUES                                                                           \
    {                                                                                              \
        "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi", "exit-failure"    \
    }

#endif
