/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands that become QEMU; those for people are in cli/common/commands.h. Each takes its own
 * argv (argv[0] is the command's name) and returns the exit status.
 *
 * To add a command: declare it, write its text in cli/common/help.c, and give it a row in the table
 * of cli/farfault.c.
 */
#ifndef FF_CLI_COMMON_CLI_H
#define FF_CLI_COMMON_CLI_H

#define FF_CLI_USAGE_STATUS 2 /* exit status for a command line that makes no sense */

/* farfault run [--policy=P] [--] qemu-system-ARCH ARGS...: becomes QEMU. */
int ff_cli_run(int argc, char **argv);
/* Called as qemu-system-ARCH: becomes the real one with the same arguments. */
int ff_cli_run_as_qemu(char **argv);
/* The same of farfault restore, which is nothing without farfault. VHOST: of --vhost-user; NULL: it
 * was not said. */
int ff_cli_run_restored(char **argv, const char *vhost);

#endif
