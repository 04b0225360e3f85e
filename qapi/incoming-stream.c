/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU carries what arrives: it is given the one connection with getfd, or, with several, listens
 * on a private socket, and net/splice.c carries the bytes. A source without farfault comes to the
 * second way, with what was read of it. Main loop's thread.
 */
#include "qapi/incoming.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/failpoints.h"
#include "net/address.h"

static void native_failed(FfCall *call, const GError *error)
{
    ff_incoming_give_up(call->driver, error->message);
    ff_call_return(call, NULL);
}

static void native_over(gpointer opaque)
{
    ff_incoming_forget(opaque);
    ff_driver_restore_settings(opaque);
}

/* What was read of the first connection goes to QEMU before the rest of it; then those that came
 * after it, in their order. */
static void join_plain(FfIncoming *in)
{
    FfSpliceBegun begun = {.first = in->plain_first};
    int qemu = in->plain ? ff_address_connect_path(ff_private_name_path(in->name)) : -1;

    if (qemu >= 0) {
        ff_splice_join(in->native, g_steal_pointer(&in->plain), qemu, &begun);
    }
    while (in->plain_later && in->plain_later->len) {
        ff_splice_take_peer(in->native, g_ptr_array_steal_index(in->plain_later, 0));
    }
    g_clear_pointer(&in->plain_later, g_ptr_array_unref);
}

/* QEMU listens at the private name. */
void ff_incoming_splice(FfDriver *d)
{
    FfIncoming *in = d->incoming;

    ff_driver_close_mem(d);
    in->native = ff_splice_new(native_over, d);
    ff_splice_set_tls(in->native, in->plain_tls, NULL);
    ff_splice_accept_peers(in->native, in->fds, ff_private_name_path(in->name));
    ff_driver_filter(d, 0);
}

static void native_listens(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) {
        native_failed(call, error);
        return;
    }
    FfIncoming *in = d->incoming;

    ff_incoming_given(d);
    ff_incoming_splice(d);
    join_plain(in);
    if (in->single) {
        ff_incoming_remove_name(in); /* so that nothing is left of an engine that dies */
    }
    ff_call_return(call, NULL);
}

/* Several connections: QEMU must accept them itself. */
static void native_many(FfCall *call)
{
    FfIncoming *in = call->driver->incoming;
    g_autoptr(GError) error = NULL;

    in->name = ff_private_name_new("incoming", &error);
    if (!in->name) {
        native_failed(call, error);
        return;
    }
    g_autofree char *uri = g_strdup_printf("unix:%s", ff_private_name_path(in->name));

    ff_call_inner(call, "migrate-incoming", ff_incoming_uri_argument(in, uri), native_listens);
}

static void native_begun(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_driver_close_given(call->driver,
                              FF_INCOMING_FD_NAME); /* it need not end: exit-on-error */
        native_failed(call, error);
        return;
    }
    ff_incoming_given(call->driver);
    ff_incoming_forget(call->driver); /* the socket is QEMU's now */
    ff_call_return(call, NULL);
}

static void native_given(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
    } else {
        FF_FAULT_AT("incoming-named");
        ff_call_inner(call, "migrate-incoming",
                      ff_incoming_uri_argument(call->driver->incoming, "fd:" FF_INCOMING_FD_NAME),
                      native_begun);
    }
}

/* One connection: QEMU gets the socket itself. */
static void native_one(FfCall *call)
{
    FfIncoming *in = call->driver->incoming;
    int fd = g_array_index(in->fds, int, in->ready);
    JsonObject *args;

    if (ff_address_is_listening(fd)) {
        call->fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    } else {
        call->fd = fd;
        g_array_index(in->fds, int, in->ready) = -1;
    }
    if (call->fd < 0) {
        g_autoptr(GError) error =
            g_error_new(FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC, "accept: %s", g_strerror(errno));

        native_failed(call, error);
        return;
    }
    args = json_object_new();
    json_object_set_string_member(args, "fdname", FF_INCOMING_FD_NAME);
    ff_call_inner_fd(call, "getfd", args, call->fd, native_given);
}

void ff_incoming_stream(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
        return;
    }
    FfIncoming *in = call->driver->incoming;

    ff_incoming_give(call->driver);
    call->patient = true; /* what QEMU has done must be known */
    /* After a socket that is connected no other connection can come. */
    if (ff_address_is_listening(g_array_index(in->fds, int, in->ready)) &&
        (ff_capability(call->capabilities, "multifd") ||
         ff_capability(call->capabilities, "postcopy-preempt"))) {
        native_many(call);
    } else {
        native_one(call);
    }
}

/* ---- a source without farfault --------------------------------------------------------------- */

static void plain_settings_made(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        native_failed(call, error);
        return;
    }
    ff_incoming_give(call->driver);
    call->patient = true; /* as above */
    native_many(call);
}

static void plain_flags_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error && call->driver->incoming->plain_tls) {
        ff_call_unset_tls(call, plain_settings_made);
    } else {
        plain_settings_made(call, result, error);
    }
}

static void plain_run_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        /* cont opens the disks for writing, and the source has them still. */
        ff_driver_log(call->driver, "farfault: the guest will be paused when it has arrived: %s",
                      error->message);
    }
    ff_call_give_capabilities(call, plain_flags_set);
}

static void on_plain(FfDriver *d, const FfPlainPeer *peer)
{
    FfIncoming *in = d->incoming;

    in->plain = ff_stream_new_channel(peer->channel);
    in->plain_tls = ff_tls_ref(peer->tls);
    in->plain_first = g_byte_array_ref(peer->first);
    in->plain_later = peer->later;
    d->config.state->driver_flags |= FF_DRIVER_PLAIN_PEER;
    ff_driver_store_native(d, peer->refused ? peer->refused : FF_PLAIN_SOURCE);
    /* What the client has said about running since the engine began: QEMU was not told. */
    if (peer->run_changed) {
        ff_call_inner(ff_call_new_own(d), peer->run ? "cont" : "stop", NULL, plain_run_set);
    } else {
        ff_call_give_capabilities(ff_call_new_own(d), plain_flags_set);
    }
}

const FfStartOps ff_incoming_ops = {
    .plain = on_plain,
    .active = ff_incoming_active,
    .done = ff_incoming_done,
};
