/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The link between engine and relay: the relay must stand whatever an engine says. */
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "contract/link.h"

static bool ended;

static void frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds, void *opaque)
{
    g_assert_cmpuint(header->length, ==, payload ? g_bytes_get_size(payload) : 0);
    g_assert_cmpuint(header->n_fds, ==, 0);
}

static void closed(FfLink *link, const GError *error, void *opaque)
{
    ended = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const FfLinkOps ops = {frame, closed};
    int sv[2];

    fuzz_quiet();
    if (size > 64 << 10) {
        return 0;
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    ended = false;
    g_autoptr(FfLink) link = ff_link_new(sv[0], NULL, &ops, NULL);
    /* A link that broke has closed its end; that is an answer. */
    for (size_t at = 0; at < size;) {
        ssize_t n = send(sv[1], data + at, MIN(size - at, 1000), MSG_NOSIGNAL);
        if (n <= 0) {
            break;
        }
        at += n;
        g_main_context_iteration(NULL, FALSE);
    }
    close(sv[1]);
    while (!ended) {
        g_main_context_iteration(NULL, TRUE);
    }
    return 0;
}
