/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's side of a connection: connects, greets, opens the other channels. The coordinator.
 */
#ifndef FF_MIGRATION_SOURCE_CONNECT_H
#define FF_MIGRATION_SOURCE_CONNECT_H

#include "migration/source-side.h"

/* Where a migration begins: a connection that stands, with its threads. */
bool ff_source_connect(FfSource *s, GError **error);
/* A new connection, to where the client said; NULL and ERROR. *ADDRESS can be NULL: it cannot be
 * connected to. */
FfChannel *ff_source_connect_again(FfSource *s, FfAddress **address, GError **error);
/* On it: the destination greets. PAUSED: the status follows. */
bool ff_source_greet_again(FfSource *s, FfChannel *ch, bool paused, GError **error);
/* Another socket to ADDRESS (can be NULL); NULL and ERROR if it cannot be had. */
FfChannel *ff_source_open_channel(FfSource *s, const FfAddress *address, FfChannelKind kind,
                                  GError **error);
/* Opens as many bulk channels as the client wants, or as can be had. FALSE: cancelled. */
bool ff_source_open_bulk(FfSource *s, const FfAddress *address, GError **error);
/* Urgent frames use the main channel: the main reader feeds the urgent thread. */
bool ff_source_feed_urgent(FfSource *s, GError **error);
/* ADDRESS (NULL: none) is where the destination listens. */
void ff_source_store_peer(FfSource *s, const FfAddress *address);
/* g_free; can be NULL. */
char *ff_source_peer_uri(FfSource *s);

#endif
