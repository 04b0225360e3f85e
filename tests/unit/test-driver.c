/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver: how commands come, wait and are answered, what a client sees, and which guests are
 * QEMU's to migrate. What is a dialog and nothing else is in dialogs/ (test-dialogs.c).
 */
#include <string.h>
#include <unistd.h>

#include "qapi/json.h"
#include "qapi/schema.h"
#include "qapi/uri.h"
#include "tests/unit/driver-world.h"

static void set_postcopy_for_qemu(World *w)
{
    command(w, SET(CAP("postcopy-ram", "true")));
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "migrate-set-capabilities", "{}");
    sent(w, "reply {\"return\": {}}\n");
}

/* Such a guest's migration to URI; the engine speaks to the peer, at CONNECTED, and gives it to
 * QEMU. */
static void begin_refused_to(World *w, const char *why, const char *uri, const char *connected)
{
    g_autofree char *line =
        g_strdup_printf("{'execute':'migrate','arguments':{'uri':'%s'},'id':2}", uri);

    command(w, line);
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(w, "query-status", "{'status':'running','singlestep':false,'running':true}");
    qemu_answers(w, "query-migrate", "{}");
    sent(w, "filter 3\n"
            "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
            "reply {\"return\": {}, \"id\": 2}\n");
    FfMigration *m = migration;

    g_assert_true(m->config.answered_first);
    g_assert_cmpstr(m->config.refusal, ==, why);
    g_assert_cmpstr(m->config.uri, ==, connected);
    migration = NULL;
    m->ops.plain(&(FfPlainPeer){.refused = why, .fd = -1}, m->ops.opaque);
    qemu_answers(w, "migrate-set-capabilities", "{}");
    const Asked *asked = g_queue_peek_head(&w->questions);
    g_assert_cmpstr(json_object_get_string_member(asked->args, "uri"), ==, uri);
    qemu_answers(w, "migrate", "{}");
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static void begin_refused(World *w, const char *why)
{
    g_auto(FfUri) target = {.kind = FF_URI_NONE};

    ff_uri_parse(&target, "unix:b");
    g_assert_true(ff_uri_make_absolute(&target, getpid()));
    g_assert_true(g_str_has_prefix(target.uri, "unix:/"));
    begin_refused_to(w, why, "unix:b", target.uri);
}

/* The one that connects, QEMU or the engine, to an address of the family that is meant. */
static void test_refused_family(void)
{
    World w;

    world_init(&w, NULL, "why");
    set_postcopy_for_qemu(&w);
    begin_refused_to(&w, "why", "tcp:h:1,ipv4=on", "tcp:h:1,ipv4=on");
    world_clear(&w);
}

/* A guest that the engine does not migrate: QEMU has the capability, and carries the migration. */
static void test_refused(void)
{
    World w;

    world_pid = getpid();
    world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
    set_postcopy_for_qemu(&w);
    g_assert_cmpuint(w.state->client_flags, ==, FF_CLIENT_CAP_POSTCOPY_RAM);
    begin_refused(&w, "the guest's RAM is a regular file; use memory-backend-memfd");
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'query-migrate','id':3}");
    qemu_answers(&w, "query-migrate", "{\"status\":\"active\"}");
    sent(&w, "reply {\"return\": {\"status\": \"active\", \"x-farfault\": {\"engine\": \"qemu\", "
             "\"reason\": \"the guest's RAM is a regular file; use memory-backend-memfd\"}}, "
             "\"id\": 3}\n");
    world_clear(&w);
}

#define P25 "0123456789/0123456789/01/"

/* What stands in the way of the question alone: QEMU carries it as it would without farfault, and
 * gets the client's own line. */
static void test_refused_unasked(void)
{
    static const struct {
        const char *uri;
        bool pid, tls;
    } rows[] = {
        {"unix:b", false, false},
        {"unix:" P25 P25 P25 P25, true, false},
        {"unix:/b", true, true},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *line =
            g_strdup_printf("{'execute':'migrate','arguments':{'uri':'%s'},'id':2}", rows[i].uri);
        World w;

        world_pid = rows[i].pid ? getpid() : 0;
        world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
        set_postcopy_for_qemu(&w);
        command(&w, line);
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters",
                     rows[i].tls ? "{'tls-creds':'tls0'}" : PARAMETERS);
        if (rows[i].tls) {
            qemu_answers(&w, "qom-list", "!it is gone");
        }
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        sent(&w, "pass\n");
        g_assert_null(migration);
        world_clear(&w);
    }
}

/* A reason that is longer than there is room for, cut in the middle of a character. */
static void test_refused_long(void)
{
    g_autoptr(GString) why = g_string_new(NULL);
    World w;

    while (why->len < 2 * sizeof(w.state->native)) {
        g_string_append(why, "\u20ac"); /* three bytes */
    }
    world_pid = getpid();
    world_init(&w, NULL, why->str);
    set_postcopy_for_qemu(&w);
    begin_refused(&w, why->str);
    g_assert_true(g_utf8_validate(w.state->native, -1, NULL));
    g_assert_cmpuint(strlen(w.state->native), >, sizeof(w.state->native) - 4);
    world_clear(&w);
}

/* A client that wants no migration of QEMU's is told so at once. */
static void test_refused_required(void)
{
    World w;

    world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
    w.state->peer = FF_PEER_WISH_REQUIRE;
    command(&w, SET(CAP("postcopy-ram", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"the guest's RAM is a "
             "regular file; use memory-backend-memfd\"}}\n");
    g_assert_cmpuint(w.state->client_flags, ==, 0);
    world_clear(&w);
}

/* RAM on a disk: QEMU before 8.1 takes postcopy-ram at the destination, and loses the guest. */
static void test_refused_disk(void)
{
    static const char why[] = "the backend 'm0' keeps guest RAM in the file /x" FF_RAM_ON_DISK;
    static const struct {
        const char *incoming;
        unsigned version;
        bool refused;
    } rows[] = {
        {"defer", 70222, true},
        {"defer", 80002, true},
        {"defer", 80100, false},
        {NULL, 70222, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *refusal = g_strdup_printf(
            "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n", why);
        World w;

        qemu_version = rows[i].version;
        world_init(&w, rows[i].incoming, why);
        if (rows[i].refused) {
            command(&w, SET(CAP("postcopy-ram", "true")));
            qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
            sent(&w, refusal);
        } else {
            set_postcopy_for_qemu(&w); /* at a source it does no harm */
        }
        world_clear(&w);
        qemu_version = 0;
    }
}

#define CAPS_OF(postcopy, preempt)                                                                 \
    "[" CAP("xbzrle", "false") "," CAP("events", "true") "," CAP(                                  \
        "postcopy-ram", postcopy) "," CAP("postcopy-preempt", preempt) "]"

/* What QEMU was told while there was no engine is what the client wants, on or off; what it was not
 * told of stays. */
static void test_in_qemu(void)
{
    enum { RAM = FF_CLIENT_CAP_POSTCOPY_RAM, PREEMPT = FF_CLIENT_CAP_POSTCOPY_PREEMPT };
    static const struct {
        unsigned before, told;
        const char *qemu;
        unsigned after;
    } rows[] = {
        {0, RAM, CAPS_OF("true", "false"), RAM},
        {0, RAM | PREEMPT, CAPS_OF("true", "true"), RAM | PREEMPT},
        {RAM, RAM, CAPS_OF("false", "false"), 0},
        {RAM, PREEMPT, CAPS_OF("false", "true"), RAM | PREEMPT},
        {RAM | PREEMPT, PREEMPT, CAPS_OF("false", "false"), RAM},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfStateHeader state = {.client_flags = rows[i].before,
                               .marks = FF_MARK_CAP(rows[i].told) | FF_MARK_WHOLE};
        World w;

        world_begin(&w, state, false, NULL, NULL);
        command(&w, "{'execute':'migrate_cancel','id':1}");
        command_of(&w, 1, "{'execute':'migrate_cancel','id':2}");
        sent(&w, ""); /* nobody is answered by what may be wrong */
        qemu_answers(&w, "query-migrate-capabilities", rows[i].qemu);
        sent(&w, "pass\npass\n");
        g_assert_cmpuint(w.state->client_flags, ==, rows[i].after);
        g_assert_cmpuint(w.state->marks, ==, FF_MARK_WHOLE);
        command(&w, "{'execute':'migrate_cancel'}"); /* and asked once */
        sent(&w, "pass\n");
        world_clear(&w);
    }
}

/* The migration after that is the engine's, and QEMU is told nothing; what the client switches off
 * is off at both. */
static void test_in_qemu_migrate(void)
{
    FfStateHeader state = {.marks = FF_MARK_CAP(FF_CLIENT_CAP_POSTCOPY_RAM)};
    World w;

    world_begin(&w, state, false, NULL, NULL);
    command(&w, SET(CAP("postcopy-ram", "false")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_OF("true", "false"));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_OF("true", "false"));
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_cmpuint(w.state->client_flags, ==, 0);
    ff_state_mark(w.state, FF_MARK_CAP(FF_CLIENT_CAP_POSTCOPY_RAM)); /* a late answer */
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'},'id':'m'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_OF("true", "false"));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_OF("true", "false"));
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(&w, "query-status", "{'status':'running','singlestep':false,'running':true}");
    qemu_answers(&w, "query-migrate", "{}");
    sent(&w, "filter 3\n"
             "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "reply {\"return\": {}, \"id\": \"m\"}\n");
    world_clear(&w);
}

/* QEMU says nothing of them: a command fails, and the next one asks again. */
static void test_in_qemu_silent(void)
{
    FfStateHeader state = {.marks = FF_MARK_CAP(FF_CLIENT_CAP_POSTCOPY_RAM)};
    World w;

    world_begin(&w, state, false, NULL, NULL);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", "!it is busy");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"capabilities were set "
             "without an engine, and QEMU does not say which: it is busy\"}}\n");
    /* a QEMU that waits for a page can be helped by these, and answers nothing else */
    command(&w, "{'execute':'migrate-recover','arguments':{'uri':'tcp:h:1'}}");
    sent(&w, "pass\n");
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, "pass\n");
    command(&w, "{'execute':'migrate_cancel'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_OF("true", "false"));
    sent(&w, "pass\n");
    g_assert_cmpuint(w.state->client_flags, ==, FF_CLIENT_CAP_POSTCOPY_RAM);
    world_clear(&w);
}

/* What is typed at a human monitor of QEMU's own is in QEMU's list alone: the newest counts. */
static void test_typed(void)
{
    enum { QMP = FF_CLIENT_CAP_POSTCOPY_RAM };
    static const struct {
        const char *sent; /* by QMP; NULL: nothing, QEMU was changed */
        const char *qemu;
        unsigned after;
    } rows[] = {
        {NULL, CAPS_OF("true", "false"), QMP},
        {NULL, CAPS_OF("false", "false"), 0},
        {SET(CAP("postcopy-ram", "true")), CAPS_OF("false", "false"), QMP},
        {NULL, CAPS_OF("false", "false"), QMP},
        {NULL, CAPS_OF("true", "false"), QMP}, /* and it was given to QEMU, or typed as well */
        {NULL, CAPS_OF("false", "false"), 0},
        {NULL, CAPS_OF("true", "false"), QMP},
        {SET(CAP("postcopy-ram", "false")), CAPS_OF("true", "false"), 0},
        {NULL, CAPS_OF("false", "false"), 0},
    };
    World w;

    world_init(&w, NULL, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *line = rows[i].sent ? rows[i].sent : "{'execute':'query-migrate-capabilities'}";

        command(&w, line);
        qemu_answers(&w, "query-migrate-capabilities", rows[i].qemu);
        if (rows[i].sent && !rows[i].after) {
            qemu_answers(&w, "migrate-set-capabilities", "{}");
        }
        if (!rows[i].sent) {
            g_autofree char *state = g_strdup_printf("%s, \"capability\": \"postcopy-ram\"",
                                                     rows[i].after ? "true" : "false");
            g_assert_nonnull(strstr(w.out->str, state));
        }
        g_string_truncate(w.out, 0);
        g_assert_cmpuint(w.state->client_flags & QMP, ==, rows[i].after);
    }
    world_clear(&w);
}

/* A source without farfault comes to QEMU's -incoming: what was typed stays on. */
static void test_typed_given(void)
{
    FfStateHeader state = {.client_flags = FF_CLIENT_CAP_POSTCOPY_PREEMPT};
    World w;

    world_begin(&w, state, false, NULL, NULL);
    command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    const Asked *asked = g_queue_peek_head(&w.questions);
    g_autofree char *given =
        json_to_string(json_object_get_member(asked->args, "capabilities"), FALSE);
    g_assert_cmpstr(given, ==, "[{\"state\":true,\"capability\":\"postcopy-preempt\"}]");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    world_clear(&w);
}

#define CAPS_SHARED(state) "[" CAP("events", "true") "," CAP("x-ignore-shared", state) "]"

static void set_shared(World *w, const char *state, const char *qemu, bool told)
{
    g_autofree char *line = g_strdup_printf("{'execute':'migrate-set-capabilities','arguments':{'"
                                            "capabilities':[{'capability':'x-ignore-"
                                            "shared','state':%s}]}}",
                                            state);

    command(w, line);
    qemu_answers(w, "query-migrate-capabilities", qemu);
    if (told) {
        qemu_answers(w, "migrate-set-capabilities", "{}");
    }
    sent(w, "reply {\"return\": {}}\n");
}

/* Of memory that is shared by farfault's doing QEMU is never told it, whoever carries the
 * migration; and before one it is switched off, if somebody has switched it on at a monitor of
 * QEMU's own. */
static void test_shared(void)
{
    static const char *const qemus[] = {CAPS_SHARED("false"), CAPS_SHARED("true")};

    for (unsigned i = 0; i < 4; i++) {
        FfStateHeader state = {.policy = i & 1 ? FF_POLICY_NEVER : FF_POLICY_AUTO};
        const char *qemu = qemus[i / 2];
        World w;

        world_shares = true;
        world_begin(&w, state, false, NULL, NULL);
        set_shared(&w, "true", qemu, false);
        g_assert_cmpuint(w.state->client_flags, ==, FF_CLIENT_CAP_IGNORE_SHARED);
        g_assert_nonnull(strstr(w.log, "x-ignore-shared is noted"));
        command(&w, "{'execute':'query-migrate-capabilities'}");
        qemu_answers(&w, "query-migrate-capabilities", qemu);
        g_assert_nonnull(strstr(w.out->str, "true, \"capability\": \"x-ignore-shared\""));
        g_string_truncate(w.out, 0);
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        if (state.policy != FF_POLICY_NEVER) {
            qemu_answers(&w, "query-migrate-capabilities", qemu);
            qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        }
        const Asked *asked = g_queue_peek_head(&w.questions);
        g_autofree char *given =
            json_to_string(json_object_get_member(asked->args, "capabilities"), FALSE);
        g_assert_nonnull(strstr(given, "{\"state\":false,\"capability\":\"x-ignore-shared\"}"));
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        sent(&w, "pass\n");
        set_shared(&w, "false", qemu, i / 2);
        g_assert_cmpuint(w.state->client_flags, ==, 0);
        world_clear(&w);
        world_shares = false;
    }
}

/* The user's own memory: QEMU's alone. */
static void test_shared_own(void)
{
    World w;

    world_init(&w, NULL, "the guest's RAM is a regular file; use memory-backend-memfd");
    set_shared(&w, "true", CAPS_SHARED("false"), true);
    g_assert_cmpuint(w.state->client_flags, ==, 0);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_SHARED("true"));
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    sent(&w, "pass\n");
    world_clear(&w);
}

/* While QEMU runs with the engine's values the client sees and changes its own. */
static void test_view(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    w.parameters = g_strdup(PARAMETERS);
    w.capabilities = g_strdup(CAPS_EVENTS);
    command(&w, "{'execute':'query-migrate-parameters'}");
    sent(&w, "reply {\"return\": {\"max-bandwidth\": 1000, \"downtime-limit\": 50, "
             "\"tls-creds\": \"\", \"x-farfault-policy\": \"auto\", \"x-farfault-auto-postcopy\": "
             "false, \"x-farfault-peer\": \"auto\", \"x-farfault-peer-timeout\": 30, "
             "\"x-farfault-channels\": 4, \"x-farfault-auto-recover\": 0, "
             "\"x-farfault-compress\": \"never\", \"x-farfault-zstd-level\": 1, "
             "\"x-farfault-untracked\": \"qemu\"}}\n");
    command(&w, "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':5,"
                "'downtime-limit':2000001}}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter "
             "'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms\"}}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 1000);
    command(&w, "{'execute':'migrate-set-parameters','arguments':{'max-bandwidth':5}}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 5);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(w.changed), "max-bandwidth"),
                    ==, 5);
    command(&w, "{'execute':'human-monitor-command','arguments':"
                "{'command-line':'migrate_set_parameter max-bandwidth 2'}}");
    sent(&w, "reply {\"return\": \"\"}\n");
    g_assert_cmpuint(migration->bandwidth, ==, 2 << 20);
    g_clear_pointer(&w.parameters, g_free);
    g_clear_pointer(&w.capabilities, g_free);
    finish(FF_STATUS_CANCELLED);
    world_clear(&w);
}

/* The switchover begins while QEMU is told of the client's settings. */
static void test_view_meanwhile(void)
{
    World w;

    world_init(&w, NULL, NULL);
    command(&w, SET(CAP("xbzrle", "true")));
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    w.capabilities = g_strdup(CAPS_EVENTS);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_nonnull(w.changed);
    g_assert_cmpint(json_array_get_length(json_node_get_array(w.changed)), ==, 1);
    world_clear(&w);
}

/* A reply for every status, on both sides, fits the schema. */
static void test_every_status(void)
{
    static uint32_t vcpus[] = {3, 4};

    for (int role = FF_ROLE_SOURCE; role <= FF_ROLE_DESTINATION; role++) {
        for (int status = 0; status < FF_STATUS__MAX; status++) {
            World w;

            world_init(&w, NULL, NULL);
            start_source(&w);
            migration->info.role = role;
            migration->info.status = status;
            migration->info.error_desc = (char *)"why";
            migration->info.ram_total = UINT64_C(1) << 40;
            migration->info.mbps = 1.5;
            migration->info.n_vcpus = 2;
            migration->info.vcpu_blocktime_ms = vcpus;
            command(&w, "{'execute':'query-migrate'}");
            const char *text = w.out->str + strlen("reply ");
            g_autoptr(JsonNode) node = ff_json_parse(text, strlen(text), NULL, NULL);
            JsonNode *result = json_object_get_member(json_node_get_object(node), "return");
            g_autofree char *wrong =
                ff_qapi_check(ff_qapi_command("query-migrate")->returns, result);

            g_assert_cmpstr(wrong, ==, NULL);
            g_assert_cmpstr(ff_json_string(json_node_get_object(result), "status"), ==,
                            status == FF_STATUS_NONE ? NULL : ff_status_name(status));
            migration->info.error_desc = NULL;
            world_clear(&w);
        }
    }
}

/* The client's last word on running, as an engine that adopts finds it. */
static void test_last_word(void)
{
    static const struct {
        FfRole role;
        bool start_paused; /* -S */
        uint32_t flags;
        bool paused;
        FfSaid said; /* before migrate-incoming */
    } rows[] = {
        {FF_ROLE_SOURCE, false, 0, false},
        {FF_ROLE_SOURCE, true, 0, false},
        {FF_ROLE_SOURCE, false, FF_DRIVER_CLIENT_STOP, true},
        {FF_ROLE_SOURCE, true, FF_DRIVER_CLIENT_CONT, false},
        {FF_ROLE_DESTINATION, false, 0, false},
        {FF_ROLE_DESTINATION, true, 0, true},
        {FF_ROLE_DESTINATION, false, FF_DRIVER_CLIENT_STOP, true},
        {FF_ROLE_DESTINATION, true, FF_DRIVER_CLIENT_CONT, false},
        {FF_ROLE_DESTINATION, true, 0, false, FF_SAID_CONT},
        {FF_ROLE_DESTINATION, false, 0, true, FF_SAID_STOP},
        {FF_ROLE_DESTINATION, false, FF_DRIVER_CLIENT_CONT, false, FF_SAID_STOP},
        {FF_ROLE_SOURCE, false, 0, false, FF_SAID_STOP},
    };
    World w;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfStateHeader state = {.role = rows[i].role,
                               .phase = FF_PHASE_STOPPED,
                               .driver_flags = rows[i].flags,
                               .said = rows[i].said};

        world_begin(&w, state, rows[i].start_paused, NULL, NULL);
        g_assert_true(migration->config.start_paused == rows[i].paused);
        world_clear(&w);
    }
    world_init(&w, NULL, NULL);
    start_source(&w);
    command(&w, "{'execute':'stop'}"); /* QEMU's */
    sent(&w, "pass\n");
    g_assert_false(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    migration->holds = true;
    command(&w, "{'execute':'stop'}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    command(&w, "{'execute':'cont'}"); /* refused */
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    migration->holds = false;
    command(&w, "{'execute':'cont'}");
    g_assert_false(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    world_clear(&w);
}

/* Before the switch: the relay has passed what clients have said, and QEMU carried it out, as the
 * answer to a question after it says. */
static void test_words(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    command(&w, "{'execute':'stop'}");
    migration->ops.words(migration->ops.opaque);
    sent(&w, "pass\nsync words\n");
    ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 0, NULL, 0, -1);
    g_assert_true(migration->synced);
    g_assert_true(g_queue_is_empty(&w.questions));
    ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 1, NULL, 0, -1);
    g_assert_false(migration->words_heard);
    qemu_answers(&w, "query-status", "{'status':'paused'}");
    g_assert_true(migration->words_heard);
    finish(FF_STATUS_CANCELLED);
    g_string_truncate(w.out, 0);
    /* Of one that is over. */
    start_source(&w);
    ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 1, NULL, 0, -1);
    migration->ops.words(migration->ops.opaque);
    sent(&w, "sync words\n");
    qemu_answers(&w, "query-status", "{'status':'running'}");
    g_assert_false(migration->words_heard);
    ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 1, NULL, 0, -1);
    g_assert_true(g_queue_is_empty(&w.questions));
    ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 2, NULL, 0, -1);
    qemu_answers(&w, "query-status", "{'status':'running'}");
    g_assert_true(migration->words_heard);
    world_clear(&w);
}

/* stop while the guest is being stopped or started: what comes of it is known later. */
static void test_stop_later(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    migration->holds = migration->moves = true;
    command(&w, "{'execute':'stop','id':1}");
    command_of(&w, 1, "{'execute':'human-monitor-command','arguments':{'command-line':'s'}}");
    sent(&w, "");
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP); /* for the next engine */
    migration->moves = false;
    migration->ops.moved(migration->ops.opaque);
    sent(&w, "reply {\"return\": {}, \"id\": 1}\nreply {\"return\": \"\"}\n");
    /* It is QEMU's by then. */
    migration->moves = true;
    command(&w, "{'execute':'stop'}");
    sent(&w, "");
    migration->holds = migration->moves = false;
    migration->ops.moved(migration->ops.opaque);
    sent(&w, "pass\n");
    /* At a destination it may take as long as its source is away. */
    w.state->role = FF_ROLE_DESTINATION;
    migration->moves = true;
    command(&w, "{'execute':'stop'}");
    sent(&w, "");
    become(FF_STATUS_POSTCOPY_PAUSED);
    g_assert_nonnull(strstr(w.out->str, "reply {\"error\": {\"class\": \"GenericError\", "
                                        "\"desc\": \"QEMU is starting the guest, and waits"));
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'stop'}");
    g_assert_nonnull(strstr(w.out->str, "QEMU is starting the guest, and waits"));
    /* One that waits goes with its client. */
    become(FF_STATUS_POSTCOPY_ACTIVE);
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'stop'}");
    sent(&w, "");
    world_clear(&w);
}

/* Milliseconds until the next timer. */
static int next_timer(void)
{
    GMainContext *context = g_main_context_default();
    GPollFD fds[16];
    int priority, timeout;

    g_assert_true(g_main_context_acquire(context));
    g_main_context_prepare(context, &priority);
    g_main_context_query(context, priority, &timeout, fds, G_N_ELEMENTS(fds));
    g_main_context_release(context);
    return timeout;
}

/* The engine does not end while it waits for QEMU on its own account. */
static void test_own_call(void)
{
    static const char uri[] = "exec:true";
    World w;

    world_init(&w, uri, NULL);
    g_assert_cmpint(next_timer(), <=, (FF_DRIVER_LINGER + 2) * 1000);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 1, uri, strlen(uri), -1);
    sent(&w, "");
    g_assert_cmpint(next_timer(), ==, -1); /* nor does the question end before QEMU answers */
    qemu_answers(&w, "migrate-incoming", "{}");
    sent(&w, "reply\n"); /* QEMU listens */
    g_assert_cmpint(next_timer(), <=, (FF_DRIVER_LINGER + 2) * 1000);
    world_clear(&w);
}

/* QEMU takes its time, and the client has gone: the memory is dropped all the same. */
static void test_object_del(void)
{
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'object-del','arguments':{'id':'m'}}");
    g_assert_cmpint(next_timer(), ==, -1); /* no deadline */
    ff_driver_frame(w.driver, FF_LINK_CLIENT_GONE, 0, 0, "", 0, -1);
    qemu_answers(&w, "object-del", "{}");
    sent(&w, "other ram:m\n");
    g_assert_cmpstr(w.dropped, ==, "m");
    world_clear(&w);
}

/* Memory of a migration stays; other objects, and other memory, are QEMU's. */
static void test_object_del_migrating(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    command(&w, "{'execute':'object-del','arguments':{'id':'m'}}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"There's a migration "
             "process in progress\"}}\n");
    command(&w, "{'execute':'object-del','arguments':{'id':'secret0'}}");
    qemu_answers(&w, "object-del", "{}");
    sent(&w, "other ram:secret0\nreply {\"return\": {}}\n");
    world_clear(&w);
}

/* What only QEMU can read is not for it while a migration is under way. */
static void test_unread(void)
{
    static const char *const hmp[] = {
        "savevm/x", "cont/", "stop x", "migrate \\\"tcp:h:1", "migrate -x tcp:h:1",
    };
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'cont','id':'\\u0000'}");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'cont/'}}");
    sent(&w, "pass\npass\n");
    start_source(&w);
    migration->holds = true;
    command(&w, "{'execute':'cont','id':'\\u0000'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"The command could not be "
             "read while a migration is under way\"}}\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(hmp); i++) {
        g_autofree char *line =
            g_strdup_printf("{\"execute\":\"human-monitor-command\",\"arguments\":"
                            "{\"command-line\":\"%s\"}}",
                            hmp[i]);

        command(&w, line);
        g_assert_true(g_str_has_prefix(w.out->str, "reply {\"return\": \"Error: "));
        g_string_truncate(w.out, 0);
    }
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'\\u000bcont'}}");
    sent(&w, "reply {\"return\": \"Error: Migration is not finalized yet\\r\\n\"}\n");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'info nothing'}}");
    sent(&w, "pass\n");
    world_clear(&w);
}

/* What is under way cannot be adopted, or is not undone: this engine does not say that it is idle.
 */
static void test_fails(void)
{
    World w;

    refuse_start = true;
    world_begin(&w, (FfStateHeader){.role = FF_ROLE_SOURCE, .phase = FF_PHASE_STOPPED}, false, NULL,
                NULL);
    g_assert_cmpuint(w.failed, ==, 1);
    world_clear(&w);

    world_begin(&w, (FfStateHeader){.undo_len = 1}, false, NULL, NULL);
    g_assert_cmpuint(w.failed, ==, 0);
    g_string_truncate(w.out, 0);
    ff_driver_frame(w.driver, FF_LINK_REST, 0, 0, "", 0, -1);
    sent(&w, "");
    g_assert_cmpuint(w.failed, ==, 1);
    world_clear(&w);

    world_init(&w, NULL, NULL);
    ff_driver_frame(w.driver, FF_LINK_REST, 0, 0, "", 0, -1);
    sent(&w, "idle\n");
    g_assert_cmpuint(w.failed, ==, 0);
    world_clear(&w);
}

/* Another relay waits for this engine's end: huge pages are left, now or as soon as they would be
 * begun; what a peer is still to be told is not. */
static void test_hurried(void)
{
    static const struct {
        bool spare, before, idle;
    } rows[] = {
        {true, false, true},
        {true, true, true},
        {false, false, false},
        {false, true, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World w;

        world_init(&w, NULL, NULL);
        start_source(&w);
        migration->lives_on = true;
        migration->spare = rows[i].spare;
        FfMigrationOps ops = migration->ops;

        if (rows[i].before)
            ff_driver_frame(w.driver, FF_LINK_REST, 0, 0, "", 0, -1);
        finish(FF_STATUS_CANCELLED);
        g_string_truncate(w.out, 0);
        ff_driver_frame(w.driver, FF_LINK_REST, 0, 0, "", 0, -1);
        sent(&w, rows[i].idle ? "idle\n" : "");
        if (!rows[i].spare) {
            ops.parted(ops.opaque);
            g_assert_cmpint(next_timer(), <=, (FF_DRIVER_LINGER + 2) * 1000);
        }
        world_clear(&w);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/driver/hurried", test_hurried);
    g_test_add_func("/driver/refused", test_refused);
    g_test_add_func("/driver/refused/unasked", test_refused_unasked);
    g_test_add_func("/driver/refused/family", test_refused_family);
    g_test_add_func("/driver/refused/long", test_refused_long);
    g_test_add_func("/driver/refused/disk", test_refused_disk);
    g_test_add_func("/driver/refused/required", test_refused_required);
    g_test_add_func("/driver/capabilities/in-qemu", test_in_qemu);
    g_test_add_func("/driver/capabilities/in-qemu/migrate", test_in_qemu_migrate);
    g_test_add_func("/driver/capabilities/in-qemu/silent", test_in_qemu_silent);
    g_test_add_func("/driver/typed", test_typed);
    g_test_add_func("/driver/typed/given", test_typed_given);
    g_test_add_func("/driver/shared/farfault", test_shared);
    g_test_add_func("/driver/shared/own", test_shared_own);
    g_test_add_func("/driver/last-word", test_last_word);
    g_test_add_func("/driver/words", test_words);
    g_test_add_func("/driver/stop-later", test_stop_later);
    g_test_add_func("/driver/own-call", test_own_call);
    g_test_add_func("/driver/object-del", test_object_del);
    g_test_add_func("/driver/object-del/migrating", test_object_del_migrating);
    g_test_add_func("/driver/unread", test_unread);
    g_test_add_func("/driver/view", test_view);
    g_test_add_func("/driver/view/meanwhile", test_view_meanwhile);
    g_test_add_func("/driver/every-status", test_every_status);
    g_test_add_func("/driver/fails", test_fails);
    return g_test_run();
}
