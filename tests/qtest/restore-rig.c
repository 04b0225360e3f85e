/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See restore-rig.h. */
#include "tests/qtest/restore-rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/hold.h"

Vm *restore_start(const RestoreScene *s, RestoreVersion version, bool incoming, const char *memory,
                  const char *faults)
{
    g_autofree char *cpus = g_strdup_printf("%u", s->row->n_cpus);
    const char *args[32] = {"-machine", s->row->machine, "-smp", cpus};

    for (unsigned i = 0; s->row->args && s->row->args[i]; i++) {
        g_assert_cmpuint(i, <, G_N_ELEMENTS(args) - 5);
        args[4 + i] = s->row->args[i];
    }
    return vm_start(&(VmConfig){.name = incoming ? "restored" : "saved",
                                .launcher = !incoming && s->row->saver == STOCK ? VM_PLAIN : VM_RUN,
                                .qemu = version == OLD ? "qemu-system-x86_64" : s->newer,
                                .memory = memory,
                                .args = args,
                                .boot = s->row->ring3 ? NULL : &s->boot,
                                .ring3 = s->row->ring3,
                                .faults = faults,
                                .incoming = incoming ? "defer" : NULL});
}

Vm *restore_start_again(const RestoreScene *s, const char *faults)
{
    Vm *vm = restore_start(s, s->row->to, true,
                           s->row->size ? s->row->size : G_STRINGIFY(RESTORE_RAM_MIB) "M", faults);

    qmp_set_capability(vm_qmp(vm), "events", true);
    return vm;
}

/* ---- saving ---------------------------------------------------------------------------------- */

static void compress(RestoreScene *s)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *offset = g_strdup_printf("%" G_GUINT64_FORMAT, s->row->offset);
    g_autofree char *packed = g_strconcat(s->path, ".zst", NULL);
    const char *const argv[] = {farfault, "convert", "--compress", "--offset",
                                offset,   s->path,   packed,       NULL};
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                               NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(rename(packed, s->path), ==, 0);
}

static void save(RestoreScene *s)
{
    Qmp *q = vm_qmp(s->saved);

    vm_wait_ready(s->saved);
    qmp_set_capability(q, "events", true);
    if (s->row->stopped) {
        qmp_ok(q, "stop", NULL);
    }
    if (s->row->saver == OURS) {
        qmp_ok(q, "x-farfault-snapshot", "{'file': '%s', 'offset': %" G_GUINT64_FORMAT "}", s->path,
               s->row->offset);
    } else {
        /* As "virsh save" does: stopped first, so that it comes to an end. */
        qmp_ok(q, "stop", NULL);
        qmp_set_capability(q, "mapped-ram", true);
        qmp_ok(q, "migrate", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", s->path,
               s->row->offset);
    }
    qmp_expect_migration(q, "completed");
    if (s->row->compressed) {
        compress(s);
    }
}

bool restore_begin(RestoreScene *s, const RestoreRow *row)
{
    const char *why;

    *s = (RestoreScene){.row = row};
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    if ((row->from == OLD || row->to == OLD) && !vm_is_qemu("qemu-system-x86_64", "7.2")) {
        g_test_skip("the installed QEMU is not 7.2");
        return false;
    }
    if (row->from != OLD || row->to != OLD) {
        s->newer = vm_qemu(MAX(row->from, row->to) == NEW ? 10 : 11);
        if (!s->newer) {
            return false;
        }
    }
    if (row->ring3 && !ring3_available(row->ring3->accel, NULL, &why)) {
        g_test_skip(why);
        return false;
    }
    s->boot = bootsect_config((uint64_t)RESTORE_RAM_MIB << 20, (uint64_t)RESTORE_BUSY_MIB << 20,
                              row->n_cpus);
    s->saved = restore_start(s, row->from, false,
                             row->size ? row->size : G_STRINGIFY(RESTORE_RAM_MIB) "M", NULL);
    s->path = vm_path(s->saved, "file");
    save(s);
    return true;
}

void restore_end(RestoreScene *s)
{
    if (s->saved && !s->shared) {
        vm_end(s->saved);
    }
    g_free(s->path);
    g_free(s->newer);
}

const RestoreRow restore_plain = {"plain",    OURS, OLD, OLD, COMMAND, .machine = RESTORE_PC,
                                  .n_cpus = 2};
static RestoreScene first; /* of it; saved once */

void restore_copy(RestoreScene *s, const RestoreScene *of)
{
    static unsigned n;
    g_autofree char *name = g_strdup_printf("copy-%u", n++);
    int status;

    *s = *of;
    s->shared = true;
    s->newer = g_strdup(of->newer);
    s->path = vm_path(s->saved, name);
    const char *const argv[] = {"cp", "--sparse=always", of->path, s->path, NULL};
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

bool restore_begin_plain(RestoreScene *s)
{
    *s = (RestoreScene){.row = &restore_plain};
    if (!first.saved && !restore_begin(&first, &restore_plain)) {
        return false;
    }
    restore_copy(s, &first);
    return true;
}

/* ---- restoring ------------------------------------------------------------------------------- */

void restore_ask_with(const RestoreScene *s, Vm *vm, const char *path, const char *more)
{
    qmp_ok(vm_qmp(vm), "x-farfault-restore", "{'file': '%s', 'offset': %" G_GUINT64_FORMAT "%s}",
           path, s->row->offset, more);
}

void restore_ask(const RestoreScene *s, Vm *vm, const char *path)
{
    Qmp *q = vm_qmp(vm);
    g_autofree char *offset =
        s->row->offset ? g_strdup_printf(", 'offset': %" G_GUINT64_FORMAT, s->row->offset)
                       : g_strdup("");

    if (s->row->way == INCOMING) {
        qmp_set_capability(q, "mapped-ram", true);
        qmp_set_capability(q, "postcopy-ram", true);
        qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", path,
               s->row->offset);
    } else if (s->row->way == BY_FD) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        g_assert_cmpint(fd, >=, 0);
        qmp_getfd(q, "saved", fd);
        close(fd);
        qmp_ok(q, "x-farfault-restore", "{'fdname': 'saved'%s}", offset);
    } else {
        qmp_ok(q, "x-farfault-restore", "{'file': '%s'%s}", path, offset);
    }
}

void restore_check_info(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "completed");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    g_assert_true(json_object_has_member(own, "restore"));
}

void restore_check_goes_on(const RestoreScene *s, Vm *vm)
{
    vm_wait_works(vm);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &s->boot));
    qmp_ok(vm_qmp(vm), "cont", NULL);
    vm_wait_works(vm);
}

void restore_check_restored(const RestoreScene *s, Vm *vm)
{
    g_autofree char *state = qmp_run_state(vm_qmp(vm));
    bool stood = s->row->stopped || s->row->saver == STOCK;

    /* Of a guest that stands QEMU says so when it is saved, and cont lets it continue as well. */
    if (!(stood && s->may_be_saved && !strcmp(state, "postmigrate"))) {
        g_assert_cmpstr(state, ==, stood ? "paused" : "running");
    }
    if (s->row->stopped) {
        check_right(check_equal(s->saved, vm, 1 << 20, (uint64_t)RESTORE_RAM_MIB << 20));
    }
    if (stood) {
        qmp_ok(vm_qmp(vm), "cont", NULL);
    }
    restore_check_goes_on(s, vm);
}

void restore_rig_end(void)
{
    restore_end(&first);
}

bool restore_has_faults(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

char *restore_error_desc(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    return g_strdup(json_object_get_string_member(info, "error-desc"));
}

void restore_recovers(const RestoreScene *s, Vm *vm, const char *path)
{
    qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': '%s%s'}",
           strstr(path, "://") ? "" : "file:", path);
    qmp_expect_migration(vm_qmp(vm), "postcopy-recover");
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    qmp_expect_migration(vm_qmp(vm), "completed");
    restore_check_restored(s, vm);
}

/* ---- one that does not come to its end ------------------------------------------------------- */

static int gates[2]; /* of RESTORE_HELD, while they are open */

void restore_release(Vm *vm)
{
    static const char *const names[] = {"held", "hold"};

    for (unsigned i = 0; i < G_N_ELEMENTS(gates); i++) {
        g_autofree char *path = vm_path(vm, names[i]);

        gates[i] = open(path, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(gates[i], >=, 0);
    }
}

Vm *restore_begin_held(RestoreScene *s)
{
    *s = (RestoreScene){0};
    return restore_has_faults() && restore_begin_plain(s) ? restore_start_held(s) : NULL;
}

Vm *restore_start_held(const RestoreScene *s)
{
    Vm *vm = restore_start_again(s, RESTORE_HELD);

    hold_make(vm);
    restore_ask(s, vm, s->path);
    qmp_expect_migration(vm_qmp(vm), "setup");
    qmp_expect_migration(vm_qmp(vm), "active");
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    hold_wait(vm);
    return vm;
}

void restore_end_held(RestoreScene *s, Vm *vm)
{
    if (vm) {
        vm_end(vm);
        for (unsigned i = 0; i < G_N_ELEMENTS(gates); i++) {
            close(gates[i]);
        }
    }
    restore_end(s);
}
