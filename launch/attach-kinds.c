/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See attach-kinds.h. Any thread. */
#include "launch/attach-kinds.h"

/* Of KIND: 0, or why QEMU has none. A farfault of before the kinds had one for tracking and others
 * for missing pages, or none of either. */
static int error_of(const FfStateHeader *state, FfKind kind)
{
    if (state->n_kinds == 0) {
        return kind < (FfKind)state->n_uffds && kind != FF_KIND_PROTECT ? 0
               : state->uffd_errno                                      ? state->uffd_errno
                                                                        : FF_AGENT_EOLDER;
    }
    /* QEMU has no copy of this one. */
    return state->kind_error[kind] == 0 && kind == FF_KIND_PROTECT ? FF_AGENT_ELOST
                                                                   : state->kind_error[kind];
}

void ff_attach_kinds(const FfStateHeader *state, FfAgentHello *hello)
{
    const int32_t *kept = state->n_kinds ? state->kind_in_qemu : state->uffd_in_qemu;

    for (unsigned i = 0; i < FF_KINDS; i++) {
        hello->error[i] = error_of(state, i);
        hello->kept[i] = hello->error[i] ? -1 : kept[i];
    }
}
