/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The postcopy fault thread: what runs in it is ff_faults_run(), which asks the source by the pager
 * of content/pagers/peer.h, and places zeros for what the guest has given back.
 *
 * All that it has is the space, its pager and the placer (place.h), which have no way to a
 * lock but the urgent channel's writer lock (and the space's again_lock, for a page that the guest
 * has given back). It allocates nothing and logs nothing. When the
 * connection is lost it continues to read: a thread that waits is noted, and waits. Its channel is
 * exchanged while it does not run.
 *
 * Threads: the main reader starts the first one, the coordinator the others, and stops them.
 */
#include "migration/destination/fault.h"

#include "base/priority.h"
#include "uffd/faults.h"

static gpointer run_fault_thread(gpointer space)
{
    ff_priority_urgent();
    ff_faults_run(space);
    return NULL;
}

void ff_dest_fault_start(FfDestination *d)
{
    ff_peer_pager_connect(&d->peer, ff_conn_urgent(d->conn), d->conn->epoch);
    d->fault_thread = g_thread_new("ff-fault", run_fault_thread, d->placer.space);
}

void ff_dest_fault_end(FfDestination *d)
{
    if (d->placer.space) {
        ff_faults_stop(d->placer.space);
    }
}

void ff_dest_fault_stop(FfDestination *d)
{
    ff_faults_stop(d->placer.space);
    ff_control_join(&d->fault_thread);
    ff_faults_again(d->placer.space);
}
