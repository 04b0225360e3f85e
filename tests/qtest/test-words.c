/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client's stop that is on its way to QEMU when the engine stops the guest for the switch of a
 * migration. What was answered with success is so afterwards: the guest stands at the destination.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "tests/lib/move.h"
#include "tests/lib/stop.h"
#include "tests/qtest/snapshot-rig.h"

static gpointer say_stop(gpointer source)
{
    qmp_ok(vm_qmp(source), "stop", NULL);
    return NULL;
}

/* The engine's coordinator has come to a point with "hold", which nobody has let it go to. For half
 * a second: one that does not wait has come there by then. */
static bool has_gone_on(Snap *t)
{
    g_autofree char *held = vm_path(t->vm, "held");
    int64_t end = g_get_monotonic_time() + G_USEC_PER_SEC / 2;
    int fd;

    do {
        fd = open(held, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        g_thread_yield();
    } while (fd < 0 && errno == ENXIO && g_get_monotonic_time() < end);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static void test_stop_under_way(void)
{
    Snap t = {0};

    if (!snap_begin(&t,
                    "source/*/at/stopping=hold;source/*/at/client-word=hold;"
                    "source/*/at/stopped=hold",
                    NULL)) {
        return;
    }
    const char *const args[] = {"-smp", "2", NULL};
    g_autoptr(Vm) d = vm_start(&(VmConfig){.name = "destination",
                                           .launcher = VM_RUN,
                                           .memory = G_STRINGIFY(SNAP_RAM_MIB) "M",
                                           .args = args,
                                           .boot = &t.boot,
                                           .incoming = "defer"});
    pid_t relay = vm_relay(t.vm);

    move_prepare(t.vm, d);
    g_autofree char *uri = move_listen(d);
    qmp_ok(vm_qmp(t.vm), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(t.vm), "migrate-start-postcopy", NULL);
    snap_wait_held(&t); /* about to stop the guest */
    GThread *client = g_thread_new("client", say_stop, t.vm);
    snap_wait_held(&t); /* the guest is not held, so the relay must pass stop to QEMU; it is late */
    stop_process(relay);
    snap_let_both_go(&t);
    bool early = has_gone_on(&t);
    g_assert_cmpint(kill(relay, SIGCONT), ==, 0); /* in any case: it ends with its QEMU */
    g_assert_false(early);
    g_thread_join(client); /* it is told that the guest stands */
    snap_wait_held(&t);
    snap_let_go(&t);
    move_wait_completed(t.vm, d);
    g_autofree char *state = qmp_run_state(vm_qmp(d));
    g_assert_cmpstr(state, ==, "paused");
    vm_end(t.vm);
    g_free(t.path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/words/stop/under-way", test_stop_under_way);
    return g_test_run();
}
