/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager --from nbd+unix://...: clients of a pager whose content an NBD server has (nbdkit,
 * qemu-nbd). The server is killed, started again, slow, cannot read, or serves something else;
 * clients wait, and see nothing else.
 *
 *   test-pager-nbd --rounds N [SEED]         kills and starts it N times, at random moments
 *   test-pager-nbd --server COMMAND          two clients, by a server that COMMAND starts
 *   test-pager-nbd --faults                  how long a fault takes, beside the file read directly
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/pager/client.h"
#include "tests/pager/daemon.h"
#include "tests/pager/exporter.h"
#include "tests/pager/small.h"

#define PAGES EXPORTER_PAGES
#define KEY "qemu:8f1d0c7b5e2a4960b3d8c1e7f5a29463\n"
#define FILE_PLUGIN "nbdkit -f -r file FILE"

static Daemon *start(const char *uri, const char *more)
{
    daemon_next(&(DaemonKind){.said_to = -1, .file = uri});
    return daemon_start(PAGES, 4096, NULL, NULL, more);
}

static ClientPlan plan_of(const Daemon *d, unsigned flags)
{
    return (ClientPlan){.socket = d->socket,
                        .pages = PAGES,
                        .regions = 2,
                        .vcpus = 2,
                        .ops = 500,
                        .flags = CLIENT_READS_ALL | flags,
                        .seed = 1};
}

/* ---- servers --------------------------------------------------------------------------------- */

typedef struct {
    const char *name, *command;
    const char *before; /* run first, or NULL */
    const char *more;   /* an option of the pager's, or NULL */
} Server;

static const Server servers[] = {
    {"file", FILE_PLUGIN},
    {"no-bulk", FILE_PLUGIN, NULL, "--no-bulk"},
    {"one-connection", "nbdkit -f -r --filter=multi-conn file FILE multi-conn-mode=disable"},
    {"no-extents", "nbdkit -f -r --filter=noextents file FILE"},
    {"block-4k", "nbdkit -f -r --filter=blocksize-policy file FILE blocksize-minimum=4096 "
                 "blocksize-error-policy=error"},
    {"memory", "nbdkit -f -r data '<FILE'"},
    {"delay", "nbdkit -f -r --filter=delay file FILE rdelay=2ms delay-extents=2ms"},
    {"rate", "nbdkit -f -r --filter=rate file FILE rate=512M"},
    /* No structured replies, so no extents. */
    {"old", "nbdkit -f -r --no-sr file FILE"},
};

static void check_clients(Exporter *e, const char *more)
{
    Daemon *d = start(e->uri, more);
    ClientPlan plan = plan_of(d, CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS);
    pid_t one = client_start(&plan);

    plan.kind = CLIENT_SHMEM;
    pid_t other = client_start(&plan);
    assert_ended_well(one);
    assert_ended_well(other);
    daemon_stop(d);
}

static void test_server(gconstpointer data)
{
    const Server *s = data;

    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    exporter_start(&e, s->command);
    check_clients(&e, s->more);
    exporter_end(&e);
}

/* A chain: the second half of the pages is in the file that is on top. */
static void test_qemu(void)
{
    if (!exporter_possible("qemu-nbd") || !exporter_possible("qemu-img")) {
        return;
    }
    Exporter e = exporter_new();
    exporter_run(&e, "qemu-img convert -O qcow2 FILE DIR/base");
    exporter_run(&e, "qemu-img create -f qcow2 -b DIR/base -F qcow2 DIR/top");
    exporter_run(&e, "qemu-img create -f qcow2 -b DIR/top -F qcow2 DIR/toptop");
    exporter_start(&e, "qemu-nbd -t -r -e 8 -f qcow2 DIR/toptop");
    check_clients(&e, NULL);
    exporter_kill(&e);
    exporter_start(&e, "qemu-nbd -t -r -f qcow2 DIR/toptop");
    check_clients(&e, NULL);
    exporter_end(&e);
}

/* ---- it fails -------------------------------------------------------------------------------- */

typedef struct {
    Small *c;
    unsigned page;
    bool done; /* atomic */
} Touch;

static void *touch(void *opaque)
{
    Touch *t = opaque;
    const volatile uint64_t *words = t->c->page + 512ul * t->page;

    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmpuint(words[i], ==, client_is_zero(t->page) ? 0 : client_word(t->page, i));
    }
    __atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* A client of a pager of one server's export. */
typedef struct {
    Exporter e;
    Daemon *d;
    Small c;
} Scene;

/* The client has its first page; each of the others is one fault's. FALSE: skipped. */
static bool begin(Scene *s, const char *command)
{
    if (!exporter_possible("nbdkit")) {
        return false;
    }
    *s = (Scene){.e = exporter_new(), .c = {.pages = PAGES}};
    exporter_start(&s->e, command);
    s->d = start(s->e.uri, "--no-bulk");
    small_start(&s->c, s->d);
    small_check(&s->c);
    return true;
}

static void end(Scene *s)
{
    small_end(&s->c);
    daemon_stop(s->d);
    exporter_end(&s->e);
}

/* A page is waited for from now on; SAID is said of it. After WELL it comes. */
static void check_waits(Scene *s, const char *said, void (*well)(Exporter *e))
{
    Touch t = {.c = &s->c, .page = 1001};
    pthread_t thread;

    g_assert_cmpint(pthread_create(&thread, NULL, touch, &t), ==, 0);
    daemon_wait_said(s->d, said);
    g_assert_false(__atomic_load_n(&t.done, __ATOMIC_ACQUIRE));
    well(&s->e);
    pthread_join(thread, NULL);
    daemon_wait_said(s->d, "its content can be read again");
}

static void start_again(Exporter *e)
{
    exporter_start(e, NULL);
}

/* Gone for longer than a read is patient. */
static void test_gone(void)
{
    Scene s;

    if (begin(&s, FILE_PLUGIN)) {
        exporter_kill(&s.e);
        check_waits(&s, "tried again", start_again);
        end(&s);
    }
}

static void continue_server(Exporter *e)
{
    g_assert_cmpint(kill(e->pid, SIGCONT), ==, 0);
}

/* It is there, and does not answer: its connection is left after 15 s. */
static void test_hangs(void)
{
    Scene s;

    if (!g_test_slow()) {
        g_test_skip("takes 30 s: -m slow");
        return;
    }
    if (begin(&s, FILE_PLUGIN)) {
        g_assert_cmpint(kill(s.e.pid, SIGSTOP), ==, 0);
        check_waits(&s, "the server does not answer", continue_server);
        end(&s);
    }
}

/* A pager that begins while there is no server. */
static void test_gone_for_next(void)
{
    Scene s;

    if (!begin(&s, FILE_PLUGIN)) {
        return;
    }
    Touch t = {.c = &s.c, .page = 1001};

    exporter_kill(&s.e);
    g_assert_cmpint(kill(daemon_pager(s.d), SIGKILL), ==, 0);
    daemon_wait_said(s.d, "all clients wait, and it is tried again");
    exporter_start(&s.e, NULL);
    touch(&t);
    end(&s);
}

static void stop_errors(Exporter *e)
{
    g_autofree char *path = g_build_filename(e->dir, "errors", NULL);

    g_assert_cmpint(g_unlink(path), ==, 0);
}

/* The server is well, and what it reads is not. */
static void test_error(void)
{
    Scene s;

    if (!begin(&s, "nbdkit -f -r --filter=error file FILE error-pread=EIO "
                   "error-pread-rate=100% error-pread-file=DIR/errors")) {
        return;
    }
    g_autofree char *errors = g_build_filename(s.e.dir, "errors", NULL);

    g_assert_true(g_file_set_contents(errors, "", 0, NULL));
    check_waits(&s, "tried again", stop_errors);
    end(&s);
}

static void serve_old(Exporter *e)
{
    exporter_kill(e);
    exporter_start(e, FILE_PLUGIN);
}

static void test_other_size(void)
{
    Scene s;

    if (begin(&s, FILE_PLUGIN)) {
        exporter_kill(&s.e);
        exporter_start(&s.e, "nbdkit -f -r --filter=truncate file FILE truncate=16M");
        check_waits(&s, "the export has 16777216 bytes, and had 8388608", serve_old);
        end(&s);
    }
}

/* Of the same size, in a raw file, which has no table. */
static void test_other_content(void)
{
    Scene s;

    if (!begin(&s, FILE_PLUGIN)) {
        return;
    }
    g_autofree char *other = g_build_filename(s.e.dir, "other", NULL);
    exporter_write_file(other, 1);
    exporter_kill(&s.e);
    exporter_start(&s.e, "nbdkit -f -r file DIR/other");
    check_waits(&s, "it has other content than it had", serve_old);
    /* The next pager knows it as well. */
    exporter_kill(&s.e);
    g_assert_cmpint(kill(daemon_pager(s.d), SIGKILL), ==, 0);
    exporter_start(&s.e, "nbdkit -f -r file DIR/other");
    daemon_wait_said(s.d, "which have a part of it: all clients wait");
    serve_old(&s.e);
    Touch t = {.c = &s.c, .page = 1002};
    touch(&t);
    end(&s);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static char *refusal(const char *socket, const char *uri, const char *option)
{
    g_autofree char *program = g_strconcat(g_getenv("FF_BUILD"), "/cli/farfault", NULL);
    const char *argv[] = {program, "pager", "--listen", socket, "--from", uri, option, NULL};
    char *said = NULL;
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &said,
                               &status, NULL));
    g_assert_cmpint(WEXITSTATUS(status), >, 0);
    g_assert_true(strchr(said, '\n') == said + strlen(said) - 1); /* one line */
    return said;
}

static void assert_refused_at(const char *socket, const char *uri, const char *option,
                              const char *why)
{
    g_autofree char *said = refusal(socket, uri, option);

    if (!strstr(said, why)) {
        g_error("%s: %s", uri, said);
    }
}

static void assert_refused(const char *uri, const char *option, const char *why)
{
    assert_refused_at("/tmp/farfault-no-socket", uri, option, why);
}

/* ---- several images, several pagers ---------------------------------------------------------- */

/* One server has a folder of images, by name. */
static void test_folder(void)
{
    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    g_autofree char *images = g_build_filename(e.dir, "images", NULL);
    g_assert_cmpint(g_mkdir(images, 0700), ==, 0);
    const char *const names[] = {"one", "two"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(images, names[i], NULL);
        exporter_write_file(path, 0);
    }
    exporter_start(&e, "nbdkit -f -r file dir=DIR/images");
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *uri = g_strdup_printf("nbd+unix:///%s?socket=%s", names[i], e.socket);
        Daemon *d = start(uri, NULL);
        ClientPlan plan = plan_of(d, 0);
        daemon_wait_threads(d->pid, 1); /* the holder forks */
        assert_ended_well(client_start(&plan));
        daemon_stop(d);
    }
    exporter_end(&e);
}

/* The first one has had all connections that the server allows, and needs them no more: its clients
 * are there, and have all pages. The second one gets its own in time. */
static void test_shared(void)
{
    if (!exporter_possible("qemu-nbd")) {
        return;
    }
    Exporter e = exporter_new();
    exporter_start(&e, "qemu-nbd -t -r -e 8 -f raw FILE");
    Daemon *one = start(e.uri, NULL);
    ClientPlan plan[6];
    pid_t client[G_N_ELEMENTS(plan)];
    int go[2];

    g_assert_cmpint(pipe2(go, O_CLOEXEC), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(plan); i++) {
        plan[i] = plan_of(one, CLIENT_WAITS);
        plan[i].vcpus = 4;
        plan[i].seed = i;
        plan[i].go = go[0];
        client[i] = client_start(&plan[i]);
    }
    Daemon *two = start(e.uri, NULL);
    ClientPlan other = plan_of(two, 0);
    assert_ended_well(client_start(&other));
    for (unsigned i = 0; i < G_N_ELEMENTS(plan); i++) {
        g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(plan); i++) {
        assert_ended_well(client[i]);
    }
    close(go[0]);
    close(go[1]);
    daemon_stop(two);
    daemon_stop(one);
    exporter_end(&e);
}

/* The first one has the only connection, and keeps it. The second one does not begin, and begins
 * when there is room. */
static void test_full(void)
{
    if (!exporter_possible("qemu-nbd")) {
        return;
    }
    if (!g_test_slow()) {
        g_test_skip("takes 10 s: -m slow");
        return;
    }
    Exporter e = exporter_new();
    exporter_start(&e, "qemu-nbd -t -r -e 1 -f raw FILE");
    Daemon *one = start(e.uri, NULL);
    ClientPlan plan = plan_of(one, 0);
    assert_ended_well(client_start(&plan));
    assert_refused(e.uri, NULL, "has it room for another connection");
    daemon_stop(one);
    Daemon *two = start(e.uri, NULL);
    plan = plan_of(two, 0);
    assert_ended_well(client_start(&plan));
    daemon_stop(two);
    exporter_end(&e);
}

#ifdef FF_FAULTS
/* A pager could not load it: clients would wait for ever. */
static void test_plugin_lost(void)
{
    if (!exporter_possible("nbdkit")) {
        return;
    }
    Exporter e = exporter_new();
    exporter_start(&e, FILE_PLUGIN);
    daemon_next(&(DaemonKind){.said_to = -1, .file = e.uri, .dies = true});
    Daemon *d = daemon_start(PAGES, 4096, NULL, "none/none/call/plugin-open=EIO", NULL);
    g_assert_cmpint(daemon_wait(d), ==, 1);
    g_autofree char *said = daemon_said(d);
    g_assert_nonnull(strstr(said, "farfault-nbd.so: Input/output error"));
    daemon_stop(d);
    exporter_end(&e);
}
#endif

/* ---- TLS ------------------------------------------------------------------------------------- */

static void test_tls(void)
{
    if (!exporter_possible("nbdkit") || !certs_possible()) {
        return;
    }
    Exporter e = exporter_new();
    g_autofree char *right = certs_psk(e.dir, "right", KEY);
    g_autofree char *other = certs_psk(e.dir, "other", "qemu:00112233445566778899aabbccddeeff\n");
    g_autofree char *option = g_strconcat("--tls-creds=", right, NULL);
    g_autofree char *wrong = g_strconcat("--tls-creds=", other, NULL);
    g_autofree char *tls = g_strconcat("nbds", e.uri + strlen("nbd"), NULL);
    g_autofree char *in_uri =
        g_strdup_printf("nbds+unix://qemu@/?socket=%s&tls-psk-file=%s/keys.psk", e.socket, right);

    exporter_start(&e, "nbdkit -f -r --tls=require --tls-psk=DIR/right/keys.psk file FILE");
    for (unsigned i = 0; i < 2; i++) {
        Daemon *d = start(i ? in_uri : tls, i ? NULL : option);
        ClientPlan plan = plan_of(d, 0);
        assert_ended_well(client_start(&plan));
        daemon_stop(d);
    }
    assert_refused(tls, wrong, "nbds+unix:");
    assert_refused(e.uri, NULL, "TLS");
    exporter_kill(&e);
    exporter_start(&e, FILE_PLUGIN);
    assert_refused(tls, option, "TLS");
    assert_refused(e.uri, option, "--tls-creds FOLDER is for");
    exporter_end(&e);
}

static void test_typos(void)
{
    assert_refused("ndb://host/x", NULL, "did you mean nbd://host/x?");
    assert_refused("nbd+unx:///?socket=/x", NULL, "did you mean nbd+unix:///?socket=/x?");
    assert_refused("nbd:host:10809", NULL, "write nbd://HOST/EXPORT");
    assert_refused("ssh://host/x", NULL, "no such scheme is known (there are nbd, ");
    assert_refused("nbd://host/x", "--learn", "--from with a URI");
    /* An older farfault's, which served pages to others. */
    assert_refused("tcp:host:9471", NULL, "nbdkit -r file FILE, and here --from nbd://HOST/");
    assert_refused_at("tcp:0.0.0.0:9471", "/x", NULL,
                      "serve the file by NBD (nbdkit -r file FILE)");
    assert_refused("tls:host:9471", "--tls-creds=/nowhere", "nbds: with --tls-creds");
    if (exporter_possible("true")) {
        assert_refused("nbd+unix:///x", NULL, "nbd+unix:///?socket=");
        assert_refused("nbd+unix:///?socket=/nowhere/nbd", NULL, "No such file or directory");
    }
}

/* ---- killed, again and again ----------------------------------------------------------------- */

static bool is_running(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

/* In each of ROUNDS the server of a client dies, and is there again some milliseconds later; in one
 * of four the pager dies as well. How many servers died while the client ran. */
static unsigned kill_in_rounds(unsigned rounds, guint32 seed)
{
    static const char *const commands[] = {FILE_PLUGIN,
                                           "nbdkit -f -r --filter=delay file FILE rdelay=1ms"};
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    Exporter e = exporter_new();
    exporter_start(&e, commands[0]);
    Daemon *d = start(e.uri, NULL);
    unsigned hits = 0;

    for (unsigned i = 0; i < rounds; i++) {
        ClientPlan plan = plan_of(d, CLIENT_BALLOON | (i % 2 ? CLIENT_FORKS : CLIENT_MOVES));
        plan.kind = i % 3 ? CLIENT_ANON : CLIENT_SHMEM;
        plan.seed = seed + i;
        pid_t client = client_start(&plan);
        g_usleep(g_rand_int_range(rand, 0, 30000));
        hits += is_running(client);
        exporter_kill(&e);
        pid_t pager = i % 4 == 3 ? daemon_pager(d) : 0;
        if (pager) {
            kill(pager, SIGKILL);
        }
        g_usleep(g_rand_int_range(rand, 0, 10000));
        exporter_start(&e, commands[g_rand_int_range(rand, 0, 2)]);
        assert_ended_well(client);
        if (rounds > 100 && i % 100 == 99) {
            g_print("%u deaths, %u of them while a client ran\n", i + 1, hits);
        }
    }
    daemon_stop(d);
    exporter_end(&e);
    return hits;
}

static void test_killed(void)
{
    if (exporter_possible("nbdkit")) {
        kill_in_rounds(4, 1);
    }
}

/* ---- how long a fault takes ------------------------------------------------------------------ */

static gint by_number(gconstpointer a, gconstpointer b)
{
    return *(const gint64 *)a < *(const gint64 *)b ? -1 : 1;
}

/* Of each of two clients the same pages, in turn, in an order that is none. */
static int run_faults(void)
{
    Exporter e = exporter_new();
    exporter_start(&e, FILE_PLUGIN);
    Daemon *d[2] = {start(e.file, "--no-bulk"), start(e.uri, "--no-bulk")};
    Small c[2] = {{.pages = PAGES}, {.pages = PAGES}};
    g_autofree gint64 *took[2] = {g_new(gint64, PAGES), g_new(gint64, PAGES)};
    unsigned n = 0;

    for (unsigned k = 0; k < 2; k++) {
        small_start(&c[k], d[k]);
        small_check(&c[k]);
    }
    for (unsigned i = 1; i < PAGES; i++) {
        unsigned page = i * 1201 % PAGES;
        for (unsigned k = 0; k < 2 && page && !client_is_zero(page); k++) {
            gint64 begin = g_get_monotonic_time();
            uint64_t word = *(const volatile uint64_t *)(c[k].page + 512ul * page);
            took[k][n] = g_get_monotonic_time() - begin;
            g_assert_cmpuint(word, ==, client_word(page, 0));
            n += k;
        }
    }
    for (unsigned k = 0; k < 2; k++) {
        qsort(took[k], n, sizeof(gint64), by_number);
        g_print("%s: %u faults: p50 %d us, p90 %d us, p99 %d us\n", k ? "nbd+unix" : "file", n,
                (int)took[k][n / 2], (int)took[k][n * 9 / 10], (int)took[k][n * 99 / 100]);
        small_end(&c[k]);
        daemon_stop(d[k]);
    }
    exporter_end(&e);
    return 0;
}

static int run_rounds(int argc, char **argv)
{
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    guint32 seed = argc > 3 ? (guint32)strtoul(argv[3], NULL, 10) : 1;

    if (rounds && exporter_possible("nbdkit")) {
        unsigned hits = kill_in_rounds(rounds, seed);
        g_print("%u deaths, %u of them while a client ran, seed %u: no client has read anything "
                "wrong\n",
                rounds, hits, seed);
    }
    return 0;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (argc > 1 && !strcmp(argv[1], "--rounds")) {
        return run_rounds(argc, argv);
    }
    if (argc > 1 && !strcmp(argv[1], "--faults")) {
        return run_faults();
    }
    if (argc > 2 && !strcmp(argv[1], "--server")) {
        const Server given = {"given", argv[2]};
        test_server(&given);
        return 0;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(servers); i++) {
        g_autofree char *path = g_strconcat("/nbd/server/", servers[i].name, NULL);
        g_test_add_data_func(path, &servers[i], test_server);
    }
    g_test_add_func("/nbd/qemu", test_qemu);
    g_test_add_func("/nbd/gone", test_gone);
    g_test_add_func("/nbd/gone-for-next", test_gone_for_next);
    g_test_add_func("/nbd/hangs", test_hangs);
    g_test_add_func("/nbd/error", test_error);
    g_test_add_func("/nbd/other-size", test_other_size);
    g_test_add_func("/nbd/other-content", test_other_content);
    g_test_add_func("/nbd/folder", test_folder);
    g_test_add_func("/nbd/shared", test_shared);
    g_test_add_func("/nbd/full", test_full);
#ifdef FF_FAULTS
    g_test_add_func("/nbd/plugin-lost", test_plugin_lost);
#endif
    g_test_add_func("/nbd/tls", test_tls);
    g_test_add_func("/nbd/typos", test_typos);
    g_test_add_func("/nbd/killed", test_killed);
    return g_test_run();
}
