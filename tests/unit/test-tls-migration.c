/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine without QEMU, under TLS: every connection through a tap that looks for the plain
 * text of pages; one side with and one without TLS.
 */
#include <gio/gio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/creds.h"
#include "tests/lib/certs.h"
#include "tests/lib/side.h"
#include "tests/lib/wiretap.h"

#define HOST CERTS_HOST

static char *dir, *server_x509, *client_x509, *server_psk, *client_psk;

static FfTls *load(bool psk, bool server)
{
    g_autoptr(GError) error = NULL;
    FfCredsSpec spec = {.psk = psk,
                        .server = server,
                        .verify_peer = true,
                        .sanity_check = true,
                        .dir = psk ? (server ? server_psk : client_psk)
                                   : (server ? server_x509 : client_x509)};
    FfTls *tls = ff_creds_load(&spec, &error);

    g_assert_no_error(error);
    return tls;
}

static void compare(Side *s, Side *d)
{
    for (unsigned b = 0; b < s->blocks->len; b++) {
        g_assert_cmpmem(s->map[b], ((FfRamBlock *)s->blocks->pdata[b])->size, d->map[b],
                        ((FfRamBlock *)d->blocks->pdata[b])->size);
    }
}

typedef enum { CLEAR, X509, PSK } Kind;

/* Two sides, the destination's threads touching pages, and a tap between them. */
typedef struct {
    Side *s, *d;
    FfTls *server, *client;
    FfMigrationInfo *info; /* of the destination, once it listens */
    Wiretap *tap;          /* NULL: over a passed connection */
    char *at;              /* where the source connects to */
} Pair;

static Pair pair_new(Kind kind, const uint64_t *sizes, unsigned n)
{
    Pair p = {.s = side_new(FF_ROLE_SOURCE, sizes, n),
              .d = side_new(FF_ROLE_DESTINATION, sizes, n),
              .server = kind == CLEAR ? NULL : load(kind == PSK, true),
              .client = kind == CLEAR ? NULL : load(kind == PSK, false)};

    p.d->n_touchers = 4;
    p.d->tls = p.server;
    p.s->tls = p.client;
    p.s->tls_hostname = HOST;
    side_fill(p.s);
    return p;
}

static void start_over_tap(Pair *p)
{
    p->at = g_strdup_printf("unix:%s/tap.sock", dir);
    side_start(p->d, "tcp:127.0.0.1:0", -1);
    p->info = ff_migration_info(p->d->m);
    p->tap = wiretap_new(p->at, p->info->socket_address);
    side_start(p->s, p->at, -1);
}

/* To the end, where memory is compared. */
static WiretapCounts pair_finish(Pair *p)
{
    WiretapCounts counts = {0};

    side_run_until(p->s->done && p->d->done);
    for (unsigned i = 0; i < p->d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(p->d->touchers[i])), ==, 0);
    }
    g_assert_cmpint(p->s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(p->d->status, ==, FF_STATUS_COMPLETED);
    compare(p->s, p->d);
    side_free(p->s);
    side_free(p->d);
    if (p->tap) {
        counts = wiretap_finish(p->tap);
        ff_migration_info_free(p->info);
    }
    ff_tls_unref(p->server);
    ff_tls_unref(p->client);
    g_free(p->at);
    return counts;
}

static void test_moves(gconstpointer data)
{
    Kind kind = GPOINTER_TO_INT(data);
    uint64_t sizes[] = {32 << 20, (3 << 20) + 4096};

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(kind, sizes, 2);
    start_over_tap(&p);
    ff_migration_start_postcopy(p.s->m, NULL);
    WiretapCounts c = pair_finish(&p);
    g_assert_cmpuint(c.connections, ==, 2);
    if (kind == CLEAR) {
        g_assert_cmpuint(c.repeated, >, 1000); /* the tap would see them */
    } else {
        g_assert_cmpuint(c.repeated, ==, 0);
        g_assert_cmpuint(c.pages, ==, 0);
    }
}

/* A source that comes to a paused destination in the clear hears an alert, and nothing else. */
static void come_in_the_clear(const char *uri)
{
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) stranger =
        ff_channel_new(ff_address_connect(address, NULL, NULL), FF_CHANNEL_MAIN);
    uint8_t prologue[FF_PROLOGUE_SIZE], answer[7];
    struct iovec iov = {prologue, sizeof(prologue)};

    ff_prologue_encode(prologue, NULL, 0);
    g_assert_cmpint(ff_channel_write_all(stranger, &iov, 1, true), ==, 0);
    g_assert_cmpint(ff_channel_read_all(stranger, answer, sizeof(answer), 20000), ==, 0);
    g_assert_cmpint(answer[0], ==, 21);
    g_assert_cmpint(ff_channel_read_all(stranger, answer, 1, 20000), <, 0);
}

/* A source with the right credentials to which this destination is somebody else; or one that
 * breaks off without a word. */
static void decline(const char *uri, FfTls *tls, bool breaks)
{
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) ch =
        ff_channel_new(ff_address_connect(address, NULL, NULL), FF_CHANNEL_MAIN);
    g_autoptr(GError) error = NULL;
    char c;

    if (breaks) {
        g_assert_true(ff_channel_start_tls(ch, tls, HOST, 20000, &error));
        shutdown(ff_channel_fd(ch), SHUT_WR);
        g_assert_cmpint(ff_channel_read_all(ch, &c, 1, 20000), <, 0);
        return;
    }
    g_assert_false(ff_channel_start_tls(ch, tls, "wrong", 20000, &error));
    g_assert_nonnull(strstr(error->message, "does not match the hostname wrong"));
}

/* The connection is lost and made again: new handshakes, and still nothing in the clear. */
static void test_recovers(gconstpointer data)
{
    uint64_t size = 16 << 20;
    g_autoptr(GError) error = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(GPOINTER_TO_INT(data), &size, 1);
    p.d->n_touchers = 0; /* threads that touch pages might have all of them before the pause */
    start_over_tap(&p);
    ff_migration_set_bandwidth(p.s->m, 0, 4096);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->status == FF_STATUS_POSTCOPY_ACTIVE &&
                   p.d->status == FF_STATUS_POSTCOPY_ACTIVE);
    g_assert_true(ff_migration_pause(p.s->m, NULL));
    side_run_until(p.s->status == FF_STATUS_POSTCOPY_PAUSED &&
                   p.d->status == FF_STATUS_POSTCOPY_PAUSED);
    come_in_the_clear(p.info->socket_address);
    if (GPOINTER_TO_INT(data) == X509) {
        decline(p.info->socket_address, p.client, false);
    }
    ff_migration_set_bandwidth(p.s->m, 0, 0);
    ff_migration_resume(p.s->m, p.at, -1, false, &error);
    g_assert_no_error(error);
    WiretapCounts c = pair_finish(&p);
    g_assert_cmpuint(c.connections, ==, 4);
    g_assert_cmpuint(c.repeated, ==, 0);
}

/* Over one passed connection: urgent pages share it. */
static void test_shared(void)
{
    uint64_t size = 16 << 20;
    int sv[2];

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(X509, &size, 1);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    side_start(p.d, NULL, sv[1]);
    side_start(p.s, NULL, sv[0]);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_finish(&p);
}

/* ---- sides that do not fit ------------------------------------------------------------------- */

static const struct {
    Kind source, destination;
    const char *host;
    const char *source_says, *log; /* the destination waits on, and logs */
} unfit[] = {
    {CLEAR, X509, HOST, "it uses TLS, and this side has no tls-creds", "it speaks in the clear"},
    {CLEAR, PSK, HOST, "it uses TLS, and this side has no tls-creds", "it speaks in the clear"},
    {X509, CLEAR, HOST, "does not use TLS: set tls-creds on both", "this side has no tls-creds"},
    {PSK, CLEAR, HOST, "does not use TLS: set tls-creds on both", "this side has no tls-creds"},
    {PSK, X509, HOST, "a certificate where a shared key is expected", "TLS handshake"},
    {X509, PSK, HOST, "refused TLS", "TLS handshake"},
};

static GMutex log_lock;
static GString *logged; /* log_lock */

static void keep_log(const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
    g_mutex_lock(&log_lock);
    g_string_append_printf(logged, "%s\n", message);
    g_mutex_unlock(&log_lock);
}

static bool log_has(const char *text)
{
    g_mutex_lock(&log_lock);
    bool has = strstr(logged->str, text);
    g_mutex_unlock(&log_lock);
    return has;
}

/* The guest is as before at both ends, and the destination still takes the right source. */
static void test_unfit(void)
{
    uint64_t size = 8 << 20;

    if (!side_possible()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(unfit); i++) {
        Kind ks = unfit[i].source, kd = unfit[i].destination;
        g_autoptr(FfTls) server = kd == CLEAR ? NULL : load(kd == PSK, true);
        g_autoptr(FfTls) client = ks == CLEAR ? NULL : load(ks == PSK, false);
        g_autoptr(FfTls) right = kd == CLEAR ? NULL : load(kd == PSK, false);
        Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);
        Side *again = side_new(FF_ROLE_SOURCE, &size, 1);

        g_mutex_lock(&log_lock);
        g_string_truncate(logged, 0);
        g_mutex_unlock(&log_lock);
        d->tls = server;
        s->tls = client;
        again->tls = right;
        s->tls_hostname = unfit[i].host;
        again->tls_hostname = HOST;
        side_fill(again);
        side_start(d, "tcp:127.0.0.1:0", -1);
        g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
        side_start(s, info->socket_address, -1);
        ff_migration_start_postcopy(s->m, NULL);
        side_run_until(s->done);
        g_assert_cmpstr(s->history->str, ==, "setup failed");
        g_assert_true(g_atomic_int_get(&s->runs));
        g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m);
        if (!strstr(si->error_desc, unfit[i].source_says)) {
            g_error("case %u: the source says: %s", i, si->error_desc);
        }
        g_assert_false(d->done);
        side_start(again, info->socket_address, -1);
        ff_migration_start_postcopy(again->m, NULL);
        side_run_until(again->done && d->done);
        g_assert_cmpint(again->status, ==, FF_STATUS_COMPLETED);
        compare(again, d);
        g_assert_true(log_has(unfit[i].log));
        side_free(s);
        side_free(again);
        side_free(d);
    }
}

/* A source that has proved who it is and does not want this destination: the one fails, as the
 * other does; not so by the word of a source that could be anybody, nor by the end of a connection
 * that nobody gave a reason for. */
static const struct {
    bool anonymous; /* the destination verifies nobody */
    bool breaks;    /* the source does not decline: it breaks off */
    bool ends;      /* the destination */
} declines[] = {{.ends = true}, {.anonymous = true}, {.breaks = true}};

static void test_declined(void)
{
    uint64_t size = 8 << 20;

    if (!side_possible()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(declines); i++) {
        FfCredsSpec spec = {
            .server = true, .verify_peer = !declines[i].anonymous, .dir = server_x509};
        g_autoptr(FfTls) server = ff_creds_load(&spec, NULL), client = load(false, false);
        Side *d = side_new(FF_ROLE_DESTINATION, &size, 1);

        d->tls = server;
        side_start(d, "tcp:127.0.0.1:0", -1);
        g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
        decline(info->socket_address, client, declines[i].breaks);
        if (declines[i].ends) {
            side_run_until(d->done);
            g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
            g_autoptr(FfMigrationInfo) di = ff_migration_info(d->m);
            g_assert_nonnull(strstr(di->error_desc, "it does not accept this side's certificate"));
            side_free(d);
            continue;
        }
        Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
        s->tls = client;
        s->tls_hostname = HOST;
        side_fill(s);
        side_start(s, info->socket_address, -1);
        ff_migration_start_postcopy(s->m, NULL);
        side_run_until(s->done && d->done);
        g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
        compare(s, d);
        side_free(s);
        side_free(d);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    dir = certs_new_pair();
    if (!dir) {
        g_print("1..0 # SKIP no openssl command\n");
        return 0;
    }
    logged = g_string_new(NULL);
    g_log_set_default_handler(keep_log, NULL);
    server_x509 = g_build_filename(dir, "x509-server", NULL);
    client_x509 = g_build_filename(dir, "x509-client", NULL);
    server_psk = g_build_filename(dir, "psk-server", NULL);
    client_psk = g_build_filename(dir, "psk-client", NULL);
    g_test_add_data_func("/tls-migration/clear", GINT_TO_POINTER(CLEAR), test_moves);
    g_test_add_data_func("/tls-migration/x509", GINT_TO_POINTER(X509), test_moves);
    g_test_add_data_func("/tls-migration/psk", GINT_TO_POINTER(PSK), test_moves);
    g_test_add_data_func("/tls-migration/recovers/x509", GINT_TO_POINTER(X509), test_recovers);
    g_test_add_data_func("/tls-migration/recovers/psk", GINT_TO_POINTER(PSK), test_recovers);
    g_test_add_func("/tls-migration/shared", test_shared);
    g_test_add_func("/tls-migration/unfit", test_unfit);
    g_test_add_func("/tls-migration/declined", test_declined);
    int rc = g_test_run();
    certs_remove(dir);
    g_string_free(logged, TRUE);
    char **paths[] = {&dir, &server_x509, &client_x509, &server_psk, &client_psk};
    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_free(*paths[i]);
    }
    return rc;
}
