/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that loses its relay, and gets another one by farfault attach. Its VmConfig.listens is
 * set: the monitors of vm_start() that connect are lost with the relay.
 */
#ifndef FF_TESTS_ATTACH_H
#define FF_TESTS_ATTACH_H

#include "tests/lib/vm.h"

/* Runs ARGV. Returns its exit status, *TEXT is all that it printed (g_free). */
int attach_run(const char *const *argv, char **text);
/* The same with farfault COMMAND TARGET (can be NULL), of the build folder BUILD (NULL: FF_BUILD).
 */
int attach_run_farfault(const char *build, const char *command, const char *target, char **text);
/* farfault attach PID-OF-VM, which may fail. */
int attach_try(Vm *vm, const char *build, char **text);
/* farfault attach --replace PID-OF-VM, likewise; and the same where another relay must be there. */
int attach_replace_try(Vm *vm, char **text);
void attach_replace(Vm *vm);
/* As attach_try(); it succeeds, and a new client takes the place of vm_qmp(). */
void attach_vm(Vm *vm, const char *build);
/* SIGKILL to the relay of VM, and to its engine if BOTH; returns when its clients know. */
void attach_kill_relay(Vm *vm, bool both);
/* Opens QEMU's fd of the memfd NAME once more (FLAGS of open()); -1 if it has none. */
int attach_open_memfd(Vm *vm, const char *name, int flags);

#endif
