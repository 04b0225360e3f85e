/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content that stays on another host: asked for by the place in its source, from a `farfault pager`
 * there (server/export.h). What is said is server/remote-wire.h.
 *
 * An FfRemote is made by one thread and then only read: any thread, each with a link of its own.
 * The process ignores SIGPIPE.
 */
#ifndef FF_SERVER_REMOTE_H
#define FF_SERVER_REMOTE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/address.h"
#include "net/tls.h"

typedef struct FfRemote FfRemote;
typedef struct FfRemoteLink FfRemoteLink;

/* "tcp:..." or "tls:...". */
bool ff_remote_is_uri(const char *uri);
/* TLS: URI is "tls:..." and nothing else. "tcp:..." or "tls:..." as net/address.h has it (g_free).
 */
char *ff_remote_address(const char *uri, bool *tls);
/* What a folder has for TLS: keys.psk (of user "qemu"), or certificates, as tls-creds objects of
 * QEMU. NULL and ERROR. */
FfTls *ff_remote_creds(const char *folder, bool server, GError **error);

/* Nobody is connected to. CREDS: a folder, with "tls:" alone; HOSTNAME: the host that the peer's
 * certificate names, NULL: the host of URI. NULL and ERROR (one line). */
FfRemote *ff_remote_new(const char *uri, const char *creds, const char *hostname, GError **error);
/* After all links. Can be NULL. */
void ff_remote_free(FfRemote *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRemote, ff_remote_free)
const char *ff_remote_uri(const FfRemote *r);

/* Connects, to the first of its addresses that answers: for some seconds at most for each, without
 * a thread. NULL and ERROR (one line that names URI); so are all. */
FfRemoteLink *ff_remote_connect(FfRemote *r, GError **error);
void ff_remote_link_free(FfRemoteLink *l);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRemoteLink, ff_remote_link_free)
/* Bytes, and which content it is: another one is another file, or one that was written to. */
uint64_t ff_remote_size(const FfRemoteLink *l);
uint64_t ff_remote_identity(const FfRemoteLink *l);
/* As ff_content_read(). After FALSE the link is of no use any more. */
bool ff_remote_read(FfRemoteLink *l, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                    bool *zero, GError **error);

#endif
