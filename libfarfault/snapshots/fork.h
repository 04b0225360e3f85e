/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What libfarfault/memory.c knows of ff_fork(): its end.
 */
#ifndef FARFAULT_FORK_H
#define FARFAULT_FORK_H

#include "libfarfault/common/farfault.h"

/* Ends the template of M and its child, if there are any. */
void ff_template_end(FfMemory *m);

#endif
