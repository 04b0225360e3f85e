/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long the back-end of a vhost-user-blk disk waits for pages behind a switch at once, beside
 * the vCPUs, whose faults are asked for in the same way: a guest whose memory and disk are busy
 * goes from QEMU to QEMU. QEMU's own postcopy has nothing to be set beside it: with this back-end
 * it does not work (docs/design/vhost-user.md).
 *
 * FF_HOPS: how many at each limit; default 1.
 */
#include <stdlib.h>
#include <string.h>

#include "migration/common/stats.h"
#include "tests/lib/move.h"
#include "tests/lib/vhostworld.h"

static const struct {
    const char *name;
    int64_t bytes; /* per second, behind the switch; 0: none */
} limits[] = {{"none", 0}, {"125 MB/s", 125000000}, {"25 MB/s", 25000000}};

typedef struct {
    uint64_t latency[FF_LATENCY_BUCKETS], n, max_us;
    double sum_us;
} Waits;

static uint64_t add_latency(uint64_t *latency, JsonObject *own, const char *member, int sign)
{
    JsonArray *list =
        json_object_has_member(own, member) ? json_object_get_array_member(own, member) : NULL;
    uint64_t n = 0;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonArray *pair = json_array_get_array_element(list, i);
        uint64_t from = json_array_get_int_element(pair, 0);
        uint64_t count = json_array_get_int_element(pair, 1);

        latency[from ? 63 - __builtin_clzll(from) : 0] += sign * count;
        n += count;
    }
    return n;
}

/* Of one migration: all waits but the disk's, and the disk's. */
static void add(Waits *guest, Waits *disk, JsonObject *own)
{
    uint64_t all = add_latency(guest->latency, own, "latency-us", 1);
    uint64_t n = add_latency(guest->latency, own, "device-latency-us", -1);
    double sum = json_object_get_double_member_with_default(own, "device-wait-mean-us", 0) * n;

    add_latency(disk->latency, own, "device-latency-us", 1);
    guest->n += all - n;
    disk->n += n;
    guest->sum_us += json_object_get_double_member(own, "latency-mean-us") * all - sum;
    disk->sum_us += sum;
    guest->max_us =
        MAX(guest->max_us,
            (uint64_t)json_object_get_int_member_with_default(own, "vcpu-wait-max-us", 0));
    disk->max_us =
        MAX(disk->max_us,
            (uint64_t)json_object_get_int_member_with_default(own, "device-wait-max-us", 0));
}

static void hop(VhostWorld *w, int64_t limit, Waits *guest, Waits *disk)
{
    VhostWorld old = vhost_world_next(w);

    for (unsigned i = 0; i < 2; i++)
        qmp_set_capability(vm_qmp(i ? old.vm : w->vm), "postcopy-ram", true);
    qmp_ok(vm_qmp(old.vm), "migrate-set-parameters",
           "{'max-bandwidth': 30000000, 'max-postcopy-bandwidth': %" G_GINT64_FORMAT "}", limit);
    vhost_world_migrate(w, &old);
    vhost_world_switch_over(w, &old);
    move_wait_completed(old.vm, w->vm);
    vhost_world_assert_carried(w->vm);
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(w->vm), "query-migrate", NULL);
    add(guest, disk, json_object_get_object_member(info, "x-farfault"));
    vhost_world_leave(&old);
    linux_guest_assert_intact(w->vm, "moved");
    vm_wait_new_serial(w->vm, "FF direct reads=");
}

static void print(const char *limit, const char *who, const Waits *waits)
{
    g_test_message("| %s | %s | %" G_GUINT64_FORMAT " | %.0f | %.0f | %" G_GUINT64_FORMAT " |",
                   limit, who, waits->n, waits->n ? waits->sum_us / waits->n : 0,
                   ff_latency_p99(waits->latency), waits->max_us);
}

static void test_waits(void)
{
    const char *hops = g_getenv("FF_HOPS"), *why = NULL;

    if (!storage_can_wait(&why)) {
        g_test_skip(why);
        return;
    }
    VhostWorld *w = vhost_world_new(VM_RUN, "migrate", VHOST_BUSY_LOAD);
    uint64_t of_disk = 0;

    if (!w)
        return;
    vhost_world_boot(w);
    g_test_message("| limit behind the switch | who | waits | mean us | p99 us | worst us |");
    g_test_message("|---|---|---|---|---|---|");
    for (unsigned i = 0; i < G_N_ELEMENTS(limits); i++) {
        Waits guest = {0}, disk = {0};

        for (unsigned k = 0, n = hops ? atoi(hops) : 1; k < n; k++)
            hop(w, limits[i].bytes, &guest, &disk);
        print(limits[i].name, "vCPUs, QEMU's threads", &guest);
        print(limits[i].name, "the disk's back-end", &disk);
        of_disk += disk.n;
        g_assert_cmpuint(guest.n, >, 0);
    }
    g_assert_cmpuint(of_disk, >, 0);
    vhost_world_end(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/vhost-waits", test_waits);
    return g_test_run();
}
