/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hook in QEMU that drops discards of guest memory while a live snapshot is under way
 * (contract/discards.h): the relay hands what arms it to each engine, and disarms it when one that
 * had armed it has died. The main loop's thread.
 */
#ifndef FF_GUEST_RELAY_HOOK_H
#define FF_GUEST_RELAY_HOOK_H

#include "guest/relay/shared.h"

/* None, and no reason yet. */
void ff_hook_init(FfGuest *guest);
/* Of the agent's hand-over: FD is what HELLO says there is (taken), -1: nothing. No engine runs:
 * what is armed was left so by one that has died. */
void ff_hook_adopt(FfRelay *relay, const FfAgentHello *hello, int fd);
/* No engine runs any more. */
void ff_hook_engine_dead(FfRelay *relay);
/* Whether QEMU takes who connects to what it listens at. */
void ff_hook_set_accepts(FfRelay *relay, FfAccepts accepts);

#endif
