/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest moves with x-farfault-compress between two real QEMUs: channels × TLS × an interruption
 * in the middle, by postcopy and by precopy alone; over a shaped link, where "auto" finds out by
 * itself that it gains. The guest is compared at the end.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/shapednet.h"
#include "tests/lib/vm.h"
#include "tests/lib/wiretap.h"

#define MEMORY "64M"
#define RAM (64u << 20)
#define LINK_MEGABITS 50 /* slower than the source on any machine */

static char *credentials; /* NULL: no openssl command */

typedef struct {
    const char *name;
    const char *compress;
    unsigned level, channels;
    bool tls, recovers, precopy;
    bool paused; /* nobody asks for a page: bulk sends all */
} Row;

static const Row rows[] = {
    {"never", "never", 1, 1},
    {"always", "always", 1, 1},
    {"channels", "always", 1, 4},
    {"paused", "always", 1, 1, .paused = true},
    {"channels/paused", "always", 1, 4, .paused = true},
    {"level", "always", 19, 1, .paused = true},
    {"recovery", "always", 1, 1, .recovers = true},
    {"channels/recovery", "always", 3, 4, .recovers = true},
    {"tls", "always", 1, 1, .tls = true, .paused = true},
    {"tls/channels/recovery", "always", 1, 4, .tls = true, .recovers = true},
    {"precopy", "always", 1, 1, .precopy = true},
    {"precopy/tls", "always", 1, 1, .tls = true, .precopy = true},
};

typedef struct {
    const Row *row;
    BootsectConfig boot;
    Vm *source, *destination;
    Qmp *s, *d;
} Moved;

static int64_t own_count(Qmp *q, const char *name)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);

    return json_object_get_int_member(json_object_get_object_member(info, "x-farfault"), name);
}

static Vm *start(const Moved *m, const char *name, const char *incoming, bool paused)
{
    static const char *const args[] = {"-machine", "pc", "-smp", "2", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = MEMORY,
                                .args = args,
                                .boot = &m->boot,
                                .incoming = incoming,
                                .paused = paused});
}

static void set_up(Moved *m)
{
    vm_wait_serial(m->source, "AB");
    move_prepare(m->source, m->destination);
    qmp_ok(m->s, "migrate-set-parameters",
           "{'x-farfault-compress': '%s', 'x-farfault-zstd-level': %u, 'x-farfault-channels': %u}",
           m->row->compress, m->row->level, m->row->channels);
    if (m->row->tls) {
        move_set_tls(m->source, credentials, "psk", false, NULL);
        move_set_tls(m->destination, credentials, "psk", true, NULL);
    }
    if (m->row->recovers) {
        /* Less than what the smallest runs come to. */
        qmp_ok(m->s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 256}");
    }
    if (m->row->precopy) {
        qmp_ok(m->s, "migrate-set-parameters", "{'max-bandwidth': 0, 'downtime-limit': 30000}");
    }
}

/* A slow postcopy is interrupted, and continues through the same tap. */
static void interrupt(Moved *m, const char *uri)
{
    qmp_expect_migration(m->s, "postcopy-active");
    qmp_expect_migration(m->d, "postcopy-active");
    qmp_ok(m->s, "migrate-pause", NULL);
    qmp_expect_migration(m->s, "postcopy-paused");
    qmp_expect_migration(m->d, "postcopy-paused");
    qmp_ok(m->s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(m->s, "migrate", "{'uri': '%s', 'resume': true}", uri);
}

static void check_memory(Moved *m)
{
    if (m->row->paused) {
        qmp_ok(m->d, "cont", NULL);
        qmp_expect(m->d, "RESUME");
    }
    vm_wait_new_serial(m->destination, "B");
    qmp_ok(m->d, "stop", NULL);
    g_autofree char *wrong = check_counters(m->destination, &m->boot);
    g_autofree char *differs = check_moved(m->source, m->destination, &m->boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
    g_assert_cmpstr(differs, ==, NULL);
}

/* What both sides say. */
static void check_counts(Moved *m)
{
    int64_t sent = own_count(m->s, "pages-compressed"), got = own_count(m->d, "pages-compressed");
    bool on = strcmp(m->row->compress, "never") != 0;
    bool by_bulk = m->row->paused || m->row->precopy;

    g_test_message("%" G_GINT64_FORMAT " pages were compressed, %" G_GINT64_FORMAT
                   " KiB on the wire",
                   sent, own_count(m->s, "bytes-wire") >> 10);
    g_assert_true(on || !sent);
    g_assert_true(!on || !by_bulk || sent);
    /* What was on its way when the connection broke has not come. */
    g_assert_cmpint(got, <=, sent);
    g_assert_true(m->row->recovers || got == sent);
}

static void move(gconstpointer data)
{
    const Row *row = data;
    /* Precopy must come to an end by itself. */
    Moved m = {.row = row, .boot = bootsect_config(RAM, row->precopy ? 16 << 20 : 0, 2)};
    const char *why;

    if (!vm_farfault_available(&why) || (m.row->tls && !credentials)) {
        g_test_skip(m.row->tls && !credentials ? "no openssl command" : why);
        return;
    }
    m.source = start(&m, "source", NULL, false);
    m.destination = start(&m, "destination", "defer", m.row->paused);
    m.s = vm_qmp(m.source);
    m.d = vm_qmp(m.destination);
    set_up(&m);
    qmp_ok(m.d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *to = move_listen_uri(m.destination), *path = vm_path(m.source, "tap");
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    Wiretap *tap = wiretap_new(uri, to);

    qmp_ok(m.s, "migrate", "{'uri': '%s'}", uri);
    if (!m.row->precopy)
        qmp_ok(m.s, "migrate-start-postcopy", NULL);
    if (m.row->recovers)
        interrupt(&m, uri);
    move_wait_completed(m.source, m.destination);
    check_counts(&m);
    check_memory(&m);
    uint64_t packed = own_count(m.s, "pages-compressed");
    vm_end(m.source);
    vm_end(m.destination);
    WiretapCounts counts = wiretap_finish(tap);
    g_unlink(path);
    if (!m.row->tls && !m.row->recovers) {
        g_assert_cmpuint(counts.packed, ==, packed);
        g_assert_cmpuint(counts.malformed, ==, 0);
    }
    if (!m.row->recovers && !m.row->precopy)
        g_assert_cmpuint(counts.twice, ==, 0);
}

/* Nobody says that the link is slow: "auto" sees it. */
static void test_shaped(void)
{
    static const Row row = {"shaped", "auto", 1, 1, .paused = true};
    Moved m = {.row = &row, .boot = bootsect_config(RAM, 0, 2)};
    ShapedNet *net = NULL;
    const char *why = NULL;

    if (vm_farfault_available(&why))
        net = shaped_net_new(LINK_MEGABITS, &why);
    if (!net) {
        g_test_skip(why);
        return;
    }
    shaped_net_enter(net, SHAPED_SOURCE);
    m.source = start(&m, "source", NULL, false);
    shaped_net_enter(net, SHAPED_DESTINATION);
    m.destination = start(&m, "destination", "defer", m.row->paused);
    m.s = vm_qmp(m.source);
    m.d = vm_qmp(m.destination);
    set_up(&m);
    qmp_ok(m.d, "migrate-incoming", "{'uri': 'tcp:" SHAPED_ADDRESS_DESTINATION ":0'}");
    g_autofree char *uri = move_listen_uri(m.destination);
    qmp_ok(m.s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(m.s, "migrate-start-postcopy", NULL);
    move_wait_completed(m.source, m.destination);
    check_counts(&m);
    check_memory(&m);
    vm_end(m.source);
    vm_end(m.destination);
    shaped_net_free(net);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    credentials = certs_new_pair();
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/compress/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], move);
    }
    g_test_add_func("/compress/shaped", test_shaped);
    int rc = g_test_run();

    if (credentials)
        certs_remove(credentials);
    g_free(credentials);
    return rc;
}
