/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between holder and pager about one space (docs/design/pager.md): a memfd that both
 * map. This is its first part; the pager's own part comes after it (pager/server/image.h).
 *
 * Which process writes what stands at each field. A family (a client and its descendants) uses the
 * gate of one record, that of its root. The two processes trust each other; nobody else has the
 * memfd.
 */
#ifndef FF_PAGER_HOLDER_SPACE_RECORD_H
#define FF_PAGER_HOLDER_SPACE_RECORD_H

#include <assert.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FF_SPACE_RECORD_MAGIC 0x444f4345524646ull
#define FF_SPACE_RECORD_VERSION 2u
#define FF_SPACE_RECORD_FAULTS 1024u /* a power of 2 */
#define FF_SPACE_RECORD_HELLO_MAX 65536u

typedef enum {
    FF_GATE_OPEN,
    FF_GATE_CLOSED, /* the holder reads, or waits until nobody is inside */
    FF_GATE_EVENT,  /* an event was read, and the pager has not applied it */
} FfGate;

typedef enum {
    FF_TAKEN_NOT,
    FF_TAKEN_BEGUN, /* a pager looks at the first message: if it dies, that may be why */
    FF_TAKEN,       /* its part is complete */
} FfTaken;

typedef struct {
    uint64_t magic;
    uint64_t id, root; /* holder, before the pager knows of it; so are the next four */
    uint32_t version;
    int32_t pid; /* of a client; 0: a child's, not known */
    uint32_t uid;
    uint32_t hello_len;
    uint32_t registered; /* holder, of a root: all its memory is. Observer: the pager */
    uint32_t dialect;    /* holder, as the first ones: by number (pager/dialects/dialects.h) */
    uint32_t taken;      /* FfTaken: pager; the holder after its death. Observers: both */

    /* ---- the family's: of the root's record. All atomic, sequentially consistent ---- */
    uint32_t gate;     /* FfGate, and above it a number that each change makes larger: a thread that
                          has seen one closed gate does not take the next one for it. Observers:
                          threads that place, the holder */
    uint32_t placers;  /* how many are inside, or about to see that it is closed. Observer: the
                          holder, after it has closed the gate */
    uint32_t sleepers; /* that wait in futex(gate). Observer: the process that opens it */

    /* ---- faults. Observers: the other process ---- */
    uint32_t full; /* holder: it waits for room; pager clears it, and tells by the eventfd */
    uint64_t head; /* holder */
    uint64_t tail; /* pager */

    /* ---- of a client that asks by a socket (asks.c): one request at a time ---- */
    struct {
        uint64_t gpa, length; /* holder, before `asked` */
        uint64_t asked;       /* holder: how many requests it has read. Observer: the pager */
        uint64_t answered;    /* pager: of so many the pages are there. Observers: the holder, which
                                 sends the answer; the next pager */
    } ask;

    /* ---- events ---- */
    uint64_t in_seq;    /* holder, before the read: what `in` will be, if it is an event */
    uint64_t seq;       /* holder: the event of this number is in `in`. Observer: the pager */
    uint64_t applied;   /* pager: (number of the last one) << 1 | the copy of the ranges that is
                           valid. Observers: the holder, the next pager */
    uint64_t child;     /* holder: of a fork, its id. Before seq */
    struct uffd_msg in; /* holder: where read() puts it */

    struct uffd_msg fault[FF_SPACE_RECORD_FAULTS];
    char hello[FF_SPACE_RECORD_HELLO_MAX];
} FfSpaceRecord;
static_assert(sizeof(struct uffd_msg) == 32, "as the kernel writes it");
static_assert(offsetof(FfSpaceRecord, seq) % 8 == 0, "atomic");

/* What is in `hello` of a process that CRIU restores. */
typedef struct {
    int32_t pid; /* in its own pid namespace: of its images */
} FfHoldPid;
static_assert(sizeof(FfHoldPid) == 4, "as CRIU sends it");

/* Where the pager's part begins in the memfd. */
#define FF_SPACE_RECORD_SIZE ((sizeof(FfSpaceRecord) + 4095) / 4096 * 4096)

/* ---- holder ---------------------------------------------------------------------------------- */

/* A new record: its memfd, or -errno; *REC is mapped. */
int ff_space_record_create(FfSpaceRecord **rec);
/* -EINVAL: it is none. Also for the pager. */
int ff_space_record_map(int fd, FfSpaceRecord **rec);
void ff_space_record_unmap(FfSpaceRecord *rec);

/* FALSE: somebody is inside; the last one that leaves tells. */
bool ff_gate_close(FfSpaceRecord *root);
/* Also wakes. */
void ff_gate_set(FfSpaceRecord *root, FfGate as);
/* The pager is dead: nobody is inside. */
void ff_gate_reset(FfSpaceRecord *root);
static inline uint32_t ff_gate_look(const FfSpaceRecord *root)
{
    return __atomic_load_n(&root->gate, __ATOMIC_SEQ_CST);
}
static inline FfGate ff_gate_state(uint32_t seen)
{
    return (FfGate)(seen & 3);
}
/* FALSE: no room. */
bool ff_space_record_add_fault(FfSpaceRecord *rec, const struct uffd_msg *msg);

static inline bool ff_space_record_has_event(const FfSpaceRecord *rec)
{
    return __atomic_load_n(&rec->seq, __ATOMIC_ACQUIRE) !=
           __atomic_load_n(&rec->applied, __ATOMIC_ACQUIRE) >> 1;
}

/* It is the pager's: the holder sets the gate, of the root, after it has filed an event. */
static inline bool ff_space_record_owes_event(const FfSpaceRecord *rec, const FfSpaceRecord *root)
{
    return ff_space_record_has_event(rec) && ff_gate_state(ff_gate_look(root)) == FF_GATE_EVENT;
}

/* ---- pager: any thread. TOLD: an eventfd, to the holder -------------------------------------- */

/* Nobody will apply the one that is there; the ranges are as they were. */
static inline void ff_space_record_forget_event(FfSpaceRecord *rec)
{
    uint64_t copy = __atomic_load_n(&rec->applied, __ATOMIC_RELAXED) & 1;

    /* Observers: the holder, the next pager. */
    __atomic_store_n(&rec->applied, rec->seq << 1 | copy, __ATOMIC_RELEASE);
}
bool ff_gate_enter(FfSpaceRecord *root, int told);
void ff_gate_leave(FfSpaceRecord *root, int told);
/* Until the gate is not what it was when it was SEEN (ff_gate_look()) any more. */
void ff_gate_wait(FfSpaceRecord *root, uint32_t seen);
/* Takes up to MAX faults. One thread. */
unsigned ff_space_record_take_faults(FfSpaceRecord *rec, struct uffd_msg *msgs, unsigned max,
                                     int told);

/* Adds one to the eventfd FD. */
void ff_tell(int fd);
/* Sets it to 0. */
void ff_untell(int fd);

#endif
