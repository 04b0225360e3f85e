/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pseudo-terminal (-chardev pty) goes over to the next QEMU of a guest with its name, as those
 * who use it know that. Its master side may be read by one QEMU only. So the next one makes
 * stand-ins, which it believes to have the names of the others; when the guest is its own, those
 * are put in their places (dup3). QEMU looks once a second whether somebody has such a terminal
 * open. In the QEMU before, from then on, files are in their places that nobody writes to.
 *
 * Both are done by QEMU's main loop itself, in front of ppoll(), where it waits for nothing else
 * that has to do with these numbers.
 *
 * Threads: any of QEMU's call ppoll(), one of them acts; openpty() and ptsname() are the main
 * thread's. System calls: dup3, ioctl, close, and what these and
 * close-inherited.c do.
 */
#include "guest/agent/ptys.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "contract/discards.h"
#include "guest/agent/internal.h"

typedef struct {
    int master; /* QEMU's number; -1: not made yet */
    int real;   /* what is to come there; -1: nothing */
} Pty;

/* The tables: written before there is another thread, or by the main thread. */
static struct {
    Pty pty[FF_AGENT_MAX_PTYS];
    int n;                   /* that QEMU has made */
    int n_given;             /* that are to come, in the order in which QEMU makes them */
    const uint32_t *accepts; /* NULL: all stay as they are */
    /* Atomic; what was done last. Observers: the threads in ppoll(). */
    uint32_t done;
    int (*openpty)(int *, int *, char *, const struct termios *, const struct winsize *);
    char *(*ptsname)(int);
    int (*ppoll)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
} ptys;

/* ---- what comes, and goes -------------------------------------------------------------------- */

/* QEMU may have closed it, and use its number for something else. */
static bool is_master(int fd)
{
    unsigned number;

    return ioctl(fd, TIOCGPTN, &number) == 0;
}

static void bring_ptys(void)
{
    for (int i = 0; i < ptys.n; i++) {
        if (ptys.pty[i].real >= 0 && is_master(ptys.pty[i].master)) {
            dup3(ptys.pty[i].real, ptys.pty[i].master, O_CLOEXEC);
            close(ptys.pty[i].real);
            ptys.pty[i].real = -1;
        }
    }
}

static void hang_up_masters(void)
{
    for (int i = 0; i < ptys.n; i++) {
        if (is_master(ptys.pty[i].master)) {
            ff_quiet_put_over(ptys.pty[i].master);
        }
    }
}

static void follow_accepts(void)
{
    uint32_t now = ptys.accepts ? __atomic_load_n(ptys.accepts, __ATOMIC_ACQUIRE) : FF_ACCEPTS_ALL;
    int saved_errno = errno;

    if (now == __atomic_load_n(&ptys.done, __ATOMIC_RELAXED) ||
        now == __atomic_exchange_n(&ptys.done, now, __ATOMIC_ACQ_REL)) {
        return;
    }
    if (now == FF_ACCEPTS_ALL) {
        bring_ptys();
    } else if (now == FF_ACCEPTS_NONE) {
        hang_up_masters();
    }
    errno = saved_errno;
}

static int pass_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                      const sigset_t *mask)
{
    return ptys.ppoll ? ptys.ppoll(fds, n, timeout, mask)
                      : (int)syscall(SYS_ppoll, fds, n, timeout, mask, _NSIG / 8);
}

/* By the assembler's name: with _FORTIFY_SOURCE the header has a ppoll() of its own. */
int ff_agent_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
                   const sigset_t *mask) __asm__("ppoll");
__attribute__((visibility("default"))) int
ff_agent_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    follow_accepts();
    return pass_ppoll(fds, n, timeout, mask);
}

/* The same in a QEMU that was built with _FORTIFY_SOURCE. */
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                size_t size);
__attribute__((visibility("default"))) int __ppoll_chk(struct pollfd *fds, nfds_t n,
                                                       const struct timespec *timeout,
                                                       const sigset_t *mask, size_t size)
{
    if (size / sizeof(*fds) < n) {
        abort();
    }
    return ff_agent_ppoll(fds, n, timeout, mask);
}

/* ---- what QEMU makes ------------------------------------------------------------------------- */

__attribute__((visibility("default"))) int openpty(int *master, int *slave, char *name,
                                                   const struct termios *termios,
                                                   const struct winsize *winsize)
{
    if (!ptys.openpty) {
        errno = ENOSYS;
        return -1;
    }
    int rc = ptys.openpty(master, slave, name, termios, winsize);

    if (rc == 0 && ptys.n < FF_AGENT_MAX_PTYS) {
        ptys.pty[ptys.n++].master = *master;
    }
    return rc;
}

__attribute__((visibility("default"))) char *ptsname(int fd)
{
    for (int i = 0; i < ptys.n; i++) {
        if (ptys.pty[i].master == fd && ptys.pty[i].real >= 0) {
            fd = ptys.pty[i].real;
            break;
        }
    }
    return ptys.ptsname ? ptys.ptsname(fd) : NULL;
}

/* ---- start ----------------------------------------------------------------------------------- */

static void __attribute__((constructor)) find_next(void)
{
    ptys.openpty = (int (*)(int *, int *, char *, const struct termios *,
                            const struct winsize *))dlsym(RTLD_NEXT, "openpty");
    ptys.ptsname = (char *(*)(int))dlsym(RTLD_NEXT, "ptsname");
    ptys.ppoll = (int (*)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))dlsym(
        RTLD_NEXT, "ppoll");
}

int ff_ptys_start(const char *text, const uint32_t *accepts)
{
    for (int i = 0; i < FF_AGENT_MAX_PTYS; i++) {
        ptys.pty[i] = (Pty){-1, -1};
    }
    while (text && *text) {
        char *end;
        long fd = strtol(text, &end, 10);

        if (end == text || ptys.n_given == FF_AGENT_MAX_PTYS || fcntl((int)fd, F_GETFD) < 0) {
            return -EBADF;
        }
        ptys.pty[ptys.n_given++].real = (int)fd;
        text = end + (*end != '\0');
    }
    ptys.accepts = accepts;
    ptys.done = accepts ? *accepts : FF_ACCEPTS_ALL;
    return 0;
}
