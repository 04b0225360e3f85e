/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_DESTINATION_H
#define FF_MIGRATION_DESTINATION_DESTINATION_H

#include "migration/destination/side.h"

/* A destination without threads; ff_dest_clear() ends it. What it stands on is set by the caller.
 */
void ff_dest_init(FfDestination *d);
void ff_dest_clear(FfDestination *d);
/* The coordinator, from the beginning to the end. */
void ff_dest_coordinate(FfDestination *d);
/* Its steps, for one that has no source: takes over the VMM's blocks, FALSE with *REFUSED because
 * of what the guest is made of. */
bool ff_dest_check_guest(FfDestination *d, bool *refused, GError **error);
/* QEMU waits for device state, and guest RAM is armed: LOADING. */
bool ff_dest_begin_load(FfDestination *d, GError **error);
/* Until QEMU has said SHUT, which it does when it has left "inmigrate": it has loaded all. */
bool ff_dest_await_loaded(FfDestination *d, GError **error);
/* It has: FfVmmState.put_back(). */
void ff_dest_put_back(FfDestination *d);
/* Before the grant. */
void ff_dest_give_up(FfDestination *d, const GError *why);
/* From LOADED to the end; from the grant to the end. */
void ff_dest_end_loaded(FfDestination *d);
void ff_dest_see_through(FfDestination *d);
/* Starts the guest as the state memfd says, in a thread of its own: FF_EV_RESUMED. START: it must
 * run, if it ran before. */
void ff_dest_start_guest(FfDestination *d, bool start);

#endif
