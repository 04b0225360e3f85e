/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prints and reads what the human monitor prints and reads, line by line as monitor/hmp-cmds.c
 * of QEMU 7.2 does. Pure; any thread.
 */
#include "qapi/hmp-text.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "qapi/json.h"

void ff_hmp_migrate(GString *out, JsonNode *result)
{
    g_string_append(out, "terminal does not allow synchronous migration, continuing detached\n");
}

static bool has_member(JsonObject *object, const char *name)
{
    return json_object_has_member(object, name);
}

static uint64_t member_uint(JsonObject *object, const char *name)
{
    return (uint64_t)json_object_get_int_member_with_default(object, name, 0);
}

/* One row per line of "ram": the member, its text, the shift; OPTIONAL: only if not 0. */
static const struct {
    const char *member, *text, *unit;
    unsigned shift;
    bool optional;
} ram_lines[] = {
    {"remaining", "remaining ram", " kbytes", 10, false},
    {"total", "total ram", " kbytes", 10, false},
    {"duplicate", "duplicate", " pages", 0, false},
    {"skipped", "skipped", " pages", 0, false},
    {"normal", "normal", " pages", 0, false},
    {"normal-bytes", "normal bytes", " kbytes", 10, false},
    {"dirty-sync-count", "dirty sync count", "", 0, false},
    {"page-size", "page size", " kbytes", 10, false},
    {"multifd-bytes", "multifd bytes", " kbytes", 10, false},
    {"pages-per-second", "pages-per-second", "", 0, false},
    {"dirty-pages-rate", "dirty pages rate", " pages", 0, true},
    {"postcopy-requests", "postcopy request count", "", 0, true},
    {"precopy-bytes", "precopy ram", " kbytes", 10, true},
    {"downtime-bytes", "downtime ram", " kbytes", 10, true},
    {"postcopy-bytes", "postcopy ram", " kbytes", 10, true},
};

static void print_ram(GString *out, JsonObject *ram)
{
    char mbps[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append_printf(out, "transferred ram: %" PRIu64 " kbytes\n",
                           member_uint(ram, "transferred") >> 10);
    g_string_append_printf(
        out, "throughput: %s mbps\n",
        g_ascii_formatd(mbps, sizeof(mbps), "%.2f",
                        json_object_get_double_member_with_default(ram, "mbps", 0)));
    for (unsigned i = 0; i < G_N_ELEMENTS(ram_lines); i++) {
        uint64_t value = member_uint(ram, ram_lines[i].member);

        if (!has_member(ram, ram_lines[i].member)) {
            continue; /* "skipped" went with QEMU 9.1 */
        }
        if (value || !ram_lines[i].optional) {
            g_string_append_printf(out, "%s: %" PRIu64 "%s\n", ram_lines[i].text,
                                   value >> ram_lines[i].shift, ram_lines[i].unit);
        }
    }
}

static void print_addresses(GString *out, JsonArray *list)
{
    g_string_append(out, "socket address: [\n");
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *address = json_array_get_object_element(list, i);

        if (!g_strcmp0(ff_json_string(address, "type"), "inet")) {
            g_string_append_printf(out, "\ttcp:%s:%s\n", ff_json_string(address, "host"),
                                   ff_json_string(address, "port"));
        } else {
            g_string_append_printf(out, "\tunix:%s\n", ff_json_string(address, "path"));
        }
    }
    g_string_append(out, "]\n");
}

static void print_time(GString *out, JsonObject *info)
{
    static const struct {
        const char *member, *text;
    } lines[] = {
        {"expected-downtime", "expected downtime"},
        {"downtime", "downtime"},
        {"setup-time", "setup"},
    };

    g_string_append_printf(out, "total time: %" PRIu64 " ms\n", member_uint(info, "total-time"));
    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        if (has_member(info, lines[i].member)) {
            g_string_append_printf(out, "%s: %" PRIu64 " ms\n", lines[i].text,
                                   member_uint(info, lines[i].member));
        }
    }
}

static void print_blocktime(GString *out, JsonObject *info)
{
    JsonArray *list = json_object_get_array_member(info, "postcopy-vcpu-blocktime");

    g_string_append_printf(out, "postcopy blocktime: %" PRIu64 "\n",
                           member_uint(info, "postcopy-blocktime"));
    if (list) {
        g_string_append(out, "postcopy vcpu blocktime: ");
        for (guint i = 0; i < json_array_get_length(list); i++) {
            g_string_append_printf(out, "%s%" PRId64, i ? "," : "",
                                   json_array_get_int_element(list, i));
        }
        g_string_append_c(out, '\n');
    }
}

char *ff_hmp_globals(const char *text)
{
    const char *last =
        text && g_str_has_prefix(text, "globals:") ? strstr(text, "\nclear-bitmap-shift:") : NULL;
    const char *end = last ? strchr(last + 1, '\n') : NULL;

    if (!end) {
        return NULL;
    }
    g_autoptr(GString) lines = g_string_new_len(text, end + 1 - text);

    g_string_replace(lines, "\r", "", 0);
    return g_string_free(g_steal_pointer(&lines), FALSE);
}

void ff_hmp_info_migrate(GString *out, JsonNode *result)
{
    JsonObject *info = json_node_get_object(result);
    const char *status = ff_json_string(info, "status");
    const char *error = ff_json_string(info, "error-desc");

    if (has_member(info, "blocked-reasons")) {
        JsonArray *reasons = json_object_get_array_member(info, "blocked-reasons");

        g_string_append(out, "Outgoing migration blocked:\n");
        for (guint i = 0; i < json_array_get_length(reasons); i++) {
            g_string_append_printf(out, "  %s\n", json_array_get_string_element(reasons, i));
        }
    }
    if (status) {
        g_string_append_printf(out, "Migration status: %s", status);
        if (error && !strcmp(status, "failed")) {
            g_string_append_printf(out, " (%s)", error);
        }
        g_string_append_c(out, '\n');
        print_time(out, info);
    }
    if (has_member(info, "ram")) {
        print_ram(out, json_object_get_object_member(info, "ram"));
    }
    if (has_member(info, "postcopy-blocktime")) {
        print_blocktime(out, info);
    }
    if (has_member(info, "socket-address")) {
        print_addresses(out, json_object_get_array_member(info, "socket-address"));
    }
}

void ff_hmp_info_capabilities(GString *out, JsonNode *result)
{
    JsonArray *list = json_node_get_array(result);

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *status = json_array_get_object_element(list, i);

        g_string_append_printf(out, "%s: %s\n", ff_json_string(status, "capability"),
                               ff_json_bool(status, "state") ? "on" : "off");
    }
}

/* The order and the units of "info migrate_parameters". */
static const struct {
    const char *name, *unit;
} parameter_lines[] = {
    {"announce-initial", " ms"},
    {"announce-max", " ms"},
    {"announce-rounds", ""},
    {"announce-step", " ms"},
    {"compress-level", ""},
    {"compress-threads", ""},
    {"compress-wait-thread", ""},
    {"decompress-threads", ""},
    {"throttle-trigger-threshold", ""},
    {"cpu-throttle-initial", ""},
    {"cpu-throttle-increment", ""},
    {"cpu-throttle-tailslow", ""},
    {"max-cpu-throttle", ""},
    {"tls-creds", ""},
    {"tls-hostname", ""},
    {"max-bandwidth", " bytes/second"},
    {"avail-switchover-bandwidth", " bytes/second"},
    {"downtime-limit", " ms"},
    {"x-checkpoint-delay", " ms"},
    {"block-incremental", ""},
    {"multifd-channels", ""},
    {"multifd-compression", ""},
    {"zero-page-detection", ""},
    {"xbzrle-cache-size", " bytes"},
    {"max-postcopy-bandwidth", ""},
    {"tls-authz", ""},
    {"x-vcpu-dirty-limit-period", " ms"},
    {"vcpu-dirty-limit", " MB/s"},
    {"mode", ""},
    {"direct-io", ""},
    {"x-farfault-policy", ""},
    {"x-farfault-auto-postcopy", ""},
    {"x-farfault-peer", ""},
    {"x-farfault-peer-timeout", " s"},
    {"x-farfault-channels", ""},
    {"x-farfault-auto-recover", " s"},
    {"x-farfault-compress", ""},
    {"x-farfault-zstd-level", ""},
    {"x-farfault-untracked", ""},
};

void ff_hmp_info_parameters(GString *out, JsonNode *result)
{
    JsonObject *object = json_node_get_object(result);

    for (unsigned i = 0; i < G_N_ELEMENTS(parameter_lines); i++) {
        const char *name = parameter_lines[i].name;
        JsonNode *node = json_object_get_member(object, name);

        if (!node || !JSON_NODE_HOLDS_VALUE(node)) {
            continue;
        }
        if (json_node_get_value_type(node) == G_TYPE_BOOLEAN) {
            g_string_append_printf(out, "%s: %s\n", name,
                                   json_node_get_boolean(node) ? "on" : "off");
        } else if (json_node_get_value_type(node) == G_TYPE_STRING) {
            bool quoted = g_str_has_prefix(name, "tls-");

            g_string_append_printf(out, quoted ? "%s: '%s'\n" : "%s: %s\n", name,
                                   json_node_get_string(node));
        } else {
            g_string_append_printf(out, "%s: %" PRIu64 "%s\n", name,
                                   (uint64_t)json_node_get_int(node), parameter_lines[i].unit);
        }
    }
}

void ff_hmp_info_status(GString *out, JsonNode *result)
{
    JsonObject *object = json_node_get_object(result);
    bool running = ff_json_bool(object, "running");
    const char *status = ff_json_string(object, "status");

    g_string_append_printf(out, "VM status: %s%s", running ? "running" : "paused",
                           ff_json_bool(object, "singlestep") ? " (single step mode)" : "");
    if (!running && g_strcmp0(status, "paused")) {
        g_string_append_printf(out, " (%s)", status);
    }
    g_string_append_c(out, '\n');
}

/* ---- reading --------------------------------------------------------------------------------- */

bool ff_hmp_parse_size(const char *text, uint64_t unit, uint64_t *size)
{
    static const char units[] = "BKMGTPE";
    char *end;
    double number = g_ascii_strtod(text, &end);

    if (end == text || !isfinite(number) || number < 0 || !g_ascii_isdigit(*text)) {
        return false;
    }
    if (*end) {
        const char *p = strchr(units, g_ascii_toupper(*end));

        if (!p || end[1]) {
            return false;
        }
        unit = UINT64_C(1) << (10 * (p - units));
    }
    if (strspn(text, "0123456789") == (size_t)(end - text)) {
        /* A whole number keeps all its 64 bits. */
        uint64_t whole = g_ascii_strtoull(text, NULL, 10);

        return !__builtin_mul_overflow(whole, unit, size);
    }
    number *= (double)unit;
    if (number >= 0x1p63) {
        return false;
    }
    *size = (uint64_t)number;
    return true;
}
