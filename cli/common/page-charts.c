/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pictures of a page, as SVG: all have the same width and, where it is one, the same axis of
 * time, so what stands above each other happened at the same time. Colours are classes of the
 * page's style, which has them for light and dark. No state; any thread.
 */
#include <string.h>

#include "cli/common/format.h"
#include "cli/common/page-internal.h"
#include "qmp/json.h"

#define WIDTH 960
#define LEFT 118
#define RIGHT 24
#define PLOT (WIDTH - LEFT - RIGHT)
#define LANE 22 /* height of a bar of the timeline */
#define HEIGHT 150
#define PLACES_MAX 20000 /* dots */
#define HEAT_MAX 256     /* parts of memory */
#define HEAT_STEP 4      /* of what is shorter as much is taken together */

static const char *const side_class[FF_SIDES] = {"src", "dst"};

/* ---- paper ----------------------------------------------------------------------------------- */

static void begin_figure(GString *out, const char *id, const char *label, double height)
{
    g_string_append_printf(out,
                           "<figure id=\"%s\"><figcaption>%s</figcaption>\n"
                           "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"%s\">\n",
                           id, label, WIDTH, height, label);
}

static void end_figure(GString *out)
{
    g_string_append(out, "</svg></figure>\n");
}

static void draw_text(GString *out, double x, double y, const char *anchor, const char *what)
{
    g_autofree char *safe = ff_format_markup(what);

    g_string_append_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y,
                           anchor, safe);
}

/* TITLE: what a pointer that rests there is told. */
static void draw_box(GString *out, double x, double y, double w, double h, const char *class,
                     const char *title)
{
    g_autofree char *safe = ff_format_markup(title);

    g_string_append_printf(out,
                           "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
                           "height=\"%.2f\"><title>%s</title></rect>\n",
                           class, x, y, MAX(w, 0.75), MAX(h, 0), safe);
}

static void draw_line(GString *out, double x1, double y1, double x2, double y2, const char *class)
{
    g_string_append_printf(out,
                           "<line class=\"%s\" x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\"/>\n",
                           class, x1, y1, x2, y2);
}

static char *ms_text(double ms)
{
    return ff_format_us(1000 * ms);
}

/* 1, 2 or 5 times a power of ten, so that SPAN has about five of them. */
static double step_of(double span)
{
    double rough = MAX(span, 1e-3) / 5, power = 1;

    while (power > rough) {
        power /= 10;
    }
    while (power * 10 <= rough) {
        power *= 10;
    }
    double digit = rough / power;

    return power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
}

static double x_of(double ms, double from, double to)
{
    return LEFT + PLOT * CLAMP((ms - from) / MAX(to - from, 1e-6), 0, 1);
}

/* Of the milliseconds FROM to TO, below Y. */
static void time_axis(GString *out, double from, double to, double top, double y)
{
    double step = step_of(to - from);

    for (double at = 0; from + at <= to + 1e-9; at += step) {
        g_autofree char *label = ms_text(at);
        double x = x_of(from + at, from, to);

        draw_line(out, x, top, x, y + 4, "grid");
        draw_text(out, x, y + 17, "middle", label);
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

/* What the style has a colour of its own for; anything else QEMU may have said is none of a class.
 */
static const char *class_of(const char *status)
{
    return !strcmp(status, "postcopy-paused")             ? " lost"
           : g_str_has_prefix(status, "postcopy-recover") ? " again"
           : !strcmp(status, "setup")                     ? " setup"
           : !strcmp(status, "completed")                 ? " completed"
                                                          : "";
}

/* A side's statuses as bars, one after the other. */
static void draw_lane(GString *out, const FfPageData *d, FfSide side, double y)
{
    const FfMoment *before = NULL;

    for (guint i = 0; i <= d->moments->len; i++) {
        const FfMoment *m = i < d->moments->len ? &g_array_index(d->moments, FfMoment, i) : NULL;

        if (m && (m->side != side || !m->status)) {
            continue;
        }
        double to = m ? m->ms : d->end_ms;
        if (before && to >= before->ms) {
            double x = x_of(before->ms, 0, d->end_ms), w = x_of(to, 0, d->end_ms) - x;
            g_autofree char *class = g_strconcat(side_class[side], class_of(before->status), NULL);
            g_autofree char *time = ms_text(to - before->ms);
            g_autofree char *title =
                g_strdup_printf("%s: %s for %s", ff_side_name(side), before->status, time);

            draw_box(out, x, y, w, LANE, class, title);
            if (w > 7.0 * strlen(before->status)) {
                draw_text(out, x + w / 2, y + 15, "middle", before->status);
            }
        }
        before = m;
    }
    draw_text(out, LEFT - 8, y + 15, "end", ff_side_name(side));
}

static void draw_passes(GString *out, const FfPageData *d, double y)
{
    bool any = false;

    for (guint i = 0; i < d->moments->len; i++) {
        const FfMoment *m = &g_array_index(d->moments, FfMoment, i);

        if (m->pass >= 0) {
            g_autofree char *title = g_strdup_printf("pass %d", (int)m->pass);

            draw_box(out, x_of(m->ms, 0, d->end_ms) - 1, y, 2, LANE, "pass", title);
            any = true;
        }
    }
    draw_text(out, LEFT - 8, y + 15, "end", any ? "passes" : "no passes");
}

static void draw_blackout(GString *out, const FfPageData *d, double y)
{
    draw_text(out, LEFT - 8, y + 15, "end", "blackout");
    if (d->stop_ms >= 0) {
        double until = d->resume_ms >= d->stop_ms ? d->resume_ms : d->end_ms;
        double x = x_of(d->stop_ms, 0, d->end_ms);
        g_autofree char *time = ms_text(until - d->stop_ms);
        g_autofree char *title = g_strdup_printf("the guest stood for %s", time);

        draw_box(out, x, y, x_of(until, 0, d->end_ms) - x, LANE, "black", title);
    }
}

/* A side that was not there has no row; and a destination alone did not see the guest stop. */
void ff_chart_timeline(GString *out, const FfPageData *d)
{
    bool source = ff_record_of_side(d->record, FF_SIDE_SOURCE) != NULL;
    bool destination = ff_record_of_side(d->record, FF_SIDE_DESTINATION) != NULL || !source;
    double step = LANE + 8, y = 10, bottom = 10 + (3 * source + destination) * step;

    begin_figure(out, "timeline", "Timeline", bottom + 24);
    time_axis(out, 0, d->end_ms, 4, bottom);
    if (source) {
        draw_lane(out, d, FF_SIDE_SOURCE, y);
        draw_passes(out, d, y + step);
        draw_blackout(out, d, y + 2 * step);
        y += 3 * step;
    }
    if (destination) {
        draw_lane(out, d, FF_SIDE_DESTINATION, y);
    }
    end_figure(out);
}

/* Beside the bar, or in it where that is long. */
static void label_bar(GString *out, double x, double w, double y, const char *label)
{
    bool inside = w > PLOT / 2.0, left = !inside && x + w > LEFT + PLOT / 2.0;

    draw_text(out, inside || left ? (left ? x - 6 : x + 6) : x + w + 6, y, left ? "end" : "start",
              label);
}

static bool is_of_blackout(const FfPageData *d, const FfMoment *m)
{
    return m->ms >= d->stop_ms && m->ms <= d->resume_ms && (m->status || m->pass < 0);
}

void ff_chart_blackout(GString *out, const FfPageData *d)
{
    double span = d->resume_ms - d->stop_ms, y = 18;
    const FfMoment *before = NULL;
    unsigned n = 0;

    if (d->stop_ms < 0 || span <= 0) {
        return;
    }
    for (guint i = 0; i < d->moments->len; i++) {
        n += is_of_blackout(d, &g_array_index(d->moments, FfMoment, i));
    }
    double bottom = y + 20 * n;
    begin_figure(out, "blackout", "The blackout and its parts", bottom + 24);
    time_axis(out, d->stop_ms, d->resume_ms, 4, bottom);
    for (guint i = 0; i < d->moments->len; i++) {
        const FfMoment *m = &g_array_index(d->moments, FfMoment, i);

        if (!is_of_blackout(d, m)) {
            continue;
        }
        if (before) {
            double x = x_of(before->ms, d->stop_ms, d->resume_ms);
            double w = x_of(m->ms, d->stop_ms, d->resume_ms) - x;
            g_autofree char *time = ms_text(m->ms - before->ms);
            g_autofree char *label =
                g_strdup_printf("%s until %s: %s %s", time, ff_side_name(m->side), m->name,
                                m->status ? m->status : "");

            draw_box(out, x, y, w, 14, side_class[m->side], label);
            label_bar(out, x, w, y + 12, label);
            y += 20;
        }
        before = m;
    }
    end_figure(out);
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* A number of a sample; negative: it has none. */
typedef double Value(const FfSample *now, const FfSample *before);

static double remaining_bytes(const FfSample *now, const FfSample *before)
{
    return (double)ff_json_int(ff_json_object(now->info, "ram"), "remaining", -1);
}

/* MEMBER of x-farfault; where QEMU carries it, OTHERWISE of ram. -1: neither. */
static gint64 counter_value(JsonObject *info, const char *member, const char *otherwise)
{
    return ff_json_int(ff_json_object(info, "x-farfault"), member,
                       ff_json_int(ff_json_object(info, "ram"), otherwise, -1));
}

static double rate_of(const FfSample *now, const FfSample *before, const char *member,
                      const char *otherwise)
{
    gint64 n = counter_value(now->info, member, otherwise);
    gint64 was = before ? MAX(counter_value(before->info, member, otherwise), 0) : 0;
    double seconds = before ? (now->ms - before->ms) / 1000 : 0;

    return n < 0 || seconds < 0.001 ? -1 : (double)MAX(n - was, 0) / seconds;
}

static double wire_rate(const FfSample *now, const FfSample *before)
{
    return rate_of(now, before, "bytes-wire", "transferred");
}

/* Memory, as bytes before compression: what each kind of channel puts on the wire is not counted.
 */
static double memory_rate(const FfSample *now, const FfSample *before, const char *member)
{
    double page = ff_json_double(ff_json_object(now->info, "ram"), "page-size", 4096);

    return rate_of(now, before, member, "") * page;
}

static double bulk_rate(const FfSample *now, const FfSample *before)
{
    return memory_rate(now, before, "pages-bulk");
}

static double urgent_rate(const FfSample *now, const FfSample *before)
{
    return memory_rate(now, before, "pages-urgent");
}

static double request_rate(const FfSample *now, const FfSample *before)
{
    return rate_of(now, before, "requests", "postcopy-requests");
}

/* VALUE of each sample of SIDE, by F; the largest one. */
static double each_sample(const FfPageData *d, FfSide side, Value *value,
                          void (*f)(GString *out, double from, double to, double v, double scale),
                          GString *out, double scale)
{
    const FfSample *before = NULL;
    double most = 0;

    for (guint i = 0; i < d->samples->len; i++) {
        const FfSample *s = &g_array_index(d->samples, FfSample, i);
        double v;

        if (s->side != side) {
            continue;
        }
        v = value(s, before);
        if (v >= 0) {
            most = MAX(most, v);
            if (f) {
                f(out, x_of(before ? before->ms : s->ms, 0, d->end_ms), x_of(s->ms, 0, d->end_ms),
                  v, scale);
            }
        }
        before = s;
    }
    return most;
}

static void line_to(GString *out, double from, double to, double v, double scale)
{
    g_string_append_printf(out, "%.2f,%.2f ", to, HEIGHT - v * scale);
}

static void step_to(GString *out, double from, double to, double v, double scale)
{
    g_string_append_printf(out, "%.2f,%.2f %.2f,%.2f ", from, HEIGHT - v * scale, to,
                           HEIGHT - v * scale);
}

/* "1.5", "2000", "10 k" (g_free). */
static char *count_text(double v)
{
    return v < 1e4   ? g_strdup_printf("%.4g", v)
           : v < 1e7 ? g_strdup_printf("%.4g k", v / 1e3)
                     : g_strdup_printf("%.0f M", v / 1e6);
}

static void value_axis(GString *out, double most, bool bytes, const char *unit)
{
    double step = bytes ? most / 4 : step_of(most);

    for (double v = 0; step > 0 && v <= most * 1.0001; v += step) {
        g_autofree char *number = bytes ? ff_format_bytes(v) : count_text(v);
        g_autofree char *label = g_strconcat(number, unit, NULL);
        double y = HEIGHT - v * (HEIGHT - 12) / most;

        draw_line(out, LEFT, y, WIDTH - RIGHT, y, "grid");
        draw_text(out, LEFT - 8, y + 4, "end", label);
    }
}

static void draw_chart(GString *out, const FfPageData *d, const char *id, const char *label,
                       const bool sides[FF_SIDES], Value *value, bool steps, bool bytes,
                       const char *unit)
{
    double most = 0;

    for (FfSide side = 0; side < FF_SIDES; side++) {
        double more = sides[side] ? each_sample(d, side, value, NULL, NULL, 0) : 0;
        most = MAX(most, more);
    }
    if (most <= 0) {
        return;
    }
    begin_figure(out, id, label, HEIGHT + 24);
    time_axis(out, 0, d->end_ms, 12, HEIGHT);
    value_axis(out, most, bytes, unit);
    for (FfSide side = 0; side < FF_SIDES; side++) {
        if (sides[side]) {
            g_string_append_printf(out, "<polyline class=\"line %s\" points=\"", side_class[side]);
            each_sample(d, side, value, steps ? step_to : line_to, out, (HEIGHT - 12) / most);
            g_string_append(out, "\"/>\n");
        }
    }
    end_figure(out);
}

void ff_chart_remaining(GString *out, const FfPageData *d)
{
    draw_chart(out, d, "remaining", "Memory that is still to be moved", (bool[]){true, false},
               remaining_bytes, false, true, "");
}

void ff_chart_rate(GString *out, const FfPageData *d)
{
    draw_chart(out, d, "rate", "Bytes on all channels, per second", (bool[]){true, false},
               wire_rate, true, true, "/s");
    draw_chart(out, d, "rate-bulk",
               "Memory by the bulk channels (before compression, zeros too), per second",
               (bool[]){true, false}, bulk_rate, true, true, "/s");
    draw_chart(out, d, "rate-urgent", "Memory by the urgent channel, per second",
               (bool[]){true, false}, urgent_rate, true, true, "/s");
}

void ff_chart_faults(GString *out, const FfPageData *d)
{
    bool destination =
        counter_value(d->last[FF_SIDE_DESTINATION], "requests", "postcopy-requests") >= 0;

    draw_chart(out, d, "faults", "Page requests, per second", (bool[]){!destination, destination},
               request_rate, true, false, "/s");
}

/* ---- where ----------------------------------------------------------------------------------- */

static JsonArray *request_places(JsonObject *info)
{
    return ff_json_array(ff_json_object(info, "x-farfault"), "request-places");
}

static gint64 at_place(const FfSample *s, guint i)
{
    JsonArray *list = request_places(s->info);
    JsonNode *n = list && i < json_array_get_length(list) ? json_array_get_element(list, i) : NULL;

    return n && JSON_NODE_HOLDS_VALUE(n) ? MAX(json_node_get_int(n), 0) : 0;
}

/* Requests between two looks, for each of the N parts of memory in which the source counts them.
 * With OUT a rectangle for each, the darker the more of them, MOST being the darkest. Returns the
 * most. */
static gint64 draw_heat(GString *out, const FfPageData *d, guint n, gint64 most)
{
    double h = (HEIGHT - 12.0) / n, from = 0;
    const FfSample *before = NULL;
    gint64 top = 0;

    for (guint i = 0; i < d->samples->len; i++) {
        const FfSample *s = &g_array_index(d->samples, FfSample, i);
        double w = x_of(s->ms, 0, d->end_ms) - from;

        if (s->side != FF_SIDE_SOURCE ||
            (before && w < HEAT_STEP && s->info != d->last[FF_SIDE_SOURCE])) {
            continue;
        }
        for (guint p = 0; before && p < n; p++) {
            gint64 more = at_place(s, p) - at_place(before, p);

            top = MAX(top, more);
            if (out && more > 0) {
                g_string_append_printf(out,
                                       "<rect class=\"heat\" x=\"%.1f\" y=\"%.2f\" "
                                       "width=\"%.1f\" height=\"%.2f\" fill-opacity=\"%.2f\">"
                                       "<title>%" G_GINT64_FORMAT " request%s</title></rect>\n",
                                       from, HEIGHT - (p + 1) * h, MAX(w, 1), h,
                                       0.15 + 0.85 * (double)more / (double)most, more,
                                       more == 1 ? "" : "s");
            }
        }
        before = s;
        from += w;
    }
    return top;
}

static bool heat_chart(GString *out, const FfPageData *d)
{
    JsonObject *ram = ff_json_object(d->last[FF_SIDE_SOURCE], "ram");
    JsonArray *list = request_places(d->last[FF_SIDE_SOURCE]);
    guint n = list ? MIN(json_array_get_length(list), HEAT_MAX) : 0;
    gint64 most = draw_heat(NULL, d, n, 0);

    if (!most) {
        return false;
    }
    begin_figure(out, "places",
                 "Where the guest waited: page requests, by time and place in its memory",
                 HEIGHT + 24);
    time_axis(out, 0, d->end_ms, 12, HEIGHT);
    value_axis(out, MAX(ff_json_double(ram, "total", 0), 1), true, "");
    draw_heat(out, d, n, most);
    end_figure(out);
    return true;
}

/* By requests, where the source counts them. Else who waits at a look, and where: by block, each as
 * far as the highest address that was seen. */
void ff_chart_places(GString *out, const FfPageData *d)
{
    g_autoptr(GString) dots = g_string_new(NULL);
    gint64 top = 0;
    unsigned n = 0;

    if (heat_chart(out, d)) {
        return;
    }
    for (unsigned pass = 0; pass < 2; pass++) {
        for (guint i = 0; i < d->samples->len; i++) {
            const FfSample *s = &g_array_index(d->samples, FfSample, i);
            JsonObject *half = ff_json_object(ff_json_object(s->info, "x-farfault"), "half");
            JsonArray *waits = ff_json_array(half, "waits");

            for (guint w = 0; waits && w < json_array_get_length(waits); w++) {
                JsonObject *wait = ff_json_node_object(json_array_get_element(waits, w));
                gint64 offset = ff_json_int(wait, "offset", 0);

                if (!pass) {
                    top = MAX(top, offset);
                } else if (n++ < PLACES_MAX) {
                    g_autofree char *block =
                        ff_format_markup(ff_json_string_or(wait, "block", "?"));

                    g_string_append_printf(
                        dots,
                        "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" "
                        "r=\"2.5\"><title>0x%" G_GINT64_MODIFIER "x of %s</title></circle>\n",
                        x_of(s->ms, 0, d->end_ms),
                        HEIGHT - (double)offset * (HEIGHT - 12) / (double)MAX(top, 1),
                        (guint64)offset, block);
                }
            }
        }
    }
    if (!n) {
        return;
    }
    begin_figure(out, "places",
                 "Where the guest waited: pages that somebody waited for at the moment of a look",
                 HEIGHT + 24);
    time_axis(out, 0, d->end_ms, 12, HEIGHT);
    value_axis(out, (double)MAX(top, 1), true, "");
    g_string_append(out, dots->str);
    end_figure(out);
}

void ff_chart_latency(GString *out, const FfPageData *d)
{
    FfSide side = d->last[FF_SIDE_DESTINATION] ? FF_SIDE_DESTINATION : FF_SIDE_SOURCE;
    JsonArray *list = ff_json_array(ff_json_object(d->last[side], "x-farfault"), "latency-us");
    guint n = list ? json_array_get_length(list) : 0;
    gint64 low, count, most = 0;
    double total = 0;

    for (guint i = 0; i < n && ff_histogram_bucket(list, i, &low, &count); i++) {
        most = MAX(most, count);
        total += (double)count;
    }
    if (!most) {
        return;
    }
    begin_figure(out, "latency",
                 side == FF_SIDE_DESTINATION ? "Latency, from a fault to its page"
                                             : "Latency, from a request to its answer",
                 20 * n + 8);
    for (guint i = 0; i < n && ff_histogram_bucket(list, i, &low, &count); i++) {
        g_autofree char *from = ff_format_us((double)low);
        g_autofree char *label = g_strdup_printf("from %s", from);
        g_autofree char *number =
            g_strdup_printf("%" G_GINT64_FORMAT ", %.1f %%", count, 100.0 * (double)count / total);
        double w = (PLOT - 110) * (double)count / (double)most;

        draw_text(out, LEFT - 8, 20 * i + 16, "end", label);
        draw_box(out, LEFT, 20 * i + 4, w, 14, side_class[side], number);
        draw_text(out, LEFT + w + 6, 20 * i + 16, "start", number);
    }
    end_figure(out);
}

void ff_chart_pages(GString *out, const FfPageData *d)
{
    FfSide side = d->last[FF_SIDE_SOURCE] ? FF_SIDE_SOURCE : FF_SIDE_DESTINATION;
    JsonObject *x = ff_json_object(d->last[side], "x-farfault");
    const struct {
        const char *name;
        gint64 n;
    } row[] = {
        {"bulk", ff_json_int(x, "pages-bulk", 0)},
        {"urgent", ff_json_int(x, "pages-urgent", 0)},
        {"zero", ff_json_int(x, "pages-zero", 0)},
        {"twice", ff_json_int(x, "pages-duplicate", 0)},
    };
    gint64 most = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        most = MAX(most, row[i].n);
    }
    if (!most || d->kind == FF_WORDS_RESTORE) {
        return;
    }
    begin_figure(out, "pages",
                 "Pages by the way they took; zeros, and pages that came twice, are among them",
                 20 * G_N_ELEMENTS(row) + 8);
    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autofree char *number = g_strdup_printf("%" G_GINT64_FORMAT " pages", row[i].n);
        double w = (PLOT - 130) * (double)MAX(row[i].n, 0) / (double)most;

        draw_text(out, LEFT - 8, 20 * (double)i + 16, "end", row[i].name);
        draw_box(out, LEFT, 20 * (double)i + 4, w, 14, side_class[side], number);
        draw_text(out, LEFT + w + 6, 20 * (double)i + 16, "start", number);
    }
    end_figure(out);
}
