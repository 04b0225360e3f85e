/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with CRIU's images and a process that does what criu restore --lazy-pages makes a
 * process do (lazy.h).
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/stop.h"
#include "tests/pager/daemon.h"
#include "tests/pager/lazy.h"

typedef struct {
    Daemon *d;
    char *dir;
    pid_t pid;
    int go; /* to the client: a byte for each step; from it, one when it is restored */
} World;

/* ---- cases ----------------------------------------------------------------------------------- */

static void start_process(World *w)
{
    w->pid = lazy_start(w->d->socket, &w->go);
}

static World begin(const char *faults, const char *more)
{
    World w = {.dir = g_dir_make_tmp("farfault-criu-XXXXXX", NULL)};

    daemon_next(&(DaemonKind){.said_to = -1, .file = w.dir});
    w.d = daemon_start(LAZY_PAGES, 4096, NULL, faults, more);
    start_process(&w);
    return w;
}

static void go_on(const World *w)
{
    g_assert_cmpint(write(w->go, "g", 1), ==, 1);
}

static void end(World *w)
{
    GDir *dir = g_dir_open(w->dir, 0, NULL);
    const char *name;

    daemon_stop(w->d);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(w->dir, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(w->dir);
    g_free(w->dir);
    close(w->go);
}

/* What the first process needed the second one, of the same images, is given first. */
static void test_set(void)
{
    World w = begin(NULL, "--learn");
    char byte;

    lazy_write_images(w.dir, w.pid);
    for (unsigned i = 0; i < 3; i++) {
        go_on(&w);
    }
    assert_ended_well(w.pid);
    daemon_wait_said(w.d, "working set written");
    close(w.go);
    start_process(&w);
    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    /* A quarter of its memory. */
    daemon_wait_said(w.d, "working set: 31 of 31 pages");
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    end(&w);
}

static unsigned clients_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);

    return json_array_get_length(json_node_get_array(report));
}

static void test_read(gconstpointer more)
{
    World w = begin(NULL, more);

    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    go_on(&w);
    while (!more && clients_of(w.d) != 0) {
    } /* by itself it ends when all has been placed; there is no event of it */
    go_on(&w);
    assert_ended_well(w.pid);
    end(&w);
}

/* Of fds of PID that are sockets: two are one. */
static bool has_socket_twice(pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    bool twice = false;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        char *target = g_file_read_link(path, NULL);
        if (target && g_str_has_prefix(target, "socket:")) {
            twice = !g_hash_table_add(seen, target) || twice;
        } else {
            g_free(target);
        }
    }
    g_dir_close(dir);
    return twice;
}

/* What PID's epoll watches it has open: what it has closed, and somebody else not, would wake it
 * for ever. */
static void assert_watches_open_files(pid_t pid)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fdinfo", pid);
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    unsigned watched = 0;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL), *text = NULL;
        if (!g_file_get_contents(path, &text, NULL, NULL)) {
            continue;
        }
        for (const char *at = text; (at = strstr(at, "tfd:")); at++, watched++) {
            g_autofree char *file = g_strdup_printf("/proc/%d/fd/%d", pid, atoi(at + 4));
            g_autofree char *target = g_file_read_link(file, NULL);
            g_assert_nonnull(target);
        }
    }
    g_dir_close(dir);
    g_assert_cmpuint(watched, >, 2);
}

/* criu restore has ended; its processes still miss pages. */
static void test_quiet(void)
{
    World w = begin(NULL, "--no-bulk");
    char byte;

    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    while (clients_of(w.d) != 1 || has_socket_twice(w.d->pid)) {
    } /* there is no event of it */
    assert_watches_open_files(w.d->pid);
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    while (clients_of(w.d) != 0) {
    }
    assert_watches_open_files(w.d->pid);
    end(&w);
}

/* A child whose parent has ended before it: nobody else has anything of which an end would tell. */
static void test_orphan(void)
{
    World w = {.dir = g_dir_make_tmp("farfault-criu-XXXXXX", NULL)};
    char byte;

    daemon_next(&(DaemonKind){.said_to = -1, .file = w.dir});
    w.d = daemon_start(LAZY_PAGES, 4096, NULL, NULL, "--no-bulk");
    w.pid = lazy_start_leaving(w.d->socket, &w.go);
    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    go_on(&w);
    assert_ended_well(w.pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 0); /* the child has ended as well */
    while (clients_of(w.d) != 0) {
    } /* there is no event of it */
    end(&w);
}

#ifdef FF_FAULTS
static void test_killed(gconstpointer moment)
{
    g_autofree char *fault = g_strdup_printf("pager/none/at/%s=kill", (const char *)moment);
    World w = begin(fault, "--no-bulk");

    lazy_write_images(w.dir, w.pid);
    for (unsigned i = 0; i < 3; i++) {
        go_on(&w);
    }
    assert_ended_well(w.pid);
    g_assert_true(daemon_fault_happened(w.d, 0));
    end(&w);
}
#endif

/* The pager has died, and its successor finds no images: the process continues when they are there
 * again (ENDS: it ends before). */
static void test_put_back(gconstpointer ends)
{
    World w = begin(NULL, "--no-bulk");
    g_autofree char *pages = g_build_filename(w.dir, "pages-7.img", NULL);
    g_autofree char *away = g_build_filename(w.dir, "away", NULL);
    char byte;
    int status;

    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    while (clients_of(w.d) != 1) {
    } /* there is no event of it */
    g_assert_cmpint(g_rename(pages, away), ==, 0);
    kill(daemon_pager(w.d), SIGKILL);
    daemon_wait_said(w.d, "it waits");
    if (ends) {
        kill(w.pid, SIGKILL);
        g_assert_cmpint(waitpid(w.pid, &status, 0), ==, w.pid);
        while (clients_of(w.d) != 0) {
        } /* the same */
    } else {
        g_assert_cmpint(g_rename(away, pages), ==, 0);
        go_on(&w);
        go_on(&w);
        assert_ended_well(w.pid);
    }
    end(&w);
}

static void assert_was_killed(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

/* Holder and pager are killed at once: it has no copy, and may not continue with zeros. FAULT: the
 * guard has died before, and could not be started at once; NULL. */
static void test_both_killed(gconstpointer fault)
{
    World w = begin(fault, "--no-bulk");
    int status;

    lazy_write_images(w.dir, w.pid);
    go_on(&w);
    char byte;
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    while (clients_of(w.d) != 1) {
    }
    if (fault) {
        daemon_kill_guard(w.d);
        daemon_wait_said(w.d, "the guard knows all again");
    }
    pid_t pager = daemon_pager(w.d);
    g_assert_cmpint(pager, >, 0);
    kill(w.d->pid, SIGKILL);
    kill(pager, SIGKILL);
    g_assert_cmpint(waitpid(w.d->pid, &status, 0), ==, w.d->pid);
    w.d->pid = 0;
    assert_was_killed(w.pid);
    end(&w);
}

/* No image is its own, or one that is damaged. KIND: "damaged", or a fault of the guard; NULL. */
static void test_refused(gconstpointer kind)
{
    bool damaged = !g_strcmp0(kind, "damaged");
    World w = begin(damaged ? NULL : kind, NULL);

    if (damaged) {
        lazy_write_images(w.dir, w.pid);
        /* A message that is longer than the file. */
        static const uint32_t bad[] = {0x54564319, 0x57492820, 1000};
        g_autofree char *path = g_strdup_printf("%s/mm-%d.img", w.dir, w.pid);
        g_assert_true(g_file_set_contents(path, (const char *)bad, sizeof(bad), NULL));
    }
    go_on(&w);
    assert_was_killed(w.pid);
    daemon_wait_said(w.d, damaged ? "mm is damaged" : "No such file");
    end(&w);
}

/* The guard is stopped: a client that comes and is refused is killed nonetheless. More of them than
 * its socket takes. */
static void test_stopped_guard(void)
{
    enum { N = 400 };
    World w = begin(NULL, NULL);
    pid_t guard = daemon_guard(w.d);

    stop_process(guard);
    for (unsigned i = 0; i < N; i++) {
        if (i) {
            close(w.go);
            start_process(&w);
        }
        go_on(&w);
        assert_was_killed(w.pid);
    }
    daemon_wait_said(w.d, "the guard cannot be told");
    kill(guard, SIGCONT);
    daemon_wait_said(w.d, "the guard knows all again");
    end(&w);
}

/* The holder is ended when a process has passed its userfaultfd, and before it was read. */
static void test_ended_unread(void)
{
    World w = begin(NULL, NULL);
    char byte;
    int status;

    lazy_write_images(w.dir, w.pid);
    stop_process(w.d->pid);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    go_on(&w);
    while (!is_waiting_in(w.pid, "userfault")) {
        g_assert_cmpint(waitpid(w.pid, &status, WNOHANG), ==, 0);
    } /* there is no event of it */
    kill(w.d->pid, SIGTERM);
    kill(w.d->pid, SIGCONT);
    assert_was_killed(w.pid);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

#ifdef FF_FAULTS
static unsigned count_userfaultfds(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    unsigned n = 0;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *fd = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(fd, NULL);
        n += !g_strcmp0(target, "anon_inode:[userfaultfd]");
    }
    return n;
}

/* It is refused, and nobody knows which process it is. The guard, which holds it, dies: the next
 * one holds it too, and it reads no zeros. */
static void test_refused_unknown(void)
{
    World w = begin("holder/none/call/client-pidfd=ENOMEM", NULL);
    char byte;
    int status;

    go_on(&w);
    daemon_wait_said(w.d, "No such file");
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    while (clients_of(w.d) != 0) {
    } /* there is no event of it */
    daemon_kill_guard(w.d);
    go_on(&w);
    while (!is_waiting_in(w.pid, "userfault")) {
        g_assert_cmpint(waitpid(w.pid, &status, WNOHANG), ==, 0);
    } /* the same */
    kill(w.pid, SIGKILL);
    g_assert_cmpint(waitpid(w.pid, &status, 0), ==, w.pid);
    /* What of it is left goes with the next one. */
    close(w.go);
    start_process(&w);
    go_on(&w);
    assert_was_killed(w.pid);
    g_assert_cmpuint(count_userfaultfds(w.d->pid), <=, 1);
    end(&w);
}

/* It has said all of it when it was accepted and not yet looked at, or before anybody could accept
 * it: it is known who it was. */
static void test_refused_early(gconstpointer moment)
{
    g_autofree char *fault = g_strdup_printf("holder/none/at/%s=delay:300", (const char *)moment);
    World w = begin(fault, NULL);

    go_on(&w);
    assert_was_killed(w.pid);
    daemon_wait_said(w.d, "No such file");
    end(&w);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/criu/read", NULL, test_read);
    g_test_add_data_func("/criu/read-no-bulk", "--no-bulk", test_read);
    g_test_add_func("/criu/quiet", test_quiet);
    g_test_add_func("/criu/orphan", test_orphan);
#ifdef FF_FAULTS
    g_test_add_data_func("/criu/killed-at/client-made", "client-made", test_killed);
    g_test_add_data_func("/criu/no-images-not-told", "holder/none/call/guard-tell=ENOMEM",
                         test_refused);
    g_test_add_data_func("/criu/both-killed-no-guard", "holder/none/call/guard-fork#2=EAGAIN",
                         test_both_killed);
    g_test_add_func("/criu/no-images-unknown", test_refused_unknown);
    g_test_add_data_func("/criu/no-images-early", "accepted", test_refused_early);
    g_test_add_data_func("/criu/no-images-before", "holder-begins", test_refused_early);
    g_test_add_data_func("/criu/killed-at/placed", "placed#30", test_killed);
#endif
    g_test_add_func("/criu/set", test_set);
    g_test_add_data_func("/criu/images-put-back", NULL, test_put_back);
    g_test_add_data_func("/criu/images-away-at-its-end", "ends", test_put_back);
    g_test_add_data_func("/criu/both-killed", NULL, test_both_killed);
    g_test_add_func("/criu/ended-unread", test_ended_unread);
    g_test_add_data_func("/criu/no-images", NULL, test_refused);
    g_test_add_func("/criu/no-images-guard-stopped", test_stopped_guard);
    g_test_add_data_func("/criu/damaged", "damaged", test_refused);
    return g_test_run();
}
