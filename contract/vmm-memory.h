/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's memory, as a virtual machine monitor lends it out: which blocks there are, whether
 * they can be moved, saved or filled by somebody else, and what must be known to track writes.
 *
 * For threads and errors see contract/vmm.h.
 */
#ifndef FF_CONTRACT_VMM_MEMORY_H
#define FF_CONTRACT_VMM_MEMORY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "contract/state.h"

/* One block of guest RAM that the engine moves. */
typedef struct {
    char *id;           /* id of the memory backend, equal on both sides */
    uint64_t size;      /* bytes, multiple of page_size */
    uint64_t page_size; /* bytes: host page size of the backing (4096 or huge) */
    uint64_t gpa;       /* guest-physical address of a DIMM; 0 for machine RAM */
    int memfd;          /* borrowed */
    bool unreserved;    /* reserve=off: its huge pages need not be there; known from check() on */
} FfRamBlock;

typedef enum {
    FF_GUEST_FITS,
    /* It is not known: the VMM did not answer, or not as expected. */
    FF_GUEST_UNKNOWN,
    /* Because of what the guest is made of: the VMM's own migration may do better. */
    FF_GUEST_REFUSED,
    /* Destination: the guest is not waiting for a migration. It has come in another way, and runs;
     * or the VMM has not said that it waits. Such a VMM must not be ended. */
    FF_GUEST_OCCUPIED,
} FfGuestFit;

/* What becomes of a block in a stream of the VMM's own. */
typedef enum {
    FF_BLOCK_SAVED,    /* it is in there; or that is not known, and is seen when one is written */
    FF_BLOCK_UNUSED,   /* it is no part of the guest (yet), and not in there */
    FF_BLOCK_LEFT_OUT, /* the guest may use it, and it is not in there */
} FfBlockUse;

/* LEN bytes from OFFSET on of the N-th block were written: whole pages of it. */
typedef void FfVmmWritten(unsigned n, uint64_t offset, uint64_t len, void *opaque);

typedef struct FfVmmMemory FfVmmMemory;
struct FfVmmMemory {
    /* Set by the caller of check(), which takes it back: devices that are processes of their own
     * need not be refused. At a source the caller uses the log, and lets nobody run on memory that
     * is not all there (of memory that goes nowhere it asks devices_stand() alone); at a
     * destination it calls all_here(). */
    bool takes_devices;
    /* The same: a VMM may take any time to say which state it is in. */
    bool patient;
    /* Set by check(): there are such devices; the guest does not fit, and there are some, or that
     * is not known. */
    bool has_devices, refuses_devices;
    /* Before anything is stopped: checks blockers, run state, memory backends and devices; fills
     * *BLOCKS (FfRamBlock *, owned by the callee, valid until FfVmmState.undo()) and the guest's
     * UUID (16 bytes; zeros if it has none). ERROR is set unless the guest fits. */
    FfGuestFit (*check)(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                        GError **error);
    /* For an engine that adopts: the blocks (FfRamBlock *, owned by the callee, gpa unknown),
     * without a question to the VMM, which may hang. */
    GPtrArray *(*blocks)(FfVmmMemory *memory);
    /* Destination: the address of BLOCK (its id) as the VMM's own stream has it, that is, in what
     * holds the block: not that of the guest. */
    bool (*address)(FfVmmMemory *memory, const char *block, uint64_t *address, GError **error);
    /* Source, optional: why writes to this guest's memory cannot be tracked from outside (g_free),
     * NULL if they can. As it is now; STOPPED: as it was when FfVmmRun.stop() or
     * FfVmmState.stop_and_save() had stopped the guest. */
    char *(*untrackable)(FfVmmMemory *memory, bool stopped);
    /* Source, optional (NULL: nothing is to be drained). Returns when every read from a disk into
     * guest RAM that was under way at the call is over, the guest running on. Asked for between a
     * scan and the copy (docs/design/precopy.md says why). */
    bool (*drain)(FfVmmMemory *memory, GError **error);
    /* Source, with has_devices alone: what such devices write, of which no tracking of the VMM's
     * process tells. log_begin() returns when all that they write from then on is logged. */
    bool (*log_begin)(FfVmmMemory *memory, GError **error);
    /* Calls FN for what is in the log, and empties it. What is written later is seen by the next
     * call. */
    void (*log_take)(FfVmmMemory *memory, FfVmmWritten *fn, void *opaque);
    /* Whether the log tells of all that was written. STOPPED: the guest has stopped, so such
     * devices must have finished as well. FALSE with ERROR. */
    bool (*log_whole)(FfVmmMemory *memory, bool stopped, GError **error);
    /* Source, with has_devices alone: the guest stands, and so do they: they have finished what was
     * under way. FALSE with ERROR. */
    bool (*devices_stand)(FfVmmMemory *memory, GError **error);
    /* The guest is another VMM's now: such devices are to be free for that. It has heard that they
     * are, and connects to them. Both do nothing where there are none, and need not be said. */
    void (*devices_leave)(FfVmmMemory *memory);
    void (*devices_take)(FfVmmMemory *memory);
    /* What such devices have told the VMM, for a second one that is to have them: JSON objects,
     * with "id" (char *, g_free). LENT: it is given to that one, and devices_stand() says whether
     * it is true still. NULL and ERROR: they do not say. */
    GPtrArray *(*devices_known)(FfVmmMemory *memory, bool lent, GError **error);
    /* Safe to call twice, and where there is none. */
    void (*log_end)(FfVmmMemory *memory);
    /* Optional: such devices need not stand any more, and the journal says so. Destination: all of
     * the memory is here. Source: it was saved (FF_MARK_PARKED). */
    void (*all_here)(FfVmmMemory *memory);
    /* Optional (NULL: nothing does): the device by which the guest may give memory back at any time
     * (g_free), in a few words; NULL: there is none. */
    char *(*gives_back)(FfVmmMemory *memory);
    /* Source, optional: the device whose state the VMM's stream has in front of the memory, where
     * nobody else can tell its end, and what to do about it (g_free), in a few words; NULL: there
     * is none. */
    char *(*saved_before)(FfVmmMemory *memory);
    /* Source, optional: of BLOCK (its id), as it is now. */
    FfBlockUse (*use)(FfVmmMemory *memory, const char *block);
    /* Source, optional: the ids (g_free) of all memory backends that there are now, whoever made
     * them; "" for one without. NULL and ERROR: the VMM does not say. */
    GPtrArray *(*backends)(FfVmmMemory *memory, GError **error);
};

#endif
