/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See chaos-controls.h. Each control takes a snapshot of a boot sector's guest by an engine that
 * leaves something out, and a second one, by the same steps, with nothing left out: the first must
 * be found wrong, the second right.
 *
 *   again      what was kept of pages in flight is not written: the disk has read what the guest
 *              wrote meanwhile. The engine is held with a run lent until the guest has been through
 *              all of its memory.
 *   unprotect  a writer continues before its page is copied. The fault thread is held in between
 *              until the guest, which writes to one page alone, has written to it many times.
 *   later      the file is compared with the memory of a moment later.
 *   restored   one byte of the file is another: stock QEMU restores it, and the guest's counters
 *              say so.
 *
 * Thread: the test's.
 */
#include "tests/qtest/chaos-controls.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "content/image/saved.h"
#include "tests/lib/hold.h"
#include "tests/qtest/snapshot-rig.h"

#define MIB ((uint64_t)1 << 20)
#define RAM (64 * MIB)
/* Of a fault that was not found: the guest may have been at each page before the writer was, and
 * the writer at the guest's one page before the guest, where they have few processors. Nothing is
 * left out then. */
#define TRIES 8

typedef struct {
    const char *name;
    const char *wrong; /* the fault */
    const char *held;  /* where the engine is held until the guest has written; NULL: nowhere */
    bool holds_right;  /* also without the fault */
    uint64_t busy;     /* bytes that the guest writes to; 0: all */
    unsigned rate;     /* bytes per second at first, so that the guest is there before the writer */
    bool later, damage;
} Control;

const char chaos_control_names[] = "again unprotect later restored";

static const Control controls[] = {
    /* The first runs are below what is compared. */
    {"again", "snapshot/*/step/writer-again=omit", "writer-lent#12", .holds_right = true},
    {"unprotect", "snapshot/*/step/protect-copies-first=omit", "protect-read", .busy = 4096,
     .rate = 256 << 10},
    {"later", .later = true},
    {"restored", .damage = true},
};

/* ---- one snapshot ---------------------------------------------------------------------------- */

static char *faults_of(const Control *c, bool wrong)
{
    GString *s = g_string_new("snapshot/*/at/armed=hold");

    if (c->held && (wrong || c->holds_right)) {
        g_string_append_printf(s, ";snapshot/*/at/%s=hold", c->held);
    }
    if (c->wrong && wrong) {
        g_string_append_printf(s, ";%s", c->wrong);
    }
    return g_string_free(s, FALSE);
}

/* The guest has gone round, and once more from its begin to its end. */
static void let_write(Vm *vm)
{
    vm_wait_new_serial(vm, "B");
    vm_wait_serial(vm, "B");
}

/* Nobody is held from now on, at either FIFO. */
static void end_holds(Vm *vm, int gates[2])
{
    static const char *const names[] = {"hold", "held"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(vm_dir(vm), names[i], NULL);
        gates[i] = open(path, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(gates[i], >=, 0);
    }
}

/* Of the instant, or of later, at THEN. */
static void take(const Control *c, Vm *vm, bool wrong, const char *file, const char *then)
{
    Qmp *q = vm_qmp(vm);
    int gates[2];

    qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'buffer': 67108864}", file);
    hold_wait(vm);
    if (!c->later || !wrong) {
        snap_save_memory(vm, RAM, then);
    }
    hold_let_go(vm);
    if (c->held && (wrong || c->holds_right)) {
        hold_wait(vm);
        let_write(vm);
    }
    end_holds(vm, gates);
    qmp_expect(q, "RESUME");
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 0}");
    if (c->later && wrong) {
        let_write(vm);
        snap_save_memory(vm, RAM, then);
    }
    qmp_expect_migration(q, "completed");
    close(gates[0]);
    close(gates[1]);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* A counter in the middle of the guest's memory. */
static void damage(const char *file)
{
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(file, &error);
    uint64_t at = 0;
    uint8_t byte;

    g_assert_no_error(error);
    g_autoptr(FfSaved) s = ff_saved_open(in, 0, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < s->blocks->len; i++) {
        at = ff_saved_block(s, i)->size == RAM ? ff_saved_block(s, i)->pages + RAM / 2 : at;
    }
    int fd = open(file, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pread(fd, &byte, 1, (off_t)at), ==, 1);
    byte ^= 0x10;
    g_assert_cmpint(pwrite(fd, &byte, 1, (off_t)at), ==, 1);
    close(fd);
}

/* FALSE: that guest says that its memory is wrong. */
static bool is_right_restored(const char *qemu, const char *file, const BootsectConfig *boot)
{
    const char *args[] = {"-machine", "pc-i440fx-7.2", NULL};
    Vm *vm = vm_start(&(VmConfig){.name = "restored",
                                  .qemu = qemu,
                                  .memory = "64M",
                                  .args = args,
                                  .boot = boot,
                                  .incoming = "defer"});
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "events", true);
    qmp_set_capability(q, "mapped-ram", true);
    qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s'}", file);
    qmp_expect_migration(q, "completed");
    qmp_ok(q, "stop", NULL);
    g_autofree char *said = check_counters(vm, boot);
    if (said) {
        printf("# restored: %s\n", said);
    }
    vm_end(vm);
    return !said;
}

/* ---- a control ------------------------------------------------------------------------------- */

/* FALSE: the snapshot was found wrong. */
static bool is_right(const Control *c, bool wrong, const char *qemu)
{
    const char *args[] = {"-machine", "pc-i440fx-7.2", NULL};
    BootsectConfig boot = bootsect_config(RAM, c->busy, 1);
    g_autofree char *faults = faults_of(c, wrong);
    Vm *vm = vm_start(&(VmConfig){.name = "guest",
                                  .launcher = VM_RUN,
                                  .memory = "64M",
                                  .args = args,
                                  .boot = &boot,
                                  .faults = faults});
    g_autofree char *file = vm_path(vm, "file"), *then = vm_path(vm, "then");

    hold_make(vm);
    vm_wait_serial(vm, "AB");
    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-bandwidth': %u}", c->rate);
    take(c, vm, wrong, file, then);
    if (c->damage && wrong) {
        damage(file);
    }
    bool right = c->damage ? is_right_restored(qemu, file, &boot) : snap_is_equal(then, file, RAM);
    /* The guest itself is unharmed. */
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &boot));
    vm_end(vm);
    return right;
}

static bool run(const Control *c, const char *qemu)
{
    if (c->damage && !qemu) {
        printf("ok - control %s # SKIP no QEMU 10\n", c->name);
        return true;
    }
    bool wrong_found = false;
    unsigned n = 0;

    while (!wrong_found && n++ < TRIES) {
        wrong_found = !is_right(c, true, qemu);
    }
    bool right = is_right(c, false, qemu);

    printf("%s - control %s: %s (%u), and without the fault %s\n",
           wrong_found && right ? "ok" : "not ok", c->name,
           wrong_found ? "found wrong, as it is" : "NOT FOUND", n, right ? "right" : "WRONG");
    fflush(stdout);
    return wrong_found && right;
}

bool chaos_controls(const char *name)
{
    g_autofree char *qemu = vm_newer_qemu();
    unsigned n = 0;
    bool ok = true;

    for (unsigned i = 0; i < G_N_ELEMENTS(controls); i++) {
        n += !name || !strcmp(name, controls[i].name);
    }
    printf("1..%u\n", n);
    for (unsigned i = 0; i < G_N_ELEMENTS(controls); i++) {
        if (!name || !strcmp(name, controls[i].name)) {
            ok = run(&controls[i], qemu) && ok;
        }
    }
    return ok && n;
}
