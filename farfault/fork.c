/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ff_fork(). */
#include "farfault/memory-internal.h"
#include "farfault/template.h"

void ff_template_end(FfMemory *m)
{
}
