/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault restore: becomes a QEMU whose guest comes from a file, and runs before its memory is
 * there.
 *
 * The file is looked at before anything is started. This process becomes QEMU as `farfault run`
 * does; a process beside it asks for the restore over a monitor of their own, a socket pair, shows
 * how far it is, and ends with it. It is nobody's child, as QEMU waits for none.
 *
 * Threads: the only one of each process. System calls: pidfd_open.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/cli.h"
#include "cli/common/commands.h"
#include "cli/common/content-uri.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/progress.h"
#include "cli/common/qmp.h"
#include "cli/common/record-options.h"
#include "cli/common/recorder.h"
#include "cli/common/report.h"
#include "cli/common/restore-hint.h"
#include "cli/common/userfault.h"
#include "cli/common/words.h"
#include "cli/snapshot/overlays.h"
#include "content/image/statistics.h"
#include "content/source/content.h"
#include "guest/launch/paths.h"
#include "qmp/json.h"

#define MONITOR FF_CLI_RESTORE_MONITOR

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* The command line as written. */
typedef struct {
    gboolean help, quiet, learn, no_set;
    char *offset_text;
    char *vhost; /* --vhost-user, as of farfault run; NULL: not said */
    char *disks; /* --disks: absolute, where overlays go to; NULL: QEMU's command has them */
    char **positional;
    FfRecordOptions keep;
    FfRecord *record; /* NULL: none is wanted */
    int64_t offset;   /* FF_SAVED_OFFSET_LOOK */
    char *path;       /* absolute */
    char **qemu;      /* borrowed; QEMU's own command line */
} Line;

static void line_clear(Line *line)
{
    g_free(line->offset_text);
    g_free(line->vhost);
    g_free(line->disks);
    g_free(line->path);
    ff_record_options_clear(&line->keep);
    ff_record_free(line->record);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

/* ---- beside QEMU ----------------------------------------------------------------------------- */

typedef struct {
    const Line *line;
    FfCliQmp *qmp;
    FfProgress *progress;
    FfRecorder recorder;     /* .record NULL: none, or done */
    FfCliOverlays *overlays; /* NULL: none were wanted, or not yet */
    GMainLoop *loop;
    gint64 began, ran;        /* monotonic us; ran 0: not yet */
    pid_t pid;                /* QEMU; 0: not known, it goes on as another process */
    int pidfd;                /* of PID, else -1 */
    bool asking, over, ended; /* ended: so has the loop */
    bool here;                /* the guest may run */
} Watch;

#define END_MS 1000 /* from the end of QEMU's monitor to that of its process, at most */

static void begin_record(Watch *w)
{
    if (w->recorder.record) {
        ff_record_begin(w->recorder.record, true);
        ff_record_side(w->recorder.record, FF_SIDE_DESTINATION, w->line->path,
                       ff_cli_qmp_version(w->qmp), NULL);
    }
}

static void close_record(Watch *w)
{
    ff_record_options_close(&w->line->keep, g_steal_pointer(&w->recorder.record));
}

/* What became of its working set, if it had one (g_free). */
static char *set_text(JsonObject *info)
{
    JsonObject *restore = ff_json_object(ff_json_object(info, "x-farfault"), "restore");
    gint64 has = ff_json_int(restore, "working-set", 0);
    g_autofree char *bytes = ff_format_bytes(has);

    return has ? g_strdup_printf("; working set %s, %" G_GINT64_FORMAT
                                 " %% of it before it was needed",
                                 bytes, ff_json_int(restore, "working-set-used", 0) * 100 / has)
               : g_strdup("");
}

static void quit_loop(Watch *w)
{
    w->ended = true;
    g_main_loop_quit(w->loop);
}

static void on_end(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Watch *w = opaque;
    JsonObject *info = ff_json_node_object(result);
    g_autofree char *all =
        g_strdup_printf("%.2f s", (double)(g_get_monotonic_time() - w->began) / G_USEC_PER_SEC);
    g_autofree char *after = ff_format_us((double)(w->ran - w->began));
    g_autofree char *ran = w->ran ? g_strconcat("guest ran after ", after, NULL)
                                  : g_strdup("guest stands (" FF_WORDS_CONT ")");

    ff_recorder_info(&w->recorder, result);
    close_record(w); /* a program that reads the line that follows finds the page */
    if (info) {
        g_autofree char *set = set_text(info);

        ff_progress_say(w->progress, true, "%s: restored: %s, all of it here after %s%s",
                        w->line->path, ran, all, set);
    }
    quit_loop(w);
}

static void on_paused(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Watch *w = opaque;
    JsonObject *info = ff_json_node_object(result);

    ff_recorder_info(&w->recorder, result);
    if (info) {
        bool far = ff_content_is_uri(w->line->path);
        g_autofree char *uri = g_strconcat(far ? "" : "file:", w->line->path, NULL);
        g_autofree char *word = ff_monitor_word(uri);

        ff_progress_say(w->progress, true,
                        "restore paused: %s; when it is repaired, at the human monitor: "
                        "migrate_recover %s",
                        ff_json_string_or(info, "error-desc", "?"), word);
    }
}

/* The guest has not come. */
static void remove_overlays(Watch *w)
{
    if (w->overlays) {
        ff_cli_overlays_remove(w->overlays);
    }
}

static void say_overlays(Watch *w)
{
    g_autofree char *whose =
        w->pid ? g_strdup_printf(", QEMU process %d", (int)w->pid) : g_strdup("");

    if (w->overlays && ff_cli_overlays_line(w->overlays)) {
        ff_progress_say(w->progress, true, "%s%s: %s", w->line->path, whose,
                        ff_cli_overlays_line(w->overlays));
    }
}

/* From now on it may write to its disks. */
static void set_here(Watch *w)
{
    if (!w->here) {
        w->here = true;
        say_overlays(w);
    }
}

/* The monitor has ended, and the guest has not come until then. Where QEMU lives, as its relay has
 * ended, it may come all the same. */
static void settle_overlays(Watch *w)
{
    struct pollfd ended = {.fd = w->pidfd, .events = POLLIN};

    if (w->overlays && !w->here && w->pidfd >= 0 && poll(&ended, 1, END_MS) == 1) {
        remove_overlays(w);
    }
}

static void note_status(Watch *w, const char *status)
{
    if (!strcmp(status, "completed") || g_str_has_prefix(status, "postcopy-")) {
        set_here(w);
    }
    if (!strcmp(status, "completed")) {
        w->over = true;
        ff_progress_clear(w->progress);
        ff_cli_qmp_send(w->qmp, "query-migrate", NULL, on_end, w);
    } else if (!strcmp(status, "postcopy-paused")) {
        ff_cli_qmp_send(w->qmp, "query-migrate", NULL, on_paused, w);
    } else if (!strcmp(status, "failed")) {
        if (!w->here) { /* else it is a migration of the guest, which runs */
            remove_overlays(w);
            g_clear_pointer(&w->overlays, ff_cli_overlays_free);
        }
        quit_loop(w); /* QEMU says why, and ends */
    }
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    Watch *w = opaque;
    const char *name = event ? ff_json_string_or(event, "event", "") : "";

    ff_recorder_event(&w->recorder, event);
    if (error) {
        settle_overlays(w);
        quit_loop(w); /* QEMU has ended, and said why */
    } else if (!strcmp(name, "MIGRATION")) {
        note_status(w, ff_json_string_or(ff_json_object(event, "data"), "status", ""));
    } else if (!strcmp(name, "RESUME") && !w->ran) {
        w->ran = g_get_monotonic_time();
        set_here(w);
    }
}

static void on_display(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    Watch *w = opaque;

    w->asking = false;
    if (result && !w->over) {
        ff_progress_update(w->progress, ff_json_node_object(result));
    }
}

static gboolean on_refresh(gpointer opaque)
{
    Watch *w = opaque;

    if (!w->asking && !w->over) {
        w->asking = true;
        ff_cli_qmp_send(w->qmp, "query-migrate", NULL, on_display, w);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean on_record_time(gpointer opaque)
{
    Watch *w = opaque;

    if (!w->over) {
        ff_recorder_look(&w->recorder);
    }
    return G_SOURCE_CONTINUE;
}

/* QEMU has opened its disks, and writes to none of them before the guest comes. */
static bool make_overlays(Watch *w, GError **error)
{
    g_autoptr(FfDisksFile) kept = w->line->disks ? ff_disks_file_read(w->line->path, error) : NULL;

    if (!w->line->disks) {
        return true;
    }
    w->overlays = kept ? ff_cli_overlays_restore(w->qmp, w->line->disks, kept, error) : NULL;
    return w->overlays;
}

static bool ask_status(Watch *w, GError **error)
{
    g_autoptr(JsonNode) capabilities = json_from_string(
        "{\"capabilities\": [{\"capability\": \"events\", \"state\": true}]}", NULL);
    JsonObject *args;

    if (!make_overlays(w, error)) {
        return false;
    }
    args = json_object_new();
    json_object_set_string_member(args, "file", w->line->path);
    if (w->line->offset > 0) {
        json_object_set_int_member(args, "offset", w->line->offset);
    }
    if (w->line->learn || w->line->no_set) {
        json_object_set_string_member(args, "working-set", w->line->learn ? "learn" : "ignore");
    }
    g_autoptr(JsonNode) set = ff_cli_qmp_call(w->qmp, "migrate-set-capabilities",
                                              json_node_dup_object(capabilities), error);
    w->began = g_get_monotonic_time();
    begin_record(w);
    ff_cli_qmp_listen(w->qmp, on_event, w); /* one that comes with the answer counts */
    g_autoptr(JsonNode) asked =
        set ? ff_cli_qmp_call(w->qmp, "x-farfault-restore", args, error) : NULL;
    if (!set) {
        json_object_unref(args);
    }
    return asked;
}

static void on_quiet_end(JsonObject *event, const GError *error, void *opaque)
{
    ((Watch *)opaque)->over |= error != NULL;
}

/* Nothing has come in. A QEMU whose incoming migration fails ends with status 1, which is this
 * command's; one that says quit ends as if all were well. */
static void end_qemu(Watch *w)
{
    JsonObject *args = json_object_new();

    ff_cli_qmp_listen(w->qmp, on_quiet_end, w);
    json_object_set_string_member(args, "uri", "exec:echo nothing");
    g_autoptr(JsonNode) failed = ff_cli_qmp_call(w->qmp, "migrate-incoming", args, NULL);
    if (failed) {
        while (!w->over) {
            g_main_context_iteration(NULL, TRUE);
        }
    } else {
        ff_cli_qmp_send(w->qmp, "quit", NULL, NULL, NULL);
    }
}

static bool becomes_daemon(const Line *line)
{
    return g_strv_contains((const char *const *)line->qemu, "-daemonize") ||
           g_strv_contains((const char *const *)line->qemu, "--daemonize");
}

/* The overlays have what the guest has written, and their names were said long ago. */
static void await_end(Watch *w)
{
    struct pollfd ended = {.fd = w->pidfd, .events = POLLIN};
    g_autofree char *names =
        w->overlays && w->here && w->pidfd >= 0 ? ff_cli_overlays_names(w->overlays) : NULL;

    if (!names) {
        return;
    }
    while (poll(&ended, 1, -1) < 0 && errno == EINTR) {
    }
    ff_progress_say(w->progress, true,
                    "%s: QEMU process %d has ended: what its guest wrote is in %s", w->line->path,
                    (int)w->pid, names);
}

/* A terminal sends them to QEMU as well: this process ends with that, and has more to do then. */
static void outlive_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

    for (gsize i = 0; i < G_N_ELEMENTS(signals); i++) {
        signal(signals[i], SIG_IGN);
    }
}

/* FD: the monitor. PID and PIDFD: QEMU. */
static void watch_restore(const Line *line, int fd, pid_t pid, int pidfd)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfProgress) progress = ff_progress_new(line->quiet);
    Watch w = {.line = line, .progress = progress, .pidfd = -1};

    outlive_signals();
    if (!becomes_daemon(line)) {
        w.pid = pid;
        w.pidfd = pidfd;
    }

    w.qmp = ff_cli_qmp_open_own(fd, "the restored QEMU", pidfd, &error);
    w.loop = g_main_loop_new(NULL, FALSE);
    w.recorder = (FfRecorder){line->record, FF_SIDE_DESTINATION, w.qmp, false};
    if (!w.qmp) {
        if (!g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE)) { /* else QEMU has said why */
            fprintf(stderr, "farfault: %s: %s\n", line->path, error->message);
        }
        close_record(&w); /* nothing was recorded */
        g_main_loop_unref(w.loop);
        return;
    }
    if (!ask_status(&w, &error)) {
        /* Where the monitor has broken the guest may come all the same. */
        if (g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE)) {
            settle_overlays(&w);
        } else {
            remove_overlays(&w);
        }
        /* First: what QEMU prints when it is ended is no reason. */
        fprintf(stderr, "farfault: not restored: %s; this QEMU is ended (ignore its next lines)\n",
                error->message);
        end_qemu(&w);
    } else {
        guint timer = g_timeout_add(ff_progress_interval(progress), on_refresh, &w);
        guint looks = w.recorder.record ? g_timeout_add(FF_RECORD_INTERVAL, on_record_time, &w) : 0;
        if (!w.ended) {
            g_main_loop_run(w.loop);
        }
        g_source_remove(timer);
        if (looks) {
            g_source_remove(looks);
        }
        ff_cli_qmp_listen(w.qmp, NULL, NULL);
        ff_cli_qmp_forget(w.qmp, &w);
        ff_recorder_forget(&w.recorder);
    }
    close_record(&w);
    g_main_loop_unref(w.loop);
    ff_cli_qmp_free(w.qmp);
    await_end(&w);
    ff_cli_overlays_free(w.overlays);
}

/* Starts the process that watches over FD, and over this one, which becomes QEMU. */
static bool start_watch(const Line *line, int fd, int other)
{
    pid_t self = getpid();
    int pidfd = pidfd_open(self, 0);
    pid_t child = pidfd < 0 ? -1 : fork();

    if (child == 0) {
        close(other);
        if (fork() == 0) {
            watch_restore(line, fd, self, pidfd);
        }
        _exit(0);
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    return child > 0 && waitpid(child, NULL, 0) == child;
}

/* ---- becoming QEMU --------------------------------------------------------------------------- */

static int print_failure(const char *text)
{
    fprintf(stderr, "farfault: %s\n", text);
    return EXIT_FAILED;
}

/* QEMU's command line with what a restore needs (g_strfreev). */
static char **command_line(const Line *line, int monitor)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    g_autofree char *chardev = g_strdup_printf("socket,id=" MONITOR ",fd=%d", monitor);

    for (char **arg = line->qemu; *arg; arg++) {
        g_strv_builder_add(b, *arg);
    }
    g_strv_builder_add_many(b, "-incoming", "defer", "-chardev", chardev, "-qmp",
                            "chardev:" MONITOR, NULL);
    return g_strv_builder_end(b);
}

static int become_qemu(const Line *line)
{
    int pair[2];

    /* QEMU inherits its end, and the other process the other one. */
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) {
        return print_failure("no socket pair can be made");
    }
    fcntl(pair[0], F_SETFD, FD_CLOEXEC);
    fflush(NULL);
    if (!start_watch(line, pair[0], pair[1])) {
        return print_failure("no process can be started");
    }
    close(pair[0]);
    g_auto(GStrv) argv = command_line(line, pair[1]);
    return ff_cli_run_restored(argv, line->vhost);
}

/* ---- before that ----------------------------------------------------------------------------- */

/* No connection is left: its server may have room for one, which the engine makes. */
static bool check_export(const Line *line, GError **error)
{
    g_autofree char *plugin = ff_find_helper("farfault-nbd.so");
    const FfContentAccess access = {.plugin = plugin};
    FfContent *bytes = ff_content_open_bytes(line->path, &access, error);
    g_autoptr(FfContent) guest = bytes ? ff_content_open_saved(bytes, line->offset, error) : NULL;

    return guest;
}

/* FALSE and ERROR, one line: it cannot be restored. */
static bool check_file(const Line *line, GError **error)
{
    g_autoptr(GError) opened = NULL;

    if (ff_content_is_uri(line->path)) {
        signal(SIGPIPE, SIG_IGN);
        bool good = check_export(line, error);
        signal(SIGPIPE, SIG_DFL);
        return good;
    }
    FfInput *in = ff_input_open(line->path, error);
    g_autoptr(FfSaved) s = in ? ff_saved_open(in, line->offset, &opened) : NULL;
    g_autoptr(FfSurvey) survey = NULL;

    if (!s) {
        if (opened) {
            g_propagate_error(error, g_steal_pointer(&opened));
        }
        return false;
    }
    if (!opened && s->form != FF_SAVED_MAPPED) {
        g_autofree char *word = ff_shell_word(line->path);

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: is an ordinary stream, and has to be mapped-ram: make it so first: "
                    "farfault convert --to mapped-ram %s NEW",
                    line->path, word);
        return false;
    }
    survey = ff_statistics_new(s, opened);
    if (!survey->complete) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, survey->problem);
    }
    return survey->complete;
}

/* --disks: there is something to make them of, and somewhere. */
static bool check_disks(const Line *line, GError **error)
{
    if (!line->disks) {
        return true;
    }
    g_autoptr(FfDisksFile) kept = ff_disks_file_read(line->path, error);
    if (!kept && error && !*error) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND,
                    "--disks: there is no %s.disks, which would say what the disks were: leave "
                    "--disks away, and give the guest its disks as they were when it was saved",
                    line->path);
    } else if (kept && !g_file_test(line->disks, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_DIRECTORY,
                    "--disks %s: there is no such folder", line->disks);
        return false;
    }
    g_autofree char *doubt = kept ? ff_disks_file_doubt(kept) : NULL;
    if (doubt) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "--disks: %s", doubt);
    }
    return kept && !doubt;
}

/* QEMU, which is not there yet, is refused it as well: it would wait for a guest that cannot come.
 */
static int cannot_fault(int error)
{
    g_autofree char *fix = ff_cli_userfault_fix(g_get_user_name());
    g_autofree char *text =
        error == ENOSYS
            ? g_strdup("this kernel has no userfaultfd: use one with CONFIG_USERFAULTFD")
            : g_strdup_printf("no userfaultfd for user %s (%s): %s; or restore it by QEMU itself "
                              "(farfault info)",
                              g_get_user_name(), g_strerror(error), fix);

    return print_failure(text);
}

static bool usage_error(GError **error, const char *text)
{
    g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, text);
    return false;
}

static bool names_qemu(char **argv, int n)
{
    bool found = false;

    for (int i = 1; i < n && !found; i++) {
        g_autofree char *name = g_path_get_basename(argv[i]);

        found = g_str_has_prefix(name, "qemu-system-");
    }
    return found;
}

/* Our own options are those in front of QEMU's name; its own are not looked at. */
static bool parse_line(Line *line, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line->help, NULL, NULL},
        {"offset", 0, 0, G_OPTION_ARG_STRING, &line->offset_text, NULL, NULL},
        {"disks", 0, 0, G_OPTION_ARG_FILENAME, &line->disks, NULL, NULL},
        {"learn", 0, 0, G_OPTION_ARG_NONE, &line->learn, NULL, NULL},
        {"no-working-set", 0, 0, G_OPTION_ARG_NONE, &line->no_set, NULL, NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &line->quiet, NULL, NULL},
        {"record", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.record, NULL, NULL},
        {"report", 0, 0, G_OPTION_ARG_FILENAME, &line->keep.report, NULL, NULL},
        {"vhost-user", 0, 0, G_OPTION_ARG_STRING, &line->vhost, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &line->positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    static char *nothing[] = {NULL};
    int end = 1;

    while (end < argc && strcmp(argv[end], "--") != 0) {
        end++;
    }
    line->qemu = end < argc ? argv + end + 1 : nothing;
    if (end == argc && names_qemu(argv, argc)) {
        return usage_error(error, "put -- in front of QEMU's command: farfault restore FILE -- "
                                  "qemu-system-x86_64 ...");
    }
    g_autofree char **own = g_new0(char *, end + 1);
    memcpy(own, argv, end * sizeof(char *));
    return ff_cli_options(entries, end, own, error);
}

static bool interpret_line(Line *line, GError **error)
{
    uint64_t offset = 0;

    if (line->offset_text && (ff_parse_size(line->offset_text, &offset) < 0 || offset >> 60)) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--offset %s: give a number of bytes, as 4096, 64M or 1G", line->offset_text);
        return false;
    }
    if (!line->positional || g_strv_length(line->positional) != 1 || !line->qemu[0]) {
        return usage_error(error, "give a file and, after --, the QEMU: "
                                  "farfault restore FILE -- qemu-system-x86_64 ...");
    }
    for (char **arg = line->qemu; *arg; arg++) {
        if (!strcmp(*arg, "-incoming") || !strcmp(*arg, "--incoming") || !strcmp(*arg, "-loadvm") ||
            !strcmp(*arg, "--loadvm")) {
            return usage_error(error,
                               "leave -incoming and -loadvm out: the guest comes from the file");
        }
    }
    if (line->learn && line->no_set) {
        return usage_error(error,
                           "--learn writes what --no-working-set leaves alone: give one of them");
    }
    line->offset = line->offset_text ? (int64_t)offset : FF_SAVED_OFFSET_LOOK;
    g_autofree char *misspelt = ff_cli_misspelt_uri("", line->positional[0]);
    if (misspelt) {
        return usage_error(error, misspelt);
    }
    bool far = ff_content_is_uri(line->positional[0]);
    if (far && (line->learn || line->no_set || line->disks)) {
        return usage_error(error,
                           "--learn, --no-working-set and --disks are for a FILE, beside which "
                           "there can be others");
    }
    line->path =
        far ? g_strdup(line->positional[0]) : g_canonicalize_filename(line->positional[0], NULL);
    if (line->disks) { /* -daemonize goes to / */
        g_autofree char *said = g_steal_pointer(&line->disks);

        line->disks = g_canonicalize_filename(said, NULL);
    }
    return ff_record_options_check(&line->keep, line->path, error);
}

int ff_cli_restore(int argc, char **argv)
{
    g_auto(Line) line = {0};
    g_autoptr(GError) error = NULL;

    if (!parse_line(&line, argc, argv, &error) || (!line.help && !interpret_line(&line, &error))) {
        fprintf(stderr, "farfault: %s (farfault restore --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (line.help) {
        fputs(ff_help_restore, stdout);
        return EXIT_OK;
    }
    if (!check_file(&line, &error) || !check_disks(&line, &error)) {
        return print_failure(error->message);
    }
    int uffd = ff_cli_new_uffd();
    if (uffd < 0) {
        return cannot_fault(-uffd);
    }
    close(uffd);
    return ff_record_options_open(&line.keep, &line.record, &error) ? become_qemu(&line)
                                                                    : print_failure(error->message);
}
