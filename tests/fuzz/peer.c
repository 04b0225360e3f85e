/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See peer.h. The harness is the fuzzer's thread. */
#include "tests/fuzz/peer.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/frame.h"

/* A side that is in step answers at once; one that is not does not answer at all. */
#define ANSWER_MS 20

static char *parts(FfVmmState *state)
{
    return g_strdup("machine\ttype\tpc\t\ncpu\t0\t\t\ndevice\tpci.0/04.0\tnet\tnet\n");
}

Side *fuzz_side(FfRole role, int *peer)
{
    int sv[2];

    fuzz_quiet();
    Side *s = side_new_lenient(role, FUZZ_RAM_BYTES);
    s->vmm.state.parts = parts;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    *peer = sv[1];
    side_start(s, NULL, sv[0]);
    return s;
}

/* Whether a frame of TYPE is in what the side said. */
static bool has(const uint8_t *buf, size_t n, uint16_t type)
{
    FfFrame f = ff_frame(type, 0);

    ff_frame_encode(&f);
    return memmem(buf, n, &f, 6); /* magic and type */
}

/* Reads what the side says until a frame of TYPE is in it, or the word that it has given up. */
static void hear(int fd, uint16_t type)
{
    uint8_t buf[4096];

    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, ANSWER_MS) <= 0) {
            return;
        }
        ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n <= 0 || has(buf, n, type) || has(buf, n, FF_FRAME_ABORT)) {
            return;
        }
    }
}

static bool say(int fd, const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0) {
            return false; /* it has hung up: an answer too */
        }
        data += n;
        size -= n;
    }
    return true;
}

/* What a source waits for when it has said F; 0: nothing. DEVICE bytes of device state are said. */
static uint16_t answer_to(const FfFrame *f, size_t device)
{
    switch (f->type) {
    case FF_FRAME_PREPARE:
        return FF_FRAME_READY;
    case FF_FRAME_DEVICE:
        return device >= SIDE_LENIENT_BYTES ? FF_FRAME_LOADED : 0;
    case FF_FRAME_GRANT:
        return FF_FRAME_RUNNING;
    default:
        return 0;
    }
}

void fuzz_be_source(int peer, const uint8_t *data, size_t size)
{
    size_t at = MIN(size, FF_PROLOGUE_SIZE), device = 0;
    const char *why;
    FfFrame f;

    while (size - at >= sizeof(f)) {
        memcpy(&f, data + at, sizeof(f));
        if (ff_frame_decode(&f, &why) < 0) {
            at += sizeof(f);
            continue;
        }
        at += MIN(size - at, sizeof(f) + f.length);
        device += f.type == FF_FRAME_DEVICE ? f.length : 0;
        uint16_t answer = answer_to(&f, device);
        if (answer) {
            if (!say(peer, data, at)) {
                return;
            }
            data += at;
            size -= at;
            at = 0;
            hear(peer, answer);
        }
    }
    say(peer, data, size);
}

static gboolean drain(int fd, GIOCondition events, gpointer source)
{
    uint8_t buf[16384];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
    }
    if (n < 0 && errno == EAGAIN) {
        return G_SOURCE_CONTINUE;
    }
    *(guint *)source = 0;
    return G_SOURCE_REMOVE;
}

void fuzz_end(Side *s, int peer)
{
    shutdown(peer, SHUT_WR);
    guint source;
    source = g_unix_fd_add(peer, G_IO_IN | G_IO_HUP, drain, &source);
    /* A destination that has everything waits for its source to know it. */
    side_run_until(s->done || s->status == FF_STATUS_POSTCOPY_PAUSED ||
                   s->status == FF_STATUS_COMPLETED);
    bool runs = g_atomic_int_get(&s->runs);
    if (s->role == FF_ROLE_SOURCE) {
        /* Rolled back and running, or the peer's. */
        g_assert_cmpint(runs, ==, s->status == FF_STATUS_FAILED);
    } else {
        g_assert_true(s->status != FF_STATUS_FAILED || !runs);
        g_assert_true(!runs || s->state->run_right == FF_RUN_MINE);
    }
    if (source) {
        g_source_remove(source);
    }
    close(peer);
    side_free(s);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}
