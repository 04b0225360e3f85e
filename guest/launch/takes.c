/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks a QEMU whether it takes what the launcher adds to its command line: starts it once with all
 * of that, without a machine, and says "quit" at the monitor that was added. A version to come may
 * refuse some of it; then a guest is to start without farfault, and the launcher, which becomes
 * QEMU, cannot find that out by exec.
 *
 * "Yes" is remembered in the keyring of the user (user-keyring(7)), as a key whose name is the
 * identity of QEMU, the launcher and the agent: of their files, so that a new version of one of
 * them is asked anew. The keyring needs no folder, no $HOME and no file system that can be written
 * to, is no other user's, and is empty again after a boot. Where there is none (the filter of a
 * container), and of a script, whose file does not tell which QEMU it starts, each start asks. "No"
 * is asked anew each time, for QEMU's own line.
 *
 * Threads: none but the caller's.
 * System calls: add_key, keyctl, memfd_create, socket, bind, listen, connect, stat, pread.
 */
#include "guest/launch/takes.h"

#include <errno.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/launch/argv-ask.h"
#include "guest/launch/paths.h"

/* Numbers of fds in QEMU (argv-ask.h): sockets of two monitors, the file of its memory. */
enum { PRIVATE, INLINE, RAM, N_FDS };

/* As the launcher writes it (argv-memory.c, argv-monitor.c, argv.c). */
static const char *const additions[] = {
    /* the least, as libvirt asks a QEMU */
    "-S",
    "-no-user-config",
    "-nodefaults",
    "-display",
    "none",
    "-machine",
    "none",
    "-qmp",
    "unix:fd=4,server=on,wait=off",
    "-incoming",
    "defer",
    "-object",
    ("memory-backend-file,id=farfault-ram,size=2097152,mem-path=/proc/self/fd/5,share=on,"
     "x-use-canonical-path-for-ramblock-id=off,align=2097152"),
    "-machine",
    "memory-backend=farfault-ram",
    "-monitor",
    "vc:80Cx24C",
    "-serial",
    "mon:stdio",
    "-chardev",
    "socket,id=farfault-private,fd=3,server=on,wait=off",
    "-qmp",
    "chardev:farfault-private",
};

static const char questions[] = "{\"execute\": \"qmp_capabilities\"}\n"
                                "{\"execute\": \"quit\"}\n";

/* ---- what is remembered ---------------------------------------------------------------------- */

static bool add_identity(GString *name, const char *path)
{
    struct stat st;

    if (!path || stat(path, &st) < 0) {
        return false;
    }
    g_string_append_printf(name, ":%llx.%llx.%llx.%llx.%lx.%llx.%lx", (long long)st.st_dev,
                           (long long)st.st_ino, (long long)st.st_size,
                           (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                           (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
    return true;
}

/* The key's name (g_free); NULL: nothing is to be remembered. */
static char *key_name(const char *qemu, const char *agent)
{
    g_autoptr(GString) name = g_string_new("farfault:takes");

    return ff_is_elf(qemu) && add_identity(name, qemu) && add_identity(name, "/proc/self/exe") &&
                   (!agent || add_identity(name, agent))
               ? g_string_free(g_steal_pointer(&name), FALSE)
               : NULL;
}

static bool is_remembered(const char *name)
{
    return syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", name, 0) >= 0;
}

/* It is no harm if that fails. */
static void remember_key(const char *name)
{
    syscall(SYS_add_key, "user", name, "y", 1, KEY_SPEC_USER_KEYRING);
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* A socket that listens, with an address that the kernel makes up; or -1. */
static int new_listener(struct sockaddr_un *addr, socklen_t *len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    *len = sizeof(*addr);
    if (fd >= 0 && (bind(fd, (struct sockaddr *)addr, sizeof(sa_family_t)) < 0 ||
                    listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)addr, len) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The client of the private monitor, which has asked already; or -1. */
static int new_client(const struct sockaddr_un *addr, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && (connect(fd, (const struct sockaddr *)addr, len) < 0 ||
                    write(fd, questions, strlen(questions)) != (ssize_t)strlen(questions))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* What QEMU has said last on its stderr, ERR: one line (g_free). */
static char *last_line(int err)
{
    char buf[4096];
    ssize_t size = lseek(err, 0, SEEK_END);
    off_t from = MAX(0, size - (ssize_t)sizeof(buf));
    ssize_t n = pread(err, buf, sizeof(buf), from);
    g_autofree char *text = g_strchomp(g_strndup(buf, MAX(0, n)));
    const char *line = strrchr(text, '\n');
    g_autofree char *valid = g_utf8_make_valid(line ? line + 1 : text, -1);

    return g_strdelimit(g_steal_pointer(&valid), "\r", ' ');
}

static FfTakes judge_answer(const char *answer, int status, int err, char **why)
{
    if (!answer) {
        *why = g_strdup("it could not be asked");
        return FF_TAKES_UNKNOWN;
    }
    if (WIFSIGNALED(status)) {
        *why = g_strdup_printf("it was ended by signal %d", WTERMSIG(status));
        return WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGTERM ? FF_TAKES_UNKNOWN
                                                                          : FF_TAKES_NOT;
    }
    if (WEXITSTATUS(status) == 0) {
        bool is_qemu = strstr(answer, "\"return\"");

        *why = is_qemu ? NULL : g_strdup("it does not answer as QEMU does");
        return is_qemu ? FF_TAKES_ALL : FF_TAKES_UNKNOWN;
    }
    *why = last_line(err);
    if (!**why) {
        g_free(*why);
        *why = g_strdup_printf("its exit status is %d", WEXITSTATUS(status));
    }
    return FF_TAKES_NOT;
}

static char **new_argv(const char *qemu)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();

    g_strv_builder_add(b, qemu);
    for (size_t i = 0; i < G_N_ELEMENTS(additions); i++) {
        g_strv_builder_add(b, additions[i]);
    }
    return g_strv_builder_end(b);
}

static char **new_environment(const char *agent)
{
    char **envp = g_get_environ();

    if (agent && !strpbrk(agent, FF_PRELOAD_SPLITS)) {
        g_autofree char *preload = ff_preload(agent);

        envp = g_environ_setenv(envp, "LD_PRELOAD", preload, TRUE);
    }
    return envp;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static FfTakes ask_qemu(const char *qemu, const char *agent, char **why)
{
    struct sockaddr_un addr, unused;
    socklen_t len, unused_len;
    int fds[N_FDS] = {
        [PRIVATE] = new_listener(&addr, &len),
        [INLINE] = new_listener(&unused, &unused_len),
        [RAM] = memfd_create("farfault-takes", MFD_CLOEXEC),
    };
    int err = memfd_create("farfault-takes-stderr", MFD_CLOEXEC);
    int client = fds[PRIVATE] >= 0 ? new_client(&addr, len) : -1, status = 0;
    g_auto(GStrv) argv = new_argv(qemu), envp = new_environment(agent);
    g_autofree char *answer = NULL;

    if (client >= 0 && fds[INLINE] >= 0 && fds[RAM] >= 0 && err >= 0) {
        const FfAskStart start = {argv, envp, -1, err, fds, N_FDS};

        answer = ff_ask(&start, client, &status);
    } else {
        for (int i = 0; i < N_FDS; i++) {
            close_fd(fds[i]);
        }
    }
    FfTakes takes = judge_answer(answer, status, err, why);
    close_fd(client);
    close_fd(err);
    return takes;
}

FfTakes ff_takes(const char *qemu, bool anew, char **why)
{
    g_autofree char *agent = ff_find_helper("farfault-agent.so");
    g_autofree char *name = anew ? NULL : key_name(qemu, agent);

    *why = NULL;
    if (name && is_remembered(name)) {
        return FF_TAKES_ALL;
    }
    FfTakes takes = ask_qemu(qemu, agent, why);
    if (name && takes == FF_TAKES_ALL) {
        remember_key(name);
    }
    return takes;
}
