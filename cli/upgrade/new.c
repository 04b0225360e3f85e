/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade: the new QEMU. It is started on what the running one lends, has no other client
 * than this program until the guest is its own, and is ended by its relay when this program ends
 * before that.
 *
 * One thread. System calls: fork, setsid, fexecve, memfd_create, pidfd_open, socketpair,
 * waitpid, kill.
 */
#include "cli/upgrade/internal.h"

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/userfault.h"
#include "cli/upgrade/compare.h"
#include "cli/upgrade/files.h"
#include "cli/upgrade/forwards.h"
#include "cli/upgrade/names.h"
#include "cli/upgrade/place.h"
#include "cli/upgrade/vnc.h"
#include "guest/launch/scheduling.h"

/* What QEMU, its relay and its engine write to stderr, from then on; bytes. The name must not look
 * like that of guest RAM (farfault-ID), which farfault attach takes from what QEMU has open. */
#define LOG_SIZE (256u << 10)
#define LOG_NAME "upgrade-log"
#define SOCKET_NAME "farfault-upgrade"
#define FIRST_HIGH_FD 500

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

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
char *ff_upgrade_last_line(int log)
{
    g_autofree char *text = g_malloc0(LOG_SIZE + 1);

    if (log < 0 || pread(log, text, LOG_SIZE, 0) <= 0) {
        return NULL;
    }
    g_auto(GStrv) lines = g_strsplit(g_strchomp(text), "\n", -1);
    guint n = g_strv_length(lines);
    /* What QEMU says of a socket at which it listens is no reason for anything, nor is its advice
     * behind a reason. */
    while (n && (!*lines[n - 1] || strstr(lines[n - 1], ": info: ") ||
                 (n > 1 && g_str_has_prefix(lines[n - 1], "Use -")))) {
        n--;
    }
    return n ? g_strdup(lines[n - 1]) : NULL;
}

G_NORETURN static void become(char **argv, const FfUpgrade *u, const int *sockets)
{
    g_autofree char *cwd = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    int null = open("/dev/null", O_RDWR);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    ff_scheduling_take(u->old_pid);
    int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (null < 0 || self < 0 || chdir(cwd) < 0 || ff_scheduling_become(u->old_pid) < 0) {
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
static bool start_new(FfUpgrade *u, const int *sockets, GError **error)
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
        return ff_upgrade_fail(error, "the new QEMU cannot be started: %s", g_strerror(errno));
    }
    u->names = ff_upgrade_names(u->args, u->old_pid, u->pid);
    return true;
}

/* Of the socket that QMP has been given. */
static bool send_command(FfCliQmp *qmp, const char *command, bool keep_process, GError **error)
{
    JsonObject *arguments = json_object_new();

    json_object_set_string_member(arguments, "fdname", SOCKET_NAME);
    if (keep_process) {
        json_object_set_boolean_member(arguments, "keep-process", TRUE);
    }
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, command, arguments, error);
    return node;
}

bool ff_upgrade_tell(FfCliQmp *qmp, const char *command, int socket, bool keep_process,
                     GError **error)
{
    return ff_cli_qmp_pass_fd(qmp, SOCKET_NAME, socket, error) &&
           send_command(qmp, command, keep_process, error);
}

bool ff_upgrade_hand_over(FfUpgrade *u, int socket, GError **error)
{
    if (!ff_cli_qmp_pass_fd(u->running, SOCKET_NAME, socket, error)) {
        return false;
    }
    g_autoptr(JsonNode) lent = ff_upgrade_lent(u, error);
    return lent && send_command(u->running, "x-farfault-hand-over", u->stays, error);
}

static bool lend_guest(FfUpgrade *u, int socket, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (ff_upgrade_tell(u->running, "x-farfault-lend", socket, u->stays, &local)) {
        return true;
    }
    if (u->stays && strstr(local->message, "'keep-process' is unexpected")) {
        return ff_upgrade_fail(
            error,
            "process %d is to stay, which its farfault does not know, an older one: "
            "farfault attach --replace %d gives it a newer one",
            u->old_pid, u->old_pid);
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

/* LOCAL: what happened to its monitor. */
static bool new_failed(FfUpgrade *u, const GError *local, GError **error)
{
    g_autofree char *said = NULL;
    int status;

    bool closed = g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    /* It may also hang: no orderly end. */
    bool ended = closed && ff_upgrade_has_ended(u->pid, true);

    kill(-u->pid, SIGKILL); /* a script's children as well */
    kill(u->pid, SIGKILL);
    if (waitpid(u->pid, &status, 0) == u->pid) {
        u->pid = 0;
    }
    if (ended && WIFSIGNALED(status)) {
        return ff_upgrade_fail(error, "the new QEMU (%s) was killed by signal %d (%s)", u->qemu,
                               WTERMSIG(status), g_strsignal(WTERMSIG(status)));
    }
    said = ff_upgrade_last_line(u->log);
    if (said && strstr(said, "unsupported machine type")) {
        return ff_upgrade_fail(error,
                               "the new QEMU (%s) has no longer this guest's machine type (%s): "
                               "name one that has it, by --qemu",
                               u->qemu, said);
    }
    return ff_upgrade_fail(error, "the new QEMU (%s) does not start: %s", u->qemu,
                           said     ? said
                           : closed ? "it ended without a word; is it a QEMU?"
                                    : local->message);
}

static bool connect_new(FfUpgrade *u, int monitor, GError **error)
{
    g_autoptr(GError) local = NULL;
    int pidfd = pidfd_open(u->pid, 0);

    if (pidfd < 0) {
        int errnum = errno;

        close(monitor);
        return ff_upgrade_fail(error, "pidfd_open: %s", g_strerror(errnum));
    }
    u->prepared = ff_cli_qmp_open_own(monitor, "the new QEMU", pidfd, &local);
    close(pidfd);
    return u->prepared || new_failed(u, local, error);
}

/* What it listens at, and its pid file, are the running one's. */
static bool may_have_names(const FfUpgrade *u, GError **error)
{
    g_autoptr(GPtrArray) own = u->own ? ff_upgrade_names(u->own, u->old_pid, u->pid) : NULL;

    return ff_upgrade_names_are_own(u->names, own, error);
}

/* The user's name, or its number (g_free). */
static char *user_of(int pid)
{
    g_autofree char *proc = g_strdup_printf("/proc/%d", pid);
    struct stat st;
    const struct passwd *pw = stat(proc, &st) == 0 ? getpwuid(st.st_uid) : NULL;

    return pw ? g_strdup(pw->pw_name) : g_strdup("USER");
}

/* The new one's memory is guarded by a userfaultfd of its own. */
static bool may_guard(const FfUpgrade *u, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->prepared, "x-farfault-take-over", NULL, &local);

    if (node) {
        return true;
    }
    if (!strstr(local->message, "no userfaultfd for this user")) {
        return ff_upgrade_fail(error, "the new QEMU cannot take over the guest: %s",
                               local->message);
    }
    g_autofree char *user = user_of((int)u->pid), *fix = ff_cli_userfault_fix(user);
    /* Not those that its user has by now (ff_scheduling_become()). */
    const char *groups = geteuid() ? "" : "; its groups are the running QEMU's";
    return ff_upgrade_fail(error,
                           "the new QEMU runs as user %s, which may not use userfaultfd, and "
                           "cannot take over the guest: %s%s",
                           user, fix, groups);
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

/* The new one is started in the running one's folder. */
static bool are_alike(const FfUpgrade *u, GError **error)
{
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);

    return ff_upgrade_compare(u->running, u->prepared, cwd, error) &&
           ff_upgrade_same_files(u->running, u->old_pid, u->prepared, u->pid, error);
}

bool ff_upgrade_prepare(FfUpgrade *u, GError **error)
{
    int memory[2], monitor[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, memory) < 0) {
        return ff_upgrade_fail(error, "socketpair: %s", g_strerror(errno));
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0) {
        close(memory[0]);
        close(memory[1]);
        return ff_upgrade_fail(error, "socketpair: %s", g_strerror(errno));
    }
    /* Out of the way of the numbers that the new QEMU is given fds by. */
    bool ok = move_high(&memory[1]) && move_high(&monitor[1]) && lend_guest(u, memory[0], error) &&
              start_new(u, (const int[]){memory[1], monitor[1]}, error);
    close(memory[0]);
    close(memory[1]);
    close(monitor[1]);
    if (!ok) {
        close(monitor[0]);
        return false;
    }
    return connect_new(u, monitor[0], error) && may_guard(u, error) &&
           ff_upgrade_outlives(u->old_pid, u->pid, error) &&
           ff_upgrade_vnc_is_unchanged(u->args, u->running, error) &&
           ff_upgrade_forwards_are_unchanged(u->args, u->running, error) &&
           may_have_names(u, error) && ff_upgrade_names_copy_rights(u->names, error) &&
           are_alike(u, error);
}

/* It has no guest. */
void ff_upgrade_end_new(FfUpgrade *u)
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
