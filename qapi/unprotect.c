/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an engine leaves that dies in a live snapshot: guest memory that is protected against
 * writes, and guest threads that wait. This one, started for that, borrows the userfaultfd, takes
 * the protection away and gives it back. The relay waits for that a second only, or has done it
 * itself (guest/relay/uffds.h).
 *
 * Main loop's thread; a thread of its own does the work (uffd/unprotect.h).
 */
#include <unistd.h>

#include "qapi/driver-private.h"
#include "uffd/unprotect.h"

static void on_unprotected(const GError *error, void *opaque)
{
    FfCall *call = opaque;
    FfDriver *d = call->driver;
    int uffd = g_steal_fd(&call->fd);

    if (error) {
        ff_driver_log(d, "farfault: the guest has no live snapshots any more: %s", error->message);
        ff_driver_lose_uffd(d, uffd);
    } else {
        ff_driver_log(d, "farfault: the live snapshot has ended with its engine; the guest is "
                         "unharmed");
        ff_driver_give_uffd(d, uffd);
    }
    ff_call_return(call, NULL);
    d->lifting = false;
    ff_driver_go_on(d);
}

static void on_uffd_taken(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) { /* no copy is left. A relay that is at it answers when it has done */
        ff_state_unmark(d->config.state, FF_MARK_PROTECTED);
        ff_call_return(call, NULL);
        d->lifting = false;
        ff_driver_go_on(d);
        return;
    }
    FfVmmMemory *memory = &d->config.port->vmm(d->config.port_opaque)->memory;
    GPtrArray *all = memory->blocks(memory);
    g_autofree FfLiftBlock *blocks = g_new0(FfLiftBlock, all->len);

    for (guint i = 0; i < all->len; i++) {
        const FfRamBlock *b = all->pdata[i];
        blocks[i] = (FfLiftBlock){b->memfd, b->page_size};
    }
    ff_unprotect_start(call->fd, d->config.maps_fd, blocks, all->len, on_unprotected, call);
}

void ff_driver_lift_protection(FfDriver *d)
{
    if (ff_state_is_marked(d->config.state, FF_MARK_PROTECTED) && !ff_driver_is_guarded(d)) {
        d->lifting = true;
        ff_call_take_uffd(ff_call_new_own(d), on_uffd_taken);
    }
}
