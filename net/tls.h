/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS under a channel, by OpenSSL: what a side brings into every handshake (FfTls, made by
 * creds.h, immutable and shared by all threads), and one connection's session.
 *
 * An SSL object must not be entered by two threads, and one thread reads a channel while others
 * write. So a session has a lock around each call of OpenSSL; the socket is non-blocking, so the
 * lock is never held while anything waits: *EVENTS tells for what the caller must poll, outside.
 * The process must ignore SIGPIPE.
 */
#ifndef FF_NET_TLS_H
#define FF_NET_TLS_H

#include <glib.h>
#include <stdbool.h>

#include "base/io-result.h"

typedef struct FfTls FfTls;
typedef struct FfTlsSession FfTlsSession;

FfTls *ff_tls_ref(FfTls *tls);
void ff_tls_unref(FfTls *tls);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfTls, ff_tls_unref)
/* Waits for handshakes (else it begins them). */
bool ff_tls_is_server(const FfTls *tls);

/* FD is borrowed and non-blocking. HOSTNAME is what the client expects of the server's
 * certificate; NULL: none is known. */
FfTlsSession *ff_tls_session_new(FfTls *tls, int fd, const char *hostname);
void ff_tls_session_free(FfTlsSession *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfTlsSession, ff_tls_session_free)

/* Each is one attempt; when it is to be repeated (again), *EVENTS is POLLIN or POLLOUT. A write
 * that is to be repeated must be repeated with the same bytes. LEN <= FF_TLS_RECORD to write. */
#define FF_TLS_RECORD (16 * 1024)
FfIo ff_tls_handshake(FfTlsSession *s, short *events);
FfIo ff_tls_read(FfTlsSession *s, void *buf, size_t len, size_t *done, short *events);
FfIo ff_tls_write(FfTlsSession *s, const void *buf, size_t len, short *events);
/* Tells the peer that nothing more will be written. Reading may continue. */
FfIo ff_tls_finish(FfTlsSession *s, short *events);
/* Decrypted bytes wait inside: poll() on the socket does not tell of them. */
bool ff_tls_pending(FfTlsSession *s);
/* The handshake is over, and in it the peer has proved who it is: by a shared key, or by a
 * certificate that was verified. Any thread. */
bool ff_tls_proved(FfTlsSession *s);
/* The peer has proved who it is, and has then said, in words of TLS, that it writes no more. A
 * connection that just ends is none of it, nor is the end of a peer that nobody has verified. Any
 * thread. */
bool ff_tls_declined(FfTlsSession *s);
/* Why it is dead, one line; NULL while it is not or when it just ended. Any thread. */
const char *ff_tls_why(FfTlsSession *s);
/* errno-style (positive): EPROTO with a reason, 0 if the peer just ended. */
int ff_tls_errno(FfTlsSession *s);
/* "TLSv1.3 TLS_AES_128_GCM_SHA256" (g_free), with " (kernel)" if the kernel encrypts, and
 * ", key 3" after two changes of the sender's key. */
char *ff_tls_describe(FfTlsSession *s);

#endif
