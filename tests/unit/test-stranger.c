/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A third party at the port of a destination: whatever connects without the session's secret is
 * refused, before the additional channel is there and after it, in the clear and under TLS (where
 * it has the right credentials), and the migration never learns of it. The source is scripted, so
 * that the moment is certain: it has said hello, and its additional channel is still to come.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "migration/destination/handshakes.h"
#include "net/address.h"
#include "net/channel-write.h"
#include "net/creds.h"
#include "tests/lib/certs.h"
#include "tests/lib/clienthello.h"
#include "tests/lib/side.h"

#define RAM_BYTES (1ull << 20)
#define DEADLINE_MS 20000
#define SLOW_MS 400 /* from byte to byte: eight take longer than a destination waits for them, */
#define HANDSHAKE_TIME "handshake=2500" /* in this case */

static char *dir; /* of the key */

static FfTls *load(bool server)
{
    g_autoptr(GError) error = NULL;
    FfCredsSpec spec = {.psk = true, .server = server, .dir = dir};
    FfTls *tls = ff_creds_load(&spec, &error);

    g_assert_no_error(error);
    return tls;
}

/* ---- the right source ------------------------------------------------------------------------ */

typedef struct {
    Side *d;
    FfTls *server, *client; /* NULL: in the clear */
    FfAddress *address;
    FfChannel *main;
    FfChannelHello right; /* what its additional channel says */
} Scene;

static FfChannel *connect_plain(Scene *s, FfChannelKind kind)
{
    g_autoptr(GError) error = NULL;
    int fd = ff_address_connect(s->address, NULL, &error);

    g_assert_no_error(error);
    return ff_channel_new(fd, kind);
}

static FfChannel *connect_as_peer(Scene *s, FfChannelKind kind)
{
    FfChannel *ch = connect_plain(s, kind);
    g_autoptr(GError) error = NULL;

    if (s->client) {
        ff_channel_start_tls(ch, s->client, NULL, DEADLINE_MS, &error);
        g_assert_no_error(error);
    }
    return ch;
}

static void hear(FfChannel *ch, FfFrameType type, void *payload, size_t cap)
{
    const char *why = NULL;
    FfFrame f;

    g_assert_cmpint(ff_channel_read_frame(ch, &f, DEADLINE_MS, &why), ==, 0);
    g_assert_cmpstr(ff_frame_name(f.type), ==, ff_frame_name(type));
    g_assert_cmpuint(f.page, ==, 0);
    g_assert_cmpuint(f.length, <=, cap);
    g_assert_cmpint(ff_channel_read_all(ch, payload, f.length, DEADLINE_MS), ==, 0);
}

static void say_prologue(FfChannel *ch)
{
    uint8_t prologue[FF_PROLOGUE_SIZE];
    struct iovec iov = {prologue, ff_prologue_encode(prologue, NULL, 0)};

    g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
}

static void say_hello(Scene *s)
{
    struct {
        FfHello hello;
        FfHelloBlock block;
    } h = {.hello = {.version = GUINT32_TO_LE(FF_WIRE_VERSION), .epoch = GUINT64_TO_LE(1)},
           .block = {
               .id = "ram0", .size = GUINT64_TO_LE(RAM_BYTES), .page_size = GUINT64_TO_LE(PAGE)}};
    FfFrame f = ff_frame(FF_FRAME_HELLO, sizeof(h));
    FfGreeting greeting;
    FfHelloReply reply;

    say_prologue(s->main);
    hear(s->main, FF_FRAME_GREETING, &greeting, sizeof(greeting));
    memset(h.hello.vm_uuid, 7, sizeof(h.hello.vm_uuid));
    memset(h.hello.session, 0x5e, sizeof(h.hello.session));
    f.n_pages = 1;
    g_assert_cmpint(ff_channel_send(s->main, f, &h, true), ==, 0);
    hear(s->main, FF_FRAME_HELLO_REPLY, &reply, sizeof(reply));
    s->right =
        (FfChannelHello){.kind = GUINT32_TO_LE(FF_CHANNEL_URGENT), .epoch = GUINT32_TO_LE(1)};
    memcpy(s->right.session, h.hello.session, sizeof(s->right.session));
    memcpy(s->right.secret, &reply, sizeof(s->right.secret));
}

/* ---- strangers ------------------------------------------------------------------------------- */

static void flip_secret(FfChannelHello *h)
{
    h->secret[31] ^= 1;
}

static void no_secret(FfChannelHello *h)
{
    memset(h->secret, 0, sizeof(h->secret));
}

static void flip_session(FfChannelHello *h)
{
    h->session[0] ^= 0x80;
}

static void old_epoch(FfChannelHello *h)
{
    h->epoch = 0;
}

static void nothing(FfChannelHello *h)
{
}

typedef struct {
    const char *name;
    void (*change)(FfChannelHello *h);
    bool later; /* right while the channel is awaited */
} Stranger;

static const Stranger strangers[] = {
    {"secret", flip_secret},  {"no-secret", no_secret},           {"session", flip_session},
    {"old-epoch", old_epoch}, {"replay", nothing, .later = true},
};

/* Nothing is said to it: the connection ends. */
static void expect_closed(FfChannel *ch)
{
    char c;

    g_assert_cmpint(ff_channel_read_all(ch, &c, 1, DEADLINE_MS), <, 0);
}

static void try(Scene *s, const Stranger *stranger)
{
    static const FfChannelKind kinds[] = {FF_CHANNEL_URGENT, FF_CHANNEL_BULK};

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        FfChannelHello h = s->right;
        g_autoptr(FfChannel) ch = connect_as_peer(s, kinds[i]);

        h.kind = GUINT32_TO_LE(kinds[i]);
        stranger->change(&h);
        ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL, sizeof(h)), &h, true);
        expect_closed(ch);
    }
}

/* A frame of pages in place of who it is; half a hello; another migration. */
static void try_odd(Scene *s)
{
    uint8_t page[PAGE] = {1};
    FfFrame f = ff_frame(FF_FRAME_PAGES, PAGE);
    g_autoptr(FfChannel) pages = connect_as_peer(s, FF_CHANNEL_URGENT);

    f.n_pages = 1;
    f.epoch = 1;
    ff_channel_send(pages, f, page, true);
    expect_closed(pages);

    g_autoptr(FfChannel) half = connect_as_peer(s, FF_CHANNEL_URGENT);
    FfFrame header = ff_frame(FF_FRAME_CHANNEL, sizeof(FfChannelHello));
    struct iovec iov = {&header, sizeof(header)};

    ff_frame_encode(&header);
    ff_channel_write_all(half, &iov, 1, true);
    ff_channel_finish(half);
    expect_closed(half);

    g_autoptr(FfChannel) other = connect_as_peer(s, FF_CHANNEL_MAIN);

    say_prologue(other);
    expect_closed(other);
}

/* A peer that speaks in the clear where TLS is spoken gets an alert, not a word more. */
static void try_in_the_clear(Scene *s)
{
    g_autoptr(FfChannel) ch = connect_plain(s, FF_CHANNEL_URGENT);
    uint8_t answer[7];

    ff_channel_send(ch, ff_frame(FF_FRAME_CHANNEL, sizeof(s->right)), &s->right, true);
    g_assert_cmpint(ff_channel_read_all(ch, answer, sizeof(answer), DEADLINE_MS), ==, 0);
    g_assert_cmpint(answer[0], ==, 21); /* an alert of TLS */
    expect_closed(ch);
}

static void test_strangers(gconstpointer data)
{
    uint64_t size = RAM_BYTES;

    if (!side_possible()) {
        return;
    }
    g_autoptr(FfTls) server = data ? load(true) : NULL, client = data ? load(false) : NULL;
    Scene s = {.d = side_new(FF_ROLE_DESTINATION, &size, 1), .server = server, .client = client};

    s.d->tls = server;
    side_start(s.d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s.d->m);

    s.address = ff_address_parse(info->socket_address, NULL);
    try(&s, &strangers[0]); /* nobody has come yet */
    s.main = connect_as_peer(&s, FF_CHANNEL_MAIN);
    say_hello(&s);
    for (unsigned i = 0; i < G_N_ELEMENTS(strangers); i++) {
        if (!strangers[i].later) {
            try(&s, &strangers[i]);
        }
    }
    try_odd(&s);
    if (client) {
        try_in_the_clear(&s);
    }
    /* Its own channel is let in, and once only. */
    g_autoptr(FfChannel) urgent = connect_as_peer(&s, FF_CHANNEL_URGENT);

    g_assert_cmpint(
        ff_channel_send(urgent, ff_frame(FF_FRAME_CHANNEL, sizeof(s.right)), &s.right, true), ==,
        0);
    hear(urgent, FF_FRAME_CHANNEL_REPLY, NULL, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(strangers); i++) {
        try(&s, &strangers[i]);
    }
    try_odd(&s);
    /* And the migration continues. */
    g_assert_cmpint(ff_channel_send(s.main, ff_frame(FF_FRAME_PREPARE, 0), NULL, true), ==, 0);
    hear(s.main, FF_FRAME_READY, NULL, 0);
    ff_channel_shutdown(s.main);
    side_run_until(s.d->done);
    ff_channel_free(s.main);
    ff_address_free(s.address);
    side_free(s.d);
}

/* A byte now and then gains nothing: the first bytes have one deadline, all of them, and so has a
 * handshake; after it the right source is let in. */
static void test_slow_bytes(gconstpointer data)
{
    uint64_t size = RAM_BYTES;
    uint8_t slowly[FF_PROLOGUE_SIZE] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3};
    unsigned sent = 0;
    char c;
    int rc;

    if (!side_possible()) {
        return;
    }
    g_autoptr(FfTls) server = data ? load(true) : NULL, client = data ? load(false) : NULL;
    Scene s = {.d = side_new(FF_ROLE_DESTINATION, &size, 1), .server = server, .client = client};

    g_setenv("FARFAULT_DEADLINES", HANDSHAKE_TIME, TRUE);
    s.d->tls = server;
    side_start(s.d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s.d->m);
    s.address = ff_address_parse(info->socket_address, NULL);

    if (!data) {
        ff_prologue_encode(slowly, NULL, 0);
    }
    g_autoptr(FfChannel) slow = connect_plain(&s, FF_CHANNEL_MAIN);
    do {
        struct iovec iov = {slowly + sent++, 1};

        ff_channel_write_all(slow, &iov, 1, true);
        rc = ff_channel_read_all(slow, &c, 1, SLOW_MS);
    } while (rc == -ETIMEDOUT && sent < sizeof(slowly));
    g_assert_cmpint(rc, <, 0);
    g_assert_cmpint(rc, !=, -ETIMEDOUT);
    g_assert_cmpuint(sent, <, FF_PROLOGUE_HEADER);
    g_unsetenv("FARFAULT_DEADLINES");

    s.main = connect_as_peer(&s, FF_CHANNEL_MAIN);
    say_hello(&s);
    ff_channel_shutdown(s.main);
    side_run_until(s.d->done);
    ff_channel_free(s.main);
    ff_address_free(s.address);
    side_free(s.d);
}

/* What a stranger says before it falls silent. */
typedef enum { IN_THE_CLEAR, UNDER_TLS, CLIENT_HELLO, WHOLE_HANDSHAKE } Beginning;

static const struct {
    const char *text;
    gsize n;
    Beginning how; /* for a destination without TLS, or with; and then continues as is said here */
} beginnings[] = {
    {"", 0, IN_THE_CLEAR},
    {"Q", 1, IN_THE_CLEAR},                         /* of a source */
    {"QEVM\0\0\0\3\7\0\0\0\xff", 13, IN_THE_CLEAR}, /* with a long name of its machine */
    {"\0", 1, IN_THE_CLEAR},                        /* of nothing */
    {"", 0, UNDER_TLS},
    {"\x16\3\1\2", 4, UNDER_TLS},
    {"\x16\3\1\2\0\1\0", 7, UNDER_TLS},
    {"", 0, CLIENT_HELLO},
    {"", 0, WHOLE_HANDSHAKE},
    {"QEVM\0\0\0\3", 8, WHOLE_HANDSHAKE},
};

/* The I-th of those that fit to the scene. */
static Beginning connect_silent(Scene *s, unsigned i, FfChannel **silent)
{
    unsigned first = 0, end = G_N_ELEMENTS(beginnings);

    for (unsigned k = 0; k < G_N_ELEMENTS(beginnings); k++) {
        first += s->client && beginnings[k].how == IN_THE_CLEAR;
        end -= !s->client && beginnings[k].how != IN_THE_CLEAR;
    }
    unsigned at = first + i % (end - first);
    FfChannel *ch = connect_plain(s, FF_CHANNEL_MAIN);
    g_autoptr(GBytes) hello = s->client ? client_hello(s->client) : NULL;
    struct iovec iov = {(void *)beginnings[at].text, beginnings[at].n};
    g_autoptr(GError) error = NULL;

    if (beginnings[at].how == CLIENT_HELLO) {
        iov.iov_base = (void *)g_bytes_get_data(hello, &iov.iov_len);
    } else if (beginnings[at].how == WHOLE_HANDSHAKE) {
        ff_channel_start_tls(ch, s->client, NULL, DEADLINE_MS, &error);
        g_assert_no_error(error);
    }
    if (iov.iov_len) {
        g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
    }
    *silent = ch;
    return beginnings[at].how;
}

/* Reads all that still comes. */
static void expect_end(FfChannel *ch)
{
    char sink[256];

    do {
        g_assert_cmpint(ff_channel_wait_readable(ch, DEADLINE_MS), ==, 0);
    } while (recv(ff_channel_fd(ch), sink, sizeof(sink), 0) > 0);
}

/* What has come to it, an answer to its handshake, is not looked at. */
static bool is_open(const FfChannel *ch)
{
    char sink[4096];
    ssize_t n;

    while ((n = recv(ff_channel_fd(ch), sink, sizeof(sink), MSG_DONTWAIT)) > 0) {
    }
    return n < 0 && errno == EAGAIN;
}

/* N strangers that say nothing, or the beginning of something, stand in front of the source: it is
 * let in while they still wait. A crowd that does not fit in is thinned out, and one that has
 * proved who it is goes last. */
static void come_in(unsigned n, bool under_tls)
{
    uint64_t size = RAM_BYTES;
    g_autoptr(GPtrArray) strangers_in = g_ptr_array_new_with_free_func((void *)ff_channel_free);
    g_autofree Beginning *how = g_new0(Beginning, n);
    unsigned waiting = 0;

    if (!side_possible()) {
        return;
    }
    g_autoptr(FfTls) server = under_tls ? load(true) : NULL;
    g_autoptr(FfTls) client = under_tls ? load(false) : NULL;
    Scene s = {.d = side_new(FF_ROLE_DESTINATION, &size, 1), .server = server, .client = client};

    s.d->tls = server;
    side_start(s.d, "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s.d->m);

    s.address = ff_address_parse(info->socket_address, NULL);
    for (unsigned i = 0; i < n; i++) {
        FfChannel *silent;

        how[i] = connect_silent(&s, i, &silent);
        g_ptr_array_add(strangers_in, silent);
    }
    int64_t began = g_get_monotonic_time();
    s.main = connect_as_peer(&s, FF_CHANNEL_MAIN);
    say_hello(&s);
    g_autoptr(FfChannel) urgent = connect_as_peer(&s, FF_CHANNEL_URGENT);

    g_assert_cmpint(
        ff_channel_send(urgent, ff_frame(FF_FRAME_CHANNEL, sizeof(s.right)), &s.right, true), ==,
        0);
    hear(urgent, FF_FRAME_CHANNEL_REPLY, NULL, 0);
    g_assert_cmpint(g_get_monotonic_time() - began, <, FF_HANDSHAKES_DEADLINE_MS * 1000ll);
    for (unsigned i = 0; i < n; i++) {
        bool open = is_open(strangers_in->pdata[i]);

        waiting += open;
        if (how[i] == WHOLE_HANDSHAKE) {
            g_assert_true(open);
        }
    }
    if (n < FF_HANDSHAKES_PLACES) {
        g_assert_cmpuint(waiting, ==, n);
    } else {
        g_assert_cmpuint(waiting, <=, FF_HANDSHAKES_PLACES);
    }
    ff_channel_shutdown(s.main);
    side_run_until(s.d->done);
    for (unsigned i = 0; i < n; i++) {
        expect_end(strangers_in->pdata[i]); /* nobody is left behind */
    }
    ff_channel_free(s.main);
    ff_address_free(s.address);
    side_free(s.d);
}

static void test_silent(gconstpointer data)
{
    come_in(12, data);
}

static void test_crowd(gconstpointer data)
{
    come_in(FF_HANDSHAKES_PLACES + 8, data);
}

/* A peer that speaks goes first; and those that came after it can be told from those that came
 * before. */
static void test_order(void)
{
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int listener = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(listener);
    Scene s = {.address = ff_address_parse(uri, NULL)};
    g_autoptr(FfHandshakes) handshakes = ff_handshakes_new(listener, NULL, NULL, NULL);
    FfChannel *ch[4];

    for (unsigned i = 0; i < 3; i++) {
        ch[i] = connect_plain(&s, FF_CHANNEL_MAIN);
    }
    ch[3] = connect_plain(&s, FF_CHANNEL_MAIN);
    say_prologue(ch[3]);
    FfChannel *first = ff_handshakes_next(handshakes, NULL);
    GPtrArray *later = ff_handshakes_later(handshakes);
    g_assert_cmpuint(later->len, ==, 0);
    g_ptr_array_unref(later);
    ff_channel_free(first);
    expect_closed(ch[3]); /* it was this one */
    say_prologue(ch[1]);
    ff_channel_free(ff_handshakes_next(handshakes, NULL));
    expect_closed(ch[1]);
    later = ff_handshakes_later(handshakes);
    g_assert_cmpuint(later->len, ==, 1);
    g_ptr_array_unref(later);
    expect_closed(ch[2]);
    g_assert_true(is_open(ch[0]));
    struct iovec half = {"QE", 2};
    g_assert_cmpint(ff_channel_write_all(ch[0], &half, 1, true), ==, 0);
    ff_channel_finish(ch[0]); /* the end is a word, too */
    ff_channel_free(ff_handshakes_next(handshakes, NULL));
    expect_closed(ch[0]);
    for (unsigned i = 0; i < 4; i++) {
        ff_channel_free(ch[i]);
    }
    ff_address_free(s.address);
    close(listener);
}

static GPtrArray *logged; /* char * */

static void keep_log(const char *domain, GLogLevelFlags level, const char *text, void *opaque)
{
    g_ptr_array_add(logged, g_strdup(text));
}

/* However many come, the log has so many lines of them in a minute, and how many more there were.
 */
static void test_log(void)
{
    enum { MORE = 7 };
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int listener = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(listener);
    Scene s = {.address = ff_address_parse(uri, NULL)};
    g_autoptr(FfHandshakes) handshakes = ff_handshakes_new(listener, NULL, NULL, NULL);

    logged = g_ptr_array_new_with_free_func(g_free);
    g_log_set_default_handler(keep_log, NULL);
    for (unsigned i = 0; i < FF_HANDSHAKES_LINES + MORE; i++) {
        g_autoptr(FfChannel) stranger = connect_plain(&s, FF_CHANNEL_MAIN);
        struct iovec iov = {"GET / HTTP/1.1\r\n\r\n", 18};

        g_assert_cmpint(ff_channel_write_all(stranger, &iov, 1, true), ==, 0);
        g_autoptr(FfChannel) ch = ff_handshakes_next(handshakes, NULL);
        g_assert_nonnull(ch);
        ff_handshakes_log(handshakes, ch, "not a migration stream");
    }
    g_assert_cmpuint(logged->len, ==, FF_HANDSHAKES_LINES);
    g_assert_true(g_str_has_suffix(logged->pdata[0], " refused: not a migration stream"));
    g_clear_pointer(&handshakes, ff_handshakes_free);
    g_assert_cmpuint(logged->len, ==, FF_HANDSHAKES_LINES + 1);
    g_assert_true(
        g_str_has_prefix(logged->pdata[FF_HANDSHAKES_LINES], "7 more connections were refused"));
    g_log_set_default_handler(g_log_default_handler, NULL);
    g_ptr_array_unref(logged);
    ff_address_free(s.address);
    close(listener);
}

static struct rlimit files;

static void allow_files(int signal)
{
    setrlimit(RLIMIT_NOFILE, &files);
}

/* There is no fd for a peer that comes, for a moment: it is let in when there is one. */
static void test_short(void)
{
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int listener = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(listener);
    Scene s = {.address = ff_address_parse(uri, NULL)};
    g_autoptr(FfHandshakes) handshakes = ff_handshakes_new(listener, NULL, NULL, NULL);
    g_autoptr(FfChannel) ch = connect_plain(&s, FF_CHANNEL_MAIN);
    g_autoptr(GError) error = NULL;
    const struct itimerval soon = {.it_value.tv_usec = 50000};

    say_prologue(ch);
    int next = fcntl(listener, F_DUPFD_CLOEXEC, 0); /* nothing is free below it */
    close(next);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &files), ==, 0);
    const struct rlimit none = {next, files.rlim_max};
    signal(SIGALRM, allow_files);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    g_assert_cmpint(setitimer(ITIMER_REAL, &soon, NULL), ==, 0);
    FfChannel *in = ff_handshakes_next(handshakes, &error);
    allow_files(0);
    signal(SIGALRM, SIG_DFL);
    g_assert_no_error(error);
    g_assert_nonnull(in);
    ff_channel_free(in);
    ff_address_free(s.address);
    close(listener);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_autofree char *base = g_dir_make_tmp("ff-stranger-XXXXXX", NULL);

    dir = certs_psk(base, "key", "qemu:00112233445566778899aabbccddeeff\n");
    g_test_add_data_func("/stranger/clear", NULL, test_strangers);
    g_test_add_data_func("/stranger/tls", GINT_TO_POINTER(1), test_strangers);
    g_test_add_data_func("/stranger/slow-bytes/clear", NULL, test_slow_bytes);
    g_test_add_data_func("/stranger/slow-bytes/tls", GINT_TO_POINTER(1), test_slow_bytes);
    g_test_add_data_func("/stranger/silent/clear", NULL, test_silent);
    g_test_add_data_func("/stranger/silent/tls", GINT_TO_POINTER(1), test_silent);
    g_test_add_data_func("/stranger/crowd/clear", NULL, test_crowd);
    g_test_add_data_func("/stranger/crowd/tls", GINT_TO_POINTER(1), test_crowd);
    g_test_add_func("/stranger/order", test_order);
    g_test_add_func("/stranger/short", test_short);
    g_test_add_func("/stranger/log", test_log);
    int rc = g_test_run();

    certs_remove(base);
    g_free(dir);
    return rc;
}
