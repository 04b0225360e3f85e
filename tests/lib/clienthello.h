/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests of a peer that stops in the middle of a handshake of TLS. */
#ifndef FF_TESTS_CLIENTHELLO_H
#define FF_TESTS_CLIENTHELLO_H

#include "net/tls.h"

/* What a client with the credentials TLS says first, all of it (g_bytes_unref). */
GBytes *client_hello(FfTls *tls);

#endif
