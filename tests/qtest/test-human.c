/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A human monitor that is QEMU's own, of which farfault sees nothing.
 *
 * What is saved there while a migration, a restore or a live snapshot is under way: QEMU has its
 * client's settings back before its guest runs, so that the guest's memory is in it.
 * (x-ignore-shared, which the engine needs before, leaves it out.)
 *
 * A migration of which some or all commands are typed there, at either end.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/hold.h"
#include "tests/lib/move.h"

#define DATA (16ull << 20) /* where the guest's data begins, */
#define DATA_PAGES 128u
#define PAGE 4096u
#define IGNORE_SHARED "x-ignore-shared: "

typedef struct {
    char *dir; /* of the disks, which savevm writes to */
    char *newer;
    bool shared; /* memory, by their user's command line */
    Vm *source, *destination;
} Rig;

static Vm *start(Rig *r, const char *name, const char *incoming, const char *faults)
{
    const char *shared =
        r->shared ? "memory-backend-memfd,id=ram,size=64M,share=on" : "rng-builtin,id=rng";
    g_autofree char *image = g_strdup_printf("%s/%s.qcow2", r->dir, name);
    g_autofree char *drive = g_strdup_printf("if=virtio,format=qcow2,file=%s", image);
    const char *create[] = {"qemu-img", "create", "-q", "-f", "qcow2", image, "128M", NULL};
    const char *machine = r->shared ? "pc-i440fx-7.2,memory-backend=ram" : "pc-i440fx-7.2";
    const char *args[] = {"-machine", machine, "-object", shared, "-drive", drive, NULL};
    int status = -1;

    g_spawn_sync(NULL, (char **)create, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                 NULL);
    g_assert_cmpint(status, ==, 0);
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .qemu = r->newer,
                                .memory = "64M",
                                .args = args,
                                .incoming = incoming,
                                .faults = faults,
                                .listens = true});
}

static void write_data(Vm *vm, uint64_t seed)
{
    for (unsigned i = 0; i < DATA_PAGES; i++) {
        qtest_writeq(vm_qtest(vm), DATA + i * PAGE, seed * (i + 1));
    }
}

static void check_data(Vm *vm, uint64_t seed)
{
    for (unsigned i = 0; i < DATA_PAGES; i++) {
        g_assert_cmphex(qtest_readq(vm_qtest(vm), DATA + i * PAGE), ==, seed * (i + 1));
    }
}

static bool begin(Rig *r, bool newer, bool faults)
{
    const char *why;

    *r = (Rig){.newer = newer ? vm_newer_qemu() : NULL};
    if (newer && !r->newer) {
        return false;
    }
    if (faults ? !vm_faults_available(&why) : !vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    r->dir = g_dir_make_tmp("human-XXXXXX", NULL);
    return true;
}

static void end(Rig *r)
{
    g_autoptr(GDir) dir = g_dir_open(r->dir, 0, NULL);
    const char *name;

    g_clear_pointer(&r->destination, vm_end);
    g_clear_pointer(&r->source, vm_end);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(r->dir, name, NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(r->dir), ==, 0);
    g_free(r->dir);
    g_free(r->newer);
}

static void check_off(Vm *vm)
{
    g_autofree char *state = vm_human_line(vm, "info migrate_capabilities", IGNORE_SHARED);

    g_assert_cmpstr(state, ==, "off");
}

/* Nothing tells when QEMU has been told. */
static void await_off(Vm *vm)
{
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    g_autofree char *state = NULL;

    do {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_free(state);
        state = vm_human_line(vm, "info migrate_capabilities", IGNORE_SHARED);
    } while (strcmp(state, "off") != 0);
}

static void save(Vm *vm)
{
    check_off(vm);
    g_autofree char *state = vm_human(vm, "savevm saved");
    g_assert_cmpstr(state, ==, "running");
}

/* With nothing under way. */
static void load(Vm *vm)
{
    write_data(vm, 77);
    g_autofree char *said = qmp_hmp(vm_qmp(vm), "loadvm saved");
    g_assert_cmpstr(said, ==, "");
    check_data(vm, 5);
    g_autofree char *state = qmp_run_state(vm_qmp(vm));
    g_assert_cmpstr(state, ==, "running");
}

static void switch_over(Rig *r)
{
    write_data(r->source, 5);
    move_prepare(r->source, r->destination);
    qmp_ok(vm_qmp(r->source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 262144}");
    g_autofree char *uri = move_listen(r->destination);
    qmp_ok(vm_qmp(r->source), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(r->source), "migrate-start-postcopy", NULL);
}

/* At a destination whose memory is on its way still. */
static void test_postcopy(gconstpointer newer)
{
    Rig r;

    if (!begin(&r, newer, false)) {
        return;
    }
    r.source = start(&r, "source", NULL, NULL);
    r.destination = start(&r, "destination", "defer", NULL);
    switch_over(&r);
    qmp_expect(vm_qmp(r.destination), "RESUME");
    g_autofree char *status = qmp_migrate_status(vm_qmp(r.destination));
    g_assert_cmpstr(status, ==, "postcopy-active");
    save(r.destination);
    qmp_ok(vm_qmp(r.source), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(r.source, r.destination);
    load(r.destination);
    end(&r);
}

/* Loaded, and not granted: its engine has died before it came to it, and so the next one does. */
static void test_adopted(void)
{
    Rig r;

    if (!begin(&r, false, true)) {
        return;
    }
    r.source = start(&r, "source", NULL, NULL);
    r.destination =
        start(&r, "destination", "defer",
              "destination/active/step/put-back=skip;destination/active/at/loaded=kill");
    switch_over(&r);
    qmp_expect_migration(vm_qmp(r.destination), "postcopy-paused");
    await_off(r.destination); /* the next engine has just begun */
    g_autofree char *state = vm_human_state(r.destination, false);
    g_assert_true(g_str_has_prefix(state, "paused"));
    vm_kill(r.destination);
    vm_kill(r.source);
    end(&r);
}

/* A guest that runs, and is written or read behind it still. */
static void test_file(gconstpointer restores)
{
    Rig r;

    if (!begin(&r, false, true)) {
        return;
    }
    g_autofree char *file = g_build_filename(r.dir, "file", NULL);
    r.source = start(&r, "source", NULL, restores ? NULL : "snapshot/*/at/running=hold");
    Vm *vm = r.source;
    write_data(vm, 5);
    qmp_set_capability(vm_qmp(vm), "events", true);
    if (!restores) {
        hold_make(vm);
    }
    qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", file);
    if (restores) {
        qmp_expect_migration(vm_qmp(vm), "completed");
        r.destination = vm = start(&r, "restored", "defer", "destination/*/at/all=hold");
        hold_make(vm);
        qmp_set_capability(vm_qmp(vm), "events", true);
        qmp_ok(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", file);
    }
    hold_wait(vm);
    save(vm);
    hold_let_go(vm);
    qmp_expect_migration(vm_qmp(vm), "completed");
    load(vm);
    end(&r);
}

/* What a client has set for every guest, as it does nothing to stock QEMU's private memory. */
static void test_kept(void)
{
    Rig r;

    if (!begin(&r, false, false)) {
        return;
    }
    r.source = start(&r, "source", NULL, NULL);
    Qmp *q = vm_qmp(r.source);
    write_data(r.source, 5);
    qmp_set_capability(q, "x-ignore-shared", true);
    g_autofree char *said = qmp_hmp(q, "savevm saved");
    g_assert_cmpstr(said, ==, "");
    load(r.source);
    end(&r);
}

/* ---- what is typed -------------------------------------------------------------------------- */

typedef enum {
    TYPED, /* at QEMU's human monitor */
    LINE,  /* by human-monitor-command of QMP */
    SENT,  /* by QMP */
} Way;

static const char *const way_names[] = {"typed", "line", "sent"};

/* Who is told what, and how. */
typedef struct {
    Way set, migrate; /* at the source: capabilities; migrate and the switch */
    Way wait;         /* at the destination: capabilities, and, unless -incoming URI, */
    Way incoming;     /* migrate-incoming */
    bool uri;         /* -incoming URI */
    bool shared;      /* the guest's memory is shared by its user's command line */
    bool tcp;         /* -incoming tcp:127.0.0.1:0 */
} Typed;

static const Typed typed[] = {
    {TYPED, TYPED, TYPED, .uri = true},
    {TYPED, TYPED, TYPED, .uri = true, .shared = true},
    {TYPED, TYPED, TYPED, .uri = true, .tcp = true},
    {SENT, SENT, TYPED, .uri = true, .tcp = true},
    {LINE, LINE, LINE, .uri = true},
    {SENT, SENT, TYPED, .uri = true},
    {TYPED, SENT, TYPED, .uri = true},
    {TYPED, SENT, TYPED, .uri = true, .shared = true},
    {TYPED, TYPED, SENT, .uri = true},
    {TYPED, TYPED, TYPED, TYPED},
    {TYPED, TYPED, TYPED, TYPED, .shared = true},
    {SENT, SENT, TYPED, TYPED},
    {TYPED, SENT, TYPED, SENT},
    {TYPED, TYPED, SENT, SENT},
    {LINE, LINE, LINE, LINE},
};

static char *row_path(const Typed *t)
{
    return g_strdup_printf("/human/migrate%s%s/%s-%s/%s-%s", t->shared ? "/shared" : "",
                           t->tcp ? "/tcp" : "", way_names[t->set], way_names[t->migrate],
                           way_names[t->wait], t->uri ? "uri" : way_names[t->incoming]);
}

/* The engine carries what is sent, and what was typed before that counts for it. */
static void check_carrier(Vm *source, bool engine)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    const char *said = json_object_has_member(info, "x-farfault")
                           ? json_object_get_string_member(
                                 json_object_get_object_member(info, "x-farfault"), "engine")
                           : "qemu";

    g_assert_cmpstr(said, ==, engine ? "farfault" : "qemu");
}

/* LINE at the human monitor, as WAY says. It says nothing, as it would of an error. */
static void type_line(Vm *vm, Way way, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void type_line(Vm *vm, Way way, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *line = g_strdup_vprintf(format, args);
    va_end(args);
    g_test_message("%s: %s", way_names[way], line);
    if (way == TYPED) {
        g_free(vm_human(vm, line));
    } else {
        g_autofree char *said = qmp_hmp(vm_qmp(vm), line);
        g_assert_cmpstr(said, ==, "");
    }
}

static void set_capability(Vm *vm, Way way, const char *name)
{
    if (way == SENT) {
        qmp_set_capability(vm_qmp(vm), name, true);
    } else {
        type_line(vm, way, "migrate_set_capability %s on", name);
        g_autofree char *words = g_strdup_printf("%s: ", name);
        g_autofree char *state = vm_human_line(vm, "info migrate_capabilities", words);
        g_assert_cmpstr(state, ==, way == TYPED || strcmp(name, "postcopy-ram") ? "on" : "off");
    }
}

static void run_typed(gconstpointer row)
{
    const Typed *t = row;
    Rig r;

    if (!begin(&r, false, false)) {
        return;
    }
    r.shared = t->shared;
    g_autofree char *socket = g_strdup_printf("unix:%s/socket", r.dir);
    const char *incoming = t->tcp ? "tcp:127.0.0.1:0" : t->uri ? socket : "defer";
    r.source = start(&r, "source", NULL, NULL);
    r.destination = start(&r, "destination", incoming, NULL);
    g_autofree char *uri = t->tcp ? move_listen_uri(r.destination) : g_strdup(socket);
    write_data(r.source, 5);
    set_capability(r.destination, t->wait, "postcopy-ram");
    set_capability(r.source, t->set, "postcopy-ram");
    set_capability(r.source, t->set, "events");
    type_line(r.source, t->migrate == TYPED ? TYPED : LINE,
              "migrate_set_parameter max-bandwidth 100k");
    if (!t->uri && t->incoming == SENT) {
        qmp_ok(vm_qmp(r.destination), "migrate-incoming", "{'uri': '%s'}", uri);
    } else if (!t->uri) {
        type_line(r.destination, t->incoming, "migrate_incoming %s", uri);
    }
    if (t->migrate == SENT) {
        qmp_ok(vm_qmp(r.source), "migrate", "{'uri': '%s'}", uri);
        qmp_ok(vm_qmp(r.source), "migrate-start-postcopy", NULL);
    } else {
        type_line(r.source, t->migrate, "migrate -d %s", uri);
        qmp_expect_migration(vm_qmp(r.source), "active");
        type_line(r.source, t->migrate, "migrate_start_postcopy");
    }
    qmp_expect_migration(vm_qmp(r.source), "postcopy-active");
    qmp_expect_migration(vm_qmp(r.source), "completed");
    qmp_expect(vm_qmp(r.destination), "RESUME");
    check_data(r.destination, 5);
    check_carrier(r.source, t->migrate != TYPED && (t->uri || t->incoming != TYPED));
    end(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/human/postcopy/installed", NULL, test_postcopy);
    g_test_add_data_func("/human/postcopy/newer", "", test_postcopy);
    g_test_add_func("/human/adopted", test_adopted);
    g_test_add_func("/human/kept", test_kept);
    g_test_add_data_func("/human/snapshot", NULL, test_file);
    g_test_add_data_func("/human/restore", "", test_file);
    for (unsigned i = 0; i < G_N_ELEMENTS(typed); i++) {
        g_autofree char *path = row_path(&typed[i]);

        g_test_add_data_func(path, &typed[i], run_typed);
    }
    return g_test_run();
}
