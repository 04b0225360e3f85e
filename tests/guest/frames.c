/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See frames.h. A network may lose frames, above all while a guest is moved; it must not change,
 * repeat or reorder them on their way: a processor and the pair of queues that it has.
 *
 * Threads: one of frames_work for each way. Counters are atomics; lock is for what was bad first.
 */
#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
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
    GAP_US = 300,      /* between two frames: a load, not a benchmark */
    MAX_WAYS = 2,
    WAY_SHIFT = 56 /* of a frame's number: the way above, how many went before below */
};

typedef struct {
    uint8_t to[6], from[6];
    uint16_t protocol, padding;
    uint64_t words[WORDS];
} __attribute__((packed)) Frame;

static _Atomic uint64_t good, lost, bad;
static char first_bad[128]; /* before bad is not 0 */
static uint8_t own[6];
static const uint8_t peer[6] = {2, 0, 0, 0, 0, 2};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* first_bad */
static unsigned depth, n_ways, n_started;
static _Atomic bool stopping;

typedef struct {
    unsigned index;
    int sock;
    uint64_t number, last; /* sent, and come back; only the way's thread */
    pthread_t thread;
} Way;
static Way ways[MAX_WAYS];

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
    char text[192];
    int n = snprintf(text, sizeof text, "FF bad frame %s number=%llu last=%llu errno=%d\n", what,
                     (unsigned long long)number, (unsigned long long)last, errno);
    pthread_mutex_lock(&lock);
    if (!atomic_load(&bad))
        snprintf(first_bad, sizeof first_bad, "%s:%llu:%llu", what, (unsigned long long)number,
                 (unsigned long long)last);
    uint64_t before = atomic_fetch_add(&bad, 1);
    pthread_mutex_unlock(&lock);
    if (before < 10 && write(STDOUT_FILENO, text, n) < 0)
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

/* One that has come: its number is to be above the way's last. */
static void verify(Way *way, const Frame *came, ssize_t len)
{
    uint64_t want[WORDS], have[WORDS];
    memcpy(have, came->words, sizeof have);
    fill(want, have[0]);
    if (len != sizeof *came || memcmp(came->to, own, 6) || memcmp(came->from, peer, 6) ||
        memcmp(have, want, sizeof have)) {
        char what[64];
        unsigned i = 0;
        while (i < WORDS && have[i] == want[i])
            i++;
        snprintf(what, sizeof what, "content bytes=%zd word=%u is=%#llx", len, i,
                 i < WORDS ? (unsigned long long)have[i] : 0);
        complain(what, have[0], way->last);
    } else if (have[0] >> WAY_SHIFT != way->index) {
        complain("way", have[0], way->last);
    } else if (have[0] <= way->last) {
        complain("order", have[0], way->last);
    } else {
        atomic_fetch_add(&lost, have[0] - way->last - 1);
        atomic_fetch_add(&good, 1);
        way->last = have[0];
    }
}

/* Takes what has come until no more than depth of them are out. If nothing comes, one more may go:
 * all that were out may be lost. */
static void take(Way *way)
{
    Frame came;
    while (way->number - way->last > depth && !atomic_load(&stopping)) {
        ssize_t n = recv(way->sock, &came, sizeof came, 0);
        if (n < 0)
            return;
        verify(way, &came, n);
    }
}

static void *frames_work(void *arg)
{
    Way *way = arg;
    uint64_t words[WORDS];
    Frame frame = {.protocol = htons(PROTOCOL)};
    cpu_set_t one;
    /* Where there are several queues each processor has its own. */
    CPU_ZERO(&one);
    CPU_SET(way->index, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    memcpy(frame.to, peer, 6);
    memcpy(frame.from, own, 6);
    way->number = way->last = (uint64_t)way->index << WAY_SHIFT;
    while (!atomic_load(&stopping)) {
        fill(words, ++way->number);
        memcpy(frame.words, words, sizeof words);
        if (send(way->sock, &frame, sizeof frame, 0) != sizeof frame && errno != ENOBUFS)
            complain("send", way->number, way->last);
        take(way);
        usleep(GAP_US);
    }
    return NULL;
}

/* The frames are taken by themselves: the kernel wants no address for them. */
static const char *open_socket(int *sock)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL)};
    struct timeval wait = {.tv_sec = 1};
    int queued = QUEUED, by_queue = 1 | PACKET_FANOUT_QM << 16;
    *sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (*sock < 0)
        return "no packet sockets in this kernel";
    if (ioctl(*sock, SIOCGIFHWADDR, &request))
        return "no eth0: give the guest a virtio-net device";
    memcpy(own, request.ifr_hwaddr.sa_data, 6);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(*sock, SIOCSIFFLAGS, &request) || ioctl(*sock, SIOCGIFINDEX, &request))
        return "eth0 does not come up";
    at.sll_ifindex = request.ifr_ifindex;
    if (bind(*sock, (struct sockaddr *)&at, sizeof at) ||
        setsockopt(*sock, SOL_SOCKET, SO_RCVBUFFORCE, &queued, sizeof queued) ||
        setsockopt(*sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait))
        return "a packet socket cannot be used";
    if (n_ways > 1 && setsockopt(*sock, SOL_PACKET, PACKET_FANOUT, &by_queue, sizeof by_queue))
        return "no socket for each queue";
    return NULL;
}

const char *frames_start(unsigned n, unsigned n_of_ways)
{
    const char *error = NULL;
    depth = n;
    n_ways = n_of_ways < 1 ? 1 : n_of_ways > MAX_WAYS ? MAX_WAYS : n_of_ways;
    /* The kernel numbers a frame's queue from 1 on, and takes that socket of the group, modulo. */
    for (unsigned i = n_ways; i-- && !error;) {
        ways[i].index = i;
        error = open_socket(&ways[i].sock);
    }
    if (error)
        return error;
    for (; n_started < n_ways; n_started++) {
        Way *way = &ways[n_started];
        if (pthread_create(&way->thread, NULL, frames_work, way))
            return "no thread for frames";
    }
    return NULL;
}

void frames_stop(void)
{
    atomic_store(&stopping, true);
    while (n_started)
        pthread_join(ways[--n_started].thread, NULL);
}
