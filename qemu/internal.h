/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object behind FfVmm, which the files of this folder share. */
#ifndef FF_QEMU_INTERNAL_H
#define FF_QEMU_INTERNAL_H

#include "net/sync.h"
#include "qemu/told.h"
#include "qmp/client.h"
#include "vmm/vmm.h"

typedef struct FfQemu FfQemu;
typedef struct FfWriteLog FfWriteLog; /* qemu/backends.c */

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
    char *
        nested_at_stop; /* coordinator; why it was one when stop had stopped it; NULL: it was not */
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

#endif
