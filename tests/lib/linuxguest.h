/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Linux guest of scripts/build-guest in a QEMU: it keeps its memory (and a disk) busy and knows
 * what must be in it.
 */
#ifndef FF_TESTS_LINUXGUEST_H
#define FF_TESTS_LINUXGUEST_H

#include "tests/lib/vm.h"

typedef struct {
    unsigned ram_kib, n_cpus;
    const char *machine; /* its type; NULL: "pc" */
    const char *cpu;     /* value of -cpu; NULL: QEMU's own */
    const char *load;    /* parameters of the guest's init: tests/guest/memwork.c */
    const char *disk;    /* image for virtio-blk, past the page cache; NULL: none */
    const char *aio;     /* how QEMU reads it: threads, native, io_uring */
    const char *vhost;   /* socket of a vhost-user-blk back-end, in place of .disk; can be NULL */
    const char *network; /* socket of a vhost-user network's back-end; can be NULL */
    bool network_server; /* QEMU listens there */
    bool plugged; /* these two are not on the command line; QEMU starts with -S, if nothing comes */
    unsigned n_queues;  /* of that device, and pairs of that network; 0: one */
    unsigned n_entries; /* of each of them; 0: 128, as QEMU has it */
    bool huge;          /* its memory is hugetlb, of 2 MiB (hugepages.h) */
    bool balloon;       /* a virtio-balloon; ff.extra= makes the guest serve it */
    bool reporting;     /* it reports pages that the guest has free */
    unsigned plug_mib;  /* a virtio-mem "vm0" over a backend "more" of so much; none is plugged */
    const char *plug_more;     /* its additional properties: ",NAME=VALUE"; can be NULL */
    bool listens;              /* as in VmConfig */
    const char *qemu, *faults; /* as in VmConfig */
} LinuxGuest;

/* TRUE if it has been built; else *WHY (static). */
bool linux_guest_available(const char **why);
/* An empty image of BYTES for .disk, where files can be read past the page cache: not on every
 * tmpfs. The caller removes it. NULL if they can nowhere. */
char *linux_guest_disk_new(uint64_t bytes);
/* INCOMING: as in VmConfig; can be NULL. */
Vm *linux_guest_start(const LinuxGuest *guest, const char *name, VmLauncher launcher,
                      const char *incoming);
/* A chardev that connects to the unix socket PATH, and again each second. */
void linux_guest_add_chardev(Vm *vm, const char *id, const char *path);
/* Of GUEST, which was started as .plugged: its disk and its network are plugged, by QMP. */
void linux_guest_plug(const LinuxGuest *guest, Vm *vm);
/* Has the guest check all of its memory, while it is being moved or after. WHEN is for the
 * message. */
void linux_guest_assert_intact(Vm *vm, const char *when);
/* The same for the last time: it powers off. VM is freed. */
void linux_guest_finish(Vm *vm);

#endif
