/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random deaths while pagers serve clients of all dialects. A round has up to eight clients at
 * once: four as Firecracker (they read, write, give back, move and fork), of a file of this host or
 * of an NBD server's, three processes as CRIU's, one Cloud Hypervisor. Meanwhile, at random
 * moments:
 *
 *   a pager is killed                         the NBD server is killed, and started
 *   a client is killed                        a holder is killed (one round in four)
 *
 * In the end each client has read what it had to (it ends with 0), or was killed, or its holder
 * was: then it stands still where it misses a page, or the guard has ended it, and never has it
 * read anything else.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/pager/client.h"
#include "tests/pager/daemon.h"
#include "tests/pager/exporter.h"
#include "tests/pager/lazy.h"
#include "tests/pager/small.h"
#include "tests/pager/vmm.h"

#define FIRECRACKERS 4
#define CRIUS 3
#define CLIENTS (FIRECRACKERS + CRIUS + 1)
#define ACTIONS 6
#define MOMENT_US 60000 /* between two of them, at most */
#define LOOK_US 2000
#define ROUND_S 300 /* a round that takes longer hangs */

enum { FIRECRACKER, CRIU, VMM, DIALECTS };
static const char *const dialects[] = {"firecracker", "criu", "cloud-hypervisor"};

typedef struct {
    pid_t pid; /* 0: it has ended */
    unsigned dialect;
    bool killed; /* by the round */
    bool stood;  /* that was why */
    int go;
} Client;

typedef struct {
    uint32_t seed;
    GRand *rand;
    Daemon *d[DIALECTS];
    bool held[DIALECTS]; /* its holder was not killed */
    Client client[CLIENTS];
    ClientPlan plan[FIRECRACKERS];
    VmmPlan vmm;
    pid_t vmm_pid;
    char *dir; /* CRIU's images */
    bool far;
    Exporter exporter;
} Round;

static struct {
    unsigned clients, right, killed, frozen, ended_by_guard, pagers, servers, holders;
} total;

static int below(Round *r, int n)
{
    return g_rand_int_range(r->rand, 0, n);
}

static void wrong(const Round *r, const Client *c, int status)
{
    g_autofree char *said = daemon_said(r->d[c->dialect]);

    printf("not ok - seed %u: a client (%s) has ended with %x\n", r->seed, dialects[c->dialect],
           (unsigned)status);
    fflush(stdout);
    g_error("its pager has said: %s", said);
}

/* ---- beginning ------------------------------------------------------------------------------- */

static const char *const options[] = {NULL, "--no-bulk", "--learn", "--max-bandwidth=16M",
                                      "--max-memory=1M"};

static void start_firecrackers(Round *r)
{
    const char *more = options[below(r, G_N_ELEMENTS(options))];

    r->far = below(r, 2) && exporter_possible("nbdkit");
    if (r->far) {
        r->exporter = exporter_new();
        exporter_start(&r->exporter, "nbdkit -f -r file FILE");
        daemon_next(&(DaemonKind){.said_to = -1, .file = r->exporter.uri});
        more = !g_strcmp0(more, "--learn") ? NULL : more;
    }
    r->d[FIRECRACKER] = daemon_start(EXPORTER_PAGES, 4096, small_fill, NULL, more);
    for (unsigned i = 0; i < FIRECRACKERS; i++) {
        unsigned flags = (unsigned)below(r, 8); /* CLIENT_BALLOON, CLIENT_MOVES, CLIENT_FORKS */
        r->plan[i] = (ClientPlan){.socket = r->d[FIRECRACKER]->socket,
                                  .kind = below(r, 2) ? CLIENT_SHMEM : CLIENT_ANON,
                                  .pages = EXPORTER_PAGES,
                                  .regions = 1 + (unsigned)below(r, 3),
                                  .vcpus = 3,
                                  .ops = 300 + (unsigned)below(r, 1500),
                                  .flags = flags | CLIENT_READS_ALL,
                                  .seed = r->seed + i};
        r->client[i] = (Client){client_start(&r->plan[i]), FIRECRACKER, false, false, -1};
    }
}

static void start_crius(Round *r)
{
    r->dir = g_dir_make_tmp("farfault-chaos-XXXXXX", NULL);
    daemon_next(&(DaemonKind){.said_to = -1, .file = r->dir});
    r->d[CRIU] =
        daemon_start(LAZY_PAGES, 4096, NULL, NULL, options[below(r, G_N_ELEMENTS(options))]);
    for (unsigned i = 0; i < CRIUS; i++) {
        Client *c = &r->client[FIRECRACKERS + i];
        c->dialect = CRIU;
        c->pid = lazy_start(r->d[CRIU]->socket, &c->go);
        lazy_write_images(r->dir, c->pid);
        g_assert_cmpint(write(c->go, "ggg", 3), ==, 3);
    }
}

static void prepare_vmm(const char *dir, const char *socket, void *opaque)
{
    Round *r = opaque;

    vmm_write_snapshot(dir);
    r->vmm.listener = vmm_listen(socket);
    r->vmm_pid = vmm_start(&r->vmm);
}

static void start_vmm(Round *r)
{
    static const unsigned flags[] = {0, VMM_PREFAULTS, VMM_BALLOON, VMM_PREFAULTS | VMM_BALLOON};
    static const char *const mores[] = {"--no-bulk", NULL, "--own-memory"};
    unsigned more = (unsigned)below(r, G_N_ELEMENTS(mores));

    r->vmm = (VmmPlan){.vcpus = 4,
                       .ops = 200 + (unsigned)below(r, 800),
                       .flags = flags[below(r, G_N_ELEMENTS(flags))] | (more == 2 ? VMM_OWN : 0),
                       .seed = r->seed};
    daemon_next(&(DaemonKind){.said_to = -1, .restores = prepare_vmm, .opaque = r});
    r->d[VMM] = daemon_start(0, 0, NULL, NULL, mores[more]);
    r->client[CLIENTS - 1] = (Client){r->vmm_pid, VMM, false, false, -1};
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void kill_pager(Round *r)
{
    unsigned dialect = (unsigned)below(r, DIALECTS);
    pid_t pid = r->held[dialect] ? daemon_pager(r->d[dialect]) : 0;

    if (pid > 0) {
        kill(pid, SIGKILL);
        total.pagers++;
    }
}

static void kill_server(Round *r)
{
    if (r->far) {
        exporter_kill(&r->exporter);
        g_usleep((gulong)below(r, MOMENT_US)); /* what is random is how long there is none */
        exporter_start(&r->exporter, NULL);
        total.servers++;
    }
}

static void kill_client(Round *r)
{
    Client *c = &r->client[below(r, CLIENTS)];

    if (c->pid) {
        kill(c->pid, SIGKILL);
        c->killed = true;
    }
}

static void kill_holder(Round *r)
{
    unsigned dialect = (unsigned)below(r, DIALECTS);
    Daemon *d = r->d[dialect];
    int status;

    if (dialect == VMM && r->client[CLIENTS - 1].pid && !r->client[CLIENTS - 1].killed) {
        daemon_wait_said(d, "the guest is there"); /* one not connected to waits for ever */
    }
    if (r->held[dialect]) {
        pid_t pager = daemon_pager(d);
        kill(d->pid, SIGKILL);
        g_assert_cmpint(waitpid(d->pid, &status, 0), ==, d->pid);
        while (pager > 0 && kill(pager, 0) == 0) {
            g_usleep(LOOK_US); /* it is nobody's child that could be waited for */
        }
        d->pid = 0;
        r->held[dialect] = false;
        total.holders++;
    }
}

static void act(Round *r)
{
    int what = below(r, 10);

    if (what < 5) {
        kill_pager(r);
    } else if (what < 9) {
        kill_server(r);
    } else {
        kill_client(r);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

/* TRUE: C has ended. */
static bool look_at(Round *r, Client *c)
{
    int status;
    pid_t pid = waitpid(c->pid, &status, WNOHANG);

    if (!pid) {
        return false;
    }
    g_assert_cmpint(pid, ==, c->pid);
    c->pid = 0;
    bool held = r->held[c->dialect];
    bool read_wrong = WIFEXITED(status) && (WEXITSTATUS(status) == 2 ||
                                            (c->dialect == CRIU && WEXITSTATUS(status) == 3));
    if (!status) {
        total.right++;
    } else if (read_wrong || (held && !c->killed)) {
        wrong(r, c, status);
    } else if (c->killed) {
        *(c->stood ? &total.frozen : &total.killed) += 1;
    } else {
        total.ended_by_guard++; /* or it had not been taken when its holder died */
    }
    return true;
}

/* Its holder has died, and nobody will answer. */
static bool stands_still(const Client *c)
{
    return is_waiting_in(c->pid, "userfault") ||
           (c->dialect == VMM && is_waiting_in(c->pid, "unix_stream_read"));
}

static void wait_client(Round *r, Client *c)
{
    while (c->pid && !look_at(r, c)) {
        if (!r->held[c->dialect] && c->dialect != CRIU && !c->killed && stands_still(c)) {
            g_usleep(10 * LOOK_US); /* that the others have time to read what they should not */
            kill(c->pid, SIGKILL);
            c->killed = c->stood = true;
        }
        g_usleep(LOOK_US); /* one of many ends, or stands still: there is no event for both */
    }
}

static void end_round(Round *r)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        wait_client(r, &r->client[i]);
        if (r->client[i].go >= 0) {
            close(r->client[i].go);
        }
    }
    close(r->vmm.listener);
    if (r->held[VMM]) {
        daemon_wait(r->d[VMM]);
    }
    for (unsigned i = 0; i < DIALECTS; i++) {
        daemon_stop(r->d[i]);
    }
    GDir *dir = g_dir_open(r->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir));) {
        g_autofree char *path = g_build_filename(r->dir, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(r->dir);
    g_free(r->dir);
    if (r->far) {
        exporter_end(&r->exporter);
    }
}

static void run(uint32_t seed)
{
    Round r = {.seed = seed, .rand = g_rand_new_with_seed(seed), .held = {true, true, true}};
    bool holder = below(&r, 4) == 0;

    alarm(ROUND_S);
    for (unsigned i = 0; i < CLIENTS; i++) {
        r.client[i].go = -1;
    }
    start_firecrackers(&r);
    start_crius(&r);
    start_vmm(&r);
    for (int i = below(&r, ACTIONS + 1); i > 0; i--) {
        /* Not a wait for anything: the moment is what is random. */
        g_usleep((gulong)below(&r, MOMENT_US));
        for (unsigned k = 0; k < CLIENTS; k++) {
            if (r.client[k].pid) {
                look_at(&r, &r.client[k]);
            }
        }
        act(&r);
    }
    if (holder) {
        kill_holder(&r);
    }
    end_round(&r);
    alarm(0);
    total.clients += CLIENTS;
    printf("ok - seed %u%s\n", seed, r.far ? ", from an NBD server" : "");
    fflush(stdout);
    g_rand_free(r.rand);
}

int main(int argc, char **argv)
{
    gint rounds = 3;
    gint64 seed = 1;
    const GOptionEntry entries[] = {
        {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "How many", "N"},
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of the first one", "S"},
        {NULL, 0, 0, 0, NULL, NULL, NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new("");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "chaos-pager: %s\n", error->message);
        return 2;
    }
    g_test_init(&argc, &argv, NULL);
    printf("1..%d\n", rounds);
    for (gint i = 0; i < rounds; i++) {
        run((uint32_t)(seed + i));
    }
    printf("# 0 wrong; %u clients: %u right, %u killed, %u stood still and %u ended after their "
           "holder; killed: %u pagers, %u NBD servers, %u holders\n",
           total.clients, total.right, total.killed, total.frozen, total.ended_by_guard,
           total.pagers, total.servers, total.holders);
    return 0;
}
