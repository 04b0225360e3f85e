/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault migrate, as a person meets it: two guests that are not the same ("differ/..."), a port
 * that somebody has, a guest that is to stand, Ctrl-C before the switch. What it says names what is
 * wrong, and the guest continues at the source. The monitors are the VMs' second ones.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hold.h"
#include "tests/lib/vm.h"

#define MAX_ARGS 14

typedef struct {
    GPid pid;
    int err;
} Cli;

/* All that it says comes by one pipe. */
static void join_outputs(void *opaque)
{
    dup2(STDERR_FILENO, STDOUT_FILENO);
}

static Cli cli_start_at(const char *source, const char *destination, const char *const *more)
{
    g_autofree char *program = vm_build_path("cli/farfault");
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    Cli cli;

    g_ptr_array_add(argv, program);
    g_ptr_array_add(argv, (char *)"migrate");
    g_ptr_array_add(argv, (char *)source);
    g_ptr_array_add(argv, (char *)destination);
    for (; more && *more; more++) {
        g_ptr_array_add(argv, (char *)*more);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_async_with_pipes(NULL, (char **)argv->pdata, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                             join_outputs, NULL, &cli.pid, NULL, NULL, &cli.err, &error);
    g_assert_no_error(error);
    return cli;
}

static Cli cli_start(Vm *s, Vm *d, const char *const *more)
{
    g_autofree char *source = vm_path(s, "server"), *destination = vm_path(d, "server");

    return cli_start_at(source, destination, more);
}

/* Its exit status; *TEXT: what it said (g_free). */
static int cli_end(Cli *cli, char **text)
{
    g_autoptr(GString) all = g_string_new(NULL);
    char buf[4096];
    ssize_t n;
    int status;

    while ((n = read(cli->err, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        g_string_append_len(all, buf, MAX(n, 0));
    }
    close(cli->err);
    g_assert_cmpint(waitpid(cli->pid, &status, 0), ==, cli->pid);
    g_assert_true(WIFEXITED(status));
    g_test_message("%s", all->str);
    *text = g_string_free(g_steal_pointer(&all), FALSE);
    return WEXITSTATUS(status);
}

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("not in what it says: %s\n%s", part, text);
    }
}

static Vm *start(const char *name, const char *const *args, const char *incoming)
{
    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "64M",
                                .args = args,
                                .incoming = incoming,
                                .listens = true});
}

static bool can_run(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    return true;
}

/* The guest was not touched. */
static void check_stayed(Vm *s)
{
    g_autofree char *state = qmp_run_state(vm_qmp(s));

    g_assert_cmpstr(state, ==, "running");
}

/* ---- two guests that differ ------------------------------------------------------------------ */

#define ROOT_PORT "-device", "pcie-root-port,id=rp0,chassis=1,addr=3"
#define SCSI "-device", "virtio-scsi-pci,id=scsi0,addr=5"
#define DISK "-drive", "if=none,id=d0,driver=null-co,size=1M", "-device", "scsi-hd,drive=d0"

typedef struct {
    const char *name;
    const char *source[MAX_ARGS], *destination[MAX_ARGS];
    const char *text;
    const char *words; /* of the destination's QEMU, in what is said; NULL: none */
    bool moves;
    bool stops; /* found by QEMU alone, with the guest stopped */
} Case;

static const Case cases[] = {
    {"machine", {"-machine", "pc"}, {"-machine", "q35"}, "machine type pc-i440fx-", .moves = false},
    {"cpus",
     {"-machine", "pc", "-smp", "2"},
     {"-machine", "pc", "-smp", "1"},
     "the destination refused: 2 virtual CPUs at the source, 1 at the destination: start both with "
     "the same -smp",
     .moves = false},
    {"device",
     {"-machine", "pc", "-device", "virtio-balloon-pci,id=b0,addr=7"},
     {"-machine", "pc"},
     "the destination refused: the source has virtio-balloon-pci 'b0' at pci.0/07.0, the "
     "destination nothing there: start both with the same devices",
     .moves = false},
    {"other-device",
     {"-machine", "pc", "-device", "virtio-balloon-pci,addr=7"},
     {"-machine", "pc", "-device", "virtio-rng-pci,id=r0,addr=7"},
     "the source has virtio-balloon-pci at pci.0/07.0, the destination has virtio-rng-pci 'r0'",
     .moves = false},
    {"default-device",
     {"-machine", "pc", "-vga", "std"},
     {"-machine", "pc"},
     "the source has VGA controller 1234:1111 at 00:0",
     .moves = false},
    {"behind-a-bridge",
     {"-machine", "q35", ROOT_PORT, "-device", "virtio-rng-pci,bus=rp0,id=r0"},
     {"-machine", "q35", ROOT_PORT},
     "the source has virtio-rng-pci 'r0' at pcie.0/03.0/00.0, the destination nothing there",
     .moves = false},
    {"same-behind-a-bridge",
     {"-machine", "q35", ROOT_PORT, "-device", "virtio-rng-pci,bus=rp0,id=r0"},
     {"-machine", "q35", "-device", "pcie-root-port,id=other,chassis=1,addr=3", "-device",
      "virtio-rng-pci,bus=other"},
     "completed",
     .moves = true},
    {"disk",
     {"-machine", "pc", SCSI, DISK},
     {"-machine", "pc", SCSI},
     "the guests differ: scsi-hd on pci.0/05.0: 1 at the source, none at the destination\n",
     .words = "at the source, none at the destination): Unknown savevm section or instance "
              "'0000:00:05.0/0:0:0/scsi-disk' 0.",
     .stops = true},
    /* Properties nobody but QEMU compares. */
    {"property",
     {"-machine", "pc", "-device", "virtio-serial-pci,addr=7,vectors=0"},
     {"-machine", "pc", "-device", "virtio-serial-pci,addr=7,vectors=2"},
     "QEMU could not load the device state: ",
     .words = "for instance 0x0 of device '0000:00:07.0/virtio-console'",
     .stops = true},
    {"more",
     {"-machine", "pc"},
     {"-machine", "pc", "-device", "virtio-rng-pci,id=r0,addr=7"},
     "the guests differ: the destination has virtio-rng-pci 'r0' at pci.0/07.0, the source nothing "
     "there",
     .moves = true},
};

static void test_differ(const void *data)
{
    const Case *c = data;
    g_autofree char *text = NULL;

    if (!can_run()) {
        return;
    }
    Vm *s = start("source", c->source, NULL), *d = start("destination", c->destination, "defer");
    Cli cli = cli_start(s, d, NULL);
    int status = cli_end(&cli, &text);

    expect_text(text, c->text);
    if (c->words) {
        expect_text(text, c->words);
    }
    g_assert_cmpint(status, ==, c->moves ? 0 : 1);
    if (!c->moves) {
        check_stayed(s);
        g_assert_true(c->stops == qmp_has_event(vm_qmp(s), "STOP"));
        g_assert_cmpint(vm_wait_exit(d), ==, 1);
    }
    if (c->words) {
        /* QEMU's own lines are where they were, and the log has them in one. */
        g_autofree char *log = vm_stderr(d);
        expect_text(log, "qemu-system-x86_64: load of migration failed: ");
        expect_text(log, "the migration cannot come in: QEMU could not load the device state");
        expect_text(log, c->words);
    } else if (!c->moves) {
        g_autofree char *log = vm_stderr(d);
        expect_text(text, "/server) has ended: start it again for another try");
        expect_text(log, "this QEMU is ended (ignore its next lines)\n");
    }
    vm_end(d);
    vm_end(s);
}

/* ---- a destination's QEMU that ends ---------------------------------------------------------- */

/* WHERE: the engine there stands still until QEMU was killed; NULL: QEMU is killed in precopy. */
static void test_ends(const void *where)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const more[] = {"--postcopy-after", "100000", "--bandwidth", "4096", NULL};
    g_autofree char *text = NULL;
    const char *why;

    if (where ? !vm_faults_available(&why) : !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *s = start("source", args, NULL);
    Vm *d = vm_start_pc((VmConfig){.name = "destination",
                                   .memory = "64M",
                                   .incoming = "defer",
                                   .listens = true,
                                   .faults = where});
    Cli cli = cli_start(s, d, where ? NULL : more);

    if (where) {
        while (!vm_fault_happened(d, 0)) {
            g_usleep(1000); /* it has no event */
        }
    } else {
        qmp_expect_migration(vm_qmp(d), "active");
    }
    vm_kill(d);
    g_assert_cmpint(cli_end(&cli, &text), ==, 1);
    expect_text(text, where ? "the destination gave up: QEMU has ended while it loaded the device "
                              "state: why is in the destination QEMU's stderr"
                            : "the destination gave up: its QEMU has ended");
    check_stayed(s);
    vm_end(d);
    vm_end(s);
}

/* ---- a port that somebody has ---------------------------------------------------------------- */

static void test_port(void)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autofree char *text = NULL;

    if (!can_run()) {
        return;
    }
    g_assert_cmpint(bind(fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&at, &len), ==, 0);
    g_autofree char *uri = g_strdup_printf("tcp:127.0.0.1:%d", ntohs(at.sin_port));
    g_autofree char *where = g_strdup_printf("%s is another program's", uri);
    const char *const more[] = {"--uri", uri, NULL};
    Vm *s = start("source", args, NULL), *d = start("destination", args, "defer");
    Cli cli = cli_start(s, d, more);

    g_assert_cmpint(cli_end(&cli, &text), ==, 1);
    expect_text(text, "Address already in use");
    expect_text(text, where);
    check_stayed(s);
    close(fd);
    vm_end(d);
    vm_end(s);
}

/* ---- who stands at the destination ----------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *there; /* what another client has said at the destination; NULL: nothing */
    bool stops;        /* it stops the guest meanwhile, at the source */
    bool engine;       /* carries it; else QEMU */
    bool stands;
} Standing;

static const Standing standings[] = {
    {"dash-s", .engine = true},
    {"stopped", .stops = true, .engine = true, .stands = true},
    {"stopped/cont-there", .there = "cont", .stops = true, .engine = true, .stands = true},
    {"stopped/there", .there = "stop", .engine = true, .stands = true},
    {"native/dash-s"},
    {"native/stopped", .stops = true, .stands = true},
};

/* The destination has -S. */
static void test_stands(const void *data)
{
    const Standing *row = data;
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const paused[] = {"-machine", "pc", "-S", NULL};
    const char *const more[] = {"--precopy",    "--bandwidth",
                                "4096",         row->engine ? "--capability" : NULL,
                                "postcopy-ram", NULL};
    g_autofree char *text = NULL;

    if (!can_run()) {
        return;
    }
    Vm *s = start("source", args, NULL), *d = start("destination", paused, "defer");
    Qmp *sq = vm_qmp(s), *dq = vm_qmp(d);

    if (row->there) {
        qmp_ok(dq, row->there, NULL);
    }
    Cli cli = cli_start(s, d, more);

    qmp_expect_migration(sq, "active");
    if (row->stops) {
        qmp_ok(sq, "stop", NULL);
    }
    qmp_ok(sq, "migrate-set-parameters", "{'max-bandwidth': 0}");
    g_assert_cmpint(cli_end(&cli, &text), ==, 0);
    expect_text(text, row->stands ? "the guest stands at the destination: somebody has said stop"
                                  : "the destination was started with -S: sent cont");
    g_autofree char *state = qmp_run_state(dq);
    g_assert_cmpstr(state, ==, row->stands ? "paused" : "running");
    g_autoptr(JsonObject) info = qmp_return(dq, "query-migrate", NULL);
    JsonObject *own = json_object_has_member(info, "x-farfault")
                          ? json_object_get_object_member(info, "x-farfault")
                          : NULL;
    g_assert_cmpint(own && !strcmp(json_object_get_string_member(own, "engine"), "farfault"), ==,
                    row->engine);
    qmp_ok(dq, "cont", NULL);
    vm_end(d);
    vm_end(s);
}

/* ---- names that are misspelled --------------------------------------------------------------- */

static void test_misspelled(void)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const struct {
        const char *more[3], *text;
    } rows[] = {
        {{"--parameter", "max-bandwith=5"},
         "--parameter max-bandwith: did you mean max-bandwidth?"},
        {{"--capability", "postcopy"}, "--capability postcopy: did you mean postcopy-ram?"},
        {{"--capability", "release-rma=off"},
         "--capability release-rma: did you mean release-ram?"},
    };

    if (!can_run()) {
        return;
    }
    Vm *s = start("source", args, NULL), *d = start("destination", args, "defer");
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = NULL;
        Cli cli = cli_start(s, d, rows[i].more);

        g_assert_cmpint(cli_end(&cli, &text), ==, 1);
        expect_text(text, rows[i].text);
        g_assert_true(strchr(text, '\n') == text + strlen(text) - 1);
    }
    check_stayed(s);
    vm_end(d);
    vm_end(s);
}

/* ---- one after another ----------------------------------------------------------------------- */

/* VM's own precopy loses writes. */
static bool loses_writes(Vm *vm)
{
    g_autoptr(JsonObject) version = qmp_return(vm_qmp(vm), "query-version", NULL);
    g_autoptr(JsonObject) kvm = qmp_return(vm_qmp(vm), "query-kvm", NULL);
    JsonObject *qemu = json_object_get_object_member(version, "qemu");

    return !json_object_get_boolean_member(kvm, "enabled") &&
           json_object_get_int_member(qemu, "major") == 7 &&
           json_object_get_int_member(qemu, "minor") == 2;
}

/* What the first one has set at the guest's new host is not what the second one needs. */
static void test_precopy_after_postcopy(void)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const first[] = {"--preempt", NULL}, *const second[] = {"--precopy", NULL};
    g_autofree char *there = NULL, *back = NULL;

    if (!can_run()) {
        return;
    }
    Vm *a = start("a", args, NULL), *b = start("b", args, "defer");
    Cli cli = cli_start(a, b, first);

    g_assert_cmpint(cli_end(&cli, &there), ==, 0);
    g_assert_null(strstr(there, "loses writes"));
    vm_end(a);
    Vm *c = start("c", args, "defer");
    bool lost = loses_writes(b);
    cli = cli_start(b, c, second);
    g_assert_cmpint(cli_end(&cli, &back), ==, 0);
    g_assert_true(lost == (strstr(back, "under TCG loses writes") != NULL));
    check_stayed(c); /* it runs */
    vm_end(c);
    vm_end(b);
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------- */

static void test_interrupted(void)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const more[] = {"--precopy", "--bandwidth", "4096", NULL};
    g_autofree char *text = NULL;

    if (!can_run()) {
        return;
    }
    Vm *s = start("source", args, NULL), *d = start("destination", args, "defer");
    Cli cli = cli_start(s, d, more);

    qmp_expect_migration(vm_qmp(s), "active");
    kill(cli.pid, SIGINT);
    g_assert_cmpint(cli_end(&cli, &text), ==, 1);
    expect_text(text,
                "interrupted: cancelling; the guest stays at the source. The destination's QEMU "
                "ends, if the source had reached it");
    check_stayed(s);
    g_assert_cmpint(vm_wait_exit(d), ==, 1);
    vm_end(d);
    vm_end(s);
}

/* ---- a destination that takes long ----------------------------------------------------------- */

static void await_text(Cli *cli, const char *text, GString *all);

/* QEMU carries it, and the source has completed when it has written everything; the destination's
 * QEMU, which has -S, is stopped until somebody has waited for it longer than usual. */
static void test_slow_end(void)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const paused[] = {"-machine", "pc", "-S", NULL};
    static const char *const more[] = {"--precopy", "--bandwidth", "4096", NULL};
    g_autoptr(GString) all = g_string_new(NULL);
    g_autofree char *text = NULL;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *s = start("source", args, NULL), *d = start("destination", paused, "defer");

    g_setenv("FARFAULT_DEADLINES", "slower=1", TRUE);
    Cli cli = cli_start(s, d, more);
    g_unsetenv("FARFAULT_DEADLINES");
    qmp_expect_migration(vm_qmp(s), "active");
    qmp_expect_migration(vm_qmp(d), "active");
    kill(vm_pid(d), SIGSTOP);
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-bandwidth': 0}");
    await_text(&cli, "has not said yet that it has the guest", all);
    kill(vm_pid(d), SIGCONT);
    g_assert_cmpint(cli_end(&cli, &text), ==, 0);
    expect_text(text, "the destination was started with -S: sent cont");
    check_stayed(d); /* it runs there */
    vm_end(d);
    vm_end(s);
}

/* ---- a destination that fails, and lives ----------------------------------------------------- */

static Vm *start_plain(const char *qemu, bool source)
{
    static const char *const here[] = {"-machine", "pc", "-device",
                                       "virtio-serial-pci,addr=7,vectors=0", NULL};
    static const char *const there[] = {"-machine", "pc", "-device",
                                        "virtio-serial-pci,addr=7,vectors=2", NULL};

    return vm_start(&(VmConfig){.name = source ? "source" : "destination",
                                .qemu = qemu,
                                .memory = "64M",
                                .args = source ? here : there,
                                .incoming = source ? NULL : "defer",
                                .listens = true});
}

/* QEMU carries it, with exit-on-error=false, and cannot load the device state. By then the source
 * has completed: the destination's QEMU was stopped. */
static void test_failed_end(void)
{
    static const char *const more[] = {"--precopy", "--bandwidth", "4096", "--timeout", "60", NULL};
    g_autofree char *qemu = vm_qemu(10), *text = NULL;

    if (!qemu || !can_run()) {
        return;
    }
    Vm *s = start_plain(qemu, true), *d = start_plain(qemu, false);

    qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0', 'exit-on-error': false}");
    Cli cli = cli_start(s, d, more);
    qmp_expect_migration(vm_qmp(s), "active");
    qmp_expect_migration(vm_qmp(d), "active");
    kill(vm_pid(d), SIGSTOP);
    qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_expect_migration(vm_qmp(s), "completed");
    kill(vm_pid(d), SIGCONT);
    g_assert_cmpint(cli_end(&cli, &text), ==, 1);
    expect_text(text, "the source has sent everything, but the destination has failed: ");
    expect_text(text, "; the guest continues at the source; the destination's QEMU (");
    check_stayed(s);
    vm_end(d);
    vm_end(s);
}

/* ---- a first page that takes long ------------------------------------------------------------ */

/* Reads what it says up to TEXT. */
static void await_text(Cli *cli, const char *text, GString *all)
{
    char buf[512];
    ssize_t n;

    while (!strstr(all->str, text)) {
        n = read(cli->err, buf, sizeof(buf));
        if (n == 0 || (n < 0 && errno != EINTR)) {
            g_error("it has ended, and did not say '%s': %s", text, all->str);
        }
        g_string_append_len(all, buf, MAX(n, 0));
    }
}

static Vm *start_with(const char *faults)
{
    return vm_start_pc(
        (VmConfig){.name = "source", .memory = "64M", .listens = true, .faults = faults});
}

/* The command looks at the source, which has sent nothing yet: a pass is waited for all the same.
 */
static void test_slow_pass(void)
{
    static const char *const more[] = {"--postcopy-after-pass", NULL};
    g_autoptr(GString) all = g_string_new(NULL);
    g_autofree char *text = NULL;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *s = start_with("source/active/at/active=hold");
    Vm *d = vm_start_pc(
        (VmConfig){.name = "destination", .memory = "64M", .incoming = "defer", .listens = true});

    hold_make(s);
    Cli cli = cli_start(s, d, more);
    hold_wait(s);
    await_text(&cli, "active: ", all); /* a look, whose answer is decided on before the next one */
    hold_let_go(s);
    g_assert_cmpint(cli_end(&cli, &text), ==, 0);
    g_test_message("%s", all->str);
    g_assert_null(strstr(all->str, "switching now"));
    g_assert_null(strstr(text, "switching now"));
    check_stayed(d); /* it runs there */
    vm_end(d);
    vm_end(s);
}

/* None is to come, and the reason is said. */
static void test_no_pass(void)
{
    static const char *const more[] = {"--postcopy-after", "5", "--parameter",
                                       "x-farfault-untracked=wait", NULL};
    g_autofree char *text = NULL;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    Vm *s = start_with("source/*/call/uffd-track=EIO");
    Vm *d = vm_start_pc(
        (VmConfig){.name = "destination", .memory = "64M", .incoming = "defer", .listens = true});
    Cli cli = cli_start(s, d, more);

    g_assert_cmpint(cli_end(&cli, &text), ==, 0);
    expect_text(text, "makes no pass before the switch (");
    check_stayed(d);
    vm_end(d);
    vm_end(s);
}

/* ---- nothing to resume ----------------------------------------------------------------------- */

/* It is refused, and says PART, and nothing of a guest that does not run at a source that has it.
 */
static void refuse_resume(const char *source, const char *destination, const char *part)
{
    static const char *const more[] = {"--resume", NULL};
    g_autofree char *text = NULL;
    Cli cli = cli_start_at(source, destination, more);

    g_assert_cmpint(cli_end(&cli, &text), !=, 0);
    expect_text(text, part);
    g_assert_null(strstr(text, "does not run the guest"));
    g_assert_null(strstr(text, "is lost"));
}

/* No switch has been, or it was undone: one of the two does not answer, or both do. */
static void test_not_paused(void)
{
    if (!can_run()) {
        return;
    }
    Vm *s = start("s", NULL, NULL), *d = start("d", NULL, "tcp:127.0.0.1:0");
    g_autofree char *source = vm_path(s, "server"), *destination = vm_path(d, "server");
    g_autofree char *nobody = vm_path(s, "nobody");
    static const char failed[] = "\"failed\", and the guest runs there";
    static const char none[] = "\"none\", and the guest runs there: farfault status ";

    refuse_resume(source, nobody, none);
    refuse_resume(source, destination, none);
    refuse_resume(nobody, destination, "has nothing of a paused migration: its own is ");
    refuse_resume(nobody, "/nowhere/at-all", "Cannot connect to destination /nowhere/at-all");
    qmp_ok(vm_qmp(s), "migrate-set-capabilities",
           "{'capabilities': [{'capability': 'events', 'state': true},"
           " {'capability': 'postcopy-ram', 'state': true}]}");
    qmp_ok(vm_qmp(s), "migrate", "{'uri': 'unix:%s'}", nobody);
    qmp_expect_migration(vm_qmp(s), "failed");
    refuse_resume(source, nobody, failed);
    refuse_resume(source, destination, failed);
    check_stayed(s);
    vm_end(d);
    vm_end(s);
}

/* What is under way at the source is called what it is; and a destination that is not there any
 * more is not told to be started as any other. */
static void test_under_way(void)
{
    if (!can_run()) {
        return;
    }
    Vm *s = start("s", NULL, NULL), *d = start("d", NULL, "defer");
    g_autofree char *file = vm_path(s, "snapshot"), *text = NULL, *gone = NULL;
    g_autofree char *source = vm_path(s, "server"), *there = vm_path(d, "server");

    qmp_ok(vm_qmp(s), "migrate-set-capabilities",
           "{'capabilities': [{'capability': 'events', 'state': true}]}");
    qmp_ok(vm_qmp(s), "x-farfault-snapshot", "{'file': '%s', 'max-bandwidth': 4096}", file);
    qmp_expect_migration(vm_qmp(s), "active");
    Cli cli = cli_start(s, d, NULL);
    g_assert_cmpint(cli_end(&cli, &text), ==, 1);
    expect_text(text, "its live snapshot is under way (active)");
    qmp_ok(vm_qmp(s), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(s), "cancelled");
    vm_end(d);
    cli = cli_start_at(source, there, NULL);
    g_assert_cmpint(cli_end(&cli, &gone), ==, 1);
    expect_text(gone, "no such socket: its QEMU has ended, ");
    check_stayed(s);
    vm_end(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/migrate-cli/differ/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_differ);
    }
    g_test_add_data_func("/migrate-cli/ends/precopy", NULL, test_ends);
    g_test_add_data_func("/migrate-cli/ends/loading", "destination/active/at/armed=stop:300",
                         test_ends);
    g_test_add_func("/migrate-cli/port", test_port);
    g_test_add_func("/migrate-cli/misspelled", test_misspelled);
    for (unsigned i = 0; i < G_N_ELEMENTS(standings); i++) {
        g_autofree char *path = g_strdup_printf("/migrate-cli/stands/%s", standings[i].name);
        g_test_add_data_func(path, &standings[i], test_stands);
    }
    g_test_add_func("/migrate-cli/precopy-after-postcopy", test_precopy_after_postcopy);
    g_test_add_func("/migrate-cli/slow-end", test_slow_end);
    g_test_add_func("/migrate-cli/failed-end", test_failed_end);
    g_test_add_func("/migrate-cli/pass/slow", test_slow_pass);
    g_test_add_func("/migrate-cli/pass/none", test_no_pass);
    g_test_add_func("/migrate-cli/not-paused", test_not_paused);
    g_test_add_func("/migrate-cli/under-way", test_under_way);
    g_test_add_func("/migrate-cli/interrupted", test_interrupted);
    return g_test_run();
}
