/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU as the migration sees it: vmm/vmm.h over the private QMP monitor, and the client's
 * view of capabilities and parameters while QEMU itself runs with other ones.
 *
 * The functions of FfVmm are for the coordinator thread; the ff_inner_view_*() functions may be
 * called from any thread at the same time.
 */
#ifndef FF_QEMU_INNER_H
#define FF_QEMU_INNER_H

#include <json-glib/json-glib.h>

#include "vmm/vmm.h"
#include "launch/argv.h"
#include "qmp/client.h"

typedef struct {
    FfQmpClient *qmp;     /* the private monitor; a reference is taken */
    FfStateHeader *state; /* holds the undo log; borrowed */
    GPtrArray *ram;       /* FfRamBlock *: all memory that is ours (gpa ignored); copied, the memfds
                             are borrowed */
    const char *name;     /* guest name for messages; can be NULL */
    int qemu_pid;         /* to look at its fds; 0 = do not */
    GCancellable
        *cancel; /* ends waits before the switchover (check ... wait_loaded); can be NULL */
    unsigned deadline_ms; /* for the answers to queries; 0 = none */
} FfInnerConfig;

FfVmm *ff_inner_new(const FfInnerConfig *config);
void ff_inner_free(FfVmm *vmm);

/* For an engine that adopts a migration under way: FD (taken) is what save() or load() had given
 * to the engine that died. wait_saved() and abandon() need it. */
void ff_inner_adopt_stream(FfVmm *vmm, int fd);

/*
 * The client's view. While the undo log is valid it lives there; otherwise these return NULL, or
 * false with ERROR unset, and QEMU's own answer is the view.
 */
/* As query-migrate-capabilities returns it; free with json_node_unref(). */
JsonNode *ff_inner_view_capabilities(FfVmm *vmm);
/* As query-migrate-parameters returns it. */
JsonNode *ff_inner_view_parameters(FfVmm *vmm);
/* FALSE and ERROR in QEMU's wording for a name or type that this QEMU does not know. */
bool ff_inner_view_set_capability(FfVmm *vmm, const char *name, bool value, GError **error);
bool ff_inner_view_set_parameter(FfVmm *vmm, const char *name, JsonNode *value, GError **error);

/*
 * Hot-plug of memory: what object-add has to say so that the new backend is ours. TEXT is the
 * command's arguments, as JSON (QMP) or as key=value (HMP); the answer has the same form.
 *
 * ff_object_add_rewrite() is pure. NULL: leave the command to QEMU as it is (no memory backend, or
 * one that cannot be ours; *WHY, g_free, then says why, and check() will refuse the guest while it
 * is there). Else the new arguments, in which the memfd's path is FF_OBJECT_ADD_PATH, and in *RAM
 * what is to be made (g_free ram->id). INCOMING: the guest's memory is still to come, so nothing
 * is preallocated.
 */
#define FF_OBJECT_ADD_PATH "/proc/self/fd/@FF_RAM0@"
char *ff_object_add_rewrite(const char *text, const FfArgvSystem *sys, bool incoming,
                            FfPlanRam *ram, char **why);

typedef struct {
    const FfArgvSystem *sys;
    bool incoming;
    /* Makes a memfd of ram->size, or returns -1 and ERROR. Ownership goes to the caller. */
    int (*make_ram)(const FfPlanRam *ram, GError **error, void *opaque);
    /* With ERROR: refuse the command. TEXT NULL: pass it on as it is. Else give QEMU object-add
     * (object_add) with TEXT in its place; if that succeeds, MEMFD (owned by the callback; -1 if
     * TEXT is NULL) is to be held as RAM. In either case ff_inner_object_add_done(FDSET) next. */
    void (*done)(const char *text, const FfPlanRam *ram, int memfd, int64_t fdset,
                 const GError *error, void *opaque);
    void *opaque;
} FfObjectAdd;
/* Rewrites TEXT and hands the memfd to QEMU with add-fd. Calls OPS->done exactly once, at once or
 * on the QMP client's thread. OPS is copied; does not wait. */
void ff_inner_object_add(FfQmpClient *qmp, const char *text, const FfObjectAdd *ops);
/* After QEMU's answer to object-add, good or bad: QEMU closes its copy of the fd (a backend that
 * was made has its own). QEMU 7.2 does so only if the guest runs in that moment; otherwise the
 * memory of a backend that is deleted later is freed when QEMU ends. */
void ff_inner_object_add_done(FfQmpClient *qmp, int64_t fdset);

#endif
