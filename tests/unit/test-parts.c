/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two guests are made of: which difference is named and how ("compare/..."), and that a
 * source learns of it before anything is stopped, also with a peer that does not know of it
 * ("pair/...").
 */
#include <string.h>

#include "migration/destination/parts.h"
#include "tests/lib/delay.h"
#include "tests/lib/pair.h"

#define MACHINE "machine\ttype\tpc-1\t\n"
#define CPU(n) "cpu\t" n "\t\t\n"
#define DEVICE(at, type) "device\tpci.0/" at "\t" type "\t" type " 'id'\n"
#define PCI(at, id) "pci\t00:" at "\t" id "\tPCI device " id "\n"
#define OTHER(what, n) "other\t" what "\t" n "\t" what "\n"
#define VERSION(v) "qemu\tversion\t" v "\t\n"
#define GUEST MACHINE CPU("0") DEVICE("04.0", "net") PCI("04.0", "1af4:1000")

typedef struct {
    const char *name, *source, *destination;
    const char *refusal, *differences, *versions;
} Case;

static const Case cases[] = {
    {"equal", GUEST, GUEST, NULL, NULL, NULL},
    {"machine", MACHINE, "machine\ttype\tq35-2\t\n",
     "machine type pc-1 at the source, q35-2 at the destination: start both with the same -machine",
     NULL, NULL},
    {"fewer-cpus", GUEST CPU("1") CPU("2"), GUEST,
     "3 virtual CPUs at the source, 1 at the destination: start both with the same -smp", NULL,
     NULL},
    {"other-cpus", CPU("0") CPU("2"), CPU("0") CPU("1"),
     "2 virtual CPUs at the source, 2 at the destination: start both with the same -smp", NULL,
     NULL},
    {"more-cpus", GUEST, GUEST CPU("1"), NULL, "1 virtual CPUs at the source, 2 at the destination",
     NULL},
    {"no-device", GUEST DEVICE("05.0", "disk") PCI("05.0", "1af4:1001"), GUEST,
     "the source has disk 'id' at pci.0/05.0, the destination nothing there: start both with the "
     "same devices",
     NULL, NULL},
    {"other-device", DEVICE("04.0", "disk"), DEVICE("04.0", "net"),
     "the source has disk 'id' at pci.0/04.0, the destination has net 'id': start both with the "
     "same devices",
     NULL, NULL},
    {"builtin-device", GUEST PCI("03.0", "8086:100e"), GUEST,
     "the source has PCI device 8086:100e at 00:03.0, the destination nothing there: start both "
     "with the same devices",
     NULL, NULL},
    {"many-devices",
     DEVICE("1", "a") DEVICE("2", "b") DEVICE("3", "c") DEVICE("4", "d") DEVICE("5", "e"), CPU("0"),
     "the source has a 'id' at pci.0/1, the destination nothing there; the source has b 'id' at "
     "pci.0/2, the destination nothing there; the source has c 'id' at pci.0/3, the destination "
     "nothing there; and 2 more: start both with the same devices",
     "0 virtual CPUs at the source, 1 at the destination", NULL},
    {"more-devices", GUEST, GUEST DEVICE("05.0", "disk") PCI("05.0", "1af4:1001"), NULL,
     "the destination has disk 'id' at pci.0/05.0, the source nothing there", NULL},
    /* QEMU saves nothing of it, and does not miss it. */
    {"no-state", GUEST DEVICE("05.0", "edu") PCI("05.0", "1234:11e8"), GUEST, NULL,
     "the source has edu 'id' at pci.0/05.0, the destination nothing there", NULL},
    /* QEMU may take such a guest, or say nothing of it. */
    {"others", GUEST OTHER("usb-tablet on usb.0", "2"), GUEST OTHER("isa-debugcon", "1"), NULL,
     "usb-tablet on usb.0: 2 at the source, none at the destination; isa-debugcon: none at the "
     "source, 1 at the destination",
     NULL},
    {"versions", VERSION("7.2.0") GUEST, GUEST VERSION("10.0.2"), NULL, NULL,
     "QEMU 7.2.0 at the source, 10.0.2 at the destination"},
    /* Of a newer version, or hostile. */
    {"unknown-kind", GUEST "colour\tof it\tred\tred\n", GUEST, NULL, NULL, NULL},
    {"more-fields", "cpu\t0\t\t\tmore\n", "cpu\t0\t\t\n", NULL, NULL, NULL},
    {"no-text", "", GUEST, NULL,
     "0 virtual CPUs at the source, 1 at the destination; the destination has net 'id' at "
     "pci.0/04.0, the source nothing there; the destination has PCI device 1af4:1000 at 00:04.0, "
     "the source nothing there",
     NULL},
    {"no-lines", "cpu\n\t\t\t\t\t\ncpu\t\n\n", "machine", NULL, NULL, NULL},
    {"forged", GUEST DEVICE("05.0", "\033[2Jx\rfarfault: well"), GUEST,
     "the source has ?[2Jx?farfault: well 'id' at pci.0/05.0, the destination nothing there: start "
     "both with the same devices",
     NULL, NULL},
};

static void test_compare(const void *data)
{
    const Case *c = data;
    g_auto(FfPartsFit) fit = ff_parts_compare(c->source, c->destination);

    g_assert_cmpstr(fit.refusal, ==, c->refusal);
    g_assert_cmpstr(fit.differences, ==, c->differences);
    g_assert_cmpstr(fit.versions, ==, c->versions);
}

/* ---- a migration ----------------------------------------------------------------------------- */

static char *guest_parts(FfVmmState *state)
{
    return g_strdup(VERSION("7.2.0") GUEST);
}

static char *other_machine(FfVmmState *state)
{
    return g_strdup("machine\ttype\tq35-2\t\n" CPU("0"));
}

static char *more_parts(FfVmmState *state)
{
    return g_strdup(VERSION("10.0.0") GUEST DEVICE("05.0", "disk"));
}

static Pair start(char *(*source)(FfVmmState *), char *(*destination)(FfVmmState *))
{
    Pair p = pair_idle(1);

    p.s->vmm.state.parts = source;
    p.d->vmm.state.parts = destination;
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    return p;
}

#define SECTION(length, path, name) length path "/" name "\0\0\0\0"
#define TAIL                                                                                       \
    SECTION("\x11", "0000:00:04.0", "disk")                                                        \
    "\x7e" SECTION("\x10", "0000:00:02.0", "vga") SECTION("\x15", "0000:00:03.0:01.0", "net")

/* Of a saved guest there are the names of sections alone. */
static void test_more(void)
{
    static const struct {
        const char *parts, *more;
    } all[] = {
        {DEVICE("04.0", "disk") DEVICE("03.0/01.0", "net") PCI("02.0", "1234:1111"), NULL},
        {DEVICE("05.0", "net") DEVICE("05.0/04.0", "disk") DEVICE("04.0", "disk"),
         "QEMU has net 'id' at pci.0/05.0, the saved guest nothing there; QEMU has disk 'id' at "
         "pci.0/05.0/04.0, the saved guest nothing there"},
        {PCI("05.0", "8086:100e"),
         "QEMU has PCI device 8086:100e at 00:05.0, the saved guest nothing there"},
        {DEVICE("05.0", "edu") PCI("05.0", "1234:11e8") OTHER("isa-serial", "1") CPU("0"), NULL},
        {"", NULL},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *more = ff_parts_more(all[i].parts, TAIL, sizeof(TAIL) - 1);
        g_assert_cmpstr(more, ==, all[i].more);
    }
    g_autofree char *cut = ff_parts_more(DEVICE("04.0", "disk"), TAIL, 10);
    g_assert_nonnull(cut);
}

static void test_refused(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = start(guest_parts, other_machine);
    g_autofree char *uri = pair_address(p.d);
    side_start(p.s, uri, -1);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_autoptr(FfMigrationInfo) i = ff_migration_info(p.s->m);
    g_assert_cmpstr(i->error_desc, ==,
                    "the destination refused: machine type pc-1 at the source, q35-2 at the "
                    "destination: start both with the same -machine");
    pair_free(&p);
}

static void test_told(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = start(guest_parts, more_parts);
    g_autofree char *uri = pair_address(p.d);
    side_start(p.s, uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    g_autoptr(FfMigrationInfo) i = ff_migration_info(p.s->m);
    g_assert_cmpstr(i->differences, ==,
                    "the destination has disk 'id' at pci.0/05.0, the source nothing there");
    pair_free(&p);
}

/* QEMU does not load it all the same: what differs may be why. */
static void test_suspected(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = start(guest_parts, more_parts);
    g_autofree char *uri = pair_address(p.d);
    p.d->refuse_load = true;
    side_start(p.s, uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&p.s->runs));
    g_autoptr(FfMigrationInfo) i = ff_migration_info(p.s->m);
    g_test_message("%s", i->error_desc);
    g_assert_nonnull(strstr(i->error_desc,
                            "(the guests differ: the destination has disk 'id' at pci.0/05.0, the "
                            "source nothing there; QEMU 7.2.0 at the source, 10.0.0 at the "
                            "destination)"));
    pair_free(&p);
}

/* A side that does not know of it says nothing, and is told nothing. */
static void test_older_destination(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = start(guest_parts, other_machine);
    g_autofree char *uri = pair_address(p.d);
    Delay *proxy = delay_new(uri, 0);
    delay_hide(proxy, FF_FEATURE_PARTS);
    side_start(p.s, delay_uri(proxy), -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    delay_free(proxy);
    pair_free(&p);
}

static void test_older_source(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = start(NULL, other_machine);
    g_autofree char *uri = pair_address(p.d);
    side_start(p.s, uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    pair_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/parts/compare/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_compare);
    }
    g_test_add_func("/parts/more", test_more);
    g_test_add_func("/parts/pair/refused", test_refused);
    g_test_add_func("/parts/pair/told", test_told);
    g_test_add_func("/parts/pair/suspected", test_suspected);
    g_test_add_func("/parts/pair/older-destination", test_older_destination);
    g_test_add_func("/parts/pair/older-source", test_older_source);
    return g_test_run();
}
