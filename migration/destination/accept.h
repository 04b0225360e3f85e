/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's side of a connection: who comes.
 */
#ifndef FF_MIGRATION_DESTINATION_ACCEPT_H
#define FF_MIGRATION_DESTINATION_ACCEPT_H

#include "migration/destination/side.h"

/* Driver, before there is a thread: listens at the configuration's URI. */
bool ff_dest_listen(FfDestination *d, GError **error);
/* FD (-1: none) is where it listens from here on; clients are told its address. Coordinator. */
void ff_dest_set_listener(FfDestination *d, int fd);
/* The acceptor's thread; D is an FfDestination. */
gpointer ff_dest_acceptor(gpointer d);

#endif
