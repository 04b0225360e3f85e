/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each command of farfault says to a command line that cannot work: its help, one line that
 * names what is wrong, and an exit status that its manual page has. No QEMU runs.
 *
 * "none/..." are files, sockets and folders that are not there; "text" is a file of one line,
 * "secret" one that may not be read, "locked" a folder that may not be entered.
 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/vm.h"

static char *dir;    /* with the files; commands run there */
static char *manual; /* the folder of the manual pages */
static int program;  /* of the build; executed by number, as another user cannot come to its path */

typedef struct {
    const char *command;
    const char *misspelled, *meant; /* an option of its own */
} Command;

static const Command commands[] = {
    {"run", "--polcy=auto", "--policy"}, {"migrate", "--postcopy-nwo", "--postcopy-now"},
    {"status", "--jsno", "--json"},      {"report", "--hlep", "--help"},
    {"metrics", "--lisen", "--listen"},  {"dump", "--chekc", "--check"},
    {"recover", "--form", "--from"},     {"end", "--loose-guest", "--lose-guest"},
    {"join", "--froce", "--force"},      {"snapshot", "--bufer", "--buffer"},
    {"restore", "--learm", "--learn"},   {"upgrade", "--chek", "--check"},
    {"info", "--ofset", "--offset"},     {"convert", "--compres", "--compress"},
    {"attach", "--hepl", "--help"},      {"pager", "--lisetn", "--listen"},
    {"doctor", "--hlp", "--help"},
};

typedef struct {
    const char *line; /* arguments, separated by blanks */
    int status;
    const char *says;
    bool other; /* by a user who may do nothing here */
} Row;

#define NO_SOCKET "no such socket: start QEMU with -qmp"
#define NO_DESTINATION "no such socket: its QEMU has ended"
#define NOBODY "connection refused: no QEMU listens at this port"
#define NOT_ONE "that is no socket"
#define DENIED "ermission denied"
static const Row rows[] = {
    /* a file that is not there, and one that is not what is wanted */
    {"report none/record page.html", 1, "none/record: No such file"},
    {"report text page.html", 1, "text: is no record of farfault's"},
    {"info none/file", 1, "none/file: No such file or directory: give the path of a saved guest"},
    {"info text", 1, "text: no saved guest"},
    {"info --offset x text", 2, "--offset x: not a number of bytes"},
    {"convert none/file out", 1, "none/file: No such file"},
    {"convert text out", 1, "text: no saved guest"},
    {"convert text", 2, "give two files"},
    {"restore none/file -- qemu-system-x86_64", 1, "none/file: No such file or directory: give "},
    {"restore text -- qemu-system-x86_64", 1, "text: no saved guest"},
    {"join none/a none/b out", 1, "none/a: No such file"},
    {"dump --check none/a none/b", 1, "none/a"},
    {"pager --listen socket --from none/file", 1, "none/file: No such file"},
    {"pager --to none/socket --from none", 1, "none/migration_config.json: there is none"},
    {"metrics --output none/file", 1, "--output: "},
    {"run none/qemu", 127, "cannot run none/qemu: No such file"},
    {"run qemu-system-none", 127, "there is no qemu-system-none on PATH"},
    /* a value that was forgotten */
    {"migrate --bandwidth none/a none/b", 2, "--bandwidth none/a: give bytes per second"},
    {"migrate --postcopy-after none/a none/b", 2, "--postcopy-after none/a: give a number of"},
    {"migrate --parameter none/a none/b", 2, "--parameter none/a: give NAME=VALUE"},
    {"snapshot --buffer none/qmp out", 2, "--buffer none/qmp: give a number of bytes"},
    {"snapshot --format none/qmp out", 2, "--format mapped-ram or"},
    {"restore --offset text -- qemu-system-x86_64", 2, "--offset text: give a number of bytes"},
    /* no monitor */
    {"migrate none/a none/b", 1, NO_SOCKET},
    {"migrate none/a none/a", 2, "source and destination are the same monitor"},
    {"status none/qmp", 1, NO_SOCKET},
    {"status --watch none/qmp", 1, NO_SOCKET},
    {"dump none/qmp out", 1, NO_SOCKET},
    {"recover --from none/dump none/qmp", 1, NO_DESTINATION},
    {"end none/qmp", 1, NO_DESTINATION},
    {"snapshot none/qmp out", 1, NO_SOCKET},
    {"upgrade none/qmp", 1, NO_SOCKET},
    {"attach none/qmp", 1, "no guest of farfault that you may look at has its QMP socket at"},
    {"attach 999999999", 1, "there is no process 999999999"},
    /* a file in place of a monitor */
    {"migrate text none/b", 1, NOT_ONE},
    {"status text", 1, NOT_ONE},
    {"dump text out", 1, NOT_ONE},
    {"end text", 1, NOT_ONE},
    {"snapshot text out", 1, NOT_ONE},
    {"upgrade text", 1, NOT_ONE},
    /* a port at which nobody listens (tcpmux), and what is none */
    {"migrate tcp:127.0.0.1:1 none/b", 1, NOBODY},
    {"status tcp:127.0.0.1:1", 1, NOBODY},
    {"dump tcp:127.0.0.1:1 out", 1, NOBODY},
    {"migrate --resume none/a none/b", 1, "Cannot connect to destination none/b: " NO_DESTINATION},
    {"migrate --resume --preempt a b", 2, "--resume continues a migration as it was begun"},
    {"recover --from none tcp:127.0.0.1:1", 1, NOBODY},
    {"end tcp:127.0.0.1:1", 1, NOBODY},
    {"snapshot tcp:127.0.0.1:1 out", 1, NOBODY},
    {"upgrade tcp:127.0.0.1:1", 1, NOBODY},
    {"status tcp:127.0.0.1:x", 1, "\"tcp:127.0.0.1:x\" is no tcp address: give tcp:HOST:PORT"},
    {"metrics --listen 127.0.0.1:x", 2, "--listen 127.0.0.1:x: give PORT"},
    /* no permission */
    {"report secret page.html", 1, DENIED, true},
    {"info secret", 1, DENIED, true},
    {"convert secret out", 1, DENIED, true},
    {"restore secret -- qemu-system-x86_64", 1, DENIED, true},
    {"join locked/a locked/b out", 1, DENIED, true},
    {"pager --listen socket --from secret", 1, DENIED, true},
    {"metrics --output locked/file", 1, DENIED, true},
    {"run locked/qemu", 127, DENIED, true},
    {"status locked/qmp", 1, "run as the user who owns the socket, or as root", true},
    {"migrate locked/a locked/b", 1, "run as the user who owns the socket, or as root", true},
    {"snapshot locked/qmp out", 1, "run as the user who owns the socket, or as root", true},
    {"end locked/qmp", 1, "run as the user who owns the socket, or as root", true},
    {"upgrade locked/qmp", 1, "run as the user who owns the socket, or as root", true},
    {"attach 1", 1, "attach: ", true},
};

static void become_nobody(void *opaque)
{
    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0)) {
        _exit(99);
    }
}

/* LINE's exit status; what it said (g_free). SETUP: in its process before; can be NULL. */
static int run_after(const char *line, GSpawnChildSetupFunc setup, void *opaque, char **out,
                     char **err)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", program);
    g_autofree char *whole = g_strconcat(path, " ", line, NULL);
    g_auto(GStrv) argv = g_strsplit(whole, " ", -1);
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(dir, argv, NULL, G_SPAWN_LEAVE_DESCRIPTORS_OPEN, setup, opaque, out, err, &status,
                 &error);
    g_assert_no_error(error);
    if (!WIFEXITED(status)) {
        g_error("%s: ended by signal %d", line, WTERMSIG(status));
    }
    return WEXITSTATUS(status);
}

static int run(const char *line, bool other, char **out, char **err)
{
    return run_after(line, other ? become_nobody : NULL, NULL, out, err);
}

static void check_line(const char *line, const char *err, const char *says)
{
    const char *end = strchr(err, '\n');

    if (!end || end[1] || !g_str_has_prefix(err, "farfault: ") || !strstr(err, says)) {
        g_error("farfault %s: not one line with '%s': %s", line, says, err);
    }
}

/* The section of its manual page names STATUS. */
static void check_documented(const char *command, int status)
{
    g_autofree char *path = g_strdup_printf("%s/farfault-%s.1", manual, command);
    g_autofree char *word = g_strdup_printf("\\b%d\\b", status), *page = NULL;
    g_autoptr(GError) error = NULL;

    g_file_get_contents(path, &page, NULL, &error);
    g_assert_no_error(error);
    const char *section = strstr(page, ".Sh EXIT STATUS");
    g_assert_nonnull(section);
    if (!g_regex_match_simple(word, section, 0, 0) &&
        !(strstr(section, "That of QEMU") && status == 127)) {
        g_error("%s does not say what status %d means", path, status);
    }
}

static void test_help(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        const Command *c = &commands[i];
        g_autofree char *line = g_strconcat(c->command, " --help", NULL);
        g_autofree char *begin = g_strconcat("Usage: farfault ", c->command, NULL);
        g_autofree char *out = NULL, *err = NULL;

        g_assert_cmpint(run(line, false, &out, &err), ==, 0);
        g_assert_true(g_str_has_prefix(out, begin));
        g_assert_cmpstr(err, ==, "");
        check_documented(c->command, 2);
    }
}

static void test_options(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        const Command *c = &commands[i];
        const char *options[] = {c->misspelled, "--nonsense"};

        for (unsigned k = 0; k < G_N_ELEMENTS(options); k++) {
            g_autofree char *line = g_strdup_printf("%s %s", c->command, options[k]);
            g_autofree char *meant = g_strdup_printf("did you mean \"%s\"?", c->meant);
            g_autofree char *out = NULL, *err = NULL;
            int status = run(line, false, &out, &err);

            check_line(line, err, "unknown option");
            check_line(line, err, k ? "(there are --" : meant);
            g_assert_cmpint(status, ==, 2);
            g_assert_cmpstr(out, ==, "");
        }
    }
}

/* All commands that there are have been asked. */
static void test_all(void)
{
    g_autofree char *out = NULL, *err = NULL;

    g_assert_cmpint(run("--help", false, &out, &err), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *at = g_strdup_printf("\n  %s ", commands[i].command);
        g_assert_nonnull(strstr(out, at));
    }
    const char *list = strstr(out, "Commands:\n");
    unsigned n = 0;
    for (const char *p = list; p && (p = strstr(p, "\n  ")) && g_ascii_islower(p[3]); p++) {
        n++;
    }
    g_assert_cmpuint(n, ==, G_N_ELEMENTS(commands) + 1); /* and "help" */
}

/* What stands in place of a command. */
static void test_commands(void)
{
    static const char *const lines[][2] = {
        {"--versio", "unknown option \"--versio\", did you mean \"--version\"?"},
        {"--hepl", "did you mean \"--help\"?"},
        {"--nonsense", "(there are --version, --help)"},
        {"resume", "farfault migrate --resume SOURCE-QMP DESTINATION-QMP"},
        {"statsu", "there is no command \"statsu\", did you mean \"status\"?"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autofree char *out = NULL, *err = NULL;

        g_assert_cmpint(run(lines[i][0], false, &out, &err), ==, 2);
        check_line(lines[i][0], err, lines[i][1]);
        g_assert_cmpstr(out, ==, "");
    }
}

static void test_row(const void *data)
{
    const Row *r = data;
    g_autofree char *out = NULL, *err = NULL;
    g_auto(GStrv) words = g_strsplit(r->line, " ", 2);
    int status = run(r->line, r->other, &out, &err);

    check_line(r->line, err, r->says);
    g_assert_cmpint(status, ==, r->status);
    g_assert_cmpstr(out, ==, "");
    check_documented(words[0], status);
}

/* ---- doctor ---------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *module, *parameter; /* the one that is loaded, and its "nested" */
    bool on;
} Kvm;

static const Kvm kvms[] = {
    {"intel/y", "kvm_intel", "Y\n", true}, {"intel/1", "kvm_intel", "1\n", true},
    {"intel/n", "kvm_intel", "N\n"},       {"intel/0", "kvm_intel", "0\n"},
    {"amd/1", "kvm_amd", "1\n", true},     {"amd/0", "kvm_amd", "0\n"},
    {"intel/none", "kvm_intel"},           {"none"},
};

/* A /sys/module that only this process sees. */
static void load_module(void *opaque)
{
    static const char modules[] = "/sys/module";
    const Kvm *k = opaque;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("modules", modules, "tmpfs", 0, NULL) < 0) {
        _exit(77);
    }
    if (k->module) {
        g_autofree char *folder = g_build_filename(modules, k->module, "parameters", NULL);
        g_autofree char *file = g_build_filename(folder, "nested", NULL);
        if (g_mkdir_with_parents(folder, 0755) < 0 ||
            (k->parameter && !g_file_set_contents(file, k->parameter, -1, NULL))) {
            _exit(99);
        }
    }
}

/* What else it says is this host's business, and so is whether something fails. */
static void test_nested(const void *data)
{
    Kvm k = *(const Kvm *)data;
    g_autofree char *out = NULL, *err = NULL;
    int status = run_after("doctor", load_module, &k, &out, &err);

    if (status == 77) {
        g_test_skip("may not mount");
        return;
    }
    g_assert_cmpint(status, <=, 1);
    g_assert_true(g_regex_match_simple("^(ok|FAIL|warn) +kernel ", out, G_REGEX_MULTILINE, 0));
    const char *line = strstr(out, "nested KVM");
    g_assert_true(!line == !k.on);
    if (line) {
        g_autofree char *expected =
            g_strdup_printf("\nok    nested KVM       on (%s): QEMU carries guests that use it, "
                            "farfault those that only could\n",
                            k.module);
        g_assert_nonnull(strstr(out, expected));
        g_assert_null(strstr(line + 1, "nested KVM"));
    }
}

static const char *const ksms[] = {"1\n", "0\n", "2\n", NULL};

/* A /sys/kernel/mm/ksm that only this process sees. */
static void set_ksm(void *opaque)
{
    static const char folder[] = "/sys/kernel/mm/ksm";

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("ksm", folder, "tmpfs", 0, NULL) < 0) {
        _exit(77);
    }
    g_autofree char *file = g_build_filename(folder, "run", NULL);
    if (opaque && !g_file_set_contents(file, opaque, -1, NULL)) {
        _exit(99);
    }
}

/* Guests' shared memory is not merged: said where it could be expected. */
static void test_ksm(const void *data)
{
    char *run = *(char *const *)data;
    g_autofree char *out = NULL, *err = NULL;
    int status = run_after("doctor", set_ksm, run, &out, &err);

    if (status == 77) {
        g_test_skip("may not mount");
        return;
    }
    g_assert_cmpint(status, <=, 1);
    bool warned = g_regex_match_simple("^warn +KSM +is on", out, G_REGEX_MULTILINE, 0);
    g_assert_true(warned == (run && *run == '1'));
}

/* Of a file in place of the device, which nobody can use: what is in group kvm, and for root alone.
 */
typedef struct {
    const char *name;
    gid_t group;
    mode_t mode;
    const char *fix;
} Device;

#define NOBODYS "FAIL  user nobody      may not use userfaultfd "
static const Device devices[] = {
    {"group", 1, 0660, ": usermod -aG daemon nobody as root, and a new login; or set vm."},
    {"group-reads", 1, 0640, ": give it the device ("},
    {"root", 0, 0600, ": give it the device ("},
};

static void set_device(void *opaque)
{
    const Device *d = opaque;
    g_autofree char *file = g_build_filename(dir, "device", NULL);

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount(file, "/dev/userfaultfd", NULL, MS_BIND, NULL) < 0) {
        _exit(77);
    }
    if (chown(file, 0, d->group) < 0 || chmod(file, d->mode) < 0) {
        _exit(99);
    }
    become_nobody(NULL);
}

/* The step that is left, not one that was done. */
static void test_device(const void *data)
{
    Device d = *(const Device *)data;
    g_autofree char *file = g_build_filename(dir, "device", NULL), *sysctl = NULL;
    g_autofree char *out = NULL, *err = NULL;

    g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL);
    if (geteuid() != 0 || !sysctl || atoi(sysctl) != 0) {
        g_test_skip("needs root to become nobody, and vm.unprivileged_userfaultfd=0");
        return;
    }
    g_assert_true(g_file_set_contents(file, "", -1, NULL));
    int status = run_after("doctor", set_device, &d, &out, &err);
    g_unlink(file);
    if (status == 77) {
        g_test_skip("may not mount");
        return;
    }
    g_assert_cmpint(status, ==, 1);
    const char *line = strstr(out, NOBODYS);
    if (!line || !g_strstr_len(line, strchr(line, '\n') - line, d.fix)) {
        g_error("no \"%s\" in:\n%s", d.fix, out);
    }
}

/* A host whose libvirt has QEMU run by a user of its own, who is in group kvm; the device is
 * root's. */
typedef struct {
    const char *name, *emulator; /* of its domain; NULL: there is none */
    const char *verdict;
} Domain;

static const Domain domains[] = {
    {"none", NULL, "warn"},
    {"plain", "/usr/bin/qemu-system-x86_64", "warn"},
    {"farfault", "/usr/lib/farfault/qemu-system-x86_64", "FAIL"},
};

static void set_domain(void *opaque)
{
    static const char folder[] = "/etc/libvirt/qemu";
    const Domain *d = opaque;
    g_autofree char *file = g_build_filename(dir, "device", NULL);
    g_autofree char *xml = g_strdup_printf("<domain>\n  <emulator>%s</emulator>\n", d->emulator);

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount(file, "/dev/userfaultfd", NULL, MS_BIND, NULL) < 0 ||
        mount("etc", "/etc", "tmpfs", 0, NULL) < 0) {
        _exit(77);
    }
    if (chmod(file, 0600) < 0 || g_mkdir_with_parents(folder, 0755) < 0 ||
        !g_file_set_contents("/etc/passwd",
                             "root:x:0:0::/:\nlibvirt-qemu:x:64055:108::/:\nlast:x:9:9::/:\n", -1,
                             NULL) ||
        !g_file_set_contents("/etc/group", "root:x:0:\nkvm:x:104:libvirt-qemu\nlast:x:9:\n", -1,
                             NULL) ||
        (d->emulator && !g_file_set_contents("/etc/libvirt/qemu/vm1.xml", xml, -1, NULL))) {
        _exit(99);
    }
}

/* What only guests of libvirt lack is no failure of a host that has none under farfault. What it
 * needs is said for that user, and no more than that. */
static void test_domain(const void *data)
{
    static const char expected[] =
        "%s  user libvirt-qemu may not use userfaultfd (Operation not permitted): for guests of "
        "libvirt no postcopy into this host, and QEMU carries what leaves it: give it the device (";
    Domain d = *(const Domain *)data;
    g_autofree char *file = g_build_filename(dir, "device", NULL), *sysctl = NULL;
    g_autofree char *out = NULL, *err = NULL, *begin = g_strdup_printf(expected, d.verdict);

    g_file_get_contents("/proc/sys/vm/unprivileged_userfaultfd", &sysctl, NULL, NULL);
    if (geteuid() != 0 || !sysctl || atoi(sysctl) != 0) {
        g_test_skip("needs root, and vm.unprivileged_userfaultfd=0");
        return;
    }
    g_assert_true(g_file_set_contents(file, "", -1, NULL));
    int status = run_after("doctor", set_domain, &d, &out, &err);
    g_unlink(file);
    if (status == 77) {
        g_test_skip("may not mount");
        return;
    }
    g_assert_cmpint(status, ==, g_regex_match_simple("^FAIL", out, G_REGEX_MULTILINE, 0));
    const char *line = strstr(out, begin);
    if (!line || g_strstr_len(line, strchr(line, '\n') - line, "usermod")) {
        g_error("no \"%s\", or usermod, in:\n%s", begin, out);
    }
}

/* A libvirtd where a user's PATH does not go. */
static void install_libvirt(void *opaque)
{
    static const char folder[] = "/usr/sbin";
    g_autofree char *file = g_build_filename(folder, "libvirtd", NULL);

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("sbin", folder, "tmpfs", 0, NULL) < 0) {
        _exit(77);
    }
    if (!g_file_set_contents(file, "#!/bin/sh\necho 'libvirtd (libvirt) 11.3.0'\n", -1, NULL) ||
        chmod(file, 0755) < 0 || !g_setenv("PATH", "/usr/bin:/bin", TRUE)) {
        _exit(99);
    }
}

static void test_libvirt(void)
{
    g_autofree char *out = NULL, *err = NULL;
    int status = run_after("doctor", install_libvirt, NULL, &out, &err);

    if (status == 77) {
        g_test_skip("may not mount");
        return;
    }
    if (!strstr(out, "\nok    libvirt          11.3\n")) {
        g_error("libvirt was not found:\n%s", out);
    }
}

static void make_files(void)
{
    static const char *const files[] = {"text", "secret"};

    dir = g_dir_make_tmp("command-lines-XXXXXX", NULL);
    g_assert_nonnull(dir);
    g_assert_cmpint(g_chmod(dir, 0755), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(dir, files[i], NULL);
        g_assert_true(g_file_set_contents(path, "text\n", -1, NULL));
        g_assert_cmpint(g_chmod(path, i ? 0 : 0644), ==, 0);
    }
    g_autofree char *locked = g_build_filename(dir, "locked", NULL);
    g_assert_cmpint(g_mkdir(locked, 0), ==, 0);
}

/* Nothing else was made. */
static void remove_files(void)
{
    g_autofree char *text = g_build_filename(dir, "text", NULL);
    g_autofree char *secret = g_build_filename(dir, "secret", NULL);
    g_autofree char *locked = g_build_filename(dir, "locked", NULL);

    g_assert_cmpint(g_unlink(text) | g_unlink(secret) | g_rmdir(locked), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
    g_free(manual);
}

int main(int argc, char **argv)
{
    g_autofree char *path = vm_build_path("cli/farfault");
    const char *source = g_getenv("FF_SOURCE");

    g_test_init(&argc, &argv, NULL);
    program = open(path, O_RDONLY);
    g_assert_cmpint(program, >=, 0);
    manual = g_build_filename(source ? source : ".", "docs", "man", NULL);
    make_files();
    g_test_add_func("/command-lines/all", test_all);
    g_test_add_func("/command-lines/help", test_help);
    g_test_add_func("/command-lines/options", test_options);
    g_test_add_func("/command-lines/commands", test_commands);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdelimit(g_strdup(rows[i].line), "/ ", '.');
        g_autofree char *test =
            g_strconcat("/command-lines/", name, rows[i].other ? ".as-nobody" : "", NULL);
        g_test_add_data_func(test, &rows[i], test_row);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(kvms); i++) {
        g_autofree char *test = g_strconcat("/command-lines/doctor/nested/", kvms[i].name, NULL);
        g_test_add_data_func(test, &kvms[i], test_nested);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ksms); i++) {
        g_autofree char *test =
            g_strdup_printf("/command-lines/doctor/ksm/%c", ksms[i] ? *ksms[i] : '-');
        g_test_add_data_func(test, &ksms[i], test_ksm);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(devices); i++) {
        g_autofree char *test = g_strconcat("/command-lines/doctor/device/", devices[i].name, NULL);
        g_test_add_data_func(test, &devices[i], test_device);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(domains); i++) {
        g_autofree char *test = g_strconcat("/command-lines/doctor/domain/", domains[i].name, NULL);
        g_test_add_data_func(test, &domains[i], test_domain);
    }
    g_test_add_func("/command-lines/doctor/libvirt", test_libvirt);
    int rc = g_test_run();
    remove_files();
    return rc;
}
