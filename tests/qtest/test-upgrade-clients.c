/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade of guests that people use: consoles and a guest agent's channel on sockets, VNC,
 * a pid file, -daemonize. Who comes after the upgrade finds the new QEMU where
 * the old one was; after one that failed all is as it was.
 */
#include "tests/qtest/upgrade-rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define WAIT_MS 60000
static int done; /* atomic; observer: come_and_go() */
#define FIRST_PORT 5900

/* Sockets in the guest's folder, each said in another way. */
static const char *const sockets[] = {"serial", "agent", "parallel", "vnc"};
/* The files that a QEMU of a guest with them makes. */
static const char *const files[] = {"serial", "agent", "parallel", "vnc", "pid"};

static char *path_of(const Guest *g, const char *name)
{
    return g_build_filename(g->dir, name, NULL);
}

/* PORT: of VNC; 0: it has a socket. */
static Guest *start(const char *faults, unsigned port, bool daemonize)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = up_new();
    g_autofree char *serial = g_strdup_printf("unix:%s/serial,server,nowait", g->dir);
    g_autofree char *agent =
        g_strdup_printf("socket,id=ga,path=%s/agent,server=on,wait=off", g->dir);
    g_autofree char *parallel = g_strdup_printf("unix:%s/parallel,server=on,wait=off", g->dir);
    g_autofree char *vnc = port ? g_strdup_printf("127.0.0.1:%u,share=ignore", port - FIRST_PORT)
                                : g_strdup_printf("unix:%s/vnc", g->dir);
    g_autofree char *pid = path_of(g, "pid");
    const char *const more[] = {"-serial",
                                serial,
                                "-device",
                                "virtio-serial",
                                "-chardev",
                                agent,
                                "-device",
                                "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
                                "-parallel",
                                parallel,
                                "-vnc",
                                vnc,
                                "-pidfile",
                                pid,
                                daemonize ? "-daemonize" : NULL,
                                NULL};

    g->faults = faults ? g_strdup_printf("%s;%s", g->dir, faults) : NULL;
    up_start_vmgenid(g, more);
    return g;
}

static int connect_unix(const Guest *g, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", g->dir, name);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* The process that listens at FD's other end. */
static pid_t owner(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len), ==, 0);
    return cred.pid;
}

/* Reads from FD until PART has come. */
static void hears(int fd, const char *part)
{
    g_autoptr(GString) all = g_string_new(NULL);
    char bytes[256];

    while (!strstr(all->str, part)) {
        struct pollfd p = {fd, POLLIN, 0};

        g_assert_cmpint(poll(&p, 1, WAIT_MS), ==, 1);
        ssize_t n = read(fd, bytes, sizeof(bytes));
        g_assert_cmpint(n, >, 0);
        g_string_append_len(all, bytes, n);
    }
}

/* The other side lets it go. */
static void is_closed(int fd)
{
    char bytes[256];
    ssize_t n;

    do {
        struct pollfd p = {fd, POLLIN, 0};

        g_assert_cmpint(poll(&p, 1, WAIT_MS), ==, 1);
        n = read(fd, bytes, sizeof(bytes));
    } while (n > 0);
    close(fd);
}

static int connect_port(unsigned port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* One that nobody has just now, and that a VNC server can have. */
static unsigned free_port(void)
{
    for (;;) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        g_assert_cmpint(bind(fd, (struct sockaddr *)&address, len), ==, 0);
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &len), ==, 0);
        close(fd);
        if (ntohs(address.sin_port) >= FIRST_PORT) {
            return ntohs(address.sin_port);
        }
    }
}

/* All of QEMU PID's is at its place, and answers. */
static void all_are_of(const Guest *g, pid_t pid, unsigned port)
{
    g_autofree char *file = path_of(g, "pid"), *text = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(sockets); i++) {
        if (port && !strcmp(sockets[i], "vnc")) {
            continue;
        }
        int fd = connect_unix(g, sockets[i]);
        g_assert_cmpint(owner(fd), ==, pid);
        close(fd);
    }
    int vnc = port ? connect_port(port) : connect_unix(g, "vnc");
    hears(vnc, "RFB 003.008");
    close(vnc);
    g_assert_true(g_file_get_contents(file, &text, NULL, NULL));
    g_assert_cmpint(atoi(text), ==, pid);
}

/* Files of QEMU's that are no others' any more. */
static unsigned left_over(const Guest *g)
{
    g_autoptr(GDir) dir = g_dir_open(g->dir, 0, NULL);
    const char *name;
    unsigned n = 0;

    while ((name = g_dir_read_name(dir))) {
        n += strstr(name, ".upgrade-") != NULL;
    }
    return n;
}

/* It ends in an orderly way, and takes with it what it has made. */
static void end_and_look(Guest *g)
{
    up_reconnect(g);
    qmp_ok(g->qmp, "quit", NULL);
    up_disconnect(g);
    up_await_qemus(g, 0);
    /* Its relay ends after it. */
    for (unsigned i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = path_of(g, files[i]);
        int fd = inotify_init1(IN_CLOEXEC);
        char events[4096];

        g_assert_cmpint(inotify_add_watch(fd, g->dir, IN_DELETE), >=, 0);
        while (g_file_test(path, G_FILE_TEST_EXISTS)) {
            struct pollfd p = {fd, POLLIN, 0};

            g_assert_cmpint(poll(&p, 1, WAIT_MS), ==, 1);
            g_assert_cmpint(read(fd, events, sizeof(events)), >, 0);
        }
        close(fd);
    }
}

/* Who may come stays what somebody has made of it. */
static void has_rights(const Guest *g, mode_t mode)
{
    g_autofree char *path = path_of(g, "agent");
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, mode);
}

static void run(unsigned port, bool daemonize)
{
    g_autoptr(Guest) g = start(NULL, port, daemonize);
    g_autofree char *program = up_installed(), *newer = vm_newer_qemu();

    if (!g) {
        return;
    }
    g_autofree char *agent = path_of(g, "agent");
    g_assert_cmpint(chmod(agent, 0620), ==, 0);
    for (unsigned i = 0; i < 3; i++) {
        int client = connect_unix(g, "serial");

        all_are_of(g, up_only_qemu(g), port);
        up_to(g, newer && i % 2 == 0 ? newer : program);
        is_closed(client);
        all_are_of(g, up_only_qemu(g), port);
        g_assert_cmpuint(left_over(g), ==, 0);
        has_rights(g, 0620);
    }
    up_check_memory(g);
    end_and_look(g);
}

static void test_socket(void)
{
    run(0, false);
}

static void test_port(void)
{
    run(free_port(), false);
}

static void test_daemon(void)
{
    run(0, true);
}

/* The port is somebody else's by then: the upgrade is none the worse, and says what to do. */
/* Listens there. */
static int take_port(unsigned port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

/* ---- ports that are forwarded to the guest --------------------------------------------------- */

static bool is_forwarded(unsigned port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

    close(fd);
    return is;
}

static Guest *start_forwarding(unsigned first, unsigned second)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return NULL;
    }
    Guest *g = up_new();
    g_autofree char *network = g_strdup_printf(
        "user,id=n,hostfwd=tcp:127.0.0.1:%u-:22,hostfwd=tcp:127.0.0.1:%u-:80", first, second);
    const char *const more[] = {"-netdev", network, "-device", "e1000,netdev=n", NULL};

    up_start_vmgenid(g, more);
    return g;
}

static void test_forwards(void)
{
    unsigned first = free_port(), second = free_port();
    g_autoptr(Guest) g = start_forwarding(first, second);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        up_to(g, program);
        g_assert_true(is_forwarded(first) && is_forwarded(second));
    }
    /* Somebody has changed them since. */
    up_reconnect(g);
    g_autofree char *removed = g_strdup_printf("hostfwd_remove n tcp:127.0.0.1:%u", first);
    g_free(qmp_hmp(g->qmp, removed));
    up_disconnect(g);
    up_fails(g, NULL, "forwards 1 ports of the host, and its command line has 2");
    g_assert_true(!is_forwarded(first) && is_forwarded(second));
    up_check_memory(g);
}

/* When the old QEMU has ended somebody else is faster. */
static void test_forward_taken(void)
{
    unsigned first = free_port(), second = free_port();
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start_forwarding(first, second);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    up_set_faults(g, "none/*/at/open-to-clients=hold");
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    int fd = take_port(first);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    g_autofree char *line = g_strdup_printf("hostfwd_add n tcp:127.0.0.1:%u-:22", first);
    g_assert_nonnull(strstr(said, "is not forwarded ("));
    const char *at = strstr(said, "hostfwd_add ");
    g_assert_nonnull(at);
    g_assert_true(g_str_has_prefix(at, line));
    g_assert_true(is_forwarded(second));
    close(fd);
    up_reconnect(g);
    g_autofree char *answer = qmp_hmp(g->qmp, line);
    g_assert_cmpstr(g_strstrip(answer), ==, "");
    g_assert_true(is_forwarded(first));
    up_check_memory(g);
}

/* The new QEMU ends when it has been prepared. */
static void test_new_ends(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting(NULL);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    up_set_faults(g, "none/*/at/same-files=hold");
    up_can_hold(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    g_autoptr(GArray) qemus = up_qemus(g);
    g_assert_cmpuint(qemus->len, ==, 2);
    pid_t new = g_array_index(qemus, pid_t, g_array_index(qemus, pid_t, 0) == old);
    g_assert_cmpint(kill(new, SIGKILL), ==, 0);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 1);
    g_autofree char *expected = g_strdup_printf(
        "farfault: the new QEMU, process %d, has ended (the guest is where it was)\n", (int)new);
    g_assert_cmpstr(said, ==, expected);
    g_assert_cmpint(up_await_qemus(g, 1), ==, old);
    up_runs(g);
    up_check_memory(g);
}

static void test_port_taken(void)
{
    unsigned port = free_port();
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start(NULL, port, false);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    up_set_faults(g, "none/*/at/open-to-clients=hold");
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    int fd = take_port(port);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    g_assert_nonnull(strstr(said, "VNC does not listen at port"));
    close(fd);
    up_runs(g);
    /* It listens nowhere, and not where the next one would. */
    up_fails(g, NULL, "listens elsewhere by now, or nowhere");
    up_reconnect(g);
    qmp_ok(g->qmp, "display-update",
           "{'type': 'vnc', 'addresses': [{'type': 'inet', 'host': '127.0.0.1', 'port': '%u'}]}",
           port);
    up_disconnect(g);
    int vnc = connect_port(port);
    hears(vnc, "RFB 003.008");
    close(vnc);
    up_set_faults(g, "none/none/at/nowhere=kill");
    g_autofree char *program = up_installed();
    up_to(g, program);
    all_are_of(g, up_only_qemu(g), port);
}

/* One that fails, by the death of the new engine or of its relay: all is the old one's, as before.
 */
static void test_fails(void)
{
    static const char *const faults[] = {"takeover/*/at/loaded=kill", "takeover/*/at/ready=relay"};
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    unsigned port = free_port();
    g_autoptr(Guest) g = start(NULL, port, false);
    pid_t old = g ? up_only_qemu(g) : 0;
    for (unsigned i = 0; g && i < G_N_ELEMENTS(faults); i++) {
        g_autofree char *said = NULL;
        int client = connect_unix(g, "agent");

        up_set_faults(g, faults[i]);
        g_assert_cmpint(up_run(g, NULL, &said), ==, 1);
        g_assert_cmpint(up_only_qemu(g), ==, old);
        all_are_of(g, old, port);
        g_assert_cmpuint(left_over(g), ==, 0);
        struct pollfd p = {client, POLLIN, 0};
        g_assert_cmpint(poll(&p, 1, 0), ==, 0); /* it is connected still */
        close(client);
        up_runs(g);
    }
    if (g) {
        up_check_memory(g);
    }
}

/* Waits until NAME has been given its last name. */
static void await_names(const Guest *g, unsigned n)
{
    int fd = inotify_init1(IN_CLOEXEC);
    char events[4096];

    g_assert_cmpint(inotify_add_watch(fd, g->dir, IN_MOVED_TO | IN_DELETE), >=, 0);
    while (left_over(g) != n) {
        struct pollfd p = {fd, POLLIN, 0};

        g_assert_cmpint(poll(&p, 1, WAIT_MS), ==, 1);
        g_assert_cmpint(read(fd, events, sizeof(events)), >, 0);
    }
    close(fd);
}

/* Nobody waits for the upgrade: the new relay gives the names, and takes them along at the end. */
static void test_alone(void)
{
    g_autoptr(Guest) g = start(NULL, 0, false);

    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    qmp_free(up_by_hand(g));
    up_disconnect(g);
    pid_t now = up_only_qemu(g);
    g_assert_cmpint(now, !=, old);
    await_names(g, 0);
    all_are_of(g, now, 0);
    up_check_memory(g);
    end_and_look(g);
}

/* Nor does that relay live to do it: the next one does. */
static void test_attached(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start(NULL, 0, false);
    if (!g) {
        return;
    }
    up_set_faults(g, "takeover/*/at/taken=relay");
    qmp_free(up_by_hand(g));
    up_disconnect(g);
    pid_t now = up_only_qemu(g);
    g_assert_cmpuint(left_over(g), ==, G_N_ELEMENTS(files));
    up_attach(g, now);
    await_names(g, 0);
    all_are_of(g, now, 0);
    up_check_memory(g);
    end_and_look(g);
}

#define ONLY_QMP                                                                                   \
    "only QMP monitors that listen: give the command line without it, and with -monitor none, by " \
    "--args-from; for human commands there is human-monitor-command"

static void test_refused(void)
{
    static const struct {
        const char *args, *part;
    } cases[] = {
        {"-vnc :7,websocket=on", "of its options only"},
        {"-vnc :7,to=5", "of its options only"},
        {"-vnc localhost:7,reverse=on", "of its options only"},
        {"-vnc localhost:60000", "only HOST:NUMBER"},
        {"-vnc :7 -vnc :8", "-vnc: cannot be handed over to another QEMU yet: more than one"},
        {"-serial unix:/tmp/x", "unix:PATH with server=on"},
        {"-serial tcp::7001,server=on", "of these only"},
        {"-chardev socket,id=f,path=/tmp/x", "of sockets those that listen at a path"},
        {"-chardev socket,id=f,path=x,abstract=on,server=on", "those that listen at a path"},
        {"-chardev socket,id=f,host=::1,port=7001,server=on", "those that listen at a path"},
        {"-daemonize -pidfile x", "its path is relative"},
        {"-daemonize -vnc unix:x", "its path is relative"},
        {"-monitor unix:/tmp/x,server=on", ONLY_QMP},
        {"-mon chardev=console", ONLY_QMP},
        {"-pidfile /tmp/x -pidfile /tmp/y", "-pidfile: cannot be handed over to another QEMU yet"},
        {"-daemonize -qmp unix:x,server=on", "its path is relative"},
        {"-daemonize -chardev file,id=f,path=x", "its path is relative"},
        {"-parallel "
         "unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaa,server=on",
         "longer than 91 bytes"},
        {"-chardev socket,id=f,path=/tmp/x,server=on -mon chardev=f,mode=control -serial chardev:f",
         "of QMP monitors those that listen and are nothing else"},
    };
    g_autoptr(Guest) g = up_counting(NULL);

    if (!g) {
        return;
    }
    g_autofree char *file = path_of(g, "args"), *own = g_strjoinv(" ", g->args);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdup_printf("%s %s", own, cases[i].args);

        g_assert_true(g_file_set_contents(file, text, -1, NULL));
        up_fails(g, (const char *const[]){"--args-from", file, NULL}, cases[i].part);
    }
}

/* With --args-from: what is somebody else's is left alone, whatever the file says. */
static void test_foreign(void)
{
    g_autoptr(Guest) g = start(NULL, 0, false);

    if (!g) {
        return;
    }
    g_autofree char *file = path_of(g, "args"), *own = g_strjoinv(" ", g->args);
    g_autofree char *pid = path_of(g, "pid"), *other = path_of(g, "other");
    g_autofree char *parallel = path_of(g, "parallel"), *kept = path_of(g, "kept"), *text = NULL;
    g_auto(GStrv) parts = g_strsplit(own, pid, 2);
    g_autofree char *there = g_strjoinv(other, parts);
    g_autofree char *twice = g_strjoinv(parallel, parts);

    g_assert_true(g_file_set_contents(other, "17", -1, NULL));
    g_assert_true(g_file_set_contents(file, there, -1, NULL));
    up_fails(g, (const char *const[]){"--args-from", file, NULL}, "is not the running QEMU's");
    up_fails(g, (const char *const[]){"--check", "--args-from", file, NULL},
             "is not the running QEMU's");
    g_assert_true(g_file_get_contents(other, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "17");
    g_assert_true(g_file_set_contents(file, twice, -1, NULL));
    up_fails(g, (const char *const[]){"--args-from", file, NULL}, "two options have this path");
    /* Somebody has put a file in the socket's place. */
    g_assert_cmpint(rename(parallel, kept), ==, 0);
    g_assert_true(g_file_set_contents(parallel, "mine", -1, NULL));
    up_fails(g, NULL, "is no socket any more");
    g_assert_cmpint(rename(kept, parallel), ==, 0);
    g_assert_cmpuint(left_over(g), ==, 0);
    all_are_of(g, up_only_qemu(g), 0);
    /* A path that nobody has is as good as the old one. */
    g_assert_cmpint(g_remove(other), ==, 0);
    g_assert_true(g_file_set_contents(file, there, -1, NULL));
    g_autofree char *said = NULL;
    g_assert_cmpint(up_run(g, (const char *const[]){"--args-from", file, NULL}, &said), ==, 0);
    g_clear_pointer(&text, g_free);
    g_assert_true(g_file_get_contents(other, &text, NULL, NULL));
    g_assert_cmpint(atoi(text), ==, up_only_qemu(g));
    up_check_memory(g);
}

/* A client that comes at any moment finds one of the two. */
static gpointer come_and_go(gpointer data)
{
    const Guest *g = data;

    while (!g_atomic_int_get(&done)) {
        close(connect_unix(g, "agent")); /* fails where nobody listens */
    }
    return NULL;
}

static void test_no_gap(void)
{
    g_autoptr(Guest) g = start(NULL, 0, false);
    g_autofree char *program = up_installed();

    if (!g) {
        return;
    }
    g_atomic_int_set(&done, 0);
    GThread *client = g_thread_new("client", come_and_go, g);
    for (unsigned i = 0; i < 3; i++) {
        up_to(g, program);
    }
    g_atomic_int_set(&done, 1);
    g_thread_join(client);
    up_check_memory(g);
}

/* The old QEMU is told to end when its engine hangs: it removes what it takes for its own. */
static void test_orderly(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = start("handover/*/at/lifted=hold", 0, false);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    kill(old, SIGTERM);
    pid_t now = up_only_qemu(g); /* its engine ends with it */
    g_assert_cmpint(now, !=, old);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    all_are_of(g, now, 0);
    g_assert_cmpuint(left_over(g), ==, 0);
    up_runs(g);
    up_check_memory(g);
}

/* ---- a client that stays connected ----------------------------------------------------------- */

/* Which QEMU it speaks to, as the answer that only one of them can give. */
static pid_t answers(Qmp *q)
{
    g_autoptr(JsonObject) lent = qmp_return(q, "x-farfault-lend", NULL);

    return (pid_t)json_object_get_int_member(lent, "pid");
}

static void check_settings(Qmp *q)
{
    g_autoptr(JsonObject) p = qmp_return(q, "query-migrate-parameters", NULL);
    JsonObject *answer = qmp_call(q, "query-migrate-capabilities", NULL);
    JsonArray *all = json_object_get_array_member(answer, "return");
    unsigned on = 0;

    g_assert_cmpint(json_object_get_int_member(p, "max-bandwidth"), ==, 77 << 20);
    g_assert_cmpint(json_object_get_int_member(p, "x-farfault-peer-timeout"), ==, 17);
    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *o = json_array_get_object_element(all, i);
        const char *name = json_object_get_string_member(o, "capability");

        if (json_object_get_boolean_member(o, "state")) {
            g_assert_true(!strcmp(name, "events") || !strcmp(name, "postcopy-ram"));
            on++;
        }
    }
    g_assert_cmpuint(on, ==, 2);
    json_object_unref(answer);
}

/* To any QEMU and back, with a client that asks all the time, and one that only listens. */
static void test_stays(void)
{
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    qmp_set_capability(second, "events", true);
    qmp_set_capability(second, "postcopy-ram", true);
    qmp_ok(second, "migrate-set-parameters", "{'max-bandwidth': %d, 'x-farfault-peer-timeout': 17}",
           77 << 20);
    for (unsigned i = 0; i < up_rounds(4); i++) {
        g_autofree char *said = NULL;
        unsigned n = 0;

        up_disconnect(g);
        g_autoptr(Command) c = up_begin(g, NULL);
        while (up_is_under_way(c)) {
            if (i % 2 == 0) {
                qmp_ok(second, "query-status", NULL);
                n++;
            }
        }
        g_assert_cmpint(up_finish(c, &said), ==, 0);
        g_test_message("%s; %u answers", said, n);
        qmp_expect(second, "STOP");
        qmp_expect(second, "RESUME");
        g_assert_cmpint(answers(second), ==, up_only_qemu(g));
        check_settings(second);
    }
    up_runs(g);
    up_check_memory(g);
    /* It can have the guest end, as it always could. */
    qmp_ok(second, "quit", NULL);
    up_await_qemus(g, 0);
}

static void await_answer(Qmp *q, unsigned id)
{
    g_autofree char *part = g_strdup_printf("\"id\": %u", id);
    int64_t deadline = test_deadline(TEST_TIMEOUT);

    for (;;) {
        g_autofree char *line = stream_read_line(qmp_stream(q), part, deadline);

        if (!line) {
            test_fail("the monitor was closed in place of an answer (%s)", part);
        }
        if (strstr(line, part)) {
            g_assert_nonnull(strstr(line, "\"return\""));
            return;
        }
    }
}

/* What it says while the guest may be in either QEMU is carried out where it is then. STAYS: in the
 * old one. */
static void said_meanwhile(const char *faults, bool stays)
{
    static const char words[] = "{\"execute\": \"stop\", \"id\": 7}\n"
                                "{\"execute\": \"query-status\", \"id\": 8}\n";
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors(faults);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t old = up_only_qemu(g);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    stream_send(qmp_stream(second), words, strlen(words), NULL, 0);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, stays ? 1 : 0);
    await_answer(second, 7);
    await_answer(second, 8);
    pid_t now = up_only_qemu(g);
    g_assert_cmpint(now == old, ==, stays);
    g_assert_cmpint(answers(second), ==, now);
    g_autofree char *state = qmp_run_state(second);
    g_assert_cmpstr(state, ==, stays ? "postmigrate" : "paused"); /* it has obeyed */
    qmp_ok(second, "cont", NULL);
    up_runs(g);
    up_check_memory(g);
}

/* Another client's upgrade is refused, and the one that is under way comes to its end. */
static void test_two_at_once(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors("handover/*/at/active=hold");
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    g_autofree char *refused = qmp_error(second, "x-farfault-hand-over", "{'fdname': 'none'}");
    g_assert_nonnull(strstr(refused, "is under way"));
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    g_assert_cmpint(answers(second), ==, up_only_qemu(g));
    up_check_memory(g);
}

/* With monitors at "second" and "third". */
static void start_with_two_more(Guest *g)
{
    g_autofree char *a = g_strdup_printf("unix:%s/second,server=on,wait=off", g->dir);
    g_autofree char *b = g_strdup_printf("unix:%s/third,server=on,wait=off", g->dir);
    const char *const more[] = {"-qmp", a, "-qmp", b, NULL};

    up_start_vmgenid(g, more);
}

/* Arguments that lack a monitor: its clients would lose it. */
static void test_fewer_monitors(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g_autofree char *file = path_of(g, "args");
    g_autoptr(GString) fewer = g_string_new(NULL);

    start_with_two_more(g);
    for (char **arg = g->args; *arg; arg++) {
        if (!strcmp(*arg, "-qmp") && arg[1] && strstr(arg[1], "/third,")) {
            arg++;
        } else {
            g_string_append_printf(fewer, "%s ", *arg);
        }
    }
    g_assert_true(g_file_set_contents(file, fewer->str, -1, NULL));
    up_fails(g, (const char *const[]){"--check", "--args-from", file, NULL}, "has a monitor '");
    up_fails(g, (const char *const[]){"--args-from", file, NULL}, "has a monitor '");
    up_runs(g);
    up_check_memory(g);
}

/* A client's commands pass again, and the new engine still waits for the old one's end: what begins
 * something is carried out then. */
static void test_early(gconstpointer opaque)
{
    const char *at = opaque;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    g->faults = g_strdup_printf("%s;takeover/*/at/%s=hold", g->dir, at);
    start_with_two_more(g);
    g_autoptr(Qmp) second = up_second_monitor(g);
    g_autoptr(Qmp) third = qmp_new(connect_unix(g, "third"), "third", false);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    static const char words[] = "{\"execute\": \"x-farfault-lend\", \"id\": 7}\n";
    stream_send(qmp_stream(second), words, strlen(words), NULL, 0);
    qmp_ok(third, "query-migrate", NULL);
    g_assert_true(up_is_under_way(c));
    up_let_go(g);
    await_answer(second, 7);
    g_autofree char *said = NULL;
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    up_check_memory(g);
}

/* QEMU's device state is with the new one already: what it is told now it must not hear alone. */
static void test_said_late(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors("handover/*/at/loaded=hold");
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    static const char words[] = "{\"execute\": \"system_powerdown\", \"id\": 7}\n";
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    stream_send(qmp_stream(second), words, strlen(words), NULL, 0);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    for (bool answered = false, pressed = false; !answered || !pressed;) {
        g_autofree char *line =
            stream_read_line(qmp_stream(second), "POWERDOWN", test_deadline(TEST_TIMEOUT));

        answered |= strstr(line, "\"id\": 7") && strstr(line, "\"return\"");
        pressed |= strstr(line, "\"POWERDOWN\"") != NULL;
    }
    g_assert_cmpint(answers(second), ==, up_only_qemu(g));
    up_check_memory(g);
}

/* With fds, of which one belongs to half a command. */
static void test_said_fds(void)
{
    static const char whole[] = "{'execute': 'getfd', 'arguments': {'fdname': 'a'}, 'id': 7}\n";
    static const char half[] = "{'execute': 'getfd', 'argum";
    static const char rest[] = "ents': {'fdname': 'b'}, 'id': 8}\n";
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors("handover/*/at/given=hold");
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    stream_send(qmp_stream(second), whole, strlen(whole), &fd, 1);
    stream_send(qmp_stream(second), half, strlen(half), &fd, 1);
    close(fd);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    stream_send(qmp_stream(second), rest, strlen(rest), NULL, 0);
    await_answer(second, 7);
    await_answer(second, 8);
    qmp_ok(second, "closefd", "{'fdname': 'a'}");
    qmp_ok(second, "closefd", "{'fdname': 'b'}");
    up_runs(g);
    up_check_memory(g);
}

/* The QEMU that is not ONE, which may have ended. */
static pid_t other_qemu(const Guest *g, pid_t one)
{
    g_autoptr(GArray) all = up_qemus(g);

    for (guint i = 0; i < all->len; i++) {
        if (g_array_index(all, pid_t, i) != one) {
            return g_array_index(all, pid_t, i);
        }
    }
    g_assert_not_reached();
}

static void expect_listed(pid_t pid, const char *words)
{
    g_autofree char *line = words ? vm_listed(pid) : NULL;

    if (words && !g_str_has_prefix(line, words)) {
        test_fail("process %d is listed: %s; not: %s", (int)pid, line, words);
    }
}

typedef struct {
    const char *name, *at, *old, *next; /* NULL: who knows */
    bool keep;
} Listed;

#define HELD_ROWS(name, keep)                                                                      \
    {name "-loaded", "handover/*/at/loaded=hold", "has its guest; its upgrade is under way",       \
     "is made by an upgrade that is under way", keep},                                             \
        {name "-given", "handover/*/at/given=hold", "its guest has gone to its next process",      \
         NULL, keep},                                                                              \
        {name "-granted", "takeover/*/at/granted=hold", "its guest has gone to its next process",  \
         "has its guest, by an upgrade", keep},                                                    \
    {                                                                                              \
        name "-idle", "takeover/*/at/idle=hold", NULL, "nothing is under way", keep                \
    }

static const Listed listed[] = {HELD_ROWS("ends", false), HELD_ROWS("stays", true)};

/* farfault status without a monitor: which process has the guest, at each moment. */
static void test_listed(const void *opaque)
{
    const Listed *row = opaque;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting(row->at);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    pid_t old = up_only_qemu(g);
    expect_listed(old, "nothing is under way");
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin_with(g, NULL, row->keep ? "--keep-process" : NULL);
    up_wait_held(g);
    expect_listed(old, row->old);
    expect_listed(row->next ? other_qemu(g, old) : 0, row->next);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    if (row->keep) {
        expect_listed(old, "is the front of its guest");
        expect_listed(other_qemu(g, old), "nothing is under way");
    } else {
        expect_listed(up_await_qemus(g, 1), "nothing is under way");
    }
}

/* It will say no more, and waits for the answers. */
static void test_said_and_ended(void)
{
    static const char words[] = "{\"execute\": \"stop\", \"id\": 7}\n";
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors("handover/*/at/given=hold");
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    up_can_hold(g);
    up_disconnect(g);
    g_autoptr(Command) c = up_begin(g, NULL);
    up_wait_held(g);
    stream_send(qmp_stream(second), words, strlen(words), NULL, 0);
    shutdown(stream_fd(qmp_stream(second)), SHUT_WR);
    up_let_go(g);
    g_assert_cmpint(up_finish(c, &said), ==, 0);
    await_answer(second, 7);
    g_assert_true(stream_wait_eof(qmp_stream(second), test_deadline(TEST_TIMEOUT)));
    up_reconnect(g);
    g_autofree char *state = qmp_run_state(g->qmp);
    g_assert_cmpstr(state, ==, "paused");
    up_check_memory(g);
}

static bool has_capability(Qmp *q, const char *name)
{
    JsonObject *answer = qmp_call(q, "query-migrate-capabilities", NULL);
    JsonArray *all = json_object_get_array_member(answer, "return");
    bool on = false;

    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *o = json_array_get_object_element(all, i);

        on |= !strcmp(json_object_get_string_member(o, "capability"), name) &&
              json_object_get_boolean_member(o, "state");
    }
    json_object_unref(answer);
    return on;
}

/* FALSE: it has come while the migration begins, of which QEMU says so as well. */
static bool set_auto_converge(Qmp *q, bool on)
{
    g_autoptr(JsonObject) answer = qmp_call(
        q, "migrate-set-capabilities",
        "{'capabilities': [{'capability': 'auto-converge', 'state': %s}]}", on ? "true" : "false");

    if (json_object_has_member(answer, "return")) {
        return true;
    }
    const char *desc =
        json_object_get_string_member(json_object_get_object_member(answer, "error"), "desc");
    g_assert_nonnull(strstr(desc, "a migration process in progress"));
    return false;
}

/* A client that sets something all the time, and no events: what was acknowledged holds, and the
 * command comes to its end. */
static void test_sets(void)
{
    g_autoptr(Guest) g = up_counting_two_monitors(NULL);

    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    for (unsigned i = 0; i < up_rounds(3); i++) {
        g_autofree char *said = NULL;
        unsigned limit = 100;
        bool on = false;

        up_disconnect(g);
        g_autoptr(Command) c = up_begin(g, NULL);
        while (up_is_under_way(c)) {
            limit++;
            qmp_ok(second, "migrate-set-parameters", "{'downtime-limit': %u}", limit);
            on = set_auto_converge(second, !on) ? !on : on;
        }
        g_assert_cmpint(up_finish(c, &said), ==, 0);
        g_autoptr(JsonObject) p = qmp_return(second, "query-migrate-parameters", NULL);
        g_assert_cmpint(json_object_get_int_member(p, "downtime-limit"), ==, limit);
        g_assert_cmpint(has_capability(second, "auto-converge"), ==, on);
        g_assert_cmpint(answers(second), ==, up_only_qemu(g));
    }
    up_check_memory(g);
}

/* One that has said half a command takes it along, and the others are not waited for. */
static void test_half(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_new();
    start_with_two_more(g);
    g_autoptr(Qmp) second = up_second_monitor(g);
    g_autoptr(Qmp) third = qmp_new(connect_unix(g, "third"), "third", false);
    stream_send(qmp_stream(third), "{\"exec", 6, NULL, 0);
    qmp_ok(second, "query-name", NULL);
    g_autofree char *program = up_installed();
    up_to(g, program);
    static const char rest[] = "ute\": \"query-name\", \"id\": 7}\n";
    stream_send(qmp_stream(third), rest, strlen(rest), NULL, 0);
    await_answer(third, 7);
    g_assert_cmpint(answers(third), ==, up_only_qemu(g));
    g_assert_cmpint(answers(second), ==, up_only_qemu(g));
    up_check_memory(g);
}

static void test_said(void)
{
    said_meanwhile("handover/*/at/given=hold", false);
}

static void test_said_in_vain(void)
{
    said_meanwhile("handover/*/at/given=hold;takeover/*/at/grant=kill", true);
}

static const struct {
    const char *name, *faults;
} left[] = {
    {"old-relay-killed", "relay/*/at/clients-asked=kill"},
    {"old-relay-hangs", "relay/*/at/clients-asked=stop:8000"},
    {"new-relay-killed", "relay/*/at/clients-taken=kill"},
};

/* It does not come to that: then it is disconnected, as the old QEMU ends; the guest is where it is
 * to be. */
static void test_left(gconstpointer opaque)
{
    const char *faults = opaque, *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Guest) g = up_counting_two_monitors(faults);
    g_autofree char *said = NULL;
    if (!g) {
        return;
    }
    g_autoptr(Qmp) second = up_second_monitor(g);
    pid_t old = up_only_qemu(g);
    up_disconnect(g);
    up_run(g, (const char *const[]){NULL}, &said);
    g_test_message("%s", said);
    g_assert_true(stream_wait_eof(qmp_stream(second), test_deadline(TEST_TIMEOUT)));
    pid_t now = up_await_qemus(g, 1);
    g_assert_cmpint(now, !=, old);
    up_attach_if_needed(g, now);
    g_autoptr(Qmp) again = up_second_monitor(g);
    g_assert_cmpint(answers(again), ==, now);
    up_runs(g);
    up_check_memory(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/upgrade-clients/socket", test_socket);
    g_test_add_func("/upgrade-clients/port", test_port);
    g_test_add_func("/upgrade-clients/port-taken", test_port_taken);
    g_test_add_func("/upgrade-clients/new-ends", test_new_ends);
    g_test_add_func("/upgrade-clients/forwards", test_forwards);
    g_test_add_func("/upgrade-clients/forward-taken", test_forward_taken);
    g_test_add_func("/upgrade-clients/daemon", test_daemon);
    g_test_add_func("/upgrade-clients/fails", test_fails);
    g_test_add_func("/upgrade-clients/alone", test_alone);
    g_test_add_func("/upgrade-clients/attached", test_attached);
    g_test_add_func("/upgrade-clients/refused", test_refused);
    g_test_add_func("/upgrade-clients/foreign", test_foreign);
    g_test_add_func("/upgrade-clients/no-gap", test_no_gap);
    g_test_add_func("/upgrade-clients/orderly", test_orderly);
    g_test_add_func("/upgrade-clients/stays", test_stays);
    g_test_add_func("/upgrade-clients/said/moved", test_said);
    g_test_add_func("/upgrade-clients/said/stayed", test_said_in_vain);
    g_test_add_func("/upgrade-clients/said/late", test_said_late);
    g_test_add_data_func("/upgrade-clients/said/early/running", "running", test_early);
    g_test_add_data_func("/upgrade-clients/said/early/idle", "idle", test_early);
    g_test_add_func("/upgrade-clients/said/fds", test_said_fds);
    g_test_add_func("/upgrade-clients/said/and-ended", test_said_and_ended);
    g_test_add_func("/upgrade-clients/sets", test_sets);
    g_test_add_func("/upgrade-clients/half", test_half);
    g_test_add_func("/upgrade-clients/two-at-once", test_two_at_once);
    g_test_add_func("/upgrade-clients/fewer-monitors", test_fewer_monitors);
    for (unsigned i = 0; i < G_N_ELEMENTS(listed); i++) {
        g_autofree char *path = g_strdup_printf("/upgrade-clients/listed/%s", listed[i].name);

        g_test_add_data_func(path, &listed[i], test_listed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(left); i++) {
        g_autofree char *path = g_strdup_printf("/upgrade-clients/left/%s", left[i].name);

        g_test_add_data_func(path, left[i].faults, test_left);
    }
    return g_test_run();
}
