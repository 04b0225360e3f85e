/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade: starts a second QEMU on the memory of a running guest, compares the two, and
 * has their engines hand the guest over (docs/design/upgrade.md). From then on it only watches: the
 * engines come to an end without it.
 *
 * The new QEMU has no other client than this program until the guest is its own, and is ended by
 * its relay when this program ends before that.
 *
 * One thread: the GLib main loop of the default context. System calls: fork, setsid, execveat,
 * memfd_create, socketpair, pidfd_open.
 */
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/qmp.h"
#include "cli/upgrade-adapt.h"
#include "cli/upgrade-args.h"
#include "cli/upgrade-compare.h"
#include "cli/upgrade-files.h"
#include "cli/upgrade-forwards.h"
#include "cli/upgrade-names.h"
#include "cli/upgrade-place.h"
#include "cli/upgrade-said.h"
#include "cli/upgrade-settings.h"
#include "cli/upgrade-vnc.h"
#include "fault/fault.h"
#include "launch/argv-opts.h"
#include "launch/attach.h"
#include "launch/place.h"
#include "qmp/json.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_STANDS };

/* What QEMU, its relay and its engine write to stderr, from then on; bytes. The name must not look
 * like that of guest RAM (farfault-ID), which farfault attach takes from what QEMU has open. */
#define LOG_SIZE (256u << 10)
#define LOG_NAME "upgrade-log"
#define SOCKET_NAME "farfault-upgrade"
#define FIRST_HIGH_FD 500

/* Milliseconds from the end of its monitor to that of a QEMU that ends by itself. */
#define END_MS 2000

/* Seconds without a word of either engine, after which they are asked whether they are there. */
#define QUIET_S 30

typedef struct {
    gboolean help, check, keep_process;
    char *qemu, *args_from;
    char **positional;
} Line;

static void line_clear(Line *line)
{
    g_free(line->qemu);
    g_free(line->args_from);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

/* What a signal makes this program say. Set before it can come; observer: on_signal(), in this
 * thread. */
static const char *volatile last_words;

typedef enum { GOING, COMPLETED, FAILED } End;

typedef struct {
    const char *address;
    FfCliQmp *running, *prepared;
    int old_pid, old_pidfd;
    char **args;        /* the new QEMU's */
    char **own;         /* the running one's, as it was given; NULL: it is not known */
    char *qemu;         /* its program */
    GPtrArray *options; /* of farfault run, char * */
    GArray *given;      /* of int: numbers of the fds that the new QEMU gets, as the running one */
    pid_t pid;          /* of the new QEMU, our child; 0: none */
    int log;            /* its stderr; -1 */
    End end;
    gint64 stop, resume; /* QEMU's event times, us; 0: not seen */
    bool old_gone, new_gone;
    bool stays;       /* the running QEMU's process, for those who know it */
    int front;        /* the process that has stayed at an upgrade before; 0: none has */
    bool ran;         /* the guest, when it was looked at first */
    bool arrived;     /* the new engine has done all: the guest runs, if it is to */
    bool heard;       /* something came from an engine since it was last looked */
    bool handed;      /* the engines may have begun: who has the guest is theirs to say */
    char *state;      /* of the guest in the new QEMU, if it does not run there; NULL */
    GArray *balloons; /* of FfBalloon, the running QEMU's; NULL: not asked yet */
    GPtrArray *names; /* of the new QEMU's files, of FfLentName *; NULL: it has made none yet */
    GString *warning; /* what did not work beside that, each after "; "; empty: nothing */
} Upgrade;

#define fail(error, ...) (g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, __VA_ARGS__), false)

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void upgrade_clear(Upgrade *u)
{
    g_clear_pointer(&u->prepared, ff_cli_qmp_free);
    g_clear_pointer(&u->running, ff_cli_qmp_free);
    close_fd(&u->old_pidfd);
    close_fd(&u->log);
    g_strfreev(u->args);
    g_strfreev(u->own);
    g_free(u->qemu);
    g_clear_pointer(&u->options, g_ptr_array_unref);
    g_clear_pointer(&u->given, g_array_unref);
    g_free(u->state);
    g_string_free(u->warning, TRUE);
    g_clear_pointer(&u->names, g_ptr_array_unref);
    g_clear_pointer(&u->balloons, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Upgrade, upgrade_clear)

/* ---- the running QEMU ------------------------------------------------------------------------ */

/* A monitor, or the process of a guest whose monitors are all taken. */
static FfCliQmp *open_running(Upgrade *u, GError **error)
{
    guint64 pid;

    if (!g_ascii_string_to_unsigned(u->address, 10, 1, G_MAXINT, &pid, NULL)) {
        return ff_cli_qmp_open(u->address, NULL, error);
    }
    g_autoptr(GError) local = NULL;
    pid_t behind = (pid_t)pid;
    int fd = ff_upgrade_come_near(behind, error) ? ff_attach_monitor(&behind, error) : -1;
    FfCliQmp *qmp = fd < 0 ? NULL : ff_cli_qmp_open_fd(fd, u->address, NULL, &local);

    if (fd >= 0 && !qmp) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "the monitor of process %d is taken, or does not answer: another farfault "
                    "upgrade may be under way, or that process is stopped (%s)",
                    (int)behind, local->message);
    }
    return qmp;
}

static bool has_farfault(const Upgrade *u, const GError *local, GError **error)
{
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        return fail(error,
                    "%s: no farfault has this monitor, or one that cannot hand a guest over: "
                    "the guest has to be started by farfault run",
                    u->address);
    }
    return fail(error, "%s: %s", u->address, local->message);
}

/* A word that is wrong is not said: there may be secrets in the file. */
static bool split_args(Upgrade *u, const char *path, const char *text, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (g_shell_parse_argv(text, NULL, &u->args, &local)) {
        return true;
    }
    return fail(error, "--args-from %s: %s", path,
                g_error_matches(local, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING)
                    ? "it is empty"
                    : "a quote is not closed, or a backslash ends it");
}

static bool read_args(Upgrade *u, const char *path, GError **error)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, error)) {
        return false;
    }
    g_strfreev(u->args);
    u->args = NULL;
    if (!split_args(u, path, text, error)) {
        return false;
    }
    g_autofree char *first = g_path_get_basename(u->args[0]);
    return !g_str_has_prefix(first, "qemu-system-") ||
           fail(error, "--args-from %s: leave the program's name out: --qemu says which it is",
                path);
}

/* Those of farfault run: the running one's. */
static void take_options(Upgrade *u, JsonObject *lent)
{
    static const char *const known[] = {"--policy=", "--untracked=", "--restore=", "--vhost-user="};
    JsonArray *words = ff_json_array(lent, "options");

    for (guint i = 0; words && i < json_array_get_length(words); i++) {
        const char *word = json_array_get_string_element(words, i);

        for (unsigned k = 0; word && k < G_N_ELEMENTS(known); k++) {
            if (g_str_has_prefix(word, known[k])) {
                g_ptr_array_add(u->options, g_strdup(word));
            }
        }
    }
}

static void take_given(Upgrade *u, JsonObject *lent)
{
    JsonArray *numbers = ff_json_array(lent, "given");

    for (guint i = 0; numbers && i < json_array_get_length(numbers); i++) {
        int number = (int)json_array_get_int_element(numbers, i);

        g_array_append_val(u->given, number);
    }
}

static void take_args(Upgrade *u, JsonObject *lent)
{
    JsonArray *words = ff_json_array(lent, "command-line");

    if (!words) {
        return;
    }
    u->args = g_new0(char *, json_array_get_length(words) + 1);
    for (guint i = 0; i < json_array_get_length(words); i++) {
        u->args[i] = g_strdup(json_array_get_string_element(words, i));
    }
    u->own = g_strdupv(u->args);
}

/* Whose process stays has its pid file. */
static void drop_pid_file(char **args)
{
    char **to = args;

    for (char **word = args; *word; word++) {
        const FfOption *option = ff_option_find(*word);
        bool has_value = option && option->has_arg && word[1];

        if (has_value && !strcmp(option->name, "pidfile")) {
            g_free(*word++);
            g_free(*word);
            continue;
        }
        *to++ = *word;
        if (has_value) {
            *to++ = *++word;
        }
    }
    *to = NULL;
}

/* Its back-end would be the new QEMU's when the old one has ended. */
static const char *has_vhost_user(char *const *args)
{
    for (; *args; args++) {
        if (strstr(*args, "vhost-user")) {
            return *args;
        }
    }
    return NULL;
}

static bool look_at_process(Upgrade *u, const Line *line, JsonObject *lent, GError **error)
{
    u->front = (int)ff_json_int(lent, "front", 0);
    /* Who gives QEMU fds has started it as its own. */
    u->stays =
        !u->front && (line->keep_process || u->given->len || !ff_upgrade_may_leave(u->old_pid));
    if (!u->stays && !u->front) {
        return true;
    }
    drop_pid_file(u->args);
    if (u->own) {
        drop_pid_file(u->own);
    }
    const char *device = has_vhost_user(u->args);
    if (device) {
        return fail(error,
                    "%s: cannot be handed over yet where process %d stays: migrate the guest",
                    device, u->front ? u->front : u->old_pid);
    }
    return !ff_upgrade_has_forwards(u->args) ||
           fail(error,
                "process %d stays, and with it the ports that its user network forwards "
                "(hostfwd=), which the new QEMU could not have: remove them, or migrate the guest",
                u->front ? u->front : u->old_pid);
}

/* An option of farfault run that the new QEMU's gets as well. */
static bool has_option(const Upgrade *u, const char *option)
{
    return g_ptr_array_find_with_equal_func(u->options, option, g_str_equal, NULL);
}

/* The program that the running QEMU is, as it is installed now. */
static char *program_of(int pid)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/exe", pid);
    char *path = g_file_read_link(link, NULL);

    if (path && g_str_has_suffix(path, " (deleted)")) {
        path[strlen(path) - strlen(" (deleted)")] = 0;
    }
    return path;
}

/* Of one that was given away nothing is left here to be upgraded, and it must not be started. */
static bool has_guest(Upgrade *u, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->running, "query-status", NULL, error);
    const char *state = ff_json_string_or(ff_json_node_object(node), "status", "unknown");

    if (!node) {
        return false;
    }
    u->ran = ff_json_bool(ff_json_node_object(node), "running");
    if (!strcmp(state, "inmigrate")) {
        return fail(error,
                    "%s: waits for an incoming migration: it has no guest yet that could be given "
                    "another QEMU",
                    u->address);
    }
    if (!strcmp(state, "postmigrate") || !strcmp(state, "finish-migrate")) {
        return fail(error,
                    "%s: its guest has been migrated away, or saved (%s): upgrade the QEMU in "
                    "which it runs now",
                    u->address, state);
    }
    return true;
}

static bool check_program(const Upgrade *u, GError **error)
{
    const char *qemu = u->qemu ? u->qemu : "";

    if (!strchr(qemu, '/')) {
        return fail(error, "--qemu %s: give a path, as /usr/bin/qemu-system-x86_64", qemu);
    }
    if (access(qemu, X_OK) < 0) {
        return fail(error, "--qemu %s: %s", qemu, g_strerror(errno));
    }
    return g_file_test(qemu, G_FILE_TEST_IS_REGULAR) ||
           fail(error, "--qemu %s: is no program", qemu);
}

static bool look_at_running(Upgrade *u, const Line *line, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->running, "x-farfault-lend", NULL, &local);
    JsonObject *lent = ff_json_node_object(node);

    if (!lent) {
        return has_farfault(u, local, error);
    }
    u->old_pid = (int)ff_json_int(lent, "pid", 0);
    u->old_pidfd = u->old_pid > 0 ? pidfd_open(u->old_pid, 0) : -1;
    g_autofree char *proc = g_strdup_printf("/proc/%d", u->old_pid);
    struct stat st;
    if (u->old_pidfd < 0 || stat(proc, &st) < 0) {
        return fail(error, "%s: its QEMU is not to be seen from here: run this on its host",
                    u->address);
    }
    if (st.st_uid != geteuid() && geteuid() != 0) {
        return fail(error, "%s: its QEMU runs as user %u: run this as that user, or as root",
                    u->address, st.st_uid);
    }
    if (geteuid() == 0 && ff_place_has_capabilities(u->old_pid)) {
        return fail(error,
                    "%s: its QEMU runs as user %u with capabilities: run this as that user, with "
                    "the same ones",
                    u->address, st.st_uid);
    }
    if (!ff_upgrade_come_near(u->old_pid, error) || !ff_upgrade_can_see(u->old_pid, error)) {
        return false;
    }
    take_options(u, lent);
    take_given(u, lent);
    take_args(u, lent);
    if (line->args_from && !read_args(u, line->args_from, error)) {
        return false;
    }
    /* It is started in the running one's folder. */
    bool is_path = line->qemu && strchr(line->qemu, '/');
    u->qemu = is_path      ? g_canonicalize_filename(line->qemu, NULL)
              : line->qemu ? g_strdup(line->qemu)
                           : program_of(u->old_pid);
    if (!u->args) {
        return fail(error,
                    "%s: an older farfault has started this guest, and did not keep its command "
                    "line: give it with --args-from",
                    u->address);
    }
    if (!look_at_process(u, line, lent, error) || !check_program(u, error)) {
        return false;
    }
    ff_upgrade_adapt_args(u->running, u->old_pid, &u->args);
    if (u->own) {
        ff_upgrade_adapt_args(u->running, u->old_pid, &u->own);
    }
    g_auto(GStrv) taps = ff_upgrade_taps_of(u->old_pid);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    g_autofree char *folder = g_file_read_link(link, NULL);
    return ff_upgrade_check_args(u->args, !g_strcmp0(folder, "/"),
                                 has_option(u, "--vhost-user=migrate"), u->given, error) &&
           (!u->own || ff_upgrade_same_taps(u->own, u->args, (const char *const *)taps, error));
}

/* ---- the new one ----------------------------------------------------------------------------- */

/* What it says on stderr has an end: a QEMU that writes more is told that there is no room. */
static int make_log(void)
{
    int fd = memfd_create(LOG_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && (ftruncate(fd, LOG_SIZE) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)) {
        close_fd(&fd);
    }
    return fd;
}

/* The last line that was written there (g_free); NULL: nothing was. */
static char *last_line(int log)
{
    g_autofree char *text = g_malloc0(LOG_SIZE + 1);

    if (log < 0 || pread(log, text, LOG_SIZE, 0) <= 0) {
        return NULL;
    }
    g_auto(GStrv) lines = g_strsplit(g_strchomp(text), "\n", -1);
    guint n = g_strv_length(lines);
    /* What QEMU says of a socket at which it listens is no reason for anything. */
    while (n && (!*lines[n - 1] || strstr(lines[n - 1], ": info: "))) {
        n--;
    }
    return n ? g_strdup(lines[n - 1]) : NULL;
}

G_NORETURN static void become(char **argv, const Upgrade *u, const int *sockets)
{
    g_autofree char *cwd = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    int null = open("/dev/null", O_RDWR);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    ff_place_take(u->old_pid);
    int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (null < 0 || self < 0 || chdir(cwd) < 0 || ff_place_become(u->old_pid) < 0) {
        _exit(127);
    }
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(u->log, STDERR_FILENO);
    fcntl(sockets[0], F_SETFD, 0);
    fcntl(sockets[1], F_SETFD, 0);
    fexecve(self, argv, environ);
    _exit(127);
}

/* SOCKETS: the one for what is lent, the one that becomes its monitor. */
static bool start_new(Upgrade *u, const int *sockets, GError **error)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(argv, g_strdup("farfault"));
    g_ptr_array_add(argv, g_strdup("run"));
    g_ptr_array_add(argv, g_strdup_printf("--borrow=%d,%d", sockets[0], sockets[1]));
    for (guint i = 0; i < u->options->len; i++) {
        g_ptr_array_add(argv, g_strdup(u->options->pdata[i]));
    }
    g_ptr_array_add(argv, g_strdup("--"));
    g_ptr_array_add(argv, g_strdup(u->qemu));
    for (char **word = u->args; *word; word++) {
        g_ptr_array_add(argv, g_strdup(*word));
    }
    g_ptr_array_add(argv, NULL);
    u->log = make_log();
    u->pid = u->log >= 0 ? fork() : -1;
    if (u->pid == 0) {
        become((char **)argv->pdata, u, sockets);
    }
    if (u->pid < 0) {
        u->pid = 0;
        return fail(error, "the new QEMU cannot be started: %s", g_strerror(errno));
    }
    u->names = ff_upgrade_names(u->args, u->old_pid, u->pid);
    return true;
}

static bool tell(FfCliQmp *qmp, const char *command, int socket, bool keep_process, GError **error)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "fdname", SOCKET_NAME);
    if (keep_process) {
        json_object_set_boolean_member(arguments, "keep-process", TRUE);
    }
    if (!ff_cli_qmp_pass_fd(qmp, SOCKET_NAME, socket, error)) {
        json_object_unref(arguments);
        return false;
    }
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, command, arguments, error);
    return node;
}

static bool lend(Upgrade *u, int socket, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (tell(u->running, "x-farfault-lend", socket, u->stays, &local)) {
        return true;
    }
    if (u->stays && strstr(local->message, "'keep-process' is unexpected")) {
        return fail(error,
                    "process %d is to stay, which its farfault does not know, an older one: "
                    "farfault attach --replace %d gives it a newer one",
                    u->old_pid, u->old_pid);
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

/* LOCAL: what happened to its monitor. */
static bool new_failed(Upgrade *u, const GError *local, GError **error)
{
    g_autofree char *said = NULL;
    int status;

    bool closed = g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    struct pollfd p = {.fd = pidfd_open(u->pid, 0), .events = POLLIN};

    /* Its monitor may be gone a moment before it has ended. It may also hang: no orderly end. */
    bool ended = closed && p.fd >= 0 && poll(&p, 1, END_MS) == 1;
    close_fd(&p.fd);
    kill(-u->pid, SIGKILL); /* a script's children as well */
    kill(u->pid, SIGKILL);
    if (waitpid(u->pid, &status, 0) == u->pid) {
        u->pid = 0;
    }
    if (ended && WIFSIGNALED(status)) {
        return fail(
            error,
            "the new QEMU (%s) was killed by signal %d (%s); the guest continues in its old "
            "one",
            u->qemu, WTERMSIG(status), g_strsignal(WTERMSIG(status)));
    }
    said = last_line(u->log);
    return fail(error, "the new QEMU (%s) does not start: %s", u->qemu,
                said     ? said
                : closed ? "it ended without a word; is it a QEMU?"
                         : local->message);
}

static bool connect_new(Upgrade *u, int monitor, GError **error)
{
    g_autoptr(GError) local = NULL;

    u->prepared = ff_cli_qmp_open_fd(monitor, "the new QEMU", NULL, &local);
    return u->prepared || new_failed(u, local, error);
}

/* What it listens at, and its pid file, are the running one's. */
static bool may_have_names(const Upgrade *u, GError **error)
{
    g_autoptr(GPtrArray) own = u->own ? ff_upgrade_names(u->own, u->old_pid, u->pid) : NULL;

    return ff_upgrade_names_are_own(u->names, own, error);
}

static bool move_high(int *fd)
{
    int high = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_HIGH_FD);

    if (high >= 0) {
        close(*fd);
        *fd = high;
    }
    return true; /* else the number may be taken, which the new QEMU's launcher says */
}

static bool prepare(Upgrade *u, GError **error)
{
    int memory[2], monitor[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, memory) < 0) {
        return fail(error, "socketpair: %s", g_strerror(errno));
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0) {
        close(memory[0]);
        close(memory[1]);
        return fail(error, "socketpair: %s", g_strerror(errno));
    }
    /* Out of the way of the numbers that the new QEMU is given fds by. */
    bool ok = move_high(&memory[1]) && move_high(&monitor[1]) && lend(u, memory[0], error) &&
              start_new(u, (const int[]){memory[1], monitor[1]}, error);
    close(memory[0]);
    close(memory[1]);
    close(monitor[1]);
    if (!ok) {
        close(monitor[0]);
        return false;
    }
    return connect_new(u, monitor[0], error) && ff_upgrade_outlives(u->old_pid, u->pid, error) &&
           ff_upgrade_vnc_is_unchanged(u->args, u->running, error) &&
           ff_upgrade_forwards_are_unchanged(u->args, u->running, error) &&
           may_have_names(u, error) && ff_upgrade_names_copy_rights(u->names, error) &&
           ff_upgrade_compare(u->running, u->prepared, error) &&
           ff_upgrade_same_files(u->running, u->old_pid, u->prepared, u->pid, error);
}

/* It has no guest. */
static void end_new(Upgrade *u)
{
    g_clear_pointer(&u->prepared, ff_cli_qmp_free);
    if (u->pid > 0) {
        kill(u->pid, SIGKILL); /* an orderly end might touch what is the running one's */
        waitpid(u->pid, NULL, 0);
        u->pid = 0;
    }
    if (u->names) {
        ff_upgrade_names_remove(u->names);
    }
}

/* ---- the switch ------------------------------------------------------------------------------ */

static const char *status_of(JsonObject *event)
{
    bool is_migration = !strcmp(ff_json_string_or(event, "event", ""), "MIGRATION");

    return is_migration ? ff_json_string_or(ff_json_object(event, "data"), "status", "") : "";
}

static gint64 time_of(JsonObject *event)
{
    JsonObject *stamp = ff_json_object(event, "timestamp");

    return ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC +
           ff_json_int(stamp, "microseconds", 0);
}

/* Of the old one: what it says is true, as it has the guest until it says so. */
static void on_old(JsonObject *event, const GError *error, void *opaque)
{
    Upgrade *u = opaque;
    const char *status = event ? status_of(event) : "";

    u->heard = true;
    u->old_gone |= !event;
    if (!strcmp(status, "setup")) {
        /* What came before is of an earlier migration. */
        u->end = GOING;
        u->stop = 0;
    }
    if (!u->stop && !strcmp(ff_json_string_or(event, "event", ""), "STOP")) {
        u->stop = time_of(event);
    }
    if (!strcmp(status, "completed")) {
        u->end = COMPLETED;
    } else if (!strcmp(status, "failed") || !strcmp(status, "cancelled")) {
        u->end = FAILED;
    }
}

static void on_new(JsonObject *event, const GError *error, void *opaque)
{
    Upgrade *u = opaque;

    u->heard = true;
    u->new_gone |= !event;
    if (!u->resume && !strcmp(ff_json_string_or(event, "event", ""), "RESUME")) {
        u->resume = time_of(event);
    }
    if (event && !strcmp(status_of(event), "completed")) {
        u->end = COMPLETED;
        u->arrived = true;
    }
}

static void warn(Upgrade *u, const char *text)
{
    g_string_append_printf(u->warning, "%s%s", u->warning->len ? "; " : "", text);
}

static GArray *threads_of(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "query-cpus-fast", NULL, NULL);
    JsonArray *all = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));
        pid_t thread = o ? (pid_t)ff_json_int(o, "thread-id", 0) : 0;

        g_array_append_val(threads, thread);
    }
    return threads;
}

/* Those that run virtual CPUs have the places of the running QEMU's (libvirt's vcpupin). Both say
 * them in the same order. */
static void place_threads(const Upgrade *u)
{
    g_autoptr(GArray) theirs = threads_of(u->running), ours = threads_of(u->prepared);

    for (guint i = 0; i < MIN(theirs->len, ours->len); i++) {
        ff_place_take_thread(u->old_pid, g_array_index(theirs, pid_t, i),
                             g_array_index(ours, pid_t, i));
    }
}

static void carry_actions(Upgrade *u)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->running, "x-farfault-lend", NULL, NULL);
    JsonObject *lent = ff_json_node_object(node);
    g_autofree char *lost =
        lent ? ff_upgrade_carry_actions(ff_json_array(lent, "actions"), u->prepared) : NULL;

    if (lost) {
        warn(u, lost);
    }
}

static bool begin(Upgrade *u, GError **error)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return fail(error, "socketpair: %s", g_strerror(errno));
    }
    last_words = ff_upgrade_vnc_has_port(u->args) || ff_upgrade_has_forwards(u->args)
                     ? "farfault: interrupted: the upgrade comes to its end, or is undone, without "
                       "this program: farfault status says where the guest is; in a new QEMU its "
                       "VNC does not listen before display-update is said to its monitor, and no "
                       "port is forwarded to it before hostfwd_add is\n"
                     : "farfault: interrupted: the upgrade comes to its end, or is undone, without "
                       "this program: farfault status says where the guest is\n";
    place_threads(u);
    u->balloons = ff_upgrade_balloons(u->running);
    carry_actions(u);
    /* In this order: if this program ends in between, the new QEMU is ended, and the old one's
     * engine hears of that. */
    u->handed = tell(u->running, "x-farfault-hand-over", pair[0], u->stays, error);
    /* From now on clients cannot change them here (relay/clients-wait.h). */
    g_autofree char *refused =
        u->handed ? ff_upgrade_carry_settings(u->running, u->prepared) : NULL;
    if (refused) {
        warn(u, refused);
    }
    bool ok = u->handed && tell(u->prepared, "x-farfault-take-over", pair[1], false, error);
    close(pair[0]);
    close(pair[1]);
    return ok;
}

static char *reason(Upgrade *u)
{
    g_autoptr(JsonNode) node =
        u->old_gone ? NULL : ff_cli_qmp_call(u->running, "query-migrate", NULL, NULL);
    const char *desc = ff_json_string(ff_json_node_object(node), "error-desc");
    g_autofree char *said = last_line(u->log);

    return g_strdup_printf("%s%s%s", desc ? desc : "the engine does not say why",
                           said ? "; the new QEMU's last words: " : "", said ? said : "");
}

/* The guest is the new one's for good: the old one is not told that its migration is over, and is
 * of no use. Its files are free when it has ended. */
static void end_old(const Upgrade *u)
{
    struct pollfd p = {.fd = u->old_pidfd, .events = POLLIN};

    pidfd_send_signal(u->old_pidfd, SIGKILL, NULL, 0);
    while (poll(&p, 1, -1) < 0 && errno == EINTR) {
    }
}

/* The same for clients: they find the new QEMU where they have found the old one. */
static void open_to_clients(Upgrade *u)
{
    g_autoptr(GError) error = NULL;

    FF_FAULT_AT("open-to-clients");
    ff_upgrade_names_take(u->names);
    ff_upgrade_poll_balloons(u->balloons, u->prepared);
    g_autofree char *not_forwarded = ff_upgrade_forward(u->args, u->prepared);
    if (not_forwarded) {
        warn(u, not_forwarded);
    }
    if (!ff_upgrade_vnc_listen(u->args, u->prepared, &error)) {
        warn(u, error->message);
    } else if (ff_upgrade_vnc_has_password(u->args)) {
        warn(u, "VNC lets nobody in before its password is set again (set_password)");
    }
}

/* The relays have ended, and said nothing. */
static bool lost_sight(Upgrade *u, GError **error)
{
    struct pollfd old = {.fd = u->old_pidfd, .events = POLLIN};
    bool old_ended = poll(&old, 1, 0) == 1, new_lives = waitpid(u->pid, NULL, WNOHANG) == 0;
    g_autofree char *why = reason(u);

    if (!old_ended) {
        return fail(
            error,
            "the relays of both QEMUs have ended: farfault attach %d gives the old one another, "
            "and the guest continues there if it had not left; farfault attach %d then ends the "
            "new "
            "one, if it lives and has no guest (%s)",
            u->old_pid, (int)u->pid, why);
    }
    if (new_lives) {
        return fail(error,
                    "the guest is in the new QEMU, whose relay has ended: farfault attach %d gives "
                    "it another (%s)",
                    (int)u->pid, why);
    }
    return fail(error, "both QEMUs have ended (%s)", why);
}

static gboolean ring(gpointer rung)
{
    *(bool *)rung = true;
    return G_SOURCE_REMOVE;
}

/* FALSE: neither engine has said anything for QUIET_S. */
static bool listen_for_a_while(Upgrade *u)
{
    bool rung = false;
    guint timer = g_timeout_add_seconds(QUIET_S, ring, &rung);

    u->heard = false;
    while (!u->heard && !rung) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (!rung) {
        g_source_remove(timer);
    }
    return u->heard;
}

/* What is to come may not come any more: the new QEMU has gone, of which an old engine that died at
 * once may never have known; or nobody has said anything for a while. FALSE and ERROR: the one
 * that is left does not answer. */
static bool ask(Upgrade *u, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) node =
        u->old_gone ? NULL : ff_cli_qmp_call(u->running, "query-migrate", NULL, &local);
    /* An old engine waits for the new one, which may hang. */
    g_autoptr(JsonNode) other =
        u->new_gone || local ? NULL : ff_cli_qmp_call(u->prepared, "query-migrate", NULL, &local);
    JsonObject *info = ff_json_node_object(node);
    const char *status = ff_json_string_or(info, "status", "none");

    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT)) {
        return fail(error,
                    "the upgrade hangs, processes %d and %d are the guest's QEMUs: see farfault "
                    "doctor which process is stopped, and continue it or end it (%s)",
                    u->old_pid, (int)u->pid, local->message);
    }
    const char *theirs = ff_json_string_or(ff_json_node_object(other), "status", "none");
    /* Its event has not come; and its memory is its own. */
    g_autoptr(JsonNode) own = strcmp(theirs, "completed")
                                  ? NULL
                                  : ff_cli_qmp_call(u->prepared, "x-farfault-lend", NULL, NULL);
    if (own) {
        u->end = COMPLETED;
        u->arrived = true;
    }
    if (!strcmp(status, "postcopy-paused")) {
        return fail(error, "%s (processes %d and %d)",
                    ff_json_string_or(info, "error-desc", "the upgrade has failed"), u->old_pid,
                    (int)u->pid);
    }
    if (node && !u->old_gone && u->new_gone &&
        (!strcmp(status, "none") || !strcmp(status, "failed") || !strcmp(status, "cancelled"))) {
        u->end = FAILED;
    }
    return true;
}

/* The engines come to an end. A completed one ends its QEMU; a relay that has died before it could
 * leaves that to us. What the old one was told comes to an end also if the new one could not be
 * told (BEGUN is false). FALSE and ERROR: they hang. */
static bool await_end(Upgrade *u, bool begun, GError **error)
{
    bool asked = false;

    while (u->handed && u->end != FAILED &&
           !(u->old_gone && (!begun || u->new_gone || u->end == COMPLETED))) {
        bool alone = u->new_gone && !u->old_gone && !asked;

        asked |= alone;
        if ((alone || !listen_for_a_while(u)) && !ask(u, error)) {
            return false;
        }
    }
    return true;
}

/* The guest is the new QEMU's: does it run there? */
static bool look_at_guest(Upgrade *u, GError **error)
{
    g_autoptr(JsonNode) status = ff_cli_qmp_call(u->prepared, "query-status", NULL, NULL);
    g_autoptr(JsonNode) info = ff_cli_qmp_call(u->prepared, "query-migrate", NULL, NULL);
    JsonObject *own = ff_json_object(ff_json_node_object(info), "x-farfault");
    const char *why = ff_json_string(own, "not-started");

    if (!status) {
        /* Its relay may have died before it could start the guest. */
        return lost_sight(u, error);
    }
    if (!ff_json_bool(ff_json_node_object(status), "running")) {
        u->state = g_strdup(ff_json_string_or(ff_json_node_object(status), "status", "?"));
    }
    if (why && u->state) {
        return fail(
            error,
            "the guest is in QEMU %s, process %d, and stands: it could not be started (%s): "
            "put that right, and say cont to its monitor",
            ff_cli_qmp_version(u->prepared), (int)u->pid, why);
    }
    return true;
}

/* The guest is the old QEMU's, which could not start it again if somebody has a disk of it open by
 * now. */
static bool stands_in_old(Upgrade *u)
{
    g_autoptr(JsonNode) status =
        u->ran && !u->old_gone ? ff_cli_qmp_call(u->running, "query-status", NULL, NULL) : NULL;

    return status && !ff_json_bool(ff_json_node_object(status), "running");
}

/* One that died when it had taken the guest has left that to the next. */
static void await_arrival(Upgrade *u)
{
    while (u->end == COMPLETED && !u->arrived && !u->new_gone && listen_for_a_while(u)) {
    }
}

/* It has let everybody go, this program too, when it has nothing of the guest any more. */
static void await_front(Upgrade *u)
{
    while (u->end == COMPLETED && u->stays && !u->old_gone && listen_for_a_while(u)) {
    }
}

static bool switch_over(Upgrade *u, GError **error)
{
    ff_cli_qmp_listen(u->running, on_old, u);
    ff_cli_qmp_listen(u->prepared, on_new, u);
    bool begun = begin(u, error);
    bool ended = await_end(u, begun, begun ? error : NULL);
    await_arrival(u);
    await_front(u);
    ff_cli_qmp_listen(u->running, NULL, NULL);
    ff_cli_qmp_listen(u->prepared, NULL, NULL);
    if (!ended || (!begun && (u->end == FAILED || !u->handed))) {
        return false;
    }
    if (!begun) {
        g_clear_error(error); /* the new one may have heard it all the same */
    }
    if (u->end == COMPLETED) {
        if (!u->stays) {
            end_old(u);
        }
        open_to_clients(u);
        return look_at_guest(u, error);
    }
    if (u->end == FAILED) {
        g_autofree char *why = reason(u);
        const char *where = stands_in_old(u) ? "stands in its old QEMU, which could not start it "
                                               "again (say cont there)"
                                             : "continues in its old QEMU";
        return fail(error, "the upgrade failed, and the guest %s: %s", where, why);
    }
    return lost_sight(u, error);
}

/* ---- a signal -------------------------------------------------------------------------------- */

/* It ends this program as before, which is all right at any moment: what is left is the engines'
 * and the relay's. But the user who typed Ctrl-C wants to know where the guest is. */
static void on_signal(int number)
{
    const char *words = last_words;

    (void)!write(STDERR_FILENO, words, strlen(words));
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    last_words = "farfault: interrupted: the guest continues in the QEMU that it has\n";
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction now;

        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
            signal(signals[i], on_signal);
        }
    }
}

static int run(Upgrade *u, const Line *line)
{
    g_autoptr(GError) error = NULL;
    bool ok = (u->running = open_running(u, &error)) && look_at_running(u, line, &error) &&
              has_guest(u, &error) && prepare(u, &error);

    if (ok && !line->check) {
        ok = switch_over(u, &error);
    }
    if (ok && !line->check) {
        g_autofree char *stood =
            u->stop && u->resume > u->stop
                ? g_strdup_printf(", and stood for %.1f ms", (u->resume - u->stop) / 1e3)
                : g_strdup("");
        int front = u->stays ? u->old_pid : u->front;
        g_autofree char *stays =
            front ? g_strdup_printf("; process %d stays for those who know it", front)
                  : g_strdup("");
        printf("the guest is in QEMU %s, process %d%s%s%s\n", ff_cli_qmp_version(u->prepared),
               (int)u->pid, u->state ? ", and stands: it is " : stood, u->state ? u->state : "",
               stays);
        if (u->warning->len) {
            fflush(stdout);
            fprintf(stderr, "farfault: warning: %s\n", u->warning->str);
        }
        return EXIT_OK;
    }
    g_autofree char *version = u->prepared ? g_strdup(ff_cli_qmp_version(u->prepared)) : NULL;
    /* The engines end it as well, if they have come to know it. */
    if (!u->handed || u->end == FAILED) {
        end_new(u);
    }
    if (!ok) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return u->end == COMPLETED && u->state ? EXIT_STANDS : EXIT_FAILED;
    }
    printf("QEMU %s can take this guest over\n", version);
    return EXIT_OK;
}

/* The running QEMU may be in other namespaces, which are entered. */
static void make_absolute(Line *line)
{
    char **const paths[] = {&line->args_from,
                            line->qemu && strchr(line->qemu, '/') ? &line->qemu : NULL};

    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        if (paths[i] && *paths[i]) {
            char *absolute = g_canonicalize_filename(*paths[i], NULL);

            g_free(*paths[i]);
            *paths[i] = absolute;
        }
    }
}

int ff_cli_upgrade(int argc, char **argv)
{
    g_auto(Line) line = {0};
    g_auto(Upgrade) u = {.options = g_ptr_array_new_with_free_func(g_free),
                         .given = g_array_new(FALSE, FALSE, sizeof(int)),
                         .warning = g_string_new(NULL),
                         .old_pidfd = -1,
                         .log = -1};
    g_autoptr(GError) error = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line.help, NULL, NULL},
        {"check", 0, 0, G_OPTION_ARG_NONE, &line.check, NULL, NULL},
        {"keep-process", 0, 0, G_OPTION_ARG_NONE, &line.keep_process, NULL, NULL},
        {"qemu", 0, 0, G_OPTION_ARG_FILENAME, &line.qemu, NULL, NULL},
        {"args-from", 0, 0, G_OPTION_ARG_FILENAME, &line.args_from, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &line.positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault upgrade --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (line.help) {
        fputs(ff_help_upgrade, stdout);
        return EXIT_OK;
    }
    if (!line.positional || g_strv_length(line.positional) != 1) {
        fprintf(stderr, "farfault: name the guest's monitor, and only one (farfault upgrade "
                        "--help)\n");
        return EXIT_USAGE;
    }
    u.address = line.positional[0];
    make_absolute(&line);
    watch_signals();
    return run(&u, &line);
}
