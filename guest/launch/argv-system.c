/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the answers of the real system to the rewriter's questions: what kind of file system a
 * path lies on, whether an inherited fd listens, what a configuration file says.
 *
 * Reads only, and nothing that can be read once only. Any thread.
 * System calls: statfs, stat, getsockopt, open, fstat, read.
 */
#include "guest/launch/argv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest/launch/argv-machine.h"

/* Bytes of a configuration file: what managers write has some thousands. */
#define MAX_CONFIG (256 << 10)

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

static char *no_config(GError **error, const char *why)
{
    g_set_error_literal(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, why);
    return NULL;
}

/* All of FD, one byte more than MAX_CONFIG at most; -errno. */
static ssize_t read_whole(int fd, char *text)
{
    size_t len = 0;

    while (len <= MAX_CONFIG) {
        ssize_t n = read(fd, text + len, MAX_CONFIG + 1 - len);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        len += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)len;
}

static char *read_regular(int fd, GError **error)
{
    g_autofree char *text = g_malloc(MAX_CONFIG + 2);
    ssize_t len = read_whole(fd, text);

    if (len < 0) {
        g_set_error_literal(error, G_FILE_ERROR, g_file_error_from_errno((int)-len),
                            g_strerror((int)-len));
        return NULL;
    }
    if (len > MAX_CONFIG) {
        return no_config(error, "it is larger than 256 KiB");
    }
    if (memchr(text, '\0', (size_t)len)) {
        return no_config(error, "it has a NUL byte");
    }
    text[len] = '\0';
    return g_steal_pointer(&text);
}

/* What is read from a pipe here (<(...), /dev/stdin) is lost to QEMU, and already its opening may
 * be seen at the other end. */
static char *read_file(const char *path, GError **error, void *opaque)
{
    static const char once[] = "it can be read only once, by QEMU: write it to a regular file to "
                               "let farfault migrate this guest";
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return no_config(error, once);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        g_set_error_literal(error, G_FILE_ERROR, g_file_error_from_errno(errno), g_strerror(errno));
        return NULL;
    }
    char *text = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read_regular(fd, error)
                                                            : no_config(error, once);
    close(fd);
    return text;
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
