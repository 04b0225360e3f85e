/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * This tree and another one, whose build folder FF_COMPAT_BUILD names (scripts/compat-test makes
 * one of an older revision): real migrations between the two, in both directions; engines of one
 * tree that adopt what an engine of the other has left, in each phase of the journal; and relays of
 * one that farfault attach puts in the place of the other's.
 *
 * Case names: "old" is the other tree, "new" this one; "old-new" begins with the old one.
 */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "contract/state.h"
#include "tests/lib/attach.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/operator.h"
#include "tests/lib/vm.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)
#define BUSY_BYTES (8ull << 20)
#define SLOWLY "4096" /* bytes per second of postcopy: it lasts */
#define NO_FAULT "none/none/at/none=kill"

#define S OPERATOR_SOURCE
#define D OPERATOR_DESTINATION

typedef struct {
    const char *name;
    char *build;
    char *engine; /* its path */
    char *mixed;  /* a build folder of its programs, but with compat-engine as the engine */
} Tree;

static Tree trees[2];
static char *creds;        /* certs_new_pair(); NULL: no openssl command */
static char *differs = ""; /* why no engine can adopt; "": one can */

typedef struct {
    const void *row;
    const Tree *first, *next;
    bool attaches; /* the relay dies with its engine, and farfault attach starts the next ones */
} Case;

/* A guest of tree FROM and one of tree TO. */
typedef struct {
    BootsectConfig boot;
    Vm *s, *d;
    Operator o;
} Test;

static Vm *start(const char *name, const char *build, const BootsectConfig *boot,
                 const char *incoming, const char *faults)
{
    return vm_start_pc((VmConfig){.name = name,
                                  .build = build,
                                  .memory = RAM,
                                  .boot = boot,
                                  .incoming = incoming,
                                  .listens = true,
                                  .faults = faults});
}

static void begin(Test *t, const char *source_build, const char *source_faults,
                  const char *destination_build, const char *destination_faults,
                  const char *incoming)
{
    *t = (Test){.boot = bootsect_config(RAM_BYTES, BUSY_BYTES, 1)};
    t->s = start("source", source_build, &t->boot, NULL, source_faults);
    t->d = start("destination", destination_build, &t->boot, incoming, destination_faults);
    operator_init(&t->o, t->s, t->d);
    vm_wait_serial(t->s, "B");
    move_prepare(t->s, t->d);
}

/* The operator brings the guest to where it must be. */
static void run_to(Test *t, OperatorEnd expected)
{
    OperatorEnd is = operator_run(&t->o);

    if (is != expected) {
        g_error("the guest is at side %d, expected %d", is, expected);
    }
}

static void end(Test *t, OperatorEnd is, bool recovers)
{
    operator_check_guest(&t->o, is, &t->boot, RAM_BYTES);
    g_assert_cmpuint(t->o.recoveries, >=, recovers);
    operator_end(&t->o, is);
}

/* ---- the state memfd ------------------------------------------------------------------------- */

/* -1: QEMU keeps it where nobody can open it. */
static int open_state(Vm *vm)
{
    return attach_open_memfd(vm, "farfault-state", O_RDONLY);
}

static uint32_t state_word(int fd, size_t at)
{
    uint32_t word;

    g_assert_cmpint(pread(fd, &word, sizeof(word), at), ==, sizeof(word));
    return word;
}

static void test_state(void)
{
    g_autoptr(Vm) vm = start("guest", trees[0].build, NULL, NULL, NULL);
    int fd = open_state(vm);

    if (fd < 0) {
        g_test_skip("the old tree's QEMU does not show its state memfd");
        return;
    }
    uint32_t old = state_word(fd, offsetof(FfStateHeader, version));
    close(fd);
    if (old != FF_STATE_VERSION) {
        differs = g_strdup_printf("state memfd: version %u in the old tree, %u in the new one: "
                                  "neither's engine or relay takes the other's guest",
                                  old, FF_STATE_VERSION);
        g_test_fail_printf("%s", differs);
    }
}

/* ---- a migration from one tree to the other -------------------------------------------------- */

typedef enum {
    AT_ONCE = 1 << 0,  /* no precopy */
    ROUNDS = 1 << 1,   /* the switch comes in the third round of precopy */
    PRECOPY = 1 << 2,  /* nobody asks for postcopy */
    PAUSE = 1 << 3,    /* after the switch; a recovery follows */
    RECOVERS = 1 << 4, /* the fault makes it necessary */
} Way;

typedef struct {
    const char *name;
    Way way;
    const char *parameters; /* of the source; can be NULL */
    const char *tls;        /* kind of credentials; NULL: none */
    const char
        *fault; /* POINT=ACTION of base/failpoints.h, of the side that it names; can be NULL */
    OperatorEnd end;
} Moved;

static const Moved moves[] = {
    {"at-once", AT_ONCE, .end = D},
    {"rounds", ROUNDS, .end = D},
    {"precopy", PRECOPY, .end = D},
    {"tls/psk", ROUNDS, .tls = "psk", .end = D},
    {"tls/x509", ROUNDS, .tls = "x509", .end = D},
    {"channels", ROUNDS, "{'x-farfault-channels': 4}", .end = D},
    {"channels/precopy", PRECOPY, "{'x-farfault-channels': 4}", .end = D},
    {"one-channel", ROUNDS, "{'x-farfault-channels': 1}", .end = D},
    {"compress", ROUNDS, "{'x-farfault-compress': 'always'}", .end = D},
    {"pause", ROUNDS | PAUSE, .end = D},
    {"pause/at-once", AT_ONCE | PAUSE, .end = D},
    {"pause/channels", ROUNDS | PAUSE, "{'x-farfault-channels': 4}", .end = D},
    {"pause/tls/psk", AT_ONCE | PAUSE, .tls = "psk", .end = D},
    {"pause/tls/x509", ROUNDS | PAUSE, .tls = "x509", .end = D},
    {"cut/round", PRECOPY, .fault = "source/active/main/round#2=cut:20", .end = S},
    {"cut/device", AT_ONCE, .fault = "source/device/main/device=cut:30", .end = S},
    {"cut/loaded", AT_ONCE, .fault = "destination/active/main/loaded=cut:10", .end = S},
    {"cut/grant", AT_ONCE | RECOVERS, .fault = "source/device/main/grant=cut:0", .end = D},
    {"cut/pages", AT_ONCE | RECOVERS, "{'x-farfault-channels': 1}",
     .fault = "source/postcopy-active/main/pages#3=cut:2000", .end = D},
    {"cut/request", AT_ONCE | RECOVERS, .fault = "destination/postcopy-active/*/request=cut:10",
     .end = D},
    {"cut/done", AT_ONCE | RECOVERS, .fault = "destination/postcopy-active/main/done=cut:20",
     .end = D},
    {"cut/finished", AT_ONCE, .fault = "source/postcopy-active/main/finished=cut:3", .end = D},
};

static bool is_third(JsonObject *data, const void *opaque)
{
    return json_object_get_int_member(data, "pass") >= 3;
}

static void set_up(Test *t, const Moved *row)
{
    Qmp *q = vm_qmp(t->s);

    if (row->tls) {
        move_set_tls(t->s, creds, row->tls, false, NULL);
        move_set_tls(t->d, creds, row->tls, true, NULL);
    }
    if (row->parameters) {
        qmp_ok(q, "migrate-set-parameters", "%s", row->parameters);
    }
    if (row->way & ROUNDS) {
        qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 67108864, 'downtime-limit': 1}");
    }
    if (row->way & PRECOPY) {
        qmp_ok(q, "migrate-set-parameters",
               "{'max-bandwidth': 1000000000, 'downtime-limit': 30000}");
    }
    if (row->way & PAUSE) {
        qmp_ok(q, "migrate-set-parameters", "{'max-postcopy-bandwidth': " SLOWLY "}");
    }
}

static void switch_over(Test *t, const Moved *row)
{
    t->o.switched = true;
    if (row->way & ROUNDS) {
        json_object_unref(qmp_wait_event(vm_qmp(t->s), "MIGRATION_PASS", is_third, NULL, 60));
        qmp_ok(vm_qmp(t->s), "migrate-start-postcopy", NULL);
    }
}

static void wait_slow_postcopy(Test *t)
{
    qmp_expect_migration(vm_qmp(t->s), "postcopy-active");
    qmp_expect_migration(vm_qmp(t->d), "postcopy-active");
    qmp_expect(vm_qmp(t->d), "RESUME");
}

static void pause_both(Test *t)
{
    wait_slow_postcopy(t);
    qmp_ok(vm_qmp(t->s), "migrate-pause", NULL);
    qmp_expect_migration(vm_qmp(t->s), "postcopy-paused");
    qmp_expect_migration(vm_qmp(t->d), "postcopy-paused");
}

static void test_move(gconstpointer data)
{
    const Case *c = data;
    const Moved *row = c->row;
    bool of_source = row->fault && g_str_has_prefix(row->fault, "source");
    Test t;

    if (row->tls && !creds) {
        g_test_skip("no openssl command");
        return;
    }
    begin(&t, c->first->build, of_source ? row->fault : NULL, c->next->build,
          of_source ? NULL : row->fault, "defer");
    set_up(&t, row);
    operator_begin(&t.o, row->way & AT_ONCE);
    switch_over(&t, row);
    if (row->way & PAUSE) {
        pause_both(&t);
        qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    }
    if (row->way & PRECOPY && row->end == D) {
        move_wait_completed(t.s, t.d);
        g_assert_cmpint(move_ram_count(t.s, "postcopy-bytes"), ==, 0);
    }
    Vm *broken = of_source ? t.s : t.d;
    run_to(&t, row->end);
    if (row->fault && !vm_fault_happened(broken, 0)) {
        g_error("the point was not reached: %s", row->fault);
    }
    end(&t, row->end, row->way & (PAUSE | RECOVERS));
}

/* ---- an engine, or a relay, of one tree in the place of the other's -------------------------- */

typedef struct {
    const char *point; /* where the first one dies (base/failpoints.h) */
    FfPhase phase;     /* what it leaves */
    FfRunRight right;
    OperatorEnd end; /* who has the guest then */
    bool precopy;    /* nobody asks for postcopy */
    bool alone;      /* the main connection carries all of bulk */
    bool dies;       /* the destination's QEMU: nothing was loaded, so nothing can be granted */
} Moment;

static const Moment moments[] = {
    {"source/setup/at/setup", FF_PHASE_SETUP, FF_RUN_MINE, S},
    {"source/active/at/active", FF_PHASE_SETUP, FF_RUN_MINE, S},
    {"source/active/main/round#2", FF_PHASE_SETUP, FF_RUN_MINE, S, .precopy = true},
    {"source/active/at/prepared", FF_PHASE_SETUP, FF_RUN_MINE, S},
    {"source/active/at/stopped", FF_PHASE_STOPPED, FF_RUN_MINE, S},
    {"source/device/at/saving", FF_PHASE_STOPPED, FF_RUN_MINE, S},
    {"source/device/at/loaded", FF_PHASE_STOPPED, FF_RUN_MINE, S},
    {"source/device/at/given", FF_PHASE_GRANTED, FF_RUN_GIVEN, D},
    {"source/device/at/granted", FF_PHASE_GRANTED, FF_RUN_GIVEN, D},
    {"source/postcopy-active/at/running", FF_PHASE_GRANTED, FF_RUN_GIVEN, D},
    {"source/postcopy-active/main/pages#3", FF_PHASE_GRANTED, FF_RUN_GIVEN, D, .alone = true},
    {"source/postcopy-active/at/done", FF_PHASE_DONE, FF_RUN_GIVEN, D},
    {"source/postcopy-active/at/saved", FF_PHASE_DONE, FF_RUN_GIVEN, D},
    {"source/postcopy-active/at/undone", FF_PHASE_DONE, FF_RUN_GIVEN, D},
    {"destination/setup/at/setup", FF_PHASE_SETUP, FF_RUN_NONE, S, .dies = true},
    {"destination/active/at/active", FF_PHASE_SETUP, FF_RUN_NONE, S, .dies = true},
    {"destination/active/at/loading-held", FF_PHASE_LOADING, FF_RUN_NONE, S, .dies = true},
    {"destination/active/at/armed", FF_PHASE_LOADING, FF_RUN_NONE, S, .dies = true},
    {"destination/active/at/loaded", FF_PHASE_LOADED, FF_RUN_NONE, S},
    {"destination/active/at/grant", FF_PHASE_LOADED, FF_RUN_NONE, D},
    {"destination/active/at/granted", FF_PHASE_GRANTED, FF_RUN_MINE, D},
    {"destination/postcopy-active/at/resumed", FF_PHASE_GRANTED, FF_RUN_MINE, D},
    {"destination/postcopy-active/at/placed#50", FF_PHASE_GRANTED, FF_RUN_MINE, D},
    {"destination/postcopy-active/at/all", FF_PHASE_GRANTED, FF_RUN_MINE, D},
    {"destination/postcopy-active/at/done", FF_PHASE_DONE, FF_RUN_MINE, D},
    {"destination/postcopy-active/at/undone", FF_PHASE_DONE, FF_RUN_MINE, D},
};

/* Why NEXT's attach takes no guest of FIRST, as it says it; NULL: it takes one (g_free). */
static char *why_not_attached(const Case *c)
{
    g_autoptr(Vm) vm = start("guest", c->first->build, NULL, NULL, NULL);
    g_autofree char *text = NULL;

    attach_kill_relay(vm, true);
    return attach_try(vm, c->next->build, &text) ? g_steal_pointer(&text) : NULL;
}

/* The older tree's attach says so in one line, and has changed nothing: the guest runs, and gets
 * its relay from its own tree's. */
static void test_older_attach(void)
{
    g_autoptr(Vm) vm = start("guest", trees[1].build, NULL, NULL, NULL);
    g_autofree char *text = NULL;

    attach_kill_relay(vm, true);
    if (attach_try(vm, trees[0].build, &text) == 0) {
        g_test_skip("this older tree's attach takes the guest");
        return;
    }
    g_assert_true(g_str_has_prefix(text, "farfault: attach: "));
    g_assert_true(strchr(text, '\n') == text + strlen(text) - 1);
    g_test_message("%s", text);
    attach_vm(vm, trees[1].build);
    g_autofree char *state = qmp_run_state(vm_qmp(vm)), *status = qmp_migrate_status(vm_qmp(vm));
    g_assert_cmpstr(state, ==, "running");
    g_assert_cmpstr(status, ==, "none");
}

/* An older tree's attach cannot know what a newer guest keeps in another way. */
static bool skips_adopting(const Case *c)
{
    static char *older; /* "": it takes one */

    if (*differs) {
        g_test_skip(differs);
        return true;
    }
    if (!c->attaches || c->first == &trees[0]) {
        return false;
    }
    if (!older) {
        older = why_not_attached(c);
        older = older ? g_strdelimit(older, "\n", ' ') : "";
    }
    if (*older) {
        g_test_skip(older);
    }
    return *older;
}

/* FIRST's guest, whose next engine will be NEXT's unless it ATTACHES. */
static const char *victims_build(const Case *c)
{
    g_setenv("FF_COMPAT_FIRST", c->first->engine, true);
    g_setenv("FF_COMPAT_NEXT", c->next->engine, true);
    return c->attaches ? c->first->build : c->first->mixed;
}

/* The engine of VM has been replaced, or its relay. */
static void check_replaced(const Case *c, Vm *vm)
{
    if (c->attaches) {
        g_autofree char *link = g_strdup_printf("/proc/%d/exe", (int)vm_relay(vm));
        g_autofree char *exe = g_file_read_link(link, NULL);

        g_assert_true(exe && g_str_has_prefix(exe, c->next->build));
    } else {
        g_autofree char *line = g_strdup_printf("compat-engine: %s\n", c->next->engine);

        vm_wait_stderr(vm, line);
    }
}

/* VM, whose relay and engine died at the named point, gets the next ones. STATE: its state memfd,
 * as QEMU may end, too. */
static void attach_next(const Case *c, Vm *vm, int state)
{
    const Moment *row = c->row;
    g_autofree char *text = NULL;

    vm_wait_qmp_end(vm);
    if (state >= 0) {
        g_assert_cmpuint(state_word(state, offsetof(FfStateHeader, phase)), ==, row->phase);
        g_assert_cmpuint(state_word(state, offsetof(FfStateHeader, run_right)), ==, row->right);
    }
    if (!row->dies) {
        attach_vm(vm, c->next->build);
        return;
    }
    /* By itself, as its device state came to an end, or by the new engine. */
    attach_try(vm, c->next->build, &text);
    vm_wait_exit(vm);
}

static void test_moment(gconstpointer data)
{
    const Case *c = data;
    const Moment *row = c->row;
    bool of_source = g_str_has_prefix(row->point, "source");
    g_autofree char *fault = g_strconcat(row->point, c->attaches ? "=both" : "=kill", NULL);
    Test t;

    if (skips_adopting(c)) {
        return;
    }
    const char *build = victims_build(c);
    begin(&t, of_source ? build : c->first->build, of_source ? fault : NULL,
          of_source ? c->first->build : build, of_source ? NULL : fault, "defer");
    Vm *victim = of_source ? t.s : t.d;
    if (row->alone) {
        qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'x-farfault-channels': 1}");
    }
    if (!c->attaches) {
        t.o.switched = row->precopy;
        operator_begin(&t.o, false);
    } else {
        int state = open_state(victim);

        if (of_source) {
            qmp_ok(vm_qmp(t.d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
            g_autofree char *uri = move_listen_uri(t.d);
            move_begin_unheard(t.s, uri, !row->precopy);
        } else {
            operator_begin(&t.o, true);
        }
        t.o.switched = true;
        t.o.source_port = 1;
        attach_next(c, victim, state);
        if (state >= 0) {
            close(state);
        }
    }
    run_to(&t, row->end);
    g_assert_true(vm_fault_happened(victim, 0));
    if (!row->dies) {
        check_replaced(c, victim);
    }
    end(&t, row->end, false);
}

/* ---- ... while nothing happens --------------------------------------------------------------- */

/* VM's engine dies now, or its relay with it; the next is the other tree's. */
static void replace(const Case *c, Vm *vm)
{
    g_autoptr(GError) error = NULL;

    if (c->attaches) {
        attach_kill_relay(vm, true);
        attach_vm(vm, c->next->build);
    } else {
        g_autofree char *mark = vm_path(vm, "fault-0");

        g_file_set_contents(mark, "", 0, &error);
        g_assert_no_error(error);
        kill(vm_engine(vm), SIGKILL);
        /* Answered, with an error or not, when the relay knows of the death. */
        json_object_unref(qmp_call(vm_qmp(vm), "query-migrate", NULL));
    }
    check_replaced(c, vm);
}

typedef enum {
    SOURCE = 1 << 0,      /* loses its engine */
    DESTINATION = 1 << 1, /* does */
    LISTENING = 1 << 2,   /* at once, by -incoming */
    PAUSED = 1 << 3,      /* after the switch */
    SLOW = 1 << 4,        /* the same, and not paused: the connections break with the engine */
} When;

typedef struct {
    const char *name;
    When when;
    const char *tls;
} Still;

static const Still stills[] = {
    {"idle/source", SOURCE},
    {"idle/destination", DESTINATION},
    {"listening", DESTINATION | LISTENING},
    {"paused/source", SOURCE | PAUSED},
    {"paused/destination", DESTINATION | PAUSED},
    {"paused/both", SOURCE | DESTINATION | PAUSED},
    {"paused/both/tls/psk", SOURCE | DESTINATION | PAUSED, "psk"},
    {"paused/both/tls/x509", SOURCE | DESTINATION | PAUSED, "x509"},
    {"postcopy/source", SOURCE | SLOW},
    {"postcopy/destination", DESTINATION | SLOW},
};

/* Up to the moment of the row. */
static void go_to(Test *t, const Still *row)
{
    const Moved move = {.way = PAUSE, .tls = row->tls};

    if (!(row->when & (PAUSED | SLOW))) {
        return;
    }
    set_up(t, &move);
    operator_begin(&t->o, true);
    if (row->when & PAUSED) {
        pause_both(t);
    } else {
        wait_slow_postcopy(t);
    }
}

/* A client's settings, which the next engine must know. */
static void check_settings(Vm *vm)
{
    g_autoptr(JsonObject) p = qmp_return(vm_qmp(vm), "query-migrate-parameters", NULL);

    g_assert_cmpint(json_object_get_int_member(p, "x-farfault-zstd-level"), ==, 7);
}

static void go_on(Test *t, const Still *row)
{
    if (row->when & (PAUSED | SLOW)) {
        qmp_ok(vm_qmp(t->s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    } else if (row->when & LISTENING) {
        operator_again(&t->o, true);
    } else {
        operator_begin(&t->o, true);
    }
}

static void test_still(gconstpointer data)
{
    const Case *c = data;
    const Still *row = c->row;
    Test t;

    if (skips_adopting(c)) {
        return;
    }
    if (row->tls && !creds) {
        g_test_skip("no openssl command");
        return;
    }
    const char *build = victims_build(c);
    bool source = row->when & SOURCE, destination = row->when & DESTINATION;
    begin(&t, source ? build : c->first->build, source ? NO_FAULT : NULL,
          destination ? build : c->first->build, destination ? NO_FAULT : NULL,
          row->when & LISTENING ? "tcp:127.0.0.1:0" : "defer");
    Vm *victims[] = {source ? t.s : NULL, destination ? t.d : NULL};
    go_to(&t, row);
    for (unsigned i = 0; i < G_N_ELEMENTS(victims); i++) {
        if (victims[i]) {
            qmp_ok(vm_qmp(victims[i]), "migrate-set-parameters", "{'x-farfault-zstd-level': 7}");
            replace(c, victims[i]);
            check_settings(victims[i]);
        }
    }
    go_on(&t, row);
    run_to(&t, D);
    end(&t, D, row->when & (PAUSED | SLOW));
}

/* ---- the trees ------------------------------------------------------------------------------- */

static void link_into(const char *mixed, const char *name, const char *from)
{
    g_autofree char *to = g_build_filename(mixed, name, NULL);
    g_autofree char *folder = g_path_get_dirname(to);

    g_assert_cmpint(g_mkdir_with_parents(folder, 0755), ==, 0);
    g_assert_cmpint(symlink(from, to), ==, 0);
}

/* A build folder is known by where farfault lies: that one is a copy, the others are links. */
static char *make_mixed(const Tree *tree)
{
    /* Where the two trees have them: scripts/compat-test makes the older one's look like this
     * one's. */
    static const char *const parts[] = {"relay/farfault-relay", "agent/farfault-agent.so"};
    g_autofree char *engine = vm_build_path("tests/qtest/compat-engine");
    g_autofree char *from = g_build_filename(tree->build, "cli/farfault", NULL);
    char *mixed = g_dir_make_tmp("ff-compat-XXXXXX", NULL);
    g_autofree char *folder = g_build_filename(mixed, "cli", NULL);
    g_autofree char *to = g_build_filename(folder, "farfault", NULL), *text = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *part = g_build_filename(tree->build, "guest", parts[i], NULL);
        g_autofree char *here = g_build_filename("guest", parts[i], NULL);
        link_into(mixed, here, part);
        link_into(mixed, parts[i], part);
    }
    link_into(mixed, "engine/farfault-engine", engine);
    g_assert_cmpint(g_mkdir_with_parents(folder, 0755), ==, 0);
    const char *argv[] = {"cp", from, to, NULL};
    g_assert_cmpint(attach_run(argv, &text), ==, 0);
    return mixed;
}

static Tree make_tree(const char *name, const char *build)
{
    Tree tree = {.name = name, .build = g_canonicalize_filename(build, NULL)};

    tree.engine = g_build_filename(tree.build, "engine/farfault-engine", NULL);
    tree.mixed = make_mixed(&tree);
    return tree;
}

static void free_tree(Tree *tree)
{
    certs_remove(tree->mixed);
    g_free(tree->mixed);
    g_free(tree->engine);
    g_free(tree->build);
}

/* Case /compat/KIND/FIRST-NEXT/NAME, in both directions. */
static void add(const char *kind, const char *name, const void *row, bool attaches,
                GTestDataFunc test)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(trees); i++) {
        Case c = {row, &trees[i], &trees[!i], attaches};
        g_autofree char *last = g_strdup(name);
        g_autofree char *path = g_strdup_printf("/compat/%s/%s-%s/%s", kind, c.first->name,
                                                c.next->name, g_strdelimit(last, "/", '.'));

        g_test_add_data_func_full(path, g_memdup2(&c, sizeof(c)), test, g_free);
    }
}

static void add_all(void)
{
    g_test_add_func("/compat/state", test_state);
    g_test_add_func("/compat/older-attach", test_older_attach);
    for (unsigned i = 0; i < G_N_ELEMENTS(moves); i++) {
        add("move", moves[i].name, &moves[i], false, test_move);
    }
    for (int attaches = 0; attaches < 2; attaches++) {
        const char *kind = attaches ? "attach" : "engine";

        for (unsigned i = 0; i < G_N_ELEMENTS(stills); i++) {
            add(kind, stills[i].name, &stills[i], attaches, test_still);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(moments); i++) {
            add(kind, moments[i].point, &moments[i], attaches, test_moment);
        }
    }
}

int main(int argc, char **argv)
{
    const char *other = g_getenv("FF_COMPAT_BUILD"), *why = NULL;

    g_test_init(&argc, &argv, NULL);
    if (!other || !vm_faults_available(&why)) {
        g_print("1..0 # SKIP %s\n",
                other ? why : "there is no other tree: scripts/compat-test has one");
        return 0;
    }
    creds = certs_new_pair();
    trees[0] = make_tree("old", other);
    trees[1] = make_tree("new", g_getenv("FF_BUILD"));
    add_all();
    int rc = g_test_run();
    free_tree(&trees[0]);
    free_tree(&trees[1]);
    if (creds) {
        certs_remove(creds);
        g_free(creds);
    }
    return rc;
}
