/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault status --watch: asks one or two monitors, and shows the answers while they change.
 *
 * Every event of a side is a reason to ask both again: states, passes, stops and resumes are never
 * polled for. What has no event is what the numbers are: while something is under way a timer of
 * the main loop asks for them, at an interval that is shown. Nothing is asked again before it was
 * answered. Where nothing is under way there is no timer, unless a side's capability "events" is
 * off: then nobody would say that a migration begins.
 *
 * A terminal gets a screen that is drawn over itself, anything else a line for each event and each
 * interval. One thread: the main loop of the default context.
 */
#include "cli/watch/watch.h"

#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/common/halves-report.h"
#include "cli/common/qmp.h"
#include "cli/common/words.h"
#include "cli/watch/watch-screen.h"
#include "qmp/json.h"

#define TERMINAL_MS 500
#define PLAIN_MS 1000
#define IDLE_MS 2000 /* nothing is under way, and no event would say that something begins */
#define EVENTS_KEPT 20

enum { EXIT_OVER, EXIT_FAILED, EXIT_LEFT = 4 };

typedef struct Watch Watch;

typedef struct {
    Watch *watch;
    FfCliQmp *qmp; /* NULL: it cannot be asked */
    JsonNode *info;
    char *name, *state, *why;
    bool asking_info, asking_state, again; /* again: an event came meanwhile */
    bool eventless;                        /* its capability "events" is off */
    FfSide role;                           /* in the record */
    FfRate pace;
} Side;

struct Watch {
    Side side[2];
    char *const *addresses;
    unsigned n, interval;
    bool terminal, color, done;
    bool begun; /* something was under way */
    int drawn;  /* lines on the screen */
    int status; /* of the process */
    gint64 start;
    guint timer, timer_ms;
    GPtrArray *events; /* char * */
    char *how;
    FfRecord *record; /* NULL: none */
    bool recording;
};

/* ---- what is known --------------------------------------------------------------------------- */

static const char *status_of(const Side *s)
{
    return ff_json_string_or(ff_json_node_object(s->info), "status", "none");
}

static void fill_view(const Watch *w, FfWatchSide *view)
{
    for (unsigned i = 0; i < w->n; i++) {
        const Side *s = &w->side[i];

        view[i] = (FfWatchSide){
            .address = w->addresses[i],
            .why = s->why,
            .version = s->qmp ? ff_cli_qmp_version(s->qmp) : NULL,
            .name = s->name,
            .state = s->state,
            .info = ff_json_node_object(s->info),
            .pace = s->pace,
        };
    }
}

static bool under_way(const Watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        if (!w->side[i].why && ff_words_under_way(status_of(&w->side[i]))) {
            return true;
        }
    }
    return false;
}

/* ---- the record ------------------------------------------------------------------------------ */

/* A side that moves a guest away, or saves it, is the source; so is one that does nothing yet. */
static void set_roles(Watch *w)
{
    FfWatchSide view[2];

    fill_view(w, view);
    w->side[0].role =
        !strcmp(ff_watch_role(&view[0]), "destination") ? FF_SIDE_DESTINATION : FF_SIDE_SOURCE;
    w->side[1].role = w->side[0].role == FF_SIDE_SOURCE ? FF_SIDE_DESTINATION : FF_SIDE_SOURCE;
}

/* TRUE: what is said is recorded. It begins when something does. */
static bool is_recording(Watch *w, bool begins)
{
    bool local = true;

    if (!w->record || w->recording || !begins) {
        return w->recording;
    }
    w->recording = true;
    set_roles(w);
    for (unsigned i = 0; i < w->n; i++) {
        local &= !w->side[i].qmp || !ff_cli_qmp_host(w->side[i].qmp);
    }
    ff_record_begin(w->record, local);
    for (unsigned i = 0; i < w->n; i++) {
        const Side *s = &w->side[i];

        ff_record_side(w->record, s->role, w->addresses[i],
                       s->qmp ? ff_cli_qmp_version(s->qmp) : NULL, s->name);
    }
    return true;
}

/* ---- showing it ------------------------------------------------------------------------------ */

static void draw_screen(Watch *w)
{
    struct winsize size;
    bool known = !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col;
    FfWatchSide sides[2];
    FfWatchView view = {sides, w->n, (g_get_monotonic_time() - w->start) / 1000, w->events, w->how};

    fill_view(w, sides);
    g_autofree char *text = ff_watch_screen(
        &view, known ? size.ws_col : 80, known && size.ws_row > 1 ? size.ws_row - 1 : 0, w->color);
    if (w->drawn) {
        printf("\033[%dA", w->drawn);
    }
    fputs("\r\033[J", stdout);
    fputs(text, stdout);
    fflush(stdout);
    w->drawn = 0;
    for (const char *c = text; (c = strchr(c, '\n')); c++) {
        w->drawn++;
    }
}

static void print_line(Watch *w)
{
    FfWatchSide sides[2];
    FfWatchView view = {sides, w->n, (g_get_monotonic_time() - w->start) / 1000, w->events, w->how};

    fill_view(w, sides);
    g_autofree char *text = ff_watch_line(&view);
    puts(text);
    fflush(stdout);
}

static gboolean on_resize(gpointer opaque)
{
    Watch *w = opaque;

    fputs("\033[H\033[J", stdout); /* lines that were too long for it have become two */
    w->drawn = 0;
    draw_screen(w);
    return G_SOURCE_CONTINUE;
}

/* ---- when to ask ----------------------------------------------------------------------------- */

static void ask_side(Side *s);

static void ask_all(Watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        ask_side(&w->side[i]);
    }
}

static gboolean on_timer(gpointer opaque)
{
    ask_all(opaque);
    return G_SOURCE_CONTINUE;
}

/* The timer that what is known now asks for. */
static void set_timer(Watch *w)
{
    bool eventless = false;

    for (unsigned i = 0; i < w->n; i++) {
        eventless |= w->side[i].eventless && !w->side[i].why;
    }
    guint ms = under_way(w) ? w->interval : eventless ? IDLE_MS : 0;
    if (ms == w->timer_ms && w->how) {
        return;
    }
    g_clear_handle_id(&w->timer, g_source_remove);
    g_free(w->how);
    w->how = ms ? g_strdup_printf("asks at each event and every %.1f s; Ctrl-C leaves", ms / 1000.0)
                : g_strdup("asks at each event; Ctrl-C leaves");
    w->timer_ms = ms;
    if (ms) {
        w->timer = g_timeout_add(ms, on_timer, w);
    }
}

/* Something was under way, and is over at all sides that can be asked. */
static void check_over(Watch *w)
{
    bool asked = false, over = true, good = true;

    for (unsigned i = 0; i < w->n; i++) {
        Side *s = &w->side[i];
        const char *status = status_of(s);

        if (!s->why) {
            asked = true;
            /* "none": it has no part in it. */
            over &= !ff_words_under_way(status) && !s->asking_info;
            good &= !strcmp(status, "completed") || !strcmp(status, "none");
        }
    }
    if (!asked) {
        w->status =
            w->begun && !strcmp(status_of(&w->side[0]), "completed") ? EXIT_OVER : EXIT_FAILED;
        w->done = true;
    } else if (w->begun && over) {
        w->status = good ? EXIT_OVER : EXIT_FAILED;
        w->done = true;
    }
}

/* One that can be asked gives the lines their pace. */
static bool is_first(const Side *s)
{
    const Watch *w = s->watch;

    return s == &w->side[0] || w->side[0].why;
}

static void on_changed(Side *s)
{
    Watch *w = s->watch;

    w->begun |= under_way(w);
    set_timer(w);
    check_over(w);
    if (w->done) {
        g_free(w->how);
        w->how = g_strdup("over");
    }
    if (w->terminal) {
        draw_screen(w);
    } else if (w->done || (!s->asking_info && is_first(s))) {
        print_line(w);
    }
}

/* ---- answers and events ---------------------------------------------------------------------- */

static void on_state(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Side *s = opaque;

    s->asking_state = false;
    if (result) {
        g_free(s->state);
        s->state = g_strdup(ff_json_string(ff_json_node_object(result), "status"));
    }
    if (s->watch->terminal) {
        on_changed(s);
    }
}

static void on_info(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Side *s = opaque;
    JsonObject *info = ff_json_node_object(result);

    s->asking_info = false;
    if (info) {
        JsonObject *ram = ff_json_object(info, "ram");
        JsonObject *half = ff_json_object(ff_json_object(info, "x-farfault"), "half");

        g_clear_pointer(&s->info, json_node_unref);
        s->info = json_node_copy(result);
        if (is_recording(s->watch, ff_words_under_way(status_of(s)))) {
            ff_record_info(s->watch->record, s->role, info);
        }
        ff_rate_look(
            &s->pace, g_get_monotonic_time(),
            ff_json_int(ram, "transferred",
                        ff_json_int(ff_json_object(info, "x-farfault"), "bytes-wire", 0)),
            ff_json_int(ram, "remaining", ff_json_int(half, "bytes-missing", s->pace.remaining)),
            ff_json_int(ff_json_object(info, "x-farfault"), "requests", 0));
    }
    if (s->again) {
        s->again = false;
        ask_side(s);
    }
    on_changed(s);
}

/* A side that lacks pages is not asked for its run state, which its events tell: QEMU may wait for
 * a page, and until it answers this monitor answers nothing else. */
static void ask_side(Side *s)
{
    if (!s->qmp || s->why) {
        return;
    }
    if (s->asking_info) {
        return;
    }
    s->asking_info = true;
    ff_cli_qmp_send(s->qmp, "query-migrate", NULL, on_info, s);
    if (!s->asking_state && !ff_halves_lack_pages(ff_json_node_object(s->info))) {
        s->asking_state = true;
        ff_cli_qmp_send(s->qmp, "query-status", NULL, on_state, s);
    }
}

static void note_event(Watch *w, const Side *s, JsonObject *event)
{
    JsonObject *data = ff_json_object(event, "data");
    const char *status = ff_json_string(data, "status");
    gint64 pass = ff_json_int(data, "pass", -1);
    FfWatchSide sides[2];
    g_autofree char *number =
        pass >= 0 ? g_strdup_printf(" %" G_GINT64_FORMAT, pass) : g_strdup("");

    fill_view(w, sides);
    if (w->events->len == EVENTS_KEPT) {
        g_ptr_array_remove_index(w->events, 0);
    }
    g_ptr_array_add(w->events, g_strdup_printf("%7.2f s  %s: %s%s%s%s",
                                               (double)(g_get_monotonic_time() - w->start) / 1e6,
                                               ff_watch_role(&sides[s - w->side]),
                                               ff_json_string_or(event, "event", "?"),
                                               status ? " " : "", status ? status : "", number));
}

static void note_state(Side *s, const char *event)
{
    const char *state = !strcmp(event, "RESUME") ? "running"
                        : !strcmp(event, "STOP") ? "paused"
                                                 : NULL;

    if (state) {
        g_free(s->state);
        s->state = g_strdup(state);
    }
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    Side *s = opaque;
    Watch *w = s->watch;

    if (!event) {
        g_free(s->why);
        s->why = g_strdup(error->message);
        s->asking_info = s->asking_state = false;
        on_changed(s);
        return;
    }
    if (is_recording(w, !strcmp(ff_json_string_or(event, "event", ""), "MIGRATION"))) {
        ff_record_event(w->record, s->role, event);
    }
    note_event(w, s, event);
    note_state(s, ff_json_string_or(event, "event", ""));
    for (unsigned i = 0; i < w->n; i++) {
        w->side[i].again |= w->side[i].asking_info; /* that answer may be older than the event */
    }
    ask_all(w);
}

static gboolean on_signal(gpointer opaque)
{
    Watch *w = opaque;

    w->status = EXIT_LEFT;
    w->done = true;
    return G_SOURCE_CONTINUE;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static bool lacks_events(JsonNode *capabilities)
{
    JsonArray *list = capabilities && JSON_NODE_HOLDS_ARRAY(capabilities)
                          ? json_node_get_array(capabilities)
                          : NULL;

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *one = ff_json_node_object(json_array_get_element(list, i));

        if (!strcmp(ff_json_string_or(one, "capability", ""), "events")) {
            return !ff_json_bool(one, "state");
        }
    }
    return true;
}

static void connect_side(Watch *w, unsigned i)
{
    Side *s = &w->side[i];
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) info = NULL, name = NULL, state = NULL, capabilities = NULL;

    s->watch = w;
    s->qmp = ff_cli_qmp_open(w->addresses[i], NULL, &error);
    info = s->qmp ? ff_cli_qmp_call(s->qmp, "query-migrate", NULL, &error) : NULL;
    capabilities =
        info ? ff_cli_qmp_call(s->qmp, "query-migrate-capabilities", NULL, &error) : NULL;
    s->eventless = capabilities && lacks_events(capabilities);
    /* A QEMU that waits for a page does not say its name. */
    s->info = info ? json_node_copy(info) : NULL;
    if (capabilities && !ff_halves_lack_pages(ff_json_node_object(info))) {
        name = ff_cli_qmp_call(s->qmp, "query-name", NULL, &error);
        s->name = g_strdup(ff_json_string(ff_json_node_object(name), "name"));
        state = name ? ff_cli_qmp_call(s->qmp, "query-status", NULL, &error) : NULL;
        s->state = g_strdup(ff_json_string(ff_json_node_object(state), "status"));
    }
    if (error) {
        s->why = g_strdup(error->message);
    }
}

static void run_watch(Watch *w)
{
    guint sources[3] = {g_unix_signal_add(SIGINT, on_signal, w),
                        g_unix_signal_add(SIGTERM, on_signal, w),
                        w->terminal ? g_unix_signal_add(SIGWINCH, on_resize, w) : 0};

    w->begun = under_way(w);
    set_timer(w);
    for (unsigned i = 0; i < w->n; i++) {
        if (!w->side[i].why) {
            ff_cli_qmp_listen(w->side[i].qmp, on_event, &w->side[i]);
        }
    }
    ask_all(w);
    while (!w->done) {
        g_main_context_iteration(NULL, TRUE);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sources); i++) {
        if (sources[i]) {
            g_source_remove(sources[i]);
        }
    }
}

static void side_clear(Side *s)
{
    if (s->qmp) {
        ff_cli_qmp_listen(s->qmp, NULL, NULL);
        ff_cli_qmp_forget(s->qmp, s);
        ff_cli_qmp_free(s->qmp);
    }
    g_clear_pointer(&s->info, json_node_unref);
    g_free(s->name);
    g_free(s->state);
    g_free(s->why);
}

int ff_watch(char *const *addresses, unsigned interval_ms, FfRecord *record)
{
    const char *term = g_getenv("TERM");
    bool terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    Watch w = {.addresses = addresses,
               .n = addresses[1] ? 2 : 1,
               .terminal = terminal,
               .color = terminal && !g_getenv("NO_COLOR"),
               .interval = interval_ms ? interval_ms
                           : terminal  ? TERMINAL_MS
                                       : PLAIN_MS,
               .start = g_get_monotonic_time(),
               .record = record};
    bool any = false;

    w.events = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < w.n; i++) {
        connect_side(&w, i);
        any |= !w.side[i].why;
        if (w.side[i].why) {
            fprintf(stderr, "farfault: %s\n", w.side[i].why);
        }
    }
    w.status = EXIT_FAILED;
    if (any) {
        run_watch(&w);
    }
    for (unsigned i = 0; i < w.n; i++) {
        side_clear(&w.side[i]);
    }
    g_clear_handle_id(&w.timer, g_source_remove);
    g_ptr_array_unref(w.events);
    g_free(w.how);
    return w.status;
}
