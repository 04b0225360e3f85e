/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a guest starts with the user's own command line, and one line says so: a QEMU of tomorrow,
 * which refuses something of what the launcher adds (it is a script in front of the real one), and
 * a process that may not do what the launcher needs. What is nothing without farfault (a restore,
 * an upgrade) does not start it. And what such limits do to other commands. One thread.
 */
#include <string.h>
#include <sys/resource.h>
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

/* ---- limits ---------------------------------------------------------------------------------- */

#define PLAIN "this guest starts without farfault, and its migrations are QEMU's"
/* Of QEMU, which quits. */
#define QUITS                                                                                      \
    " -machine pc -m 32M -nodefaults -display none -S -qmp unix:\"$D/qmp\",server=on,wait=off "    \
    "-monitor stdio"
#define RUN "echo quit | \"$FARFAULT\" run -- qemu-system-x86_64" QUITS

static const struct {
    const char *name, *line;
    int status;
    const char *said; /* the one line on stderr has it; NULL: there is none */
    bool plain;       /* and PLAIN */
} limits[] = {
    {"none", RUN, 0, NULL},
    {"fsize", "ulimit -f 1024; " RUN, 0, "RLIMIT_FSIZE (ulimit -f) is ", true},
    {"fsize/nothing", "ulimit -f 0; " RUN, 0, "RLIMIT_FSIZE (ulimit -f) is 0 bytes", true},
    {"nofile", "ulimit -n 48; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 48, and farfault needs",
     true},
    {"nofile/28", "ulimit -n 28; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 28, and farfault needs",
     true},
    {"nofile/30", "ulimit -n 30; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 30, and farfault needs",
     true},
    {"nofile/40", "ulimit -n 40; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 40, and farfault needs",
     true},
    {"nofile/44", "ulimit -n 44; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 44, and farfault needs",
     true},
    {"nofile/56", "ulimit -n 56; " RUN, 0, "RLIMIT_NOFILE (ulimit -n) is 56, and farfault needs",
     true},
    {"proc", "exec unshare -m sh -c 'umount -l /proc; " RUN "'", 0, "/proc is not mounted here",
     true},
    {"proc/link",
     "ln -s \"$FARFAULT\" \"$D/qemu-system-x86_64\"; echo quit | exec unshare -m sh -c 'umount -l "
     "/proc; exec \"$D/qemu-system-x86_64\"" QUITS "'",
     0, "/proc is not mounted here", true},
    {"restore", "ulimit -f 8192; \"$FARFAULT\" restore \"$D/file\" -- qemu-system-x86_64" QUITS, 1,
     "RLIMIT_FSIZE (ulimit -f) is "},
    {"convert",
     "ulimit -f 1; \"$FARFAULT\" convert \"$D/file\" \"$D/new\"; R=$?; "
     "test ! -e \"$D/new\" && exit $R",
     1, "File too large"},
    {"full", "\"$FARFAULT\" info \"$D/file\" >/dev/full", 1, "No space left on device"},
    {"full/help", "\"$FARFAULT\" --help >/dev/full", 1, "No space left on device"},
    {"closed", "\"$FARFAULT\" --help >&-", 0, NULL},
    {"wrapper", "\"$FARFAULT\" run -- nice -n 1 qemu-system-x86_64" QUITS, 2,
     "nice is no QEMU: put it in front of farfault: nice -n 1 farfault ... -- qemu-system-x86_64"},
    {"wrapper/restore", "\"$FARFAULT\" restore \"$D/file\" -- taskset 3 qemu-system-x86_64" QUITS,
     2, "taskset is no QEMU: put it in front of farfault: taskset 3 farfault"},
    {"name", "echo quit | \"$FARFAULT\" run -- \"$D/mine\" -name qemu-system-x86_64" QUITS, 0,
     NULL},
};

static void test_limit(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autofree char *real = g_find_program_in_path("qemu-system-x86_64");
    const char *why;

    if (!vm_farfault_available(&why) || (geteuid() != 0 && !strncmp(limits[i].name, "proc", 4))) {
        g_test_skip("farfault, or root, is not there");
        return;
    }
    Vm *vm = vm_start_pc((VmConfig){.name = "saved", .memory = "32M"});
    g_autofree char *file = vm_path(vm, "file"), *mine = vm_path(vm, "mine");
    g_autofree char *link = vm_path(vm, "qemu-system-x86_64"), *qmp = vm_path(vm, "qmp");
    const char *const argv[] = {"/bin/sh", "-c", limits[i].line, NULL};

    if (strstr(limits[i].line, "$D/file")) {
        qmp_set_capability(vm_qmp(vm), "events", true);
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", file);
        qmp_expect_migration(vm_qmp(vm), "completed");
    }
    g_assert_cmpint(symlink(real, mine), ==, 0);
    g_setenv("FARFAULT", farfault, TRUE);
    g_setenv("D", vm_dir(vm), TRUE);
    g_assert_cmpint(run(&out, &err, argv), ==, limits[i].status);
    g_assert_cmpuint(count(err, "\n"), ==, limits[i].said ? 1 : 0);
    if (limits[i].said) {
        g_assert_nonnull(strstr(err, limits[i].said));
        g_assert_cmpuint(count(err, PLAIN), ==, limits[i].plain);
    }
    vm_end(vm);
}

/* Memory that is plugged later, and is too large for a file: it is QEMU's own. */
static void test_plugged(void)
{
    const rlim_t most = 64 << 20;
    struct rlimit before, low;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &before), ==, 0);
    low = (struct rlimit){MIN(most, before.rlim_max), before.rlim_max};
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &low), ==, 0);
    Vm *vm = vm_start(&(VmConfig){.name = "plugged", .launcher = VM_RUN, .memory = "32M"});
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &before), ==, 0);
    g_assert_true(qmp_has_relay(vm_qmp(vm)));
    qmp_ok(vm_qmp(vm), "object-add", "{'qom-type':'memory-backend-ram','id':'m','size':%u}",
           128u << 20);
    g_autofree char *memdev = qmp_hmp(vm_qmp(vm), "info memdev"), *said = vm_stderr(vm);
    g_assert_nonnull(strstr(memdev, "share: false"));
    g_assert_nonnull(strstr(said, "File too large: QEMU gets the client's own command"));
    vm_end(vm);
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

/* Of a QEMU that is as it was tried doctor says no more than its version. */
static void test_tried(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autofree char *real = g_find_program_in_path(g_getenv("FF_QEMU") ?: "qemu-system-x86_64");
    const char *const argv[] = {farfault, "doctor", NULL};

    if (!real) {
        g_test_skip("there is no QEMU");
        return;
    }
    g_setenv("FARFAULT_QEMU", real, TRUE);
    run(&out, &err, argv);
    g_unsetenv("FARFAULT_QEMU");
    g_assert_nonnull(strstr(out, "  QEMU "));
    g_assert_null(strstr(out, "tried"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdup_printf("/additions/%s", rows[i].name);

        g_test_add_data_func(name, GUINT_TO_POINTER(i), test_row);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        g_autofree char *name = g_strdup_printf("/limits/%s", limits[i].name);

        g_test_add_data_func(name, GUINT_TO_POINTER(i), test_limit);
    }
    g_test_add_func("/limits/plugged", test_plugged);
    g_test_add_func("/additions/takes", test_takes);
    g_test_add_func("/additions/restore", test_restore);
    g_test_add_func("/additions/doctor", test_doctor);
    g_test_add_func("/additions/tried", test_tried);
    return g_test_run();
}
