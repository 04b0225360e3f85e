/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring-3 guest (ring3.S): under KVM, also under one that emulates ring 0, or under TCG. It
 * checks all of its memory, for ever, and writes what it finds to a record in it. The same law is
 * checked from outside: an image of its memory is that of one instant, or the check says why not.
 *
 * It has no way to signal anything (a guest in ring 3 does no I/O), so what waits for it looks at
 * its memory again and again: ring3_wait_*(). They fail the test if it has found anything wrong.
 */
#ifndef FF_TESTS_RING3_H
#define FF_TESTS_RING3_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/durations.h"

typedef enum { RING3_TCG, RING3_KVM } Ring3Accel;

enum { RING3_MAX_CPUS = 4 };

typedef struct {
    Ring3Accel accel;
    unsigned busy_mib; /* that it works in */
    unsigned n_cpus;   /* 0: 1 */
    unsigned hot_mib;  /* 63 of 64 steps go to so many of them; 0: everywhere */
    unsigned pauses;   /* after each step */
    const char *cpu;   /* value of -cpu, with KVM; NULL: the host's */
} Ring3;

/* What all vCPUs have written to their records. Waits are those of an access of a page (a whole
 * step, or the first touch of a page of the sweep), of 32 us and longer, which include the time in
 * which the vCPU was not run. */
typedef struct {
    bool ready;                /* all pages are filled, and each vCPU has done a step */
    uint64_t ops;              /* steps */
    uint64_t sweeps;           /* over all pages, of the vCPU with the fewest */
    uint64_t corrupt;          /* findings */
    uint64_t worst_us, sum_us; /* the longest wait (0: shorter than 32 us); all of them */
    uint64_t above[4];         /* waits above 0.1, 1, 10 and 100 ms */
} Ring3Record;

/* Where the records are in guest memory, and how many bytes. */
#define RING3_RECORDS 0x9000
#define RING3_RECORDS_SIZE 4096
/* The same of their waits. */
#define RING3_WAITS 0x10000
#define RING3_WAITS_SIZE 0x8000

/* TRUE if such a guest can run here: one is started for that, once, and has 5 s of
 * a processor to get to ring 3. Else *WHY (static) says why not; with TCG there is no reason, and
 * the test fails. QEMU: the binary; NULL: the installed one. */
bool ring3_available(Ring3Accel accel, const char *qemu, const char **why);
/* Where its pages begin, and the bytes of RAM that it needs at least, which is their end. */
uint64_t ring3_start(const Ring3 *guest);
uint64_t ring3_end(const Ring3 *guest);
/* Writes the ROM to PATH, and appends QEMU's arguments for it, but for "-m", to ARGV (g_free each).
 */
void ring3_add_args(const Ring3 *guest, const char *path, GPtrArray *argv);

/* RECORDS: RING3_RECORDS_SIZE bytes of guest memory. */
Ring3Record ring3_read_record(const Ring3 *guest, const uint8_t *records);
/* All waits since its start; WAITS: RING3_WAITS_SIZE bytes of guest memory. */
void ring3_read_waits(const Ring3 *guest, const uint8_t *records, const uint8_t *waits,
                      Durations *all);
/* What the guest found first; NULL: nothing (g_free). */
char *ring3_finding(const Ring3 *guest, const uint8_t *records);
/* MEMORY: ring3_end() bytes of guest memory from address 0 on, of one instant. NULL if all is
 * right, else one line (g_free). */
char *ring3_check_image(const Ring3 *guest, const uint8_t *memory);
/* The same, and THEN is what it was at an earlier instant: no counter has gone back. */
char *ring3_check_later(const Ring3 *guest, const uint8_t *memory, const uint8_t *then);

/* Reads the records of a guest that runs or is stopped into RECORDS. */
typedef void (*Ring3Reader)(void *opaque, uint8_t *records);
/* Waits until it works. */
void ring3_wait_ready(const Ring3 *guest, Ring3Reader read, void *opaque);
/* Waits until it has found something wrong, for a test that damages its memory (g_free). */
char *ring3_wait_finding(const Ring3 *guest, Ring3Reader read, void *opaque);
/* Waits until each vCPU has checked all of memory in a sweep that begins from now on. */
void ring3_wait_sweep(const Ring3 *guest, Ring3Reader read, void *opaque);

#endif
