/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See listener.h. The kernel lists the listening sockets with the inode of each one's name
 * (sock_diag(7)), and /proc/PID/fd whose they are. A relay may not be looked into by its own user:
 * then QEMU's plan says it.
 *
 * System calls: socket, sendto, recvfrom, lstat.
 */
#include "launch/listener.h"

#include <errno.h>
#include <glib.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "launch/attach-find.h"

#define ANSWER 32768 /* bytes; the kernel fills no more */

/* ---- the socket ------------------------------------------------------------------------------ */

/* As the kernel counts devices, not as stat(2) does. */
static uint32_t kernel_device(dev_t dev)
{
    return (uint32_t)(major(dev) << 20 | minor(dev));
}

/* NAME: as it was bound, N bytes. On some file systems (overlayfs) stat(2) has a device of its own:
 * there the last part of the name must be the same. */
static bool is_name(const struct unix_diag_vfs *vfs, const char *name, size_t n, const char *path,
                    const struct stat *st)
{
    g_autofree char *bound = g_strndup(name ? name : "", n), *own = g_path_get_basename(path);
    g_autofree char *last = g_path_get_basename(bound);

    return vfs->udiag_vfs_ino == (uint32_t)st->st_ino &&
           (vfs->udiag_vfs_dev == kernel_device(st->st_dev) || !strcmp(last, own));
}

/* The socket that is bound to PATH is the one of MSG. */
static bool is_bound_to(const struct nlmsghdr *msg, const char *path, const struct stat *st)
{
    const struct unix_diag_msg *socket = NLMSG_DATA(msg);
    const struct rtattr *attr = (const struct rtattr *)(const void *)(socket + 1);
    unsigned left = msg->nlmsg_len - (unsigned)NLMSG_LENGTH(sizeof(*socket));
    struct unix_diag_vfs vfs = {0};
    const char *name = NULL;
    size_t n = 0;

    for (; RTA_OK(attr, left); attr = RTA_NEXT(attr, left)) {
        if (attr->rta_type == UNIX_DIAG_VFS && RTA_PAYLOAD(attr) >= sizeof(vfs)) {
            memcpy(&vfs, RTA_DATA(attr), sizeof(vfs));
        } else if (attr->rta_type == UNIX_DIAG_NAME) {
            name = RTA_DATA(attr);
            n = RTA_PAYLOAD(attr);
        }
    }
    return vfs.udiag_vfs_ino && is_name(&vfs, name, n, path, st);
}

/* *INODE: of the listening socket. Returns 1 when all have come, 0 if more come, or -errno. */
static int read_answer(int fd, const char *path, const struct stat *st, uint32_t *inode)
{
    g_autofree char *buf = g_malloc(ANSWER);
    ssize_t got = recv(fd, buf, ANSWER, 0);

    if (got <= 0) {
        return got < 0 && errno == EINTR ? 0 : got < 0 ? -errno : -EIO;
    }
    unsigned len = (unsigned)got;
    for (struct nlmsghdr *msg = (void *)buf; NLMSG_OK(msg, len); msg = NLMSG_NEXT(msg, len)) {
        if (msg->nlmsg_type == NLMSG_DONE) {
            return 1;
        }
        if (msg->nlmsg_type == NLMSG_ERROR) {
            const struct nlmsgerr *error = NLMSG_DATA(msg);
            return error->error < 0 ? error->error : -EIO;
        }
        if (msg->nlmsg_len >= NLMSG_LENGTH(sizeof(struct unix_diag_msg)) &&
            is_bound_to(msg, path, st)) {
            *inode = ((const struct unix_diag_msg *)NLMSG_DATA(msg))->udiag_ino;
        }
    }
    return 0;
}

/* *INODE: of the socket that listens at PATH, 0 if none does. Returns 0 or -errno. */
static int find_socket(const char *path, const struct stat *st, uint32_t *inode)
{
    struct {
        struct nlmsghdr head;
        struct unix_diag_req ask;
    } request = {{.nlmsg_len = sizeof(request),
                  .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
                 {.sdiag_family = AF_UNIX,
                  .udiag_states = 1u << TCP_LISTEN,
                  .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS}};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), ret = 0;

    *inode = 0;
    if (fd < 0) {
        return -errno;
    }
    if (send(fd, &request, sizeof(request), 0) != sizeof(request)) {
        ret = -errno;
    }
    while (ret == 0) {
        ret = read_answer(fd, path, st, inode);
    }
    close(fd);
    return MIN(ret, 0);
}

/* ---- its process ----------------------------------------------------------------------------- */

static bool has_socket(pid_t pid, const char *link)
{
    g_autoptr(GArray) fds = ff_attach_fds(pid, NULL);

    for (guint i = 0; fds && i < fds->len; i++) {
        g_autofree char *own = ff_attach_link(pid, g_array_index(fds, int, i));

        if (g_strcmp0(own, link) == 0) {
            return true;
        }
    }
    return false;
}

static pid_t find_holder(uint32_t inode)
{
    g_autofree char *link = g_strdup_printf("socket:[%u]", inode);
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        if (has_socket(pid, link)) {
            return pid;
        }
    }
    return 0;
}

int ff_listener_find(const char *path, FfListener *listener)
{
    struct stat st;
    uint32_t inode;

    *listener = (FfListener){0};
    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return 0;
    }
    int ret = find_socket(path, &st, &inode);
    if (ret < 0 || !inode) {
        return ret;
    }
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    pid_t holder = find_holder(inode);
    bool is_relay = holder && ff_attach_is_relay(holder);

    listener->pid = holder && !is_relay ? holder : ff_attach_served(absolute, holder);
    listener->is = !is_relay || listener->pid;
    return 0;
}
