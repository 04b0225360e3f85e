/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices of the kind vhost-user that a client plugs while the guest runs. QEMU makes the
 * connection to their back-ends when it is told chardev-add, and who will use that chardev is known
 * only from the device: so in front of a device_add or netdev_add the chardev is changed
 * (chardev-change) to one of the listening sockets that QEMU has for this, to which the relay
 * connects. What is not as simple as that stays QEMU's own, as the device's migrations then do.
 *
 * What QEMU has been told of chardevs is kept here; the rest knows no relay. One thread; no locks.
 */
#ifndef FF_GUEST_RELAY_HOTPLUG_VHOST_H
#define FF_GUEST_RELAY_HOTPLUG_VHOST_H

#include <glib.h>
#include <stdbool.h>

#include "guest/relay/qmp-frame.h"

/* Chardevs that clients have added and that could be taken over. */
typedef struct FfHotplug FfHotplug;

FfHotplug *ff_hotplug_new(void);
void ff_hotplug_free(FfHotplug *plugged);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHotplug, ff_hotplug_free)

/* COMMAND can change what is known here: chardev-add, chardev-change, chardev-remove. */
bool ff_hotplug_concerns(const FfQmpCommand *command);
/* Such a command goes to QEMU: until it is answered its chardev is not known. Returns its number.
 */
guint ff_hotplug_passes(FfHotplug *plugged, const FfQmpCommand *command);
/* QEMU has answered command NUMBER, of which JSON is the whole text. What it has made is known if
 * no other command on that chardev was under way meanwhile, at whatever monitor. Returns the id of
 * a chardev that it has removed, or changed (g_free); NULL: of none. */
char *ff_hotplug_heard(FfHotplug *plugged, const char *json, guint number, bool error);

/* COMMAND adds a device of which the chardevs before it must be known: device_add, netdev_add. */
bool ff_hotplug_adds(const FfQmpCommand *command);
/* A chardev that is to be taken over before a device gets it. */
typedef struct {
    char *id, *path;
    unsigned reconnect; /* seconds, not 0 */
    char *again;        /* the command that makes it as it was */
} FfPlug;
/* The chardev of COMMAND, which ff_hotplug_adds(), if what it adds is a device of the kind
 * (g_free); NULL: it is not. *NETWORK: a network, and no disk. */
char *ff_hotplug_chardev(const FfQmpCommand *command, bool *network);
/* TEXT, a command of another kind, goes to QEMU, or was carried out: chardevs that it names may be
 * used by something else then, or be others. */
void ff_hotplug_forget(FfHotplug *plugged, const char *text, size_t len);
/* What is known of chardev ID, which a device gets now; NULL: nothing. It is not known here any
 * more. */
FfPlug *ff_hotplug_take(FfHotplug *plugged, const char *id);
void ff_plug_free(FfPlug *plug);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfPlug, ff_plug_free)
/* Command NAME (chardev-change or chardev-add), by which it gets QEMU's listening socket IN_QEMU
 * (g_free). */
char *ff_plug_command(const FfPlug *plug, const char *name, int in_qemu);

#endif
