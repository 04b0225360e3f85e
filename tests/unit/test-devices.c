/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration of a guest whose devices are other processes, without QEMU: they write past every
 * mapping that is tracked, and into a log. Every case compares the two memories byte for byte, or
 * finds the guest where it was.
 */
#include <gio/gio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/side.h"

#define MIB (1ull << 20)
#define RAM (16 * MIB)
#define PAGES (RAM / PAGE)
#define WRITERS 2
/* Written while the guest is being stopped, as by requests that are drained. */
#define LAST 64

typedef enum { NEVER, IN_ROUNDS, WHILE_STOPPED, AT_THE_SWITCH } Loss;

/* One guest's devices, and the log that they are told to write. */
static struct {
    Side *s;
    uint64_t log[PAGES / 64]; /* atomic */
    gint logs, over;          /* atomic */
    gint lost;                /* atomic: the log is not whole */
    Loss loss;
    unsigned begins, ends; /* coordinator */
    unsigned takes;        /* coordinator */
    unsigned stopped;      /* coordinator: log_whole() of a guest that has stopped */
    unsigned told;         /* the destination's coordinator */
    GThread *writers[WRITERS];
    bool (*stop)(FfVmmRun *run, char **run_state, GError **error);
    FfGuestFit (*check)(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                        GError **error);
} devices;

/* Data first, then its bit. */
static void write_page(uint64_t page, uint64_t value)
{
    const FfRamBlock *block = devices.s->blocks->pdata[0];
    uint64_t data[PAGE / 8];

    for (unsigned i = 0; i < PAGE / 8; i++) {
        data[i] = value;
    }
    g_assert_cmpint(pwrite(block->memfd, data, PAGE, page * PAGE), ==, PAGE);
    if (g_atomic_int_get(&devices.logs)) {
        __atomic_or_fetch(&devices.log[page / 64], 1ull << page % 64, __ATOMIC_SEQ_CST);
    }
}

static gpointer write_always(gpointer opaque)
{
    uint64_t x = GPOINTER_TO_SIZE(opaque) + 1;

    while (!g_atomic_int_get(&devices.over)) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        write_page((x >> 40) % PAGES, x);
        g_usleep(500); /* a disk's own pace, nothing is waited for */
    }
    return NULL;
}

/* ---- what the VMM says of them --------------------------------------------------------------- */

static FfGuestFit check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                        GError **error)
{
    memory->has_devices = memory->takes_devices;
    memory->takes_devices = false;
    return devices.check(memory, role, blocks, uuid, error);
}

static bool log_begin(FfVmmMemory *memory, GError **error)
{
    devices.begins++;
    g_atomic_int_set(&devices.logs, 1);
    return true;
}

static void log_take(FfVmmMemory *memory, FfVmmWritten *fn, void *opaque)
{
    devices.takes++;
    for (unsigned i = 0; i < PAGES / 64; i++) {
        uint64_t bits = __atomic_exchange_n(&devices.log[i], 0, __ATOMIC_SEQ_CST);

        for (unsigned k = 0; k < 64; k++) {
            if (bits >> k & 1) {
                fn(0, (i * 64 + k) * PAGE, PAGE, opaque);
            }
        }
    }
}

static bool log_whole(FfVmmMemory *memory, bool stopped, GError **error)
{
    g_assert_cmpint(stopped, ==, !g_atomic_int_get(&devices.s->runs));
    devices.stopped += stopped;
    if ((devices.loss == IN_ROUNDS && devices.takes > 2) || g_atomic_int_get(&devices.lost)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "a device has gone");
        return false;
    }
    return true;
}

static void log_end(FfVmmMemory *memory)
{
    devices.ends += g_atomic_int_get(&devices.logs);
    g_atomic_int_set(&devices.logs, 0);
}

/* At the destination: nothing is missing any more, and an engine that comes after a crash knows
 * it. */
static void all_here(FfVmmMemory *memory)
{
    const Side *d = (Side *)ff_vmm_of_memory(memory);

    g_assert_cmpuint(d->state->phase, ==, FF_PHASE_DONE);
    devices.told++;
}

/* Some of each window is written again before it is copied. */
static bool write_some(GError **error)
{
    for (uint64_t page = 0; page < 8; page++) {
        write_page(page, devices.takes * 100 + page);
    }
    return true;
}

static void end_writers(void)
{
    g_atomic_int_set(&devices.over, 1);
    for (unsigned i = 0; i < WRITERS; i++) {
        if (devices.writers[i]) {
            g_thread_join(g_steal_pointer(&devices.writers[i]));
        }
    }
}

/* Its answer comes when they have finished, into pages that were sent long ago. */
static bool stop(FfVmmRun *run, char **run_state, GError **error)
{
    end_writers();
    for (uint64_t page = PAGES - LAST; page < PAGES; page++) {
        write_page(page, page * 7);
    }
    g_atomic_int_set(&devices.lost, devices.loss >= WHILE_STOPPED);
    return devices.stop(run, run_state, error);
}

/* ---- the cases ------------------------------------------------------------------------------- */

static Side *source_new(Loss loss)
{
    const uint64_t size = RAM;

    memset(&devices, 0, sizeof(devices));
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);

    devices.s = s;
    devices.loss = loss;
    devices.stop = s->vmm.run.stop;
    devices.check = s->vmm.memory.check;
    s->vmm.run.stop = stop;
    s->vmm.memory.check = check;
    s->vmm.memory.log_begin = log_begin;
    s->vmm.memory.log_take = log_take;
    s->vmm.memory.log_whole = log_whole;
    s->vmm.memory.log_end = log_end;
    s->drain = write_some;
    s->track = s->alone = true;
    s->config.downtime_limit = 300;
    side_fill(s);
    return s;
}

static void start(Side *s, Side *d)
{
    d->mirror = s;
    side_run(s);
    for (unsigned i = 0; i < WRITERS; i++) {
        devices.writers[i] = g_thread_new("device", write_always, GSIZE_TO_POINTER(i));
    }
    side_start(d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    side_start(s, info->socket_address, -1);
}

static Side *destination_new(void)
{
    const uint64_t size = RAM;
    Side *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    d->vmm.memory.all_here = all_here;
    return d;
}

static void end(Side *s, Side *d)
{
    end_writers();
    side_free(s);
    side_free(d);
}

/* TRUE if this kernel cannot track, which is then what the migration has failed for. */
static bool is_untracked(Side *s)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);

    if (info->error_desc && strstr(info->error_desc, "Linux 6.7")) {
        g_test_skip(info->error_desc);
        return true;
    }
    return false;
}

/* With a switch by itself, which such a guest never makes. */
static void test_moved(void)
{
    if (!side_possible()) {
        return;
    }
    Side *s = source_new(NEVER), *d = destination_new();

    s->config.auto_postcopy = true;
    start(s, d);
    side_run_until(s->done && d->done);
    if (!is_untracked(s)) {
        g_assert_cmpstr(s->history->str, ==, "setup active device completed");
        g_assert_cmpint(memcmp(s->map[0], d->map[0], RAM), ==, 0);
        g_assert_cmpuint(devices.begins, ==, 1);
        g_assert_cmpuint(devices.stopped, ==, 1);
        g_assert_cmpuint(devices.ends, ==, 1);
        g_assert_cmpuint(devices.told, ==, 1);
    }
    end(s, d);
}

/* A log that is not whole, in a round or after the stop: the guest continues where it was, and is
 * moved by the next migration. */
static void test_lost(gconstpointer data)
{
    Loss loss = GPOINTER_TO_UINT(data);

    if (!side_possible()) {
        return;
    }
    Side *s = source_new(loss), *d = destination_new();

    s->alone = loss != AT_THE_SWITCH;
    start(s, d);
    if (loss == AT_THE_SWITCH) {
        ff_migration_start_postcopy(s->m, NULL);
    }
    side_run_until(s->done && d->done);
    if (is_untracked(s)) {
        end(s, d);
        return;
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_nonnull(strstr(info->error_desc, "a device has gone"));
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_false(g_atomic_int_get(&d->runs));
    g_assert_cmpuint(devices.told, ==, 0);
    g_assert_cmpuint(devices.ends, ==, 1);
    end_writers(); /* where nothing was stopped, they write still */
    side_free(d);
    ff_migration_free(g_steal_pointer(&s->m));
    devices.loss = NEVER;
    g_atomic_int_set(&devices.over, 0);
    g_atomic_int_set(&devices.lost, 0);
    s->done = false;
    s->status = FF_STATUS_NONE;
    g_string_truncate(s->history, 0);
    d = destination_new();
    s->alone = true;
    start(s, d);
    side_run_until(s->done && d->done);
    g_assert_cmpstr(s->history->str, ==, "setup active device completed");
    g_assert_cmpint(memcmp(s->map[0], d->map[0], RAM), ==, 0);
    g_assert_cmpuint(devices.begins, ==, 2);
    g_assert_cmpuint(devices.ends, ==, 2);
    end(s, d);
}

/* The switch, at once or after some rounds: what such devices wrote before is not taken for what
 * was sent, and they are told when nothing is missing. */
static void test_postcopy(gconstpointer data)
{
    unsigned passes = GPOINTER_TO_UINT(data);

    if (!side_possible()) {
        return;
    }
    Side *s = source_new(NEVER), *d = destination_new();

    s->alone = false;
    s->config.downtime_limit = 0;
    start(s, d);
    side_run_until(s->done || s->passes >= passes);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    if (!is_untracked(s)) {
        g_assert_cmpstr(s->history->str, ==, "setup active device postcopy-active completed");
        g_assert_cmpint(memcmp(s->map[0], d->map[0], RAM), ==, 0);
        g_assert_cmpuint(devices.begins, ==, 1);
        g_assert_cmpuint(devices.stopped, ==, 1);
        g_assert_cmpuint(devices.ends, ==, 1);
        g_assert_cmpuint(devices.told, ==, 1);
    }
    end(s, d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/devices/moved", test_moved);
    g_test_add_data_func("/devices/lost/round", GUINT_TO_POINTER(IN_ROUNDS), test_lost);
    g_test_add_data_func("/devices/lost/stopped", GUINT_TO_POINTER(WHILE_STOPPED), test_lost);
    g_test_add_data_func("/devices/lost/postcopy", GUINT_TO_POINTER(AT_THE_SWITCH), test_lost);
    g_test_add_data_func("/devices/postcopy/at-once", GUINT_TO_POINTER(0), test_postcopy);
    g_test_add_data_func("/devices/postcopy/hybrid", GUINT_TO_POINTER(2), test_postcopy);
    return g_test_run();
}
