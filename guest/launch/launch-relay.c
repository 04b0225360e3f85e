/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts the relay of a guest that is about to become one.
 *
 * The relay must not be QEMU's child: QEMU, and the process that started it, would have a process
 * to reap that they do not know. So it is forked twice, in a session of its own (a terminal's
 * Ctrl-C is meant for QEMU), and the one in between is reaped here. It is told everything by a JSON
 * text in a memfd. It becomes the user of -runas before its exec: QEMU's own change comes late, and
 * a relay that stayed root would be more than the guest it serves.
 *
 * Threads: the launcher's only thread. Between fork() and exec only the child runs in its copy.
 * System calls: fork, setsid, pipe2, waitpid, prctl(PR_SET_PTRACER), setgid, setgroups, setuid,
 * flock, setitimer, getsockname.
 */
#include "guest/launch/launch-relay.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <grp.h>
#include <json-glib/json-glib.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract/succession.h"
#include "guest/launch/inherit-argv.h"
#include "guest/launch/paths.h"

static void G_GNUC_PRINTF(3, 4) fail_start(GError **error, int err, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s%s%s", text, err ? ": " : "",
                err ? g_strerror(err) : "");
}

bool ff_runas_parse(const char *text, FfRunas *runas, GError **error)
{
    const struct passwd *pw = getpwnam(text);
    if (pw) {
        *runas = (FfRunas){.uid = pw->pw_uid, .gid = pw->pw_gid, .user = text};
        return true;
    }
    g_auto(GStrv) parts = g_strsplit(text, ":", 2);
    guint64 uid, gid;
    if (g_strv_length(parts) == 2 &&
        g_ascii_string_to_unsigned(parts[0], 10, 0, (uid_t)-2, &uid, NULL) &&
        g_ascii_string_to_unsigned(parts[1], 10, 0, (gid_t)-2, &gid, NULL)) {
        *runas = (FfRunas){.uid = uid, .gid = gid};
        return true;
    }
    fail_start(error, 0, "-runas %s: there is no such user (a name, or UID:GID, is needed)", text);
    return false;
}

/* The fds that the relay inherits: each one is noted where it is written into the JSON. */
typedef struct {
    JsonBuilder *json;
    GArray *fds; /* int */
} Builder;

static void add_fd(Builder *b, const char *name, int fd)
{
    json_builder_set_member_name(b->json, name);
    json_builder_add_int_value(b->json, fd);
    if (fd >= 0) {
        g_array_append_val(b->fds, fd);
    }
}

static void add_int(Builder *b, const char *name, gint64 value)
{
    json_builder_set_member_name(b->json, name);
    json_builder_add_int_value(b->json, value);
}

static void add_bool(Builder *b, const char *name, bool value)
{
    json_builder_set_member_name(b->json, name);
    json_builder_add_boolean_value(b->json, value);
}

/* VALUE can be NULL */
static void add_string(Builder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b->json, name);
    if (value) {
        json_builder_add_string_value(b->json, value);
    } else {
        json_builder_add_null_value(b->json);
    }
}

/* A client that is connected now and re-connects later is "connected" with "reconnect". */
static const char *kind_of(const FfPlanMonitor *mon, const FfEndpoint *ep)
{
    switch (mon->kind) {
    case FF_CLIENT_LISTEN_UNIX:
    case FF_CLIENT_LISTEN_TCP:
    case FF_CLIENT_LISTEN_FD:
        return "listen";
    case FF_CLIENT_CONNECTED_FD:
        return "connected";
    case FF_CLIENT_CONNECT_UNIX:
        return ep->fd >= 0 ? "connected" : "connect-unix";
    case FF_CLIENT_CONNECT_TCP:
        return ep->fd >= 0 ? "connected" : "connect-tcp";
    case FF_CLIENT_STDIO:
        return "stdio";
    case FF_CLIENT_SPARE:
        return FF_PLAN_SPARE;
    case FF_CLIENT_DOOR:
        return FF_PLAN_DOOR;
    }
    g_assert_not_reached();
}

/* Where a listening socket is to be made again. */
static void add_address(Builder *b, const FfPlanMonitor *mon, const FfEndpoint *ep)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    if (strcmp(kind_of(mon, ep), "listen") == 0 &&
        getsockname(ep->fd, (struct sockaddr *)&address, &len) == 0) {
        g_autofree char *text = g_base64_encode((const guchar *)&address, len);
        add_string(b, FF_PLAN_ADDRESS, text);
    }
}

/* KNOWN: of a back-end; can be NULL. */
static void add_monitor(Builder *b, const FfPlanMonitor *mon, const FfEndpoint *ep,
                        const FfPrivateSocket *private, JsonObject *known)
{
    json_builder_begin_object(b->json);
    add_string(b, "id", mon->chardev_id);
    add_fd(b, "qemu", private->path_fd);
    add_string(b, "kind", kind_of(mon, ep));
    if (mon->kind == FF_CLIENT_SPARE) {
        add_int(b, "in-qemu", private->listen_fd);
    } else if (mon->kind == FF_CLIENT_STDIO) {
        add_fd(b, "in", ep->in);
        add_fd(b, "out", ep->out);
    } else if (ep->fd >= 0) {
        add_fd(b, "fd", ep->fd);
    }
    if (mon->kind == FF_CLIENT_CONNECT_UNIX) {
        g_autofree char *path =
            mon->abstract ? g_strdup(mon->path) : g_canonicalize_filename(mon->path, NULL);
        add_string(b, "path", path);
        add_bool(b, "abstract", mon->abstract);
    } else if (mon->kind == FF_CLIENT_CONNECT_TCP) {
        add_string(b, "host", mon->host);
        add_string(b, "port", mon->port);
    }
    add_int(b, "reconnect", mon->reconnect);
    add_address(b, mon, ep);
    add_string(b, "unlink", ep->unlink_path);
    add_bool(b, "backend", mon->backend);
    add_bool(b, "network", mon->network);
    add_bool(b, "followed", mon->followed);
    if (known) {
        JsonNode *node = json_node_new(JSON_NODE_OBJECT);

        json_node_set_object(node, known);
        json_builder_set_member_name(b->json, "known");
        json_builder_add_value(b->json, node);
    }
    json_builder_end_object(b->json);
}

static void add_monitors(Builder *b, const FfRelayStart *start)
{
    json_builder_set_member_name(b->json, "monitors");
    json_builder_begin_array(b->json);
    for (guint i = 0; i < start->plan->monitors->len; i++) {
        add_monitor(b, start->plan->monitors->pdata[i], &start->endpoints[i], &start->monitors[i],
                    start->known ? start->known[i] : NULL);
    }
    json_builder_end_array(b->json);
}

static void add_ram(Builder *b, const FfRelayStart *start)
{
    json_builder_set_member_name(b->json, "ram");
    json_builder_begin_array(b->json);
    for (guint i = 0; i < start->plan->ram->len; i++) {
        const FfPlanRam *ram = start->plan->ram->pdata[i];
        json_builder_begin_object(b->json);
        add_string(b, "id", ram->id);
        add_int(b, "size", ram->size);
        add_int(b, "page-size", ram->page_size);
        add_fd(b, "fd", start->ram_fds[i]);
        json_builder_end_object(b->json);
    }
    json_builder_end_array(b->json);
}

/* For the QEMU that takes over from this one. */
static void add_command_line(Builder *b, char *const *argv)
{
    json_builder_set_member_name(b->json, "command-line");
    json_builder_begin_array(b->json);
    for (; argv && *argv; argv++) {
        json_builder_add_string_value(b->json, *argv);
    }
    json_builder_end_array(b->json);
}

/* Files of QEMU's that get other names when the guest is its own. */
static void add_names(Builder *b, const FfRelayStart *start)
{
    json_builder_set_member_name(b->json, "names");
    json_builder_begin_array(b->json);
    for (guint i = 0; start->names && i < start->names->len; i++) {
        const FfInheritedName *name = start->names->pdata[i];

        json_builder_begin_object(b->json);
        add_string(b, "now", name->now);
        add_string(b, "then", name->then);
        json_builder_end_object(b->json);
    }
    json_builder_end_array(b->json);
}

/* Copies of what QEMU closes, or that nobody could open again. */
static void add_given(Builder *b, const GArray *given)
{
    json_builder_set_member_name(b->json, "given");
    json_builder_begin_array(b->json);
    for (guint i = 0; given && i < given->len; i++) {
        json_builder_begin_object(b->json);
        add_int(b, "number", g_array_index(given, FfGivenFd, i).number);
        add_fd(b, "fd", g_array_index(given, FfGivenFd, i).fd);
        json_builder_end_object(b->json);
    }
    json_builder_end_array(b->json);
}

static void add_kept(Builder *b, const FfRelayStart *start)
{
    struct stat st;

    add_int(b, FF_PLAN_KEPT, start->kept);
    add_int(b, FF_PLAN_KEPT_STATE, start->kept >= 0 ? -1 : start->kept_state);
    if (start->state_fd >= 0 && fstat(start->state_fd, &st) == 0) {
        g_autofree char *file = g_strdup_printf("%02x:%02x:%llu", major(st.st_dev),
                                                minor(st.st_dev), (unsigned long long)st.st_ino);
        add_string(b, FF_PLAN_STATE_FILE, file);
    }
}

/* Returns the JSON text; FDS gets what the relay must inherit. */
static char *describe_plan(const FfRelayStart *start, int ready_fd, int stderr_fd, GArray *fds)
{
    const FfPlan *plan = start->plan;
    g_autofree char *engine = ff_find_helper("farfault-engine");
    const char *refused = plan->engine_refused;
    if (!engine && !refused) {
        refused = "farfault-engine was not found beside farfault: install farfault again";
    }

    g_autoptr(JsonBuilder) json = json_builder_new();
    Builder b = {.json = json, .fds = fds};
    json_builder_begin_object(json);
    add_int(&b, "qemu-pid", getpid());
    add_fd(&b, "agent-fd", start->agent_fd);
    add_fd(&b, "state-fd", start->state_fd);
    add_fd(&b, "taps-fd", start->taps_fd);
    add_fd(&b, "other-fd", start->other_fd);
    add_fd(&b, "other-door", start->other_door);
    add_fd(&b, "front-fd", start->front_fd);
    add_fd(&b, "front-door", start->front_door);
    add_bool(&b, "other-stays", start->other_stays);
    add_kept(&b, start);
    add_fd(&b, "ready-fd", ready_fd);
    add_fd(&b, "stderr-fd", stderr_fd);
    add_string(&b, "engine", engine ?: "/nonexistent/farfault-engine");
    add_string(&b, "policy", start->policy);
    add_string(&b, "untracked", start->untracked);
    add_string(&b, "restore", start->restore);
    add_string(&b, "userfault-fix", start->userfault_fix);
    add_string(&b, "name", plan->name);
    add_bool(&b, "daemonize", plan->daemonize);
    add_bool(&b, "start-paused", plan->start_paused);
    add_string(&b, "incoming", plan->incoming);
    add_bool(&b, "incoming-taken", plan->incoming_taken);
    add_string(&b, "engine-refused", refused);
    add_string(&b, "runas", NULL); /* become_relay() has made it that user */
    add_fd(&b, "qemu-monitor", start->qemu_monitor->path_fd);
    add_monitors(&b, start);
    add_ram(&b, start);
    add_command_line(&b, start->command_line);
    add_bool(&b, "borrowed", start->borrowed);
    add_names(&b, start);
    add_given(&b, start->given);
    json_builder_end_object(json);

    g_autoptr(JsonNode) root = json_builder_get_root(json);
    return json_to_string(root, false);
}

/* Puts TEXT into a sealed memfd. Returns the fd or -errno. */
static int text_memfd(const char *text)
{
    int fd = ff_fd_high(memfd_create("farfault-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    size_t len = strlen(text);
    while (fd >= 0 && len) {
        ssize_t n = write(fd, text, len);
        if (n < 0) {
            int err = -errno;
            close(fd);
            return err;
        }
        text += n;
        len -= n;
    }
    if (fd >= 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0) {
        return fd;
    }
    return -errno;
}

int ff_runas_become(const FfRunas *runas)
{
    if (runas->uid == (uid_t)-1) {
        return 0;
    }
    if (setgid(runas->gid) < 0) {
        return -1;
    }
    int rc = runas->user ? initgroups(runas->user, runas->gid) : setgroups(0, NULL);
    return rc < 0 || setuid(runas->uid) < 0 ? -1 : 0;
}

char *ff_runas_text(const FfRunas *runas)
{
    int n = 0;

    if (runas->uid == (uid_t)-1) {
        return NULL;
    }
    if (runas->user) {
        getgrouplist(runas->user, runas->gid, NULL, &n);
    }
    g_autofree gid_t *groups = g_new0(gid_t, n);
    GString *text = g_string_new(NULL);

    g_string_printf(text, "%u %u", runas->uid, runas->gid);
    if (n > 0 && getgrouplist(runas->user, runas->gid, groups, &n) >= 0) {
        for (int i = 0; i < n; i++) {
            g_string_append_printf(text, " %u", groups[i]);
        }
    }
    return g_string_free(text, FALSE);
}

/* Secrets pass through relay and engine in the texts of commands, in more copies than can be wiped
 * one by one: their allocator overwrites what is freed (glibc; its per-thread cache of small pieces
 * would not). g_strfreev. */
static char **relay_environment(void)
{
    char **environment = g_get_environ();
    const char *own = g_environ_getenv(environment, "GLIBC_TUNABLES");
    g_autofree char *tunables =
        g_strconcat(own ? own : "", own ? ":" : "",
                    "glibc.malloc.perturb=85:glibc.malloc.tcache_count=0", NULL);

    return g_environ_setenv(environment, "GLIBC_TUNABLES", tunables, TRUE);
}

/* What is to be executed. */
typedef struct {
    const FfRelayProgram *program;
    const char *path;
    char **argv, **environment;
} Exec;

/* In the grandchild. stderr stays for a relay that cannot start, unless QEMU will be a daemon:
 * a process that waits for the end of its stderr must get it. */
static void G_GNUC_NORETURN become_relay(const Exec *e)
{
    const GArray *fds = e->program->fds;
    const FfRunas *as = e->program->as;
    int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    if (e->program->mute) {
        dup2(null, STDERR_FILENO);
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
    for (guint i = 0; i < fds->len; i++) {
        fcntl(g_array_index(fds, int, i), F_SETFD, 0);
    }
    if (!e->program->itself && ff_runas_become(as) < 0) {
        dprintf(STDERR_FILENO, "farfault: cannot become user %u: %s\n", as->uid, strerror(errno));
        _exit(1);
    }
    execve(e->path, e->argv, e->environment);
    dprintf(STDERR_FILENO, "farfault: cannot run %s: %s\n", e->path, strerror(errno));
    _exit(1);
}

/* In the child: forks the relay, tells its PID to the launcher, ends. */
static void G_GNUC_NORETURN detach_relay(const Exec *e, int pid_fd)
{
    setsid();
    pid_t pid = fork();
    if (pid == 0) {
        become_relay(e);
    }
    _exit(pid > 0 && write(pid_fd, &pid, sizeof(pid)) == sizeof(pid) ? 0 : 1);
}

/* Returns the PID of the relay, or -errno. */
static pid_t spawn_relay(const FfRelayProgram *program, const char *path, int plan_fd)
{
    g_autofree char *number = g_strdup_printf("%d", plan_fd);
    /* Of no use to the relay: ps shows whose it is. */
    char *argv[] = {(char *)"farfault-relay", number, (char *)program->guest, NULL};
    g_auto(GStrv) environment = relay_environment();
    if (program->itself) {
        environment = g_environ_setenv(environment, FF_RELAY_USER, program->itself, TRUE);
    }
    const Exec e = {program, path, argv, environment};
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return -errno;
    }
    pid_t relay = -1;
    pid_t child = fork();
    if (child == 0) {
        detach_relay(&e, pipe_fds[1]);
    }
    if (child < 0) {
        relay = -errno;
    }
    close(pipe_fds[1]);
    if (child > 0) {
        if (read(pipe_fds[0], &relay, sizeof(relay)) != sizeof(relay)) {
            relay = -EAGAIN;
        }
        /* ECHILD is fine: the caller may have left SIGCHLD ignored */
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    close(pipe_fds[0]);
    return relay;
}

/* Waits for the byte that the relay writes when it stands. */
static bool wait_ready(int fd)
{
    char byte;
    ssize_t n;
    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    return n == 1;
}

int ff_relay_ready(int *ready_fd, GError **error)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        fail_start(error, errno, "cannot make a pipe");
        return -1;
    }
    *ready_fd = ff_fd_high(ready[1]);
    return ready[0];
}

pid_t ff_relay_spawn(const FfRelayProgram *program, int ready, int ready_fd, int *plan_fd,
                     GError **error)
{
    g_autofree char *path = ff_find_helper("farfault-relay");
    int fd = path ? text_memfd(program->text) : -1;
    pid_t relay = fd;
    if (fd >= 0) {
        g_array_append_val(program->fds, fd);
        relay = spawn_relay(program, path, fd);
    }
    close(ready_fd);
    if (program->its_own >= 0) {
        close(program->its_own);
    }
    bool stands = relay > 0 && wait_ready(ready);
    close(ready);
    if (!path) {
        fail_start(error, 0,
                   "farfault-relay was not found beside farfault: install farfault again");
    } else if (relay < 0) {
        fail_start(error, -relay, "cannot start %s", path);
    } else if (!stands) {
        fail_start(error, 0, "%s ended before it was ready, %s", path, program->otherwise);
    }
    if (stands && plan_fd) {
        *plan_fd = fd;
    } else if (fd >= 0) {
        close(fd);
    }
    return stands ? relay : 0;
}

bool ff_relay_start(const FfRelayStart *start, int *plan_fd, GError **error)
{
    int ready_fd, ready = ff_relay_ready(&ready_fd, error);
    if (ready < 0) {
        return false;
    }
    int stderr_fd = start->plan->daemonize ? -1 : ff_fd_high(dup(STDERR_FILENO));
    g_autoptr(GArray) fds = g_array_new(false, false, sizeof(int));
    g_autofree char *text = describe_plan(start, ready_fd, stderr_fd, fds);
    const FfRelayProgram program = {text,
                                    fds,
                                    &start->runas,
                                    start->plan->daemonize,
                                    "the guest was not started",
                                    start->plan->name,
                                    NULL,
                                    -1};
    pid_t relay = ff_relay_spawn(&program, ready, ready_fd, plan_fd, error);
    if (stderr_fd >= 0) {
        close(stderr_fd);
    }
    if (!relay) {
        return false;
    }
    /* Where Yama limits ptrace, the engine (the relay's child) may look at QEMU; the
     * kernel keeps this over exec. Without Yama: EINVAL. */
    prctl(PR_SET_PTRACER, (unsigned long)relay, 0, 0, 0);
    return true;
}

/* ---- the lock -------------------------------------------------------------------------------- */

static void on_alarm(int signal)
{
}

/* An open file description of its own is what the lock belongs to: QEMU's copy of FD is none. */
int ff_relay_lock(int fd, unsigned ms)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    const struct sigaction action = {.sa_handler = on_alarm};   /* no SA_RESTART */
    const struct itimerval limit = {.it_interval = {0, 100000}, /* the first may come too early */
                                    .it_value = {ms / 1000, ms % 1000 * 1000}};
    const struct itimerval off = {0};
    struct sigaction before;
    int own = ff_fd_high(open(path, O_RDWR | O_CLOEXEC));
    if (own < 0) {
        return -errno;
    }
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &limit, NULL); /* 0: off */
    int ret = flock(own, ms ? LOCK_EX : LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
    if (ret < 0) {
        close(own);
        return ret == -EINTR ? -EWOULDBLOCK : ret;
    }
    return own;
}
