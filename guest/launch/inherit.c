/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See inherit.h. The launcher's only thread. System calls: recvmsg, poll, fstat, dup2.
 */
#include "guest/launch/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rights.h"
#include "qmp/json.h"

#define TEXT_MAX (256u << 10)
#define fail(error, ...) g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, __VA_ARGS__)

typedef struct {
    char *id;
    uint64_t size, page_size; /* of RAM */
    int fd;                   /* -1: taken */
} Thing;

struct FfInherited {
    GArray *ram, *monitors, *taps, *qemu, *given, *ptys; /* of Thing */
    JsonNode *text;                                      /* all that was said */
};

static void clear_thing(gpointer p)
{
    Thing *t = p;

    g_free(t->id);
    if (t->fd >= 0) {
        close(t->fd);
    }
}

void ff_inherited_free(FfInherited *lent)
{
    g_array_unref(lent->ram);
    g_array_unref(lent->monitors);
    g_array_unref(lent->taps);
    g_array_unref(lent->qemu);
    g_array_unref(lent->given);
    g_array_unref(lent->ptys);
    json_node_unref(lent->text);
    g_free(lent);
}

/* Their text, 0-terminated (g_free), and RIGHTS. */
static char *receive_text(int socket, FfRights *rights, GError **error)
{
    struct pollfd p = {.fd = socket, .events = POLLIN};
    g_autofree char *text = g_malloc(TEXT_MAX + 1);
    ssize_t n;

    while ((n = ff_rights_receive(socket, text, TEXT_MAX, rights)) == -EAGAIN || n == -EINTR) {
        poll(&p, 1, -1);
    }
    if (n <= 0) {
        fail(error, "the running QEMU lends no memory: %s", n ? g_strerror((int)-n) : "it hung up");
        return NULL;
    }
    text[n] = 0;
    return g_steal_pointer(&text);
}

static GArray *read_things(JsonObject *root, const char *name, const FfRights *rights,
                           unsigned *next)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(Thing));
    JsonArray *array = ff_json_array(root, name);

    g_array_set_clear_func(all, clear_thing);
    for (guint i = 0; array && i < json_array_get_length(array); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(array, i));
        Thing t = {.id = g_strdup(ff_json_string_or(o, "id", "")),
                   .size = (uint64_t)ff_json_int(o, "size", 0),
                   .page_size = (uint64_t)ff_json_int(o, "page-size", 0),
                   .fd = *next < rights->n ? ff_fd_high(rights->fd[*next]) : -1};

        (*next)++;
        g_array_append_val(all, t);
    }
    return all;
}

FfInherited *ff_inherited_receive(int socket, GError **error)
{
    FfRights rights = {.n = 0};
    g_autofree char *text = receive_text(socket, &rights, error);
    g_autoptr(JsonNode) node = text ? ff_json_from_text(text) : NULL;
    JsonObject *root = ff_json_node_object(node);
    unsigned next = 0;

    if (!root) {
        if (text) {
            fail(error, "the running QEMU lends its memory in words of another farfault");
        }
        return NULL;
    }
    FfInherited *lent = g_new(FfInherited, 1);

    lent->ram = read_things(root, "ram", &rights, &next);
    lent->monitors = read_things(root, "monitors", &rights, &next);
    lent->taps = read_things(root, "taps", &rights, &next);
    lent->qemu = read_things(root, "qemu", &rights, &next);
    lent->given = read_things(root, "given", &rights, &next);
    lent->ptys = read_things(root, "ptys", &rights, &next);
    lent->text = json_node_ref(node);
    if (next != rights.n) {
        fail(error, "the running QEMU names %u files and lends %u", next, rights.n);
        g_clear_pointer(&lent, ff_inherited_free);
    }
    return lent;
}

static Thing *find_thing(GArray *all, const char *id)
{
    for (guint i = 0; i < all->len; i++) {
        Thing *t = &g_array_index(all, Thing, i);

        if (!strcmp(t->id, id) && t->fd >= 0) {
            return t;
        }
    }
    return NULL;
}

int ff_inherited_ram(FfInherited *lent, const FfPlanRam *ram, GError **error)
{
    Thing *t = find_thing(lent->ram, ram->id);
    struct stat st;

    if (!t) {
        fail(error, "the running guest has no memory backend '%s': use its own command line",
             ram->id);
        return -1;
    }
    if (t->size != ram->size || t->page_size != ram->page_size || fstat(t->fd, &st) < 0 ||
        (uint64_t)st.st_size < t->size) {
        fail(error,
             "memory backend '%s' has %" PRIu64 " bytes in pages of %" PRIu64
             ", and is to have %" PRIu64 " in pages of %" PRIu64 ": use the guest's own command "
             "line, which has -m (or size=) %" PRIu64 "M",
             ram->id, t->size, t->page_size, ram->size, ram->page_size, t->size >> 20);
        return -1;
    }
    return g_steal_fd(&t->fd);
}

bool ff_inherited_listens(const FfPlanMonitor *mon)
{
    return mon->kind == FF_CLIENT_LISTEN_UNIX || mon->kind == FF_CLIENT_LISTEN_TCP;
}

bool ff_inherited_endpoint(FfInherited *lent, const FfPlanMonitor *mon, FfEndpoint *endpoint,
                           GError **error)
{
    Thing *t = find_thing(lent->monitors, mon->chardev_id);

    if (!t) {
        fail(error, "the running guest has no monitor '%s' that listens: use its own command line",
             mon->chardev_id);
        return false;
    }
    *endpoint = (FfEndpoint){.fd = g_steal_fd(&t->fd), .in = -1, .out = -1};
    if (mon->kind == FF_CLIENT_LISTEN_UNIX && !mon->abstract) {
        endpoint->unlink_path = g_canonicalize_filename(mon->path, NULL);
    }
    return true;
}

static bool is_same_file(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Monitor T was given by its number (libvirt's): it is lent once more in "given", and taken from
 * there. All others that listen have been taken out of LENT. */
static bool is_given(const GPtrArray *monitors, const Thing *t)
{
    for (guint i = 0; i < monitors->len; i++) {
        const FfPlanMonitor *mon = g_ptr_array_index(monitors, i);

        if (mon->kind == FF_CLIENT_LISTEN_FD && !g_strcmp0(mon->chardev_id, t->id)) {
            return is_same_file(mon->fd, t->fd);
        }
    }
    return false;
}

bool ff_inherited_all_endpoints(const FfInherited *lent, const GPtrArray *monitors, GError **error)
{
    for (guint i = 0; i < lent->monitors->len; i++) {
        const Thing *t = &g_array_index(lent->monitors, Thing, i);

        if (t->fd >= 0 && !is_given(monitors, t)) {
            fail(error,
                 "the running guest has a monitor '%s' that listens, and the arguments of the new "
                 "QEMU have none: add it as the guest was started with it, or its clients lose it",
                 t->id);
            return false;
        }
    }
    return true;
}

int ff_inherited_tap(FfInherited *lent, const char *name, GError **error)
{
    Thing *t = find_thing(lent->taps, name);

    if (!t) {
        fail(error, "the running QEMU has no tap '%s', or an older farfault that lends none", name);
        return -1;
    }
    return g_steal_fd(&t->fd);
}

JsonObject *ff_inherited_backend(FfInherited *lent, const FfPlanMonitor *mon, GError **error)
{
    const char *id = mon->chardev_id;
    /* As ff_vhost_conn_place() has it. */
    g_autofree char *path = !mon->path      ? g_strdup("")
                            : mon->abstract ? g_strconcat("@", mon->path, NULL)
                                            : g_canonicalize_filename(mon->path, NULL);

    JsonArray *all = ff_json_array(ff_json_node_object(lent->text), "backends");

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));

        if (!o || strcmp(ff_json_string_or(o, "id", ""), id) != 0) {
            continue;
        }
        const char *theirs = ff_json_string_or(o, "path", "");
        if (!strcmp(theirs, path)) {
            return o;
        }
        fail(
            error,
            "the vhost-user back-end of chardev '%s' is at %s in the running QEMU and at %s in the "
            "new one, where another disk or network may be: use the guest's own command line",
            id, theirs, path);
        return NULL;
    }
    fail(error,
         "the running guest has no vhost-user back-end behind chardev '%s': use its own command "
         "line",
         id);
    return NULL;
}

int ff_inherited_pty(FfInherited *lent, const char *id, GError **error)
{
    Thing *t = find_thing(lent->ptys, id);

    if (!t) {
        fail(error,
             "the running QEMU has no pseudo-terminal '%s', or an older farfault that lends none",
             id);
        return -1;
    }
    return g_steal_fd(&t->fd);
}

bool ff_inherited_place_given(FfInherited *lent, GError **error)
{
    for (guint i = 0; i < lent->given->len; i++) {
        const Thing *t = &g_array_index(lent->given, Thing, i);
        int number = atoi(t->id);

        if (fcntl(number, F_GETFD) >= 0) {
            fail(error, "fd %d of the running QEMU has a number that is taken in the new one",
                 number);
            return false;
        }
        if (t->fd < 0 || dup2(t->fd, number) < 0) {
            fail(error, "fd %d of the running QEMU: %s", number, g_strerror(errno));
            return false;
        }
    }
    return true;
}

static int take_fd(FfInherited *lent, const char *id)
{
    Thing *t = find_thing(lent->qemu, id);

    return t ? g_steal_fd(&t->fd) : -1;
}

int ff_inherited_pidfd(FfInherited *lent)
{
    return take_fd(lent, "pidfd");
}

int ff_inherited_door(FfInherited *lent)
{
    return take_fd(lent, "door");
}

int ff_inherited_front(FfInherited *lent, int *door, bool *itself)
{
    *itself = ff_json_bool(ff_json_node_object(lent->text), "stays");
    *door = take_fd(lent, "front-door");
    return take_fd(lent, "front");
}
