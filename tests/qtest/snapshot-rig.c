/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See snapshot-rig.h. Thread: the test's. */
#include "tests/qtest/snapshot-rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "content/image/mapped.h"
#include "content/image/records.h"
#include "content/image/saved.h"
#include "tests/lib/hold.h"

#define MIB ((uint64_t)1 << 20)
#define BUSY_MIB 24

/* ---- a guest --------------------------------------------------------------------------------- */

bool snap_begin(Snap *t, const char *faults, const char *device)
{
    const char *args[64] = {"-smp", "2", device ? "-device" : NULL, device, NULL}, *why;
    unsigned n = device ? 4 : 2;

    t->boot = bootsect_config(SNAP_RAM_MIB * MIB, BUSY_MIB * MIB, 2);
    if (!(faults ? vm_faults_available : vm_farfault_available)(&why) ||
        (t->ring3 && !ring3_available(t->ring3->accel, t->qemu, &why))) {
        g_test_skip(why);
        return false;
    }
    if (faults && strstr(faults, "at/armed=hold") && !t->qemu && !vm_is_tests_qemu("7.")) {
        g_test_skip("newer QEMUs hold their big lock while the engine is held: no monitor answers");
        return false;
    }
    for (unsigned i = 0; t->args && t->args[i]; i++) {
        g_assert_cmpuint(n, <, G_N_ELEMENTS(args) - 1);
        args[n++] = t->args[i];
    }
    t->vm = vm_start(&(VmConfig){.name = "guest",
                                 .launcher = VM_RUN,
                                 .qemu = t->qemu,
                                 .memory = t->args ? NULL : G_STRINGIFY(SNAP_RAM_MIB) "M",
                                 .args = args,
                                 .boot = t->ring3 ? NULL : &t->boot,
                                 .ring3 = t->ring3,
                                 .listens = t->listens,
                                 .faults = faults});
    t->path = vm_path(t->vm, "file");
    hold_make(t->vm);
    vm_wait_ready(t->vm);
    qmp_set_capability(vm_qmp(t->vm), "events", true);
    return true;
}

void snap_ask_with(Snap *t, const char *more)
{
    qmp_ok(vm_qmp(t->vm), "x-farfault-snapshot", "{'file': '%s'%s}", t->path, more);
}

void snap_ask(Snap *t)
{
    snap_ask_with(t, "");
}

void snap_slow_down(Snap *t)
{
    qmp_ok(vm_qmp(t->vm), "migrate-set-parameters", "{'max-bandwidth': 1048576}");
}

void snap_wait_held(Snap *t)
{
    hold_wait(t->vm);
}

void snap_let_go(Snap *t)
{
    hold_let_go(t->vm);
}

/* Thread TASK (a folder of /proc) is in openat() of a file whose path ends with END. One that was
 * woken out of another openat(), and has not run since, is still in that. */
static bool is_opening(pid_t pid, const char *task, const char *end)
{
    g_autofree char *path = g_build_filename(task, "syscall", NULL), *call = NULL;
    g_autofree char *mem = g_strdup_printf("/proc/%d/mem", pid);
    uint64_t number, at;
    char file[4096] = "";

    if (!g_file_get_contents(path, &call, NULL, NULL) ||
        sscanf(call, "%" G_GUINT64_FORMAT " %*x %" G_GINT64_MODIFIER "x", &number, &at) != 2 ||
        number != SYS_openat) {
        return false;
    }
    int fd = open(mem, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, file, sizeof(file) - 1, (off_t)at);
    if (fd >= 0) {
        close(fd);
    }
    return n > 0 && g_str_has_suffix(file, end);
}

/* Threads of PID that open the FIFO "hold", of which nobody has the other end (fs/pipe.c). */
static unsigned count_waiting(pid_t pid)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *name;
    unsigned n = 0;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *task = g_build_filename(tasks, name, NULL);
        g_autofree char *path = g_build_filename(task, "wchan", NULL), *where = NULL;
        n += g_file_get_contents(path, &where, NULL, NULL) && !strcmp(where, "wait_for_partner") &&
             is_opening(pid, task, "/hold");
    }
    return n;
}

void snap_let_both_go(Snap *t)
{
    int64_t end = test_deadline(20);

    /* Where /proc does not say it they are given the time that is left. */
    while (count_waiting(vm_engine(t->vm)) < 2 && g_get_monotonic_time() < end) {
        g_thread_yield();
    }
    snap_let_go(t);
}

static char *error_desc(Snap *t)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(t->vm), "query-migrate", NULL);

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "failed");
    return g_strdup(json_object_get_string_member(info, "error-desc"));
}

void snap_expect_error(Snap *t, const char *text)
{
    g_autofree char *desc = error_desc(t);

    if (!strstr(desc, text)) {
        test_fail("error-desc is not about \"%s\": %s", text, desc);
    }
}

void snap_expect_no_file(const Snap *t)
{
    g_autofree char *base = g_path_get_basename(t->path);
    g_autoptr(GDir) dir = g_dir_open(vm_dir(t->vm), 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, base)) {
            test_fail("%s is there", name);
        }
    }
}

void snap_expect_running(Snap *t)
{
    g_autofree char *state = qmp_run_state(vm_qmp(t->vm));

    g_assert_cmpstr(state, ==, "running");
    vm_wait_works(t->vm);
}

void snap_end(Snap *t)
{
    snap_expect_running(t);
    qmp_ok(vm_qmp(t->vm), "stop", NULL);
    check_right(check_counters(t->vm, &t->boot));
    g_free(t->path);
    vm_end(t->vm);
}

void snap_expect_settings(Snap *t)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(t->vm), "query-migrate-capabilities", NULL);
    JsonArray *list = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *c = json_array_get_object_element(list, i);
        bool on = json_object_get_boolean_member(c, "state");
        g_assert_true(!on || !g_strcmp0(json_object_get_string_member(c, "capability"), "events"));
    }
}

/* ---- what is in the file --------------------------------------------------------------------- */

typedef struct {
    uint8_t *ram;
    FfSaved *s;
    guint block; /* of the guest's RAM */
} Image;

static guint ram_block(const FfSaved *s, uint64_t ram)
{
    for (guint i = 0; i < s->blocks->len; i++) {
        if (ff_saved_block(s, i)->size == ram) {
            return i;
        }
    }
    g_error("the file has no block of %" G_GUINT64_FORMAT " bytes", ram);
}

static bool add_page(void *opaque, guint block, uint64_t page, const uint8_t *bytes, GError **error)
{
    Image *i = opaque;

    if (block == i->block) {
        memcpy(i->ram + page * FF_SAVED_PAGE, bytes, FF_SAVED_PAGE);
    }
    return true;
}

static bool add_zero(void *opaque, guint block, uint64_t page, GError **error)
{
    return true;
}

static bool add_run(void *opaque, uint64_t first, uint64_t n, GError **error)
{
    Image *i = opaque;

    return ff_input_read(i->s->in, ff_saved_block(i->s, i->block)->pages + first * FF_SAVED_PAGE,
                         i->ram + first * FF_SAVED_PAGE, n * FF_SAVED_PAGE, error);
}

uint8_t *snap_read(const char *path, uint64_t ram)
{
    static const FfPageSink sink = {add_page, add_zero};
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(path, &error);

    g_assert_no_error(error);
    g_autoptr(FfSaved) s = ff_saved_open(in, 0, &error);
    g_assert_no_error(error);
    Image i = {.ram = g_malloc0(ram), .s = s, .block = ram_block(s, ram)};
    bool ok = s->form == FF_SAVED_MAPPED
                  ? ff_mapped_runs(s, ff_saved_block(s, i.block), add_run, &i, &error)
                  : ff_records_walk(s, &sink, &i, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    return i.ram;
}

/* ---- the comparison -------------------------------------------------------------------------- */

/* From 1 MiB on: below that the memory is not all the block's. */
void snap_save_memory(Vm *vm, uint64_t ram, const char *path)
{
    qmp_ok(vm_qmp(vm), "pmemsave",
           "{'val': %" G_GUINT64_FORMAT ", 'size': %" G_GUINT64_FORMAT ", 'filename': '%s'}", MIB,
           ram - MIB, path);
}

bool snap_is_equal(const char *path, const char *file, uint64_t ram)
{
    g_autofree char *then = NULL;
    g_autofree uint8_t *saved = snap_read(file, ram);
    gsize n;

    g_assert_true(g_file_get_contents(path, &then, &n, NULL));
    g_assert_cmpuint(n, ==, ram - MIB);
    for (uint64_t at = 0; at < n; at += FF_SAVED_PAGE) {
        if (memcmp(then + at, saved + MIB + at, FF_SAVED_PAGE) != 0) {
            g_test_message("the page at %#" G_GINT64_MODIFIER "x differs", MIB + at);
            return false;
        }
    }
    return true;
}
