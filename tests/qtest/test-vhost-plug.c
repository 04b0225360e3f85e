/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhost-user devices that a client plugs: chardev-add, then device_add, or netdev_add. The guest
 * boots with them, checks what they read and send, and is migrated; with another relay meanwhile;
 * what cannot be had by the relay is QEMU's own.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/state.h"
#include "tests/lib/attach.h"
#include "tests/lib/move.h"
#include "tests/lib/stream.h"
#include "tests/lib/vhostworld.h"

#define MANY 1000 /* frames */

static VhostWorld *world_new(bool network, const char *who)
{
    VhostWorld *w = network ? vhost_world_new_network(VM_RUN, who, VHOST_NET_LOAD)
                            : vhost_world_new(VM_RUN, who, VHOST_SMALL_LOAD);

    if (w)
        w->guest.plugged = true;
    return w;
}

static void assert_used(VhostWorld *w)
{
    if (w->network)
        vhost_world_await_frames(w->vm, MANY);
    else
        vm_wait_new_serial(w->vm, "FF direct reads=");
    linux_guest_assert_intact(w->vm, "with what was plugged");
}

/* By the engine, with precopy or by a switch at once. */
static void hop(VhostWorld *w, bool postcopy)
{
    VhostWorld old = vhost_world_next(w);

    for (unsigned i = 0; postcopy && i < 2; i++)
        qmp_set_capability(vm_qmp(i ? old.vm : w->vm), "postcopy-ram", true);
    vhost_world_migrate(w, &old);
    if (postcopy)
        vhost_world_switch_over(w, &old);
    move_wait_completed(old.vm, w->vm);
    vhost_world_assert_carried(old.vm);
    vhost_world_assert_carried(w->vm);
    vhost_world_leave(&old);
    assert_used(w);
}

/* Plugged at both sides, and then on the command line of the destination, as libvirt has it. */
static void test_moved(gconstpointer network)
{
    VhostWorld *w = world_new(GPOINTER_TO_INT(network), "migrate");

    if (!w)
        return;
    vhost_world_boot(w);
    hop(w, false);
    w->guest.plugged = false;
    hop(w, true);
    vhost_world_end(w);
}

/* Relay and engine die, and then a relay gives its place to another one: each knows what was
 * plugged. The back-end dies, and the next one is taken. */
static void test_relays(void)
{
    VhostWorld *w = world_new(false, "migrate");

    if (!w)
        return;
    w->guest.listens = true;
    vhost_world_boot(w);
    attach_replace(w->vm);
    assert_used(w);
    attach_kill_relay(w->vm, true);
    attach_vm(w->vm, NULL);
    assert_used(w);
    attach_replace(w->vm);
    assert_used(w);
    hop(w, false);
    vhost_world_end(w);
}

/* With a storage daemon, and nothing plugged; it stands. */
static VhostWorld *bare_new(const char *who)
{
    VhostWorld *w = world_new(false, who);

    if (w) {
        w->socket = g_strdup_printf("%s/0", w->folder);
        w->guest.listens = true;
        vhost_world_start_storage(w);
        w->vm = linux_guest_start(&w->guest, "vm0", w->launcher, NULL);
    }
    return w;
}

/* The disk that was plugged is used. */
static void end_bare(VhostWorld *w)
{
    qmp_ok(vm_qmp(w->vm), "cont", NULL);
    vm_wait_serial(w->vm, "FF direct reads=");
    vhost_world_end(w);
}

static void add_chardev(Vm *vm, const char *path)
{
    linux_guest_add_chardev(vm, "c", path);
}

/* Of ours QEMU says that it listens. */
static bool is_behind_relay(Vm *vm)
{
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "info chardev");
    const char *line = strstr(text, "c: filename=");

    while (line && line != text && line[-1] != '\n')
        line = strstr(line + 1, "c: filename=");
    g_assert_nonnull(line);
    g_autofree char *own = g_strndup(line, strcspn(line, "\r\n"));
    return strstr(own, "server=on");
}

static void assert_behind_relay(Vm *vm)
{
    if (!is_behind_relay(vm)) {
        g_autofree char *said = vm_stderr(vm);
        g_error("it was left to QEMU: %s", said);
    }
}

static void remove_chardev(Vm *vm)
{
    qmp_ok(vm_qmp(vm), "chardev-remove", "{'id': 'c'}");
}

static void add_device(Vm *vm)
{
    qmp_ok(vm_qmp(vm), "device_add",
           "{'driver': 'vhost-user-blk-pci', 'id': 'd', 'chardev': 'c', 'addr': '0x10',"
           " 'num-queues': 1}");
}

/* A device_add that QEMU refuses leaves the chardev, which is removed, and made again. */
static void test_refused(void)
{
    VhostWorld *w = bare_new("farfault");

    if (!w)
        return;
    for (unsigned i = 0; i <= FF_STATE_PLUGGED; i++) {
        add_chardev(w->vm, w->socket);
        g_autofree char *error =
            qmp_error(vm_qmp(w->vm), "device_add",
                      "{'driver': 'vhost-user-blk-pci', 'chardev': 'c', 'no-such': 1}");
        g_assert_nonnull(strstr(error, "no-such"));
        remove_chardev(w->vm);
    }
    vm_wait_stderr(w->vm, "stays QEMU's own");
    add_chardev(w->vm, w->socket);
    add_device(w->vm); /* as without farfault */
    end_bare(w);
}

static void expect_no_device(Vm *vm, const char *why)
{
    g_autofree char *error =
        qmp_error(vm_qmp(vm), "device_add", "{'driver': 'vhost-user-blk-pci', 'chardev': 'c'}");

    g_assert_nonnull(strstr(error, why));
}

/* As without farfault: a chardev that was removed at the human monitor; one that has another user,
 * who keeps it; and one that QEMU is not told to connect again, whose back-end must not be let go
 * of. */
static void test_left(void)
{
    VhostWorld *w = bare_new("migrate");

    if (!w)
        return;
    add_chardev(w->vm, w->socket);
    g_free(qmp_hmp(vm_qmp(w->vm), "chardev-remove c"));
    expect_no_device(w->vm, "can't find value");

    qmp_ok(vm_qmp(w->vm), "device_add", "{'driver': 'virtio-serial-pci'}");
    add_chardev(w->vm, w->socket);
    qmp_ok(vm_qmp(w->vm), "device_add",
           "{'driver': 'virtserialport', 'id': 'port', 'chardev': 'c'}");
    expect_no_device(w->vm, "in use");
    g_assert_false(is_behind_relay(w->vm));
    qmp_ok(vm_qmp(w->vm), "device_del", "{'id': 'port'}");
    qmp_expect(vm_qmp(w->vm), "DEVICE_DELETED");
    remove_chardev(w->vm);

    qmp_ok(vm_qmp(w->vm), "chardev-add",
           "{'id': 'c', 'backend': {'type': 'socket', 'data': {'server': false,"
           " 'addr': {'type': 'unix', 'data': {'path': '%s'}}}}}",
           w->socket);
    add_device(w->vm);
    g_assert_false(is_behind_relay(w->vm));
    end_bare(w);
}

static const char plug[] =
    "{\"execute\": \"device_add\", \"id\": \"plug\", \"arguments\": {\"driver\": "
    "\"vhost-user-blk-pci\", \"id\": \"d\", \"chardev\": \"c\", \"addr\": \"0x10\", "
    "\"num-queues\": 1}}\n";

/* Until ID was answered, without an error. */
static void await_answer(Stream *s, const char *id)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\"", id);

    for (bool answered = false; !answered;) {
        g_autofree char *line = stream_read_line(s, "the answer", test_deadline(60));

        g_assert_nonnull(line); /* closed */
        g_assert_null(strstr(line, "\"error\""));
        answered = strstr(line, "\"return\"");
        g_assert_true(!answered || strstr(line, quoted));
    }
}

static const char first[] = "{\"execute\": \"query-name\", \"id\": \"first\"}\n";

/* What the client says behind it waits, though the relay has something to say to QEMU itself. It
 * comes while QEMU has not answered what is in front, so both wait already. */
static void test_order(void)
{
    static const char next[] = "{\"execute\": \"query-name\", \"id\": \"next\"}\n";
    VhostWorld *w = bare_new("migrate");
    g_autofree char *all = g_strconcat(first, plug, next, NULL);

    if (!w)
        return;
    Stream *s = qmp_stream(vm_qmp(w->vm));

    add_chardev(w->vm, w->socket);
    stream_send(s, all, strlen(all), NULL, 0);
    await_answer(s, "first");
    await_answer(s, "plug");
    await_answer(s, "next");
    assert_behind_relay(w->vm);
    end_bare(w);
}

/* The other side has read all. There is no event of it. */
static void wait_read(int fd)
{
    int left;

    do
        g_assert_no_errno(ioctl(fd, TIOCOUTQ, &left));
    while (left);
}

/* It is the last that a client says which ends its side then, and is carried out. */
static void test_last_word(void)
{
    VhostWorld *w = bare_new("migrate");

    g_autofree char *both = g_strconcat(first, plug, NULL);

    if (!w)
        return;
    Stream *s = qmp_stream(vm_qmp(w->vm));

    add_chardev(w->vm, w->socket);
    g_assert_no_errno(kill(vm_pid(w->vm), SIGSTOP));
    stream_send(s, both, strlen(both), NULL, 0);
    g_assert_no_errno(shutdown(stream_fd(s), SHUT_WR));
    wait_read(stream_fd(s));
    g_assert_no_errno(kill(vm_pid(w->vm), SIGCONT));
    await_answer(s, "first");
    await_answer(s, "plug");
    vm_reconnect(w->vm);
    assert_behind_relay(w->vm);
    end_bare(w);
}

static pid_t daemon_of(const VhostWorld *w)
{
    g_autofree char *path = g_strconcat(w->socket, ".pid", NULL), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return atoi(text);
}

/* Connections for which the daemon has not come yet, so many as its socket takes. */
static GArray *crowd(const char *path)
{
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    g_strlcpy(name.sun_path, path, sizeof(name.sun_path));
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        g_assert_no_errno(fd);
        if (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            close(fd);
            return fds;
        }
        g_array_append_val(fds, fd);
    }
}

/* The daemon is behind with earlier connections. */
static void test_busy(void)
{
    VhostWorld *w = bare_new("migrate");

    if (!w)
        return;
    pid_t daemon = daemon_of(w);
    g_assert_no_errno(kill(daemon, SIGSTOP));
    g_autoptr(GArray) fds = crowd(w->socket);
    add_chardev(w->vm, w->socket); /* which tries again, too */
    stream_send(qmp_stream(vm_qmp(w->vm)), plug, strlen(plug), NULL, 0);
    vm_wait_stderr(w->vm, "is busy with other connections");
    for (guint i = 0; i < fds->len; i++)
        close(g_array_index(fds, int, i));
    g_assert_no_errno(kill(daemon, SIGCONT));
    await_answer(qmp_stream(vm_qmp(w->vm)), "plug");
    assert_behind_relay(w->vm);
    end_bare(w);
}

/* A chardev that a network was to have, which QEMU has refused, is no disk's: its requests would
 * not be waited for. */
static void test_kinds(void)
{
    VhostWorld *w = bare_new("migrate");

    if (!w)
        return;
    add_chardev(w->vm, w->socket);
    g_autofree char *refused =
        qmp_error(vm_qmp(w->vm), "netdev_add",
                  "{'type': 'vhost-user', 'id': 'n', 'chardev': 'c', 'queues': 0}");
    g_assert_nonnull(strstr(refused, "queues"));
    expect_no_device(w->vm, "another kind of vhost-user device was to have this chardev");
    remove_chardev(w->vm);
    add_chardev(w->vm, w->socket);
    add_device(w->vm);
    assert_behind_relay(w->vm);
    end_bare(w);
}

/* The guest's driver has it; QEMU has no event for that. */
static void await_driver(Vm *vm)
{
    for (;;) {
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "x-query-virtio-status",
                                                "{'path': '/machine/peripheral/d/virtio-backend'}");
        g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), info);
        g_autofree char *text = json_to_string(node, FALSE);

        if (strstr(text, "VIRTIO_CONFIG_S_DRIVER_OK"))
            break;
    }
}

/* A running guest gets a second disk, and loses it again. */
static void test_running(void)
{
    VhostWorld *w = world_new(false, "migrate");

    if (!w)
        return;
    vhost_world_boot(w);
    g_autofree char *image = linux_guest_disk_new(4 << 20),
                    *socket = g_strdup_printf("%s/second", w->folder),
                    *pidfile = g_strconcat(socket, ".pid", NULL);
    Storage *second =
        storage_start(&(StorageConfig){.image = image, .socket = socket, .n_queues = 1});

    for (unsigned i = 0; i < 3; i++) {
        add_chardev(w->vm, socket);
        qmp_ok(vm_qmp(w->vm), "device_add",
               "{'driver': 'vhost-user-blk-pci', 'id': 'd', 'chardev': 'c', 'num-queues': 1}");
        await_driver(w->vm);
        g_assert_true(is_behind_relay(w->vm));
        if (i == 1)
            attach_replace(w->vm);
        qmp_ok(vm_qmp(w->vm), "device_del", "{'id': 'd'}");
        qmp_expect(vm_qmp(w->vm), "DEVICE_DELETED"); /* of its virtio part */
        qmp_expect(vm_qmp(w->vm), "DEVICE_DELETED");
        remove_chardev(w->vm);
    }
    storage_end(second);
    unlink(image);
    unlink(socket);
    unlink(pidfile);
    hop(w, false);
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/vhost-plug/disk", GINT_TO_POINTER(false), test_moved);
    g_test_add_data_func("/vhost-plug/network", GINT_TO_POINTER(true), test_moved);
    g_test_add_func("/vhost-plug/relays", test_relays);
    g_test_add_func("/vhost-plug/running", test_running);
    g_test_add_func("/vhost-plug/left", test_left);
    g_test_add_func("/vhost-plug/refused", test_refused);
    g_test_add_func("/vhost-plug/kinds", test_kinds);
    g_test_add_func("/vhost-plug/busy", test_busy);
    g_test_add_func("/vhost-plug/order", test_order);
    g_test_add_func("/vhost-plug/last-word", test_last_word);
    return g_test_run();
}
