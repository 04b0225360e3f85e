/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's migration capabilities and parameters, which are other ones during the inner migration
 * than the client set: set, undone, and shown as the client knows them.
 *
 * The functions of FfVmmState (contract/vmm-state.h) are for the coordinator's thread; those of the
 * view may be called from any thread at the same time.
 */
#ifndef FF_GUEST_QEMU_SETTINGS_H
#define FF_GUEST_QEMU_SETTINGS_H

#include <json-glib/json-glib.h>

#include "contract/vmm.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

bool ff_qemu_prepare(FfVmmState *state, FfRole role, GError **error);
bool ff_qemu_unset_tls(FfVmmState *state, GError **error);
bool ff_qemu_undo(FfVmmState *state, GError **error);
void ff_qemu_put_back(FfVmmState *state);
/* Waits for QEMU's answer to that, if nobody has yet; says so if QEMU has refused. The thread of
 * ff_qemu_put_back(), after it has made QEMU run the guest. */
void ff_qemu_await_put_back(FfQemu *qemu);

/*
 * The client's view. While the undo log is valid it lives there; otherwise these return NULL, or
 * false with ERROR unset, and QEMU's own answer is the view.
 */
/* As query-migrate-capabilities returns it; free with json_node_unref(). */
JsonNode *ff_qemu_view_capabilities(FfQemu *qemu);
/* As query-migrate-parameters returns it. */
JsonNode *ff_qemu_view_parameters(FfQemu *qemu);
/* FALSE and ERROR in QEMU's wording for a name or type that this QEMU does not know. */
bool ff_qemu_view_set_capability(FfQemu *qemu, const char *name, bool value, GError **error);
bool ff_qemu_view_set_parameter(FfQemu *qemu, const char *name, JsonNode *value, GError **error);

#endif
