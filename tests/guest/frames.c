/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See frames.h. A network may lose frames, above all while a guest is moved; it must not change,
 * repeat or reorder them here, where there is one way only.
 *
 * Threads: frames_work. Counters are atomics.
 */
#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    PROTOCOL = 0x88b5, /* IEEE 802, for local experiments */
    WORDS = 180,       /* of a frame, its number the first: too large to be copied when it comes */
    QUEUED = 16 << 20, /* bytes that the socket may hold */
    GAP_US = 300       /* between two frames: a load, not a benchmark */
};

typedef struct {
    uint8_t to[6], from[6];
    uint16_t protocol, padding;
    uint64_t words[WORDS];
} __attribute__((packed)) Frame;

static _Atomic uint64_t good, lost, bad;
static char first_bad[64]; /* before bad is not 0 */
static uint8_t own[6];
static const uint8_t peer[6] = {2, 0, 0, 0, 0, 2};
static int sock;
static unsigned depth;
static pthread_t thread;
static bool started;
static _Atomic bool stopping;

FramesCounts frames_counts(void)
{
    return (FramesCounts){
        .good = atomic_load(&good), .lost = atomic_load(&lost), .bad = atomic_load(&bad)};
}

const char *frames_first_bad(void)
{
    return atomic_load(&bad) ? first_bad : "none";
}

static void complain(const char *what, uint64_t number, uint64_t last)
{
    char text[128];
    int n = snprintf(text, sizeof text, "FF bad frame %s number=%llu last=%llu errno=%d\n", what,
                     (unsigned long long)number, (unsigned long long)last, errno);
    if (!atomic_load(&bad))
        snprintf(first_bad, sizeof first_bad, "%s:%llu:%llu", what, (unsigned long long)number,
                 (unsigned long long)last);
    if (atomic_fetch_add(&bad, 1) < 10 && write(STDOUT_FILENO, text, n) < 0)
        return;
}

/* Of frame NUMBER. */
static void fill(uint64_t *words, uint64_t number)
{
    words[0] = number;
    for (unsigned i = 1; i < WORDS; i++) {
        uint64_t x = (number << 12 | i) * 0x9e3779b97f4a7c15u;
        words[i] = x ^ x >> 29;
    }
}

/* One that has come: its number is to be above *LAST. */
static void verify(const Frame *came, ssize_t len, uint64_t *last)
{
    uint64_t want[WORDS], have[WORDS];
    memcpy(have, came->words, sizeof have);
    fill(want, have[0]);
    if (len != sizeof *came || memcmp(came->to, own, 6) || memcmp(came->from, peer, 6) ||
        memcmp(have, want, sizeof have)) {
        complain("content", have[0], *last);
    } else if (have[0] <= *last) {
        complain("order", have[0], *last);
    } else {
        atomic_fetch_add(&lost, have[0] - *last - 1);
        atomic_fetch_add(&good, 1);
        *last = have[0];
    }
}

/* Takes what has come until no more than depth of NUMBER are out. If nothing comes, one more may
 * go: all that were out may be lost. */
static void take(uint64_t number, uint64_t *last)
{
    Frame came;
    while (number - *last > depth && !atomic_load(&stopping)) {
        ssize_t n = recv(sock, &came, sizeof came, 0);
        if (n < 0)
            return;
        verify(&came, n, last);
    }
}

static void *frames_work(void *arg)
{
    uint64_t last = 0, words[WORDS];
    Frame frame = {.protocol = htons(PROTOCOL)};
    cpu_set_t first;
    (void)arg;
    /* One way: where there are several queues each processor has its own. */
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    pthread_setaffinity_np(pthread_self(), sizeof first, &first);
    memcpy(frame.to, peer, 6);
    memcpy(frame.from, own, 6);
    for (uint64_t number = 1; !atomic_load(&stopping); number++) {
        fill(words, number);
        memcpy(frame.words, words, sizeof words);
        if (send(sock, &frame, sizeof frame, 0) != sizeof frame && errno != ENOBUFS)
            complain("send", number, last);
        take(number, &last);
        usleep(GAP_US);
    }
    return NULL;
}

/* The frames are taken by themselves: the kernel wants no address for them. */
static const char *open_socket(void)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL)};
    struct timeval wait = {.tv_sec = 1};
    int queued = QUEUED;
    sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return "no packet sockets in this kernel";
    if (ioctl(sock, SIOCGIFHWADDR, &request))
        return "no eth0: give the guest a virtio-net device";
    memcpy(own, request.ifr_hwaddr.sa_data, 6);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(sock, SIOCSIFFLAGS, &request) || ioctl(sock, SIOCGIFINDEX, &request))
        return "eth0 does not come up";
    at.sll_ifindex = request.ifr_ifindex;
    if (bind(sock, (struct sockaddr *)&at, sizeof at) ||
        setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &queued, sizeof queued) ||
        setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait))
        return "a packet socket cannot be used";
    return NULL;
}

const char *frames_start(unsigned n)
{
    const char *error = open_socket();
    depth = n;
    if (error)
        return error;
    started = !pthread_create(&thread, NULL, frames_work, NULL);
    return started ? NULL : "no thread for frames";
}

void frames_stop(void)
{
    atomic_store(&stopping, true);
    if (started)
        pthread_join(thread, NULL);
}
