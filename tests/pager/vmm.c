/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See vmm.h. */
#include "tests/pager/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/pager/client.h"

enum { START = 1, CONFIG = 2, STATE = 3, COMPLETE = 5, ABANDON = 6, MEMORY_FD = 7, PAUSED = 8 };
enum { PAGE_FAULT = 9 };

#define MIB ((uint64_t)1 << 20)
#define STATE_JSON "{\"snapshots\": {\"device-manager\": {}}}"

const VmmSlot vmm_slot[VMM_SLOTS] = {
    {0, 0, 2 * MIB, 0},
    {3, (uint64_t)4 << 30, 2 * MIB, 2 * MIB},
    {7, (uint64_t)8 << 30, 8 * MIB, 0}, /* virtio-mem */
};
#define SLOT_PAGES 512u /* of the first two */

static void die(const char *what)
{
    fprintf(stderr, "vmm %d: %s: %s\n", getpid(), what, strerror(errno));
    _exit(3);
}

static void need(bool ok, const char *what)
{
    if (!ok) {
        die(what);
    }
}

/* ---- the snapshot ---------------------------------------------------------------------------- */

const char *vmm_config(void)
{
    return "{\"vm_config\": {\"cpus\": {\"boot_vcpus\": 2}, \"memory\": {\"size\": 4194304, "
           "\"shared\": true}}, \"common_cpuid\": [{\"function\": 2147483648, \"eax\": 1}],\n"
           "\"memory_manager_data\": {\"memory_ranges\": {\"data\": [{\"gpa\": 0, \"length\": "
           "2097152}]}, \"guest_ram_mappings\": [\n"
           "{\"slot\": 0, \"gpa\": 0, \"size\": 2097152, \"zone_id\": \"mem0\", \"virtio_mem\": "
           "false, \"file_offset\": 0},\n"
           "{\"slot\": 3, \"gpa\": 4294967296, \"size\": 2097152, \"zone_id\": \"mem0\", "
           "\"virtio_mem\": false, \"file_offset\": 2097152},\n"
           "{\"slot\": 7, \"gpa\": 8589934592, \"size\": 8388608, \"zone_id\": \"mem0\", "
           "\"virtio_mem\": true, \"file_offset\": 0}],\n"
           "\"start_of_device_area\": 68719476736, \"boot_ram\": 4194304, \"next_memory_slot\": "
           "8}}";
}

const char *vmm_state(void)
{
    return STATE_JSON;
}

void vmm_write_snapshot(const char *dir)
{
    g_autofree char *config = g_build_filename(dir, "migration_config.json", NULL);
    g_autofree char *state = g_build_filename(dir, "state.json", NULL);
    uint64_t words[VMM_PAGE / 8];

    g_assert_true(g_file_set_contents(config, vmm_config(), -1, NULL));
    g_assert_true(g_file_set_contents(state, STATE_JSON, -1, NULL));
    for (unsigned i = 0; i < VMM_SLOTS; i++) {
        g_autofree char *path = g_strdup_printf("%s/memory-%u", dir, vmm_slot[i].slot);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, (off_t)vmm_slot[i].size), ==, 0);
        for (unsigned k = 0; i < 2 && k < SLOT_PAGES; k++) {
            unsigned page = i * SLOT_PAGES + k;
            for (unsigned w = 0; w < G_N_ELEMENTS(words); w++) {
                words[w] = client_word(page, w);
            }
            if (!client_is_zero(page)) {
                g_assert_cmpint(pwrite(fd, words, sizeof(words), (off_t)k * VMM_PAGE), ==,
                                sizeof(words));
            }
        }
        close(fd);
    }
}

int vmm_listen(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 8), ==, 0);
    return fd;
}

/* ---- the protocol ---------------------------------------------------------------------------- */

static bool read_all(int fd, void *to, size_t len)
{
    return recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

void vmm_respond(int sock, unsigned status, uint64_t length)
{
    uint8_t bytes[16] = {(uint8_t)status};

    memcpy(bytes + 8, &length, sizeof(length)); /* this is little-endian as well */
    send(sock, bytes, sizeof(bytes), MSG_NOSIGNAL);
}

static void receive_memory(VmmPeer *p)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    uint32_t slot;
    struct stat st;
    struct iovec iov = {&slot, sizeof(slot)};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    int fd;

    need(recvmsg(p->control, &mh, MSG_CMSG_CLOEXEC) == sizeof(slot), "a slot");
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    need(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)), "one memfd");
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    for (unsigned i = 0; i < VMM_SLOTS; i++) {
        if (vmm_slot[i].slot == slot) {
            need(p->memory[i] < 0 && fstat(fd, &st) == 0 &&
                     st.st_size == (off_t)(vmm_slot[i].file_offset + vmm_slot[i].size),
                 "a slot twice, or a memfd of another size");
            p->memory[i] = fd;
            return;
        }
    }
    die("a slot that the guest does not have");
}

static void receive_text(VmmPeer *p, const char *text, uint64_t len)
{
    g_autofree char *found = g_malloc0(len + 1);

    need(len == strlen(text) && read_all(p->control, found, len) && !strcmp(found, text),
         "a text that is another one");
}

unsigned vmm_receive(VmmPeer *p)
{
    uint8_t bytes[16];
    uint16_t command;
    uint64_t len;

    if (!read_all(p->control, bytes, sizeof(bytes))) {
        return 0;
    }
    memcpy(&command, bytes, sizeof(command));
    memcpy(&len, bytes + 8, sizeof(len));
    switch (command) {
    case START:
        need(!bytes[2] && !bytes[3], "the protocol's version");
        break;
    case MEMORY_FD:
        need(len == 4, "MemoryFd's length");
        receive_memory(p);
        len = 0;
        break;
    case CONFIG:
        receive_text(p, vmm_config(), len);
        len = 0;
        break;
    case STATE:
        receive_text(p, STATE_JSON, len);
        len = 0;
        break;
    case COMPLETE:
    case PAUSED:
    case ABANDON:
        break;
    default:
        die("a command that is none");
    }
    need(!len, "a payload that is none");
    return command;
}

void vmm_accept_fault(VmmPeer *p)
{
    uint16_t role;

    p->fault = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    need(p->fault >= 0 && read_all(p->fault, &role, sizeof(role)) && role == 2,
         "the connection for pages");
}

static void begin(VmmPeer *p, int listener, bool own)
{
    *p = (VmmPeer){.listener = listener, .fault = -1, .memory = {-1, -1, -1}, .own = own};
    p->control = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    need(p->control >= 0, "accept");
}

void vmm_receive_to_state(VmmPeer *p, int listener, bool own)
{
    unsigned command, seen = 0;

    begin(p, listener, own);
    while ((command = vmm_receive(p)) != STATE) {
        need(command, "it has left");
        need(seen || command == START, "not Start first");
        if (command == CONFIG) {
            for (unsigned i = 0; i < VMM_SLOTS; i++) {
                need(own ? p->memory[i] < 0 : p->memory[i] >= 0, "Config before all memory");
            }
        }
        need(command == START || command == MEMORY_FD || command == CONFIG, "not in order");
        seen = command;
        vmm_respond(p->control, 1, 0);
    }
    need(seen == CONFIG, "State before Config");
    vmm_accept_fault(p);
}

void vmm_receive_all(VmmPeer *p, int listener, bool own)
{
    vmm_receive_to_state(p, listener, own);
    vmm_respond(p->control, 1, 0);
}

void vmm_peer_clear(VmmPeer *p)
{
    for (unsigned i = 0; i < VMM_SLOTS; i++) {
        if (p->memory[i] >= 0) {
            close(p->memory[i]);
        }
    }
    if (p->fault >= 0) {
        close(p->fault);
    }
    if (p->control >= 0) {
        close(p->control);
    }
}

bool vmm_ask(int sock, unsigned command, uint64_t payload, uint64_t gpa, uint64_t length)
{
    uint64_t words[4] = {command, payload, gpa, length};

    return send(sock, words, sizeof(words), MSG_NOSIGNAL) == sizeof(words);
}

bool vmm_read_answer(int sock)
{
    uint64_t words[2];

    return read_all(sock, words, sizeof(words)) && words[0] == 1 && words[1] == 0;
}

bool vmm_read_page(int sock, void *data, uint64_t length)
{
    uint64_t words[2];

    return read_all(sock, words, sizeof(words)) && words[0] == 1 && words[1] == length &&
           read_all(sock, data, length);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What a page must hold. NOBODY: it was given back before anybody has seen it. */
typedef enum { ORIGINAL, ZEROS, NOBODY } Base;

typedef struct {
    Base base;
    bool seen;
    uint64_t written; /* its first word; 0: as in the base */
} Holds;

typedef struct {
    const VmmPlan *plan;
    VmmPeer peer;
    char *mem[VMM_SLOTS];
    int uffd;
    char *page; /* of the handler: what an answer has */
    pthread_t handler;
    unsigned asked;         /* atomic. Observer: the thread that waits for the first one */
    Holds holds[VMM_PAGES]; /* of each its vCPU */
} Vmm;

typedef struct {
    Vmm *v;
    unsigned number;
    uint32_t random;
    pthread_t thread;
} Vcpu;

static char *page_at(const Vmm *v, unsigned page)
{
    return v->mem[page / SLOT_PAGES] + (uint64_t)(page % SLOT_PAGES) * VMM_PAGE;
}

static uint64_t expected(unsigned page, unsigned word, Base base)
{
    return base == ZEROS || client_is_zero(page) ? 0 : client_word(page, word);
}

static void check(Vmm *v, unsigned page)
{
    const volatile uint64_t *words = (const volatile uint64_t *)page_at(v, page);
    Holds *h = &v->holds[page];

    h->seen = true;
    if (h->base == NOBODY) {
        h->base = words[1] ? ORIGINAL : ZEROS;
    }
    for (unsigned i = 0; i < VMM_PAGE / 8; i++) {
        uint64_t want = i == 0 && h->written ? h->written : expected(page, i, h->base);
        uint64_t found = words[i];
        if (found != want) {
            fprintf(stderr, "vmm %d: page %u word %u is %llx, not %llx%s\n", getpid(), page, i,
                    (unsigned long long)found, (unsigned long long)want,
                    found == expected(page, i, ORIGINAL) ? ": that is its old content"
                    : !found                             ? ": zeros"
                                                         : "");
            _exit(2);
        }
    }
}

static void write_page(Vcpu *c, unsigned page)
{
    check(c->v, page);
    c->v->holds[page].written = (uint64_t)rand_r(&c->random) << 20 | 1;
    *(volatile uint64_t *)page_at(c->v, page) = c->v->holds[page].written;
}

/* As virtio-devices/src/balloon.rs does. What is its own, it asks for once more, as long as it has
 * a handler: nobody knows that it was given back. */
static void give_back(Vmm *v, unsigned page)
{
    unsigned i = page / SLOT_PAGES;
    Holds *h = &v->holds[page];
    off_t at = (off_t)(vmm_slot[i].file_offset + (uint64_t)(page % SLOT_PAGES) * VMM_PAGE);

    need((v->plan->flags & VMM_OWN ||
          fallocate(v->peer.memory[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, VMM_PAGE) ==
              0) &&
             madvise(page_at(v, page), VMM_PAGE, MADV_DONTNEED) == 0,
         "giving back");
    h->base = h->seen && !(v->plan->flags & VMM_OWN) ? ZEROS : NOBODY;
    h->written = 0;
}

static void *run_vcpu(void *opaque)
{
    Vcpu *c = opaque;
    Vmm *v = c->v;
    unsigned n = v->plan->vcpus;

    for (unsigned i = 0; i < v->plan->ops; i++) {
        unsigned page = (unsigned)rand_r(&c->random) % (VMM_PAGES / n) * n + c->number;
        unsigned op = (unsigned)rand_r(&c->random) % 4;
        if (op == 3 && v->plan->flags & VMM_BALLOON) {
            /* One that was read, or not. */
            give_back(v, page);
        } else if (op >= 2) {
            write_page(c, page);
        } else {
            check(v, page);
        }
    }
    for (unsigned page = c->number; page < VMM_PAGES; page += n) {
        check(v, page);
    }
    return NULL;
}

/* ---- the handler ----------------------------------------------------------------------------- */

static uint64_t fault_size(const Vmm *v)
{
    return v->plan->flags & VMM_LARGE ? 2 * MIB : VMM_PAGE;
}

/* UFFDIO_COPY, as of memory that is its own. FALSE: again. */
static bool resolve_own(Vmm *v, unsigned slot, uint64_t offset)
{
    uint64_t len = fault_size(v);
    struct uffdio_copy c = {
        .dst = (uintptr_t)v->mem[slot] + offset, .src = (uintptr_t)v->page, .len = len};
    struct uffdio_range range = {c.dst, len};

    need(vmm_ask(v->peer.fault, PAGE_FAULT, 16, vmm_slot[slot].gpa + offset, len), "asking");
    __atomic_add_fetch(&v->asked, 1, __ATOMIC_SEQ_CST);
    need(vmm_read_page(v->peer.fault, v->page, len), "the answer");
    if (ioctl(v->uffd, UFFDIO_COPY, &c) == 0) {
        return true;
    }
    need(errno == EEXIST || errno == EAGAIN, "UFFDIO_COPY");
    if (errno == EEXIST) {
        need(ioctl(v->uffd, UFFDIO_WAKE, &range) == 0, "UFFDIO_WAKE");
        return true;
    }
    return false;
}

/* Once: FALSE, again. */
static bool resolve_once(Vmm *v, unsigned slot, uint64_t offset)
{
    uint64_t len = fault_size(v);
    struct uffdio_continue c = {.range = {(uintptr_t)v->mem[slot] + offset, len}};

    need(vmm_ask(v->peer.fault, PAGE_FAULT, 16, vmm_slot[slot].gpa + offset, len), "asking");
    __atomic_add_fetch(&v->asked, 1, __ATOMIC_SEQ_CST);
    need(vmm_read_answer(v->peer.fault), "the answer");
    if (!(v->plan->flags & VMM_OLD) && ioctl(v->uffd, UFFDIO_CONTINUE, &c) == 0) {
        return true;
    }
    if (v->plan->flags & VMM_OLD || errno == EEXIST) {
        need(ioctl(v->uffd, UFFDIO_WAKE, &c.range) == 0, "UFFDIO_WAKE");
        return true;
    }
    /* Given back between the answer and this, by another thread: Cloud Hypervisor would end. */
    need(errno == EAGAIN || (errno == EFAULT && v->plan->flags & VMM_BALLOON), "UFFDIO_CONTINUE");
    return false;
}

static void resolve(Vmm *v, unsigned slot, uint64_t offset)
{
    while (v->plan->flags & VMM_OWN ? !resolve_own(v, slot, offset)
                                    : !resolve_once(v, slot, offset)) {
    }
}

static void resolve_fault(Vmm *v)
{
    struct uffd_msg msg;

    if (read(v->uffd, &msg, sizeof(msg)) != sizeof(msg)) {
        need(errno == EAGAIN, "reading a fault");
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        uint64_t at = msg.arg.pagefault.address - (uintptr_t)v->mem[i];
        if (at < vmm_slot[i].size) {
            resolve(v, i, at & ~(fault_size(v) - 1));
            return;
        }
    }
    die("a fault elsewhere");
}

static void *run_handler(void *opaque)
{
    Vmm *v = opaque;
    bool prefaults = v->plan->flags & VMM_PREFAULTS;
    unsigned slot = 0;
    uint64_t offset = 0;

    for (;;) {
        struct pollfd pfd = {.fd = v->uffd, .events = POLLIN};
        if (poll(&pfd, 1, prefaults ? 0 : -1) == 1) {
            resolve_fault(v);
            continue;
        }
        if (slot == 2) {
            /* It has all: the connection and the userfaultfd are closed. */
            shutdown(v->peer.fault, SHUT_RDWR);
            close(v->uffd);
            return NULL;
        }
        resolve(v, slot, offset);
        offset += fault_size(v);
        if (offset == vmm_slot[slot].size) {
            slot++;
            offset = 0;
        }
    }
}

static char *map_slot(const Vmm *v, unsigned i)
{
    const VmmSlot *s = &vmm_slot[i];
    char *room = mmap(NULL, s->size + 2 * MIB, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    need(room != MAP_FAILED, "mmap");
    room = (char *)(((uintptr_t)room + 2 * MIB - 1) & ~(2 * MIB - 1));
    if (v->plan->flags & VMM_OWN) {
        need(mprotect(room, s->size, PROT_READ | PROT_WRITE) == 0, "mprotect");
        return room;
    }
    need(mmap(room, s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, v->peer.memory[i],
              (off_t)s->file_offset) == room,
         "mmap of a memfd");
    return room;
}

static void start_serving(Vmm *v)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM};
    uint64_t minor = v->plan->flags & (VMM_OLD | VMM_OWN) ? 0 : UFFDIO_REGISTER_MODE_MINOR;

    v->page = g_malloc(2 * MIB);
    v->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    need(v->uffd >= 0 && ioctl(v->uffd, UFFDIO_API, &api) == 0, "userfaultfd");
    for (unsigned i = 0; i < 2; i++) {
        struct uffdio_register r = {.range = {(uintptr_t)v->mem[i], vmm_slot[i].size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | minor};
        need(ioctl(v->uffd, UFFDIO_REGISTER, &r) == 0, "UFFDIO_REGISTER");
    }
    need(pthread_create(&v->handler, NULL, run_handler, v) == 0, "a thread");
}

/* ---- the process ----------------------------------------------------------------------------- */

static void *run_missing(void *opaque)
{
    check(opaque, VMM_PAGES - 7);
    die("a page that nobody has given");
    return NULL;
}

static void freeze(Vmm *v)
{
    pthread_t t;
    char byte;
    unsigned asked = __atomic_load_n(&v->asked, __ATOMIC_SEQ_CST);

    need(read(v->plan->go, &byte, 1) == 1, "go");
    need(pthread_create(&t, NULL, run_missing, v) == 0, "a thread");
    while (__atomic_load_n(&v->asked, __ATOMIC_SEQ_CST) == asked) {
        sched_yield();
    }
    /* The handler waits as well, and there is nothing for either. */
    need(recv(v->peer.fault, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN,
         "there is an answer, or an end");
    _exit(VMM_FROZEN);
}

static void run_guest(Vmm *v)
{
    g_autofree Vcpu *c = g_new0(Vcpu, v->plan->vcpus);
    struct stat st;

    for (unsigned i = 0; i < v->plan->vcpus; i++) {
        c[i] = (Vcpu){.v = v, .number = i, .random = v->plan->seed * 31 + i};
        need(pthread_create(&c[i].thread, NULL, run_vcpu, &c[i]) == 0, "a thread");
    }
    for (unsigned i = 0; i < v->plan->vcpus; i++) {
        pthread_join(c[i].thread, NULL);
    }
    if (v->plan->flags & VMM_PREFAULTS) {
        pthread_join(v->handler, NULL);
    }
    need(v->plan->flags & VMM_OWN || (fstat(v->peer.memory[2], &st) == 0 && st.st_blocks == 0),
         "memory that is not plugged in costs some");
}

static void run(const VmmPlan *plan)
{
    Vmm *v = g_new0(Vmm, 1);

    v->plan = plan;
    vmm_receive_to_state(&v->peer, plan->listener, plan->flags & VMM_OWN);
    for (unsigned i = 0; i < VMM_SLOTS; i++) {
        v->mem[i] = map_slot(v, i);
    }
    if (plan->flags & VMM_PRECOPY) {
        close(v->peer.fault);
        v->peer.fault = -1;
    } else {
        start_serving(v);
        check(v, 5); /* a device that is restored */
    }
    vmm_respond(v->peer.control, 1, 0);
    unsigned command = vmm_receive(&v->peer);
    if (command == ABANDON) {
        vmm_respond(v->peer.control, 1, 0);
        _exit(VMM_ABANDONED);
    }
    need(command == (plan->expects_paused ? PAUSED : COMPLETE), "not what was expected");
    vmm_respond(v->peer.control, 1, 0);
    if (plan->flags & VMM_FREEZES) {
        freeze(v);
    }
    run_guest(v);
    _exit(0);
}

pid_t vmm_start(const VmmPlan *plan)
{
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(plan);
    }
    return pid;
}
