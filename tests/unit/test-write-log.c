/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of what devices in other processes write: the engine's end (guest/qemu/backends.c), with
 * a relay and back-ends that are played here. The relay answers in a thread of its own.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/backends.h"
#include "guest/qemu/backends.h"
#include "guest/qemu/vmm-qemu.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define PAGE 4096ull
#define HUGE (2 * MIB)

/* Guest memory: a block in two regions, and one of huge pages. */
#define LOW_SIZE (1 * MIB)
#define HIGH_AT (4 * GIB)
#define HIGH_SIZE (7 * MIB)
#define HUGE_AT (8 * GIB)
#define HUGE_SIZE (4 * MIB)
#define LOG_BYTES ((HUGE_AT + HUGE_SIZE) / PAGE / 8 + 1)

typedef struct {
    FfQemu *qemu;
    FfVmmMemory *memory;
    FfStateHeader *state;
    FfQmpClient *client;
    GPtrArray *blocks;
    int engine, relay;
    GThread *thread;
    FfBackendRegion regions[3];
    unsigned n_regions;
    uint64_t log_bytes;
    const char *lost;              /* what LOST answers; NULL: all is well */
    uint8_t *log;                  /* as a back-end has it mapped; NULL: it has none */
    unsigned ends, looks, stopped; /* LOST of a guest that stands */
    GString *seen;                 /* what log_take() has told */
} World;

static void map_log(World *w, int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, >=, w->log_bytes);
    w->log = mmap(NULL, w->log_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert(w->log != MAP_FAILED);
    /* A back-end cannot take it away from under the engine. */
    g_assert_cmpint(ftruncate(fd, 0), <, 0);
}

static gpointer answer_engine(gpointer opaque)
{
    World *w = opaque;
    FfBackendsRequest request;
    FfRights rights;

    struct pollfd pfd = {.fd = w->relay, .events = POLLIN};

    while (poll(&pfd, 1, -1) == 1 &&
           ff_rights_receive(w->relay, &request, sizeof(request), &rights) == sizeof(request)) {
        FfBackendsAnswer answer = {
            .op = request.op, .log_bytes = w->log_bytes, .n_regions = w->n_regions};

        memcpy(answer.regions, w->regions, sizeof(w->regions));
        if (request.op == FF_BACKENDS_LOG) {
            g_assert_cmpuint(rights.n, ==, 1);
            map_log(w, rights.fd[0]);
            close(rights.fd[0]);
        }
        w->ends += request.op == FF_BACKENDS_END;
        w->looks += request.op == FF_BACKENDS_LOOK;
        w->stopped += request.op == FF_BACKENDS_LOST && request.flag;
        if (request.op == FF_BACKENDS_LOST && w->lost) {
            g_strlcpy(answer.why, w->lost, sizeof(answer.why));
        }
        g_assert_cmpint(send(w->relay, &answer, sizeof(answer), 0), ==, sizeof(answer));
    }
    return NULL;
}

static FfRamBlock *block_new(const char *id, uint64_t size, uint64_t page_size)
{
    FfRamBlock *b = g_new0(FfRamBlock, 1);

    b->id = (char *)id;
    b->size = size;
    b->page_size = page_size;
    b->memfd = memfd_create(id, MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(b->memfd, size), ==, 0);
    return b;
}

static FfBackendRegion region_of(const World *w, guint block, uint64_t guest, uint64_t size,
                                 uint64_t offset)
{
    struct stat st;

    g_assert_cmpint(fstat(((FfRamBlock *)w->blocks->pdata[block])->memfd, &st), ==, 0);
    return (FfBackendRegion){guest, size, offset, st.st_dev, st.st_ino};
}

static World *world_new(void)
{
    World *w = g_new0(World, 1);
    int pair[2], qmp[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp), ==, 0);
    close(qmp[1]);
    w->engine = pair[0];
    w->relay = pair[1];
    w->blocks = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(w->blocks, block_new("ram", LOW_SIZE + HIGH_SIZE, PAGE));
    g_ptr_array_add(w->blocks, block_new("huge", HUGE_SIZE, HUGE));
    w->regions[0] = region_of(w, 0, 0, LOW_SIZE, 0);
    w->regions[1] = region_of(w, 0, HIGH_AT, HIGH_SIZE, LOW_SIZE);
    w->regions[2] = region_of(w, 1, HUGE_AT, HUGE_SIZE, 0);
    w->n_regions = 3;
    w->log_bytes = LOG_BYTES;
    w->state = g_new0(FfStateHeader, 1);
    w->client = ff_qmp_client_new(qmp[0], NULL, NULL, NULL, NULL);
    w->qemu = ff_qemu_new(&(FfQemuConfig){
        .qmp = w->client, .state = w->state, .ram = w->blocks, .backends = w->engine});
    w->memory = &ff_qemu_vmm(w->qemu)->memory;
    w->seen = g_string_new(NULL);
    w->thread = g_thread_new("relay", answer_engine, w);
    return w;
}

static void world_free(World *w)
{
    ff_qemu_free(w->qemu);
    shutdown(w->engine, SHUT_RDWR);
    g_thread_join(w->thread);
    for (guint i = 0; i < w->blocks->len; i++) {
        close(((FfRamBlock *)w->blocks->pdata[i])->memfd);
    }
    if (w->log) {
        munmap(w->log, w->log_bytes);
    }
    close(w->engine);
    close(w->relay);
    ff_qmp_client_close(w->client);
    ff_qmp_client_unref(w->client);
    g_ptr_array_unref(w->blocks);
    g_string_free(w->seen, TRUE);
    g_free(w->state);
    g_free(w);
}

static void begin(World *w)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(w->memory->log_begin(w->memory, &error));
    g_assert_no_error(error);
    g_assert_nonnull(w->log);
}

/* As a back-end does it. */
static void log_page(World *w, uint64_t guest)
{
    uint64_t page = guest / PAGE;

    __atomic_or_fetch(&w->log[page / 8], 1u << page % 8, __ATOMIC_SEQ_CST);
}

static void note(unsigned n, uint64_t offset, uint64_t len, void *opaque)
{
    World *w = opaque;

    g_string_append_printf(w->seen, "%u:%u+%u ", n, (unsigned)(offset / PAGE),
                           (unsigned)(len / PAGE));
}

static void expect(World *w, const char *seen)
{
    g_string_truncate(w->seen, 0);
    w->memory->log_take(w->memory, note, w);
    g_assert_cmpstr(w->seen->str, ==, seen);
}

/* Bits to pages of blocks: across a byte, at the ends of regions, beside them, of huge pages. */
static void test_take(void)
{
    World *w = world_new();

    begin(w);
    expect(w, "");
    for (unsigned i = 6; i < 10; i++) {
        log_page(w, i * PAGE);
    }
    log_page(w, LOW_SIZE - PAGE);
    log_page(w, LOW_SIZE); /* nobody's */
    log_page(w, HIGH_AT - PAGE);
    log_page(w, HIGH_AT);
    log_page(w, HIGH_AT + HIGH_SIZE - PAGE);
    log_page(w, HUGE_AT + HUGE + 3 * PAGE);
    expect(w, "0:6+2 0:8+2 0:255+1 0:256+1 0:2047+1 1:512+512 ");
    expect(w, "");
    log_page(w, 6 * PAGE);
    expect(w, "0:6+1 ");
    w->memory->log_end(w->memory);
    w->memory->log_end(w->memory);
    g_assert_cmpuint(w->ends, ==, 1);
    log_page(w, 6 * PAGE);
    expect(w, "");
    world_free(w);
}

static void write_again(unsigned n, uint64_t offset, uint64_t len, void *opaque)
{
    log_page(opaque, offset);
}

/* What is written while its page is being copied is seen by the next look. */
static void test_again(void)
{
    World *w = world_new();

    begin(w);
    log_page(w, 6 * PAGE);
    w->memory->log_take(w->memory, write_again, w);
    expect(w, "0:6+1 ");
    expect(w, "");
    world_free(w);
}

static void test_lost(void)
{
    World *w = world_new();
    g_autoptr(GError) none = NULL, error = NULL;

    g_assert_false(w->memory->log_whole(w->memory, false, &none));
    begin(w);
    g_assert_true(w->memory->log_whole(w->memory, false, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(w->stopped, ==, 0);
    g_assert_true(w->memory->log_whole(w->memory, true, &error));
    g_assert_cmpuint(w->stopped, ==, 1);
    w->lost = "it has gone";
    g_assert_false(w->memory->log_whole(w->memory, false, &error));
    g_assert_nonnull(strstr(error->message, "it has gone"));
    world_free(w);
}

/* A region in a file that is none of the blocks', or beyond a block's end, or beyond the log. */
static void test_foreign(void)
{
    for (unsigned i = 0; i < 3; i++) {
        World *w = world_new();
        g_autoptr(GError) error = NULL;

        if (i == 0) {
            w->regions[1].ino++;
        } else if (i == 1) {
            w->regions[2].size += HUGE;
        } else {
            w->regions[2].guest += GIB;
        }
        g_assert_false(w->memory->log_begin(w->memory, &error));
        g_assert_nonnull(strstr(error->message, "none of farfault's"));
        g_assert_cmpuint(w->ends, ==, 1);
        world_free(w);
    }
}

/* The relay ends, or is another one. */
static void test_gone(void)
{
    World *w = world_new();
    g_autoptr(GError) error = NULL;

    begin(w);
    shutdown(w->relay, SHUT_RDWR);
    g_assert_false(w->memory->log_whole(w->memory, false, &error));
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_WARNING, "devices in other processes: *");
    w->memory->log_end(w->memory);
    g_test_assert_expected_messages();
    world_free(w);
}

/* ---- no write is missed ---------------------------------------------------------------------- */

/* In a round each page is written once: one that is missed is not made good by a later write. Only
 * a look that finds something before the last write can miss one. On a busy machine the two threads
 * would run one after the other for long, so in each round the writer waits, somewhere, until a
 * look has found what it has written and the next one begins, and continues beside that. */
#define ROUNDS 4000
#define PAGES 64u
/* A thread that waits for the other looks so often before it leaves its processor: on a busy
 * machine it has it back after many milliseconds, and by then the other has lost its own. */
#define LOOKS 10000

typedef struct {
    World *w;
    uint32_t memory[PAGES], copy[PAGES]; /* atomic */
    unsigned copied;                     /* pages of this round so far */
    gint written, compared;              /* rounds; atomic */
    gint looks;                          /* that have begun; atomic */
    gint over;                           /* atomic: there is no additional round */
} Race;

static void shuffle(uint8_t *order, uint64_t *x)
{
    for (unsigned i = PAGES - 1; i; i--) {
        *x = *x * 6364136223846793005ull + 1442695040888963407ull;
        unsigned other = (*x >> 40) % (i + 1);
        uint8_t page = order[i];

        order[i] = order[other];
        order[other] = page;
    }
}

static void rest(unsigned looks)
{
    if (looks % LOOKS == 0) {
        sched_yield();
    }
}

static void await_looks(Race *r, gint n)
{
    gint from = g_atomic_int_get(&r->looks);

    for (unsigned looks = 1; g_atomic_int_get(&r->looks) - from < n; looks++) {
        rest(looks);
    }
}

static gpointer write_pages(gpointer opaque)
{
    Race *r = opaque;
    uint8_t order[PAGES];
    uint64_t x = 1;

    for (unsigned i = 0; i < PAGES; i++) {
        order[i] = i;
    }
    for (gint round = 1; !g_atomic_int_get(&r->over); round++) {
        shuffle(order, &x);
        unsigned pause = 1 + (x >> 33) % (PAGES - 1);
        for (unsigned i = 0; i < PAGES; i++) {
            if (i == pause) {
                await_looks(r, 2);
            }
            __atomic_store_n(&r->memory[order[i]], round, __ATOMIC_RELAXED);
            log_page(r->w, order[i] * PAGE);
        }
        g_atomic_int_set(&r->written, round);
        for (unsigned looks = 1; g_atomic_int_get(&r->compared) < round; looks++) {
            rest(looks);
        }
    }
    return NULL;
}

static void copy(unsigned n, uint64_t offset, uint64_t len, void *opaque)
{
    Race *r = opaque;

    for (uint64_t page = offset / PAGE; len; page++, len -= PAGE) {
        r->copy[page] = __atomic_load_n(&r->memory[page], __ATOMIC_RELAXED);
        r->copied++;
    }
}

/* TRUE: a look found something while pages were written. */
static bool take_round(Race *r, gint round)
{
    FfVmmMemory *memory = r->w->memory;
    unsigned met = 0;

    r->copied = 0;
    for (unsigned looks = 1; g_atomic_int_get(&r->written) < round; looks++) {
        met = r->copied;
        g_atomic_int_inc(&r->looks);
        memory->log_take(memory, copy, r);
        rest(looks);
    }
    memory->log_take(memory, copy, r);
    g_assert_cmpmem(r->copy, sizeof(r->copy), r->memory, sizeof(r->memory));
    return met > 0;
}

/* What is copied after its bit was taken is what is there, or has a bit again. */
static void test_race(void)
{
    World *w = world_new();
    g_autofree Race *r = g_new0(Race, 1);
    unsigned met = 0;

    w->n_regions = 1; /* a short log, through which this is as often as can be */
    w->log_bytes = LOW_SIZE / PAGE / 8 + 1;
    begin(w);
    r->w = w;
    GThread *writer = g_thread_new("back-end", write_pages, r);
    for (gint round = 1; round <= ROUNDS; round++) {
        met += take_round(r, round);
        g_atomic_int_set(&r->over, round == ROUNDS);
        g_atomic_int_set(&r->compared, round);
    }
    g_thread_join(writer);
    g_assert_cmpuint(met, ==, ROUNDS);
    world_free(w);
}

/* The destination's word that all is here; without back-ends there is nobody to tell. */
static void test_all_here(void)
{
    World *w = world_new();

    w->memory->all_here(w->memory);
    g_assert_cmpuint(w->looks, ==, 1);
    world_free(w);
    FfQmpClient *client;
    g_autofree FfStateHeader *state = g_new0(FfStateHeader, 1);
    int qmp[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp), ==, 0);
    client = ff_qmp_client_new(qmp[0], NULL, NULL, NULL, NULL);
    FfQemu *qemu = ff_qemu_new(&(FfQemuConfig){.qmp = client, .state = state, .backends = -1});
    ff_qemu_vmm(qemu)->memory.all_here(&ff_qemu_vmm(qemu)->memory);
    ff_qemu_free(qemu);
    ff_qmp_client_close(client);
    ff_qmp_client_unref(client);
    close(qmp[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/write-log/take", test_take);
    g_test_add_func("/write-log/again", test_again);
    g_test_add_func("/write-log/lost", test_lost);
    g_test_add_func("/write-log/foreign", test_foreign);
    g_test_add_func("/write-log/gone", test_gone);
    g_test_add_func("/write-log/race", test_race);
    g_test_add_func("/write-log/all-here", test_all_here);
    return g_test_run();
}
