/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager where something has run out, or is in the way: places, threads, room in a socket,
 * a reader of what it says, pages that cannot be read. Nobody else may wait for it.
 *
 * Most clients here are a userfaultfd and a page each, all of this process.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include "tests/lib/stop.h"
#include "tests/pager/client.h"
#include "tests/pager/daemon.h"
#include "tests/pager/small.h"

#define NOBODY 54321 /* a user of nobody else */

static unsigned clients_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);

    return json_array_get_length(json_node_get_array(report));
}

/* There is no event of it. */
static void wait_clients(const Daemon *d, unsigned n)
{
    while (clients_of(d) != n) {
    }
}

static ClientPlan plan_of(const Daemon *d, unsigned pages)
{
    return (ClientPlan){.socket = d->socket,
                        .pages = pages,
                        .regions = 1,
                        .vcpus = 2,
                        .ops = 50,
                        .flags = CLIENT_READS_ALL,
                        .seed = 3};
}

static bool is_root(void)
{
    if (geteuid() != 0) {
        g_test_skip("needs root, to be somebody else");
        return false;
    }
    return true;
}

/* ---- places ---------------------------------------------------------------------------------- */

#define PLACES 1024

/* All places are taken, and then somebody forks: that one waits, nobody else. */
static void test_full(void)
{
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, "--no-bulk");
    ClientPlan plan = plan_of(d, 1);
    Small *c = g_new0(Small, PLACES);
    unsigned n = 0;
    int go[2], never[2], status;

    g_assert_cmpint(pipe2(never, O_CLOEXEC), ==, 0);
    plan.flags = CLIENT_LEAVES;
    plan.ops = 0;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go), ==, 0);
    plan.go = go[0];
    plan.flags |= CLIENT_WAITS_FIRST;
    pid_t forker = client_start(&plan);
    plan.go = never[0];
    pid_t leaver = client_start(&plan);
    wait_clients(d, 2);
    for (; n < PLACES; n++) {
        small_start(&c[n], d);
    }
    daemon_wait_said(d, "no room for another client");
    g_assert_cmpint(write(go[1], "f", 1), ==, 1);
    daemon_wait_said(d, "no room for another child");
    for (unsigned i = 0; i < 32; i++) {
        small_check(&c[i]);
    }
    /* And it continues when somebody has left. */
    char byte;
    kill(leaver, SIGKILL);
    g_assert_cmpint(waitpid(leaver, &status, 0), ==, leaver);
    g_assert_cmpint(read(go[1], &byte, 1), ==, 1);
    g_assert_cmpint(waitpid(forker, &status, 0), ==, forker);
    g_assert_cmpint(status, ==, 0);
    for (unsigned i = 0; i < n; i++) {
        small_end(&c[i]);
    }
    g_free(c);
    close(never[0]);
    close(never[1]);
    close(go[0]);
    close(go[1]);
    daemon_stop(d);
}

/* ---- after a pager --------------------------------------------------------------------------- */

/* Its successor is told of more clients than a socket takes at once, and the process that starts it
 * may not make the socket larger. */
static void test_restart(void)
{
    enum { N = 400 };
    g_autofree Small *c = g_new0(Small, N);

    if (!is_root()) {
        return;
    }
    daemon_next(&(DaemonKind){.uid = NOBODY, .said_to = -1});
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, "--no-bulk");
    for (unsigned i = 0; i < N; i++) {
        small_start(&c[i], d);
    }
    wait_clients(d, N);
    for (unsigned k = 0; k < 2; k++) {
        kill(daemon_pager(d), SIGKILL);
        for (unsigned i = k; i < N; i += 2) {
            small_check(&c[i]);
        }
        wait_clients(d, N);
    }
    for (unsigned i = 0; i < N; i++) {
        small_end(&c[i]);
    }
    daemon_stop(d);
}

/* A client ends, and the pager that was told of it as well. */
static void test_end_is_lost(void)
{
    Daemon *d = daemon_start(64, 4096, small_fill, NULL, "--no-bulk");
    ClientPlan plan = plan_of(d, 64);
    int go[2], status;

    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    plan.flags = CLIENT_WAITS;
    plan.ops = 0; /* else a page that it waits for would tell */
    plan.go = go[0];
    pid_t client = client_start(&plan);
    wait_clients(d, 1);
    pid_t pager = daemon_pager(d);
    int pidfd = (int)syscall(SYS_pidfd_open, pager, 0);
    stop_process(pager);
    kill(client, SIGKILL);
    g_assert_cmpint(waitpid(client, &status, 0), ==, client);
    int sock = small_connect(d->socket);
    g_assert_cmpint(write(sock, "?", 1), ==, 1);
    daemon_wait_said(d, "none of the dialects"); /* the holder has told of the end by then */
    close(sock);
    kill(pager, SIGKILL);
    struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
    wait_clients(d, 0);
    close(pidfd);
    close(go[0]);
    close(go[1]);
    daemon_stop(d);
}

/* A client forks and ends at once; nobody but the pager has its child. FF_ROUNDS: more of it. */
static void test_orphan(gconstpointer more)
{
    const char *env = g_getenv("FF_ROUNDS");
    unsigned rounds = env ? (unsigned)g_ascii_strtoull(env, NULL, 10) : 4;
    Daemon *d = daemon_start(64, 4096, small_fill, NULL, more);

    for (unsigned i = 0; i < rounds; i++) {
        ClientPlan plan = plan_of(d, 64);
        int go[2];
        char byte;
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go), ==, 0);
        plan.flags = CLIENT_READS_ALL | CLIENT_LEAVES;
        plan.seed = i;
        plan.ops = i % 4 * 10;
        plan.go = go[0];
        assert_ended_well(client_start(&plan));
        close(go[0]);
        g_assert_cmpint(read(go[1], &byte, 1), ==, 1);
        close(go[1]);
    }
    wait_clients(d, 0);
    daemon_stop(d);
}

/* The one of our children that is not NOT_PID; the guard ends by itself. */
static pid_t find_child(pid_t not_pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", getpid(), getpid());
    g_autofree char *text = NULL;
    pid_t found = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (char *at = g_strstrip(text); *at;) {
        pid_t pid = (pid_t)g_ascii_strtoll(at, &at, 10);
        found = pid == not_pid ? found : pid;
    }
    return found;
}

/* A child has no copy of its userfaultfd. Without pager and holder it stands still, as its parent
 * would, and does not read zeros. FAULT: of the guard, which has died before if it cannot be
 * started; NULL: none. */
static void test_child_stands_still(gconstpointer fault)
{
    Daemon *d = daemon_start(64, 4096, small_fill, fault, "--no-bulk");
    ClientPlan plan = plan_of(d, 64);
    int go[2], status;

    if (fault && strstr(fault, "guard-fork")) {
        daemon_kill_guard(d);
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go), ==, 0);
    plan.flags = CLIENT_WAITS | CLIENT_LEAVES;
    plan.ops = 0;
    plan.go = go[0];
    assert_ended_well(client_start(&plan));
    wait_clients(d, 1);
    if (fault) {
        g_assert_true(daemon_fault_happened(d, 0));
        daemon_wait_said(d, "the guard knows all again");
    }
    pid_t child = find_child(d->pid), pager = daemon_pager(d);
    kill(d->pid, SIGKILL);
    g_assert_cmpint(waitpid(d->pid, &status, 0), ==, d->pid);
    while (kill(pager, 0) == 0 && waitpid(pager, &status, WNOHANG) == 0) {
    } /* it is its parent's that was, or ours: there is no event for both */
    d->pid = 0;
    g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    while (!is_waiting_in(child, "userfault")) {
        g_assert_cmpint(waitpid(child, &status, WNOHANG), ==, 0);
    } /* there is no event of it */
    kill(child, SIGKILL);
    while (waitpid(-1, &status, 0) > 0) { /* it, and the guard, which ends after it */
    }
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    close(go[0]);
    close(go[1]);
    daemon_stop(d);
}

#ifdef FF_FAULTS
/* Pagers die, and not over the client that waits to be taken. */
static void test_innocent(void)
{
    const char *faults = "pager/none/at/pager-begins#1=kill;pager/none/at/pager-begins#1=kill;"
                         "pager/none/at/pager-begins#1=kill;pager/none/at/pager-begins#1=kill;"
                         "pager/none/at/pager-begins#1=kill";
    Daemon *d = daemon_start(1, 4096, small_fill, faults, "--no-bulk");
    Small c = {0};

    small_start(&c, d);
    small_check(&c);
    small_end(&c);
    daemon_stop(d);
}

/* More threads miss a page than the record has room for, and the pager dies when it has made some
 * and before it has told so. */
static void test_room(void)
{
    enum { PAGES = 1400 };
    Daemon *d =
        daemon_start(PAGES, 4096, small_fill, "pager/none/at/room-made#1=kill", "--no-bulk");
    ClientPlan plan = plan_of(d, PAGES);
    int go[2];

    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    plan.vcpus = 1;
    plan.ops = 0;
    plan.flags = CLIENT_WAITS | CLIENT_READS_AT_ONCE;
    plan.go = go[0];
    pid_t client = client_start(&plan);
    wait_clients(d, 1);
    pid_t pager = daemon_pager(d);
    stop_process(pager); /* until the record is full */
    g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    daemon_wait_threads(client, PAGES);
    kill(pager, SIGCONT);
    assert_ended_well(client);
    g_assert_true(daemon_fault_happened(d, 0));
    close(go[0]);
    close(go[1]);
    daemon_stop(d);
}
#endif

/* ---- what others do -------------------------------------------------------------------------- */

/* A client takes O_NONBLOCK from its userfaultfd, which is the holder's as well. */
static void test_waiting_fd(void)
{
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, "--no-bulk");
    Small bad = {0}, good = {0};

    small_start(&bad, d);
    wait_clients(d, 1);
    g_assert_cmpint(fcntl(bad.uffd, F_SETFL, 0), ==, 0);
    small_check(&bad); /* the holder reads */
    small_start(&good, d);
    small_check(&good);
    small_end(&good);
    small_end(&bad);
    daemon_stop(d);
}

/* There are threads for some clients only. */
static void test_threads(void)
{
    enum { N = 24 };
    Small c[N] = {0};

    if (!is_root()) {
        return;
    }
    daemon_next(&(DaemonKind){.uid = NOBODY, .processes = 32, .said_to = -1});
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, "--no-bulk");
    small_start(&c[0], d);
    small_check(&c[0]);
    pid_t pager = daemon_pager(d);
    for (unsigned i = 1; i < N; i++) {
        small_start(&c[i], d);
    }
    daemon_wait_said(d, "it is tried again");
    g_assert_cmpint(madvise(c[0].page, 4096, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(c[0].page[5], ==, 0); /* it is served still */
    g_assert_cmpint(daemon_pager(d), ==, pager);
    for (unsigned i = 0; i < N; i++) {
        small_end(&c[i]);
    }
    daemon_stop(d);
}

/* Nobody reads what it says. */
static void test_not_read(void)
{
    char some[4096] = {0};
    int said[2];

    g_assert_cmpint(pipe2(said, O_CLOEXEC | O_NONBLOCK), ==, 0);
    while (write(said[1], some, sizeof(some)) > 0) {
    }
    g_assert_cmpint(fcntl(said[1], F_SETFL, 0), ==, 0);
    /* Room for the first line, which it says before it is anybody's pager. */
    g_assert_cmpint(read(said[0], some, sizeof(some)), ==, sizeof(some));
    daemon_next(&(DaemonKind){.said_to = said[1]});
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, "--no-bulk");
    while (!g_file_test(d->socket, G_FILE_TEST_EXISTS) || clients_of(d) != 0) {
    }
    for (unsigned i = 0; i < 100; i++) { /* a line each */
        int sock = small_connect(d->socket);
        g_assert_cmpint(write(sock, "?", 1), ==, 1);
        char byte;
        g_assert_cmpint(read(sock, &byte, 1), <=, 0);
        close(sock);
    }
    Small c = {0};
    small_start(&c, d);
    small_check(&c);
    small_end(&c);
    daemon_stop(d);
    close(said[0]);
    close(said[1]);
}

/* ---- pages that cannot be read --------------------------------------------------------------- */

#define FRAMES 4
#define FRAME_PAGES 16
#define FRAME (FRAME_PAGES * 4096ul)

/* zstd's seekable format of all pages, where the second frame is damaged: what cannot be read is
 * no content at all if it is the beginning. */
static void write_damaged(const char *path)
{
    g_autoptr(GByteArray) file = g_byte_array_new();
    g_autofree char *plain = g_malloc0(FRAME), *packed = g_malloc(ZSTD_compressBound(FRAME));
    uint32_t head[2] = {0x184d2a5e, FRAMES * 8 + 9}, entry[FRAMES][2], magic = 0x8f92eab1;
    uint32_t frames = FRAMES;
    ZSTD_CCtx *zstd = ZSTD_createCCtx();

    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    for (unsigned i = 0; i < FRAMES; i++) {
        for (unsigned k = 0; k < FRAME_PAGES; k++) {
            if (!small_fill(i * FRAME_PAGES + k, plain + k * 4096)) {
                memset(plain + k * 4096, 0, 4096);
            }
        }
        size_t n = ZSTD_compress2(zstd, packed, ZSTD_compressBound(FRAME), plain, FRAME);
        g_assert_false(ZSTD_isError(n));
        if (i == 1) {
            packed[n / 2] ^= 1;
        }
        entry[i][0] = (uint32_t)n;
        entry[i][1] = FRAME;
        g_byte_array_append(file, (guint8 *)packed, (guint)n);
    }
    ZSTD_freeCCtx(zstd);
    g_byte_array_append(file, (guint8 *)head, sizeof(head));
    g_byte_array_append(file, (guint8 *)entry, sizeof(entry));
    g_byte_array_append(file, (guint8 *)&frames, 4);
    g_byte_array_append(file, (const guint8 *)"", 1);
    g_byte_array_append(file, (guint8 *)&magic, 4);
    g_assert_true(g_file_set_contents(path, (char *)file->data, file->len, NULL));
}

static void *touch(void *p)
{
    return (void *)(uintptr_t) * (const volatile uint64_t *)p;
}

static gint64 faults_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);

    return json_object_get_int_member(json_array_get_object_element(json_node_get_array(report), 0),
                                      "faults");
}

/* As many threads wait for such pages as place what somebody waits for. Another one misses others,
 * and the rest comes by itself. */
static void test_bad_pages(gconstpointer more)
{
    g_autofree char *path = g_strdup_printf("%s/farfault-damaged-%d", g_get_tmp_dir(), getpid());
    Small c = {.pages = FRAMES * FRAME_PAGES};
    pthread_t waiting[3];

    write_damaged(path);
    daemon_next(&(DaemonKind){.said_to = -1, .file = path});
    Daemon *d = daemon_start(FRAMES * FRAME_PAGES, 4096, NULL, NULL, more);
    small_start(&c, d);
    for (unsigned i = 0; i < G_N_ELEMENTS(waiting); i++) {
        g_assert_cmpint(pthread_create(&waiting[i], NULL, touch, c.page + 512 * (FRAME_PAGES + i)),
                        ==, 0);
    }
    daemon_wait_said(d, "tried again");
    while (faults_of(d) < (gint64)G_N_ELEMENTS(waiting)) {
    }
    for (unsigned i = 0; i < FRAMES * FRAME_PAGES; i++) {
        const volatile uint64_t *word = c.page + 512 * i;
        if (i / FRAME_PAGES != 1) {
            g_assert_cmpuint(*word, ==, client_is_zero(i) ? 0 : client_word(i, 0));
        }
    }
    daemon_stop(d);
    g_unlink(path);
    close(c.uffd); /* they continue, with zeros */
    for (unsigned i = 0; i < G_N_ELEMENTS(waiting); i++) {
        pthread_join(waiting[i], NULL);
    }
    close(c.sock);
    munmap(c.page, small_size(&c));
}

/* ---- who asks -------------------------------------------------------------------------------- */

static int connect_tcp(unsigned port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(sock, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return sock;
}

static unsigned free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(addr);
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(sock, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(getsockname(sock, (struct sockaddr *)&addr, &len), ==, 0);
    close(sock);
    return ntohs(addr.sin_port);
}

/* All that comes until the end. */
static char *read_text(int sock)
{
    GString *text = g_string_new(NULL);
    char some[4096];
    ssize_t n;

    while ((n = read(sock, some, sizeof(some))) > 0) {
        g_string_append_len(text, some, n);
    }
    close(sock);
    return g_string_free(text, FALSE);
}

/* Of as many clients as make the answer larger than a socket takes at once; and beside a client
 * that asks for nothing. */
static void test_metrics(void)
{
    enum { N = 700 };
    g_autofree Small *c = g_new0(Small, N);
    unsigned port = free_port();
    g_autofree char *option = g_strdup_printf("--metrics=127.0.0.1:%u", port);
    Daemon *d = daemon_start(1, 4096, small_fill, NULL, option);
    const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    unsigned found = 0;

    for (unsigned i = 0; i < N; i++) {
        small_start(&c[i], d);
        small_check(&c[i]);
    }
    wait_clients(d, N);
    int silent = connect_tcp(port), sock = connect_tcp(port);
    g_assert_cmpint(write(sock, request, strlen(request)), ==, (ssize_t)strlen(request));
    g_autofree char *text = read_text(sock);
    g_assert_true(g_str_has_prefix(text, "HTTP/1.0 200 OK\r\n"));
    g_assert_true(g_str_has_suffix(text, "\n# EOF\n"));
    for (const char *at = text; (at = strstr(at, "\nfarfault_pager_memory_bytes{")); at++) {
        const char *value = strstr(at, "} ");
        g_assert_cmpuint(g_ascii_strtoull(value + 2, NULL, 10), ==, 4096);
        found++;
    }
    g_assert_cmpuint(found, ==, N);
    g_assert_nonnull(strstr(text, "# TYPE farfault_pager_faults counter\n"));
    close(silent);
    for (unsigned i = 0; i < N; i++) {
        small_end(&c[i]);
    }
    daemon_stop(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crowd/full", test_full);
    g_test_add_func("/crowd/restart", test_restart);
    g_test_add_func("/crowd/end-is-lost", test_end_is_lost);
    g_test_add_data_func("/crowd/orphan", NULL, test_orphan);
    g_test_add_data_func("/crowd/orphan-no-bulk", "--no-bulk", test_orphan);
    g_test_add_data_func("/crowd/child-stands-still", NULL, test_child_stands_still);
#ifdef FF_FAULTS
    g_test_add_data_func("/crowd/no-guard", "holder/none/call/guard-fork#2=EAGAIN",
                         test_child_stands_still);
    g_test_add_data_func("/crowd/guard-not-told", "holder/none/call/guard-tell=ENOMEM",
                         test_child_stands_still);
    g_test_add_func("/crowd/innocent", test_innocent);
    g_test_add_func("/crowd/room", test_room);
#endif
    g_test_add_data_func("/crowd/bad-pages", NULL, test_bad_pages);
    g_test_add_data_func("/crowd/bad-pages-no-bulk", "--no-bulk", test_bad_pages);
    g_test_add_func("/crowd/waiting-fd", test_waiting_fd);
    g_test_add_func("/crowd/threads", test_threads);
    g_test_add_func("/crowd/not-read", test_not_read);
    g_test_add_func("/crowd/metrics", test_metrics);
    return g_test_run();
}
