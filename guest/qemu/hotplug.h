/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hot-plug of memory: what object-add must say so that the new backend is ours. TEXT is the
 * command's arguments, as JSON (QMP) or as key=value (HMP); the answer has the same form.
 *
 * ff_object_add_rewrite() is pure. NULL: leave the command to QEMU as it is (no memory backend, or
 * one that cannot be ours; *WHY, g_free, then says why, and check() will refuse the guest while it
 * is there). Else the new arguments, in which the memfd's path is FF_OBJECT_ADD_PATH, and in *RAM
 * what is to be made (g_free ram->id). INCOMING: the guest's memory is still to come, so nothing
 * is preallocated.
 */
#ifndef FF_GUEST_QEMU_HOTPLUG_H
#define FF_GUEST_QEMU_HOTPLUG_H

#include "guest/launch/argv.h"
#include "qmp/client.h"

#define FF_OBJECT_ADD_PATH "/proc/self/fd/@FF_RAM0@"
char *ff_object_add_rewrite(const char *text, const FfArgvSystem *sys, bool incoming,
                            FfPlanRam *ram, char **why);

/* TRUE if TEXT makes a QMP monitor, which is refused. */
bool ff_object_add_is_monitor(const char *text);
#define FF_OBJECT_ADD_MONITOR                                                                      \
    "under farfault a QMP monitor cannot be added later: give it to QEMU on its command line "     \
    "(-object monitor-qmp)"

typedef struct {
    const FfArgvSystem *sys;
    bool incoming; /* QEMU was started for a guest that comes; it is asked whether it has come */
    /* Makes a memfd of ram->size, or returns -1 and ERROR. Ownership goes to the caller. */
    int (*make_ram)(const FfPlanRam *ram, GError **error, void *opaque);
    /* With ERROR: refuse the command. TEXT NULL: pass it on as it is. Else give QEMU object-add
     * (object_add) with TEXT in its place; if that succeeds, MEMFD (owned by the callback; -1 if
     * TEXT is NULL) is to be held as RAM. In either case tell QEMU remove-fd
     * of FDSET next: it closes its copy (a backend that was made has its own). QEMU 7.2 does so
     * only if the guest runs in that moment; otherwise the memory of a backend that is deleted
     * later is freed when QEMU ends. */
    void (*done)(const char *text, const FfPlanRam *ram, int memfd, int64_t fdset,
                 const GError *error, void *opaque);
    void *opaque;
} FfObjectAdd;
/* Rewrites TEXT and hands the memfd to QEMU with add-fd. Calls OPS->done exactly once, at once or
 * on the QMP client's thread. OPS is copied; does not wait. */
void ff_qemu_object_add(FfQmpClient *qmp, const char *text, const FfObjectAdd *ops);

#endif
