/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's main reader: what the destination says on the main channel, one frame after the
 * other. It decides nothing: it sets events, counts what was placed, and hands on requests.
 *
 * Thread: its own, as long as the connection.
 */
#include "migration/source/reader.h"

#include "base/priority.h"
#include "migration/common/greeting.h"
#include "migration/source/precopy-send.h"
#include "migration/source/send.h"

static bool read_abort(FfSource *s, const FfFrame *f)
{
    char text[FF_FRAME_MAX_TEXT + 1] = "";

    /* Cut in the middle of its reason, it has given up no less: the coordinator waits for this. */
    int rc = ff_channel_read_all(s->conn->main, text, f->length, FF_GREETING_DEADLINE_MS);
    g_autofree char *why = g_strconcat(
        "the destination gave up: ", rc ? "its reason was cut off" : ff_peer_text(text), NULL);
    ff_control_gave_up(s->control, why);
    return false;
}

/* FALSE: far more than a destination can mean. */
static bool hand_on(FfSource *s, FfFrame f)
{
    ff_frame_encode(&f);
    return ff_feed_push(s->feed, &f);
}

/* The guest is not to run there yet, or it has run. */
static void note_standing(FfSource *s, bool stands)
{
    ff_mutex_lock(&s->control->lock);
    s->stands_there = stands;
    ff_mutex_unlock(&s->control->lock);
}

/* Returns FALSE when nothing more is to be read. */
static bool dispatch_frame(FfSource *s, FfFrame *f)
{
    switch (f->type) {
    case FF_FRAME_READY:
        ff_control_event(s->control, f->page ? FF_EV_STALE_DROPPED : FF_EV_READY);
        return true;
    case FF_FRAME_LOADED:
        ff_control_event(s->control, FF_EV_LOADED);
        return true;
    case FF_FRAME_RUNNING:
        ff_stamp(s->stats->running_us);
        note_standing(s, !f->page);
        ff_control_event(s->control, FF_EV_RUNNING);
        return true;
    case FF_FRAME_ACK:
        if (f->flags >= 2 + s->conn->n_bulk) {
            break;
        }
        ff_source_acked(s, f->flags, f->page);
        return true;
    case FF_FRAME_ROUND:
        if (!ff_rounds_answered(s, f)) {
            break;
        }
        return true;
    case FF_FRAME_REQUEST:
        if (!s->feed) {
            break;
        }
        if (hand_on(s, *f)) {
            return true;
        }
        ff_control_dead(s->control, "the destination floods this side with requests");
        return false;
    case FF_FRAME_DONE:
        if (f->page) {
            note_standing(s, false);
        }
        ff_control_event(s->control, FF_EV_DONE);
        return true;
    case FF_FRAME_ALIVE:
        return true;
    case FF_FRAME_PAUSED:
        ff_control_event(s->control, FF_EV_PAUSE);
        ff_control_dead(s->control, "Postcopy migration is paused by the user of the destination");
        return false;
    case FF_FRAME_ENDED:
        ff_control_peer_ended(s->control, s->conn->peer);
        return false;
    case FF_FRAME_ABORT:
        return read_abort(s, f);
    default:
        break;
    }
    ff_control_dead(s->control, "the destination sent '%s' which it never should: protocol error",
                    ff_frame_name(f->type));
    return false;
}

static void read_frames(FfSource *s)
{
    const char *why;
    FfFrame f;
    int rc;

    while ((rc = ff_channel_read_frame(s->conn->main, &f, -1, &why)) == 0) {
        if (!dispatch_frame(s, &f)) {
            return;
        }
    }
    if (why) {
        ff_control_dead(s->control, "the destination sent %s: protocol error", why);
    } else {
        ff_conn_lost(s->conn, s->conn->main, rc);
    }
}

gpointer ff_source_main_reader(gpointer p)
{
    FfSource *s = p;

    ff_priority_urgent(); /* few words, and the guest stands still while some of them are awaited */
    read_frames(s);
    ff_control_event(s->control, FF_EV_MAIN_ENDED);
    return NULL;
}
