/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names of hosts whose name server does not answer: a healthy engine is not taken for one that
 * hangs, other clients are answered, and the migration begins when the name is known. slow-names.c,
 * preloaded, is the name server.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/slow-names.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)
#define HUNG_MS "1500" /* how long the relay waits for an engine that does not answer */

static const char slow_uri[] = "tcp:" SLOW_NAME ":0";
static char *gate;

/* The engine asks for the name, and has asked for so long that it would be dead by now. */
static int await_question(void)
{
    int fd = slow_names_await(gate);

    g_usleep(4 * G_USEC_PER_SEC); /* nothing tells that a relay does not kill */
    return fd;
}

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming)
{
    const VmConfig config = {.name = name,
                             .launcher = VM_RUN,
                             .memory = RAM,
                             .boot = boot,
                             .incoming = incoming,
                             .listens = incoming != NULL};
    g_autofree char *preload = vm_build_path("tests/lib/slow-names.so");

    g_setenv("LD_PRELOAD", preload, TRUE);
    Vm *vm = vm_start(&config);
    g_unsetenv("LD_PRELOAD");
    return vm;
}

static void send_incoming(Qmp *q)
{
    g_autofree char *line = g_strdup_printf(
        "{'execute': 'migrate-incoming', 'arguments': {'uri': '%s'}, 'id': 'in'}\n", slow_uri);

    stream_send(qmp_stream(q), line, strlen(line), NULL, 0);
}

static void expect_reply(Qmp *q, const char *text)
{
    g_autofree char *line = NULL;

    do {
        g_free(line);
        line = stream_read_line(qmp_stream(q), "the answer",
                                g_get_monotonic_time() + 60 * G_TIME_SPAN_SECOND);
    } while (!strstr(line, "\"id\": \"in\""));
    if (!strstr(line, text))
        test_fail("not \"%s\": %s", text, line);
}

/* migrate-incoming: the name is known at last, and a guest comes. */
static void test_incoming(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 16 << 20, 1);
    g_autoptr(Vm) source = start("source", &boot, NULL);
    g_autoptr(Vm) destination = start("destination", &boot, "defer");

    vm_wait_serial(source, "B");
    move_prepare(source, destination);
    pid_t engine = vm_engine(destination);
    send_incoming(vm_qmp(destination));
    int fd = await_question();
    g_assert_cmpint(vm_engine(destination), ==, engine);
    close(fd);
    expect_reply(vm_qmp(destination), "\"return\": {}");
    g_autofree char *uri = move_listen_uri(destination);
    g_assert_true(g_str_has_prefix(uri, "tcp:127.0.0.1:"));
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(source), "active");
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
}

/* There is no such name: QEMU's words, and another address does. */
static void test_unknown(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) vm = start("destination", NULL, "defer");
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "postcopy-ram", true);
    pid_t engine = vm_engine(vm);
    send_incoming(q);
    int fd = await_question();
    g_assert_cmpint(write(fd, "x", 1), ==, 1);
    close(fd);
    expect_reply(q, "address resolution failed for " SLOW_NAME ":0: Name or service not known");
    g_assert_cmpint(vm_engine(vm), ==, engine);
    qmp_ok(q, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
}

/* QEMU ends meanwhile: nobody waits for the name. */
static void test_quit(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *vm = start("destination", NULL, "defer");

    qmp_set_capability(vm_qmp(vm), "postcopy-ram", true);
    send_incoming(vm_qmp(vm));
    int fd = slow_names_await(gate);
    vm_end(vm); /* and looks whether a process is left */
    close(fd);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-names-XXXXXX", NULL);

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    gate = g_build_filename(dir, "gate", NULL);
    g_assert_cmpint(mkfifo(gate, 0600), ==, 0);
    g_setenv(SLOW_NAMES_GATE, gate, TRUE);
    g_setenv("FARFAULT_DEADLINES", "engine-hung=" HUNG_MS, TRUE);
    g_test_add_func("/names/incoming", test_incoming);
    g_test_add_func("/names/unknown", test_unknown);
    g_test_add_func("/names/quit", test_quit);
    int rc = g_test_run();

    g_unlink(gate);
    g_rmdir(dir);
    g_free(gate);
    return rc;
}
