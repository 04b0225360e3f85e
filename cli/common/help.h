/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The --help texts of all commands, in one place; the man pages in docs/man say more.
 */
#ifndef FF_CLI_COMMON_HELP_H
#define FF_CLI_COMMON_HELP_H

extern const char ff_help_migrate[];
extern const char ff_help_status[];
extern const char ff_help_metrics[];
extern const char ff_help_report[];
extern const char ff_help_dump[];
extern const char ff_help_join[];
extern const char ff_help_recover[];
extern const char ff_help_end[];
extern const char ff_help_run[];
extern const char ff_help_upgrade[];
extern const char ff_help_restore[];
extern const char ff_help_snapshot[];
extern const char ff_help_info[];
extern const char ff_help_convert[];
extern const char ff_help_attach[];
extern const char ff_help_pager[];
extern const char ff_help_doctor[];

#endif
