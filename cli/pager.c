/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager: its options and sockets. Then this process is the holder, or, with --serve, which
 * the holder adds, the pager (docs/design/pager.md). One thread until then.
 */
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "holder/holder.h"
#include "server/server.h"
#include "server/source.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* Above those that the pager is given by number. */
#define LOWEST_FD 10
#define BACKLOG 64

typedef struct {
    gboolean help, no_bulk;
    char *listen, *from, *control, *serve;
    char **allow, **positional;
} Line;

static void line_clear(Line *line)
{
    g_free(line->listen);
    g_free(line->from);
    g_free(line->control);
    g_free(line->serve);
    g_strfreev(line->allow);
    g_strfreev(line->positional);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Line, line_clear)

static bool parse_line(Line *line, int argc, char **argv, GError **error)
{
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &line->help, NULL, NULL},
        {"listen", 0, 0, G_OPTION_ARG_FILENAME, &line->listen, NULL, NULL},
        {"from", 0, 0, G_OPTION_ARG_FILENAME, &line->from, NULL, NULL},
        {"control", 0, 0, G_OPTION_ARG_FILENAME, &line->control, NULL, NULL},
        {"allow", 0, 0, G_OPTION_ARG_STRING_ARRAY, &line->allow, NULL, NULL},
        {"no-bulk", 0, 0, G_OPTION_ARG_NONE, &line->no_bulk, NULL, NULL},
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

/* ---- sockets -----------------------------------------------------------------------------------
 */

static bool fail(GError **error, const char *path, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", path, what);
    return false;
}

/* FD where no number is meant. */
static int move_up(int fd)
{
    int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, LOWEST_FD);

    if (fd >= 0) {
        close(fd);
    }
    return up;
}

/* Nobody listens there any more: a pager that has ended has left it. */
static bool is_left_over(const struct sockaddr_un *addr)
{
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
                   errno == ECONNREFUSED;

    if (fd >= 0) {
        close(fd);
    }
    return refused && lstat(addr->sun_path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Who connects is looked at; so others than this user may, if there are any. -1 and ERROR. */
static int listen_at(const char *path, bool others, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fail(error, path, "the name is too long for a socket (107 bytes at most)");
        return -1;
    }
    strcpy(addr.sun_path, path);
    int fd = move_up(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    mode_t mask = umask(others ? 0111 : 0177);
    int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    if (rc < 0 && errno == EADDRINUSE && is_left_over(&addr) && unlink(path) == 0) {
        rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    }
    int err = errno;
    umask(mask);
    if (rc < 0 || listen(fd, BACKLOG) < 0) {
        fail(error, path,
             rc < 0 && err == EADDRINUSE ? "another pager listens there, or it is "
                                           "a file"
                                         : g_strerror(rc < 0 ? err : errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/* The file, as the pager will have it; read here, so that what is wrong is said with its name. */
static int open_source(const char *path, FfInputStamp *stamp, GError **error)
{
    g_autoptr(FfSource) source = ff_source_open(path, NULL, error);

    if (!source) {
        return -1;
    }
    *stamp = *ff_source_stamp(source);
    int fd = move_up(open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0) {
        fail(error, path, g_strerror(errno));
    }
    return fd;
}

/* ---- the holder --------------------------------------------------------------------------------
 */

static int hold(const Line *line, GArray *uids, GError **error)
{
    FfInputStamp stamp;
    int inherit[] = {open_source(line->from, &stamp, error), -1};

    if (inherit[0] < 0) {
        return EXIT_FAILED;
    }
    if (line->control && (inherit[1] = listen_at(line->control, false, error)) < 0) {
        return EXIT_FAILED;
    }
    int listener = listen_at(line->listen, uids->len, error);
    if (listener < 0) {
        return EXIT_FAILED;
    }
    fprintf(stderr, "farfault pager: listens at %s\n", line->listen);
    char *argv[6] = {(char *)"farfault", (char *)"pager"};
    argv[2] = g_strdup_printf("--serve=%" PRIu64 ".%" PRId64 ".%" PRId64, stamp.size, stamp.sec,
                              stamp.nsec);
    unsigned n = 3;
    if (line->no_bulk) {
        argv[n++] = (char *)"--no-bulk";
    }
    if (line->control) {
        argv[n++] = g_strdup_printf("--control=%s", line->control);
    }
    int status = ff_holder_run(&(FfHolderConfig){.listen_fd = listener,
                                                 .pager_argv = argv,
                                                 .inherit = inherit,
                                                 .n_inherit = G_N_ELEMENTS(inherit),
                                                 .uids = (const uid_t *)(void *)uids->data,
                                                 .n_uids = uids->len},
                               error);
    unlink(line->listen);
    if (line->control) {
        unlink(line->control);
    }
    return status;
}

/* As hold() has said it. */
static int serve(const Line *line)
{
    FfServerConfig cfg = {.bulk = !line->no_bulk, .control = line->control};

    if (sscanf(line->serve, "%" SCNu64 ".%" SCNd64 ".%" SCNd64, &cfg.source.size, &cfg.source.sec,
               &cfg.source.nsec) != 3) {
        return EXIT_USAGE;
    }
    return ff_server_run(&cfg);
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
    if (line.serve) {
        return serve(&line);
    }
    if (!line.listen || !line.from || line.positional) {
        fputs("farfault: give a socket and a file: farfault pager --listen SOCKET --from FILE\n",
              stderr);
        return EXIT_USAGE;
    }
    if (!parse_users(line.allow, uids, &error)) {
        fprintf(stderr, "farfault: %s\n", error->message);
        return EXIT_USAGE;
    }
    int status = hold(&line, uids, &error);
    if (error) {
        fprintf(stderr, "farfault: %s\n", error->message);
    }
    return status;
}
