/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands on QEMU's private monitor, from the coordinator's thread. */
#ifndef FF_GUEST_QEMU_CALL_H
#define FF_GUEST_QEMU_CALL_H

#include "qmp/client.h"

typedef struct FfQemu FfQemu; /* guest/qemu/vmm-qemu.h */

/* Sends COMMAND and waits; ERROR is prefixed with the command's name. ARGS can be NULL and is
 * released here. */
JsonNode *ff_qemu_call(FfQemu *qemu, const char *command, JsonObject *args, GError **error);
/* The same without the config's cancel: for what must be carried out on every path. */
JsonNode *ff_qemu_call_firm(FfQemu *qemu, const char *command, JsonObject *args, GError **error);
/* The same without a deadline: for what takes as long as the storage does. */
JsonNode *ff_qemu_call_patient(FfQemu *qemu, const char *command, JsonObject *args, GError **error);
/* The same as ff_qemu_call() for a command that older or other QEMUs lack: NULL without ERROR. */
JsonNode *ff_qemu_call_optional(FfQemu *qemu, const char *command, JsonObject *args,
                                GError **error);
/* Sends COMMAND, for ff_qemu_answer(): several can be sent before the first answer is waited for.
 * QEMU carries them out and answers in order. ARGS can be NULL and is released here. */
FfQmpCall *ff_qemu_ask(FfQemu *qemu, const char *command, JsonObject *args);
/* Waits for the answer, without deadline and cancel; frees ASKED. Of several errors the first one
 * counts: ERROR can be set already. */
JsonNode *ff_qemu_answer(FfQmpCall *asked, const char *command, GError **error);
/* The same as ff_qemu_call_firm(), but for a QEMU that may hang (DEADLINE_MS; 0: none). */
JsonNode *ff_qemu_call_within(FfQemu *qemu, const char *command, JsonObject *args,
                              unsigned deadline_ms, GError **error);
/* For commands whose failure changes nothing any more: it is logged. */
void ff_qemu_call_and_forget(FfQemu *qemu, const char *command, JsonObject *args,
                             unsigned deadline_ms);

#endif
