/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See internal.h. Any thread. */
#include "guest/launch/internal.h"

/* A farfault of before the kinds had one for tracking and others for missing pages, or none. */
int ff_attach_kind_error(const FfStateHeader *state, FfKind kind)
{
    if (state->n_kinds) {
        return state->kind_error[kind];
    }
    return (FfKind)state->n_uffds > kind && kind != FF_KIND_PROTECT ? 0
           : state->uffd_errno                                      ? state->uffd_errno
                                                                    : FF_AGENT_EOLDER;
}

void ff_attach_kinds(const FfStateHeader *state, FfAgentHello *hello)
{
    const int32_t *kept = state->n_kinds ? state->kind_in_qemu : state->uffd_in_qemu;

    for (unsigned i = 0; i < FF_KINDS; i++) {
        hello->error[i] = ff_attach_kind_error(state, i);
        if (i == FF_KIND_PROTECT && hello->error[i] == 0) {
            hello->error[i] = FF_AGENT_ELOST; /* QEMU has no copy of it */
        }
        hello->kept[i] = hello->error[i] ? -1 : kept[i];
    }
}
