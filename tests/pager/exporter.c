/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See exporter.h. */
#include "tests/pager/exporter.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/pager/small.h"

#define ACTIVATED_FD 3 /* sd_listen_fds(3) */

bool exporter_possible(const char *program)
{
    g_autofree char *plugin =
        g_build_filename(g_getenv("FF_BUILD"), "content/farfault-nbd.so", NULL);
    g_autofree char *found = g_find_program_in_path(program);

    if (!found || !g_file_test(plugin, G_FILE_TEST_EXISTS)) {
        g_test_skip(found ? "built without libnbd" : "an NBD server is not installed");
        return false;
    }
    return true;
}

void exporter_write_file(const char *path, unsigned more)
{
    FILE *f = fopen(path, "we");
    uint64_t words[512];

    for (unsigned i = 0; i < EXPORTER_PAGES; i++) {
        bool data = small_fill(i, words);
        words[7] += more;
        g_assert_cmpint(fseek(f, i * 4096l, SEEK_SET), ==, 0);
        g_assert_true(!data || fwrite(words, sizeof(words), 1, f) == 1);
    }
    g_assert_cmpint(fflush(f), ==, 0);
    g_assert_cmpint(ftruncate(fileno(f), EXPORTER_PAGES * 4096l), ==, 0);
    g_assert_cmpint(fclose(f), ==, 0);
}

Exporter exporter_new(void)
{
    Exporter e = {.dir = g_dir_make_tmp("farfault-nbd-XXXXXX", NULL)};

    e.file = g_build_filename(e.dir, "memory", NULL);
    e.socket = g_build_filename(e.dir, "nbd", NULL);
    e.uri = g_strconcat("nbd+unix:///?socket=", e.socket, NULL);
    exporter_write_file(e.file, 0);
    return e;
}

static char **words_of(const Exporter *e, const char *command)
{
    g_autoptr(GString) text = g_string_new(command);
    char **argv;

    g_string_replace(text, "FILE", e->file, 0);
    g_string_replace(text, "DIR", e->dir, 0);
    g_assert_true(g_shell_parse_argv(text->str, NULL, &argv, NULL));
    return argv;
}

void exporter_run(const Exporter *e, const char *command)
{
    g_auto(GStrv) argv = words_of(e, command);
    int status;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                               NULL, NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

static int listen_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    unlink(path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 64), ==, 0);
    return fd;
}

static void become(char **argv, int listener)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!g_getenv("FF_KEEP")) {
        dup2(quiet, 2); /* it complains of clients that leave */
    }
    if (listener == ACTIVATED_FD) {
        fcntl(listener, F_SETFD, 0);
    } else {
        dup2(listener, ACTIVATED_FD);
    }
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", pid, 1);
    execvp(argv[0], argv);
    _exit(127);
}

void exporter_start(Exporter *e, const char *command)
{
    if (command) {
        g_free(e->command);
        e->command = g_strdup(command);
    }
    g_auto(GStrv) argv = words_of(e, e->command);
    int listener = listen_at(e->socket);

    e->pid = fork();
    g_assert_cmpint(e->pid, >=, 0);
    if (e->pid == 0) {
        become(argv, listener);
    }
    close(listener);
}

void exporter_kill(Exporter *e)
{
    int status;

    kill(e->pid, SIGKILL);
    g_assert_cmpint(waitpid(e->pid, &status, 0), ==, e->pid);
    e->pid = 0;
    /* Else it had ended by itself. */
    g_assert_true(WIFSIGNALED(status));
}

void exporter_end(Exporter *e)
{
    if (e->pid) {
        exporter_kill(e);
    }
    certs_remove(e->dir);
    g_free(e->dir);
    g_free(e->file);
    g_free(e->socket);
    g_free(e->uri);
    g_free(e->command);
}
