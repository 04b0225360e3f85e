/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent: preloaded into QEMU, it makes the userfaultfds and hands them to the relay, with what
 * arms the hook in front of QEMU's discards (hook.c). The same memory has what QEMU says on its
 * stderr (stderr.c).
 *
 * A userfaultfd belongs to the address space that made it, and after QEMU's seccomp filter or
 * -runas none could be made any more, so this runs as a constructor, before main(). It makes one of
 * each kind (contract/kinds.h), opens pagemap, maps, mem and a pidfd of its own process and sends
 * all of them in one message. What cannot be made is left out, and the reason sent: the others are
 * of use without it.
 *
 * A copy of those for missing pages and for tracking stays open in QEMU: when the last fd of one is
 * closed, the kernel lets any thread that waits for a missing page through with zeros. Of the one
 * for synchronous write protection no copy may stay: a thread that waits there must continue when
 * those that were to let it have died, and closing the last fd is what does it. Once it was sent it
 * lies in the relay's socket, and is closed here.
 *
 * -daemonize: QEMU forks, the child calls setsid() and forks again; the second child is the
 * guest. It has a new address space, so it hands over again. "The session changed since the
 * constructor" tells that child from the first one and from every helper that QEMU forks; it is
 * done once, so no later child can take the place of the guest.
 *
 * QEMU's end: relay and engine hold the guest's memory too, and the process that ended it (libvirt)
 * takes the control group away as soon as QEMU's pid is gone. So the destructor tells the relay,
 * and waits until it has ended or says that it has something left to do.
 *
 * Threads: the constructor runs before QEMU has any, and makes one for taps (taps.c) and one for
 * the process that stays (front.c). The fork handler runs in a child of a process that may have
 * threads: only async-signal-safe calls there. The destructor runs beside whatever threads QEMU has
 * left. System calls: userfaultfd or openat+ioctl, ioctl(UFFDIO_API), pidfd_open, fcntl, dup3,
 * socketpair, sendmsg, sendto, recvmsg, poll, close.
 */
#include "guest/agent/agent.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "contract/discards.h"
#include "guest/agent/caches.h"
#include "guest/agent/hook.h"
#include "guest/agent/internal.h"
#include "guest/agent/ptys.h"
#include "guest/agent/stderr.h"
#include "guest/agent/taps.h"
#include "uffd/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* First number tried for what stays open in QEMU: out of the way of small numbers, which
 * callers pass to QEMU by number, and below the usual soft limit of 1024. */
#define FIRST_KEPT_FD 200

/* Written by the constructor, later only by the fork handler in the daemon. */
static struct {
    int sock;           /* hand-over socket; -1: not in a QEMU of farfault */
    bool due;           /* the daemon must hand over again */
    pid_t guest;        /* the one that says farewell; 0: -daemonize, not known yet */
    pid_t session;      /* of the process that ran the constructor */
    int kept[FF_KINDS]; /* -1 = none */
    int hook;           /* what arms it, until it is handed over; -errno: there is none */
    int hook_kept;      /* socket with a copy of it, for `farfault attach`; -1: none */
} agent = {.sock = -1, .hook = -ENOENT, .hook_kept = -1};

static void close_all(int *fds, int n)
{
    for (int i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
        fds[i] = -1;
    }
}

static int dup_high(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_KEPT_FD);
    return high >= 0 ? high : fcntl(fd, F_DUPFD_CLOEXEC, 3); /* low RLIMIT_NOFILE */
}

/* Returns a userfaultfd that may also wait for faults of the kernel (KVM, vhost), or -errno.
 * DEVICE can be -1. */
static int make_uffd(int device)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, flags) : -1;
    if (fd < 0) {
        fd = (int)syscall(SYS_userfaultfd, flags);
    }
    return fd >= 0 ? fd : -errno;
}

/* What the kernel must know for KIND, asked for here as it is asked once. 0: the process that uses
 * it first asks. */
static uint64_t features_of(FfKind kind)
{
    return kind == FF_KIND_TRACKING  ? FF_UFFD_TRACKING
           : kind == FF_KIND_PROTECT ? FF_UFFD_PROTECTION
                                     : 0;
}

/* Returns a userfaultfd of KIND, or -errno. */
static int make_kind(FfKind kind, int device)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features_of(kind)};
    int fd = make_uffd(device);

    if (fd >= 0 && api.features && ioctl(fd, UFFDIO_API, &api) < 0) {
        int err = errno == EINVAL ? EOPNOTSUPP : errno;
        close(fd);
        return -err;
    }
    return fd;
}

/* Keeps a copy of FD (-1: there is none) in this process, in place of that of a former address
 * space. Returns 0 or -errno. */
static int keep_copy(FfKind kind, int fd)
{
    int *kept = &agent.kept[kind];

    if (fd < 0 || kind == FF_KIND_PROTECT) {
        close_all(kept, 1); /* one that is left belongs to the parent's: of no use here */
        return 0;
    }
    int copy = *kept >= 0 ? dup3(fd, *kept, O_CLOEXEC) : dup_high(fd);
    if (copy < 0) {
        int err = errno;
        close_all(kept, 1);
        return -err;
    }
    *kept = copy;
    return 0;
}

/* Makes one of each kind. FDS: those that there are. Returns their number. */
static unsigned make_all(FfAgentHello *hello, int *fds)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    unsigned n = 0;

    for (int kind = 0; kind < FF_KINDS; kind++) {
        int fd = make_kind(kind, device), err = keep_copy(kind, fd);
        if (fd >= 0 && err < 0) {
            close(fd); /* one that QEMU does not keep could end with us, and let zeros through */
            fd = err;
        }
        hello->error[kind] = fd < 0 ? -fd : 0;
        hello->kept[kind] = agent.kept[kind];
        if (fd >= 0) {
            fds[n++] = fd;
        }
    }
    if (device >= 0) {
        close(device);
    }
    return n;
}

/* BYTES with the N FDS. FALSE: they were not sent. */
static bool send_fds(int sock, const void *bytes, size_t len, const int *fds, unsigned n)
{
    size_t n_bytes = sizeof(int) * n;
    union {
        char buf[CMSG_SPACE(sizeof(int) * FF_AGENT_MAX_FDS)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.buf,
        .msg_controllen = CMSG_SPACE(n_bytes),
    };
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(n_bytes);
    memcpy(CMSG_DATA(cmsg), fds, n_bytes);

    ssize_t sent;
    do {
        sent = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

/*
 * Makes everything for the address space of this process and sends it. Async-signal-safe.
 * Where even /proc or pidfds are refused nothing is sent: the relay sees the socket close
 * without a hello and says so.
 */
static void hand_over(int sock)
{
    FfAgentHello hello = {.magic = FF_AGENT_MAGIC, .version = FF_AGENT_VERSION, .pid = getpid()};
    int fds[FF_AGENT_MAX_FDS];
    fds[FF_AGENT_FD_PIDFD] = (int)syscall(SYS_pidfd_open, getpid(), 0);
    fds[FF_AGENT_FD_PAGEMAP] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    fds[FF_AGENT_FD_MAPS] = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    fds[FF_AGENT_FD_MEM] = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (fds[FF_AGENT_FD_MEM] < 0) {
        fds[FF_AGENT_FD_MEM] = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    }
    unsigned n = FF_AGENT_FD_UFFDS + make_all(&hello, fds + FF_AGENT_FD_UFFDS);
    int hook = agent.hook < 0 ? agent.hook : fcntl(agent.hook, F_DUPFD_CLOEXEC, 0);
    hello.hook_error = hook >= 0 ? 0 : agent.hook < 0 ? -agent.hook : errno;
    hello.hook_kept = hook >= 0 ? agent.hook_kept : -1;
    if (hook >= 0) {
        fds[n++] = hook;
    }
    if (fds[FF_AGENT_FD_PIDFD] >= 0 && fds[FF_AGENT_FD_PAGEMAP] >= 0 &&
        fds[FF_AGENT_FD_MAPS] >= 0 && fds[FF_AGENT_FD_MEM] >= 0) {
        send_fds(sock, &hello, sizeof(hello), fds, n);
    }
    close_all(fds, n);
}

static void after_fork_in_child(void)
{
    if (!agent.due || getsid(0) == agent.session) {
        return;
    }
    int saved_errno = errno;
    hand_over(agent.sock);
    close_all(&agent.hook, 1);
    agent.due = false;
    agent.guest = getpid();
    errno = saved_errno;
}

/* TRUE if this process is the QEMU that WANTED names (see FF_AGENT_ENV_EXE). */
static bool is_qemu(const char *wanted)
{
    struct stat st;
    if (strcmp(wanted, "*") == 0) {
        char *exe = realpath("/proc/self/exe", NULL);
        const char *base = exe ? strrchr(exe, '/') : NULL;
        bool yes = base && (strstr(base, "qemu-system-") || strstr(base, "qemu-kvm"));
        free(exe);
        return yes;
    }
    char *end;
    unsigned long long dev = strtoull(wanted, &end, 10);
    if (*end != ':' || stat("/proc/self/exe", &st) < 0) {
        return false;
    }
    unsigned long long ino = strtoull(end + 1, &end, 10);
    return *end == '\0' && dev == st.st_dev && ino == st.st_ino;
}

/* Takes the agent's own entry out of LD_PRELOAD; what others put there stays, in order. */
static void clean_ld_preload(void)
{
    const char *old = getenv("LD_PRELOAD");
    Dl_info self;
    if (!old || !dladdr((void *)clean_ld_preload, &self)) {
        return;
    }
    char *kept = calloc(1, strlen(old) + 1);
    if (!kept) {
        return;
    }
    size_t len = 0;
    for (const char *p = old; *p;) {
        size_t n = strcspn(p, ": ");
        bool own = n == strlen(self.dli_fname) && strncmp(p, self.dli_fname, n) == 0;
        if (n && !own) {
            if (len) {
                kept[len++] = ':';
            }
            memcpy(kept + len, p, n);
            len += n;
        }
        p += n + (p[n] != '\0');
    }
    if (len) {
        setenv("LD_PRELOAD", kept, 1);
    } else {
        unsetenv("LD_PRELOAD");
    }
    free(kept);
}

static void set_cloexec(const char *list)
{
    while (list && *list) {
        char *end;
        long fd = strtol(list, &end, 10);
        if (end == list) {
            return;
        }
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
        list = end + (*end == ',');
    }
}

/* What arms the hook is kept in the queue of a socket whose other end is closed, as what the
 * launcher keeps (guest/launch/fdstore.h): under a number of its own other processes of the user
 * could open it for writing. */
static int keep_in_socket(int fd)
{
    int pair[2], high = -1;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -1;
    }
    if (send_fds(pair[0], "", 1, &fd, 1)) {
        high = dup_high(pair[1]);
    }
    close_all(pair, 2);
    return high;
}

/* A guest whose network would be dead has a QEMU that it can stay in. */
static void take_taps(void)
{
    const char *text = getenv(FF_AGENT_ENV_TAPS);
    int rc = text ? ff_taps_start(text) : 0;

    if (rc < 0) {
        dprintf(STDERR_FILENO, "farfault: the taps cannot be taken over: %s\n", strerror(-rc));
        _exit(1);
    }
    unsetenv(FF_AGENT_ENV_TAPS);
}

/* A guest that would outlive what others know it by has a QEMU that it can stay in. */
static void watch_front(void)
{
    const char *text = getenv(FF_AGENT_ENV_FRONT);
    int rc = text ? ff_placeholder_watch(text) : 0;

    if (rc < 0) {
        dprintf(STDERR_FILENO, "farfault: the process that stays cannot be watched: %s\n",
                strerror(-rc));
        _exit(1);
    }
    unsetenv(FF_AGENT_ENV_FRONT);
}

static void __attribute__((constructor)) farfault_agent(void)
{
    const char *env_fd = getenv(FF_AGENT_ENV_FD);
    const char *env_exe = getenv(FF_AGENT_ENV_EXE);
    if (!env_fd || !env_exe || !is_qemu(env_exe)) {
        return;
    }
    int sock = atoi(env_fd);
    const char *env_daemonize = getenv(FF_AGENT_ENV_DAEMONIZE);
    bool daemonize = env_daemonize && strcmp(env_daemonize, "1") == 0;
    set_cloexec(getenv(FF_AGENT_ENV_CLOEXEC));
    take_taps();
    watch_front();
    unsetenv(FF_AGENT_ENV_FD);
    unsetenv(FF_AGENT_ENV_EXE);
    unsetenv(FF_AGENT_ENV_CLOEXEC);
    unsetenv(FF_AGENT_ENV_DAEMONIZE);
    clean_ld_preload();

    int type;
    socklen_t len = sizeof(type);
    if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET) {
        return; /* somebody in between closed it, and the number is another file's now */
    }
    fcntl(sock, F_SETFD, FD_CLOEXEC);
    for (int kind = 0; kind < FF_KINDS; kind++) {
        agent.kept[kind] = -1;
    }
    /* The address space of -daemonize's child has the same memory. */
    agent.hook = ff_hook_start();
    const char *later = getenv(FF_AGENT_ENV_LATER);
    const uint32_t *accepts = ff_hook_accepts(later ? FF_ACCEPTS_LATER : FF_ACCEPTS_ALL);
    if (later && accepts && !strcmp(later, FF_AGENT_LATER_FILLS)) {
        ff_hook_fill();
    }
    ff_accept_start(accepts);
    int rc = ff_ptys_start(getenv(FF_AGENT_ENV_PTYS), accepts);
    if (rc < 0) {
        dprintf(STDERR_FILENO, "farfault: the pseudo-terminals cannot be taken over: %s\n",
                strerror(-rc));
        _exit(1);
    }
    unsetenv(FF_AGENT_ENV_LATER);
    unsetenv(FF_AGENT_ENV_PTYS);
    ff_stderr_start(agent.hook);
    ff_caches_start(agent.hook);
    agent.hook_kept = agent.hook >= 0 ? keep_in_socket(agent.hook) : -1;
    hand_over(sock);
    agent.session = getsid(0);
    agent.sock = sock;
    agent.due = daemonize && pthread_atfork(NULL, NULL, after_fork_in_child) == 0;
    if (!agent.due) {
        close_all(&agent.hook, 1);
    }
    agent.guest = agent.due ? 0 : getpid();
}

/* The relay's answer. Returns how many PIDFDS are to be waited for, *LIMIT ms at most (-1: as long
 * as it takes). */
static int take_answer(int pidfds[FF_AGENT_MAX_WAITS], int *limit)
{
    union {
        char buf[CMSG_SPACE(FF_AGENT_MAX_WAITS * sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    int n = 0;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.buf,
                         .msg_controllen = sizeof(control.buf)};
    if (recvmsg(agent.sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) {
        return 0;
    }
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
        n = (int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(pidfds, CMSG_DATA(cmsg), n * sizeof(int));
    }
    *limit = byte == FF_AGENT_PATIENCE ? -1 : FF_AGENT_FAREWELL_MS;
    return n;
}

static void wait_readable(int fd, int limit)
{
    struct pollfd pfd = {fd, POLLIN, 0};
    while (poll(&pfd, 1, limit) < 0 && errno == EINTR) {
    }
}

static void __attribute__((destructor)) farewell(void)
{
    if (agent.sock < 0 || agent.guest != getpid() ||
        send(agent.sock, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
        return;
    }
    int limit = FF_AGENT_FAREWELL_MS, pidfds[FF_AGENT_MAX_WAITS];
    wait_readable(agent.sock, limit);
    for (int n = take_answer(pidfds, &limit); n-- > 0;) {
        wait_readable(pidfds[n], limit);
        close(pidfds[n]);
    }
}
