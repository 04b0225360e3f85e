/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What farfault status says of a migration whose guest is in two halves: what is where, who waits,
 * since when, and what to type next. One thread.
 */
#include "cli/common/halves-report.h"

#include <string.h>

#include "cli/common/format.h"
#include "cli/common/report.h"
#include "qmp/json.h"

/* Its guest comes from a file. */
static bool is_restore(JsonObject *info)
{
    return ff_json_object(ff_json_object(info, "x-farfault"), "restore");
}

/* An engine that came after one that died may not know where which pages are. */
static bool is_counted(JsonObject *half)
{
    return ff_json_get(half, "pages-destination", JSON_NODE_VALUE);
}

/* Destination: that are not here. */
static gint64 pages_missing(JsonObject *half)
{
    gint64 total = ff_json_int(half, "pages-total", 0);

    return MAX(0, total - ff_json_int(half, "pages-destination", 0));
}

static void print_pages(FILE *out, JsonObject *half, bool source)
{
    gint64 total = ff_json_int(half, "pages-total", 0);
    gint64 there = ff_json_int(half, "pages-destination", 0);
    bool broken = ff_json_get(half, "broken-ms", JSON_NODE_VALUE);
    const char *file = ff_json_string(half, "peer");
    const char *kept = !source ? ""
                       : ff_json_bool(half, "released")
                           ? "; what it has acknowledged was given up here"
                           : "; all are kept here, as they were at the switch";

    if (!is_counted(half)) {
        ff_report_row(out, "memory", "it is not known how many pages are %s%s",
                      source ? "at the destination" : "here", kept);
    } else if (!source && file) {
        ff_report_row(out, "memory",
                      "%" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                      " pages are here; %" G_GINT64_FORMAT " are in %s still",
                      there, total, pages_missing(half), file);
    } else if (source) {
        ff_report_row(out, "memory",
                      "%s %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                      " pages are at the destination%s",
                      broken ? "at most" : "about", there, total, kept);
    } else {
        ff_report_row(out, "memory",
                      "%" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                      " pages are here; %" G_GINT64_FORMAT " %s",
                      there, total, pages_missing(half),
                      ff_json_bool(half, "peer-ended") ? "were at the source"
                      : broken ? "were at the source when the connection broke"
                               : "are still at the source");
    }
}

static void print_waits(FILE *out, JsonObject *half)
{
    JsonArray *waits = ff_json_array(half, "waits");

    for (guint i = 0; waits && i < json_array_get_length(waits); i++) {
        JsonObject *w = ff_json_node_object(json_array_get_element(waits, i));
        g_autofree char *since = ff_format_duration(ff_json_int(w, "ms", 0));
        gint64 vcpu = ff_json_int(w, "vcpu", -1);
        g_autofree char *who =
            vcpu >= 0 ? g_strdup_printf("vCPU %d", (int)vcpu) : g_strdup("QEMU itself");

        ff_report_row(out, i ? "" : "waiting", "%s, for %s, for 0x%" G_GINT64_MODIFIER "x of '%s'",
                      who, since, (guint64)ff_json_int(w, "offset", 0),
                      ff_json_string_or(w, "block", "?"));
    }
    if (waits && !json_array_get_length(waits)) {
        ff_report_row(out, "waiting", "nobody waits for a page");
    }
}

/* The other side has said that its QEMU has ended. */
static void print_lost_at_source(FILE *out)
{
    ff_report_row(out, "lost",
                  "the destination's QEMU has ended after it was given the guest; what the guest "
                  "did there is gone");
    ff_report_row(out, "",
                  "nothing can be resumed: what is here is the guest's memory as it was at the "
                  "switch");
}

static void next_with_dump(FILE *out)
{
    ff_report_row(out, "",
                  "if the source was dumped after the switch: farfault recover --from DIRECTORY "
                  "QMP");
}

static void print_lost_at_destination(FILE *out, JsonObject *half)
{
    g_autofree char *bytes = ff_format_bytes(ff_json_int(half, "bytes-missing", 0));

    if (is_counted(half)) {
        ff_report_row(out, "lost",
                      "the source's QEMU has ended; %" G_GINT64_FORMAT " pages (%s) are gone",
                      pages_missing(half), bytes);
    } else {
        ff_report_row(out, "lost",
                      "the source's QEMU has ended; all pages that are not here are gone");
    }
    ff_report_row(out, "",
                  "nothing can be resumed: the guest runs until it needs one of them, and then "
                  "waits");
    next_with_dump(out);
}

/* Without the other side's word nobody can see whether its QEMU has ended: all that is known is the
 * end of a connection. */
static void print_stake_at_source(FILE *out)
{
    ff_report_row(out, "at stake",
                  "nothing while the destination's QEMU lives. If it has ended after it ran "
                  "the guest, what the guest did there is gone");
}

static void print_stake_at_destination(FILE *out, JsonObject *half)
{
    gint64 missing = pages_missing(half);

    if (!is_counted(half)) {
        ff_report_row(out, "at stake",
                      "the pages that are not here. While the QEMU at the source lives nothing is "
                      "lost; if it has ended, they are lost, and the guest with them");
    } else if (missing > 0) {
        ff_report_row(out, "at stake",
                      "%" G_GINT64_FORMAT " pages are not here. While the QEMU at the source lives "
                      "nothing is lost; if it has ended, they are lost, and the guest with them",
                      missing);
    }
}

static void next_at_source(FILE *out, JsonObject *half, const char *address)
{
    const char *peer = ff_json_string(half, "peer");

    ff_report_row(out, "next", "farfault migrate --resume %s DESTINATION-QMP", address);
    ff_report_row(out, "",
                  "or by QMP, when the destination listens: {\"execute\": \"migrate\", "
                  "\"arguments\": {\"uri\": \"%s\", "
                  "\"resume\": true}}",
                  peer ? peer : "tcp:DESTINATION:PORT");
    ff_report_row(out, "",
                  "if the destination says it was not granted the guest, it can be taken "
                  "back: x-farfault-revoke");
}

static void next_at_destination(FILE *out, JsonObject *half, const char *address)
{
    const char *listens = ff_json_string(half, "listens");

    if (!ff_json_bool(half, "may-run")) {
        ff_report_row(out, "guest",
                      "is loaded, and was not granted to this side: it does not run "
                      "here. If the source says \"failed\" or \"cancelled\" the guest runs there: "
                      "end this QEMU");
    }
    ff_report_row(out, "next", "farfault migrate --resume SOURCE-QMP %s", address);
    if (listens) {
        ff_report_row(out, "",
                      "or by QMP, at the source: {\"execute\": \"migrate\", \"arguments\": "
                      "{\"uri\": \"%s\", \"resume\": true}}",
                      listens);
    }
    ff_report_row(out, "",
                  "%s{\"execute\": \"migrate-recover\", \"arguments\": "
                  "{\"uri\": \"tcp:ADDRESS:PORT\"}}, then resume at the source",
                  listens ? "over another network: " : "or by QMP: ");
    if (ff_json_bool(half, "may-run")) {
        next_with_dump(out);
    }
}

bool ff_halves_lack_pages(JsonObject *info)
{
    JsonObject *half = ff_json_object(ff_json_object(info, "x-farfault"), "half");

    return !strcmp(ff_json_string_or(half, "role", ""), "destination");
}

static void print_paused(FILE *out, JsonObject *half, bool source, bool restore,
                         const char *address)
{
    bool ended = ff_json_bool(half, "peer-ended");
    const char *file = source ? NULL : ff_json_string(half, "peer");

    if (file && restore) {
        ff_report_row(out, "next",
                      "when it can be read, and is as it was: {\"execute\": \"migrate-recover\", "
                      "\"arguments\": {\"uri\": \"%s\"}}",
                      file);
        return;
    }
    if (file) {
        ff_report_row(out, "next",
                      "it is recovered from %s, which cannot be read now: when it can, or from a "
                      "copy: farfault recover --from DIRECTORY QMP",
                      file);
        return;
    }
    if (source && ended) {
        print_lost_at_source(out);
    } else if (source) {
        print_stake_at_source(out);
        next_at_source(out, half, address);
    } else if (ended) {
        print_lost_at_destination(out, half);
    } else {
        print_stake_at_destination(out, half);
        next_at_destination(out, half, address);
    }
    ff_report_row(out, "", "to keep this half in files: farfault dump QMP DIRECTORY");
    if (!source && ff_json_bool(half, "may-run")) {
        ff_report_row(out, "", "to give the guest up, and end this QEMU: farfault end QMP");
    }
}

void ff_halves_print(FILE *out, JsonObject *info, const char *address)
{
    JsonObject *half = ff_json_object(ff_json_object(info, "x-farfault"), "half");
    const char *status = ff_json_string_or(info, "status", "");
    gint64 broken = ff_json_int(half, "broken-ms", -1);

    if (!half) {
        return;
    }
    bool source = !strcmp(ff_json_string_or(half, "role", ""), "source");

    print_pages(out, half, source);
    if (!source) {
        print_waits(out, half);
    }
    if (broken >= 0) {
        g_autofree char *since = ff_format_duration(broken);

        ff_report_row(out, "broken", "for %s", since);
    }
    if (!strcmp(status, "postcopy-paused")) {
        print_paused(out, half, source, is_restore(info), address);
    }
}
