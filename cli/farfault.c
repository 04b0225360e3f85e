/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line's entry: which sub-command is meant, and what help there is.
 *
 * Called by a name that begins with "qemu-system-" it is that QEMU (cli/run/run.c); else the first
 * argument names a row of the table of commands.
 *
 * Threads: the only one.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/cli.h"
#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"

typedef struct {
    const char *name;
    int (*main)(int argc, char **argv);
    const char *summary; /* one line */
    const char *usage;   /* what --help prints, ends with a newline */
    bool starts_qemu;    /* which inherits what signals do */
} Command;

/* A new command is one row here. */
static const Command commands[] = {
    {"run", ff_cli_run, "start QEMU so that farfault can migrate the guest", ff_help_run, true},
    {"migrate", ff_cli_migrate, "move a running guest to another QEMU", ff_help_migrate},
    {"status", ff_cli_status, "say how a guest and its migration stand", ff_help_status},
    {"report", ff_cli_report, "make a page of a migration that was recorded", ff_help_report},
    {"metrics", ff_cli_metrics, "what the guests of this host have done, for Prometheus",
     ff_help_metrics},
    {"dump", ff_cli_dump, "write half of a paused migration into files", ff_help_dump},
    {"recover", ff_cli_recover, "continue from the dump of a source that is gone", ff_help_recover},
    {"end", ff_cli_end, "end a paused destination, and lose its guest", ff_help_end},
    {"join", ff_cli_join, "make a snapshot of the two dumps of a migration", ff_help_join},
    {"snapshot", ff_cli_snapshot, "write a running guest into a file", ff_help_snapshot},
    {"restore", ff_cli_restore, "start QEMU with a guest out of a file", ff_help_restore, true},
    {"upgrade", ff_cli_upgrade, "give a running guest a new QEMU", ff_help_upgrade, true},
    {"info", ff_cli_info, "say what is in the file of a saved guest", ff_help_info},
    {"convert", ff_cli_convert, "write the file of a saved guest in another form", ff_help_convert},
    {"attach", ff_cli_attach, "give a guest a new relay: it lost its own, or farfault was updated",
     ff_help_attach},
    {"pager", ff_cli_pager, "answer the page faults of other processes from a file", ff_help_pager},
    {"doctor", ff_cli_doctor, "say what works on this host, and what to do", ff_help_doctor},
};

static const Command *find_command(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[G_N_ELEMENTS(commands) + 1] = {NULL};
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        names[i] = commands[i].name;
    }
    const char *nearest = ff_cli_nearest(name, names);
    if (*name == '-') {
        g_autofree char *text =
            ff_cli_unknown_option(name, (const char *const[]){"--version", "--help", NULL});
        fprintf(stderr, "farfault: %s\n", text);
    } else if (g_str_has_prefix(name, "qemu-system-")) {
        fprintf(stderr, "farfault: to start QEMU: farfault run %s ...\n", name);
    } else if (strcmp(name, "resume") == 0) {
        fprintf(stderr, "farfault: to continue a paused migration: farfault migrate --resume "
                        "SOURCE-QMP DESTINATION-QMP\n");
    } else if (nearest) {
        fprintf(stderr, "farfault: there is no command \"%s\", did you mean \"%s\"?\n", name,
                nearest);
    } else {
        fprintf(stderr, "farfault: there is no command \"%s\", see farfault --help\n", name);
    }
    return FF_CLI_USAGE_STATUS;
}

static int print_help(void)
{
    printf("Usage: farfault COMMAND ...\n"
           "\n"
           "Postcopy live migration for stock QEMU, from outside.\n"
           "\n"
           "Commands:\n");
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    printf("  %-10s %s\n", "help", "what a command takes: farfault help COMMAND");
    printf("\n"
           "  --version  print the version\n"
           "  --help     print this text\n");
    return 0;
}

static int print_command_help(const char *name)
{
    const Command *command = find_command(name);
    if (!command) {
        return unknown_command(name);
    }
    fputs(command->usage, stdout);
    return 0;
}

/* STATUS, or 1 if what the command has printed was lost. One that is closed is nobody's, and a
 * pipe's reader that has ended has read enough. */
static int end_output(int status)
{
    int err = fflush(stdout) ? errno : 0;

    if ((!err && !ferror(stdout)) || err == EPIPE || fcntl(STDOUT_FILENO, F_GETFD) < 0) {
        return status;
    }
    fprintf(stderr, "farfault: what it printed is incomplete%s%s\n", err ? ": " : "",
            err ? g_strerror(err) : "");
    return status ? status : 1;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *self = argc > 0 ? (slash ? slash + 1 : argv[0]) : "farfault";
    if (g_str_has_prefix(self, "qemu-system-")) {
        return ff_cli_run_as_qemu(argv);
    }
    if (argc < 2) {
        fprintf(stderr, "farfault: name a command, see farfault --help\n");
        return FF_CLI_USAGE_STATUS;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("farfault %s\n", FARFAULT_VERSION);
        return end_output(0);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        return end_output(argc > 2 ? print_command_help(argv[2]) : print_help());
    }
    const Command *command = find_command(name);
    if (!command) {
        return unknown_command(name);
    }
    if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
        return end_output(print_command_help(name));
    }
    if (!command->starts_qemu) {
        signal(SIGXFSZ, SIG_IGN); /* a file that is longer than RLIMIT_FSIZE is an error */
    }
    return end_output(command->main(argc - 1, argv + 1));
}
