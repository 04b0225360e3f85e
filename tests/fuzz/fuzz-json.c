/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON as QEMU reads it: what is accepted is written as JSON that reads the same, and what the
 * engine accepts the relay does, which understands it as the same. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "guest/relay/qmp-frame.h"
#include "qapi/json.h"
#include "qapi/schema.h"

static void check_arguments(JsonNode *node)
{
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    const char *name = o ? ff_json_string(o, "execute") : NULL;
    const FfQapiCommand *command = name ? ff_qapi_command(name) : NULL;
    JsonNode *args = o ? json_object_get_member(o, "arguments") : NULL;

    if (command && (!args || JSON_NODE_HOLDS_OBJECT(args))) {
        g_free(ff_qapi_check_arguments(command, args ? json_node_get_object(args) : NULL));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *id = NULL, *id2 = NULL;
    g_autoptr(GError) error = NULL;

    fuzz_quiet();
    g_autofree char *text = g_strndup((const char *)data, size);
    size = strlen(text);
    g_autofree char *strict = ff_json_strict(text, size, &id, &error);
    g_autoptr(GString) plain = ff_dialect_read(text, size, FF_DIALECT_NUL, NULL, NULL, NULL);
    g_assert_true((strict != NULL) == (error == NULL));
    /* The relay takes strings with a NUL, as QEMU does. */
    g_assert_true(!strict || (plain && !strcmp(plain->str, strict)));
    if (!strict) {
        return 0;
    }
    g_autofree char *again = ff_json_strict(strict, strlen(strict), &id2, NULL);
    g_assert_cmpstr(strict, ==, again);
    g_assert_cmpstr(id, ==, id2);
    g_autoptr(JsonNode) node = ff_json_parse(text, size, NULL, NULL);
    g_assert_nonnull(node);
    GString *out = g_string_new(NULL);
    ff_json_print(out, node, NULL);
    g_string_free(out, TRUE);
    check_arguments(node);
    return 0;
}
