/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the driver reads and writes: QEMU's JSON dialect, arguments against the schema, URIs and
 * channels, text of the human monitor. No QEMU.
 */
#include <netdb.h>
#include <string.h>

#include "qapi/hmp-text.h"
#include "qapi/json.h"
#include "qapi/schema.h"
#include "qapi/uri.h"

/* OUT NULL: must be refused. */
static const struct {
    const char *in, *out, *id;
} dialect[] = {
    {"{'a':\"it's\"}", "{\"a\": \"it's\"}", NULL},
    {"{'a':'say \"x\"', 'id' : [ 1,'\\'' ] }", "{\"a\": \"say \\\"x\\\"\", \"id\": [1, \"'\"]}",
     "[1, \"'\"]"},
    {"{\"x\": {\"id\": 5}}", "{\"x\": {\"id\": 5}}", NULL},
    {"{\"id\": 18446744073709551615}", "{\"id\": 18446744073709551615}", "18446744073709551615"},
    {" [1.5e3 ,-0, true,null\t]\r\n", "[1.5e3, -0, true, null]", NULL},
    {"'\\u00e9\\ud83d\\ude00\\/\\n'", "\"\\u00E9\\uD83D\\uDE00/\\n\"", NULL},
    {"'\xc3\xa9'", "\"\\u00E9\"", NULL},
    {"{'a':1,'a':2}", NULL, NULL},
    {"{'a':1,}", NULL, NULL},
    {"[1,]", NULL, NULL},
    {"01", NULL, NULL},
    {"-", NULL, NULL},
    {"1.", NULL, NULL},
    {"+1", NULL, NULL},
    {"nul", NULL, NULL},
    {"'a\nb'", NULL, NULL},
    {"'\\x'", NULL, NULL},
    {"'\\u0000'", NULL, NULL},
    {"'\\ud800'", NULL, NULL},
    {"'\xff'", NULL, NULL},
    {"'open", NULL, NULL},
    {"{} {}", NULL, NULL},
    {"{'a' 1}", NULL, NULL},
    {"{a:1}", NULL, NULL},
    {"", NULL, NULL},
};

static void test_dialect(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(dialect); i++) {
        g_autofree char *id = NULL;
        g_autoptr(GError) error = NULL;
        g_autofree char *out = ff_json_strict(dialect[i].in, strlen(dialect[i].in), &id, &error);

        g_assert_cmpstr(out, ==, dialect[i].out);
        g_assert_cmpstr(id, ==, dialect[i].id);
        g_assert_true(!out == !!error);
    }
}

static void test_nesting(void)
{
    g_autoptr(GString) deep = g_string_new(NULL);

    for (int i = 0; i < 1024; i++) {
        g_string_prepend_c(deep, '[');
        g_string_append_c(deep, ']');
    }
    g_autofree char *ok = ff_json_strict(deep->str, deep->len, NULL, NULL);

    g_assert_nonnull(ok);
    g_string_prepend_c(deep, '[');
    g_string_append_c(deep, ']');
    g_assert_null(ff_json_strict(deep->str, deep->len, NULL, NULL));
}

/* What is printed reads the same again, whatever the bytes. */
static void test_print(void)
{
    static const char in[] = "{'a':[1,-1,0.1,'\\u0007\\u20ac',null,{}]}";
    g_autoptr(JsonNode) node = ff_json_parse(in, strlen(in), NULL, NULL);
    g_autoptr(GString) out = g_string_new(NULL);

    ff_json_print(out, node, NULL);
    g_assert_cmpstr(out->str, ==,
                    "{\"a\": [1, -1, 0.10000000000000001, \"\\u0007\\u20AC\", null, {}]}");
    g_string_truncate(out, 0);
    ff_dialect_print_string(out, "a\xc3\xff z");
    g_assert_cmpstr(out->str, ==, "\"a\\uFFFD\\uFFFD z\"");
    /* U+FFFF, U+FDD0, U+10FFFE: no reader of QEMU's takes them. */
    g_string_truncate(out, 0);
    ff_dialect_print_string(out, "\xef\xbf\xbf\xef\xb7\x90\xf4\x8f\xbf\xbe.");
    g_assert_cmpstr(out->str, ==, "\"\\uFFFD\\uFFFD\\uFFFD.\"");
}

/* ERROR NULL: the arguments are right. Texts as recorded from QEMU 7.2. */
static const struct {
    const char *command, *arguments, *error;
} checks[] = {
    {"migrate", "{'uri':'tcp:h:1','detach':true}", NULL},
    {"migrate", "{'uri':5}", "Invalid parameter type for 'uri', expected: string"},
    {"migrate", "{'uri':'a','foo':1}", "Parameter 'foo' is unexpected"},
    {"migrate", "{'uri':'a','blk':1}", "Invalid parameter type for 'blk', expected: boolean"},
    {"migrate",
     "{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'h','port':'1'}}]}",
     NULL},
    {"migrate",
     "{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'h'}}]}",
     "Parameter 'channels[0].addr.port' is missing"},
    {"migrate",
     "{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'unix',"
     "'path':'p','port':'1'}}]}",
     "Parameter 'channels[0].addr.port' is unexpected"},
    {"migrate", "{'channels':[{'channel-type':'x','addr':{}}]}",
     "Parameter 'channel-type' does not accept value 'x'"},
    {"migrate-recover", "{}", "Parameter 'uri' is missing"},
    {"migrate-set-capabilities", "{'capabilities':{}}",
     "Invalid parameter type for 'capabilities', expected: array"},
    {"migrate-set-capabilities", "{'capabilities':[{'capability':'foo','state':true}]}",
     "Parameter 'capability' does not accept value 'foo'"},
    {"migrate-set-capabilities", "{'capabilities':[{'capability':5,'state':true}]}",
     "Invalid parameter type for 'capabilities[0].capability', expected: string"},
    {"migrate-set-capabilities", "{'capabilities':[{'capability':'events','state':1}]}",
     "Invalid parameter type for 'capabilities[0].state', expected: boolean"},
    {"migrate-set-capabilities", "{'capabilities':[{'capability':'events','state':true},5]}",
     "Invalid parameter type for 'capabilities[1]', expected: object"},
    {"migrate-set-parameters", "{'max-bandwidth':'x'}", "Parameter 'max-bandwidth' expects uint64"},
    {"migrate-set-parameters", "{'max-bandwidth':1.5}", "Parameter 'max-bandwidth' expects uint64"},
    {"migrate-set-parameters", "{'max-bandwidth':18446744073709551615}", NULL},
    {"migrate-set-parameters", "{'max-bandwidth':-1}", NULL},
    {"migrate-set-parameters", "{'compress-level':256}",
     "Parameter 'compress-level' expects uint8_t"},
    {"migrate-set-parameters", "{'compress-level':-1}",
     "Parameter 'compress-level' expects uint8_t"},
    {"migrate-set-parameters", "{'tls-creds':5}",
     "Invalid parameter type for 'tls-creds', expected: StrOrNull"},
    {"migrate-set-parameters", "{'tls-creds':null,'tls-hostname':'x'}", NULL},
    {"migrate-set-parameters", "{'x-farfault-policy':'sometimes'}",
     "Parameter 'x-farfault-policy' does not accept value 'sometimes'"},
    {"migrate-set-parameters", "{'block-bitmap-mapping':[{'node-name':'a','alias':'b'}]}",
     "Parameter 'block-bitmap-mapping[0].bitmaps' is missing"},
    {"human-monitor-command", "{'command-line':'x','cpu-index':1.0}",
     "Invalid parameter type for 'cpu-index', expected: integer"},
    {"object-add", "{'whatever':[]}", NULL},
    {"cont", "{'a':1}", "Parameter 'a' is unexpected"},
};

static void test_arguments(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(checks); i++) {
        const char *text = checks[i].arguments;
        g_autoptr(JsonNode) node = ff_json_parse(text, strlen(text), NULL, NULL);
        const FfQapiCommand *command = ff_qapi_command(checks[i].command);

        g_assert_nonnull(node);
        g_assert_nonnull(command);
        g_autofree char *error = ff_qapi_check_arguments(command, json_node_get_object(node));

        g_assert_cmpstr(error, ==, checks[i].error);
    }
    g_autofree char *none = ff_qapi_check_arguments(ff_qapi_command("migrate-recover"), NULL);

    g_assert_cmpstr(none, ==, "Parameter 'uri' is missing");
}

static const struct {
    const char *arguments;
    FfTargetKind kind;
    const char *uri;
} targets[] = {
    {"{}", FF_URI_NONE, NULL},
    {"{'uri':'tcp:host:44'}", FF_URI_TCP, "tcp:host:44"},
    {"{'uri':'tcp::44'}", FF_URI_TCP, "tcp::44"},
    {"{'uri':'tcp:[::1]:44,ipv6=on'}", FF_URI_TCP, "tcp:[::1]:44,ipv6=on"},
    {"{'uri':'tcp:host:44,ipv4'}", FF_URI_TCP, "tcp:host:44,ipv4=on"},
    {"{'uri':'tcp:host:44,ipv4,ipv6'}", FF_URI_TCP, "tcp:host:44"},
    {"{'uri':'tcp:host:44,ipv4=off'}", FF_URI_OTHER, NULL},
    {"{'uri':'tcp:host:44,to=50'}", FF_URI_OTHER, NULL},
    {"{'uri':'tcp:44'}", FF_URI_OTHER, NULL},
    {"{'uri':'tcp:host:no-such-service'}", FF_URI_OTHER, NULL},
    {"{'uri':'tcp:host:99999'}", FF_URI_TCP, "tcp:host:99999"},
    {"{'uri':'tcp:a:b:1'}", FF_URI_OTHER, NULL},
    {"{'uri':'unix:/a/b'}", FF_URI_UNIX, "unix:/a/b"},
    {"{'uri':'unix:'}", FF_URI_OTHER, NULL},
    {"{'uri':'fd:migrate'}", FF_URI_FD, "fd:migrate"},
    {"{'uri':'exec:cat'}", FF_URI_OTHER, NULL},
    {"{'uri':'file:/x'}", FF_URI_FILE, "file:/x"},
    {"{'uri':'file:/x,offset=1K'}", FF_URI_FILE, "file:/x,offset=1024"},
    {"{'uri':'file:/x,offset=1x'}", FF_URI_OTHER, NULL},
    {"{'uri':'file:/dev/fdset/1,offset=4096'}", FF_URI_OTHER, NULL},
    {"{'uri':'a','channels':[]}", FF_URI_OTHER, NULL},
    {"{'channels':[]}", FF_URI_OTHER, NULL},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'::1','port':'0'}}]}",
     FF_URI_TCP, "tcp:[::1]:0"},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'h','port':'1','ipv4':true}}]}",
     FF_URI_TCP, "tcp:h:1,ipv4=on"},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'h','port':'1','ipv4':false}}]}",
     FF_URI_TCP, "tcp:h:1,ipv6=on"},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
     "'host':'h','port':'1','ipv4':false,'ipv6':false}}]}",
     FF_URI_OTHER, NULL},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'unix',"
     "'path':'/s'}}]}",
     FF_URI_UNIX, "unix:/s"},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'fd',"
     "'str':'m'}}]}",
     FF_URI_FD, "fd:m"},
    {"{'channels':[{'channel-type':'main','addr':{'transport':'exec','args':['a']}}]}",
     FF_URI_OTHER, NULL},
};

static void test_targets(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(targets); i++) {
        const char *text = targets[i].arguments;
        g_autoptr(JsonNode) node = ff_json_parse(text, strlen(text), NULL, NULL);
        g_auto(FfUri) target = {.kind = FF_URI_NONE};

        ff_uri_from_arguments(&target, json_node_get_object(node));
        g_assert_cmpint(target.kind, ==, targets[i].kind);
        g_assert_cmpstr(target.uri, ==, targets[i].uri);
    }
}

static void test_services(void)
{
    static const char *const texts[] = {
        "{'uri':'tcp:h:http'}",
        "{'channels':[{'channel-type':'main','addr':{'transport':'socket','type':'inet',"
        "'host':'h','port':'http'}}]}",
    };

    if (!getservbyname("http", "tcp")) {
        g_test_skip("no names of services here");
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(JsonNode) node = ff_json_parse(texts[i], strlen(texts[i]), NULL, NULL);
        g_auto(FfUri) target = {.kind = FF_URI_NONE};

        ff_uri_from_arguments(&target, json_node_get_object(node));
        g_assert_cmpstr(target.uri, ==, "tcp:h:80");
        g_assert_cmpstr(target.port, ==, "80");
    }
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t unit, size;
        bool ok;
    } sizes[] = {
        {"10", 1 << 20, 10 << 20, true},
        {"10k", 1, 10240, true},
        {"1.5G", 1, 3ull << 29, true},
        {"18446744073709551615", 1, UINT64_MAX, true},
        {"7B", 1 << 20, 7, true},
        {"17E", 1, 0, false},
        {"x", 1, 0, false},
        {"-1", 1, 0, false},
        {"1kk", 1, 0, false},
        {"nan", 1, 0, false},
        {"", 1, 0, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint64_t size = 0;

        g_assert_cmpint(ff_hmp_parse_size(sizes[i].text, sizes[i].unit, &size), ==, sizes[i].ok);
        if (sizes[i].ok) {
            g_assert_cmpuint(size, ==, sizes[i].size);
        }
    }
}

/* Recorded from QEMU 7.2, "info migrate" without its globals, and the reply it was made of. */
static void test_info_migrate(void)
{
    static const char reply[] =
        "{'expected-downtime': 300, 'status': 'active', 'setup-time': 1, 'total-time': 1303, "
        "'ram': {'total': 67641344, 'postcopy-requests': 0, 'dirty-sync-count': 1, "
        "'multifd-bytes': 0, 'pages-per-second': 32660, 'downtime-bytes': 0, 'page-size': 4096, "
        "'remaining': 33554432, 'postcopy-bytes': 0, 'mbps': 268.5, 'transferred': 2048000, "
        "'dirty-sync-missed-zero-copy': 0, 'precopy-bytes': 2048000, 'duplicate': 100, "
        "'dirty-pages-rate': 0, 'skipped': 0, 'normal-bytes': 1638400, 'normal': 400}}";
    static const char text[] = "Migration status: active\ntotal time: 1303 ms\n"
                               "expected downtime: 300 ms\nsetup: 1 ms\n"
                               "transferred ram: 2000 kbytes\nthroughput: 268.50 mbps\n"
                               "remaining ram: 32768 kbytes\ntotal ram: 66056 kbytes\n"
                               "duplicate: 100 pages\nskipped: 0 pages\nnormal: 400 pages\n"
                               "normal bytes: 1600 kbytes\ndirty sync count: 1\n"
                               "page size: 4 kbytes\nmultifd bytes: 0 kbytes\n"
                               "pages-per-second: 32660\nprecopy ram: 2000 kbytes\n";
    g_autoptr(JsonNode) node = ff_json_parse(reply, strlen(reply), NULL, NULL);
    g_autoptr(GString) out = g_string_new(NULL);
    g_autofree char *wrong = ff_qapi_check(ff_qapi_command("query-migrate")->returns, node);

    g_assert_cmpstr(wrong, ==, NULL);
    ff_hmp_info_migrate(out, node);
    g_assert_cmpstr(out->str, ==, text);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/json/dialect", test_dialect);
    g_test_add_func("/qapi/json/nesting", test_nesting);
    g_test_add_func("/qapi/json/print", test_print);
    g_test_add_func("/qapi/schema/arguments", test_arguments);
    g_test_add_func("/qapi/targets", test_targets);
    g_test_add_func("/qapi/services", test_services);
    g_test_add_func("/qapi/hmp/sizes", test_sizes);
    g_test_add_func("/qapi/hmp/info-migrate", test_info_migrate);
    return g_test_run();
}
