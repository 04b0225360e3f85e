/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Linux guest whose network is a vhost-user one with DPDK's testpmd behind it, which sends each
 * frame back: migrated by QEMU, and by farfault with and without a switch to postcopy. The guest
 * verifies frames that lie in memory into which nobody but testpmd has written, and their order.
 */
#include <signal.h>
#include <string.h>

#include "tests/lib/attach.h"
#include "tests/lib/move.h"
#include "tests/lib/vhostworld.h"

/* Frames after a move that show that the network is there again, and that none of those that lay in
 * the guest is wrong. */
#define MANY 2000
/* So slow that the guest is seen to run while its memory comes (bytes per second). */
#define SLOW (4 << 20)

typedef struct {
    const char *name, *who; /* of --vhost-user=, and so who carries the migration */
    bool postcopy, hybrid;  /* a switch; a round goes before */
    bool unable, locked;    /* testpmd cannot wait for pages, or offers it in vain */
    bool disk;              /* a vhost-user-blk device as well */
    bool server;            /* QEMU listens, and testpmd connects */
    unsigned n_queues;      /* pairs; 0: one */
    bool pairs;             /* all of them are in use */
    bool huge;              /* pages of 2 MiB */
    bool newer;             /* QEMU 10 */
    bool rest;              /* of the long tests */
} Course;

static const Course courses[] = {
    {"native", "qemu", .rest = true},
    {"passed-on", "farfault", .rest = true},
    {"followed", "migrate"},
    {"server", "migrate", .server = true, .rest = true},
    {"queues", "migrate", .n_queues = 2, .rest = true},
    {"postcopy/queues", "migrate", .postcopy = true, .n_queues = 2, .rest = true},
    {"postcopy/at-once", "migrate", .postcopy = true},
    {"postcopy/hybrid", "migrate", .postcopy = true, .hybrid = true, .rest = true},
    {"postcopy/at-once/unable", "migrate", .postcopy = true, .unable = true, .rest = true},
    {"postcopy/hybrid/unable", "migrate", .postcopy = true, .hybrid = true, .unable = true,
     .rest = true},
    {"postcopy/at-once/locked", "migrate", .postcopy = true, .locked = true, .rest = true},
    {"postcopy/at-once/server", "migrate", .postcopy = true, .server = true, .rest = true},
    {"postcopy/at-once/twice", "migrate", .postcopy = true, .rest = true},
    {"postcopy/hybrid/disk", "migrate", .postcopy = true, .hybrid = true, .disk = true,
     .rest = true},
    {"pairs/followed", "migrate", .n_queues = 2, .pairs = true, .rest = true},
    {"pairs/at-once", "migrate", .postcopy = true, .n_queues = 2, .pairs = true, .rest = true},
    {"pairs/hybrid/unable", "migrate", .postcopy = true, .hybrid = true, .unable = true,
     .n_queues = 2, .pairs = true, .rest = true},
    {"huge/followed", "migrate", .huge = true, .rest = true},
    {"huge/at-once", "migrate", .postcopy = true, .huge = true, .rest = true},
    {"huge/hybrid/unable", "migrate", .postcopy = true, .hybrid = true, .unable = true,
     .huge = true, .rest = true},
    {"10/followed", "migrate", .newer = true, .rest = true},
    {"10/at-once", "migrate", .postcopy = true, .newer = true, .rest = true},
    {"10/hybrid/unable", "migrate", .postcopy = true, .hybrid = true, .unable = true, .newer = true,
     .rest = true},
};

static VhostWorld *world_new(const Course *c)
{
    const char *load = c->disk    ? VHOST_NET_LOAD " ff.disk=1 ff.direct=8"
                       : c->pairs ? VHOST_NET_LOAD " ff.ways=2"
                                  : VHOST_NET_LOAD;
    VhostWorld *w = vhost_world_new_network(VM_RUN, c->who, load);

    w = w ? vhost_world_newer(w, c->newer, false) : NULL;
    w = w && c->huge ? vhost_world_huge(w) : w;
    if (w) {
        w->no_disk = !c->disk;
        w->guest.n_queues = MAX(c->n_queues, 1);
        w->guest.network_server = c->server;
        w->unable = c->unable;
        w->locked = c->locked;
    }
    return w;
}

/* The next QEMU is there, and may be migrated to. */
static VhostWorld next(VhostWorld *w, const Course *c)
{
    VhostWorld old = vhost_world_next(w);

    for (unsigned i = 0; c->postcopy && i < 2; i++)
        qmp_ok(vm_qmp(i ? old.vm : w->vm), "migrate-set-capabilities",
               "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}]}");
    if (c->postcopy)
        qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-bandwidth': %u}", 30 << 20);
    return old;
}

static void arrive(VhostWorld *w, VhostWorld *old, const Course *c)
{
    move_wait_completed(old->vm, w->vm);
    if (!strcmp(c->who, "migrate")) {
        vhost_world_assert_carried(old->vm);
        vhost_world_assert_carried(w->vm);
    }
    vhost_world_leave(old);
    vhost_world_await_frames(w->vm, MANY);
    linux_guest_assert_intact(w->vm, "after a migration");
}

static void hop(VhostWorld *w, const Course *c)
{
    VhostWorld old = next(w, c);
    bool stands = c->unable || c->locked;

    if (stands) /* memory is missing when the device is to begin */
        qmp_ok(vm_qmp(old.vm), "migrate-set-parameters", "{'max-postcopy-bandwidth': %u}", SLOW);
    vhost_world_migrate(w, &old);
    if (c->hybrid)
        qmp_expect(vm_qmp(old.vm), "MIGRATION_PASS");
    if (c->postcopy)
        vhost_world_switch_over(w, &old);
    if (stands) {
        vm_wait_stderr(w->vm, "does not wait for pages");
        vhost_world_set_free(&old);
    }
    arrive(w, &old, c);
}

/* Twice in a row, but for postcopy's of those that are not long. */
static void test_course(gconstpointer data)
{
    const Course *c = data;
    VhostWorld *w = world_new(c);

    if (!w)
        return;
    vhost_world_boot(w);
    hop(w, c);
    if (c->rest || !c->postcopy)
        hop(w, c);
    vhost_world_end(w);
}

/* The guest runs at the next QEMU, most of whose memory is missing; the network as well, or (HELD)
 * it stands. NULL: the test is skipped. */
static VhostWorld *switched_new(VhostWorld *old, bool held)
{
    static const Course waits = {"", "migrate", .postcopy = true},
                        stands = {"", "migrate", .postcopy = true, .unable = true};
    const Course *course = held ? &stands : &waits;
    const char *why = NULL;
    VhostWorld *w = held || storage_can_wait(&why) ? world_new(course) : NULL;

    if (why)
        g_test_skip(why);
    if (!w)
        return NULL;
    vhost_world_boot(w);
    w->guest.listens = held;
    *old = next(w, course);
    qmp_ok(vm_qmp(old->vm), "migrate-set-parameters", "{'max-postcopy-bandwidth': %u}", SLOW);
    vhost_world_migrate(w, old);
    vhost_world_switch_over(w, old);
    return w;
}

static void end_moved(VhostWorld *w, VhostWorld *old)
{
    qmp_expect_migration(vm_qmp(old->vm), "completed");
    vhost_world_leave(old);
    vhost_world_await_frames(w->vm, MANY);
    linux_guest_assert_intact(w->vm, "moved");
    vhost_world_end(w);
}

/* The network is used while memory is missing. */
static void test_waits(void)
{
    VhostWorld old, *w = switched_new(&old, false);

    if (!w)
        return;
    vhost_world_await_frames(w->vm, MANY);
    g_autofree char *status = qmp_migrate_status(vm_qmp(w->vm));
    g_assert_cmpstr(status, ==, "postcopy-active");
    vhost_world_set_free(&old);
    end_moved(w, &old);
}

/* Paused with the network in use, and recovered; ENGINE: as the destination's engine was killed. */
static void test_recovered(gconstpointer data)
{
    bool engine = GPOINTER_TO_INT(data);
    VhostWorld old, *w = switched_new(&old, false);

    if (!w)
        return;
    if (engine)
        kill(vm_engine(w->vm), SIGKILL);
    else
        qmp_ok(vm_qmp(old.vm), "migrate-pause", NULL);
    qmp_expect_migration(vm_qmp(old.vm), "postcopy-paused");
    qmp_expect_migration(vm_qmp(w->vm), "postcopy-paused");
    vhost_world_resume(w, &old);
    end_moved(w, &old);
}

/* Relay and engine die while memory is missing. The network stands: what testpmd has taken from a
 * ring when the relay dies QEMU gives back to the guest, and testpmd may send what is there then
 * (known faults). */
static void test_relay_dies(void)
{
    VhostWorld old, *w = switched_new(&old, true);

    if (!w)
        return;
    attach_kill_relay(w->vm, true);
    qmp_expect_migration(vm_qmp(old.vm), "postcopy-paused");
    attach_vm(w->vm, NULL);
    vhost_world_resume(w, &old);
    end_moved(w, &old);
}

/* The destination was not told to migrate it: the guest stays, and is not QEMU's to lose. */
static void test_one_side(void)
{
    static const Course course = {"", "migrate", .postcopy = true, .locked = true};
    VhostWorld *w = world_new(&course);

    if (!w)
        return;
    vhost_world_boot(w);
    g_setenv("FARFAULT_VHOST_USER", "qemu", TRUE);
    VhostWorld old = next(w, &course);

    vhost_world_migrate(w, &old);
    qmp_expect_migration(vm_qmp(old.vm), "failed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(old.vm), "query-migrate", NULL);
    g_assert_nonnull(strstr(json_object_get_string_member(info, "error-desc"),
                            "start it with --vhost-user=migrate"));
    vhost_world_back(w, &old);
    vhost_world_await_frames(w->vm, MANY);
    linux_guest_assert_intact(w->vm, "not moved");
    vhost_world_end(w);
}

/* Another relay takes the place of the one that is there, again and again, with the network in use;
 * it knows what its migrations need, and takes the next back-end. */
static void test_replaced(gconstpointer server)
{
    Course course = {"", "migrate", .server = GPOINTER_TO_INT(server)};
    VhostWorld *w = world_new(&course);

    if (!w)
        return;
    vhost_world_boot(w);
    for (unsigned i = 0; i < 3; i++) {
        attach_replace(w->vm);
        vhost_world_await_frames(w->vm, MANY);
    }
    hop(w, &course);
    attach_replace(w->vm);
    testpmd_kill(w->testpmd);
    vhost_world_start_testpmd(w);
    vhost_world_await_frames(w->vm, MANY);
    course.postcopy = true;
    hop(w, &course);
    vhost_world_end(w);
}

/* QEMU sees the end of its network, and the next one. */
static void test_backend_dies(void)
{
    static const Course course = {"", "migrate"};
    VhostWorld *w = world_new(&course);

    if (!w)
        return;
    vhost_world_boot(w);
    testpmd_kill(w->testpmd);
    vhost_world_start_testpmd(w);
    vhost_world_await_frames(w->vm, MANY);
    hop(w, &course);
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bool rest = g_test_slow(); /* these alone, and the others without -m slow */

    for (unsigned i = 0; i < G_N_ELEMENTS(courses); i++) {
        g_autofree char *path = g_strconcat("/vhost-net/", courses[i].name, NULL);

        if (courses[i].rest == rest)
            g_test_add_data_func(path, &courses[i], test_course);
    }
    if (rest) {
        g_test_add_data_func("/vhost-net/recovered", GINT_TO_POINTER(false), test_recovered);
        g_test_add_data_func("/vhost-net/engine-dies", GINT_TO_POINTER(true), test_recovered);
        g_test_add_func("/vhost-net/backend-dies", test_backend_dies);
        g_test_add_data_func("/vhost-net/replaced/client", GINT_TO_POINTER(false), test_replaced);
        g_test_add_data_func("/vhost-net/replaced/server", GINT_TO_POINTER(true), test_replaced);
        g_test_add_func("/vhost-net/relay-dies", test_relay_dies);
        g_test_add_func("/vhost-net/one-side", test_one_side);
    } else {
        g_test_add_func("/vhost-net/waits", test_waits);
    }
    return g_test_run();
}
