/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See upgrade-ptys.h. QEMU names the slave side of each ("pty:/dev/pts/N"), and the kernel says of
 * a master side which number it has (TIOCGPTN).
 *
 * Main loop's thread. System calls: openat, getdents64, readlink, pidfd_getfd, ioctl, close.
 */
#include "qapi/upgrade-ptys.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "qapi/json.h"

#define NAME "pty:/dev/pts/"

static void clear_pty(gpointer p)
{
    FfInheritedPty *pty = p;

    g_free(pty->id);
    close(pty->fd);
}

/* The chardev (its label, CHARDEVS') with slave side NUMBER; NULL: none. */
static const char *chardev_of(JsonNode *chardevs, unsigned number)
{
    JsonArray *all =
        chardevs && JSON_NODE_HOLDS_ARRAY(chardevs) ? json_node_get_array(chardevs) : NULL;
    g_autofree char *name = g_strdup_printf(NAME "%u", number);

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));

        if (o && !g_strcmp0(ff_json_string(o, "filename"), name)) {
            return ff_json_string(o, "label");
        }
    }
    return NULL;
}

/* -1: NUMBER in FOLDER is no master side. */
static int copy_master(int pidfd, const char *folder, const char *number, unsigned *slave)
{
    g_autofree char *path = g_build_filename(folder, number, NULL);
    g_autofree char *link = g_file_read_link(path, NULL);
    int fd = link && g_str_has_suffix(link, "/ptmx")
                 ? (int)syscall(SYS_pidfd_getfd, pidfd, atoi(number), 0)
                 : -1;

    if (fd >= 0 && ioctl(fd, TIOCGPTN, slave) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

GArray *ff_upgrade_ptys(pid_t pid, int pidfd, JsonNode *chardevs)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(FfInheritedPty));
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *number;

    g_array_set_clear_func(all, clear_pty);
    while (dir && (number = g_dir_read_name(dir))) {
        unsigned slave;
        int fd = copy_master(pidfd, folder, number, &slave);
        const char *id = fd >= 0 ? chardev_of(chardevs, slave) : NULL;

        if (id) {
            FfInheritedPty pty = {g_strdup(id), fd};
            g_array_append_val(all, pty);
        } else if (fd >= 0) {
            close(fd);
        }
    }
    return all;
}
