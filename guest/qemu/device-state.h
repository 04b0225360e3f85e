/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inner migration, by which QEMU's device state comes and goes: these are functions of
 * FfVmmState (contract/vmm-state.h), for the coordinator's thread.
 */
#ifndef FF_GUEST_QEMU_DEVICE_STATE_H
#define FF_GUEST_QEMU_DEVICE_STATE_H

#include "contract/vmm.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

bool ff_qemu_save(FfVmmState *state, int *fd, GError **error);
bool ff_qemu_offer(FfVmmState *state, int *fd, GError **error);
void ff_qemu_keep(FfVmmState *state);
/* The inner migration is over: QEMU closes its copy of the engine's end. */
void ff_qemu_forget_kept(FfVmmState *state);
bool ff_qemu_wait_saved(FfVmmState *state, int status, GError **error);
bool ff_qemu_load(FfVmmState *state, int *fd, GError **error);
char *ff_qemu_machine(FfVmmState *state);

bool ff_qemu_let_save(FfVmmState *state, GError **error);
/* The error of a QEMU that has not waited for it. */
void ff_qemu_set_too_early(GError **error);
/* Source: starts the inner migration on the stream that was given or offered. */
bool ff_qemu_begin_stream(FfQemu *qemu, GError **error);
/* For an engine that adopts a migration under way: FD (taken) is what save() or load() had given
 * to the engine that died. wait_saved() and abandon() need it. */
void ff_qemu_adopt_stream(FfQemu *qemu, int fd);

#endif
