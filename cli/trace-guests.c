/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See trace-guests.h. Engine and QEMU belong together if both keep the same state memfd open. A
 * migration begins with an engine that is seen for the first time: then it is looked for, once.
 */
#include "cli/trace-guests.h"

#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>

#include "launch/attach-find.h"
#include "launch/guests.h"

#define STATE_LINK "/memfd:farfault-state (deleted)"

struct FfTraced {
    GPtrArray *guests; /* FfTracedGuest; all: those that were looked for so far */
    bool all;
    GHashTable *engines; /* process to FfTracedGuest, or to NULL: not to be printed */
};

static void guest_free(gpointer opaque)
{
    FfTracedGuest *guest = opaque;

    g_free(guest->name);
    g_free(guest);
}

static void add(FfTraced *t, const FfHostGuest *of)
{
    for (guint i = 0; i < t->guests->len; i++) {
        FfTracedGuest *known = t->guests->pdata[i];

        if (known->pid == of->pid && known->inode == of->state_inode) {
            return;
        }
    }
    FfTracedGuest *guest = g_new0(FfTracedGuest, 1);
    guest->pid = of->pid;
    guest->name = *of->name ? g_strescape(of->name, NULL) : g_strdup_printf("%d", (int)of->pid);
    guest->inode = of->state_inode;
    g_ptr_array_add(t->guests, guest);
}

/* Those of GUESTS that NAME names. */
static bool add_named(FfTraced *t, GPtrArray *guests, const char *name, GError **error)
{
    g_autoptr(GError) why = NULL;
    pid_t pid = ff_attach_find(name, &why);
    bool found = false;

    for (guint i = 0; i < guests->len; i++) {
        const FfHostGuest *guest = guests->pdata[i];

        if (guest->pid == pid || !strcmp(guest->name, name)) {
            add(t, guest);
            found = true;
        }
    }
    if (!found) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND,
                    "there is no guest \"%s\" of farfault's here: give its name, the process of "
                    "QEMU, or the path of its QMP socket (farfault status lists guests)",
                    name);
    }
    return found;
}

FfTraced *ff_traced_new(char *const *names, GError **error)
{
    g_autoptr(FfTraced) t = g_new0(FfTraced, 1);
    g_autoptr(GPtrArray) guests = names ? ff_guests_find() : NULL;

    t->all = !names;
    t->guests = g_ptr_array_new_with_free_func(guest_free);
    t->engines = g_hash_table_new(NULL, NULL);
    for (guint i = 0; names && names[i]; i++) {
        if (!add_named(t, guests, names[i], error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&t);
}

void ff_traced_free(FfTraced *t)
{
    g_ptr_array_unref(t->guests);
    g_hash_table_unref(t->engines);
    g_free(t);
}

GPtrArray *ff_traced_named(FfTraced *t)
{
    return t->all ? NULL : t->guests;
}

bool ff_traced_is_all(const FfTraced *t)
{
    return t->all;
}

bool ff_traced_over(const FfTraced *t)
{
    bool over = !t->all;

    for (guint i = 0; over && i < t->guests->len; i++) {
        over = ((FfTracedGuest *)t->guests->pdata[i])->over;
    }
    return over;
}

/* Of the state memfd that process PID has open; 0: none. */
static guint64 state_inode(pid_t pid)
{
    g_autoptr(GArray) fds = ff_attach_fds(pid, NULL);

    for (guint i = 0; fds && i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *link = ff_attach_link(pid, fd);
        g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);
        struct stat st;

        if (link && !strcmp(link, STATE_LINK) && stat(path, &st) == 0) {
            return st.st_ino;
        }
    }
    return 0;
}

static FfTracedGuest *by_inode(FfTraced *t, guint64 inode)
{
    for (guint i = 0; inode && i < t->guests->len; i++) {
        FfTracedGuest *guest = t->guests->pdata[i];

        if (guest->inode == inode) {
            return guest;
        }
    }
    return NULL;
}

/* Guests come and go. */
static void look_again(FfTraced *t)
{
    g_autoptr(GPtrArray) guests = ff_guests_find();

    g_ptr_array_set_size(t->guests, 0);
    g_hash_table_remove_all(t->engines);
    for (guint i = 0; i < guests->len; i++) {
        add(t, guests->pdata[i]);
    }
}

FfTracedGuest *ff_traced_guest(FfTraced *t, pid_t engine)
{
    gpointer key = GINT_TO_POINTER(engine), known;

    if (g_hash_table_lookup_extended(t->engines, key, NULL, &known)) {
        return known;
    }
    guint64 inode = state_inode(engine);
    FfTracedGuest *guest = by_inode(t, inode);
    if (!guest && t->all && inode) {
        look_again(t);
        guest = by_inode(t, inode);
    }
    g_hash_table_insert(t->engines, key, guest);
    return guest;
}

void ff_traced_forget(FfTraced *t, pid_t engine)
{
    g_hash_table_remove(t->engines, GINT_TO_POINTER(engine));
}
