/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS on a connection of the migration, before anything is said on it; see tls.c for the threads.
 */
#ifndef FF_MIGRATION_COMMON_TLS_H
#define FF_MIGRATION_COMMON_TLS_H

#include "migration/common/connection.h"

/* TLS on CH if this side has credentials; a destination without them tells a source that has some
 * from garbage. On FALSE the channel is of no use. Blocks. */
bool ff_conn_secure(FfConnection *conn, FfChannel *ch, GError **error);
/* D: an FfHandshakesAdmit (migration/destination/handshakes.h), OPAQUE is the FfConnection. Begins
 * TLS if this side has credentials. */
bool ff_conn_admit(FfChannel *ch, uint8_t first, gpointer opaque, GError **error);
/* S, after its first words in the clear: FALSE and ERROR if the peer answers by TLS. */
bool ff_conn_check_clear(FfConnection *conn, FfChannel *ch, int deadline_ms, GError **error);
/* It had credentials, and they are not there yet. Any thread. */
bool ff_conn_lacks_tls(const FfConnection *conn);
/* Driver: here they are (a reference is taken; HOSTNAME is copied, can be NULL). */
void ff_conn_set_tls(FfConnection *conn, FfTls *tls, const char *hostname);

#endif
