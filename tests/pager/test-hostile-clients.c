/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with clients that lie, with a memory file that is cut, and without a pager: what
 * is refused is said in one line, and a good client beside it has all its pages.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/pager/client.h"
#include "tests/pager/daemon.h"

#define PAGES 512
#define SIZE "2097152"

static bool fill(unsigned page, void *buf)
{
    for (unsigned i = 0; i < 512; i++) {
        ((uint64_t *)buf)[i] = client_word(page, i);
    }
    return !client_is_zero(page);
}

static ClientPlan good(const Daemon *d)
{
    return (ClientPlan){.socket = d->socket,
                        .pages = PAGES,
                        .regions = 1,
                        .vcpus = 2,
                        .ops = 200,
                        .flags = CLIENT_READS_ALL | CLIENT_BALLOON,
                        .seed = 7};
}

static void check_serves(const Daemon *d)
{
    ClientPlan plan = good(d);

    assert_ended_well(client_start(&plan));
}

/* ---- messages -------------------------------------------------------------------------------- */

typedef enum { NO_FD, PIPE, BARE, NO_REMOVE, GOOD_FD } Fd;

static int make_fd(Fd kind)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = kind == GOOD_FD ? UFFD_FEATURE_EVENT_REMOVE : 0};
    int pair[2];

    if (kind == NO_FD) {
        return -1;
    }
    if (kind == PIPE) {
        g_assert_cmpint(pipe2(pair, O_CLOEXEC), ==, 0);
        close(pair[1]);
        return pair[0];
    }
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    if (kind != BARE) {
        g_assert_cmpint(ioctl(fd, UFFDIO_API, &api), ==, 0);
    }
    return fd;
}

static int say(const Daemon *d, const char *text, size_t len, int fd)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, d->socket, sizeof(addr.sun_path));
    g_assert_cmpint(connect(sock, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    if (len) {
        (void)!client_send(sock, text, len, fd); /* it may refuse it before its end */
    }
    return sock;
}

#define REGION(addr, size, offset, page)                                                           \
    "{\"base_host_virt_addr\":" addr ",\"size\":" size ",\"offset\":" offset                       \
    ",\"page_size\":" page "}"

static const struct {
    const char *name, *text;
    Fd fd;
    const char *said; /* part of the line */
} lies[] = {
    {"garbage", "GET / HTTP/1.0\r\n\r\n", NO_FD, "none of the dialects"},
    {"no-fd", "[" REGION("4294967296", SIZE, "0", "4096") "]", NO_FD, "no userfaultfd"},
    {"half", "[" REGION("4294967296", SIZE, "0", "4096"), GOOD_FD, "left in the middle"},
    {"pipe", "[" REGION("4294967296", SIZE, "0", "4096") "]", PIPE, "not a userfaultfd"},
    {"bare", "[" REGION("4294967296", SIZE, "0", "4096") "]", BARE, "EVENT_REMOVE"},
    {"no-remove", "[" REGION("4294967296", SIZE, "0", "4096") "]", NO_REMOVE, "EVENT_REMOVE"},
    {"empty", "[]", GOOD_FD, "array of 1 to"},
    {"not-json", "[}]", GOOD_FD, "no JSON"},
    {"deep", "[[[[[[[[[[[[[]]]]]]]]]]]]]", GOOD_FD, "no JSON"},
    {"numbers", "[1]", GOOD_FD, "must be numbers"},
    {"negative", "[" REGION("-4096", SIZE, "0", "4096") "]", GOOD_FD, "must be numbers"},
    {"page-size", "[" REGION("4294967296", SIZE, "0", "8192") "]", GOOD_FD, "4096 or 2097152"},
    {"part-of-page", "[" REGION("4294967297", SIZE, "0", "4096") "]", GOOD_FD, "not whole pages"},
    {"too-large", "[" REGION("4294967296", "1099511627776", "0", "4096") "]", GOOD_FD,
     "ends after the memory file"},
    {"too-small", "[" REGION("4294967296", "4096", "0", "4096") "]", GOOD_FD, "another snapshot"},
    {"twice",
     "[" REGION("4294967296", SIZE, "0", "4096") "," REGION("4294967296", SIZE, "0", "4096") "]",
     GOOD_FD, "some of its addresses"},
    {"address", "[" REGION("9223372036854771712", SIZE, "0", "4096") "]", GOOD_FD,
     "no process has such"},
    /* nydus' */
    {"nydus/type", "{\"type\":1,\"regions\":[" REGION("4294967296", SIZE, "0", "4096") "]}",
     GOOD_FD, "its type must be 0"},
    {"nydus/handoff", "{\"type\":\"handoff\",\"regions\":[]}", GOOD_FD, "its type must be 0"},
    {"nydus/policy",
     "{\"type\":0,\"policy\":2,\"regions\":[" REGION("4294967296", SIZE, "0", "4096") "]}", GOOD_FD,
     "its policy must be"},
    {"nydus/no-regions", "{}", GOOD_FD, "array of 1 to"},
    {"nydus/regions", "{\"type\":0,\"regions\":{}}", GOOD_FD, "array of 1 to"},
    {"nydus/twice",
     "{\"regions\":[" REGION("4294967296", SIZE, "0", "4096") "," REGION("4294967296", SIZE, "0",
                                                                         "4096") "]}",
     GOOD_FD, "some of its addresses"},
    {"nydus/beyond", "{\"regions\":[" REGION("4294967296", SIZE, "1099511627776", "4096") "]}",
     GOOD_FD, "ends after the memory file"},
    /* It has no such mapping. */
    {"nydus/no-memory", "{\"regions\":[" REGION("4294967296", SIZE, "0", "2097152") "]}", GOOD_FD,
     "of another size than it says, or not there"},
    {"nydus/no-fd", "{\"regions\":[]}", NO_FD, "no userfaultfd"},
    {"nydus/deep", "{\"a\":[[[[[[[[[[]]]]]]]]]]}", GOOD_FD, "no JSON"},
};

static void test_lie(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, NULL);
    int fd = make_fd(lies[i].fd);
    int sock = say(d, lies[i].text, strlen(lies[i].text), fd);

    shutdown(sock, SHUT_WR);
    daemon_wait_said(d, lies[i].said);
    check_serves(d);
    close(sock);
    if (fd >= 0) {
        close(fd);
    }
    daemon_stop(d);
}

/* Of what it does not say the pager cannot know that it is wrong: nothing is at these addresses. */
static void test_nowhere(void)
{
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, NULL);
    int fd = make_fd(GOOD_FD);
    const char text[] = "[" REGION("4294967296", SIZE, "0", "4096") "]";
    int sock = say(d, text, strlen(text), fd);

    check_serves(d);
    close(sock);
    close(fd);
    check_serves(d);
    daemon_stop(d);
}

static void test_too_long(void)
{
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, NULL);
    g_autofree char *text = g_strnfill(200000, ' ');

    text[0] = '[';
    int sock = say(d, text, 200000, -1);
    daemon_wait_said(d, "too long");
    check_serves(d);
    close(sock);
    daemon_stop(d);
}

/* A client that says nothing makes room. */
static void test_silent(void)
{
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, NULL);
    int sock[80];

    for (unsigned i = 0; i < G_N_ELEMENTS(sock); i++) {
        sock[i] = say(d, "", 0, -1);
    }
    daemon_wait_said(d, "makes room");
    check_serves(d);
    for (unsigned i = 0; i < G_N_ELEMENTS(sock); i++) {
        close(sock[i]);
    }
    daemon_stop(d);
}

/* ---- who may --------------------------------------------------------------------------------- */

static pid_t start_as_nobody(const ClientPlan *plan)
{
    pid_t pid = fork();

    if (pid == 0) {
        int fd = make_fd(GOOD_FD);
        if (setuid(65534) < 0) {
            _exit(9);
        }
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_strlcpy(addr.sun_path, plan->socket, sizeof(addr.sun_path));
        char byte;
        /* It is let in, or hears the end. */
        _exit(connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0           ? 1
              : send(sock, "[", 1, MSG_NOSIGNAL) < 0 || read(sock, &byte, 1) <= 0 ? 2
                                                                                  : fd);
    }
    return pid;
}

static void test_stranger(void)
{
    int status;

    if (geteuid() != 0) {
        g_test_skip("needs root, to be somebody else");
        return;
    }
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, "--allow=12345");
    ClientPlan plan = good(d);
    g_assert_cmpint(chmod(d->dir, 0755), ==, 0);
    pid_t pid = start_as_nobody(&plan);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(WEXITSTATUS(status), ==, 2);
    daemon_wait_said(d, "of user 65534 is refused");
    check_serves(d);
    daemon_stop(d);
}

/* ---- the source ------------------------------------------------------------------------------ */

/* It ends too early, for a time. */
static void test_source_cut(void)
{
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, NULL);

    struct stat st;

    json_node_unref(daemon_report(d)); /* the pager has seen how long it is */
    g_assert_cmpint(stat(d->file, &st), ==, 0);
    g_assert_cmpint(truncate(d->file, 4096), ==, 0);
    ClientPlan plan = good(d);
    plan.ops = 0;
    plan.flags = CLIENT_READS_ALL;
    pid_t pid = client_start(&plan);
    daemon_wait_said(d, "tried again");
    int fd = open(d->file, O_WRONLY | O_CLOEXEC);
    char buf[4096];
    for (unsigned i = 1; i < PAGES; i++) {
        if (fill(i, buf)) {
            g_assert_cmpint(pwrite(fd, buf, 4096, i * 4096), ==, 4096);
        }
    }
    g_assert_cmpint(ftruncate(fd, st.st_size), ==, 0);
    /* Only now it is what it was. */
    g_assert_cmpint(futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}), ==, 0);
    close(fd);
    assert_ended_well(pid);
    daemon_stop(d);
}

/* ---- without anybody ------------------------------------------------------------------------- */

static void wait_gone(int pidfd)
{
    struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
    close(pidfd);
}

/* Holder and pager are killed: the client stands still where it misses a page, as it has a copy of
 * its userfaultfd; it does not read zeros. */
static void test_frozen(void)
{
    Daemon *d = daemon_start(PAGES, 4096, fill, NULL, "--no-bulk");
    int go[2], status;

    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    ClientPlan plan = good(d);
    plan.ops = 0;
    plan.flags = CLIENT_WAITS | CLIENT_FREEZES;
    plan.go = go[0];
    pid_t pid = client_start(&plan);
    JsonNode *report;
    do { /* until it is known: the pager answers when it has it */
        report = daemon_report(d);
        unsigned n = json_array_get_length(json_node_get_array(report));
        json_node_unref(report);
        if (n) {
            break;
        }
    } while (true);
    int pidfd = (int)syscall(SYS_pidfd_open, daemon_pager(d), 0);
    g_assert_cmpint(pidfd, >=, 0);
    kill(d->pid, SIGKILL);
    g_assert_cmpint(waitpid(d->pid, &status, 0), ==, d->pid);
    d->pid = 0;
    wait_gone(pidfd);
    g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(WEXITSTATUS(status), ==, CLIENT_FROZEN);
    close(go[0]);
    close(go[1]);
    daemon_stop(d);
}

/* A pager that dies over a client's first message each time gives that client up, not the others.
 */
static void test_poison(void)
{
#ifdef FF_FAULTS
    Daemon *d = daemon_start(PAGES, 4096, fill,
                             "pager/none/at/client-made#1=kill;pager/none/at/client-made#1=kill;"
                             "pager/none/at/client-made#1=kill",
                             NULL);
    int fd = make_fd(GOOD_FD);
    const char text[] = "[" REGION("4294967296", SIZE, "0", "4096") "]";
    int sock = say(d, text, strlen(text), fd);

    daemon_wait_said(d, "3 pagers died");
    check_serves(d);
    close(sock);
    close(fd);
    daemon_stop(d);
#else
    g_test_skip("needs -Dfaults=true");
#endif
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autofree char *path = g_strdup_printf("/hostile-clients/%s", lies[i].name);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_lie);
    }
    g_test_add_func("/hostile-clients/nowhere", test_nowhere);
    g_test_add_func("/hostile-clients/too-long", test_too_long);
    g_test_add_func("/hostile-clients/silent", test_silent);
    g_test_add_func("/hostile-clients/stranger", test_stranger);
    g_test_add_func("/hostile-clients/source-cut", test_source_cut);
    g_test_add_func("/hostile-clients/frozen", test_frozen);
    g_test_add_func("/hostile-clients/poison", test_poison);
    return g_test_run();
}
