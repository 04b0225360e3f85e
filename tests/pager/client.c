/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See client.h. */
#include "tests/pager/client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE ((uint64_t)2 << 20)
#define REGIONS_MAX 8
/* What a page must hold: as in the file, zeros, or what was written the Nth time. */
#define ORIGINAL 0u
#define ZEROS 1u

typedef struct {
    const ClientPlan *plan;
    char *mem[REGIONS_MAX];
    unsigned first[REGIONS_MAX + 1]; /* page */
    uint32_t *holds;                 /* by page */
    uint64_t ps;
    int uffd;
} Client;

typedef struct {
    Client *c;
    unsigned number, first, n; /* its pages, all of one region */
    char *scratch;             /* n pages of address space */
    uint32_t random;
    uint32_t version;
} Vcpu;

static void die(const char *what)
{
    fprintf(stderr, "client %d: %s: %s\n", getpid(), what, strerror(errno));
    _exit(3);
}

static void need(bool ok, const char *what)
{
    if (!ok) {
        die(what);
    }
}

uint64_t client_page_size(ClientKind kind)
{
    return kind == CLIENT_HUGETLB ? HUGE : 4096;
}

bool client_is_zero(unsigned page)
{
    return page % 7 == 3;
}

uint64_t client_word(unsigned page, unsigned word)
{
    return ((uint64_t)(page + 1) << 32 | (word + 1)) * 0x9e3779b97f4a7c15ull;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t expected(unsigned page, unsigned word, uint32_t holds)
{
    if (holds == ORIGINAL) {
        return client_is_zero(page) ? 0 : client_word(page, word);
    }
    return holds == ZEROS ? 0 : client_word(page, word) ^ ((uint64_t)holds << 17 | 1);
}

/* All words of a small page; of a huge one some in each 4 KiB. */
static unsigned stride(const Client *c)
{
    return c->ps == HUGE ? 61 : 1;
}

static void check(const Client *c, unsigned page, const char *at, uint32_t holds)
{
    const volatile uint64_t *words = (const volatile uint64_t *)at;

    for (unsigned i = 0; i < c->ps / 8; i += stride(c)) {
        uint64_t found = words[i];
        if (found != expected(page, i, holds)) {
            fprintf(stderr, "client %d: page %u word %u is %llx, not %llx (it holds %u)%s\n",
                    getpid(), page, i, (unsigned long long)found,
                    (unsigned long long)expected(page, i, holds), holds,
                    found == expected(page, i, ORIGINAL) ? ": that is its old content"
                    : !found                             ? ": zeros"
                                                         : "");
            _exit(2);
        }
    }
}

static void fill(const Client *c, unsigned page, char *at, uint32_t holds)
{
    uint64_t *words = (uint64_t *)at;

    for (unsigned i = 0; i < c->ps / 8; i++) {
        words[i] = expected(page, i, holds);
    }
}

static char *page_at(const Client *c, unsigned page)
{
    unsigned r = 0;

    while (page >= c->first[r + 1]) {
        r++;
    }
    return c->mem[r] + (page - c->first[r]) * c->ps;
}

static char *aligned_room(uint64_t len)
{
    char *p = mmap(NULL, len + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    need(p != MAP_FAILED, "mmap");
    return (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
}

static char *map_region(ClientKind kind, uint64_t len)
{
    int flags = MAP_FIXED, fd = -1;

    if (kind == CLIENT_SHMEM) {
        fd = memfd_create("guest", MFD_CLOEXEC);
        need(fd >= 0 && ftruncate(fd, (off_t)len) == 0, "memfd");
        flags |= MAP_SHARED;
    } else {
        flags |= MAP_PRIVATE | MAP_ANONYMOUS | (kind == CLIENT_HUGETLB ? MAP_HUGETLB : 0);
    }
    char *p = mmap(aligned_room(len), len, PROT_READ | PROT_WRITE, flags, fd, 0);
    need(p != MAP_FAILED, "mmap of guest memory");
    if (kind == CLIENT_ANON) {
        madvise(p, len, MADV_NOHUGEPAGE);
    }
    return p;
}

static void make_memory(Client *c)
{
    const ClientPlan *p = c->plan;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};

    if (p->flags & CLIENT_MOVES) {
        api.features |= UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;
    }
    if (p->flags & (CLIENT_FORKS | CLIENT_LEAVES)) {
        api.features |= UFFD_FEATURE_EVENT_FORK;
    }
    c->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    need(c->uffd >= 0 && ioctl(c->uffd, UFFDIO_API, &api) == 0, "userfaultfd");
    for (unsigned r = 0; r < p->regions; r++) {
        c->first[r] = p->pages / p->regions * r;
        c->first[r + 1] = r + 1 == p->regions ? p->pages : p->pages / p->regions * (r + 1);
        uint64_t len = (c->first[r + 1] - c->first[r]) * c->ps;
        c->mem[r] = map_region(p->kind, len);
        struct uffdio_register reg = {.range = {(uintptr_t)c->mem[r], len},
                                      .mode = UFFDIO_REGISTER_MODE_MISSING};
        need(ioctl(c->uffd, UFFDIO_REGISTER, &reg) == 0, "UFFDIO_REGISTER");
    }
    c->holds = calloc(p->pages, sizeof(*c->holds));
}

/* ---- the message ----------------------------------------------------------------------------- */

bool client_send(int sock, const char *text, size_t len, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)text, len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        mh.msg_control = &control;
        mh.msg_controllen = sizeof(control);
        struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cm), &fd, sizeof(fd));
    }
    return sendmsg(sock, &mh, MSG_NOSIGNAL) == (ssize_t)len;
}

static void hand_over(const Client *c)
{
    const ClientPlan *p = c->plan;
    char text[4096];
    size_t len = 0;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    for (unsigned r = 0; r < p->regions; r++) {
        len += snprintf(text + len, sizeof(text) - len,
                        "%s{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,%s"
                        "\"page_size_kib\":%llu}",
                        r ? "," : "[", (unsigned long long)(uintptr_t)c->mem[r],
                        (unsigned long long)((c->first[r + 1] - c->first[r]) * c->ps),
                        (unsigned long long)(c->first[r] * c->ps),
                        p->flags & CLIENT_OLD       ? ""
                        : p->kind == CLIENT_HUGETLB ? "\"page_size\":2097152,"
                                                    : "\"page_size\":4096,",
                        (unsigned long long)c->ps);
    }
    len += snprintf(text + len, sizeof(text) - len, "]");
    strncpy(addr.sun_path, p->socket, sizeof(addr.sun_path) - 1);
    need(connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0, "connect");
    if (p->flags & CLIENT_SPLIT) {
        need(client_send(sock, text, 10, -1), "sendmsg");
        need(client_send(sock, text + 10, len - 11, -1), "sendmsg");
        need(client_send(sock, text + len - 1, 1, c->uffd), "sendmsg");
    } else {
        need(client_send(sock, text, len, c->uffd), "sendmsg");
    }
    /* The socket, and our userfaultfd, stay open until the end, as Firecracker's. */
}

/* ---- vCPUs ----------------------------------------------------------------------------------- */

static uint32_t roll(Vcpu *v, uint32_t below)
{
    v->random = v->random * 1664525 + 1013904223;
    return (v->random >> 8) % below;
}

static void balloon(Vcpu *v, unsigned page, unsigned n)
{
    Client *c = v->c;
    int advice = c->plan->kind == CLIENT_SHMEM ? MADV_REMOVE : MADV_DONTNEED;
    int rc;

    do {
        rc = madvise(page_at(c, page), n * c->ps, advice);
    } while (rc < 0 && errno == EAGAIN);
    need(rc == 0, "madvise");
    for (unsigned i = 0; i < n; i++) {
        c->holds[page + i] = ZEROS;
    }
}

/* There and back, and a look at it there. */
static void move(Vcpu *v, unsigned page, unsigned n)
{
    Client *c = v->c;
    char *home = page_at(c, page), *away = v->scratch + (page - v->first) * c->ps;
    uint64_t len = n * c->ps;

    void *moved = mremap(home, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, away);
    if (moved == MAP_FAILED && errno == EFAULT && n > 1) {
        /* More than one mapping: what has moved, or was there at a fork, may not become one again.
         */
        move(v, page, 1);
        return;
    }
    need(moved == away, "mremap");
    unsigned some = roll(v, n);
    check(c, page + some, away + some * c->ps, c->holds[page + some]);
    need(mremap(away, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, home) == home, "mremap back");
}

/* The child has what its parent had at that moment. It has no other threads. */
static void fork_one(Vcpu *v)
{
    Client *c = v->c;
    pid_t pid = fork();

    need(pid >= 0, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned i = v->number % 3; i < v->n; i += 1 + v->n / 16) {
            check(c, v->first + i, page_at(c, v->first + i), c->holds[v->first + i]);
        }
        /* Of shared memory what it gives back its parent has lost as well. */
        unsigned page = v->first + v->n - 1;
        if (c->plan->kind != CLIENT_SHMEM) {
            balloon(v, page, 1);
            check(c, page, page_at(c, page), ZEROS);
        }
        _exit(0);
    }
    int status;
    if (c->plan->kind != CLIENT_SHMEM && roll(v, 2)) {
        /* Both change. */
        balloon(v, v->first, 1 + roll(v, v->n / 4 + 1));
    }
    need(waitpid(pid, &status, 0) == pid, "waitpid");
    if (status) {
        fprintf(stderr, "client %d: its child has ended with %x\n", getpid(), status);
        _exit(2);
    }
}

static void act(Vcpu *v)
{
    Client *c = v->c;
    unsigned at = roll(v, v->n), page = v->first + at, what = roll(v, 100);
    unsigned n = 1 + roll(v, v->n - at < 16 ? v->n - at : 16);

    if (what < 8 && c->plan->flags & CLIENT_BALLOON) {
        balloon(v, page, n);
    } else if (what < 16 && c->plan->flags & CLIENT_MOVES) {
        move(v, page, n);
    } else if (what < 17 && c->plan->flags & CLIENT_FORKS) {
        fork_one(v);
    } else if (what < 40) {
        uint32_t holds = 2 + v->version++;
        fill(c, page, page_at(c, page), holds);
        c->holds[page] = holds;
    } else {
        check(c, page, page_at(c, page), c->holds[page]);
    }
}

static void *run_vcpu(void *p)
{
    Vcpu *v = p;

    for (unsigned i = 0; i < v->c->plan->ops; i++) {
        act(v);
    }
    return NULL;
}

static void read_all(const Client *c)
{
    for (unsigned i = 0; i < c->plan->pages; i++) {
        check(c, i, page_at(c, i), c->holds[i]);
    }
}

static void *read_one(void *p)
{
    const volatile uint64_t *word = p;

    return (void *)(uintptr_t)*word;
}

static void read_at_once(const Client *c)
{
    pthread_t *thread = calloc(c->plan->pages, sizeof(*thread));
    pthread_attr_t small;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    for (unsigned i = 0; i < c->plan->pages; i++) {
        need(pthread_create(&thread[i], &small, read_one, page_at(c, i)) == 0, "pthread_create");
    }
    for (unsigned i = 0; i < c->plan->pages; i++) {
        pthread_join(thread[i], NULL);
    }
    free(thread);
}

/* Nobody else reads the userfaultfd any more, so a fault stays there. */
static void *watch_fault(void *p)
{
    struct pollfd pfd = {.fd = ((Client *)p)->uffd, .events = POLLIN};

    need(poll(&pfd, 1, -1) == 1 && pfd.revents == POLLIN, "poll");
    _exit(CLIENT_FROZEN);
}

static int run(const ClientPlan *plan)
{
    Client c = {.plan = plan, .ps = client_page_size(plan->kind)};
    Vcpu v[64];
    pthread_t thread[64];
    char byte;

    make_memory(&c);
    unsigned per_region = plan->vcpus / plan->regions ? plan->vcpus / plan->regions : 1;
    unsigned n = 0;
    for (unsigned r = 0; r < plan->regions; r++) {
        unsigned pages = (c.first[r + 1] - c.first[r]) / per_region;
        for (unsigned i = 0; i < per_region; i++, n++) {
            v[n] = (Vcpu){&c, n, c.first[r] + i * pages, pages, .random = plan->seed * 77 + n};
            v[n].scratch = aligned_room(pages * c.ps);
        }
    }
    hand_over(&c);
    if (plan->flags & CLIENT_WAITS_FIRST) {
        need(read(plan->go, &byte, 1) == 1, "read");
    }
    for (unsigned i = 0; i < n; i++) {
        need(pthread_create(&thread[i], NULL, run_vcpu, &v[i]) == 0, "pthread_create");
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
    }
    if (plan->flags & CLIENT_LEAVES && fork() > 0) {
        _exit(0);
    }
    if (plan->flags & CLIENT_WAITS) {
        need(read(plan->go, &byte, 1) == 1, "read");
    }
    if (plan->flags & CLIENT_FREEZES) {
        need(pthread_create(&thread[0], NULL, watch_fault, &c) == 0, "pthread_create");
    }
    if (plan->flags & CLIENT_READS_AT_ONCE) {
        read_at_once(&c);
    }
    if (plan->flags & (CLIENT_READS_ALL | CLIENT_WAITS)) {
        read_all(&c);
    }
    if (plan->flags & CLIENT_LEAVES) {
        need(write(plan->go, "r", 1) == 1, "write");
    }
    return 0;
}

pid_t client_start(const ClientPlan *plan)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(run(plan));
    }
    return pid;
}
