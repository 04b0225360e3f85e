/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source wants the guest back from a destination that never had it. The coordinator.
 */
#ifndef FF_MIGRATION_DESTINATION_REVOKE_H
#define FF_MIGRATION_DESTINATION_REVOKE_H

#include "migration/destination/side.h"

/* CH is the source's, which says REVOKE. TRUE: it is taken, this side must end; FALSE: refused. */
bool ff_dest_take_revoke(FfDestination *d, FfChannel *ch, GError **error);
/* Waits until the VMM, which was asked to end, has. FALSE: that is not certain. */
bool ff_dest_ensure_end(FfDestination *d);
/* Says so to the source that waits for it; if it has not ENDED that gets no answer. */
void ff_dest_answer_revoke(FfDestination *d, bool ended);
/* Any thread: QEMU has ended before the device state was loaded, and nobody was told why yet: the
 * source, which has the guest and may have stopped it, or whoever reads what a restore says. */
bool ff_dest_owes_reason(FfDestination *d);
/* Any thread: somebody waits for a word of this side. */
bool ff_dest_speaks(FfDestination *d);

#endif
