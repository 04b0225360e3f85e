/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest that goes from QEMU to QEMU, and whose disk is a vhost-user-blk device with a
 * qemu-storage-daemon behind it, or its network a vhost-user one with testpmd behind it, or both;
 * one for each QEMU, and the relay in between. One thread.
 */
#ifndef FF_TESTS_VHOSTWORLD_H
#define FF_TESTS_VHOSTWORLD_H

#include "tests/lib/hugepages.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/storage.h"
#include "tests/lib/testpmd.h"

#define VHOST_IDLE_LOAD "ff.mib=24 ff.mode=zipf ff.write=70 ff.report=200"
#define VHOST_BUSY_LOAD VHOST_IDLE_LOAD " ff.disk=1 ff.direct=32"
/* So little that nearly all of the guest is sent while its disk writes to what was sent. */
#define VHOST_SMALL_LOAD "ff.report=200 ff.mib=8 ff.mode=zipf ff.write=70 ff.disk=1 ff.direct=8"

/* Frames that lie in the guest until 1500 more were sent. */
#define VHOST_NET_LOAD "ff.report=200 ff.mib=8 ff.mode=zipf ff.write=70 ff.frames=1500"

typedef struct {
    char *folder, *disk;
    LinuxGuest guest;
    VmLauncher launcher;
    Vm *vm;
    Storage *storage;
    char *socket;
    unsigned hops;
    unsigned iops;       /* of the disk; 0: as many as it can */
    bool unable;         /* the back-ends cannot wait for pages */
    bool iothread;       /* the disk's rings have a thread of their own */
    char *qemu, *daemon; /* the disk's; NULL: the installed one */
    bool no_disk, network;
    bool locked; /* the network's back-ends have their memory locked */
    Testpmd *testpmd;
    char *net_socket;
    HugePages *pool; /* of a guest with huge pages */
} VhostWorld;

/* WHO: of --vhost-user=. NULL, and the test is skipped. */
VhostWorld *vhost_world_new(VmLauncher launcher, const char *who, const char *load);
/* The same, of guests that farfault migrates; where something more is needed: WHY not, else. */
VhostWorld *vhost_world_new_if(bool possible, const char *why, const char *load);
/* The same, of guests that farfault migrates; HUGE: with huge pages. */
VhostWorld *vhost_world_new_of(bool huge, const char *load);
/* A guest with a network, and no disk; WORK: ff.frames= is in LOAD. */
VhostWorld *vhost_world_new_network(VmLauncher launcher, const char *who, const char *load);
/* W with QEMU 10, or a storage daemon of QEMU 10, or both. NULL where it is not there, and the test
 * is skipped. */
VhostWorld *vhost_world_newer(VhostWorld *w, bool qemu, bool daemon);
/* W with huge pages. NULL where there are none, and the test is skipped. */
VhostWorld *vhost_world_huge(VhostWorld *w);
/* A back-end, in the place of the one that is noted. */
void vhost_world_start_storage(VhostWorld *w);
void vhost_world_start_testpmd(VhostWorld *w);
/* A back-end and a QEMU, in the place of those that are noted. */
void vhost_world_start(VhostWorld *w, const char *incoming);
/* The first ones; the guest is at work. */
void vhost_world_boot(VhostWorld *w);
/* QEMU has its back-end. */
void vhost_world_wait_connected(VhostWorld *w);
/* So many reads of ff.direct= the guest has made, with VM as its QEMU; waits for its next word. */
guint64 vhost_world_reads(Vm *vm);
/* The guest has got and checked N frames more, with VM as its QEMU. */
void vhost_world_await_frames(Vm *vm, guint64 n);
/* The next QEMU is there, and both are farfault's. Returns the one before. */
VhostWorld vhost_world_next(VhostWorld *w);
/* The client's words: migrate from OLD to the next QEMU; switch, and the guest runs there; so fast
 * that rounds come to an end; no limit to what comes behind the switch; and where that was paused,
 * go on without one. */
void vhost_world_migrate(VhostWorld *w, VhostWorld *old);
void vhost_world_switch_over(VhostWorld *w, VhostWorld *old);
void vhost_world_hurry(VhostWorld *old);
void vhost_world_set_free(VhostWorld *old);
void vhost_world_resume(VhostWorld *w, VhostWorld *old);
/* Ends that one. */
void vhost_world_leave(VhostWorld *old);
/* The migration to the next QEMU has failed: W is OLD again. */
void vhost_world_back(VhostWorld *w, const VhostWorld *old);
/* The engine has carried it, with precopy. */
void vhost_world_assert_carried(Vm *vm);
void vhost_world_remove_socket(VhostWorld *w);
/* The guest finds all that it has written, and powers off. */
void vhost_world_end(VhostWorld *w);

#endif
