/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's libraries disappear while a guest runs, come back, or were never there.
 *
 * The programs are copies in a folder of the test. The engine's copy needs libraries whose names
 * exist nowhere else ("libzstd.so.X", patched into it and into copies of the real ones), which are
 * found by LD_LIBRARY_PATH: the machine's own stay where they are.
 */
#include <dlfcn.h>
#include <glib/gstdio.h>
#include <link.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/sandbox.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

static const char *const own[] = {"libzstd.so.1", "libssl.so.3"};
#define ENGINE "engine/farfault-engine"
static const char *const parts[] = {"cli/farfault", "guest/relay/farfault-relay", ENGINE,
                                    "guest/agent/farfault-agent.so"};

typedef struct {
    char *dir, *lib, *aside; /* ASIDE: where libraries lie when they are not to be found */
    char *build;             /* FF_BUILD as it was */
} Tree;

/* "libzstd.so.X" in place of "libzstd.so.1", which needs no more room. */
static char *other_name(const char *name)
{
    char *other = g_strdup(name);

    other[strlen(other) - 1] = 'X';
    return other;
}

static void rename_in(char *bytes, gsize len, const char *name)
{
    g_autofree char *other = other_name(name);
    gsize size = strlen(name) + 1;

    for (char *at = bytes; (at = memmem(at, len - (at - bytes), name, size)); at += size) {
        memcpy(at, other, size);
    }
}

/* RENAMED: it needs the libraries of the test. */
static void copy(const char *from, const char *to, bool renamed)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    gsize len;

    g_file_get_contents(from, &bytes, &len, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; renamed && i < G_N_ELEMENTS(own); i++) {
        rename_in(bytes, len, own[i]);
    }
    g_file_set_contents_full(to, bytes, len, G_FILE_SET_CONTENTS_NONE, 0755, &error);
    g_assert_no_error(error);
}

static void copy_library(const Tree *tree, const char *name)
{
    g_autofree char *other = other_name(name), *to = g_build_filename(tree->lib, other, NULL);
    void *handle = dlopen(name, RTLD_NOW);
    struct link_map *map;

    g_assert_nonnull(handle);
    g_assert_cmpint(dlinfo(handle, RTLD_DI_LINKMAP, &map), ==, 0);
    copy(map->l_name, to, true);
    dlclose(handle);
}

static Tree tree_new(void)
{
    Tree tree = {.dir = g_dir_make_tmp("farfault-test-XXXXXX", NULL)};

    tree.build = g_strdup(g_getenv("FF_BUILD"));
    tree.lib = g_build_filename(tree.dir, "lib", NULL);
    tree.aside = g_build_filename(tree.dir, "aside", NULL);
    g_assert_cmpint(g_mkdir(tree.lib, 0755), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *from = vm_build_path(parts[i]);
        g_autofree char *to = g_build_filename(tree.dir, parts[i], NULL);
        g_autofree char *folder = g_path_get_dirname(to);

        g_assert_cmpint(g_mkdir_with_parents(folder, 0755), ==, 0);
        copy(from, to, g_str_equal(parts[i], ENGINE));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(own); i++) {
        copy_library(&tree, own[i]);
    }
    g_setenv("FF_BUILD", tree.dir, true);
    g_setenv("LD_LIBRARY_PATH", tree.lib, true);
    return tree;
}

static void tree_end(Tree *tree)
{
    g_setenv("FF_BUILD", tree->build, true);
    g_unsetenv("LD_LIBRARY_PATH");
    certs_remove(tree->dir);
    g_free(tree->dir);
    g_free(tree->lib);
    g_free(tree->aside);
    g_free(tree->build);
}

static Vm *start(const BootsectConfig *boot, const char *name, const char *incoming)
{
    static const char *const args[] = {"-machine", "pc", "-smp", "2", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "64M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

/* The engine answers: QEMU knows no such parameter. */
static bool engine_answers(Vm *vm)
{
    g_autoptr(JsonObject) all = qmp_return(vm_qmp(vm), "query-migrate-parameters", NULL);

    return json_object_has_member(all, "x-farfault-channels");
}

/* The next command takes a new one. */
static void wait_no_engine(Vm *vm)
{
    for (pid_t engine; (engine = vm_find_engine(vm));) {
        int pidfd = pidfd_open(engine, 0);

        if (pidfd >= 0) { /* else it is reaped by now */
            g_assert_true(test_wait_readable(pidfd, test_deadline(TEST_TIMEOUT)));
            close(pidfd);
        }
    }
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;

    for (; (text = strstr(text, what)); text += strlen(what)) {
        n++;
    }
    return n;
}

/* Postcopy with TLS and zstd to a host by its name, when the libraries of all three are gone. The
 * engines of both guests have worked before. */
static void test_gone(void)
{
    g_autofree char *credentials = certs_new_pair();
    const BootsectConfig boot = {.start = 2 << 20, .end = 62 << 20};
    Tree tree = tree_new();

    if (!credentials) {
        tree_end(&tree);
        return;
    }
    Vm *source = start(&boot, "source", NULL), *destination = start(&boot, "destination", "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "AB");
    g_assert_true(engine_answers(source));
    g_assert_true(engine_answers(destination));
    wait_no_engine(source);
    wait_no_engine(destination);
    certs_remove(tree.lib);
    move_prepare(source, destination);
    qmp_ok(s, "migrate-set-parameters", "{'x-farfault-compress': 'always'}");
    move_set_tls(source, credentials, "psk", false, NULL);
    move_set_tls(destination, credentials, "psk", true, NULL);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    g_autofree char *named = g_strdup_printf("tcp:localhost%s", strrchr(uri, ':'));
    qmp_ok(s, "migrate", "{'uri': '%s'}", named);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);

    g_autofree char *said = vm_stderr(source);
    g_assert_nonnull(strstr(said, "it gets those of the guest's start"));
    vm_end(source);
    vm_end(destination);
    certs_remove(credentials);
    tree_end(&tree);
}

static char *status_without_engine(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    return g_strdup(json_object_get_string_member_with_default(info, "status", "none"));
}

/* Without its libraries, and none to keep: all is QEMU's, until they are there. */
static void test_never_there(void)
{
    const BootsectConfig boot = {.start = 2 << 20, .end = 62 << 20};
    Tree tree = tree_new();

    g_assert_cmpint(rename(tree.lib, tree.aside), ==, 0);
    Vm *vm = start(&boot, "guest", NULL);
    Qmp *q = vm_qmp(vm);
    g_autofree char *file = vm_path(vm, "saved"), *status = NULL;

    vm_wait_serial(vm, "AB");
    for (unsigned i = 0; i < 20; i++) {
        g_autofree char *none = status_without_engine(vm);
        g_assert_cmpstr(none, ==, "none");
    }
    g_assert_false(engine_answers(vm));
    qmp_ok(q, "object-add", "{'qom-type': 'secret', 'id': 'sec0', 'data': 'x'}");
    qmp_ok(q, "object-del", "{'id': 'sec0'}");
    qmp_set_capability(q, "events", true);
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_ok(q, "stop", NULL);
    qmp_ok(q, "migrate", "{'uri': 'exec:cat >%s'}", file);
    qmp_expect_migration(q, "completed");
    g_autofree char *said = vm_stderr(vm);
    g_assert_cmpuint(count(said, "cannot be started"), ==, 1);
    /* Rate-limited: far less often than there were commands. */
    g_assert_cmpuint(count(said, "error while loading shared libraries"), <=, 8);

    g_assert_cmpint(rename(tree.aside, tree.lib), ==, 0);
    /* The relay tries again 2 s after the last attempt, when it is asked. */
    for (int64_t deadline = test_deadline(TEST_TIMEOUT); !engine_answers(vm);) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(100000);
    }
    status = qmp_migrate_status(q);
    g_assert_cmpstr(status, ==, "completed"); /* QEMU's migration is known */
    vm_end(vm);
    tree_end(&tree);
}

/* The same with -incoming URI: QEMU listens there, before a client can ask for it, and has its
 * guest. */
static void test_never_there_incoming(void)
{
    const BootsectConfig boot = {.start = 2 << 20, .end = 62 << 20};
    Tree tree = tree_new();
    g_autofree char *path = g_build_filename(tree.dir, "migration", NULL);
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    Vm *source = start(&boot, "source", NULL);

    vm_wait_serial(source, "AB");
    g_assert_true(engine_answers(source));
    g_assert_cmpint(rename(tree.lib, tree.aside), ==, 0);
    Vm *destination = start(&boot, "destination", uri);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    qmp_set_capability(s, "events", true);
    qmp_set_capability(d, "events", true);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_ok(s, "stop", NULL);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    move_wait_completed(source, destination);
    qmp_ok(d, "cont", NULL);
    vm_wait_new_serial(destination, "B");
    g_autofree char *said = vm_stderr(destination);
    g_assert_cmpuint(count(said, "migrations are QEMU's own"), ==, 1);

    /* An engine that can be started later knows that it is not the one that listens. */
    g_assert_cmpint(rename(tree.aside, tree.lib), ==, 0);
    for (int64_t deadline = test_deadline(TEST_TIMEOUT); !engine_answers(destination);) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(100000);
    }
    g_autofree char *status = qmp_migrate_status(d);
    g_assert_cmpstr(status, ==, "completed");
    vm_end(source);
    vm_end(destination);
    unlink(path);
    tree_end(&tree);
}

int main(int argc, char **argv)
{
    const char *why;

    g_test_init(&argc, &argv, NULL);
    if (FF_SANITIZED || !vm_farfault_available(&why)) {
        g_print("1..0 # SKIP %s\n", FF_SANITIZED ? "a sanitizer's library wants its name" : why);
        return 0;
    }
    g_test_add_func("/libraries/gone", test_gone);
    g_test_add_func("/libraries/never-there", test_never_there);
    g_test_add_func("/libraries/never-there/incoming", test_never_there_incoming);
    return g_test_run();
}
