/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager --page-server with processes that do what criu dump --lazy-pages (dumper.h) and
 * criu restore --lazy-pages (lazy.h) do.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <glib/gstdio.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/forktold.h"
#include "tests/lib/stop.h"
#include "tests/pager/daemon.h"
#include "tests/pager/dumper.h"
#include "tests/pager/lazy.h"

typedef struct {
    Daemon *d;
    Dumper dumper;
    char *dir, *socket;
    pid_t pid;
    int go;
} World;

/* ---- cases ----------------------------------------------------------------------------------- */

/* The process has its images before the pager begins, and its socket under another name. HELD: what
 * comes after so many answers of the server; -1: it does not hold, and the first is. */
static World begin(DumperKind kind, int held, const char *faults, const char *more)
{
    World w = {.dir = g_dir_make_tmp("farfault-pages-XXXXXX", NULL)};

    w.socket = g_build_filename(w.dir, "lazy-pages.socket", NULL);
    w.pid = lazy_start(w.socket, &w.go);
    lazy_write_images_elsewhere(w.dir, w.pid);
    w.dumper = dumper_start(kind, (unsigned)MAX(held, 0), held >= 0, w.pid);
    daemon_next(&(DaemonKind){.said_to = -1, .file = w.dir, .page_server = w.dumper.option});
    w.d = daemon_start(LAZY_PAGES, 4096, NULL, faults, more);
    g_assert_cmpint(symlink(w.d->socket, w.socket), ==, 0);
    return w;
}

static void go_on(const World *w)
{
    g_assert_cmpint(write(w->go, "g", 1), ==, 1);
}

static void restore(const World *w)
{
    char byte;

    go_on(w);
    g_assert_cmpint(read(w->go, &byte, 1), ==, 1);
}

static void remove_folder(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(folder);
}

static void end(World *w)
{
    daemon_stop(w->d);
    remove_folder(w->dir);
    g_free(w->dir);
    g_free(w->socket);
    close(w->go);
}

static void assert_was_killed(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (!WIFSIGNALED(status)) {
        g_error("process %d was not killed: %x", pid, status);
    }
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

static unsigned clients_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);

    return json_array_get_length(json_node_get_array(report));
}

static pid_t child_named(const Daemon *d, const char *wanted)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", d->pid, d->pid);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (char *at = g_strstrip(text); *at;) {
        pid_t pid = (pid_t)g_ascii_strtoll(at, &at, 10);
        g_autofree char *comm = g_strdup_printf("/proc/%d/comm", pid), *name = NULL;
        if (g_file_get_contents(comm, &name, NULL, NULL) && !strcmp(g_strstrip(name), wanted)) {
            return pid;
        }
    }
    return 0;
}

/* ---- all goes well --------------------------------------------------------------------------- */

typedef struct {
    DumperKind kind;
    const char *more;
} Way;

/* Its server holds, and it waits for a page. */
static World begin_waiting(DumperKind kind, const char *more)
{
    World w = begin(kind, 1, NULL, more);
    int status;

    dumper_wait_held(&w.dumper);
    restore(&w);
    go_on(&w);
    while (clients_of(w.d) != 1) {
    } /* what it passed is not on its way any more; there is no event of it */
    while (!is_waiting_in(w.pid, "userfault")) {
        g_assert_cmpint(waitpid(w.pid, &status, WNOHANG), ==, 0);
    } /* there is no event of it */
    return w;
}

/* It has got all. */
static void end_well(World *w)
{
    assert_ended_well(w->pid);
    g_assert_cmpint(dumper_wait(&w->dumper), ==, DUMPER_KILLS);
    g_assert_cmpint(daemon_wait(w->d), ==, 0);
    end(w);
}

/* MORE: "--max-bandwidth=1": nothing comes but what is waited for, after a first piece. */
static void test_read(gconstpointer way)
{
    const Way *of = way;
    World w = begin(of->kind, -1, NULL, of->more);

    restore(&w);
    go_on(&w);
    go_on(&w);
    end_well(&w);
}

#ifdef FF_FAULTS
/* All is there, but nothing was restored: the server does not let its processes go, and they run
 * again if the pager ends. */
static void test_not_before(void)
{
    World w = begin(DUMPER_RIGHT, -1, "fetcher/none/at/page-fetched#5=delay:0", NULL);
    int status;

    while (!daemon_fault_happened(w.d, 0)) {
        g_assert_cmpint(waitpid(w.dumper.pid, &status, WNOHANG), ==, 0);
    }                     /* all five answers; there is no event of it */
    kill(w.pid, SIGKILL); /* it has not begun */
    assert_was_killed(w.pid);
    kill(w.d->pid, SIGTERM);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}
#endif

/* The server gives nothing for a while: a process that needs a page waits, and gets it. PAGER: a
 * pager dies meanwhile. */
static void test_held(gconstpointer pager)
{
    World w = begin_waiting(DUMPER_RIGHT, NULL);

    if (pager) {
        kill(daemon_pager(w.d), SIGKILL);
        daemon_wait_said(w.d, "the pager has died");
    }
    dumper_go_on(&w.dumper);
    go_on(&w);
    end_well(&w);
}

#ifdef FF_FAULTS
/* The next pager finds what has come. */
static void test_pager_killed(gconstpointer moment)
{
    g_autofree char *fault = g_strdup_printf("pager/none/at/%s=kill", (const char *)moment);
    World w = begin(DUMPER_RIGHT, -1, fault, "--no-bulk");

    for (unsigned i = 0; i < 3; i++) {
        go_on(&w);
    }
    daemon_wait_said(w.d, "the pager has died");
    end_well(&w);
}
#endif

/* What runs is not restored once more. */
static void test_second_copy(void)
{
    World w = begin(DUMPER_RIGHT, 1, NULL, NULL);
    int go;
    pid_t second = lazy_start(w.socket, &go);

    dumper_wait_held(&w.dumper);
    restore(&w);
    lazy_write_images_elsewhere(w.dir, second);
    g_assert_cmpint(write(go, "g", 1), ==, 1);
    assert_was_killed(second);
    daemon_wait_said(w.d, "was restored already");
    close(go);
    dumper_go_on(&w.dumper);
    go_on(&w);
    go_on(&w);
    end_well(&w);
}

static int64_t missing_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);
    JsonArray *all = json_node_get_array(report);

    return json_array_get_length(all) == 1
               ? json_object_get_int_member(json_array_get_object_element(all, 0), "missing")
               : -1;
}

/* Both had passed all before one of them was restored: that one alone runs. */
static void test_two_restores(void)
{
    World w = begin(DUMPER_RIGHT, 1, NULL, NULL);
    int go;
    char byte;

    lazy_next(&(LazyKind){.as = w.pid, .halts = true});
    pid_t second = lazy_start(w.socket, &go);
    g_assert_cmpint(write(go, "g", 1), ==, 1);
    g_assert_cmpint(read(go, &byte, 1), ==, 1);
    dumper_wait_held(&w.dumper);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    restore(&w);
    assert_was_killed(second);
    close(go);
    dumper_go_on(&w.dumper);
    go_on(&w);
    go_on(&w);
    end_well(&w);
}

/* CRIU has said that all is restored, and traces it still, as it does until it lets it run. */
static World begin_traced(void)
{
    World w = begin(DUMPER_RIGHT, 1, NULL, NULL);

    g_assert_cmpint(ptrace(PTRACE_SEIZE, w.pid, NULL, NULL), ==, 0);
    dumper_wait_held(&w.dumper);
    restore(&w);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    return w;
}

static void test_traced(void)
{
    World w = begin_traced();
    int status;

    dumper_go_on(&w.dumper);
    while (missing_of(w.d) != 0) {
    } /* there is no event of it */
    g_assert_cmpint(waitpid(w.dumper.pid, &status, WNOHANG), ==, 0);
    g_assert_cmpint(ptrace(PTRACE_INTERRUPT, w.pid, NULL, NULL), ==, 0);
    g_assert_cmpint(waitpid(w.pid, &status, 0), ==, w.pid);
    g_assert_cmpint(ptrace(PTRACE_DETACH, w.pid, NULL, NULL), ==, 0);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_KILLS); /* it was seen to run */
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    DumperKind kind;
    const char *said;
} Wrong;

static const Wrong wrongs[] = {
    {"ends", DUMPER_ENDS, "closed the connection"},
    {"cuts", DUMPER_CUTS, "closed the connection"},
    {"other-address", DUMPER_OTHER_ADDRESS, "other pages than it was asked for"},
    {"other-process", DUMPER_OTHER_PROCESS, "other pages than it was asked for"},
    {"other-command", DUMPER_OTHER_COMMAND, "its answer is no pages"},
    {"no-pages", DUMPER_NO_PAGES, "no pages, or more"},
    {"too-many", DUMPER_TOO_MANY, "no pages, or more"},
    {"unasked", DUMPER_UNASKED, "other pages than it was asked for"},
};

/* In the middle: the restored process is killed, and has read nothing wrong. Only then can the
 * server's processes run again. */
static void test_wrong(gconstpointer of)
{
    const Wrong *wrong = of;
    World w = begin_waiting(wrong->kind, NULL);

    dumper_go_on(&w.dumper);
    assert_was_killed(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    daemon_wait_said(w.d, wrong->said);
    daemon_wait_said(w.d, "miss some are killed");
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

/* The server has been told that all is here, and it is not known whether it has heard. The process
 * has all of its pages, and is killed nonetheless: there may be another one. */
static void test_in_doubt(gconstpointer of)
{
    const Wrong *wrong = of;
    World w = begin(wrong->kind, 1000, NULL, NULL);

    restore(&w);
    dumper_wait_held(&w.dumper);
    while (missing_of(w.d) != 0) {
    } /* there is no event of it */
    dumper_go_on(&w.dumper);
    assert_was_killed(w.pid);
    daemon_wait_said(w.d, wrong->said);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

/* It has been told, and has not answered: WHO ends meanwhile. */
static void test_ended_in_doubt(gconstpointer who)
{
    World w = begin(DUMPER_RIGHT, 1000, NULL, NULL);
    bool holder = !strcmp(who, "holder");

    restore(&w);
    dumper_wait_held(&w.dumper);
    kill(holder ? w.d->pid : child_named(w.d, who), holder ? SIGTERM : SIGKILL);
    assert_was_killed(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    dumper_go_on(&w.dumper);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

/* WHO is killed, and nobody but the guard is left to see to it that no two copies run. */
static void test_killed(gconstpointer who)
{
    World w = begin_waiting(DUMPER_RIGHT, NULL);
    bool holder = strcmp(who, "fetcher") != 0;
    pid_t pid = holder ? w.d->pid : child_named(w.d, who);

    if (!strcmp(who, "guard, holder")) {
        daemon_kill_guard(w.d);
        while (!is_waiting_in(w.d->pid, "ep_poll") && !is_waiting_in(w.d->pid, "epoll_wait")) {
        } /* the next one has been told; there is no event of it */
    }
    g_assert_cmpint(pid, >, 0);
    kill(pid, SIGKILL);
    dumper_go_on(&w.dumper);
    assert_was_killed(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    if (holder) {
        assert_was_killed(pid);
        w.d->pid = 0;
    } else {
        g_assert_cmpint(daemon_wait(w.d), ==, 1);
    }
    end(&w);
}

static void test_ended(void)
{
    World w = begin_waiting(DUMPER_RIGHT, NULL);

    kill(w.d->pid, SIGTERM);
    dumper_go_on(&w.dumper);
    assert_was_killed(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

#ifdef FF_FAULTS
/* SIGTERM, and only then the process is found to be restored: nobody says yes to that any more. */
static void test_restored_last(void)
{
    World w = begin(DUMPER_RIGHT, -1, "fetcher/none/at/page-fetched#5=delay:0", NULL);
    int status;

    while (!daemon_fault_happened(w.d, 0)) {
        g_assert_cmpint(waitpid(w.dumper.pid, &status, WNOHANG), ==, 0);
    } /* all five answers; there is no event of it */
    while (!is_waiting_in(w.d->pid, "ep_poll") && !is_waiting_in(w.d->pid, "epoll_wait")) {
    }
    kill(w.d->pid, SIGSTOP);
    kill(w.d->pid, SIGTERM);
    restore(&w);
    kill(w.d->pid, SIGCONT);
    assert_was_killed(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}
#endif

/* CRIU fails, and kills it, after it has said that it is restored. */
static void test_killed_traced(void)
{
    World w = begin_traced();

    kill(w.pid, SIGKILL);
    assert_was_killed(w.pid);
    daemon_wait_said(w.d, "before it was seen to run");
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    dumper_go_on(&w.dumper);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

/* Its images are not those that the pages are of: it is killed by the holder. */
static void test_client_refused(void)
{
    World w = begin(DUMPER_RIGHT, 1, NULL, NULL);
    g_autofree char *path = g_strdup_printf("%s/pagemap-%d.img", w.dir, w.pid);
    const struct timespec times[2] = {{1, 0}, {1, 0}};

    dumper_wait_held(&w.dumper);
    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
    go_on(&w);
    assert_was_killed(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    dumper_go_on(&w.dumper);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

static void wait_is_sleep(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid);

    for (bool is = false; !is;) { /* there is no event of it */
        g_autofree char *name = NULL;
        is = g_file_get_contents(path, &name, NULL, NULL) && !strcmp(name, "sleep\n");
    }
}

/* It is another program by now, and has none of the memory. */
static void test_execs(void)
{
    lazy_next(&(LazyKind){.then = LAZY_EXECS});
    World w = begin(DUMPER_ENDS, 1, NULL, NULL);

    dumper_wait_held(&w.dumper);
    restore(&w);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    go_on(&w);
    wait_is_sleep(w.pid);
    dumper_go_on(&w.dumper);
    assert_was_killed(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

/* To poll for its end. */
static struct pollfd end_of(pid_t pid)
{
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

    g_assert_cmpint(pfd.fd, >=, 0);
    return pfd;
}

/* More processes than the guard hears of at once. All goes well: it kills none of them at the end.
 */
static void test_many(void)
{
    const unsigned n = 400;
    World w = {.dir = g_dir_make_tmp("farfault-pages-XXXXXX", NULL)};

    w.socket = g_build_filename(w.dir, "lazy-pages.socket", NULL);
    w.pid = lazy_start_many(w.socket, n, &w.go);
    for (unsigned i = 0; i < n; i++) {
        lazy_write_images_elsewhere(w.dir, (pid_t)(LAZY_MANY_FIRST + i));
    }
    w.dumper = dumper_start(DUMPER_RIGHT, 0, false, w.pid);
    daemon_next(&(DaemonKind){.said_to = -1, .file = w.dir, .page_server = w.dumper.option});
    w.d = daemon_start(LAZY_PAGES, 4096, NULL, NULL, NULL);
    g_assert_cmpint(symlink(w.d->socket, w.socket), ==, 0);
    pid_t guard = daemon_guard(w.d);
    struct pollfd of_guard = end_of(guard);
    stop_process(guard); /* it hears of nothing until the end */
    restore(&w);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_KILLS);
    kill(guard, SIGCONT);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    g_assert_cmpint(poll(&of_guard, 1, -1), ==, 1);
    go_on(&w);
    assert_ended_well(w.pid);
    close(of_guard.fd);
    end(&w);
}

#ifdef FF_FAULTS
/* The guard cannot be told at once that it is let go. */
static void test_dropped_late(void)
{
    World w = begin(DUMPER_RIGHT, -1, "holder/none/call/guard-tell#4=EAGAIN", NULL);
    struct pollfd of_guard = end_of(daemon_guard(w.d));

    restore(&w);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_KILLS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    g_assert_cmpint(poll(&of_guard, 1, -1), ==, 1);
    g_assert_true(daemon_fault_happened(w.d, 0));
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    close(of_guard.fd);
    end(&w);
}
#endif

/* The pager stands still, and then refuses it, as its images are not those that the pages are of:
 * until then the server has not given anything up. */
static void test_refused_late(void)
{
    World w = begin(DUMPER_RIGHT, -1, NULL, NULL);
    g_autofree char *path = g_strdup_printf("%s/pagemap-%d.img", w.dir, w.pid);
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    pid_t pager;
    int status;

    while (!(pager = daemon_pager(w.d)) || clients_of(w.d) != 0) {
    } /* it has begun; there is no event of it */
    stop_process(pager);
    restore(&w);
    g_usleep(200 * 1000); /* that it does nothing is no event */
    g_assert_cmpint(waitpid(w.dumper.pid, &status, WNOHANG), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
    kill(pager, SIGCONT);
    assert_was_killed(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

/* SIGTERM when the server has given its processes up: the pager ends when those here have all.
 * MORE: what keeps their pages back. */
static void test_ended_late(gconstpointer more)
{
    World w = begin(DUMPER_RIGHT, -1, NULL, more);

    restore(&w);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_KILLS);
    kill(w.d->pid, SIGTERM);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    end(&w);
}

typedef struct {
    const char *name;
    LazyKind kind;
    bool guard_killed; /* when it is another program already */
    bool fetcher_killed;
} Started;

static const Started started[] = {
    {"forks", {.then = LAZY_FORKS_AND_EXECS}, false},
    {"spawns", {.then = LAZY_SPAWNS}, false},
    {"daemon", {.then = LAZY_LEAVES_A_DAEMON}, false},
    {"forks/next-guard", {.then = LAZY_FORKS_AND_EXECS}, true},
    {"spawns/next-guard", {.then = LAZY_SPAWNS}, true},
    {"daemon/next-guard", {.then = LAZY_LEAVES_A_DAEMON}, true},
    {"daemon/guard-and-fetcher", {.then = LAZY_LEAVES_A_DAEMON}, true, true},
};

/* All goes well: what it has started is nobody's any more. */
static void test_started_well(void)
{
    lazy_next(&(LazyKind){.then = LAZY_SPAWNS});
    World w = begin(DUMPER_RIGHT, 1, NULL, NULL);
    pid_t program;

    dumper_wait_held(&w.dumper);
    restore(&w);
    go_on(&w);
    g_assert_cmpint(read(w.go, &program, sizeof(program)), ==, sizeof(program));
    struct pollfd of_program = end_of(program), of_guard = end_of(daemon_guard(w.d));
    go_on(&w);
    go_on(&w);
    dumper_go_on(&w.dumper);
    assert_ended_well(w.pid);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_KILLS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    g_assert_cmpint(poll(&of_guard, 1, -1), ==, 1);
    g_assert_cmpint(poll(&of_program, 1, 0), ==, 0);
    kill(program, SIGKILL);
    close(of_program.fd);
    close(of_guard.fd);
    end(&w);
}

/* What it has started is another program, and has never had the memory, or has it no more. It is
 * gone before the copies of its parent run. */
static void test_started(gconstpointer of)
{
    const Started *start = of;

    if (start->kind.then == LAZY_LEAVES_A_DAEMON && !forks_are_told()) {
        g_test_skip("here the kernel tells nobody of forks");
        return;
    }
    lazy_next(&start->kind);
    World w = begin(DUMPER_ENDS, 1, NULL, NULL);
    pid_t program;

    dumper_wait_held(&w.dumper);
    restore(&w);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    go_on(&w);
    g_assert_cmpint(read(w.go, &program, sizeof(program)), ==, sizeof(program));
    struct pollfd of_program = end_of(program);
    wait_is_sleep(program);
    g_assert_cmpint(poll(&of_program, 1, 0), ==, 0);
    if (start->fetcher_killed) {
        pid_t fetcher = child_named(w.d, "fetcher");
        g_assert_cmpint(kill(daemon_guard(w.d), SIGKILL), ==, 0);
        g_assert_true(fetcher > 1 && kill(fetcher, SIGKILL) == 0);
    } else if (start->guard_killed) {
        daemon_kill_guard(w.d);
        while (!is_waiting_in(w.d->pid, "ep_poll") && !is_waiting_in(w.d->pid, "epoll_wait")) {
        } /* the next one has been told; there is no event of it */
    }
    dumper_go_on(&w.dumper);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    g_assert_cmpint(poll(&of_program, 1, 0), ==, 1);
    close(of_program.fd);
    assert_was_killed(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    end(&w);
}

#ifdef FF_FAULTS
/* SIGTERM while there is no guard, and none can be started. */
static void test_ended_unguarded(void)
{
    World w = begin(DUMPER_RIGHT, 1, "holder/none/call/guard-fork#2=EAGAIN", NULL);
    int status;

    dumper_wait_held(&w.dumper);
    restore(&w);
    go_on(&w);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    while (!is_waiting_in(w.pid, "userfault")) {
        g_assert_cmpint(waitpid(w.pid, &status, WNOHANG), ==, 0);
    } /* there is no event of it */
    kill(w.d->pid, SIGSTOP);
    pid_t guard = daemon_guard(w.d);
    while (kill(guard, SIGKILL) == 0) {
    } /* there is no event of it; nobody waits for it */
    kill(w.d->pid, SIGTERM);
    kill(w.d->pid, SIGCONT);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    assert_was_killed(w.pid);
    dumper_go_on(&w.dumper);
    g_assert_cmpint(dumper_wait(&w.dumper), ==, DUMPER_RESUMES);
    end(&w);
}

/* It dies as soon as it has connected: that is no orderly end. */
static void test_killed_at_once(void)
{
    g_autofree char *dir = g_dir_make_tmp("farfault-pages-XXXXXX", NULL);
    Dumper dumper = dumper_start(DUMPER_RIGHT, 0, false, 0);

    lazy_write_images_elsewhere(dir, 5);
    daemon_next(
        &(DaemonKind){.said_to = -1, .file = dir, .page_server = dumper.option, .dies = true});
    Daemon *d = daemon_start(LAZY_PAGES, 4096, NULL, "none/none/at/server-connected=kill", NULL);
    assert_was_killed(d->pid);
    d->pid = 0;
    g_assert_cmpint(dumper_wait(&dumper), ==, DUMPER_RESUMES);
    daemon_stop(d);
    remove_folder(dir);
}
#endif

/* ---- what cannot begin ----------------------------------------------------------------------- */

/* FOLDER and OPTION: it says WHY. */
static void assert_refused(const char *folder, const char *option, const char *why)
{
    const char *build = g_getenv("FF_BUILD");
    g_autofree char *program = g_strdup_printf("%s/cli/farfault", build ? build : "build");
    g_autofree char *socket = g_build_filename(folder, "socket", NULL), *said = NULL;
    const char *argv[] = {program, "pager", "--listen", socket, "--from", folder, option, NULL};
    int status;

    g_assert_true(
        g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, &said, &status, NULL));
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    if (!strstr(said, why)) {
        g_error("it has said: %s", said);
    }
}

static void test_refused(void)
{
    static const char none[] = "\x19\x43\x56\x54\x25\x40\x08\x56\x02\0\0\0\x08\x07";
    g_autofree char *dir = g_dir_make_tmp("farfault-pages-XXXXXX", NULL);
    g_autofree char *image = g_build_filename(dir, "pagemap-5.img", NULL);
    g_autofree char *mm = g_build_filename(dir, "mm-5.img", NULL);

    assert_refused(dir, "--page-server=127.0.0.1:1", "no images of criu dump --lazy-pages");
    lazy_write_images_elsewhere(dir, 5);
    assert_refused(dir, "--page-server=127.0.0.1:1", "waiting at --page-server 127.0.0.1:1? ");
    assert_refused(dir, "--page-server=nowhere", "nowhere");
    g_autofree char *other = g_build_filename(dir, "pagemap-005.img", NULL);
    g_assert_true(g_file_set_contents(other, "not a process's", -1, NULL));
    assert_refused(dir, "--page-server=127.0.0.1:1", "waiting at --page-server 127.0.0.1:1? ");
    g_unlink(other);
    lazy_write_images(dir, 5);
    assert_refused(dir, "--page-server=127.0.0.1:1", "leave --page-server out");
    g_assert_true(g_file_set_contents(image, none, sizeof(none) - 1, NULL));
    assert_refused(dir, "--page-server=127.0.0.1:1", "pagemap-5.img: it has no lazy pages");
    g_assert_true(g_file_set_contents(image, "damaged", -1, NULL));
    assert_refused(dir, "--page-server=127.0.0.1:1",
                   "pagemap-5.img: CRIU's images: pagemap is damaged");
    g_unlink(image);
    g_unlink(mm);
    g_autofree char *pages = g_build_filename(dir, "pages-7.img", NULL);
    g_unlink(pages);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    static const Way all = {DUMPER_RIGHT, NULL}, demand = {DUMPER_RIGHT, "--max-bandwidth=1"},
                     none = {DUMPER_RIGHT, "--no-bulk"}, one = {DUMPER_ONE_PAGE, NULL};
    static const Wrong no_status = {"no-status", DUMPER_NO_STATUS, "before it said"},
                       bad_status = {"bad-status", DUMPER_BAD_STATUS, "says that the end is none"};

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/page-server/read", &all, test_read);
    g_test_add_data_func("/page-server/read-demand", &demand, test_read);
    g_test_add_data_func("/page-server/read-no-bulk", &none, test_read);
    g_test_add_data_func("/page-server/read-one-by-one", &one, test_read);
    g_test_add_data_func("/page-server/held", NULL, test_held);
    g_test_add_data_func("/page-server/held-pager-killed", "", test_held);
    g_test_add_func("/page-server/second-copy", test_second_copy);
    g_test_add_func("/page-server/two-restores", test_two_restores);
    g_test_add_func("/page-server/traced", test_traced);
    g_test_add_func("/page-server/killed/traced", test_killed_traced);
    g_test_add_func("/page-server/killed/execs", test_execs);
    g_test_add_func("/page-server/starts", test_started_well);
    g_test_add_func("/page-server/many", test_many);
    g_test_add_func("/page-server/refused-late", test_refused_late);
    g_test_add_data_func("/page-server/ended-late/bulk", NULL, test_ended_late);
    g_test_add_data_func("/page-server/ended-late/no-bulk", "--no-bulk", test_ended_late);
#ifdef FF_FAULTS
    g_test_add_func("/page-server/dropped-late", test_dropped_late);
#endif
    for (unsigned i = 0; i < G_N_ELEMENTS(started); i++) {
        g_autofree char *path = g_strconcat("/page-server/killed/starts/", started[i].name, NULL);
        g_test_add_data_func(path, &started[i], test_started);
    }
    g_test_add_func("/page-server/client-refused", test_client_refused);
    for (unsigned i = 0; i < G_N_ELEMENTS(wrongs); i++) {
        g_autofree char *name = g_strconcat("/page-server/wrong/", wrongs[i].name, NULL);
        g_test_add_data_func(name, &wrongs[i], test_wrong);
    }
    g_test_add_data_func("/page-server/no-status", &no_status, test_in_doubt);
    g_test_add_data_func("/page-server/bad-status", &bad_status, test_in_doubt);
    g_test_add_data_func("/page-server/in-doubt/ended", "holder", test_ended_in_doubt);
    g_test_add_data_func("/page-server/in-doubt/fetcher-killed", "fetcher", test_ended_in_doubt);
    g_test_add_data_func("/page-server/killed/fetcher", "fetcher", test_killed);
    g_test_add_data_func("/page-server/killed/holder", "holder", test_killed);
    g_test_add_data_func("/page-server/killed/guard-holder", "guard, holder", test_killed);
    g_test_add_func("/page-server/ended", test_ended);
    g_test_add_func("/page-server/refused", test_refused);
#ifdef FF_FAULTS
    g_test_add_func("/page-server/killed/at-once", test_killed_at_once);
    g_test_add_func("/page-server/ended-unguarded", test_ended_unguarded);
    g_test_add_func("/page-server/not-before-restored", test_not_before);
    g_test_add_func("/page-server/ended-then-restored", test_restored_last);
    g_test_add_data_func("/page-server/pager-killed/client-made", "client-made", test_pager_killed);
    g_test_add_data_func("/page-server/pager-killed/placed", "placed#30", test_pager_killed);
    g_test_add_data_func("/page-server/pager-killed/content-read", "content-read#10",
                         test_pager_killed);
#endif
    return g_test_run();
}
