/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A paused migration, looked at and kept by the person who sits before it: farfault status and
 * farfault dump at both halves of a real guest. What status says to type next is what the test
 * types.
 */
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/delay.h"
#include "tests/lib/dumps.h"
#include "tests/lib/move.h"
#include "tests/lib/stop.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

enum { PAGE = 4096 };

typedef struct {
    Vm *vm;
    Qmp *q;
    char *monitor;     /* a second one, for the command */
    char *dump;        /* a folder that it makes */
    char *migrated_to; /* a source: where it was told to, by pause_it() */
} Half;

static Half half_start(const char *name, const char *dir, const BootsectConfig *boot,
                       const char *incoming, const char *faults)
{
    Half h = {.monitor = g_strdup_printf("%s/%s.qmp", dir, name),
              .dump = g_strdup_printf("%s/%s.dump", dir, name)};
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off", h.monitor);
    const char *const args[] = {"-machine", "pc", "-qmp", qmp, NULL};

    h.vm = vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = RAM,
                                .args = args,
                                .boot = boot,
                                .incoming = incoming,
                                .faults = faults});
    h.q = vm_qmp(h.vm);
    return h;
}

/* Both in a folder of their own, which is returned (g_free); the guest runs. FAULTS: the
 * destination's. */
static char *halves_start(Half *s, Half *d, const BootsectConfig *boot, const char *faults)
{
    char *dir = g_dir_make_tmp("halves-XXXXXX", NULL);

    *s = half_start("source", dir, boot, NULL, NULL);
    *d = half_start("destination", dir, boot, "defer", faults);
    vm_wait_serial(s->vm, "B");
    return dir;
}

static void half_end(Half *h)
{
    vm_end(h->vm);
    g_free(h->monitor);
    g_free(h->migrated_to);
    g_free(h->dump);
}

static void halves_end(Half *s, Half *d, const char *dir)
{
    half_end(d);
    half_end(s);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* farfault ARG...: its exit status, and what it wrote, where wanted. */
static int farfault(char **out, char **err, const char *const *args)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *program = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;
    int status;

    g_ptr_array_add(argv, program);
    for (int i = 0; args[i]; i++) {
        g_ptr_array_add(argv, (char *)args[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, NULL,
                 (out ? 0 : G_SPAWN_STDOUT_TO_DEV_NULL) | (err ? 0 : G_SPAWN_STDERR_TO_DEV_NULL),
                 NULL, NULL, out, err, &status, &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}
#define FARFAULT(out, err, ...) farfault(out, err, (const char *const[]){__VA_ARGS__, NULL})

static JsonObject *half_of(JsonObject *info)
{
    return json_object_get_object_member(json_object_get_object_member(info, "x-farfault"), "half");
}

/* A third of the guest's walk came, so that each half has what the other one lacks. */
static bool is_on_its_way(JsonObject *half)
{
    return json_object_get_int_member(half, "pages-destination") > (24 << 20) / PAGE + 2048;
}

static bool is_waited_for(JsonObject *half)
{
    JsonArray *waits = json_object_get_array_member(half, "waits");

    for (guint i = 0; i < json_array_get_length(waits); i++) {
        JsonObject *w = json_array_get_object_element(waits, i);
        if (json_object_has_member(w, "vcpu")) {
            g_assert_cmpint(json_object_get_int_member(w, "vcpu"), ==, 0);
            g_assert_cmpstr(json_object_get_string_member(w, "block"), ==, "pc.ram");
            return true;
        }
    }
    return false;
}

/* What no event tells. The guest walks its memory, so it comes. */
static void await(Half *d, bool (*what)(JsonObject *half))
{
    gint64 until = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
    bool seen = false;

    while (!seen) {
        g_autoptr(JsonObject) info = qmp_return(d->q, "query-migrate", NULL);
        seen = what(half_of(info));
        if (!seen && g_get_monotonic_time() > until) {
            g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), info);
            g_autofree char *text = json_to_string(node, TRUE);

            g_error("the guest does not come to it: %s", text);
        }
    }
}

/* Returns where the destination listens (g_free). */
static char *listen_slowly(Half *s, Half *d)
{
    move_prepare(s->vm, d->vm);
    qmp_ok(s->q, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    qmp_ok(d->q, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    return move_listen_uri(d->vm);
}

static char *migrate_slowly(Half *s, Half *d)
{
    char *uri = listen_slowly(s, d);

    qmp_ok(s->q, "migrate", "{'uri': '%s'}", uri);
    return uri;
}

/* Requests are answered late, so that the guest still misses pages when this is paused, also on a
 * machine that is busy for seconds: each brings at most 32 of the 6144 pages that it walks through,
 * of which a third is awaited. */
#define URGENT_CONNECTION 1
#define ANSWER_US 30000

static Delay *answer_slowly(const char *uri)
{
    Delay *proxy = delay_new(uri, URGENT_CONNECTION);

    delay_set(proxy, ANSWER_US);
    return proxy;
}

static void pause_it(Half *s, Half *d)
{
    g_autofree char *uri = listen_slowly(s, d);
    Delay *proxy = answer_slowly(uri);
    s->migrated_to = g_strdup(delay_uri(proxy));
    qmp_ok(s->q, "migrate", "{'uri': '%s'}", s->migrated_to);
    qmp_expect_migration(s->q, "active");
    qmp_ok(s->q, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s->q, "postcopy-active");
    qmp_expect_migration(d->q, "postcopy-active");
    await(d, is_on_its_way);
    qmp_ok(s->q, "migrate-pause", NULL);
    qmp_expect_migration(s->q, "postcopy-paused");
    qmp_expect_migration(d->q, "postcopy-paused");
    delay_free(proxy);
    await(d, is_waited_for);
}

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("not in what it says: %s\n%s", part, text);
    }
}

static void expect_no_text(const char *text, const char *part)
{
    if (strstr(text, part)) {
        g_error("in what it says: %s\n%s", part, text);
    }
}

/* The URI of the first "migrate" in TEXT. */
static char *uri_to_type(const char *text)
{
    const char *from = strstr(text, "{\"execute\": \"migrate\",");
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) error = NULL;

    expect_text(text, "{\"execute\": \"migrate\", \"arg");
    json_parser_load_from_data(parser, from, strcspn(from, "\n"), &error);
    g_assert_no_error(error);
    JsonObject *o = json_node_get_object(json_parser_get_root(parser));
    JsonObject *args = json_object_get_object_member(o, "arguments");
    g_assert_true(json_object_get_boolean_member(args, "resume"));
    return g_strdup(json_object_get_string_member(args, "uri"));
}

/* So that ps shows whose relay it is. */
static void check_title(Half *h, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)vm_relay(h->vm));
    g_autofree char *words = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &words, &len, NULL));
    g_assert_cmpstr(words, ==, "farfault-relay");
    g_assert_cmpuint(len, >, strlen(name) + 1);
    g_assert_cmpstr(words + len - strlen(name) - 1, ==, name);
}

/* Without a monitor; other guests may be there. */
static void look_at_all(Half *s, Half *d)
{
    g_autofree char *text = NULL;
    g_autofree char *from = g_strdup_printf("process %d: its migration to another QEMU is paused "
                                            "after the switch: the connection broke "
                                            "(postcopy-paused)",
                                            (int)vm_pid(s->vm));
    g_autofree char *to = g_strdup_printf("process %d: its migration from another QEMU is paused ",
                                          (int)vm_pid(d->vm));

    check_title(s, "source");
    g_assert_cmpint(FARFAULT(&text, NULL, "status"), ==, 0);
    expect_text(text, from);
    expect_text(text, to);
}

/* One runs, the other one waits. */
static void look_before(Half *s, Half *d)
{
    g_autofree char *text = NULL;
    g_autofree char *at_s =
        g_strdup_printf("process %d: nothing is under way\n", (int)vm_pid(s->vm));
    g_autofree char *at_d =
        g_strdup_printf("process %d: waits for an incoming migration\n", (int)vm_pid(d->vm));

    g_assert_cmpint(FARFAULT(&text, NULL, "status"), ==, 0);
    expect_text(text, at_s);
    expect_text(text, at_d);
}

/* Returns the URI that both sides say to type. */
static char *look(Half *s, Half *d)
{
    g_autofree char *at_s = NULL, *at_d = NULL, *json = NULL;

    g_assert_cmpint(FARFAULT(&at_s, NULL, "status", s->monitor), ==, 0);
    expect_text(at_s, "is paused after the switch");
    expect_text(at_s, "of 16384 pages are at the destination; all are kept here");
    g_assert_cmpint(FARFAULT(&at_d, NULL, "status", d->monitor), ==, 0);
    expect_text(at_d, "of 16384 pages are here; ");
    expect_text(at_d, "vCPU 0, for ");
    expect_text(at_d, "of 'pc.ram'");
    expect_text(at_d, "migrate-recover");
    g_autofree char *next_s = g_strdup_printf(
        "  next         farfault migrate --resume %s DESTINATION-QMP\n", s->monitor);
    g_autofree char *next_d =
        g_strdup_printf("  next         farfault migrate --resume SOURCE-QMP %s\n", d->monitor);
    expect_text(at_s, next_s);
    expect_text(at_d, next_d);
    /* The source knows what its client has said, the destination where it listens. */
    g_autofree char *said = uri_to_type(at_s);
    g_autofree char *uri = uri_to_type(at_d);
    g_assert_cmpstr(said, ==, s->migrated_to);
    g_assert_true(g_str_has_prefix(uri, "tcp:127.0.0.1:"));

    look_at_all(s, d);
    g_assert_cmpint(FARFAULT(&json, NULL, "status", "--json", d->monitor), ==, 0);
    g_autoptr(JsonNode) root = json_from_string(json, NULL);
    JsonObject *info = json_object_get_object_member(json_node_get_object(root), "query-migrate");
    gint64 here = json_object_get_int_member(half_of(info), "pages-destination");
    g_assert_cmpint(here, >, 0);
    g_assert_cmpint(here, <, 16384);
    g_assert_true(json_object_get_boolean_member(half_of(info), "may-run"));
    return g_steal_pointer(&uri);
}

static void refused(const char *part, const char *const *args)
{
    g_autofree char *out = NULL, *err = NULL;

    g_assert_cmpint(farfault(&out, &err, args), ==, 1);
    g_assert_true(g_str_has_prefix(err, "farfault: "));
    g_assert_cmpint(strcspn(err, "\n"), ==, strlen(err) - 1);
    expect_text(err, part);
}
#define REFUSED(part, ...) refused(part, (const char *const[]){__VA_ARGS__, NULL})

static char *file_of(const char *folder, const char *name, gsize *length)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    g_autoptr(GError) error = NULL;
    char *data;

    g_file_get_contents(path, &data, length, &error);
    g_assert_no_error(error);
    return data;
}

static uint32_t counter(const void *page)
{
    uint32_t value;

    memcpy(&value, page, sizeof(value));
    return value;
}

/* What the source keeps is its memory; what the destination had, its guest had begun with or
 * continued from. */
static void compare_dumps(Half *s, Half *d, const BootsectConfig *boot)
{
    gsize length, map_length;
    g_autofree char *theirs = file_of(s->dump, "0.memory", &length);
    g_assert_cmpint(length, ==, RAM_BYTES);
    g_autofree char *ours = file_of(d->dump, "0.memory", &length);
    g_assert_cmpint(length, ==, RAM_BYTES);
    g_autofree char *map = file_of(d->dump, "0.pages", &map_length);
    g_autofree uint8_t *page = g_malloc(PAGE);
    unsigned held = 0;

    for (uint64_t at = boot->start; at < boot->end; at += PAGE) {
        qtest_read(vm_qtest(s->vm), at, page, PAGE);
        g_assert_cmpmem(theirs + at, PAGE, page, PAGE);
        if (map[at / PAGE / 8] & 1 << at / PAGE % 8) {
            g_assert_cmpuint(counter(ours + at), >=, counter(page));
            held++;
        } else {
            memset(page, 0, PAGE);
            g_assert_cmpmem(ours + at, PAGE, page, PAGE);
        }
    }
    g_assert_cmpuint(held, >, 0);
    g_assert_cmpuint(held, <, (boot->end - boot->start) / PAGE);
}

static bool has_device_state(const Half *h)
{
    g_autofree char *path = g_build_filename(h->dump, "device-state", NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* What is there, and what is not, is said. */
static void write_halves(Half *s, Half *d)
{
    g_autofree char *at_s = NULL, *at_d = NULL;

    g_assert_cmpint(FARFAULT(&at_s, NULL, "dump", s->monitor, s->dump), ==, 0);
    g_assert_cmpint(FARFAULT(&at_d, NULL, "dump", d->monitor, d->dump), ==, 0);
    g_test_message("%s%s", at_s, at_d);
    expect_text(at_s, "\ndevice state as it was at the switch\n");
    expect_text(at_d, "\nno device state: the guest was granted to this side");
    g_assert_true(has_device_state(s));
    g_assert_false(has_device_state(d));
}

static void keep(Half *s, Half *d, const BootsectConfig *boot)
{
    g_autofree char *out = NULL;
    g_autofree char *map = g_build_filename(s->dump, "0.pages", NULL);
    g_autofree char *none = g_malloc0(RAM_BYTES / PAGE / 8);

    write_halves(s, d);
    REFUSED(s->dump, "dump", s->monitor, s->dump); /* nothing is overwritten */
    g_assert_cmpint(FARFAULT(&out, NULL, "dump", "--check", s->dump, d->dump), ==, 0);
    expect_text(out, "every page is in one of them");
    compare_dumps(s, d, boot);
    REFUSED("not the two halves", "dump", "--check", s->dump, s->dump);
    REFUSED("farfault recover --from", "join", "--force", s->dump, d->dump, "/nowhere/at-all");
    REFUSED("give the source's first", "join", "--force", d->dump, s->dump, "/nowhere/at-all");
    g_assert_cmpint(g_unlink(map), ==, 0);
    g_assert_true(g_file_set_contents(map, none, RAM_BYTES / PAGE / 8, NULL));
    REFUSED("0.pages: damaged", "dump", "--check", s->dump, d->dump);
    dump_seal(s->dump);
    REFUSED("pages are in neither of them", "dump", "--check", s->dump, d->dump);
}

static void forget_dump(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);

    g_assert_nonnull(dir);
    for (const char *name; (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(folder), ==, 0);
}

/* Else the test is skipped. */
static bool has(bool (*what)(const char **why))
{
    const char *why;

    if (!what(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

/* Not slowly any more. */
static void await_end(Half *s, Half *d)
{
    qmp_ok(s->q, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(s->vm, d->vm);
    vm_wait_new_serial(d->vm, "B");
}

static void test_halves(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    REFUSED("no paused migration", "dump", s.monitor, s.dump);
    look_before(&s, &d);
    pause_it(&s, &d);
    g_autofree char *uri = look(&s, &d);
    keep(&s, &d, &boot);

    qmp_ok(s.q, "migrate", "{'uri': '%s', 'resume': true}", uri);
    qmp_expect_migration(s.q, "postcopy-active");
    REFUSED("", "dump", d.monitor, d.dump);
    await_end(&s, &d);
    move_check_guest(s.vm, d.vm, &boot, RAM_BYTES);
    check_right(check_counters(d.vm, &boot));
    g_autofree char *elsewhere =
        g_strdup_printf("%s: the guest runs elsewhere, it has moved to %s: take the snapshot there",
                        s.monitor, uri);
    REFUSED(elsewhere, "snapshot", s.monitor, "/nowhere/at-all");
    forget_dump(s.dump);
    forget_dump(d.dump);
    halves_end(&s, &d, dir);
}

/* ---- resumed by the command line ------------------------------------------------------------- */

static void check_paused(Half *s, Half *d)
{
    Half *const halves[] = {s, d};

    for (unsigned i = 0; i < G_N_ELEMENTS(halves); i++) {
        g_autoptr(JsonObject) info = qmp_return(halves[i]->q, "query-migrate", NULL);

        g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "postcopy-paused");
    }
}

static void check_came(Half *s, Half *d, const BootsectConfig *boot)
{
    vm_wait_new_serial(d->vm, "B");
    move_check_guest(s->vm, d->vm, boot, RAM_BYTES);
    check_right(check_counters(d->vm, boot));
}

/* MORE: an option and its value; can be NULL. */
static void resume_it(Half *s, Half *d, const char *more, const char *value)
{
    g_autofree char *out = NULL, *err = NULL;

    qmp_ok(s->q, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    int status = FARFAULT(&out, &err, "migrate", "--resume", s->monitor, d->monitor, more, value);
    g_test_message("%s%s", err, out);
    g_assert_cmpint(status, ==, 0);
    expect_text(out, "migration completed by postcopy; the guest is running at the destination");
}

/* What is no use is said, and changes nothing. */
static void refuse_to_resume(Half *s, Half *d)
{
    g_autofree char *out = NULL;

    REFUSED("are source and destination swapped?", "migrate", "--resume", d->monitor, s->monitor);
    REFUSED("The source keeps what it has, and does not run the guest: farfault status ", "migrate",
            "--resume", s->monitor, "/nowhere/at-all");
    REFUSED("If the source has ended for good: farfault status ", "migrate", "--resume",
            "/nowhere/at-all", d->monitor);
    /* Nobody listens there. */
    g_assert_cmpint(FARFAULT(&out, NULL, "migrate", "--resume", "--connect", "tcp:127.0.0.1:1",
                             s->monitor, d->monitor),
                    ==, 3);
    expect_text(out, "migration paused: not resumed over tcp:127.0.0.1:1: ");
    expect_text(out, "farfault migrate --resume ");
    check_paused(s, d);
}

/* Of the pauses before. What has been said comes in front of an answer. */
static void forget_events(Half *h)
{
    g_autofree char *status = qmp_migrate_status(h->q);

    qmp_drop_events(h->q);
}

/* It is left when its time is up, and continues. */
static void resume_for_a_moment(Half *s, Half *d)
{
    g_autofree char *out = NULL, *err = NULL;

    g_assert_cmpint(
        FARFAULT(&out, &err, "migrate", "--resume", "--timeout", "1", s->monitor, d->monitor), ==,
        4);
    expect_text(err, "resumed: the rest of the guest's memory moves now");
    REFUSED("nothing is paused: the migration of source ", "migrate", "--resume", s->monitor,
            d->monitor);
    forget_events(s);
    forget_events(d);
    qmp_ok(s->q, "migrate-pause", NULL);
    qmp_expect_migration(d->q, "postcopy-paused");
    qmp_expect_migration(s->q, "postcopy-paused");
}

/* The destination's QEMU ends while the rest moves: there is nothing to try again. */
static void test_resume_ended(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL), *out = NULL;
    g_autofree char *program = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;

    pause_it(&s, &d);
    const char *const argv[] = {program, "migrate", "--resume", s.monitor, d.monitor, NULL};
    g_autoptr(GSubprocess) p = g_subprocess_newv(
        argv, G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE, &error);
    g_assert_no_error(error);
    qmp_expect_migration(s.q, "postcopy-active");
    qmp_expect_migration(d.q, "postcopy-active"); /* before that it cannot say that it has ended */
    vm_kill(d.vm);
    g_assert_true(g_subprocess_communicate_utf8(p, NULL, NULL, &out, NULL, &error));
    g_assert_no_error(error);
    g_test_message("%s", out);
    g_assert_cmpint(g_subprocess_get_exit_status(p), ==, 3);
    expect_text(out, "migration paused: ");
    expect_text(out,
                "the destination's QEMU has ended. It had been given the guest: nothing can be "
                "resumed (farfault status ");
    expect_no_text(out, "tries again");
    vm_kill(s.vm);
    g_unlink(d.monitor);
    g_unlink(s.monitor);
    halves_end(&s, &d, dir);
}

/* URI: of --uri, for a destination that is to listen elsewhere; NULL: where it did. */
static void test_resume(const void *uri)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);

    REFUSED("nothing is paused: the migration of source ", "migrate", "--resume", s.monitor,
            d.monitor);
    pause_it(&s, &d);
    refuse_to_resume(&s, &d);
    resume_for_a_moment(&s, &d);
    resume_it(&s, &d, uri ? "--uri" : NULL, uri);
    REFUSED("nothing is paused: the migration of source ", "migrate", "--resume", s.monitor,
            d.monitor);
    REFUSED("has all of the guest's memory, and needs no source any more", "migrate", "--resume",
            "/nowhere/at-all", d.monitor);
    check_came(&s, &d, &boot);
    halves_end(&s, &d, dir);
}

/* A destination whose relay and engine have ended does not listen any more: it is told to. */
static void test_resume_attached(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    g_autofree char *status = NULL, *out = NULL;

    pause_it(&s, &d);
    kill(vm_engine(d.vm), SIGKILL);
    kill(vm_relay(d.vm), SIGKILL);
    g_assert_cmpint(FARFAULT(NULL, NULL, "attach", d.monitor), ==, 0);
    g_assert_cmpint(FARFAULT(&status, NULL, "status", d.monitor), ==, 0);
    expect_no_text(status, "at the source: {");
    qmp_ok(s.q, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    g_assert_cmpint(FARFAULT(&out, NULL, "migrate", "--resume", s.monitor, d.monitor), ==, 0);
    expect_text(out, "migration completed by postcopy");
    vm_wait_new_serial(d.vm, "B");
    halves_end(&s, &d, dir);
}

/* The engine dies when QEMU has just been told to run: its copy of the device state outlives it,
 * and is of another moment by now. */
static void test_granted(void)
{
    if (!has(vm_faults_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir =
        halves_start(&s, &d, &boot, "destination/postcopy-active/at/running=kill");
    g_autofree char *uri = migrate_slowly(&s, &d);
    qmp_ok(s.q, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s.q, "postcopy-paused");
    qmp_expect_migration(d.q, "postcopy-paused");
    g_assert_true(vm_fault_happened(d.vm, 0));
    write_halves(&s, &d);
    qmp_ok(s.q, "migrate", "{'uri': '%s', 'resume': true}", uri);
    await_end(&s, &d);
    forget_dump(s.dump);
    forget_dump(d.dump);
    halves_end(&s, &d, dir);
}

/* Somebody has stopped the process that has the guest: nothing breaks, and nothing continues; a
 * client that asks is told why. */
static void test_stopped(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    g_autofree char *before = NULL, *after = NULL;
    g_autofree char *type = g_strdup_printf("kill -CONT %d\n", (int)vm_pid(d.vm));

    pause_it(&s, &d);
    g_autofree char *uri = look(&s, &d);
    qmp_ok(s.q, "migrate", "{'uri': '%s', 'resume': true}", uri);
    qmp_expect_migration(d.q, "postcopy-active");
    FARFAULT(&before, NULL, "doctor");
    g_assert_null(strstr(before, type));
    stop_process(vm_pid(d.vm));
    /* It may have greeted this client before. */
    REFUSED("see farfault doctor", "status", d.monitor);
    FARFAULT(&after, NULL, "doctor");
    expect_text(after, type);
    kill(vm_pid(d.vm), SIGCONT);
    await_end(&s, &d);
    halves_end(&s, &d, dir);
}

/* In the middle of postcopy, with much of it to come. */
static void reach_postcopy(Half *s, Half *d, const char *uri)
{
    qmp_ok(s->q, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s->q, "active");
    qmp_ok(s->q, "migrate-start-postcopy", NULL);
    qmp_expect_migration(d->q, "postcopy-active");
    await(d, is_on_its_way);
}

/* What farfault status says at H, which is paused (g_free); *ENDED: its peer has said that its QEMU
 * has ended. */
static char *paused_status(Half *h, bool *ended)
{
    char *text;

    qmp_expect_migration(h->q, "postcopy-paused");
    g_autoptr(JsonObject) info = qmp_return(h->q, "query-migrate", NULL);
    *ended = json_object_get_boolean_member(half_of(info), "peer-ended");
    g_assert_cmpint(FARFAULT(&text, NULL, "status", h->monitor), ==, 0);
    return text;
}

/* The engine of S, which is paused, dies as well: the next one does not know what was sent. */
static void check_not_known(Half *s)
{
    pid_t engine = vm_engine(s->vm);
    struct pollfd ended = {pidfd_open(engine, 0), POLLIN, 0};
    g_autofree char *text = NULL;

    g_assert_cmpint(ended.fd, >=, 0);
    kill(engine, SIGKILL);
    g_assert_cmpint(poll(&ended, 1, 60000), ==, 1);
    close(ended.fd);
    g_assert_cmpint(FARFAULT(&text, NULL, "status", s->monitor), ==, 0);
    expect_text(text, "it is not known how many pages are at the destination; all are kept here");
    expect_no_text(text, "at most ");
}

/* The engines know that a QEMU has ended, and say so. The other side says what is gone, and does
 * not send anybody to a side that is dead; nor does it look for it. */
static void check_killed(bool source)
{
    g_autofree char *text = NULL;
    const char *why;
    bool ended;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    Half *killed = source ? &s : &d, *left = source ? &d : &s;

    qmp_ok(left->q, "migrate-set-parameters", "{'x-farfault-auto-recover': 600}");
    g_autofree char *uri = listen_slowly(&s, &d);
    reach_postcopy(&s, &d, uri);
    vm_kill(killed->vm);
    text = paused_status(left, &ended);
    g_assert_true(ended);
    expect_text(text, source ? "the source's QEMU has ended; "
                             : "the destination's QEMU has ended after it was given the guest");
    if (source) {
        expect_text(text, " MiB) are gone");
    }
    expect_no_text(text, "migrate-recover");
    expect_no_text(text, "\"resume\"");
    expect_no_text(text, "--resume");
    g_autofree char *dump =
        g_strdup_printf("and farfault recover --from DIRECTORY %s continues", d.monitor);
    REFUSED(source ? dump : "The source keeps what it has, and does not run the guest", "migrate",
            "--resume", s.monitor, d.monitor);
    expect_no_text(text, "still at the source");
    if (!source) {
        check_not_known(left);
    }
    vm_kill(left->vm); /* as a destination: its vCPU waits for a page for ever */
    g_unlink(d.monitor);
    g_unlink(s.monitor);
    halves_end(&s, &d, dir);
}

static void test_source_killed(void)
{
    check_killed(true);
}

static void test_destination_killed(void)
{
    check_killed(false);
}

/* Only the relay is dead, or all of it at once, as with a host: nobody says that QEMU has ended,
 * and the destination says what it knows and what it does not. */
static void check_silent_end(bool qemu)
{
    g_autofree char *text = NULL;
    const char *why;
    bool ended;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    g_autofree char *uri = listen_slowly(&s, &d);

    reach_postcopy(&s, &d, uri);
    if (qemu) {
        kill(vm_engine(s.vm), SIGKILL);
        vm_kill(s.vm);
    } else {
        kill(vm_relay(s.vm), SIGKILL);
    }
    text = paused_status(&d, &ended);
    g_assert_false(ended);
    expect_text(text,
                "pages are not here. While the QEMU at the source lives nothing is lost; if it "
                "has ended, they are lost");
    expect_text(text, " were at the source when the connection broke\n");
    expect_no_text(text, " are still at the source\n");
    expect_no_text(text, "the connection broke, and nothing is lost");
    expect_text(text, "migrate-recover");
    if (!qemu) {
        vm_kill(s.vm);
    }
    vm_kill(d.vm);
    g_unlink(d.monitor);
    g_unlink(s.monitor);
    halves_end(&s, &d, dir);
}

static void test_source_relay_killed(void)
{
    check_silent_end(false);
}

static void test_source_all_killed(void)
{
    check_silent_end(true);
}

/* Nobody may be taken for dead by mistake: what is refused, and why, is said. */
static void refuse_to_end(Half *s, Half *d)
{
    g_autofree char *err = NULL;

    REFUSED("not the destination of a paused migration", "end", s->monitor);
    /* It cannot be cancelled any more. */
    REFUSED(": a migration is under way (postcopy-paused): wait for its end (farfault status",
            "snapshot", s->monitor, "/nowhere/at-all");
    g_assert_cmpint(FARFAULT(NULL, &err, "end", d->monitor), ==, 1);
    expect_text(err, "to be lost: the guest: it is here alone, with ");
    expect_text(err, "left: what the source keeps");
    expect_text(err, "farfault: nothing was done. ");
    g_autofree char *refused = qmp_error(d->q, "x-farfault-end", NULL);
    expect_text(refused, "lose-guest");
}

/* Its vCPU waits for a page: SIGTERM and quit do not end it. */
static void test_end(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    g_autofree char *out = NULL;
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);

    REFUSED("not the destination of a paused migration", "end", "--lose-guest", d.monitor);
    pause_it(&s, &d);
    refuse_to_end(&s, &d);
    /* While its memory comes, there is an orderly end, which loses it all the same. */
    qmp_ok(d.q, "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(d.vm);
    Delay *proxy = answer_slowly(uri);
    qmp_ok(s.q, "migrate", "{'uri': '%s', 'resume': true}", delay_uri(proxy));
    qmp_expect_migration(d.q, "postcopy-active");
    REFUSED("the guest is lost with it", "end", d.monitor);
    qmp_ok(s.q, "migrate-pause", NULL);
    qmp_expect_migration(d.q, "postcopy-paused");
    delay_free(proxy);
    await(&d, is_waited_for);
    kill(vm_pid(d.vm), SIGTERM);
    g_assert_cmpint(FARFAULT(&out, NULL, "end", "--lose-guest", d.monitor), ==, 0);
    expect_text(out, "this QEMU has ended\nlost: the guest: it was here alone, with ");
    g_assert_cmpint(vm_wait_exit(d.vm), ==, -SIGKILL);
    g_unlink(d.monitor);
    halves_end(&s, &d, dir);
}

/* A destination of before does not know the word, and is not told: it would take it for an error of
 * the protocol. */
static void test_older_destination(void)
{
    if (!has(vm_farfault_available)) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    Half s, d;
    g_autofree char *dir = halves_start(&s, &d, &boot, NULL);
    g_autofree char *uri = listen_slowly(&s, &d);
    Delay *proxy = delay_new(uri, 0);

    delay_hide(proxy, FF_FEATURE_ENDED);
    reach_postcopy(&s, &d, delay_uri(proxy));
    vm_kill(s.vm);
    qmp_expect_migration(d.q, "postcopy-paused");
    g_autoptr(JsonObject) info = qmp_return(d.q, "query-migrate", NULL);
    g_assert_false(json_object_get_boolean_member(half_of(info), "peer-ended"));
    expect_text(json_object_get_string_member(info, "error-desc"), "lost the connection");
    delay_free(proxy);
    vm_kill(d.vm);
    g_unlink(d.monitor);
    g_unlink(s.monitor);
    halves_end(&s, &d, dir);
}

/* Guests without a name are told apart by their folders. */
static void test_nameless(void)
{
    const char *const args[] = {"-name", "guest=", NULL};
    const char *why;
    g_autofree char *text = NULL, *folder = g_get_current_dir();

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *vm = vm_start(&(VmConfig){.name = "a", .launcher = VM_RUN, .memory = "16M", .args = args});
    g_autofree char *line = g_strdup_printf("(no name, in %s) process %d: nothing is under way\n",
                                            folder, (int)vm_pid(vm));

    g_assert_cmpint(FARFAULT(&text, NULL, "status"), ==, 0);
    expect_text(text, line);
    vm_end(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/halves/status-and-dump", test_halves);
    g_test_add_data_func("/halves/resume/where-it-was", NULL, test_resume);
    g_test_add_data_func("/halves/resume/elsewhere", "tcp:127.0.0.1:0", test_resume);
    g_test_add_func("/halves/resume/ended", test_resume_ended);
    g_test_add_func("/halves/resume/attached", test_resume_attached);
    g_test_add_func("/halves/source-killed", test_source_killed);
    g_test_add_func("/halves/nameless", test_nameless);
    g_test_add_func("/halves/older-destination", test_older_destination);
    g_test_add_func("/halves/destination-killed", test_destination_killed);
    g_test_add_func("/halves/end", test_end);
    g_test_add_func("/halves/source-relay-killed", test_source_relay_killed);
    g_test_add_func("/halves/source-all-killed", test_source_all_killed);
    g_test_add_func("/halves/granted", test_granted);
    g_test_add_func("/halves/stopped", test_stopped);
    return g_test_run();
}
