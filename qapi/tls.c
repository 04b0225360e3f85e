/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From QEMU's objects to credentials. See tls.h. The answers are one JSON object: the parameters
 * under their names, each property under "PATH PROPERTY", a folder's list under "PATH".
 *
 * Pure but for the files that the objects name and memfd_create(); main loop's thread.
 * System calls: memfd_create, fchmod, openat, read.
 */
#include "qapi/tls.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/creds.h"
#include "qapi/json.h"

#define OBJECTS "/objects"
#define MAX_KEYS 8 /* secrets that are encrypted by secrets that are encrypted ... */
#define TLS_ERROR g_quark_from_static_string("farfault-tls-objects")

G_GNUC_PRINTF(2, 3) static bool fail(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, TLS_ERROR, 0, text);
    return false;
}

/* ---- the answers ----------------------------------------------------------------------------- */

JsonObject *ff_tls_answers_new(JsonObject *parameters, const char *host, bool server)
{
    const char *creds = ff_json_string(parameters, "tls-creds");
    const char *name = ff_json_string(parameters, "tls-hostname");
    const char *authz = ff_json_string(parameters, "tls-authz");
    JsonObject *answers;

    if (!creds || !*creds) {
        return NULL;
    }
    answers = json_object_new();
    json_object_set_string_member(answers, "creds", creds);
    json_object_set_string_member(answers, "authz", server && authz ? authz : "");
    json_object_set_string_member(answers, "hostname", name && *name ? name : host ? host : "");
    json_object_set_boolean_member(answers, "server", server);
    return answers;
}

static void wipe_node(JsonNode *node)
{
    const char *text = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;

    if (text) {
        ff_wipe((char *)text, strlen(text));
    }
}

void ff_tls_answers_free(JsonObject *answers)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *node;

    json_object_iter_init(&iter, answers);
    while (json_object_iter_next(&iter, &name, &node)) {
        if (g_str_has_suffix(name, " data")) {
            wipe_node(node);
        }
    }
    json_object_unref(answers);
}

static char *key_of(const char *path, const char *property)
{
    return property ? g_strdup_printf("%s %s", path, property) : g_strdup(path);
}

void ff_tls_answer(JsonObject *answers, const char *path, const char *property, JsonNode *result)
{
    g_autofree char *key = key_of(path, property);

    if (!g_strcmp0(property, "data") && JSON_NODE_HOLDS_VALUE(result) &&
        json_node_get_string(result)) {
        /* A copy of its own: copies of nodes share their text. */
        json_object_set_string_member(answers, key, json_node_get_string(result));
        wipe_node(result);
    } else {
        json_object_set_member(answers, key, json_node_copy(result));
    }
}

static JsonNode *property_node(JsonObject *answers, const char *id, const char *property)
{
    g_autofree char *key = g_strdup_printf(OBJECTS "/%s %s", id, property);

    return json_object_get_member(answers, key);
}

/* NULL if it is absent, no text, or empty, as QEMU gives unset properties. */
static const char *text_of(JsonObject *answers, const char *id, const char *property)
{
    JsonNode *node = property_node(answers, id, property);
    const char *text = node && JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;

    return text && *text ? text : NULL;
}

static bool is_true(JsonObject *answers, const char *id, const char *property)
{
    JsonNode *node = property_node(answers, id, property);

    return node && JSON_NODE_HOLDS_VALUE(node) &&
           json_node_get_value_type(node) == G_TYPE_BOOLEAN && json_node_get_boolean(node);
}

/* The type of object ID ("tls-creds-psk"; g_free), NULL if there is none. */
static char *type_of(JsonObject *answers, const char *id)
{
    JsonNode *node = json_object_get_member(answers, OBJECTS);

    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *o = ff_json_node_nth(node, i);
        const char *type = o ? ff_json_string(o, "type") : NULL;

        if (type && !g_strcmp0(ff_json_string(o, "name"), id) && g_str_has_prefix(type, "child<") &&
            g_str_has_suffix(type, ">")) {
            return g_strndup(type + strlen("child<"), strlen(type) - strlen("child<>"));
        }
    }
    return NULL;
}

/* ---- what to ask ----------------------------------------------------------------------------- */

static const struct {
    const char *type;
    const char *properties[8];
} wanted[] = {
    {"tls-creds-x509",
     {"endpoint", "dir", "priority", "verify-peer", "sanity-check", "passwordid"}},
    {"tls-creds-psk", {"endpoint", "dir", "priority", "username"}},
    {"authz-simple", {"identity"}},
    {"authz-list", {"policy", "rules"}},
    {"authz-list-file", {"filename"}},
    {"secret", {"data", "file", "format", "keyid", "iv"}},
};

/* The first property of object ID that QEMU has not been asked for. */
static const char *missing_of(JsonObject *answers, const char *id)
{
    g_autofree char *type = type_of(answers, id);

    for (unsigned i = 0; type && i < G_N_ELEMENTS(wanted); i++) {
        for (unsigned j = 0; !strcmp(wanted[i].type, type) && wanted[i].properties[j]; j++) {
            if (!property_node(answers, id, wanted[i].properties[j])) {
                return wanted[i].properties[j];
            }
        }
    }
    return NULL;
}

bool ff_tls_missing(JsonObject *answers, char **path, char **property)
{
    const char *creds = ff_json_string(answers, "creds"), *id = creds;
    const char *authz = ff_json_string(answers, "authz"), *name;

    *property = NULL;
    if (!json_object_has_member(answers, OBJECTS)) {
        *path = g_strdup(OBJECTS);
        return true;
    }
    name = missing_of(answers, id);
    /* The secret that opens the private key, the one that opens that secret, ... */
    for (unsigned i = 0; !name && id && i < MAX_KEYS; i++) {
        id = text_of(answers, id, i ? "keyid" : "passwordid");
        name = id ? missing_of(answers, id) : NULL;
    }
    if (!name && *authz) {
        id = authz;
        name = missing_of(answers, id);
    }
    if (name) {
        *path = g_strdup_printf(OBJECTS "/%s", id);
        *property = g_strdup(name);
    }
    return name;
}

/* ---- secrets --------------------------------------------------------------------------------- */

static FfSecret *read_secret(JsonObject *answers, const char *id, unsigned depth, GError **error)
{
    g_autofree char *type = type_of(answers, id);
    const char *keyid = text_of(answers, id, "keyid");
    g_autoptr(FfSecret) key = NULL;

    if (!type || strcmp(type, "secret")) {
        fail(error,
             !type ? "No secret with id '%s'"
                   : "Object with id '%s' is not a secret that farfault can read: use a 'secret' "
                     "object",
             id);
        return NULL;
    }
    if (keyid && depth >= MAX_KEYS) {
        fail(error, "secret '%s' is under too many other secrets", id);
        return NULL;
    }
    key = keyid ? read_secret(answers, keyid, depth + 1, error) : NULL;
    if (keyid && !key) {
        return NULL;
    }
    const FfSecretSpec spec = {
        .id = id,
        .data = text_of(answers, id, "data"),
        .file = text_of(answers, id, "file"),
        .base64 = !g_strcmp0(text_of(answers, id, "format"), "base64"),
        .iv = text_of(answers, id, "iv"),
    };

    return ff_secret_new(&spec, key, error);
}

/* ---- who may come in ------------------------------------------------------------------------- */

static bool is_allow(const char *policy)
{
    return !g_strcmp0(policy, "allow");
}

static bool add_rules(FfAuthz *authz, JsonNode *node)
{
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *rule = ff_json_node_nth(node, i);
        const char *match = rule ? ff_json_string(rule, "match") : NULL;
        const char *policy = rule ? ff_json_string(rule, "policy") : NULL;
        const char *format = rule ? ff_json_string(rule, "format") : NULL;

        if (!match || !policy || (!is_allow(policy) && strcmp(policy, "deny")) ||
            (format && strcmp(format, "exact") && strcmp(format, "glob"))) {
            return false;
        }
        ff_authz_add_rule(authz, match, !g_strcmp0(format, "glob"), is_allow(policy));
    }
    return !node || JSON_NODE_HOLDS_ARRAY(node) || JSON_NODE_HOLDS_NULL(node);
}

static FfAuthz *read_authz_file(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) own = NULL;
    gsize length;

    if (!g_file_get_contents(path, &text, &length, &own)) {
        fail(error, "Unable to read authorization file %s: %s", path, own->message);
        return NULL;
    }
    g_autoptr(JsonNode) node = ff_json_parse(text, length, NULL, NULL);
    JsonObject *o = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    g_autoptr(FfAuthz) authz = ff_authz_new_list(o && is_allow(ff_json_string(o, "policy")));

    if (!o || !add_rules(authz, json_object_get_member(o, "rules"))) {
        fail(error, "authorization file %s is not as authz-list-file wants it", path);
        return NULL;
    }
    return g_steal_pointer(&authz);
}

static FfAuthz *read_authz(JsonObject *answers, const char *id, GError **error)
{
    g_autofree char *type = type_of(answers, id);
    g_autoptr(FfAuthz) authz = NULL;
    const char *text;

    if (!type) {
        fail(error, "Cannot find QAuthZ object ID %s", id);
    } else if (!strcmp(type, "authz-simple") && (text = text_of(answers, id, "identity"))) {
        authz = ff_authz_new_simple(text);
    } else if (!strcmp(type, "authz-list-file") && (text = text_of(answers, id, "filename"))) {
        authz = read_authz_file(text, error);
    } else if (!strcmp(type, "authz-list")) {
        authz = ff_authz_new_list(is_allow(text_of(answers, id, "policy")));
        if (!add_rules(authz, property_node(answers, id, "rules"))) {
            g_clear_pointer(&authz, ff_authz_free);
            fail(error, "the rules of authorization object '%s' cannot be read", id);
        }
    } else {
        fail(error,
             "farfault cannot ask authorization object '%s' of type %s: use authz-simple, "
             "authz-list or authz-list-file",
             id, type);
    }
    return g_steal_pointer(&authz);
}

/* ---- credentials ----------------------------------------------------------------------------- */

static bool check_kind(JsonObject *answers, const char *id, const char *type, bool server,
                       GError **error)
{
    if (!type) {
        return fail(error, "No TLS credentials with id '%s'", id);
    }
    if (strcmp(type, "tls-creds-x509") && strcmp(type, "tls-creds-psk")) {
        return fail(error, "Object with id '%s' is not TLS credentials", id);
    }
    if (g_strcmp0(text_of(answers, id, "endpoint"), server ? "server" : "client")) {
        return fail(error, "Expected TLS credentials for a %s endpoint",
                    server ? "server" : "client");
    }
    return true;
}

static FfTls *load_credentials(JsonObject *answers, const char *id, bool psk, bool server,
                               GError **error)
{
    const char *authz = ff_json_string(answers, "authz");
    const char *passwordid = text_of(answers, id, "passwordid");
    g_autoptr(FfSecret) password = NULL;
    FfCredsSpec spec = {
        .psk = psk,
        .server = server,
        .verify_peer = is_true(answers, id, "verify-peer"),
        .sanity_check = is_true(answers, id, "sanity-check"),
        .dir = text_of(answers, id, "dir"),
        .priority = text_of(answers, id, "priority"),
        .username = text_of(answers, id, "username"),
    };

    if (passwordid && !(password = read_secret(answers, passwordid, 0, error))) {
        return NULL;
    }
    spec.password = password;
    /* As in QEMU: only a certificate that is verified has a name to ask for. */
    if (!psk && spec.verify_peer && *authz && !(spec.authz = read_authz(answers, authz, error))) {
        return NULL;
    }
    FfTls *tls = ff_creds_load(&spec, error);

    ff_authz_free(spec.authz);
    return tls;
}

void ff_tls_choose(FfTlsChoice *choice, JsonObject *answers)
{
    const char *id = ff_json_string(answers, "creds");
    const char *hostname = ff_json_string(answers, "hostname");
    bool server = ff_json_bool(answers, "server");
    g_autofree char *type = type_of(answers, id);

    if (!g_strcmp0(type, "tls-creds-anon")) {
        choice->native = "tls-creds are anonymous";
        return;
    }
    if (check_kind(answers, id, type, server, &choice->error)) {
        choice->tls =
            load_credentials(answers, id, !strcmp(type, "tls-creds-psk"), server, &choice->error);
    }
    g_free(choice->hostname);
    choice->hostname = hostname && *hostname ? g_strdup(hostname) : NULL;
}

void ff_tls_choice_clear(FfTlsChoice *choice)
{
    g_clear_pointer(&choice->tls, ff_tls_unref);
    g_clear_pointer(&choice->hostname, g_free);
    g_clear_pointer(&choice->answers, ff_tls_answers_free);
    g_clear_error(&choice->error);
    choice->native = NULL;
}

/* ---- beyond a crash -------------------------------------------------------------------------- */

int ff_tls_keep(JsonObject *answers)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) text = g_string_sized_new(4096);
    int fd = memfd_create(FF_TLS_KEPT_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    json_node_set_object(node, answers);
    ff_json_print(text, node, NULL);
    /* QEMU holds it, too: for its user's eyes only, and the same for any process that reads it
     * later. */
    if (fd >= 0 && (fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
                    write(fd, text->str, text->len) != (gssize)text->len ||
                    fcntl(fd, F_ADD_SEALS, FF_TLS_KEPT_SEALS | F_SEAL_SEAL) < 0)) {
        close(fd);
        fd = -1;
    }
    ff_wipe(text->str, text->len);
    return fd;
}

JsonObject *ff_tls_kept(int fd)
{
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > 1 << 20) {
        return NULL;
    }
    g_autofree char *text = g_malloc(st.st_size);
    gssize n = pread(fd, text, st.st_size, 0);
    g_autoptr(JsonNode) node = n > 0 ? ff_json_parse(text, n, NULL, NULL) : NULL;

    ff_wipe(text, st.st_size);
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_dup_object(node) : NULL;
}
