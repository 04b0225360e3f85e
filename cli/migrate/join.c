/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault join: the two dumps of a migration whose destination never ran become the file of a
 * saved guest (content/image/dump-join.h). What this makes is a second copy of a guest, so it is
 * made only if somebody says that the first one is gone, and never while a process of this host, or
 * a monitor that was named, is one of the migration's sides. One thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/qmp.h"
#include "cli/common/restore-hint.h"
#include "content/image/dump-join.h"
#include "content/image/saved.h"
#include "guest/launch/guests.h"

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

#define CLONE                                                                                      \
    "the guest as it was at the switch would be a clone: what the dumps do not say is whether it " \
    "has gone on since, at the source (which may have taken it back) or at the destination "       \
    "(which "                                                                                      \
    "may have been granted it): if both QEMUs have ended for good, say so (--force)"

static FfDumpFiles *open_half(const char *directory, GError **error)
{
    int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", directory,
                    g_strerror(errno));
        return NULL;
    }
    return ff_dump_files_open(dir, directory, error);
}

/* ---- does one of them still live ------------------------------------------------------------- */

/* Any process counts: farfault attach can give a relay to a QEMU that has none. */
static bool no_process(const FfDumpFiles *half, GError **error)
{
    g_autoptr(GPtrArray) guests = ff_guests_find();

    for (guint i = 0; i < guests->len; i++) {
        const FfHostGuest *g = guests->pdata[i];

        if (!memcmp(g->session, half->session, sizeof(g->session))) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "one side of this migration is process %d of this host%s: continue it "
                        "there (farfault status says how), or end that QEMU first",
                        (int)g->pid, g->served ? "" : ", which farfault attach can serve again");
            return false;
        }
    }
    return true;
}

/* There is no socket: QEMU and relay remove theirs when they end. */
static bool is_absent(const GError *error)
{
    return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
}

/* Nobody listens there now. A QEMU that was killed leaves such a socket behind; but so does one
 * that lives, and whose socket was made again at that path or whose port a filter refuses. */
static bool is_refused(const GError *error)
{
    return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED);
}

/* Its host says nothing: it may be cut off, and its guest run on. */
static bool is_out_of_reach(const GError *error)
{
    return g_error_matches(error, G_IO_ERROR, G_IO_ERROR_HOST_UNREACHABLE) ||
           g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NETWORK_UNREACHABLE) ||
           g_error_matches(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT);
}

/* A path that was mistyped is absent as well. FALSE: it cannot have been a monitor's. */
static bool may_have_been(const char *address, GError **error)
{
    const char *path = g_str_has_prefix(address, "unix:") ? address + strlen("unix:") : address;
    g_autofree char *dir = g_path_get_dirname(path);

    if (ff_cli_qmp_is_tcp(path)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "--monitor %s: if that is a host and a port, write tcp:HOST:PORT", address);
        return false;
    }

    if (!g_file_test(dir, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_DIRECTORY,
                    "--monitor %s: there is no directory %s: give the monitor's path as QEMU was "
                    "given it; if that directory is gone with it, leave this --monitor out",
                    address, dir);
        return false;
    }
    fprintf(
        stderr,
        "farfault: %s is not there: taken for the monitor of a QEMU that has ended. Look whether "
        "that is its name\n",
        address);
    return true;
}

static bool no_monitor(char **address, GError **error)
{
    for (char **a = address; a && *a; a++) {
        g_autoptr(GError) own = NULL;
        g_autoptr(FfCliQmp) qmp = ff_cli_qmp_open(*a, NULL, &own);

        if (qmp) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "%s answers: continue the migration there (farfault status %s says how), "
                        "or end that QEMU first",
                        *a, *a);
            return false;
        }
        if (is_out_of_reach(own)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "%s cannot be reached, which does not say that its QEMU has ended (%s): "
                        "switch that host off, or reach it; then leave this --monitor out",
                        *a, own->message);
            return false;
        }
        if (is_refused(own)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "%s refuses connections, which does not say that its QEMU has ended: look "
                        "for that process at its host; if it has ended for good, leave this "
                        "--monitor out, and say so (--force)",
                        *a);
            return false;
        }
        if (!is_absent(own)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&own),
                                       "whether a QEMU is left is not known: ");
            return false;
        }
        if (!may_have_been(*a, error)) {
            return false;
        }
    }
    return true;
}

/* ---- joining --------------------------------------------------------------------------------- */

static void report_joined(const char *path, const FfJoined *joined)
{
    g_autofree char *source = ff_format_bytes((double)(joined->pages[0] * FF_SAVED_PAGE));
    g_autofree char *destination = ff_format_bytes((double)(joined->pages[1] * FF_SAVED_PAGE));

    const FfRestoreHint file = {.path = path, .mapped = true, .changes = true};
    g_autofree char *restore = ff_restore_hint_command(&file);

    printf("%s: the guest as it was at the switch, a clone\n"
           "  memory       %s of the source's, %s of the destination's\n"
           "  restored     it %s; its disks have to be as they were then\n"
           "  restore      %s\n",
           path, source, destination, joined->runs ? "runs" : "stands until cont", restore);
}

static bool join_halves(const char *const *path, bool force, char **monitors, GError **error)
{
    g_autoptr(FfDumpFiles) source = open_half(path[0], error);
    g_autoptr(FfDumpFiles) destination = source ? open_half(path[1], error) : NULL;
    g_autoptr(FfOutput) o = NULL;
    FfJoined joined;

    if (!destination || !ff_dump_halves_check(source, destination, error) ||
        !ff_dump_join_check(source, destination, error) || !no_process(source, error) ||
        !no_monitor(monitors, error)) {
        return false;
    }
    if (!force) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED, CLONE);
        return false;
    }
    o = ff_output_new(path[2], error);
    if (!o || !ff_dump_join(source, destination, o, &joined, error) ||
        !ff_output_commit(o, error)) {
        return false;
    }
    report_joined(path[2], &joined);
    return true;
}

int ff_cli_join(int argc, char **argv)
{
    gboolean help = FALSE, force = FALSE;
    g_auto(GStrv) positional = NULL, monitors = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, NULL, NULL},
        {"monitor", 0, 0, G_OPTION_ARG_STRING_ARRAY, &monitors, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault join --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (help) {
        fputs(ff_help_join, stdout);
        return EXIT_OK;
    }
    if (!positional || g_strv_length(positional) != 3) {
        fputs("farfault: give two dumps and a new file: farfault join SOURCE DESTINATION FILE\n",
              stderr);
        return EXIT_USAGE;
    }
    if (!join_halves((const char *const *)positional, force, monitors, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}
