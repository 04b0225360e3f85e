/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks a QEMU what a machine type calls its RAM, by starting it once with no machine and
 * query-machines. For names that are not in argv-memory.c's table: those of distributions.
 *
 * It takes as long as a start of QEMU does without a guest. A QEMU that does not answer within
 * ASK_MS, or not in QMP, leaves the name unknown. Reads only; one thread.
 * System calls: poll, read, write, waitpid, kill.
 */
#include "launch/argv-machine.h"

#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A loaded host takes as long for the guest's own QEMU. */
#define ASK_MS 60000
/* QEMU 10 says some 40 KiB. */
#define MAX_ANSWER (1u << 20)

/* All of what FD says until its end. FALSE: it did not end in time, or says too much. */
static bool read_all(int fd, GString *text)
{
    gint64 end = g_get_monotonic_time() + ASK_MS * G_TIME_SPAN_MILLISECOND;
    char buf[4096];

    while (text->len < MAX_ANSWER) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        gint64 left = (end - g_get_monotonic_time()) / G_TIME_SPAN_MILLISECOND;
        int ready = poll(&pfd, 1, (int)MAX(0, left));
        ssize_t n = ready > 0 ? read(fd, buf, sizeof(buf)) : 0;

        if (ready == 0 || ((ready < 0 || n < 0) && errno != EINTR)) {
            return false;
        }
        if (ready > 0 && n == 0) {
            return true;
        }
        g_string_append_len(text, buf, MAX(0, n));
    }
    return false;
}

/* QEMU's answer to query-machines as it came, one JSON object a line; NULL if there is none. */
static char *ask(const char *qemu)
{
    static const char questions[] = "{\"execute\": \"qmp_capabilities\"}\n"
                                    "{\"execute\": \"query-machines\"}\n"
                                    "{\"execute\": \"quit\"}\n";
    const char *argv[] = {qemu,       "-machine", "none", "-nodefaults", "-no-user-config",
                          "-display", "none",     "-qmp", "stdio",       NULL};
    g_autoptr(GString) text = g_string_new(NULL);
    bool ok = false;
    int in, out;
    GPid pid;

    if (!g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                                  G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                                  NULL, &pid, &in, &out, NULL, NULL)) {
        return NULL;
    }
    /* A pipe takes that much without waiting. A QEMU that has ended already says so by its answer.
     */
    void (*old)(int) = signal(SIGPIPE, SIG_IGN);
    ok = write(in, questions, strlen(questions)) == (ssize_t)strlen(questions) &&
         read_all(out, text);
    signal(SIGPIPE, old);
    if (!ok) {
        kill(pid, SIGKILL);
    }
    close(in);
    close(out);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return ok ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}

static const char *member(JsonObject *machine, const char *name)
{
    JsonNode *node = json_object_get_member(machine, name);

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static bool find(JsonArray *machines, const char *type, char **ram_id)
{
    for (guint i = 0; i < json_array_get_length(machines); i++) {
        JsonNode *node = json_array_get_element(machines, i);
        JsonObject *machine = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;

        if (machine && (!g_strcmp0(member(machine, "name"), type) ||
                        !g_strcmp0(member(machine, "alias"), type))) {
            *ram_id = g_strdup(member(machine, "default-ram-id"));
            return true;
        }
    }
    return false;
}

bool ff_argv_ask_ram_id(const char *qemu, const char *type, char **ram_id)
{
    g_autofree char *text = ask(qemu);
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    *ram_id = NULL;
    for (char **line = lines; line && *line; line++) {
        g_autoptr(JsonNode) node = json_from_string(*line, NULL);
        JsonObject *answer =
            node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        JsonNode *list = answer ? json_object_get_member(answer, "return") : NULL;

        if (list && JSON_NODE_HOLDS_ARRAY(list)) {
            return find(json_node_get_array(list), type, ram_id);
        }
    }
    return false;
}
