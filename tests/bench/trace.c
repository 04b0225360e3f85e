/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See trace.h. It is ended by a signal that bpftrace catches. */
#include "trace.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

struct BenchTrace {
    GSubprocess *process;
    GDataInputStream *said; /* its output; the reader's */
    GOutputStream *log;     /* likewise */
    char *path;
    GThread *reader;
    GMutex lock;
    GCond changed;
    bool ready, ended; /* lock */
};

static void end_with_parent(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGINT);
}

/* Into the log, line by line. */
static gpointer read_lines(gpointer opaque)
{
    BenchTrace *t = opaque;
    char *line;

    while ((line = g_data_input_stream_read_line(t->said, NULL, NULL, NULL))) {
        g_output_stream_printf(t->log, NULL, NULL, NULL, "%s\n", line);
        g_mutex_lock(&t->lock);
        t->ready = t->ready || !strcmp(line, "tracing");
        g_cond_signal(&t->changed);
        g_mutex_unlock(&t->lock);
        g_free(line);
    }
    g_mutex_lock(&t->lock);
    t->ended = true;
    g_cond_signal(&t->changed);
    g_mutex_unlock(&t->lock);
    return NULL;
}

static bool wait_ready(BenchTrace *t)
{
    g_mutex_lock(&t->lock);
    while (!t->ready && !t->ended) {
        g_cond_wait(&t->changed, &t->lock);
    }
    bool ready = t->ready;
    g_mutex_unlock(&t->lock);
    return ready;
}

BenchTrace *bench_trace_start(const char *command, const char *log, GError **error)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    g_autoptr(GFile) file = g_file_new_for_path(log);
    g_autoptr(BenchTrace) t = g_new0(BenchTrace, 1);
    g_auto(GStrv) argv = NULL;

    t->path = g_strdup(log);
    g_mutex_init(&t->lock);
    g_cond_init(&t->changed);
    if (!g_shell_parse_argv(command, NULL, &argv, error)) {
        return NULL;
    }
    t->log = G_OUTPUT_STREAM(g_file_replace(file, NULL, false, G_FILE_CREATE_NONE, NULL, error));
    if (!t->log) {
        return NULL;
    }
    g_subprocess_launcher_set_child_setup(launcher, end_with_parent, NULL, NULL);
    t->process = g_subprocess_launcher_spawnv(launcher, (const char *const *)argv, error);
    if (!t->process) {
        return NULL;
    }
    t->said = g_data_input_stream_new(g_subprocess_get_stdout_pipe(t->process));
    t->reader = g_thread_new("trace", read_lines, t);
    if (!wait_ready(t)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the tracer does not trace: %s", command);
        return NULL;
    }
    return g_steal_pointer(&t);
}

static void end(BenchTrace *t)
{
    g_subprocess_send_signal(t->process, SIGINT);
    g_subprocess_wait(t->process, NULL, NULL);
    g_clear_pointer(&t->reader, g_thread_join);
    g_output_stream_close(t->log, NULL, NULL);
}

BenchMarks *bench_trace_end(BenchTrace *t, GError **error)
{
    g_autofree char *text = NULL;

    end(t);
    if (!g_subprocess_get_successful(t->process)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the tracer failed");
        return NULL;
    }
    return g_file_get_contents(t->path, &text, NULL, error) ? bench_marks_new(text) : NULL;
}

void bench_trace_free(BenchTrace *t)
{
    if (!t) {
        return;
    }
    if (t->process) {
        end(t);
    }
    g_clear_object(&t->said);
    g_clear_object(&t->log);
    g_clear_object(&t->process);
    g_cond_clear(&t->changed);
    g_mutex_clear(&t->lock);
    g_free(t->path);
    g_free(t);
}
