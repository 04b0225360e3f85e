/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a client sees of the commands that farfault answers, compared with QEMU itself: the same
 * lines go to a plain QEMU and to one started by farfault, and the answers must be the same, to
 * the byte where QEMU's order of members is fixed (errors, empty results, ids).
 */
#include <string.h>

#include "tests/lib/vm.h"

static const char *const source_lines[] = {
    /* the envelope */
    "{'execute':'migrate','foo':1}",
    "{'execute':'migrate','arguments':[]}",
    "{'execute':'migrate','exec-oob':'migrate'}",
    "{'execute':'query-migrate','id':{'a' : [1,2.5,'\\u00e9', null, true, 'it\\'s']}}",
    "{'execute':'migrate','id':18446744073709551615}",
    "{'execute':'migrate-set-capabilities','id':'x'}",
    /* types */
    "{'execute':'migrate','arguments':{'uri':5},'id':'x'}",
    "{'execute':'migrate','arguments':{'uri':'tcp:x','foo':1}}",
    "{'execute':'migrate','arguments':{'uri':'bad:x','blk':1}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':{}}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'foo','state':true}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':5,'state':true}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'events','state':1}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'events','state':true,'x':1}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'events','state':true},5]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[{'state':true}]}}",
    "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':'x'}}",
    "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':1.5}}",
    "{'execute':'migrate-set-parameters','arguments':{'compress-level':256}}",
    "{'execute':'migrate-set-parameters','arguments':{'compress-level':-1}}",
    "{'execute':'migrate-set-parameters','arguments':{'tls-creds':5}}",
    "{'execute':'migrate-set-parameters','arguments':{'multifd-compression':'gz'}}",
    "{'execute':'migrate-set-parameters','arguments':{'block-bitmap-mapping':"
    "[{'node-name':'a','alias':'b'}]}}",
    "{'execute':'migrate-set-parameters','arguments':{'x-foo':'a'}}",
    "{'execute':'migrate-continue','arguments':{'state':'foo'}}",
    "{'execute':'migrate-continue'}",
    "{'execute':'migrate-start-postcopy','arguments':{'a':1}}",
    "{'execute':'migrate-recover'}",
    "{'execute':'object-del','arguments':{'id':'nobody'}}",
    "{'execute':'object-add','arguments':{'qom-type':'nothing','id':'a'}}",
    "{'execute':'object-add','arguments':{'qom-type':'memory-backend-ram','id':'a'}}",
    "{'execute':'object-add','arguments':{'id':'a'}}",
    /* values */
    "{'execute':'migrate'}",
    "{'execute':'migrate','arguments':{'uri':'bad:x'}}",
    "{'execute':'migrate','arguments':{'uri':'fd:nope'}}",
    "{'execute':'migrate','arguments':{'uri':'tcp:127.0.0.1:0','resume':true}}",
    "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':-1}}",
    "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':18446744073709551615}}",
    "{'execute':'migrate-set-parameters','arguments':{'downtime-limit':2000001}}",
    "{'execute':'migrate-set-parameters','arguments':{'compress-level':10}}",
    "{'execute':'migrate-set-parameters','arguments':{'tls-creds':null}}",
    "{'execute':'migrate-set-parameters','arguments':{}}",
    "{'execute':'query-migrate-parameters'}",
    /* capabilities that are ours */
    "{'execute':'migrate-start-postcopy'}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-preempt','state':true}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-ram','state':true},{'capability':'x-ignore-shared','state':true}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-ram','state':true},{'capability':'compress','state':true},"
    "{'capability':'multifd','state':true}]}}",
    "{'execute':'query-migrate-capabilities'}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-ram','state':true},{'capability':'events','state':true},"
    "{'capability':'postcopy-blocktime','state':true},"
    "{'capability':'postcopy-preempt','state':true}]}}",
    "{'execute':'query-migrate-capabilities'}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'compress','state':true}]}}",
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-preempt','state':false}]}}",
    /* wrong states */
    "{'execute':'migrate','arguments':{'uri':'fd:nope'}}",
    "{'execute':'migrate-continue','arguments':{'state':'pre-switchover'}}",
    "{'execute':'migrate-pause'}",
    "{'execute':'migrate-recover','arguments':{'uri':'tcp:a'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:a'}}",
    "{'exec-oob':'migrate-pause'}",
    "{'execute':'migrate_cancel'}",
    "{'execute':'query-migrate'}",
    "{'execute':'query-status'}",
    /* the human monitor */
    "{'execute':'human-monitor-command','arguments':{'command-line':'info migrate'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'info migrate_capabilities'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'info migrate_parameters'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'info migrate_nothing'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_capability foo on'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_capability events maybe'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_capability postcopy-preempt on'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_capability postcopy-ram off'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_parameter max-bandwidth x'}}",
    "{'execute':'human-monitor-command','arguments':"
    "{'command-line':'migrate_set_parameter max-bandwidth 12'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'migrate -d'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'migrate bad:x'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'migrate_incoming tcp:0'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'migrate_start_postcopy'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'migrate_pause'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'object_del nobody'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'object_add nothing,id=a'}}",
    "{'execute':'human-monitor-command'}",
    NULL,
};

/* A destination without postcopy: QEMU carries it. */
static const char *const native_lines[] = {
    "{'execute':'migrate-incoming'}",
    "{'execute':'migrate-incoming','arguments':{'uri':7}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'bad:x'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'query-migrate'}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'migrate','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'query-status'}",
    "{'execute':'migrate-start-postcopy'}",
    "{'execute':'migrate_cancel'}",
    "{'execute':'stop'}",
    "{'execute':'system_wakeup'}",
    NULL,
};

/* The same with postcopy: the engine listens. */
static const char *const engine_lines[] = {
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-ram','state':true}]}}",
    "{'execute':'migrate-incoming'}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'query-migrate'}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'migrate','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    "{'execute':'query-status'}",
    "{'execute':'migrate-start-postcopy'}",
    "{'execute':'migrate-pause'}",
    "{'execute':'migrate-recover','arguments':{'uri':'tcp:a'}}",
    "{'execute':'migrate-continue','arguments':{'state':'pre-switchover'}}",
    "{'execute':'migrate_cancel'}",
    "{'execute':'stop'}",
    "{'execute':'system_wakeup'}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'info status'}}",
    "{'execute':'query-migrate-capabilities'}",
    "{'execute':'query-migrate-parameters'}",
    NULL,
};

/* Addresses that are no good. */
static const char *const address_lines[] = {
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
    "[{'capability':'postcopy-ram','state':true}]}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'bad:x'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'unix:/nonexistent/directory/socket'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:nobody.invalid:1'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'fd:nope'}}",
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}",
    NULL,
};

/* The answer to LINE, events left out, and what names this very process taken out. */
static char *answer(Vm *vm, const char *line)
{
    Stream *stream = qmp_stream(vm_qmp(vm));
    g_autofree char *sent = g_strconcat(line, "\r\n", NULL);
    g_autoptr(GRegex) own =
        g_regex_new(", \"x-farfault-[a-z-]+\": (\"[a-z]*\"|[a-z0-9]+)", 0, 0, NULL);
    g_autoptr(GRegex) port = g_regex_new("\"port\": \"[0-9]+\"", 0, 0, NULL);

    stream_send(stream, sent, strlen(sent), NULL, 0);
    for (;;) {
        g_autofree char *reply = stream_read_line(stream, line, test_deadline(TEST_TIMEOUT));

        g_assert_nonnull(reply);
        if (strstr(reply, "\"event\"") && !strstr(reply, "\"return\"")) {
            continue;
        }
        g_autofree char *common = g_regex_replace_literal(own, reply, -1, 0, "", 0, NULL);

        return g_regex_replace_literal(port, common, -1, 0, "\"port\": \"N\"", 0, NULL);
    }
}

/* json-glib 1.8 and newer take a number that is larger than all of theirs for the largest: what the
 * engine says of it is not what QEMU says. */
static bool is_too_large(const char *line)
{
    static const char largest[] = "18446744073709551615";
    g_autoptr(JsonNode) number = json_from_string(largest, NULL);

    return strstr(line, largest) && strstr(line, "bandwidth") &&
           json_node_get_int(number) == G_MAXINT64;
}

/* Members of an object may stand in another order: QEMU's is that of a hash table. */
static bool same_value(const char *a, const char *b)
{
    g_autoptr(JsonParser) one = json_parser_new(), two = json_parser_new();

    return !strcmp(a, b) ||
           (!strstr(a, "\"error\"") && json_parser_load_from_data(one, a, -1, NULL) &&
            json_parser_load_from_data(two, b, -1, NULL) &&
            json_node_equal(json_parser_get_root(one), json_parser_get_root(two)));
}

typedef struct {
    const char *incoming;
    const char *const *lines;
} Row;

static void compare(const void *opaque)
{
    const Row *row = opaque;
    const VmConfig plain_config = {
        .name = "plain", .launcher = VM_PLAIN, .memory = "16M", .incoming = row->incoming};
    const VmConfig own_config = {
        .name = "own", .launcher = VM_RUN, .memory = "16M", .incoming = row->incoming};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) plain = vm_start(&plain_config);
    g_autoptr(Vm) own = vm_start(&own_config);

    for (const char *const *line = row->lines; *line; line++) {
        if (is_too_large(*line)) {
            continue;
        }
        g_autofree char *expected = answer(plain, *line);
        g_autofree char *got = answer(own, *line);

        if (strstr(expected, "Illegal migration incoming state")) {
            /* QEMU 8.2 and newer cannot begin again after an address that was no good. */
            break;
        }
        if (!same_value(expected, got)) {
            g_test_message("%s\n  QEMU:     %s\n  farfault: %s", *line, expected, got);
            g_test_fail_printf("another answer than QEMU's to %s", *line);
        }
    }
}

/* ---- capabilities ---------------------------------------------------------------------------- */

static GPtrArray *capability_names(Vm *vm)
{
    g_autoptr(JsonObject) reply = qmp_call(vm_qmp(vm), "query-migrate-capabilities", NULL);
    JsonArray *list = json_object_get_array_member(reply, "return");
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *status = json_array_get_object_element(list, i);

        g_ptr_array_add(names, g_strdup(json_object_get_string_member(status, "capability")));
    }
    return names;
}

/* Both answer LINE the same; else the test fails. */
static void both(Vm *plain, Vm *own, const char *line)
{
    g_autofree char *expected = answer(plain, line);
    g_autofree char *got = answer(own, line);

    if (!same_value(expected, got)) {
        g_test_message("%s\n  QEMU:     %s\n  farfault: %s", line, expected, got);
        g_test_fail_printf("another answer than QEMU's to %s", line);
    }
}

#define SET "{'execute':'migrate-set-capabilities','arguments':{'capabilities':["
#define ONE "{'capability':'%s','state':%s}"

/* Together they ask for a lazy restore, which QEMU up to 10 does not have, and refuses. */
static bool is_restore(const void *incoming, const char *a, const char *b)
{
    return incoming && ((!strcmp(a, "mapped-ram") && !strcmp(b, "postcopy-ram")) ||
                        (!strcmp(b, "mapped-ram") && !strcmp(a, "postcopy-ram")));
}

/* Every pair of capabilities, at once and one after the other. */
static void compare_pairs(const void *incoming)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    /* Memory that is shared in both, as background-snapshot looks at it. */
    static const char *const args[] = {"-object", "memory-backend-memfd,id=ram,size=16M,share=on",
                                       "-machine", "memory-backend=ram", NULL};
    g_autoptr(Vm) plain = vm_start(&(VmConfig){.name = "plain",
                                               .launcher = VM_PLAIN,
                                               .memory = "16M",
                                               .args = args,
                                               .incoming = incoming});
    g_autoptr(Vm) own = vm_start(&(VmConfig){
        .name = "own", .launcher = VM_RUN, .memory = "16M", .args = args, .incoming = incoming});
    g_autoptr(GPtrArray) names = capability_names(plain);

    for (guint i = 0; i < names->len; i++) {
        const char *a = names->pdata[i];

        for (guint j = 0; j < names->len; j++) {
            const char *b = names->pdata[j];
            g_autofree char *together =
                g_strdup_printf(SET ONE "," ONE "]}}", a, "true", b, "true");
            g_autofree char *later = g_strdup_printf(SET ONE "]}}", b, "true");
            g_autofree char *off = g_strdup_printf(SET ONE "," ONE "]}}", a, "false", b, "false");

            if (is_restore(incoming, a, b)) {
                g_autofree char *got = answer(own, together);
                g_assert_null(strstr(got, "error"));
                both(plain, own, off);
                continue;
            }
            if (j >= i) {
                both(plain, own, together);
                both(plain, own, off);
            }
            g_autofree char *first = g_strdup_printf(SET ONE "]}}", a, "true");
            both(plain, own, first);
            both(plain, own, later);
            both(plain, own, off);
        }
    }
    both(plain, own, "{'execute':'query-migrate-capabilities'}");
}

int main(int argc, char **argv)
{
    static const Row source = {NULL, source_lines};
    static const Row native = {"defer", native_lines};
    static const Row engine = {"defer", engine_lines};
    static const Row address = {"defer", address_lines};

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/qmp-errors/source", &source, compare);
    g_test_add_data_func("/qmp-errors/incoming-native", &native, compare);
    g_test_add_data_func("/qmp-errors/incoming-engine", &engine, compare);
    g_test_add_data_func("/qmp-errors/incoming-address", &address, compare);
    g_test_add_data_func("/qmp-errors/capability-pairs/source", NULL, compare_pairs);
    g_test_add_data_func("/qmp-errors/capability-pairs/destination", "defer", compare_pairs);
    return g_test_run();
}
