/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A destination that has loaded the device state and was never granted the guest is of no use
 * any more: the source has taken the guest back, or wants to.
 *
 *   after a roll back     the source could not say ABORT (the connection was lost, or its engine
 *                         died): it connects anew and says REVOKE, for a while. It is the
 *                         migration's second life: its end was told to the client before
 *   at the user's wish    a paused source that has given the guest away, of which it is not known
 *                         whether the grant came: it says REVOKE and takes the guest back only
 *                         when the destination has answered
 *
 * The destination answers when it is past return: phase DEAD is stored and its QEMU has ended. If
 * it was granted it refuses, whatever the source thinks.
 *
 * Thread: the coordinator.
 */
#include "migration/internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* A destination ends its QEMU within this time, then by force (milliseconds). */
#define QUIT_DEADLINE_MS 5000
#define KILL_DEADLINE_MS 10000
/* So its answer is there within this. */
#define ANSWER_DEADLINE_MS 30000
/* How long a source that has rolled back tries to say so; the time between two attempts grows. */
#define NOTICE_S 600
#define FIRST_PAUSE_MS 500
#define LONGEST_PAUSE_MS 10000
/* So many refused connections in a row: the host is there, and nobody listens any more. */
#define REFUSED_MAX 5

/* ---- the source ---------------------------------------------------------------------------- */

/* TRUE: the destination is dead. *REFUSED: it answered, and is not. */
static bool say_revoke(FfMigration *m, FfChannel *ch, bool *refused, GError **error)
{
    char text[FF_FRAME_MAX_TEXT + 1] = "";
    FfResume r = {.version = GUINT32_TO_LE(FF_WIRE_VERSION), .epoch = GUINT64_TO_LE(m->epoch + 1)};
    FfFrame f;

    memcpy(r.session, m->session, sizeof(r.session));
    memcpy(r.secret, m->secret, sizeof(r.secret));
    if (!ff_recovery_say(ch, ff_frame(FF_FRAME_REVOKE, sizeof(r)), &r, error)) {
        return false;
    }
    ff_channel_wait_readable(ch, ANSWER_DEADLINE_MS);
    if (!ff_recovery_expect(ch, FF_FRAME_REVOKED, &f, text, FF_FRAME_MAX_TEXT, error)) {
        return false;
    }
    *refused = f.page != 0;
    if (*refused) {
        g_set_error(error, FF_M_ERROR, 0, "the destination refused: %s", ff_peer_text(text));
    }
    return !*refused;
}

static bool speak(FfMigration *m, FfChannel *ch, bool paused, bool *refused, GError **error)
{
    return ff_recovery_connecting(m, ch, error) && ff_m_secure(m, ch, error) &&
           ff_source_greet_again(m, ch, paused, error) && say_revoke(m, ch, refused, error);
}

bool ff_source_revoke(FfMigration *m, GError **error)
{
    g_autoptr(FfAddress) address = NULL;
    bool refused = false;
    g_autoptr(FfChannel) ch = ff_source_connect_again(m, &address, error);

    bool ok = ch && speak(m, ch, true, &refused, error);
    ff_recovery_connecting(m, NULL, NULL);
    return ok;
}

/* TRUE: there is nothing more to say. */
static bool notify(FfMigration *m, const FfAddress *address, unsigned *nobody)
{
    g_autoptr(GError) error = NULL;
    bool refused = false;
    int fd = ff_address_connect(address, m->cancel, &error);

    if (fd < 0) {
        bool absent = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
                      g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND);
        *nobody = absent ? *nobody + 1 : 0;
        return *nobody >= REFUSED_MAX;
    }
    g_autoptr(FfChannel) ch = ff_m_channel_new(m, fd, FF_CHANNEL_MAIN);
    bool told = speak(m, ch, false, &refused, &error);
    ff_recovery_connecting(m, NULL, NULL);
    *nobody = 0;
    if (told) {
        g_message("the destination knows that the guest went on here, and has ended");
    }
    return told || refused;
}

void ff_source_tell_roll_back(FfMigration *m)
{
    g_autofree char *uri = ff_m_peer_uri(m);
    g_autoptr(FfAddress) address = uri ? ff_address_parse(uri, NULL) : NULL;
    int64_t end = g_get_monotonic_time() + NOTICE_S * G_TIME_SPAN_SECOND;
    int64_t pause_ms = FIRST_PAUSE_MS;
    unsigned nobody = 0;

    ff_recovery_begin(m, FF_EV_DEAD);
    ff_recovery_reset_cancel(m);
    while (address && !notify(m, address, &nobody) && g_get_monotonic_time() < end) {
        if (ff_m_wait_until(m, FF_EV_QUIT, g_get_monotonic_time() + pause_ms * 1000)) {
            return;
        }
        pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
    }
}

/* ---- the destination ------------------------------------------------------------------------ */

static bool vmm_ends(const FfMigration *m, int deadline_ms)
{
    struct pollfd p = {.fd = m->cfg.pidfd, .events = POLLIN};

    return poll(&p, 1, deadline_ms) > 0 && p.revents & POLLIN;
}

/* The VMM is asked to end, and made to if it does not (it may hang). */
bool ff_dest_ensure_end(FfMigration *m)
{
    if (m->cfg.pidfd < 0) {
        return false; /* nobody would see it */
    }
    if (vmm_ends(m, QUIT_DEADLINE_MS)) {
        return true;
    }
    ff_m_kill_vmm(m, "it has not ended after a failed incoming migration");
    return vmm_ends(m, KILL_DEADLINE_MS);
}

bool ff_dest_take_revoke(FfMigration *m, FfChannel *ch, GError **error)
{
    static const char granted[] = "it was granted the guest, which runs there: resume, and let "
                                  "the rest of its memory follow";

    ff_mutex_lock(&m->lock);
    bool given = m->given;
    if (!given) {
        g_clear_pointer(&m->error, g_free);
        m->error = g_strdup("the source has taken the guest back");
        m->revoker = ch;
        m->connecting = NULL;
        m->events |= FF_EV_ABORTED | FF_EV_DEAD;
    }
    ff_mutex_unlock(&m->lock);
    if (given) {
        FfFrame f = ff_frame(FF_FRAME_REVOKED, strlen(granted));
        f.page = 1;
        ff_channel_send_last(ch, f, granted, 0);
        g_set_error(error, FF_M_ERROR, 0, "%s wanted the guest back, which runs here",
                    ff_channel_peer(ch));
    }
    return !given;
}

void ff_dest_answer_revoke(FfMigration *m, bool ended)
{
    if (m->revoker) {
        if (ended) {
            ff_channel_send(m->revoker, ff_frame(FF_FRAME_REVOKED, 0), NULL, true);
        } else {
            /* Who starts the guest on this answer must be sure that it does not run here. */
            g_message("the source wants the guest back, and gets no answer: it is not certain that "
                      "this QEMU has ended");
            ff_channel_shutdown(m->revoker);
        }
        ff_m_event(m, FF_EV_ANSWERED);
        g_main_context_wakeup(m->driver_ctx); /* which may wait to end */
    }
}

bool ff_migration_speaks(FfMigration *m)
{
    ff_mutex_lock(&m->lock);
    unsigned end = m->revoker ? FF_EV_ANSWERED : m->parting ? FF_EV_TOLD : 0;
    bool speaks = end && !(m->events & end);
    ff_mutex_unlock(&m->lock);
    return speaks;
}
