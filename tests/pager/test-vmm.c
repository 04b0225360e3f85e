/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager --to, with a process that receives the guest as Cloud Hypervisor does (vmm.h): its
 * vCPUs run while pages come, while pagers are killed, and stand still when all of farfault is
 * gone. And with peers that say what they should not.
 *
 * Not for sanitizers: the process is forked and ends in the middle.
 */
#include <fcntl.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/pager/daemon.h"
#include "tests/pager/vmm.h"

#define PAGE_FAULT 9
#define GPA_3 ((uint64_t)4 << 30) /* of slot 3 */

typedef struct {
    Daemon *d;
    VmmPlan plan;
    pid_t vmm; /* 0: the test is the peer itself */
} World;

static void prepare(const char *dir, const char *socket, void *opaque)
{
    World *w = opaque;

    vmm_write_snapshot(dir);
    w->plan.listener = vmm_listen(socket);
    if (w->plan.vcpus) {
        w->vmm = vmm_start(&w->plan);
    }
}

/* FALSE: skipped. PLAN without vCPUs: the test is the peer. */
static bool begin(World *w, const VmmPlan *plan, const char *faults, const char *more)
{
#ifndef FF_FAULTS
    if (faults) {
        g_test_skip("needs -Dfaults=true");
        return false;
    }
#endif
    *w = (World){.plan = *plan};
    daemon_next(&(DaemonKind){.said_to = -1, .restores = prepare, .opaque = w});
    w->d = daemon_start(0, 0, NULL, faults, more);
    return true;
}

static int status_of(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void end(World *w)
{
    close(w->plan.listener);
    daemon_stop(w->d);
}

/* The guest is right, and the pager knows when it is through. */
static void run_well(unsigned flags, uint32_t seed, const char *faults, const char *more)
{
    VmmPlan plan = {.vcpus = 4,
                    .ops = 1000,
                    .flags = flags,
                    .seed = seed,
                    .expects_paused = !g_strcmp0(more, "--paused")};
    World w;

    if (!begin(&w, &plan, faults, more)) {
        return;
    }
    int status = status_of(w.vmm);
    int ours = daemon_wait(w.d);
    if (status || ours) {
        g_autofree char *said = daemon_said(w.d);
        g_error("it has ended with %d, farfault with %d: %s", status, ours, said);
    }
    g_assert_true(!faults || daemon_fault_happened(w.d, 0));
    end(&w);
}

static void test_flags(gconstpointer flags)
{
    run_well(GPOINTER_TO_UINT(flags), 1, NULL, NULL);
    run_well(GPOINTER_TO_UINT(flags), 2, NULL, "--no-bulk");
}

/* The same where memory is its own. */
static void test_own(gconstpointer flags)
{
    run_well(GPOINTER_TO_UINT(flags) | VMM_OWN, 1, NULL, "--own-memory");
}

static void test_paused(void)
{
    run_well(0, 3, NULL, "--paused");
}

/* It was not told to receive by postcopy: it would run on zeros, so it is not told to run. */
static void test_precopy(void)
{
    World w;

    begin(&w, &(VmmPlan){.vcpus = 1, .flags = VMM_PRECOPY}, NULL, NULL);
    g_assert_cmpint(status_of(w.vmm), ==, VMM_ABANDONED);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    daemon_wait_said(w.d, "receive-migration needs memory_mode=postcopy");
    end(&w);
}

/* ---- who dies -------------------------------------------------------------------------------- */

/* At each of these moments of a pager, at the Nth time that it comes. */
static const char *const moments[] = {"client-made",  "content-read", "placed",
                                      "place-placed", "asked-placed", "asked-answered"};

static void test_killed_at(gconstpointer data)
{
    const char *moment = data;
    static const unsigned times[] = {1, 3, 20};

    for (unsigned i = 0; i < G_N_ELEMENTS(times) && (!i || strcmp(moment, "client-made")); i++) {
        g_autofree char *fault = g_strdup_printf("pager/none/at/%s#%u=kill", moment, times[i]);
        run_well(i % 2 ? VMM_BALLOON | VMM_PREFAULTS : VMM_PREFAULTS, i, fault,
                 i == 2 ? "--no-bulk" : NULL);
    }
}

static const char *const own_moments[] = {"client-made", "content-read", "asked-placed",
                                          "asked-answered"};

static void test_own_killed_at(gconstpointer data)
{
    const char *moment = data;
    static const unsigned times[] = {1, 3, 20, 500};

    for (unsigned i = 0; i < G_N_ELEMENTS(times) && (!i || strcmp(moment, "client-made")); i++) {
        g_autofree char *fault = g_strdup_printf("pager/none/at/%s#%u=kill", moment, times[i]);
        run_well(i % 2 ? VMM_OWN | VMM_PREFAULTS : VMM_OWN | VMM_PREFAULTS | VMM_BALLOON, i, fault,
                 "--own-memory");
    }
}

/* Again and again. FF_ROUNDS: more of it. */
static void test_killed_at_random(void)
{
    const char *env = g_getenv("FF_ROUNDS");
    unsigned rounds = env ? (unsigned)g_ascii_strtoull(env, NULL, 10) : 2;

    for (unsigned i = 0; i < rounds; i++) {
        VmmPlan plan = {.vcpus = 4, .ops = 2000, .flags = VMM_PREFAULTS | VMM_BALLOON, .seed = i};
        g_autoptr(GRand) rand = g_rand_new_with_seed(i);
        World w;
        begin(&w, &plan, NULL, i % 2 ? "--no-bulk" : NULL);
        for (unsigned k = 0; k < 4; k++) {
            /* Not a wait for anything: the moment is what is random. */
            g_usleep((gulong)g_rand_int_range(rand, 0, 50000));
            pid_t pager = daemon_pager(w.d);
            if (pager > 0) {
                kill(pager, SIGKILL);
            }
        }
        g_assert_cmpint(status_of(w.vmm), ==, 0);
        g_assert_cmpint(daemon_wait(w.d), ==, 0);
        end(&w);
    }
}

/* The content cannot be read for a while: a thread that waits continues to wait. */
static void test_bad_source(void)
{
    run_well(VMM_PREFAULTS, 1, "pager/none/call/source-read#20=EIO", "--no-bulk");
}

/* No answer has come: there is none yet when what was said about it is there. */
static void assert_no_answer(int sock)
{
    char byte;

    g_assert_cmpint(recv(sock, &byte, 1, MSG_DONTWAIT), <, 0);
    g_assert_cmpint(errno, ==, EAGAIN);
}

/* A file of the snapshot is another one for a while, also for a pager that begins meanwhile. */
static void test_changed(void)
{
    World w;
    VmmPeer p;
    struct stat st;

    begin(&w, &(VmmPlan){0}, NULL, "--no-bulk");
    vmm_receive_all(&p, w.plan.listener, false);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3, VMM_PAGE));
    g_assert_true(vmm_read_answer(p.fault));
    g_assert_cmpuint(vmm_receive(&p), ==, 5);
    vmm_respond(p.control, 1, 0);
    g_autofree char *path = g_build_filename(w.d->dir, "memory-3", NULL);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, path, (struct timespec[2]){0}, 0), ==, 0);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3 + VMM_PAGE, VMM_PAGE));
    daemon_wait_said(w.d, "was changed while it was in use");
    pid_t pager = daemon_pager(w.d);
    g_assert_cmpint(pager, >, 0);
    kill(pager, SIGKILL);
    daemon_wait_said(w.d, "the guest waits until it is what it was");
    assert_no_answer(p.fault);
    g_assert_cmpint(utimensat(AT_FDCWD, path, (struct timespec[2]){st.st_atim, st.st_mtim}, 0), ==,
                    0);
    g_assert_true(vmm_read_answer(p.fault));
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* The answer is what the file has there. */
static void assert_page(const World *w, const VmmPeer *p, uint64_t offset, uint64_t length)
{
    g_autofree char *path = g_build_filename(w->d->dir, "memory-3", NULL);
    g_autofree char *page = g_malloc(length), *file = g_malloc(length);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(pread(fd, file, length, (off_t)offset), ==, length);
    close(fd);
    g_assert_true(vmm_read_page(p->fault, page, length));
    g_assert_cmpint(memcmp(page, file, length), ==, 0);
}

static void ask_for_page(const World *w, const VmmPeer *p, uint64_t offset, uint64_t length)
{
    g_assert_true(vmm_ask(p->fault, PAGE_FAULT, 16, GPA_3 + offset, length));
    assert_page(w, p, offset, length);
}

static void begin_own(World *w, VmmPeer *p)
{
    begin(w, &(VmmPlan){0}, NULL, "--own-memory");
    vmm_receive_all(p, w->plan.listener, true);
    ask_for_page(w, p, 0, VMM_PAGE);
    g_assert_cmpuint(vmm_receive(p), ==, 5);
    vmm_respond(p->control, 1, 0);
}

/* What it asks for again is what it was, also of another pager, and zeros are zeros (page 3 is
 * some) after a page that was none. The largest that there is is more than a socket takes at once.
 */
static void test_own_again(void)
{
    World w;
    VmmPeer p;

    begin_own(&w, &p);
    for (unsigned i = 0; i < 10; i++) {
        ask_for_page(&w, &p, (uint64_t)(i % 5) * VMM_PAGE, VMM_PAGE);
        ask_for_page(&w, &p, 0, 512 * VMM_PAGE);
        if (i % 3 == 0) {
            pid_t pager = daemon_pager(w.d);
            g_assert_cmpint(pager, >, 0);
            kill(pager, SIGKILL);
        }
    }
    assert_no_answer(p.fault);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    g_autofree char *said = daemon_said(w.d);
    g_assert_null(strstr(said, "cannot be placed")); /* nobody has tried to */
    end(&w);
}

/* It waits for ever, and the connection stays. */
static void test_own_refused(void)
{
    World w;
    VmmPeer p;

    begin_own(&w, &p);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, (uint64_t)8 << 30, (uint64_t)4 << 20));
    daemon_wait_said(w.d, "no page can be larger than 2 MiB");
    assert_no_answer(p.fault);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

static void prepare_gigantic(const char *dir, const char *socket, void *opaque)
{
    g_autofree char *path = g_build_filename(dir, "migration_config.json", NULL);
    g_auto(GStrv) parts = g_strsplit(vmm_config(), "\"shared\": true", 2);
    g_autofree char *text = g_strjoinv(opaque, parts);

    g_assert_nonnull(parts[1]);
    vmm_write_snapshot(dir);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* Of pages that have no room in an answer it is known before the guest is there. */
static void test_own_gigantic(void)
{
    static const char *const sizes[] = {"\"hugepage_size\": 1073741824",
                                        "\"zones\": [{\"hugepage_size\": 4194304}]"};

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        daemon_next(
            &(DaemonKind){.said_to = -1, .restores = prepare_gigantic, .opaque = (void *)sizes[i]});
        Daemon *d = daemon_start(0, 0, NULL, NULL, "--own-memory");
        g_assert_cmpint(daemon_wait(d), ==, 1);
        daemon_wait_said(d, "they can have 2 MiB at most");
        daemon_stop(d);
    }
}

/* As test_changed(). */
static void test_own_changed(void)
{
    World w;
    VmmPeer p;
    struct stat st;

    begin_own(&w, &p);
    g_autofree char *path = g_build_filename(w.d->dir, "memory-3", NULL);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, path, (struct timespec[2]){0}, 0), ==, 0);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3 + VMM_PAGE, VMM_PAGE));
    daemon_wait_said(w.d, "was changed while it was in use");
    assert_no_answer(p.fault);
    g_assert_cmpint(utimensat(AT_FDCWD, path, (struct timespec[2]){st.st_atim, st.st_mtim}, 0), ==,
                    0);
    assert_page(&w, &p, VMM_PAGE, VMM_PAGE);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* All of farfault but its guard is killed, or ended: a process that misses a page stands still, and
 * the guard ends when the process has. */
static void test_frozen(gconstpointer signal)
{
    VmmPlan plan = {.vcpus = 1, .flags = VMM_FREEZES};
    int go[2];
    World w;

    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 1), ==, 0);
    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    plan.go = go[0];
    begin(&w, &plan, NULL, "--no-bulk");
    daemon_wait_said(w.d, "the guest is there");
    kill(w.d->pid, GPOINTER_TO_INT(signal));
    g_assert_cmpint(waitpid(w.d->pid, NULL, 0), ==, w.d->pid);
    w.d->pid = 0;
    g_assert_cmpint(write(go[1], "", 1), ==, 1);
    g_assert_cmpint(status_of(w.vmm), ==, VMM_FROZEN);
    while (waitpid(-1, NULL, 0) > 0) { /* the guard, and the pager */
    }
    g_assert_cmpint(errno, ==, ECHILD);
    g_assert_cmpint(prctl(PR_SET_CHILD_SUBREAPER, 0), ==, 0);
    close(go[0]);
    close(go[1]);
    end(&w);
}

/* ---- peers that are not what they should be -------------------------------------------------- */

static void finish_talk(VmmPeer *p)
{
    g_assert_cmpuint(vmm_receive(p), ==, 5);
    vmm_respond(p->control, 1, 0);
}

/* A guest that runs, and has asked for one page. */
static void begin_peer(World *w, VmmPeer *p, const char *more)
{
    begin(w, &(VmmPlan){0}, NULL, more);
    vmm_receive_all(p, w->plan.listener, false);
    g_assert_true(vmm_ask(p->fault, PAGE_FAULT, 16, GPA_3, VMM_PAGE));
    g_assert_true(vmm_read_answer(p->fault));
    finish_talk(p);
}

static void test_bad_asks(void)
{
    static const struct {
        unsigned command;
        uint64_t payload, gpa, length;
        const char *said;
    } asks[] = {
        {8, 16, GPA_3, 4096, "has asked for what is no page"},
        {0, 0, 0, 0, "has asked for what is no page"},
        {PAGE_FAULT, 15, GPA_3, 4096, "has asked for what is no page"},
        {PAGE_FAULT, UINT64_MAX, GPA_3, 4096, "has asked for what is no page"},
        {PAGE_FAULT, 16, GPA_3, 0, "which the guest does not have"},
        {PAGE_FAULT, 16, GPA_3 + 1, 4096, "which the guest does not have"},
        {PAGE_FAULT, 16, GPA_3, 4095, "which the guest does not have"},
        {PAGE_FAULT, 16, GPA_3 - 4096, 8192, "which the guest does not have"},
        {PAGE_FAULT, 16, GPA_3 + 2093056, 8192, "which the guest does not have"},
        {PAGE_FAULT, 16, GPA_3, UINT64_MAX - 4095, "which the guest does not have"},
        {PAGE_FAULT, 16, UINT64_MAX - 4095, 4096, "which the guest does not have"},
        {PAGE_FAULT, 16, (uint64_t)2 << 20, 4096, "which the guest does not have"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(asks); i++) {
        World w;
        VmmPeer p;
        begin_peer(&w, &p, i % 2 ? "--no-bulk" : NULL);
        g_assert_true(
            vmm_ask(p.fault, asks[i].command, asks[i].payload, asks[i].gpa, asks[i].length));
        g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3, VMM_PAGE));
        daemon_wait_said(w.d, asks[i].said);
        assert_no_answer(p.fault);
        vmm_peer_clear(&p);
        g_assert_cmpint(daemon_wait(w.d), ==, 0);
        end(&w);
    }
}

/* A request in pieces is one; a piece of one is none. */
static void test_pieces(void)
{
    uint64_t words[4] = {PAGE_FAULT, 16, GPA_3 + 4096, 4096};
    World w;
    VmmPeer p;

    begin_peer(&w, &p, NULL);
    for (unsigned i = 0; i < sizeof(words); i++) {
        g_assert_cmpint(send(p.fault, (char *)words + i, 1, MSG_NOSIGNAL), ==, 1);
    }
    g_assert_true(vmm_read_answer(p.fault));
    g_assert_cmpint(send(p.fault, words, 17, MSG_NOSIGNAL), ==, 17);
    assert_no_answer(p.fault);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* Thousands of them, with fds, from a client that reads no answer: there is one for each. */
static void test_flood(void)
{
    enum { N = 5000 };
    World w;
    VmmPeer p;
    unsigned sent = 0, got = 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};

    begin_peer(&w, &p, NULL);
    struct cmsghdr *c = &control.align;
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &p.memory[0], sizeof(int));
    fcntl(p.fault, F_SETFL, O_NONBLOCK);
    while (got < N) {
        uint64_t words[4] = {PAGE_FAULT, 16, (uint64_t)(sent % 512) * 4096, 4096}, answer[2];
        struct iovec iov = {words, sizeof(words)};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
        struct pollfd pfd = {.fd = p.fault, .events = POLLIN};
        if (sent % 16 == 0) {
            mh.msg_control = &control;
            mh.msg_controllen = sizeof(control);
        }
        if (sent < N && sendmsg(p.fault, &mh, MSG_NOSIGNAL) == sizeof(words)) {
            sent++; /* as many as there is room for, before any answer is read */
            continue;
        }
        g_assert_cmpint(poll(&pfd, 1, 60000), ==, 1);
        while (recv(p.fault, answer, sizeof(answer), 0) == sizeof(answer)) {
            g_assert_cmpuint(answer[0], ==, 1);
            g_assert_cmpuint(answer[1], ==, 0);
            got++;
        }
    }
    g_assert_cmpuint(sent, ==, N);
    g_assert_cmpuint(got, ==, N);
    assert_no_answer(p.fault);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* It refuses, leaves, or answers with what is no answer, at each step. */
static void test_bad_talk(void)
{
    enum { REFUSES, LEAVES, NONE, PAYLOAD, HOWS };
    /* Start, three times MemoryFd, Config */
    for (unsigned step = 0; step < 5; step++) {
        for (unsigned how = 0; how < HOWS; how++) {
            World w;
            begin(&w, &(VmmPlan){0}, NULL, NULL);
            VmmPeer p = {.listener = w.plan.listener, .fault = -1, .memory = {-1, -1, -1}};
            p.control = accept4(p.listener, NULL, NULL, SOCK_CLOEXEC);
            for (unsigned i = 0; i <= step; i++) {
                g_assert_cmpuint(vmm_receive(&p), !=, 0);
                if (i < step || how == PAYLOAD) {
                    vmm_respond(p.control, 1, i < step ? 0 : 16);
                } else if (how != LEAVES) {
                    vmm_respond(p.control, how == REFUSES ? 2 : 0, 0);
                }
            }
            vmm_peer_clear(&p);
            g_assert_cmpint(daemon_wait(w.d), ==, 1);
            daemon_wait_said(w.d, how == LEAVES ? "has not answered" : "has refused");
            end(&w);
        }
    }
}

/* The same of the last two, where it asks already. */
static void test_bad_end(void)
{
    for (unsigned how = 0; how < 4; how++) {
        World w;
        VmmPeer p;
        begin(&w, &(VmmPlan){0}, NULL, NULL);
        vmm_receive_all(&p, w.plan.listener, false);
        if (how < 2) {
            g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3, VMM_PAGE));
            g_assert_cmpuint(vmm_receive(&p), ==, 5);
            if (how == 0) {
                vmm_respond(p.control, 2, 0);
            }
        }
        if (how == 3) {
            close(p.fault);
            p.fault = -1;
            g_assert_cmpuint(vmm_receive(&p), ==, 6);
        }
        vmm_peer_clear(&p);
        g_assert_cmpint(daemon_wait(w.d), ==, 1);
        daemon_wait_said(w.d, how == 0   ? "has refused the last step"
                              : how == 1 ? "the guest may run"
                                         : "receive-migration needs memory_mode=postcopy");
        end(&w);
    }
}

/* A guest that may run, as the last answer was lost: it is served still. */
static void test_last_answer_lost(void)
{
    World w;
    VmmPeer p;

    begin(&w, &(VmmPlan){0}, NULL, NULL);
    vmm_receive_all(&p, w.plan.listener, false);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, GPA_3, VMM_PAGE));
    g_assert_true(vmm_read_answer(p.fault));
    g_assert_cmpuint(vmm_receive(&p), ==, 5);
    close(p.control);
    p.control = -1;
    daemon_wait_said(w.d, "the guest may run");
    for (unsigned i = 0; i < 100; i++) {
        g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, (uint64_t)i * VMM_PAGE, VMM_PAGE));
        g_assert_true(vmm_read_answer(p.fault));
    }
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

/* What somebody has touched before it was registered is zeros: the guest does not run on that. */
static void test_touched(void)
{
    World w;
    VmmPeer p;

    begin(&w, &(VmmPlan){0}, NULL, NULL);
    vmm_receive_to_state(&p, w.plan.listener, false);
    g_assert_cmpint(pwrite(p.memory[1], "", 1, (off_t)vmm_slot[1].file_offset), ==, 1);
    vmm_respond(p.control, 1, 0);
    g_assert_true(vmm_ask(p.fault, PAGE_FAULT, 16, 0, VMM_PAGE));
    daemon_wait_said(w.d, "before it could ask");
    assert_no_answer(p.fault);
    assert_no_answer(p.control);
    vmm_peer_clear(&p);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

/* ---- folders --------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *text; /* what stands in this file instead; NULL: it is not there */
    const char *said;
} Damage;

static void prepare_damaged(const char *dir, const char *socket, void *opaque)
{
    const Damage *damage = opaque;
    g_autofree char *path = g_build_filename(dir, damage->name, NULL);

    vmm_write_snapshot(dir);
    g_assert_cmpint(unlink(path), ==, 0);
    if (damage->text) {
        g_assert_true(g_file_set_contents(path, damage->text, -1, NULL));
    }
}

static void test_damaged(void)
{
    static char page[VMM_PAGE + 1];
    const Damage damages[] = {
        {"state.json", NULL, "state.json"},
        {"migration_config.json", NULL, "migration_config.json"},
        {"migration_config.json", "{}", "guest_ram_mappings"},
        {"migration_config.json", "no", "no JSON"},
        {"memory-3", NULL, "memory-3"},
        {"memory-0", "short", "memory-0: it is not whole pages"},
        {"memory-0", page, "is it another snapshot's?"},
    };

    memset(page, 'x', VMM_PAGE);
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        daemon_next(&(DaemonKind){
            .said_to = -1, .restores = prepare_damaged, .opaque = (void *)&damages[i]});
        Daemon *d = daemon_start(0, 0, NULL, NULL, NULL);
        g_assert_cmpint(daemon_wait(d), ==, 1);
        daemon_wait_said(d, damages[i].said);
        daemon_stop(d);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/vmm/read", GUINT_TO_POINTER(0), test_flags);
    g_test_add_data_func("/vmm/prefault", GUINT_TO_POINTER(VMM_PREFAULTS), test_flags);
    g_test_add_data_func("/vmm/large", GUINT_TO_POINTER(VMM_PREFAULTS | VMM_LARGE), test_flags);
    g_test_add_data_func("/vmm/balloon", GUINT_TO_POINTER(VMM_BALLOON), test_flags);
    g_test_add_data_func("/vmm/balloon-prefault", GUINT_TO_POINTER(VMM_BALLOON | VMM_PREFAULTS),
                         test_flags);
    g_test_add_data_func("/vmm/old", GUINT_TO_POINTER(VMM_OLD | VMM_BALLOON | VMM_PREFAULTS),
                         test_flags);
    g_test_add_data_func("/vmm/own/read", GUINT_TO_POINTER(0), test_own);
    g_test_add_data_func("/vmm/own/prefault", GUINT_TO_POINTER(VMM_PREFAULTS), test_own);
    g_test_add_data_func("/vmm/own/large", GUINT_TO_POINTER(VMM_PREFAULTS | VMM_LARGE), test_own);
    g_test_add_data_func("/vmm/own/balloon", GUINT_TO_POINTER(VMM_BALLOON), test_own);
    g_test_add_data_func("/vmm/own/balloon-prefault", GUINT_TO_POINTER(VMM_BALLOON | VMM_PREFAULTS),
                         test_own);
    for (unsigned i = 0; i < G_N_ELEMENTS(own_moments); i++) {
        g_autofree char *path = g_strdup_printf("/vmm/own/killed-at/%s", own_moments[i]);
        g_test_add_data_func(path, own_moments[i], test_own_killed_at);
    }
    g_test_add_func("/vmm/own/again", test_own_again);
    g_test_add_func("/vmm/own/refused", test_own_refused);
    g_test_add_func("/vmm/own/gigantic", test_own_gigantic);
    g_test_add_func("/vmm/own/changed", test_own_changed);
    g_test_add_func("/vmm/paused", test_paused);
    g_test_add_func("/vmm/precopy", test_precopy);
    for (unsigned i = 0; i < G_N_ELEMENTS(moments); i++) {
        g_autofree char *path = g_strdup_printf("/vmm/killed-at/%s", moments[i]);
        g_test_add_data_func(path, moments[i], test_killed_at);
    }
    g_test_add_func("/vmm/killed-at-random", test_killed_at_random);
    g_test_add_func("/vmm/bad-source", test_bad_source);
    g_test_add_func("/vmm/changed", test_changed);
    g_test_add_data_func("/vmm/frozen/killed", GINT_TO_POINTER(SIGKILL), test_frozen);
    g_test_add_data_func("/vmm/frozen/ended", GINT_TO_POINTER(SIGTERM), test_frozen);
    g_test_add_func("/vmm/hostile/asks", test_bad_asks);
    g_test_add_func("/vmm/hostile/pieces", test_pieces);
    g_test_add_func("/vmm/hostile/flood", test_flood);
    g_test_add_func("/vmm/hostile/talk", test_bad_talk);
    g_test_add_func("/vmm/hostile/end", test_bad_end);
    g_test_add_func("/vmm/touched", test_touched);
    g_test_add_func("/vmm/last-answer-lost", test_last_answer_lost);
    g_test_add_func("/vmm/damaged", test_damaged);
    return g_test_run();
}
