/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The destination's answers to what the relay asks about back-ends that wait for pages
 * (contract/sharers.h). The coordinator. */
#ifndef FF_MIGRATION_DESTINATION_VHOST_FAULTS_H
#define FF_MIGRATION_DESTINATION_VHOST_FAULTS_H

#include "migration/destination/side.h"

/* Guest RAM is armed: from now on the relay is answered. Nothing, where it asks nothing. */
void ff_dest_vhost_faults_start(FfDestination *d);
/* Safe to call twice, and where there is none. */
void ff_dest_vhost_faults_end(FfDestination *d);

#endif
