/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See display.h. */
#include "tests/lib/display.h"

#include "tests/lib/move.h"

#define PIECE (1u << 20)
#define CLASS_VGA 0x0300

static Vm *start(const DisplayConfig *c, ShapedPlace place, const char *name, const char *incoming)
{
    shaped_net_enter(c->net, place);
    return vm_start(&(VmConfig){.name = name,
                                .launcher = c->launcher,
                                .memory = c->memory,
                                .args = c->more,
                                .boot = c->boot,
                                .incoming = incoming});
}

/* The first region of the display, once the firmware has given it a place; 0: not yet. */
static uint64_t find(Vm *vm)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-pci", NULL);
    JsonObject *bus =
        json_array_get_object_element(json_object_get_array_member(answer, "return"), 0);
    JsonArray *devices = json_object_get_array_member(bus, "devices");

    for (guint i = 0; i < json_array_get_length(devices); i++) {
        JsonObject *o = json_array_get_object_element(devices, i);
        JsonArray *regions = json_object_get_array_member(o, "regions");
        JsonObject *kind = json_object_get_object_member(o, "class_info");
        if (json_object_get_int_member(kind, "class") != CLASS_VGA ||
            !json_array_get_length(regions))
            continue;
        int64_t at =
            json_object_get_int_member(json_array_get_object_element(regions, 0), "address");
        return at > 0 ? at : 0;
    }
    return 0;
}

DisplayPair display_pair_start(const DisplayConfig *c)
{
    DisplayPair p = {.source = start(c, SHAPED_SOURCE, "source", NULL)};

    p.destination = start(c, SHAPED_DESTINATION, "destination", "defer");
    if (c->boot)
        vm_wait_serial(p.source, "B");
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    while (!(p.vram = find(p.source))) {
        if (g_get_monotonic_time() > deadline)
            test_fail("the firmware gives the display's memory no place");
        g_usleep(100000); /* there is no event of it */
    }
    return p;
}

void display_pair_end(DisplayPair *p)
{
    vm_end(p->source);
    vm_end(p->destination);
}

void display_draw(DisplayPair *p, uint64_t at, uint64_t bytes, uint64_t seed)
{
    g_autofree uint64_t *words = g_malloc(PIECE);
    uint64_t x = seed * 2 + 88172645463325253ull;

    for (uint64_t end = at + bytes; at < end; at += PIECE) {
        for (unsigned i = 0; i < PIECE / sizeof(x); i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            words[i] = x;
        }
        qtest_write(vm_qtest(p->source), p->vram + at, words, MIN(PIECE, end - at));
    }
}

static int64_t event_us(Vm *vm, const char *name)
{
    g_autoptr(JsonObject) event = qmp_wait_event(vm_qmp(vm), name, NULL, NULL, 2 * TEST_TIMEOUT);
    JsonObject *time = json_object_get_object_member(event, "timestamp");

    return json_object_get_int_member(time, "seconds") * G_USEC_PER_SEC +
           json_object_get_int_member(time, "microseconds");
}

static char *begin(DisplayPair *p, bool preempt)
{
    Vm *both[] = {p->source, p->destination};

    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        qmp_set_capability(vm_qmp(both[i]), "events", true);
        /* Only then does farfault's engine carry it. */
        qmp_set_capability(vm_qmp(both[i]), "postcopy-ram", true);
        if (preempt) {
            qmp_set_capability(vm_qmp(both[i]), "postcopy-preempt", true);
        }
    }
    qmp_ok(vm_qmp(p->destination), "migrate-incoming",
           "{'uri': 'tcp:" SHAPED_ADDRESS_DESTINATION ":0'}");
    return move_listen_uri(p->destination);
}

char *display_begin(DisplayPair *p)
{
    return begin(p, false);
}

static int64_t finish(DisplayPair *p)
{
    int64_t stop = event_us(p->source, "STOP"), resume = event_us(p->destination, "RESUME");

    move_wait_completed(p->source, p->destination);
    return resume - stop;
}

int64_t display_move(DisplayPair *p, unsigned limit_ms)
{
    g_autofree char *uri = display_begin(p);
    Qmp *s = vm_qmp(p->source);

    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 0, 'downtime-limit': %u}", limit_ms);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    return finish(p);
}

int64_t display_move_at_once(DisplayPair *p)
{
    g_autofree char *uri = begin(p, true);
    Qmp *s = vm_qmp(p->source);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    return finish(p);
}
