/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A second QEMU that is given a tap changes it at its start (TUNSETVNETHDRSZ, TUNSETOFFLOAD), and
 * reads from it: the network of the guest that runs in the first one would break. So QEMU is given
 * a stand-in, one end of a pair of datagram sockets, with the number that it knows the tap by. What
 * it asks of the tap is answered here, and kept; what it sends waits in the socket, and QEMU waits
 * where that is full. When the guest is this QEMU's, or the first QEMU has ended, a thread does to
 * the tap what QEMU has asked, puts it in the stand-in's place (dup3), and sends what has waited.
 *
 * A packet that QEMU sends while those that have waited are sent may come before them.
 *
 * Threads: one of its own (place_taps()), which blocks all signals; ioctl() is any of QEMU's. The
 * lock is held for the calls that the tap needs. System calls: poll, read, ioctl, dup3, recvfrom,
 * write, sendto, close.
 */
#include "guest/agent/taps.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "guest/agent/internal.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20 /* Linux 6.2 */
#define TUN_F_USO6 0x40
#endif
#define KNOWN_OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO)

#define MAX_PACKET (68u << 10) /* QEMU's NET_BUFSIZE is 4096 + 65536 */

/* What is asked of a tap and changes it; done in this order. */
enum { HEADER, OFFLOADS, SEND_BUFFER, LITTLE, BIG, N_ASKED };
static const unsigned long requests[N_ASKED] = {[HEADER] = TUNSETVNETHDRSZ,
                                                [OFFLOADS] = TUNSETOFFLOAD,
                                                [SEND_BUFFER] = TUNSETSNDBUF,
                                                [LITTLE] = TUNSETVNETLE,
                                                [BIG] = TUNSETVNETBE};

typedef struct {
    int fd;    /* the stand-in, QEMU's number */
    int other; /* its peer */
    int tap;   /* -1: it is in the stand-in's place */
    bool asked[N_ASKED];
    unsigned long value[N_ASKED]; /* of OFFLOADS that itself, of the others an int */
} Tap;

/* Written before there is another thread, but for what the lock is for. */
static struct {
    pthread_mutex_t lock; /* tap, asked, value */
    Tap tap[FF_AGENT_MAX_TAPS];
    int n; /* atomic; 0: all are there; observer: ioctl() */
    int go, pidfd;
    unsigned long offloads; /* that the kernel knows */
    int (*ioctl)(int fd, unsigned long request, ...);
} taps = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int real_ioctl(int fd, unsigned long request, void *arg)
{
    return taps.ioctl ? taps.ioctl(fd, request, arg) : (int)syscall(SYS_ioctl, fd, request, arg);
}

/* ---- what QEMU asks -------------------------------------------------------------------------- */

static int number_of(unsigned long request)
{
    for (int i = 0; i < N_ASKED; i++) {
        if (requests[i] == request) {
            return i;
        }
    }
    return -1;
}

static bool knows_header(int size)
{
    return size == 10 || size == 12 || size == 20; /* virtio_net_hdr, _mrg_rxbuf, _v1_hash */
}

static int refuse_ioctl(int err)
{
    errno = err;
    return -1;
}

/* The lock is held. */
static int ask_tap(Tap *t, unsigned long request, void *arg)
{
    int number = number_of(request);

    if (request == TUNGETVNETHDRSZ && t->asked[HEADER]) {
        *(int *)arg = (int)t->value[HEADER];
        return 0;
    }
    if (request == TUNGETIFF || request == TUNGETFEATURES || request == TUNGETVNETHDRSZ) {
        return real_ioctl(t->tap, request, arg);
    }
    if (number < 0) {
        return refuse_ioctl(EINVAL); /* its queues, its filters: QEMU does without */
    }
    unsigned long value = number == OFFLOADS ? (unsigned long)arg : (unsigned long)*(int *)arg;
    if ((number == OFFLOADS && value & ~taps.offloads) ||
        (number == HEADER && !knows_header((int)value))) {
        return refuse_ioctl(EINVAL);
    }
    t->asked[number] = true;
    t->value[number] = value;
    return 0;
}

/* The terminals' have the same type, and lower numbers. */
static bool is_for_taps(unsigned long request)
{
    return _IOC_TYPE(request) == 'T' && _IOC_NR(request) >= _IOC_NR(TUNSETNOCSUM);
}

/* *RESULT: what the call returns; false: it is none of ours. */
static bool answer_ioctl(int fd, unsigned long request, void *arg, int *result)
{
    bool ours = false;

    pthread_mutex_lock(&taps.lock);
    for (int i = 0; i < FF_AGENT_MAX_TAPS && !ours; i++) {
        Tap *t = &taps.tap[i];

        if (t->tap > 0 && t->fd == fd) {
            *result = ask_tap(t, request, arg);
            ours = true;
        }
    }
    pthread_mutex_unlock(&taps.lock);
    return ours;
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    int result;

    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (__atomic_load_n(&taps.n, __ATOMIC_ACQUIRE) && is_for_taps(request) &&
        answer_ioctl(fd, request, arg, &result)) {
        return result;
    }
    return real_ioctl(fd, request, arg);
}

/* ---- the tap comes --------------------------------------------------------------------------- */

static void do_asked(const Tap *t)
{
    for (int i = 0; i < N_ASKED; i++) {
        int value = (int)t->value[i];
        void *arg = i == OFFLOADS ? (void *)t->value[i] : &value;

        if (t->asked[i] && real_ioctl(t->tap, requests[i], arg) < 0) {
            dprintf(STDERR_FILENO, "farfault: a tap refuses what QEMU asked (%lx): %s\n",
                    requests[i], strerror(errno));
        }
    }
}

/* A packet that the tap does not take is lost, as on a wire. */
static void send_waiting(int other, int tap)
{
    static char packet[MAX_PACKET];
    ssize_t n;

    while ((n = recv(other, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
        while (write(tap, packet, n) < 0 && errno == EINTR) {
        }
    }
}

static void put_in_place(Tap *t)
{
    pthread_mutex_lock(&taps.lock);
    do_asked(t);
    if (dup3(t->tap, t->fd, O_CLOEXEC) < 0) {
        dprintf(STDERR_FILENO, "farfault: a tap cannot be put in its place: %s\n", strerror(errno));
    }
    close(t->tap);
    t->tap = -1;
    pthread_mutex_unlock(&taps.lock);
    send_waiting(t->other, t->fd);
    /* QEMU's main loop may wait for the stand-in still, which is a file without a number by now:
     * an empty packet, which is none, wakes it. */
    send(t->other, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(t->other);
}

/* Until somebody says so, or the other QEMU has ended. */
static void await_go(void)
{
    struct pollfd pfd[] = {{taps.go, POLLIN, 0}, {taps.pidfd, POLLIN, 0}};

    while (poll(pfd, 2, -1) < 0 && errno == EINTR) {
    }
    close(taps.go);
    close(taps.pidfd);
}

static void *place_taps(void *opaque)
{
    int n = __atomic_load_n(&taps.n, __ATOMIC_ACQUIRE);

    await_go();
    for (int i = 0; i < n; i++) {
        put_in_place(&taps.tap[i]);
    }
    __atomic_store_n(&taps.n, 0, __ATOMIC_RELEASE);
    return NULL;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* USO is probed by a call that a kernel which does not know it refuses. */
static unsigned long offloads_of_kernel(void)
{
    struct utsname name;
    unsigned long major, minor;
    char *end;

    if (uname(&name) < 0) {
        return KNOWN_OFFLOADS;
    }
    major = strtoul(name.release, &end, 10);
    minor = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
    bool knows = major > 6 || (major == 6 && minor >= 2);
    return KNOWN_OFFLOADS | (knows ? TUN_F_USO4 | TUN_F_USO6 : 0);
}

/* A number and the character after it. */
static bool parse_fd(const char **at, int *fd)
{
    char *end;
    long value = strtol(*at, &end, 10);

    if (end == *at || value < 0 || fcntl((int)value, F_GETFD) < 0) {
        return false;
    }
    *fd = (int)value;
    *at = end + (*end != '\0');
    return true;
}

/* "GO,PIDFD;" and of each tap "STAND-IN,OTHER,TAP;" */
static int parse_taps(const char *at)
{
    int n = 0;

    if (!parse_fd(&at, &taps.go) || !parse_fd(&at, &taps.pidfd)) {
        return -EBADF;
    }
    for (; *at && n < FF_AGENT_MAX_TAPS; n++) {
        Tap *t = &taps.tap[n];

        if (!parse_fd(&at, &t->fd) || !parse_fd(&at, &t->other) || !parse_fd(&at, &t->tap)) {
            return -EBADF;
        }
    }
    return n;
}

/* In every process, taps or not: somebody else's library may stand in front of libc's. */
static void __attribute__((constructor)) find_ioctl(void)
{
    taps.ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
}

int ff_taps_start(const char *text)
{
    int n = parse_taps(text);

    if (n <= 0) {
        return n;
    }
    taps.offloads = offloads_of_kernel();
    __atomic_store_n(&taps.n, n, __ATOMIC_RELEASE);
    return ff_thread_start(place_taps);
}
