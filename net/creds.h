/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS credentials with the meaning that QEMU gives them: tls-creds-x509 and tls-creds-psk, from
 * the properties of the object to what a handshake needs. The files are read here, once per
 * migration. Any thread.
 */
#ifndef FF_NET_CREDS_H
#define FF_NET_CREDS_H

#include "net/authz.h"
#include "net/secret.h"
#include "net/tls.h"

typedef struct {
    bool psk; /* else x509 */
    bool server;
    bool verify_peer, sanity_check;
    const char *dir;
    const char *priority;     /* GnuTLS's; NULL or "": default */
    const char *username;     /* psk client; NULL or "": "qemu" */
    const FfSecret *password; /* of the private key; NULL: none */
    unsigned records_per_key; /* records that one key encrypts; 0: as many as is safe */
    FfAuthz *authz;           /* x509 server; taken. NULL: every peer with a good certificate */
} FfCredsSpec;

/* NULL and ERROR (one line, QEMU's words where it has some) if the files or the priority cannot
 * be used. */
FfTls *ff_creds_load(FfCredsSpec *spec, GError **error);

#endif
