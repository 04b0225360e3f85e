/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client that connects to one of the launcher's private monitor sockets before QEMU has moved
 * that monitor to its own thread: two threads of QEMU accept it, and only one can have it. QEMU
 * must continue. accept-race.c, preloaded, makes sure that it comes to that.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/launch/endpoint.h"
#include "tests/lib/vm.h"

static Stream *dial(int path_fd)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d", path_fd);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return stream_new(fd, "the early client");
}

static void expect_line(Stream *client, const char *text)
{
    g_autofree char *line = stream_read_line(client, text, test_deadline(60));

    g_assert_nonnull(line);
    g_assert_nonnull(strstr(line, text));
}

static void test_early_client(void)
{
    static const char hello[] = "{'execute': 'qmp_capabilities'}\n";
    g_autoptr(GError) error = NULL;
    FfPrivateSocket s;

    g_assert_true(ff_private_sockets_new(&s, 1, -1, -1, &error));
    g_autoptr(Stream) client = dial(s.path_fd);
    g_autofree char *chardev = g_strdup_printf("socket,id=m,fd=%d,server=on,wait=off", s.listen_fd);
    const char *args[] = {"-chardev", chardev, "-mon", "chardev=m,mode=control", NULL};
    int fds[] = {s.listen_fd, -1};
    g_autofree char *race = vm_build_path("tests/qtest/accept-race.so");
    g_setenv("LD_PRELOAD", race, TRUE);
    /* Its own monitor is one that QEMU connects itself: nothing is accepted there. */
    g_autoptr(Vm) vm =
        vm_start(&(VmConfig){.name = "vm", .memory = "8M", .args = args, .fds = fds});
    g_unsetenv("LD_PRELOAD");
    close(s.listen_fd);
    close(s.path_fd);

    expect_line(client, "\"QMP\"");
    stream_send(client, hello, strlen(hello), NULL, 0);
    expect_line(client, "\"return\"");
    g_autofree char *text = vm_stderr(vm);
    if (!strstr(text, "accept-race: both threads accept"))
        g_test_fail_printf("only one thread of QEMU accepted: this test shows nothing any more");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/accept/early-client", test_early_client);
    return g_test_run();
}
