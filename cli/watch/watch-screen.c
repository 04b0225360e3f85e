/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lays out what is known of one or two sides: a headline, a bar, a table with a column for each
 * side (below each other on a narrow terminal), the last events.
 *
 * Names and errors come from guests and from other hosts. What is no printable character is shown
 * as "?", so nothing of it reaches the terminal as a command. No state; any thread.
 */
#include "cli/watch/watch-screen.h"

#include <string.h>

#include "cli/common/format.h"
#include "cli/common/words.h"
#include "qmp/json.h"

#define WIDE 76       /* columns from which both sides stand beside each other */
#define GAP 2         /* columns between them */
#define LABEL 9       /* columns of a row's name */
#define WAITS_SHOWN 4 /* of those that wait for a page */
#define EVENTS_SHOWN 6
#define BOLD "\033[1m"
#define DIM "\033[2m"
#define GREEN "\033[32m"
#define RED "\033[31m"
#define YELLOW "\033[33m"
#define PLAIN "\033[0m"

typedef struct {
    GString *out;
    int columns, rows, used; /* rows 0: any number */
    bool color;
} Screen;

/* ---- text of one side ------------------------------------------------------------------------ */

static JsonObject *own_info(const FfWatchSide *s)
{
    return ff_json_object(s->info, "x-farfault");
}

const char *ff_watch_status(const FfWatchSide *s)
{
    return ff_json_string_or(s->info, "status", "none");
}

/* Its migration has ended, or is about to, and the guest stays. What comes in is never cancelled;
 * where that has failed no guest is. */
static bool has_kept(const FfWatchSide *s)
{
    const char *status = ff_watch_status(s);

    return g_str_has_prefix(status, "cancel") ||
           (!strcmp(status, "failed") && s->state && strcmp(s->state, "inmigrate") != 0);
}

const char *ff_watch_role(const FfWatchSide *s)
{
    const char *half = ff_json_string(ff_json_object(own_info(s), "half"), "role");

    /* A guest that was restored may be about to move. */
    if (ff_json_object(own_info(s), "restore") && ff_words_over(ff_watch_status(s))) {
        return "guest";
    }
    if (half) {
        return half;
    }
    if (ff_json_object(own_info(s), "snapshot")) {
        return "guest";
    }
    if (ff_json_object(s->info, "ram") || !g_strcmp0(s->state, "postmigrate") || has_kept(s)) {
        return "source";
    }
    return own_info(s) || !g_strcmp0(s->state, "inmigrate") ||
                   ff_json_array(s->info, "socket-address")
               ? "destination"
               : "guest";
}

/* Bytes that are about to be moved and that are left; of a destination alone, by pages. FALSE: not
 * known. */
static bool amount_left(const FfWatchView *v, gint64 *total, gint64 *left, const FfRate **pace)
{
    for (unsigned i = 0; i < v->n; i++) {
        JsonObject *ram = ff_json_object(v->side[i].info, "ram");

        *total = ff_json_int(ram, "total", 0);
        *left = ff_json_int(ram, "remaining", 0);
        *pace = &v->side[i].pace;
        if (*total > 0) {
            return true;
        }
    }
    for (unsigned i = 0; i < v->n; i++) {
        JsonObject *half = ff_json_object(own_info(&v->side[i]), "half");
        gint64 pages = ff_json_int(half, "pages-total", 0);
        gint64 missing = pages - ff_json_int(half, "pages-destination", 0);
        gint64 bytes = ff_json_int(half, "bytes-missing", 0);

        if (pages > 0 && missing > 0 && bytes > 0) {
            *total = (gint64)((double)bytes / (double)missing * (double)pages);
            *left = bytes;
            *pace = &v->side[i].pace;
            return true;
        }
    }
    return false;
}

static char *amount_text(const FfWatchView *v, double *done)
{
    const FfRate *pace;
    gint64 total, left;

    *done = 0;
    if (!amount_left(v, &total, &left, &pace)) {
        return NULL;
    }
    *done = CLAMP(1.0 - (double)left / (double)total, 0.0, 1.0);
    g_autofree char *left_text = ff_format_bytes((double)left);
    g_autofree char *total_text = ff_format_bytes((double)total);
    g_autofree char *rate = ff_format_bytes(pace->rate);
    gint64 ms = ff_rate_left(pace);
    g_autofree char *time = ms >= 0 && left ? ff_format_duration(ms) : NULL;

    return g_strdup_printf("%3.0f %%  %s of %s left%s%s%s%s%s", 100 * *done, left_text, total_text,
                           pace->rate > 0 ? ", " : "", pace->rate > 0 ? rate : "",
                           pace->rate > 0 ? "/s" : "", time ? ", done in " : "", time ? time : "");
}

static char *requests_text(const FfWatchSide *s)
{
    JsonObject *x = own_info(s);
    gint64 n = ff_json_int(x, "requests", -1);
    g_autofree char *half = ff_format_us(ff_histogram_quantile(x, 0.5));
    g_autofree char *p99 = ff_format_us(ff_histogram_quantile(x, 0.99));

    if (n < 0 || ff_json_object(x, "snapshot")) {
        return NULL;
    }
    return n ? g_strdup_printf("%" G_GINT64_FORMAT ", %.0f/s now; half up to %s, 99 %% up to %s", n,
                               s->pace.fault_rate, half, p99)
             : g_strdup("none");
}

static char *writes_text(const FfWatchSide *s)
{
    JsonObject *snapshot = ff_json_object(own_info(s), "snapshot");
    g_autofree char *used = ff_format_bytes((double)ff_json_int(snapshot, "buffer-used", 0));

    return snapshot ? g_strdup_printf("%" G_GINT64_FORMAT ", %.0f/s now, %" G_GINT64_FORMAT
                                      " waited; buffer %s",
                                      ff_json_int(own_info(s), "requests", 0), s->pace.fault_rate,
                                      ff_json_int(snapshot, "waits", 0), used)
                    : NULL;
}

static char *waits_text(const FfWatchSide *s)
{
    JsonArray *waits = ff_json_array(ff_json_object(own_info(s), "half"), "waits");
    guint n = waits ? json_array_get_length(waits) : 0;
    g_autoptr(GString) text = g_string_new(NULL);

    if (!waits || strcmp(ff_watch_role(s), "destination") != 0) {
        return NULL;
    }
    for (guint i = 0; i < MIN(n, WAITS_SHOWN); i++) {
        JsonObject *w = ff_json_node_object(json_array_get_element(waits, i));
        gint64 vcpu = ff_json_int(w, "vcpu", -1);
        g_autofree char *who =
            vcpu >= 0 ? g_strdup_printf("vCPU %d", (int)vcpu) : g_strdup("QEMU itself");
        g_autofree char *since = ff_format_duration(ff_json_int(w, "ms", 0));

        g_string_append_printf(text, "%s%s %s", i ? ", " : "", who, since);
    }
    if (n > WAITS_SHOWN) {
        g_string_append_printf(text, ", %u more", n - WAITS_SHOWN);
    }
    return n ? g_string_free(g_steal_pointer(&text), FALSE) : g_strdup("nobody");
}

static char *times_text(const FfWatchSide *s)
{
    return ff_words_downtime(s->info);
}

static char *broken_text(const FfWatchSide *s)
{
    gint64 ms = ff_json_int(ff_json_object(own_info(s), "half"), "broken-ms", -1);
    g_autofree char *since = ff_format_duration(MAX(ms, 0));

    return ms >= 0 ? g_strdup_printf("for %s", since) : NULL;
}

static char *error_text(const FfWatchSide *s)
{
    return g_strdup(s->why ? s->why : ff_json_string(s->info, "error-desc"));
}

static char *carrier_text(const FfWatchSide *s)
{
    const char *reason = ff_json_string(own_info(s), "reason");

    return reason ? g_strdup_printf("carries it: %s", reason) : NULL;
}

static char *state_text(const FfWatchSide *s)
{
    return s->state && !s->why ? g_strdup(ff_words_guest(s->state, s->info)) : NULL;
}

static char *status_text(const FfWatchSide *s)
{
    return g_strdup(s->why ? "cannot be asked" : ff_watch_status(s));
}

/* One row: NULL where there is nothing to say. */
static const struct {
    const char *name;
    char *(*text)(const FfWatchSide *s);
    const char *color; /* NULL: none */
} rows[] = {
    {"status", status_text, NULL},  {"guest", state_text, NULL},
    {"downtime", times_text, NULL}, {"requests", requests_text, NULL},
    {"writes", writes_text, NULL},  {"waiting", waits_text, YELLOW},
    {"broken", broken_text, RED},   {"QEMU", carrier_text, NULL},
    {"error", error_text, RED},
};

/* ---- the screen ------------------------------------------------------------------------------ */

/* TEXT as a terminal may show it, in pieces of at most WIDTH columns: broken between words, or in a
 * word where it alone is too long. At least one piece (g_ptr_array_unref). */
static GPtrArray *wrap_text(const char *text, int width)
{
    GPtrArray *pieces = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *safe = ff_format_shown(text);
    const char *rest = safe;

    do {
        char *piece = g_strdup(rest);
        size_t n;

        ff_format_cut(piece, width);
        n = strlen(piece);
        char *space = rest[n] && rest[n] != ' ' ? strrchr(piece, ' ') : NULL;
        if (space && space[1] && space > piece + strspn(piece, " ")) {
            n = (size_t)(space + 1 - piece);
            piece[n] = 0;
        }
        g_ptr_array_add(pieces, g_strchomp(piece));
        rest += n + strspn(rest + n, " ");
        if (!n) {
            break; /* no letter fits */
        }
    } while (*rest);
    return pieces;
}

/* TEXT fits into WIDTH columns, and is filled up to them if FILL. */
static void put_text(Screen *s, const char *text, int width, bool fill, const char *color)
{
    g_autofree char *safe = ff_format_shown(text);
    int used = ff_format_cut(safe, width);

    color = s->color ? color : NULL;
    g_string_append_printf(s->out, "%s%s%s%*s", color ? color : "", safe, color ? PLAIN : "",
                           fill ? MAX(width - used, 0) : 0, "");
}

static bool has_room(const Screen *s)
{
    return !s->rows || s->used < s->rows;
}

static void end_line(Screen *s)
{
    g_string_append_c(s->out, '\n');
    s->used++;
}

static void put_line(Screen *s, const char *text, const char *color)
{
    g_autoptr(GPtrArray) pieces = wrap_text(text, s->columns);

    for (guint i = 0; i < pieces->len && has_room(s); i++) {
        put_text(s, pieces->pdata[i], s->columns, false, color);
        end_line(s);
    }
}

static const char *nth_piece(const GPtrArray *pieces, guint i)
{
    return i < pieces->len ? pieces->pdata[i] : "";
}

static const char *color_of(const char *status)
{
    return !strcmp(status, "completed")                                      ? GREEN
           : !strcmp(status, "failed") || !strcmp(status, "postcopy-paused") ? RED
                                                                             : BOLD;
}

/* The one whose status is the migration's. */
static const FfWatchSide *leading_side(const FfWatchView *v)
{
    for (unsigned i = 0; i < v->n; i++) {
        if (!v->side[i].why && strcmp(ff_watch_status(&v->side[i]), "none") != 0 &&
            strcmp(ff_watch_role(&v->side[i]), "destination") != 0) {
            return &v->side[i];
        }
    }
    for (unsigned i = 0; i < v->n; i++) {
        if (!v->side[i].why) {
            return &v->side[i];
        }
    }
    return &v->side[0];
}

/* "web01: migration completed, 12.30 s" (g_free). */
static char *headline_text(const FfWatchView *v)
{
    const FfWatchSide *s = leading_side(v);
    const char *status = ff_watch_status(s), *name = s->name ? s->name : "";
    FfWordsKind kind = ff_words_kind(s->info);
    const char *what = ff_words_kind_name(kind);
    const char *words = ff_words_migration(status, kind);
    g_autofree char *time = ff_format_duration(ff_json_int(s->info, "total-time", v->ms));

    return strcmp(status, "none")
               ? g_strdup_printf("%s%s%s %s, %s", name, *name ? ": " : "", what, words, time)
               : g_strdup_printf("%s%sno migration so far; waits for one", name, *name ? ": " : "");
}

static void put_bar(Screen *s, double done, const char *color)
{
    int width = MIN(s->columns, 100) - 2;
    g_autofree char *full = g_strnfill((gsize)(MAX(width, 0) * done), '#');
    g_autofree char *text = width > 0 ? g_strdup_printf("[%-*s]", width, full) : g_strdup("");

    put_line(s, text, color);
}

/* A name and a cell of each side, as many lines as they need. */
static void put_cells(Screen *s, const char *name, const char *left, const char *right,
                      const char *color)
{
    int width = (s->columns - LABEL - 1 - GAP) / 2;
    g_autoptr(GPtrArray) l = wrap_text(left ? left : "", width),
                         r = wrap_text(right ? right : "", width);

    for (guint i = 0; i < MAX(l->len, r->len) && has_room(s); i++) {
        put_text(s, i ? "" : name, LABEL + 1, true, DIM);
        put_text(s, nth_piece(l, i), width, *nth_piece(r, i), color);
        if (*nth_piece(r, i)) {
            put_text(s, "", GAP, true, NULL);
            put_text(s, nth_piece(r, i), width, false, color);
        }
        end_line(s);
    }
}

/* Who it is: "source, QEMU 7.2.22, /run/a.qmp". */
static char *side_title(const FfWatchSide *side)
{
    const char *version = side->version ? side->version : "?"; /* "7.2.22 (Debian ...)" */

    return g_strdup_printf("%s, QEMU %.*s, %s", ff_watch_role(side), (int)strcspn(version, " "),
                           version, side->address);
}

static void put_beside(Screen *s, const FfWatchView *v)
{
    g_autofree char *left_title = side_title(&v->side[0]), *right_title = side_title(&v->side[1]);

    put_cells(s, "", left_title, right_title, BOLD);
    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        g_autofree char *left = rows[r].text(&v->side[0]);
        g_autofree char *right = rows[r].text(&v->side[1]);

        if (left || right) {
            put_cells(s, rows[r].name, left, right, rows[r].color);
        }
    }
}

/* A name and what is said of it, as many lines as it needs. */
static void put_named(Screen *s, const char *name, const char *text, const char *color)
{
    int width = MAX(s->columns - LABEL - 1, 0);
    g_autoptr(GPtrArray) pieces = wrap_text(text, width);

    for (guint i = 0; i < pieces->len && has_room(s); i++) {
        put_text(s, i ? "" : name, MIN(LABEL + 1, s->columns), true, DIM);
        put_text(s, nth_piece(pieces, i), width, false, color);
        end_line(s);
    }
}

static void put_below(Screen *s, const FfWatchSide *side)
{
    g_autofree char *head = side_title(side);

    put_line(s, head, BOLD);
    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        g_autofree char *text = rows[r].text(side);

        if (text) {
            put_named(s, rows[r].name, text, rows[r].color);
        }
    }
}

/* The last ones, as many as leave AFTER lines. */
static void put_events(Screen *s, const GPtrArray *list, int after)
{
    int n = list ? (int)list->len : 0;
    int room = s->rows ? CLAMP(s->rows - s->used - after, 0, EVENTS_SHOWN) : EVENTS_SHOWN;

    for (int i = MAX(n - room, 0); i < n; i++) {
        put_line(s, list->pdata[i], DIM);
    }
}

char *ff_watch_screen(const FfWatchView *v, int columns, int max, bool color)
{
    Screen s = {.out = g_string_new(NULL), .columns = columns, .rows = max, .color = color};
    g_autofree char *head = headline_text(v);
    const char *shade = color_of(ff_watch_status(leading_side(v)));
    double done;
    g_autofree char *text = amount_text(v, &done);

    put_line(&s, head, shade);
    if (text) {
        put_bar(&s, done, shade);
        put_line(&s, text, NULL);
    }
    if (v->n == 2 && columns >= WIDE) {
        put_beside(&s, v);
    } else {
        for (unsigned i = 0; i < v->n; i++) {
            put_below(&s, &v->side[i]);
        }
    }
    put_events(&s, v->events, 1);
    put_line(&s, v->how, DIM);
    return g_string_free(s.out, FALSE);
}

static void append_text(GString *out, const char *name, char *text)
{
    if (text) {
        g_string_append_printf(out, "; %s%s%s", name, *name ? " " : "", text);
    }
    g_free(text);
}

char *ff_watch_line(const FfWatchView *v)
{
    g_autoptr(GString) out = g_string_new(NULL);
    double done;

    g_string_append_printf(out, "%.1f s", (double)v->ms / 1000);
    for (unsigned i = 0; i < v->n; i++) {
        const FfWatchSide *s = &v->side[i];

        g_string_append_printf(out, "%s %s %s", i ? "," : "", ff_watch_role(s),
                               s->why ? "cannot be asked" : ff_watch_status(s));
    }
    append_text(out, "", amount_text(v, &done));
    for (unsigned i = 0; i < v->n; i++) {
        const FfWatchSide *s = &v->side[i];

        /* Both sides count the same requests: the side that waits knows better how long. */
        if (v->n == 1 || !strcmp(ff_watch_role(s), "destination")) {
            append_text(out, "requests", requests_text(s));
            append_text(out, "waiting", waits_text(s));
        }
        append_text(out, "writes", writes_text(s));
        append_text(out, "broken", broken_text(s));
        append_text(out, "error:", error_text(s));
    }
    return ff_format_shown(out->str);
}
