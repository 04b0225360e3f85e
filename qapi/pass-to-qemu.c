/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A command that begins a migration of QEMU's own: QEMU gets the client's postcopy capabilities,
 * then the line as it came; unless another client's migration was faster. Main loop's thread.
 */
#include "qapi/driver-private.h"

bool ff_call_too_late(FfCall *call)
{
    FfDriver *d = call->driver;

    if (!d->migration && !(d->outgoing && !ff_outgoing_has_begun(d->outgoing))) {
        return false;
    }
    ff_call_error(call, FF_MIGRATING);
    return true;
}

static void native_set(FfCall *call, JsonNode *result, const GError *error)
{
    if (error) {
        ff_call_gerror(call, error);
    } else if (!ff_call_too_late(call)) {
        ff_call_pass(call);
    }
}

static void pass_native(FfCall *call)
{
    FfDriver *d = call->driver;

    if (ff_call_too_late(call)) {
        return;
    }
    ff_driver_store_info(d, NULL); /* an older migration's: from now on QEMU answers */
    d->config.state->driver_flags &= ~FF_DRIVER_SWITCH_KEPT; /* as is that */
    if (call->native) {
        ff_driver_store_native(d, call->native);
    }
    ff_driver_filter(d, 0);
    if (ff_call_has_capabilities(call)) {
        ff_call_give_capabilities(call, native_set);
    } else {
        ff_call_pass(call); /* none is on in QEMU either */
    }
}

void ff_call_pass_native(FfCall *call)
{
    if (!ff_call_too_late(call)) { /* what it has set would be undone under it */
        ff_call_restore(call, pass_native);
    }
}
