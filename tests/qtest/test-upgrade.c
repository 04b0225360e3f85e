/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade with real guests: a guest changes its QEMU and its memory stays right; whatever
 * fails, and whoever dies, exactly one QEMU is left and its guest runs.
 *
 * The guest's console is a file, as nothing that is connected can be handed over. All processes of
 * a guest have the path of its directory on their command lines: so they are found, and ended if
 * this program dies. FF_ROUNDS: upgrades in a row.
 *
 * QEMU 10 is that of vm_newer_qemu().
 */
#include "tests/lib/bootsect.h"
#include "tests/lib/linuxguest.h"
#include "tests/lib/qmp.h"
#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_MIB 64
#define BUSY_MIB 16
#define WAIT_S 120

typedef struct {
    char *dir, *monitor, *console;
    char **args;  /* QEMU's */
    char *faults; /* of engines that are started from now on; NULL */
    BootsectConfig boot;
    Qmp *qmp;   /* NULL: not connected */
    off_t seen; /* of the console */
    int keeper; /* its end ends the guest's processes */
} Guest;

/* ---- processes ---------------------------------------------------------------------------------
 */

/* Those that have DIR on their command line and are programs of QEMU. */
static GArray *qemus(const char *dir)
{
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(proc))) {
        g_autofree char *path = g_strdup_printf("/proc/%s/cmdline", name);
        g_autofree char *text = NULL;
        gsize len;
        pid_t pid = atoi(name);

        if (pid <= 0 || pid == getpid() || !g_file_get_contents(path, &text, &len, NULL)) {
            continue;
        }
        for (gsize i = 0; i + 1 < len; i++) {
            text[i] = text[i] ? text[i] : ' ';
        }
        if (len && strstr(text, dir) && strstr(text, "-nodefaults") && !strstr(text, " --borrow")) {
            g_array_append_val(pids, pid);
        }
    }
    return pids;
}

static void end_all(const char *dir)
{
    g_autoptr(GArray) pids = qemus(dir);

    for (guint i = 0; i < pids->len; i++) {
        kill(g_array_index(pids, pid_t, i), SIGKILL);
    }
}

/* A process that ends those of DIR when this program ends. */
static int keep(const char *dir)
{
    int fds[2];
    char byte;

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    if (fork() == 0) {
        signal(SIGTERM, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        close(fds[1]);
        while (read(fds[0], &byte, 1) < 0 && errno == EINTR) {
        }
        end_all(dir);
        _exit(0);
    }
    close(fds[0]);
    return fds[1];
}

/* Waits until N QEMUs are left, 0 or 1, which is returned (0: none). */
static pid_t await_qemus(const Guest *g, guint n_left)
{
    int64_t until = g_get_monotonic_time() + WAIT_S * G_USEC_PER_SEC;

    for (;;) {
        g_autoptr(GArray) pids = qemus(g->dir);

        g_assert_cmpuint(pids->len, >=, n_left);
        if (pids->len == n_left) {
            return n_left ? g_array_index(pids, pid_t, 0) : 0;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        /* One of them ends, whichever. */
        struct pollfd fds[8] = {{.fd = -1}};
        guint n = MIN(pids->len, G_N_ELEMENTS(fds));
        for (guint i = 0; i < n; i++) {
            fds[i] = (struct pollfd){pidfd_open(g_array_index(pids, pid_t, i), 0), POLLIN, 0};
        }
        poll(fds, n, 1000);
        for (guint i = 0; i < n; i++) {
            close(fds[i].fd);
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}

static pid_t only_qemu(const Guest *g)
{
    return await_qemus(g, 1);
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

static void reconnect(Guest *g)
{
    g_clear_pointer(&g->qmp, qmp_free);
    g->qmp = qmp_new(connect_to(g->monitor), "guest", false);
}

static void disconnect(Guest *g)
{
    g_clear_pointer(&g->qmp, qmp_free);
}

/* What has been written to the console since the last call (g_free). */
static char *console(Guest *g)
{
    g_autofree char *text = NULL;
    gsize len;

    if (!g_file_get_contents(g->console, &text, &len, NULL) || (off_t)len <= g->seen) {
        return g_strdup("");
    }
    char *news = g_strndup(text + g->seen, len - g->seen);
    g->seen = len;
    return news;
}

/* Waits until it writes TEXT to its console, from now on, with the end of its line if it is more
 * than a letter or two; what it has written since then (g_free). */
static char *wait_console(Guest *g, const char *text)
{
    g_autoptr(GString) all = g_string_new(NULL);
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    int64_t until = g_get_monotonic_time() + WAIT_S * G_USEC_PER_SEC;

    g_assert_cmpint(inotify_add_watch(fd, g->dir, IN_MODIFY | IN_CREATE), >=, 0);
    for (;;) {
        g_autofree char *news = console(g);
        char events[4096];
        struct pollfd p = {.fd = fd, .events = POLLIN};

        g_string_append(all, news);
        const char *at = strstr(all->str, text);
        if (at && (strlen(text) < 3 || strchr(at, '\n'))) {
            close(fd);
            return g_string_free(g_steal_pointer(&all), FALSE);
        }
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        poll(&p, 1, 1000);
        while (read(fd, events, sizeof(events)) > 0) {
        }
    }
}

/* It runs: after what it had written by now it writes more. */
static void runs(Guest *g)
{
    g_free(console(g));
    g_free(wait_console(g, "B"));
}

static char **environment(const Guest *g)
{
    char **env = g_get_environ();

    return g->faults ? g_environ_setenv(env, "FARFAULT_FAULTS", g->faults, TRUE)
                     : g_environ_unsetenv(env, "FARFAULT_FAULTS");
}

static Guest *guest_new(void)
{
    g_autoptr(GError) error = NULL;
    Guest *g = g_new0(Guest, 1);

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    g->dir = g_dir_make_tmp("ff-upgrade-XXXXXX", &error);
    g_assert_no_error(error);
    g->monitor = g_build_filename(g->dir, "qmp", NULL);
    g->console = g_build_filename(g->dir, "console", NULL);
    g->keeper = keep(g->dir);
    return g;
}

/* PROGRAM with ARGS, and monitor and console. */
static void guest_start(Guest *g, const char *program, const char *const *args)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *file = g_strdup_printf("file,id=console,append=on,path=%s", g->console);
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off", g->monitor);
    g_autofree char *log = g_build_filename(g->dir, "stderr", NULL);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_auto(GStrv) env = environment(g);
    const char *const own[] = {"-nodefaults", "-display", "none",    "-accel",          "tcg",
                               "-chardev",    file,       "-serial", "chardev:console", "-qmp",
                               qmp,           NULL};
    const char *const launcher[] = {farfault, "run", "--", program, NULL};
    const char *const *const parts[] = {launcher, own, args};

    for (unsigned p = 0; p < G_N_ELEMENTS(parts); p++) {
        for (unsigned i = 0; parts[p][i]; i++) {
            g_ptr_array_add(argv, (char *)parts[p][i]);
        }
    }
    g_ptr_array_add(argv, NULL);
    g->args = g_strdupv((char **)argv->pdata + 4);
    int inotify = inotify_init1(IN_CLOEXEC);
    g_assert_cmpint(inotify_add_watch(inotify, g->dir, IN_CREATE), >=, 0);
    if (fork() == 0) {
        int err = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(open("/dev/null", O_RDWR), 0);
        dup2(err, 1);
        dup2(err, 2);
        execvpe(argv->pdata[0], (char **)argv->pdata, env);
        _exit(127);
    }
    while (!g_file_test(g->monitor, G_FILE_TEST_EXISTS)) {
        char events[4096];
        g_assert_cmpint(read(inotify, events, sizeof(events)), >, 0);
    }
    close(inotify);
    reconnect(g);
}

static void guest_end(Guest *g)
{
    g_autoptr(GDir) dir = g_dir_open(g->dir, 0, NULL);
    const char *name;

    g_clear_pointer(&g->qmp, qmp_free);
    end_all(g->dir);
    close(g->keeper);
    /* Everybody of it is a child of this program by now, or becomes one: relays and engines end
     * with their QEMU. */
    alarm(WAIT_S);
    while (waitpid(-1, NULL, 0) > 0) {
    }
    alarm(0);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(g->dir, name, NULL);
        g_remove(path);
    }
    g_rmdir(g->dir);
    g_free(g->dir);
    g_free(g->monitor);
    g_free(g->console);
    g_free(g->faults);
    g_strfreev(g->args);
    g_free(g);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_end)

/* The one with counters. NULL, and the test is skipped. FAULTS: of its engines; can be NULL. */
static Guest *counting(const char *faults)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = guest_new();
    g_autofree char *image = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", image);
    const char *const args[] = {"-machine", "pc-i440fx-7.2",
                                "-smp",     "2",
                                "-m",       G_STRINGIFY(RAM_MIB) "M",
                                "-vga",     "std",
                                "-drive",   drive,
                                "-device",  "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
                                NULL};

    g->faults = faults ? g_strdup_printf("%s;%s", g->dir, faults) : NULL;
    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);
    bootsect_write(&g->boot, image);
    guest_start(g, "qemu-system-x86_64", args);
    g_free(wait_console(g, "AB"));
    return g;
}

/* Every counter of every page, with the guest stopped for it. */
static void check_memory(Guest *g)
{
    g_autofree char *path = g_build_filename(g->dir, "memory", NULL), *bytes = NULL;
    uint64_t n = (g->boot.end - g->boot.start) / 4096;
    g_autofree uint32_t *counters = g_new(uint32_t, n);
    gsize len;

    reconnect(g);
    qmp_ok(g->qmp, "stop", NULL);
    qmp_ok(g->qmp, "pmemsave",
           "{'val': %" G_GUINT64_FORMAT ", 'size': %" G_GUINT64_FORMAT ", 'filename': '%s'}",
           g->boot.start, g->boot.end - g->boot.start, path);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    g_assert_cmpuint(len, ==, n * 4096);
    for (unsigned cpu = 0; cpu < g->boot.n_cpus; cpu++) {
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&counters[i], bytes + i * 4096 + cpu * BOOTSECT_STRIDE, sizeof(uint32_t));
        }
        g_autofree char *wrong = bootsect_check(counters, n);
        g_assert_cmpstr(wrong, ==, NULL);
        g_assert_cmpuint(counters[0], >, 0);
    }
    qmp_ok(g->qmp, "cont", NULL);
    disconnect(g);
    runs(g);
}

/* ---- the command -------------------------------------------------------------------------------
 */

/* ARGS: after "farfault upgrade QMP", NULL-terminated. Returns the exit status; *SAID (g_free): the
 * last line that it wrote. */
static int upgrade(Guest *g, const char *const *args, char **said)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_auto(GStrv) env = environment(g);
    g_autoptr(GError) error = NULL;
    int status;

    disconnect(g);
    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"upgrade");
    g_ptr_array_add(argv, g->monitor);
    for (unsigned i = 0; args && args[i]; i++) {
        g_ptr_array_add(argv, (char *)args[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_sync(NULL, (char **)argv->pdata, env, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    g_test_message("%s%s", out, err);
    g_assert_true(WIFEXITED(status));
    *said = g_strdup(WEXITSTATUS(status) ? err : out);
    return WEXITSTATUS(status);
}

static void upgrade_to(Guest *g, const char *program)
{
    g_autofree char *said = NULL;
    pid_t before = only_qemu(g);

    g_assert_cmpint(upgrade(g, (const char *const[]){"--qemu", program, NULL}, &said), ==, 0);
    g_assert_cmpint(only_qemu(g), !=, before);
    runs(g);
}

/* It fails, and says PART; the QEMU that was there goes on. */
static void upgrade_fails(Guest *g, const char *const *args, const char *part)
{
    g_autofree char *said = NULL;
    pid_t before = only_qemu(g);

    g_assert_cmpint(upgrade(g, args, &said), ==, 1);
    if (!strstr(said, part)) {
        g_error("\"%s\" is not in: %s", part, said);
    }
    g_assert_true(strchr(said, '\n') == said + strlen(said) - 1);
    g_assert_cmpint(only_qemu(g), ==, before);
    runs(g);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static unsigned rounds(unsigned otherwise)
{
    const char *text = g_getenv("FF_ROUNDS");

    return text ? (unsigned)atoi(text) : otherwise;
}

static char *installed(void)
{
    char *path = g_find_program_in_path("qemu-system-x86_64");

    g_assert_nonnull(path);
    return path;
}

static void test_row(void)
{
    g_autoptr(Guest) g = counting(NULL);
    g_autofree char *program = installed(), *said = NULL;

    if (!g) {
        return;
    }
    g_assert_cmpint(upgrade(g, (const char *const[]){"--check", NULL}, &said), ==, 0);
    runs(g);
    for (unsigned i = 0; i < rounds(3); i++) {
        upgrade_to(g, program);
    }
    check_memory(g);
}

static void test_versions(void)
{
    g_autofree char *newer = vm_newer_qemu(), *older = installed();

    if (!newer) {
        return;
    }
    g_autoptr(Guest) g = counting(NULL);
    if (g) {
        upgrade_to(g, newer);
        check_memory(g);
        upgrade_to(g, older);
        check_memory(g);
    }
}

/* A guest that stands stands afterwards. */
static void test_paused(void)
{
    g_autoptr(Guest) g = counting(NULL);
    g_autofree char *program = installed();

    if (!g) {
        return;
    }
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree char *said = NULL;
    g_assert_cmpint(upgrade(g, NULL, &said), ==, 0);
    reconnect(g);
    g_autofree char *state = qmp_run_state(g->qmp);
    g_assert_cmpstr(state, ==, "paused");
    qmp_ok(g->qmp, "cont", NULL);
    disconnect(g);
    runs(g);
    check_memory(g);
}

/* Command lines that must not be started twice: refused before anything is started. */
static void test_refused(void)
{
    static const struct {
        const char *args, *part;
    } cases[] = {
        {"-netdev tap,id=n,ifname=x", "-netdev tap,id=n,ifname=x: cannot be handed over"},
        {"-nic tap", "-nic tap: cannot be handed over"},
        {"-netdev user,id=n,hostfwd=tcp::7001-:7", "the port is the running QEMU's"},
        {"-vnc :7", "-vnc: cannot be handed over"},
        {"-display gtk", "only -display none"},
        {"-serial file:/tmp/x", "-serial file:/tmp/x: cannot be handed over"},
        {"-chardev file,id=f,path=/tmp/x", "would truncate it"},
        {"-chardev socket,id=f,path=/tmp/x,server=on", "cannot be handed over"},
        {"-monitor stdio", "-monitor stdio: cannot be handed over"},
        {"-qmp stdio", "monitor compat_monitor1: cannot be handed over"},
        {"-device vmgenid,guid=auto", "another generation"},
        {"-device vfio-pci,host=1", "cannot be handed over"},
        {"-device id=v,driver=vfio-pci,host=1", "driver=vfio-pci,host=1: cannot be handed over"},
        {"-device virtio-mem-pci,memdev=m", "writes to the memory of the running guest"},
        {"-device loader,addr=4096,data=1,data-len=4", "writes to the memory of the running guest"},
        {"-chardev null,id=l,logfile=/tmp/x", "would truncate its log"},
        {"-chardev file,id=f,path=append=on", "would truncate it"},
        {"-pidfile /tmp/x", "-pidfile: cannot be handed over"},
        {"-daemonize", "-daemonize: cannot be handed over"},
        {"-snapshot", "-snapshot: cannot be handed over"},
        {"-drive file=x,snapshot=on", "its content is in the running QEMU alone"},
        {"-add-fd fd=3,set=1", "-add-fd: cannot be handed over"},
        {"-runas nobody", "-runas: cannot be handed over"},
    };
    g_autoptr(Guest) g = counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = g_build_filename(g->dir, "args", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *own = g_strjoinv(" ", g->args);
        g_autofree char *text = g_strdup_printf("%s %s", own, cases[i].args);

        g_assert_true(g_file_set_contents(file, text, -1, NULL));
        upgrade_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
        upgrade_fails(g, (const char *const[]){"--check", "--args-from", file, NULL},
                      cases[i].part);
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
         "machine 'type' is pc-i440fx-7.2-machine in the running"},
        {"-m 64M", "-m 65M", "memory backend 'pc.ram' has 67108864 bytes"},
        {"-smp 2", "-smp 1", "virtual CPUs 'number' is 2 in the running"},
        {"-vga std", "-vga std -device virtio-rng-pci,id=more",
         "device 'more' is not there in the"},
        {"-vga std", "-vga cirrus", "RAM block "},
        {"-display none", "", "give -display none"},
    };
    g_autoptr(Guest) g = counting(NULL);

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
        upgrade_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
    }
    upgrade_fails(g, (const char *const[]){"--qemu", "/nowhere/qemu", NULL}, "/nowhere/qemu");
    upgrade_fails(g, (const char *const[]){"--qemu", "/bin/false", NULL}, "does not start");
    check_memory(g);
}

/* FAULTS of engines that are started from now on; they happen once each. */
static void set_faults(Guest *g, const char *faults)
{
    g_free(g->faults);
    g->faults = g_strdup_printf("%s;%s", g->dir, faults);
    for (unsigned i = 0; i < 8; i++) {
        g_autofree char *mark = g_strdup_printf("%s/fault-%u", g->dir, i);
        g_remove(mark);
    }
}

/* ---- what loading writes -----------------------------------------------------------------------
 */

/* All of guest RAM, of a guest that stands (g_free). */
static char *memory(Guest *g)
{
    g_autofree char *path = g_build_filename(g->dir, "memory", NULL);
    char *bytes = NULL;
    gsize len;

    qmp_ok(g->qmp, "pmemsave", "{'val': 0, 'size': %u, 'filename': '%s'}", RAM_MIB << 20, path);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    g_assert_cmpuint(len, ==, RAM_MIB << 20);
    return bytes;
}

static void set_cloexec(gpointer fds)
{
    fcntl(((int *)fds)[0], F_SETFD, 0);
    fcntl(((int *)fds)[1], F_SETFD, 0);
}

/* A QEMU on the memory of G's, that waits; its monitor. */
static Qmp *start_borrowing(Guest *g)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *program = installed();
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) env = environment(g);
    g_autoptr(GError) error = NULL;
    int lend[2], monitor[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lend), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor), ==, 0);
    qmp_getfd(g->qmp, "lend", lend[0]);
    json_object_unref(qmp_return(g->qmp, "x-farfault-lend", "{'fdname': 'lend'}"));
    g_ptr_array_add(argv, g_strdup(farfault));
    g_ptr_array_add(argv, g_strdup("run"));
    g_ptr_array_add(argv, g_strdup_printf("--borrow=%d,%d", lend[1], monitor[1]));
    g_ptr_array_add(argv, g_strdup("--"));
    g_ptr_array_add(argv, g_strdup(program));
    for (char **arg = g->args; *arg; arg++) {
        g_ptr_array_add(argv, g_strdup(*arg));
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_async(NULL, (char **)argv->pdata, env,
                  G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_LEAVE_DESCRIPTORS_OPEN |
                      G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                  set_cloexec, (int[]){lend[1], monitor[1]}, NULL, &error);
    g_assert_no_error(error);
    close(lend[0]);
    close(lend[1]);
    close(monitor[1]);
    return qmp_new(monitor[0], "new QEMU", false);
}

/* What farfault upgrade does, without its refusal of command lines; a monitor of the new QEMU. */
static Qmp *upgrade_by_hand(Guest *g)
{
    Qmp *other = start_borrowing(g);
    int link[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link), ==, 0);
    qmp_getfd(g->qmp, "link", link[0]);
    qmp_getfd(other, "link", link[1]);
    close(link[0]);
    close(link[1]);
    qmp_ok(g->qmp, "x-farfault-hand-over", "{'fdname': 'link'}");
    JsonObject *answer = qmp_call(other, "x-farfault-take-over", "{'fdname': 'link'}");
    g_clear_pointer(&answer, json_object_unref); /* its engine may be dead by now */
    return other;
}

/* vmgenid writes to guest memory while it is loaded: 16 bytes, other ones in each QEMU. After a
 * load that came to nothing the guest's memory is as it was, byte for byte. */
static void test_no_trace(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = guest_new();
    g_autofree char *image = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", image);
    g_autofree char *log = g_build_filename(g->dir, "stderr", NULL), *said = NULL;
    const char *const args[] = {"-machine", "pc-i440fx-7.2",
                                "-smp",     "2",
                                "-m",       G_STRINGIFY(RAM_MIB) "M",
                                "-device",  "vmgenid,guid=auto",
                                "-drive",   drive,
                                "-device",  "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
                                NULL};

    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);
    bootsect_write(&g->boot, image);
    guest_start(g, "qemu-system-x86_64", args);
    g_free(wait_console(g, "AB"));
    qmp_set_capability(g->qmp, "events", true);
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree char *before = memory(g);
    set_faults(g, "takeover/*/at/loaded=kill");
    pid_t old = only_qemu(g);
    g_autoptr(Qmp) other = upgrade_by_hand(g);
    qmp_expect_migration(g->qmp, "failed");
    g_assert_cmpint(only_qemu(g), ==, old);
    g_autofree char *after = memory(g);
    g_assert_cmpint(memcmp(before, after, RAM_MIB << 20), ==, 0);
    g_assert_true(g_file_get_contents(log, &said, NULL, NULL));
    g_assert_nonnull(strstr(said, " pages that the new QEMU had written were put back"));
    qmp_ok(g->qmp, "cont", NULL);
    disconnect(g);
    runs(g);
    check_memory(g);
}

/* Whose memory is another's may load nothing else, and is ended when nobody is there any more who
 * started it. */
static void test_left_alone(void)
{
    g_autoptr(Guest) g = counting(NULL);

    if (!g) {
        return;
    }
    pid_t old = only_qemu(g);
    Qmp *other = start_borrowing(g);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *why =
            i ? qmp_error(other, "x-farfault-restore", "{'file': '/dev/null'}")
              : qmp_error(other, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
        g_assert_nonnull(strstr(why, "its memory is not its own yet"));
    }
    g_autofree char *hmp = qmp_hmp(other, "migrate_incoming tcp:127.0.0.1:0");
    g_assert_nonnull(strstr(hmp, "its memory is not its own yet"));
    qmp_free(other);
    g_assert_cmpint(only_qemu(g), ==, old);
    runs(g);
    check_memory(g);
}

/* Who asked for the upgrade dies right after that: the engines go on alone. */
static void test_nobody_waits(void)
{
    g_autoptr(Guest) g = counting(NULL);

    if (g) {
        pid_t old = only_qemu(g);
        qmp_free(upgrade_by_hand(g));
        disconnect(g);
        g_assert_cmpint(only_qemu(g), !=, old);
        runs(g);
        check_memory(g);
    }
}

/* ---- kill -9 -----------------------------------------------------------------------------------
 */

typedef enum { OLD, NEW, EITHER } Outcome;

/* One attempt, in which fault I of the guest's happens. */
static void attempt(Guest *g, const char *what, unsigned i, Outcome to)
{
    g_autofree char *said = NULL, *mark = g_strdup_printf("%s/fault-%u", g->dir, i);
    pid_t before = only_qemu(g);
    int status = upgrade(g, NULL, &said);

    g_test_message("%s: %d", what, status);
    pid_t after = only_qemu(g);
    g_assert_true(to == EITHER || (after == before) == (to == OLD));
    runs(g);
    check_memory(g);
    g_assert_true(g_file_test(mark, G_FILE_TEST_EXISTS));
}

/* The old QEMU's engine dies at each of POINTS in turn, one for each attempt: it has had the faults
 * since it was started. */
static void old_dies_at(const char *const *points, Outcome to)
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
    g_autoptr(Guest) g = counting(faults->str);
    for (unsigned i = 0; g && points[i]; i++) {
        attempt(g, points[i], i, to);
    }
}

/* The same of the new one: ACTION, "kill" or "relay". */
static void new_dies_at(const char *action, const char *const *points, Outcome to)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = counting(NULL);
    for (unsigned i = 0; g && points[i]; i++) {
        g_autofree char *fault = g_strdup_printf("takeover/*/at/%s=%s", points[i], action);

        set_faults(g, fault);
        attempt(g, points[i], 0, to);
    }
}

static void test_old_engine_before(void)
{
    old_dies_at((const char *const[]){"setup", "guarded", "stopping", NULL}, OLD);
    old_dies_at((const char *const[]){"stopped", "loaded", "giving", NULL}, OLD);
}

static void test_old_engine_after(void)
{
    old_dies_at((const char *const[]){"given", NULL}, EITHER);
    old_dies_at((const char *const[]){"running", "lifted", "done", NULL}, NEW);
}

static void test_new_engine_before(void)
{
    new_dies_at("kill",
                (const char *const[]){"setup", "agreed", "loading", "ready", "shut", "loaded",
                                      "grant", NULL},
                OLD);
}

static void test_new_engine_after(void)
{
    new_dies_at("kill",
                (const char *const[]){"taken", "granted", "resumed", "running", "lifted", "done",
                                      "undone", NULL},
                NEW);
}

static void test_new_relay_before(void)
{
    new_dies_at("relay", (const char *const[]){"agreed", "loading", "loaded", NULL}, OLD);
}

/* The engines that come after one that died die as well. */
static void test_again_and_again(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = counting(NULL);
    if (g) {
        set_faults(g, "takeover/*/at/taken=kill;takeover/*/at/resumed=kill;"
                      "takeover/*/at/done=kill;takeover/*/at/undone=kill");
        attempt(g, "four times", 3, NEW);
    }
}

/* ---- Linux, with a disk ------------------------------------------------------------------------
 */

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
    g_autofree char *first = wait_console(g, "FF io disk=");
    gint64 passes = number(first, "FF t=", "passes="), disk = number(first, "FF io ", "disk=");

    for (;;) {
        g_autofree char *text = wait_console(g, "FF io disk=");
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
    g_autofree char *newer = vm_newer_qemu(), *older = installed();
    const char *why;

    if (!newer) {
        return;
    }
    if (!linux_guest_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = guest_new();
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
    guest_start(g, "qemu-system-x86_64", args);
    g_free(wait_console(g, "FF ready"));
    g_free(wait_console(g, "FF io disk="));
    for (unsigned i = 0; i < rounds(2); i++) {
        g_autofree char *said = NULL;
        int status =
            upgrade(g, (const char *const[]){"--qemu", i % 2 ? older : newer, NULL}, &said);

        g_assert_cmpint(status, ==, 0);
        only_qemu(g);
        linux_is_right(g);
    }
    reconnect(g);
    qmp_ok(g->qmp, "quit", NULL);
    disconnect(g);
    await_qemus(g, 0);
    const char *const check[] = {"qemu-img", "check", "-q", "-U", disk, NULL};
    int status;
    g_assert_true(g_spawn_sync(NULL, (char **)check, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade/row", test_row);
    g_test_add_func("/upgrade/versions", test_versions);
    g_test_add_func("/upgrade/paused", test_paused);
    g_test_add_func("/upgrade/refused", test_refused);
    g_test_add_func("/upgrade/fails", test_fails);
    g_test_add_func("/upgrade/no-trace", test_no_trace);
    g_test_add_func("/upgrade/left-alone", test_left_alone);
    g_test_add_func("/upgrade/nobody-waits", test_nobody_waits);
    g_test_add_func("/upgrade/kill/old-engine-before", test_old_engine_before);
    g_test_add_func("/upgrade/kill/old-engine-after", test_old_engine_after);
    g_test_add_func("/upgrade/kill/new-engine-before", test_new_engine_before);
    g_test_add_func("/upgrade/kill/new-engine-after", test_new_engine_after);
    g_test_add_func("/upgrade/kill/new-relay-before", test_new_relay_before);
    g_test_add_func("/upgrade/kill/again-and-again", test_again_and_again);
    g_test_add_func("/upgrade/linux", test_linux);
    return g_test_run();
}
