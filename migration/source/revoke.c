/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source wants the guest back from a destination that has loaded the device state and was never
 * granted the guest; see migration/destination/revoke.c for what that answers.
 *
 *   after a roll back     the source could not say ABORT (the connection was lost, or its engine
 *                         died): it connects again and says REVOKE, for a while. It is the
 *                         migration's second life: its end was told to the client before
 *   at the user's wish    a paused source that has given the guest away, of which it is not known
 *                         whether the grant came: it says REVOKE and takes the guest back only
 *                         when the destination has answered
 *
 * Thread: the coordinator.
 */
#include "migration/source/revoke.h"

#include <string.h>

#include "migration/source/connect.h"

/* A destination's answer is there within this (milliseconds): it ends its QEMU first. */
#define ANSWER_DEADLINE_MS 30000
/* How long a source that has rolled back tries to say so; the time between two attempts grows. */
#define NOTICE_S 600
#define FIRST_PAUSE_MS 500
#define LONGEST_PAUSE_MS 10000
/* So many refused connections in a row: the host is there, and nobody listens any more. */
#define REFUSED_MAX 5

/* TRUE: the destination is dead. */
static bool say_revoke(FfSource *s, FfConnectAttempt *call, GError **error)
{
    const FfGreetingWords *words = call->sentence->words;
    char text[FF_FRAME_MAX_TEXT + 1] = "";
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION),
                  .epoch = GUINT64_TO_LE(s->conn->epoch + 1)};
    FfFrame f;

    memcpy(r.session, s->conn->session, sizeof(r.session));
    memcpy(r.secret, s->conn->secret, sizeof(r.secret));
    if (!ff_greeting_say(call->ch, words, ff_frame(FF_FRAME_REVOKE, sizeof(r)), &r, error)) {
        return false;
    }
    ff_channel_wait_readable(call->ch, ANSWER_DEADLINE_MS);
    if (!ff_greeting_expect(call->ch, words, FF_FRAME_REVOKED, &f, text, FF_FRAME_MAX_TEXT,
                            error)) {
        return false;
    }
    call->refused = f.page != 0;
    if (call->refused) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(text));
    }
    return !call->refused;
}

/* At the user's wish. */
static const FfSentence revoke_sentence = {FF_SENTENCE_AGAIN, .recovers = true, .say = say_revoke};
/* After a roll back. */
static const FfSentence notice_sentence = {FF_SENTENCE_AGAIN, .say = say_revoke};

bool ff_source_revoke(FfSource *s, GError **error)
{
    FfConnectAttempt call = ff_source_redial(s, &revoke_sentence);
    bool ok = ff_source_call(s, &call, error);

    ff_source_hang_up(s, &call);
    return ok;
}

/* TRUE: there is nothing more to say. */
static bool notify_destination(FfSource *s, const char *uri, unsigned *nobody)
{
    g_autoptr(GError) error = NULL;
    FfConnectAttempt call = {.sentence = &notice_sentence, .fd = -1, .uri = g_strdup(uri)};
    bool told = ff_source_call(s, &call, &error);
    bool absent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
                  g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);

    bool over = told || call.refused || !call.address;

    *nobody = absent && !call.ch ? *nobody + 1 : 0;
    ff_source_hang_up(s, &call);
    if (told) {
        g_message("the destination knows that the guest went on here, and has ended");
    }
    return over || *nobody >= REFUSED_MAX;
}

void ff_source_tell_roll_back(FfSource *s)
{
    g_autofree char *uri = ff_source_peer_uri(s);
    int64_t end = g_get_monotonic_time() + NOTICE_S * G_TIME_SPAN_SECOND;
    int64_t pause_ms = FIRST_PAUSE_MS;
    unsigned nobody = 0;

    /* The error stays: the driver may not have looked yet. */
    ff_control_forget_events(s->control, FF_EV_DEAD);
    ff_control_reset_cancel(s->control);
    while (uri && g_get_monotonic_time() < end) {
        if (notify_destination(s, uri, &nobody) ||
            ff_control_wait_until(s->control, FF_EV_QUIT,
                                  g_get_monotonic_time() + pause_ms * 1000)) {
            return;
        }
        pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
    }
    g_message("the destination may wait for this guest, and cannot be told that it went on here: "
              "if its QEMU has not ended, end it (quit)");
}
