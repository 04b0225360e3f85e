/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What query-migrate and "info migrate" show in each state of a migration, and what commands that
 * do not fit into the state are told: the same course is taken by two plain QEMUs and by two under
 * farfault, and the members, the lines and the answers must be the same. Only x-farfault is
 * beyond. The order of members is not compared: QEMU's is that of a hash table. That the commands
 * changed nothing shows in the course continuing.
 */
#include <signal.h>
#include <string.h>

#include "tests/lib/move.h"

static const BootsectConfig boot = {.start = 0x100000, .end = 48 << 20, .n_cpus = 1};

typedef struct {
    VmLauncher launcher;
    const char *const *args[2]; /* more arguments of the source, the destination */
    Vm *source, *destination;
    GPtrArray *seen; /* of char *: "SIDE STATE: members", in the order they were looked at */
} Course;

/* ---- what is compared ------------------------------------------------------------------------ */

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_members(GPtrArray *names, JsonObject *object, const char *prefix)
{
    /* There QEMU 10 shows how its own thread was stopped, if that was quick enough. */
    bool cancelled =
        !strcmp(json_object_get_string_member_with_default(object, "status", ""), "cancelled");
    /* QEMU forgets the address just after it says so. */
    bool completed =
        !strcmp(json_object_get_string_member_with_default(object, "status", ""), "completed");
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, &value)) {
        if (!strcmp(name, "x-farfault") || (cancelled && !strcmp(name, "error-desc")) ||
            (completed && !strcmp(name, "socket-address"))) {
            continue;
        }
        g_ptr_array_add(names, g_strconcat(prefix, name, NULL));
        if (JSON_NODE_HOLDS_OBJECT(value)) {
            g_autofree char *deeper = g_strconcat(prefix, name, ".", NULL);

            add_members(names, json_node_get_object(value), deeper);
        }
    }
}

static char *members(JsonObject *info)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    add_members(names, info, "");
    g_ptr_array_sort(names, by_name);
    g_ptr_array_add(names, NULL);
    return g_strjoinv(" ", (char **)names->pdata);
}

/* The labels of the lines; without those that stand there only if their number is not 0. */
static char *labels(const char *text)
{
    static const char *const changing[] = {"dirty pages rate", "postcopy request count",
                                           "precopy ram",      "downtime ram",
                                           "postcopy ram",     NULL};
    g_auto(GStrv) lines = g_strsplit(text, "\r\n", -1);
    g_autoptr(GString) out = g_string_new(NULL);

    for (char **line = lines; *line; line++) {
        char *colon = strchr(*line, ':');

        if ((colon && g_ascii_isspace(**line)) || !strcmp(*line, "]") ||
            g_str_has_prefix(*line, "socket address")) {
            continue; /* as the members */
        }
        if (colon) {
            *colon = 0;
        }
        if (!g_strv_contains(changing, *line)) {
            g_string_append_printf(out, "%s%s", out->len ? "|" : "", *line);
        }
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static void look(Course *c, Vm *vm, const char *when)
{
    const char *side = vm == c->source ? "source" : "destination";
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    g_autofree char *all = members(info);
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "info migrate");
    g_autofree char *lines = labels(text);
    const char *status = json_object_get_string_member_with_default(info, "status", "-");

    g_ptr_array_add(c->seen, g_strdup_printf("%s %s: %s: %s", side, when, status, all));
    g_ptr_array_add(c->seen, g_strdup_printf("%s %s: info migrate: %s", side, when, lines));
}

/* Wrong, or without effect, from the start of a migration on. */
static const struct {
    const char *command, *args;
    bool source, destination;
} misfits[] = {
    {"migrate", "{'uri': 'tcp:127.0.0.1:1'}", true, false},
    {"migrate", "{'uri': 'tcp:127.0.0.1:1', 'resume': true}", true, true},
    {"migrate", "{'uri': 'fd:nope'}", true, false},
    {"migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}", true, true},
    {"migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}", true, true},
    {"migrate-continue", "{'state': 'setup'}", true, true},
    {"migrate-continue", "{'state': 'nothing'}", true, true},
    {"migrate-continue", NULL, true, true},
    {"migrate-set-parameters", "{'downtime-limit': 2000001}", true, true},
    {"migrate-set-parameters", "{'max-bandwidth': 'x'}", true, true},
    {"migrate-set-parameters", "{'nothing': 1}", true, true},
    {"migrate-set-capabilities", "{'capabilities': [{'capability': 'nothing', 'state': true}]}",
     true, true},
    {"human-monitor-command", "{'command-line': 'migrate -r tcp:127.0.0.1:1'}", true, true},
    {"human-monitor-command", "{'command-line': 'migrate_continue setup'}", true, true},
    {"human-monitor-command", "{'command-line': 'migrate_set_capability nothing on'}", true, true},
    {"human-monitor-command", "{'command-line': 'migrate_set_parameter nothing 1'}", true, true},
};

static void try_command(Course *c, Vm *vm, const char *when, const char *command, const char *args)
{
    g_autoptr(JsonObject) reply =
        args ? qmp_call(vm_qmp(vm), command, "%s", args) : qmp_call(vm_qmp(vm), command, NULL);
    g_autofree char *got = NULL;

    if (json_object_has_member(reply, "error")) {
        JsonObject *error = json_object_get_object_member(reply, "error");

        got = g_strconcat("error: ", json_object_get_string_member(error, "desc"), NULL);
    } else {
        got = json_to_string(json_object_get_member(reply, "return"), FALSE);
    }
    g_ptr_array_add(c->seen,
                    g_strdup_printf("%s %s: %s %s: %s", vm == c->source ? "source" : "destination",
                                    when, command, args ? args : "", got));
}

static void try_misfits(Course *c, Vm *vm, const char *when)
{
    bool source = vm == c->source;

    for (unsigned i = 0; i < G_N_ELEMENTS(misfits); i++) {
        if (source ? misfits[i].source : misfits[i].destination) {
            try_command(c, vm, when, misfits[i].command, misfits[i].args);
        }
    }
}

/* The text of COMMAND without what is farfault's own. */
static void look_at_text(Course *c, Vm *vm, const char *when, const char *command)
{
    g_autofree char *text = qmp_hmp(vm_qmp(vm), command);
    g_auto(GStrv) lines = g_strsplit(text, "\r\n", -1);
    g_autoptr(GString) out = g_string_new(NULL);

    for (char **line = lines; *line; line++) {
        if (!g_str_has_prefix(*line, "x-farfault-"))
            g_string_append_printf(out, "%s|", *line);
    }
    g_ptr_array_add(c->seen,
                    g_strdup_printf("%s %s: %s: %s", vm == c->source ? "source" : "destination",
                                    when, command, out->str));
}

/* The client's settings, with one more change each time. */
static void look_at_settings(Course *c, Vm *vm, const char *when, unsigned downtime_limit)
{
    qmp_ok(vm_qmp(vm), "migrate-set-parameters",
           "{'downtime-limit': %u, 'cpu-throttle-initial': 30, 'tls-hostname': 'there'}",
           downtime_limit);
    look_at_text(c, vm, when, "info migrate_parameters");
    look_at_text(c, vm, when, "info migrate_capabilities");
}

#define SOME_CAPABILITY "{'capabilities': [{'capability': 'return-path', 'state': false}]}"
#define CONTINUE "{'state': 'pre-switchover'}"

/* ---- the courses ----------------------------------------------------------------------------- */

static Vm *start(Course *c, const char *name, const char *memory, const char *incoming)
{
    return vm_start(&(VmConfig){.name = name,
                                .launcher = c->launcher,
                                .memory = memory,
                                .boot = &boot,
                                .args = c->args[incoming != NULL],
                                .incoming = incoming});
}

static void start_both(Course *c)
{
    c->source = start(c, "source", "64M", NULL);
    c->destination = start(c, "destination", "64M", "defer");
    vm_wait_serial(c->source, "AB");
    look(c, c->source, "before");
    look(c, c->destination, "before");
    move_prepare(c->source, c->destination);
    qmp_set_capability(vm_qmp(c->destination), "postcopy-blocktime", true);
    /* Nothing below may be over before it was looked at, however slow this machine is. */
    qmp_ok(vm_qmp(c->source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 65536}");
}

static void migrate(Course *c)
{
    qmp_ok(vm_qmp(c->destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    look(c, c->destination, "listening");
    g_autofree char *uri = move_listen_uri(c->destination);

    qmp_ok(vm_qmp(c->source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(c->source), "active");
    qmp_expect_migration(vm_qmp(c->destination), "active");
    look(c, c->source, "active");
    look(c, c->destination, "active");
    look_at_settings(c, c->source, "active", 400);
    look_at_settings(c, c->destination, "active", 500);
    try_misfits(c, c->source, "active");
    try_misfits(c, c->destination, "active");
    try_command(c, c->source, "active", "migrate-set-capabilities", SOME_CAPABILITY);
    try_command(c, c->source, "active", "migrate-continue", CONTINUE);
    try_command(c, c->source, "active", "migrate-pause", NULL);
    try_command(c, c->destination, "active", "migrate-pause", NULL);
    try_command(c, c->destination, "active", "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    try_command(c, c->destination, "active", "migrate-start-postcopy", NULL);
    try_command(c, c->destination, "active", "migrate-continue", CONTINUE);
    try_command(c, c->destination, "active", "migrate_cancel", NULL);
}

static void course_postcopy(Course *c)
{
    start_both(c);
    migrate(c);
    qmp_ok(vm_qmp(c->source), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(c->source), "postcopy-active");
    qmp_expect_migration(vm_qmp(c->destination), "postcopy-active");
    /* Its guest would ask for one page after the other, which no bandwidth limits. */
    qmp_expect(vm_qmp(c->destination), "RESUME");
    qmp_ok(vm_qmp(c->destination), "stop", NULL);
    look(c, c->source, "postcopy");
    look(c, c->destination, "postcopy");
    look_at_settings(c, c->source, "postcopy", 401);
    look_at_settings(c, c->destination, "postcopy", 501);
    try_misfits(c, c->source, "postcopy");
    try_misfits(c, c->destination, "postcopy");
    try_command(c, c->source, "postcopy", "migrate-set-capabilities", SOME_CAPABILITY);
    try_command(c, c->source, "postcopy", "migrate-continue", CONTINUE);
    try_command(c, c->source, "postcopy", "migrate-start-postcopy", NULL);
    qmp_ok(vm_qmp(c->destination), "cont", NULL);
    qmp_ok(vm_qmp(c->source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(c->source, c->destination);
    qmp_wait_postmigrate(vm_qmp(c->source));
    look(c, c->source, "end");
    look(c, c->destination, "end");
    look_at_settings(c, c->source, "end", 402);
    look_at_settings(c, c->destination, "end", 502);
    try_misfits(c, c->source, "end");
    try_misfits(c, c->destination, "end");
    try_command(c, c->source, "end", "migrate-continue", CONTINUE);
    try_command(c, c->source, "end", "migrate-start-postcopy", NULL);
    try_command(c, c->source, "end", "migrate_cancel", NULL);
    try_command(c, c->source, "end", "migrate-pause", NULL);
    try_command(c, c->destination, "end", "migrate-pause", NULL);
    try_command(c, c->destination, "end", "migrate-continue", CONTINUE);
    try_command(c, c->source, "end", "query-status", NULL);
    try_command(c, c->destination, "end", "query-status", NULL);
}

static void course_pre_switchover(Course *c)
{
    start_both(c);
    /* QEMU looks at it when it begins to switch, before it waits. */
    qmp_ok(vm_qmp(c->source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_set_capability(vm_qmp(c->source), "pause-before-switchover", true);
    migrate(c);
    qmp_ok(vm_qmp(c->source), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(c->source), "pre-switchover");
    look(c, c->source, "pre-switchover");
    look(c, c->destination, "pre-switchover");
    try_misfits(c, c->source, "pre-switchover");
    try_misfits(c, c->destination, "pre-switchover");
    try_command(c, c->source, "pre-switchover", "query-status", NULL);
    try_command(c, c->source, "pre-switchover", "cont", NULL);
    try_command(c, c->source, "pre-switchover", "migrate-continue", "{'state': 'device'}");
    qmp_ok(vm_qmp(c->source), "migrate-continue", "{'state': 'pre-switchover'}");
    move_wait_completed(c->source, c->destination);
    look(c, c->source, "end");
}

/* The guest must run afterwards; that of a QEMU 7.2 which was in pre-switchover does not. */
static void cancel(Course *c, const char *when)
{
    qmp_ok(vm_qmp(c->source), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(c->source), "cancelled");
    look(c, c->source, when);
    try_command(c, c->source, when, "migrate-continue", CONTINUE);
    try_command(c, c->source, when, "migrate-start-postcopy", NULL);
    try_command(c, c->source, when, "migrate_cancel", NULL);
    try_command(c, c->source, when, "migrate-pause", NULL);
    if (c->launcher != VM_PLAIN)
        vm_wait_new_serial(c->source, "B");
    g_assert_cmpint(vm_wait_exit(c->destination), ==, 1);
}

static void course_cancel(Course *c)
{
    start_both(c);
    migrate(c);
    cancel(c, "cancelled");
}

static void course_cancel_paused(Course *c)
{
    start_both(c);
    qmp_set_capability(vm_qmp(c->source), "pause-before-switchover", true);
    migrate(c);
    qmp_ok(vm_qmp(c->source), "migrate-start-postcopy", NULL);
    qmp_expect_migration(vm_qmp(c->source), "pre-switchover");
    cancel(c, "cancelled");
    if (c->launcher == VM_PLAIN)
        vm_kill(c->source); /* 7.2 says "postcopy failed to start", and may not end at SIGTERM */
}

static void course_nobody(Course *c)
{
    start_both(c);
    /* QEMU finds out at once with unix, later with tcp; either way it fails. */
    JsonObject *reply = qmp_call(vm_qmp(c->source), "migrate", "{'uri': 'tcp:127.0.0.1:1'}");

    json_object_unref(reply);
    qmp_expect_migration(vm_qmp(c->source), "failed");
    look(c, c->source, "failed");
}

static void course_uuid(Course *c)
{
    static const char *const one[] = {"-uuid", "11111111-2222-4333-8444-555555555555", NULL};
    static const char *const other[] = {"-uuid", "11111111-2222-4333-8444-666666666666", NULL};

    c->args[0] = one;
    c->args[1] = other;
    start_both(c);
    qmp_set_capability(vm_qmp(c->source), "validate-uuid", true);
    qmp_ok(vm_qmp(c->destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(c->destination);

    qmp_ok(vm_qmp(c->source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(c->source), "failed");
    /* Too late for another exit status than that of a failure. */
    kill(vm_pid(c->destination), SIGTERM);
    vm_wait_new_serial(c->source, "B");
    g_ptr_array_add(c->seen, g_strdup_printf("exit status %d", vm_wait_exit(c->destination)));
    vm_wait_stderr(c->destination,
                   "UUID received is 11111111-2222-4333-8444-555555555555 and local is "
                   "11111111-2222-4333-8444-666666666666");
}

/* The destination's memory is another one: it fails, and its QEMU lives on. */
static void course_keep_failed(Course *c)
{
    c->source = start(c, "source", "64M", NULL);
    c->destination = start(c, "destination", "72M", "defer");
    vm_wait_serial(c->source, "AB");
    move_prepare(c->source, c->destination);
    try_command(c, c->destination, "before", "migrate-incoming",
                "{'uri': 'tcp:127.0.0.1:0', 'exit-on-error': false}");
    if (strstr(c->seen->pdata[c->seen->len - 1], "unexpected"))
        return; /* QEMU before 9.1 */
    g_autofree char *uri = move_listen_uri(c->destination);

    qmp_ok(vm_qmp(c->source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(c->destination), "failed");
    qmp_expect_migration(vm_qmp(c->source), "failed");
    look(c, c->source, "failed");
    look(c, c->destination, "failed");
    try_command(c, c->destination, "failed", "query-status", NULL);
    try_command(c, c->destination, "failed", "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    try_command(c, c->destination, "failed", "cont", NULL);
    try_command(c, c->destination, "failed", "query-status", NULL);
    try_command(c, c->destination, "failed", "system_reset", NULL);
}

/* ---- both ------------------------------------------------------------------------------------ */

static GPtrArray *take(void (*course)(Course *c), VmLauncher launcher)
{
    Course c = {.launcher = launcher, .seen = g_ptr_array_new_with_free_func(g_free)};

    course(&c);
    vm_end(c.source);
    vm_end(c.destination);
    return c.seen;
}

static void compare(const void *opaque)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(GPtrArray) plain = take(opaque, VM_PLAIN);
    g_autoptr(GPtrArray) own = take(opaque, VM_RUN);

    g_assert_cmpuint(plain->len, ==, own->len);
    for (guint i = 0; i < plain->len; i++) {
        if (strcmp(plain->pdata[i], own->pdata[i])) {
            g_test_message("QEMU:     %s\nfarfault: %s", (char *)plain->pdata[i],
                           (char *)own->pdata[i]);
            g_test_fail_printf("another answer than QEMU's");
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/query-states/postcopy", course_postcopy, compare);
    g_test_add_data_func("/query-states/pre-switchover", course_pre_switchover, compare);
    g_test_add_data_func("/query-states/cancel", course_cancel, compare);
    g_test_add_data_func("/query-states/cancel-paused", course_cancel_paused, compare);
    g_test_add_data_func("/query-states/nobody-listens", course_nobody, compare);
    g_test_add_data_func("/query-states/validate-uuid", course_uuid, compare);
    g_test_add_data_func("/query-states/exit-on-error", course_keep_failed, compare);
    return g_test_run();
}
