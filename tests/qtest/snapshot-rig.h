/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of live snapshots share: a guest that counts in its memory, the command, and what must
 * be true afterwards. For the comparison of a file with what the memory was, QEMU itself copies
 * the memory while the guest stands.
 */
#ifndef FF_TESTS_SNAPSHOT_RIG_H
#define FF_TESTS_SNAPSHOT_RIG_H

#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#define SNAP_RAM_MIB 64

typedef struct {
    Vm *vm;
    BootsectConfig boot;
    char *path; /* of the file that is to come */
    /* Set before snap_begin(). */
    bool listens;            /* VmConfig.listens */
    const char *qemu;        /* VmConfig.qemu */
    const char *const *args; /* NULL-terminated, with -m or the like: all of the memory; or NULL */
    const Ring3 *ring3;      /* VmConfig.ring3 */
} Snap;

/* A guest that runs, with FAULTS (base/failpoints.h) and a DEVICE more; both can be NULL. FALSE:
 * the test is skipped. */
bool snap_begin(Snap *t, const char *faults, const char *device);
/* It runs, and its memory is right; it is freed. */
void snap_end(Snap *t);

/* x-farfault-snapshot to t->path; MORE: members of its arguments, beginning with a comma. */
void snap_ask(Snap *t);
void snap_ask_with(Snap *t, const char *more);
/* 1 MiB/s. */
void snap_slow_down(Snap *t);
/* Waits until the engine waits at a point with "hold", of snap_begin()'s guest; it does not
 * continue without. */
void snap_wait_held(Snap *t);
/* Lets it continue; waits until there is one. */
void snap_let_go(Snap *t);
/* The same for two threads that wait at once: each has told of it, and goes to wait after that. */
void snap_let_both_go(Snap *t);

/* query-migrate says "failed", and why: with TEXT in it. */
void snap_expect_error(Snap *t, const char *text);
/* Nothing of the file, whatever its name. */
void snap_expect_no_file(const Snap *t);
void snap_expect_running(Snap *t);
/* QEMU is as it was: its own snapshot has all memory. */
void snap_expect_settings(Snap *t);

/* What the memory is now, but for its first MiB, into the file PATH; the guest stands. */
void snap_save_memory(Vm *vm, uint64_t ram, const char *path);
/* The memory that FILE, which is whole, holds (g_free). */
uint8_t *snap_read(const char *file, uint64_t ram);
/* FILE holds what was saved at PATH then; else FALSE, and which page differs is told. RAM: bytes,
 * of which no other block has as many. */
bool snap_is_equal(const char *path, const char *file, uint64_t ram);

#endif
