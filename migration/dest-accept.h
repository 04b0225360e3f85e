/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's side of a connection: who comes, and the greeting.
 */
#ifndef FF_MIGRATION_DEST_ACCEPT_H
#define FF_MIGRATION_DEST_ACCEPT_H

#include "migration/dest-side.h"

/* Driver, before there is a thread: listens at the configuration's URI. */
bool ff_dest_listen(FfDestination *d, GError **error);
/* FD (-1: none) is where it listens from here on; clients are told its address. Coordinator. */
void ff_dest_set_listener(FfDestination *d, int fd);
/* The acceptor's thread; D is an FfDestination. */
gpointer ff_dest_acceptor(gpointer d);
/* Coordinator: greets the source that has arrived, and starts its main reader. */
bool ff_dest_greet(FfDestination *d, GError **error);
/* What a destination says first, to a source that comes and to one that comes back. */
FfGreeting ff_dest_greeting(const FfDestination *d);

#endif
