/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See tracking.h. postcopy-ram is set on both sides, so that farfault takes the migration under
 * policy auto and QEMU's own is the same but for the one that does it; the switch is never asked
 * for.
 *
 * The guest's work is related to the CPU time of the threads of its vCPUs: faults and slow paths of
 * tracking are in that, and what else the machine does is not.
 */
#include "tracking.h"

#include "qmp/json.h"

#include <stdlib.h>
#include <string.h>

static bool reports_reached(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= *(unsigned *)opaque;
}

/* Over so many reports. The window begins at the report that has just come (so that nothing of what
 * was begun since is left out), or if not JUST_COME at the next one. FAULTS can be NULL. */
static bool take_rate(BenchGuest *guest, unsigned seconds, bool just_come, double *rate,
                      double *faults, GError **error)
{
    unsigned target = guest->reports + !just_come;

    if (!bench_guest_wait(guest, reports_reached, &target, 60, "the guest's report", error)) {
        return false;
    }
    uint64_t writes = guest->last.writes;
    BenchThreads begin = bench_guest_vcpus(guest);
    target += seconds;
    if (!bench_guest_wait(guest, reports_reached, &target, 60 + seconds, "the guest's report",
                          error)) {
        return false;
    }
    BenchThreads end = bench_guest_vcpus(guest);
    *rate = (guest->last.writes - writes) / (end.seconds - begin.seconds);
    if (faults) {
        *faults = (end.faults - begin.faults) / 1000;
    }
    return true;
}

static bool command(FfCliQmp *qmp, const char *name, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(qmp, name, arguments, error);

    return answer != NULL;
}

static bool begin(FfMoveEnds *ends, uint64_t bandwidth, GError **error)
{
    JsonObject *parameters = json_object_new(), *arguments = json_object_new();

    json_object_set_int_member(parameters, "max-bandwidth", bandwidth);
    /* With 0 QEMU does not look for dirty pages again, and completes after the first pass. */
    json_object_set_int_member(parameters, "downtime-limit", 1);
    json_object_set_string_member(arguments, "uri", ends->uri);
    bool ok = command(ends->src, "migrate-set-parameters", parameters, error);
    if (!ok) {
        json_object_unref(arguments);
        return false;
    }
    return command(ends->src, "migrate", arguments, error);
}

static bool look(FfMoveEnds *ends, BenchTracking *result, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(ends->src, "query-migrate", NULL, error);
    JsonObject *info = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    JsonObject *ram = ff_json_object(info, "ram");
    const char *status = ff_json_string_or(info, "status", "none");

    if (!node) {
        return false;
    }
    if (strcmp(status, "active")) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the precopy is \"%s\" too early",
                    status);
        return false;
    }
    result->passes = ff_json_double(ram, "dirty-sync-count", 0);
    result->mib = ff_json_double(ram, "transferred", 0) / (1 << 20);
    return true;
}

static bool check(BenchGuest *guest, GError **error)
{
    if (!bench_guest_judge(guest, error)) {
        return false;
    }
    if (guest->verdict != 1) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the guest found wrong pages");
        return false;
    }
    return true;
}

bool bench_track(BenchGuest *src, BenchGuest *dst, const char *listen, uint64_t bandwidth,
                 unsigned seconds, BenchTracking *result, GError **error)
{
    g_autofree char *where = g_strdup(listen);
    FfMoveOptions options = {.source = src->qmp, .destination = dst->qmp, .listen = where};
    g_auto(FfMoveEnds) ends = {0};

    if (!ff_move_prepare(&options, &ends, error) ||
        !take_rate(src, seconds, false, &result->before, NULL, error) ||
        !begin(&ends, bandwidth, error) ||
        !take_rate(src, seconds, true, &result->during, &result->faults, error) ||
        !look(&ends, result, error) || !command(ends.src, "migrate_cancel", NULL, error) ||
        !take_rate(src, seconds, false, &result->after, NULL, error)) {
        return false;
    }
    result->percent = (1 - result->during / result->before) * 100;
    result->after_percent = (1 - result->after / result->before) * 100;
    return check(src, error);
}

void bench_print_tracking(FILE *out, const char *name, const BenchTracking *result)
{
    if (!result) {
        fprintf(out, "%-20s %9s %9s %9s %8s %8s %9s %7s %8s\n", name, "before/s", "during/s",
                "after/s", "less %", "after %", "k faults", "passes", "MiB");
        return;
    }
    fprintf(out, "%-20s %9.0f %9.0f %9.0f %8.1f %8.1f %9.1f %7.0f %8.0f\n", name, result->before,
            result->during, result->after, result->percent, result->after_percent, result->faults,
            result->passes, result->mib);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

BenchTracking bench_rank_tracking(const BenchTracking *result, unsigned n, double rank)
{
    BenchTracking ranked = {0};
    g_autofree double *value = g_new(double, n);

    for (size_t f = 0; n && f < sizeof(ranked) / sizeof(double); f++) {
        for (unsigned i = 0; i < n; i++) {
            value[i] = ((const double *)&result[i])[f];
        }
        qsort(value, n, sizeof(*value), compare);
        ((double *)&ranked)[f] = value[(unsigned)(rank * (n - 1) + 0.5)];
    }
    return ranked;
}
