/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See storage.h. It says that it stands by its pid file, which it makes when its exports are there;
 * the test waits for that file by inotify. One thread.
 */
#include "tests/lib/storage.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct Storage {
    GPid pid;
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
    g_test_skip("no storage daemon of QEMU 10 is here: run scripts/get-qemu10");
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

Storage *storage_start(const StorageConfig *c)
{
    g_autofree char *file = g_strdup_printf(
        "driver=file,node-name=file,filename=%s,locking=off,cache.direct=on", c->image);
    g_autofree char *export = g_strdup_printf(
        "type=vhost-user-blk,id=export,node-name=%s,"
        "addr.type=unix,addr.path=%s,writable=on,num-queues=%u%s",
        c->iops ? "slow" : "file", c->socket, c->n_queues, c->iothread ? ",iothread=io" : "");
    g_autofree char *limit = g_strdup_printf("throttle-group,id=limit,x-iops-total=%u", c->iops);
    g_autofree char *pidfile = g_strconcat(c->socket, ".pid", NULL);
    g_autofree char *folder = g_path_get_dirname(c->socket);
    const char *argv[24] = {0};
    unsigned n = 0;
    int watch = inotify_init1(IN_CLOEXEC);
    Storage *s = g_new0(Storage, 1);
    g_autoptr(GError) error = NULL;

    if (c->unable && !geteuid()) { /* vm.unprivileged_userfaultfd is 0 */
        argv[n++] = "setpriv";
        argv[n++] = "--bounding-set=-sys_ptrace";
    }
    argv[n++] = c->program ? c->program : "qemu-storage-daemon";
    argv[n++] = "--pidfile";
    argv[n++] = pidfile;
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
    unlink(pidfile);
    unlink(c->socket);
    g_assert_cmpint(inotify_add_watch(watch, folder, IN_CREATE | IN_MOVED_TO), >=, 0);
    g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                  end_with_parent, NULL, &s->pid, &error);
    g_assert_no_error(error);
    await(pidfile, watch);
    close(watch);
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

void storage_stand(Storage *s, bool stands)
{
    g_assert_cmpint(kill(s->pid, stands ? SIGSTOP : SIGCONT), ==, 0);
}

void storage_kill(Storage *s)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    g_free(s);
}

void storage_end(Storage *s)
{
    int status;

    kill(s->pid, SIGTERM);
    waitpid(s->pid, &status, 0);
    g_assert_cmpint(status, ==, 0);
    g_free(s);
}
