/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The template and its children; see template.h. They end with the program: by PR_SET_PDEATHSIG,
 * and the template by the end of its socket too.
 *
 * System calls: prctl, getppid, sendmsg, recvmsg, poll, fork, pidfd_open, waitid, mmap, madvise,
 * ioctl(UFFDIO_*), rt_sigaction,
 * rt_sigprocmask, kill, close.
 */
#include "libfarfault/snapshots/template.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libfarfault/common/memory-internal.h"
#include "uffd/uffd.h"

/* ---- messages -------------------------------------------------------------------------------- */

typedef union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
} Control;

int ff_template_send(int sock, const void *data, size_t len, int fd)
{
    Control control = {0};
    struct iovec iov = {(void *)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    }
    do {
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

ssize_t ff_template_recv(int sock, void *data, size_t cap, int *fd)
{
    Control control = {0};
    struct iovec iov = {data, cap};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n;

    *fd = -1;
    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    }
    return n < 0 ? -errno : n;
}

/* ---- the child ------------------------------------------------------------------------------- */

static int refuse_child(FfTemplateReady *r, int rc, const char *what, uint64_t addr)
{
    r->rc = rc;
    snprintf(r->reason, sizeof(r->reason), "the child: %#llx: %s: %s", (unsigned long long)addr,
             what, strerror(-rc));
    return rc;
}

/* A grandchild would find zeros where the child has fetched nothing: it finds nothing. */
static int map_region(int uffd, const FfTemplateRegion *region, FfTemplateReady *r)
{
    void *at = (void *)(uintptr_t)region->addr;
    void *map = mmap(at, region->len, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    if (map != at) {
        return refuse_child(r, map == MAP_FAILED ? -errno : -EEXIST,
                            "the address is used there: map the region before ff_template_start()",
                            region->addr);
    }
    if (madvise(map, region->len, MADV_DONTFORK) < 0) {
        return refuse_child(r, -errno, "MADV_DONTFORK", region->addr);
    }
    int rc = ff_uffd_register(uffd, region->addr, region->len, UFFDIO_REGISTER_MODE_MISSING);
    return rc < 0 ? refuse_child(r, rc, "it cannot be registered", region->addr) : 0;
}

static int open_memory(unsigned flags, const FfTemplateRegion *regions, size_t n,
                       FfTemplateReady *r)
{
    int uffd = ff_memory_new_uffd(flags);
    int rc = uffd < 0 ? uffd
                      : ff_uffd_init(uffd,
                                     UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                                         UFFD_FEATURE_EVENT_UNMAP,
                                     NULL);

    if (rc < 0) {
        return refuse_child(r, rc, "userfaultfd", 0);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = map_region(uffd, &regions[i], r);
    }
    return rc < 0 ? rc : uffd;
}

/* A program that has ended before this cannot tell any more. */
static bool end_with(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

/* It keeps its userfaultfd open: were the program's the last one, faults would be answered with
 * zeros when that ends. */
static int run_child(int sock, pid_t template, unsigned flags, const FfTemplateRegion *regions,
                     size_t n, FfChild *child, void *opaque)
{
    static char arg[FF_TEMPLATE_MAX + 1];
    FfTemplateReady ready = {0};
    int none;

    if (!end_with(template)) {
        return 127;
    }
    int uffd = open_memory(flags, regions, n, &ready);
    if (ff_template_send(sock, &ready, sizeof(ready), uffd < 0 ? -1 : uffd) < 0 || uffd < 0) {
        return 127;
    }
    ssize_t len = ff_template_recv(sock, arg, sizeof(arg), &none);
    if (len <= 0) {
        return 127; /* cancelled */
    }
    return child(opaque, arg + 1, (size_t)len - 1);
}

/* ---- the template ---------------------------------------------------------------------------- */

typedef struct {
    int sock, pidfd; /* pidfd -1: no child */
    pid_t pid;
} Template;

static void send_news(const Template *t, int what, int status)
{
    FfTemplateNews news = {what, t->pid, status};

    if (ff_template_send(t->sock, &news, sizeof(news), -1) < 0) {
        _exit(0); /* nobody is there any more */
    }
}

static void reap_child(Template *t)
{
    int status;

    while (waitpid(t->pid, &status, 0) < 0 && errno == EINTR) {
    }
    close(t->pidfd);
    t->pidfd = -1;
    send_news(t, FF_TEMPLATE_ENDED, status);
}

/* What a child was that could not be watched is none. */
static int watch_child(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), rc = -errno;

    if (pidfd < 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    return pidfd < 0 ? rc : pidfd;
}

/* All signals stay blocked in the template: what is for the program (a ^C at its terminal) is not
 * for it. And its children are its own to wait for, whatever the program does with SIGCHLD. */
void ff_template_run(int sock, pid_t parent, unsigned memory_flags, FfChild *child, void *opaque,
                     const sigset_t *signals)
{
    static FfTemplateRegion regions[FF_TEMPLATE_MAX / sizeof(FfTemplateRegion)];
    Template t = {.sock = sock, .pidfd = -1};
    struct sigaction own = {.sa_handler = SIG_DFL}, programs;
    pid_t self = getpid();
    /* The kernel sends no signal of a parent that has another user by then, and any process that
     * the program has forked has the other end of the socket. -1: only these tell. */
    int program = (int)syscall(SYS_pidfd_open, parent, 0);

    if (!end_with(parent)) {
        _exit(0);
    }
    sigaction(SIGCHLD, &own, &programs);
    for (;;) {
        struct pollfd pfd[3] = {{.fd = sock, .events = POLLIN},
                                {.fd = t.pidfd, .events = POLLIN},
                                {.fd = program, .events = POLLIN}};
        int child_sock;
        if (poll(pfd, 3, -1) < 0) {
            continue;
        }
        if (pfd[2].revents) {
            _exit(0); /* its child ends by the signal */
        }
        if (pfd[1].revents) {
            reap_child(&t);
            continue;
        }
        ssize_t len = ff_template_recv(sock, regions, sizeof(regions), &child_sock);
        if (len <= 0 || child_sock < 0 || t.pidfd >= 0) {
            _exit(0); /* the program has ended it; its child ends by the signal */
        }
        t.pid = fork();
        if (t.pid == 0) {
            close(sock);
            if (program >= 0) {
                close(program);
            }
            sigaction(SIGCHLD, &programs, NULL);
            sigprocmask(SIG_SETMASK, signals, NULL);
            _exit(run_child(child_sock, self, memory_flags, regions, (size_t)len / sizeof(*regions),
                            child, opaque));
        }
        int rc = t.pid < 0 ? -errno : watch_child(t.pid);
        close(child_sock);
        t.pidfd = rc < 0 ? -1 : rc;
        send_news(&t, FF_TEMPLATE_MADE, MIN(rc, 0));
    }
}
