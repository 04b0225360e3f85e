/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that writes its memory faster than the link carries it, over a real, shaped link: with
 * x-farfault-auto-postcopy nobody needs to end its precopy, and what goes over the link stays below
 * twice its RAM. And a display's memory, which travels with the device state, while the guest
 * stands still: compressed where the link is slow.
 */
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/display.h"
#include "tests/lib/move.h"
#include "tests/lib/shapednet.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define BUSY_MIB 48
#define LINK_MEGABITS 200
/* Of the display: so slow that an engine which gets little of a processor still waits for it. */
#define DISPLAY_RAM_MIB 32
#define DISPLAY_MEGABITS 40
/* Where SeaBIOS puts the display's memory of 16 MiB, and how much of it is used. */
#define VRAM 0xfd000000ull
#define VRAM_BYTES (4ll << 20)

typedef struct {
    unsigned ram_mib, megabits;
    ShapedNet *net;
    BootsectConfig boot;
    const char *more[2]; /* words of QEMU's; NULL ends them */
    Vm *source, *destination;
} Hosts;

static Vm *start(const Hosts *h, ShapedPlace place, const char *name, const char *incoming)
{
    const char *args[] = {"-machine", "pc", "-smp", "2", h->more[0], h->more[1], NULL};
    g_autofree char *memory = g_strdup_printf("%uM", h->ram_mib);

    shaped_net_enter(h->net, place);
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = memory,
                                .args = args,
                                .boot = &h->boot,
                                .incoming = incoming});
}

/* FALSE: the test is skipped. */
static bool hosts_start(Hosts *h)
{
    const char *why = NULL;

    if (vm_farfault_available(&why))
        h->net = shaped_net_new(h->megabits, &why);
    if (!h->net) {
        g_test_skip(why);
        return false;
    }
    h->source = start(h, SHAPED_SOURCE, "source", NULL);
    h->destination = start(h, SHAPED_DESTINATION, "destination", "defer");
    return true;
}

static void hosts_end(Hosts *h)
{
    vm_end(h->source);
    vm_end(h->destination);
    shaped_net_free(h->net);
}

static void migrate(Hosts *h)
{
    Qmp *s = vm_qmp(h->source), *d = vm_qmp(h->destination);

    vm_wait_serial(h->source, "AB");
    move_prepare(h->source, h->destination);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:" SHAPED_ADDRESS_DESTINATION ":0'}");
    g_autofree char *uri = move_listen_uri(h->destination);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': 0, 'downtime-limit': 10, 'x-farfault-auto-postcopy': true}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "postcopy-active");
    qmp_expect(d, "RESUME");
    move_wait_completed(h->source, h->destination);
}

static void check(Hosts *h)
{
    int64_t limit = 2ll * RAM_MIB << 20, said = move_ram_count(h->source, "transferred");
    int64_t sent = shaped_net_sent(h->net, SHAPED_SOURCE);

    g_test_message("%d MiB of RAM, %d written: %" G_GINT64_FORMAT " KiB sent, %" G_GINT64_FORMAT
                   " KiB on the link",
                   RAM_MIB, BUSY_MIB, said >> 10, sent >> 10);
    g_assert_cmpint(said, >, (int64_t)BUSY_MIB << 20);
    g_assert_cmpint(sent, >=, said);
    g_assert_cmpint(sent, <, limit);
    vm_wait_new_serial(h->destination, "B");
    qmp_ok(vm_qmp(h->destination), "stop", NULL);
    g_autofree char *counters = check_counters(h->destination, &h->boot);
    g_assert_cmpstr(counters, ==, NULL);
    g_autofree char *memory =
        check_moved(h->source, h->destination, &h->boot, (uint64_t)RAM_MIB << 20);
    g_assert_cmpstr(memory, ==, NULL);
}

static void test_auto(void)
{
    Hosts h = {.ram_mib = RAM_MIB,
               .megabits = LINK_MEGABITS,
               .boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2)};

    if (!hosts_start(&h))
        return;
    migrate(&h);
    check(&h);
    hosts_end(&h);
}

static int64_t device_bytes(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    return json_object_get_int_member(json_object_get_object_member(info, "x-farfault"),
                                      "device-bytes");
}

static void test_display(void)
{
    Hosts h = {.ram_mib = DISPLAY_RAM_MIB,
               .megabits = DISPLAY_MEGABITS,
               .boot = bootsect_config((uint64_t)DISPLAY_RAM_MIB << 20, 0, 1),
               .more = {"-vga", "std"}};

    if (!hosts_start(&h))
        return;
    vm_wait_serial(h.source, "AB");
    /* In every page something, most of it zeros. */
    for (uint64_t at = 0; at < VRAM_BYTES; at += 4096 - 8) {
        qtest_writeq(vm_qtest(h.source), VRAM + at, ~at);
    }
    move_prepare(h.source, h.destination);
    qmp_ok(vm_qmp(h.destination), "migrate-incoming",
           "{'uri': 'tcp:" SHAPED_ADDRESS_DESTINATION ":0'}");
    g_autofree char *uri = move_listen_uri(h.destination);
    qmp_ok(vm_qmp(h.source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(h.source), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(h.destination), "RESUME");
    move_wait_completed(h.source, h.destination);
    int64_t pages = move_ram_count(h.source, "normal-bytes"), device = device_bytes(h.source);
    int64_t sent = move_ram_count(h.source, "transferred");
    g_test_message("%" G_GINT64_FORMAT " KiB of pages, %" G_GINT64_FORMAT
                   " KiB of device state: %" G_GINT64_FORMAT " KiB sent",
                   pages >> 10, device >> 10, sent >> 10);
    g_assert_cmpint(device, >, VRAM_BYTES);
    g_assert_cmpint(device_bytes(h.destination), ==, device);
    g_assert_cmpint(sent, <, pages + pages / 100 + device / 2);
    vm_wait_new_serial(h.destination, "B");
    qmp_ok(vm_qmp(h.destination), "stop", NULL);
    check_right(check_equal(h.source, h.destination, VRAM, VRAM + VRAM_BYTES));
    check_right(check_moved(h.source, h.destination, &h.boot, (uint64_t)DISPLAY_RAM_MIB << 20));
    hosts_end(&h);
}

/* ---- a display whose memory is full, beside plain QEMU --------------------------------------- */

#define FULL_MIB 24
#define FULL_BYTES ((uint64_t)FULL_MIB << 20)

/* A migration to nobody: the engine that it leaves behind has looked at QEMU's own memory, and
 * cannot once more. */
static void move_in_vain(const DisplayPair *p)
{
    Qmp *s = vm_qmp(p->source);

    qmp_set_capability(s, "events", true);
    qmp_set_capability(s, "postcopy-ram", true);
    qmp_ok(s, "migrate-set-parameters", "{'downtime-limit': 2000}");
    qmp_ok(s, "migrate", "{'uri': 'tcp:" SHAPED_ADDRESS_DESTINATION ":1'}");
    qmp_expect_migration(s, "failed");
}

typedef struct {
    VmLauncher launcher;
    unsigned limit_ms;
    const char *engine; /* who is to carry it; NULL: not asked */
    bool again;
    uint64_t drawn;       /* bytes; 0: FULL_BYTES */
    const char *creds;    /* TLS with a key of these; NULL: in the clear */
    const char *compress; /* x-farfault-compress; NULL: not set */
} FullMove;

static void set_up(const DisplayPair *p, const FullMove *m)
{
    if (m->creds) {
        move_set_tls(p->source, m->creds, "psk", false, NULL);
        move_set_tls(p->destination, m->creds, "psk", true, NULL);
    }
    if (m->compress) {
        qmp_ok(vm_qmp(p->source), "migrate-set-parameters", "{'x-farfault-compress': '%s'}",
               m->compress);
    }
    if (m->again) {
        move_in_vain(p);
    }
}

static int64_t move_full_display(const ShapedNet *net, const FullMove *m)
{
    static const char *const args[] = {"-machine",         "pc", "-vga", "none", "-device",
                                       "VGA,vgamem_mb=32", NULL};
    uint64_t drawn = m->drawn ? m->drawn : FULL_BYTES;
    DisplayPair p = display_pair_start(&(DisplayConfig){
        .net = net, .more = args, .memory = G_STRINGIFY(RAM_MIB) "M", .launcher = m->launcher});

    display_draw(&p, 0, drawn, 1);
    set_up(&p, m);
    int64_t us = display_move(&p, m->limit_ms);
    if (m->engine) {
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(p.source), "query-migrate", NULL);
        JsonObject *ours = json_object_get_object_member(info, "x-farfault");
        const char *reason = json_object_get_string_member_with_default(ours, "reason", "");

        g_assert_cmpstr(json_object_get_string_member(ours, "engine"), ==, m->engine);
        g_assert_cmpint(strstr(reason, "downtime-limit") != NULL, ==, !strcmp(m->engine, "qemu"));
    }
    qmp_ok(vm_qmp(p.destination), "stop", NULL);
    check_right(check_equal(p.source, p.destination, p.vram, p.vram + drawn));
    display_pair_end(&p);
    return us;
}

/* Memory that QEMU keeps to itself counts against the limit: where it would take longer, QEMU,
 * which sends it while the guest runs, carries the migration. Where the client allows it, farfault
 * does. */
static void test_full_display(void)
{
    const int64_t link_us = FULL_BYTES * 8 / LINK_MEGABITS;
    const char *why = NULL;
    ShapedNet *net = vm_farfault_available(&why) ? shaped_net_new(LINK_MEGABITS, &why) : NULL;

    if (!net) {
        g_test_skip(why);
        return;
    }
    int64_t qemu = move_full_display(net, &(FullMove){VM_PLAIN, 20});
    int64_t short_limit = move_full_display(net, &(FullMove){VM_RUN, 20, "qemu"});
    int64_t again = move_full_display(net, &(FullMove){VM_RUN, 20, "qemu", .again = true});
    int64_t long_limit = move_full_display(net, &(FullMove){VM_RUN, 2000, "farfault"});
    g_test_message("%d MiB drawn, %d Mbit/s: QEMU %" G_GINT64_FORMAT
                   " us, through farfault with the same limit %" G_GINT64_FORMAT
                   " us, at the second try %" G_GINT64_FORMAT
                   " us, with a limit of 2 s %" G_GINT64_FORMAT " us",
                   FULL_MIB, LINK_MEGABITS, qemu, short_limit, again, long_limit);
    g_assert_cmpint(MAX(short_limit, again), <, qemu + link_us / 2);
    shaped_net_free(net);
}

/* What would go ahead, and under TLS does not unless compression is allowed, counts. A limit that
 * is less than DRAWN takes at 1 Gbit/s. */
static void test_tls_display(void)
{
    const uint64_t drawn = 6 << 20;
    const unsigned limit_ms = 40;
    const char *why = "openssl is not installed";
    g_autofree char *creds = certs_new_pair();
    ShapedNet *net =
        creds && vm_farfault_available(&why) ? shaped_net_new(LINK_MEGABITS, &why) : NULL;

    if (net) {
        move_full_display(net, &(FullMove){VM_RUN, limit_ms, "farfault", .drawn = drawn});
        move_full_display(net,
                          &(FullMove){VM_RUN, limit_ms, "qemu", .drawn = drawn, .creds = creds});
        move_full_display(net, &(FullMove){VM_RUN, limit_ms, "farfault", .drawn = drawn,
                                           .creds = creds, .compress = "auto"});
        shaped_net_free(net);
    } else {
        g_test_skip(why);
    }
    if (creds) {
        certs_remove(creds);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shaped/auto-postcopy", test_auto);
    g_test_add_func("/shaped/display", test_display);
    g_test_add_func("/shaped/full-display", test_full_display);
    g_test_add_func("/shaped/tls-display", test_tls_display);
    return g_test_run();
}
