/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records and gates; see space-record.h for who may call what. No locks: the gate is atomics and a
 * futex, and a process that is dead leaves nothing locked (the holder resets what a dead pager has
 * counted).
 *
 * System calls: memfd_create, fcntl, ftruncate, fstat, mmap, munmap, futex, read, write.
 */
#include "pager/holder/space-record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"

#define LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define ADD(p, v) __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)

int ff_space_record_create(FfSpaceRecord **rec)
{
    int fd = memfd_create("farfault:record", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return -errno;
    }
    FfSpaceRecord *r = MAP_FAILED;
    if (ftruncate(fd, FF_SPACE_RECORD_SIZE) == 0) {
        r = mmap(NULL, sizeof(FfSpaceRecord), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (r == MAP_FAILED || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0) {
        int rc = -errno;
        if (r != MAP_FAILED) {
            ff_space_record_unmap(r);
        }
        close(fd);
        return rc;
    }
    r->magic = FF_SPACE_RECORD_MAGIC;
    r->version = FF_SPACE_RECORD_VERSION;
    *rec = r;
    return fd;
}

int ff_space_record_map(int fd, FfSpaceRecord **rec)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (st.st_size < (off_t)FF_SPACE_RECORD_SIZE) {
        return -EINVAL;
    }
    FfSpaceRecord *r = mmap(NULL, sizeof(FfSpaceRecord), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (r == MAP_FAILED) {
        return -errno;
    }
    if (r->magic != FF_SPACE_RECORD_MAGIC || r->version != FF_SPACE_RECORD_VERSION) {
        ff_space_record_unmap(r);
        return -EINVAL;
    }
    *rec = r;
    return 0;
}

void ff_space_record_unmap(FfSpaceRecord *rec)
{
    munmap(rec, sizeof(*rec));
}

void ff_tell(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

void ff_untell(int fd)
{
    uint64_t n;

    while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR) {
    }
}

/* ---- the gate -------------------------------------------------------------------------------- */

/* One process at a time may: the holder, but the pager from an event on until it is applied. */
void ff_gate_set(FfSpaceRecord *root, FfGate as)
{
    STORE(&root->gate, (ff_gate_look(root) & ~3u) + 4 + as);
    if (as != FF_GATE_CLOSED && LOAD(&root->sleepers)) {
        syscall(SYS_futex, &root->gate, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
}

/* Against ff_gate_enter(): this stores the gate and then looks at who is inside, that one counts
 * itself and then looks at the gate. One of the two sees the other. */
bool ff_gate_close(FfSpaceRecord *root)
{
    if (ff_gate_state(ff_gate_look(root)) == FF_GATE_OPEN) {
        ff_gate_set(root, FF_GATE_CLOSED);
    }
    return LOAD(&root->placers) == 0;
}

void ff_gate_reset(FfSpaceRecord *root)
{
    STORE(&root->placers, 0);
    STORE(&root->sleepers, 0);
}

bool ff_gate_enter(FfSpaceRecord *root, int told)
{
    ADD(&root->placers, 1);
    if (ff_gate_state(ff_gate_look(root)) == FF_GATE_OPEN) {
        return true;
    }
    ff_gate_leave(root, told);
    return false;
}

void ff_gate_leave(FfSpaceRecord *root, int told)
{
    if (ADD(&root->placers, -1) == 0 && ff_gate_state(ff_gate_look(root)) == FF_GATE_CLOSED) {
        ff_tell(told);
    }
}

void ff_gate_wait(FfSpaceRecord *root, uint32_t seen)
{
    ADD(&root->sleepers, 1);
    syscall(SYS_futex, &root->gate, FUTEX_WAIT, seen, NULL, NULL, 0);
    ADD(&root->sleepers, -1);
}

/* ---- faults ---------------------------------------------------------------------------------- */

bool ff_space_record_add_fault(FfSpaceRecord *rec, const struct uffd_msg *msg)
{
    uint64_t head = rec->head;

    if (head - LOAD(&rec->tail) >= FF_SPACE_RECORD_FAULTS) {
        STORE(&rec->full, 1);
        if (head - LOAD(&rec->tail) >= FF_SPACE_RECORD_FAULTS) {
            return false;
        }
    }
    rec->fault[head % FF_SPACE_RECORD_FAULTS] = *msg;
    STORE(&rec->head, head + 1);
    return true;
}

unsigned ff_space_record_take_faults(FfSpaceRecord *rec, struct uffd_msg *msgs, unsigned max,
                                     int told)
{
    uint64_t tail = rec->tail, head = LOAD(&rec->head);
    unsigned n = head - tail < max ? (unsigned)(head - tail) : max;

    for (unsigned i = 0; i < n; i++) {
        msgs[i] = rec->fault[(tail + i) % FF_SPACE_RECORD_FAULTS];
    }
    STORE(&rec->tail, tail + n);
    if (n && __atomic_exchange_n(&rec->full, 0, __ATOMIC_SEQ_CST)) {
        FF_FAULT_AT("room-made");
        ff_tell(told);
    }
    return n;
}
