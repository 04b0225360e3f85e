/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with its content on another host (which is this one): two pagers, of which one
 * gives a file and the other one serves clients. The one that gives is killed, hangs, gives another
 * file; clients wait, and see nothing else.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/address.h"
#include "server/remote-wire.h"
#include "tests/lib/certs.h"
#include "tests/lib/slow-names.h"
#include "tests/server/client.h"
#include "tests/server/daemon.h"
#include "tests/server/giver.h"
#include "tests/server/small.h"

#define PAGES GIVER_PAGES
#define KEY "qemu:8f1d0c7b5e2a4960b3d8c1e7f5a29463\n"

static Daemon *start(const Giver *g, const char *more)
{
    daemon_next(&(DaemonKind){.said_to = -1, .file = g->uri});
    return daemon_start(PAGES, 4096, NULL, NULL, more);
}

/* ---- as from a file -------------------------------------------------------------------------- */

static void test_read(gconstpointer more)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    Daemon *d = start(&g, more);
    ClientPlan plan = {.socket = d->socket,
                       .pages = PAGES,
                       .regions = 2,
                       .vcpus = 4,
                       .ops = 1000,
                       .flags = CLIENT_READS_ALL | CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS,
                       .seed = 1};
    pid_t one = client_start(&plan);
    plan.kind = CLIENT_SHMEM;
    pid_t other = client_start(&plan);

    assert_ended_well(one);
    assert_ended_well(other);
    daemon_stop(d);
    giver_end(&g);
}

static void read_by(const Daemon *d)
{
    ClientPlan plan = {.socket = d->socket,
                       .pages = PAGES,
                       .regions = 1,
                       .vcpus = 2,
                       .ops = 100,
                       .flags = CLIENT_READS_ALL};

    assert_ended_well(client_start(&plan));
}

static unsigned threads_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    unsigned n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* A host that must be looked up: the holder, which forks, has no thread for that. */
static void test_name(void)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    g_autofree char *preload = g_strconcat(g_getenv("FF_BUILD"), "/tests/lib/slow-names.so", NULL);
    g_autofree char *uri = g_strconcat("tcp:" SLOW_NAME, strrchr(g.uri, ':'), NULL);

    g_setenv("LD_PRELOAD", preload, TRUE);
    g_setenv(SLOW_NAMES_GATE, "/dev/null", TRUE); /* nobody need wait */
    daemon_next(&(DaemonKind){.said_to = -1, .file = uri});
    Daemon *d = daemon_start(PAGES, 4096, NULL, NULL, NULL);
    g_unsetenv("LD_PRELOAD");
    g_unsetenv(SLOW_NAMES_GATE);
    g_assert_cmpuint(threads_of(d->pid), ==, 1);
    read_by(d);
    g_assert_cmpuint(threads_of(d->pid), ==, 1);
    daemon_stop(d);
    giver_end(&g);
}

static void test_tls(void)
{
    if (!certs_possible()) {
        return;
    }
    g_autofree char *dir = g_dir_make_tmp("farfault-remote-XXXXXX", NULL);
    g_autofree char *right = certs_psk(dir, "right", KEY);
    g_autofree char *other = certs_psk(dir, "other", "qemu:00112233445566778899aabbccddeeff\n");
    g_autofree char *right_option = g_strconcat("--tls-creds=", right, NULL);
    g_autofree char *other_option = g_strconcat("--tls-creds=", other, NULL);
    Giver g = giver_new("tls:127.0.0.1:0", right_option);
    g_autofree char *program = g_strconcat(g_getenv("FF_BUILD"), "/cli/farfault", NULL);
    g_autofree char *socket = g_build_filename(dir, "socket", NULL);
    g_autofree char *clear = g_strconcat("tcp:", g.uri + strlen("tls:"), NULL);
    const char *refused[][3] = {{g.uri, other_option, ""}, {clear, NULL, "one that gives by tls:"}};

    Daemon *d = start(&g, right_option);
    read_by(d);
    daemon_stop(d);
    for (unsigned i = 0; i < G_N_ELEMENTS(refused); i++) {
        const char *argv[] = {program,  "pager",       "--listen",    socket,
                              "--from", refused[i][0], refused[i][1], NULL};
        g_autofree char *said = NULL;
        int status;
        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL,
                                   &said, &status, NULL));
        g_assert_cmpint(WEXITSTATUS(status), ==, 1);
        g_assert_nonnull(strstr(said, refused[i][0]));
        g_assert_nonnull(strstr(said, refused[i][2]));
    }
    giver_end(&g);
    certs_remove(dir);
}

/* ---- it fails -------------------------------------------------------------------------------- */

typedef struct {
    Small *c;
    unsigned page;
    bool done; /* atomic */
} Touch;

static void *touch(void *opaque)
{
    Touch *t = opaque;
    const volatile uint64_t *words = t->c->page + 512ul * t->page;

    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmpuint(words[i], ==, client_is_zero(t->page) ? 0 : client_word(t->page, i));
    }
    __atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void check_waits_for(const Daemon *d, Small *c, const char *said, Giver *g,
                            void (*well)(Giver *g))
{
    Touch t = {.c = c, .page = 1001};
    pthread_t thread;

    g_assert_cmpint(pthread_create(&thread, NULL, touch, &t), ==, 0);
    daemon_wait_said(d, said);
    g_assert_false(__atomic_load_n(&t.done, __ATOMIC_ACQUIRE));
    well(g);
    pthread_join(thread, NULL);
    daemon_wait_said(d, "its content can be read again");
}

static void start_again(Giver *g)
{
    giver_start(g, NULL, NULL);
}

/* A client that waits continues to wait, until there is one again. */
static void test_killed(gconstpointer more)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    Daemon *d = start(&g, "--no-bulk");
    Small c = {.pages = PAGES};

    small_start(&c, d);
    small_check(&c);
    giver_kill(&g);
    check_waits_for(d, &c, "tried again", &g, start_again);
    small_end(&c);
    daemon_stop(d);
    giver_end(&g);
}

static void give_old(Giver *g)
{
    giver_kill(g);
    g_free(g->file);
    g->file = g_build_filename(g->dir, "memory", NULL);
    giver_start(g, NULL, NULL);
}

/* Other content than before. */
static void write_with_time_of(const char *path, const struct stat *st)
{
    giver_write_file(path, 1);
    g_assert_cmpint(utimensat(AT_FDCWD, path, (struct timespec[]){st->st_atim, st->st_mtim}, 0), ==,
                    0);
}

/* One that was built again, with the same size and time, is not what clients have a part of. */
static void test_another_file(void)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    Daemon *d = start(&g, "--no-bulk");
    Small c = {.pages = PAGES};
    struct stat st;

    small_start(&c, d);
    small_check(&c);
    giver_kill(&g);
    g_assert_cmpint(stat(g.file, &st), ==, 0);
    g_free(g.file);
    g.file = g_build_filename(g.dir, "another", NULL);
    write_with_time_of(g.file, &st);
    giver_start(&g, NULL, NULL);
    check_waits_for(d, &c, "it gives another file than it gave", &g, give_old);
    small_end(&c);
    daemon_stop(d);
    giver_end(&g);
}

static int connect_to(const Giver *g)
{
    g_autoptr(FfAddress) a = ff_address_parse(g->uri, NULL);
    int fd = ff_address_connect(a, NULL, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fcntl(fd, F_SETFL, 0), ==, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 60},
               sizeof(struct timeval));
    return fd;
}

/* Connected, and welcome. */
static int greet(const Giver *g, FfRemoteWelcome *welcome)
{
    FfRemoteHello hello;
    int fd = connect_to(g);

    memcpy(hello.magic, FF_REMOTE_MAGIC, sizeof(hello.magic));
    g_assert_cmpint(write(fd, &hello, sizeof(hello)), ==, sizeof(hello));
    g_assert_cmpint(recv(fd, welcome, sizeof(*welcome), MSG_WAITALL), ==, sizeof(*welcome));
    return fd;
}

static uint64_t identity_of(const Giver *g)
{
    FfRemoteWelcome welcome;

    close(greet(g, &welcome));
    return welcome.identity;
}

/* In place, so that size, time and inode are the old ones; as of a new file that has got the inode
 * of a removed one. */
static void test_rewritten(void)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    uint64_t first = identity_of(&g);
    struct stat st, now;

    giver_kill(&g);
    giver_start(&g, NULL, NULL);
    g_assert_cmpuint(identity_of(&g), ==, first);
    giver_kill(&g);
    g_assert_cmpint(stat(g.file, &st), ==, 0);
    write_with_time_of(g.file, &st);
    g_assert_cmpint(stat(g.file, &now), ==, 0);
    g_assert_true(now.st_ino == st.st_ino && now.st_size == st.st_size &&
                  now.st_mtim.tv_sec == st.st_mtim.tv_sec &&
                  now.st_mtim.tv_nsec == st.st_mtim.tv_nsec);
    giver_start(&g, NULL, NULL);
    g_assert_cmpuint(identity_of(&g), !=, first);
    giver_end(&g);
}

static void put_back(Giver *g)
{
    g_autofree char *path = g_strconcat(g->file, ".times", NULL);
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, g->file, (struct timespec[]){st.st_atim, st.st_mtim}, 0),
                    ==, 0);
}

/* While it is given: its own reason is said here. */
static void test_written_to(void)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    Daemon *d = start(&g, "--no-bulk");
    g_autofree char *times = g_strconcat(g.file, ".times", NULL);
    Small c = {.pages = PAGES};
    struct stat st;

    small_start(&c, d);
    small_check(&c);
    g_assert_cmpint(stat(g.file, &st), ==, 0);
    g_assert_true(g_file_set_contents(times, "", 0, NULL));
    g_assert_cmpint(utimensat(AT_FDCWD, times, (struct timespec[]){st.st_atim, st.st_mtim}, 0), ==,
                    0);
    g_assert_cmpint(utimensat(AT_FDCWD, g.file, NULL, 0), ==, 0);
    check_waits_for(d, &c, "it was changed while it was in use", &g, put_back);
    small_end(&c);
    daemon_stop(d);
    giver_end(&g);
}

/* ---- hostile peers --------------------------------------------------------------------------- */

static const FfRemoteRequest wrong[] = {
    {0, 4096, 0, 4096},
    {FF_REMOTE_READ, 0, 0, 4096},
    {FF_REMOTE_READ, 1, 0, 4096},
    {FF_REMOTE_READ, 4096, 1, 4096},
    {FF_REMOTE_READ, 4096, 0, 0},
    {FF_REMOTE_READ, 4096, 0, 4095},
    {FF_REMOTE_READ, 8192, 0, 4096},
    {FF_REMOTE_READ, 4096, PAGES * 4096ull, 4096},
    {FF_REMOTE_READ, 4096, ~0ull - 4095, 8192},
    {FF_REMOTE_READ, 4096, 0, 8ull << 20},
    {FF_REMOTE_READ, 4096, 4096, ~0ull - 4095},
};

static void test_hostile(void)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);
    FfRemoteHello hello = {0};
    FfRemoteWelcome welcome;
    char byte;

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        int fd = greet(&g, &welcome);
        g_assert_cmpint(write(fd, &wrong[i], sizeof(wrong[i])), ==, sizeof(wrong[i]));
        g_assert_cmpint(read(fd, &byte, 1), <=, 0);
        close(fd);
    }
    int fd = connect_to(&g);
    g_assert_cmpint(write(fd, &hello, sizeof(hello)), ==, sizeof(hello));
    g_assert_cmpint(read(fd, &byte, 1), <=, 0);
    close(fd);
    Daemon *d = start(&g, NULL);
    read_by(d);
    daemon_stop(d);
    giver_end(&g);
}

/* ---- many peers ------------------------------------------------------------------------------ */

static bool is_left(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static Giver giver_with_files(rlim_t soft, rlim_t hard)
{
    Giver g = giver_new("tcp:127.0.0.1:0", NULL);

    giver_kill(&g);
    g.files = (struct rlimit){soft, hard};
    giver_start(&g, NULL, NULL);
    return g;
}

/* More connections than it has room for, of which nobody asks for anything: the oldest ones make
 * room. A client whose pager is one of those notices nothing. */
static void test_idle(void)
{
    Giver g = giver_with_files(64, 64);
    Daemon *d = start(&g, "--no-bulk");
    Small c = {.pages = PAGES};
    Touch t = {.c = &c, .page = 1001};
    FfRemoteWelcome welcome;
    int fd[100];
    char byte;

    small_start(&c, d);
    small_check(&c);
    for (unsigned i = 0; i < G_N_ELEMENTS(fd); i++) {
        fd[i] = greet(&g, &welcome);
    }
    g_assert_cmpint(read(fd[0], &byte, 1), ==, 0);
    g_assert_false(is_left(fd[G_N_ELEMENTS(fd) - 1]));
    touch(&t);
    g_assert_false(is_left(fd[G_N_ELEMENTS(fd) - 1]));
    g_autofree char *said = daemon_said(d);
    g_assert_null(strstr(said, "tried again"));
    for (unsigned i = 0; i < G_N_ELEMENTS(fd); i++) {
        close(fd[i]);
    }
    small_end(&c);
    daemon_stop(d);
    giver_end(&g);
}

static gint64 anonymous_kib(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", pid), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    const char *at = strstr(text, "RssAnon:");
    g_assert_nonnull(at);
    return g_ascii_strtoll(at + strlen("RssAnon:"), NULL, 10);
}

static void ask_much(int fd, char *buf)
{
    const FfRemoteRequest q = {FF_REMOTE_READ, 4096, 0, FF_REMOTE_LEN_MAX};
    FfRemoteAnswer a;

    g_assert_cmpint(write(fd, &q, sizeof(q)), ==, sizeof(q));
    g_assert_cmpint(recv(fd, &a, sizeof(a), MSG_WAITALL), ==, sizeof(a));
    g_assert_cmpuint(a.status, ==, FF_REMOTE_DATA);
    g_assert_cmpuint(a.len, ==, FF_REMOTE_LEN_MAX);
    g_assert_cmpint(recv(fd, buf, a.len, MSG_WAITALL), ==, a.len);
}

/* As many as the hard limit lets it have, with answers as large as they can be: they stay, and what
 * they were given costs nothing any more. */
static void test_many(void)
{
    Giver g = giver_with_files(32, 256);
    g_autofree char *buf = g_malloc(FF_REMOTE_LEN_MAX);
    FfRemoteWelcome welcome;
    int fd[60];

    for (unsigned i = 0; i < G_N_ELEMENTS(fd); i++) {
        fd[i] = greet(&g, &welcome);
        ask_much(fd[i], buf);
    }
    /* There is no event of it. */
    while (anonymous_kib(g.pid) > (gint64)G_N_ELEMENTS(fd) * (FF_REMOTE_LEN_MAX >> 10) / 4) {
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(fd); i++) {
        g_assert_false(is_left(fd[i]));
        close(fd[i]);
    }
    giver_end(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/remote/read", NULL, test_read);
    g_test_add_data_func("/remote/read-no-bulk", "--no-bulk", test_read);
    g_test_add_func("/remote/name", test_name);
    g_test_add_func("/remote/tls", test_tls);
    g_test_add_data_func("/remote/killed", NULL, test_killed);
    g_test_add_func("/remote/another-file", test_another_file);
    g_test_add_func("/remote/rewritten", test_rewritten);
    g_test_add_func("/remote/written-to", test_written_to);
    g_test_add_func("/remote/hostile", test_hostile);
    g_test_add_func("/remote/idle", test_idle);
    g_test_add_func("/remote/many", test_many);
    return g_test_run();
}
