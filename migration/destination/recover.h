/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination after a lost connection. The coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_RECOVER_H
#define FF_MIGRATION_DESTINATION_RECOVER_H

#include "migration/destination/side.h"

/* The connection is lost: postcopy-paused, until a new one stands. FALSE: being freed. */
bool ff_dest_reconnect(FfDestination *d);
/* The same where a dump has taken the source's place, and cannot be read, or the client has paused,
 * or the engine is a new one. */
bool ff_dest_dump_again(FfDestination *d);
/* A source has come (FF_EV_MAIN) while a dump is read: it is not resumed. */
void ff_dest_send_away(FfDestination *d);
/* Every page is here, and the source was told. FALSE: it says no last word, as the connection has
 * ended, the client pauses it, or the source takes too long. */
bool ff_dest_hear_finished(FfDestination *d);
/* Every page is here, but the source does not know it: tells it when it comes back. */
void ff_dest_linger(FfDestination *d);
void ff_dest_end_connection(FfDestination *d);
/* Where it listens outlives a crash of this process. */
void ff_dest_hold_listener(FfDestination *d);
/* No source comes here any more: the acceptor ends, what it listened on is closed. */
void ff_dest_stop_listening(FfDestination *d, const char *next_uri);
/* The source may come where it came before. */
void ff_dest_adopt_listener(FfDestination *d);
/* Takes what an engine that died has left of a guest that is loaded. FALSE: may be called again. */
bool ff_dest_adopt(FfDestination *d, GError **error);

#endif
