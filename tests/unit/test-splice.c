/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's own migration through the engine, when no descriptor is free: a peer that comes then is
 * taken when there is one, and nothing is tried all the time.
 */
#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "net/address.h"
#include "net/splice.h"

#ifdef FF_FAULTS
#define PATIENCE_S 60
#define SHORT_US (1500 * 1000)

static gint tries;        /* atomic */
static int64_t short_end; /* microseconds, monotonic */

static int be_short(const char *place, const char *name)
{
    if (strcmp(name, "splice-accept")) {
        return 0;
    }
    g_atomic_int_inc(&tries);
    return g_get_monotonic_time() < short_end ? EMFILE : 0;
}

static int listen_at(const char *path)
{
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(GError) error = NULL;
    int fd = ff_address_listen(address, &error);

    g_assert_no_error(error);
    return fd;
}

static gboolean has_come(gint fd, GIOCondition condition, gpointer opaque)
{
    *(bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

static gboolean impatient(gpointer opaque)
{
    g_error("nobody came");
    return G_SOURCE_REMOVE;
}

static void nothing(gpointer opaque)
{
}

static void test_short(void)
{
    g_autofree char *dir = g_dir_make_tmp("ff-splice-XXXXXX", NULL);
    g_autofree char *outside = g_build_filename(dir, "outside", NULL);
    g_autofree char *inside = g_build_filename(dir, "inside", NULL);
    int from = listen_at(outside), to = listen_at(inside);
    g_autoptr(GArray) listeners = g_array_new(FALSE, FALSE, sizeof(int));
    FfSplice *n = ff_splice_new(nothing, NULL);
    guint timer = g_timeout_add_seconds(PATIENCE_S, impatient, NULL);
    bool come = false;

    short_end = g_get_monotonic_time() + SHORT_US;
    ff_fault_hook(be_short);
    g_array_append_val(listeners, from);
    ff_splice_accept_peers(n, listeners, inside);
    int peer = ff_address_connect_path(outside);
    g_assert_cmpint(peer, >=, 0);
    g_unix_fd_add(to, G_IO_IN, has_come, &come);
    while (!come) {
        g_main_context_iteration(NULL, TRUE);
    }
    /* At once, after a second, and after another one. */
    g_assert_cmpint(g_atomic_int_get(&tries), <=, 4);
    ff_fault_hook(NULL);
    g_source_remove(timer);
    close(peer);
    ff_splice_free(n);
    close(from);
    close(to);
    unlink(outside);
    unlink(inside);
    rmdir(dir);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#ifdef FF_FAULTS
    g_test_add_func("/splice/short", test_short);
#endif
    return g_test_run();
}
