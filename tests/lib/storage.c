/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See storage.h. It says that it stands by its pid file, which it makes when its exports are there;
 * the test waits for that file by inotify. A thread passes on what it says, and starts it again, as
 * a service manager would, when it ended by an assertion of QEMU's own ("!server->wait_idle", seen
 * when a relay was killed with the disk in use).
 */
#include "tests/lib/storage.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct Storage {
    char **argv;
    char *pidfile, *socket, *folder;
    int said;        /* its stderr */
    GThread *keeper; /* it reads SAID, starts and reaps */
    GMutex mutex;    /* of what follows */
    GPid pid;
    bool ending; /* the test ends it */
    int status;  /* as it ended */
};

bool storage_available(const char **why)
{
    g_autofree char *program = g_find_program_in_path("qemu-storage-daemon");

    if (!program)
        *why = "there is no qemu-storage-daemon: install qemu-system-common";
    return program;
}

char *storage_newer(void)
{
    char *path = g_build_filename(g_getenv("FF_SOURCE"), ".cache/qemu10/qemu-storage-daemon", NULL);

    if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
        return path;
    g_free(path);
    g_test_skip("no storage daemon of QEMU 10 is here: run scripts/get qemu 10");
    return NULL;
}

static void end_with_parent(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void await(const char *path, int watch)
{
    char buf[4096];

    while (!g_file_test(path, G_FILE_TEST_EXISTS))
        g_assert_cmpint(read(watch, buf, sizeof(buf)), >, 0);
}

/* Starts S's program; it listens when this returns. It ends with the thread that says this. */
static void start(Storage *s)
{
    int watch = inotify_init1(IN_CLOEXEC);
    g_autoptr(GError) error = NULL;

    unlink(s->pidfile);
    unlink(s->socket);
    g_assert_cmpint(inotify_add_watch(watch, s->folder, IN_CREATE | IN_MOVED_TO), >=, 0);
    g_spawn_async_with_pipes(NULL, s->argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                             end_with_parent, NULL, &s->pid, NULL, NULL, &s->said, &error);
    g_assert_no_error(error);
    await(s->pidfile, watch);
    close(watch);
}

/* Passes on what S says, until its end. TRUE: of QEMU's own assertion. */
static bool pass_on(Storage *s)
{
    FILE *said = fdopen(s->said, "r");
    bool asserted = false;
    char *line = NULL;
    size_t room = 0;

    while (getline(&line, &room, said) > 0) {
        fputs(line, stderr);
        if (strstr(line, "!server->wait_idle"))
            asserted = true;
    }
    free(line);
    fclose(said);
    return asserted;
}

static gpointer keep(gpointer opaque)
{
    Storage *s = opaque;

    for (;;) {
        bool asserted = pass_on(s);

        waitid(P_PID, s->pid, &(siginfo_t){0}, WEXITED | WNOWAIT);
        g_mutex_lock(&s->mutex);
        waitpid(s->pid, &s->status, 0);
        if (!asserted || s->ending)
            break;
        fprintf(stderr, "qemu-storage-daemon: started again\n");
        start(s);
        g_mutex_unlock(&s->mutex);
    }
    s->ending = true;
    g_mutex_unlock(&s->mutex);
    return NULL;
}

Storage *storage_start(const StorageConfig *c)
{
    g_autofree char *file = g_strdup_printf(
        "driver=file,node-name=file,filename=%s,locking=off,cache.direct=on", c->image);
    g_autofree char *export = g_strdup_printf(
        "type=vhost-user-blk,id=export,node-name=%s,"
        "addr.type=unix,addr.path=%s,writable=on,num-queues=%u%s",
        c->iops ? "slow" : "file", c->socket, c->n_queues, c->iothread ? ",iothread=io" : "");
    g_autofree char *limit = g_strdup_printf("throttle-group,id=limit,x-iops-total=%u", c->iops);
    const char *argv[24] = {0};
    unsigned n = 0;
    Storage *s = g_new0(Storage, 1);

    s->pidfile = g_strconcat(c->socket, ".pid", NULL);
    s->socket = g_strdup(c->socket);
    s->folder = g_path_get_dirname(c->socket);
    if (c->unable && !geteuid()) { /* vm.unprivileged_userfaultfd is 0 */
        argv[n++] = "setpriv";
        argv[n++] = "--bounding-set=-sys_ptrace";
    }
    argv[n++] = c->program ? c->program : "qemu-storage-daemon";
    argv[n++] = "--pidfile";
    argv[n++] = s->pidfile;
    argv[n++] = "--blockdev";
    argv[n++] = file;
    if (c->iothread) {
        argv[n++] = "--object";
        argv[n++] = "iothread,id=io";
    }
    if (c->iops) {
        argv[n++] = "--object";
        argv[n++] = limit;
        argv[n++] = "--blockdev";
        argv[n++] = "driver=throttle,node-name=slow,throttle-group=limit,file=file";
    }
    argv[n++] = "--export";
    argv[n++] = export;
    s->argv = g_strdupv((char **)argv);
    g_mutex_init(&s->mutex);
    start(s);
    s->keeper = g_thread_new("storage", keep, s);
    return s;
}

bool storage_can_wait(const char **why)
{
    int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

    if (fd < 0) {
        *why = "this user may not make a userfaultfd that waits for the kernel's own accesses";
        return false;
    }
    close(fd);
    return true;
}

/* If it lives. */
static void send_signal(Storage *s, int signal, bool ending)
{
    g_mutex_lock(&s->mutex);
    if (!s->ending) {
        s->ending = ending;
        g_assert_cmpint(kill(s->pid, signal), ==, 0);
    }
    g_mutex_unlock(&s->mutex);
}

void storage_stand(Storage *s, bool stands)
{
    send_signal(s, stands ? SIGSTOP : SIGCONT, false);
}

/* The status with which it ended. */
static int end(Storage *s, int signal)
{
    int status;

    send_signal(s, signal, true);
    g_thread_join(s->keeper);
    status = s->status;
    g_mutex_clear(&s->mutex);
    g_strfreev(s->argv);
    g_free(s->pidfile);
    g_free(s->socket);
    g_free(s->folder);
    g_free(s);
    return status;
}

void storage_kill(Storage *s)
{
    end(s, SIGKILL);
}

void storage_end(Storage *s)
{
    g_assert_cmpint(end(s, SIGTERM), ==, 0);
}
