/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest's own command line, as it restores what the guest is now: with the machine type that it
 * has, and with the images that it writes to. One thread.
 */
#ifndef FF_CLI_COMMON_RESTORE_ADAPT_H
#define FF_CLI_COMMON_RESTORE_ADAPT_H

#include "cli/common/qmp.h"
#include "guest/launch/argv-opts.h"

/* OPTION with VALUE is of farfault restore's own monitor, whose client has gone. */
bool ff_restore_is_monitor(const FfOption *option, const char *value);

/* WORDS (char *), without QEMU itself, of the QEMU of QMP, whose folder is CWD (NULL: not known).
 * FALSE: a disk has another image since the start, and where that is on WORDS is not known: they
 * would start the guest on the former one. */
bool ff_restore_adapt(FfCliQmp *qmp, const char *cwd, GPtrArray *words);
/* The images alone. */
bool ff_restore_adapt_disks(FfCliQmp *qmp, const char *cwd, GPtrArray *words);

#endif
