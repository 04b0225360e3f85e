/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade: starts a second QEMU on the memory of a running guest, compares the two, and
 * has their engines hand the guest over. What it does with the running one, with the new one, and
 * when the guest goes over, is in running.c, new.c and switch.c.
 *
 * One thread.
 */
#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/upgrade/internal.h"
#include "cli/upgrade/names.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_STANDS };

static void line_clear(FfUpgradeLine *line)
{
    g_free(line->qemu);
    g_free(line->args_from);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfUpgradeLine, line_clear)

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static void upgrade_clear(FfUpgrade *u)
{
    g_clear_pointer(&u->prepared, ff_cli_qmp_free);
    g_clear_pointer(&u->running, ff_cli_qmp_free);
    close_fd(u->old_pidfd);
    close_fd(u->log);
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
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfUpgrade, upgrade_clear)

/* A new QEMU was begun, and the running one has not been told of it: it has the guest still. */
static bool is_where_it_was(FfUpgrade *u)
{
    g_autoptr(JsonNode) lent = u->log >= 0 ? ff_upgrade_lent(u, NULL) : NULL;

    return lent && ff_upgrade_has_guest(u, NULL);
}

static int run_upgrade(FfUpgrade *u, const FfUpgradeLine *line)
{
    g_autoptr(GError) error = NULL;
    bool ok = (u->running = ff_upgrade_open_running(u, &error)) &&
              ff_upgrade_look_at_running(u, line, &error) && ff_upgrade_has_guest(u, &error) &&
              ff_upgrade_prepare(u, &error);

    if (ok && !line->check) {
        ok = ff_upgrade_switch_over(u, &error);
    }
    bool unmoved = !ok && !u->handed && is_where_it_was(u);
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
    if (!u->handed || u->end == FF_END_FAILED) {
        ff_upgrade_end_new(u);
    }
    if (!ok) {
        fprintf(stderr, "farfault: %s%s\n", error->message,
                unmoved ? " (the guest is where it was)" : "");
        return u->end == FF_END_COMPLETED && u->state ? EXIT_STANDS : EXIT_FAILED;
    }
    printf("QEMU %s can take this guest over\n", version);
    return EXIT_OK;
}

/* The running QEMU may be in other namespaces, which are entered. */
static void make_absolute(FfUpgradeLine *line)
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
    g_auto(FfUpgradeLine) line = {0};
    g_auto(FfUpgrade) u = {.options = g_ptr_array_new_with_free_func(g_free),
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
    ff_upgrade_watch_signals();
    return run_upgrade(&u, &line);
}
