/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which commands belong to the engine. Pure functions; any thread. */
#ifndef FF_GUEST_RELAY_ROUTING_H
#define FF_GUEST_RELAY_ROUTING_H

#include "contract/state.h"
#include "guest/relay/qmp-frame.h"

/* The commands of farfault.json that QEMU does not have, as entries of QEMU's answers to
 * query-commands and query-qmp-schema, each with a comma after it (qapi/generate.py). */
extern const char ff_own_names[], ff_own_schema[];
/* Those that belong into the list that QEMU answers COMMAND (may be NULL) with; NULL: none. */
const char *ff_own_entries(const FfQmpCommand *command);
/* Whether the engine answers COMMAND (may be NULL) while FILTERS (FF_FILTER_*) hold. */
bool ff_owned(const FfQmpCommand *command, unsigned filters);
/* Whether QEMU, given COMMAND, would start a migration of its own. */
bool ff_starts_migration(const FfQmpCommand *command);
/* COMMAND has a destination listen once more. */
bool ff_recovers(const FfQmpCommand *command);
/* The same of one that comes in. */
bool ff_starts_incoming(const FfQmpCommand *command);
/* Whether it adds a device, or a part of one, at either kind of monitor. */
bool ff_adds_device(const FfQmpCommand *command);
/* Whether QEMU, given COMMAND (may be NULL), would end, or begin to use guest memory: run the
 * guest, reset it, load it; or end a migration of its own by force, after which it would. */
bool ff_needs_guest(const FfQmpCommand *command);
/* What COMMAND (may be NULL) says on running. */
FfSaid ff_says(const FfQmpCommand *command);
/* Whether NAME stands in TEXT as a whole word: "migrate" does in "fd:migrate", not in
 * "migrate-set-parameters". */
bool ff_mentions(const char *text, size_t len, const char *name);

#endif
