/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitors of a guest that gets a new relay: what QEMU has of them, and where clients come to.
 *
 * One thread. System calls: those of attach-listen.c.
 */
#include "guest/launch/attach-internal.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/launch/attach-listen.h"
#include "guest/launch/inherit-argv.h"
#include "qmp/json.h"

/* The client's side of MONITOR. *LOST: there is no way to make it again. */
static bool make_endpoint(FfAttach *a, JsonObject *monitor, const char *id, bool *lost,
                          GError **error)
{
    const char *kind = ff_json_string_or(monitor, "kind", "");
    struct sockaddr_storage address;
    socklen_t len;

    json_object_remove_member(monitor, "fd");
    if (!strcmp(kind, FF_PLAN_SPARE) || !strcmp(kind, FF_PLAN_DOOR)) {
        return true; /* the relay knows from the state what it is used for; who comes asks it */
    }
    if (!strcmp(kind, "stdio")) {
        *lost = ff_json_int(monitor, "in", -1) < 0 || ff_json_int(monitor, "out", -1) < 0;
    } else if (!strcmp(kind, "listen") && ff_attach_address(monitor, &address, &len)) {
        int fd = ff_attach_give(a, ff_attach_listen((struct sockaddr *)&address, len, &a->as,
                                                    a->stays, a->made, id, error));
        if (fd < 0) {
            return false;
        }
        json_object_set_int_member(monitor, "fd", fd);
    } else if (ff_json_string(monitor, "path")) {
        json_object_set_string_member(monitor, "kind", "connect-unix");
    } else if (ff_json_string(monitor, "host")) {
        json_object_set_string_member(monitor, "kind", "connect-tcp");
    } else {
        *lost = true;
    }
    return true;
}

/* The name (O_PATH) of a private listening socket of QEMU's, AT in the parcel. */
static int take_name(FfAttach *a, unsigned at, JsonObject *o, const char *member, GError **error)
{
    int fd = ff_attach_take_kept(a, at, o, member, NULL, "the name of a private monitor", error);
    struct stat st;

    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))) {
        ff_launch_fail(error, "what QEMU keeps as the name of a private monitor is no socket");
        close(fd);
        fd = -1;
    }
    fd = ff_attach_give(a, fd);
    json_object_set_int_member(o, member, fd);
    return fd;
}

/* What QEMU has of them. */
bool ff_attach_take_monitors(FfAttach *a, GError **error)
{
    JsonArray *all = ff_attach_monitors(a);

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *monitor = json_array_get_object_element(all, i);

        if (!monitor || take_name(a, FF_ATTACH_NAMES + i, monitor, "qemu", error) < 0) {
            return false;
        }
        if (!strcmp(ff_json_string_or(monitor, "kind", ""), "stdio")) {
            json_object_set_int_member(
                monitor, "in",
                ff_attach_give(a, ff_attach_take(a, STDIN_FILENO, NULL, "its stdin", NULL)));
            json_object_set_int_member(
                monitor, "out",
                ff_attach_give(a, ff_attach_take(a, STDOUT_FILENO, NULL, "its stdout", NULL)));
        }
    }
    if (ff_json_int(a->plan, "stderr-fd", -1) >= 0) {
        json_object_set_int_member(
            a->plan, "stderr-fd",
            ff_attach_give(a, ff_attach_take(a, STDERR_FILENO, NULL, "its stderr", NULL)));
    }
    return take_name(a, FF_ATTACH_MONITOR, a->plan, "qemu-monitor", error) >= 0;
}

bool ff_attach_make_endpoints(FfAttach *a, GError **error)
{
    JsonArray *all = ff_attach_monitors(a), *kept = json_array_new();

    if (a->ends) {
        ff_attach_note(a,
                       "this QEMU was to take over another one's guest, and has not got it: it is "
                       "ended");
    }
    for (guint i = 0; all && !a->ends && i < json_array_get_length(all); i++) {
        JsonObject *monitor = json_array_get_object_element(all, i);
        const char *id = ff_json_string_or(monitor, "id", "?");
        bool lost = false;

        if (a->has_left && !strcmp(ff_json_string_or(monitor, "kind", ""), "listen")) {
            continue; /* who comes there is the other QEMU's client */
        }
        if (!make_endpoint(a, monitor, id, &lost, error)) {
            json_array_unref(kept);
            return false;
        }
        if (!lost) {
            json_array_add_object_element(kept, json_object_ref(monitor));
        } else if (strcmp(id, FF_LENT_MONITOR) != 0) {
            ff_attach_note(a, "monitor '%s' is gone: its client had an inherited connection", id);
        }
    }
    json_object_set_array_member(a->plan, "monitors", kept);
    return true;
}
