/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Distinguished names in certificates. Pure; any thread. */
#ifndef FF_NET_DN_H
#define FF_NET_DN_H

#include <openssl/x509.h>

/* The subject of CERT as GnuTLS writes it, which is what QEMU's authz objects compare. g_free. */
char *ff_dn_subject(X509 *cert);

#endif
