/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU of tomorrow, which refuses something of what the launcher adds: its guest starts with the
 * user's own command line, and one line says so. It is a script in front of the real one. What is
 * nothing without farfault (a restore, an upgrade) does not start it. One thread.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/vm.h"

static const struct {
    const char *name, *pattern; /* of a word, as in sh */
} rows[] = {
    {"chardev", "socket,id=farfault-private,*"},
    {"monitor", "chardev:farfault-private"},
    {"inline", "unix:fd=*"},
    {"backend", "memory-backend-file,*"},
    {"share", "*,share=on*"},
    {"ramblock-id", "*x-use-canonical-path-for-ramblock-id*"},
    {"align", "*,align=*"},
    {"memory-backend", "memory-backend=*"},
    {"incoming", "defer"},
    {"default-monitor", "vc:80Cx24C"},
    {"default-serial", "mon:stdio"},
    {"preload", NULL}, /* no word: it ends where the agent is to be loaded */
};

/* The script (g_free), in a folder of its own. */
static char *new_script(const char *pattern)
{
    g_autofree char *dir = g_dir_make_tmp("ff-additions-XXXXXX", NULL);
    g_autofree char *real = g_find_program_in_path(g_getenv("FF_QEMU") ?: "qemu-system-x86_64");
    char *path = g_build_filename(dir, "qemu-system-x86_64", NULL);
    g_autofree char *text = g_strdup_printf(
        "#!/bin/sh\n%sfor word; do case $word in %s) echo \"script: $word: what is that\" >&2; "
        "exit 1;; "
        "esac; done\nexec '%s' \"$@\"\n",
        pattern ? "" : "case $LD_PRELOAD in *farfault-agent*) kill -SEGV $$;; esac\n",
        pattern ?: "''", real);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(chmod(path, 0755), ==, 0);
    return path;
}

static void remove_script(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

static unsigned count(const char *text, const char *part)
{
    unsigned n = 0;

    while ((text = strstr(text, part))) {
        n++;
        text += strlen(part);
    }
    return n;
}

static void test_row(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *script = new_script(rows[i].pattern);
    Vm *vm = vm_start(&(VmConfig){
        .name = rows[i].name, .launcher = VM_RUN, .qemu = script, .memory = "32M", .paused = true});
    g_autofree char *memdev = qmp_hmp(vm_qmp(vm), "info memdev"), *said = vm_stderr(vm);

    g_assert_false(qmp_has_relay(vm_qmp(vm)));
    g_assert_nonnull(strstr(memdev, "share: false"));
    g_assert_cmpuint(count(said, "farfault: "), ==, 1);
    g_assert_nonnull(strstr(said, "refuses what farfault adds to its command line ("));
    g_assert_nonnull(strstr(said, "this guest starts without farfault, and its migrations are"));
    g_assert_nonnull(strstr(said, rows[i].pattern ? "what is that" : "signal 11"));
    vm_end(vm);
    remove_script(script);
}

/* Nor is anything said of one that takes all. */
static void test_takes(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *script = new_script("-nothing-of-the-kind");
    Vm *vm = vm_start(&(VmConfig){
        .name = "takes", .launcher = VM_RUN, .qemu = script, .memory = "32M", .paused = true});
    g_autofree char *said = vm_stderr(vm);

    g_assert_true(qmp_has_relay(vm_qmp(vm)));
    g_assert_null(strstr(said, "refuses"));
    vm_end(vm);
    remove_script(script);
}

/* COMMAND, with the real farfault; its exit status, and what it says (g_free). */
static int run(char **out, char **err, const char *const *argv)
{
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, out, err,
                               &status, NULL));
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* The guest would start anew, beside the one that is in the file. */
static void test_restore(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *script = new_script("memory-backend-file,*");
    Vm *vm = vm_start_pc((VmConfig){.name = "saved", .memory = "32M"});
    g_autofree char *path = vm_path(vm, "file");

    qmp_set_capability(vm_qmp(vm), "events", true);
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(vm), "completed");
    const char *const argv[] = {farfault,   "restore", path, "--",  script,
                                "-machine", "pc",      "-m", "32M", "-nodefaults",
                                "-display", "none",    NULL};
    g_assert_cmpint(run(&out, &err, argv), ==, 1);
    g_assert_cmpuint(count(err, "\n"), ==, 1);
    g_assert_nonnull(strstr(err, "refuses what farfault adds to its command line (script: "));
    vm_end(vm);
    remove_script(script);
}

static void test_doctor(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autofree char *script = new_script("chardev:farfault-private");
    const char *const argv[] = {farfault, "doctor", NULL};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_setenv("FARFAULT_QEMU", script, TRUE);
    g_assert_cmpint(run(&out, &err, argv), ==, 1);
    g_unsetenv("FARFAULT_QEMU");
    const char *line = strstr(out, "FAIL  QEMU ");
    g_assert_nonnull(line);
    g_assert_nonnull(strstr(line, "refuses what farfault adds to its command line (script: "));
    remove_script(script);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdup_printf("/additions/%s", rows[i].name);

        g_test_add_data_func(name, GUINT_TO_POINTER(i), test_row);
    }
    g_test_add_func("/additions/takes", test_takes);
    g_test_add_func("/additions/restore", test_restore);
    g_test_add_func("/additions/doctor", test_doctor);
    return g_test_run();
}
