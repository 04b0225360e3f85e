/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a real QEMU, and what the agent in it has handed over: userfaultfds that
 * are lent, the hook for discards, -daemonize, agents of other versions; and -incoming.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/agent/agent.h"
#include "guest/relay/uffds.h"
#include "tests/qtest/relay-rig.h"
#include "uffd/uffd.h"

/* ---- the agent, -incoming -------------------------------------------------------------------- */

static RigFrame *take_uffd(Rig *rig, const char *kind)
{
    rig_engine_send(rig, FF_LINK_TAKE_UFFD, 0, 200, kind);
    RigFrame *reply = rig_frame(rig, FF_LINK_FD_REPLY);

    g_assert_cmpuint(reply->header.seq, ==, 200);
    return reply;
}

static void expect_no_uffd(Rig *rig, const char *kind, const char *why)
{
    g_autoptr(RigFrame) reply = take_uffd(rig, kind);

    g_assert_cmpuint(reply->header.n_fds, ==, 0);
    g_assert_nonnull(strstr(reply->text, why));
}

/* How many fds of the relay are the file that FD is, as far as this user may look at them. */
static unsigned held_by_relay(Rig *rig, int fd)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/fd", (int)rig->relay);
    g_autoptr(GDir) fds = g_dir_open(dir, 0, NULL);
    struct stat want, got;
    const char *name;
    unsigned n = 0;

    g_assert_cmpint(fstat(fd, &want), ==, 0);
    while (fds && (name = g_dir_read_name(fds))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        n += stat(path, &got) == 0 && got.st_ino == want.st_ino && got.st_dev == want.st_dev;
    }
    return n;
}

/* A relay that has sent a frame closes what it need not keep of it. */
static void expect_held(Rig *rig, int fd, unsigned n)
{
    int64_t end = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;

    while (held_by_relay(rig, fd) != n) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_thread_yield();
    }
}

static void give_uffd(Rig *rig, const RigFrame *taken)
{
    ff_link_send(rig->link, FF_LINK_GIVE_UFFD, 0, 0, "protect", strlen("protect"),
                 taken ? taken->fds : NULL, taken ? 1 : 0);
}

static RigFrame *begin_engine(Rig *rig, Stream *client)
{
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    return rig_frame(rig, FF_LINK_COMMAND);
}

/* The userfaultfd for synchronous write protection is lent: to one engine, which gives it back, or
 * says that it could not. */
static void test_protect(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = begin_engine(rig, client), taken = NULL, again = NULL;

    g_assert_nonnull(strstr(rig->init, "\"protect-error\":null"));
    g_assert_null(strstr(rig->init, "uffd:protect"));
    expect_no_uffd(rig, "missing", "from its start on");
    taken = take_uffd(rig, "protect");
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    expect_no_uffd(rig, "protect", "the engine's already");
    expect_held(rig, taken->fds[0], 1);
    give_uffd(rig, taken);
    again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    expect_held(rig, taken->fds[0], 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, NULL);
    expect_no_uffd(rig, "protect", "they need the guest to be started again");
    expect_held(rig, taken->fds[0], 0);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, FF_AGENT_ELOST);
}

/* ---- an engine dies while somebody waits ----------------------------------------------------- */

typedef struct {
    int uffd, memfd;
    char *map;
    gint done; /* atomic; observer: the test */
    GThread *writer;
} Guest;

#define GUEST_BYTES (1 << 20)

static gpointer write_one(gpointer opaque)
{
    Guest *g = opaque;

    __atomic_store_n(g->map + 4711, 2, __ATOMIC_RELAXED); /* observer: the test, joined */
    g_atomic_int_set(&g->done, 1);
    return NULL;
}

static bool guest_new(Guest *g)
{
    *g = (Guest){.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK),
                 .memfd = memfd_create("ram", MFD_CLOEXEC)};
    if (g->uffd < 0 || ff_uffd_init(g->uffd, FF_UFFD_PROTECTION, NULL) < 0) {
        g_test_skip(g->uffd < 0 ? "no permission for userfaultfd" : "the kernel is too old");
        return false;
    }
    g_assert_cmpint(ftruncate(g->memfd, GUEST_BYTES), ==, 0);
    g->map = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g->memfd, 0);
    g_assert_true(g->map != MAP_FAILED);
    return true;
}

/* An engine has taken the userfaultfd, protects, and has read that somebody waits. Returns its
 * copy.
 */
static int protect(Rig *rig, Stream *client, Guest *g)
{
    g_autoptr(RigFrame) command = begin_engine(rig, client), taken = take_uffd(rig, "protect");
    struct uffd_msg msg;

    close(g->uffd);
    int uffd = taken->fds[0];
    ff_state_mark(rig->state, FF_MARK_PROTECTED);
    g_assert_cmpint(ff_uffd_register_wp(uffd, (uintptr_t)g->map, GUEST_BYTES), ==, 0);
    g_assert_cmpint(ff_uffd_protect(uffd, (uintptr_t)g->map, GUEST_BYTES), ==, 0);
    g->writer = g_thread_new("writer", write_one, g);
    g_assert_true(test_wait_readable(uffd, test_deadline(TEST_TIMEOUT)));
    g_assert_cmpint(ff_uffd_read(uffd, &msg, 1), ==, 1);
    taken->fds[0] = -1;
    return uffd;
}

/* And is killed: the relay's copy is the only one then. */
static void die_protecting(Rig *rig, Stream *client, Guest *g)
{
    close(protect(rig, client, g));
    rig_engine_crash(rig);
}

static void guest_end(Guest *g)
{
    g_thread_join(g->writer);
    g_assert_cmpint(g->map[4711], ==, 2);
    memset(g->map, 3, GUEST_BYTES); /* nothing is protected any more */
    munmap(g->map, GUEST_BYTES);
    close(g->memfd);
}

/* The next engine is there at once, lifts, and gives back: the guest can have its next snapshot. */
static void test_protect_lifted(void)
{
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    die_protecting(rig, client, &g);
    rig_engine_start(rig); /* without a command */
    g_assert_true(ff_state_is_marked(rig->state, FF_MARK_PROTECTED));
    g_autoptr(RigFrame) taken = take_uffd(rig, "protect");
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    g_assert_cmpint(g_atomic_int_get(&g.done), ==, 0);
    g_assert_cmpint(ff_uffd_unregister(taken->fds[0], (uintptr_t)g.map, GUEST_BYTES), ==, 0);
    ff_state_unmark(rig->state, FF_MARK_PROTECTED);
    give_uffd(rig, taken);
    guest_end(&g);
    g_usleep((FF_UFFDS_LIFT_MS + 200) * 1000); /* that it is not closed all the same */
    g_autoptr(RigFrame) again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, again);
}

/* Nobody lifts, or somebody begins to and dies as well: it is over a second after the first death,
 * and not before. */
static void test_protect_overdue(gconstpointer data)
{
    bool begins = data;
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    int64_t before = g_get_monotonic_time();
    die_protecting(rig, client, &g);
    int64_t died = g_get_monotonic_time();
    rig_engine_start(rig);
    if (begins) {
        g_autoptr(RigFrame) taken = take_uffd(rig, "protect");
        rig_engine_crash(rig);
        rig_engine_start(rig);
    }
    guest_end(&g);
    int64_t now = g_get_monotonic_time();
    g_test_message("waited %d ms", (int)((now - died) / 1000));
    g_assert_cmpint(now - before, >=, FF_UFFDS_LIFT_MS * 1000);
    g_assert_cmpint(now - died, <, 3 * FF_UFFDS_LIFT_MS * 1000);
    expect_no_uffd(rig, "protect", "they need the guest to be started again");
    g_assert_false(ff_state_is_marked(rig->state, FF_MARK_PROTECTED));
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, FF_AGENT_ELOST);
}

/* One that is still at it a second later continues: what it gives back is of use. If it dies
 * instead, there is no second after that. */
static void test_protect_late(gconstpointer dies)
{
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    die_protecting(rig, client, &g);
    rig_engine_start(rig);
    RigFrame *taken = take_uffd(rig, "protect");
    rig_expect(client, "it has been restarted");
    g_usleep((FF_UFFDS_LIFT_MS + 200) * 1000); /* that it is not closed */
    expect_held(rig, taken->fds[0], 1);
    g_assert_cmpint(g_atomic_int_get(&g.done), ==, 0);
    if (!dies) {
        g_assert_cmpint(ff_uffd_unregister(taken->fds[0], (uintptr_t)g.map, GUEST_BYTES), ==, 0);
        ff_state_unmark(rig->state, FF_MARK_PROTECTED);
        give_uffd(rig, taken);
        guest_end(&g);
    }
    rig_frame_free(taken);
    if (dies) {
        int64_t died = g_get_monotonic_time();
        rig_engine_crash(rig);
        guest_end(&g);
        g_assert_cmpint(g_get_monotonic_time() - died, <, FF_UFFDS_LIFT_MS * 1000);
        g_autoptr(RigFrame) command = begin_engine(rig, client);
        expect_no_uffd(rig, "protect", "they need the guest to be started again");
        return;
    }
    g_autoptr(RigFrame) again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, again);
}

/* ---- an engine that was killed and does not end ---------------------------------------------- */

#define KILLED "relay/*/step/kill-engine=skip" /* its SIGKILL is taken for sent */

typedef struct {
    Guest guest;
    Rig *rig;
    Stream *client;
    int maps, uffd, process; /* the last two: the engine's copy, and what keeps it alive */
} Held;

static void hold_memory(Rig *rig, const char *name, int memfd)
{
    /* The sizes are a lie. */
    g_autofree char *text =
        g_strdup_printf("{\"name\": \"ram:%s\", \"size\": 1, \"page-size\": 3}", name);

    g_assert_cmpint(ff_link_send(rig->link, FF_LINK_HOLD, 0, 0, text, strlen(text), &memfd, 1), ==,
                    0);
}

static void wait_for_log(Rig *rig, Stream *client, const char *text)
{
    for (int64_t end = test_deadline(20);;) {
        g_autofree char *log = rig_log(rig);

        if (strstr(log, text)) {
            return;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        /* Each answer is a turn of the relay's main loop. */
        rig_send(client, "{'execute':'query-name','id':'known'}");
        rig_expect(client, "known");
    }
}

/* An engine takes a live snapshot, and somebody waits. FALSE: the test is skipped. */
static bool held_begin(Held *h, const char *faults)
{
    if (!rig_has_faults()) {
        g_test_skip("this build has no faults: meson setup -Dfaults=true");
        return false;
    }
    if (!guest_new(&h->guest)) {
        return false;
    }
    h->maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    h->rig = rig_new(&(RigConfig){.protect = h->guest.uffd, .maps = h->maps, .faults = faults});
    h->client = rig_client(h->rig, 0, true, false);
    h->uffd = protect(h->rig, h->client, &h->guest);
    hold_memory(h->rig, "more", h->guest.memfd);
    ff_discards_arm(h->rig->discards);
    h->process = rig_engine_process(h->rig);
    return true;
}

static void held_crash(Held *h)
{
    rig_engine_crash(h->rig);
    rig_expect(h->client, "it has been restarted");
}

static void held_end(Held *h)
{
    stream_free(h->client);
    rig_free(h->rig);
    close(h->maps);
}

/* The relay lets the guest continue: nothing of the engine can come any more. The guest's next
 * snapshot is possible when the engine has ended, however late the next one looks. */
static void expect_lifted(Held *h)
{
    wait_for_log(h->rig, h->client, "the guest is unharmed");
    guest_end(&h->guest);
    g_assert_false(ff_discards_is_armed(h->rig->discards));
    close(h->uffd);
    rig_expect_no_engine(h->rig, 300);
    close(h->process);
    rig_engine_start(h->rig); /* by itself: it looks once more */
    g_assert_true(ff_state_is_marked(h->rig->state, FF_MARK_PROTECTED));
    g_usleep((FF_UFFDS_LIFT_MS + 200) * 1000); /* that it is not closed */
    g_autoptr(RigFrame) taken = take_uffd(h->rig, "protect");
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    ff_state_unmark(h->rig->state, FF_MARK_PROTECTED);
    give_uffd(h->rig, taken);
}

static void test_held(void)
{
    Held h;

    if (held_begin(&h, KILLED)) {
        held_crash(&h);
        expect_lifted(&h);
        held_end(&h);
    }
}

/* An engine that may write on: its file must not get what the guest writes now, so that waits. */
static void test_held_not_allowed(void)
{
    Held h;

    if (!held_begin(&h, "relay/*/call/kill-engine=EIO")) {
        return;
    }
    held_crash(&h);
    wait_for_log(h.rig, h.client, "they need the guest to be started again");
    g_assert_cmpint(g_atomic_int_get(&h.guest.done), ==, 0);
    g_assert_true(ff_discards_is_armed(h.rig->discards));
    close(h.uffd);
    guest_end(&h.guest);
    rig_expect_no_engine(h.rig, 300);
    close(h.process);
    held_end(&h);
}

/* Memory has run out, which may be why the engine was killed: there is none for a thread's stack.
 */
static void test_held_no_thread(void)
{
    Held h;

    if (!held_begin(&h, KILLED)) {
        return;
    }
    g_autofree char *path = g_strdup_printf("/proc/%d/statm", (int)h.rig->relay), *pages = NULL;
    struct rlimit before, now;

    g_assert_true(g_file_get_contents(path, &pages, NULL, NULL));
    g_assert_cmpint(prlimit(h.rig->relay, RLIMIT_AS, NULL, &before), ==, 0);
    now = before;
    now.rlim_cur = strtoul(pages, NULL, 10) * sysconf(_SC_PAGESIZE) + (1 << 20);
    g_assert_cmpint(prlimit(h.rig->relay, RLIMIT_AS, &now, NULL), ==, 0);
    held_crash(&h);
    wait_for_log(h.rig, h.client, "it is tried again each second");
    g_assert_cmpint(g_atomic_int_get(&h.guest.done), ==, 0);
    g_assert_cmpint(prlimit(h.rig->relay, RLIMIT_AS, &before, NULL), ==, 0);
    expect_lifted(&h);
    held_end(&h);
}

/* A block that was unplugged meanwhile keeps nobody in the others. */
static void test_held_unmapped(void)
{
    Held h;

    if (!held_begin(&h, KILLED)) {
        return;
    }
    int gone = memfd_create("gone", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(gone, GUEST_BYTES), ==, 0);
    hold_memory(h.rig, "gone", gone);
    close(gone);
    held_crash(&h);
    expect_lifted(&h);
    held_end(&h);
}

static void meet(Rig *rig, const char *name)
{
    g_autofree char *path = g_build_filename(rig->dir, name, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_cmpint(unlink(path), ==, 0);
}

/* The engine ends while the relay is at it: the next one is answered when that is over. */
static void test_held_waits(void)
{
    Held h;

    if (!held_begin(&h, KILLED ";relay/*/step/lift=hold")) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_build_filename(h.rig->dir, i ? "hold" : "held", NULL);

        g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    }
    held_crash(&h);
    meet(h.rig, "held");
    close(h.uffd);
    close(h.process);
    rig_engine_start(h.rig);
    rig_engine_send(h.rig, FF_LINK_TAKE_UFFD, 0, 200, "protect");
    rig_engine_send(h.rig, FF_LINK_SYNC, 0, 201, NULL);
    g_autoptr(RigFrame) synced = rig_frame(h.rig, FF_LINK_SYNCED);
    g_assert_cmpuint(synced->header.seq, ==, 201);
    g_assert_cmpint(g_atomic_int_get(&h.guest.done), ==, 0);
    meet(h.rig, "hold");
    g_autoptr(RigFrame) taken = rig_frame(h.rig, FF_LINK_FD_REPLY);
    g_assert_cmpuint(taken->header.seq, ==, 200);
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    guest_end(&h.guest);
    g_assert_true(ff_state_is_marked(h.rig->state, FF_MARK_PROTECTED));
    ff_state_unmark(h.rig->state, FF_MARK_PROTECTED);
    give_uffd(h.rig, taken);
    held_end(&h);
}

/* Each engine gets what arms the hook; when one dies that has armed it, the relay disarms it. */
static void test_hook(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL, second = NULL;
    g_autofree char *log = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"discards-error\":null"));
    g_assert_nonnull(strstr(rig->init, "\"discards\""));
    command = rig_frame(rig, FF_LINK_COMMAND);
    ff_discards_arm(rig->discards);
    /* Another one starts only when this one is dead, and the hook was disarmed. */
    rig_engine_crash(rig);
    rig_expect(client, "it has been restarted");
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    second = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_false(ff_discards_is_armed(rig->discards));
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "QEMU discards guest memory again"));
    /* One that has ended well, too. */
    rig_answer(rig, second, FF_LINK_REPLY, "{\"return\": {}}");
    rig_expect(client, "return");
    ff_discards_arm(rig->discards);
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    g_autoptr(RigFrame) third = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_false(ff_discards_is_armed(rig->discards));
}

/* A QEMU that an older farfault has started: all but the hook is there. */
static void test_old_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.old_agent = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(rig->init, "\"discards-error\":\"an older farfault has started this"));
    g_assert_null(strstr(rig->init, "\"discards\""));
    g_assert_nonnull(strstr(rig->init, "\"uffd:missing\""));
    g_assert_nonnull(strstr(rig->init, "\"protect-error\":null"));
}

static void test_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.uffd_errno = 1 /* EPERM */});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL, second = NULL;
    g_autofree char *log = NULL;

    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "vm.unprivileged_userfaultfd=1"));
    g_assert_null(strstr(rig->init, "uffd:"));
    command = rig_frame(rig, FF_LINK_COMMAND);
    /* A later hand-over replaces it whole. */
    rig_send_hello(rig, 0, rig->qemu);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": 1}");
    rig_expect(client, "1");
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"uffd-error\":null"));
    g_assert_nonnull(
        strstr(rig->init,
               "\"fds\":[\"state\",\"qemu-monitor\",\"pidfd\",\"pagemap\","
               "\"maps\",\"mem\",\"uffd:tracking\",\"uffd:missing\",\"discards\",\"door\","
               "\"" FF_LISTENING_MONITOR "m0\",\"" FF_LISTENING_MONITOR "m1\",\"ram:pc.ram\"]"));
    second = rig_frame(rig, FF_LINK_COMMAND);
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "its migrations are QEMU"));
}

/* The process that was started ends when its child stands; the child's end counts. */
static void test_daemonize(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.daemonize = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    /* As the relay sees it: a second hand-over, then the end of the first process. Here that
     * is all of QEMU, so the monitors end, but the relay stays. */
    rig_send_hello(rig, 0, child);
    rig_kill_qemu(rig);
    rig_expect_end(client);
    rig->qemu = child;
    for (int i = 0; i < 3; i++) { /* it still takes clients, though QEMU does not */
        g_autoptr(Stream) refused = rig_dial(rig, 0);

        rig_expect_end(refused);
    }
    g_assert_false(rig_relay_has_ended(rig)); /* then the end of the child ends it: rig_free() */
}

static void test_no_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.quiet_agent = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autofree char *log = rig_log(rig);

    g_assert_nonnull(strstr(log, "did not load farfault-agent.so"));
}

/* QEMU listens before it greets; so must the engine. */
static void test_incoming(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.incoming = "tcp:127.0.0.1:0"});
    g_autoptr(RigFrame) start = NULL;
    Stream *client = NULL;

    rig_engine_start(rig);
    start = rig_frame(rig, FF_LINK_START_INCOMING);
    g_assert_cmpstr(start->text, ==, "tcp:127.0.0.1:0");
    g_assert_cmpuint(start->header.seq, !=, 0);
    rig_answer(rig, start, FF_LINK_REPLY, "");
    client = rig_client(rig, 0, true, false);
    stream_free(client);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/agent", test_agent);
    g_test_add_func("/relay/protect", test_protect);
    g_test_add_func("/relay/protect-lifted", test_protect_lifted);
    g_test_add_data_func("/relay/protect-overdue/nobody", NULL, test_protect_overdue);
    g_test_add_data_func("/relay/protect-overdue/one-that-dies", "yes", test_protect_overdue);
    g_test_add_data_func("/relay/protect-late/gives", NULL, test_protect_late);
    g_test_add_data_func("/relay/protect-late/dies", "yes", test_protect_late);
    g_test_add_func("/relay/protect-held/killed", test_held);
    g_test_add_func("/relay/protect-held/not-allowed", test_held_not_allowed);
    g_test_add_func("/relay/protect-held/no-thread", test_held_no_thread);
    g_test_add_func("/relay/protect-held/unmapped", test_held_unmapped);
    g_test_add_func("/relay/protect-held/waits", test_held_waits);
    g_test_add_func("/relay/hook", test_hook);
    g_test_add_func("/relay/old-agent", test_old_agent);
    g_test_add_func("/relay/daemonize", test_daemonize);
    g_test_add_func("/relay/no-agent", test_no_agent);
    g_test_add_func("/relay/incoming", test_incoming);
    return g_test_run();
}
