/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A lost connection, and a destination QEMU whose main loop waits for a page that is still at the
 * source: the engine's commands are answered on every monitor all the same, also to an operator
 * who connects only then, and that is enough to bring the connection back.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define RAM_MIB 64
#define MONITORS 2

static Stream *dial(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return stream_new(fd, "another monitor");
}

/* Events are skipped. */
static char *next_answer(Stream *client)
{
    for (;;) {
        char *line = stream_read_line(client, "an answer", test_deadline(TEST_TIMEOUT));

        g_assert_nonnull(line);
        if (!strstr(line, "\"event\"")) {
            return line;
        }
        g_free(line);
    }
}

static void expect(Stream *client, const char *text)
{
    g_autofree char *line = next_answer(client);

    if (!strstr(line, text)) {
        test_fail("\"%s\" is not in: %s", text, line);
    }
}

static Stream *negotiate(const char *path)
{
    Stream *client = dial(path);
    static const char hello[] = "{\"execute\": \"qmp_capabilities\"}\n";

    expect(client, "\"QMP\"");
    stream_send(client, hello, strlen(hello), NULL, 0);
    expect(client, "{\"return\": {}}");
    return client;
}

static void ask(Stream *client, const char *text)
{
    g_autofree char *line = g_strdelimit(g_strconcat(text, "\n", NULL), "'", '"');

    stream_send(client, line, strlen(line), NULL, 0);
}

/* Moves the stopped guest as far as its connection is lost with nearly all memory at the source. */
static void move_and_lose(Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    move_prepare(source, destination);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': 1048576, 'max-postcopy-bandwidth': 4096}");
    qmp_ok(s, "stop", NULL);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "postcopy-active");
    qmp_expect_migration(d, "postcopy-active");
    qmp_ok(s, "migrate-pause", NULL);
    qmp_expect_migration(s, "postcopy-paused");
    qmp_expect_migration(d, "postcopy-paused");
}

static void test_recovers(gconstpointer kills_engine)
{
    const char *why, *args[2 * MONITORS + 1] = {NULL};
    BootsectConfig boot = bootsect_config(RAM_MIB << 20, 0, 1);
    g_autofree char *dir = g_dir_make_tmp("ff-standstill-XXXXXX", NULL);
    g_autofree char *paths[MONITORS] = {g_build_filename(dir, "first", NULL),
                                        g_build_filename(dir, "late", NULL)};
    g_autofree char *options[MONITORS] = {NULL};
    VmConfig config = {.name = "source", .launcher = VM_RUN, .memory = "64M", .boot = &boot};

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *source = vm_start(&config);
    for (unsigned i = 0; i < MONITORS; i++) {
        options[i] = g_strdup_printf("unix:%s,server=on,wait=off", paths[i]);
        args[2 * i] = "-qmp";
        args[2 * i + 1] = options[i];
    }
    config.name = "destination";
    config.args = args;
    config.incoming = "defer";
    Vm *destination = vm_start(&config);
    g_autoptr(Stream) first = negotiate(paths[0]);
    vm_wait_serial(source, "A");
    move_and_lose(source, destination);

    /* The last page that the guest counts in. QEMU reads it on its main loop. */
    g_autofree char *read_page = g_strdup_printf(
        "{'execute': 'human-monitor-command', 'id': 'page', 'arguments': {'command-line': "
        "'xp /1wx 0x%" G_GINT64_MODIFIER "x'}}",
        boot.end - 4096);
    ask(first, read_page);
    if (kills_engine) {
        kill(vm_engine(destination), SIGKILL);
    }
    g_autofree char *status = qmp_migrate_status(vm_qmp(destination));
    g_assert_cmpstr(status, ==, "postcopy-paused");
    g_autoptr(Stream) late = negotiate(paths[1]);
    ask(late, "{'execute': 'query-migrate'}");
    expect(late, "postcopy-paused");
    g_autofree char *socket = vm_path(destination, "recover.sock");
    g_autofree char *recover =
        g_strdup_printf("{'execute': 'migrate-recover', 'arguments': {'uri': 'unix:%s'}}", socket);
    ask(late, recover);
    expect(late, "{\"return\": {}}");

    qmp_ok(vm_qmp(source), "migrate", "{'uri': 'unix:%s', 'resume': true}", socket);
    qmp_expect_migration(vm_qmp(source), "postcopy-active");
    /* What it read, or, if all this took so long, that it did not answer. */
    expect(first, "\"id\": \"page\"");
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(source, destination);
    ask(first, "{'execute': 'query-name', 'id': 'in order'}");
    expect(first, "{\"return\": {\"name\": \"destination\"}, \"id\": \"in order\"}");
    g_autofree char *differs = check_equal(source, destination, 1 << 20, RAM_MIB << 20);
    g_assert_cmpstr(differs, ==, NULL);
    vm_end(source);
    vm_end(destination);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/standstill/recovers", NULL, test_recovers);
    g_test_add_data_func("/standstill/engine-dies", "too", test_recovers);
    return g_test_run();
}
