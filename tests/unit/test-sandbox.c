/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What relay and engine cannot do any more, and what they still can. Each case is a process of
 * its own, since nobody comes back out of the sandbox.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/capability.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sandbox.h"

/* What a call that is on no list does: ENOSYS, or (in a build for tests) the end. */
#ifdef FF_FAULTS
#define UNLISTED (128 + SIGSYS)
#else
#define UNLISTED 0
#endif

static char file[] = "/tmp/farfault-test-XXXXXX"; /* there before the sandbox */

typedef int (*Deed)(void); /* 0: as it should be */

static int unlisted(long rc)
{
    return rc == -1 && errno == ENOSYS ? 0 : 1;
}

static int try_exec(void)
{
    char *argv[] = {"/bin/true", NULL};

    return unlisted(execv(argv[0], argv));
}

static int try_ptrace(void)
{
    return unlisted(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
}

static int try_mount(void)
{
    return unlisted(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL));
}

static int try_bpf(void)
{
    return unlisted(syscall(SYS_bpf, 0, NULL, 0));
}

static int try_setuid(void)
{
    return unlisted(syscall(SYS_setuid, 0));
}

static int try_write_memory(void)
{
    return unlisted(syscall(SYS_process_vm_writev, getppid(), NULL, 0UL, NULL, 0UL, 0UL));
}

/* 0: refused as a file that may not be written. (A build for tests ends at that.) */
static int refused(long rc)
{
    return rc < 0 && errno == EACCES ? 0 : 1;
}

static int try_open_existing(void)
{
    return refused(open(file, O_WRONLY | O_APPEND));
}

static int try_openat_existing(void)
{
    return refused(syscall(SYS_openat, AT_FDCWD, file, O_RDWR));
}

static int try_truncate(void)
{
    return refused(open(file, O_CREAT | O_TRUNC, 0600)); /* without O_EXCL it need not be new */
}

static int try_rename(void)
{
    return unlisted(rename(file, "/tmp/farfault-test-renamed"));
}

static int try_chmod(void)
{
    return unlisted(chmod(file, 0600));
}

static int try_set_user_id(void)
{
    int fd = open(file, O_RDONLY);

    return fd < 0 ? 2 : refused(fchmod(fd, 04755));
}

/* Reading, and files and sockets of one's own. */
static int try_files(void)
{
    g_autofree char *new = g_strconcat(file, ".new", NULL);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct stat st;
    int fd = open(file, O_RDONLY), made = open(new, O_WRONLY | O_CREAT | O_EXCL, 0600);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0 || made < 0 || write(made, "x", 1) != 1 || unlink(new) < 0) {
        return 2;
    }
    g_strlcpy(un.sun_path, new, sizeof(un.sun_path));
    if (fchmod(s, 0600) < 0 || bind(s, (struct sockaddr *)&un, sizeof(un)) < 0 ||
        stat(new, &st) < 0 || unlink(new) < 0) {
        return 3;
    }
    return (st.st_mode & 0777) == 0600 ? 0 : 4;
}

static int try_fork(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        _exit(0);
    }
    return pid < 0 && errno == EPERM ? 0 : 1;
}

static int try_namespace(void)
{
    long rc = syscall(SYS_clone, CLONE_NEWUSER | CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL);

    if (rc == 0) {
        _exit(0);
    }
    return rc < 0 && errno == EPERM ? 0 : 1;
}

static int try_packets(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == EAFNOSUPPORT ? 0 : 1;
}

static gpointer work(gpointer data)
{
    return data;
}

/* What an engine lives on: threads, memory, files, sockets, names of hosts. */
static int try_work(void)
{
    g_autofree char *text = NULL;
    struct addrinfo *found = NULL;

    if (g_thread_join(g_thread_new("work", work, &text)) != &text) {
        return 2;
    }
    int fd = memfd_create("test", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 4096) < 0) {
        return 3;
    }
    if (!g_file_get_contents("/proc/self/status", &text, NULL, NULL)) {
        return 4;
    }
    if (getaddrinfo("localhost", "1", NULL, &found) != 0) {
        return 5;
    }
    freeaddrinfo(found);
    int sv[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0 ? 6 : 0;
}

static int try_spawn(void)
{
    char *argv[] = {"/bin/true", NULL};
    int status;
    pid_t pid;

    /* The child lives in the same filter, which has what a small program needs. */
    return posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) == 0 &&
                   waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : 1;
}

static int look_at_rights(void)
{
    struct rlimit core;

    if (prctl(PR_GET_DUMPABLE) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) {
        return 1;
    }
    if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0) {
        return 2;
    }
    static const int dropped[] = {CAP_SYS_ADMIN, CAP_SETUID, CAP_SYS_MODULE, CAP_NET_ADMIN};
    for (unsigned i = 0; i < G_N_ELEMENTS(dropped); i++) {
        if (prctl(PR_CAPBSET_READ, dropped[i], 0, 0, 0) != 0 && geteuid() == 0) {
            return 3;
        }
    }
    g_autofree char *text = NULL;
    g_file_get_contents("/proc/self/status", &text, NULL, NULL);
    const char *line = text ? strstr(text, "CapEff:\t") : NULL;
    guint64 caps = line ? g_ascii_strtoull(line + 8, NULL, 16) : ~0ull;
    return caps & (1ull << CAP_SYS_ADMIN | 1ull << CAP_SETUID) ? 4 : 0;
}

typedef struct {
    const char *name;
    FfSandbox kind;
    Deed deed;
    int status;
} Row;

static const Row rows[] = {
    {"engine/exec", FF_SANDBOX_ENGINE, try_exec, UNLISTED},
    {"engine/ptrace", FF_SANDBOX_ENGINE, try_ptrace, UNLISTED},
    {"engine/mount", FF_SANDBOX_ENGINE, try_mount, UNLISTED},
    {"engine/bpf", FF_SANDBOX_ENGINE, try_bpf, UNLISTED},
    {"engine/setuid", FF_SANDBOX_ENGINE, try_setuid, UNLISTED},
    {"engine/process-vm", FF_SANDBOX_ENGINE, try_write_memory, UNLISTED},
    {"engine/open-existing", FF_SANDBOX_ENGINE, try_open_existing, UNLISTED},
    {"engine/openat-existing", FF_SANDBOX_ENGINE, try_openat_existing, UNLISTED},
    {"engine/truncate", FF_SANDBOX_ENGINE, try_truncate, UNLISTED},
    {"engine/rename", FF_SANDBOX_ENGINE, try_rename, UNLISTED},
    {"engine/chmod", FF_SANDBOX_ENGINE, try_chmod, UNLISTED},
    {"engine/set-user-id", FF_SANDBOX_ENGINE, try_set_user_id, UNLISTED},
    {"engine/files", FF_SANDBOX_ENGINE, try_files, 0},
    {"relay/open-existing", FF_SANDBOX_RELAY, try_open_existing, UNLISTED},
    {"relay/openat-existing", FF_SANDBOX_RELAY, try_openat_existing, UNLISTED},
    {"relay/truncate", FF_SANDBOX_RELAY, try_truncate, UNLISTED},
    {"relay/rename", FF_SANDBOX_RELAY, try_rename, UNLISTED},
    {"relay/chmod", FF_SANDBOX_RELAY, try_chmod, UNLISTED},
    {"relay/set-user-id", FF_SANDBOX_RELAY, try_set_user_id, UNLISTED},
    {"relay/files", FF_SANDBOX_RELAY, try_files, 0},
    {"engine/fork", FF_SANDBOX_ENGINE, try_fork, 0},
    {"engine/namespace", FF_SANDBOX_ENGINE, try_namespace, 0},
    {"engine/packets", FF_SANDBOX_ENGINE, try_packets, 0},
    {"engine/works", FF_SANDBOX_ENGINE, try_work, 0},
    {"engine/rights", FF_SANDBOX_ENGINE, look_at_rights, 0},
    {"relay/ptrace", FF_SANDBOX_RELAY, try_ptrace, UNLISTED},
    {"relay/fork", FF_SANDBOX_RELAY, try_fork, 0},
    {"relay/namespace", FF_SANDBOX_RELAY, try_namespace, 0},
    {"relay/works", FF_SANDBOX_RELAY, try_work, 0},
    {"relay/spawn", FF_SANDBOX_RELAY, try_spawn, 0},
    {"relay/rights", FF_SANDBOX_RELAY, look_at_rights, 0},
};

static void test_row(gconstpointer data)
{
    const Row *row = data;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        g_autoptr(GError) error = NULL;
        if (!ff_sandbox_enter(row->kind, &error)) {
            fprintf(stderr, "%s\n", error->message);
            _exit(99);
        }
        _exit(row->deed());
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, row->status);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    printf("1..0 # SKIP no filter under a sanitizer\n");
    return 0;
#endif
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/sandbox/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    int fd = g_mkstemp(file);
    g_assert_cmpint(fd, >=, 0);
    int rc = g_test_run();
    close(fd);
    unlink(file);
    return rc;
}
