/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See clienthello.h. It is said to a socket at which nobody answers: elsewhere the answer may be
 * there before the call returns, and the handshake continues. */
#include "net/channel-tls.h"
#include "net/channel.h"
#include "tests/lib/clienthello.h"

#include <sys/socket.h>
#include <unistd.h>

GBytes *client_hello(FfTls *tls)
{
    uint8_t said[4096];
    short events;
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    g_autoptr(FfChannel) ch = ff_channel_new(sv[0], FF_CHANNEL_MAIN);

    ff_channel_begin_tls(ch, tls, NULL);
    g_assert_cmpint(ff_channel_step_tls(ch, &events, NULL), ==, FF_IO_AGAIN);
    ssize_t n = recv(sv[1], said, sizeof(said), 0);
    g_assert_cmpint(n, >, 0);
    g_assert_cmpint(n, <, sizeof(said));
    close(sv[1]);
    return g_bytes_new(said, n);
}
