/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object behind FfVmm, and what the files of this folder share. */
#ifndef FF_GUEST_QEMU_INTERNAL_H
#define FF_GUEST_QEMU_INTERNAL_H

#include "base/sync.h"
#include "contract/vmm.h"
#include "qmp/client.h"

/* What QEMU says to a question. One that it has not answered is no "no". */
typedef enum {
    FF_TOLD_NOTHING, /* it has not answered in time, or not as it should; with ERROR */
    FF_TOLD_NO,
    FF_TOLD_YES,
} FfTold;

typedef struct FfQemu FfQemu;
typedef struct FfWriteLog FfWriteLog; /* guest/qemu/backends.c */

struct FfQemu {
    FfVmm vmm; /* first: an FfVmm * is an FfQemu * */
    FfQmpClient *qmp;
    FfStateHeader *state;
    GPtrArray *blocks; /* FfRamBlock *, owned */
    char *name;
    char *machine; /* coordinator; the name of its type, NULL: not known yet */
    /* Coordinator: its stream begins with more than that, the size of a page of an Arm guest. */
    bool says_more;
    int qemu_pid;
    int backends;    /* borrowed; -1: none */
    FfWriteLog *log; /* coordinator; of devices in other processes; NULL: none */
    GCancellable *cancel;
    unsigned deadline_ms;
    int stream;             /* our copy of what save()/load() returned; -1 = none */
    int their_end;          /* QEMU's, of a stream that is full; -1: no copy of it is left here */
    size_t in_the_way;      /* bytes in the stream that keep QEMU from writing to it */
    int64_t let_save_us;    /* coordinator; when the way was cleared, as events count; 0: not yet */
    bool offered;           /* the stream is QEMU's, and nothing was begun with it */
    bool loading;           /* load() handed QEMU its stream */
    FfQmpWatch *suspends;   /* coordinator; SUSPEND, since a one-way save was prepared; NULL */
    FfQmpWatch *since_stop; /* coordinator; all events, from before a one-way save's stop; NULL */
    unsigned conts;         /* coordinator; how often the guest was started since then */
    FfTold nesting;         /* coordinator; whether KVM could write its memory past the tracking */
    char *nested_at_stop;   /* coordinator; why it was one after the stop; NULL: it was not */
    JsonNode *disks_at_stop; /* coordinator; query-block's answer, in FfVmmState.between(); NULL */
    FfMutex undo_lock;       /* the undo log's text and its length */
    bool is_put_back; /* coordinator; QEMU was told the client's settings since they were changed */
    FfQmpCall *memory_back; /* the same; its answer to x-ignore-shared, NULL: it was taken */
};

static inline FfQemu *ff_qemu_of_run(FfVmmRun *run)
{
    return (FfQemu *)ff_vmm_of_run(run);
}

static inline FfQemu *ff_qemu_of_memory(FfVmmMemory *memory)
{
    return (FfQemu *)ff_vmm_of_memory(memory);
}

static inline FfQemu *ff_qemu_of_state(FfVmmState *state)
{
    return (FfQemu *)ff_vmm_of_state(state);
}

static inline FfQemu *ff_qemu_of_disks(FfVmmDisks *disks)
{
    return (FfQemu *)ff_vmm_of_disks(disks);
}

/* ---- qom.c ---- */

/* Properties of QEMU's objects. The coordinator's thread. */

/* The string property NAME of the object at PATH (g_free). NULL: it has none, or, with ERROR, QEMU
 * has not said so. */
char *ff_qemu_string_of(FfQemu *qemu, const char *path, const char *name, GError **error);
/* Whether the object at PATH has the boolean property NAME, and it is on. */
FfTold ff_qemu_is_on(FfQemu *qemu, const char *path, const char *name, GError **error);

/* ---- address.c ---- */

/* Where QEMU has a block of guest RAM: FfVmmMemory.address(). */
bool ff_qemu_address(FfVmmMemory *memory, const char *block, uint64_t *address, GError **error);

/* ---- parts.c ---- */

/* What a guest is made of, for the comparison of both sides: FfVmmState.parts().
 * Thread: the coordinator's. */
char *ff_qemu_parts(FfVmmState *state);

/* ---- discards.c ---- */

/* FfVmmMemory.gives_back: whether QEMU has a device by which the guest gives memory back while it
 * runs. */
char *ff_qemu_gives_back(FfVmmMemory *memory);

/* ---- before-memory.c ---- */

/* FfVmmMemory.saved_before: whether QEMU writes the state of a device in front of the memory. */
char *ff_qemu_saved_before(FfVmmMemory *memory);

/* ---- drain.c ---- */

/* Reads from disks that are under way: FfVmmMemory.drain(). */
bool ff_qemu_drain(FfVmmMemory *memory, GError **error);

/* ---- activate.c ---- */

/* Images of a guest that has come, and does not run. The coordinator's thread. */

/* QEMU's images are its own again, with their locks. Else, until cont, anybody could open them,
 * and a QEMU before 10.0 would abort when the guest is migrated or saved. What cannot be done is
 * logged. */
void ff_qemu_activate_disks(FfQemu *qemu);

/* ---- end-incoming.c ---- */

/* Functions of FfVmmState (contract/vmm-state.h). */
void ff_qemu_abandon(FfVmmState *state);
void ff_qemu_doom(FfVmmState *state);

/* ---- quit.c ---- */

/* Functions of FfVmmState (contract/vmm-state.h). */
void ff_qemu_leave(FfVmmState *state, int pidfd);

/* ---- upgrade-fdstore.c ---- */

/* FfVmmState.keep_pact, .forget_pact: what QEMU keeps of an upgrade for a relay and an engine that
 * come after both have died. */
bool ff_qemu_keep_pact(FfVmmState *state, const int *fds, unsigned n, GError **error);
void ff_qemu_forget_pact(FfVmmState *state);

/* ---- check.c ---- */

/* What stands against a migration: FfVmmMemory.check(). */
FfGuestFit ff_qemu_check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                         GError **error);

#endif
