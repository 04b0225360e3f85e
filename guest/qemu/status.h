/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU says of itself: run state, migration, machine type. The coordinator's thread. */
#ifndef FF_GUEST_QEMU_STATUS_H
#define FF_GUEST_QEMU_STATUS_H

#include "contract/vmm-state.h"
#include "qmp/client.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

/* The first QEMU in which a guest that is suspended stays that over stop, cont and a migration. */
#define FF_QEMU_KEEPS_SUSPENDED 90000
/* What is said of such a guest in one of before, and of one whose QEMU has no way back. */
#define FF_QEMU_WOULD_WAKE                                                                         \
    "the guest is suspended, and this QEMU (before 9.0) would wake it up by migrating: wake it "   \
    "first (system_wakeup)"
#define FF_QEMU_WOULD_ABORT                                                                        \
    "the guest is suspended, and QEMU aborts when such a guest is continued after a migration: "   \
    "system_reset, then cont, starts it afresh"

/* query-status' "status" (g_free); NULL and ERROR. FIRM: without the config's cancel and deadline.
 */
char *ff_qemu_run_state(FfQemu *qemu, bool firm, GError **error);
/* The same of a QEMU that may hang; NULL if it has not said so in time. */
char *ff_qemu_run_state_within(FfQemu *qemu, unsigned deadline_ms);
/* "status" in an answer to query-status (can be NULL), borrowed; NULL if it has none. */
const char *ff_qemu_status_of(JsonNode *query_status);
/* ERROR for an answer that has none. */
void ff_qemu_set_no_status(GError **error);
/* query-migrate's status and, if it has one, its error text (both g_free). */
bool ff_qemu_migrate_status(FfQemu *qemu, char **status, char **desc, GError **error);

/* What qom-get with these arguments says, without "-machine"; g_free, NULL if it cannot be had. */
#define FF_QEMU_MACHINE_ARGS "{\"path\": \"/machine\", \"property\": \"type\"}"
char *ff_qemu_machine_name(JsonNode *answer);

/* FfVmmState.keeps_suspended(). */
bool ff_qemu_keeps_suspended(FfVmmState *state);

#endif
