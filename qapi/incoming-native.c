/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate-incoming as QEMU is given it: as it came, with the client's capabilities. Main loop's
 * thread.
 */
#include "qapi/incoming.h"

static void native_answered(FfCall *call, JsonNode *result, const GError *error)
{
    if (!error) {
        ff_incoming_given(call->driver);
        ff_driver_store_info(call->driver, NULL);
        if (call->native) {
            ff_driver_store_native(call->driver, call->native);
        }
    }
    ff_call_forward(call, result, error);
}

static void native_prepared(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_postcopy_error(call, error, call->native);
    } else {
        ff_driver_filter(call->driver, 0);
        /* Not passed but injected: whether it succeeds decides about the next one. */
        ff_call_inject(call, "migrate-incoming", json_object_ref(call->args), native_answered);
    }
}

static void pass_native(FfCall *call)
{
    FfDriver *d = call->driver;
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, true);

    if (view) {
        ff_call_pass(call); /* the relay refuses it until QEMU's settings are restored */
    } else if (ff_call_has_capabilities(call)) {
        ff_call_give_capabilities(call, native_prepared);
    } else {
        native_prepared(call, NULL, NULL);
    }
}

void ff_incoming_pass_native(FfCall *call)
{
    if (call->target.kind == FF_URI_FILE) {
        ff_restore_check_disks(call, pass_native);
    } else {
        pass_native(call);
    }
}
