/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP client of the command line tools.
 *
 * Bytes are cut into JSON texts by counting brackets outside of strings, not by lines, so that
 * a monitor with pretty=on works as well. Every command carries a number as its id; the reply's
 * callback is found by it. One thread enters this file; it has no locks.
 */
#include "cli/qmp.h"
#include "cli/json.h"

#include <gio/gunixsocketaddress.h>
#include <string.h>

#define GREETING_TIMEOUT (5 * G_TIME_SPAN_SECOND)
#define CALL_TIMEOUT (20 * G_TIME_SPAN_SECOND)
#define MAX_TEXT (64u << 20) /* bytes; QEMU's own limit for a JSON text */

typedef struct {
    FfCliQmpReply reply;
    void *opaque;
} Pending;

struct FfCliQmp {
    GSocketConnection *connection; /* closes the socket when it goes; can be NULL */
    GSocket *socket;
    char *address, *role, *host, *version;
    GString *in;    /* bytes not yet cut into texts */
    gsize scanned;  /* bytes of it that the scanner has seen */
    unsigned depth; /* open brackets at .scanned */
    bool in_string, escaped;
    GQueue *events;      /* JsonObject * */
    GHashTable *pending; /* id -> Pending * */
    gint64 next_id;
    JsonObject *greeting; /* until it has been looked at */
    bool closed;
};

GQuark ff_cli_qmp_error_quark(void)
{
    return g_quark_from_static_string("ff-cli-qmp-error");
}

void ff_cli_qmp_free(FfCliQmp *qmp)
{
    if (!qmp) {
        return;
    }
    g_clear_object(&qmp->connection);
    g_clear_object(&qmp->socket);
    g_free(qmp->address);
    g_free(qmp->role);
    g_free(qmp->host);
    g_free(qmp->version);
    g_string_free(qmp->in, TRUE);
    g_queue_free_full(qmp->events, (GDestroyNotify)json_object_unref);
    g_hash_table_unref(qmp->pending);
    g_clear_pointer(&qmp->greeting, json_object_unref);
    g_free(qmp);
}

const char *ff_cli_qmp_host(const FfCliQmp *qmp)
{
    return qmp->host;
}

const char *ff_cli_qmp_version(const FfCliQmp *qmp)
{
    return qmp->version;
}

GSocket *ff_cli_qmp_socket(FfCliQmp *qmp)
{
    return qmp->socket;
}

static void deliver(FfCliQmp *qmp, JsonObject *text)
{
    g_autofree Pending *pending = NULL;
    gpointer key = NULL, value = NULL;
    JsonNode *id = json_object_get_member(text, "id");

    if (!id || !JSON_NODE_HOLDS_VALUE(id) ||
        !g_hash_table_steal_extended(qmp->pending, GSIZE_TO_POINTER(json_node_get_int(id)), &key,
                                     &value)) {
        return;
    }
    pending = value;
    if (!pending->reply) {
        return;
    }
    if (json_object_has_member(text, "return")) {
        pending->reply(json_object_get_member(text, "return"), NULL, pending->opaque);
    } else {
        const char *desc =
            ff_json_string(ff_json_object(text, "error"), "desc", "refused without a reason");
        g_autoptr(GError) error =
            g_error_new_literal(FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_REFUSED, desc);
        pending->reply(NULL, error, pending->opaque);
    }
}

static bool take_text(FfCliQmp *qmp, const char *text, gssize length, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *object;

    if (!json_parser_load_from_data(parser, text, length, NULL) ||
        !JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser))) {
        g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_FOREIGN,
                    "%s%s sent something that is not QMP: give the monitor socket of -qmp",
                    qmp->role, qmp->address);
        return false;
    }
    object = json_node_get_object(json_parser_get_root(parser));
    if (json_object_has_member(object, "QMP")) {
        g_clear_pointer(&qmp->greeting, json_object_unref);
        qmp->greeting = json_object_ref(object);
    } else if (json_object_has_member(object, "event")) {
        g_queue_push_tail(qmp->events, json_object_ref(object));
    } else {
        deliver(qmp, object);
    }
    return true;
}

/* Advances the scanner by one byte; TRUE if a text ends with it. */
static bool scan(FfCliQmp *qmp, char c)
{
    if (qmp->in_string) {
        if (qmp->escaped) {
            qmp->escaped = false;
        } else if (c == '\\') {
            qmp->escaped = true;
        } else if (c == '"') {
            qmp->in_string = false;
        }
    } else if (c == '"') {
        qmp->in_string = true;
    } else if (c == '{' || c == '[') {
        qmp->depth++;
    } else if (c == '}' || c == ']') {
        return qmp->depth && --qmp->depth == 0;
    }
    return false;
}

static bool foreign(FfCliQmp *qmp, GError **error)
{
    g_autofree char *start = g_strndup(qmp->in->str, 40);
    g_autofree char *shown = NULL;

    g_strdelimit(start, "\r\n", ' ');
    shown = g_strescape(g_strstrip(start), NULL);
    g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_FOREIGN,
                "%s%s does not speak QMP (it says \"%s\"): give the monitor socket of -qmp, not "
                "that of -monitor, -qtest or a serial port",
                qmp->role, qmp->address, shown);
    return false;
}

static bool cut_texts(FfCliQmp *qmp, GError **error)
{
    while (qmp->scanned < qmp->in->len) {
        char c = qmp->in->str[qmp->scanned++];

        if (!qmp->depth && !qmp->in_string && c != '{' && !g_ascii_isspace(c)) {
            return foreign(qmp, error);
        }
        if (scan(qmp, c)) {
            g_autofree char *text = g_strndup(qmp->in->str, qmp->scanned);
            gssize length = qmp->scanned;

            /* Erased first: a reply's callback may send, and so come back here. */
            g_string_erase(qmp->in, 0, length);
            qmp->scanned = 0;
            if (!take_text(qmp, text, length, error)) {
                return false;
            }
        }
    }
    if (qmp->in->len > MAX_TEXT) {
        return foreign(qmp, error);
    }
    return true;
}

static void fail_pending(FfCliQmp *qmp, const GError *error)
{
    g_autoptr(GHashTable) pending = g_steal_pointer(&qmp->pending);
    GHashTableIter iter;
    gpointer value;

    qmp->pending = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_hash_table_iter_init(&iter, pending);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Pending *p = value;
        if (p->reply) {
            p->reply(NULL, error, p->opaque);
        }
    }
}

static bool read_some(FfCliQmp *qmp, GError **error)
{
    for (;;) {
        char buffer[16384];
        g_autoptr(GError) local = NULL;
        gssize n = g_socket_receive(qmp->socket, buffer, sizeof(buffer), NULL, &local);

        if (n < 0 && g_error_matches(local, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
            return true;
        }
        if (n <= 0) {
            g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_CLOSED,
                        "%s%s: the monitor was closed (%s)", qmp->role, qmp->address,
                        n ? local->message : "QEMU ended, or another client took its place");
            return false;
        }
        g_string_append_len(qmp->in, buffer, n);
        if (!cut_texts(qmp, error)) {
            return false;
        }
    }
}

bool ff_cli_qmp_pump(FfCliQmp *qmp, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (qmp->closed) {
        g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_CLOSED, "%s%s: closed", qmp->role,
                    qmp->address);
        return false;
    }
    if (!read_some(qmp, &local)) {
        qmp->closed = true;
        fail_pending(qmp, local);
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true;
}

JsonObject *ff_cli_qmp_take_event(FfCliQmp *qmp)
{
    return g_queue_pop_head(qmp->events);
}

/* Waits until more can be read; DEADLINE 0: for ever. Display only: DOING completes "no answer to
 * ...". */
static bool wait_readable(FfCliQmp *qmp, gint64 deadline, const char *doing, GError **error)
{
    gint64 left = deadline ? MAX(deadline - g_get_monotonic_time(), 0) : -1;
    g_autoptr(GError) local = NULL;

    if (left && g_socket_condition_timed_wait(qmp->socket, G_IO_IN, left, NULL, &local)) {
        return true;
    }
    if (local && !g_error_matches(local, G_IO_ERROR, G_IO_ERROR_TIMED_OUT)) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s%s: ", qmp->role,
                                   qmp->address);
        return false;
    }
    g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_TIMEOUT,
                "%s%s: no answer to %s: QEMU's main loop is busy or waits for a page: see farfault "
                "doctor",
                qmp->role, qmp->address, doing);
    return false;
}

static bool write_all(FfCliQmp *qmp, const char *text, gsize length, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + CALL_TIMEOUT;

    while (length) {
        g_autoptr(GError) local = NULL;
        gssize n = g_socket_send(qmp->socket, text, length, NULL, &local);

        if (n < 0 && g_error_matches(local, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
            g_clear_error(&local);
            n = 0;
            g_socket_condition_timed_wait(qmp->socket, G_IO_OUT,
                                          MAX(deadline - g_get_monotonic_time(), 0), NULL, &local);
        }
        if (local) {
            g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_CLOSED,
                        "%s%s: cannot send to the monitor (%s)", qmp->role, qmp->address,
                        local->message);
            return false;
        }
        text += n;
        length -= n;
    }
    return true;
}

bool ff_cli_qmp_send(FfCliQmp *qmp, const char *command, JsonObject *arguments, FfCliQmpReply reply,
                     void *opaque, GError **error)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) line = NULL;
    g_autofree char *text = NULL;
    JsonObject *object = json_object_new();
    gint64 id = ++qmp->next_id;
    Pending *pending;

    json_node_take_object(root, object);
    json_object_set_string_member(object, "execute", command);
    if (arguments) {
        json_object_set_object_member(object, "arguments", arguments);
    }
    json_object_set_int_member(object, "id", id);
    text = json_to_string(root, FALSE);
    line = g_string_new(text);
    g_string_append_c(line, '\n');
    if (!write_all(qmp, line->str, line->len, error)) {
        return false;
    }
    pending = g_new(Pending, 1);
    *pending = (Pending){reply, opaque};
    g_hash_table_insert(qmp->pending, GSIZE_TO_POINTER(id), pending);
    return true;
}

typedef struct {
    bool done;
    JsonNode *result;
    GError *error;
} Answer;

static void on_answer(JsonNode *result, const GError *error, void *opaque)
{
    Answer *answer = opaque;

    answer->done = true;
    answer->result = result ? json_node_copy(result) : NULL;
    answer->error = error ? g_error_copy(error) : NULL;
}

/* An answer that never came must not write to the stack of a caller that gave up on it. */
static void forget_answer(FfCliQmp *qmp, gint64 id)
{
    g_hash_table_remove(qmp->pending, GSIZE_TO_POINTER(id));
}

static JsonNode *call_until(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                            gint64 deadline, GError **error)
{
    Answer answer = {0};
    gint64 id;

    if (!ff_cli_qmp_send(qmp, command, arguments, on_answer, &answer, error)) {
        return NULL;
    }
    id = qmp->next_id;
    while (!answer.done) {
        if (!wait_readable(qmp, deadline, command, error)) {
            forget_answer(qmp, id);
            return NULL;
        }
        ff_cli_qmp_pump(qmp, NULL);
    }
    if (answer.error) {
        g_propagate_error(error, answer.error);
        return NULL;
    }
    return answer.result;
}

JsonNode *ff_cli_qmp_call(FfCliQmp *qmp, const char *command, JsonObject *arguments, GError **error)
{
    return call_until(qmp, command, arguments, g_get_monotonic_time() + CALL_TIMEOUT, error);
}

JsonNode *ff_cli_qmp_call_patiently(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                                    GError **error)
{
    return call_until(qmp, command, arguments, 0, error);
}

static char *version_text(JsonObject *greeting)
{
    JsonObject *version = ff_json_object(ff_json_object(greeting, "QMP"), "version");
    JsonObject *qemu = ff_json_object(version, "qemu");
    const char *package = ff_json_string(version, "package", "");

    if (!qemu) {
        return g_strdup("unknown version");
    }
    return g_strdup_printf("%d.%d.%d%s%s%s", (int)ff_json_int(qemu, "major", 0),
                           (int)ff_json_int(qemu, "minor", 0), (int)ff_json_int(qemu, "micro", 0),
                           *package ? " (" : "", package, *package ? ")" : "");
}

static bool wait_greeting(FfCliQmp *qmp, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + GREETING_TIMEOUT;

    while (!qmp->greeting) {
        if (!wait_readable(qmp, deadline, "the connection", NULL)) {
            g_set_error(error, FF_CLI_QMP_ERROR, FF_CLI_QMP_ERROR_TIMEOUT,
                        "%s%s: no QMP greeting within %d s: another client holds this monitor "
                        "(QEMU serves one at a time): give the guest a second -qmp; or QEMU hangs: "
                        "see farfault doctor",
                        qmp->role, qmp->address, (int)(GREETING_TIMEOUT / G_TIME_SPAN_SECOND));
            return false;
        }
        if (!ff_cli_qmp_pump(qmp, error)) {
            return false;
        }
    }
    qmp->version = version_text(qmp->greeting);
    return true;
}

FfCliQmp *ff_cli_qmp_open_socket(GSocket *socket, const char *address, const char *role,
                                 GError **error)
{
    g_autoptr(FfCliQmp) qmp = g_new0(FfCliQmp, 1);
    g_autoptr(JsonNode) negotiated = NULL;

    qmp->socket = g_object_ref(socket);
    qmp->address = g_strdup(address);
    qmp->role = role ? g_strdup_printf("%s ", role) : g_strdup("");
    qmp->in = g_string_new(NULL);
    qmp->events = g_queue_new();
    qmp->pending = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_socket_set_blocking(socket, FALSE);
    if (!wait_greeting(qmp, error)) {
        return NULL;
    }
    negotiated = ff_cli_qmp_call(qmp, "qmp_capabilities", NULL, error);
    return negotiated ? g_steal_pointer(&qmp) : NULL;
}

static const char *advice(const GError *error)
{
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND)) {
        return "no such socket: start QEMU with -qmp unix:PATH,server=on,wait=off";
    }
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED)) {
        return "connection refused: nobody listens there; has QEMU ended? If it runs on, its relay "
               "has ended: farfault attach";
    }
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED)) {
        return "permission denied: run as the user who owns the socket, or as root";
    }
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT) ||
        g_error_matches(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
        return "no connection in time: another client holds this monitor, or the host is away";
    }
    return error->message;
}

/* Makes the address object of ADDRESS; *HOST is set for tcp. */
static GSocketConnectable *parse_address(const char *address, char **host, GError **error)
{
    g_autoptr(GSocketConnectable) tcp = NULL;
    const char *where;

    if (!g_str_has_prefix(address, "tcp:")) {
        where = g_str_has_prefix(address, "unix:") ? address + 5 : address;
        if (!*where) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                        "\"%s\" names no socket: give PATH, unix:PATH or tcp:HOST:PORT", address);
            return NULL;
        }
        return G_SOCKET_CONNECTABLE(g_unix_socket_address_new(where));
    }
    where = address + 4;
    if (strrchr(where, ':') && strrchr(where, ':')[1]) {
        tcp = g_network_address_parse(where, 0, NULL);
    }
    if (!tcp || !g_network_address_get_port(G_NETWORK_ADDRESS(tcp))) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "\"%s\" is no tcp address: give tcp:HOST:PORT", address);
        return NULL;
    }
    *host = g_strdup(g_network_address_get_hostname(G_NETWORK_ADDRESS(tcp)));
    return g_steal_pointer(&tcp);
}

FfCliQmp *ff_cli_qmp_open(const char *address, const char *role, GError **error)
{
    g_autofree char *host = NULL;
    g_autoptr(GSocketConnectable) where = parse_address(address, &host, error);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketConnection) connection = NULL;
    g_autoptr(GError) local = NULL;
    FfCliQmp *qmp;

    if (!where) {
        return NULL;
    }
    g_socket_client_set_timeout(client, GREETING_TIMEOUT / G_TIME_SPAN_SECOND);
    connection = g_socket_client_connect(client, where, NULL, &local);
    if (!connection) {
        g_set_error(error, local->domain, local->code, "cannot connect to %s%s%s: %s",
                    role ? role : "", role ? " " : "", address, advice(local));
        return NULL;
    }
    g_socket_set_timeout(g_socket_connection_get_socket(connection), 0);
    qmp = ff_cli_qmp_open_socket(g_socket_connection_get_socket(connection), address, role, error);
    if (qmp) {
        qmp->connection = g_steal_pointer(&connection);
        qmp->host = g_steal_pointer(&host);
    }
    return qmp;
}
