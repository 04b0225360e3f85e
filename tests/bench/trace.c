/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See trace.h. It is ended by a signal that it catches: what it made in tracefs is removed. */
#include "trace.h"

#include <signal.h>
#include <sys/prctl.h>

struct BenchTrace {
    GSubprocess *process;
    char *log;
};

static void end_with_parent(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

/* Its first line: that it traces, or why not. */
static bool wait_ready(GSubprocess *process, GError **error)
{
    g_autoptr(GDataInputStream) said =
        g_data_input_stream_new(g_subprocess_get_stderr_pipe(process));

    g_filter_input_stream_set_close_base_stream(G_FILTER_INPUT_STREAM(said), FALSE);
    g_autofree char *line = g_data_input_stream_read_line(said, NULL, NULL, error);
    if (line && g_str_has_prefix(line, "farfault: tracing ")) {
        return true;
    }
    if (!error || !*error) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s",
                    line ? line : "farfault trace has ended");
    }
    return false;
}

BenchTrace *bench_trace_start(const char *farfault, const char *const *qmp, const char *log,
                              GError **error)
{
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_autoptr(BenchTrace) t = g_new0(BenchTrace, 1);

    t->log = g_strdup(log);
    if (!g_file_set_contents(log, "", 0, error)) { /* it would be written over, and not cut */
        return NULL;
    }
    g_subprocess_launcher_set_stdout_file_path(launcher, log);
    g_subprocess_launcher_set_child_setup(launcher, end_with_parent, NULL, NULL);
    t->process =
        g_subprocess_launcher_spawn(launcher, error, farfault, "trace", qmp[0], qmp[1], NULL);
    return t->process && wait_ready(t->process, error) ? g_steal_pointer(&t) : NULL;
}

static void end(BenchTrace *t)
{
    g_subprocess_send_signal(t->process, SIGTERM);
    g_subprocess_wait(t->process, NULL, NULL);
}

BenchMarks *bench_trace_end(BenchTrace *t, GError **error)
{
    g_autofree char *text = NULL;

    end(t);
    if (!g_subprocess_get_successful(t->process)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "farfault trace failed");
        return NULL;
    }
    return g_file_get_contents(t->log, &text, NULL, error) ? bench_marks_new(text) : NULL;
}

void bench_trace_free(BenchTrace *t)
{
    if (!t) {
        return;
    }
    if (t->process) {
        end(t);
    }
    g_clear_object(&t->process);
    g_free(t->log);
    g_free(t);
}
