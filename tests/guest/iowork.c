/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test guest's disk and network; see iowork.h.
 *
 * Disk: for each block the version that it must hold is kept in memory. A step reads a block and
 * compares all of it, then writes the next version. Buffered blocks are written out and dropped
 * from the page cache in batches, so that they, too, are read back from the disk.
 *
 * Network: a message of numbered pseudo-random words goes out, the same must come back. TCP
 * repeats what is lost, so a connection that ends, or brings anything else, is an error: the guest
 * was moved wrongly.
 *
 * Threads: disk_work, net_work. Counters are atomics.
 */
#include "iowork.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BLOCK = 16 << 10,
    WORDS = BLOCK / 8,
    BLOCKS = 1024, /* 16 MiB of disk, half of it with O_DIRECT */
    BATCH = 64,    /* buffered writes between two fsyncs */
    MESSAGE = 512  /* words */
};

static _Atomic uint64_t disk_good, net_good, bad;
static uint32_t versions[BLOCKS]; /* 0: never written */
static int direct_fd, buffered_fd, net_fd;
static pthread_t disk_thread;
static bool disk_started;
static _Atomic bool disk_stopping;

IoCounts io_counts(void)
{
    return (IoCounts){
        .disk = atomic_load(&disk_good), .net = atomic_load(&net_good), .bad = atomic_load(&bad)};
}

static void complain(const char *what, uint64_t where)
{
    char text[128];
    int n = snprintf(text, sizeof text, "FF bad %s at=%llu errno=%d\n", what,
                     (unsigned long long)where, errno);
    if (atomic_fetch_add(&bad, 1) < 10 && write(STDOUT_FILENO, text, n) < 0)
        return;
}

static uint64_t next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void fill(uint64_t *words, unsigned n, uint64_t key)
{
    for (unsigned i = 0; i < n; i++)
        words[i] = next(&key);
}

static uint64_t block_key(unsigned block)
{
    return (uint64_t)block << 32 | versions[block];
}

static void disk_step(unsigned block, uint64_t *have, uint64_t *want)
{
    int fd = block < BLOCKS / 2 ? direct_fd : buffered_fd;
    off_t at = (off_t)block * BLOCK;
    if (versions[block]) {
        fill(want, WORDS, block_key(block));
        if (pread(fd, have, BLOCK, at) != BLOCK)
            complain("disk-read", block);
        else if (memcmp(have, want, BLOCK))
            complain(fd == direct_fd ? "direct-block" : "buffered-block", block);
        else
            atomic_fetch_add(&disk_good, 1);
    }
    versions[block]++;
    fill(want, WORDS, block_key(block));
    if (pwrite(fd, want, BLOCK, at) != BLOCK)
        complain("disk-write", block);
}

static void *disk_work(void *arg)
{
    uint64_t *have, *want, rng = 1;
    (void)arg;
    if (posix_memalign((void **)&have, 4096, BLOCK) || posix_memalign((void **)&want, 4096, BLOCK))
        abort();
    for (unsigned n = 1; !atomic_load(&disk_stopping); n++) {
        disk_step(next(&rng) % BLOCKS, have, want);
        if (n % BATCH == 0) {
            if (fdatasync(buffered_fd))
                complain("disk-sync", n);
            posix_fadvise(buffered_fd, 0, 0, POSIX_FADV_DONTNEED);
        }
        usleep(1000); /* a load, not a benchmark: the memory's workers need the CPU, too */
    }
    return NULL;
}

/* All of a message, in or out. */
static bool transfer(bool out, void *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = out ? send(net_fd, (char *)data + done, length - done, MSG_NOSIGNAL)
                        : recv(net_fd, (char *)data + done, length - done, 0);
        if (n <= 0)
            return false;
        done += n;
    }
    return true;
}

static void *net_work(void *arg)
{
    static uint64_t sent[MESSAGE], came[MESSAGE];
    (void)arg;
    for (uint64_t number = 1;; number++) {
        fill(sent, MESSAGE, number << 20);
        if (!transfer(true, sent, sizeof sent) || !transfer(false, came, sizeof came)) {
            complain("connection", number);
            return NULL;
        }
        if (memcmp(sent, came, sizeof sent))
            complain("message", number);
        else
            atomic_fetch_add(&net_good, 1);
        usleep(1000);
    }
    return NULL;
}

void io_load_modules(void)
{
    static const char *const names[] = {
        "virtio_ring",           "virtio",     "virtio_pci_legacy_dev",
        "virtio_pci_modern_dev", "virtio_pci", "failover",
        "net_failover",          "virtio_blk", "virtio_net",
        "virtio_balloon",        "virtio_mem", "virtio_console",
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "/modules/%s.ko", names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        /* What is missing or built in shows by the device being there or not. */
        if (fd >= 0) {
            syscall(SYS_finit_module, fd, "", 0);
            close(fd);
        }
    }
}

static const char *set_up_address(int fd)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = inet_addr("10.199.7.100");
    if (ioctl(fd, SIOCSIFADDR, &request))
        return "no eth0: give the guest a virtio-net device";
    address->sin_addr.s_addr = inet_addr("255.255.255.0");
    ioctl(fd, SIOCSIFNETMASK, &request);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request) ? "eth0 does not come up" : NULL;
}

static const char *start_net(unsigned port)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    pthread_t thread;
    net_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char *error = net_fd < 0 ? "no TCP in this kernel" : set_up_address(net_fd);
    if (error)
        return error;
    server.sin_addr.s_addr = inet_addr("10.199.7.1");
    if (connect(net_fd, (struct sockaddr *)&server, sizeof server))
        return "cannot connect to the echo server at 10.199.7.1";
    return pthread_create(&thread, NULL, net_work, NULL) ? "no thread for the network" : NULL;
}

static const char *start_disk(void)
{
    direct_fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    buffered_fd = open("/dev/vda", O_RDWR | O_CLOEXEC);
    if (direct_fd < 0 || buffered_fd < 0)
        return "no /dev/vda: give the guest a virtio-blk device";
    if (lseek(direct_fd, 0, SEEK_END) < (off_t)BLOCKS * BLOCK)
        return "/dev/vda is smaller than 16 MiB";
    disk_started = !pthread_create(&disk_thread, NULL, disk_work, NULL);
    return disk_started ? NULL : "no thread for the disk";
}

void io_stop_disk(void)
{
    atomic_store(&disk_stopping, true);
    if (disk_started)
        pthread_join(disk_thread, NULL);
}

const char *io_start(bool disk, unsigned port)
{
    const char *error = NULL;
    if (disk)
        error = start_disk();
    return error || !port ? error : start_net(port);
}
