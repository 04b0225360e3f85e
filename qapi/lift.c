/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an engine leaves that dies in a live snapshot: guest memory that is protected against
 * writes, and guest threads that wait. This one, started for that, borrows the userfaultfd, takes
 * the protection away and gives it back. The relay waits for that a second only (relay/uffds.h).
 *
 * Main loop's thread; a thread of its own does the work.
 */
#include <fcntl.h>
#include <unistd.h>

#include "fault/fault.h"
#include "migration/lift.h"
#include "qapi/driver-private.h"

typedef struct {
    FfCall *call;
    int uffd, maps_fd;
    GArray *blocks; /* FfLiftBlock, with fds of its own */
    GThread *thread;
    GError *error; /* NULL: it is done */
} Work;

static void work_free(Work *w)
{
    for (guint i = 0; i < w->blocks->len; i++) {
        close(g_array_index(w->blocks, FfLiftBlock, i).memfd);
    }
    g_array_unref(w->blocks);
    g_clear_error(&w->error);
    g_free(w);
}

static gboolean lifted(gpointer opaque)
{
    Work *w = opaque;
    FfCall *call = w->call;
    FfDriver *d = call->driver;

    g_thread_join(w->thread);
    if (w->error) {
        ff_driver_log(d, "farfault: the guest has no live snapshots any more: %s",
                      w->error->message);
        ff_driver_lose_uffd(d, w->uffd);
    } else {
        ff_driver_log(d, "farfault: the live snapshot has ended with its engine; the guest is "
                         "unharmed");
        ff_driver_give_uffd(d, w->uffd);
    }
    work_free(w);
    ff_call_return(call, NULL);
    d->lifting = false;
    ff_driver_go_on(d);
    return G_SOURCE_REMOVE;
}

static gpointer lift(gpointer opaque)
{
    Work *w = opaque;

    (void)FF_FAULT_STEP("lift", ff_lift_protection(w->uffd, w->maps_fd,
                                                   (const FfLiftBlock *)w->blocks->data,
                                                   w->blocks->len, &w->error));
    g_idle_add(lifted, w);
    return NULL;
}

/* Copies: the list may change while the thread runs. */
static GArray *blocks_of(FfDriver *d)
{
    FfVmmMemory *memory = &d->config.port->vmm(d->config.port_opaque)->memory;
    GPtrArray *all = memory->blocks(memory);
    GArray *blocks = g_array_new(FALSE, FALSE, sizeof(FfLiftBlock));

    for (guint i = 0; i < all->len; i++) {
        const FfRamBlock *b = all->pdata[i];
        FfLiftBlock block = {fcntl(b->memfd, F_DUPFD_CLOEXEC, 0), b->size, b->page_size};

        g_array_append_val(blocks, block);
    }
    return blocks;
}

static void taken(FfCall *call, JsonNode *result, const GError *error)
{
    FfDriver *d = call->driver;

    if (error) { /* no copy is left: then nothing is protected */
        ff_state_unmark(d->config.state, FF_MARK_PROTECTED);
        ff_call_return(call, NULL);
        d->lifting = false;
        ff_driver_go_on(d);
        return;
    }
    Work *w = g_new0(Work, 1);

    *w = (Work){.call = call,
                .uffd = g_steal_fd(&call->fd),
                .maps_fd = d->config.maps_fd,
                .blocks = blocks_of(d)};
    w->thread = g_thread_new("lift", lift, w);
}

void ff_driver_lift_protection(FfDriver *d)
{
    if (ff_state_is_marked(d->config.state, FF_MARK_PROTECTED) && !ff_driver_is_guarded(d)) {
        d->lifting = true;
        ff_call_take_uffd(ff_call_new_own(d), taken);
    }
}
