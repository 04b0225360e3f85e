/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade of a Linux guest with a disk and a VGA, whose network is a tap: a TCP connection
 * that is busy all the time, each byte of which the guest checks, lives on; and the start of a
 * second QEMU that comes to nothing changes nothing for the one that runs. In a network namespace
 * of its own.
 *
 * FF_ROUNDS: upgrades in a row.
 */
#include "tests/lib/linuxguest.h"
#include "tests/qtest/upgrade-rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAP "fftap0"
#define HOST "10.199.7.1"

/* ---- the host's end -------------------------------------------------------------------------- */

static void set_up(const char *name, const char *address)
{
    struct ifreq request = {0};
    struct sockaddr_in *at = (struct sockaddr_in *)(void *)&request.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    g_strlcpy(request.ifr_name, name, IFNAMSIZ);
    at->sin_family = AF_INET;
    g_assert_cmpint(inet_aton(address, &at->sin_addr), !=, 0);
    g_assert_cmpint(ioctl(fd, SIOCSIFADDR, &request), ==, 0);
    inet_aton("255.255.255.0", &at->sin_addr);
    g_assert_cmpint(ioctl(fd, SIOCSIFNETMASK, &request), ==, 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    g_assert_cmpint(ioctl(fd, SIOCSIFFLAGS, &request), ==, 0);
    close(fd);
}

/* Persistent: QEMU opens it by its name. FALSE: not here. */
static bool make_tap(void)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = -1;

    if (unshare(CLONE_NEWNET) < 0 || (fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC)) < 0) {
        return false;
    }
    g_strlcpy(request.ifr_name, TAP, IFNAMSIZ);
    bool made = ioctl(fd, TUNSETIFF, &request) == 0 && ioctl(fd, TUNSETPERSIST, 1) == 0;
    close(fd);
    if (made) {
        set_up(TAP, HOST);
    }
    return made;
}

/* Sends what it hears back, to one client. */
typedef struct {
    int listener, client; /* client: atomic, -1 until it has come; observer: echo_end() */
    unsigned port;
    GThread *thread;
} Echo;

static gpointer echo(gpointer data)
{
    Echo *e = data;
    int fd = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC);
    char bytes[65536];
    ssize_t n;

    g_atomic_int_set(&e->client, fd);
    while (fd >= 0 && (n = read(fd, bytes, sizeof(bytes))) > 0) {
        for (ssize_t done = 0, put; done < n; done += put) {
            put = send(fd, bytes + done, n - done, MSG_NOSIGNAL);
            if (put <= 0) {
                return NULL;
            }
        }
    }
    return NULL;
}

static void echo_begin(Echo *e)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);

    e->client = -1;
    e->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_aton(HOST, &address.sin_addr);
    g_assert_cmpint(bind(e->listener, (struct sockaddr *)&address, len), ==, 0);
    g_assert_cmpint(listen(e->listener, 1), ==, 0);
    g_assert_cmpint(getsockname(e->listener, (struct sockaddr *)&address, &len), ==, 0);
    e->port = ntohs(address.sin_port);
    e->thread = g_thread_new("echo", echo, e);
}

/* The guest says no farewell. */
static void echo_end(Echo *e)
{
    shutdown(e->listener, SHUT_RDWR);
    shutdown(g_atomic_int_get(&e->client), SHUT_RDWR);
    g_thread_join(e->thread);
    close(e->client);
    close(e->listener);
}

/* ---- the guest ------------------------------------------------------------------------------- */

/* A tap that is open, for who is started by this process; its number. */
static int open_tap(void)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR);

    g_strlcpy(request.ifr_name, TAP, IFNAMSIZ);
    g_assert_cmpint(ioctl(fd, TUNSETIFF, &request), ==, 0);
    return fd;
}

/* GIVEN: QEMU is given its tap by its number, as by libvirt. */
static Guest *start(unsigned port, bool given)
{
    Guest *g = up_new();
    const char *source = g_getenv("FF_SOURCE");
    g_autofree char *kernel = g_build_filename(source, ".cache/guest/vmlinuz", NULL);
    g_autofree char *initrd = g_build_filename(source, ".cache/guest/initrd.img", NULL);
    g_autofree char *append = g_strdup_printf("console=ttyS0 quiet panic=-1 pti=on no_timer_check "
                                              "ff.report=200 ff.mib=24 ff.disk=1 ff.net=%u",
                                              port);
    g_autofree char *disk = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=virtio,format=raw,file=%s", disk);
    int fd = given ? open_tap() : -1;
    g_autofree char *netdev =
        given ? g_strdup_printf("{\"type\":\"tap\",\"fd\":\"%d\",\"id\":\"n0\"}", fd)
              : g_strdup("tap,id=n0,ifname=" TAP ",script=no,downscript=no");
    const char *const args[] = {"-machine",
                                "pc-i440fx-7.2",
                                "-smp",
                                "2",
                                "-m",
                                "160M",
                                "-kernel",
                                kernel,
                                "-initrd",
                                initrd,
                                "-append",
                                append,
                                "-no-reboot",
                                "-vga",
                                "std",
                                "-drive",
                                drive,
                                "-netdev",
                                netdev,
                                "-device",
                                "virtio-net-pci,netdev=n0",
                                NULL};

    g_assert_true(g_file_set_contents(disk, "", 0, NULL));
    g_assert_cmpint(truncate(disk, 64 << 20), ==, 0);
    up_start(g, "qemu-system-x86_64", args);
    if (given) {
        close(fd);
    }
    g_free(up_wait_console(g, "FF ready"));
    return g;
}

static gint64 number(const char *text, const char *line, const char *name)
{
    const char *at = g_strrstr(text, line), *found = at ? strstr(at, name) : NULL;

    return found ? g_ascii_strtoll(found + strlen(name), NULL, 10) : -1;
}

/* Its connection is alive, and what came back was what it had sent; it has looked at all of its
 * memory, and at its disk. */
static void is_right(Guest *g)
{
    gint64 net = -1, disk = -1, passes = -1;

    for (;;) {
        g_autofree char *text = up_wait_console(g, "FF io ");
        gint64 net_now = number(text, "FF io ", "net="), disk_now = number(text, "FF io ", "disk=");
        gint64 passes_now = number(text, "FF t=", "passes=");

        g_assert_null(strstr(text, "FF bad"));
        g_assert_cmpint(number(text, "FF io ", "bad="), ==, 0);
        g_assert_cmpint(MAX(number(text, "FF t=", " bad="), 0), ==, 0);
        if (net < 0) {
            net = net_now;
            disk = disk_now;
        }
        passes = passes < 0 ? passes_now : passes;
        if (net_now > net && disk_now > disk && passes >= 0 && passes_now > passes + 1) {
            return;
        }
    }
}

/* The tap of the only QEMU; a copy. */
static int tap_of(const Guest *g)
{
    pid_t pid = up_only_qemu(g);
    g_autofree char *folder = g_strdup_printf("/proc/%d/fdinfo", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    int pidfd = pidfd_open(pid, 0), fd = -1;
    const char *name;

    while (fd < 0 && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL), *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL) && strstr(text, "iff:\t" TAP)) {
            fd = pidfd_getfd(pidfd, atoi(name), 0);
        }
    }
    close(pidfd);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static int header_of(const Guest *g)
{
    int fd = tap_of(g), size = 0;

    g_assert_cmpint(ioctl(fd, TUNGETVNETHDRSZ, &size), ==, 0);
    close(fd);
    return size;
}

static Guest *begin(Echo *e, bool given)
{
    echo_begin(e);
    return start(e->port, given);
}

static bool available(void)
{
    const char *why = "no tap can be made here";

    if (!vm_farfault_available(&why) || !vm_faults_available(&why) ||
        !linux_guest_available(&why) || !make_tap()) {
        g_test_skip(why);
        return false;
    }
    return true;
}

static void finish(Guest *g, Echo *e)
{
    up_reconnect(g);
    qmp_ok(g->qmp, "quit", NULL);
    up_disconnect(g);
    up_await_qemus(g, 0);
    echo_end(e);
}

static void test_row(gconstpointer given)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    Echo e;

    if (!newer || !available()) {
        return;
    }
    g_autoptr(Guest) g = begin(&e, given);
    is_right(g);
    g_assert_cmpint(header_of(g), ==, 12);
    for (unsigned i = 0; i < up_rounds(given ? 2 : 4); i++) {
        g_autofree char *said = NULL;
        int status = up_run(g, (const char *const[]){"--qemu", i % 2 ? older : newer, NULL}, &said);

        g_assert_cmpint(status, ==, 0);
        is_right(g);
        g_assert_cmpint(header_of(g), ==, 12);
    }
    finish(g, &e);
}

/* A second QEMU is started and looked at, or fails, or its engine dies when all is loaded. */
static void test_unharmed(void)
{
    Echo e;

    if (!available()) {
        return;
    }
    g_autoptr(Guest) g = begin(&e, false);
    g_autofree char *said = NULL;
    pid_t old = up_only_qemu(g);

    is_right(g);
    g_assert_cmpint(up_run(g, (const char *const[]){"--check", NULL}, &said), ==, 0);
    g_assert_cmpint(header_of(g), ==, 12);
    is_right(g);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *why = NULL;

        up_set_faults(g, i ? "takeover/*/at/ready=kill" : "takeover/*/at/loaded=kill");
        g_assert_cmpint(up_run(g, NULL, &why), ==, 1);
        g_assert_cmpint(up_only_qemu(g), ==, old);
        g_assert_cmpint(header_of(g), ==, 12);
        is_right(g);
    }
    finish(g, &e);
}

/* The engine that has taken the guest dies before it can say so to the agent, and its relay too:
 * the end of the old QEMU says it. */
static void test_died(void)
{
    Echo e;

    if (!available()) {
        return;
    }
    g_autoptr(Guest) g = begin(&e, false);

    is_right(g);
    up_set_faults(g, "takeover/*/at/taken=kill");
    g_autofree char *said = NULL, *why = NULL;
    g_assert_cmpint(up_run(g, NULL, &said), ==, 0);
    is_right(g);
    up_set_faults(g, "takeover/*/at/taken=relay");
    g_assert_cmpint(up_run(g, NULL, &why), ==, 1);
    up_attach(g, up_only_qemu(g));
    is_right(g);
    finish(g, &e);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/upgrade-tap/row", NULL, test_row);
    g_test_add_data_func("/upgrade-tap/given", "given", test_row);
    g_test_add_func("/upgrade-tap/unharmed", test_unharmed);
    g_test_add_func("/upgrade-tap/died", test_died);
    return g_test_run();
}
