/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See tracking.h. postcopy-ram is set on both sides, so that farfault takes the migration under
 * policy auto and QEMU's own is the same but for who does it; the switch is never asked for.
 *
 * The guest's work is related to the CPU time of the threads of its vCPUs: faults and slow paths of
 * tracking are in that, and what else the machine does is not.
 */
#include "tracking.h"

#include "cli/json.h"

#include <stdlib.h>
#include <string.h>

static bool reports_reached(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= *(unsigned *)opaque;
}

static bool verdict_given(const BenchGuest *guest, void *opaque)
{
    return guest->verdict >= 0;
}

/* CPU time of the threads that QEMU (with debug-threads=on) calls "CPU N/...". */
static double vcpu_seconds(const BenchGuest *guest)
{
    const char *pid = g_subprocess_get_identifier(guest->process);
    g_autofree char *tasks = g_strdup_printf("/proc/%s/task", pid);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *name;
    double ns = 0;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *comm_path = g_strdup_printf("%s/%s/comm", tasks, name);
        g_autofree char *stat_path = g_strdup_printf("%s/%s/schedstat", tasks, name);
        g_autofree char *comm = NULL, *stat = NULL;
        if (g_file_get_contents(comm_path, &comm, NULL, NULL) && g_str_has_prefix(comm, "CPU ") &&
            g_file_get_contents(stat_path, &stat, NULL, NULL)) {
            ns += g_ascii_strtod(stat, NULL);
        }
    }
    return ns / 1e9;
}

/* Over so many reports, the first of which begins the window. */
static bool take_rate(BenchGuest *guest, unsigned seconds, double *rate, GError **error)
{
    unsigned target = guest->reports + 1;

    if (!bench_guest_wait(guest, reports_reached, &target, 60, "the guest's report", error)) {
        return false;
    }
    uint64_t writes = guest->last.writes;
    double cpu = vcpu_seconds(guest);
    target += seconds;
    if (!bench_guest_wait(guest, reports_reached, &target, 60 + seconds, "the guest's report",
                          error)) {
        return false;
    }
    *rate = (guest->last.writes - writes) / (vcpu_seconds(guest) - cpu);
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
    json_object_set_int_member(parameters, "downtime-limit", 0);
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
    const char *status = ff_json_string(info, "status", "none");

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
    if (!bench_guest_key(guest, 'v', error) ||
        !bench_guest_wait(guest, verdict_given, NULL, 180, "the guest's verdict", error)) {
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
        !take_rate(src, seconds, &result->before, error) || !begin(&ends, bandwidth, error) ||
        !take_rate(src, seconds, &result->during, error) || !look(&ends, result, error) ||
        !command(ends.src, "migrate_cancel", NULL, error)) {
        return false;
    }
    result->percent = (1 - result->during / result->before) * 100;
    return check(src, error);
}

void bench_print_tracking(FILE *out, const char *name, const BenchTracking *result)
{
    if (!result) {
        fprintf(out, "%-20s %12s %12s %8s %8s %8s\n", name, "before/s", "during/s", "less %",
                "passes", "MiB");
        return;
    }
    fprintf(out, "%-20s %12.0f %12.0f %8.1f %8.0f %8.0f\n", name, result->before, result->during,
            result->percent, result->passes, result->mib);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

BenchTracking bench_median_tracking(const BenchTracking *result, unsigned n)
{
    BenchTracking median = {0};
    g_autofree double *value = g_new(double, n);

    for (size_t f = 0; n && f < sizeof(median) / sizeof(double); f++) {
        for (unsigned i = 0; i < n; i++) {
            value[i] = ((const double *)&result[i])[f];
        }
        qsort(value, n, sizeof(*value), compare);
        ((double *)&median)[f] = value[n / 2];
    }
    return median;
}
