/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault trace: the marks of engines as they come, by uprobes of tracefs (trace/tracefs.c), a
 * line each; until a signal, or the end of all guests that were named, or of the process that
 * reads.
 *
 * One thread: the main loop of the default context. It waits for the pipe of tracefs or for room in
 * stdout, for signals, and for the end of QEMU's processes (pidfd). Whatever ends it, what was made
 * in tracefs is removed; signals are caught before anything is made.
 */
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/trace-guests.h"
#include "cli/trace-line.h"
#include "cli/trace-programs.h"
#include "cli/words.h"
#include "trace/tracefs.h"

#include <errno.h>
#include <glib-unix.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define OUT_MAX (64 << 10) /* bytes; more is left in the kernel's buffer meanwhile */

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

typedef struct {
    FfTraced *traced;
    FfTracer *tracer;
    GHashTable *events; /* name to FfTraceEvent */
    GString *rest;      /* of a line that has not come whole */
    GString *out;       /* not written yet */
    int pipe;
    guint reader, writer; /* sources; 0: not waited for */
    bool over;            /* all guests that were named are */
    bool done;            /* a signal, or nobody reads */
    int error;            /* of writing; 0: none */
} Trace;

typedef struct {
    Trace *trace;
    FfTracedGuest *guest;
} Watched;

static void event_free(gpointer opaque)
{
    FfTraceEvent *event = opaque;

    g_free(event->mark);
    g_free(event);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void print_mark(Trace *t, const FfTraceLine *line, const FfTraceEvent *event)
{
    int pid = ff_tracer_process(t->tracer, line->tid, line->pid);
    FfTracedGuest *guest = ff_traced_guest(t->traced, pid);
    g_autofree char *nobody = g_strdup_printf("engine-%d", pid);
    g_autofree char *status = NULL;
    const char *side;

    if (!guest && !ff_traced_is_all(t->traced)) {
        return;
    }
    g_autofree char *values = ff_trace_values(event, line->values, &side, &status);
    g_autofree char *text =
        g_strdup_printf("%s %-12s %-11s %-14s %s", line->time, guest ? guest->name : nobody, side,
                        event->mark, values);
    g_autofree char *shown = ff_format_shown(text);
    g_string_append_printf(t->out, "%s\n", shown);
    if (status && ff_words_over(status)) {
        if (guest) {
            guest->over = true;
        }
        ff_traced_forget(t->traced, pid); /* the engine will end */
    }
}

static void print_line(Trace *t, const char *text)
{
    g_auto(FfTraceLine) line = {0};

    if (!ff_trace_line(text, &line)) {
        return;
    }
    if (!line.event) {
        g_string_append_printf(t->out,
                               "(%" G_GUINT64_FORMAT
                               " marks are missing here: more came than could be read)\n",
                               line.lost);
        return;
    }
    const FfTraceEvent *event = g_hash_table_lookup(t->events, line.event);
    if (event) {
        print_mark(t, &line, event);
    }
}

/* What is there, or as much as is written at a time. */
static void read_pipe(Trace *t)
{
    char buf[16384];
    ssize_t n;

    while (t->out->len < OUT_MAX && (n = read(t->pipe, buf, sizeof(buf))) > 0) {
        g_string_append_len(t->rest, buf, n);
        for (char *end; (end = memchr(t->rest->str, '\n', t->rest->len));) {
            *end = 0;
            print_line(t, t->rest->str);
            g_string_erase(t->rest, 0, end + 1 - t->rest->str);
        }
    }
    t->over |= ff_traced_over(t->traced);
}

/* Stdout has room: a pipe has it for this much then. */
static void write_some(Trace *t)
{
    ssize_t n = write(STDOUT_FILENO, t->out->str, MIN(t->out->len, PIPE_BUF));

    if (n >= 0) {
        g_string_erase(t->out, 0, n);
    } else if (errno != EINTR && errno != EAGAIN) {
        t->error = errno;
        t->done = true;
    }
}

/* ---- what is waited for ---------------------------------------------------------------------- */

static gboolean on_pipe(gint fd, GIOCondition condition, gpointer opaque);

/* One of the two is waited for: a reader that does not read keeps the pipe, never a signal. */
static gboolean on_room(gint fd, GIOCondition condition, gpointer opaque)
{
    Trace *t = opaque;

    write_some(t);
    if (t->out->len) {
        return G_SOURCE_CONTINUE;
    }
    t->writer = 0;
    t->reader = g_unix_fd_add(t->pipe, G_IO_IN, on_pipe, t);
    return G_SOURCE_REMOVE;
}

static gboolean on_pipe(gint fd, GIOCondition condition, gpointer opaque)
{
    Trace *t = opaque;

    read_pipe(t);
    if (!t->out->len) {
        return G_SOURCE_CONTINUE;
    }
    t->reader = 0;
    t->writer = g_unix_fd_add(STDOUT_FILENO, G_IO_OUT, on_room, t);
    return G_SOURCE_REMOVE;
}

static gboolean on_last_room(gint fd, GIOCondition condition, gpointer opaque)
{
    Trace *t = opaque;

    write_some(t);
    t->writer = 0;
    return G_SOURCE_REMOVE;
}

static gboolean on_signal(gpointer opaque)
{
    ((Trace *)opaque)->done = true;
    return G_SOURCE_CONTINUE;
}

/* Nobody reads any more. */
static gboolean on_reader_gone(gint fd, GIOCondition condition, gpointer opaque)
{
    ((Trace *)opaque)->done = true;
    return G_SOURCE_REMOVE;
}

static gboolean on_qemu_end(gint fd, GIOCondition condition, gpointer opaque)
{
    Watched *w = opaque;

    w->guest->over = true;
    w->trace->over |= ff_traced_over(w->trace->traced);
    return G_SOURCE_REMOVE;
}

static void watch_qemu(Trace *t, FfTracedGuest *guest)
{
    int fd = pidfd_open(guest->pid, 0);

    if (fd < 0) {
        guest->over = errno == ESRCH;
        return;
    }
    Watched *w = g_new(Watched, 1);
    *w = (Watched){t, guest};
    g_unix_fd_add_full(G_PRIORITY_DEFAULT, fd, G_IO_IN, on_qemu_end, w, g_free);
}

static void watch(Trace *t)
{
    GPtrArray *named = ff_traced_named(t->traced);

    for (guint i = 0; named && i < named->len; i++) {
        watch_qemu(t, named->pdata[i]);
    }
    t->reader = g_unix_fd_add(t->pipe, G_IO_IN, on_pipe, t);
    g_unix_fd_add(STDOUT_FILENO, G_IO_ERR, on_reader_gone, t);
    t->over |= ff_traced_over(t->traced);
}

/* ---- begin and end --------------------------------------------------------------------------- */

/* A C name that no other one has: a mark can stand at several places, of several programs. */
static char *new_name(const Trace *t, const char *mark)
{
    g_autofree char *base =
        g_strcanon(g_strdup(mark), G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS, '_');
    unsigned n = g_hash_table_size(t->events);

    return g_hash_table_contains(t->events, base) ? g_strdup_printf("%.40s_%u", base, n)
                                                  : g_strdup(base);
}

static bool add_note(Trace *t, const FfEngineProgram *program, const FfNote *note, GError **error)
{
    const FfMarkRow *row;
    g_autofree char *fetch = ff_trace_fetch(note, &row, error);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", program->fd);
    g_autofree char *name = fetch ? new_name(t, note->name) : NULL;

    if (!fetch || !ff_tracer_add(t->tracer, name, path, note, fetch, error)) {
        return false;
    }
    FfTraceEvent *event = g_new(FfTraceEvent, 1);
    *event = (FfTraceEvent){row, g_strdup(note->name)};
    g_hash_table_insert(t->events, g_steal_pointer(&name), event);
    return true;
}

static bool add_programs(Trace *t, GPtrArray *programs, GError **error)
{
    for (guint i = 0; i < programs->len; i++) {
        const FfEngineProgram *program = programs->pdata[i];

        for (guint k = 0; k < program->notes->len; k++) {
            if (!add_note(t, program, program->notes->pdata[k], error)) {
                return false;
            }
        }
    }
    t->pipe = ff_tracer_start(t->tracer, error);
    return t->pipe >= 0;
}

/* What was noted before the end. After a signal nobody is waited for. */
static void write_rest(Trace *t)
{
    struct pollfd room = {STDOUT_FILENO, POLLOUT, 0};

    g_clear_handle_id(&t->reader, g_source_remove);
    g_clear_handle_id(&t->writer, g_source_remove);
    for (read_pipe(t); t->out->len && !t->error; read_pipe(t)) {
        if (poll(&room, 1, 0) == 1) {
            write_some(t);
        } else if (t->done) {
            return;
        } else {
            if (!t->writer) {
                t->writer = g_unix_fd_add(STDOUT_FILENO, G_IO_OUT, on_last_room, t);
            }
            g_main_context_iteration(NULL, TRUE);
        }
    }
}

static void run(Trace *t)
{
    GPtrArray *named = ff_traced_named(t->traced);

    watch(t);
    if (named) {
        fprintf(stderr, "farfault: tracing %u guest%s until the end of its migration, or Ctrl-C\n",
                named->len, named->len == 1 ? "" : "s");
    } else {
        fprintf(stderr, "farfault: tracing all guests of this host until Ctrl-C\n");
    }
    while (!t->done && !t->over) {
        g_main_context_iteration(NULL, TRUE);
    }
    ff_tracer_stop(t->tracer);
    write_rest(t);
}

static void catch_signals(Trace *t)
{
    g_unix_signal_add(SIGINT, on_signal, t);
    g_unix_signal_add(SIGTERM, on_signal, t);
    g_unix_signal_add(SIGHUP, on_signal, t);
    signal(SIGPIPE, SIG_IGN); /* else what was made would be left */
    signal(SIGQUIT, SIG_IGN);
}

static bool trace(Trace *t, GError **error)
{
    g_autoptr(GPtrArray) programs = ff_engine_programs(t->traced, error);
    g_autoptr(GError) why = NULL;

    if (!programs) {
        return false;
    }
    catch_signals(t);
    t->tracer = ff_tracer_new(error);
    if (!t->tracer) {
        return false;
    }
    bool good = add_programs(t, programs, error);
    if (good) {
        run(t);
    }
    if (!ff_tracer_end(t->tracer, &why)) {
        fprintf(stderr, "farfault: %s\n", why->message);
    }
    if (good && t->error && t->error != EPIPE) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(t->error), "stdout: %s",
                    g_strerror(t->error));
    }
    return good && (!t->error || t->error == EPIPE);
}

static int trace_them(char **names)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfTraced) traced = NULL;
    g_autoptr(GHashTable) events =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, event_free);
    g_autoptr(GString) rest = g_string_new(NULL);
    g_autoptr(GString) out = g_string_new(NULL);
    Trace t = {.events = events, .rest = rest, .out = out, .pipe = -1};
    bool good = ff_tracer_allowed(&error) && (traced = ff_traced_new(names, &error));

    t.traced = traced;
    if (!good || !trace(&t, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static int list(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfEngineProgram) program = ff_engine_program_installed(&error);

    if (!program) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    g_autofree char *text = ff_trace_list(program->notes);
    fputs(text, stdout);
    return EXIT_OK;
}

int ff_cli_trace(int argc, char **argv)
{
    gboolean help = FALSE, listed = FALSE;
    g_auto(GStrv) positional = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"list", 0, 0, G_OPTION_ARG_NONE, &listed, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault trace --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_trace, stdout);
        return EXIT_OK;
    }
    if (listed && positional) {
        fprintf(stderr,
                "farfault: --list names the marks of the installed engine: give no guest\n");
        return EXIT_USAGE;
    }
    return listed ? list() : trace_them(positional);
}
