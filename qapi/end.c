/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x-farfault-end: ends the QEMU of a paused destination that has the guest. Signals but SIGKILL,
 * and quit, need QEMU's main loop and every vCPU, one of which may wait for a page that does not
 * come.
 *
 * What is refused is what could lose a guest unasked: one that was not granted to this side is its
 * source's to take back, which a grant that comes just now must not cross. Main loop's thread.
 */
#include <string.h>

#include "migration/common/states.h"
#include "qapi/driver-private.h"

/* NULL: nothing stands against it. */
static const char *refusal_reason(const FfMigrationInfo *info, bool restores, bool lose)
{
    if (!info || info->role != FF_ROLE_DESTINATION || info->status != FF_STATUS_POSTCOPY_PAUSED) {
        bool comes = info && info->role == FF_ROLE_DESTINATION &&
                     ff_state_is_postcopy(info->status) && !restores;

        return comes ? "The guest is at this side, and its memory is still coming: quit, or "
                       "SIGTERM, ends this QEMU, and the guest is lost with it"
                     : "This is not the destination of a paused migration: quit, or SIGTERM, ends "
                       "this QEMU";
    }
    if (!info->split || !info->split->may_run) {
        return "The guest was not granted to this side, and nothing of it is lost with this QEMU: "
               "let the source take it back (x-farfault-revoke there), which ends this QEMU; or, "
               "if "
               "the source says \"failed\" or \"cancelled\", say quit here";
    }
    return lose ? NULL
                : "The guest is at this side, and is lost with this QEMU: say so with lose-guest";
}

void ff_handle_end(FfCall *call)
{
    static const char why[] = "its client wants a paused migration's destination to end, and its "
                              "guest with it";
    FfDriver *d = call->driver;
    g_autoptr(FfMigrationInfo) info = d->migration ? ff_migration_info(d->migration) : NULL;
    const char *refused =
        refusal_reason(info, d->migration && ff_migration_is_restore(d->migration),
                       ff_json_bool(call->args, "lose-guest"));

    if (refused) {
        ff_call_error(call, "%s", refused);
        return;
    }
    /* The answer first: the relay ends with QEMU. */
    ff_call_return(call, NULL);
    ff_driver_send(d, FF_LINK_KILL_QEMU, 0, 0, why, strlen(why));
}
