/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What counts against the client's downtime-limit, in numbers alone: RAM, the scan after the stop,
 * and the memory that QEMU keeps to itself with what of it cannot go ahead.
 */
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/source/device.h"
#include "migration/source/precopy.h"

#define MB 1000000ull
#define GIGABIT 125000000.0

typedef struct {
    const char *name;
    FfStandstill t;
    bool fits;
} Case;

static const Case cases[] = {
    {"ram-alone", {100, 12 * MB, 0, 0, GIGABIT, GIGABIT}, true},
    {"ram-too-long", {100, 13 * MB, 0, 0, GIGABIT, GIGABIT}, false},
    {"sum-fits", {100, 5 * MB, 7 * MB, 0, GIGABIT, GIGABIT}, true},
    {"sum-too-long", {100, 7 * MB, 7 * MB, 0, GIGABIT, GIGABIT}, false},
    {"scan-and-private", {100, 5 * MB, 5 * MB, 30000, GIGABIT, GIGABIT}, false},
    /* What compresses well is RAM. */
    {"compressed", {100, 70 * MB, 5 * MB, 0, 10 * GIGABIT, GIGABIT}, true},
    {"compressed-too-long", {100, 80 * MB, 5 * MB, 0, 10 * GIGABIT, GIGABIT}, false},
    /* A link much slower than reckoned: a migration must end all the same. */
    {"must-end", {100, 3 * MB, 1000 * MB, 0, GIGABIT, GIGABIT}, true},
    {"must-end-share", {100, 4 * MB, 1000 * MB, 0, GIGABIT, GIGABIT}, false},
    {"must-end-scan", {100, 3 * MB, 1000 * MB, 200000, GIGABIT, GIGABIT}, true},
    {"nothing-left", {100, 0, 1000 * MB, 0, GIGABIT, GIGABIT}, true},
    {"not-measured", {100, 1, 0, 0, 0, 0}, false},
};

static void test_fits(gconstpointer data)
{
    const Case *c = data;

    g_assert_cmpint(ff_precopy_fits(&c->t), ==, c->fits);
}

static void test_expected(void)
{
    FfStandstill t = {100, 50 * MB, 25 * MB, 3000, 2 * GIGABIT, GIGABIT};

    g_assert_cmpint(ff_precopy_standstill_ms(&t), ==, 200 + 200 + 3);
}

/* ---- what goes ahead ------------------------------------------------------------------------- */

#define BASE_PAGES 512
#define BASE (BASE_PAGES * (uint64_t)FF_DELTA_PAGE)
#define REST (1u << 20)

typedef struct {
    FfMigrationConfig cfg;
    FfControl control;
    FfConnection conn;
    FfSource s;
} Rig;

/* REST has no room in the base. At BASE bytes per second the base alone takes a second. */
static void rig_init(Rig *r, bool tls, FfCompress compress)
{
    uint8_t page[FF_DELTA_PAGE];

    *r = (Rig){.cfg = {.compress = compress,
                       .tls = tls ? (FfTls *)r : NULL,
                       .switchover_bandwidth = BASE}};
    r->s = (FfSource){.cfg = &r->cfg,
                      .control = &r->control,
                      .conn = &r->conn,
                      .device_base = ff_delta_new(),
                      .private_rest = REST};
    ff_mutex_init(&r->control.lock);
    for (unsigned i = 0; i < BASE_PAGES; i++) {
        memset(page, i + 1, sizeof(page));
        g_assert_true(ff_delta_add(r->s.device_base, page, sizeof(page)));
    }
}

static void rig_clear(Rig *r)
{
    ff_delta_free(r->s.device_base);
    ff_mutex_clear(&r->control.lock);
}

static bool fits(Rig *r, unsigned limit_ms)
{
    g_autoptr(GError) error = NULL;

    r->cfg.downtime_limit = limit_ms;
    bool fits = ff_source_private_fits(&r->s, &error);
    g_assert_true(fits || strstr(error->message, "downtime-limit"));
    return fits;
}

typedef struct {
    const char *name;
    bool tls;
    FfCompress compress;
    bool ahead;
} Ahead;

static const Ahead aheads[] = {
    {"clear", false, FF_COMPRESS_NEVER, true},
    {"tls", true, FF_COMPRESS_NEVER, false},
    {"tls-compress", true, FF_COMPRESS_AUTO, true},
};

/* What the limit must be for the engine to carry it, whoever the peer is. */
static void test_ahead(gconstpointer data)
{
    const Ahead *a = data;
    const unsigned rest_ms = REST * 1000 / BASE, base_ms = 1000;
    Rig r;

    rig_init(&r, a->tls, a->compress);
    g_assert_false(fits(&r, rest_ms - 1));
    g_assert_cmpint(fits(&r, rest_ms), ==, a->ahead);
    g_assert_cmpint(fits(&r, rest_ms + base_ms - 1), ==, a->ahead);
    g_assert_true(fits(&r, rest_ms + base_ms));
    g_assert_cmpuint(r.s.private_rest, ==, REST + (a->ahead ? 0 : BASE));
    rig_clear(&r);
}

/* A client that sets the limit to nothing, and has firmware but no display, keeps the engine. */
static void test_little(void)
{
    Rig r;

    rig_init(&r, true, FF_COMPRESS_NEVER);
    r.cfg.switchover_bandwidth = (REST + BASE) * 1000 / 10;
    g_assert_true(fits(&r, 0));
    r.cfg.switchover_bandwidth = (REST + BASE) * 1000 / 11;
    g_assert_false(fits(&r, 0));
    rig_clear(&r);
}

/* It is known in the greeting alone that the peer takes no base. */
static void test_older_peer(void)
{
    Rig r;

    rig_init(&r, false, FF_COMPRESS_NEVER);
    r.conn.peer_features = FF_FEATURE_COMPRESSED_DEVICE;
    g_assert_true(fits(&r, REST * 1000 / BASE));
    ff_source_send_base(&r.s, NULL);
    g_assert_null(r.s.device_base);
    g_assert_cmpuint(r.s.private_rest, ==, REST + BASE);
    ff_source_send_base(&r.s, NULL);
    g_assert_cmpuint(r.s.private_rest, ==, REST + BASE);
    rig_clear(&r);
}

/* ---- what is read ---------------------------------------------------------------------------- */

/* As QEMU allocates it, all of it written to. */
static uint8_t *make_block(size_t size)
{
    const size_t alignment = 2u << 20, whole = size + 2 * alignment;
    uint8_t *p = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(p != MAP_FAILED);
    uint8_t *at = (uint8_t *)(((uintptr_t)p + alignment) & ~(alignment - 1));
    g_assert_cmpint(munmap(at + size + FF_DELTA_PAGE, p + whole - at - size - FF_DELTA_PAGE), ==,
                    0);
    g_assert_cmpint(mprotect(at, size, PROT_READ | PROT_WRITE), ==, 0);
    memset(at, 1, size);
    return at;
}

static void given_back(const FfPlainPeer *peer, void *opaque)
{
}

typedef struct {
    const char *name;
    bool plain, refused, unwanted;
    uint64_t least, most; /* bytes that are counted */
} Read;

#define BLOCK (48u << 20)
#define LIMIT (4u << 20)

static const Read reads[] = {
    {"whole", .least = BLOCK, .most = BLOCK + (8u << 20)},
    {"decided", .plain = true, .least = LIMIT, .most = LIMIT + 2 * FF_DELTA_PAGE},
    {"refused", .refused = true},
    {"unwanted", .unwanted = true, .most = FF_DELTA_PAGE},
};

/* A guest whose memory is all QEMU's has a lot of it. */
static void test_read(gconstpointer data)
{
    const Read *row = data;
    FfPlain plain = {0};
    Rig r;

    rig_init(&r, false, FF_COMPRESS_NEVER);
    g_clear_pointer(&r.s.device_base, ff_delta_free);
    r.s.plain = &plain;
    plain.cfg = &r.cfg;
    plain.control = &r.control;
    r.control.ops.plain = given_back;
    r.cfg.plain = row->plain;
    r.cfg.refusal = row->refused ? "no" : NULL;
    r.cfg.switchover_bandwidth = LIMIT;
    r.cfg.downtime_limit = 1000;
    r.s.base_unwanted = row->unwanted;
    r.s.private_rest = 0;
    r.cfg.maps_fd = open("/proc/self/maps", O_RDONLY);
    r.cfg.pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
    r.cfg.mem_fd = -1; /* what is counted only is not read */
    uint8_t *block = make_block(BLOCK);

    g_assert_null(ff_source_read_base(&r.s));
    g_assert_cmpuint(r.s.private_rest, >=, row->least);
    g_assert_cmpuint(r.s.private_rest, <=, row->most);
    g_assert_cmpint(r.s.private_more, ==, row->plain);
    if (row->plain) {
        g_assert_false(fits(&r, 1000));
        g_assert_false(fits(&r, 1000000)); /* raised meanwhile: there is more */
    }
    munmap(block, BLOCK);
    close(r.cfg.maps_fd);
    close(r.cfg.pagemap_fd);
    rig_clear(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/downtime/fits/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_fits);
    }
    g_test_add_func("/downtime/expected", test_expected);
    for (unsigned i = 0; i < G_N_ELEMENTS(aheads); i++) {
        g_autofree char *path = g_strdup_printf("/downtime/ahead/%s", aheads[i].name);
        g_test_add_data_func(path, &aheads[i], test_ahead);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_autofree char *path = g_strdup_printf("/downtime/read/%s", reads[i].name);
        g_test_add_data_func(path, &reads[i], test_read);
    }
    g_test_add_func("/downtime/little", test_little);
    g_test_add_func("/downtime/older-peer", test_older_peer);
    return g_test_run();
}
