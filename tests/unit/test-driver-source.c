/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver at a source: migrate, to an address or over an fd, by the engine or by QEMU; resume.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "net/frame.h"
#include "qapi/driver-private.h"
#include "qapi/json.h"
#include "tests/unit/driver-world.h"

static void test_source(void)
{
    World w;
    uint32_t latency = 5;

    world_init(&w, NULL, NULL);
    start_source(&w);
    g_assert_cmpstr(migration->config.uri, ==, "tcp:h:1");
    g_assert_cmpuint(migration->config.max_bandwidth, ==, 1000);
    become(FF_STATUS_SETUP); /* reported already */
    sent(&w, "");
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, "reply {\"return\": {\"status\": \"setup\"}}\n");
    become(FF_STATUS_ACTIVE);
    migration->ops.pass(1, migration->ops.opaque);
    sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n"
             "event \"event\": \"MIGRATION_PASS\", \"data\": {\"pass\": 1}}\n");
    command(&w, SET(CAP("events", "false")));
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    command(&w, "{'execute':'migrate-start-postcopy'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"There's a migration process in progress\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"There's a migration process in progress\"}}\n"
             "reply {\"return\": {}}\n");
    g_assert_true(migration->start_postcopy);
    migration->holds = true;
    command(&w, "{'execute':'cont'}");
    command(&w, "{'execute':'query-status'}");
    command(&w, "{'execute':'stop'}");
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':'c'}}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Migration is not finalized yet\"}}\n"
             "reply {\"return\": {\"status\": \"finish-migrate\", \"singlestep\": false, "
             "\"running\": false}}\n"
             "reply {\"return\": {}}\n"
             "reply {\"return\": \"Error: Migration is not finalized yet\\r\\n\"}\n");
    migration->info.latency[latency] = 3;
    migration->info.requests = 3;
    migration->info.downtime = 7;
    migration->info.total_time = 70;
    /* A client that acts on the last event is not told that it is under way. */
    become(FF_STATUS_COMPLETED);
    command(&w, "{'execute':'device_add','arguments':{'driver':'virtio-rng-pci'}}");
    command(&w, SET(CAP("events", "true")));
    sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n");
    finish(FF_STATUS_COMPLETED);
    sent(&w, "filter 2\npass\n");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_true(g_str_has_prefix(w.log, "farfault: migration source completed: total 70 ms, "
                                          "downtime 7 ms, "));
    /* From the state memfd, with what QEMU has against another one. */
    command(&w, "{'execute':'query-migrate'}");
    qemu_answers(&w, "query-migrate", "{'blocked-reasons':['because']}");
    g_assert_nonnull(strstr(w.out->str, "\"latency-us\": [[32, 3]]"));
    g_assert_nonnull(strstr(w.out->str, "\"blocked-reasons\": [\"because\"]"));
    world_clear(&w);
}

/* An upgrade is not called a migration. */
static void test_upgrade_summary(void)
{
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    migration->info.upgrade = true;
    migration->info.downtime = 7;
    migration->info.total_time = 70;
    become(FF_STATUS_COMPLETED);
    finish(FF_STATUS_COMPLETED);
    g_assert_true(g_str_has_prefix(w.log, "farfault: upgrade, old QEMU: completed: total 70 ms, "
                                          "downtime 7 ms, device state "));
    world_clear(&w);
}

#ifdef FF_FAULTS
/* QEMU 11.1 has what is left beside "ram" too, until it is over. */
static void test_remaining(void)
{
    static const struct {
        unsigned version;
        bool is_there;
    } rows[] = {{100002, false}, {110100, true}};

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World w;

        world_init(&w, NULL, NULL);
        qemu_version = rows[i].version;
        start_source(&w);
        migration->info.ram_remaining = 77;
        become(FF_STATUS_POSTCOPY_ACTIVE);
        g_string_truncate(w.out, 0);
        command(&w, "{'execute':'query-migrate'}");
        g_assert_cmpint(strstr(w.out->str, "\"remaining\": 77, \"setup-time\"") != NULL, ==,
                        rows[i].is_there);
        become(FF_STATUS_COMPLETED);
        g_string_truncate(w.out, 0);
        command(&w, "{'execute':'query-migrate'}");
        g_assert_null(strstr(w.out->str, "\"remaining\": 77, \"setup-time\""));
        finish(FF_STATUS_COMPLETED);
        qemu_version = 0;
        world_clear(&w);
    }
}
#endif

static const FfTotals *totals(const World *w)
{
    return &w->state->totals.copy[w->state->totals.turns & 1];
}

/* What is counted is whole after each step, and continues where an engine has died. */
static void test_totals(void)
{
    World w;
    const FfUseTotals *use;

    world_init(&w, NULL, NULL);
    g_assert_cmpuint(totals(&w)->running, ==, 0);
    start_source(&w);
    use = &totals(&w)->use[FF_USE_OUTGOING];
    g_assert_cmpuint(totals(&w)->running, ==, FF_USE_OUTGOING + 1);
    g_assert_cmpstr(totals(&w)->status, ==, "setup");
    migration->info.bytes_wire = 1000;
    migration->info.latency[3] = 2;
    migration->info.latency_mean_us = 10;
    migration->info.ram_remaining = 77;
    become(FF_STATUS_ACTIVE);
    g_assert_cmpstr(totals(&w)->status, ==, "active");
    g_assert_cmpuint(totals(&w)->use[FF_USE_OUTGOING].bytes, ==, 0); /* no PING yet */
    uint32_t turns = w.state->totals.turns;
    ff_driver_look(w.driver);
    ff_driver_look(w.driver); /* the same numbers are not added twice */
    /* A reader that was kept from looking meanwhile sees that its copy has been written to. */
    g_assert_cmpuint(w.state->totals.turns, ==, turns + 2);
    use = &totals(&w)->use[FF_USE_OUTGOING];
    g_assert_cmpuint(use->bytes, ==, 1000);
    g_assert_cmpuint(use->latency[3], ==, 2);
    g_assert_cmpuint(use->latency_sum_us, ==, 20);
    g_assert_cmpuint(totals(&w)->ram_remaining, ==, 77);
    become(FF_STATUS_POSTCOPY_PAUSED);
    become(FF_STATUS_POSTCOPY_PAUSED);
    become(FF_STATUS_POSTCOPY_RECOVER);
    become(FF_STATUS_POSTCOPY_PAUSED);
    migration->info.bytes_wire = 1500;
    migration->info.downtime = 7;
    become(FF_STATUS_COMPLETED);
    finish(FF_STATUS_COMPLETED);
    use = &totals(&w)->use[FF_USE_OUTGOING];
    g_assert_cmpuint(totals(&w)->running, ==, 0);
    g_assert_cmpuint(use->pauses, ==, 2);
    g_assert_cmpuint(use->bytes, ==, 1500);
    g_assert_cmpuint(use->stopped_ms, ==, 7);
    g_assert_cmpuint(use->ended[FF_END_COMPLETED], ==, 1);
    g_assert_cmpuint(use->ended[FF_END_FAILED], ==, 0);
    FfStateHeader state = *w.state;
    world_clear(&w);

    /* The next one's engine has died after it had counted 300 bytes. */
    uint32_t which = state.totals.turns & 1;
    state.totals.copy[which].running = FF_USE_OUTGOING + 1;
    state.totals.copy[which].use[FF_USE_OUTGOING].bytes = 1800;
    state.phase = FF_PHASE_SETUP;
    state.role = FF_ROLE_SOURCE;
    world_begin(&w, state, false, NULL, NULL);
    migration->info.bytes_wire = 100;
    ff_driver_look(w.driver);
    g_assert_cmpuint(totals(&w)->use[FF_USE_OUTGOING].bytes, ==, 1900);
    become(FF_STATUS_FAILED);
    finish(FF_STATUS_FAILED);
    use = &totals(&w)->use[FF_USE_OUTGOING];
    g_assert_cmpuint(use->bytes, ==, 1900);
    g_assert_cmpuint(use->ended[FF_END_COMPLETED], ==, 1);
    g_assert_cmpuint(use->ended[FF_END_FAILED], ==, 1);
    world_clear(&w);
}

/* Of what is over nobody is told that it is under way, whoever has died at its end. */
static void test_totals_settled(void)
{
    static const struct {
        const char *info;
        unsigned completed, failed;
    } row[] = {
        {"{\"status\": \"completed\"}", 1, 0},
        {"{\"status\": \"failed\"}", 0, 1},
        {"", 0, 0}, /* nobody knows how it ended */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        FfStateHeader state = {.info_len = strlen(row[i].info)};
        World w;

        memcpy(state.info, row[i].info, state.info_len);
        state.totals.copy[0].running = FF_USE_SNAPSHOT + 1;
        strcpy(state.totals.copy[0].status, "active");
        state.totals.copy[0].use[FF_USE_SNAPSHOT].bytes = 5;
        world_begin(&w, state, false, NULL, NULL);
        g_assert_cmpuint(totals(&w)->running, ==, 0);
        g_assert_cmpstr(totals(&w)->status, ==, "");
        const FfUseTotals *use = &totals(&w)->use[FF_USE_SNAPSHOT];
        g_assert_cmpuint(use->bytes, ==, 5);
        g_assert_cmpuint(use->ended[FF_END_COMPLETED], ==, row[i].completed);
        g_assert_cmpuint(use->ended[FF_END_FAILED], ==, row[i].failed);
        world_clear(&w);
    }
}

/* What the engine does not do goes to QEMU, postcopy capabilities first. */
static void test_native(void)
{
    static const char *const foreign[] = {
        "[" CAP("postcopy-ram", "false") "," CAP("x-colo", "true") "]",
        "[" CAP("xbzrle", "true") "," CAP("multifd", "true") "]",
    };
    World w;

    world_init(&w, NULL, NULL);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    sent(&w, "pass\n"); /* no postcopy */
    set_postcopy(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(foreign); i++) {
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", foreign[i]);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        sent(&w, "pass\n");
    }
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", "{'tls-creds':'tls0'}");
    qemu_answers(&w, "qom-list", "[{'name':'tls0','type':'child<tls-creds-anon>'}]");
    qemu_answers(&w, "migrate-set-capabilities", "!Postcopy is not supported");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Postcopy is not supported\"}}\n");
    command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    w.state->policy = FF_POLICY_NEVER;
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_null(migration);
    world_clear(&w);
}

/* What QEMU says of the objects that the TLS parameters name, and what becomes of it. */
static const struct {
    const char *parameters, *objects;
    const char *properties[8]; /* answers in the order of the questions */
    const char *error;
} tls_rows[] = {

    {"{'tls-creds':'t'}", "[]", {NULL}, "No TLS credentials with id 't'"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<secret>'}]",
     {"''", "'/nowhere'", "'raw'", "''", "''"},
     "Object with id 't' is not TLS credentials"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'server'", "'/nowhere'", "''", "''"},
     "Expected TLS credentials for a client endpoint"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'client'", "'/nowhere'", "''", "''"},
     "Unable to access credentials /nowhere/keys.psk: No such file or directory"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-psk>'}]",
     {"'client'", "'/nowhere'", "'NORMAL:+NULL'", "''"},
     "Unable to set TLS session priority NORMAL:+NULL: farfault does not know '+NULL'; it takes "
     "NORMAL, SECURE128, SECURE192, SECURE256 and +VERS-/-VERS- of TLS1.2 and TLS1.3"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-x509>'}]",
     {"'client'", "'/nowhere'", "''", "true", "true", "'s'"},
     "No secret with id 's'"},
    {"{'tls-creds':'t'}",
     "[{'name':'t','type':'child<tls-creds-x509>'}]",
     {"'client'", "'/nowhere'", "''", "!no such property"},
     "the TLS object /objects/t cannot be read from QEMU: no such property"},
};

static void test_tls(void)
{
    World w;

    world_init(&w, NULL, NULL);
    set_postcopy(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(tls_rows); i++) {
        g_autofree char *line =
            g_strdup_printf("reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n",
                            tls_rows[i].error);

        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", tls_rows[i].parameters);
        qemu_answers(&w, "qom-list", tls_rows[i].objects);
        for (unsigned j = 0; j < 8 && tls_rows[i].properties[j]; j++) {
            qemu_answers(&w, "qom-get", tls_rows[i].properties[j]);
        }
        sent(&w, line);
    }
    g_assert_null(migration);
    world_clear(&w);
}

static void to_fd_answer(World *w, int fd)
{
    set_postcopy(w);
    command(w, "{'execute':'migrate','arguments':{'uri':'fd:mig'}}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    sent(w, "take-fd mig\n");
    ff_driver_frame(w->driver, FF_LINK_FD_REPLY, 0, 1, "", 0, fd);
}

static char *refusal; /* g_free */
static int given = -1;

static void uffd_came(FfCall *call, JsonNode *result, const GError *error)
{
    refusal = error ? g_strdup(error->message) : NULL;
    given = call->fd;
    call->fd = -1;
    ff_call_return(call, NULL);
}

static void expect_refusal(const char *what)
{
    g_assert_cmpstr(refusal, ==, what);
    g_assert_cmpint(given, ==, -1);
    g_clear_pointer(&refusal, g_free);
}

/* The userfaultfd for synchronous write protection: of an older relay, of one that has none, of one
 * that has it. */
static void test_uffd(void)
{
    World w;

    world_init(&w, NULL, NULL);
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    expect_refusal(
        "no live snapshots: an older farfault has started this guest; they need it to be "
        "started again");
    sent(&w, "");
    world_clear(&w);
    world_lends = true;
    world_init(&w, NULL, NULL);
    world_lends = false;
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    sent(&w, "take-uffd protect\n");
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 1, "not here", strlen("not here"), -1);
    expect_refusal("not here");
    ff_call_take_uffd(ff_call_new_own(w.driver), uffd_came);
    sent(&w, "take-uffd protect\n");
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 2, "", 0, fd);
    g_assert_null(refusal);
    g_assert_cmpint(given, ==, fd);
    ff_driver_give_uffd(w.driver, given);
    given = -1;
    sent(&w, "give-uffd protect\n");
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    world_clear(&w);
}

static void test_fd(void)
{
    int pair[2], ends[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    g_assert_cmpint(pipe(ends), ==, 0);
    world_init(&w, NULL, NULL);
    to_fd_answer(&w, pair[0]);
    qemu_answers(&w, "query-status", "{'status':'running'}");
    qemu_answers(&w, "query-migrate", "{}");
    sent(&w, "inject {\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"mig\"}}\n");
    ff_driver_frame(w.driver, FF_LINK_INJECT_REPLY, 0, 2, "{\"return\": {}}", 14, -1);
    g_assert_nonnull(strstr(w.out->str, "reply {\"return\": {}}\n"));
    g_assert_cmpint(migration->config.fd, ==, pair[0]);
    world_clear(&w);
    /* A pipe (virsh save) is QEMU's: it still has its own copy. */
    world_init(&w, NULL, NULL);
    to_fd_answer(&w, ends[1]);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    g_assert_cmpint(fcntl(ends[1], F_GETFD), ==, -1); /* ours is closed */
    world_clear(&w);
    close(pair[1]);
    close(ends[0]);
}

/* The migration is QEMU's, over PEER. */
static void hand_back(World *w, const FfPlainPeer *peer)
{
    FfMigration *m = migration;

    migration = NULL;
    m->ops.plain(peer, m->ops.opaque);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static void give_back(World *w, const FfPlainPeer *peer)
{
    hand_back(w, peer);
    qemu_answers(w, "migrate-set-capabilities", "{}");
}

/* QEMU refuses to migrate over the socket that it was given: then it is closed, at both places. */
static void test_fd_refused(void)
{
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, NULL, NULL);
    start_source(&w);
    migration->info.bytes_wire = 100;
    ff_driver_look(w.driver);
    give_back(&w, &(FfPlainPeer){.refused = "why", .fd = pair[0]});
    /* It was none of the engine's; what was counted stays, as counters do not fall. */
    g_assert_cmpuint(totals(&w)->running, ==, 0);
    g_assert_cmpuint(totals(&w)->use[FF_USE_OUTGOING].bytes, ==, 100);
    for (unsigned e = 0; e < FF_ENDS; e++) {
        g_assert_cmpuint(totals(&w)->use[FF_USE_OUTGOING].ended[e], ==, 0);
    }
    qemu_answers(&w, "getfd", "{}");
    qemu_answers(&w, "migrate", "!not now");
    qemu_answers(&w, "closefd", "{}");
    g_assert_cmpint(fcntl(pair[0], F_GETFD), ==, -1);
    g_assert_cmpstr(w.log, ==, "farfault: migration source failed: not now");
    close(pair[1]);
    world_clear(&w);
}

/* Devices that are other processes: QEMU's own postcopy is not for them. */
static void test_devices(gconstpointer data)
{
    bool postcopy = GPOINTER_TO_INT(data);
    World w;

    world_init(&w, NULL, NULL);
    start_source(&w);
    if (!postcopy) {
        w.state->client_flags &= ~FF_CLIENT_CAP_POSTCOPY_RAM;
    }
    w.driver->config.follows_devices = true;
    hand_back(&w, &(FfPlainPeer){.refused = "the back-end is not connected", .fd = -1});
    if (postcopy) {
        g_assert_null(g_queue_peek_head(&w.questions));
        g_assert_nonnull(strstr(w.log, "migration source failed: the back-end is not connected: by "
                                       "postcopy QEMU itself loses guests"));
    } else {
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        qemu_answers(&w, "migrate", "{}");
    }
    world_clear(&w);
}

typedef struct {
    const char *name;
    const char
        *answers[4];  /* to what is asked for such devices; NULL: that is not asked any more */
    const char *part; /* of the answer; NULL: QEMU gets the migration */
} OthersRow;

#define OTHER "[{'name':'d','type':'child<vhost-user-fs-pci>'}]"
static const OthersRow others_rows[] = {
    {"none", {"[{'name':'d','type':'child<virtio-net-pci>'}]", "[]", "[]", "''"}, NULL},
    {"plugged", {OTHER, "[]", "[]", "''"}, "QEMU itself loses guests"},
    {"anonymous", {"[]", OTHER, "[]", "''"}, "QEMU itself loses guests"},
    {"object", {"[]", "[]", "[{'type':'child<cryptodev-vhost-user>'}]", "''"}, "loses guests"},
    {"net", {"[]", "[]", "[]", "'n: index=0,type=vhost-user,x'"}, "QEMU itself loses guests"},
    {"unsaid/plugged", {"!QEMU has not answered"}, "QEMU has not answered"},
    {"unsaid/net", {"[]", "[]", "[]", "!QEMU has not answered"}, "QEMU has not answered"},
};

/* Of a guest that is QEMU's from the start nobody has looked at the devices that were plugged. */
static void test_others(gconstpointer data)
{
    const OthersRow *row = data;
    World w;

    world_init(&w, NULL, "memory is a file");
    w.driver->config.follows_plugged = true;
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_RAM;
    command(&w, "{'execute':'migrate','arguments':{'uri':'unix:b'},'id':2}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    for (unsigned i = 0; i < G_N_ELEMENTS(row->answers) && row->answers[i]; i++) {
        qemu_answers(&w, i < 3 ? "qom-list" : "human-monitor-command", row->answers[i]);
    }
    if (row->part) {
        g_assert_nonnull(strstr(w.out->str, row->part));
    } else {
        qemu_answers(&w, "migrate-set-capabilities", "{}");
        g_assert_nonnull(strstr(w.out->str, "pass"));
    }
    g_assert_null(g_queue_peek_head(&w.questions));
    world_clear(&w);
}

/* The same, as is known before anybody is spoken to. */
static void test_devices_refused(void)
{
    World w;

    world_init(&w, NULL, "memory is a file");
    w.driver->config.follows_devices = true;
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_RAM;
    command(&w, "{'execute':'migrate','arguments':{'uri':'unix:b'},'id':2}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    g_assert_null(g_queue_peek_head(&w.questions));
    g_assert_nonnull(strstr(w.out->str, "memory is a file: by postcopy QEMU itself loses guests"));
    world_clear(&w);
}

/* QEMU's channels to a peer without farfault come by a socket with a name, which does not outlive
 * an engine that ends together with its QEMU. */
static void test_private_name(void)
{
    g_autoptr(GBytes) opening = g_bytes_new_static("x", 1);
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, NULL, NULL);
    start_source(&w);
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_PREEMPT;
    give_back(&w, &(FfPlainPeer){.fd = -1,
                                 .channel = ff_channel_new(pair[0], FF_CHANNEL_MAIN),
                                 .opening = opening});
    const Asked *asked = g_queue_peek_head(&w.questions);
    g_autofree char *path =
        g_strdup(json_object_get_string_member(asked->args, "uri") + strlen("unix:"));
    g_autofree char *folder = g_path_get_dirname(path);

    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    ff_driver_last_words(w.driver);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
    qemu_answers(&w, "migrate", "!QEMU has ended");
    close(pair[1]);
    world_clear(&w);
}

/* ---- until QEMU's stream has begun ----------------------------------------------------------- */

typedef struct {
    World w;
    uint8_t opening[FF_PROLOGUE_MAX];
    size_t len;
    int ours, peer; /* of the connection: the engine's end; a number only */
} Begin;

static void begin_init(Begin *b, bool switches)
{
    uint8_t configuration[FF_CONFIGURATION_MAX];
    size_t n = ff_configuration_encode(configuration, "pc-i440fx-7.2", NULL);
    int pair[2];

    b->len = ff_prologue_encode(b->opening, configuration, n);
    g_autoptr(GBytes) opening = g_bytes_new(b->opening, b->len);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    b->ours = pair[0];
    b->peer = pair[1];
    world_init(&b->w, NULL, NULL);
    start_source(&b->w);
    if (!switches) {
        b->w.state->client_flags = 0;
    }
    give_back(&b->w, &(FfPlainPeer){.fd = -1,
                                    .channel = ff_channel_new(b->ours, FF_CHANNEL_MAIN),
                                    .opening = opening,
                                    .postcopy = true});
    qemu_answers(&b->w, "getfd", "{}");
    g_string_truncate(b->w.out, 0);
}

/* QEMU's stream begins, and the peer has some of it: it was found to be right. */
static void begin_stream(Begin *b)
{
    uint8_t byte;

    g_assert_cmpint(write(b->w.given, b->opening, b->len), ==, b->len);
    g_assert_cmpint(read(b->peer, &byte, 1), ==, 1);
}

static void begin_clear(Begin *b)
{
    world_clear(&b->w);
    close(b->peer);
}

#ifdef FF_FAULTS
static int be_impatient(const char *place, const char *name)
{
    return strcmp(name, "begin") ? 0 : EIO;
}

/* It began in time, and the main loop comes to look when the time is over. */
static void test_begin_late(void)
{
    Begin b;

    begin_init(&b, true);
    ff_fault_hook(be_impatient);
    qemu_answers(&b.w, "migrate", "{}");
    ff_fault_hook(NULL);
    begin_stream(&b);
    while (g_queue_is_empty(&b.w.questions)) {
        g_assert_true(g_main_context_iteration(NULL, FALSE));
    }
    qemu_answers(&b.w, "migrate-start-postcopy", "{}");
    begin_clear(&b);
}
#endif

/* A client that asks for no switch does not wait for it, nor after its own request for it. */
static void test_begin_waits(void)
{
    Begin b;

    begin_init(&b, true);
    qemu_answers(&b.w, "migrate", "{}");
    g_string_truncate(b.w.out, 0);
    command_of(&b.w, 1, "{'execute':'migrate-start-postcopy'}");
    command_of(&b.w, 1, "{'execute':'migrate_cancel'}");
    sent(&b.w, "reply {\"return\": {}}\npass\n");
    command_of(&b.w, 2, "{'execute':'query-migrate'}");
    qemu_answers(&b.w, "query-migrate", "{'status':'setup'}");
    g_string_truncate(b.w.out, 0);
    command_of(&b.w, 2, "{'execute':'migrate_cancel'}");
    sent(&b.w, "pass\n");
    command_of(&b.w, 3,
               "{'execute':'human-monitor-command','arguments':{'command-line':'migrate_cancel'}}");
    sent(&b.w, "pass\n");
    begin_clear(&b);
}

/* Until QEMU has answered it would cancel what was before; then it does. */
static void test_begin_early(void)
{
    Begin b;

    begin_init(&b, true);
    command_of(&b.w, 1, "{'execute':'migrate-start-postcopy'}");
    command_of(&b.w, 1, "{'execute':'migrate_cancel'}");
    sent(&b.w, "reply {\"return\": {}}\n");
    qemu_answers(&b.w, "migrate", "{}");
    sent(&b.w, "filter 0\npass\n");
    begin_clear(&b);
}

/* Two that wait when the engine ends. The one that came out-of-band is in no queue (ASan tells). */
static void test_begin_end(void)
{
    Begin b;

    begin_init(&b, true);
    qemu_answers(&b.w, "migrate", "{}");
    g_string_truncate(b.w.out, 0);
    command_of(&b.w, 1, "{'exec-oob':'migrate-pause'}");
    command_of(&b.w, 2, "{'execute':'migrate-pause'}");
    sent(&b.w, "");
    begin_clear(&b);
}

/* Nor does anybody where no switch can be asked for. */
static void test_begin_precopy(void)
{
    Begin b;

    begin_init(&b, false);
    qemu_answers(&b.w, "migrate", "{}");
    g_string_truncate(b.w.out, 0);
    command_of(&b.w, 1, "{'execute':'migrate-continue','arguments':{'state':'device'}}");
    sent(&b.w, "pass\n");
    begin_clear(&b);
}

/* It began, and has ended, before QEMU has said so: a switch then would lose the guest, whenever it
 * was asked for. */
static void test_begin_ended(void)
{
    Begin b;

    begin_init(&b, true);
    begin_stream(&b);
    shutdown(b.peer, SHUT_RDWR);
    shutdown(b.w.given, SHUT_RDWR);
    while (fcntl(b.ours, F_GETFD) >= 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    command_of(&b.w, 1, "{'execute':'migrate-start-postcopy'}");
    qemu_answers(&b.w, "migrate", "{}");
    g_assert_true(g_queue_is_empty(&b.w.questions));
    begin_clear(&b);
}

/* A switch that was answered before QEMU has said that it has begun: the next engine asks for it
 * where QEMU has its own connection. One of ours is over. */
static void test_begin_next(gconstpointer data)
{
    const bool refused = GPOINTER_TO_INT(data);
    FfStateHeader left;
    Begin b;
    World w;

    if (refused) {
        world_init(&b.w, NULL, NULL);
        start_source(&b.w);
        give_back(&b.w, &(FfPlainPeer){.refused = "why", .fd = -1});
    } else {
        begin_init(&b, true);
    }
    g_string_truncate(b.w.out, 0);
    command_of(&b.w, 1, "{'execute':'migrate-start-postcopy'}");
    sent(&b.w, "reply {\"return\": {}}\n");
    left = *b.w.state; /* the engine dies here */
    left.role = FF_ROLE_SOURCE;
    world_begin(&w, left, false, NULL, NULL);
    qemu_answers(&w, "query-migrate", "{'status':'active'}");
    if (refused) {
        qemu_answers(&w, "migrate-start-postcopy", "{}");
    }
    g_assert_false(w.state->driver_flags & (FF_DRIVER_GIVING_BACK | FF_DRIVER_SWITCH_KEPT));
    world_clear(&w);
    qemu_answers(&b.w, "migrate", "!QEMU has ended");
    if (refused) {
        world_clear(&b.w);
    } else {
        qemu_answers(&b.w, "closefd", "{}");
        begin_clear(&b);
    }
}

#ifdef FF_FAULTS
/* How QEMU's own migration stands is seen by others: by its events, by what it answers at a PING
 * where there are none, and no longer than an engine sees it, but for its end. */
static void test_carried(void)
{
    Begin b;

    begin_init(&b, false);
    const FfStateTotals *t = &b.w.state->totals;
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_GIVEN);
    ff_driver_look(b.w.driver); /* QEMU has not begun */
    qemu_answers(&b.w, "migrate", "{}");
    ff_driver_look(b.w.driver);
    ff_driver_look(b.w.driver); /* not asked twice */
    qemu_answers(&b.w, "query-migrate", "{'status':'active'}");
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_PRECOPY);
    ff_driver_qemu_event(b.w.driver, "MIGRATION", "postcopy-device"); /* QEMU 10.2 and newer */
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_SWITCHED);
    ff_driver_qemu_event(b.w.driver, "MIGRATION", "postcopy-active");
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_SWITCHED);
    ff_driver_look(b.w.driver);
    qemu_answers(&b.w, "query-migrate", "!it waits for a page");
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_SWITCHED);
    ff_driver_qemu_event(b.w.driver, "MIGRATION", "postcopy-paused");
    ff_carried_rest(&b.w.state->totals);
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_PAUSED);
    ff_driver_qemu_event(b.w.driver, "MIGRATION", "postcopy-recover");
    ff_carried_rest(&b.w.state->totals);
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_GIVEN);
    ff_driver_qemu_event(b.w.driver, "MIGRATION", "completed");
    g_assert_cmpuint(ff_carried(t), ==, FF_CARRIED_COMPLETED);
    begin_clear(&b);
}
#endif

/* A switch that was answered is none of a later migration of QEMU's own: QEMU did not answer when
 * it was asked what became of the one that it was for. */
static void test_begin_later(void)
{
    FfStateHeader left = {.role = FF_ROLE_SOURCE,
                          .client_flags = FF_CLIENT_CAP_POSTCOPY_RAM,
                          .driver_flags = FF_DRIVER_GIVING_BACK | FF_DRIVER_SWITCH_KEPT};
    World w;

    world_begin(&w, left, false, NULL, NULL);
    qemu_answers(&w, "query-migrate", "!QEMU does not answer");
    command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "pass\n");
    left = *w.state;
    world_clear(&w);
    world_begin(&w, left, false, NULL, NULL);
    qemu_answers(&w, "query-migrate", "{'status':'active'}");
    world_clear(&w); /* nothing else is asked */
}

static void test_blocked(void)
{
    static const struct {
        const char *status, *info, *desc;
    } rows[] = {
        {"{'status':'inmigrate'}", NULL, "Guest is waiting for an incoming migration"},
        {"{'status':'postmigrate'}", NULL,
         "Can't migrate the vm that was paused due to previous migration"},
        {"{'status':'running'}", "{'blocked-reasons':['b','a']}", "a"},
        {"{'status':'running'}", "{'blocked-reasons':['a','non-migratable device: /x']}",
         "State blocked by non-migratable device '/x'"},
        {"!gone", NULL, "gone"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *expected = g_strdup_printf(
            "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"%s\"}}\n", rows[i].desc);
        World w;

        world_init(&w, NULL, NULL);
        set_postcopy(&w);
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "query-status", rows[i].status);
        if (rows[i].info) {
            qemu_answers(&w, "query-migrate", rows[i].info);
        }
        sent(&w, expected);
        world_clear(&w);
    }
}

static void test_start_fails(void)
{
    World w;

    world_init(&w, NULL, NULL);
    set_postcopy(&w);
    refuse_start = true;
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(&w, "query-status", "{'status':'running'}");
    qemu_answers(&w, "query-migrate", "{}");
    sent(&w, "filter 3\nfilter 0\n"
             "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Connection refused\"}}\n");
    command(&w, "{'execute':'query-migrate'}");
    qemu_answers(&w, "query-migrate", "{}");
    g_assert_nonnull(strstr(w.out->str, "\"error-desc\": \"Connection refused\""));
    world_clear(&w);
}

static void await_paused(World *w)
{
    wait_sent(w);
    sent(w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-paused\"}}\n");
}

static void says(World *w, unsigned mon, const char *status)
{
    command_of(w, mon, "{'execute':'query-migrate'}");
    g_assert_true(g_str_has_prefix(w->out->str, "reply "));
    g_assert_nonnull(strstr(w->out->str, status));
    g_assert_null(strstr(w->out->str, "event"));
    g_string_truncate(w->out, 0);
}

/* The engine dies right behind the switch: its client may have heard of that a moment ago, and asks
 * once more. The next one says no pause before it has heard the answer. */
static void test_kept(gconstpointer data)
{
    const bool looked = GPOINTER_TO_INT(data);
    FfStateHeader left = {.role = FF_ROLE_SOURCE,
                          .phase = FF_PHASE_STOPPED,
                          .client = 1,
                          .driver_flags = FF_DRIVER_EVENTS | FF_DRIVER_SWITCHED |
                                          (looked ? FF_DRIVER_FOLLOWED : 0)};
    World w;

    world_begin(&w, left, false, NULL, NULL);
    g_string_truncate(w.out, 0);
    migration->info.status = FF_STATUS_POSTCOPY_PAUSED; /* and has yet to say so */
    says(&w, 0, "postcopy-active");
    become(FF_STATUS_POSTCOPY_PAUSED);
    sent(&w, "");
    says(&w, 0, "postcopy-active");
    says(&w, 1, "postcopy-paused");
    says(&w, 0, "postcopy-active");
    await_paused(&w);
    says(&w, 0, "postcopy-paused");
    left = *w.state;
    world_clear(&w);

    /* The one after that need not keep what was said. */
    world_begin(&w, left, false, NULL, NULL);
    g_string_truncate(w.out, 0);
    become(FF_STATUS_POSTCOPY_PAUSED);
    await_paused(&w);
    says(&w, 0, "postcopy-paused");
    world_clear(&w);
}

/* Pause, and resume by a URI; QEMU's version decides which statuses the client knows. */
static void test_resume(void)
{
    static const struct {
        const char *version;
        bool setup;
    } rows[] = {
        {"{'qemu':{'major':7,'minor':2,'micro':22},'package':''}", false},
        {"{'qemu':{'major':10,'minor':0,'micro':2},'package':''}", true},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        World w;

        world_init(&w, NULL, NULL);
        start_source(&w);
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:2','resume':true}}");
        sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                 "\"Cannot resume if there is no paused migration\"}}\n");
        /* The switch is told first, the pause when the client has continued. */
        become(FF_STATUS_POSTCOPY_PAUSED);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-active\"}}\n");
        /* A client that only watches has not, and hears the truth. */
        says(&w, 1, "postcopy-paused");
        says(&w, 0, "postcopy-active");
        says(&w, 0, "postcopy-active");
        await_paused(&w);
        says(&w, 0, "postcopy-paused");
        command(&w, "{'execute':'migrate-recover','arguments':{'uri':'tcp:h:2'}}");
        command(&w, "{'execute':'migrate','arguments':{'uri':'exec:cat','resume':true}}");
        sent(&w,
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Migrate recover can only be run when postcopy is paused.\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": \"a paused migration "
             "continues over tcp:HOST:PORT, unix:PATH or fd:NAME, or at the destination from its "
             "source's dump (file:DIRECTORY), only\"}}\n");
        command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:2','resume':true}}");
        qemu_answers(&w, "query-version", rows[i].version);
        g_assert_cmpstr(migration->resumed_at, ==, "tcp:h:2");
        /* Answered when the destination has agreed. */
        sent(&w, "");
        become(FF_STATUS_POSTCOPY_RECOVER);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-recover\"}}\n");
        migration->ops.sync(migration->ops.opaque);
        sent(&w, "sync\n");
        g_assert_false(migration->synced);
        ff_driver_frame(w.driver, FF_LINK_SYNCED, 0, 0, NULL, 0, -1);
        g_assert_true(migration->synced);
        become(FF_STATUS_POSTCOPY_ACTIVE);
        sent(&w, "event \"event\": \"MIGRATION\", \"data\": {\"status\": \"postcopy-active\"}}\n"
                 "reply {\"return\": {}}\n");
        g_assert_true(migration->recover_setup == rows[i].setup);
        finish(FF_STATUS_COMPLETED);
        world_clear(&w);
    }
}

/* Two clients begin a migration at once: one of them is late, whichever way QEMU is to go. */
static void test_two(void)
{
    static const char *const late = "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                                    "\"There's a migration process in progress\"}}\n";
    static const char *const lines[] = {
        "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}",
        "{'execute':'migrate','arguments':{'uri':'exec:cat'}}",
    };
    World w;

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        bool native = i == 1;

        world_init(&w, NULL, NULL);
        set_postcopy(&w);
        command(&w, lines[0]);
        qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
        qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
        qemu_answers(&w, "query-status", "{'status':'running'}");
        ff_driver_frame(w.driver, FF_LINK_COMMAND, 1, ++w.seq, lines[i], strlen(lines[i]), -1);
        qemu_answers(&w, "query-migrate", "{}");
        g_assert_nonnull(migration);
        g_string_truncate(w.out, 0);
        if (native) {
            qemu_answers(&w, "migrate-set-capabilities", "{}");
        } else {
            qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
            qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
            qemu_answers(&w, "query-status", "{'status':'running'}");
            qemu_answers(&w, "query-migrate", "{}");
        }
        sent(&w, late);
        world_clear(&w);
    }
}

/* ---- what is left of a migration that failed ------------------------------------------------- */

typedef struct {
    int ready, end; /* eventfds */
} Reader;

static gpointer read_return_path(gpointer opaque)
{
    Reader *r = opaque;
    eventfd_t n;

    prctl(PR_SET_NAME, "return path");
    g_assert_cmpint(eventfd_write(r->ready, 1), ==, 0);
    g_assert_cmpint(eventfd_read(r->end, &n), ==, 0);
    return NULL;
}

typedef struct {
    const char *name, *info;
    unsigned version;
    bool ends, asks, waits;
    int pidfd; /* why the kernel has none of that thread; 0: it may have one */
} LateRow;

static const LateRow late_rows[] = {
    {"failed", "{'status':'failed'}", FF_QEMU_8_1, .ends = true, .asks = true, .waits = true},
    {"cancelled", "{'status':'cancelled'}", 0, .ends = true, .asks = true, .waits = true},
    {"cancelling", "{'status':'cancelling'}", 0, .ends = true, .asks = true, .waits = true},
    {"never", "{'status':'failed'}", 0, .asks = true, .waits = true},
    {"active", "{'status':'active'}", 0, .asks = true},
    {"newer", NULL, FF_QEMU_8_2},
#ifdef FF_FAULTS
    {"old-kernel", "{'status':'failed'}", 0, .ends = true, .asks = true, .waits = true,
     .pidfd = EINVAL},
    {"old-kernel-never", "{'status':'failed'}", 0, .asks = true, .waits = true, .pidfd = EINVAL},
    {"gone", "{'status':'failed'}", 0, .asks = true, .pidfd = ESRCH},
#endif
};

#ifdef FF_FAULTS
static int late_pidfd;
static bool late_stayed;

static int watch_late(const char *place, const char *name)
{
    late_stayed |= !strcmp(name, "return-path-stays");
    return strcmp(name, "pidfd-open-thread") ? 0 : late_pidfd;
}
#endif

/* The thread of an older QEMU that has read the last one's return path must run first; but what
 * it reads may be of a migration that is under way, and QEMU is not refused what it takes. */
static void test_late(gconstpointer data)
{
    const LateRow *row = data;
    Reader r = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
    GThread *thread = g_thread_new("reader", read_return_path, &r);
    eventfd_t n;
    World w;

    g_assert_cmpint(eventfd_read(r.ready, &n), ==, 0);
#ifdef FF_FAULTS
    late_pidfd = row->pidfd;
    late_stayed = false;
    ff_fault_hook(watch_late);
#endif
    qemu_version = row->version;
    world_pid = getpid();
    world_init(&w, NULL, NULL);
    world_pid = 0;
    set_postcopy(&w);
    command(&w, "{'execute':'migrate','arguments':{'uri':'tcp:h:1'}}");
    if (row->asks) {
        qemu_answers(&w, "query-migrate", row->info);
    }
    g_assert_true(g_queue_is_empty(&w.questions) == row->waits);
    if (row->ends) {
        g_assert_cmpint(eventfd_write(r.end, 1), ==, 0);
    }
    while (g_queue_is_empty(&w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
#ifdef FF_FAULTS
    ff_fault_hook(NULL);
    g_assert_true(late_stayed == (row->waits && !row->ends));
#endif
    qemu_answers(&w, "query-migrate-capabilities", "[]");
    qemu_answers(&w, "query-migrate-parameters", "!no");
    if (!row->ends) {
        g_assert_cmpint(eventfd_write(r.end, 1), ==, 0);
    }
    g_thread_join(thread);
    world_clear(&w);
    qemu_version = 0;
    close(r.ready);
    close(r.end);
}

typedef struct {
    World w;
    Reader r;
    GThread *thread;
} LateWorld;

static void late_init(LateWorld *l)
{
    eventfd_t n;

    l->r = (Reader){eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
    l->thread = g_thread_new("reader", read_return_path, &l->r);
    g_assert_cmpint(eventfd_read(l->r.ready, &n), ==, 0);
    world_pid = getpid();
    world_init(&l->w, NULL, NULL);
    world_pid = 0;
}

/* It is waited for until it ends. */
static void late_ends(LateWorld *l)
{
    qemu_answers(&l->w, "query-migrate", "{'status':'failed'}");
    g_assert_true(g_queue_is_empty(&l->w.questions));
    g_assert_cmpint(eventfd_write(l->r.end, 1), ==, 0);
    while (g_queue_is_empty(&l->w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void late_clear(LateWorld *l)
{
    g_thread_join(l->thread);
    world_clear(&l->w);
    close(l->r.ready);
    close(l->r.end);
}

/* A live snapshot: another client's migration may begin during the wait. */
static void test_late_snapshot(void)
{
    LateWorld l;

    late_init(&l);
    command(&l.w, "{'execute':'x-farfault-snapshot','arguments':{'file':'/nowhere'}}");
    qemu_answers(&l.w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&l.w, "query-migrate-parameters", PARAMETERS);
    late_ends(&l);
    qemu_answers(&l.w, "query-status", "{'status':'running'}");
    qemu_answers(&l.w, "query-migrate", "{'status':'active'}");
    sent(&l.w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
               "\"There's a migration process in progress\"}}\n");
    late_clear(&l);
}

/* An upgrade has a migration of QEMU's own in it. */
static void test_late_upgrade(void)
{
    LateWorld l;

    late_init(&l);
    command(&l.w, "{'execute':'x-farfault-hand-over','arguments':{'fdname':'f'}}");
    late_ends(&l);
    qemu_answers(&l.w, "query-status", "{'status':'inmigrate'}");
    sent(&l.w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
               "\"Guest is waiting for an incoming migration\"}}\n");
    late_clear(&l);
}

/* QEMU does not say whose the thread is: the next migration could be the one that it ends. */
static void test_late_unsaid(void)
{
    LateWorld l;

    late_init(&l);
    set_postcopy(&l.w);
    command(&l.w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    qemu_answers(&l.w, "query-migrate", "!QEMU has not answered");
    sent(&l.w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
               "\"QEMU has not answered\"}}\n");
    g_assert_true(g_queue_is_empty(&l.w.questions));
    g_assert_cmpint(eventfd_write(l.r.end, 1), ==, 0);
    late_clear(&l);
}

typedef struct {
    int fd, ready; /* eventfd */
    gint over;     /* atomic: the case looks at it when the next migration begins */
} Blocked;

static gpointer read_connection(gpointer opaque)
{
    Blocked *b = opaque;
    uint8_t byte;

    prctl(PR_SET_NAME, "return path");
    g_assert_cmpint(eventfd_write(b->ready, 1), ==, 0);
    g_assert_cmpint(read(b->fd, &byte, 1), ==, 0);
    g_atomic_int_set(&b->over, TRUE);
    return NULL;
}

/* QEMU has failed by itself, and closed its file while that thread reads from it: nobody but us
 * ends the connection, and that comes before the wait. */
static void test_late_spliced(void)
{
    Begin b;

    world_pid = getpid();
    begin_init(&b, false);
    world_pid = 0;
    qemu_answers(&b.w, "migrate", "{}");
    begin_stream(&b);
    Blocked blocked = {.fd = b.w.given, .ready = eventfd(0, EFD_CLOEXEC)};
    GThread *thread = g_thread_new("reader", read_connection, &blocked);
    eventfd_t n;

    g_assert_cmpint(eventfd_read(blocked.ready, &n), ==, 0);
    command(&b.w, "{'execute':'migrate','arguments':{'uri':'exec:cat'}}");
    qemu_answers(&b.w, "query-migrate", "{'status':'failed'}");
    while (!g_atomic_int_get(&blocked.over) && g_queue_is_empty(&b.w.questions) &&
           !strstr(b.w.out->str, "pass")) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_true(g_atomic_int_get(&blocked.over));
    g_thread_join(thread);
    while (!strstr(b.w.out->str, "pass")) {
        g_main_context_iteration(NULL, TRUE);
    }
    begin_clear(&b);
    close(blocked.ready);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#ifdef FF_FAULTS
    g_test_add_func("/driver/remaining", test_remaining);
    g_test_add_func("/driver/carried", test_carried);
    g_test_add_func("/driver/begin/late", test_begin_late);
#endif
    g_test_add_func("/driver/begin/waits", test_begin_waits);
    g_test_add_func("/driver/begin/early", test_begin_early);
    g_test_add_func("/driver/begin/precopy", test_begin_precopy);
    g_test_add_func("/driver/begin/end", test_begin_end);
    g_test_add_func("/driver/begin/ended", test_begin_ended);
    g_test_add_data_func("/driver/begin/next/refused", GINT_TO_POINTER(true), test_begin_next);
    g_test_add_data_func("/driver/begin/next/spliced", GINT_TO_POINTER(false), test_begin_next);
    g_test_add_func("/driver/begin/later", test_begin_later);
    g_test_add_func("/driver/source", test_source);
    g_test_add_func("/driver/upgrade-summary", test_upgrade_summary);
    g_test_add_func("/driver/totals", test_totals);
    g_test_add_func("/driver/totals-settled", test_totals_settled);
    g_test_add_data_func("/driver/kept/looked", GINT_TO_POINTER(true), test_kept);
    g_test_add_data_func("/driver/kept/not-yet", GINT_TO_POINTER(false), test_kept);
    g_test_add_func("/driver/resume", test_resume);
    g_test_add_func("/driver/native", test_native);
    g_test_add_func("/driver/fd", test_fd);
    g_test_add_func("/driver/uffd", test_uffd);
    g_test_add_func("/driver/fd/refused", test_fd_refused);
    g_test_add_data_func("/driver/given-back/devices", GINT_TO_POINTER(true), test_devices);
    g_test_add_func("/driver/given-back/devices/refused", test_devices_refused);
    for (unsigned i = 0; i < G_N_ELEMENTS(others_rows); i++) {
        g_autofree char *path = g_strdup_printf("/driver/others/%s", others_rows[i].name);
        g_test_add_data_func(path, &others_rows[i], test_others);
    }
    g_test_add_data_func("/driver/given-back/devices/precopy", GINT_TO_POINTER(false),
                         test_devices);
    g_test_add_func("/driver/private-name", test_private_name);
    g_test_add_func("/driver/tls", test_tls);
    g_test_add_func("/driver/blocked", test_blocked);
    g_test_add_func("/driver/start-fails", test_start_fails);
    g_test_add_func("/driver/two", test_two);
    for (unsigned i = 0; i < G_N_ELEMENTS(late_rows); i++) {
        g_autofree char *path = g_strdup_printf("/driver/late/%s", late_rows[i].name);

        g_test_add_data_func(path, &late_rows[i], test_late);
    }
    g_test_add_func("/driver/late/spliced", test_late_spliced);
    g_test_add_func("/driver/late/snapshot", test_late_snapshot);
    g_test_add_func("/driver/late/upgrade", test_late_upgrade);
    g_test_add_func("/driver/late/unsaid", test_late_unsaid);
    return g_test_run();
}
