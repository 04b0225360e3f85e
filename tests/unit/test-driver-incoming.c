/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver at a destination: migrate-incoming and -incoming, at addresses that are there, and at
 * names that nobody answers for.
 */
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qapi/incoming.h"
#include "qapi/json.h"
#include "qapi/listen.h"
#include "tests/lib/slow-names.h"
#include "tests/unit/driver-world.h"

/* Listens, and hands the listening socket over when somebody connects. */
static void test_incoming(void)
{
    static uint32_t vcpus[] = {3, 4};
    g_autofree char *dir = g_dir_make_tmp("test-driver-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *line =
        g_strdup_printf("{'execute':'migrate-incoming','arguments':{'uri':'unix:%s'}}", path);
    g_autofree char *expected = g_strdup_printf(
        "reply {\"return\": {\"socket-address\": [{\"path\": \"%s\", \"type\": \"unix\"}]}}\n",
        path);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    int listening = 0;
    socklen_t length = sizeof(listening);
    World w;

    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, line);
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    /* The next engine must find the socket that a source may wait at. */
    sent(&w, "hold {\"name\": \"incoming:0\"}\n"
             "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "reply {\"return\": {}}\n");
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, expected);
    command(&w, line);
    command(&w, "{'execute':'migrate-start-postcopy'}");
    sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"The incoming migration has already been started\"}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Postcopy must be started after migration has been started\"}}\n");
    g_autoptr(GSocketConnection) connection =
        g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, NULL);

    g_assert_nonnull(connection);
    while (g_queue_is_empty(&w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(g_queue_get_length(&w.questions), ==, 3); /* in one go */
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    g_assert_null(migration);
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    g_assert_nonnull(migration);
    g_assert_cmpint(
        getsockopt(migration->config.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length), ==, 0);
    g_assert_cmpint(listening, ==, 1);
    sent(&w, "");
    migration->holds = true;
    command(&w, "{'execute':'cont'}");
    command(&w, "{'execute':'query-status'}");
    command(&w, "{'execute':'system_reset'}");
    sent(&w, "reply {\"return\": {}}\n"
             "reply {\"return\": {\"status\": \"inmigrate\", \"running\": false}}\n"
             "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
             "\"Guest is waiting for an incoming migration\"}}\n");
    g_assert_true(migration->conted);
    migration->holds = false;
    command(&w, "{'execute':'cont'}");
    sent(&w, "pass\n");
    w.state->client_flags |= FF_CLIENT_CAP_POSTCOPY_BLOCKTIME;
    migration->info.n_vcpus = 2;
    migration->info.vcpu_blocktime_ms = vcpus;
    finish(FF_STATUS_COMPLETED);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    rmdir(dir);
    world_clear(&w);
}

/* Two clients of a destination that listens: QEMU hears both words on one monitor, in the order in
 * which they were said. */
static void test_words_in_turn(void)
{
    World w;

    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    wait_sent(&w);
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'cont'}");
    command_of(&w, 1, "{'execute':'stop'}");
    sent(&w, "");
    qemu_answers(&w, "cont", "{}");
    qemu_answers(&w, "stop", "{}");
    sent(&w, "reply {\"return\": {}}\nreply {\"return\": {}}\n");
    g_assert_true(w.state->driver_flags & FF_DRIVER_CLIENT_STOP);
    world_clear(&w);
}

/* An engine that has not heard QEMU's greeting yet says what the one before it said: before
 * QEMU 8.2 a destination that listens has no status. */
static void test_version_is_kept(void)
{
    World w;

    qemu_version = 100002;
    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    wait_sent(&w);
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'query-migrate'}");
    g_autofree char *before = g_strdup(w.out->str);

    g_assert_nonnull(strstr(before, "\"status\": \"setup\""));
    g_assert_cmpuint(w.state->qemu_version, ==, 100002);
    qemu_version = 0;
    g_string_truncate(w.out, 0);
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, before);
    world_clear(&w);
}

/* ---- names that nobody answers for ----------------------------------------------------------- */

#define INCOMING_SLOW                                                                              \
    "{'execute':'migrate-incoming','arguments':{'uri':'tcp:" SLOW_NAME ":0'},'id':'in'}"
#define STARTED_ALREADY                                                                            \
    "\"error\": {\"class\": \"GenericError\", \"desc\": "                                          \
    "\"The incoming migration has already been started\"}}\n"

static char *gate; /* of slow-names.h */

/* A destination whose client names a host that is not found yet. */
static int ask_slowly(World *w)
{
    set_postcopy(w);
    command(w, INCOMING_SLOW);
    qemu_answers(w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    return slow_names_await(gate);
}

static void test_name(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    /* A client that did not ask for it does not wait; one that did waits in order. */
    command(&w, "{'execute':'query-migrate'}");
    sent(&w, "");
    command_of(&w, 1, "{'execute':'query-migrate'}");
    sent(&w, "pass\n"); /* nothing is under way yet */
    close(fd);
    wait_sent(&w);
    g_assert_true(g_str_has_prefix(
        w.out->str, "hold {\"name\": \"incoming:0\"}\n"
                    "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
                    "reply {\"return\": {}, \"id\": \"in\"}\n"
                    "reply {\"return\": {\"socket-address\": [{\"port\": "));
    world_clear(&w);
}

static void test_name_unknown(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    g_assert_cmpint(write(fd, "x", 1), ==, 1);
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"id\": \"in\", \"error\": {\"class\": \"GenericError\", \"desc\": \"address "
             "resolution failed for " SLOW_NAME ":0: Name or service not known\"}}\n");
    world_clear(&w);
}

/* Two clients: the second one's address needs no name. */
static void test_name_overtaken(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    command_of(&w, 1, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    wait_sent(&w);
    sent(&w, "hold {\"name\": \"incoming:0\"}\n"
             "filter 3\nevent \"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}\n"
             "reply {\"return\": {}}\n");
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"id\": \"in\", " STARTED_ALREADY);
    world_clear(&w);
}

/* The driver ends, and the answer comes when there is nobody any more. */
static void test_name_driver_ends(void)
{
    World w;

    world_init(&w, "defer", NULL);
    int fd = ask_slowly(&w);

    world_clear(&w);
    close(fd);
    /* The answer is the main loop's to throw away. */
    g_main_context_iteration(NULL, TRUE);
}

/* The relay's own question, -incoming URI: it is answered when somebody listens. */
static void test_name_argument(void)
{
    static const char uri[] = "tcp:" SLOW_NAME ":0";
    World w;

    world_init(&w, uri, NULL);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    int fd = slow_names_await(gate);

    sent(&w, "");
    close(fd);
    wait_sent(&w);
    g_assert_true(g_str_has_suffix(w.out->str, "reply\n"));
    command(&w, "{'execute':'query-migrate'}");
    g_assert_nonnull(strstr(w.out->str, "socket-address"));
    world_clear(&w);
}

/* A source connects to the only address at which W listens, and QEMU says what it is asked. */
static void migration_comes(World *w)
{
    command(w, "{'execute':'query-migrate'}");
    g_autofree char *at = g_strdup(strstr(w->out->str, "\"port\": \""));
    g_autoptr(GSocketClient) client = g_socket_client_new();

    g_assert_nonnull(at);
    g_autoptr(GSocketConnection) connection = g_socket_client_connect_to_host(
        client, "127.0.0.1", (guint16)g_ascii_strtoull(at + strlen("\"port\": \""), NULL, 10), NULL,
        NULL);

    g_assert_nonnull(connection);
    while (g_queue_is_empty(&w->questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    qemu_answers(w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    g_assert_nonnull(migration);
    migration->info.role = FF_ROLE_DESTINATION;
}

/* The guest's memory is not all there: nobody gets it who would make zeros of what is missing. */
static void test_plugged_meanwhile(void)
{
    static const char uri[] = "tcp:127.0.0.1:0";
    static const char *const refused[] = {
        "{'execute':'device_add','arguments':{'driver':'vhost-user-blk-pci','chardev':'c'}}",
        "{'execute':'device_add','arguments':{'driver':'vhost-user-fs-pci','chardev':'c'}}",
        "{'execute':'netdev_add','arguments':{'type':'vhost-user','id':'n','chardev':'c'}}"};
    static const char *const passed[] = {
        "{'execute':'device_add','arguments':{'driver':'virtio-rng-pci'}}",
        "{'execute':'netdev_add','arguments':{'type':'user','id':'n'}}",
        "{'execute':'human-monitor-command','arguments':{'command-line':'netdev_add user,id=n'}}"};
    World w;

    world_init(&w, uri, NULL);
    set_postcopy(&w);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    wait_sent(&w);
    migration_comes(&w);
    w.state->role = FF_ROLE_DESTINATION;
    g_string_truncate(w.out, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(refused); i++) {
        command(&w, refused[i]);
        sent(&w, "reply {\"error\": {\"class\": \"GenericError\", \"desc\": "
                 "\"" FF_PLUG_COMING "\"}}\n");
    }
    command(&w, "{'execute':'human-monitor-command','arguments':{'command-line':"
                "'netdev_add vhost-user,id=n,chardev=c'}}");
    sent(&w, "reply {\"return\": \"Error: " FF_PLUG_COMING "\\r\\n\"}\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(passed); i++) {
        command(&w, passed[i]);
        sent(&w, "pass\n");
    }
    finish(FF_STATUS_COMPLETED);
    world_clear(&w);
}

/* A migration that is paused, and is to listen at a name. */
static void test_name_recover(void)
{
    static const char uri[] = "tcp:127.0.0.1:0";
    World w;

    world_init(&w, uri, NULL);
    set_postcopy(&w);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    wait_sent(&w);
    g_string_truncate(w.out, 0);
    migration_comes(&w);
    become(FF_STATUS_POSTCOPY_PAUSED);
    g_string_truncate(w.out, 0);
    command(&w, "{'exec-oob':'migrate-recover','arguments':{'uri':'tcp:" SLOW_NAME ":0'}}");
    int fd = slow_names_await(gate);

    sent(&w, "");
    command(&w, "{'execute':'query-migrate'}");
    g_assert_nonnull(strstr(w.out->str, "postcopy-paused"));
    g_string_truncate(w.out, 0);
    g_assert_null(migration->resumed_at);
    close(fd);
    wait_sent(&w);
    sent(&w, "reply {\"return\": {}}\n");
    g_assert_cmpstr(migration->resumed_at, ==, "tcp:" SLOW_NAME ":0");
    world_clear(&w);
}

/* ---- unix sockets in QEMU's folder ----------------------------------------------------------- */

typedef struct {
    char *folder;
    pid_t qemu; /* a process that is there */
} Folder;

static void folder_init_as(Folder *f, const char *pattern)
{
    int ends[2];
    char byte;

    f->folder = g_dir_make_tmp(pattern, NULL);
    g_assert_cmpint(pipe(ends), ==, 0);
    f->qemu = fork();
    if (f->qemu == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(chdir(f->folder) || write(ends[1], "", 1) != 1 || pause());
    }
    close(ends[1]);
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 1);
    close(ends[0]);
    world_pid = f->qemu;
}

static void folder_init(Folder *f)
{
    folder_init_as(f, "test-driver-XXXXXX");
}

static void folder_clear(Folder *f)
{
    world_pid = 0;
    kill(f->qemu, SIGKILL);
    waitpid(f->qemu, NULL, 0);
    g_assert_cmpint(rmdir(f->folder), ==, 0);
    g_free(f->folder);
}

static void listen_at_name(World *w)
{
    command(w, "{'execute':'migrate-incoming','arguments':{'uri':'unix:m'}}");
    qemu_answers(w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(w, "query-migrate-parameters", PARAMETERS);
}

/* It listens where QEMU would, and shows what QEMU would show. */
static void expect_listening(World *w, const Folder *f)
{
    g_autofree char *path = g_build_filename(f->folder, "m", NULL);

    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    g_string_truncate(w->out, 0);
    command(w, "{'execute':'query-migrate'}");
    sent(w, "reply {\"return\": {\"socket-address\": [{\"path\": \"m\", \"type\": "
            "\"unix\"}]}}\n");
}

static void test_folder_command(void)
{
    Folder f;
    World w;

    folder_init(&f);
    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    listen_at_name(&w);
    expect_listening(&w, &f);
    world_clear(&w);
    folder_clear(&f);
}

/* Also for a process that sees another /proc: the name that the kernel has of the socket is one of
 * that folder. The next engine knows that name alone. */
static void test_folder_argument(void)
{
    static const char uri[] = "unix:m";
    Folder f;
    World w;

    folder_init(&f);
    world_init(&w, uri, NULL);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    expect_listening(&w, &f);
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    int fd = dup(g_array_index(w.driver->incoming->fds, int, 0));
    g_autofree char *name = ff_listen_path(fd);
    g_autofree char *path = g_build_filename(f.folder, "m", NULL);

    g_array_append_val(fds, fd);
    g_autoptr(JsonArray) shown = ff_listen_addresses(fds);

    g_assert_cmpstr(name, ==, path);
    g_assert_cmpstr(json_object_get_string_member(json_array_get_object_element(shown, 0), "path"),
                    ==, path);
    close(fd);
    world_clear(&w);
    folder_clear(&f);
}

/* A folder that cannot be had: QEMU listens. */
static void test_folder_unknown(void)
{
    static const char uri[] = "unix:m";
    World w;

    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    listen_at_name(&w);
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    sent(&w, "inject {\"execute\": \"migrate-incoming\", \"arguments\": {\"uri\": \"unix:m\"}}\n");
    world_clear(&w);
    world_init(&w, uri, NULL);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    qemu_answers(&w, "migrate-incoming", "{}");
    world_clear(&w);
    g_assert_false(g_file_test("m", G_FILE_TEST_EXISTS));
}

/* A name that a URI cannot have is left to the kernel. */
static void test_folder_recover(gconstpointer pattern)
{
    static const char uri[] = "tcp:127.0.0.1:0";
    Folder f;
    World w;

    folder_init_as(&f, pattern);
    world_init(&w, uri, NULL);
    set_postcopy(&w);
    ff_driver_frame(w.driver, FF_LINK_START_INCOMING, 0, 7, uri, strlen(uri), -1);
    wait_sent(&w);
    g_string_truncate(w.out, 0);
    migration_comes(&w);
    become(FF_STATUS_POSTCOPY_PAUSED);
    command(&w, "{'execute':'migrate-recover','arguments':{'uri':'unix:r'}}");
    g_autofree char *path = strchr(pattern, ',') ? g_strdup_printf("unix:/proc/%d/cwd/r", f.qemu)
                                                 : g_strdup_printf("unix:%s/r", f.folder);

    g_assert_cmpstr(migration->resumed_at, ==, path);
    world_clear(&w);
    folder_clear(&f);
}

/* One connection, which QEMU is to carry: it is given that one, with multifd, too. */
static void test_incoming_fd(void)
{
    int pair[2];
    World w;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    world_init(&w, "defer", NULL);
    set_postcopy(&w);
    command(&w, "{'execute':'migrate-incoming','arguments':{'uri':'fd:mig'}}");
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-capabilities", CAPS_EVENTS);
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    sent(&w, "take-fd mig\n");
    ff_driver_frame(w.driver, FF_LINK_FD_REPLY, 0, 1, "", 0, pair[0]);
    ff_driver_frame(w.driver, FF_LINK_INJECT_REPLY, 0, 2, "{\"return\": {}}", 14, -1);
    g_assert_cmpint(write(pair[1], "Q", 1), ==, 1);
    while (g_queue_is_empty(&w.questions)) {
        g_main_context_iteration(NULL, TRUE);
    }
    qemu_answers(&w, "query-status", "{'status':'inmigrate'}");
    qemu_answers(&w, "query-migrate-parameters", PARAMETERS);
    qemu_answers(&w, "query-migrate-capabilities",
                 "[" CAP("xbzrle", "true") "," CAP("multifd", "true") "]");
    qemu_answers(&w, "migrate-set-capabilities", "{}");
    qemu_answers(&w, "getfd", "{}");
    qemu_answers(&w, "migrate-incoming", "{}");
    g_assert_null(migration);
    world_clear(&w);
    close(pair[1]);
}

/* ---- an engine before it died while it gave an incoming migration to QEMU -------------------- */

/* QEMU's settings are not back yet, and what QEMU's socket has seen until they are. */
typedef struct {
    World w;
    bool works;   /* they can be put back */
    int qemu;     /* QEMU's private socket, which listens */
    bool early;   /* somebody connected to it before they were back */
    gint ended;   /* atomic; this QEMU was ended */
    char *folder; /* of the socket's name */
} GivenBack;

static GivenBack *given_back;

#define NOTHING_COMES_MS 200

static bool undo_settings(FfVmmState *state, GError **error)
{
    struct pollfd p = {.fd = given_back->qemu, .events = POLLIN};

    given_back->early = poll(&p, 1, NOTHING_COMES_MS) != 0;
    if (!given_back->works) {
        g_set_error_literal(error, FF_DRIVER_ERROR, 0, "QEMU does not take them");
        return false;
    }
    /* Observer: the main loop, after this thread was joined. */
    g_clear_pointer(&given_back->w.capabilities, g_free);
    return true;
}

static FfGuestFit check_fits(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                             GError **error)
{
    g_assert_true(memory->patient);
    return FF_GUEST_FITS;
}

static void end_vmm(FfVmmState *state)
{
    g_atomic_int_set(&given_back->ended, true);
    g_main_context_wakeup(NULL);
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* An engine comes that finds a socket to listen on, at which a source waits already (returned), and
 * QEMU that has taken the migration at a socket of its own. */
static int find_given(GivenBack *g)
{
    static const FfStateHeader state = {.role = FF_ROLE_DESTINATION,
                                        .driver_flags = FF_DRIVER_LISTENS | FF_DRIVER_GIVING_BACK};
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));

    g->folder = g_dir_make_tmp("farfault-XXXXXX", NULL);
    g_autofree char *at_engine = g_build_filename(g->folder, "engine", NULL);
    g_autofree char *at_qemu = g_build_filename(g->folder, "incoming", NULL);
    int listener = listen_unix(at_engine), source = connect_unix(at_engine);
    g_autofree char *info =
        g_strdup_printf("{'socket-address': [{'type': 'unix', 'path': '%s'}]}", at_qemu);

    g->qemu = listen_unix(at_qemu);
    g_array_append_val(fds, listener);
    world_prepare(&g->w, &state);
    g->w.capabilities = g_strdup("{}");
    vmm.state.undo = undo_settings;
    vmm.state.abandon = end_vmm;
    vmm.memory.check = check_fits;
    given_back = g;
    g->w.driver = ff_driver_new(&(FfDriverConfig){
        .front = -1,
        .front_door = -1,
        .port = &world_port,
        .port_opaque = &g->w,
        .state = g->w.state,
        .state_fd = -1,
        .pidfd = -1,
        .mem_fd = -1,
        .inner_fd = -1,
        .listener_fd = -1,
        .device_fd = -1,
        .incoming_fds = fds,
    });
    qemu_answers(&g->w, "query-version", "{}");
    qemu_answers(&g->w, "migrate-incoming", "!The incoming migration has already been started");
    qemu_answers(&g->w, "query-migrate", info);
    g_unlink(at_engine);
    return source;
}

static void given_clear(GivenBack *g, int source)
{
    close(source);
    close(g->qemu);
    world_clear(&g->w);
    g_autofree char *at_qemu = g_build_filename(g->folder, "incoming", NULL);
    g_unlink(at_qemu);
    g_rmdir(g->folder);
    g_free(g->folder);
    vmm = (FfVmm){0};
}

/* The source is let through to QEMU when QEMU has its settings back. */
static void test_given_back(void)
{
    GivenBack g = {.works = true};
    int source = find_given(&g);
    char byte = 0;

    g_assert_cmpint(write(source, "Q", 1), ==, 1);
    int fd = -1;
    fcntl(g.qemu, F_SETFL, O_NONBLOCK);
    while ((fd = accept(g.qemu, NULL, NULL)) < 0) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
    g_assert_cmpint(byte, ==, 'Q');
    g_assert_false(g.early);
    close(fd);
    given_clear(&g, source);
}

/* They cannot be put back, so without its credentials QEMU would take anybody: it takes nobody. */
static void test_given_back_in_vain(void)
{
    GivenBack g = {0};
    int source = find_given(&g);
    struct pollfd p = {.events = POLLIN};

    while (!g_atomic_int_get(&g.ended)) {
        g_main_context_iteration(NULL, TRUE);
    }
    p.fd = g.qemu;
    g_assert_cmpint(poll(&p, 1, 0), ==, 0);
    g_assert_false(g.early);
    g_assert_nonnull(
        strstr(g.w.log, "QEMU's settings for an incoming migration cannot be restored"));
    given_clear(&g, source);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-driver-XXXXXX", NULL);

    gate = g_build_filename(dir, "gate", NULL);
    g_assert_cmpint(mkfifo(gate, 0600), ==, 0);
    g_setenv(SLOW_NAMES_GATE, gate, TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/driver/incoming", test_incoming);
    g_test_add_func("/driver/incoming/words-in-turn", test_words_in_turn);
    g_test_add_func("/driver/incoming/version-is-kept", test_version_is_kept);
    g_test_add_func("/driver/incoming/fd", test_incoming_fd);
    g_test_add_func("/driver/folder/command", test_folder_command);
    g_test_add_func("/driver/folder/argument", test_folder_argument);
    g_test_add_func("/driver/folder/unknown", test_folder_unknown);
    g_test_add_data_func("/driver/folder/recover", "test-driver-XXXXXX", test_folder_recover);
    g_test_add_data_func("/driver/folder/comma", "test,driver-XXXXXX", test_folder_recover);
    g_test_add_func("/driver/name", test_name);
    g_test_add_func("/driver/name/unknown", test_name_unknown);
    g_test_add_func("/driver/name/overtaken", test_name_overtaken);
    g_test_add_func("/driver/name/driver-ends", test_name_driver_ends);
    g_test_add_func("/driver/name/argument", test_name_argument);
    g_test_add_func("/driver/plugged-meanwhile", test_plugged_meanwhile);
    g_test_add_func("/driver/name/recover", test_name_recover);
    g_test_add_func("/driver/given-back", test_given_back);
    g_test_add_func("/driver/given-back/in-vain", test_given_back_in_vain);
    int rc = g_test_run();

    g_unlink(gate);
    g_rmdir(dir);
    g_free(gate);
    return rc;
}
