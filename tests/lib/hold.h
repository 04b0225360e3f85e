/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The other end of the action "hold" (base/failpoints.h) of a VM's VmConfig.faults. Any thread. */
#ifndef FF_TESTS_HOLD_H
#define FF_TESTS_HOLD_H

#include "tests/lib/vm.h"

/* Before the point is reached. */
void hold_make(Vm *vm);
/* Returns when a thread is held. */
void hold_wait(Vm *vm);
/* It continues. */
void hold_let_go(Vm *vm);

#endif
