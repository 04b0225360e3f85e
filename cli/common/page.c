/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes the page: what came of it, the pictures of page-charts.c, tables of events and of all
 * numbers. A content security policy in the page forbids the browser everything but the style that
 * is in it. All text is escaped: names and errors come from guests and other hosts. No state; any
 * thread.
 */
#include "cli/common/page.h"

#include <stdarg.h>
#include <string.h>

#include "cli/common/format.h"
#include "cli/common/page-internal.h"
#include "cli/common/write-file.h"
#include "qmp/json.h"

#define EARLY_US 500000.0 /* two clocks are never quite the same */
#define LATE_US 60000000.0

/* ---- the record, read once ------------------------------------------------------------------- */

/* QEMU's time of an event, if it can be: nobody hears of an event before it happens, or a minute
 * after it. Else the host's clock was set, or the host slept, and the time at which it was heard of
 * is the better one. */
static double time_of(const FfRecord *record, const FfRecordEntry *e)
{
    JsonObject *stamp = ff_json_object(e->event, "timestamp");
    double heard = (double)e->us;
    double us = (double)ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC +
                (double)ff_json_int(stamp, "microseconds", 0) - (double)ff_record_started(record);
    bool is =
        stamp && ff_record_is_local(record) && us <= heard + EARLY_US && us >= heard - LATE_US;

    return (is ? MAX(us, 0) : heard) / 1000;
}

static gint by_time(gconstpointer a, gconstpointer b)
{
    const FfMoment *x = a, *y = b;

    return x->ms < y->ms ? -1 : x->ms > y->ms;
}

static void add_moment(FfPageData *d, const FfRecordEntry *e)
{
    JsonObject *data = ff_json_object(e->event, "data");
    FfMoment m = {.ms = time_of(d->record, e),
                  .side = e->side,
                  .name = ff_json_string_or(e->event, "event", "?"),
                  .pass = -1};

    if (!strcmp(m.name, "MIGRATION")) {
        m.status = ff_json_string(data, "status");
    } else if (!strcmp(m.name, "MIGRATION_PASS")) {
        m.pass = ff_json_int(data, "pass", 0);
    }
    g_array_append_val(d->moments, m);
    d->end_ms = MAX(d->end_ms, m.ms);
}

static void find_blackout(FfPageData *d)
{
    d->stop_ms = d->resume_ms = -1;
    for (guint i = 0; i < d->moments->len; i++) {
        const FfMoment *m = &g_array_index(d->moments, FfMoment, i);

        if (!strcmp(m->name, "STOP") && d->stop_ms < 0) {
            d->stop_ms = m->ms;
        } else if (!strcmp(m->name, "RESUME") && d->stop_ms >= 0 && d->resume_ms < 0) {
            d->resume_ms = m->ms;
        }
    }
}

static FfWordsKind what_it_is(const FfPageData *d)
{
    FfWordsKind kind = FF_WORDS_MIGRATION;

    for (FfSide side = 0; side < FF_SIDES && kind == FF_WORDS_MIGRATION; side++) {
        kind = ff_words_kind(d->last[side]);
    }
    return kind;
}

static const char *title_of(const FfPageData *d)
{
    static const char *const titles[] = {[FF_WORDS_MIGRATION] = "Migration",
                                         [FF_WORDS_SNAPSHOT] = "Live snapshot",
                                         [FF_WORDS_RESTORE] = "Restore",
                                         [FF_WORDS_UPGRADE] = "Upgrade"};

    return titles[d->kind];
}

static void data_init(FfPageData *d, const FfRecord *record)
{
    const GArray *entries = ff_record_entries(record);

    *d = (FfPageData){.record = record};
    d->moments = g_array_new(FALSE, FALSE, sizeof(FfMoment));
    d->samples = g_array_new(FALSE, FALSE, sizeof(FfSample));
    for (guint i = 0; i < entries->len; i++) {
        const FfRecordEntry *e = &g_array_index(entries, FfRecordEntry, i);

        if (e->event) {
            add_moment(d, e);
        } else {
            FfSample s = {.ms = time_of(record, e), .side = e->side, .info = e->info};

            g_array_append_val(d->samples, s);
            d->last[e->side] = e->info;
            d->end_ms = MAX(d->end_ms, s.ms);
        }
    }
    g_array_sort(d->moments, by_time);
    find_blackout(d);
    d->kind = what_it_is(d);
}

static void data_clear(FfPageData *d)
{
    g_array_unref(d->moments);
    g_array_unref(d->samples);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void put_escaped(GString *out, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Appends it; every argument is text, and is escaped. */
static void put_escaped(GString *out, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_markup_vprintf_escaped(format, args);
    va_end(args);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    g_string_append(out, valid);
}

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5b6570;--rule:#d8dee4;"
    "--src:#2f6fba;--dst:#2e8b57;--red:#c9372c;--amber:#b7791f;--card:#f6f8fa}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--fg:#e3e7ec;--dim:#98a2ad;--rule:#"
    "2b323a;"
    "--src:#5b9bea;--dst:#4cc38a;--red:#ff6b5e;--amber:#e3b341;--card:#171c22}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;"
    "max-width:1000px;padding:20px}\n"
    "h1{font-size:24px;margin:0}h2{font-size:17px;margin:32px 0 8px}p{margin:4px "
    "0;color:var(--dim)}\n"
    ".tiles{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0}\n"
    ".tile{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:8px 14px;"
    "min-width:110px}.tile b{display:block;font-size:19px}.tile span{color:var(--dim)}\n"
    "figure{margin:22px 0}figcaption{font-weight:600;margin-bottom:6px}"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--fg);font-size:12px}\n"
    ".grid{stroke:var(--rule);stroke-width:1}.src{fill:var(--src)}.dst{fill:var(--dst)}\n"
    "rect.src.setup,rect.src.completed,rect.dst.setup,rect.dst.completed{opacity:.45}"
    "rect.src,rect.dst{opacity:.75}rect.lost{fill:var(--red);opacity:.8}rect.again{fill:var(--"
    "amber)}\n"
    "rect.black{fill:var(--red)}rect.pass{fill:var(--dim)}.dot{fill:var(--red);opacity:.6}rect."
    "heat{fill:var(--red)}\n"
    "polyline.line{fill:none;stroke-width:2}polyline.src{stroke:var(--src)}"
    "polyline.dst{stroke:var(--dst)}\n"
    "table{border-collapse:collapse;font-size:13px}th,td{text-align:left;padding:2px 16px 2px 0;"
    "border-bottom:1px solid var(--rule);vertical-align:top}td{font-variant-numeric:tabular-nums;"
    "overflow-wrap:anywhere}th{font-weight:500;color:var(--dim)}\n"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:24px}\n";

static void put_head(GString *out, const FfPageData *d)
{
    JsonObject *who = ff_record_of_side(d->record, FF_SIDE_SOURCE);
    const char *name = ff_json_string(who, "name");

    if (!name) {
        name = ff_json_string(ff_record_of_side(d->record, FF_SIDE_DESTINATION), "name");
    }
    g_string_append(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src "
                         "'none'; style-src 'unsafe-inline'\">\n"
                         "<meta name=\"viewport\" content=\"width=device-width\">\n");
    put_escaped(out, "<title>%s%s%s</title>\n", title_of(d), name ? " of " : "", name ? name : "");
    g_string_append_printf(out, "<style>%s</style></head>\n<body>\n", style);
    put_escaped(out, "<h1>%s%s%s</h1>\n", title_of(d), name ? " of " : "", name ? name : "");
}

static void put_sides(GString *out, const FfPageData *d)
{
    g_autoptr(GDateTime) begun = g_date_time_new_from_unix_utc(
        CLAMP(ff_record_started(d->record) / G_USEC_PER_SEC, 0, G_GINT64_CONSTANT(100000000000)));
    g_autofree char *when = begun ? g_date_time_format(begun, "%Y-%m-%d %H:%M:%S UTC") : NULL;

    put_escaped(out, "<p>%s</p>\n", when ? when : "");
    for (FfSide side = 0; side < FF_SIDES; side++) {
        JsonObject *who = ff_record_of_side(d->record, side);

        if (who) {
            put_escaped(out, "<p>%s: QEMU %s, %s</p>\n", ff_side_name(side),
                        ff_json_string_or(who, "version", "of unknown version"),
                        ff_json_string_or(who, "address", ""));
        }
    }
    if (ff_record_of_side(d->record, FF_SIDE_DESTINATION) && !ff_record_is_local(d->record)) {
        put_escaped(out, "<p>%s</p>\n",
                    "Two hosts have two clocks: times are those at which this was heard of.");
    }
}

static void put_tile(GString *out, const char *name, char *value)
{
    if (value) {
        put_escaped(out, "<div class=\"tile\"><b>%s</b><span>%s</span></div>\n", value, name);
    }
    g_free(value);
}

/* The end, in a word. */
static const char *outcome_word(const FfPageData *d)
{
    const char *said = ff_json_string(ff_record_get_result(d->record), "outcome");

    for (FfSide side = 0; !said && side < FF_SIDES; side++) {
        said = ff_json_string(d->last[side], "status");
    }
    return said ? said : "unknown";
}

static char *ms_text(gint64 ms)
{
    return ms >= 0 ? ff_format_duration(ms) : NULL;
}

static void put_tiles(GString *out, const FfPageData *d)
{
    JsonObject *source = d->last[FF_SIDE_SOURCE], *destination = d->last[FF_SIDE_DESTINATION];
    JsonObject *x = ff_json_object(destination ? destination : source, "x-farfault");
    JsonObject *wire = ff_json_object(source ? source : destination, "x-farfault");
    gint64 bytes = ff_json_int(wire, "bytes-wire", -1), n = ff_json_int(x, "requests", -1);
    bool black = d->stop_ms >= 0 && d->resume_ms >= d->stop_ms;

    g_string_append(out, "<div class=\"tiles\">\n");
    put_tile(out, "outcome", g_strdup(outcome_word(d)));
    put_tile(out, "total time", ms_text(ff_json_int(source, "total-time", -1)));
    put_tile(out, "downtime, as QEMU says it", ms_text(ff_json_int(source, "downtime", -1)));
    put_tile(out, "from STOP to RESUME",
             black ? ff_format_us(1000 * (d->resume_ms - d->stop_ms)) : NULL);
    put_tile(out, d->kind == FF_WORDS_RESTORE ? "read from the file" : "on all channels",
             bytes >= 0 ? ff_format_bytes((double)bytes) : NULL);
    put_tile(out, "page requests", n >= 0 ? g_strdup_printf("%" G_GINT64_FORMAT, n) : NULL);
    put_tile(out, "99 % of waits up to",
             n > 0 ? ff_format_us(ff_json_double(x, "latency-p99-us", 0)) : NULL);
    g_string_append(out, "</div>\n");
    const char *reason = ff_json_string(ff_record_get_result(d->record), "reason");
    if (reason) {
        put_escaped(out, "<p>%s</p>\n", reason);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void bytes_row(GString *out, const char *name, double bytes)
{
    g_autofree char *text = ff_format_bytes(MAX(bytes, 0));

    put_escaped(out, "<tr><th>%s</th><td>%s</td></tr>\n", name, text);
}

/* What was left when the guest was stopped: of the last answer before. -1: not known. */
static gint64 left_at_switch(const FfPageData *d)
{
    gint64 left = -1;

    for (guint i = 0; i < d->samples->len; i++) {
        const FfSample *s = &g_array_index(d->samples, FfSample, i);

        if (s->side == FF_SIDE_SOURCE && s->ms <= d->stop_ms) {
            left = ff_json_int(ff_json_object(s->info, "ram"), "remaining", left);
        }
    }
    return left;
}

static void put_gained(GString *out, const FfPageData *d)
{
    JsonObject *ram = ff_json_object(d->last[FF_SIDE_SOURCE], "ram");
    gint64 left = left_at_switch(d);

    if (!ram || d->kind != FF_WORDS_MIGRATION) {
        return;
    }
    g_string_append(out, "<h2>What precopy gained</h2>\n<table id=\"precopy\">\n");
    bytes_row(out, "sent before the switch", ff_json_double(ram, "precopy-bytes", 0));
    bytes_row(out, "sent after it", ff_json_double(ram, "postcopy-bytes", 0));
    if (left >= 0) {
        bytes_row(out, "left at the last look before it", (double)left);
    }
    put_escaped(out, "<tr><th>passes over memory</th><td>%d</td></tr>\n</table>\n",
                (int)ff_json_int(ram, "dirty-sync-count", 0));
}

/* A restore has no channels. */
static void put_reads(GString *out, JsonObject *x, double all)
{
    JsonObject *restore = ff_json_object(x, "restore");

    g_string_append(out, "<h2>Bytes</h2>\n<table id=\"reads\">\n");
    bytes_row(out, "read from the file", all);
    bytes_row(out, "of them for what the guest waited for",
              ff_json_double(restore, "read-for-faults", 0));
    bytes_row(out, "ahead of it", ff_json_double(restore, "read-by-fill", 0));
    if (ff_json_int(restore, "working-set", 0)) {
        bytes_row(out, "working set", ff_json_double(restore, "working-set", 0));
        bytes_row(out, "of it, before anybody waited",
                  ff_json_double(restore, "working-set-used", 0));
    }
    g_string_append(out, "</table>\n");
}

static void put_channels(GString *out, const FfPageData *d)
{
    JsonObject *info =
        d->last[FF_SIDE_SOURCE] ? d->last[FF_SIDE_SOURCE] : d->last[FF_SIDE_DESTINATION];
    JsonObject *x = ff_json_object(info, "x-farfault");
    double page = ff_json_double(ff_json_object(info, "ram"), "page-size", 4096);
    double wire = ff_json_double(x, "bytes-wire", 0);
    double seconds = (double)ff_json_int(info, "total-time", 0) / 1000;

    if (!x || wire <= 0) {
        return;
    }
    if (d->kind == FF_WORDS_RESTORE) {
        put_reads(out, x, wire);
        return;
    }
    g_string_append(out, "<h2>Bytes</h2>\n<table id=\"channels\">\n");
    bytes_row(out, "on all channels", wire);
    if (seconds > 0) {
        bytes_row(out, "of them per second, from begin to end", wire / seconds);
    }
    bytes_row(out, "memory by bulk channels (before compression, zeros too)",
              page * ff_json_double(x, "pages-bulk", 0));
    bytes_row(out, "memory by the urgent channel", page * ff_json_double(x, "pages-urgent", 0));
    bytes_row(out, "device state", ff_json_double(x, "device-bytes", 0));
    bytes_row(out, "of it, sent while the guest stood", ff_json_double(x, "device-bytes-wire", 0));
    g_string_append(out, "</table>\n");
    if (ff_json_bool(x, "urgent-shared")) {
        put_escaped(out, "<p>%s</p>\n", "Urgent pages shared the main connection.");
    }
}

static void put_events(GString *out, const FfPageData *d)
{
    g_string_append(out, "<h2>Events</h2>\n<table id=\"events\">\n");
    for (guint i = 0; i < d->moments->len; i++) {
        const FfMoment *m = &g_array_index(d->moments, FfMoment, i);
        g_autofree char *pass = m->pass >= 0 ? g_strdup_printf("%d", (int)m->pass) : g_strdup("");

        put_escaped(out, "<tr><td>%.3f ms</td><td>%s</td><td>%s %s%s</td></tr>\n", m->ms,
                    ff_side_name(m->side), m->name, m->status ? m->status : "", pass);
    }
    g_string_append(out, "</table>\n");
}

/* As JSON has it, but for a mean, of which a division has made many decimals (g_free). */
static char *value_text(const char *name, JsonNode *node)
{
    return !strcmp(name, "latency-mean-us") && JSON_NODE_HOLDS_VALUE(node)
               ? g_strdup_printf("%.1f", json_node_get_double(node))
               : json_to_string(node, FALSE);
}

/* The members of OBJECT, each under its path after PREFIX. */
static void put_members(GString *out, const char *id, const char *prefix, JsonObject *object)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;

    json_object_iter_init_ordered(&iter, object);
    while (json_object_iter_next_ordered(&iter, &name, &node)) {
        g_autofree char *path = g_strconcat(prefix, *prefix ? "." : "", name, NULL);

        if (JSON_NODE_HOLDS_OBJECT(node)) {
            put_members(out, id, path, json_node_get_object(node));
        } else {
            g_autofree char *value = value_text(name, node);

            put_escaped(out, "<tr><th>%s</th><td id=\"%s.%s\">%s</td></tr>\n", path, id, path,
                        value);
        }
    }
}

static void put_numbers(GString *out, const FfPageData *d)
{
    g_string_append(out, "<h2>The last query-migrate of each side</h2>\n<div class=\"pair\">\n");
    for (FfSide side = 0; side < FF_SIDES; side++) {
        if (d->last[side]) {
            put_escaped(out, "<table><tr><th>%s</th><td></td></tr>\n", ff_side_name(side));
            put_members(out, ff_side_name(side), "", d->last[side]);
            g_string_append(out, "</table>\n");
        }
    }
    g_string_append(out, "</div>\n");
}

char *ff_page(const FfRecord *record)
{
    GString *out = g_string_new(NULL);
    FfPageData d;

    data_init(&d, record);
    put_head(out, &d);
    put_sides(out, &d);
    put_tiles(out, &d);
    ff_chart_timeline(out, &d);
    ff_chart_blackout(out, &d);
    ff_chart_remaining(out, &d);
    ff_chart_rate(out, &d);
    ff_chart_faults(out, &d);
    ff_chart_places(out, &d);
    ff_chart_latency(out, &d);
    ff_chart_pages(out, &d);
    put_gained(out, &d);
    put_channels(out, &d);
    put_events(out, &d);
    put_numbers(out, &d);
    g_string_append(out, "</body></html>\n");
    data_clear(&d);
    return g_string_free(out, FALSE);
}

bool ff_page_save(const FfRecord *record, const char *path, GError **error)
{
    g_autofree char *text = ff_page(record);

    return ff_write_file(path, text, error);
}
