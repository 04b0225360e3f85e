/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of FfVmmRun (contract/vmm-run.h), for the coordinator's thread. */
#ifndef FF_GUEST_QEMU_RUN_H
#define FF_GUEST_QEMU_RUN_H

#include "contract/vmm.h"

bool ff_qemu_stop(FfVmmRun *run, char **before, GError **error);
/* Of FfVmmState. */
bool ff_qemu_stop_and_save(FfVmmState *state, char **before, GError **error);
bool ff_qemu_stands(FfVmmRun *run, GError **error);
bool ff_qemu_resume(FfVmmRun *run, const char *state, bool start, bool *running, GError **error);
bool ff_qemu_stood(FfVmmRun *run, GError **error);
bool ff_qemu_halt(FfVmmRun *run, GError **error);
void ff_qemu_announce(FfVmmRun *run);
GArray *ff_qemu_vcpu_threads(FfVmmRun *run);

#endif
