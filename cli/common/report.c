/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The final report of farfault migrate, and the parts of it that farfault status shares.
 *
 * Numbers are shown where QEMU or farfault gave them and left out where not: stock QEMU knows
 * nothing of requests' latency. No state; any thread.
 */
#include "cli/common/format.h"
#include "cli/common/report.h"
#include "qmp/json.h"

#include <stdarg.h>
#include <string.h>

void ff_report_row(FILE *out, const char *name, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *shown = ff_format_shown(text);
    fprintf(out, "  %-12s %s\n", name, shown);
}

void ff_report_ram(FILE *out, JsonObject *info)
{
    JsonObject *ram = ff_json_object(info, "ram");
    g_autofree char *sent = NULL, *total = NULL;
    g_autofree char *rate = NULL, *asked = NULL;
    bool snapshot = ff_json_object(ff_json_object(info, "x-farfault"), "snapshot");
    double mbps = ff_json_double(ram, "mbps", 0);

    if (!ram) {
        return;
    }
    sent = ff_format_bytes(ff_json_int(ram, "transferred", 0));
    total = ff_format_bytes(ff_json_int(ram, "total", 0));
    rate = mbps > 0 ? g_strdup_printf(", %.0f Mbit/s", mbps) : g_strdup("");
    asked = snapshot ? g_strdup("")
                     : g_strdup_printf(", %" G_GINT64_FORMAT " requested by the destination",
                                       ff_json_int(ram, "postcopy-requests", 0));
    ff_report_row(out, snapshot ? "written" : "transferred", "%s for %s of RAM%s", sent, total,
                  rate);
    ff_report_row(out, "pages", "%" G_GINT64_FORMAT " with data, %" G_GINT64_FORMAT " zero%s",
                  ff_json_int(ram, "normal", 0), ff_json_int(ram, "duplicate", 0), asked);
}

static void print_pages(FILE *out, JsonObject *x, bool source)
{
    gint64 bulk = ff_json_int(x, "pages-bulk", 0);
    gint64 urgent = ff_json_int(x, "pages-urgent", 0);

    if (bulk || urgent) {
        ff_report_row(out, source ? "sent" : "placed",
                      "%" G_GINT64_FORMAT " pages by bulk, %" G_GINT64_FORMAT
                      " urgent; %" G_GINT64_FORMAT " of them zero, %" G_GINT64_FORMAT " twice",
                      bulk, urgent, ff_json_int(x, "pages-zero", 0),
                      ff_json_int(x, "pages-duplicate", 0));
    }
    if (ff_json_bool(x, "urgent-shared")) {
        ff_report_row(out, "channels", "urgent pages share the main connection");
    }
}

/* Of a live snapshot. The histogram has those that did not wait. */
static void print_writes(FILE *out, JsonObject *x)
{
    gint64 writes = ff_json_int(x, "requests", 0);
    gint64 waits = ff_json_int(ff_json_object(x, "snapshot"), "waits", 0);
    g_autofree char *half = ff_format_us(ff_histogram_quantile(x, 0.5));
    g_autofree char *p99 = ff_format_us(ff_histogram_quantile(x, 0.99));

    ff_report_row(out, "writes",
                  "%" G_GINT64_FORMAT " to memory that was not saved yet, %" G_GINT64_FORMAT
                  " of them waited for the disk",
                  writes, waits);
    if (writes > waits) {
        ff_report_row(out, "", "the others took: half of them up to %s, 99 %% up to %s", half, p99);
        ff_print_histogram(out, x);
    }
}

/* Of a restore: pages are not sent or placed by ways of their own. */
static void print_read(FILE *out, JsonObject *x)
{
    JsonObject *restore = ff_json_object(x, "restore");
    g_autofree char *asked = ff_format_bytes(ff_json_int(restore, "read-for-faults", 0));
    g_autofree char *fill = ff_format_bytes(ff_json_int(restore, "read-by-fill", 0));
    gint64 set = ff_json_int(restore, "working-set", 0);

    ff_report_row(out, "read", "%s for what the guest waited for, %s ahead of it", asked, fill);
    ff_report_row(out, "pages", "%" G_GINT64_FORMAT " zero", ff_json_int(x, "pages-zero", 0));
    if (set) {
        g_autofree char *all = ff_format_bytes(set);
        g_autofree char *used = ff_format_bytes(ff_json_int(restore, "working-set-used", 0));

        ff_report_row(out, "working set", "%s; %s of it came before anybody waited", all, used);
    }
}

void ff_report_latency(FILE *out, JsonObject *info)
{
    JsonObject *x = ff_json_object(info, "x-farfault");
    bool source = ff_json_object(info, "ram"); /* a destination's answer has none */
    gint64 requests = ff_json_int(x, "requests", 0);
    g_autofree char *mean = NULL, *p99 = NULL;

    if (!x) {
        return;
    }
    if (!strcmp(ff_json_string_or(x, "engine", ""), "qemu")) {
        ff_report_row(out, "carried by", "QEMU: %s",
                      ff_json_string_or(x, "reason", "no reason given"));
        return;
    }
    if (ff_json_object(x, "snapshot")) {
        print_writes(out, x);
        return;
    }
    if (ff_json_object(x, "restore")) {
        print_read(out, x);
    } else {
        print_pages(out, x, source);
    }
    if (!requests) {
        return;
    }
    mean = ff_format_us(ff_json_double(x, "latency-mean-us", 0));
    p99 = ff_format_us(ff_json_double(x, "latency-p99-us", 0));
    ff_report_row(out, "requests", "%" G_GINT64_FORMAT ", %s: mean %s, p99 up to %s", requests,
                  source ? "from request to answer written" : "from fault to page placed", mean,
                  p99);
    ff_print_histogram(out, x);
}

static void print_downtime(FILE *out, const FfMoveResult *r, JsonObject *info)
{
    gint64 downtime = ff_json_int(info, "downtime", -1);
    g_autofree char *said = downtime >= 0 ? ff_format_duration(downtime) : NULL;
    g_autofree char *seen = r->stopped_us >= 0 ? ff_format_us(r->stopped_us) : NULL;

    if (said && seen) {
        ff_report_row(out, "downtime", "%s (STOP to RESUME: %s)", said, seen);
    } else if (said || seen) {
        ff_report_row(out, "downtime", "%s", said ? said : seen);
    }
}

void ff_report_text(FILE *out, const FfMoveResult *r)
{
    JsonObject *info = ff_json_node_object(r->source_info);
    gint64 total_ms = ff_json_int(info, "total-time", r->total_ms);
    g_autofree char *total = ff_format_duration(total_ms);

    if (r->outcome == FF_OUTCOME_COMPLETED) {
        fprintf(out, "migration completed by %s; the guest is %s at the destination\n",
                r->postcopy ? "postcopy" : "precopy",
                r->guest_state ? r->guest_state : "(unknown)");
        ff_report_row(out, "total time", "%s", total);
        print_downtime(out, r, info);
    } else {
        g_autofree char *reason = ff_format_shown(r->reason);

        fprintf(out, "migration %s: %s\n",
                r->outcome == FF_OUTCOME_LEFT ? "not watched any longer"
                                              : ff_outcome_name(r->outcome),
                reason);
        ff_report_row(out, "after", "%s", total);
    }
    ff_report_ram(out, info);
    ff_report_latency(out, ff_json_node_object(r->destination_info));
}

JsonObject *ff_report_object(const FfMoveResult *r)
{
    JsonObject *o = json_object_new();
    JsonObject *info = ff_json_node_object(r->source_info);

    json_object_set_string_member(o, "outcome", ff_outcome_name(r->outcome));
    if (r->reason) {
        json_object_set_string_member(o, "reason", r->reason);
    }
    json_object_set_boolean_member(o, "postcopy", r->postcopy);
    json_object_set_int_member(o, "total-ms", ff_json_int(info, "total-time", r->total_ms));
    if (ff_json_int(info, "downtime", -1) >= 0) {
        json_object_set_int_member(o, "downtime-ms", ff_json_int(info, "downtime", 0));
    }
    if (r->stopped_us >= 0) {
        json_object_set_int_member(o, "stopped-us", r->stopped_us);
    }
    if (r->guest_state) {
        json_object_set_string_member(o, "guest", r->guest_state);
    }
    if (r->source_info) {
        json_object_set_member(o, "source", json_node_copy(r->source_info));
    }
    if (r->destination_info) {
        json_object_set_member(o, "destination", json_node_copy(r->destination_info));
    }
    return o;
}

void ff_report_json(FILE *out, const FfMoveResult *r)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;

    json_node_take_object(root, ff_report_object(r));
    text = json_to_string(root, FALSE);
    fprintf(out, "%s\n", text);
}
