/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listens again where a relay that is dead has listened for QMP clients. Its socket's name may be
 * left; what else is there is not touched.
 *
 * One thread. System calls: lstat, socket, setsockopt, bind, listen, lchown, unlink, and those of
 * listener.c.
 */
#include "guest/launch/attach-listen.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/launch/attach-find.h"
#include "guest/launch/listener.h"
#include "qmp/json.h"

/* The name of a unix socket in the file system; NULL if it has none. */
static const char *path_of(const struct sockaddr *address)
{
    const char *path = ((const struct sockaddr_un *)(const void *)address)->sun_path;

    return address->sa_family == AF_UNIX && path[0] ? path : NULL;
}

static bool make_room(const struct sockaddr *address, bool instead, GError **error)
{
    const char *path = path_of(address);
    struct stat st;

    if (!path || lstat(path, &st) < 0) {
        return true;
    }
    if (!S_ISSOCK(st.st_mode)) {
        ff_launch_fail(error, "%s is in the way: it is no socket", path);
        return false;
    }
    if (!instead) {
        FfListener listener;

        ff_listener_find(path, &listener);
        if (listener.is && listener.pid) {
            ff_launch_fail(error, "%s: process %d listens there", path, (int)listener.pid);
            return false;
        }
        if (listener.is) {
            ff_launch_fail(error, "%s: another process listens there", path);
            return false;
        }
    }
    unlink(path);
    return true;
}

int ff_attach_listen(const struct sockaddr *address, socklen_t len, const FfRunas *as, bool instead,
                     GPtrArray *made, const char *id, GError **error)
{
    const char *path = path_of(address);
    int on = 1;

    if (!make_room(address, instead, error)) {
        return -1;
    }
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && address->sa_family != AF_UNIX) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    if (fd < 0 || bind(fd, address, len) < 0 ||
        (path && as->uid != (uid_t)-1 && lchown(path, as->uid, as->gid) < 0) || listen(fd, 1) < 0) {
        ff_launch_fail(error, "monitor '%s' cannot listen again: %s%s", id, g_strerror(errno),
                       instead ? ": the relay of the QEMU that was to take the guest over has it, "
                                 "farfault doctor says which one is stopped: end it"
                               : "");
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    if (path) {
        g_ptr_array_add(made, g_strdup(path));
    }
    return fd;
}

char *ff_attach_lost_socket(pid_t pid, JsonObject *plan)
{
    JsonArray *all = ff_json_array(plan, "monitors");

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *monitor = ff_json_node_object(json_array_get_element(all, i));
        struct sockaddr_storage address;
        socklen_t len;
        FfListener listener;

        if (!monitor || g_strcmp0(ff_json_string(monitor, "kind"), "listen") != 0 ||
            !ff_attach_address(monitor, &address, &len)) {
            continue;
        }
        const char *path = path_of((struct sockaddr *)&address);
        if (!path) {
            continue;
        }
        ff_listener_find(path, &listener);
        if (!listener.is || (listener.pid && listener.pid != pid)) {
            return g_strdup(path);
        }
    }
    return NULL;
}
