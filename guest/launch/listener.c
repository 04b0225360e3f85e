/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See listener.h. The kernel lists the listening sockets of this network namespace with the inode
 * of each one's name (sock_diag(7)), and /proc/PID/fd whose they are. A relay may not be looked
 * into by its own user: then QEMU's plan says it. Names are not those of a network namespace: where
 * no socket is listed, connect(2) shows whether a process of another one listens.
 *
 * System calls: socket, sendto, recvfrom, connect, lstat, statx.
 */
#include "guest/launch/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/launch/attach-find.h"

#define ANSWER 32768 /* bytes; the kernel fills no more */

/* ---- the socket ------------------------------------------------------------------------------ */

typedef struct {
    uint32_t inode, device; /* DEVICE: as the kernel counts them; 0: not known */
    const char *last;       /* the last part of its path */
} Name;

/* Of the file system at PATH. Where stat(2) has a device of its own (overlayfs, btrfs), the list of
 * mounts has the kernel's. 0: it is not known (before Linux 5.8). */
static uint32_t device_of(const char *path)
{
    g_autofree char *mounts = NULL;
    struct statx st;

    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID, &st) < 0 ||
        !(st.stx_mask & STATX_MNT_ID) ||
        !g_file_get_contents("/proc/self/mountinfo", &mounts, NULL, NULL)) {
        return 0;
    }
    for (const char *line = mounts; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        unsigned long long id;
        unsigned major, minor;

        if (sscanf(line, "%llu %*u %u:%u", &id, &major, &minor) == 3 && id == st.stx_mnt_id) {
            return major << 20 | minor;
        }
    }
    return 0;
}

/* BOUND: as it was bound, N bytes. */
static bool is_name(const struct unix_diag_vfs *vfs, const char *bound, size_t n, const Name *name)
{
    g_autofree char *text = g_strndup(bound ? bound : "", n);
    g_autofree char *last = g_path_get_basename(text);

    return vfs->udiag_vfs_ino == name->inode &&
           (name->device ? vfs->udiag_vfs_dev == name->device : !strcmp(last, name->last));
}

/* The socket of MSG is bound to PATH. */
static bool is_bound_to(const struct nlmsghdr *msg, const Name *path)
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
    return vfs.udiag_vfs_ino && is_name(&vfs, name, n, path);
}

/* *INODE: of the listening socket. Returns 1 when all have come, 0 if more come, or -errno. */
static int read_answer(int fd, const Name *path, uint32_t *inode)
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
            is_bound_to(msg, path)) {
            *inode = ((const struct unix_diag_msg *)NLMSG_DATA(msg))->udiag_ino;
        }
    }
    return 0;
}

/* The inode of the socket that listens at PATH; 0: none does in this network namespace, or the
 * kernel does not list them. */
static uint32_t find_socket(const Name *path)
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
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    uint32_t inode = 0;

    if (fd < 0) {
        return 0;
    }
    if (send(fd, &request, sizeof(request), 0) == sizeof(request)) {
        while (read_answer(fd, path, &inode) == 0) {
        }
    }
    close(fd);
    return inode;
}

/* As a client, which that process notices. */
static bool is_answered(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path)) {
        return false;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool is = fd >= 0 && (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
                          errno == EAGAIN); /* as its queue is full */

    if (fd >= 0) {
        close(fd);
    }
    return is;
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

void ff_listener_find(const char *path, FfListener *listener)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    g_autofree char *last = g_path_get_basename(path);
    struct stat st;

    *listener = (FfListener){0};
    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    const Name name = {(uint32_t)st.st_ino, device_of(path), last};
    uint32_t inode = find_socket(&name);
    if (!inode) {
        listener->is = is_answered(path);
        return;
    }
    pid_t holder = find_holder(inode);
    bool is_relay = holder && ff_attach_is_relay(holder);

    listener->pid = holder && !is_relay ? holder : ff_attach_served(absolute, holder);
    listener->is = !is_relay || listener->pid;
}
