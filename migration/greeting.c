/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Talking before the threads run; see greeting.h. No system calls of its own. */
#include "migration/greeting.h"

#include <errno.h>

#include "migration/control.h"

bool ff_greeting_lost(GError **error, const FfChannel *ch, int rc, const char *why)
{
    g_set_error(error, FF_M_ERROR, 0, "%s: %s", ff_channel_peer(ch),
                why                ? why
                : rc == -EPIPE     ? "the peer closed the connection"
                : rc == -ETIMEDOUT ? "no answer in time"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

bool ff_greeting_hear(FfChannel *ch, FfFrame *f, void *payload, size_t cap, GError **error)
{
    const char *why = NULL;
    int rc = ff_channel_read_frame(ch, f, FF_GREETING_DEADLINE_MS, &why);

    if (rc == 0 && f->length > cap) {
        why = "a longer frame than can come now";
        rc = -EBADMSG;
    }
    if (rc == 0) {
        rc = ff_channel_read_all(ch, payload, f->length, FF_GREETING_DEADLINE_MS);
    }
    return rc < 0 ? ff_greeting_lost(error, ch, rc, why) : true;
}

bool ff_greeting_expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                        GError **error)
{
    if (!ff_greeting_hear(ch, f, payload, cap, error)) {
        return false;
    }
    if (f->type != type) {
        g_set_error(error, FF_M_ERROR, 0, "%s: sent '%s' where '%s' belongs", ff_channel_peer(ch),
                    ff_frame_name(f->type), ff_frame_name(type));
        return false;
    }
    return true;
}

bool ff_greeting_say(FfChannel *ch, FfFrame f, const void *payload, GError **error)
{
    int rc = ff_channel_send(ch, f, payload, true);

    return rc < 0 ? ff_greeting_lost(error, ch, rc, NULL) : true;
}

bool ff_greeting_same(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint8_t diff = 0;

    for (size_t i = 0; i < n; i++) {
        diff |= a[i] ^ b[i];
    }
    return diff == 0;
}
