/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmap, zero scan, wire format, addresses, state table, statistics: the pure parts. */
#include <errno.h>
#include <gio/gio.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/common/states.h"
#include "migration/common/stats.h"
#include "migration/migration.h"
#include "migration/source/zero.h"
#include "net/address.h"
#include "net/frame.h"
#include "tests/lib/documented.h"
#include "uffd/bitmap.h"

/* ---- bitmap ---------------------------------------------------------------------------------- */

static void test_claim_runs(void)
{
    FfBitmap bm;
    uint64_t first;

    ff_bitmap_init(&bm, 1000, true);
    g_assert_cmpuint(ff_bitmap_count(&bm), ==, 1000);
    /* Across words, and no longer than asked. */
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 60, 1000, 10, &first), ==, 10);
    g_assert_cmpuint(first, ==, 60);
    /* Around what is claimed already: the next run, not a hole. */
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 55, 1000, 100, &first), ==, 5);
    g_assert_cmpuint(first, ==, 55);
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 55, 1000, 1000, &first), ==, 930);
    g_assert_cmpuint(first, ==, 70);
    /* The end is exclusive, and beyond the last page there is nothing. */
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 0, 20, 1000, &first), ==, 20);
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 0, 20, 1000, &first), ==, 0);
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 0, 5000, 1000, &first), ==, 35);
    g_assert_cmpuint(first, ==, 20);
    g_assert_cmpuint(ff_bitmap_count(&bm), ==, 0);
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 0, 1000, 1000, &first), ==, 0);
    ff_bitmap_clear(&bm);
}

static void test_claim_one(void)
{
    FfBitmap bm;
    uint64_t first;

    ff_bitmap_init(&bm, 129, true);
    g_assert_true(ff_bitmap_claim(&bm, 128));
    g_assert_false(ff_bitmap_claim(&bm, 128));
    g_assert_cmpuint(ff_bitmap_claim_run(&bm, 64, 129, 65, &first), ==, 64);
    g_assert_true(ff_bitmap_test(&bm, 63));
    g_assert_false(ff_bitmap_test(&bm, 64));
    ff_bitmap_clear(&bm);
}

static void test_set_runs(void)
{
    FfBitmap bm;

    ff_bitmap_init(&bm, 300, false);
    g_assert_cmpuint(ff_bitmap_set_run(&bm, 10, 200), ==, 200);
    g_assert_cmpuint(ff_bitmap_set_run(&bm, 0, 300), ==, 100);
    g_assert_false(ff_bitmap_set(&bm, 299));
    g_assert_cmpuint(ff_bitmap_count(&bm), ==, 300);
    g_assert_cmpuint(ff_bitmap_clear_run(&bm, 63, 3), ==, 3);
    g_assert_cmpuint(ff_bitmap_count_run(&bm, 0, 300), ==, 297);
    g_assert_cmpuint(ff_bitmap_count_run(&bm, 62, 3), ==, 1);
    g_assert_cmpuint(ff_bitmap_count_run(&bm, 64, 64), ==, 62);
    g_assert_cmpuint(ff_bitmap_count_run(&bm, 299, 1), ==, 1);
    g_assert_cmpuint(ff_bitmap_count_run(&bm, 70, 0), ==, 0);
    ff_bitmap_clear(&bm);
}

/* Threads claim at once, in different ways: each page is claimed by exactly one. */
#define RACE_PAGES 200000
typedef struct {
    FfBitmap bm;
    uint8_t owner[RACE_PAGES]; /* atomic counters */
} Race;

typedef struct {
    Race *race;
    unsigned kind;
} Racer;

static gpointer race(gpointer p)
{
    Racer *r = p;
    uint64_t first, n;

    if (r->kind == 0) {
        for (uint64_t i = 0; i < RACE_PAGES; i++) {
            uint64_t page = i * 7919 % RACE_PAGES;
            if (ff_bitmap_claim(&r->race->bm, page)) {
                __atomic_fetch_add(&r->race->owner[page], 1, __ATOMIC_RELAXED);
            }
        }
        return NULL;
    }
    while ((n = ff_bitmap_claim_run(&r->race->bm, 0, RACE_PAGES, 1 + r->kind * 37, &first))) {
        for (uint64_t i = 0; i < n; i++) {
            __atomic_fetch_add(&r->race->owner[first + i], 1, __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

static void test_race(void)
{
    g_autofree Race *r = g_new0(Race, 1);
    Racer racers[4];
    GThread *t[4];

    ff_bitmap_init(&r->bm, RACE_PAGES, true);
    for (unsigned i = 0; i < 4; i++) {
        racers[i] = (Racer){r, i};
        t[i] = g_thread_new("racer", race, &racers[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(t[i]);
    }
    for (unsigned i = 0; i < RACE_PAGES; i++) {
        g_assert_cmpuint(r->owner[i], ==, 1);
    }
    ff_bitmap_clear(&r->bm);
}

/* ---- zero pages ------------------------------------------------------------------------------ */

static void test_zero(void)
{
    uint8_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(ff_is_zero(p, 4096));
    for (unsigned i = 0; i < 4096; i++) {
        p[i] = 1;
        g_assert_false(ff_is_zero(p, 4096));
        p[i] = 0;
    }
    p[4096] = 1;
    g_assert_true(ff_is_zero(p, 4096));
    g_assert_false(ff_is_zero(p, 8192));
    munmap(p, 8192);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static int decode(FfFrame f, const char **why)
{
    ff_frame_encode(&f);
    return ff_frame_decode(&f, why);
}

static void test_frames(void)
{
    const char *why = NULL;
    FfFrame f = ff_frame(FF_FRAME_REQUEST, 0), g;

    f.block = 1;
    f.page = 0x123456789abcull;
    f.n_pages = 3;
    g = f;
    ff_frame_encode(&g);
    g_assert_cmpmem(&g, 4, "FAFR", 4);
    g_assert_cmpint(ff_frame_decode(&g, &why), ==, 0);
    g_assert_cmpmem(&f, sizeof(f), &g, sizeof(g));

    f.magic++;
    g_assert_cmpint(decode(f, &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(0, 0), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME__MAX, 0), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(0xffff, 0), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME_REQUEST, 1), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME_PAGES, FF_FRAME_MAX_DATA + 1), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME_COMPRESSED, FF_FRAME_MAX_DATA), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME_COMPRESSED, 0), &why), ==, -EBADMSG);
    g_assert_cmpint(decode(ff_frame(FF_FRAME_HELLO, 1), &why), ==, -EBADMSG);
}

static void test_runs(void)
{
    FfFrameBlock blocks[] = {{1 << 20, 4096}, {4 << 20, 2 << 20}};
    static const struct {
        unsigned type, length, block, n_pages;
        uint64_t page;
        bool ok;
    } rows[] = {
        {FF_FRAME_PAGES, 4096, 0, 1, 255, true},
        {FF_FRAME_PAGES, 8192, 0, 1, 0, false},
        {FF_FRAME_PAGES, 4096, 0, 2, 0, false},
        {FF_FRAME_PAGES, 4096, 0, 1, 256, false},
        {FF_FRAME_PAGES, 2 << 20, 1, 1, 1, true},
        {FF_FRAME_PAGES, 4096, 1, 1, 1, false},
        {FF_FRAME_COMPRESSED, 4095, 0, 1, 255, true},
        {FF_FRAME_COMPRESSED, 4096, 0, 1, 255, false},
        {FF_FRAME_COMPRESSED, 100, 0, 1, 256, false},
        {FF_FRAME_COMPRESSED, 100, 0, 32, 0, true},
        {FF_FRAME_COMPRESSED, 100, 0, 33, 0, false},
        {FF_FRAME_COMPRESSED, 100, 1, 1, 1, true},
        {FF_FRAME_COMPRESSED, 100, 1, 2, 0, false},
        {FF_FRAME_ZERO, 0, 0, 256, 0, true},
        {FF_FRAME_ZERO, 0, 0, 257, 0, false},
        {FF_FRAME_ZERO, 0, 0, 2, 255, false},
        {FF_FRAME_ZERO, 0, 0, 0, 0, false},
        {FF_FRAME_ZERO, 0, 2, 1, 0, false},
        {FF_FRAME_ZERO, 0, 0xffffffff, 1, 0, false},
        {FF_FRAME_REQUEST, 0, 0, 1, UINT64_MAX, false},
        {FF_FRAME_REQUEST, 0, 0, UINT32_MAX, 1, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfFrame f = ff_frame(rows[i].type, rows[i].length);
        const char *why = NULL;
        f.block = rows[i].block;
        f.n_pages = rows[i].n_pages;
        f.page = rows[i].page;
        int rc = ff_frame_check_run(&f, blocks, 2, &why);
        g_assert_cmpint(rc == 0, ==, rows[i].ok);
        g_assert_true(rows[i].ok || why);
    }
}

static void test_device(void)
{
    static const struct {
        unsigned length, flags;
        uint64_t page;
        bool ok;
    } rows[] = {
        {1, 0, 0, true},
        {FF_RUN_MAX_BYTES, 0, 0, true},
        {1, 0, 1, false},
        {1, 2, 0, false},
        {1, 3, 4096, false},
        {100, FF_DEVICE_COMPRESSED, 101, true},
        {100, FF_DEVICE_COMPRESSED, 100, false},
        {100, FF_DEVICE_COMPRESSED, 0, false},
        {100, FF_DEVICE_COMPRESSED, FF_RUN_MAX_BYTES, true},
        {100, FF_DEVICE_COMPRESSED, FF_RUN_MAX_BYTES + 1, false},
        {100, FF_DEVICE_COMPRESSED, UINT64_MAX, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfFrame f = ff_frame(FF_FRAME_DEVICE, rows[i].length);
        const char *why = NULL;
        f.flags = rows[i].flags;
        f.page = rows[i].page;
        g_assert_cmpint(ff_frame_check_device(&f, &why) == 0, ==, rows[i].ok);
        g_assert_true(rows[i].ok || why);
    }
}

/* Decodes byte by byte: what is asked for must be more than there is, and no more than ALL. */
static FfPeer decode_slowly(const uint8_t *p, size_t all)
{
    for (size_t n = 0;; n++) {
        size_t need;
        FfPeer peer = ff_prologue_decode(p, n, &need);
        if (peer != FF_PEER_MORE) {
            return peer;
        }
        g_assert_cmpuint(need, >, n);
        g_assert_cmpuint(need, <=, all);
    }
}

static void test_prologue(void)
{
    static const uint8_t uuid[16] = {1, 2, 3};
    uint8_t configuration[FF_CONFIGURATION_MAX], p[FF_PROLOGUE_MAX];
    size_t lengths[] = {0, ff_configuration_encode(configuration, "pc-i440fx-7.2", NULL),
                        ff_configuration_encode(configuration, "pc-i440fx-7.2", uuid)};

    g_assert_cmpuint(lengths[1], ==, 5 + 13);
    g_assert_cmpuint(lengths[2], ==, 5 + 13 + 24 + 16);
    for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
        size_t n = ff_prologue_encode(p, configuration, lengths[i]);
        g_assert_cmpuint(n, ==, FF_PROLOGUE_SIZE + lengths[i]);
        g_assert_cmpint(decode_slowly(p, n), ==, FF_PEER_FARFAULT);
        /* Each byte matters, but for those of the machine's name and the UUID. */
        p[n - 1] = 1;
        g_assert_cmpint(decode_slowly(p, n), ==, FF_PEER_PLAIN_QEMU);
        p[n - FF_PROLOGUE_COMMANDS] = 1;
        g_assert_cmpint(decode_slowly(p, n), ==, FF_PEER_PLAIN_QEMU);
        p[0] = 'G';
        g_assert_cmpint(decode_slowly(p, n), ==, FF_PEER_UNKNOWN);
    }
    g_assert_cmpuint(ff_configuration_encode(configuration, "", NULL), ==, 0);
}

/* Machines of before 2.4 say nothing of themselves; those of distributions, and those without a
 * version, do. */
static void test_configuration(void)
{
    static const struct {
        const char *machine;
        bool told;
    } cases[] = {
        {"pc-i440fx-7.2", true},      {"pc-q35-2.4", true},     {"pc-i440fx-2.11", true},
        {"pc-i440fx-10.0", true},     {"pc-q35-noble", true},   {"pc-i440fx-jammy", true},
        {"pc-q35-rhel9.4.0", true},   {"microvm", true},        {"isapc", true},
        {"pc-i440fx-noble-v2", true}, {"pc-i440fx-2.3", false}, {"pc-q35-2.0", false},
        {"pc-i440fx-1.7", false},
    };
    uint8_t configuration[FF_CONFIGURATION_MAX];

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        const char *machine = cases[i].machine;

        size_t expected = cases[i].told ? 5 + strlen(machine) : 0;

        g_assert_cmpuint(ff_configuration_encode(configuration, machine, NULL), ==, expected);
    }
}

/* ---- addresses ------------------------------------------------------------------------------- */

static uint16_t port_of(int fd)
{
    struct sockaddr_in6 sa;
    socklen_t len = sizeof(sa);

    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&sa, &len), ==, 0);
    return ntohs(sa.sin6_port);
}

/* A name of both families: a peer that listens on the other one is not taken for the one that is
 * meant. */
static void test_family(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        g_test_skip("no IPv6 here");
        return;
    }
    g_assert_cmpint(listen(fd, 4), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const options[] = {"", ",ipv6=on", ",ipv4"};
        g_autofree char *uri = g_strdup_printf("tcp:localhost:%u%s", port_of(fd), options[i]);
        g_autoptr(FfAddress) a = ff_address_parse(uri, NULL);
        int connected = ff_address_connect(a, NULL, NULL);

        g_assert_true((connected >= 0) == (i < 2));
        if (connected >= 0) {
            close(connected);
        }
    }
    close(fd);
}

/* The host's numbers in all forms that getaddrinfo() takes, as QEMU does. */
static void test_numbers(void)
{
    static const char *const hosts[] = {"127.0.0.1", "0", "127.1", "0x7f000001", "2130706433", ""};
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int fd = ff_address_listen(any, NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(hosts); i++) {
        g_autofree char *uri = g_strdup_printf("tcp:%s:%u", hosts[i], port_of(fd));
        g_autoptr(GError) error = NULL;
        g_autoptr(FfAddress) a = ff_address_parse(uri, NULL);
        int connected = ff_address_connect(a, NULL, &error);

        g_assert_no_error(error);
        close(connected);
    }
    close(fd);
}

static void test_services(void)
{
    if (!getservbyname("http", "tcp")) {
        g_test_skip("no names of services here");
        return;
    }
    g_autoptr(FfAddress) a = ff_address_parse("tcp:h:http,ipv4", NULL);
    g_assert_cmpstr(a->port, ==, "80");
}

static void test_addresses(void)
{
    static const struct {
        const char *uri, *host, *port, *path;
        int family;
    } good[] = {
        {"tcp:127.0.0.1:4444", "127.0.0.1", "4444", NULL},
        {"tcp::0", "", "0", NULL},
        {"tcp:[::1]:7", "::1", "7", NULL},
        {"tcp:host:1,to=5", "host", "1", NULL},
        {"tcp:host:1,to=5,ipv4=on", "host", "1", NULL, AF_INET},
        {"tcp:host:1,ipv6", "host", "1", NULL, AF_INET6},
        {"tcp:host:1,ipv6,ipv4", "host", "1", NULL},
        {"unix:/a b", NULL, NULL, "/a b"},
    };
    static const char *const bad[] = {"tcp:",       "tcp:1.2.3.4", "tcp:a:b", "tcp:a:65536",
                                      "tcp:[::1:7", "tcp:[::1]7",  "unix:",   "exec:cat",
                                      "",           "tcp:a:",      "tcp:a:-1"};

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FfAddress) a = ff_address_parse(good[i].uri, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(a->host, ==, good[i].host);
        g_assert_cmpstr(a->port, ==, good[i].port);
        g_assert_cmpstr(a->path, ==, good[i].path);
        g_assert_cmpint(a->family, ==, good[i].family);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(ff_address_parse(bad[i], &error));
        g_assert_nonnull(error);
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(FfAddress) gone = ff_address_parse("unix:/nonexistent/x", NULL);
    g_assert_cmpint(ff_address_connect(gone, NULL, &error), ==, -1);
    g_autofree char *long_path = g_strnfill(200, 'x');
    g_assert_cmpint(ff_address_connect_path(long_path), ==, -ENAMETOOLONG);
    g_assert_cmpint(ff_address_connect_path("/nonexistent"), ==, -ENOENT);
    g_assert_true(g_str_has_prefix(error->message, "Failed to connect to '/nonexistent/x': "));
}

/* ---- states ---------------------------------------------------------------------------------- */

static void test_states(void)
{
    unsigned seen = 1u << FF_STATUS_NONE;

    /* Every status but none is reached from another; final ones lead nowhere. */
    for (unsigned i = 0; i < FF_STATUS__MAX; i++) {
        const FfState *s = ff_state(i);
        g_assert_cmpuint(s->status, ==, i);
        g_assert_true(s->source || s->destination);
        g_assert_false(s->next >> i & 1);
        seen |= s->next;
    }
    g_assert_cmpuint(seen, ==, (1u << FF_STATUS__MAX) - 1);
    /* Past the grant there is no way back. */
    for (unsigned i = FF_STATUS_POSTCOPY_ACTIVE; i <= FF_STATUS_POSTCOPY_RECOVER; i++) {
        /* But a destination that waits, paused, for a grant which the source says was not given. */
        g_assert_cmpint(ff_state_may_follow(i, FF_STATUS_FAILED), ==,
                        i == FF_STATUS_POSTCOPY_PAUSED || i == FF_STATUS_POSTCOPY_RECOVER);
        g_assert_false(ff_state_may_follow(i, FF_STATUS_CANCELLING));
        g_assert_false(ff_state_may_follow(i, FF_STATUS_ACTIVE));
    }
}

/* docs/architecture.md shows this very table. */
static void test_states_documented(void)
{
    g_autofree char *table = ff_states_markdown();

    documented_check(table);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static void test_latency(void)
{
    g_autofree FfStats *s = g_new0(FfStats, 1);
    g_autoptr(FfMigrationInfo) info = g_new0(FfMigrationInfo, 1);

    for (unsigned i = 0; i < 99; i++) {
        ff_stats_latency(s, 5); /* [4, 8) */
    }
    ff_stats_latency(s, 1000000);
    ff_stats_fill(s, info);
    g_assert_cmpuint(info->latency[2], ==, 99);
    g_assert_cmpuint(info->latency[19], ==, 1);
    g_assert_cmpfloat(info->latency_p99_us, ==, 8);
    g_assert_cmpfloat(info->latency_mean_us, ==, (99 * 5 + 1000000) / 100.0);
}

static void test_blocktime(void)
{
    g_autofree FfStats *s = g_new0(FfStats, 1);
    g_autoptr(FfMigrationInfo) info = g_new0(FfMigrationInfo, 1);

    s->n_vcpus = 2;
    s->vcpu_tid[0] = 100;
    s->vcpu_tid[1] = 101;
    g_assert_cmpint(ff_stats_wait_begin(s, 100, 1000000), ==, 0);
    g_assert_cmpint(ff_stats_wait_begin(s, 55, 1000000), ==, -1);
    g_assert_cmpint(ff_stats_wait_begin(s, 101, 1005000), ==, 1); /* now both wait */
    ff_stats_wait_end(s, 0, 1000000, 1008000);
    ff_stats_wait_end(s, 1, 1005000, 1010000);
    ff_stats_wait_end(s, -1, 1000000, 1020000);
    for (unsigned i = 0; i < 3; i++) { /* a device, in another process */
        g_assert_cmpint(ff_stats_wait_begin(s, 0, 1000000), ==, -2);
        ff_stats_wait_end(s, -2, 1000000, 1003000 - i * 1000);
    }
    ff_stats_fill(s, info);
    g_assert_cmpuint(info->device_waits, ==, 3);
    g_assert_cmpuint(info->device_wait_max_us, ==, 3000);
    g_assert_cmpfloat(info->device_wait_mean_us, ==, 2000);
    g_assert_cmpuint(info->device_latency[9], ==, 1);  /* [512, 1024) */
    g_assert_cmpuint(info->device_latency[10], ==, 1); /* [1024, 2048) */
    g_assert_cmpuint(info->device_latency[11], ==, 1);
    g_assert_cmpuint(info->vcpu_wait_max_us, ==, 8000); /* no vCPU's is 20000 */
    g_assert_cmpuint(info->vcpu_blocktime_ms[0], ==, 8);
    g_assert_cmpuint(info->vcpu_blocktime_ms[1], ==, 5);
    g_assert_cmpuint(info->blocktime_ms, ==, 3);
    g_assert_cmpuint(info->vcpu_latency_ns[0], ==, 8000000);
    g_assert_cmpuint(info->vcpu_latency_ns[1], ==, 5000000);
    g_assert_cmpuint(info->other_latency_ns, ==, 20000000);
    g_assert_cmpuint(s->latency_count, ==, 6);
    g_assert_cmpuint(s->vcpus_blocked, ==, 0);
}

/* Against a look at each bit: whatever the ends are, and whatever stands after them. */
static void test_runs_in(void)
{
    for (unsigned round = 0; round < 2000; round++) {
        uint64_t n_pages = (uint64_t)g_test_rand_int_range(1, 300), first;
        uint64_t from = (uint64_t)g_test_rand_int_range(0, (gint32)n_pages);
        uint64_t end = (uint64_t)g_test_rand_int_range((gint32)from, (gint32)n_pages + 1);
        bool set = g_test_rand_bit();
        FfBitmap bm;

        ff_bitmap_init(&bm, n_pages, g_test_rand_bit());
        for (unsigned i = 0; i < 3; i++) {
            uint64_t at = (uint64_t)g_test_rand_int_range(0, (gint32)n_pages);
            uint64_t n = (uint64_t)g_test_rand_int_range(0, (gint32)(n_pages - at) + 1);
            i % 2 ? ff_bitmap_set_run(&bm, at, n) : ff_bitmap_clear_run(&bm, at, n);
        }
        uint64_t begin = from, n = 0;
        while (begin < end && ff_bitmap_test(&bm, begin) != set) {
            begin++;
        }
        while (begin + n < end && ff_bitmap_test(&bm, begin + n) == set) {
            n++;
        }
        g_assert_cmpuint(ff_bitmap_next_run_in(&bm, from, end, set, &first), ==, n);
        g_assert_true(!n || first == begin);
        ff_bitmap_clear(&bm);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap/runs-in", test_runs_in);
    g_test_add_func("/bitmap/claim-runs", test_claim_runs);
    g_test_add_func("/bitmap/claim-one", test_claim_one);
    g_test_add_func("/bitmap/set-runs", test_set_runs);
    g_test_add_func("/bitmap/race", test_race);
    g_test_add_func("/zero/every-byte", test_zero);
    g_test_add_func("/frame/round-trip-and-refusals", test_frames);
    g_test_add_func("/frame/runs", test_runs);
    g_test_add_func("/frame/device", test_device);
    g_test_add_func("/frame/prologue", test_prologue);
    g_test_add_func("/frame/configuration", test_configuration);
    g_test_add_func("/address/parse", test_addresses);
    g_test_add_func("/address/family", test_family);
    g_test_add_func("/address/numbers", test_numbers);
    g_test_add_func("/address/services", test_services);
    g_test_add_func("/states/table", test_states);
    g_test_add_func("/states/documented", test_states_documented);
    g_test_add_func("/stats/latency", test_latency);
    g_test_add_func("/stats/blocktime", test_blocktime);
    return g_test_run();
}
