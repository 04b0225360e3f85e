/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade with real guests: a guest changes its QEMU and its memory stays right; whatever
 * fails, and whoever dies, exactly one QEMU is left and its guest runs.
 *
 * FF_ROUNDS: upgrades in a row. QEMU 10 and 11 are those of vm_qemu().
 */
#include "tests/qtest/upgrade-rig.h"

#include "tests/lib/linuxguest.h"

#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_row(void)
{
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *program = up_installed(), *said = NULL;

    if (!g) {
        return;
    }
    g_assert_cmpint(up_run(g, (const char *const[]){"--check", NULL}, &said), ==, 0);
    up_runs(g);
    for (unsigned i = 0; i < up_rounds(3); i++) {
        up_to(g, program);
    }
    up_check_memory(g);
}

/* It is not called a migration, and its old side knows for how long the guest stood. */
static void test_words(void)
{
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *program = up_installed(), *farfault = vm_build_path("cli/farfault");
    g_autofree char *out = NULL;

    if (!g) {
        return;
    }
    up_to(g, program);
    up_disconnect(g);
    char *argv[] = {farfault, (char *)"status", g->monitor, NULL};
    g_assert_true(
        g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, NULL, NULL, NULL));
    if (!strstr(out, "\nupgrade completed\n")) {
        g_error("no upgrade in:\n%s", out);
    }
}

static pid_t a_vcpu(Guest *g)
{
    up_reconnect(g);
    g_autoptr(JsonObject) answer = qmp_call(g->qmp, "query-cpus-fast", NULL);
    JsonArray *all = json_object_get_array_member(answer, "return");

    return (pid_t)json_object_get_int_member(json_array_get_object_element(all, 0), "thread-id");
}

/* The first thread has another one than that of the vCPU, as libvirt may give it. */
static void test_policy(void)
{
    const struct sched_param none = {0};
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_assert_cmpint(sched_setscheduler(up_only_qemu(g), SCHED_BATCH, &none), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        g_assert_cmpint(sched_getscheduler(up_only_qemu(g)), ==, SCHED_BATCH);
        g_assert_cmpint(sched_getscheduler(a_vcpu(g)), ==, SCHED_OTHER);
    }
}

/* A monitor for whose first client QEMU waits: the second QEMU does not, as it comes to the first.
 */
static void test_waits_for_client(void)
{
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = g_build_filename(g->dir, "args", NULL), *said = NULL;
    g_autofree char *own = g_strjoinv(" ", g->args);
    g_auto(GStrv) parts = g_strsplit(own, ",wait=off", 2);
    g_autofree char *text = g_strjoinv(",wait=on", parts);

    g_assert_nonnull(parts[1]);
    g_assert_true(g_file_set_contents(file, text, -1, NULL));
    g_assert_cmpint(up_run(g, (const char *const[]){"--args-from", file, NULL}, &said), ==, 0);
    up_runs(g);
    up_check_memory(g);
}

/* The node of the first block device (g_free). */
static char *first_node(Guest *g)
{
    JsonObject *answer = qmp_call(g->qmp, "query-block", NULL);
    JsonArray *all = json_object_get_array_member(answer, "return");
    JsonObject *inserted =
        json_object_get_object_member(json_array_get_object_element(all, 0), "inserted");
    char *name = g_strdup(json_object_get_string_member(inserted, "node-name"));

    json_object_unref(answer);
    return name;
}

static char *replace(const char *text, const char *from, const char *to)
{
    g_auto(GStrv) parts = g_strsplit(text, from, -1);

    return g_strjoinv(to, parts);
}

/* What a client has begun in the running QEMU, or given it, ends with it: the other one has none.
 */
static void test_begun(void)
{
    static const struct {
        const char *command, *args, *part, *undo, *undo_args;
    } cases[] = {
        {"object-add", "{'qom-type': 'secret', 'id': 'more', 'data': 'x'}",
         "object 'more' is child<secret> in the running QEMU and not there", "object-del",
         "{'id': 'more'}"},
        {"block_set_io_throttle",
         "{'device': 'disk0', 'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 1000, 'iops_rd': 0, "
         "'iops_wr': 0}",
         "disk (raw) iops=1000 in the running QEMU", "block_set_io_throttle",
         "{'device': 'disk0', 'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0, 'iops_rd': 0, "
         "'iops_wr': 0}"},
        {"block-export-add", "{'type': 'nbd', 'id': 'e', 'node-name': '%s', 'writable': false}",
         "export 'e' is nbd in the running QEMU and not there", "block-export-del", "{'id': 'e'}"},
    };
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *socket = g_build_filename(g->dir, "nbd", NULL);
    up_reconnect(g);
    qmp_ok(g->qmp, "nbd-server-start", "{'addr': {'type': 'unix', 'data': {'path': '%s'}}}",
           socket);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        up_reconnect(g);
        g_autofree char *node = first_node(g);
        g_autofree char *args = replace(cases[i].args, "%s", node);
        qmp_ok(g->qmp, cases[i].command, "%s", args);
        up_fails(g, NULL, cases[i].part);
        up_reconnect(g);
        qmp_ok(g->qmp, cases[i].undo, "%s", cases[i].undo_args);
    }
    up_disconnect(g);
    up_check_memory(g);
}

static void test_versions(void)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();

    if (!newer) {
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    if (g) {
        up_to(g, newer);
        up_check_memory(g);
        up_to(g, older);
        up_check_memory(g);
    }
}

/* There monitors are objects, which older ones do not have. */
static void test_versions_11(void)
{
    g_autofree char *newest = vm_qemu(11), *newer = newest ? vm_qemu(10) : NULL;
    g_autofree char *older = up_installed();
    const char *const programs[] = {newest, older, newer, newest, newest, newer};

    if (!newer) {
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    for (unsigned i = 0; g && i < G_N_ELEMENTS(programs); i++) {
        up_to(g, programs[i]);
        up_check_memory(g);
    }
}

/* Started with its own command line it would be a second copy of the guest. */
static void test_refuses(void)
{
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *program = up_installed(), *path = g_build_filename(g->dir, "refuses", NULL);
    g_autofree char *text = g_strdup_printf("#!/bin/sh\ncase \"$*\" in *memory-backend-file*)\n"
                                            "echo no such object >&2; exit 1;;\nesac\n"
                                            "exec %s \"$@\"\n",
                                            program);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(chmod(path, 0755), ==, 0);
    up_fails(g, (const char *const[]){"--qemu", path, NULL},
             "refuses what farfault adds to its command line (no such object)");
    up_check_memory(g);
}

/* Instructions that the other QEMU does not have are not taken from a guest; more of them are let
 * pass, as in a migration. */
static void test_processor(void)
{
    static const char *const more[] = {"-cpu", "EPYC", NULL};
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    const char *why;

    if (!newer) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();

    up_start_vmgenid(g, more);
    up_to(g, newer);
    up_fails(g, (const char *const[]){"--qemu", older, NULL}, "CPU feature 'CPUID.");
    up_check_memory(g);
}

/* What the guest was started with, or was told since, goes along as far as it is farfault's. */
static void test_options(void)
{
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    up_reconnect(g);
    qmp_ok(g->qmp, "migrate-set-parameters",
           "{'x-farfault-policy': 'never', 'x-farfault-untracked': 'wait'}");
    up_disconnect(g);
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        up_reconnect(g);
        g_autoptr(JsonObject) now = qmp_return(g->qmp, "query-migrate-parameters", NULL);
        g_assert_cmpstr(json_object_get_string_member(now, "x-farfault-policy"), ==, "never");
        g_assert_cmpstr(json_object_get_string_member(now, "x-farfault-untracked"), ==, "wait");
        up_disconnect(g);
    }
    up_check_memory(g);
}

/* A guest that stands stands afterwards. */
static void test_paused(void)
{
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    qmp_ok(g->qmp, "stop", NULL);
    /* Twice: an image that is inactive is not let go again (QEMU before 10.0 aborts). */
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *said = NULL;
        g_assert_cmpint(up_run(g, NULL, &said), ==, 0);
    }
    up_reconnect(g);
    g_autofree char *state = qmp_run_state(g->qmp);
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

static void write_to(const char *path)
{
    g_assert_true(g_file_set_contents(path, "of before\n", -1, NULL));
}

static void is_as_before(const char *path)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "of before\n");
}

/* The log of a monitor, to which both QEMUs write. */
static void begins_as_before(const char *path)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_true(g_str_has_prefix(text, "of before\n"));
}

/* Of the generation ID; also the text that QEMU makes up at its start. */
static char *generation(Guest *g)
{
    up_reconnect(g);
    g_autoptr(JsonObject) answer = qmp_return(g->qmp, "query-vm-generation-id", NULL);
    char *guid = g_strdup(json_object_get_string_member(answer, "guid"));

    up_disconnect(g);
    return guid;
}

/* What a second start would truncate, or make up again: none of it is, also not the second time. */
static void test_adapted(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *program = up_installed();
    g_autofree char *serial = g_build_filename(g->dir, "serial,append=on", NULL);
    g_autofree char *file = g_build_filename(g->dir, "file,append=on", NULL);
    g_autofree char *log = g_build_filename(g->dir, "log", NULL);
    g_autofree char *on_serial = g_strdup_printf("file:%s", serial);
    g_autofree char *on_log = g_strdup_printf("null,id=l,logappend=off,logfile=%s", log);
    g_autofree char *on_file = g_strdup_printf("file,id=f,path=%s/file,,append=on", g->dir);
    g_autofree char *said = g_build_filename(g->dir, "said", NULL);
    g_autofree char *monitor =
        g_strdup_printf("unix:%s/second,server=on,wait=off,logfile=%s", g->dir, said);
    const char *const own[] = {"-serial", on_serial, "-chardev", on_file, "-chardev",
                               on_log,    "-qmp",    monitor,    NULL};

    up_start_vmgenid(g, own);
    g_autofree char *guid = generation(g);
    write_to(serial);
    write_to(file);
    write_to(log);
    write_to(said);
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        g_autofree char *now = generation(g);
        g_assert_cmpstr(now, ==, guid);
        is_as_before(serial);
        is_as_before(file);
        is_as_before(log);
        begins_as_before(said);
    }
    up_check_memory(g);
}

/* As libvirt writes it; one that names its generation "auto", and one with a network. */
static void test_json(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *program = up_installed();
    g_autofree char *image = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *file =
        g_strdup_printf("{\"driver\":\"file\",\"filename\":\"%s\",\"node-name\":\"f\"}", image);
    g_autofree char *size = g_strdup_printf(
        "{\"qom-type\":\"memory-backend-ram\",\"id\":\"m\",\"size\":%u}", RAM_MIB << 20);
    const char *const args[] = {"-machine",
                                "pc-i440fx-7.2,memory-backend=m",
                                "-object",
                                size,
                                "-smp",
                                "2",
                                "-m",
                                G_STRINGIFY(RAM_MIB) "M",
                                "-device",
                                "{\"driver\":\"vmgenid\",\"guid\":\"auto\",\"id\":\"v\"}",
                                "-blockdev",
                                file,
                                "-blockdev",
                                "{\"driver\":\"raw\",\"file\":\"f\",\"node-name\":\"disk0\"}",
                                "-device",
                                "{\"driver\":\"ide-hd\",\"drive\":\"disk0\",\"bootindex\":1,"
                                "\"secs\":1,\"cyls\":1,\"heads\":1}",
                                "-netdev",
                                "{\"type\":\"user\",\"id\":\"n\",\"restrict\":true}",
                                "-device",
                                "{\"driver\":\"virtio-net-pci\",\"netdev\":\"n\",\"id\":\"net\","
                                "\"mac\":\"52:54:00:11:22:33\"}",
                                "-audiodev",
                                "{\"driver\":\"none\",\"id\":\"a\"}",
                                NULL};

    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, 16 << 20, 2);
    bootsect_write(&g->boot, image);
    up_start(g, "qemu-system-x86_64", args);
    g_free(up_wait_console(g, "AB"));
    g_autofree char *guid = generation(g);
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        g_autofree char *now = generation(g);
        g_assert_cmpstr(now, ==, guid);
    }
    up_check_memory(g);
}

/* Command lines that must not be started twice: refused before anything is started. */
static void test_refused(void)
{
    static const struct {
        const char *args, *part;
    } cases[] = {
        {"-netdev tap,id=n,fd=3", "of a tap's options only"},
        {"-netdev tap,id=n", "of taps only those with ifname="},
        {"-netdev tap,id=n,ifname=x,vhost=on", "its vhost is the running QEMU's"},
        {"-netdev tap,id=n,ifname=x,downscript=/x", "give downscript=no"},
        {"-nic tap", "-nic tap: cannot be handed over"},
        {"-netdev user,id=n,guestfwd=tcp:10.0.2.100:7-cmd:cat", "is the running QEMU's"},
        {"-netdev user,id=n,smb=/tmp", "is the running QEMU's"},
        {"-nic user,hostfwd=tcp::7001-:7", "the network must have an id="},
        {"-netdev user,id=n,hostfwd=tcp::7001-:7", "forwards 0 ports of the host, and its"},
        {"-display gtk", "only -display none"},
        {"-serial pty", "has no pseudo-terminal 'serial1'"},
        {"-serial tcp::7001,server=on", "cannot be handed over"},
        {"-monitor stdio", "without it, and with -monitor none, by --args-from"},
        {"-qmp stdio", "monitor compat_monitor1: cannot be handed over"},
        {"-device vfio-pci,host=1", "cannot be handed over"},
        {"-device id=v,driver=vfio-pci,host=1", "driver=vfio-pci,host=1: cannot be handed over"},
        {"-device virtio-mem-pci,memdev=m", "writes to the memory of the running guest"},
        {"-device loader,addr=4096,data=1,data-len=4", "writes to the memory of the running guest"},
        {"-snapshot", "-snapshot: cannot be handed over"},
        {"-drive file=x,snapshot=on", "its content is in the running QEMU alone"},
        {"-add-fd fd=3,set=1", "there is no copy of that fd"},
        {"-runas nobody", "-runas: cannot be handed over"},
        {"-device '{\"driver\":\"vfio-pci\",\"host\":\"1\"}'", "}: cannot be handed over"},
        {"-device '{\"driver\":'", "does not say what it is"},
        {"-device '{\"driver\":\"virtio-mem-pci\",\"memdev\":\"m\"}'",
         "writes to the memory of the running guest"},
        {"-netdev "
         "'{\"type\":\"user\",\"id\":\"n\",\"hostfwd\":[{\"str\":\"tcp::7001-:7\"}]}'",
         "forwards 0 ports of the host, and its"},
        {"-netdev '{\"type\":\"tap\",\"id\":\"n\",\"fd\":\"3\"}'", "of a tap's options only"},
        {"-object '{\"qom-type\":\"tls-creds-anon\",\"id\":\"t\"}'", "}: cannot be handed over"},
        {"-display '{\"type\":\"gtk\"}'", "only -display none"},
    };
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = g_build_filename(g->dir, "args", NULL);
    up_fails(g, (const char *const[]){"--check", "--args-from", file, NULL},
             "give a file that has the guest's own command line");
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *own = g_strjoinv(" ", g->args);
        g_autofree char *text = g_strdup_printf("%s %s", own, cases[i].args);

        g_assert_true(g_file_set_contents(file, text, -1, NULL));
        up_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
        up_fails(g, (const char *const[]){"--check", "--args-from", file, NULL}, cases[i].part);
    }
}

/* A new QEMU that cannot do it. */
static void test_fails(void)
{
    static const struct {
        const char *from, *to, *part;
    } cases[] = {
        {"-vga std", "-vga std -device no-such-device", "no-such-device"},
        {"disk,format=raw", "nowhere,format=raw", "nowhere"},
        {"pc-i440fx-7.2", "pc-i440fx-7.1",
         "pc-i440fx-7.1-machine in the new one: add -machine pc-i440fx-7.2 to"},
        {"pc-i440fx-7.2", "pc-i440fx-0.9", "has no longer this guest's machine type"},
        {"-m 64M", "-m 65M", "own command line, which has -m (or size=) 64M"},
        {"-smp 2", "-smp 1", "virtual CPUs 'number' is 2 in the running"},
        {"-vga std", "-vga std -device virtio-rng-pci,id=more",
         "device 'more' is not there in the"},
        {"-vga std", "-vga cirrus", "RAM block "},
        {"-display none", "", "give -display none or -vnc"},
    };
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = g_build_filename(g->dir, "args", NULL);
    g_autofree char *own = g_strjoinv(" ", g->args);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) parts = g_strsplit(own, cases[i].from, 2);
        g_autofree char *text = g_strjoinv(cases[i].to, parts);

        g_assert_true(parts[0] && parts[1]);
        g_assert_true(g_file_set_contents(file, text, -1, NULL));
        up_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
    }
    up_fails(g, (const char *const[]){"--qemu", "/nowhere/qemu", NULL},
             "--qemu /nowhere/qemu: No such file or directory: give the path of the new QEMU");
    up_fails(g, (const char *const[]){"--qemu", "/bin/false", NULL}, "does not start");
    up_check_memory(g);
}

/* A new QEMU that does not greet in the usual time is waited for as long as it lives. */
static void test_late(void)
{
    const char *why;
    g_autoptr(Guest) g = vm_faults_available(&why) ? up_counting(NULL) : NULL;

    if (!g) {
        g_test_skip(why);
        return;
    }
    g_autofree char *program = up_slow_program(g), *said = NULL;
    pid_t before = up_only_qemu(g);

    g_setenv("FARFAULT_DEADLINES", "own-greeting=1", TRUE);
    g_autoptr(Command) c = up_begin(g, program);
    g_unsetenv("FARFAULT_DEADLINES");
    up_slow_program_waits(g);
    up_await_said(c, "the new QEMU has not greeted for ");
    up_slow_program_goes_on(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    g_assert_cmpint(up_only_qemu(g), !=, before);
    up_check_memory(g);
}

/* One that ends while it is waited for. */
static void test_never(void)
{
    const char *why;
    g_autoptr(Guest) g = vm_faults_available(&why) ? up_counting(NULL) : NULL;

    if (!g) {
        g_test_skip(why);
        return;
    }
    /* What it leaves behind has its monitor still. */
    static const char script[] = "#!/bin/sh\nsleep 1000 &\nexit 3\n";
    g_autofree char *program = g_build_filename(g->dir, "daemon", NULL), *said = NULL;

    g_assert_true(g_file_set_contents(program, script, -1, NULL));
    g_assert_cmpint(chmod(program, 0700), ==, 0);
    g_setenv("FARFAULT_DEADLINES", "own-greeting=1", TRUE);
    g_autoptr(Command) c = up_begin(g, program);
    g_unsetenv("FARFAULT_DEADLINES");
    g_assert_cmpint(up_finish(c, &said), ==, 1);
    if (!strstr(said, "(the guest is where it was)")) {
        g_error("%s", said);
    }
    up_check_memory(g);
}

/* A command line that cannot be one; nothing of it is said, but what is wrong. */
static void test_bad_words(void)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "it is empty"},
        {"-object secret,id=s,data='hidden", "a quote is not closed"},
        {"qemu-system-x86_64 -machine pc", "leave the program's name out"},
    };
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = g_build_filename(g->dir, "args", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *said = NULL;

        g_assert_true(g_file_set_contents(file, cases[i].text, -1, NULL));
        g_assert_cmpint(up_run(g, (const char *const[]){"--args-from", file, NULL}, &said), ==, 1);
        g_assert_nonnull(strstr(said, cases[i].part));
        g_assert_null(strstr(said, "hidden"));
    }
    up_fails(g, (const char *const[]){"--qemu", "qemu-system-x86_64", NULL}, "give a path");
    up_fails(g, (const char *const[]){"--qemu", "/tmp", NULL}, "is no program");
}

static const char *migration_status(Guest *g, JsonObject **info)
{
    *info = qmp_return(g->qmp, "query-migrate", NULL);
    return json_object_get_string_member(*info, "status");
}

/* A guest that was given away: it is not to be started here again, by nobody's advice, and what is
 * known of its migration stays. */
static void test_gone(void)
{
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *said = NULL, *checked = NULL, *refused = NULL;
    g_autoptr(JsonObject) info = NULL;

    if (!g) {
        return;
    }
    up_runs(g);
    qmp_set_capability(g->qmp, "events", true);
    qmp_ok(g->qmp, "migrate", "{'uri': 'exec:cat >/dev/null'}");
    qmp_expect_migration(g->qmp, "completed");
    qmp_wait_postmigrate(g->qmp);
    g_assert_cmpint(up_run(g, (const char *const[]){"--check", NULL}, &checked), ==, 1);
    g_assert_nonnull(strstr(checked, "upgrade the QEMU in which it runs now"));
    g_assert_cmpint(up_run(g, (const char *const[]){NULL}, &said), ==, 1);
    g_assert_cmpstr(said, ==, checked);
    g_assert_null(strstr(said, "cont"));
    /* Nor is it asked for by hand. */
    up_reconnect(g);
    refused = qmp_error(g->qmp, "x-farfault-hand-over", "{'fdname': 'nothing'}");
    g_assert_nonnull(strstr(refused, "previous migration"));
    g_assert_cmpstr(migration_status(g, &info), ==, "completed");
    /* One that was only saved continues, and is a guest as any. */
    qmp_ok(g->qmp, "cont", NULL);
    g_autofree char *installed = up_installed();
    up_to(g, installed);
    up_check_memory(g);
}

/* ---- what loading writes --------------------------------------------------------------------- */

/* vmgenid writes to guest memory while it is loaded: 16 bytes, other ones in each QEMU. After a
 * load that came to nothing the guest's memory is as it was, byte for byte. */
static void test_no_trace(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_with_vmgenid(NULL);
    g_autofree char *log = g_build_filename(g->dir, "stderr", NULL), *said = NULL;

    qmp_set_capability(g->qmp, "events", true);
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree char *before = up_memory(g);
    up_set_faults(g, "takeover/*/at/loaded=kill");
    pid_t old = up_only_qemu(g);
    g_autoptr(Qmp) other = up_by_hand(g);
    qmp_expect_migration(g->qmp, "failed");
    g_assert_cmpint(up_only_qemu(g), ==, old);
    g_autofree char *after = up_memory(g);
    g_assert_cmpint(memcmp(before, after, RAM_MIB << 20), ==, 0);
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    g_assert_nonnull(strstr(said, " pages that the new QEMU had written were put back"));
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    up_runs(g);
    up_check_memory(g);
}

/* Whose memory is another's may load nothing else, and is ended when nobody is there any more who
 * started it. */
static void test_left_alone(void)
{
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    Qmp *other = up_start_borrowing(g);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *why =
            i ? qmp_error(other, "x-farfault-restore", "{'file': '/dev/null'}")
              : qmp_error(other, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
        g_assert_nonnull(strstr(why, "its memory is not its own yet"));
    }
    g_autofree char *hmp = qmp_hmp(other, "migrate_incoming tcp:127.0.0.1:0");
    g_assert_nonnull(strstr(hmp, "its memory is not its own yet"));
    qmp_free(other);
    g_assert_cmpint(up_only_qemu(g), ==, old);
    up_runs(g);
    up_check_memory(g);
}

/* The process that asked for the upgrade dies right after that: the engines continue alone. */
static void test_nobody_waits(void)
{
    g_autoptr(Guest) g = up_counting(NULL);

    if (g) {
        pid_t old = up_only_qemu(g);
        qmp_free(up_by_hand(g));
        up_disconnect(g);
        g_assert_cmpint(up_only_qemu(g), !=, old);
        up_runs(g);
        up_check_memory(g);
    }
}

/* ---- kill -9 --------------------------------------------------------------------------------- */

typedef enum { OLD, NEW, EITHER } Outcome;

/* One attempt, in which fault I of the guest's happens. */
static void attempt(Guest *g, const char *what, unsigned i, Outcome to)
{
    g_autofree char *said = NULL, *mark = g_strdup_printf("%s/fault-%u", g->dir, i);
    pid_t before = up_only_qemu(g);
    int status = up_run(g, NULL, &said);

    g_test_message("%s: %d", what, status);
    pid_t after = up_only_qemu(g);
    g_assert_true(to == EITHER || (after == before) == (to == OLD));
    up_runs(g);
    up_check_memory(g);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
}

/* RING3, or (NULL) the one with counters. */
static Guest *start_guest(const Ring3 *ring3, const char *faults)
{
    return ring3 ? up_ring3(ring3, NULL, faults) : up_counting(faults);
}

/* The old QEMU's engine dies at each of POINTS in turn, one for each attempt: it has had the faults
 * since it was started. */
static void old_dies_at(const Ring3 *ring3, const char *const *points, Outcome to)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(GString) faults = g_string_new(NULL);
    for (unsigned i = 0; points[i]; i++) {
        g_string_append_printf(faults, "%shandover/*/at/%s=kill", i ? ";" : "", points[i]);
    }
    g_autoptr(Guest) g = start_guest(ring3, faults->str);
    for (unsigned i = 0; g && points[i]; i++) {
        attempt(g, points[i], i, to);
    }
}

/* The same of the new one: ACTION, "kill" or "relay". */
static void new_dies_at(const Ring3 *ring3, const char *action, const char *const *points,
                        Outcome to)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start_guest(ring3, NULL);
    for (unsigned i = 0; g && points[i]; i++) {
        g_autofree char *fault = g_strdup_printf("takeover/*/at/%s=%s", points[i], action);

        up_set_faults(g, fault);
        attempt(g, points[i], 0, to);
    }
}

static void test_old_engine_before(gconstpointer ring3)
{
    old_dies_at(ring3, (const char *const[]){"begun", "setup", "guarded", "stopping", NULL}, OLD);
    old_dies_at(ring3, (const char *const[]){"stopped", "loaded", "giving", NULL}, OLD);
}

static void test_old_engine_after(gconstpointer ring3)
{
    old_dies_at(ring3, (const char *const[]){"given", NULL}, EITHER);
    old_dies_at(ring3, (const char *const[]){"running", "lifted", "done", NULL}, NEW);
}

static void test_new_engine_before(gconstpointer ring3)
{
    new_dies_at(ring3, "kill",
                (const char *const[]){"setup", "agreed", "loading", "ready", "shut", "loaded",
                                      "grant", NULL},
                OLD);
}

static void test_new_engine_after(gconstpointer ring3)
{
    new_dies_at(ring3, "kill",
                (const char *const[]){"taken", "granted", "resumed", "running", "lifted", "done",
                                      "undone", "idle", NULL},
                NEW);
}

static void test_new_relay_before(gconstpointer ring3)
{
    new_dies_at(ring3, "relay", (const char *const[]){"agreed", "loading", "loaded", NULL}, OLD);
}

/* The engines that come after one that died die as well. */
static void test_again_and_again(gconstpointer ring3)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start_guest(ring3, NULL);
    if (g) {
        up_set_faults(g, "takeover/*/at/taken=kill;takeover/*/at/resumed=kill;"
                         "takeover/*/at/done=kill;takeover/*/at/undone=kill");
        attempt(g, "four times", 3, NEW);
    }
}

/* ---- Linux, with a disk ---------------------------------------------------------------------- */

/* What follows NAME in the last line with it; -1. */
static gint64 number(const char *text, const char *line, const char *name)
{
    const char *at = g_strrstr(text, line), *found = at ? strstr(at, name) : NULL;

    return found ? g_ascii_strtoll(found + strlen(name), NULL, 10) : -1;
}

/* It has looked at each of its pages, and at its disk, since it had written BEFORE; nothing is
 * wrong. */
static void linux_is_right(Guest *g)
{
    g_autofree char *first = up_wait_console(g, "FF io disk=");
    gint64 passes = number(first, "FF t=", "passes="), disk = number(first, "FF io ", "disk=");

    for (;;) {
        g_autofree char *text = up_wait_console(g, "FF io disk=");
        gint64 now = number(text, "FF t=", "passes=");

        g_assert_cmpint(number(text, "FF io ", "bad="), ==, 0);
        g_assert_null(strstr(text, "FF bad"));
        passes = passes < 0 ? now : passes;
        disk = disk < 0 ? number(text, "FF io ", "disk=") : disk;
        if (now >= 0) {
            g_assert_cmpint(number(text, "FF t=", " bad="), ==, 0);
        }
        if (now > passes + 1 && number(text, "FF io ", "disk=") > disk) {
            return;
        }
    }
}

static void test_linux(void)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    const char *why;

    if (!newer) {
        return;
    }
    if (!linux_guest_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *disk = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=virtio,format=qcow2,file=%s", disk);
    g_autofree char *kernel = g_build_filename(g_getenv("FF_SOURCE"), ".cache/guest/vmlinuz", NULL);
    g_autofree char *initrd =
        g_build_filename(g_getenv("FF_SOURCE"), ".cache/guest/initrd.img", NULL);
    const char *const args[] = {
        "-machine",   "pc-i440fx-7.2",
        "-smp",       "2",
        "-m",         "160M",
        "-kernel",    kernel,
        "-initrd",    initrd,
        "-append",    "console=ttyS0 quiet panic=-1 pti=on no_timer_check ff.mib=24 ff.disk=1",
        "-no-reboot", "-drive",
        drive,        "-device",
        "e1000",      "-vga",
        "std",        NULL};
    const char *const make[] = {"qemu-img", "create", "-q", "-f", "qcow2", disk, "64M", NULL};

    g_assert_true(g_spawn_sync(NULL, (char **)make, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, NULL, NULL));
    up_start(g, "qemu-system-x86_64", args);
    g_free(up_wait_console(g, "FF ready"));
    g_free(up_wait_console(g, "FF io disk="));
    for (unsigned i = 0; i < up_rounds(2); i++) {
        g_autofree char *said = NULL;
        int status = up_run(g, (const char *const[]){"--qemu", i % 2 ? older : newer, NULL}, &said);

        g_assert_cmpint(status, ==, 0);
        up_only_qemu(g);
        linux_is_right(g);
    }
    up_reconnect(g);
    qmp_ok(g->qmp, "quit", NULL);
    up_disconnect(g);
    up_await_qemus(g, 0);
    const char *const check[] = {"qemu-img", "check", "-q", "-U", disk, NULL};
    int status;
    g_assert_true(g_spawn_sync(NULL, (char **)check, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    static const Ring3 kvm = {.accel = RING3_KVM, .busy_mib = 16, .n_cpus = 2};

    g_test_init(&argc, &argv, NULL);
    if (g_test_slow()) { /* these alone, and the others without -m slow */
        g_test_add_data_func("/upgrade/kvm/kill/old-engine-before", &kvm, test_old_engine_before);
        g_test_add_data_func("/upgrade/kvm/kill/old-engine-after", &kvm, test_old_engine_after);
        g_test_add_data_func("/upgrade/kvm/kill/new-engine-before", &kvm, test_new_engine_before);
        g_test_add_data_func("/upgrade/kvm/kill/new-engine-after", &kvm, test_new_engine_after);
        g_test_add_data_func("/upgrade/kvm/kill/new-relay-before", &kvm, test_new_relay_before);
        g_test_add_data_func("/upgrade/kvm/kill/again-and-again", &kvm, test_again_and_again);
        return g_test_run();
    }
    g_test_add_func("/upgrade/row", test_row);
    g_test_add_func("/upgrade/words", test_words);
    g_test_add_func("/upgrade/policy", test_policy);
    g_test_add_func("/upgrade/waits-for-client", test_waits_for_client);
    g_test_add_func("/upgrade/begun", test_begun);
    g_test_add_func("/upgrade/versions", test_versions);
    g_test_add_func("/upgrade/versions-11", test_versions_11);
    g_test_add_func("/upgrade/refuses", test_refuses);
    g_test_add_func("/upgrade/processor", test_processor);
    g_test_add_func("/upgrade/options", test_options);
    g_test_add_func("/upgrade/paused", test_paused);
    g_test_add_func("/upgrade/adapted", test_adapted);
    g_test_add_func("/upgrade/json", test_json);
    g_test_add_func("/upgrade/refused", test_refused);
    g_test_add_func("/upgrade/fails", test_fails);
    g_test_add_func("/upgrade/bad-words", test_bad_words);
    g_test_add_func("/upgrade/late", test_late);
    g_test_add_func("/upgrade/never", test_never);
    g_test_add_func("/upgrade/gone", test_gone);
    g_test_add_func("/upgrade/no-trace", test_no_trace);
    g_test_add_func("/upgrade/left-alone", test_left_alone);
    g_test_add_func("/upgrade/nobody-waits", test_nobody_waits);
    g_test_add_data_func("/upgrade/kill/old-engine-before", NULL, test_old_engine_before);
    g_test_add_data_func("/upgrade/kill/old-engine-after", NULL, test_old_engine_after);
    g_test_add_data_func("/upgrade/kill/new-engine-before", NULL, test_new_engine_before);
    g_test_add_data_func("/upgrade/kill/new-engine-after", NULL, test_new_engine_after);
    g_test_add_data_func("/upgrade/kill/new-relay-before", NULL, test_new_relay_before);
    g_test_add_data_func("/upgrade/kill/again-and-again", NULL, test_again_and_again);
    g_test_add_func("/upgrade/linux", test_linux);
    return g_test_run();
}
