/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the guest is a hypervisor just now, whose memory is written past the tracking.
 *
 * Under KVM the pages that a nested hypervisor shares with the processor (VMCS or VMCB and what
 * they point to) stay pinned, and the kernel writes to them without a fault. That takes a vCPU with
 * CR4.VMXE or EFER.SVME set, which the guest sets before it begins; a guest that could and does not
 * is tracked like any other. QEMU's human monitor tells the registers ("info registers -a"), for
 * which each vCPU stands still for a moment; only guests that see vmx or svm are looked at. Where
 * QEMU has not answered whether they do, nothing is tracked, and it is asked again the next time.
 *
 * A guest that sets the bit and clears it again between two looks is not noticed
 * (docs/precopy.md).
 *
 * Threads: the coordinator's. No lock.
 */
#include "guest/qemu/nested-virtualisation.h"

#include <string.h>

#include "base/failpoints.h"
#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"
#include "qmp/json.h"

#define CR4_VMXE (1u << 13)
#define EFER_SVME (1u << 12)

/* A QEMU without the command, or with another answer, says it neither way: its vCPUs decide. */
static FfTold is_kvm(FfQemu *qemu, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) kvm = ff_qemu_call_optional(qemu, "query-kvm", NULL, &local);

    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FF_TOLD_NOTHING;
    }
    JsonNode *enabled = ff_json_value(ff_json_node_object(kvm), "enabled", G_TYPE_BOOLEAN);
    return enabled && !json_node_get_boolean(enabled) ? FF_TOLD_NO : FF_TOLD_YES;
}

/* A vCPU without a path counts as one that can: then its registers decide. */
static FfTold sees_nested(FfQemu *qemu, GError **error)
{
    g_autoptr(JsonNode) cpus = ff_qemu_call(qemu, "query-cpus-fast", NULL, error);
    JsonObject *cpu = ff_json_node_length(cpus) ? ff_json_node_nth(cpus, 0) : NULL;
    const char *path = ff_json_string(cpu, "qom-path");

    if (!cpus) {
        return FF_TOLD_NOTHING;
    }
    /* All vCPUs of a machine have one model. */
    FfTold vmx = path ? ff_qemu_is_on(qemu, path, "vmx", error) : FF_TOLD_YES;
    return vmx == FF_TOLD_NO ? ff_qemu_is_on(qemu, path, "svm", error) : vmx;
}

static FfTold may_nest(FfQemu *qemu, GError **error)
{
    if (qemu->nesting == FF_TOLD_NOTHING) {
        /* Emulated nested guests are written through the same mappings as everything else. */
        FfTold kvm = FF_FAULT_STEP("nested-kvm", false) ? FF_TOLD_YES : is_kvm(qemu, error);
        qemu->nesting = kvm == FF_TOLD_YES ? sees_nested(qemu, error) : kvm;
    }
    return qemu->nesting;
}

/* Whether TEXT has NAME with one of BITS set. *SEEN: how often it has NAME with a whole value. */
static bool any_set(const char *text, const char *name, uint64_t bits, unsigned *seen)
{
    for (const char *at = text; (at = strstr(at, name));) {
        char *end;
        at += strlen(name);
        if (g_ascii_strtoull(at, &end, 16) & bits) {
            return true;
        }
        *seen += end != at && g_ascii_isspace(*end);
    }
    return false;
}

static unsigned count_parts(const char *text, const char *part)
{
    unsigned n = 0;

    for (const char *at = text; (at = strstr(at, part)); at += strlen(part)) {
        n++;
    }
    return n;
}

char *ff_qemu_nested_in(const char *text)
{
    unsigned cr4 = 0, efer = 0;
    const char *feature = any_set(text, "CR4=", CR4_VMXE, &cr4)      ? "vmx"
                          : any_set(text, "EFER=", EFER_SVME, &efer) ? "svm"
                                                                     : NULL;

    if (feature) {
        return g_strdup_printf("the guest uses nested virtualisation (%s), whose memory is written "
                               "past the tracking: end that in the guest, or start it with -cpu "
                               "...,%s=off",
                               feature, feature);
    }
    /* Of each vCPU: what is not told of one may be set there. */
    bool told = cr4 && cr4 == efer && cr4 >= count_parts(text, "CPU#");
    return told ? NULL : g_strdup("QEMU does not tell the registers of its vCPUs");
}

static JsonObject *registers_args(void)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "command-line", "info registers -a");
    return args;
}

static char *judge_reply(JsonNode *reply, const GError *error)
{
    if (!reply) {
        return g_strdup(error->message);
    }
    return ff_qemu_nested_in(JSON_NODE_HOLDS_VALUE(reply) &&
                                     json_node_get_value_type(reply) == G_TYPE_STRING
                                 ? json_node_get_string(reply)
                                 : "");
}

FfQmpCall *ff_qemu_ask_registers(FfQemu *qemu)
{
    return qemu->nesting == FF_TOLD_YES
               ? ff_qemu_ask(qemu, "human-monitor-command", registers_args())
               : NULL;
}

char *ff_qemu_take_registers(FfQmpCall *asked)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply =
        asked ? ff_qemu_answer(asked, "human-monitor-command", &error) : NULL;

    return asked ? judge_reply(reply, error) : NULL;
}

char *ff_qemu_untrackable(FfVmmMemory *memory, bool stopped)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    g_autoptr(GError) error = NULL;

    if (stopped && qemu->nesting != FF_TOLD_NOTHING) {
        return g_strdup(qemu->nested_at_stop);
    }
    FfTold nests = may_nest(qemu, &error);
    if (nests == FF_TOLD_NOTHING) {
        return g_strdup_printf("QEMU does not say whether the guest can use nested virtualisation, "
                               "whose memory is written past the tracking (%s)",
                               error->message);
    }
    if (nests == FF_TOLD_NO) {
        return NULL;
    }
    g_autoptr(JsonNode) reply =
        ff_qemu_call(qemu, "human-monitor-command", registers_args(), &error);
    return judge_reply(reply, error);
}
