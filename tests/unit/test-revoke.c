/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Destinations that have loaded the device state and wait for a grant: the source that rolled back
 * without being able to say so says it later, also when its engine died; the source that gave the
 * guest away can take it back as long as the destination did not get it; and a peer that looks
 * for a migration at the wrong place disturbs nobody.
 */
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "contract/state.h"
#include "migration/internal.h"
#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "tests/lib/cutter.h"
#include "tests/lib/pair.h"

static bool unwatched; /* of the next destination */

/* A pair whose connection broke at the first frame of TYPE (AFTER it). */
static Pair broken_pair(FfFrameType type, bool after, bool tells, Cutter **c)
{
    Pair p = pair_idle(0);
    p.d->unwatched = unwatched;
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    g_autofree char *to = pair_address(p.d);

    *c = cutter_new(to, -1);
    g_atomic_int_set(&(*c)->type, type);
    g_atomic_int_set(&(*c)->after, after);
    p.s->tells = tells;
    side_start(p.s, (*c)->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && pair_over(p.d));
    return p;
}

/* The guest is the source's, the destination has ended and never ran. */
static void check_back(Pair *p)
{
    g_assert_cmpint(p->s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(p->d->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&p->s->runs));
    g_assert_false(g_atomic_int_get(&p->d->runs));
    g_assert_true(g_atomic_int_get(&p->d->abandoned));
    g_assert_cmpuint(p->s->state->phase, ==, FF_PHASE_IDLE);
    g_assert_cmpuint(p->s->state->run_right, ==, FF_RUN_NONE);
    g_assert_cmpuint(p->d->state->phase, ==, FF_PHASE_DEAD);
}

static void end(Pair *p, Cutter *c)
{
    cutter_free(c);
    pair_free(p);
}

/* ---- the source tells what it could not say -------------------------------------------------- */

static void test_told(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_LOADED, false, true, &c);
    side_run_until(p.d->done && p.s->parted);
    check_back(&p);
    end(&p, c);
}

static Cutter *loses; /* at which lose_connection() cuts */

/* The source has LOADED, and asks for the last time before it gives. */
static bool lose_connection(Side *s)
{
    cutter_cut(loses);
    ff_control_wait(s->m->control, FF_EV_DEAD);
    return true;
}

/* The connection ends while the source is about to give the guest away: it stays. */
static void test_lost_behind_loaded(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = pair_idle(0);
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    g_autofree char *to = pair_address(p.d);

    loses = c = cutter_new(to, -1);
    p.s->stands = lose_connection;
    p.s->tells = true;
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(pair_over(p.s) && pair_over(p.d));
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    side_run_until(p.d->done && p.s->parted);
    check_back(&p);
    end(&p, c);
}

/* The source has LOADED, and asks for the last time before it gives. */
static bool cancel(Side *s)
{
    g_autoptr(GError) error = NULL;

    ff_migration_cancel(s->m, &error);
    g_assert_no_error(error);
    return true;
}

/* A cancel whose ABORT is lost is told later. One that was heard is not. */
static void test_cancelled(gconstpointer lost)
{
    if (!side_possible()) {
        return;
    }
    Pair p = pair_idle(0);
    side_start(p.d, "tcp:127.0.0.1:0", -1);
    g_autofree char *to = pair_address(p.d);

    Cutter *c = cutter_new(to, -1);
    g_atomic_int_set(&c->type, lost ? FF_FRAME_ABORT : 0);
    g_atomic_int_set(&c->once, true);
    p.s->stands = cancel;
    p.s->tells = true;
    side_start(p.s, c->uri, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->done && p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_CANCELLED);
    if (lost) {
        side_run_until(p.s->parted);
    }
    g_assert_cmpint(ff_migration_lives_on(p.s->m), ==, lost != NULL);
    p.s->status = FF_STATUS_FAILED; /* all else is as after a failure */
    check_back(&p);
    end(&p, c);
}

/* A new engine at the source knows nothing but what the dead one has stored. */
static void test_told_by_next_engine(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_LOADED, false, false, &c);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_FAILED);
    g_assert_cmpint(p.d->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    Side *next = side_new(FF_ROLE_SOURCE, pair_sizes, PAIR_BLOCKS);
    memcpy(next->state, p.s->state, sizeof(*next->state));
    next->state->phase = FF_PHASE_STOPPED;
    next->state->run_right = FF_RUN_MINE;
    next->tells = true;
    side_adopt(next, -1);
    side_run_until(p.d->done && next->parted);
    g_assert_cmpint(next->status, ==, FF_STATUS_FAILED);
    side_free(next);
    check_back(&p);
    end(&p, c);
}

/* It ends with the object, whatever it is at, and nobody need listen. */
static void test_untold(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_LOADED, false, true, &c);
    side_free(p.d);
    g_assert_true(ff_migration_lives_on(p.s->m));
    side_free(p.s);
    cutter_free(c);
}

/* ---- the user takes the guest back ----------------------------------------------------------- */

static void take_back_from(Pair *p, const char *uri, bool force)
{
    g_autoptr(GError) error = NULL;
    gsize before = p->s->history->len;

    ff_migration_revoke(p->s->m, uri, -1, force, &error);
    g_assert_no_error(error);
    side_run_until(p->s->history->len > before);
    side_run_until(pair_over(p->s));
}

static void take_back(Pair *p, bool force)
{
    take_back_from(p, NULL, force);
}

static void test_taken_back(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpuint(p.s->state->run_right, ==, FF_RUN_GIVEN);
    g_autofree char *to = pair_address(p.d);
    take_back_from(&p, "unix:/nonexistent/socket", false); /* nothing has changed */
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_false(g_atomic_int_get(&p.s->runs));
    take_back_from(&p, to, false);
    side_run_until(p.d->done);
    check_back(&p);
    g_assert_cmpint(g_atomic_int_get(&p.s->saved_status), ==, 1);
    end(&p, c);
}

/* The answer is lost: the source cannot know, and keeps its hands off. */
static void test_answer_lost(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    g_atomic_int_set(&c->type, FF_FRAME_REVOKED);
    take_back(&p, false);
    side_run_until(p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpuint(p.s->state->run_right, ==, FF_RUN_GIVEN);
    g_assert_false(g_atomic_int_get(&p.s->runs));
    g_assert_cmpint(p.d->status, ==, FF_STATUS_FAILED);
    /* A client that has seen the destination's end says so. */
    take_back(&p, true);
    check_back(&p);
    end(&p, c);
}

/* The destination cannot see whether its QEMU has ended: then it does not say so. */
static void test_end_uncertain(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    unwatched = true;
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    unwatched = false;
    g_autofree char *to = pair_address(p.d);
    take_back_from(&p, to, false);
    side_run_until(p.d->done);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpuint(p.s->state->run_right, ==, FF_RUN_GIVEN);
    g_assert_false(g_atomic_int_get(&p.s->runs));
    end(&p, c);
}

/* The grant had come. */
static void test_refused(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_RUNNING, true, false, &c);
    g_atomic_int_set(&c->type, FF_FRAME_FINISHED);
    take_back(&p, false);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(p.s->m);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_nonnull(strstr(info->error_desc, "the guest, which runs there"));
    g_assert_false(g_atomic_int_get(&p.s->runs));
    g_autofree char *to = pair_address(p.d);
    pair_resume_at(&p, to);
    pair_run_to_end(&p);
    end(&p, c);
}

/* An order that comes while the one before is being taken is taken too, or refused. One that stayed
 * behind would be carried out at the next break. Nobody answers at the address, so that the attempt
 * is under way until it is interrupted. */
static void test_no_order_is_left(void)
{
    g_autoptr(FfAddress) at = ff_address_parse("tcp:127.0.0.1:0", NULL);
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    int silent = ff_address_listen(at, NULL);
    g_autofree char *uri = ff_address_of_listener(silent);
    g_assert_true(g_unix_set_fd_nonblocking(silent, TRUE, NULL));
    for (unsigned i = 0; i < 500; i++) {
        while (ff_migration_resume(p.s->m, uri, -1, false, NULL)) {
        }
        g_assert_cmpuint(ff_control_events(p.s->m->control) & FF_EV_RECOVER, ==, 0);
        gsize before = p.s->history->len;
        g_assert_true(ff_migration_pause(p.s->m, NULL));
        side_run_until(p.s->history->len > before);
        side_run_until(pair_over(p.s));
        for (int fd; (fd = accept4(silent, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
            close(fd);
        }
    }
    close(silent);
    g_autofree char *to = pair_address(p.d);
    take_back_from(&p, to, false);
    side_run_until(p.d->done);
    check_back(&p);
    end(&p, c);
}

/* The next engine of a source with release-ram. */
static Side *next_that_releases(const Pair *p, unsigned marks)
{
    Side *next = side_new(FF_ROLE_SOURCE, pair_sizes, PAIR_BLOCKS);
    char device[SIDE_LENIENT_BYTES]; /* the engine before it has read it */
    int inner = -1;

    memcpy(next->state, p->s->state, sizeof(*next->state));
    next->state->marks &= marks;
    next->config.release_ram = next->lenient = true;
    g_atomic_int_set(&next->runs, 0);
    g_assert_true(next->vmm.state.save(&next->vmm.state, &inner, NULL));
    g_assert_cmpint(recv(inner, device, sizeof(device), MSG_WAITALL), ==, sizeof(device));
    side_adopt(next, inner);
    side_run_until(pair_over(next));
    return next;
}

/* Memory that only the destination has: for all that is known, where nothing says that all of it is
 * here. */
static void test_released(void)
{
    g_autoptr(GError) error = NULL;
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    Side *next = next_that_releases(&p, 0);
    g_assert_false(ff_migration_revoke(next->m, NULL, -1, false, &error));
    g_assert_nonnull(strstr(error->message, "release-ram"));
    side_free(next);
    end(&p, c);
}

/* It would have given up memory, and had not come to it. */
static void test_not_released(void)
{
    Cutter *c;

    if (!side_possible()) {
        return;
    }
    Pair p = broken_pair(FF_FRAME_GRANT, false, false, &c);
    Side *next = next_that_releases(&p, ~0u);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(next->m);
    g_assert_false(info->split->released);
    g_autofree char *to = pair_address(p.d);
    Pair taken = {next, p.d};
    take_back_from(&taken, to, false);
    side_run_until(p.d->done);
    check_back(&taken);
    side_free(next);
    end(&p, c);
}

#ifdef FF_FAULTS
static Side *releases;
static gint releases_made; /* atomic */

static int check_mark(const char *place, const char *name)
{
    if (!strcmp(name, "release")) {
        g_assert_false(ff_state_is_marked(releases->state, FF_MARK_WHOLE));
        g_atomic_int_inc(&releases_made);
    }
    return 0;
}

/* A next engine knows it before the first page is gone. */
static void test_marked(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(0);
    g_autofree char *to = pair_address(p.d);

    releases = p.s;
    ff_fault_hook(check_mark);
    p.s->config.release_ram = true;
    p.s->config.pause_before_switchover = true;
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    side_run_until(p.s->status == FF_STATUS_PRE_SWITCHOVER);
    g_assert_true(ff_state_is_marked(p.s->state, FF_MARK_WHOLE));
    ff_migration_continue(p.s->m, FF_STATUS_PRE_SWITCHOVER, NULL);
    side_run_until(p.s->done && p.d->done);
    ff_fault_hook(NULL);
    g_assert_cmpint(p.s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(g_atomic_int_get(&releases_made), >, 0);
    g_assert_false(ff_state_is_marked(p.s->state, FF_MARK_WHOLE));
    pair_free(&p);
}
#endif

/* ---- a destination at whose port another one was --------------------------------------------- */

static void say(const char *uri, FfFrameType type, FfFrameType reply)
{
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION), .epoch = GUINT64_TO_LE(7)};
    uint8_t prologue[FF_PROLOGUE_SIZE];
    struct iovec iov = {prologue, ff_prologue_encode(prologue, NULL, 0)};
    g_autoptr(FfAddress) at = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) ch = ff_channel_new(ff_address_connect(at, NULL, NULL), FF_CHANNEL_MAIN);
    char text[FF_FRAME_MAX_TEXT];
    const char *why;
    FfFrame f;

    g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
    g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
    g_assert_cmpint(ff_channel_read_all(ch, text, f.length, 20000), ==, 0);
    ff_channel_send(ch, ff_frame(type, sizeof(r)), &r, true);
    g_assert_cmpint(ff_channel_read_frame(ch, &f, 20000, &why), ==, 0);
    g_assert_cmpuint(f.type, ==, reply);
    g_assert_cmpuint(f.page, ==, 1);
}

static void test_stray(void)
{
    if (!side_possible()) {
        return;
    }
    Pair p = pair_new(1);
    g_autofree char *to = pair_address(p.d);
    say(to, FF_FRAME_RESUME, FF_FRAME_RESUME_REPLY);
    say(to, FF_FRAME_REVOKE, FF_FRAME_REVOKED);
    side_start(p.s, to, -1);
    ff_migration_start_postcopy(p.s->m, NULL);
    pair_run_to_end(&p);
    pair_free(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/revoke/told", test_told);
    g_test_add_data_func("/revoke/cancelled/lost", "lost", test_cancelled);
    g_test_add_data_func("/revoke/cancelled/heard", NULL, test_cancelled);
    g_test_add_func("/revoke/lost-behind-loaded", test_lost_behind_loaded);
    g_test_add_func("/revoke/told-by-next-engine", test_told_by_next_engine);
    g_test_add_func("/revoke/untold", test_untold);
    g_test_add_func("/revoke/taken-back", test_taken_back);
    g_test_add_func("/revoke/answer-lost", test_answer_lost);
    g_test_add_func("/revoke/end-uncertain", test_end_uncertain);
    g_test_add_func("/revoke/refused", test_refused);
    g_test_add_func("/revoke/no-order-is-left", test_no_order_is_left);
    g_test_add_func("/revoke/released", test_released);
    g_test_add_func("/revoke/not-released", test_not_released);
#ifdef FF_FAULTS
    g_test_add_func("/revoke/marked", test_marked);
#endif
    g_test_add_func("/revoke/stray", test_stray);
    return g_test_run();
}
