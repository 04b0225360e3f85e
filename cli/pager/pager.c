/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager: its options and sockets. Then this process is the holder, or, with --serve, which
 * the holder adds, the pager (docs/design/pager.md). One thread until then.
 */
#include "base/failpoints.h"
#include "cli/common/commands.h"
#include "cli/common/format.h"
#include "cli/common/help.h"
#include "cli/common/content-uri.h"
#include "cli/common/options.h"
#include "guest/launch/paths.h"
#include "net/address.h"
#include "pager/cloud-hypervisor/offload.h"
#include "pager/cloud-hypervisor/send-snapshot.h"
#include "pager/cloud-hypervisor/take-snapshot.h"
#include "pager/dialects/dialects.h"
#include "pager/holder/holder.h"
#include "pager/holder/log.h"
#include "pager/remote/fetch.h"
#include "pager/server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* Above those that the pager is given by number. */
#define LOWEST_FD 10
#define LOWEST_FD_WITH_SLOTS 128
G_STATIC_ASSERT(LOWEST_FD_WITH_SLOTS >= FF_SERVER_SLOT_FD + 2 * FF_SERVER_SLOTS);
G_STATIC_ASSERT(LOWEST_FD >= FF_SERVER_SLOT_FD);
G_STATIC_ASSERT(FF_SERVER_SLOTS == FF_OFFLOAD_SLOTS);
#define BACKLOG 64

typedef struct {
    gboolean help, no_bulk, paused, own_memory, learn, no_set;
    int slots;
    uint64_t rate, limit; /* of `bandwidth`, `memory` */
    char *listen, *to, *from, *receive, *into, *control, *metrics, *serve, *set, *bandwidth,
        *memory, *creds;
    char *page_server, *name, *dialect;
    char **allow, **positional;
} Line;

static void line_clear(Line *line)
{
    g_free(line->listen);
    g_free(line->to);
    g_free(line->from);
    g_free(line->receive);
    g_free(line->into);
    g_free(line->control);
    g_free(line->metrics);
    g_free(line->serve);
    g_free(line->set);
    g_free(line->bandwidth);
    g_free(line->memory);
    g_free(line->creds);
    g_free(line->page_server);
    g_free(line->name);
    g_free(line->dialect);
    g_strfreev(line->allow);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

static bool parse_line(Line *line, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line->help, NULL, NULL},
        {"listen", 0, 0, G_OPTION_ARG_FILENAME, &line->listen, NULL, NULL},
        {"to", 0, 0, G_OPTION_ARG_FILENAME, &line->to, NULL, NULL},
        {"paused", 0, 0, G_OPTION_ARG_NONE, &line->paused, NULL, NULL},
        {"own-memory", 0, 0, G_OPTION_ARG_NONE, &line->own_memory, NULL, NULL},
        {"from", 0, 0, G_OPTION_ARG_FILENAME, &line->from, NULL, NULL},
        {"receive", 0, 0, G_OPTION_ARG_FILENAME, &line->receive, NULL, NULL},
        {"into", 0, 0, G_OPTION_ARG_FILENAME, &line->into, NULL, NULL},
        {"control", 0, 0, G_OPTION_ARG_FILENAME, &line->control, NULL, NULL},
        {"metrics", 0, 0, G_OPTION_ARG_STRING, &line->metrics, NULL, NULL},
        {"allow", 0, 0, G_OPTION_ARG_STRING_ARRAY, &line->allow, NULL, NULL},
        {"max-bandwidth", 0, 0, G_OPTION_ARG_STRING, &line->bandwidth, NULL, NULL},
        {"max-memory", 0, 0, G_OPTION_ARG_STRING, &line->memory, NULL, NULL},
        {"no-bulk", 0, 0, G_OPTION_ARG_NONE, &line->no_bulk, NULL, NULL},
        {"learn", 0, 0, G_OPTION_ARG_NONE, &line->learn, NULL, NULL},
        {"no-working-set", 0, 0, G_OPTION_ARG_NONE, &line->no_set, NULL, NULL},
        {"set", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME, &line->set, NULL, NULL},
        {"tls-creds", 0, 0, G_OPTION_ARG_FILENAME, &line->creds, NULL, NULL},
        {"page-server", 0, 0, G_OPTION_ARG_STRING, &line->page_server, NULL, NULL},
        {"name", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME, &line->name, NULL, NULL},
        {"dialect", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_STRING, &line->dialect, NULL, NULL},
        {"slots", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_INT, &line->slots, NULL, NULL},
        {"serve", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_STRING, &line->serve, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &line->positional, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    return ff_cli_options(entries, argc, argv, error);
}

static bool parse_users(char **allow, GArray *uids, GError **error)
{
    for (char **name = allow; name && *name; name++) {
        guint64 number;
        const struct passwd *pw = getpwnam(*name);
        if (!pw && !g_ascii_string_to_unsigned(*name, 10, 0, G_MAXUINT32 - 1, &number, NULL)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND,
                        "--allow %s: there is no such user; give a name or a number", *name);
            return false;
        }
        uid_t uid = pw ? pw->pw_uid : (uid_t)number;
        g_array_append_val(uids, uid);
    }
    return true;
}

/* ---- sockets --------------------------------------------------------------------------------- */

static bool fail_path(GError **error, const char *path, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", path, what);
    return false;
}

static int move_above(int fd, int lowest)
{
    int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, lowest);

    if (fd >= 0) {
        close(fd);
    }
    return up;
}

/* FD where no number is meant. */
static int move_up(int fd)
{
    return move_above(fd, LOWEST_FD);
}

/* Nobody listens there any more: a pager that has ended has left it. */
static bool is_socket(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static bool is_left_over(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
                   errno == ECONNREFUSED;

    if (fd >= 0) {
        close(fd);
    }
    return refused && is_socket(addr->sun_path);
}

/* A process that connects is looked at; so others than this user may connect, if there are any.
 * SENDERS: the kernel says of each message who has sent it. -1 and ERROR. */
static int listen_at(const char *path, bool others, bool senders, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fail_path(error, path, "the name is too long for a socket (107 bytes at most)");
        return -1;
    }
    strcpy(addr.sun_path, path);
    int fd = move_up(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    /* Before anybody can connect: a connection has what this socket had then (newer kernels),
     * or has when it is accepted. */
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &(int){senders}, sizeof(int));
    mode_t mask = umask(others ? 0111 : 0177);
    int err = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
    if (err == EADDRINUSE && is_left_over(&addr) && unlink(path) == 0) {
        err = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
    }
    umask(mask);
    if (err || listen(fd, BACKLOG) < 0) {
        fail_path(error, path,
                  err != EADDRINUSE ? g_strerror(err ? err : errno)
                  : is_socket(path)
                      ? "another pager listens there"
                      : "it is there, and no socket: remove it, or name another place");
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/* ADDRESS:PORT, of a host that is not looked up. -1 and ERROR. */
static int listen_tcp(const char *where, GError **error)
{
    const char *colon = strrchr(where, ':');
    g_autofree char *host = g_strndup(where, colon ? (size_t)(colon - where) : 0);
    size_t len = strlen(host);
    guint64 port;
    struct sockaddr_storage native;
    int one = 1;

    if (len > 1 && host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = 0;
        memmove(host, host + 1, len - 1);
    }
    g_autoptr(GSocketAddress) addr = NULL;
    if (colon && g_ascii_string_to_unsigned(colon + 1, 10, 1, 65535, &port, NULL)) {
        addr = g_inet_socket_address_new_from_string(host, (guint)port);
    }
    if (!addr || !g_socket_address_to_native(addr, &native, sizeof(native), NULL)) {
        g_autofree char *what = g_strconcat("--metrics ", where, NULL);
        fail_path(error, what, "give an address and a port: 127.0.0.1:9470");
        return -1;
    }
    int fd = move_up(socket(native.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    int rc =
        bind(fd, (struct sockaddr *)&native, (socklen_t)g_socket_address_get_native_size(addr));
    if (rc < 0 || listen(fd, BACKLOG) < 0) {
        fail_path(error, where, g_strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/* What the clients' content is. */
typedef struct {
    const FfDialect *only; /* of all clients, whose content each has itself; NULL: this is it */
    FfContentIdentity id;
    uint64_t size; /* bytes */
} Source;

static void note_content(Source *source, const FfContent *c)
{
    source->id = *ff_content_identity(c);
    source->size = ff_content_size(c);
}

/* The file, as the pager will have it; read here, so that what is wrong is said with its name. */
static int open_source(const char *path, Source *what, GError **error)
{
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        what->only = &ff_dialect_criu;
        return move_up(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
    g_autoptr(FfContent) source = ff_content_open(path, NULL, NULL, error);

    if (!source) {
        return -1;
    }
    note_content(what, source);
    int fd = move_up(open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0) {
        fail_path(error, path, g_strerror(errno));
    }
    return fd;
}

/* ---- the holder ------------------------------------------------------------------------------ */

#define ARGS 20
#define INHERITED (FF_SERVER_SLOT_FD - FF_SERVER_SOURCE_FD + 2 * FF_SERVER_SLOTS)

/* How this program becomes the pager, and with which fds. */
typedef struct {
    char *argv[ARGS + 1];
    unsigned n;
    int inherit[INHERITED]; /* -1: none */
} Pager;

static void pager_clear(Pager *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        g_free(p->argv[i]);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pager, pager_clear)

/* SLOTS: of Cloud Hypervisor. SET: the name of the source's working set, or NULL. */
static bool prepare_pager(Pager *p, const Line *line, const Source *source, unsigned slots,
                          const char *set, GError **error)
{
    const FfContentIdentity *id = &source->id;

    memset(p->inherit, -1, sizeof(p->inherit));
    if (line->control && (p->inherit[1] = listen_at(line->control, false, false, error)) < 0) {
        return false;
    }
    if (line->metrics && (p->inherit[2] = listen_tcp(line->metrics, error)) < 0) {
        return false;
    }
    p->argv[p->n++] = g_strdup("farfault");
    p->argv[p->n++] = g_strdup("pager");
    p->argv[p->n++] = g_strdup_printf(
        "--serve=%" PRIu64 ".%" PRId64 ".%" PRId64 ".%" PRIu64 ".%" PRIu64 ".%" PRIu64,
        id->stamp.size, id->stamp.sec, id->stamp.nsec, id->stamp.dev, id->stamp.ino, id->digest);
    p->argv[p->n++] = g_strdup_printf("--slots=%u", slots);
    if (source->only) {
        p->argv[p->n++] = g_strdup_printf("--dialect=%s", source->only->name);
    }
    if (line->no_bulk) {
        p->argv[p->n++] = g_strdup("--no-bulk");
    }
    if (line->page_server) {
        p->argv[p->n++] = g_strdup_printf("--page-server=%s", line->page_server);
    }
    if (line->learn || line->no_set) {
        p->argv[p->n++] = g_strdup(line->learn ? "--learn" : "--no-working-set");
    }
    if (ff_content_is_uri(line->from)) {
        p->argv[p->n++] = g_strdup_printf("--from=%s", line->from);
    }
    if (line->creds) {
        g_autofree char *folder = g_canonicalize_filename(line->creds, NULL);
        p->argv[p->n++] = g_strdup_printf("--tls-creds=%s", folder);
    }
    if (line->rate) {
        p->argv[p->n++] = g_strdup_printf("--max-bandwidth=%" PRIu64, line->rate);
    }
    if (line->limit) {
        p->argv[p->n++] = g_strdup_printf("--max-memory=%" PRIu64, line->limit);
    }
    if (set) {
        p->argv[p->n++] = g_strdup_printf("--set=%s", set);
    }
    if (!ff_content_is_uri(line->from)) {
        p->argv[p->n++] = g_strdup_printf("--name=%s", line->from);
    }
    if (line->control) {
        p->argv[p->n++] = g_strdup_printf("--control=%s", line->control);
    }
    if (line->metrics) {
        p->argv[p->n++] = g_strdup_printf("--metrics=%s", line->metrics);
    }
    return true;
}

/* It is there, and which content it has. */
static bool ask_far(const Line *line, const char *plugin, Source *what, GError **error)
{
    const FfContentAccess access = {.tls_creds = line->creds, .plugin = plugin};

    signal(SIGPIPE, SIG_IGN);
    g_autoptr(FfContent) source = ff_content_open(line->from, NULL, &access, error);
    if (source) {
        note_content(what, source);
    }
    return source;
}

/* ---- CRIU's page server ---------------------------------------------------------------------- */

/* A process of its own, as the holder waits for nobody, and a pager may die. What is sent to all of
 * them it does not heed: it ends with the holder. */
static void run_fetcher(const FfFetch *f, pid_t holder)
{
    const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    g_autoptr(GError) error = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "fetcher");
    for (unsigned i = 0; i < G_N_ELEMENTS(ignored); i++) {
        signal(ignored[i], SIG_IGN);
    }
    FF_FAULT_SIDE("fetcher");
    if (getppid() != holder) {
        _exit(EXIT_FAILED);
    }
    if (ff_fetch_run(f, &error)) {
        ff_say("%s: all pages are here; its processes end", f->name);
        _exit(EXIT_OK);
    }
    ff_say("%s", error->message);
    _exit(EXIT_FAILED);
}

/* Connects, and starts the fetcher. From here on an end of ours lets the server's processes run
 * again. */
static bool start_fetcher(const Line *line, FfFetch *f, Pager *p, FfHolderFetcher *of_holder,
                          GError **error)
{
    int *at = p->inherit + (FF_SERVER_FETCHED_FD - FF_SERVER_SOURCE_FD);
    const char *where = line->page_server;
    where += g_str_has_prefix(where, "tcp:") ? strlen("tcp:") : 0;
    g_autofree char *uri = g_strconcat("tcp:", where, NULL);
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    pid_t holder = getpid();
    int ends[2];

    if (!address) {
        return fail_path(error, line->page_server, "give HOST:PORT, as --page-server source:27777");
    }
    if (!ff_fetch_open(f, line->from, error)) {
        return false;
    }
    f->name = line->page_server;
    f->rate = line->rate;
    f->server = move_up(ff_fetch_connect(address, error));
    if (f->server < 0) {
        g_prefix_error(error,
                       "is criu dump --lazy-pages waiting at --page-server %s? It takes one "
                       "connection, once: ",
                       line->page_server);
        return false;
    }
    pid_t pid = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -1 : fork();
    if (pid < 0) {
        return fail_path(error, line->page_server, g_strerror(errno));
    }
    if (pid == 0) {
        close(ends[0]);
        f->link = ends[1];
        run_fetcher(f, holder);
    }
    close(ends[1]);
    at[0] = move_up(ff_fetched_memfd(f->fetched));
    at[1] = move_up(ff_fetched_kick(f->fetched));
    *of_holder = (FfHolderFetcher){move_up(ends[0]), f->server};
    return true;
}

/* ---- clients at a socket --------------------------------------------------------------------- */

static bool has_file(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    return access(path, F_OK) == 0;
}

/* They can come later, before the first process is restored. */
static bool look_for_images(const char *folder, GError **error)
{
    if (has_file(folder, "inventory.img")) {
        return true;
    }
    if (has_file(folder, "migration_config.json")) {
        return fail_path(error, folder,
                         "it is a snapshot of Cloud Hypervisor: --to SOCKET restores it");
    }
    fprintf(stderr, "farfault pager: %s has no images of CRIU yet (inventory.img)\n", folder);
    return true;
}

static int run_holder(const Line *line, GArray *uids, GError **error)
{
    Source what = {0};
    bool far = ff_content_is_uri(line->from);
    g_auto(Pager) p = {0};
    g_auto(FfFetch) fetched = {0};
    FfHolderFetcher fetcher;
    g_autofree char *plugin = far ? ff_find_helper("farfault-nbd.so") : NULL;
    /* The next pagers have the one of now, also when another one was installed. */
    int source = plugin ? FF_FAULT_CALL("plugin-open", move_up(open(plugin, O_RDONLY | O_CLOEXEC)))
                 : far  ? -1
                        : open_source(line->from, &what, error);

    if (source < 0 && (plugin || !far)) {
        if (!*error) {
            fail_path(error, plugin ? plugin : line->from, g_strerror(errno));
        }
        return EXIT_FAILED;
    }
    if (far && !ask_far(line, plugin, &what, error)) {
        return EXIT_FAILED;
    }
    bool criu = what.only == &ff_dialect_criu;
    if (criu && !line->page_server && !look_for_images(line->from, error)) {
        return EXIT_FAILED;
    }
    g_autofree char *file = g_canonicalize_filename(line->from, NULL);
    g_autofree char *set = criu || far ? NULL : g_strconcat(file, ".ws", NULL);
    if (!prepare_pager(&p, line, &what, 0, set, error)) {
        return EXIT_FAILED;
    }
    p.inherit[0] = source;
    if (line->page_server && !criu) {
        fail_path(error, line->from, "--page-server is for a folder with CRIU's images");
        return EXIT_FAILED;
    }
    int listener = listen_at(line->listen, uids->len, criu, error);
    if (listener < 0) {
        return EXIT_FAILED;
    }
    /* The last thing that can fail: it takes the one connection that there is. */
    if (line->page_server && !start_fetcher(line, &fetched, &p, &fetcher, error)) {
        unlink(line->listen);
        return EXIT_FAILED;
    }
    fprintf(stderr, "farfault pager: listens at %s\n", line->listen);
    int status =
        ff_holder_run(&(FfHolderConfig){.arrival = criu ? &ff_arrival_criu : &ff_arrival_message,
                                        .listen_fd = listener,
                                        .dialect = what.only ? ff_dialect_number(what.only) : 0,
                                        .recognise = ff_dialect_recognise,
                                        .answer = ff_dialect_answer,
                                        .content = what.size,
                                        .pager_argv = p.argv,
                                        .inherit = p.inherit,
                                        .n_inherit = G_N_ELEMENTS(p.inherit),
                                        .uids = (const uid_t *)(void *)uids->data,
                                        .n_uids = uids->len,
                                        .fetcher = line->page_server ? &fetcher : NULL},
                      error);
    unlink(line->listen);
    if (line->control) {
        unlink(line->control);
    }
    return status;
}

/* ---- Cloud Hypervisor ------------------------------------------------------------------------ */

/* A process of its own, as the holder waits for nobody; it ends with that. */
static void run_replay(const FfSendSnapshot *r, const FfOffload *o, int talk, bool run)
{
    g_autoptr(GError) error = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ff_send_snapshot_finish(r, o, talk, run, &error)) {
        ff_say("the guest is there, and %s", run ? "runs" : "is paused");
        send(talk, "", 1, MSG_NOSIGNAL);
        _exit(EXIT_OK);
    }
    ff_say("%s", error->message);
    _exit(EXIT_FAILED);
}

static int hold_for(const Line *line, FfSendSnapshot *r, const FfOffload *o, GError **error)
{
    g_auto(Pager) p = {0};
    int talk[2];

    const Source what = {.only = &ff_dialect_cloud_hypervisor};
    if (!prepare_pager(&p, line, &what, o->n_slots, NULL, error)) {
        return EXIT_FAILED;
    }
    for (unsigned i = 0; i < FF_SERVER_SLOT_FD - FF_SERVER_SOURCE_FD; i++) {
        p.inherit[i] = move_above(p.inherit[i], LOWEST_FD_WITH_SLOTS);
    }
    for (unsigned i = 0; i < o->n_slots; i++) {
        int *at = p.inherit + (FF_SERVER_SLOT_FD - FF_SERVER_SOURCE_FD) + i;
        bool has_memory = o->memory[i] >= 0;
        at[0] = has_memory ? fcntl(o->memory[i], F_DUPFD_CLOEXEC, LOWEST_FD_WITH_SLOTS) : -1;
        at[o->n_slots] = fcntl(o->file[i], F_DUPFD_CLOEXEC, LOWEST_FD_WITH_SLOTS);
        if ((has_memory && at[0] < 0) || at[o->n_slots] < 0) {
            fail_path(error, line->from, g_strerror(errno));
            return EXIT_FAILED;
        }
    }
    void *answer = line->own_memory
                       ? mmap(NULL, FF_OFFLOAD_ANSWER, PROT_READ, MAP_SHARED, o->memory[0], 0)
                       : NULL;
    if (answer == MAP_FAILED) {
        fail_path(error, line->from, g_strerror(errno));
        return EXIT_FAILED;
    }
    if (!ff_send_snapshot_begin(r, line->to, o, error)) {
        return EXIT_FAILED;
    }
    pid_t pid = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk) < 0 ? -1 : fork();
    if (pid == 0) {
        close(talk[0]);
        close(r->fault);
        run_replay(r, o, talk[1], !line->paused);
    } else if (pid < 0) {
        fail_path(error, line->to, g_strerror(errno));
        return EXIT_FAILED;
    }
    close(talk[1]);
    close(r->control); /* that process's: its end is told */
    r->control = -1;
    const FfHolderAsks asks = {.fault_fd = r->fault,
                               .talk_fd = talk[0],
                               .pid = r->pid,
                               .uid = r->uid,
                               .answer = answer,
                               .answer_len = FF_OFFLOAD_ANSWER,
                               .hello = o->slot,
                               .hello_len = o->n_slots * (uint32_t)sizeof(o->slot[0])};
    return ff_holder_run(&(FfHolderConfig){.arrival = &ff_arrival_asks,
                                           .listen_fd = -1,
                                           .dialect = ff_dialect_number(what.only),
                                           .pager_argv = p.argv,
                                           .inherit = p.inherit,
                                           .n_inherit = G_N_ELEMENTS(p.inherit),
                                           .asks = &asks},
                         error);
}

static int restore_to(const Line *line, GError **error)
{
    g_auto(FfOffload) o = {0};
    g_auto(FfSendSnapshot) r = {0};

    if (!ff_offload_open(&o, line->from, line->own_memory, error)) {
        return EXIT_FAILED;
    }
    int status = hold_for(line, &r, &o, error);
    if (line->control) {
        unlink(line->control);
    }
    return status;
}

/* Instead of ending this process they are read: what is unfinished is removed. -1 and ERROR. */
static int catch_signals(GError **error)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM};
    struct sigaction now;
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
            sigaddset(&set, signals[i]);
        }
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        fail_path(error, "signalfd", g_strerror(errno));
    }
    return fd;
}

static bool receive_snapshot(const Line *line, const GArray *uids, int listener, int stop,
                             FfOffloadWriter *w, FfReceived *r, GError **error)
{
    int sock = ff_receive_accept(listener, stop, (const uid_t *)(const void *)uids->data, uids->len,
                                 error);

    unlink(line->receive); /* one snapshot, and nobody is let wait for another */
    close(listener);
    bool done = sock >= 0 && ff_receive_snapshot(sock, stop, w, r, error);
    if (sock >= 0) {
        close(sock);
    }
    return done;
}

static int receive_into(const Line *line, const GArray *uids, GError **error)
{
    FfReceived r;
    int stop = catch_signals(error);
    g_autoptr(FfOffloadWriter) w = stop < 0 ? NULL : ff_offload_writer_new(line->into, error);
    int listener = w ? listen_at(line->receive, uids->len, false, error) : -1;

    if (listener < 0) {
        return EXIT_FAILED;
    }
    signal(SIGPIPE, SIG_IGN);
    ff_say("waits for Cloud Hypervisor at %s", line->receive);
    if (!receive_snapshot(line, uids, listener, stop, w, &r, error)) {
        return EXIT_FAILED;
    }
    g_autofree char *memory = ff_format_bytes((double)r.memory);
    g_autofree char *bytes = ff_format_bytes((double)r.bytes);
    ff_say("the snapshot is in %s: %s of memory, of which %s are written, in %.1f s; its guest %s",
           line->into, memory, bytes, (double)r.us / G_USEC_PER_SEC,
           r.gone  ? "is gone"
           : r.ran ? "was running before"
                   : "was paused before");
    return EXIT_OK;
}

/* As run_holder() has said it. */
static int run_server(const Line *line)
{
    FfServerConfig cfg = {.dialects = ff_dialects,
                          .bulk = !line->no_bulk,
                          .rate = line->rate,
                          .memory = line->limit,
                          .sets = !line->no_set && !line->page_server,
                          .learn = line->learn,
                          .set = line->set,
                          .far = line->from,
                          .name = line->name,
                          .access = {.tls_creds = line->creds},
                          .control = line->control,
                          .metrics = line->metrics,
                          .fetched = line->page_server};

    cfg.only = line->dialect ? ff_dialect_named(line->dialect) : NULL;
    if (line->slots < 0 || line->slots > FF_SERVER_SLOTS || !cfg.only != !line->dialect) {
        return EXIT_USAGE;
    }
    cfg.slots = (unsigned)line->slots;
    FfInputStamp *stamp = &cfg.source.stamp;
    if (sscanf(line->serve, "%" SCNu64 ".%" SCNd64 ".%" SCNd64 ".%" SCNu64 ".%" SCNu64 ".%" SCNu64,
               &stamp->size, &stamp->sec, &stamp->nsec, &stamp->dev, &stamp->ino,
               &cfg.source.digest) != 6) {
        return EXIT_USAGE;
    }
    return ff_server_run(&cfg);
}

static const char *misuse_of_receive(const Line *line)
{
    if (!line->receive || !line->into || line->positional) {
        return "give a socket and a folder: farfault pager --receive SOCKET --into FOLDER";
    }
    if (line->listen || line->to || line->from || line->control || line->metrics ||
        line->bandwidth || line->creds || line->no_bulk || line->paused || line->own_memory ||
        line->learn || line->no_set || line->memory || line->page_server || line->set) {
        return "--receive SOCKET --into FOLDER takes no options but --allow";
    }
    return NULL;
}

/* As pagers served each other before NBD. A socket or a file can have such a name. */
static bool is_of_page_protocol(const char *where)
{
    return where && (g_str_has_prefix(where, "tcp:") || g_str_has_prefix(where, "tls:")) &&
           access(where, F_OK) < 0;
}

/* Options that are not for each other; NULL: all is right. */
static const char *explain_misuse(const Line *line)
{
    if (line->receive || line->into) {
        return misuse_of_receive(line);
    }
    if (line->listen && line->to) {
        return "--listen and --to are not for each other: clients connect to --listen, and --to "
               "connects to a Cloud Hypervisor";
    }
    if (!line->listen == !line->to || !line->from || line->positional) {
        return "give a socket and a file: farfault pager --listen SOCKET --from FILE, or --to "
               "SOCKET --from FOLDER, or --receive SOCKET --into FOLDER";
    }
    bool far = ff_content_is_uri(line->from);
    if (is_of_page_protocol(line->listen)) {
        return "--listen tcp: and tls: are not there any more: serve the file by NBD (nbdkit -r "
               "file FILE), and start the other host's pager with --from nbd://HOST/";
    }
    if (is_of_page_protocol(line->from)) {
        return "--from tcp: and tls: are not there any more, and pagers do not serve others: on "
               "that host nbdkit -r file FILE, and here --from nbd://HOST/ (nbds: with "
               "--tls-creds)";
    }
    if (far && (line->to || line->learn || line->no_set)) {
        return "--from with a URI is for --listen SOCKET, without working sets";
    }
    if (line->page_server && (far || line->to || line->learn || line->no_set)) {
        return "--page-server is for --listen SOCKET --from FOLDER, without working sets";
    }
    if (line->creds && !(far && g_str_has_prefix(line->from, "nbds"))) {
        return "--tls-creds FOLDER is for --from nbds:";
    }
    if (line->learn && (line->no_set || line->to)) {
        return "--learn is for --listen, and not with --no-working-set";
    }
    if (line->to ? line->allow != NULL : line->paused || line->own_memory) {
        return line->to ? "--allow is for --listen" : "--paused and --own-memory are for --to";
    }
    return NULL;
}

int ff_cli_pager(int argc, char **argv)
{
    g_auto(Line) line = {0};
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(uid_t));

    if (!parse_line(&line, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault pager --help)\n", error->message);
        return EXIT_USAGE;
    }
    if (line.help) {
        fputs(ff_help_pager, stdout);
        return EXIT_OK;
    }
    if (line.bandwidth && ff_parse_size(line.bandwidth, &line.rate) < 0) {
        fprintf(stderr, "farfault: --max-bandwidth %s: give bytes per second, as 4096, 64M or 1G\n",
                line.bandwidth);
        return EXIT_USAGE;
    }
    if (line.memory && ff_parse_size(line.memory, &line.limit) < 0) {
        fprintf(stderr,
                "farfault: --max-memory %s: give bytes, as 4096, 64M or 1G (less than 8E)\n",
                line.memory);
        return EXIT_USAGE;
    }
    if (line.serve) {
        return run_server(&line);
    }
    if (line.positional) {
        fprintf(stderr,
                "farfault: %s: no such word is known, and no file is given but by an option "
                "(farfault pager --help)\n",
                line.positional[0]);
        return EXIT_USAGE;
    }
    const char *wrong = explain_misuse(&line);
    if (wrong) {
        fprintf(stderr, "farfault: %s\n", wrong);
        return EXIT_USAGE;
    }
    g_autofree char *typo = line.from ? ff_cli_misspelt_uri("--from ", line.from) : NULL;
    if (typo) {
        fprintf(stderr, "farfault: %s\n", typo);
        return EXIT_USAGE;
    }
    if (!parse_users(line.allow, uids, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_USAGE;
    }
    int status = line.receive ? receive_into(&line, uids, &error)
                 : line.to    ? restore_to(&line, &error)
                              : run_holder(&line, uids, &error);
    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
    }
    return status;
}
