/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade: the running QEMU. Whether its guest can have another one, and what that one is
 * to be started with: its own command line, or another. Nothing is started or changed here.
 *
 * One thread. System calls: pidfd_open.
 */
#include "cli/upgrade/internal.h"

#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/common/restore-adapt.h"
#include "cli/upgrade/adapt.h"
#include "cli/upgrade/args.h"
#include "cli/upgrade/files.h"
#include "cli/upgrade/forwards.h"
#include "cli/upgrade/names.h"
#include "cli/upgrade/place.h"
#include "guest/launch/argv-opts.h"
#include "guest/launch/attach.h"
#include "guest/launch/scheduling.h"
#include "qmp/json.h"

/* A monitor, or the process of a guest whose monitors are all taken. */
FfCliQmp *ff_upgrade_open_running(FfUpgrade *u, GError **error)
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

static bool has_farfault(const FfUpgrade *u, const GError *local, GError **error)
{
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        return ff_upgrade_fail(
            error,
            "%s: no farfault has this monitor, or one that cannot hand a guest over: "
            "the guest has to be started by farfault run",
            u->address);
    }
    return ff_upgrade_fail(error, "%s: %s", u->address, local->message);
}

/* A word that is wrong is not said: there may be secrets in the file. */
static bool split_args(FfUpgrade *u, const char *path, const char *text, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (g_shell_parse_argv(text, NULL, &u->args, &local)) {
        return true;
    }
    return ff_upgrade_fail(error, "--args-from %s: %s", path,
                           g_error_matches(local, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING)
                               ? "it is empty"
                               : "a quote is not closed, or a backslash ends it");
}

static bool read_args(FfUpgrade *u, const char *path, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, &local)) {
        return ff_upgrade_fail(error,
                               "--args-from: %s: give a file that has the guest's own command "
                               "line, without the program's name",
                               local->message);
    }
    g_strfreev(u->args);
    u->args = NULL;
    if (!split_args(u, path, text, error)) {
        return false;
    }
    g_autofree char *first = g_path_get_basename(u->args[0]);
    return !g_str_has_prefix(first, "qemu-system-") ||
           ff_upgrade_fail(error,
                           "--args-from %s: leave the program's name out: --qemu says which it is",
                           path);
}

/* Those of farfault run: the running one's. */
static void take_options(FfUpgrade *u, JsonObject *lent)
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

static void take_given(FfUpgrade *u, JsonObject *lent)
{
    JsonArray *numbers = ff_json_array(lent, "given");

    for (guint i = 0; numbers && i < json_array_get_length(numbers); i++) {
        int number = (int)json_array_get_int_element(numbers, i);

        g_array_append_val(u->given, number);
    }
}

static void take_args(FfUpgrade *u, JsonObject *lent)
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

/* Overlays that a snapshot or restore has put in front of disks since the start. What is not found
 * on the command line the comparison finds. */
static void take_overlays(FfUpgrade *u)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);

    for (char **word = u->args; *word; word++) {
        g_ptr_array_add(words, g_strdup(*word));
    }
    if (ff_restore_adapt_disks(u->running, cwd, words)) {
        g_ptr_array_add(words, NULL);
        g_strfreev(u->args);
        u->args = g_strdupv((char **)words->pdata);
    }
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

/* Its back-end is the new QEMU's when the old one has ended, or its relay has left it. */
static const char *has_vhost_user(char *const *args)
{
    for (; *args; args++) {
        if (strstr(*args, "vhost-user")) {
            return *args;
        }
    }
    return NULL;
}

static bool look_at_process(FfUpgrade *u, const FfUpgradeLine *line, JsonObject *lent,
                            GError **error)
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
    const char *device = u->stays ? has_vhost_user(u->args) : NULL; /* a front has none any more */
    if (device && !ff_json_bool(lent, "leaves-back-ends")) {
        return ff_upgrade_fail(
            error,
            "%s: process %d stays, and has a relay of an older farfault, which would not leave "
            "the back-end: farfault attach --replace %d",
            device, u->old_pid, u->old_pid);
    }
    return !ff_upgrade_has_forwards(u->args) ||
           ff_upgrade_fail(
               error,
               "process %d stays, and with it the ports that its user network forwards "
               "(hostfwd=), which the new QEMU could not have: remove them, or migrate the guest",
               u->front ? u->front : u->old_pid);
}

/* An option of farfault run that the new QEMU's gets as well. */
static bool has_option(const FfUpgrade *u, const char *option)
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

JsonNode *ff_upgrade_lent(FfUpgrade *u, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->running, "x-farfault-lend", NULL, error);
    int pid = (int)ff_json_int(ff_json_node_object(node), "pid", 0);

    if (node && pid != u->old_pid) {
        (void)ff_upgrade_fail(
            error, "the guest has gone to another QEMU meanwhile, process %d: repeat the upgrade",
            pid);
        return NULL;
    }
    return g_steal_pointer(&node);
}

/* Of one that was given away nothing is left here to be upgraded, and it must not be started. */
bool ff_upgrade_has_guest(FfUpgrade *u, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(u->running, "query-status", NULL, error);
    const char *state = ff_json_string_or(ff_json_node_object(node), "status", "unknown");

    if (!node) {
        return false;
    }
    u->ran = ff_json_bool(ff_json_node_object(node), "running");
    if (!strcmp(state, "inmigrate")) {
        return ff_upgrade_fail(
            error,
            "%s: waits for an incoming migration: it has no guest yet that could be given "
            "another QEMU",
            u->address);
    }
    if (!strcmp(state, "postmigrate") || !strcmp(state, "finish-migrate")) {
        return ff_upgrade_fail(
            error,
            "%s: its guest has been migrated away, or saved (%s): upgrade the QEMU in "
            "which it runs now",
            u->address, state);
    }
    return true;
}

static bool check_program(const FfUpgrade *u, GError **error)
{
    const char *qemu = u->qemu ? u->qemu : "";

    if (!strchr(qemu, '/')) {
        return ff_upgrade_fail(error, "--qemu %s: give a path, as /usr/bin/qemu-system-x86_64",
                               qemu);
    }
    if (access(qemu, X_OK) < 0) {
        return ff_upgrade_fail(error, "--qemu %s: %s: give the path of the new QEMU", qemu,
                               g_strerror(errno));
    }
    return g_file_test(qemu, G_FILE_TEST_IS_REGULAR) ||
           ff_upgrade_fail(error, "--qemu %s: is no program", qemu);
}

bool ff_upgrade_look_at_running(FfUpgrade *u, const FfUpgradeLine *line, GError **error)
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
        return ff_upgrade_fail(
            error, "%s: its QEMU is not to be seen from here: run this on its host", u->address);
    }
    if (st.st_uid != geteuid() && geteuid() != 0) {
        return ff_upgrade_fail(error,
                               "%s: its QEMU runs as user %u: run this as that user, or as root",
                               u->address, st.st_uid);
    }
    if (geteuid() == 0 && ff_scheduling_has_capabilities(u->old_pid)) {
        return ff_upgrade_fail(
            error,
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
    if (!line->args_from && u->args) {
        take_overlays(u);
    }
    /* It is started in the running one's folder. */
    bool is_path = line->qemu && strchr(line->qemu, '/');
    u->qemu = is_path      ? g_canonicalize_filename(line->qemu, NULL)
              : line->qemu ? g_strdup(line->qemu)
                           : program_of(u->old_pid);
    if (!u->args) {
        return ff_upgrade_fail(
            error,
            "%s: an older farfault has started this guest, and did not keep its command "
            "line: give it with --args-from",
            u->address);
    }
    if (!look_at_process(u, line, lent, error) || !check_program(u, error)) {
        return false;
    }
    if (!ff_upgrade_adapt_args(u->running, u->old_pid, &u->args, error) ||
        (u->own && !ff_upgrade_adapt_args(u->running, u->old_pid, &u->own, error))) {
        return false;
    }
    g_auto(GStrv) taps = ff_upgrade_taps_of(u->old_pid);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", u->old_pid);
    g_autofree char *folder = g_file_read_link(link, NULL);
    return ff_upgrade_check_args(u->args, !g_strcmp0(folder, "/"),
                                 has_option(u, "--vhost-user=migrate"), u->given, error) &&
           (!u->own || ff_upgrade_same_taps(u->own, u->args, (const char *const *)taps, error));
}
