/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guests of chaos: each verifies its memory.
 */
#ifndef FF_TESTS_CHAOS_GUEST_H
#define FF_TESTS_CHAOS_GUEST_H

#include "tests/lib/vm.h"

/* One side of a run. */
typedef struct {
    const char *name, *incoming, *faults; /* of VmConfig */
    const char *qemu; /* and with it a machine type that all have; NULL: the installed one */
} ChaosSide;

typedef struct {
    const char *name;
    double bits;        /* binary logarithm of the bytes that a migration sends, about */
    unsigned bandwidth; /* max-bandwidth before the switch; 0: that of move_prepare() */
    Vm *(*start)(const ChaosSide *side);
    void (*wait)(Vm *vm);  /* until it is up */
    unsigned hugepages;    /* of 2 MiB, that both sides need; 0: none */
    void (*check)(Vm *vm); /* it lives, and its memory is right; ends the test otherwise */
    void (*end)(void);     /* the QEMUs are going to end; NULL: nothing else has to */
} ChaosGuest;

/* NAME: "bootsect" (NULL), "linux", "vhost" (the same with a disk of qemu-storage-daemon), "huge"
 * (the boot sector on reserved huge pages), "huge-unreserved", "kvm", "kvm-rare" (which
 * writes seldom) and "kvm-huge" (the ring-3 guest by KVM). NULL: it is not built, or there is no
 * such guest. */
const ChaosGuest *chaos_guest(const char *name);

#endif
