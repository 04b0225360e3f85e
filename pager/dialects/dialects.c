/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of dialects; see dialects.h. No system calls. */
#include "pager/dialects/dialects.h"

#include <string.h>

const FfDialect *const ff_dialects[] = {
    &ff_dialect_firecracker,
    &ff_dialect_nydus,
    &ff_dialect_criu,
    &ff_dialect_cloud_hypervisor,
    NULL,
};

unsigned ff_dialect_number(const FfDialect *d)
{
    unsigned i = 0;

    while (ff_dialects[i] != d) {
        g_assert(ff_dialects[i]);
        i++;
    }
    return i;
}

const FfDialect *ff_dialect_named(const char *name)
{
    for (unsigned i = 0; ff_dialects[i]; i++) {
        if (!strcmp(ff_dialects[i]->name, name)) {
            return ff_dialects[i];
        }
    }
    return NULL;
}

int ff_dialect_recognise(const char *bytes, size_t len)
{
    for (int i = 0; ff_dialects[i]; i++) {
        if (ff_dialects[i]->recognise && ff_dialects[i]->recognise(bytes, len)) {
            return i;
        }
    }
    return -1;
}

size_t ff_dialect_answer(unsigned number, const char *bytes, size_t len, uint64_t content,
                         char *answer, size_t room)
{
    const FfDialect *d = ff_dialects[number];

    return d->answer ? d->answer(bytes, len, content, answer, room) : 0;
}
