/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The synchronous QMP client: one connection, one thread, an event queue.
 */
#include "tests/lib/qmp.h"

#include <stdarg.h>
#include <string.h>

struct Qmp {
    Stream *stream;
    char *label;
    GQueue events; /* JsonObject *, oldest first */
    unsigned next_id;
};

static JsonObject *parse(Qmp *q, const char *line)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;
    if (!json_parser_load_from_data(parser, line, -1, &error) ||
        !JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser)))
        test_fail("%s: not a JSON object: %s", q->label, line);
    return json_object_ref(json_node_get_object(json_parser_get_root(parser)));
}

Qmp *qmp_new(int fd, const char *label, bool oob)
{
    Qmp *q = g_new0(Qmp, 1);
    q->label = g_strdup_printf("QMP of %s", label);
    q->stream = stream_new(fd, q->label);
    g_queue_init(&q->events);
    g_autofree char *line =
        stream_read_line(q->stream, "the greeting", test_deadline(TEST_TIMEOUT));
    if (line && strstr(line, "\"RESUME\"")) {
        /* QEMU's thread that starts the guest was quicker (monitor_init_qmp()). */
        g_free(line);
        line = stream_read_line(q->stream, "the greeting", test_deadline(TEST_TIMEOUT));
    }
    if (!line)
        test_fail("%s: closed before the greeting", q->label);
    g_autoptr(JsonObject) greeting = parse(q, line);
    if (!json_object_has_member(greeting, "QMP"))
        test_fail("%s: not a greeting: %s", q->label, line);
    qmp_ok(q, "qmp_capabilities", oob ? "{'enable': ['oob']}" : NULL);
    return q;
}

void qmp_free(Qmp *q)
{
    if (!q)
        return;
    stream_free(q->stream);
    g_queue_clear_full(&q->events, (GDestroyNotify)json_object_unref);
    g_free(q->label);
    g_free(q);
}

Stream *qmp_stream(Qmp *q)
{
    return q->stream;
}

static unsigned send_command(Qmp *q, const char *command, const char *args, int fd)
{
    unsigned id = ++q->next_id;
    bool oob = g_str_has_prefix(command, "oob:");
    g_autofree char *text =
        g_strdup_printf("{\"%s\": \"%s\", \"id\": \"test-%u\"%s%s}\r\n",
                        oob ? "exec-oob" : "execute", oob ? command + strlen("oob:") : command, id,
                        args ? ", \"arguments\": " : "", args ? args : "");
    stream_send(q->stream, text, strlen(text), &fd, fd >= 0);
    return id;
}

/* Queues events until the answer to ID comes; NULL if the monitor is closed. */
static JsonObject *read_answer(Qmp *q, unsigned id, const char *command)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    g_autofree char *want = g_strdup_printf("test-%u", id);
    g_autofree char *what = g_strdup_printf("the answer to %s", command);
    for (;;) {
        g_autofree char *line = stream_read_line(q->stream, what, deadline);
        if (!line)
            return NULL;
        g_autoptr(JsonObject) o = parse(q, line);
        if (json_object_has_member(o, "event")) {
            g_queue_push_tail(&q->events, g_steal_pointer(&o));
            continue;
        }
        if (g_strcmp0(json_object_get_string_member_with_default(o, "id", NULL), want))
            test_fail("%s: answer with another id than %s: %s", q->label, want, line);
        return g_steal_pointer(&o);
    }
}

static JsonObject *call(Qmp *q, const char *command, const char *format, va_list args)
{
    g_autofree char *text = NULL;
    if (format) {
        text = g_strdup_vprintf(format, args);
        g_strdelimit(text, "'", '"');
    }
    return read_answer(q, send_command(q, command, text, -1), command);
}

/* va_list wrappers: the answer, which must be there. */
static JsonObject *must(Qmp *q, const char *command, JsonObject *answer, const char *member)
{
    if (!answer)
        test_fail("%s: closed in place of an answer to %s", q->label, command);
    if (json_object_has_member(answer, member))
        return answer;
    JsonNode *node = json_node_alloc();
    json_node_init_object(node, answer);
    g_autofree char *text = json_to_string(node, FALSE);
    test_fail("%s: %s: no \"%s\" in %s", q->label, command, member, text);
}

JsonObject *qmp_call(Qmp *q, const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    JsonObject *answer = call(q, command, format, args);
    va_end(args);
    return answer;
}

void qmp_ok(Qmp *q, const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    json_object_unref(must(q, command, call(q, command, format, args), "return"));
    va_end(args);
}

void qmp_ok_or_dies(Qmp *q, const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(JsonObject) answer = call(q, command, format, args);
    va_end(args);
    JsonObject *error = answer && json_object_has_member(answer, "error")
                            ? json_object_get_object_member(answer, "error")
                            : NULL;
    g_assert_true(!error ||
                  strstr(json_object_get_string_member(error, "desc"), "ended unexpectedly"));
}

JsonObject *qmp_return(Qmp *q, const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(JsonObject) answer = must(q, command, call(q, command, format, args), "return");
    va_end(args);
    return json_object_ref(json_object_get_object_member(answer, "return"));
}

char *qmp_error(Qmp *q, const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autoptr(JsonObject) answer = must(q, command, call(q, command, format, args), "error");
    va_end(args);
    JsonObject *error = json_object_get_object_member(answer, "error");
    return g_strdup(json_object_get_string_member(error, "desc"));
}

void qmp_getfd(Qmp *q, const char *name, int fd)
{
    g_autofree char *args = g_strdup_printf("{\"fdname\": \"%s\"}", name);
    unsigned id = send_command(q, "getfd", args, fd);
    json_object_unref(must(q, "getfd", read_answer(q, id, "getfd"), "return"));
}

int qmp_add_fd(Qmp *q, int fd, int64_t *set)
{
    unsigned id = send_command(q, "add-fd", "{}", fd);
    g_autoptr(JsonObject) answer = must(q, "add-fd", read_answer(q, id, "add-fd"), "return");
    JsonObject *added = json_object_get_object_member(answer, "return");

    *set = json_object_get_int_member(added, "fdset-id");
    return (int)json_object_get_int_member(added, "fd");
}

bool qmp_has_relay(Qmp *q)
{
    g_autoptr(JsonObject) answer = qmp_call(q, "query-commands", NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_set_object(node, answer);
    g_autofree char *text = json_to_string(node, FALSE);
    return strstr(text, "\"x-farfault-lend\"");
}

char *qmp_hmp(Qmp *q, const char *line)
{
    g_autoptr(JsonObject) answer = must(
        q, line, qmp_call(q, "human-monitor-command", "{'command-line': '%s'}", line), "return");
    return g_strdup(json_object_get_string_member(answer, "return"));
}

static JsonObject *event_data(JsonObject *event)
{
    return json_object_has_member(event, "data") ? json_object_get_object_member(event, "data")
                                                 : NULL;
}

/* Takes the oldest event that fits; NULL if none does. */
static JsonObject *take_event(Qmp *q, const char *name, QmpPredicate predicate, const void *opaque)
{
    for (GList *l = q->events.head; l; l = l->next) {
        JsonObject *event = l->data;
        if (g_strcmp0(json_object_get_string_member(event, "event"), name) ||
            (predicate && !predicate(event_data(event), opaque)))
            continue;
        g_queue_delete_link(&q->events, l);
        return event;
    }
    return NULL;
}

/* Reads one line, which must be an event. False at the deadline. */
static bool read_event(Qmp *q, const char *name, int64_t deadline)
{
    bool timed_out;
    g_autofree char *line = stream_try_line(q->stream, &timed_out, deadline);
    if (timed_out)
        return false;
    if (!line)
        test_fail("%s: closed while event %s was waited for", q->label, name);
    JsonObject *o = parse(q, line);
    if (!json_object_has_member(o, "event"))
        test_fail("%s: an answer that nobody asked for: %s", q->label, line);
    g_queue_push_tail(&q->events, o);
    return true;
}

JsonObject *qmp_wait_event(Qmp *q, const char *name, QmpPredicate predicate, const void *opaque,
                           unsigned seconds)
{
    int64_t deadline = test_deadline(seconds);
    for (;;) {
        JsonObject *event = take_event(q, name, predicate, opaque);
        if (event)
            return event;
        if (!read_event(q, name, deadline)) {
            g_autofree char *names = qmp_event_names(q);
            test_fail("%s: event %s did not come in time; there are: %s", q->label, name, names);
        }
    }
}

void qmp_expect(Qmp *q, const char *name)
{
    json_object_unref(qmp_wait_event(q, name, NULL, NULL, TEST_TIMEOUT));
}

static bool has_status(JsonObject *data, const void *status)
{
    return data &&
           !g_strcmp0(json_object_get_string_member_with_default(data, "status", NULL), status);
}

void qmp_expect_migration(Qmp *q, const char *status)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    for (;;) {
        JsonObject *event = take_event(q, "MIGRATION", has_status, status);
        if (event) {
            json_object_unref(event);
            return;
        }
        /* No need to wait for the deadline when it cannot come any more. */
        if (strcmp(status, "failed") &&
            (event = take_event(q, "MIGRATION", has_status, "failed"))) {
            json_object_unref(event);
            g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);
            test_fail(
                "%s: the migration failed before it was \"%s\": %s", q->label, status,
                json_object_get_string_member_with_default(info, "error-desc", "no error-desc"));
        }
        if (!read_event(q, status, deadline)) {
            g_autofree char *names = qmp_event_names(q);
            g_autofree char *now = qmp_migrate_status(q);
            test_fail("%s: MIGRATION \"%s\" did not come in time; status is \"%s\"; events: %s",
                      q->label, status, now, names);
        }
    }
}

bool qmp_has_event(Qmp *q, const char *name)
{
    while (test_wait_readable(stream_fd(q->stream), 0) && read_event(q, name, 0))
        ;
    for (GList *l = q->events.head; l; l = l->next)
        if (!g_strcmp0(json_object_get_string_member(l->data, "event"), name))
            return true;
    return false;
}

char *qmp_event_names(Qmp *q)
{
    GString *names = g_string_new(NULL);
    for (GList *l = q->events.head; l; l = l->next) {
        JsonObject *data = event_data(l->data);
        const char *status =
            data ? json_object_get_string_member_with_default(data, "status", NULL) : NULL;
        g_string_append_printf(names, "%s%s%s%s", names->len ? " " : "",
                               json_object_get_string_member(l->data, "event"), status ? ":" : "",
                               status ? status : "");
    }
    return g_string_free(names, FALSE);
}

void qmp_drop_events(Qmp *q)
{
    g_queue_clear_full(&q->events, (GDestroyNotify)json_object_unref);
}

char *qmp_migrate_status(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-migrate", NULL);
    return g_strdup(json_object_get_string_member_with_default(info, "status", "none"));
}

char *qmp_run_state(Qmp *q)
{
    g_autoptr(JsonObject) info = qmp_return(q, "query-status", NULL);
    return g_strdup(json_object_get_string_member(info, "status"));
}

void qmp_wait_postmigrate(Qmp *q)
{
    g_autofree char *state = NULL;

    while (g_strcmp0(state, "postmigrate")) {
        g_free(state);
        state = qmp_run_state(q);
        if (strcmp(state, "postmigrate") && strcmp(state, "finish-migrate")) {
            test_fail("the source is \"%s\" after its migration", state);
        }
    }
}

void qmp_set_capability(Qmp *q, const char *name, bool on)
{
    qmp_ok(q, "migrate-set-capabilities", "{'capabilities': [{'capability': '%s', 'state': %s}]}",
           name, on ? "true" : "false");
}
