/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fds in the queue of a socket: copies as often as one likes, no number to open, room for others.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rights.h"
#include "guest/launch/attach.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/launch-relay.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif

static int memfd(const char *text)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
    return fd;
}

static void check_text(int fd, const char *text)
{
    char buf[64] = "";

    g_assert_cmpint(pread(fd, buf, sizeof(buf) - 1, 0), ==, (ssize_t)strlen(text));
    g_assert_cmpstr(buf, ==, text);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    close(fd);
}

static void test_look(void)
{
    int fds[] = {memfd("one"), memfd("two"), memfd("three")}, copies[FF_PARCEL_MAX];
    int parcel = ff_fdstore_new(fds, G_N_ELEMENTS(fds));

    g_assert_cmpint(parcel, >=, 0);
    g_assert_cmpint(fcntl(parcel, F_GETFD), ==, FD_CLOEXEC);
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        close(fds[i]);
    }
    for (unsigned round = 0; round < 3; round++) {
        g_assert_cmpint(ff_fdstore_look(parcel, copies), ==, 3);
        check_text(copies[0], "one");
        check_text(copies[1], "two");
        check_text(copies[2], "three");
    }
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", parcel);
    g_assert_cmpint(open(path, O_RDONLY | O_CLOEXEC), <, 0);
    g_assert_cmpint(errno, ==, ENXIO);
    close(parcel);
}

static void test_no_parcel(void)
{
    int fd = memfd("file"), copies[FF_PARCEL_MAX], pair[2];

    g_assert_cmpint(ff_fdstore_look(fd, copies), ==, -ENOTSOCK);
    close(fd);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_cmpint(ff_fdstore_look(pair[0], copies), ==, -EAGAIN);
    close(pair[1]);
    g_assert_cmpint(ff_fdstore_look(pair[0], copies), ==, 0);
    close(pair[0]);
}

static unsigned open_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++) {
        n += fcntl(fd, F_GETFD) >= 0;
    }
    return n;
}

/* Where not all of them can be had there are none. */
static void test_no_room(void)
{
    int fd = memfd("file"), copies[FF_PARCEL_MAX];
    int parcel = ff_fdstore_new((int[]){fd, fd, fd}, 3);
    struct rlimit before, few;

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    few = (struct rlimit){parcel + 2, before.rlim_max};
    unsigned open = open_fds();
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &few), ==, 0);
    int ret = ff_fdstore_look(parcel, copies);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
    g_assert_cmpint(ret, ==, -EMFILE);
    g_assert_cmpuint(open_fds(), ==, open);
    close(parcel);
    close(fd);
}

/* A socket that looks like one, and has the kernel say more than a parcel's: nothing of that stays
 * open, however often somebody looks. */
static void test_hostile(void)
{
    static const int options[] = {SO_PASSCRED, SO_PASSPIDFD};
    int fd = memfd("file"), copies[FF_PARCEL_MAX], on = 1;

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        int pair[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
        bool can = setsockopt(pair[1], SOL_SOCKET, options[i], &on, sizeof(on)) == 0; /* 6.5 */
        g_assert_cmpint(ff_rights_send(pair[0], "", 1, (int[]){fd, fd}, 2), ==, 1);
        close(pair[0]);
        unsigned open = open_fds();
        int ret = can ? ff_fdstore_look(pair[1], copies) : -EBADMSG;
        g_assert_cmpint(ret, ==, -EBADMSG);
        g_assert_cmpuint(open_fds(), ==, open);
        close(pair[1]);
    }
    close(fd);
}

/* As another user, whose limit is 64: 32 of them may lie in sockets, and others may send more. */
static int crowd(void)
{
    const struct rlimit limit = {64, 64};
    int fd = memfd("file"), eight[8], n = 0, parcel, pair[2];

    for (unsigned i = 0; i < G_N_ELEMENTS(eight); i++) {
        eight[i] = fd;
    }
    if (setresuid(54321, 54321, 54321) < 0 || setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return 1;
    }
    while ((parcel = ff_fdstore_new(eight, G_N_ELEMENTS(eight))) >= 0) {
        n++;
    }
    if (parcel != -ETOOMANYREFS || n < 4 || n > 5) {
        return 2;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return 3;
    }
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {"", 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    return sendmsg(pair[0], &msg, 0) == 1 ? 0 : 4;
}

static void test_crowd(void)
{
    int status;

    if (geteuid() != 0) {
        g_test_skip("needs root, to be another user");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        _exit(crowd());
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

/* What a process says its state is: a memfd is opened, and nothing else, be it a file. */
static void test_state(void)
{
    const int fds[] = {memfd("state"), open("/proc/self/status", O_RDONLY | O_CLOEXEC)};

    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        g_autoptr(JsonObject) plan = json_object_new();

        json_object_set_int_member(plan, FF_PLAN_KEPT_STATE, fds[i]);
        int state = ff_attach_open_state(getpid(), plan);
        if (i == 0) {
            check_text(state, "state");
        } else {
            g_assert_cmpint(state, ==, -1);
        }
        close(fds[i]);
    }
}

/* A plan of a process that is none of ours: no farfault that looks at it goes down its own stack.
 */
static void test_plan(void)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    int fd = memfd_create("farfault-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    g_autofree char *brackets = g_strnfill(1000000, '[');
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(write(fd, brackets, 1000000), ==, 1000000);
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, seals), ==, 0);
    g_assert_null(ff_attach_plan(getpid(), NULL, &error));
    g_assert_nonnull(error);
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/parcel/look", test_look);
    g_test_add_func("/parcel/no-parcel", test_no_parcel);
    g_test_add_func("/parcel/no-room", test_no_room);
    g_test_add_func("/parcel/hostile", test_hostile);
    g_test_add_func("/parcel/state", test_state);
    g_test_add_func("/parcel/plan", test_plan);
    g_test_add_func("/parcel/crowd", test_crowd);
    return g_test_run();
}
