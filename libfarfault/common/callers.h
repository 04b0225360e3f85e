/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ranges the threads of this process are just giving back (uffd/callers.h), as
 * /proc/self/task/TID/syscall says of each that waits in the kernel. What io_uring does, and other
 * processes, is not there.
 */
#ifndef FARFAULT_CALLERS_H
#define FARFAULT_CALLERS_H

#include "uffd/callers.h"

/* NULL: the kernel does not say it, or not to us. */
FfCallers *ff_callers_new(void);
/* Can be NULL. */
void ff_callers_free(FfCallers *c);

#endif
