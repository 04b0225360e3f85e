/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU behind contract/vmm.h: the object, and which file answers what. All files of this folder
 * that have it stand below this one.
 *
 * Threads: made and freed by one that nobody else's calls overlap. No lock.
 */
#include "guest/qemu/vmm-qemu.h"

#include <fcntl.h>
#include <unistd.h>

#include "guest/qemu/backends.h"
#include "guest/qemu/device-state.h"
#include "guest/qemu/disks.h"
#include "guest/qemu/internal.h"
#include "guest/qemu/nested-virtualisation.h"
#include "guest/qemu/ramblock.h"
#include "guest/qemu/run.h"
#include "guest/qemu/settings.h"
#include "guest/qemu/status.h"

static GPtrArray *memory_blocks(FfVmmMemory *memory)
{
    return ff_qemu_of_memory(memory)->blocks;
}

static void block_free(void *data)
{
    FfRamBlock *block = data;
    if (block->memfd >= 0) {
        close(block->memfd);
    }
    g_free(block->id);
    g_free(block);
}

FfQemu *ff_qemu_new(const FfQemuConfig *config)
{
    FfQemu *qemu = g_new0(FfQemu, 1);

    qemu->vmm = (FfVmm){
        .run = {.stop = ff_qemu_stop,
                .stands = ff_qemu_stands,
                .resume = ff_qemu_resume,
                .stood = ff_qemu_stood,
                .halt = ff_qemu_halt,
                .announce = ff_qemu_announce,
                .vcpu_threads = ff_qemu_vcpu_threads},
        .memory = {.check = ff_qemu_check,
                   .blocks = memory_blocks,
                   .address = ff_qemu_address,
                   .untrackable = ff_qemu_untrackable,
                   .drain = ff_qemu_drain,
                   .log_begin = ff_qemu_log_begin,
                   .log_take = ff_qemu_log_take,
                   .log_whole = ff_qemu_log_whole,
                   .log_end = ff_qemu_log_end,
                   .devices_stand = ff_qemu_devices_stand,
                   .devices_leave = ff_qemu_devices_leave,
                   .devices_take = ff_qemu_devices_take,
                   .devices_known = ff_qemu_devices_known,
                   .all_here = ff_qemu_all_here,
                   .gives_back = ff_qemu_gives_back,
                   .saved_before = ff_qemu_saved_before,
                   .use = ff_qemu_block_use,
                   .backends = ff_qemu_backends},
        .state = {.keeps_suspended = ff_qemu_keeps_suspended,
                  .prepare = ff_qemu_prepare,
                  .unset_tls = ff_qemu_unset_tls,
                  .undo = ff_qemu_undo,
                  .put_back = ff_qemu_put_back,
                  .save = ff_qemu_save,
                  .offer = ff_qemu_offer,
                  .stop_and_save = ff_qemu_stop_and_save,
                  .let_save = ff_qemu_let_save,
                  .keep = ff_qemu_keep,
                  .forget_kept = ff_qemu_forget_kept,
                  .keep_pact = ff_qemu_keep_pact,
                  .forget_pact = ff_qemu_forget_pact,
                  .wait_saved = ff_qemu_wait_saved,
                  .leave = ff_qemu_leave,
                  .machine = ff_qemu_machine,
                  .parts = ff_qemu_parts,
                  .load = ff_qemu_load,
                  .abandon = ff_qemu_abandon,
                  .doom = ff_qemu_doom},
        .disks = {.flush = ff_qemu_flush_disks,
                  .branch = ff_qemu_branch_disks,
                  .describe = ff_qemu_describe_disks},
    };
    qemu->qmp = ff_qmp_client_ref(config->qmp);
    qemu->state = config->state;
    qemu->blocks = g_ptr_array_new_with_free_func(block_free);
    for (guint i = 0; config->ram && i < config->ram->len; i++) {
        FfRamBlock *copy = g_memdup2(config->ram->pdata[i], sizeof(FfRamBlock));
        copy->id = g_strdup(copy->id);
        copy->gpa = 0;
        /* Its number would be another file's when that block is replaced. -1: no migration. */
        copy->memfd = fcntl(copy->memfd, F_DUPFD_CLOEXEC, 0);
        g_ptr_array_add(qemu->blocks, copy);
    }
    qemu->name = g_strdup(config->name ? config->name : "guest");
    qemu->qemu_pid = config->qemu_pid;
    qemu->backends = config->backends;
    qemu->cancel = config->cancel ? g_object_ref(config->cancel) : NULL;
    qemu->deadline_ms = config->deadline_ms;
    qemu->stream = qemu->their_end = -1;
    ff_mutex_init(&qemu->undo_lock);
    return qemu;
}

void ff_qemu_free(FfQemu *qemu)
{
    ff_qemu_adopt_stream(qemu, -1);
    ff_qemu_log_end(&qemu->vmm.memory);
    g_clear_pointer(&qemu->since_stop, ff_qmp_watch_free);
    g_clear_pointer(&qemu->suspends, ff_qmp_watch_free);
    g_clear_pointer(&qemu->memory_back, ff_qmp_call_drop);
    g_ptr_array_unref(qemu->blocks);
    g_free(qemu->name);
    g_free(qemu->machine);
    g_free(qemu->nested_at_stop);
    g_clear_object(&qemu->cancel);
    ff_qmp_client_unref(qemu->qmp);
    ff_mutex_clear(&qemu->undo_lock);
    g_free(qemu);
}

FfVmm *ff_qemu_vmm(FfQemu *qemu)
{
    return &qemu->vmm;
}
