/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands for people. ARGV[0] is the command's name; each returns the exit status.
 */
#ifndef FF_CLI_COMMON_COMMANDS_H
#define FF_CLI_COMMON_COMMANDS_H

/* farfault migrate SRC-QMP DST-QMP */
int ff_cli_migrate(int argc, char **argv);
/* farfault status QMP */
int ff_cli_status(int argc, char **argv);
/* farfault metrics [--listen ADDRESS] */
int ff_cli_metrics(int argc, char **argv);
/* farfault report RECORD PAGE.html */
int ff_cli_report(int argc, char **argv);
/* farfault dump QMP DIRECTORY; farfault dump --check DIRECTORY DIRECTORY */
int ff_cli_dump(int argc, char **argv);
/* farfault join SOURCE DESTINATION FILE */
int ff_cli_join(int argc, char **argv);
/* farfault recover --from DIRECTORY QMP */
int ff_cli_recover(int argc, char **argv);
/* farfault end [--lose-guest] QMP */
int ff_cli_end(int argc, char **argv);
/* farfault snapshot QMP FILE */
int ff_cli_snapshot(int argc, char **argv);
/* farfault restore FILE -- qemu-system-ARCH ARGS...: becomes QEMU. */
int ff_cli_restore(int argc, char **argv);
/* farfault info FILE */
int ff_cli_info(int argc, char **argv);
/* farfault convert IN OUT */
int ff_cli_convert(int argc, char **argv);
/* farfault upgrade QMP */
int ff_cli_upgrade(int argc, char **argv);
/* farfault attach PID|QMP */
int ff_cli_attach(int argc, char **argv);
/* farfault pager --listen SOCKET --from FILE */
int ff_cli_pager(int argc, char **argv);
/* farfault doctor */
int ff_cli_doctor(int argc, char **argv);

/* The chardev by which farfault restore speaks to the QEMU that it starts. */
#define FF_CLI_RESTORE_MONITOR "farfault-restore"

#endif
