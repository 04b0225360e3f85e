/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object behind FfVmm, shared by its files: inner.c (the switchover), inner-check.c (what
 * stands against a migration), inner-track.c and inner-nested.c (what precopy asks) and
 * inner-undo.c (undo log, capabilities, parameters). */
#ifndef FF_QEMU_INNER_INTERNAL_H
#define FF_QEMU_INNER_INTERNAL_H

#include "net/sync.h"
#include "qemu/inner.h"
#include "qmp/json.h"

/* Whether the guest could be a hypervisor whose memory KVM writes past the tracking. */
typedef enum { FF_NESTING_UNKNOWN, FF_NESTING_NONE, FF_NESTING_POSSIBLE } FfNesting;

typedef struct {
    FfVmm vmm; /* first: an FfVmm * is an FfInner * */
    FfQmpClient *qmp;
    FfStateHeader *state;
    GPtrArray *blocks; /* FfRamBlock *, owned */
    char *name;
    char *machine; /* coordinator; the name of its type, NULL: not known yet */
    int qemu_pid;
    GCancellable *cancel;
    unsigned deadline_ms;
    int stream;        /* our copy of what save()/load() returned; -1 = none */
    bool offered;      /* the stream is QEMU's, and nothing was begun with it */
    bool loading;      /* load() handed QEMU its stream */
    FfNesting nesting; /* coordinator */
    char *
        nested_at_stop; /* coordinator; why it was one when stop had stopped it; NULL: it was not */
    FfMutex undo_lock;  /* the undo log's text and its length */
} FfInner;

static inline FfInner *ff_inner_of_run(FfVmmRun *run)
{
    return (FfInner *)ff_vmm_of_run(run);
}

static inline FfInner *ff_inner_of_memory(FfVmmMemory *memory)
{
    return (FfInner *)ff_vmm_of_memory(memory);
}

static inline FfInner *ff_inner_of_state(FfVmmState *state)
{
    return (FfInner *)ff_vmm_of_state(state);
}

/* Sends COMMAND and waits; ERROR is prefixed with the command's name. ARGS can be NULL and is
 * released here. */
JsonNode *ff_inner_call(FfInner *inner, const char *command, JsonObject *args, GError **error);
/* The same without the config's cancel: for what must be carried out on every path. */
JsonNode *ff_inner_call_firm(FfInner *inner, const char *command, JsonObject *args, GError **error);
/* The same without a deadline: for what takes as long as the storage does. */
JsonNode *ff_inner_call_patient(FfInner *inner, const char *command, JsonObject *args,
                                GError **error);
/* The same as ff_inner_call() for a command that older or other QEMUs lack: NULL without ERROR. */
JsonNode *ff_inner_call_optional(FfInner *inner, const char *command, JsonObject *args,
                                 GError **error);
/* Sends COMMAND, for ff_inner_answer(): several can be sent before the first answer is waited for.
 * QEMU carries them out and answers in order. ARGS can be NULL and is released here. */
FfQmpCall *ff_inner_ask(FfInner *inner, const char *command, JsonObject *args);
/* Waits for the answer, without deadline and cancel; frees ASKED. Of several errors the first one
 * counts: ERROR can be set already. */
JsonNode *ff_inner_answer(FfQmpCall *asked, const char *command, GError **error);
/* query-status' "status" (g_free). */
char *ff_inner_run_state(FfInner *inner, bool firm, GError **error);

/* What qom-get with these arguments says, without "-machine"; g_free, NULL if it cannot be had. */
#define FF_INNER_MACHINE_ARGS "{\"path\": \"/machine\", \"property\": \"type\"}"
char *ff_inner_machine_name(JsonNode *answer);

FfGuestFit ff_inner_check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                          GError **error);
bool ff_inner_prepare(FfVmmState *state, FfRole role, GError **error);
bool ff_inner_unset_tls(FfVmmState *state, GError **error);
bool ff_inner_undo(FfVmmState *state, GError **error);
/* The inner migration is over: QEMU closes its copy of the engine's end. */
void ff_inner_forget_kept(FfVmmState *state);
bool ff_inner_drain(FfVmmMemory *memory, GError **error);

/* inner-nested.c */
char *ff_inner_untrackable(FfVmmMemory *memory, bool stopped);
/* Asks for the vCPUs' registers, for ff_inner_take_registers(); NULL if nobody need know them. As
 * for stop, without deadline and cancel. */
FfQmpCall *ff_inner_ask_registers(FfInner *inner);
/* Why the guest is a hypervisor now (g_free), or may be; NULL if it is not. ASKED can be NULL. */
char *ff_inner_take_registers(FfQmpCall *asked);
/* The same of what "info registers -a" says. */
char *ff_inner_nested_in(const char *text);

#endif
