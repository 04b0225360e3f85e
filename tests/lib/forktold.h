/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether the kernel tells this process of forks; see pager/holder/descendants.h. */
#ifndef FF_TESTS_FORKTOLD_H
#define FF_TESTS_FORKTOLD_H

#include <stdbool.h>

bool forks_are_told(void);

#endif
