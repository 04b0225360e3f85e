/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Certificates for tests, made by the openssl command in a fresh folder, and the directories that
 * QEMU's tls-creds objects read.
 */
#ifndef FF_TESTS_CERTS_H
#define FF_TESTS_CERTS_H

#include <stdbool.h>

typedef struct {
    const char *ca;        /* who signs: "ca", "other" */
    const char *subject;   /* "/CN=x" */
    const char *san;       /* "DNS:x,IP:127.0.0.1"; NULL: none */
    const char *use;       /* "serverAuth", "clientAuth" */
    const char *key;       /* "ec" or "rsa:1024"; NULL: ec */
    const char *from, *to; /* YYYYMMDDHHMMSSZ; NULL: now, in 30 days */
} CertSpec;

/* Skips the test and returns FALSE where there is no openssl command. */
bool certs_possible(void);
/* Removes a folder with all that is in it. */
void certs_remove(const char *dir);
/* A certificate authority: DIR/NAME-cert.pem, DIR/NAME-key.pem. KEY: "ec", "rsa:1024". */
void certs_ca(const char *dir, const char *name, const char *key);
/* DIR/NAME-cert.pem and DIR/NAME-key.pem. */
void certs_issue(const char *dir, const char *name, const CertSpec *spec);
/* Revokes NAME; DIR/crl.pem has all that CA has revoked. */
void certs_revoke(const char *dir, const char *ca, const char *name);
/* Runs openssl with ARGS (a shell's quoting) in DIR; a failure ends the test. */
void certs_openssl(const char *dir, const char *args);
/* Copies DIR/FROM to TO_DIR/TO. */
void certs_copy(const char *dir, const char *from, const char *to_dir, const char *to);
/* A folder DIR/NAME for tls-creds-x509 (its path, g_free): CERT as "server-" or "client-" files,
 * NULL: none; with CA. */
char *certs_creds(const char *dir, const char *name, const char *ca, const char *cert, bool server);
/* A folder DIR/NAME with TEXT as keys.psk. */
char *certs_psk(const char *dir, const char *name, const char *text);

/* A fresh folder (g_free; certs_remove() at the end) with what two QEMUs need: x509-server,
 * x509-client (the server is CERTS_HOST), psk-server and psk-client (one key, CERTS_KEY), each for
 * a tls-creds object. NULL if there is no openssl command. */
#define CERTS_HOST "dest.example.org"
#define CERTS_KEY "8f1d0c7b5e2a4960b3d8c1e7f5a29463"
char *certs_new_pair(void);

#endif
