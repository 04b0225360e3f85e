/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rig of the relay's tests (relay-rig.h). One thread. */
#include "tests/qtest/relay-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rights.h"
#include "guest/agent/agent.h"
#include "tests/lib/vm.h"

/* Monitors of QEMU: those behind the relay, its private one, and the direct one. */
#define RIG_LISTENERS (RIG_MONITORS + 2)

static char *rig_path(const Rig *rig, const char *name)
{
    return g_build_filename(rig->dir, name, NULL);
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    g_assert_cmpuint(g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)), <,
                     sizeof(addr.sun_path));
    return addr;
}

/* FLAGS: SOCK_NONBLOCK as the launcher for what QEMU gets, or 0. */
static int listener(const Rig *rig, const char *name, int flags)
{
    g_autofree char *path = rig_path(rig, name);
    struct sockaddr_un addr = address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    return fd;
}

static int dial(const Rig *rig, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    struct sockaddr_un addr = address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

/* As the launcher: opened by path, then without a name. */
static int path_only(const Rig *rig, const char *name)
{
    g_autofree char *path = rig_path(rig, name);
    int fd = open(path, O_PATH);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    return fd;
}

static pid_t start(Rig *rig, char *const *argv)
{
    pid_t test = getpid(), pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != test) {
            _exit(127); /* it has died before */
        }
        dup2(rig->log, 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static void append_kind(GString *s, const Rig *rig, RigKind kind, int fd)
{
    if (kind == RIG_CONNECTED) {
        g_string_append_printf(s, "\"kind\": \"connected\", \"fd\": %d}", fd);
    } else if (kind == RIG_STDIO) {
        g_string_append_printf(s, "\"kind\": \"stdio\", \"in\": %d, \"out\": %d}", fd, dup(fd));
    } else {
        g_string_append_printf(
            s, "\"kind\": \"connect-unix\", \"path\": \"%s/peer\", \"reconnect\": 1}", rig->dir);
    }
}

static char *plan_text(const Rig *rig, const RigConfig *config, const int *fds, int ready)
{
    g_autofree char *engine =
        config->engine ? g_strdup(config->engine) : vm_build_path("tests/qtest/relay-engine");
    GString *s = g_string_new(NULL);

    g_string_append_printf(
        s,
        "{\"qemu-pid\": %d, \"state-fd\": %d, \"agent-fd\": %d, \"ready-fd\": %d, \"stderr-fd\": "
        "%d, "
        "\"engine\": \"%s\", \"policy\": \"auto\", \"name\": \"rig\", \"daemonize\": %s, "
        "\"start-paused\": false, \"incoming\": %s%s%s, \"incoming-taken\": %s, "
        "\"engine-refused\": null, \"runas\": null, \"qemu-monitor\": %d, \"ram\": "
        "[{\"id\": \"pc.ram\", \"size\": 4096, \"page-size\": 4096, \"fd\": %d}], \"monitors\": [",
        rig->qemu, rig->state_fd, fds[0], ready, rig->log, engine,
        config->daemonize ? "true" : "false", config->incoming ? "\"" : "",
        config->incoming ? config->incoming : "null", config->incoming ? "\"" : "",
        config->incoming ? "true" : "false", fds[1], fds[2]);
    for (int i = 0; i < RIG_MONITORS; i++) {
        if (i == 0 && config->kind != RIG_LISTEN) {
            g_string_append_printf(s, "{\"id\": \"m0\", \"qemu\": %d, ", fds[3]);
            append_kind(s, rig, config->kind, fds[3 + RIG_MONITORS]);
            continue;
        }
        g_string_append_printf(s,
                               "%s{\"id\": \"m%d\", \"qemu\": %d, \"kind\": \"listen\", \"fd\": %d,"
                               " \"unlink\": \"%s/client%d\"}",
                               i ? ", " : "", i, fds[3 + i], fds[3 + RIG_MONITORS + i], rig->dir,
                               i);
    }
    g_string_append(s, "]}");
    return g_string_free(s, FALSE);
}

static void start_qemu(Rig *rig, const RigConfig *config, const int *private)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);

    for (const char *const *arg = (const char *const[]){"qemu-system-x86_64", "-machine", "none",
                                                        "-nodefaults", "-display", "none", NULL};
         *arg; arg++) {
        g_ptr_array_add(argv, g_strdup(*arg));
    }
    for (int i = 0; i < RIG_LISTENERS; i++) {
        g_ptr_array_add(argv, g_strdup("-chardev"));
        g_ptr_array_add(argv,
                        g_strdup_printf("socket,id=m%d,fd=%d,server=on,wait=off", i, private[i]));
        g_ptr_array_add(argv, g_strdup("-mon"));
        g_ptr_array_add(argv, g_strdup_printf("m%d,mode=control", i));
    }
    if (config->incoming) {
        g_ptr_array_add(argv, g_strdup("-incoming"));
        g_ptr_array_add(argv, g_strdup("defer"));
    }
    g_ptr_array_add(argv, NULL);
    rig->qemu = start(rig, (char **)argv->pdata);
    g_ptr_array_unref(argv);
}

static void start_relay(Rig *rig, const RigConfig *config, const int *fds)
{
    g_autofree char *path = vm_build_path("guest/relay/farfault-relay");
    g_autofree char *number = NULL, *text = NULL;
    int ready[2], plan = memfd_create("plan", 0);
    char byte;

    g_assert_cmpint(pipe(ready), ==, 0);
    fcntl(ready[0], F_SETFD, FD_CLOEXEC);
    text = plan_text(rig, config, fds, ready[1]);
    g_assert_cmpint(write(plan, text, strlen(text)), ==, strlen(text));
    number = g_strdup_printf("%d", plan);
    rig->relay = start(rig, (char *[]){path, number, NULL});
    close(plan);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        g_autofree char *log = rig_log(rig);

        test_fail("the relay does not start: %s", log);
    }
    close(ready[0]);
}

/* Returns the relay's end. */
static int peer(Rig *rig, RigKind kind)
{
    int sv[2];

    if (kind == RIG_CONNECT) {
        rig->peer = listener(rig, "peer", 0);
        fcntl(rig->peer, F_SETFD, FD_CLOEXEC);
        return open("/dev/null", O_RDONLY);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), ==, 0);
    fcntl(sv[1], F_SETFD, FD_CLOEXEC);
    rig->peer = sv[1];
    return sv[0];
}

bool rig_has_faults(void)
{
#ifdef FF_FAULTS
    return true;
#else
    return false;
#endif
}

bool rig_fault_happened(Rig *rig, unsigned i)
{
    g_autofree char *path = g_strdup_printf("%s/fault-%u", rig->dir, i);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void set_relay_env(const Rig *rig, const RigConfig *config)
{
    g_unsetenv("FARFAULT_FAULTS");
    g_unsetenv("FARFAULT_DEADLINES");
    if (config->faults) {
        g_autofree char *faults = g_strdup_printf("%s;%s", rig->dir, config->faults);

        g_setenv("FARFAULT_FAULTS", faults, TRUE);
    }
    if (config->deadlines) {
        g_setenv("FARFAULT_DEADLINES", config->deadlines, TRUE);
    }
}

/* As guest/agent/hook.c does. */
static void make_hook(Rig *rig, bool old_agent)
{
    const uint32_t begin[] = {FF_DISCARDS_MAGIC, FF_DISCARDS_VERSION};

    rig->hook = old_agent ? -1 : memfd_create(FF_DISCARDS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (rig->hook >= 0) {
        g_assert_cmpint(ftruncate(rig->hook, sizeof(FfDiscardsPage)), ==, 0);
        g_assert_cmpint(pwrite(rig->hook, begin, sizeof(begin), 0), ==, sizeof(begin));
        g_assert_cmpint(fcntl(rig->hook, F_ADD_SEALS, FF_DISCARDS_SEALS), ==, 0);
        g_assert_cmpint(ff_discards_map(rig->hook, &rig->discards), ==, 0);
    }
}

Rig *rig_new(const RigConfig *config)
{
    static const RigConfig plain = {0};
    static const char *const names[RIG_LISTENERS] = {"m0", "m1", "private", "direct"};
    Rig *rig = g_new0(Rig, 1);
    int private[RIG_LISTENERS], fds[3 + 2 * RIG_MONITORS], agent[2];
    g_autofree char *engine_path = NULL;

    config = config ? config : &plain;
    rig->dir = g_dir_make_tmp("ff-relay-XXXXXX", NULL);
    rig->engine = rig->peer = -1;
    rig->state_fd = config->keeps_state ? ff_state_create(FF_POLICY_AUTO) : -1;
    if (rig->state_fd >= 0) {
        fcntl(rig->state_fd, F_SETFD, 0);
    }
    rig->log = memfd_create("log", 0);
    fcntl(rig->log, F_SETFL, O_APPEND);
    g_queue_init(&rig->frames);
    rig->engine_listener = listener(rig, "engine", 0);
    fcntl(rig->engine_listener, F_SETFD, FD_CLOEXEC);
    engine_path = rig_path(rig, "engine");
    g_setenv("FF_TEST_ENGINE", engine_path, TRUE);
    set_relay_env(rig, config);
    for (int i = 0; i < RIG_LISTENERS; i++) {
        private[i] = listener(rig, names[i], SOCK_NONBLOCK);
    }
    start_qemu(rig, config, private);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, agent), ==, 0);
    fcntl(agent[1], F_SETFD, FD_CLOEXEC);
    rig->agent = agent[1];
    fds[0] = agent[0];
    fds[1] = path_only(rig, "private");
    fds[2] = memfd_create("ram", 0);
    for (int i = 0; i < RIG_MONITORS; i++) {
        g_autofree char *name = g_strdup_printf("client%d", i);

        fds[3 + i] = path_only(rig, names[i]);
        fds[3 + RIG_MONITORS + i] =
            i == 0 && config->kind != RIG_LISTEN ? peer(rig, config->kind) : listener(rig, name, 0);
    }
    rig->protect = config->protect;
    rig->maps = config->maps;
    make_hook(rig, config->old_agent);
    if (!config->quiet_agent) {
        rig_send_hello(rig, config->uffd_errno, rig->qemu);
    }
    start_relay(rig, config, fds);
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        close(fds[i]);
    }
    for (int i = 0; i < RIG_LISTENERS; i++) {
        close(private[i]);
    }
    return rig;
}

void rig_send_hello(Rig *rig, int uffd_errno, pid_t pid)
{
    bool old = rig->hook < 0;
    FfAgentHello hello = {.magic = FF_AGENT_MAGIC,
                          .version = old ? FF_AGENT_VERSION_NO_HOOK : FF_AGENT_VERSION,
                          .pid = pid,
                          .error = {uffd_errno, uffd_errno, uffd_errno},
                          .kept = {-1, -1, -1},
                          .hook_kept = -1};
    int fds[FF_AGENT_MAX_FDS] = {pidfd_open(pid, 0)};
    unsigned n_fds = FF_AGENT_FD_UFFDS + (uffd_errno ? 0 : FF_KINDS);
    size_t length = old ? offsetof(FfAgentHello, hook_error) : sizeof(hello);

    for (unsigned i = 1; i < n_fds; i++) {
        int given = i == FF_AGENT_FD_MAPS                      ? rig->maps
                    : i == FF_AGENT_FD_UFFDS + FF_KIND_PROTECT ? rig->protect
                                                               : 0;

        fds[i] = given ? fcntl(given, F_DUPFD_CLOEXEC, 0)
                       : memfd_create("not-what-it-says", MFD_CLOEXEC);
    }
    if (!old) {
        fds[n_fds++] = fcntl(rig->hook, F_DUPFD_CLOEXEC, 0);
    }
    g_assert_cmpint(ff_rights_send(rig->agent, &hello, length, fds, n_fds), ==, length);
    for (unsigned i = 0; i < n_fds; i++) {
        close(fds[i]);
    }
}

static int reap(pid_t pid)
{
    int status, fd = pidfd_open(pid, 0);

    if (!test_wait_readable(fd, test_deadline(TEST_TIMEOUT))) {
        test_fail("process %d does not end", pid);
    }
    close(fd);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void rig_kill_qemu(Rig *rig)
{
    kill(rig->qemu, SIGKILL);
    reap(rig->qemu);
    rig->qemu = 0;
}

int rig_wait_relay(Rig *rig)
{
    pid_t relay = rig->relay;
    int status = reap(relay);

    rig->relay = 0;
    rig->killed = status < 0;
    return status;
}

bool rig_relay_has_ended(Rig *rig)
{
    siginfo_t info = {0};

    g_assert_cmpint(waitid(P_PID, rig->relay, &info, WEXITED | WNOHANG | WNOWAIT), ==, 0);
    return info.si_pid != 0;
}

static void engine_forget(Rig *rig)
{
    g_clear_pointer(&rig->link, ff_link_free);
    g_clear_pointer(&rig->init_frame, rig_frame_free);
    rig->init = NULL;
    if (rig->state) {
        munmap(rig->state, sizeof(*rig->state));
        rig->state = NULL;
    }
    if (rig->engine >= 0) {
        close(rig->engine);
        rig->engine = -1;
    }
}

void rig_free(Rig *rig)
{
    /* A relay that ends by itself removes its clients' sockets. */
    const char *const left[] = {"direct", "engine", "peer", rig->killed ? "client0" : "direct",
                                rig->killed ? "client1" : "direct"};

    if (rig->qemu) {
        rig_kill_qemu(rig);
    }
    if (rig->relay) {
        g_assert_cmpint(rig_wait_relay(rig), ==, 0);
    }
    engine_forget(rig);
    g_queue_clear_full(&rig->frames, (GDestroyNotify)rig_frame_free);
    close(rig->engine_listener);
    close(rig->agent);
    if (rig->peer >= 0) {
        close(rig->peer);
    }
    close(rig->log);
    ff_discards_free(rig->discards);
    if (rig->hook >= 0) {
        close(rig->hook);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(left); i++) {
        g_autofree char *path = rig_path(rig, left[i]);

        unlink(path);
    }
    for (unsigned i = 0; rig_fault_happened(rig, i); i++) {
        g_autofree char *name = g_strdup_printf("fault-%u", i), *path = rig_path(rig, name);

        unlink(path);
    }
    if (rig->state_fd >= 0) {
        close(rig->state_fd);
    }
    g_assert_cmpint(rmdir(rig->dir), ==, 0);
    g_free(rig->dir);
    g_free(rig);
}

char *rig_log(Rig *rig)
{
    struct stat st;
    char *text;

    fstat(rig->log, &st);
    text = g_malloc0(st.st_size + 1);
    g_assert_cmpint(pread(rig->log, text, st.st_size, 0), ==, st.st_size);
    return text;
}

char *rig_line(Stream *client)
{
    return stream_read_line(client, "an answer", test_deadline(TEST_TIMEOUT));
}

void rig_expect(Stream *client, const char *text)
{
    g_autofree char *line = rig_line(client);

    if (!line || !strstr(line, text)) {
        test_fail("expected '%s', got '%s'", text, line ? line : "the end");
    }
}

void rig_expect_end(Stream *client)
{
    g_assert_null(rig_line(client));
}

void rig_send(Stream *client, const char *text)
{
    stream_send(client, text, strlen(text), NULL, 0);
}

Stream *rig_dial(Rig *rig, int index)
{
    g_autofree char *name = g_strdup_printf("client%d", index);

    return stream_new(dial(rig, name), name);
}

/* QEMU that starts its guest in the moment in which a client comes says RESUME before it greets:
 * the connection stands, and that this client must negotiate first is not set yet. The relay
 * does not pass that on. */
static void expect_greeting(Stream *client, bool direct)
{
    g_autofree char *line = rig_line(client);

    if (direct && line && strstr(line, "\"RESUME\"")) {
        g_free(line);
        line = rig_line(client);
    }
    if (!line || !strstr(line, "\"QMP\"")) {
        test_fail("expected a greeting, got '%s'", line ? line : "the end");
    }
}

Stream *rig_client(Rig *rig, int index, bool negotiate, bool oob)
{
    g_autofree char *name = index < 0 ? g_strdup("direct") : g_strdup_printf("client%d", index);
    Stream *client;

    client = stream_new(dial(rig, name), name);
    expect_greeting(client, index < 0);
    if (negotiate) {
        rig_send(client, oob ? "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}\n"
                             : "{'execute':'qmp_capabilities'}\n");
        rig_expect(client, "return");
    }
    return client;
}

Stream *rig_peer(Rig *rig)
{
    int listening = 0;
    socklen_t len = sizeof(listening);
    Stream *client;

    getsockopt(rig->peer, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len);
    if (listening) {
        g_assert_true(test_wait_readable(rig->peer, test_deadline(TEST_TIMEOUT)));
        client = stream_new(accept4(rig->peer, NULL, NULL, SOCK_CLOEXEC), "peer");
    } else {
        client = stream_new(rig->peer, "peer");
        rig->peer = -1;
    }
    expect_greeting(client, false);
    rig_send(client, "{'execute':'qmp_capabilities'}\n");
    rig_expect(client, "return");
    return client;
}

void rig_expect_nothing(Rig *rig, Stream *client, int other)
{
    g_autoptr(Stream) judge = rig_client(rig, other, true, false);
    g_autofree char *line = NULL;
    bool timed_out = false;

    rig_send(judge, "{'execute':'query-name','id':'judge'}\n");
    rig_expect(judge, "judge");
    line = stream_try_line(client, &timed_out, 0);
    if (line || !timed_out) {
        test_fail("nothing was to come, but '%s' did", line ? line : "the end");
    }
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void on_frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds,
                     void *opaque)
{
    Rig *rig = opaque;
    RigFrame *frame = g_new0(RigFrame, 1);
    gsize len;
    const char *data = g_bytes_get_data(payload, &len);

    if (header->type == FF_LINK_PING) {
        g_free(frame);
        if (!rig->deaf) {
            ff_link_send(link, FF_LINK_PONG, 0, header->seq, NULL, 0, NULL, 0);
        }
        return;
    }
    frame->header = *header;
    frame->payload = g_bytes_ref(payload);
    frame->text = g_strndup(data ? data : "", len);
    frame->fds = g_memdup2(fds, header->n_fds * sizeof(int));
    for (unsigned i = 0; i < header->n_fds; i++) {
        fds[i] = -1;
    }
    g_queue_push_tail(&rig->frames, frame);
}

static void on_closed(FfLink *link, const GError *error, void *opaque)
{
    Rig *rig = opaque;

    g_assert_no_error((GError *)error);
    rig->link_closed = true;
}

static const FfLinkOps link_ops = {on_frame, on_closed};

void rig_frame_free(RigFrame *frame)
{
    for (unsigned i = 0; i < frame->header.n_fds; i++) {
        if (frame->fds[i] >= 0) {
            close(frame->fds[i]);
        }
    }
    g_free(frame->fds);
    g_free(frame->text);
    g_bytes_unref(frame->payload);
    g_free(frame);
}

static gboolean too_late(gpointer rig)
{
    g_autofree char *log = rig_log(rig);

    test_fail("a frame, or the link's end, does not come: %s", log);
}

RigFrame *rig_frame(Rig *rig, FfLinkType type)
{
    guint timer = g_timeout_add_seconds(TEST_TIMEOUT, too_late, rig);
    RigFrame *frame;

    while (g_queue_is_empty(&rig->frames) && !rig->link_closed) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(timer);
    frame = g_queue_pop_head(&rig->frames);
    g_assert_nonnull(frame);
    g_assert_cmpuint(frame->header.type, ==, type);
    return frame;
}

void rig_engine_let_go(Rig *rig)
{
    guint timer = g_timeout_add_seconds(TEST_TIMEOUT, too_late, rig);

    while (!rig->link_closed) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(timer);
    engine_forget(rig);
}

/* -1: there is none. */
static int receive_fd(int s)
{
    struct pollfd p = {.fd = s, .events = POLLIN};
    FfRights rights;
    char byte;

    if (poll(&p, 1, -1) != 1 || ff_rights_receive(s, &byte, 1, &rights) != 1) {
        return -1;
    }
    g_assert_cmpuint(rights.n, ==, 1);
    return rights.fd[0];
}

/* The link of an engine that was started, or -1: it was killed before it was told anything. */
static int accept_engine(Rig *rig)
{
    char byte;

    if (!test_wait_readable(rig->engine_listener, test_deadline(TEST_TIMEOUT))) {
        g_autofree char *log = rig_log(rig);

        test_fail("no engine is started: %s", log);
    }
    engine_forget(rig);
    rig->engine = accept4(rig->engine_listener, NULL, NULL, SOCK_CLOEXEC);
    int link = receive_fd(rig->engine);
    if (link >= 0 && recv(link, &byte, 1, MSG_PEEK) != 1) {
        close(link);
        link = -1;
    }
    return link;
}

void rig_engine_start(Rig *rig)
{
    int link;

    while ((link = accept_engine(rig)) < 0) {
    }
    rig->link_closed = false;
    rig->link = ff_link_new(link, NULL, &link_ops, rig);
    rig->init_frame = rig_frame(rig, FF_LINK_INIT);
    rig->init = rig->init_frame->text;
    g_assert_cmpuint(rig->init_frame->header.n_fds, >, 0);
    rig->state = ff_state_map(rig->init_frame->fds[0], NULL);
    g_assert_nonnull(rig->state);
    if (!rig->mute) {
        rig_engine_send(rig, FF_LINK_STARTED, 0, 0, NULL);
    }
}

void rig_engine_send(Rig *rig, FfLinkType type, unsigned mon, uint32_t seq, const char *text)
{
    g_assert_cmpint(ff_link_send(rig->link, type, mon, seq, text, text ? strlen(text) : 0, NULL, 0),
                    ==, 0);
}

void rig_answer(Rig *rig, const RigFrame *command, FfLinkType type, const char *text)
{
    rig_engine_send(rig, type, command->header.mon, command->header.seq, text);
}

void rig_filter(Rig *rig, uint32_t filter)
{
    g_assert_cmpint(ff_link_send(rig->link, FF_LINK_FILTER, 0, 0, &filter, sizeof(filter), NULL, 0),
                    ==, 0);
}

void rig_engine_crash(Rig *rig)
{
    engine_forget(rig);
}

int rig_engine_process(Rig *rig)
{
    return fcntl(rig->engine, F_DUPFD_CLOEXEC, 0);
}

void rig_expect_no_engine(Rig *rig, unsigned ms)
{
    int64_t end = g_get_monotonic_time() + ms * G_TIME_SPAN_MILLISECOND;

    g_assert_false(test_wait_readable(rig->engine_listener, end));
}
