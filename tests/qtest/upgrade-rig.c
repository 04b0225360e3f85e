/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See upgrade-rig.h. */
#include "tests/qtest/upgrade-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUSY_MIB 16
#define WAIT_S 120

/* ---- processes ------------------------------------------------------------------------------- */

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
pid_t up_await_qemus(const Guest *g, guint n_left)
{
    int64_t until = test_deadline(WAIT_S);

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
        /* Not any child: a command that is under way is one, too. */
        for (guint i = 0; i < n; i++) {
            close(fds[i].fd);
            waitpid(g_array_index(pids, pid_t, i), NULL, WNOHANG);
        }
    }
}

pid_t up_only_qemu(const Guest *g)
{
    return up_await_qemus(g, 1);
}

/* ---- the guest ------------------------------------------------------------------------------- */

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    /* The name is there a moment before somebody listens, for which there is no event. */
    int64_t until = test_deadline(WAIT_S);
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        g_assert_cmpint(errno, ==, ECONNREFUSED);
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(10000);
    }
    return fd;
}

void up_reconnect(Guest *g)
{
    g_clear_pointer(&g->qmp, qmp_free);
    g->qmp = qmp_new(connect_to(g->monitor), "guest", false);
}

void up_disconnect(Guest *g)
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
 * than a letter or two; what it has written since then, whole lines in that case (g_free). */
char *up_wait_console(Guest *g, const char *text)
{
    g_autoptr(GString) all = g_string_new(NULL);
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    int64_t until = test_deadline(WAIT_S);

    g_assert_cmpint(inotify_add_watch(fd, g->dir, IN_MODIFY | IN_CREATE), >=, 0);
    for (;;) {
        g_autofree char *news = console(g);
        char events[4096];
        struct pollfd p = {.fd = fd, .events = POLLIN};

        g_string_append(all, news);
        const char *at = strstr(all->str, text);
        if (at && (strlen(text) < 3 || strchr(at, '\n'))) {
            if (strlen(text) >= 3) { /* a line that has begun is the next call's */
                gsize lines = (gsize)(strrchr(all->str, '\n') + 1 - all->str);
                g->seen -= (off_t)(all->len - lines);
                g_string_truncate(all, lines);
            }
            close(fd);
            return g_string_free(g_steal_pointer(&all), FALSE);
        }
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        poll(&p, 1, 1000);
        while (read(fd, events, sizeof(events)) > 0) {
        }
    }
}

/* N bytes of guest memory (g_free). */
static uint8_t *save_memory(Guest *g, uint64_t from, uint64_t n)
{
    g_autofree char *path = g_build_filename(g->dir, "memory", NULL);
    char *bytes = NULL;
    gsize len;

    qmp_ok(g->qmp, "pmemsave",
           "{'val': %" G_GUINT64_FORMAT ", 'size': %" G_GUINT64_FORMAT ", 'filename': '%s'}", from,
           n, path);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    g_assert_cmpuint(len, ==, n);
    return (uint8_t *)bytes;
}

static void read_records(void *guest, uint8_t *records)
{
    g_autofree uint8_t *bytes = save_memory(guest, RING3_RECORDS, RING3_RECORDS_SIZE);

    memcpy(records, bytes, RING3_RECORDS_SIZE);
}

/* It runs: after what it had written by now it writes more; the ring-3 guest checks its memory. */
void up_runs(Guest *g)
{
    if (g->ring3) {
        up_reconnect(g);
        ring3_wait_sweep(g->ring3, read_records, g);
        up_disconnect(g);
        return;
    }
    g_free(console(g));
    g_free(up_wait_console(g, "B"));
}

bool up_has_run(Guest *g)
{
    g_autofree char *news = console(g);

    return strchr(news, 'B');
}

GArray *up_qemus(const Guest *g)
{
    return qemus(g->dir);
}

char **up_environment(const Guest *g)
{
    char **env = g_get_environ();

    return g->faults ? g_environ_setenv(env, "FARFAULT_FAULTS", g->faults, TRUE)
                     : g_environ_unsetenv(env, "FARFAULT_FAULTS");
}

Guest *up_new(void)
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

/* Until it is there; INOTIFY, which sees names in the guest's folder, is closed. */
static void await_monitor(Guest *g, int inotify)
{
    while (!g_file_test(g->monitor, G_FILE_TEST_EXISTS)) {
        char events[4096];
        g_assert_cmpint(read(inotify, events, sizeof(events)), >, 0);
    }
    close(inotify);
    up_reconnect(g);
}

/* PROGRAM with ARGS, and monitor and console. */
void up_start(Guest *g, const char *program, const char *const *args)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *file = g_strdup_printf("file,id=console,append=on,path=%s", g->console);
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off", g->monitor);
    g_autofree char *log = g_build_filename(g->dir, "stderr", NULL);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_auto(GStrv) env = up_environment(g);
    const char *const own[] = {"-nodefaults", "-display",        "none", "-chardev", file,
                               "-serial",     "chardev:console", "-qmp", qmp,        NULL};
    const char *const accel[] = {"-accel", vm_accel(), NULL}, *const none[] = {NULL};
    const char *const launcher[] = {farfault, "run", "--", program, NULL};
    const char *const *const parts[] = {launcher, own, g->ring3 ? none : accel, args};

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
        if (g->user && (setgroups(0, NULL) < 0 || setresgid(g->user, g->user, g->user) < 0 ||
                        setresuid(g->user, g->user, g->user) < 0)) {
            _exit(126);
        }
        execvpe(argv->pdata[0], (char **)argv->pdata, env);
        _exit(127);
    }
    await_monitor(g, inotify);
}

void up_await_monitor(Guest *g)
{
    int inotify = inotify_init1(IN_CLOEXEC);

    g_assert_cmpint(inotify_add_watch(inotify, g->dir, IN_CREATE), >=, 0);
    await_monitor(g, inotify);
}

void up_end(Guest *g)
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

Qmp *up_second_monitor(Guest *g)
{
    g_autofree char *path = g_build_filename(g->dir, "second", NULL);

    return qmp_new(connect_to(path), "second", false);
}

/* The one with counters. NULL, and the test is skipped. FAULTS: of its engines; can be NULL. TWO:
 * it has a second monitor. */
static Guest *counting(const char *faults, bool two)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = up_new();
    g_autofree char *image = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", image);
    g_autofree char *second = g_strdup_printf("unix:%s/second,server=on,wait=off", g->dir);
    const char *const args[] = {"-machine",
                                "pc-i440fx-7.2",
                                "-smp",
                                "2",
                                "-m",
                                G_STRINGIFY(RAM_MIB) "M",
                                "-vga",
                                "std",
                                "-drive",
                                drive,
                                "-device",
                                "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
                                two ? "-qmp" : NULL,
                                second,
                                NULL};

    g->faults = faults ? g_strdup_printf("%s;%s", g->dir, faults) : NULL;
    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);
    bootsect_write(&g->boot, image);
    up_start(g, "qemu-system-x86_64", args);
    g_free(up_wait_console(g, "AB"));
    return g;
}

Guest *up_counting(const char *faults)
{
    return counting(faults, false);
}

Guest *up_counting_two_monitors(const char *faults)
{
    return counting(faults, true);
}

Guest *up_ring3(const Ring3 *ring3, const char *const *machine, const char *faults)
{
    static const char *const plain[] = {"-machine", "pc-i440fx-7.2", "-m", G_STRINGIFY(RAM_MIB) "M",
                                        NULL};
    const char *why;

    if (!vm_farfault_available(&why) || !ring3_available(ring3->accel, NULL, &why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = up_new();
    g_autofree char *rom = g_build_filename(g->dir, "rom", NULL);
    g_autoptr(GPtrArray) args = g_ptr_array_new_with_free_func(g_free);

    g->ring3 = ring3;
    g->faults = faults ? g_strdup_printf("%s;%s", g->dir, faults) : NULL;
    for (const char *const *arg = machine ? machine : plain; *arg; arg++) {
        g_ptr_array_add(args, g_strdup(*arg));
    }
    ring3_add_args(ring3, rom, args);
    g_ptr_array_add(args, NULL);
    up_start(g, "qemu-system-x86_64", (const char *const *)args->pdata);
    ring3_wait_ready(ring3, read_records, g);
    up_disconnect(g);
    return g;
}

static void check_ring3_memory(Guest *g)
{
    up_reconnect(g);
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree uint8_t *memory = save_memory(g, 0, ring3_end(g->ring3));
    g_autofree char *wrong = ring3_check_image(g->ring3, memory);
    g_assert_cmpstr(wrong, ==, NULL);
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    up_runs(g);
}

/* Every counter of every page, with the guest stopped for it. */
void up_check_memory(Guest *g)
{
    if (g->ring3) {
        check_ring3_memory(g);
        return;
    }
    uint64_t n = (g->boot.end - g->boot.start) / 4096;
    g_autofree uint32_t *counters = g_new(uint32_t, n);

    up_reconnect(g);
    qmp_ok(g->qmp, "stop", NULL);
    g_autofree uint8_t *bytes = save_memory(g, g->boot.start, n * 4096);
    for (unsigned cpu = 0; cpu < g->boot.n_cpus; cpu++) {
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&counters[i], bytes + i * 4096 + cpu * BOOTSECT_STRIDE, sizeof(uint32_t));
        }
        g_autofree char *wrong = bootsect_check(counters, n);
        g_assert_cmpstr(wrong, ==, NULL);
        g_assert_cmpuint(counters[0], >, 0);
    }
    qmp_ok(g->qmp, "cont", NULL);
    up_disconnect(g);
    up_runs(g);
}

/* ---- the command ----------------------------------------------------------------------------- */

GArray *up_processes(const Guest *g)
{
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(proc))) {
        g_autofree char *path = g_strdup_printf("/proc/%s/environ", name), *text = NULL;
        g_autofree char *comm_path = g_strdup_printf("/proc/%s/comm", name), *comm = NULL;
        pid_t pid = atoi(name);
        gsize len;

        if (pid > 1 && pid != getpid() && g_file_get_contents(comm_path, &comm, NULL, NULL) &&
            g_str_has_prefix(comm, "farfault") && g_file_get_contents(path, &text, &len, NULL) &&
            memmem(text, len, g->dir, strlen(g->dir))) {
            g_array_append_val(pids, pid);
        }
    }
    return pids;
}

unsigned up_rounds(unsigned otherwise)
{
    const char *text = g_getenv("FF_ROUNDS");

    return text ? (unsigned)atoi(text) : otherwise;
}

char *up_installed(void)
{
    char *path = g_find_program_in_path("qemu-system-x86_64");

    g_assert_nonnull(path);
    return path;
}

/* FAULTS of engines that are started from now on; they happen once each. */
void up_set_faults(Guest *g, const char *faults)
{
    g_free(g->faults);
    g->faults = g_strdup_printf("%s;%s", g->dir, faults);
    for (unsigned i = 0; i < 8; i++) {
        g_autofree char *mark = g_strdup_printf("%s/fault-%u", g->dir, i);
        g_remove(mark);
    }
}

static void set_cloexec(gpointer fds)
{
    fcntl(((int *)fds)[0], F_SETFD, 0);
    fcntl(((int *)fds)[1], F_SETFD, 0);
}

/* A QEMU on the memory of G's, that waits; its monitor. */
Qmp *up_start_borrowing(Guest *g)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *program = up_installed();
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) env = up_environment(g);
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
Qmp *up_by_hand(Guest *g)
{
    Qmp *other = up_start_borrowing(g);
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

char *up_memory(Guest *g)
{
    return (char *)save_memory(g, 0, RAM_MIB << 20);
}

void up_start_vmgenid(Guest *g, const char *const *more)
{
    g_autofree char *image = g_build_filename(g->dir, "disk", NULL);
    g_autofree char *drive = g_strdup_printf("if=none,id=disk0,file=%s,format=raw", image);
    const char *const args[] = {"-machine", "pc-i440fx-7.2",
                                "-smp",     "2",
                                "-m",       G_STRINGIFY(RAM_MIB) "M",
                                "-device",  "vmgenid,guid=auto",
                                "-drive",   drive,
                                "-device",  "ide-hd,drive=disk0,secs=1,cyls=1,heads=1",
                                NULL};
    g_autoptr(GPtrArray) all = g_ptr_array_new();

    for (unsigned i = 0; args[i]; i++) {
        g_ptr_array_add(all, (char *)args[i]);
    }
    for (unsigned i = 0; more && more[i]; i++) {
        g_ptr_array_add(all, (char *)more[i]);
    }
    g_ptr_array_add(all, NULL);
    g->boot = bootsect_config((uint64_t)RAM_MIB << 20, (uint64_t)BUSY_MIB << 20, 2);
    bootsect_write(&g->boot, image);
    if (g->user) {
        g_assert_cmpint(chown(image, g->user, g->user), ==, 0);
    }
    up_start(g, "qemu-system-x86_64", (const char *const *)all->pdata);
    g_free(up_wait_console(g, "AB"));
}

Guest *up_with_vmgenid(const char *faults)
{
    Guest *g = up_new();

    g->faults = faults ? g_strdup_printf("%s;%s", g->dir, faults) : NULL;
    up_start_vmgenid(g, NULL);
    return g;
}

/* The exit status; *TEXT (g_free): what it said. */
static int attach(Guest *g, pid_t pid, char **text)
{
    g_autofree char *farfault = vm_build_path("cli/farfault"), *out = NULL, *err = NULL;
    g_autofree char *number = g_strdup_printf("%d", (int)pid);
    const char *argv[] = {farfault, "attach", number, NULL};
    g_auto(GStrv) env = up_environment(g);
    g_autoptr(GError) error = NULL;
    int status;

    up_disconnect(g);
    g_spawn_sync(NULL, (char **)argv, env, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    *text = g_strconcat(out, err, NULL);
    return status;
}

char *up_try_attach(Guest *g, pid_t pid)
{
    char *text = NULL;

    attach(g, pid, &text);
    return text;
}

void up_attach(Guest *g, pid_t pid)
{
    g_autofree char *text = NULL;

    if (attach(g, pid, &text)) {
        g_error("attach: %s", text);
    }
}

void up_attach_if_needed(Guest *g, pid_t pid)
{
    int64_t until = test_deadline(WAIT_S);

    for (;;) {
        g_autofree char *text = NULL;

        if (!attach(g, pid, &text) || strstr(text, "there is nothing to attach")) {
            return;
        }
        /* The relay of the other QEMU has the monitor's socket as long as it has not seen the end
         * of its QEMU, which nobody else is told. */
        if (!strstr(text, "somebody else listens") || g_get_monotonic_time() > until) {
            g_error("attach: %s", text);
        }
        g_usleep(50000);
    }
}

void up_open_fifo(const Guest *g, const char *name)
{
    g_autofree char *path = g_build_filename(g->dir, name, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

void up_can_hold(const Guest *g)
{
    g_autofree char *hold = g_build_filename(g->dir, "hold", NULL);
    g_autofree char *held = g_build_filename(g->dir, "held", NULL);

    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    g_assert_cmpint(mkfifo(held, 0600), ==, 0);
}

void up_wait_held(const Guest *g)
{
    up_open_fifo(g, "held");
}

void up_let_go(const Guest *g)
{
    up_open_fifo(g, "hold");
}
