/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A real QEMU for a test: plain, or started by farfault. Own temporary directory; QMP, qtest and
 * the serial console are sockets that the test listens on before QEMU starts, so there is nothing
 * to wait for but their accept. QEMU dies with the test program. At the end it is reaped, and
 * nothing may be left of it: no process (the relay and engine become children of this program),
 * no file in its directory.
 */
#ifndef FF_TESTS_VM_H
#define FF_TESTS_VM_H

#include <stdbool.h>
#include <sys/types.h>

#include "tests/lib/bootsect.h"
#include "tests/lib/qmp.h"
#include "tests/lib/qtestproto.h"
#include "tests/lib/ring3.h"
#include "tests/lib/stream.h"

typedef enum {
    VM_PLAIN, /* QEMU itself */
    VM_RUN,   /* farfault run -- QEMU */
    VM_LINK,  /* a symlink qemu-system-x86_64 to farfault */
} VmLauncher;

typedef struct {
    const char *name; /* for messages; also QEMU's -name */
    VmLauncher launcher;
    const char *build;          /* build folder of the farfault that starts it; NULL: FF_BUILD */
    const char *qemu;           /* the binary; NULL: FF_QEMU, or what is installed */
    const char *memory;         /* value of -m; NULL: no -m here, ARGS have what is needed */
    const char *const *args;    /* more arguments, NULL-terminated; can be NULL */
    const char *sections;       /* of a file for -readconfig, which has the QMP monitor as well, as
                                 * Incus has it; NULL: there is no file */
    const BootsectConfig *boot; /* boot sector on the first disk; NULL: no disk */
    const Ring3 *ring3;         /* the ring-3 guest, by KVM or TCG, in place of that; can be NULL */
    const char *incoming;       /* URI of -incoming; can be NULL */
    const char *restore;        /* with VM_RUN: farfault restore of this file; can be NULL */
    const char *restore_option; /* of that: --NAME=VALUE; can be NULL */
    bool paused;                /* -S */
    bool oob;                   /* out-of-band on the monitor */
    bool listens;               /* and two monitors that listen: "server" (QMP), "human" */
    const int *fds;             /* inherited under the same numbers, ended by -1; can be NULL */
    const char *faults;         /* POINT=ACTION;... (base/failpoints.h); can be NULL */
    const char *deadlines;      /* NAME=MS,... (base/failpoint-deadline.h); can be NULL */
} VmConfig;

typedef struct Vm Vm;
Vm *vm_start(const VmConfig *config);
/* The same, by farfault and with "-machine pc", which is all of its arguments. */
Vm *vm_start_pc(VmConfig config);
/* Ends QEMU by SIGTERM (if it runs), checks that nothing is left, and that the exit status is 0.
 * A VM that was reaped by vm_wait_exit() is only checked. */
void vm_end(Vm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Vm, vm_end)
/* Waits until QEMU ends by itself. Returns its exit status, or -SIGNAL. */
int vm_wait_exit(Vm *vm);
/* SIGKILL to QEMU; reaped. */
void vm_kill(Vm *vm);

/* QEMU runs and says that it is version NUMBER, or begins so. */
bool vm_is_qemu(const char *qemu, const char *number);
/* The same of the tests' QEMU: FF_QEMU, or the installed one. */
bool vm_is_tests_qemu(const char *number);
/* The option by which the tests' QEMU becomes USER, and its word (g_free): -runas, which is gone
 * after 9, or -run-with. */
const char *vm_runas(const char *user, char **word);
/* Path of QEMU MAJOR, the one that scripts/get unpacked (10, 11), or what FF_QEMUMAJOR names, which
 * may be newer (g_free). NULL, and the test is skipped: there is none. */
char *vm_qemu(unsigned major);
/* QEMU 10. */
char *vm_newer_qemu(void);

pid_t vm_pid(const Vm *vm);
/* The engine of VM: it writes to VM's stderr. Fails the test if there is none. */
pid_t vm_engine(Vm *vm);
/* The same; 0 if none runs. */
pid_t vm_find_engine(Vm *vm);
/* The relay of VM; it must have one. */
pid_t vm_relay(Vm *vm);
/* It has PATH open. */
bool vm_relay_holds(Vm *vm, const char *path);
/* Waits until the connection of vm_qmp() has ended. */
void vm_wait_qmp_end(Vm *vm);
/* A new client of VmConfig.listens' QMP monitor takes the place of vm_qmp(), which is freed. */
void vm_reconnect(Vm *vm);
/* QEMU's own word about its run state ("running", "paused (...)"), from VmConfig.listens' human
 * monitor, of which farfault knows nothing (g_free). CONT: it is told "cont" first. */
char *vm_human_state(Vm *vm, bool cont);
/* Tells it LINE first, and returns its state then (g_free). */
char *vm_human(Vm *vm, const char *line);
/* Tells it LINE, and returns what stands after WORDS in the first line that begins with them
 * (g_free). */
char *vm_human_line(Vm *vm, const char *line, const char *words);
/* The directory of its sockets, and files that a test adds with vm_path(); removed at the end. */
const char *vm_dir(const Vm *vm);
/* VmConfig.ring3; NULL: another guest. */
const Ring3 *vm_ring3(const Vm *vm);
/* Waits until the guest, which has just been started, works: the boot-sector guest or the ring-3
 * one. */
void vm_wait_ready(Vm *vm);
/* Waits until it has done something from now on; the ring-3 guest checks all of its memory. */
void vm_wait_works(Vm *vm);
/* What the ring-3 guest has written of itself. */
Ring3Record vm_record(Vm *vm);
/* Waits until the ring-3 guest has found something wrong (g_free). */
char *vm_wait_finding(Vm *vm);
/* A path in it for the test's own use (g_free); what lies there at the end is removed. */
char *vm_path(Vm *vm, const char *name);
Qmp *vm_qmp(Vm *vm);
Qtest *vm_qtest(Vm *vm);
/* Waits for TEXT on the serial console; what came before it is dropped. */
void vm_wait_serial(Vm *vm, const char *text);
/* The same for at most SECONDS; false: it has not come. */
bool vm_try_serial(Vm *vm, const char *text, unsigned seconds);
/* Waits for TEXT that is written from now on. */
void vm_wait_new_serial(Vm *vm, const char *text);
/* The next whole line of the console that has TEXT in it (g_free). */
char *vm_serial_line(Vm *vm, const char *text);
void vm_type_serial(Vm *vm, const char *text);
/* The guest, with -cpu max, is a hypervisor (SVM) from here on, or no more. */
void vm_set_svme(Vm *vm, bool on);
/* What the engine says if the RAM of a source has changed after it was stopped: each test of a
 * migration fails then, unless it does so itself and says it here. */
#define VM_RAM_CHANGED "RAM at stop and at the end: DIFFERENT"
void vm_expect_ram_change(Vm *vm);
/* The fault number I (from 0) of VmConfig.faults has happened. */
bool vm_fault_happened(Vm *vm, unsigned i);
/* What QEMU, relay and engine wrote to stderr so far (g_free). */
char *vm_stderr(Vm *vm);
/* Waits for TEXT there. */
void vm_wait_stderr(Vm *vm, const char *text);

/* Of guests that are not of ring3.h: FF_TEST_ACCEL, or tcg. */
const char *vm_accel(void);

/* TRUE if farfault is in the build folder, whole; else *WHY (static) says what is missing. */
bool vm_farfault_available(const char **why);
/* TRUE if farfault is there and was built with the points of base/failpoints.h. */
bool vm_faults_available(const char **why);
/* What farfault status without a monitor says of the guest of QEMU process PID (g_free). */
char *vm_listed(pid_t pid);
/* Path of an executable of the build folder, e.g. "cli/farfault" (g_free). */
char *vm_build_path(const char *relative);

#endif
