/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source wants the guest back from a destination that has loaded the device state and was never
 * granted the guest; see dest-revoke.c for what that answers.
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
#include "migration/source-revoke.h"

#include <string.h>

#include "migration/greeting.h"
#include "migration/source-connect.h"
#include "migration/tls.h"

/* A destination's answer is there within this (milliseconds): it ends its QEMU first. */
#define ANSWER_DEADLINE_MS 30000
/* How long a source that has rolled back tries to say so; the time between two attempts grows. */
#define NOTICE_S 600
#define FIRST_PAUSE_MS 500
#define LONGEST_PAUSE_MS 10000
/* So many refused connections in a row: the host is there, and nobody listens any more. */
#define REFUSED_MAX 5

/* TRUE: the destination is dead. *REFUSED: it answered, and is not. */
static bool say_revoke(FfSource *s, FfChannel *ch, bool *refused, GError **error)
{
    char text[FF_FRAME_MAX_TEXT + 1] = "";
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION),
                  .epoch = GUINT64_TO_LE(s->conn->epoch + 1)};
    FfFrame f;

    memcpy(r.session, s->conn->session, sizeof(r.session));
    memcpy(r.secret, s->conn->secret, sizeof(r.secret));
    if (!ff_greeting_say(ch, ff_frame(FF_FRAME_REVOKE, sizeof(r)), &r, error)) {
        return false;
    }
    ff_channel_wait_readable(ch, ANSWER_DEADLINE_MS);
    if (!ff_greeting_expect(ch, FF_FRAME_REVOKED, &f, text, FF_FRAME_MAX_TEXT, error)) {
        return false;
    }
    *refused = f.page != 0;
    if (*refused) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(text));
    }
    return !*refused;
}

static bool speak(FfSource *s, FfChannel *ch, bool paused, bool *refused, GError **error)
{
    return ff_conn_connecting(s->conn, ch, error) && ff_conn_secure(s->conn, ch, error) &&
           ff_source_greet_again(s, ch, paused, error) && say_revoke(s, ch, refused, error);
}

bool ff_source_revoke(FfSource *s, GError **error)
{
    g_autoptr(FfAddress) address = NULL;
    bool refused = false;
    g_autoptr(FfChannel) ch = ff_source_connect_again(s, &address, error);

    bool ok = ch && speak(s, ch, true, &refused, error);
    ff_conn_connecting(s->conn, NULL, NULL);
    return ok;
}

/* TRUE: there is nothing more to say. */
static bool notify(FfSource *s, const FfAddress *address, unsigned *nobody)
{
    g_autoptr(GError) error = NULL;
    bool refused = false;
    int fd = ff_address_connect(address, s->control->cancel, &error);

    if (fd < 0) {
        bool absent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
                      g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
        *nobody = absent ? *nobody + 1 : 0;
        return *nobody >= REFUSED_MAX;
    }
    g_autoptr(FfChannel) ch = ff_conn_channel_new(s->conn, fd, FF_CHANNEL_MAIN);
    bool told = speak(s, ch, false, &refused, &error);
    ff_conn_connecting(s->conn, NULL, NULL);
    *nobody = 0;
    if (told) {
        g_message("the destination knows that the guest went on here, and has ended");
    }
    return told || refused;
}

void ff_source_tell_roll_back(FfSource *s)
{
    g_autofree char *uri = ff_source_peer_uri(s);
    g_autoptr(FfAddress) address = uri ? ff_address_parse(uri, NULL) : NULL;
    int64_t end = g_get_monotonic_time() + NOTICE_S * G_TIME_SPAN_SECOND;
    int64_t pause_ms = FIRST_PAUSE_MS;
    unsigned nobody = 0;

    ff_control_forget(s->control, FF_EV_DEAD);
    ff_control_reset_cancel(s->control);
    while (address && !notify(s, address, &nobody) && g_get_monotonic_time() < end) {
        if (ff_control_wait_until(s->control, FF_EV_QUIT,
                                  g_get_monotonic_time() + pause_ms * 1000)) {
            return;
        }
        pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
    }
}
