/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Certificates of all kinds, good and bad, and folders of them as tls-creds objects name them, for
 * the tests of net/tls.c and net/creds.c.
 */
#ifndef FF_TESTS_TLS_RIG_H
#define FF_TESTS_TLS_RIG_H

#include <glib.h>

#include "net/creds.h"
#include "tests/lib/certs.h"

#define KEY_A "000102030405060708090a0b0c0d0e0f"
#define KEY_B "0f0e0d0c0b0a09080706050403020100"

extern char *dir; /* of all certificates */

/* FALSE where there is no openssl command. */
bool tls_rig_new(void);
void tls_rig_free(void);
/* A path in dir (g_free). */
char *sub(const char *name);
/* NULL and *TEXT if the credentials cannot be loaded. SPEC.authz is taken. */
FfTls *load(FfCredsSpec spec, char **text);
/* GOT has WANT in it; both NULL: nothing went wrong. */
void expect(const char *what, const char *got, const char *want);

#endif
