/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is pinned for long, to which devices and the kernel write without a fault.
 */
#ifndef FARFAULT_PINNED_H
#define FARFAULT_PINNED_H

#include "libfarfault/common/memory-internal.h"

/* That no buffer which is registered with io_uring lies in a region. Locked, or in FF_PREPARING. 0
 * or -errno, said. */
int ff_pinned_check(const FfMemory *m);

#endif
