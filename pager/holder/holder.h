/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder: a process that holds other processes' userfaultfds for a pager that may die
 * (docs/design/pager.md). One process, one thread.
 */
#ifndef FF_PAGER_HOLDER_HOLDER_H
#define FF_PAGER_HOLDER_HOLDER_H

#include "pager/holder/config.h"

/* Until SIGTERM or SIGINT: the exit status. Ends the pager. ERROR: it could not begin. */
int ff_holder_run(const FfHolderConfig *cfg, GError **error);

#endif
