/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault migrate and farfault recover where a side has failed and lives: they end, with a line
 * that has its error, and the guest goes on at the source if nothing else can have it. Two monitors
 * without QEMU, each a thread that answers by a table; the command is a process of its own, which
 * may not take longer than LIMIT_S.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/commands.h"

#define LIMIT_S 20
#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 10}, "             \
    "\"package\": \"\"}, \"capabilities\": []}}\n"
#define FAILED "{'status': 'failed', 'error-desc': 'load of x failed'}"
#define COMPLETED "{'status': 'completed', 'total-time': 5}"
#define MIGRATION(status) "{'event': 'MIGRATION', 'data': {'status': '" status "'}}"
#define LISTENS                                                                                    \
    "{'status': 'setup', 'socket-address': [{'type': 'inet', 'host': '127.0.0.1', 'port': '1'}]}"

typedef struct {
    const char *name;
    bool recover;
    const char *option;      /* one more of the command line; NULL */
    const char *was;         /* run state of the source; NULL: running */
    const char *source;      /* query-migrate after migrate ... */
    const char *destination; /* ... and of the destination; recover: of that alone */
    const char *status;      /* event of the source; NULL: none */
    bool event;              /* of the destination: failed */
    const char *state;       /* run state of the destination then */
    const char *cont;        /* answer of the source; NULL: it must not be asked */
    bool cancels;            /* the source is asked to */
    int exit;
    const char *says[3];
} Row;

#define ENGINES "{'status': 'completed', 'total-time': 5, 'x-farfault': {'engine': 'farfault'}}"
#define ENGINE_FAILED                                                                              \
    "{'status': 'failed', 'error-desc': 'load of x failed', 'x-farfault': {'engine': 'qemu'}}"
#define CAUSE "the destination has failed: load of x failed"

static const Row rows[] = {
    {"precopy", .option = "--precopy", .source = COMPLETED, .destination = FAILED,
     .status = "completed", .event = true, .state = "inmigrate", .cont = "{}", .exit = 1,
     .says = {CAUSE, "the guest continues at the source", "is of no more use"}},
    {"precopy/no-event", .option = "--precopy", .source = COMPLETED, .destination = FAILED,
     .status = "completed", .state = "inmigrate", .cont = "{}", .exit = 1,
     .says = {CAUSE, "the guest continues at the source"}},
    {"default", .source = COMPLETED, .destination = FAILED, .status = "completed", .event = true,
     .state = "inmigrate", .cont = "{}", .exit = 1,
     .says = {CAUSE, "the guest continues at the source"}},
    {"refused", .source = COMPLETED, .destination = FAILED, .status = "completed", .event = true,
     .state = "inmigrate", .cont = "!no", .exit = 1,
     .says = {CAUSE, "it does not continue at the source: no", "and only then"}},
    {"runs-there", .source = COMPLETED, .destination = FAILED, .status = "completed", .event = true,
     .state = "running", .exit = 1, .says = {CAUSE, "and only then"}},
    {"stood", .was = "paused", .source = COMPLETED, .destination = FAILED, .status = "completed",
     .event = true, .state = "inmigrate", .exit = 1,
     .says = {CAUSE, "the guest stands at the source"}},
    {"no-cont", .option = "--no-cont", .source = COMPLETED, .destination = FAILED,
     .status = "completed", .event = true, .state = "inmigrate", .exit = 1,
     .says = {CAUSE, "the guest stands at the source"}},
    {"engines", .source = ENGINES, .destination = FAILED, .status = "completed", .event = true,
     .state = "inmigrate", .exit = 4, .says = {CAUSE, "and only then"}},
    {"engine-there", .source = COMPLETED, .destination = ENGINE_FAILED, .status = "completed",
     .event = true, .state = "inmigrate", .exit = 1, .says = {CAUSE, "and only then"}},
    {"source-says", .source = "{'status': 'failed', 'error-desc': 'broken'}", .destination = FAILED,
     .status = "failed", .event = true, .state = "inmigrate", .exit = 1,
     .says = {"the source says: broken"}},
    /* The source does not end. */
    {"active/precopy", .option = "--precopy", .source = "{'status': 'active'}",
     .destination = FAILED, .status = "active", .event = true, .state = "inmigrate",
     .cancels = true, .exit = 1, .says = {CAUSE, "the guest continues at the source"}},
    {"active/switch", .source = "{'status': 'active'}", .destination = FAILED, .status = "active",
     .event = true, .state = "inmigrate", .exit = 4,
     .says = {"load of x failed", "has not ended its migration"}},
    {"recover", .recover = true, .destination = FAILED, .state = "paused", .exit = 1,
     .says = {"is \"failed\": load of x failed"}},
};

typedef struct {
    const Row *row;
    GMutex lock;
    GSocket *listener[2];
    GCancellable *over;
    char *path[2];
    int fd[2]; /* -1: nobody is there */
    bool begun, cancelled;
    unsigned conts, cancels;
} World;

static void write_text(World *w, int side, const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');
    g_autofree char *line = g_strconcat(json, "\n", NULL);

    if (w->fd[side] >= 0 && write(w->fd[side], line, strlen(line)) < 0) {
        w->fd[side] = -1; /* the command has ended */
    }
}

static const char *migration_of(const World *w, int side)
{
    if (!w->begun) {
        return side ? LISTENS : "{}";
    }
    return side ? w->row->destination : w->cancelled ? "{'status': 'cancelled'}" : w->row->source;
}

/* What SIDE (1: the destination) answers to COMMAND. */
static const char *answer(World *w, int side, const char *command)
{
    if (!strcmp(command, "query-status")) {
        return side          ? w->begun ? w->row->state : "inmigrate"
               : w->row->was ? w->row->was
                             : "running";
    }
    if (!strcmp(command, "query-migrate")) {
        return migration_of(w, side);
    }
    if (!strcmp(command, "cont")) {
        w->conts += !side;
        return w->row->cont ? w->row->cont : "!not expected";
    }
    w->begun |= !strcmp(command, "migrate") || !strcmp(command, "migrate-recover");
    if (!strcmp(command, "migrate_cancel")) {
        w->cancels++;
        w->cancelled = true;
    }
    return "{}";
}

static void answer_line(World *w, int side, const char *line)
{
    g_autoptr(JsonNode) node = json_from_string(line, NULL);
    JsonObject *o = json_node_get_object(node);
    const char *command = json_object_get_string_member(o, "execute");
    const char *text = answer(w, side, command);
    g_autofree char *id = json_to_string(json_object_get_member(o, "id"), FALSE);
    g_autofree char *state = !strcmp(command, "query-status")
                                 ? g_strdup_printf("{'status': '%s'}", text)
                                 : g_strdup(text);
    g_autofree char *reply =
        *text == '!' ? g_strdup_printf("{'error': {'class': 'GenericError', 'desc': '%s'}, "
                                       "'id': %s}",
                                       text + 1, id)
                     : g_strdup_printf("{'return': %s, 'id': %s}", state, id);

    write_text(w, side, reply);
    if (!strcmp(command, "migrate")) {
        if (w->row->event) {
            write_text(w, 1, MIGRATION("failed"));
        }
        g_autofree char *event = g_strdup_printf(MIGRATION("%s"), w->row->status);
        write_text(w, 0, event);
    } else if (!strcmp(command, "migrate_cancel")) {
        write_text(w, 0, MIGRATION("cancelled"));
    }
}

typedef struct {
    World *world;
    int side;
} Side;

static gpointer serve(gpointer opaque)
{
    const Side *side = opaque;
    World *w = side->world;
    g_autoptr(GSocket) socket = g_socket_accept(w->listener[side->side], w->over, NULL);

    if (!socket) {
        return NULL;
    }
    g_autoptr(GSocketConnection) conn = g_socket_connection_factory_create_connection(socket);
    g_autoptr(GDataInputStream) in =
        g_data_input_stream_new(g_io_stream_get_input_stream(G_IO_STREAM(conn)));
    char *line;

    g_mutex_lock(&w->lock);
    w->fd[side->side] = g_socket_get_fd(socket);
    g_assert_cmpint(write(w->fd[side->side], GREETING, strlen(GREETING)), >, 0);
    g_mutex_unlock(&w->lock);
    while ((line = g_data_input_stream_read_line(in, NULL, NULL, NULL))) {
        g_mutex_lock(&w->lock);
        answer_line(w, side->side, line);
        g_mutex_unlock(&w->lock);
        g_free(line);
    }
    g_mutex_lock(&w->lock);
    w->fd[side->side] = -1;
    g_mutex_unlock(&w->lock);
    return NULL;
}

static void listen_at(World *w, int side, const char *dir)
{
    g_autoptr(GError) error = NULL;

    w->path[side] = g_build_filename(dir, side ? "destination" : "source", NULL);
    w->fd[side] = -1;
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(w->path[side]);
    w->listener[side] =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, &error);
    g_assert_no_error(error);
    g_assert_true(g_socket_bind(w->listener[side], address, TRUE, NULL));
    g_assert_true(g_socket_listen(w->listener[side], NULL));
}

G_NORETURN static void become_command(const World *w, int out)
{
    const Row *row = w->row;
    char *migrate[] = {(char *)"migrate", w->path[0], w->path[1], (char *)row->option, NULL};
    char *recover[] = {(char *)"recover", (char *)"--from", (char *)"/dump", w->path[1], NULL};

    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    alarm(LIMIT_S);
    g_setenv("FARFAULT_DEADLINES", "failed-there=20", TRUE);
    int status =
        row->recover ? ff_cli_recover(4, recover) : ff_cli_migrate(row->option ? 4 : 3, migrate);
    fflush(NULL);
    _exit(status);
}

/* Runs the command beside both threads: what it says (g_free); *STATUS as waitpid() has it. */
static char *run(World *w, int *status)
{
    Side sides[2] = {{w, 0}, {w, 1}};
    int out[2];
    GString *said = g_string_new(NULL);
    char buf[1024];
    ssize_t n;

    g_assert_cmpint(pipe(out), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        become_command(w, out[1]);
    }
    close(out[1]);
    GThread *threads[2] = {g_thread_new("source", serve, &sides[0]),
                           g_thread_new("destination", serve, &sides[1])};
    while ((n = read(out[0], buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        g_string_append_len(said, buf, MAX(n, 0));
    }
    close(out[0]);
    g_assert_cmpint(waitpid(pid, status, 0), ==, pid);
    g_cancellable_cancel(w->over); /* recover does not come to the source */
    g_thread_join(threads[0]);
    g_thread_join(threads[1]);
    return g_string_free(said, FALSE);
}

static void test_row(const void *opaque)
{
    World w = {.row = opaque};
    const Row *row = w.row;
    g_autofree char *dir = g_dir_make_tmp("ff-cli-failed-XXXXXX", NULL);
    int status;

    g_mutex_init(&w.lock);
    w.over = g_cancellable_new();
    listen_at(&w, 0, dir);
    listen_at(&w, 1, dir);
    g_autofree char *said = run(&w, &status);
    g_test_message("%s", said);
    if (WIFSIGNALED(status)) {
        g_error("it hangs, or was ended by signal %d: %s", WTERMSIG(status), said);
    }
    g_assert_cmpint(WEXITSTATUS(status), ==, row->exit);
    for (size_t i = 0; i < G_N_ELEMENTS(row->says) && row->says[i]; i++) {
        if (!strstr(said, row->says[i])) {
            g_error("not in what it says: %s\n%s", row->says[i], said);
        }
    }
    g_assert_cmpuint(w.conts, ==, row->cont ? 1 : 0);
    g_assert_cmpuint(w.cancels, ==, row->cancels ? 1 : 0);
    for (int i = 0; i < 2; i++) {
        g_object_unref(w.listener[i]);
        g_assert_no_errno(g_unlink(w.path[i]));
        g_free(w.path[i]);
    }
    g_assert_no_errno(g_rmdir(dir));
    g_object_unref(w.over);
    g_mutex_clear(&w.lock);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/cli-failed/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
