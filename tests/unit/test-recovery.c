/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections that break, engines that end, in one process over a real userfaultfd: two sides
 * with a cutter between them, which lets so many bytes pass and then breaks everything. Whatever
 * the moment, the memories are equal in the end, vCPUs saw no wrong page, and the guest never
 * runs twice.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/state.h"
#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "tests/lib/cutter.h"
#include "tests/lib/pair.h"

/* ---- cut at any byte ------------------------------------------------------------------------- */

/* Cuts after a random number of bytes, again and again, each time with more bytes allowed, until
 * it is over. */
static void test_cut(gconstpointer data)
{
    unsigned row = GPOINTER_TO_UINT(data);

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(2);
    p.s->config.channels = row / 2 % 2 ? 3 : 1;
    bool compress = row / 4 % 2;
    p.s->config.compress = compress ? FF_COMPRESS_ALWAYS : FF_COMPRESS_NEVER;
    for (unsigned i = 0; i < row; i++) {
        g_test_rand_int(); /* each row begins with the same seed */
    }
    /* The handshake, the device state and the first pages are where the phases are. Not less than a
     * prologue: without it nobody has come yet (test_cut_prologue). */
    int64_t budget = row % 2 ? g_test_rand_int_range(FF_PROLOGUE_SIZE, 12000)
                             : 300000 + g_test_rand_int_range(0, compress ? 1 << 16 : 7 << 20);
    unsigned rounds = 0;
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, budget);
    g_autoptr(GPtrArray) cutters = g_ptr_array_new_with_free_func((GDestroyNotify)cutter_free);
    g_ptr_array_add(cutters, c);
    g_test_message("budget %" G_GINT64_FORMAT, budget);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && (pair_over(p.d) || p.s->done));
    while (!p.s->done) {
        rounds++;
        budget = rounds > 8 ? -1 : g_test_rand_int_range(1, compress ? 1 << 14 : 2 << 20);
        c = cutter_new(to, budget);
        g_ptr_array_add(cutters, c);
        side_run_until(pair_over(p.d) || p.d->status == FF_STATUS_COMPLETED);
        pair_resume_at(&p, c->uri);
        side_run_until(pair_over(p.s));
    }
    if (p.s->status == FF_STATUS_FAILED) {
        /* Before the grant: the guest is at the source, and nowhere else. */
        side_run_until(pair_over(p.d));
        g_assert_true(g_atomic_int_get(&p.s->runs));
        g_assert_false(g_atomic_int_get(&p.d->runs));
        p.d->n_touchers = 0;
    } else {
        side_run_until(p.d->done || p.d->status == FF_STATUS_COMPLETED);
        pair_check_moved(&p);
    }
    g_test_message("%s after %u recoveries", p.s->history->str, rounds);
    pair_free(&p);
}

/* A peer that ends before it is known what it is was no source: the right one is waited for. */
static void test_cut_prologue(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(1);
    g_autofree char *to = pair_address(p.d);
    g_autoptr(FfAddress) at = ff_address_parse(to, NULL);
    uint8_t prologue[FF_PROLOGUE_SIZE];

    g_assert_cmpint(ff_prologue_encode(prologue, NULL, 0), ==, sizeof(prologue));
    for (size_t n = 0; n < sizeof(prologue); n++) {
        g_autoptr(FfChannel) ch =
            ff_channel_new(ff_address_connect(at, NULL, NULL), FF_CHANNEL_MAIN);
        struct iovec iov = {prologue, n};

        g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
    }
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    pair_free(&p);
}

/* ---- cut at each frame ----------------------------------------------------------------------- */

typedef enum {
    ROLLS_BACK, /* the guest stays at the source; the destination has ended */
    DOUBT,      /* the guest stays at the source; the destination cannot know, and never runs */
    RECOVERS,   /* it is the destination's, after a recovery (if every page had arrived, the
                   destination is completed before it) */
    COMPLETES,  /* nothing was lost with it */
} Outcome;

typedef struct {
    const char *name;
    FfFrameType type;
    bool after;
    Outcome outcome;
} FrameRow;

static const FrameRow frame_rows[] = {
    {"prepare", FF_FRAME_PREPARE, false, ROLLS_BACK},
    {"ready", FF_FRAME_READY, false, ROLLS_BACK},
    {"device", FF_FRAME_DEVICE, true, ROLLS_BACK},
    {"loaded", FF_FRAME_LOADED, false, DOUBT},
    {"grant", FF_FRAME_GRANT, false, RECOVERS},
    {"after-grant", FF_FRAME_GRANT, true, RECOVERS},
    {"running", FF_FRAME_RUNNING, false, RECOVERS},
    {"after-running", FF_FRAME_RUNNING, true, RECOVERS},
    {"end", FF_FRAME_END, false, RECOVERS},
    {"done", FF_FRAME_DONE, false, RECOVERS},
    {"finished", FF_FRAME_FINISHED, false, COMPLETES},
};

static void test_frame(gconstpointer data)
{
    const FrameRow *row = data;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(1);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, row->type);
    g_atomic_int_set(&c->after, row->after);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    if (row->outcome == COMPLETES) {
        side_run_until(p.s->done && p.d->status == FF_STATUS_COMPLETED);
        g_assert_false(p.d->done);
        ff_migration_stop_waiting(p.d->m);
    } else {
        side_run_until(pair_over(p.s) && (pair_over(p.d) || p.d->status == FF_STATUS_COMPLETED));
    }
    if (row->outcome == ROLLS_BACK || row->outcome == DOUBT) {
        g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
        g_assert_cmpint(p.d->status, ==,
                        row->outcome == DOUBT ? FF_STATUS_POSTCOPY_PAUSED : FF_STATUS_FAILED);
        g_assert_cmpint(g_atomic_int_get(&p.d->abandoned), ==, row->outcome == ROLLS_BACK);
        g_assert_true(g_atomic_int_get(&p.s->runs));
        g_assert_false(g_atomic_int_get(&p.d->runs));
    } else {
        if (row->outcome == RECOVERS) {
            /* The side that was to get the grant has not run without it. One that is on its way is
             * lost if the end of another connection overtakes it. */
            if (row->type != FF_FRAME_GRANT || !row->after) {
                g_assert_cmpint(g_atomic_int_get(&p.d->runs), ==, row->type != FF_FRAME_GRANT);
            }
            g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
            g_assert_false(g_atomic_int_get(&p.s->runs));
            pair_resume_at(&p, to);
        }
        side_run_until(p.s->done && p.d->done);
        pair_check_moved(&p);
    }
    cutter_free(c);
    pair_free(&p);
}

/* The recovery itself is cut, at each of its frames; the next one succeeds. */
static const FrameRow again_rows[] = {
    {"greeting", FF_FRAME_GREETING, false},  {"resume", FF_FRAME_RESUME, false},
    {"after-resume", FF_FRAME_RESUME, true}, {"resume-reply", FF_FRAME_RESUME_REPLY, false},
    {"have-end", FF_FRAME_HAVE_END, false},  {"after-have-end", FF_FRAME_HAVE_END, true},
    {"channel", FF_FRAME_CHANNEL, false},    {"channel-reply", FF_FRAME_CHANNEL_REPLY, false},
    {"resumed", FF_FRAME_RESUMED, false},    {"after-resumed", FF_FRAME_RESUMED, true},
    {"grant", FF_FRAME_GRANT, false},        {"after-grant", FF_FRAME_GRANT, true},
};

static void test_again(gconstpointer data)
{
    const FrameRow *row = data;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(1);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1), *again = cutter_new(to, -1);
    g_atomic_int_set(&c->type, FF_FRAME_GRANT);
    again->type = row->type;
    again->after = row->after;
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && pair_over(p.d));
    pair_resume_at(&p, again->uri);
    side_run_until(pair_over(p.s) && pair_over(p.d));
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_false(g_atomic_int_get(&p.s->runs));
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    cutter_free(c);
    cutter_free(again);
    pair_free(&p);
}

/* ---- pause, and what fails ------------------------------------------------------------------- */

/* Everything is slow enough to be paused: nobody asks for pages, which would come at once. */
static Pair paused_pair(char **uri)
{
    Pair p = pair_new(0);

    *uri = pair_address(p.d);
    side_start(p.s, *uri, -1);
    ff_migration_set_bandwidth(p.s->m, 0, 65536);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    return p;
}

static void finish(Pair *p)
{
    ff_migration_set_bandwidth(p->s->m, 0, 0);
    side_run_until(p->s->done && p->d->done);
    pair_check_moved(p);
    pair_free(p);
}

static void pause_at(Pair *p, bool source)
{
    g_autoptr(GError) error = NULL;

    ff_migration_pause(source ? p->s->m : p->d->m, &error);
    g_assert_no_error(error);
    side_run_until(pair_over(p->s) && pair_over(p->d));
}

static void test_pause_source(void)
{
    g_autofree char *uri = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    for (int i = 0; i < 3; i++) {
        pause_at(&p, true);
        g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
        g_assert_cmpstr(info->error_desc, ==, "Postcopy migration is paused by the user");
        pair_resume_at(&p, uri);
        pair_run_to(&p, FF_STATUS_POSTCOPY_ACTIVE);
    }
    g_assert_nonnull(strstr(p.s->history->str,
                            "postcopy-active postcopy-paused postcopy-recover postcopy-active"));
    g_assert_nonnull(strstr(p.d->history->str,
                            "postcopy-active postcopy-paused postcopy-recover postcopy-active"));
    finish(&p);
}

static void test_pause_destination(void)
{
    g_autofree char *uri = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    pause_at(&p, false);
    pair_resume_at(&p, uri);
    finish(&p);
}

/* Over other sockets: migrate-recover gives a new address, a passed pair of fds, ... */
static void test_other_network(void)
{
    g_autofree char *uri = NULL, *other = NULL;
    g_autofree char *path = g_strdup_printf("unix:%s/ff-rec-%d.sock", g_get_tmp_dir(), getpid());
    g_autoptr(GError) error = NULL;
    int sv[2];

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    pause_at(&p, true);
    ff_migration_recover(p.d->m, path, -1, &error);
    g_assert_no_error(error);
    pair_resume_at(&p, path);
    side_run_until(p.d->status == FF_STATUS_POSTCOPY_ACTIVE);
    pause_at(&p, true);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    ff_migration_recover(p.d->m, NULL, sv[1], &error);
    g_assert_no_error(error);
    ff_migration_resume(p.s->m, NULL, sv[0], true, &error);
    g_assert_no_error(error);
    side_run_until(p.s->status == FF_STATUS_POSTCOPY_ACTIVE);
    g_assert_nonnull(strstr(p.s->history->str, "postcopy-recover-setup postcopy-recover"));
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_true(info->urgent_shared);
    pause_at(&p, true);
    ff_migration_recover(p.d->m, "tcp:127.0.0.1:0", -1, &error);
    g_assert_no_error(error);
    other = pair_address(p.d);
    pair_resume_at(&p, other);
    finish(&p);
    g_assert_cmpint(access(path + strlen("unix:"), F_OK), ==, -1);
}

/* Recovery that fails by itself: nobody there, a peer that hangs up, a peer that is silent and
 * is paused at either side. */
static void test_failures(void)
{
    g_autofree char *uri = NULL;
    g_autoptr(GError) error = NULL;
    int sv[2], dv[2];

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    pause_at(&p, true);
    pair_resume_at(&p, "unix:/nonexistent/socket");
    side_run_until(pair_over(p.s));
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_nonnull(strstr(info->error_desc, "/nonexistent/socket"));

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, dv), ==, 0);
    ff_migration_recover(p.d->m, NULL, dv[0], &error);
    g_assert_no_error(error);
    g_assert_cmpint(write(dv[1], "\x08", 1), ==, 1);
    side_run_until(p.d->status == FF_STATUS_POSTCOPY_RECOVER);
    ff_migration_resume(p.s->m, NULL, sv[0], true, &error);
    side_run_until(p.s->status == FF_STATUS_POSTCOPY_RECOVER);
    ff_migration_pause(p.s->m, &error);
    g_assert_no_error(error);
    side_run_until(pair_over(p.s));
    g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_RECOVER);
    ff_migration_pause(p.d->m, &error);
    g_assert_no_error(error);
    side_run_until(pair_over(p.d));
    close(sv[1]);
    close(dv[1]);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    close(sv[1]);
    gsize before = p.s->history->len;
    ff_migration_resume(p.s->m, NULL, sv[0], true, &error);
    g_assert_no_error(error);
    side_run_until(p.s->history->len > before);
    side_run_until(pair_over(p.s));

    ff_migration_recover(p.d->m, "tcp:127.0.0.1:0", -1, &error);
    g_assert_no_error(error);
    g_autofree char *other = pair_address(p.d);
    pair_resume_at(&p, other);
    finish(&p);
}

/* A client that drives both sides has the source's answer only when the destination's client was
 * told. */
static void test_client_is_told(void)
{
    g_autofree char *uri = NULL;

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    pause_at(&p, true);
    p.d->slow_client = true;
    p.d->syncing = false;
    pair_resume_at(&p, uri);
    side_run_until(p.d->syncing);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_RECOVER);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_cmpint(info->status, ==, FF_STATUS_POSTCOPY_RECOVER);
    ff_migration_synced(p.d->m);
    finish(&p);
}

/* Somebody else comes to the port of a paused migration. */
static void test_stranger(void)
{
    g_autofree char *uri = NULL;
    uint8_t prologue[FF_PROLOGUE_SIZE];
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION), .epoch = GUINT64_TO_LE(7)};
    FfGreeting g;
    FfFrame f;
    const char *why;
    char text[FF_FRAME_MAX_TEXT + 1] = "";

    if (!side_possible()) {
        return;
    }
    Pair p = paused_pair(&uri);
    pause_at(&p, true);
    g_autoptr(FfAddress) at = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) ch = ff_channel_new(ff_address_connect(at, NULL, NULL), FF_CHANNEL_MAIN);
    struct iovec iov = {prologue, sizeof(prologue)};
    ff_prologue_encode(prologue, NULL, 0);
    g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
    g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
    g_assert_cmpint(ff_channel_read_all(ch, &g, sizeof(g), 20000), ==, 0);
    ff_channel_send(ch, ff_frame(FF_FRAME_RESUME, sizeof(r)), &r, true);
    g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
    g_assert_cmpint(f.type, ==, FF_FRAME_RESUME_REPLY);
    g_assert_cmpuint(f.page, ==, 1);
    g_assert_cmpint(ff_channel_read_all(ch, text, f.length, 20000), ==, 0);
    g_assert_nonnull(strstr(text, "its own source"));
    g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    pair_resume_at(&p, uri);
    finish(&p);
}

/* The last word did not arrive, and the engine that would repeat it died: the next one listens
 * where it did. */
static void test_next_engine_behind_done(void)
{
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    struct stat st;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(0);
    g_autofree char *to = pair_address(p.d);
    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, FF_FRAME_DONE);
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && p.d->status == FF_STATUS_COMPLETED);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    Side *next = side_new(FF_ROLE_DESTINATION, pair_sizes, PAIR_BLOCKS);
    memcpy(next->state, p.d->state, sizeof(*next->state));
    g_assert_cmpint(fstat(p.d->state_fd, &st), ==, 0);
    g_assert_cmpint(ftruncate(next->state_fd, st.st_size), ==, 0);
    next->state->phase = FF_PHASE_DONE;
    next->listen_fd = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(next->listen_fd);
    side_adopt(next, -1);
    side_run_until(next->status == FF_STATUS_COMPLETED);
    pair_resume_at(&p, uri);
    side_run_until(pair_over(p.s) && next->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_COMPLETED);
    side_free(next);
    cutter_free(c);
    pair_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < 24; i++) {
        g_autofree char *path = g_strdup_printf("/recovery/cut/%u", i);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_cut);
    }
    g_test_add_func("/recovery/cut/prologue", test_cut_prologue);
    g_test_add_func("/recovery/client-is-told", test_client_is_told);
    for (unsigned i = 0; i < G_N_ELEMENTS(frame_rows); i++) {
        g_autofree char *path = g_strconcat("/recovery/frame/", frame_rows[i].name, NULL);
        g_test_add_data_func(path, &frame_rows[i], test_frame);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(again_rows); i++) {
        g_autofree char *path = g_strconcat("/recovery/again/", again_rows[i].name, NULL);
        g_test_add_data_func(path, &again_rows[i], test_again);
    }
    g_test_add_func("/recovery/pause/source", test_pause_source);
    g_test_add_func("/recovery/pause/destination", test_pause_destination);
    g_test_add_func("/recovery/other-network", test_other_network);
    g_test_add_func("/recovery/failures", test_failures);
    g_test_add_func("/recovery/stranger", test_stranger);
    g_test_add_func("/recovery/next-engine-behind-done", test_next_engine_behind_done);
    return g_test_run();
}
