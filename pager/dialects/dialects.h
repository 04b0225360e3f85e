/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All dialects (pager/server/dialect.h). Nothing here has a state; any thread. */
#ifndef FF_PAGER_DIALECTS_DIALECTS_H
#define FF_PAGER_DIALECTS_DIALECTS_H

#include "pager/server/dialect.h"

extern const FfDialect ff_dialect_firecracker, ff_dialect_nydus, ff_dialect_criu,
    ff_dialect_cloud_hypervisor;

/* By number (FfSpaceRecord.dialect); NULL-terminated. */
extern const FfDialect *const ff_dialects[];

/* The number of D. */
unsigned ff_dialect_number(const FfDialect *d);
/* NULL: none has that name. */
const FfDialect *ff_dialect_named(const char *name);

/* As FfHolderConfig.recognise and .answer want them. */
int ff_dialect_recognise(const char *bytes, size_t len);
size_t ff_dialect_answer(unsigned number, const char *bytes, size_t len, uint64_t content,
                         char *answer, size_t room);

#endif
