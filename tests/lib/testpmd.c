/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See testpmd.h. Without a terminal testpmd ends when there is something to read on its stdin, or
 * its end; when it waits for that its socket listens. One thread.
 */
#include "tests/lib/testpmd.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct Testpmd {
    GPid pid;
    int in, out;
};

static char *binary(void)
{
    return g_build_filename(g_getenv("FF_SOURCE"), ".cache", "dpdk", "dpdk-testpmd", NULL);
}

bool testpmd_available(const char **why)
{
    g_autofree char *program = binary();

    if (g_file_test(program, G_FILE_TEST_IS_EXECUTABLE))
        return true;
    *why = "there is no testpmd: run scripts/get dpdk";
    return false;
}

/* It never sleeps: others come first. */
static void in_child(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpriority(PRIO_PROCESS, 0, 19);
}

/* It has said WHAT; ends the test if it ends. */
static void await(const Testpmd *t, const char *what)
{
    g_autoptr(GString) said = g_string_new(NULL);
    char buf[4096];
    ssize_t n;

    while (!strstr(said->str, what)) {
        n = read(t->out, buf, sizeof(buf));
        if (n <= 0)
            g_error("testpmd has ended: %s", said->str);
        g_string_append_len(said, buf, n);
    }
}

Testpmd *testpmd_start(const char *socket, bool client, unsigned n_queues, TestpmdWaits waits)
{
    g_autofree char *program = binary();
    g_autofree char *device = g_strdup_printf("net_vhost0,iface=%s,queues=%u%s%s", socket, n_queues,
                                              waits == TESTPMD_UNABLE ? "" : ",postcopy-support=1",
                                              client ? ",client=1" : "");
    g_autofree char *rxq = g_strdup_printf("--rxq=%u", n_queues);
    g_autofree char *txq = g_strdup_printf("--txq=%u", n_queues);
    const char *argv[] = {"stdbuf",
                          "-oL",
                          program,
                          "-m",
                          "64",
                          "--lcores",
                          "0@0,1@0-1",
                          "--vdev",
                          device,
                          "--",
                          "--auto-start",
                          "--forward-mode=macswap",
                          "--port-topology=loop",
                          "--total-num-mbufs=2048",
                          rxq,
                          txq,
                          waits == TESTPMD_LOCKED ? "--mlockall" : "--no-mlockall",
                          NULL};
    Testpmd *t = g_new0(Testpmd, 1);
    g_autoptr(GError) error = NULL;

    g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                             G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD |
                                 G_SPAWN_CLOEXEC_PIPES,
                             in_child, NULL, &t->pid, &t->in, &t->out, NULL, &error);
    g_assert_no_error(error);
    await(t, "Press enter to exit");
    return t;
}

void testpmd_kill(Testpmd *t)
{
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    close(t->in);
    close(t->out);
    g_free(t);
}

void testpmd_end(Testpmd *t)
{
    int status;
    char buf[4096];

    close(t->in);
    while (read(t->out, buf, sizeof(buf)) > 0) {
    }
    waitpid(t->pid, &status, 0);
    close(t->out);
    g_assert_cmpint(status, ==, 0);
    g_free(t);
}
