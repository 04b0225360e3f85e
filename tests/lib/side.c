/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See side.h. The VMM's threads: inner (device state), touchers (vCPUs). */
#include "tests/lib/side.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "contract/state.h"

#define HUGE (2ull << 20)

uint64_t side_word(unsigned block, uint64_t page)
{
    return (block + 1) * 0x9E3779B97F4A7C15ull ^ page * 0xC2B2AE3D27D4EB4Full;
}

bool side_page_is_zero(uint64_t page)
{
    return page % 7 == 3;
}

static Side *of_run(FfVmmRun *run)
{
    return (Side *)ff_vmm_of_run(run);
}

static Side *of_memory(FfVmmMemory *memory)
{
    return (Side *)ff_vmm_of_memory(memory);
}

Side *side_of(FfVmmState *state)
{
    return (Side *)ff_vmm_of_state(state);
}

static FfGuestFit vmm_check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                            GError **error)
{
    memset(uuid, 7, 16);
    *blocks = of_memory(memory)->blocks;
    return FF_GUEST_FITS;
}

static GPtrArray *vmm_blocks(FfVmmMemory *memory)
{
    return of_memory(memory)->blocks;
}

static bool vmm_prepare(FfVmmState *state, FfRole role, GError **error)
{
    Side *s = side_of(state);

    if (s->refuse_prepare) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "it takes no settings");
        return false;
    }
    if (s->settings) {
        s->settings(s, true);
    }
    return true;
}

/* ---- vCPUs that write ------------------------------------------------------------------------ */

typedef struct {
    Side *s;
    unsigned index;
} Writer;

/* Not instrumented: the engine reads guest memory while the guest writes, by design. */
__attribute__((no_sanitize("thread"))) static void write_page(uint64_t *w, uint64_t value)
{
    for (unsigned i = 0; i < PAGE / 8; i++) {
        w[i] = value;
    }
}

static gpointer write_memory(gpointer p)
{
    g_autofree Writer *t = p;
    Side *s = t->s;
    uint64_t x = t->index * 77777 + 1;

    while (g_atomic_int_get(&s->runs)) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        unsigned b = (x >> 33) % s->blocks->len;
        const FfRamBlock *block = s->blocks->pdata[b];
        uint64_t page = (x >> 35) % (block->size / PAGE);
        if ((x >> 20) % 64 == 0) {
            /* A balloon. What such a page holds until it is written again is nobody's business, and
             * tracking does not see it go; the write must be seen. */
            fallocate(block->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * PAGE, PAGE);
        }
        write_page((uint64_t *)(s->map[b] + page * PAGE), (x >> 23) % 8 ? x : 0);
        if (s->rest_us) {
            g_usleep(s->rest_us); /* the guest's own pace, nothing is waited for */
        }
    }
    return NULL;
}

static void join_writers(Side *s)
{
    g_atomic_int_set(&s->runs, 0);
    for (unsigned i = 0; i < s->writes; i++) {
        if (s->writers[i]) {
            g_thread_join(g_steal_pointer(&s->writers[i]));
        }
    }
}

void side_run(Side *s)
{
    g_atomic_int_set(&s->runs, 1);
    for (unsigned i = 0; i < s->writes; i++) {
        Writer *t = g_new(Writer, 1);
        *t = (Writer){s, i};
        s->writers[i] = g_thread_new("vcpu", write_memory, t);
    }
}

static bool vmm_stop(FfVmmRun *run, char **run_state, GError **error)
{
    *run_state = g_strdup(of_run(run)->paused ? "paused" : "running");
    join_writers(of_run(run));
    if (of_run(run)->stopped) {
        of_run(run)->stopped(of_run(run));
    }
    return true;
}

static bool vmm_stands(FfVmmRun *run, GError **error)
{
    Side *s = of_run(run);

    if (s->stands && !s->stands(s)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the guest does not stand");
        return false;
    }
    return true;
}

static bool vmm_drain(FfVmmMemory *memory, GError **error)
{
    Side *s = of_memory(memory);

    return !s->drain || s->drain(error);
}

static size_t device_bytes(const Side *s)
{
    return s->lenient ? SIDE_LENIENT_BYTES : DEVICE_BYTES;
}

/* The source's QEMU: says its device state, then waits for SHUT. */
static gpointer inner_source(gpointer p)
{
    Side *s = p;
    size_t bytes = device_bytes(s);
    g_autofree char *buf = g_malloc(bytes);
    uint8_t shut[8];

    for (size_t i = 0; i < bytes; i++) {
        buf[i] = i * 31;
    }
    for (size_t at = 0; at < bytes;) {
        ssize_t n = send(s->inner_peer, buf + at, bytes - at, MSG_NOSIGNAL);
        if (n <= 0) {
            return NULL;
        }
        at += n;
    }
    if (recv(s->inner_peer, shut, sizeof(shut), MSG_WAITALL) == sizeof(shut)) {
        g_atomic_int_set(&s->saved_status, shut[7]);
    }
    return NULL;
}

/* What WORD of a page of the destination must be. */
static uint64_t side_expected(Side *s, unsigned block, uint64_t page, unsigned word)
{
    if (s->mirror) {
        return ((volatile uint64_t *)(s->mirror->map[block] + page * PAGE))[word];
    }
    return side_page_is_zero(page) ? 0 : side_word(block, page);
}

/* The destination's QEMU: takes device state, reads guest RAM on the way, says SHUT. */
static gpointer inner_destination(gpointer p)
{
    Side *s = p;
    uint8_t shut[8] = {0, 1, 0, 4, 0, 0, 0, s->refuse_load};
    uint8_t pong[8] = {0, 2, 0, 4, 0, 0, 0, 1};
    char buf[4096];
    size_t at = 0;

    if (send(s->inner_peer, pong, 8, MSG_NOSIGNAL) != 8) {
        return NULL; /* given up already */
    }
    while (at < DEVICE_BYTES) {
        ssize_t n = recv(s->inner_peer, buf, sizeof(buf), 0);
        if (n <= 0) {
            return NULL;
        }
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpint(buf[i], ==, (char)((at + i) * 31));
        }
        at += n;
        uint64_t page = (at * 13) % (((FfRamBlock *)s->blocks->pdata[0])->size / PAGE);
        volatile uint64_t *w = (uint64_t *)(s->map[0] + page * PAGE);
        uint64_t word = *w;
        if (g_atomic_int_get(&s->abandoned)) {
            return NULL; /* a QEMU that was ended: what it sees concerns nobody */
        }
        g_assert_true(s->any || word == side_expected(s, 0, page, 0));
    }
    if (s->hang_load) {
        recv(s->inner_peer, buf, sizeof(buf), 0);
        return NULL;
    }
    if (s->loaded) {
        s->loaded();
    }
    /* Fails when the engine has given up meanwhile. */
    G_GNUC_UNUSED ssize_t sent = send(s->inner_peer, shut, 8, MSG_NOSIGNAL);
    return NULL;
}

/* The destination's QEMU for the fuzzer. */
static gpointer inner_lenient(gpointer p)
{
    static const uint8_t shut[8] = {0, 1, 0, 4, 0, 0, 0, 0};
    Side *s = p;
    char buf[4096];

    for (size_t at = 0; at < SIDE_LENIENT_BYTES;) {
        ssize_t n = recv(s->inner_peer, buf, sizeof(buf), 0);
        if (n <= 0) {
            return NULL;
        }
        at += n;
    }
    /* Fails when the engine has given up meanwhile. */
    G_GNUC_UNUSED ssize_t sent = send(s->inner_peer, s->says ? s->says : shut,
                                      s->says ? s->says_len : sizeof(shut), MSG_NOSIGNAL);
    shutdown(s->inner_peer, SHUT_WR);
    while (recv(s->inner_peer, buf, sizeof(buf), 0) > 0) {
    }
    return NULL;
}

static bool vmm_inner(FfVmmState *state, int *fd, GError **error)
{
    Side *s = side_of(state);
    int sv[2];

    if (s->loading) {
        s->loading(s);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    *fd = sv[0];
    s->inner_peer = sv[1];
    GThreadFunc destination = s->lenient ? inner_lenient : inner_destination;
    s->inner_thread =
        g_thread_new("inner", s->role == FF_ROLE_SOURCE ? inner_source : destination, s);
    return true;
}

static bool vmm_wait_saved(FfVmmState *state, int status, GError **error)
{
    Side *s = side_of(state);

    g_thread_join(g_steal_pointer(&s->inner_thread));
    if (status == 0) {
        g_assert_cmpint(g_atomic_int_get(&s->saved_status), ==, 0);
    }
    return true;
}

/* A vCPU: touches every page once, in an order of its own, and counts what is wrong. */
typedef struct {
    Side *s;
    unsigned index;
} Toucher;

static gpointer touch(gpointer p)
{
    g_autofree Toucher *t = p;
    uint64_t bad = 0;

    if (t->s->touch) {
        return t->s->touch(t->s, t->index);
    }
    for (unsigned b = 0; b < t->s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)t->s->blocks->pdata[b])->size / PAGE;
        uint64_t step = 7919 + 2 * t->index;
        while (n % step == 0) {
            step += 2;
        }
        for (uint64_t i = 0, page = t->index * 977 % n; i < n; i++, page = (page + step) % n) {
            volatile uint64_t *w = (uint64_t *)(t->s->map[b] + page * PAGE);
            uint64_t first = w[0], last = w[PAGE / 8 - 1];
            bad += first != side_expected(t->s, b, page, 0) ||
                   last != side_expected(t->s, b, page, PAGE / 8 - 1);
        }
    }
    return GSIZE_TO_POINTER(bad);
}

static bool vmm_resume(FfVmmRun *run, const char *run_state, bool start, bool *running,
                       GError **error)
{
    Side *s = of_run(run);

    if (s->resuming) {
        s->resuming(s);
    }
    *running = start && strcmp(run_state, "running") == 0;
    g_atomic_int_set(&s->runs, *running);
    g_main_context_wakeup(NULL);
    if (s->role == FF_ROLE_SOURCE && *running) {
        side_run(s);
    }
    for (unsigned i = 0; *running && s->role == FF_ROLE_DESTINATION && i < s->n_touchers; i++) {
        Toucher *t = g_new(Toucher, 1);
        *t = (Toucher){s, i};
        s->touchers[i] = g_thread_new("vcpu", touch, t);
    }
    return true;
}

static bool vmm_halt(FfVmmRun *run, GError **error)
{
    join_writers(of_run(run));
    return true;
}

static bool vmm_undo(FfVmmState *state, GError **error)
{
    Side *s = side_of(state);

    g_atomic_int_set(&s->undone, 1);
    if (s->settings) {
        s->settings(s, false);
    }
    return true;
}

static void vmm_announce(FfVmmRun *run)
{
}

static void vmm_abandon(FfVmmState *state)
{
    Side *s = side_of(state);
    uint64_t one = 1;

    g_atomic_int_set(&s->abandoned, 1);
    g_assert_cmpint(write(s->pidfd, &one, sizeof(one)), ==, sizeof(one));
}

static GArray *vmm_vcpus(FfVmmRun *run)
{
    return g_array_new(FALSE, FALSE, sizeof(int32_t));
}

static const FfVmm vmm_ops = {
    .run = {.stop = vmm_stop,
            .stands = vmm_stands,
            .resume = vmm_resume,
            .halt = vmm_halt,
            .announce = vmm_announce,
            .vcpu_threads = vmm_vcpus},
    .memory = {.check = vmm_check, .blocks = vmm_blocks, .drain = vmm_drain},
    .state = {.prepare = vmm_prepare,
              .undo = vmm_undo,
              .save = vmm_inner,
              .wait_saved = vmm_wait_saved,
              .load = vmm_inner,
              .abandon = vmm_abandon},
};

typedef enum { SMALL_PAGES, HUGE_PAGES, RESERVED_HUGE_PAGES } Pages;

static void add_block(Side *s, const char *id, uint64_t size, Pages pages)
{
    FfRamBlock *b = g_new0(FfRamBlock, 1);
    unsigned i = s->blocks->len;

    b->id = g_strdup(id);
    b->size = size;
    bool huge = pages != SMALL_PAGES;

    b->page_size = huge ? HUGE : PAGE;
    b->unreserved = pages == HUGE_PAGES;
    b->memfd = memfd_create(id, MFD_CLOEXEC | (huge ? MFD_HUGETLB | 21u << MFD_HUGE_SHIFT : 0));
    g_assert_cmpint(ftruncate(b->memfd, size), ==, 0);
    s->map[i] = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_SHARED | (b->unreserved ? MAP_NORESERVE : 0), b->memfd, 0);
    g_assert(s->map[i] != MAP_FAILED);
    g_ptr_array_add(s->blocks, b);
}

/* Every page has its own word all over; some are zero, and the last eighth is a hole. */
void side_fill(Side *s)
{
    for (unsigned b = 0; b < s->blocks->len; b++) {
        uint64_t n = ((FfRamBlock *)s->blocks->pdata[b])->size / PAGE;
        for (uint64_t page = 0; page < n; page++) {
            uint64_t *w = (uint64_t *)(s->map[b] + page * PAGE);
            for (unsigned i = 0; i < PAGE / 8; i++) {
                w[i] = side_page_is_zero(page) ? 0 : side_word(b, page);
            }
        }
    }
}

/* The engine has guest RAM mapped as well, in this same process: QEMU's part is what is there
 * before it. */
static int snapshot_of_maps(void)
{
    int from = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), to = memfd_create("maps", 0);
    char buf[16384];
    ssize_t n;

    g_assert_true(from >= 0 && to >= 0);
    while ((n = read(from, buf, sizeof(buf))) > 0) {
        g_assert_cmpint(write(to, buf, n), ==, n);
    }
    close(from);
    return to;
}

/* What the kernel says of the first block; there is a great deal else under ASan. */
static int line_of_maps(const Side *s)
{
    const FfRamBlock *b = s->blocks->pdata[0];
    int fd = memfd_create("maps", MFD_CLOEXEC);
    struct stat st;

    g_assert_true(fd >= 0 && fstat(b->memfd, &st) == 0);
    g_assert_cmpint(dprintf(fd, "%lx-%lx rw-s 00000000 %02x:%02x %lu /memfd:ram0 (deleted)\n",
                            (unsigned long)s->map[0], (unsigned long)(s->map[0] + b->size),
                            major(st.st_dev), minor(st.st_dev), (unsigned long)st.st_ino),
                    >, 0);
    return fd;
}

static void open_uffds(Side *s)
{
    /* The end of one costs a look at all mappings. */
    for (unsigned i = 0; i < FF_KINDS; i++) {
        s->uffds[i] = i == FF_KIND_PROTECT ||
                              (s->lenient && (i == FF_KIND_TRACKING || s->role == FF_ROLE_SOURCE))
                          ? -1
                          : syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    }
    s->maps_fd = s->lenient ? line_of_maps(s) : snapshot_of_maps();
    s->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

static Side *make(FfRole role, const uint64_t *sizes, unsigned n, bool lenient, Pages pages)
{
    Side *s = g_new0(Side, 1);

    s->lenient = lenient;
    s->vmm = vmm_ops;
    s->role = role;
    s->status = FF_STATUS_NONE;
    s->saved_status = -1;
    s->inner_peer = s->listen_fd = -1;
    s->pidfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->blocks = g_ptr_array_new();
    s->history = g_string_new(NULL);
    for (unsigned i = 0; i < n; i++) {
        g_autofree char *id = g_strdup_printf("ram%u", i);
        add_block(s, id, sizes[i], pages);
    }
    s->state_fd = ff_state_create(FF_POLICY_AUTO);
    g_assert_cmpint(s->state_fd, >=, 0);
    s->state = ff_state_map(s->state_fd, NULL);
    g_assert_nonnull(s->state);
    open_uffds(s);
    g_atomic_int_set(&s->runs, role == FF_ROLE_SOURCE);
    return s;
}

Side *side_new(FfRole role, const uint64_t *sizes, unsigned n)
{
    return make(role, sizes, n, false, SMALL_PAGES);
}

Side *side_new_lenient(FfRole role, uint64_t size)
{
    return make(role, &size, 1, true, SMALL_PAGES);
}

Side *side_new_huge(FfRole role, unsigned n, bool reserved)
{
    uint64_t size = n * HUGE;

    return make(role, &size, 1, false, reserved ? RESERVED_HUGE_PAGES : HUGE_PAGES);
}

void side_free(Side *s)
{
    ff_migration_free(s->m);
    join_writers(s);
    if (s->inner_peer >= 0) {
        shutdown(s->inner_peer, SHUT_RDWR);
    }
    /* Lets through a thread that still waits for a page. */
    close(s->uffds[FF_KIND_TRACKING]);
    close(s->uffds[FF_KIND_MISSING]);
    for (unsigned i = 0; s->ends_touchers && i < s->n_touchers; i++) {
        if (s->touchers[i]) {
            g_thread_join(s->touchers[i]);
        }
    }
    if (s->inner_thread) {
        g_thread_join(s->inner_thread);
    }
    if (s->inner_peer >= 0) {
        close(s->inner_peer);
    }
    for (unsigned i = 0; i < s->blocks->len; i++) {
        FfRamBlock *b = s->blocks->pdata[i];
        munmap(s->map[i], b->size);
        close(b->memfd);
        g_free(b->id);
        g_free(b);
    }
    g_ptr_array_unref(s->blocks);
    munmap(s->state, sizeof(*s->state));
    close(s->state_fd);
    close(s->pidfd);
    close(s->maps_fd);
    close(s->pagemap_fd);
    g_string_free(s->history, TRUE);
    g_free(s->refused);
    g_free(s);
}

static void on_status(FfStatus status, void *opaque)
{
    Side *s = opaque;

    s->status = status;
    g_string_append_printf(s->history, "%s%s", s->history->len ? " " : "", ff_status_name(status));
}

static void on_pass(uint64_t pass, void *opaque)
{
    Side *s = opaque;

    g_assert_cmpuint(pass, ==, s->passes + 1);
    s->passes = pass;
}

static void on_done(void *opaque)
{
    ((Side *)opaque)->done = true;
}

static void on_parted(void *opaque)
{
    ((Side *)opaque)->parted = true;
}

static void on_sync(void *opaque)
{
    Side *s = opaque;

    s->syncing = true;
    if (!s->slow_client) {
        ff_migration_synced(s->m);
    }
}

static void on_words(void *opaque)
{
    Side *s = opaque;

    /* A source asks a first time before it looks at what the guest is made of. */
    if (s->asked_words++ || s->role == FF_ROLE_DESTINATION) {
        s->words(s);
    }
    ff_migration_words_heard(s->m);
}

static void on_moved(void *opaque)
{
    ((Side *)opaque)->moved++;
}

static void on_plain(const FfPlainPeer *peer, void *opaque)
{
    Side *s = opaque;

    s->left_at = peer->channel ? LEFT_TO_PEER : LEFT_ALONE;
    g_free(s->refused);
    s->refused = g_strdup(peer->refused);
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    ff_channel_free(peer->channel);
}

static void on_kill(const char *why, void *opaque)
{
    g_error("kill: %s", why);
}

static void start(Side *s, const char *uri, int fd, bool adopt)
{
    g_autoptr(GError) error = NULL;
    FfMigrationOps ops = {on_status, on_pass, on_done, on_kill, .opaque = s};
    FfMigrationConfig c = s->config;

    ops.sync = on_sync;
    ops.plain = s->config.plain ? on_plain : NULL;
    /* Where a test hears frames itself the main loop stands, and nobody would be asked. */
    ops.words = s->words ? on_words : NULL;
    ops.moved = on_moved;
    ops.parted = s->tells ? on_parted : NULL;
    c.role = s->role;
    c.uri = (char *)uri;
    c.fd = fd;
    c.listen_fd = s->listen_fd;
    c.device_fd = c.restore.fd = -1;
    c.state = s->state;
    c.state_fd = s->state_fd;
    c.uffds = s->uffds;
    c.pagemap_fd = s->track ? s->pagemap_fd : -1;
    c.maps_fd = s->maps_fd;
    c.sharers_fd = -1;
    c.mem_fd = -1;
    c.pidfd = s->role == FF_ROLE_DESTINATION && !s->unwatched ? s->pidfd : -1;
    c.vmm = &s->vmm;
    c.client_switches = !s->alone;
    c.untracked = FF_UNTRACKED_WAIT;
    c.tls = s->tls;
    c.tls_hostname = (char *)s->tls_hostname;
    s->passes = 0;
    s->m = (adopt ? ff_migration_adopt : ff_migration_start)(&c, &ops, &error);
    g_assert_no_error(error);
}

void side_start(Side *s, const char *uri, int fd)
{
    start(s, uri, fd, false);
}

void side_adopt(Side *s, int inner_fd)
{
    start(s, NULL, inner_fd, true);
}

bool side_possible(void)
{
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        g_test_skip("no permission for userfaultfd");
        return false;
    }
    close(fd);
    return true;
}
