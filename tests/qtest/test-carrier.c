/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that the engine does not migrate, at either end or both, and guests whose writes it cannot
 * track: QEMU carries what plain QEMU would have carried, precopy and postcopy, and query-migrate
 * says why. Each row ends with the guest running at the destination, and its memory checked.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

/* No multiple of 256 KiB: QEMU 7.2 under TCG loses dirty pages of a busy guest otherwise. */
#define MEMORY "65544K"
#define RAM (65544u * 1024)

typedef enum {
    NOTHING,
    FILE_RAM, /* of others, perhaps: the launcher leaves it as it is */
    PLUGGED,  /* a backend that farfault has not made: seen when the migration begins */
    UNTRACKED,
    NESTED, /* the guest has EFER.SVME set, and TCG is taken for KVM */
    NVDIMM, /* beside its RAM a file, shared with others perhaps */
    IMAGE,  /* the same, which QEMU may only read (Kata) */
} Obstacle;

static const struct {
    const char *reason, *faults;
} obstacles[] = {
    [FILE_RAM] = {"keeps guest RAM in the file", NULL},
    [PLUGGED] = {"was not made by farfault", NULL},
    [UNTRACKED] = {"the guest's writes cannot be tracked", "source/*/call/uffd-track=EIO"},
    [NESTED] = {"the guest uses nested virtualisation (svm)", "source/*/step/nested-kvm=skip"},
    [NVDIMM] = {"-device nvdimm,memdev=image: its memory persists", NULL},
    [IMAGE] = {"-device nvdimm,memdev=image: its memory persists", NULL},
};

typedef struct {
    const char *name;
    Obstacle source, destination;
    bool incoming_argument;
    bool unix_socket;
    bool passed;            /* a socket that somebody else connected */
    const char *capability; /* beside postcopy-ram; NULL */
    const char *parameters; /* of the source; NULL */
    bool postcopy;          /* migrate-start-postcopy when it is active */
    bool at_once;           /* and before that */
    bool always;            /* policy always, no postcopy-ram */
    bool never;             /* policy never, said when it listens */
    bool engine;            /* farfault carries it all the same */
    const char *faults;     /* of the source, in place of its obstacle's */
} Row;

static const Row rows[] = {
    {"source/file", .source = FILE_RAM},
    {"source/file/postcopy", .source = FILE_RAM, .postcopy = true},
    {"destination/file", .destination = FILE_RAM},
    {"destination/file/postcopy", .destination = FILE_RAM, .postcopy = true},
    {"destination/file/argument", .destination = FILE_RAM, .incoming_argument = true,
     .postcopy = true},
    {"both/file/postcopy", .source = FILE_RAM, .destination = FILE_RAM, .postcopy = true},
    {"source/plugged", .source = PLUGGED},
    {"source/plugged/postcopy", .source = PLUGGED, .postcopy = true},
    {"source/plugged/unix", .source = PLUGGED, .unix_socket = true, .postcopy = true},
    {"source/plugged/passed", .source = PLUGGED, .passed = true, .postcopy = true},
    {"source/plugged/always", .source = PLUGGED, .always = true},
    {"destination/plugged", .destination = PLUGGED},
    {"destination/plugged/postcopy", .destination = PLUGGED, .postcopy = true},
    {"destination/plugged/argument", .destination = PLUGGED, .incoming_argument = true,
     .postcopy = true},
    {"destination/plugged/passed", .destination = PLUGGED, .passed = true, .postcopy = true},
    {"both/plugged/postcopy", .source = PLUGGED, .destination = PLUGGED, .postcopy = true},
    {"untracked", .source = UNTRACKED},
    {"untracked/postcopy", .source = UNTRACKED, .postcopy = true},
    {"untracked/at-once", .source = UNTRACKED, .postcopy = true, .at_once = true},
    {"untracked/preempt", .source = UNTRACKED, .capability = "postcopy-preempt", .postcopy = true},
    {"untracked/always", .source = UNTRACKED, .always = true},
    {"untracked/switch", .source = UNTRACKED, .engine = true,
     .parameters = "{'x-farfault-untracked': 'postcopy'}"},
    {"untracked/wait", .source = UNTRACKED, .engine = true, .postcopy = true,
     .parameters = "{'x-farfault-untracked': 'wait'}"},
    {"nested", .source = NESTED},
    {"nvdimm", .source = NVDIMM, .destination = NVDIMM},
    {"nvdimm/postcopy", .source = NVDIMM, .destination = NVDIMM, .postcopy = true},
};

static char *file_of(const char *dir, const char *name, const char *kind)
{
    return g_strdup_printf("%s/%s.%s", dir, name, kind);
}

#define IMAGE_BYTES (2u << 20)

/* Arguments for OBSTACLE, after the N of ARGS. What they point to is the caller's, in KEEP. */
static void add_obstacle(Obstacle obstacle, const char *dir, const char *name, const char **args,
                         unsigned n, GPtrArray *keep)
{
    char *path = file_of(dir, name, "image");

    g_ptr_array_add(keep, path);
    if (obstacle == NVDIMM || obstacle == IMAGE) {
        g_autofree char *image = g_malloc0(IMAGE_BYTES);
        memset(image, name[0], IMAGE_BYTES / 2); /* another one at each end */
        g_assert_true(g_file_set_contents(path, image, IMAGE_BYTES, NULL));
        char *object = g_strdup_printf("memory-backend-file,id=image,size=2M,mem-path=%s,%s", path,
                                       obstacle == IMAGE ? "readonly=on" : "share=on");
        g_ptr_array_add(keep, object);
        args[n++] = "-object";
        args[n++] = object;
        args[n++] = "-device";
        args[n++] = "nvdimm,id=nv0,memdev=image,unarmed=on";
    }
}

/* QEMU of the version QEMU; NULL: the installed one. */
static Vm *start_qemu(const Row *row, const char *qemu, bool source, const BootsectConfig *boot,
                      const char *incoming, const char *dir)
{
    const char *name = source ? "source" : "destination";
    Obstacle obstacle = source ? row->source : row->destination;
    g_autofree char *ram = obstacle == FILE_RAM
                               ? g_strdup_printf("memory-backend-file,id=m0,size=" MEMORY
                                                 ",share=on,mem-path=%s/%s.ram",
                                                 dir, name)
                               : g_strdup("memory-backend-ram,id=m0,size=" MEMORY);
    g_autofree char *chardev =
        g_strdup_printf("socket,id=h,path=%s/%s,server=on,wait=off", dir, name);
    bool nvdimm = obstacle == NVDIMM || obstacle == IMAGE;
    const char *args[20] = {
        "-machine", nvdimm ? "pc,memory-backend=m0,nvdimm=on" : "pc,memory-backend=m0",
        "-chardev", chardev,
        "-mon",     "chardev=h,mode=readline",
        "-cpu",     "max",
        "-object",  ram};
    g_autoptr(GPtrArray) keep = g_ptr_array_new_with_free_func(g_free);

    add_obstacle(obstacle, dir, name, args, 10, keep);

    return vm_start(&(VmConfig){.name = name,
                                .qemu = qemu,
                                .launcher = VM_RUN,
                                .memory = nvdimm ? MEMORY ",slots=2,maxmem=1G" : MEMORY,
                                .args = args,
                                .boot = boot,
                                .incoming = incoming,
                                .faults = !source       ? NULL
                                          : row->faults ? row->faults
                                                        : obstacles[obstacle].faults});
}

static Vm *start(const Row *row, bool source, const BootsectConfig *boot, const char *incoming,
                 const char *dir)
{
    return start_qemu(row, NULL, source, boot, incoming, dir);
}

/* Runs LINE at QEMU's own human monitor. */
static void hmp(const char *dir, const char *name, const char *line)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int64_t deadline = test_deadline(TEST_TIMEOUT);

    g_assert_cmpuint(g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)), <,
                     sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_autoptr(Stream) s = stream_new(fd, "hmp");
    g_assert_true(stream_wait_text(s, "(qemu) ", deadline));
    stream_send(s, line, strlen(line), NULL, 0);
    g_assert_true(stream_wait_text(s, "\r\n", deadline));
    g_assert_true(stream_wait_text(s, "(qemu) ", deadline));
}

static void meet(Obstacle obstacle, Vm *vm, const char *dir, const char *name)
{
    if (obstacle == PLUGGED) {
        hmp(dir, name, "object_add memory-backend-ram,id=later,size=1M\n");
    } else if (obstacle == NESTED) {
        vm_set_svme(vm, true);
    }
}

static void set_up(const Row *row, Qmp *q, bool source)
{
    qmp_set_capability(q, "events", true);
    if (row->always) {
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': 'always'}");
    } else {
        qmp_set_capability(q, "postcopy-ram", true);
    }
    if (row->capability) {
        qmp_set_capability(q, row->capability, true);
    }
    if (source && row->parameters) {
        qmp_ok(q, "migrate-set-parameters", "%s", row->parameters);
    }
    if (source) {
        /* Slow enough for the switch to come in between, and for a look at what it is after it; a
         * precopy that may end does. */
        qmp_ok(q, "migrate-set-parameters",
               row->postcopy ? "{'max-bandwidth': 8388608, 'max-postcopy-bandwidth': 1048576}"
                             : "{'max-bandwidth': 1000000000, 'downtime-limit': 20000}");
    }
}

static void check_carrier(Vm *vm, bool engine, const char *reason)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    g_assert_true(json_object_has_member(info, "x-farfault"));
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    const char *why = json_object_get_string_member_with_default(own, "reason", NULL);

    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, engine ? "farfault" : "qemu");
    if (engine) {
        /* At the source. */
        const char *no = json_object_get_string_member_with_default(own, "no-precopy", NULL);
        g_assert_null(why);
        g_assert_true(!reason == !no);
        return;
    }
    if (!why || !strstr(why, reason)) {
        g_test_message("%s", why ? why : "no reason");
        g_test_fail_printf("another reason than: %s", reason);
    }
    g_autofree char *said = vm_stderr(vm);
    g_assert_nonnull(strstr(said, "QEMU carries the migration: "));
}

/* Both have farfault: neither can know that, or why the other one's leaves it to QEMU. */
#define DESTINATION_LEAVES                                                                         \
    "the destination answers as QEMU does: it has no farfault, or one that leaves the migration"
#define SOURCE_LEAVES                                                                              \
    "the source sends QEMU's own migration: it has no farfault, or one that leaves the migration"

static void check_both(const Row *row, Vm *source, Vm *destination)
{
    check_carrier(source, row->engine,
                  row->source ? obstacles[row->source].reason : DESTINATION_LEAVES);
    if (row->destination) {
        check_carrier(destination, row->engine, obstacles[row->destination].reason);
    } else if (!row->engine) {
        check_carrier(destination, false, SOURCE_LEAVES);
    }
}

/* What farfault status, which asks nobody, says of VM, after all that QEMU has said to its engine
 * by now. */
static void check_listed(Vm *vm, const char *words)
{
    g_autofree char *status = qmp_migrate_status(vm_qmp(vm)), *line = vm_listed(vm_pid(vm));

    if (!strstr(line, words)) {
        test_fail("%s, and listed: %s; not: %s", status, line, words);
    }
}

#define LISTED_SENT "was sent by QEMU itself"
#define LISTED_GIVEN "QEMU itself carries its migration, or has carried it"
#define LISTED_WAITS "QEMU itself waits for its migration, carries it, or has carried it"

static void check_listed_end(const Row *row, Vm *source, Vm *destination)
{
    /* Its engine joins connections to the end. */
    bool plain = row->destination != FILE_RAM && row->destination != NVDIMM;

    if (row->engine) {
        check_listed(source, "was given away");
        check_listed(destination, "nothing is under way");
        return;
    }
    if (row->always) {
        /* Perhaps the engine was there at the end. */
        g_autofree char *line = vm_listed(vm_pid(source));
        g_assert_true(strstr(line, LISTED_GIVEN) || strstr(line, LISTED_SENT));
    } else {
        check_listed(source, LISTED_SENT);
    }
    g_autofree char *line = vm_listed(vm_pid(destination));
    if (!strstr(line, "it came by QEMU's own migration") &&
        (plain || !strstr(line, LISTED_WAITS))) {
        test_fail("the destination is listed: %s", line);
    }
}

static void pass_socket(Qmp *a, Qmp *b)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    qmp_getfd(a, "moved", pair[0]);
    qmp_getfd(b, "moved", pair[1]);
    close(pair[0]);
    close(pair[1]);
}

static void run(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autofree char *path = g_build_filename(dir, "migration", NULL);
    g_autofree char *listen = row->unix_socket ? g_strdup_printf("unix:%s", path)
                              : row->passed    ? g_strdup("fd:moved")
                                               : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination =
        start(row, false, &boot, row->incoming_argument ? listen : "defer", dir);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "B");
    meet(row->source, source, dir, "source");
    meet(row->destination, destination, dir, "destination");
    set_up(row, s, true);
    set_up(row, d, false);
    if (row->passed) {
        pass_socket(s, d);
    }
    if (!row->incoming_argument) {
        qmp_ok(d, "migrate-incoming", "{'uri': '%s'}", listen);
    }
    g_autofree char *uri =
        row->unix_socket || row->passed ? g_strdup(listen) : move_listen_uri(destination);

    if (!row->postcopy) {
        /* The guest of a precopy that QEMU carries may not write faster than the link. */
        qmp_ok(s, "stop", NULL);
    }
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    if (row->postcopy) {
        if (!row->at_once) {
            qmp_expect_migration(s, "active");
            check_listed(source, "; the guest has not been switched over");
        }
        qmp_ok(s, "migrate-start-postcopy", NULL);
        qmp_expect_migration(s, "postcopy-active");
        check_listed(source, "the guest has been switched over, and its memory follows");
        qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    }
    move_wait_completed(source, destination);
    qmp_ok(d, row->postcopy ? "query-status" : "cont", NULL);
    move_check_guest(source, destination, &boot, RAM);
    check_both(row, source, destination);
    check_listed_end(row, source, destination);
    if (row->source == NVDIMM) {
        g_autofree char *from = file_of(dir, "source", "image"), *sent = NULL, *come = NULL;
        g_autofree char *to = file_of(dir, "destination", "image");

        g_assert_true(g_file_get_contents(from, &sent, NULL, NULL));
        g_assert_true(g_file_get_contents(to, &come, NULL, NULL));
        g_assert_cmpmem(sent, IMAGE_BYTES, come, IMAGE_BYTES);
    }
}

/* QEMU does not move an image that it may only read: its destination ends before the switch, as it
 * does without farfault, and the guest continues at the source. */
static void run_image(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination = start(row, false, &boot, "defer", dir);
    Qmp *s = vm_qmp(source);

    vm_wait_serial(source, "B");
    set_up(row, s, true);
    set_up(row, vm_qmp(destination), false);
    g_autofree char *uri = move_listen(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "failed");
    g_assert_cmpint(vm_wait_exit(destination), ==, 1);
    g_autofree char *said = vm_stderr(destination);
    g_assert_nonnull(strstr(said, "Failed to fallocate image:0"));
    check_carrier(source, false, obstacles[IMAGE].reason);
    vm_wait_new_serial(source, "B");
}

static void with_dir(const void *opaque, void (*func)(const Row *row, const char *dir))
{
    g_autofree char *dir = g_strdup_printf("/dev/shm/ff-carrier-%d", getpid());
    static const char *const left[] = {
        "source",       "destination",       "source.ram", "destination.ram",
        "source.image", "destination.image", "migration",  NULL};
    const char *why;

    if (!vm_farfault_available(&why) || !vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_assert_cmpint(g_mkdir(dir, 0700), ==, 0);
    func(opaque, dir);
    for (const char *const *name = left; *name; name++) {
        g_autofree char *path = g_build_filename(dir, *name, NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_row(const void *opaque)
{
    with_dir(opaque, run);
}

static void test_image(const void *opaque)
{
    with_dir(opaque, run_image);
}

static bool is_end(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    g_assert_cmpstr(status, !=, "completed");
    return !strcmp(status, "cancelled") || !strcmp(status, "failed");
}

static bool is_over(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "completed") || !strcmp(status, "cancelled") ||
           !strcmp(status, "failed");
}

static bool is_second_pass(JsonObject *data, const void *opaque)
{
    return json_object_get_int_member(data, "pass") >= 2;
}

/* It must not be completed: else all that is known of it is said. */
static void expect_failure(Vm *source)
{
    g_autoptr(JsonObject) event =
        qmp_wait_event(vm_qmp(source), "MIGRATION", is_over, NULL, TEST_TIMEOUT);
    JsonObject *data = json_object_get_object_member(event, "data");

    if (!strcmp(json_object_get_string_member(data, "status"), "completed")) {
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
        g_autofree char *registers = qmp_hmp(vm_qmp(source), "info registers -a");
        g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), info);
        g_autofree char *said = vm_stderr(source), *text = json_to_string(node, FALSE);

        test_fail("completed; query-migrate: %s; registers: %s; stderr: %s", text, registers, said);
    }
}

/* A guest that could be a hypervisor and is not: the engine carries it, with precopy. And one that
 * becomes one on the way: nothing that was sent is good for anything. With FAULTS of the row's own
 * that is after the last look at the running guest. */
static void run_nested(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination = start(row, false, &boot, "defer", dir);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    bool idle = !strcmp(row->name, "idle"), late = strstr(row->name, "stopping");

    vm_wait_serial(source, "B");
    set_up(row, s, true);
    set_up(row, d, false);
    g_autofree char *uri = move_listen(destination);
    qmp_ok(s, "migrate-set-parameters",
           idle || (late && !row->postcopy)
               ? "{'max-bandwidth': 1000000000, 'downtime-limit': 20000}"
               : "{'max-bandwidth': 16777216, 'downtime-limit': 1}");
    hold_make(source);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    if (row->postcopy) {
        /* Before anything was sent nothing need have been tracked. */
        json_object_unref(qmp_wait_event(s, "MIGRATION_PASS", is_second_pass, NULL, TEST_TIMEOUT));
        qmp_ok(s, "migrate-start-postcopy", NULL);
    }
    if (!idle) {
        hold_wait(source);
        vm_set_svme(source, true);
        hold_let_go(source);
    }
    if (row->engine) {
        move_wait_completed(source, destination);
        move_check_guest(source, destination, &boot, RAM);
    } else {
        expect_failure(source);
        g_assert_cmpint(vm_wait_exit(destination), ==, 1);
        vm_wait_new_serial(source, "B");
    }
    g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    const char *no = json_object_get_string_member_with_default(own, "no-precopy", "");
    const char *desc = json_object_get_string_member_with_default(info, "error-desc", "");
    g_assert_true(!strstr(no, "(svm)") == (idle || !row->engine));
    g_assert_true(!strstr(desc, "(svm)") == row->engine);
    g_assert_true(!strstr(desc, "were not all tracked") == !late);
}

static void test_nested(const void *opaque)
{
    with_dir(opaque, run_nested);
}

static bool is_completed(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    if (!strcmp(status, "failed")) {
        test_fail("the client is told that a migration has failed which QEMU carries");
    }
    return !strcmp(status, "completed");
}

/* The source's engine dies after it has left the migration to QEMU: before QEMU knows of one the
 * client hears that it failed; afterwards it is QEMU's, and nobody says anything else. */
static void run_died(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination = start(row, false, &boot, "defer", dir);
    g_autoptr(Vm) next = NULL;
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    bool begun = g_str_has_prefix(row->name, "begun");

    vm_wait_serial(source, "B");
    meet(row->source, source, dir, "source");
    set_up(row, s, true);
    set_up(row, d, false);
    g_autofree char *uri = move_listen(destination);
    qmp_ok(s, "stop", NULL);
    /* The engine may end before or after it has answered. */
    g_autoptr(JsonObject) answer = qmp_call(s, "migrate", "{'uri': '%s'}", uri);

    g_assert_nonnull(answer);
    if (begun && row->always) {
        json_object_unref(qmp_wait_event(s, "MIGRATION", is_completed, NULL, TEST_TIMEOUT));
        qmp_expect_migration(d, "completed");
    } else {
        qmp_expect_migration(s, "failed");
        g_autofree char *status = qmp_migrate_status(s);

        g_assert_cmpstr(status, ==, "failed");
        qmp_ok(s, "cont", NULL);
        vm_wait_new_serial(source, "B");
        qmp_ok(s, "stop", NULL);
        if (!row->always) {
            /* The connection was the engine's: its peer has seen the end of it. */
            vm_kill(destination);
            next = start(row, false, &boot, "defer", dir);
            d = vm_qmp(next);
            set_up(row, d, false);
            g_free(uri);
            uri = move_listen(next);
        }
        qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
        move_wait_completed(source, next ? next : destination);
    }
    g_assert_true(vm_fault_happened(source, 0));
    qmp_ok(d, "cont", NULL);
    move_check_guest(source, next ? next : destination, &boot, RAM);
}

static void test_died(const void *opaque)
{
    with_dir(opaque, run_died);
}

/* While the engine listens somebody lets a guest in at QEMU's own human monitor. A source that
 * connects to the engine then is sent away, and the guest that has come in lives. */
static void run_occupied(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autofree char *line = g_strdup_printf("migrate_incoming unix:%s/migration\n", dir);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination = start(row, false, &boot, "defer", dir);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "B");
    qmp_set_capability(d, "events", true);
    qmp_set_capability(d, "postcopy-ram", true);
    g_autofree char *uri = move_listen(destination);

    hmp(dir, "destination", line);
    qmp_set_capability(s, "events", true);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000, 'downtime-limit': 20000}");
    qmp_ok(s, "migrate", "{'uri': 'unix:%s/migration'}", dir);
    qmp_expect_migration(s, "completed");
    vm_wait_serial(destination, "B");
    vm_kill(source);
    if (row->never) {
        qmp_ok(d, "migrate-set-parameters", "{'x-farfault-policy': 'never'}");
    }

    g_autoptr(Vm) other = start(row, true, &boot, NULL, dir);
    vm_wait_serial(other, "B");
    qmp_set_capability(vm_qmp(other), "events", true);
    qmp_set_capability(vm_qmp(other), "postcopy-ram", true);
    qmp_ok(vm_qmp(other), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(other), "failed");
    vm_wait_new_serial(other, "B");
    qmp_expect_migration(d, "failed");
    vm_wait_new_serial(destination, "B");
    g_autofree char *state = qmp_run_state(d);
    g_assert_cmpstr(state, ==, "running");
}

static void test_occupied(const void *opaque)
{
    with_dir(opaque, run_occupied);
}

/* Cancelled at moments on both sides of the engine's leaving it to QEMU: each attempt has an end
 * that the client hears of, the guest runs on, and can be migrated. With postcopy-preempt that is
 * QEMU 10: 7.2 makes its second connection beside the migration, and aborts
 * (yank_register_function) when it is made after the end of one that was cancelled, as it does
 * without farfault. */
static void run_cancel(const Row *row, const char *dir)
{
    g_autofree char *newer = row->capability ? vm_newer_qemu() : NULL;
    if (row->capability && !newer) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start_qemu(row, newer, true, &boot, NULL, dir);
    Qmp *s = vm_qmp(source);

    vm_wait_serial(source, "B");
    meet(row->source, source, dir, "source");
    set_up(row, s, true);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 8388608, 'downtime-limit': 1}");
    for (unsigned ms = 0; ms <= 60; ms += ms < 20 ? 4 : 20) {
        g_autoptr(Vm) destination = start_qemu(row, newer, false, &boot, "defer", dir);
        Qmp *d = vm_qmp(destination);

        meet(row->destination, destination, dir, "destination");
        set_up(row, d, false);
        g_autofree char *uri = move_listen(destination);
        qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
        g_usleep(ms * 1000);
        qmp_ok(s, "migrate_cancel", NULL);
        json_object_unref(qmp_wait_event(s, "MIGRATION", is_end, NULL, 30));
        g_autofree char *state = qmp_run_state(s), *status = qmp_migrate_status(s);

        g_test_message("%u ms: %s", ms, status);
        g_assert_cmpstr(state, ==, "running");
        vm_kill(destination); /* it may have ended already */
    }
    vm_wait_new_serial(source, "B");
}

static void test_cancel(const void *opaque)
{
    with_dir(opaque, run_cancel);
}

/* A migration that does not come to its end, as farfault status lists it: paused, failed,
 * cancelled. */
static void run_listed(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    g_autoptr(Vm) destination = start(row, false, &boot, "defer", dir);
    Qmp *s = vm_qmp(source);
    bool cancels = !strcmp(row->name, "cancelled");

    vm_wait_serial(source, "B");
    check_listed(source, "nothing is under way");
    check_listed(destination, "waits for an incoming migration");
    meet(row->source, source, dir, "source");
    set_up(row, s, true);
    set_up(row, vm_qmp(destination), false);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-bandwidth': 8388608, 'max-postcopy-bandwidth': 8388608, 'downtime-limit': 1}");
    g_autofree char *uri = move_listen(destination);
    check_listed(destination, "waits for an incoming migration");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    if (row->postcopy) {
        qmp_ok(s, "migrate-start-postcopy", NULL);
        /* Before that QEMU recovers from nothing. */
        qmp_expect_migration(vm_qmp(destination), "postcopy-active");
    }
    if (cancels) {
        qmp_ok(s, "migrate_cancel", NULL);
    } else {
        vm_kill(destination);
    }
    qmp_expect_migration(s, row->postcopy ? "postcopy-paused" : row->name);
    if (cancels) {
        vm_kill(destination); /* it ends by itself, with a failure */
    }
    check_listed(source, row->postcopy ? "is paused after the switch"
                         : cancels     ? "nothing is under way; its last migration, by QEMU "
                                         "itself, was cancelled"
                                       : "nothing is under way; its last migration, by QEMU "
                                         "itself, failed");
}

/* One that the client has made QEMU's, which no engine carries or hears of. */
static void run_listed_native(const Row *row, const char *dir)
{
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source = start(row, true, &boot, NULL, dir);
    Qmp *s = vm_qmp(source);

    vm_wait_serial(source, "B");
    qmp_set_capability(s, "events", true);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 1000000000}");
    qmp_ok(s, "stop", NULL);
    qmp_ok(s, "migrate", "{'uri': 'exec:cat > %s/migration'}", dir);
    g_autofree char *line = vm_listed(vm_pid(source));
    g_assert_true(strstr(line, "QEMU itself"));
    g_assert_null(strstr(line, "nothing is under way"));
    qmp_expect_migration(s, "completed");
    g_autofree char *after = vm_listed(vm_pid(source));
    g_assert_true(strstr(after, LISTED_GIVEN) || strstr(after, LISTED_SENT) ||
                  strstr(after, "has not been switched over")); /* its event is on its way */
}

static void test_listed(const void *opaque)
{
    with_dir(opaque, run_listed);
}

static void test_listed_native(const void *opaque)
{
    with_dir(opaque, run_listed_native);
}

static const Row unfinished[] = {
    {"paused", .source = PLUGGED, .postcopy = true},
    {"failed", .source = PLUGGED},
    {"cancelled", .source = PLUGGED},
};

static const Row cancels[] = {
    {"source", .source = PLUGGED},
    {"destination", .destination = PLUGGED},
    {"both/preempt", .source = PLUGGED, .destination = PLUGGED, .capability = "postcopy-preempt"},
    {"destination/preempt", .destination = PLUGGED, .capability = "postcopy-preempt"},
};

static const Row died[] = {
    {"given-back", .source = PLUGGED, .faults = "source/*/at/given-back=kill"},
    {"begun", .source = PLUGGED, .faults = "source/*/at/qemu-began=kill"},
    {"given-back/alone", .source = PLUGGED, .always = true,
     .faults = "source/*/at/given-back=kill"},
    {"begun/alone", .source = PLUGGED, .always = true, .faults = "source/*/at/qemu-began=kill"},
};

/* Before anything is sent. */
#define AT_ONCE "source/*/step/nested-kvm=skip;source/*/at/active=hold"
/* The guest runs; what is scanned is scanned once more when it stands. */
#define AT_STOPPING "source/*/step/nested-kvm=skip;source/*/at/stopping=hold"
static const Row nested[] = {
    {"idle", .source = NESTED, .engine = true},
    {"begins", .source = NESTED, .faults = AT_ONCE},
    {"begins/switch", .source = NESTED, .faults = AT_ONCE, .engine = true,
     .parameters = "{'x-farfault-untracked': 'postcopy'}"},
    {"begins/stopping", .source = NESTED, .faults = AT_STOPPING},
    {"begins/stopping/switch", .source = NESTED, .faults = AT_STOPPING, .postcopy = true,
     .parameters = "{'x-farfault-untracked': 'postcopy'}"},
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/carrier/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(died); i++) {
        g_autofree char *path = g_strdup_printf("/carrier/died/%s", died[i].name);

        g_test_add_data_func(path, &died[i], test_died);
    }
    static const Row image = {"image", .source = IMAGE, .destination = IMAGE, .postcopy = true};

    g_test_add_data_func("/carrier/image", &image, test_image);
    g_test_add_data_func("/carrier/listed/native", &rows[0], test_listed_native);
    static const Row occupied = {"occupied"}, native = {"occupied/native", .never = true};

    g_test_add_data_func("/carrier/occupied", &occupied, test_occupied);
    g_test_add_data_func("/carrier/occupied/native", &native, test_occupied);
    for (unsigned i = 0; i < G_N_ELEMENTS(unfinished); i++) {
        g_autofree char *path = g_strdup_printf("/carrier/listed/%s", unfinished[i].name);

        g_test_add_data_func(path, &unfinished[i], test_listed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(cancels); i++) {
        g_autofree char *path = g_strdup_printf("/carrier/cancel/%s", cancels[i].name);

        g_test_add_data_func(path, &cancels[i], test_cancel);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(nested); i++) {
        g_autofree char *path = g_strdup_printf("/carrier/nested/%s", nested[i].name);

        g_test_add_data_func(path, &nested[i], test_nested);
    }
    return g_test_run();
}
