/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The framed link: frames, order, fds at their own frame, backlog, limits, the end of the peer.
 * One end is an FfLink; the other is an FfLink too, or bytes written by hand.
 */
#include "contract/link.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    FfLink *link;
    GPtrArray *payloads; /* GBytes * */
    GArray *headers, *inodes;
    bool closed, free_in_frame;
    GError *error;
} End;

static ino_t inode(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return st.st_ino;
}

static void on_frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds,
                     void *opaque)
{
    End *end = opaque;

    g_array_append_val(end->headers, *header);
    g_ptr_array_add(end->payloads, g_bytes_ref(payload));
    for (unsigned i = 0; i < header->n_fds; i++) {
        ino_t ino = inode(fds[i]);

        g_array_append_val(end->inodes, ino);
    }
    if (end->free_in_frame) {
        g_clear_pointer(&end->link, ff_link_free);
    }
}

static void on_closed(FfLink *link, const GError *error, void *opaque)
{
    End *end = opaque;

    g_assert_false(end->closed);
    end->closed = true;
    end->error = error ? g_error_copy(error) : NULL;
}

static const FfLinkOps ops = {on_frame, on_closed};

static void end_init(End *end, int fd)
{
    memset(end, 0, sizeof(*end));
    end->payloads = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    end->headers = g_array_new(FALSE, FALSE, sizeof(FfLinkHeader));
    end->inodes = g_array_new(FALSE, FALSE, sizeof(ino_t));
    end->link = ff_link_new(fd, NULL, &ops, end);
}

static void end_clear(End *end)
{
    ff_link_free(end->link);
    g_ptr_array_unref(end->payloads);
    g_array_unref(end->headers);
    g_array_unref(end->inodes);
    g_clear_error(&end->error);
}

static void run_until(End *end, guint frames)
{
    while (end->headers->len < frames && !end->closed) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void pair(int sv[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
}

static void test_frames(void)
{
    End a, b;
    int sv[2];

    pair(sv);
    end_init(&a, sv[0]);
    end_init(&b, sv[1]);
    g_assert_cmpint(ff_link_send(a.link, FF_LINK_COMMAND, 3, 7, "hello", 5, NULL, 0), ==, 0);
    g_assert_cmpint(ff_link_send(a.link, FF_LINK_IDLE, 0, 0, NULL, 0, NULL, 0), ==, 0);
    run_until(&b, 2);
    g_assert_cmpmem(g_bytes_get_data(b.payloads->pdata[0], NULL), 5, "hello", 5);
    g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, 0).mon, ==, 3);
    g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, 0).seq, ==, 7);
    g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, 1).type, ==, FF_LINK_IDLE);
    end_clear(&a);
    run_until(&b, 3);
    g_assert_true(b.closed);
    g_assert_no_error(b.error);
    g_assert_cmpint(ff_link_send(b.link, FF_LINK_IDLE, 0, 0, NULL, 0, NULL, 0), ==, -EPIPE);
    end_clear(&b);
}

/* Frames with and without fds mixed: each fd arrives at the frame it was sent with. */
static void test_fds(void)
{
    int fd[4], sv[2];
    End a, b;

    for (int i = 0; i < 4; i++) {
        fd[i] = memfd_create("test", MFD_CLOEXEC);
    }
    pair(sv);
    end_init(&a, sv[0]);
    end_init(&b, sv[1]);
    ff_link_send(a.link, FF_LINK_COMMAND, 0, 1, "x", 1, NULL, 0);
    ff_link_send(a.link, FF_LINK_HOLD, 0, 2, "yy", 2, fd, 1);
    ff_link_send(a.link, FF_LINK_COMMAND, 0, 3, "z", 1, NULL, 0);
    ff_link_send(a.link, FF_LINK_INIT, 0, 4, NULL, 0, fd + 1, 3);
    run_until(&b, 4);
    for (int i = 0; i < 4; i++) {
        g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, i).seq, ==, i + 1);
        g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, i).n_fds, ==,
                         i == 1   ? 1
                         : i == 3 ? 3
                                  : 0);
        g_assert_cmpuint(g_array_index(b.inodes, ino_t, i), ==, inode(fd[i]));
        close(fd[i]);
    }
    end_clear(&a);
    end_clear(&b);
}

/* The peer does not read: frames wait, none is lost or reordered, large ones among them. */
static void test_backlog(void)
{
    g_autofree char *large = g_malloc(5 << 20);
    End a, b;
    int sv[2];

    memset(large, 'L', 5 << 20);
    pair(sv);
    end_init(&a, sv[0]);
    for (uint32_t i = 0; i < 500; i++) {
        g_assert_cmpint(
            ff_link_send(a.link, FF_LINK_EVENT, 0, i, large, i % 100 ? i : 5 << 20, NULL, 0), ==,
            0);
    }
    g_assert_cmpuint(ff_link_queued(a.link), >, 20 << 20);
    end_init(&b, sv[1]);
    run_until(&b, 500);
    g_assert_cmpuint(b.headers->len, ==, 500);
    for (uint32_t i = 0; i < 500; i++) {
        g_assert_cmpuint(g_array_index(b.headers, FfLinkHeader, i).seq, ==, i);
        g_assert_cmpuint(g_bytes_get_size(b.payloads->pdata[i]), ==, i % 100 ? i : 5 << 20);
    }
    g_assert_cmpuint(ff_link_queued(a.link), ==, 0);
    end_clear(&a);
    end_clear(&b);
}

static void test_send_limits(void)
{
    int many[FF_LINK_MAX_FDS + 1], bad = -1, sv[2];
    End a;

    pair(sv);
    end_init(&a, sv[0]);
    for (size_t i = 0; i < G_N_ELEMENTS(many); i++) {
        many[i] = 0;
    }
    g_assert_cmpint(ff_link_send(a.link, FF_LINK_HOLD, 0, 0, NULL, 0, many, FF_LINK_MAX_FDS + 1),
                    ==, -EMSGSIZE);
    g_assert_cmpint(
        ff_link_send(a.link, FF_LINK_HOLD, 0, 0, "", (size_t)FF_LINK_MAX_PAYLOAD + 1, NULL, 0), ==,
        -EMSGSIZE);
    g_assert_cmpint(ff_link_send(a.link, FF_LINK_HOLD, 0, 0, NULL, 0, &bad, 1), ==, -EBADF);
    g_assert_cmpuint(ff_link_queued(a.link), ==, 0);
    g_assert_cmpint(ff_link_send(a.link, FF_LINK_HOLD, 0, 0, NULL, 0, many, FF_LINK_MAX_FDS), ==,
                    0);
    end_clear(&a);
    close(sv[1]);
}

/* A hostile or broken peer: an error that names the link, never a frame. */
static void test_bad_peer(void)
{
    static const struct {
        FfLinkHeader header;
        size_t bytes;
    } cases[] = {
        {{.length = FF_LINK_MAX_PAYLOAD + 1}, sizeof(FfLinkHeader)},
        {{.length = UINT32_MAX, .n_fds = UINT32_MAX}, sizeof(FfLinkHeader)},
        {{.n_fds = FF_LINK_MAX_FDS + 1}, sizeof(FfLinkHeader)},
        {{.n_fds = 1}, sizeof(FfLinkHeader)},  /* promised, not sent */
        {{.length = 1}, sizeof(FfLinkHeader)}, /* cut in the payload */
        {{.length = 1}, sizeof(FfLinkHeader) - 1},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        int sv[2];
        End b;

        pair(sv);
        end_init(&b, sv[1]);
        g_assert_cmpint(write(sv[0], &cases[i].header, cases[i].bytes), ==, cases[i].bytes);
        close(sv[0]);
        run_until(&b, 1);
        g_assert_true(b.closed);
        g_assert_cmpuint(b.headers->len, ==, 0);
        g_assert_error(b.error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
        end_clear(&b);
    }
}

static void test_byte_by_byte(void)
{
    FfLinkHeader header = {.length = 3, .type = FF_LINK_PASS, .seq = 9};
    char bytes[sizeof(header) + 3];
    int sv[2];
    End b;

    memcpy(bytes, &header, sizeof(header));
    memcpy(bytes + sizeof(header), "abc", 3);
    pair(sv);
    end_init(&b, sv[1]);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        g_assert_cmpuint(b.headers->len, ==, 0);
        g_assert_cmpint(write(sv[0], bytes + i, 1), ==, 1);
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(b.headers->len, ==, 1);
    g_assert_cmpmem(g_bytes_get_data(b.payloads->pdata[0], NULL), 3, "abc", 3);
    close(sv[0]);
    end_clear(&b);
}

static void test_free_in_callback(void)
{
    End a, b;
    int sv[2];

    pair(sv);
    end_init(&a, sv[0]);
    end_init(&b, sv[1]);
    b.free_in_frame = true;
    ff_link_send(a.link, FF_LINK_IDLE, 0, 1, NULL, 0, NULL, 0);
    ff_link_send(a.link, FF_LINK_IDLE, 0, 2, NULL, 0, NULL, 0);
    run_until(&b, 1);
    g_assert_cmpuint(b.headers->len, ==, 1);
    run_until(&a, 1);
    g_assert_true(a.closed);
    end_clear(&a);
    end_clear(&b);
}

static void test_flush(void)
{
    g_autofree char *large = g_malloc0(1 << 20);
    int sv[2];
    End a;

    pair(sv);
    end_init(&a, sv[0]);
    ff_link_send(a.link, FF_LINK_EVENT, 0, 1, large, 1 << 20, NULL, 0);
    g_assert_cmpuint(ff_link_queued(a.link), >, 0);
    close(sv[1]);
    g_assert_cmpint(ff_link_flush(a.link), ==, -EPIPE);
    end_clear(&a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/link/frames", test_frames);
    g_test_add_func("/link/fds", test_fds);
    g_test_add_func("/link/backlog", test_backlog);
    g_test_add_func("/link/send-limits", test_send_limits);
    g_test_add_func("/link/bad-peer", test_bad_peer);
    g_test_add_func("/link/byte-by-byte", test_byte_by_byte);
    g_test_add_func("/link/free-in-callback", test_free_in_callback);
    g_test_add_func("/link/flush", test_flush);
    return g_test_run();
}
