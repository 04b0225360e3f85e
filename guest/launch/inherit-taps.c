/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. System calls: socketpair, eventfd. */
#include "guest/launch/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "guest/agent/taps.h"
#include "guest/launch/endpoint.h"
#include "guest/launch/inherit-argv.h"

static int keep_fd(FfInheritedTaps *taps, int fd)
{
    int high = ff_fd_high(fd);

    g_array_append_val(taps->fds, high);
    return high;
}

/* One tap: FALSE and ERROR, it is not there. */
static bool take_one(FfInheritedTaps *taps, FfInherited *lent, const char *name, int *stand_in,
                     GString *text, GError **error)
{
    int pair[2], tap = ff_inherited_tap(lent, name, error);

    if (tap < 0) {
        return false;
    }
    tap = keep_fd(taps, tap);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "tap '%s': socketpair: %s",
                    name, g_strerror(errno));
        return false;
    }
    *stand_in = keep_fd(taps, pair[0]);
    g_string_append_printf(text, "%d,%d,%d;", *stand_in, keep_fd(taps, pair[1]), tap);
    return true;
}

bool ff_inherited_taps_take(FfInheritedTaps *taps, FfInherited *lent, int pidfd, char *const *argv,
                            GError **error)
{
    g_auto(GStrv) names = ff_inherited_taps(argv);
    g_autoptr(GString) text = g_string_new(NULL);
    unsigned n = g_strv_length(names);

    if (!n) {
        return true;
    }
    if (n > FF_AGENT_MAX_TAPS) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "its %u taps are too many: at most %d", n,
                    FF_AGENT_MAX_TAPS);
        return false;
    }
    taps->fds = g_array_new(FALSE, FALSE, sizeof(int));
    taps->stand_ins = g_new(int, n);
    int go = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int copy = pidfd < 0 ? -1 : fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    if (go < 0 || copy < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "its taps: %s",
                    go < 0 ? g_strerror(errno) : "the running QEMU lends no pidfd");
        return false;
    }
    taps->go = keep_fd(taps, go);
    g_string_append_printf(text, "%d,%d;", taps->go, keep_fd(taps, copy));
    for (unsigned i = 0; i < n; i++) {
        if (!take_one(taps, lent, names[i], &taps->stand_ins[i], text, error)) {
            return false;
        }
    }
    taps->text = g_strdup(text->str);
    return true;
}

void ff_inherited_taps_clear(FfInheritedTaps *taps)
{
    g_free(taps->stand_ins);
    g_free(taps->text);
    g_clear_pointer(&taps->fds, g_array_unref);
}
