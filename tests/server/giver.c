/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See giver.h. */
#include "tests/server/giver.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/server/small.h"

void giver_write_file(const char *path, unsigned more)
{
    FILE *f = fopen(path, "we");
    uint64_t words[512];

    for (unsigned i = 0; i < GIVER_PAGES; i++) {
        bool data = small_fill(i, words);
        words[7] += more;
        g_assert_cmpint(fseek(f, i * 4096l, SEEK_SET), ==, 0);
        g_assert_true(!data || fwrite(words, sizeof(words), 1, f) == 1);
    }
    g_assert_cmpint(fflush(f), ==, 0);
    g_assert_cmpint(ftruncate(fileno(f), GIVER_PAGES * 4096l), ==, 0);
    g_assert_cmpint(fclose(f), ==, 0);
}

/* At `uri`, or, if that is not known yet, at any port; it is not killed with its line unread. */
void giver_start(Giver *g, const char *scheme, const char *creds)
{
    const char *build = g_getenv("FF_BUILD");
    g_autofree char *program = g_strdup_printf("%s/cli/farfault", build ? build : "build");
    g_autofree char *where = g_strdup(g->uri ? g->uri : scheme);
    char line[1024] = "";
    int said[2];

    g_assert_cmpint(pipe2(said, O_CLOEXEC), ==, 0);
    g->pid = fork();
    if (g->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(said[1], 2);
        if (g->files.rlim_max) {
            setrlimit(RLIMIT_NOFILE, &g->files);
        }
        execl(program, "farfault", "pager", "--listen", where, "--from", g->file, creds, NULL);
        _exit(127);
    }
    close(said[1]);
    FILE *f = fdopen(said[0], "re");
    if (!fgets(line, sizeof(line), f) || !strstr(line, " at ")) {
        g_error("it does not give: %s", line);
    }
    g_free(g->uri);
    g->uri = g_strstrip(g_strdup(strstr(line, " at ") + strlen(" at ")));
    fclose(f); /* what it says later is nobody's */
}

void giver_kill(Giver *g)
{
    int status;

    kill(g->pid, SIGKILL);
    g_assert_cmpint(waitpid(g->pid, &status, 0), ==, g->pid);
}

Giver giver_new(const char *scheme, const char *creds)
{
    Giver g = {.dir = g_dir_make_tmp("farfault-remote-XXXXXX", NULL)};

    g.file = g_build_filename(g.dir, "memory", NULL);
    giver_write_file(g.file, 0);
    giver_start(&g, scheme, creds);
    return g;
}

void giver_end(Giver *g)
{
    giver_kill(g);
    certs_remove(g->dir);
    g_free(g->dir);
    g_free(g->file);
    g_free(g->uri);
}
