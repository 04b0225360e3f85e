/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every kind of message, in every state, with every field at its ends, from a peer that then hangs
 * up: tables against each other, not examples. What must hold of each: the side comes to an end or
 * a pause, in time; a destination that was not granted the guest never runs it; a source has its
 * guest, or has given it away, and never both. And floods of what is right by itself: neither
 * memory nor time without bound.
 */
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "contract/state.h"
#include "net/channel-read.h"
#include "tests/unit/peer.h"

#define FLOOD 100000
#define FLOOD_MAX_KIB (96 * 1024) /* more memory than that is a way to fill a host */

#define FRAMES_PER_ACK 64 /* of the destination */

/* ---- fields at their ends -------------------------------------------------------------------- */

typedef enum {
    AS_IT_IS,
    LONGEST,
    LAST_BLOCK,
    LAST_PAGE,
    ALL_PAGES,
    ALL_FLAGS,
    OTHER_EPOCH,
    ALL_ONES,
    N_ENDS
} End;

/* The least that the decoder takes for TYPE; 0 if there is no such type. */
static uint32_t least(unsigned type, uint32_t most)
{
    for (uint32_t length = 0; length <= most; length++) {
        FfFrame f = ff_frame(type, length);
        const char *why;
        ff_frame_encode(&f);
        if (ff_frame_decode(&f, &why) == 0) {
            return length;
        }
    }
    return 0;
}

static FfFrame at_its_end(unsigned type, End end)
{
    FfFrame f = ff_frame(type, least(type, 512));

    f.epoch = 1;
    f.n_pages = type == FF_FRAME_PAGES || type == FF_FRAME_COMPRESSED || type == FF_FRAME_ZERO ||
                type == FF_FRAME_REQUEST;
    switch (end) {
    case LONGEST:
        f.length = FF_FRAME_MAX_TEXT;
        break;
    case LAST_BLOCK:
        f.block = G_MAXUINT32;
        break;
    case LAST_PAGE:
        f.page = G_MAXUINT64;
        break;
    case ALL_PAGES:
        f.n_pages = G_MAXUINT32;
        break;
    case ALL_FLAGS:
        f.flags = G_MAXUINT16;
        break;
    case OTHER_EPOCH:
        f.epoch = G_MAXUINT32;
        break;
    case ALL_ONES:
        f.flags = G_MAXUINT16;
        f.block = f.n_pages = f.epoch = G_MAXUINT32;
        f.page = f.reserved = G_MAXUINT64;
        break;
    default:
        break;
    }
    return f;
}

/* Says it, with a payload of VALUE, and hangs up. */
static void say_and_go(FfChannel *ch, unsigned type, End end, int value)
{
    FfFrame f = at_its_end(type, end);
    g_autofree char *payload = g_malloc(f.length + 1);

    memset(payload, value, f.length + 1);
    peer_say(ch, f, payload);
    ff_channel_shutdown(ch);
}

/* ---- a source that says it to a destination -------------------------------------------------- */

static Side *destination(FfChannel **ch)
{
    uint64_t size = RAM_BYTES;
    int sv[2];
    Side *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    side_start(d, NULL, sv[1]);
    *ch = ff_channel_new(sv[0], FF_CHANNEL_MAIN);
    return d;
}

static bool over(Side *s)
{
    return s->done || s->status == FF_STATUS_POSTCOPY_PAUSED || s->status == FF_STATUS_COMPLETED;
}

/* What a peer says ends on a terminal, and in JSON. */
static void expect_readable(Side *side)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(side->m);

    for (const char *p = info->error_desc; p && *p; p++) {
        if (!g_ascii_isprint(*p)) {
            g_error("byte 0x%02x in an error: '%s'", (unsigned char)*p, info->error_desc);
        }
    }
}

static void attack_destination(Moment moment, unsigned type, End end)
{
    g_autoptr(FfChannel) ch = NULL;
    Side *d = destination(&ch);
    peer_be_source(ch, moment);
    say_and_go(ch, type, end, end % 2 ? 0xff : 0);
    side_run_until(over(d));
    bool runs = g_atomic_int_get(&d->runs);
    bool granted = moment == AT_GRANT || (moment == AT_LOADED && type == FF_FRAME_GRANT);
    if (runs && !granted) {
        g_error("the guest runs, and was not granted: moment %d, %s, end %d", moment,
                ff_frame_name(type), end);
    }
    if (moment == AT_GRANT) {
        g_assert_true(runs);
        g_assert_false(g_atomic_int_get(&d->abandoned));
    } else if (moment < AT_LOADED) {
        g_assert_cmpint(d->status, ==, FF_STATUS_FAILED);
        g_assert_true(g_atomic_int_get(&d->abandoned));
    }
    expect_readable(d);
    side_free(d);
}

static void test_destination(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    for (unsigned type = 1; type < FF_FRAME__MAX; type++) {
        /* Device state is QEMU's, which this side's double expects as it is. */
        bool device = type == FF_FRAME_DEVICE && GPOINTER_TO_INT(data) == AT_FROZEN;
        for (End end = 0; end < (device ? 0 : N_ENDS); end++) {
            attack_destination(GPOINTER_TO_INT(data), type, end);
        }
    }
}

/* ---- a destination that says it to a source -------------------------------------------------- */

typedef enum { S_START, S_GREETED, S_AGREED, S_DEVICE, N_STEPS } Step;

static Side *source(FfChannel **ch)
{
    uint64_t size = RAM_BYTES;
    int sv[2];
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    side_start(s, NULL, sv[1]);
    g_assert_true(ff_migration_start_postcopy(s->m, NULL));
    *ch = ff_channel_new(sv[0], FF_CHANNEL_MAIN);
    return s;
}

static gpointer drain(gpointer p)
{
    char buf[65536];

    while (recv(GPOINTER_TO_INT(p), buf, sizeof(buf), 0) != 0) {
        struct pollfd pfd = {GPOINTER_TO_INT(p), POLLIN, 0};
        poll(&pfd, 1, -1);
    }
    return NULL;
}

static void attack_source(Step step, unsigned type, End end)
{
    g_autoptr(FfChannel) ch = NULL;
    uint8_t prologue[FF_PROLOGUE_SIZE];
    Side *s = source(&ch);

    if (step == S_START) {
        g_assert_cmpint(ff_channel_read_all(ch, prologue, sizeof(prologue), 20000), ==, 0);
    } else if (step == S_GREETED) {
        peer_greet(ch);
    } else if (step == S_AGREED) {
        peer_accept_hello(ch);
    } else {
        peer_until_device(ch);
    }
    say_and_go(ch, type, end, end % 2 ? 0xff : 0);
    side_run_until(over(s));
    bool runs = g_atomic_int_get(&s->runs), given = s->state->run_right == FF_RUN_GIVEN;
    if (runs == given) {
        g_error("the guest is %s: step %d, %s, end %d", runs ? "given away, and runs" : "nobody's",
                step, ff_frame_name(type), end);
    }
    /* Only a destination that has said that the guest is loaded is given it. */
    g_assert_true(!given || (step == S_DEVICE && type == FF_FRAME_LOADED));
    expect_readable(s);
    side_free(s);
}

static void test_source(gconstpointer data)
{
    if (!side_possible()) {
        return;
    }
    for (unsigned type = 1; type < FF_FRAME__MAX; type++) {
        for (End end = 0; end < N_ENDS; end++) {
            attack_source(GPOINTER_TO_INT(data), type, end);
        }
    }
}

/* ---- floods ---------------------------------------------------------------------------------- */

static long resident_kib(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

typedef struct {
    const char *name;
    FfFrame frame;
    bool to_source;
} Flood;

/* Right by themselves, and one would do. */
static const Flood floods[] = {
    {"requests", {.type = FF_FRAME_REQUEST, .epoch = 1, .n_pages = 1}, true},
    {"acks", {.type = FF_FRAME_ACK, .page = G_MAXUINT64}, true},
    {"ready", {.type = FF_FRAME_READY}, true},
    {"zero", {.type = FF_FRAME_ZERO, .epoch = 1, .n_pages = 1}, false},
    {"end", {.type = FF_FRAME_END}, false},
};

static void test_flood(gconstpointer data)
{
    const Flood *flood = data;
    g_autoptr(FfChannel) ch = NULL;
    long before = resident_kib();

    if (!side_possible()) {
        return;
    }
    Side *s = flood->to_source ? source(&ch) : destination(&ch);
    if (flood->to_source) {
        peer_until_device(ch);
    } else {
        peer_be_source(ch, AT_GRANT);
    }
    GThread *reader = g_thread_new("drain", drain, GINT_TO_POINTER(ff_channel_fd(ch)));
    for (unsigned i = 0; i < FLOOD; i++) {
        FfFrame f = ff_frame(flood->frame.type, 0);
        f.epoch = flood->frame.epoch;
        f.n_pages = flood->frame.n_pages;
        f.page = flood->frame.page;
        peer_say(ch, f, NULL);
    }
    ff_channel_shutdown(ch);
    side_run_until(over(s));
    g_thread_join(reader);
    g_assert_cmpint(g_atomic_int_get(&s->runs), ==, 1);
    g_assert_cmpint(resident_kib() - before, <, FLOOD_MAX_KIB);
    side_free(s);
}

/* ---- an honest source in a hurry ------------------------------------------------------------- */

/* Frames until now, each of which counts for an acknowledgement. */
static uint64_t frames_of(Side *d)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);

    return info->pages_bulk + info->pages_urgent;
}

/* The source hangs up after its last word, while the destination still has an acknowledgement of
 * the last frame in mind: the word is heard all the same, or it would wait for minutes. */
static void test_last_word(void)
{
    if (!side_possible()) {
        return;
    }
    for (unsigned i = 0; i < 100; i++) {
        g_autoptr(FfChannel) ch = NULL;
        Side *d = destination(&ch);
        const char *why;
        FfFrame f;

        peer_be_source(ch, AT_GRANT);
        for (uint64_t n = frames_of(d); (n + RAM_PAGES) % FRAMES_PER_ACK; n++) {
            peer_say(ch, peer_run(FF_FRAME_ZERO, 0, 0, 0, 1), NULL);
        }
        for (uint64_t page = 0; page < RAM_PAGES; page++) {
            peer_say(ch, peer_run(FF_FRAME_ZERO, 0, 0, page, 1), NULL);
        }
        do {
            g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
        } while (f.type == FF_FRAME_ACK || f.type == FF_FRAME_ALIVE);
        g_assert_cmpuint(f.type, ==, FF_FRAME_DONE);
        peer_say(ch, ff_frame(FF_FRAME_FINISHED, 0), NULL);
        g_clear_pointer(&ch, ff_channel_free);
        side_run_until(d->done);
        g_assert_cmpint(d->status, ==, FF_STATUS_COMPLETED);
        side_free(d);
    }
}

int main(int argc, char **argv)
{
    static const char *const moments[] = {"start", "greeting", "hello",  "shared",
                                          "ready", "frozen",   "loaded", "grant"};
    static const char *const steps[] = {"start", "greeted", "agreed", "device"};

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < (int)G_N_ELEMENTS(moments); i++) {
        g_autofree char *path = g_strconcat("/hostile/states/destination/", moments[i], NULL);
        g_test_add_data_func(path, GINT_TO_POINTER(i), test_destination);
    }
    for (int i = 0; i < N_STEPS; i++) {
        g_autofree char *path = g_strconcat("/hostile/states/source/", steps[i], NULL);
        g_test_add_data_func(path, GINT_TO_POINTER(i), test_source);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(floods); i++) {
        g_autofree char *path = g_strconcat("/hostile/floods/", floods[i].name, NULL);
        g_test_add_data_func(path, &floods[i], test_flood);
    }
    g_test_add_func("/hostile/last-word", test_last_word);
    return g_test_run();
}
