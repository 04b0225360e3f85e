/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS under a channel: tables of credentials that fit and that do not, what each side then says,
 * garbage, half a handshake, and two threads that read and write one channel at the same time, over
 * unix sockets and over TCP, where the kernel may take the encryption over.
 */
#include <errno.h>
#include <glib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "tests/unit/tls-rig.h"

#define DEADLINE_MS 20000

/* ---- one handshake --------------------------------------------------------------------------- */

typedef struct {
    int fd;
    FfTls *tls;
    const char *host;
    int deadline_ms;
    char *error; /* NULL: all went well */
    FfChannel *ch;
} End;

/* The handshake, then one word each way: with TLS 1.3 a client learns only then that the server
 * does not want it. */
static gpointer run_end(gpointer p)
{
    End *e = p;
    char word[] = {'h', 'e', 'l', 'l', 'o'}, got[sizeof(word)];
    struct iovec iov = {word, sizeof(word)};
    g_autoptr(GError) error = NULL;

    e->ch = ff_channel_new(e->fd, FF_CHANNEL_MAIN);
    if (!ff_channel_start_tls(e->ch, e->tls, e->host, e->deadline_ms, &error)) {
        e->error = g_strdup(error->message);
        ff_channel_shutdown(e->ch);
        return NULL;
    }
    int rc = ff_channel_write_all(e->ch, &iov, 1, true);
    if (rc == 0) {
        rc = ff_channel_read_all(e->ch, got, sizeof(got), DEADLINE_MS);
    }
    if (rc < 0) {
        e->error = g_strdup(ff_channel_strerror(e->ch, rc));
        ff_channel_shutdown(e->ch);
    } else {
        g_assert_cmpmem(got, sizeof(got), word, sizeof(word));
    }
    return NULL;
}

static void end_clear(End *e)
{
    ff_channel_free(e->ch);
    ff_tls_unref(e->tls);
    g_free(e->error);
}

static void tcp_pair(int sv[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&in, sizeof(in)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&in, &len), ==, 0);
    sv[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(sv[0], (struct sockaddr *)&in, sizeof(in)), ==, 0);
    sv[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(sv[1], >=, 0);
    close(listener);
}

static void shake_over(bool tcp, End *server, End *client)
{
    int sv[2];

    if (tcp) {
        tcp_pair(sv);
    } else {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    }
    server->fd = sv[0];
    client->fd = sv[1];
    server->deadline_ms = client->deadline_ms = DEADLINE_MS;
    GThread *t = g_thread_new("server", run_end, server);
    run_end(client);
    g_thread_join(t);
}

static void shake(End *server, End *client)
{
    shake_over(false, server, client);
}

/* ---- x509 ------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    const char *server, *client; /* folders */
    const char *host;
    bool verify_server, verify_client;     /* verify-peer of the server's, the client's object */
    const char *priority;                  /* of both; NULL: default */
    const char *server_says, *client_says; /* NULL: it succeeds */
    bool declined;                         /* the server knows the client, which wants no more */
} x509_cases[] = {
    {"both", "server", "client", "dest.example.org", true, true},
    {"address", "server", "client", "127.0.0.1", true, true},
    {"address-v6", "server", "client", "::1", true, true},
    {"tls12", "server", "client", "dest.example.org", true, true, "NORMAL:-VERS-TLS1.3"},
    {"strong", "server", "client", "dest.example.org", true, true, "SECURE256"},
    {"anonymous-client", "server", "none", "dest.example.org", false, true},
    {"unverified-server", "server-other", "client", "wrong", true, false},
    {"wrong-host", "server", "client", "wrong.example.org", true, true, NULL, "Broken pipe",
     "Certificate does not match the hostname wrong.example.org", .declined = true},
    {"wrong-host-12", "server", "client", "wrong.example.org", true, true, "NORMAL:-VERS-TLS1.3",
     "Broken pipe", "Certificate does not match the hostname wrong.example.org", .declined = true},
    {"wrong-address", "server", "client", "127.0.0.2", true, true, NULL, "Broken pipe",
     "Certificate does not match the hostname 127.0.0.2", .declined = true},
    {"no-host", "server", "client", NULL, true, true, NULL, "Broken pipe", "set tls-hostname",
     .declined = true},
    /* Whose end it is nobody knows. */
    {"wrong-host-anonymous", "server", "none", "wrong.example.org", false, true, NULL,
     "Broken pipe", "Certificate does not match the hostname wrong.example.org"},
    {"server-of-other-ca", "server-other", "client", "dest.example.org", true, true, NULL,
     "does not know the issuer", "The certificate hasn't got a known issuer"},
    {"client-of-other-ca", "server", "client-other", "dest.example.org", true, true, NULL,
     "The certificate hasn't got a known issuer", "does not know the issuer"},
    {"no-client-cert", "server", "none", "dest.example.org", true, true, NULL,
     "No certificate was found", "client-cert.pem"},
    {"no-client-cert-12", "server", "none", "dest.example.org", true, true, "NORMAL:-VERS-TLS1.3",
     "No certificate was found", "refused TLS"},
    {"expired-server", "server-expired", "client", "dest.example.org", true, true, NULL, "expired",
     "The certificate has expired"},
    {"early-server", "server-early", "client", "dest.example.org", true, true, NULL, "",
     "The certificate is not yet activated"},
    {"expired-client", "server", "client-expired", "dest.example.org", true, true, NULL,
     "The certificate has expired", "expired"},
    {"revoked-client", "server-crl", "client-revoked", "dest.example.org", true, true, NULL,
     "The certificate has been revoked", "revoked"},
    {"not-revoked-client", "server-crl", "client", "dest.example.org", true, true},
    {"server-as-client", "server", "client-purpose", "dest.example.org", true, true, NULL,
     "purpose", ""},
    {"client-as-server", "server-purpose", "client", "dest.example.org", true, true, NULL, "",
     "purpose"},
    {"weak-ca", "server-weak", "client-weakly", "dest.example.org", true, true, NULL, "",
     "insecure algorithm"},
};

static void test_x509(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    g_autofree char *server_dir = sub(x509_cases[i].server),
                    *client_dir = sub(x509_cases[i].client);
    End server = {0}, client = {.host = x509_cases[i].host};

    server.tls = load((FfCredsSpec){.server = true,
                                    .verify_peer = x509_cases[i].verify_server,
                                    .priority = x509_cases[i].priority,
                                    .dir = server_dir},
                      NULL);
    client.tls = load((FfCredsSpec){.verify_peer = x509_cases[i].verify_client,
                                    .priority = x509_cases[i].priority,
                                    .dir = client_dir},
                      NULL);
    shake(&server, &client);
    expect("server", server.error, x509_cases[i].server_says);
    expect("client", client.error, x509_cases[i].client_says);
    g_assert_cmpint(ff_channel_declined(server.ch), ==, x509_cases[i].declined);
    g_assert_false(ff_channel_declined(client.ch));
    if (!client.error) {
        g_autofree char *tls = ff_channel_tls(client.ch);
        bool old = x509_cases[i].priority && strstr(x509_cases[i].priority, "-VERS-TLS1.3");
        g_assert_true(g_str_has_prefix(tls, old ? "TLSv1.2 " : "TLSv1.3 "));
    }
    end_clear(&server);
    end_clear(&client);
}

/* Nothing is said before it is known who the peer is, nor to one that is somebody else. */
static void test_not_before(void)
{
    g_autofree char *server_dir = sub("server"), *client_dir = sub("client");
    g_autoptr(FfTls) server =
        load((FfCredsSpec){.server = true, .verify_peer = true, .dir = server_dir}, NULL);
    g_autoptr(FfTls) client = load((FfCredsSpec){.verify_peer = true, .dir = client_dir}, NULL);
    FfIo there = FF_IO_AGAIN, here = FF_IO_AGAIN;
    size_t done;
    short events;
    int sv[2];
    char c;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), ==, 0);
    g_autoptr(FfTlsSession) s = ff_tls_session_new(server, sv[0], NULL);
    g_autoptr(FfTlsSession) c0 = ff_tls_session_new(client, sv[1], "wrong.example.org");

    g_assert_cmpint(ff_tls_write(c0, "hello", 5, &events), ==, FF_IO_DEAD);
    g_assert_cmpint(ff_tls_read(c0, &c, 1, &done, &events), ==, FF_IO_DEAD);
    g_assert_cmpint(recv(sv[0], &c, 1, 0), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    while (here == FF_IO_AGAIN || there == FF_IO_AGAIN) {
        here = here == FF_IO_AGAIN ? ff_tls_handshake(c0, &events) : here;
        there = there == FF_IO_AGAIN ? ff_tls_handshake(s, &events) : there;
    }
    g_assert_cmpint(here, ==, FF_IO_DEAD);
    g_assert_cmpint(there, ==, FF_IO_DONE);
    g_assert_cmpint(ff_tls_errno(c0), ==, EPROTO);
    g_assert_cmpint(ff_tls_write(c0, "hello", 5, &events), ==, FF_IO_DEAD);
    g_assert_cmpint(ff_tls_read(c0, &c, 1, &done, &events), ==, FF_IO_DEAD);
    g_assert_false(ff_tls_declined(s)); /* it has not looked yet */
    g_assert_cmpint(ff_tls_read(s, &c, 1, &done, &events), ==, FF_IO_DEAD);
    g_assert_true(ff_tls_declined(s));
    g_assert_cmpint(recv(sv[0], &c, 1, 0), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    close(sv[0]);
    close(sv[1]);
}

/* ---- who may come in ------------------------------------------------------------------------- */

static const struct {
    const char *match;
    bool glob, allow, otherwise, comes_in;
} authz_cases[] = {
    {"C=DE,O=Example,CN=client.example.org", false, true, false, true},
    {"CN=client.example.org,O=Example,C=DE", false, true, false, false},
    {"C=DE,O=Example,CN=*", true, true, false, true},
    {"C=DE,O=Example,CN=*", true, false, true, false},
    {"C=FR,*", true, false, true, true},
    {"C=FR,*", true, true, false, false},
};

static void test_authz(void)
{
    g_autofree char *server_dir = sub("server"), *client_dir = sub("client");

    for (unsigned i = 0; i < G_N_ELEMENTS(authz_cases); i++) {
        End server = {0}, client = {.host = "dest.example.org"};
        FfAuthz *authz = ff_authz_new_list(authz_cases[i].otherwise);

        ff_authz_add_rule(authz, authz_cases[i].match, authz_cases[i].glob, authz_cases[i].allow);
        server.tls = load(
            (FfCredsSpec){.server = true, .verify_peer = true, .dir = server_dir, .authz = authz},
            NULL);
        client.tls = load((FfCredsSpec){.verify_peer = true, .dir = client_dir}, NULL);
        shake(&server, &client);
        expect("server", server.error,
               authz_cases[i].comes_in
                   ? NULL
                   : "TLS x509 authz check for C=DE,O=Example,CN=client.example.org is denied");
        expect("client", client.error, authz_cases[i].comes_in ? NULL : "not authorised");
        end_clear(&server);
        end_clear(&client);
    }
    g_autoptr(FfAuthz) simple = ff_authz_new_simple("CN=a");
    g_assert_true(ff_authz_allows(simple, "CN=a"));
    g_assert_false(ff_authz_allows(simple, "CN=ab"));
}

/* ---- shared keys ----------------------------------------------------------------------------- */

static const struct {
    const char *server, *client; /* keys.psk */
    const char *username;
    const char *server_says, *client_says;
} psk_cases[] = {
    {"qemu:" KEY_A "\n", "qemu:" KEY_A "\n", NULL, NULL, NULL},
    {"x:" KEY_B "\nqemu:" KEY_A, "qemu:" KEY_A "\r\n", "", NULL, NULL},
    {"fred:" KEY_A "\nqemu:" KEY_B "\n", "fred:" KEY_A "\n", "fred", NULL, NULL},
    {"qemu:" KEY_A "\n", "qemu:" KEY_B "\n", NULL, "key is not the one", "the keys differ"},
    {"qemu:" KEY_A "\n", "fred:" KEY_A "\n", "fred", "in no line of keys.psk", "refused TLS"},
};

static void test_psk(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(psk_cases); i++) {
        g_autofree char *server_dir = certs_psk(dir, "psk-server", psk_cases[i].server);
        g_autofree char *client_dir = certs_psk(dir, "psk-client", psk_cases[i].client);
        End server = {0}, client = {0};

        server.tls = load((FfCredsSpec){.psk = true, .server = true, .dir = server_dir}, NULL);
        client.tls = load(
            (FfCredsSpec){.psk = true, .dir = client_dir, .username = psk_cases[i].username}, NULL);
        shake(&server, &client);
        expect("server", server.error, psk_cases[i].server_says);
        expect("client", client.error, psk_cases[i].client_says);
        end_clear(&server);
        end_clear(&client);
        certs_remove(server_dir);
        certs_remove(client_dir);
    }
}

/* A client that expects a shared key takes no server with a certificate, and the other way. */
static void test_kinds(void)
{
    g_autofree char *psk_dir = certs_psk(dir, "psk-mixed", "qemu:" KEY_A "\n");
    g_autofree char *server_dir = sub("server"), *client_dir = sub("client");

    for (unsigned i = 0; i < 2; i++) {
        End server = {0}, client = {.host = "dest.example.org"};

        server.tls =
            load((FfCredsSpec){.psk = i, .server = true, .dir = i ? psk_dir : server_dir}, NULL);
        client.tls = load(
            (FfCredsSpec){.psk = !i, .verify_peer = true, .dir = i ? client_dir : psk_dir}, NULL);
        shake(&server, &client);
        g_assert_nonnull(server.error);
        g_assert_nonnull(client.error);
        end_clear(&server);
        end_clear(&client);
    }
    certs_remove(psk_dir);
}

/* ---- peers that are none --------------------------------------------------------------------- */

typedef struct {
    int fd;
    const char *bytes;
    size_t length;
} Liar;

static gpointer lie(gpointer p)
{
    Liar *l = p;
    char sink[4096];

    /* The other side may have closed already, where nothing is sent. */
    if (l->length) {
        g_assert_cmpint(send(l->fd, l->bytes, l->length, MSG_NOSIGNAL), ==, (ssize_t)l->length);
    }
    while (recv(l->fd, sink, sizeof(sink), 0) > 0) {
    }
    shutdown(l->fd, SHUT_RDWR);
    return NULL;
}

static const struct {
    const char *bytes;
    size_t length;
    const char *server_says, *client_says;
} lies[] = {
    {"QEVM\0\0\0\003\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22, "no TLS", "no TLS"},
    {"GET / HTTP/1.1\r\n\r\n", 18, "no TLS", "no TLS"},
    /* A record's header and nothing after it: the deadline ends it. */
    {"\x16\x03\x01\x02\x00\x01", 6, "not finished in time", "not finished in time"},
    /* A handshake record of zeros. */
    {"\x16\x03\x01\x00\x08\0\0\0\0\0\0\0\0", 13, "TLS", "TLS"},
    /* A record longer than any may be. */
    {"\x16\x03\x03\xff\xff\x02\0\0\0", 9, "TLS", "TLS"},
    /* unexpected_message, which is what a farfault without tls-creds answers. */
    {"\x15\x03\x03\x00\x02\x02\x0a", 7, "TLS", "does not use TLS: set tls-creds on both"},
    {"", 0, "not finished in time", "not finished in time"},
};

/* A peer that wants to begin again in the middle, which TLS 1.2 knows: the session continues as
 * it was, or ends; nobody becomes somebody else inside of it. */
typedef struct {
    int fd;
    unsigned renegotiated;
} Renegotiator;

static gpointer renegotiate(gpointer p)
{
    Renegotiator *r = p;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    g_autofree char *cert = sub("client-cert.pem"), *key = sub("client-key.pem");
    SSL *ssl;

    SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    g_assert_cmpint(SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM), ==, 1);
    g_assert_cmpint(SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM), ==, 1);
    ssl = SSL_new(ctx);
    SSL_set_fd(ssl, r->fd);
    g_assert_cmpint(SSL_connect(ssl), ==, 1);
    g_assert_cmpstr(SSL_get_version(ssl), ==, "TLSv1.2");
    r->renegotiated = SSL_renegotiate(ssl) == 1 && SSL_do_handshake(ssl) == 1;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    shutdown(r->fd, SHUT_RDWR);
    return NULL;
}

static void test_renegotiation(void)
{
    g_autofree char *server_dir = sub("server");
    End server = {.deadline_ms = DEADLINE_MS};
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    server.fd = sv[0];
    server.tls = load(
        (FfCredsSpec){.server = true, .verify_peer = true, .priority = "NORMAL", .dir = server_dir},
        NULL);
    Renegotiator r = {.fd = sv[1]};
    GThread *t = g_thread_new("renegotiator", renegotiate, &r);

    run_end(&server); /* waits for a word, which never comes */
    g_thread_join(t);
    g_assert_cmpuint(r.renegotiated, ==, 0);
    g_assert_nonnull(server.error);
    end_clear(&server);
    close(sv[1]);
}

static unsigned count_fds(void)
{
    g_autoptr(GDir) d = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(d)) {
        n++;
    }
    return n;
}

static void test_lies(void)
{
    unsigned fds = count_fds();
    g_autofree char *server_dir = sub("server"), *client_dir = sub("client");

    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(lies); i++) {
        bool server = i % 2;
        int sv[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
        const char *says = server ? lies[i / 2].server_says : lies[i / 2].client_says;
        /* A lie that is seen has its answer on a busy machine, too. */
        bool is_seen = strstr(says, "no TLS") || strstr(says, "does not use TLS");
        Liar liar = {sv[1], lies[i / 2].bytes, lies[i / 2].length};
        End end = {
            .fd = sv[0], .host = "dest.example.org", .deadline_ms = is_seen ? DEADLINE_MS : 300};

        end.tls = load((FfCredsSpec){.server = server,
                                     .verify_peer = true,
                                     .dir = server ? server_dir : client_dir},
                       NULL);
        GThread *t = g_thread_new("liar", lie, &liar);
        run_end(&end);
        expect("liar", end.error, says);
        end_clear(&end);
        g_thread_join(t);
        close(sv[1]);
    }
    g_assert_cmpuint(count_fds(), ==, fds);
}

/* ---- both directions at once ----------------------------------------------------------------- */

#define TRAFFIC (8u << 20)

typedef struct {
    FfChannel *ch;
    uint32_t seed;
} Flow;

static gpointer pour(gpointer p)
{
    Flow *f = p;
    g_autofree uint8_t *buf = g_malloc(100000);
    uint32_t x = f->seed;

    for (size_t at = 0, n; at < TRAFFIC; at += n) {
        n = MIN(1 + x % 100000, TRAFFIC - at);
        for (size_t i = 0; i < n; i++) {
            buf[i] = (uint8_t)((at + i) * 31 + f->seed);
        }
        struct iovec iov[2] = {{buf, n / 3}, {buf + n / 3, n - n / 3}};
        g_assert_cmpint(ff_channel_write_all(f->ch, iov, 2, x & 1), ==, 0);
        x = x * 1664525 + 1013904223;
    }
    return NULL;
}

static gpointer drain(gpointer p)
{
    Flow *f = p;
    g_autofree uint8_t *buf = g_malloc(70000);
    uint32_t x = f->seed;

    for (size_t at = 0, n; at < TRAFFIC; at += n) {
        n = MIN(1 + x % 70000, TRAFFIC - at);
        g_assert_cmpint(ff_channel_read_all(f->ch, buf, n, -1), ==, 0);
        for (size_t i = 0; i < n; i++) {
            if (buf[i] != (uint8_t)((at + i) * 31 + f->seed)) {
                g_error("byte %zu is wrong", at + i);
            }
        }
        x = x * 22695477 + 1;
    }
    return NULL;
}

typedef struct {
    const char *name;
    unsigned records; /* that one key encrypts; 0: the default */
    bool tcp;
    const char *priority;
} Duplex;

static const Duplex duplexes[] = {
    {"unix"},
    {"unix/new-keys", .records = 7},
    {"tcp", .tcp = true},
    {"tcp/1.2", .tcp = true, .priority = "NORMAL:-VERS-TLS1.3"},
};

/* Whether this kernel takes TLS over, tried on a socket of the same kind. */
static bool kernel_has_tls(bool tcp)
{
    int sv[2];

    if (!tcp) {
        return false;
    }
    tcp_pair(sv);
    bool has = setsockopt(sv[0], IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0;

    if (!has) {
        g_test_message("no TLS in this kernel: %s", g_strerror(errno));
    }
    close(sv[0]);
    close(sv[1]);
    return has;
}

static void test_duplex(gconstpointer data)
{
    const Duplex *row = data;
    unsigned records = row->records;
    g_autofree char *server_dir = sub("server"), *client_dir = sub("client");
    End server = {0}, client = {.host = "dest.example.org"};

    server.tls = load((FfCredsSpec){.server = true,
                                    .verify_peer = true,
                                    .dir = server_dir,
                                    .records_per_key = records,
                                    .priority = row->priority},
                      NULL);
    client.tls = load((FfCredsSpec){.verify_peer = true,
                                    .dir = client_dir,
                                    .records_per_key = records,
                                    .priority = row->priority},
                      NULL);
    shake_over(row->tcp, &server, &client);
    g_assert_null(server.error);
    g_assert_null(client.error);
    Flow flows[2] = {{server.ch, 1}, {client.ch, 2}}, back[2] = {{client.ch, 1}, {server.ch, 2}};
    GThread *threads[4] = {
        g_thread_new("pour", pour, &flows[0]),
        g_thread_new("pour", pour, &flows[1]),
        g_thread_new("drain", drain, &back[0]),
        g_thread_new("drain", drain, &back[1]),
    };
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(ff_channel_bytes(server.ch), >=, 2 * TRAFFIC);
    g_autofree char *described = ff_channel_tls(server.ch);
    g_assert_cmpint(strstr(described, ", key ") != NULL, ==, records != 0);
    g_assert_cmpint(strstr(described, " (kernel)") != NULL, ==, kernel_has_tls(row->tcp));
    g_test_message("%s", described);
    ff_channel_shutdown(client.ch);
    char c;
    g_assert_cmpint(ff_channel_read_all(server.ch, &c, 1, DEADLINE_MS), ==, -EPIPE);
    end_clear(&server);
    end_clear(&client);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (!tls_rig_new()) {
        return 0;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(x509_cases); i++) {
        g_autofree char *name = g_strdup_printf("/tls/x509/%s", x509_cases[i].name);
        g_test_add_data_func(name, GUINT_TO_POINTER(i), test_x509);
    }
    g_test_add_func("/tls/not-before", test_not_before);
    g_test_add_func("/tls/authz", test_authz);
    g_test_add_func("/tls/psk", test_psk);
    g_test_add_func("/tls/kinds", test_kinds);
    g_test_add_func("/tls/renegotiation", test_renegotiation);
    g_test_add_func("/tls/lies", test_lies);
    for (unsigned i = 0; i < G_N_ELEMENTS(duplexes); i++) {
        g_autofree char *name = g_strdup_printf("/tls/duplex/%s", duplexes[i].name);
        g_test_add_data_func(name, &duplexes[i], test_duplex);
    }
    int rc = g_test_run();

    tls_rig_free();
    return rc;
}
