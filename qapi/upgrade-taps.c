/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See upgrade-taps.h. The kernel says of an fd which interface it is ("iff:" in its fdinfo).
 *
 * Main loop's thread. System calls: openat, getdents64, read, pidfd_getfd, close.
 */
#include "qapi/upgrade-taps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void clear_tap(gpointer p)
{
    FfInheritedTap *tap = p;

    g_free(tap->name);
    if (tap->fd >= 0) {
        close(tap->fd);
    }
}

/* Of NUMBER in FOLDER (g_free); NULL: it is no tap. */
static char *interface_of(const char *folder, const char *number)
{
    g_autofree char *path = g_build_filename(folder, number, NULL), *text = NULL;
    const char *at = g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, "\niff:") : NULL;

    return at ? g_strstrip(g_strndup(at + 5, strcspn(at + 5, "\n"))) : NULL;
}

GArray *ff_upgrade_taps(pid_t pid, int pidfd)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(FfInheritedTap));
    g_autofree char *folder = g_strdup_printf("/proc/%d/fdinfo", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *number;

    g_array_set_clear_func(all, clear_tap);
    while (dir && (number = g_dir_read_name(dir))) {
        g_autofree char *name = interface_of(folder, number);
        int fd = name ? (int)syscall(SYS_pidfd_getfd, pidfd, atoi(number), 0) : -1;

        if (fd >= 0) {
            FfInheritedTap tap = {g_steal_pointer(&name), fd};
            g_array_append_val(all, tap);
        }
    }
    return all;
}
