/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the answers of the real system to the rewriter's questions: what kind of file system a
 * path lies on, whether an inherited fd listens, what a configuration file says.
 *
 * Reads only, and nothing that can be read once only. Any thread.
 * System calls: statfs, stat, getsockopt, open, read.
 */
#include "launch/argv.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "launch/argv-machine.h"

static char fs_kind(const char *path, uint64_t *page_size, void *opaque)
{
    struct statfs fs;

    if (statfs(path, &fs) != 0) {
        return 0;
    }
    if (fs.f_type == HUGETLBFS_MAGIC) {
        *page_size = (uint64_t)fs.f_bsize;
        return 'h';
    }
    return fs.f_type == TMPFS_MAGIC ? 't' : 'r';
}

static bool fd_is_listening(int fd, void *opaque)
{
    int listens = 0;
    socklen_t len = sizeof(listens);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens;
}

/* What is read from a pipe here (<(...), /dev/stdin) is lost to QEMU. */
static char *read_file(const char *path, GError **error, void *opaque)
{
    char *text = NULL;
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "it can be read only once, by QEMU: write it to a regular file to let "
                    "farfault migrate this guest");
        return NULL;
    }
    return g_file_get_contents(path, &text, NULL, error) ? text : NULL;
}

static uint64_t default_hugepage_size(void)
{
    g_autofree char *text = NULL;
    const char *line;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        return 0;
    }
    line = strstr(text, "\nHugepagesize:");
    return line ? g_ascii_strtoull(line + strlen("\nHugepagesize:"), NULL, 10) * 1024 : 0;
}

static bool machine_ram_id(const char *type, char **ram_id, void *opaque)
{
    return opaque && ff_argv_ask_ram_id(opaque, type, ram_id);
}

const FfArgvSystem *ff_argv_system_real(void)
{
    static FfArgvSystem sys = {.fs_kind = fs_kind,
                               .fd_is_listening = fd_is_listening,
                               .read_file = read_file,
                               .machine_ram_id = machine_ram_id};
    static gsize once;

    if (g_once_init_enter(&once)) {
        sys.default_hugepage_size = default_hugepage_size();
        sys.folder = g_get_current_dir();
        g_once_init_leave(&once, 1);
    }
    return &sys;
}
