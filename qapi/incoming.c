/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What listens for a migration: the object behind all files of the incoming side, its sockets, and
 * what is noted of them for the engine after this one.
 *
 *   incoming-command.c   migrate-incoming
 *   incoming-native.c    passes it to QEMU
 *   incoming-start.c     -incoming URI; an engine that comes after one that died
 *   incoming-decide.c    listens, and decides who carries what arrives
 *   incoming-stream.c    QEMU carries it
 *
 * Main loop's thread.
 */
#include "qapi/incoming.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "base/failpoints.h"

static void source_free(gpointer source)
{
    g_source_destroy(source);
    g_source_unref(source);
}

/* The relay has a copy of each listening socket until the source is known: an engine that dies
 * before that leaves none behind that nobody serves, and the next one listens where it did. */
void ff_incoming_hold(FfIncoming *in)
{
    for (; in->held < MIN(in->fds->len, FF_LISTENERS_HELD_MAX); in->held++) {
        g_autofree char *name = g_strdup_printf(FF_LISTENER_HELD "%u", in->held);
        int copy = fcntl(g_array_index(in->fds, int, in->held), F_DUPFD_CLOEXEC, 0);

        if (copy < 0) {
            return;
        }
        ff_driver_keep(in->driver, name, copy);
    }
}

static void drop_listeners(FfIncoming *in)
{
    while (in->held) {
        g_autofree char *name = g_strdup_printf(FF_LISTENER_HELD "%u", --in->held);

        ff_driver_keep(in->driver, name, -1);
    }
}

void ff_incoming_release(FfIncoming *in)
{
    drop_listeners(in);
    for (guint i = 0; i < in->fds->len; i++) {
        int *fd = &g_array_index(in->fds, int, i);

        if (*fd >= 0) {
            close(*fd);
        }
        *fd = -1;
    }
}

/* QEMU's own socket needs a name only until the last connection to it is made. */
void ff_incoming_remove_name(FfIncoming *in)
{
    ff_private_name_remove(in->name);
}

void ff_incoming_free(FfIncoming *in)
{
    g_ptr_array_unref(in->sources);
    g_clear_pointer(&in->native, ff_splice_free);
    ff_incoming_release(in);
    g_array_unref(in->fds);
    if (in->path) {
        g_unlink(in->path);
    }
    ff_private_name_free(in->name);
    ff_stream_free(in->plain);
    ff_tls_unref(in->plain_tls);
    g_clear_pointer(&in->plain_first, g_byte_array_unref);
    g_clear_pointer(&in->plain_later, g_ptr_array_unref);
    g_clear_pointer(&in->parameters, json_node_unref);
    g_free(in->path);
    g_free(in);
}

bool ff_incoming_is_native(const FfIncoming *in)
{
    return in->native;
}

void ff_incoming_set_paused(FfIncoming *in, bool paused)
{
    in->paused = paused;
}

FfIncoming *ff_incoming_new(FfDriver *d)
{
    FfIncoming *in = g_new0(FfIncoming, 1);

    in->driver = d;
    in->fds = g_array_new(FALSE, FALSE, sizeof(int));
    in->sources = g_ptr_array_new_with_free_func(source_free);
    in->paused = ff_driver_begins_paused(d);
    return in;
}

/* Listening is over, nobody is carried by us. */
void ff_incoming_forget(FfDriver *d)
{
    d->config.state->driver_flags &= ~(uint32_t)(FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK);
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->socket_address, json_array_unref);
    ff_driver_filter(d, 0);
    ff_driver_touch(d);
}

/* QEMU is given an incoming migration, and has not said yet that it has it. */
bool ff_incoming_gives(const FfDriver *d)
{
    return d->config.state->role != FF_ROLE_SOURCE &&
           d->config.state->driver_flags & FF_DRIVER_GIVING_BACK;
}

/* QEMU is to carry what was listened for here: its events are the clients' from here on, but for
 * the first one, which they have had. An engine that dies before QEMU has answered leaves its
 * listening sockets to the next one. */
void ff_incoming_give(FfDriver *d)
{
    ff_driver_filter(d, FF_FILTER_RUN_STATE | FF_FILTER_SETUP_EVENTS);
    d->config.state->driver_flags |= FF_DRIVER_GIVING_BACK;
    FF_FAULT_AT("giving-incoming");
}

/* QEMU has it. */
void ff_incoming_given(FfDriver *d)
{
    FF_FAULT_AT("incoming-given");
    ff_carried_set(&d->config.state->totals, FF_CARRIED_GIVEN | FF_CARRIED_INCOMING);
    d->config.state->driver_flags |= FF_DRIVER_NATIVE_INCOMING;
    d->config.state->driver_flags &= ~(uint32_t)(FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK);
    if (d->incoming) {
        drop_listeners(d->incoming);
    }
}

typedef struct {
    FfVmm *vmm;
    FfCall *call; /* the engine stays as long as it is under way */
} Abandon;

static gboolean on_abandoned(gpointer opaque)
{
    g_autofree Abandon *a = opaque;

    ff_call_return(a->call, NULL);
    return G_SOURCE_REMOVE;
}

static gpointer run_abandon(gpointer opaque)
{
    Abandon *a = opaque;
    FfVmm *vmm = a->vmm;
    GPtrArray *blocks;
    uint8_t uuid[16];

    /* Not a guest that has come in another way and runs. A QEMU that is busy says so later. */
    vmm->memory.patient = true;
    if (vmm->memory.check(&vmm->memory, FF_ROLE_DESTINATION, &blocks, uuid, NULL) !=
        FF_GUEST_OCCUPIED) {
        vmm->state.abandon(&vmm->state);
    }
    g_idle_add(on_abandoned, a);
    return NULL;
}

/* What QEMU does with an incoming migration that cannot begin: it ends, with status 1. To make it
 * do so takes answers from QEMU, so it is not for the main loop's thread. */
void ff_incoming_give_up(FfDriver *d, const char *why)
{
    FfVmm *vmm = d->config.port->vmm(d->config.port_opaque);

    ff_driver_store_failure(d, FF_ROLE_DESTINATION, why);
    ff_driver_report(d, FF_STATUS_FAILED);
    ff_driver_log(d, "farfault: migration destination failed: %s", why);
    ff_incoming_forget(d);
    Abandon *a = g_new0(Abandon, 1);

    a->vmm = vmm;
    a->call = ff_call_new_own(d);
    g_thread_unref(g_thread_new("abandon", run_abandon, a));
}

JsonObject *ff_incoming_uri_argument(const FfIncoming *in, const char *uri)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "uri", uri);
    if (in && in->keep_failed) {
        json_object_set_boolean_member(args, "exit-on-error", FALSE);
    }
    return args;
}

void ff_incoming_active(FfDriver *d)
{
    if (d->incoming) {
        ff_incoming_release(d->incoming);
        /* Before done(): an engine that comes after the last step must not listen again, as
         * somebody runs here. */
        d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    }
}

void ff_incoming_done(FfDriver *d, FfMigration *migration)
{
    d->config.state->driver_flags &= ~FF_DRIVER_LISTENS;
    g_clear_pointer(&d->incoming, ff_incoming_free);
    g_clear_pointer(&d->socket_address, json_array_unref);
}
