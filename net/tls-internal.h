/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What creds.c makes and tls.c uses. */
#ifndef FF_NET_TLS_INTERNAL_H
#define FF_NET_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "net/authz.h"
#include "net/secret.h"
#include "net/tls.h"

typedef struct {
    char *name;
    FfSecret *key;
} FfPsk;

/* Immutable after ff_creds_load(): many threads look at it. */
struct FfTls {
    SSL_CTX *ctx;
    bool server, psk, verify_peer;
    unsigned records_per_key; /* TLS 1.3 */
    FfAuthz *authz;           /* can be NULL */
    GPtrArray *keys;          /* FfPsk *; NULL: x509 */
    const FfPsk *mine;
};

/* Callbacks of OpenSSL; the session is the SSL's application data. */
int ff_tls_verify(X509_STORE_CTX *store, void *opaque);
int ff_tls_psk_client(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_len,
                      SSL_SESSION **session);
int ff_tls_psk_server(SSL *ssl, const unsigned char *id, size_t id_len, SSL_SESSION **session);
/* In the words of QEMU or GnuTLS, for OpenSSL's code of a verification. */
const char *ff_tls_verify_text(int code);
/* Of each verification: a CRL need not exist for every issuer, as with GnuTLS. */
int ff_tls_each_error(int ok, X509_STORE_CTX *store);
/* OpenSSL's first error of this thread as text; the queue is emptied. Never NULL; static or
 * per-thread memory. */
const char *ff_tls_openssl_error(void);

#endif
