/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU must not do by itself while the engine migrates its guest.
 *
 * For QEMU no migration is under way then, so it would obey: a snapshot that is taken while
 * x-ignore-shared is on lacks the guest's memory, a device that is plugged is not at the
 * destination, and a dump stops the guest and starts it again. The clients get QEMU's own words.
 * When QEMU's settings could not be put back after a migration, that is tried again before QEMU may
 * save anything (restore-settings.c). Main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"
#include "qapi/driver.h"

/* A device, or its network, in another process, which maps guest RAM itself. */
static bool is_foreign(const FfCall *call)
{
    const char *line = ff_json_string(call->args, "command-line"); /* of the human monitor */
    const char *type = ff_json_string(call->args, "driver");
    const char *what = line ? line : type ? type : ff_json_string(call->args, "type");

    return what && (strstr(what, "vhost-user") || strstr(what, "vfio-user"));
}

/* Commands of the schema of QEMU alone; the human monitor's are told by hmp.c. */
static const struct {
    const char *name, *text;
    bool saves; /* guest memory; else it is refused at the source only ... */
    bool adds;  /* ... and, of what is in another process, at the destination */
} refused[] = {
    {"snapshot-save", FF_MIGRATING, true},
    {"snapshot-load", FF_MIGRATING, true},
    {"xen-save-devices-state", FF_MIGRATING, true},
    {"device_add", "device_add not allowed while migrating", false, true},
    {"netdev_add", NULL, false, true},
    {"device_del", "device_del not allowed while migrating", false},
    /* For QEMU it is a reason not to migrate, while it lasts. */
    {"dump-guest-memory",
     "disallowing migration blocker (migration/snapshot in progress) for: Live migration "
     "disabled: "
     "dump-guest-memory in progress",
     false},
};

/* ---- the refusal ----------------------------------------------------------------------------- */

static void refuse_or_pass(FfCall *call)
{
    ff_call_refuse(call);
}

bool ff_call_refuse(FfCall *call)
{
    FfDriver *d = call->driver;

    for (unsigned i = 0; i < G_N_ELEMENTS(refused); i++) {
        if (strcmp(refused[i].name, call->name)) {
            continue;
        }
        if (ff_call_when_over(call, refuse_or_pass) ||
            (refused[i].saves && (ff_call_when_whole(call, refuse_or_pass) ||
                                  ff_call_when_guest_is_here(call, refuse_or_pass)))) {
            return true;
        }
        bool source = d->config.state->role == FF_ROLE_SOURCE;
        if (d->migration && refused[i].text && (refused[i].saves || source)) {
            ff_call_error(call, "%s", refused[i].text);
        } else if (d->migration && refused[i].adds && !source && is_foreign(call)) {
            ff_call_error(call, FF_PLUG_COMING);
        } else if (refused[i].saves && !d->migration) {
            ff_call_restore(call, ff_call_pass);
        } else {
            ff_call_pass(call);
        }
        return true;
    }
    return false;
}

bool ff_driver_migrates(const FfDriver *d)
{
    return d->migration;
}

bool ff_driver_is_engaged(FfDriver *d)
{
    g_autoptr(JsonNode) view = d->config.port->view(d->config.port_opaque, false);

    return view || d->migration || (d->incoming && !ff_incoming_is_native(d->incoming));
}
