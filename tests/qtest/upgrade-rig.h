/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of farfault upgrade share: a guest that may change its QEMU, the command, and what
 * must be true afterwards.
 *
 * The guest's console is a file, as nothing that is connected can be handed over. All processes of
 * a guest have the path of its directory on their command lines: so they are found, and ended if
 * this program dies.
 */
#ifndef FF_TESTS_UPGRADE_RIG_H
#define FF_TESTS_UPGRADE_RIG_H

#include <glib.h>
#include <sys/types.h>

#include "tests/lib/bootsect.h"
#include "tests/lib/qmp.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64

typedef struct {
    char *dir, *monitor, *console;
    char **args;  /* QEMU's */
    uid_t user;   /* that QEMU runs as; 0: this one */
    char *faults; /* of engines that are started from now on; NULL */
    BootsectConfig boot;
    const Ring3 *ring3; /* that guest; NULL: one that writes to its console */
    Qmp *qmp;           /* NULL: not connected */
    off_t seen;         /* of the console */
    int keeper;         /* its end ends the guest's processes */
} Guest;

Guest *up_new(void);
/* The ring-3 guest, which stays the caller's, in the installed QEMU. NULL, and the test is skipped.
 * MACHINE: arguments for a machine with RAM_MIB, NULL-terminated; NULL: pc-i440fx-7.2. FAULTS: of
 * its engines; can be NULL. */
Guest *up_ring3(const Ring3 *ring3, const char *const *machine, const char *faults);
/* PROGRAM with ARGS, and monitor and console. */
void up_start(Guest *g, const char *program, const char *const *args);
/* The one with counters. NULL, and the test is skipped. FAULTS: of its engines; can be NULL. */
Guest *up_counting(const char *faults);
/* The same with another monitor, to which the second one connects. */
Guest *up_counting_two_monitors(const char *faults);
Qmp *up_second_monitor(Guest *g);
/* The same, whose QEMU writes to guest memory while it is loaded: vmgenid, 16 bytes, other ones in
 * each QEMU. Not NULL. */
Guest *up_with_vmgenid(const char *faults);
/* Starts such a QEMU in G, with MORE on its command line (NULL-terminated; can be NULL). */
void up_start_vmgenid(Guest *g, const char *const *more);
/* FAULTS of engines that are started from now on; they happen once each. */
void up_set_faults(Guest *g, const char *faults);
void up_end(Guest *g);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, up_end)

/* Waits until N QEMUs are left, 0 or 1, which is returned (0: none). */
pid_t up_await_qemus(const Guest *g, guint n_left);
pid_t up_only_qemu(const Guest *g);
void up_reconnect(Guest *g);
void up_disconnect(Guest *g);
/* Waits for a QEMU that is started at its monitor in another way, and connects to it. */
void up_await_monitor(Guest *g);
/* Waits until it writes TEXT to its console, from now on, with the end of its line if it is more
 * than a letter or two; what it has written since then, whole lines in that case (g_free). */
char *up_wait_console(Guest *g, const char *text);
/* It runs: after what it had written by now it writes more. */
void up_runs(Guest *g);
/* Every counter of every page, with the guest stopped for it. */
void up_check_memory(Guest *g);

/* All of guest RAM, of a guest that stands (g_free). */
char *up_memory(Guest *g);
/* farfault attach PID, a QEMU of G whose relay is dead. */
void up_attach(Guest *g, pid_t pid);
/* The same, if it is dead. */
void up_attach_if_needed(Guest *g, pid_t pid);
/* "hold" of base/failpoints.h: before it; until somebody waits there; a thread that waits
 * continues. */
void up_can_hold(const Guest *g);
void up_wait_held(const Guest *g);
void up_let_go(const Guest *g);

/* For its processes (g_strfreev). Opens the FIFO NAME of its folder, for writing. */
char **up_environment(const Guest *g);
void up_open_fifo(const Guest *g, const char *name);
/* ARGS: after "farfault upgrade QMP", NULL-terminated. Returns the exit status; *SAID (g_free): the
 * last line that it wrote. */
int up_run(Guest *g, const char *const *args, char **said);
/* The same, meanwhile: with PROGRAM (NULL: the same QEMU) begun, and waited for. *SAID is NULL if
 * it was killed, and the status is -1. */
typedef struct Command Command;
Command *up_begin(Guest *g, const char *program);
/* The same with one more OPTION; NULL: none. */
Command *up_begin_with(Guest *g, const char *program, const char *option);
bool up_is_under_way(Command *c);
/* Waits until it says TEXT. */
void up_await_said(Command *c, const char *text);
int up_finish(Command *c, char **said);
/* SIGKILL; reaped. */
void up_kill(Command *c);
void up_command_free(Command *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Command, up_command_free)
/* A QEMU (its path, g_free) that waits before it starts; once. Waits until it does; lets it start.
 */
char *up_slow_program(Guest *g);
void up_slow_program_waits(Guest *g);
void up_slow_program_goes_on(Guest *g);
/* All processes (pid_t) of G's guest and of its upgrade, without QEMUs; its QEMUs. */
GArray *up_processes(const Guest *g);
GArray *up_qemus(const Guest *g);
/* Something that means that it runs has been written to the console since the last call. */
bool up_has_run(Guest *g);
/* farfault attach PID; what it said (g_free). */
char *up_try_attach(Guest *g, pid_t pid);
void up_to(Guest *g, const char *program);
/* It fails, and says PART; the QEMU that was there continues. */
void up_fails(Guest *g, const char *const *args, const char *part);
/* A QEMU on the memory of G's, that waits; its monitor. */
Qmp *up_start_borrowing(Guest *g);
/* What farfault upgrade does, without its refusal of command lines; a monitor of the new QEMU. */
Qmp *up_by_hand(Guest *g);

/* FF_ROUNDS, OTHERWISE if it is not set. */
unsigned up_rounds(unsigned otherwise);
/* The path of the installed QEMU (g_free). */
char *up_installed(void);

#endif
