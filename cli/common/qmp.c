/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitors that people name: addresses, and what went wrong in words that say what to do.
 * QMP itself is in qmp/client.c. One thread enters this file; it has no locks.
 */
#include "cli/common/qmp.h"
#include "qmp/json.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gunixsocketaddress.h>
#include <glib-unix.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/failpoint-deadline.h"
#include "net/address.h"

#define GREETING_MS 5000
#define CALL_MS 20000

struct FfCliQmp {
    FfQmpClient *client;
    char *address, *role, *host, *version;
    GQueue events;          /* JsonObject *; until somebody listens */
    FfCliQmpListen *listen; /* can be NULL */
    void *opaque;           /* of .listen */
    GError *gone;           /* NULL while the connection lives */
    bool own;               /* this program has started it: calls have no deadline */
};

void ff_cli_qmp_free(FfCliQmp *qmp)
{
    if (!qmp) {
        return;
    }
    qmp->listen = NULL;
    if (qmp->client) {
        ff_qmp_client_close(qmp->client);
        ff_qmp_client_unref(qmp->client);
    }
    g_free(qmp->address);
    g_free(qmp->role);
    g_free(qmp->host);
    g_free(qmp->version);
    g_queue_clear_full(&qmp->events, (GDestroyNotify)json_object_unref);
    g_clear_error(&qmp->gone);
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

static GError *gone_error(const FfCliQmp *qmp, const FfQmpEnd *end)
{
    if (end->said) {
        return g_error_new(FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                           "%s%s does not speak QMP (it says \"%s\"): give the monitor socket of "
                           "-qmp, not that of -monitor, -qtest or a serial port",
                           qmp->role, qmp->address, end->said);
    }
    if (end->foreign) {
        return g_error_new(FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                           "%s%s: %s: give the monitor socket of -qmp", qmp->role, qmp->address,
                           end->why);
    }
    return g_error_new(FF_QMP_ERROR, FF_QMP_ERROR_GONE, "%s%s: the monitor was closed (%s)",
                       qmp->role, qmp->address,
                       end->errnum ? g_strerror(end->errnum)
                                   : "QEMU ended, or another client took its place");
}

static void on_event(FfQmpClient *client, const char *name, JsonObject *event, void *opaque)
{
    FfCliQmp *qmp = opaque;

    if (qmp->listen) {
        qmp->listen(event, NULL, qmp->opaque);
    } else {
        g_queue_push_tail(&qmp->events, json_object_ref(event));
    }
}

static void on_gone(FfQmpClient *client, const FfQmpEnd *end, void *opaque)
{
    FfCliQmp *qmp = opaque;

    qmp->gone = gone_error(qmp, end);
    if (qmp->listen) {
        qmp->listen(NULL, qmp->gone, qmp->opaque);
    }
}

void ff_cli_qmp_listen(FfCliQmp *qmp, FfCliQmpListen *listen, void *opaque)
{
    JsonObject *event;

    qmp->listen = listen;
    qmp->opaque = opaque;
    if (!listen) {
        return;
    }
    while ((event = g_queue_pop_head(&qmp->events))) {
        listen(event, NULL, opaque);
        json_object_unref(event);
    }
    if (qmp->gone) {
        listen(NULL, qmp->gone, opaque);
    }
}

void ff_cli_qmp_send(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                     FfQmpReplyFunc reply, void *opaque)
{
    ff_qmp_call(qmp->client, command, arguments, NULL, 0, reply, opaque);
    g_clear_pointer(&arguments, json_object_unref);
}

void ff_cli_qmp_forget(FfCliQmp *qmp, const void *opaque)
{
    ff_qmp_client_forget(qmp->client, opaque);
}

/* Takes LOCAL, the client's error at DOING, into ERROR. */
static void explain_error(const FfCliQmp *qmp, GError *local, const char *doing, GError **error)
{
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GONE) && qmp->gone) {
        g_error_free(local);
        g_propagate_error(error, g_error_copy(qmp->gone));
    } else if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT)) {
        g_error_free(local);
        g_set_error(
            error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT,
            "%s%s: no answer to %s: QEMU's main loop is busy or waits for a page (see farfault "
            "doctor), or the guest's engine hangs: then try again, it is replaced within "
            "30 s",
            qmp->role, qmp->address, doing);
    } else {
        g_propagate_error(error, local);
    }
}

static JsonNode *call_within(FfCliQmp *qmp, const char *command, JsonObject *arguments, unsigned ms,
                             GError **error)
{
    GError *local = NULL;
    JsonNode *result = ff_qmp_call_sync(qmp->client, command, arguments, NULL, 0, ms, NULL, &local);

    g_clear_pointer(&arguments, json_object_unref);
    if (!result) {
        explain_error(qmp, local, command, error);
    }
    return result;
}

/* 0: none. */
static unsigned call_ms(const FfCliQmp *qmp)
{
    return qmp->own ? 0 : ff_deadline_ms("call", CALL_MS);
}

JsonNode *ff_cli_qmp_call(FfCliQmp *qmp, const char *command, JsonObject *arguments, GError **error)
{
    return call_within(qmp, command, arguments, call_ms(qmp), error);
}

JsonNode *ff_cli_qmp_call_patiently(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                                    GError **error)
{
    return call_within(qmp, command, arguments, 0, error);
}

bool ff_cli_qmp_pass_fd(FfCliQmp *qmp, const char *name, int fd, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autoptr(JsonNode) result = NULL;
    GError *local = NULL;

    json_object_set_string_member(arguments, "fdname", name);
    result = ff_qmp_call_sync(qmp->client, "getfd", arguments, &fd, 1, call_ms(qmp), NULL, &local);
    if (!result && strstr(local->message, "SCM_RIGHTS")) { /* monitor/fds.c: it got none */
        g_error_free(local);
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s: no file can be passed by this monitor: name a unix one of this QEMU "
                    "(-qmp unix:PATH,server=on,wait=off)",
                    qmp->address);
    } else if (!result) {
        explain_error(qmp, local, "getfd", error);
    }
    return result;
}

static char *version_text(FfQmpClient *client)
{
    g_autofree char *text = ff_qmp_client_greeting(client);
    g_autoptr(JsonNode) greeting = json_from_string(text, NULL);
    JsonObject *version =
        ff_json_object(ff_json_object(ff_json_node_object(greeting), "QMP"), "version");
    JsonObject *qemu = ff_json_object(version, "qemu");
    const char *package = ff_json_string_or(version, "package", "");

    if (!qemu) {
        return g_strdup("unknown version");
    }
    return g_strdup_printf("%d.%d.%d%s%s%s", (int)ff_json_int(qemu, "major", 0),
                           (int)ff_json_int(qemu, "minor", 0), (int)ff_json_int(qemu, "micro", 0),
                           *package ? " (" : "", package, *package ? ")" : "");
}

static FfCliQmp *qmp_new(int fd, const char *address, const char *role)
{
    FfCliQmp *qmp = g_new0(FfCliQmp, 1);

    qmp->address = g_strdup(address);
    qmp->role = role ? g_strdup_printf("%s ", role) : g_strdup("");
    qmp->client = ff_qmp_client_new_shared(fd, on_event, on_gone, qmp);
    return qmp;
}

static bool wait_greeting(FfCliQmp *qmp, GError **error)
{
    unsigned ms = ff_deadline_ms("greeting", GREETING_MS);
    GError *local = NULL;

    if (ff_qmp_client_wait_greeting(qmp->client, ms, NULL, &local)) {
        return true;
    }
    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT)) {
        g_error_free(local);
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT,
                    "%s%s: no QMP greeting within %u s: another client holds this monitor "
                    "(QEMU serves one at a time): give the guest a second -qmp; or QEMU hangs: "
                    "see farfault doctor",
                    qmp->role, qmp->address, ms / 1000);
        return false;
    }
    explain_error(qmp, local, "the connection", error);
    return false;
}

/* Out of the negotiation mode. */
static FfCliQmp *make_ready(FfCliQmp *qmp, GError **error)
{
    GError *local = NULL;

    qmp->version = version_text(qmp->client);
    if (!ff_qmp_client_wait_ready(qmp->client, call_ms(qmp), NULL, &local)) {
        explain_error(qmp, local, "qmp_capabilities", error);
        ff_cli_qmp_free(qmp);
        return NULL;
    }
    return qmp;
}

FfCliQmp *ff_cli_qmp_open_fd(int fd, const char *address, const char *role, GError **error)
{
    g_autoptr(FfCliQmp) qmp = qmp_new(fd, address, role);

    return wait_greeting(qmp, error) ? make_ready(g_steal_pointer(&qmp), error) : NULL;
}

/* ---- a QEMU that this program has started ---------------------------------------------------- */

/* A host that is loaded, a script in front of QEMU, much memory to allocate: it comes when it
 * comes, and as long as its process lives it may. */
typedef struct {
    FfCliQmp *qmp;
    GCancellable *end; /* its process has ended, and what it left behind says nothing either */
    guint slow, process, left;
} Own;

static gboolean on_slow(gpointer opaque)
{
    Own *own = opaque;

    own->slow = 0;
    fprintf(stderr,
            "farfault: %s has not greeted for %u s: it is waited for as long as its process "
            "lives\n",
            own->qmp->address, ff_deadline_ms("own-greeting", GREETING_MS) / 1000);
    return G_SOURCE_REMOVE;
}

static gboolean on_nothing_left(gpointer opaque)
{
    Own *own = opaque;

    own->left = 0;
    g_cancellable_cancel(own->end);
    return G_SOURCE_REMOVE;
}

/* One that has become a daemon greets from another process; else the connection is about to end. */
static gboolean on_process_end(gint fd, GIOCondition condition, gpointer opaque)
{
    Own *own = opaque;

    own->process = 0;
    own->left = g_timeout_add(ff_deadline_ms("own-greeting", GREETING_MS), on_nothing_left, own);
    return G_SOURCE_REMOVE;
}

static void remove_source(guint id)
{
    if (id) {
        g_source_remove(id);
    }
}

static bool wait_own(FfCliQmp *qmp, int pidfd, GError **error)
{
    g_autoptr(GCancellable) end = g_cancellable_new();
    Own own = {.qmp = qmp, .end = end};
    GError *local = NULL;

    own.slow = g_timeout_add(ff_deadline_ms("own-greeting", GREETING_MS), on_slow, &own);
    own.process = g_unix_fd_add(pidfd, G_IO_IN, on_process_end, &own);
    bool greeted = ff_qmp_client_wait_greeting(qmp->client, 0, end, &local);
    remove_source(own.slow);
    remove_source(own.process);
    remove_source(own.left);
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_error_free(local);
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT,
                    "%s: its process has ended, and did not greet at its monitor", qmp->address);
    } else if (!greeted) {
        explain_error(qmp, local, "the connection", error);
    }
    return greeted;
}

FfCliQmp *ff_cli_qmp_open_own(int fd, const char *address, int pidfd, GError **error)
{
    g_autoptr(FfCliQmp) qmp = qmp_new(fd, address, NULL);

    qmp->own = true;
    return wait_own(qmp, pidfd, error) ? make_ready(g_steal_pointer(&qmp), error) : NULL;
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
    return ff_address_connectable(*host, g_network_address_get_port(G_NETWORK_ADDRESS(tcp)));
}

bool ff_cli_qmp_is_tcp(const char *path)
{
    const char *port = strrchr(path, ':');

    return port && port[1] && strspn(port + 1, "0123456789") == strlen(port + 1);
}

/* HOST: of a tcp address, else NULL. ROLE can be NULL. */
static const char *advice_for(const GError *error, const char *address, const char *host,
                              const char *role)
{
    const char *path = g_str_has_prefix(address, "unix:") ? address + 5 : address;
    struct stat st;

    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND)) {
        return ff_cli_qmp_is_tcp(path)
                   ? "no such socket: if that is a host and a port, write tcp:HOST:PORT"
               : !g_strcmp0(role, "destination")
                   ? "no such socket: its QEMU has ended, as after a migration that failed, or was "
                     "started without -qmp unix:PATH,server=on,wait=off"
                   : "no such socket: start QEMU with -qmp unix:PATH,server=on,wait=off";
    }
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED)) {
        if (host) {
            return "connection refused: no QEMU listens at this port: start it with "
                   "-qmp tcp:HOST:PORT,server=on,wait=off";
        }
        if (!stat(path, &st) && !S_ISSOCK(st.st_mode)) {
            return "that is no socket: give the one of QEMU's -qmp unix:PATH,server=on,wait=off";
        }
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

FfCliQmp *ff_cli_qmp_open(const char *address, const char *role, GError **error)
{
    g_autofree char *host = NULL;
    g_autoptr(GSocketConnectable) where = parse_address(address, &host, error);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketConnection) connection = NULL;
    g_autoptr(GError) local = NULL;
    FfCliQmp *qmp;
    int fd;

    if (!where) {
        return NULL;
    }
    g_socket_client_set_timeout(client, GREETING_MS / 1000);
    connection = g_socket_client_connect(client, where, NULL, &local);
    if (!connection) {
        g_set_error(error, local->domain, local->code, "cannot connect to %s%s%s: %s",
                    role ? role : "", role ? " " : "", address,
                    advice_for(local, address, host, role));
        return NULL;
    }
    /* Closing this fd does not end the connection, which has another one. */
    fd = fcntl(g_socket_get_fd(g_socket_connection_get_socket(connection)), F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot connect to %s: %s",
                    address, g_strerror(errno));
        return NULL;
    }
    qmp = ff_cli_qmp_open_fd(fd, address, role, error);
    if (qmp) {
        qmp->host = g_steal_pointer(&host);
    }
    return qmp;
}
