/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Talking before the threads run; see greeting.h. No system calls of its own. */
#include "migration/common/greeting.h"

#include <errno.h>

#include "migration/common/control.h"

bool ff_greeting_lost(GError **error, const FfChannel *ch, const FfGreetingWords *words,
                      const char *doing, int rc, const char *why)
{
    g_autofree char *closed = g_strdup_printf("the %s closed the connection", words->peer);

    g_set_error(error, FF_M_ERROR, 0, "%s: %s%s%s", ff_channel_peer(ch), doing ? doing : "",
                doing ? ": " : "",
                why                ? why
                : rc == -EPIPE     ? closed
                : rc == -ETIMEDOUT ? "no answer in time"
                                   : ff_channel_strerror(ch, rc));
    return false;
}

bool ff_greeting_hear_head(FfChannel *ch, const FfGreetingWords *words, FfFrame *f, GError **error)
{
    const char *why = NULL;
    int rc = ff_channel_read_frame(ch, f, FF_GREETING_DEADLINE_MS, &why);

    return rc < 0 ? ff_greeting_lost(error, ch, words, words->hearing, rc, why) : true;
}

bool ff_greeting_hear_payload(FfChannel *ch, const FfGreetingWords *words, const FfFrame *f,
                              void *payload, size_t cap, GError **error)
{
    const char *why = f->length > cap ? "a longer frame than can come now" : NULL;
    int rc = why ? -EBADMSG : ff_channel_read_all(ch, payload, f->length, FF_GREETING_DEADLINE_MS);

    return rc < 0 ? ff_greeting_lost(error, ch, words, words->hearing, rc, why) : true;
}

bool ff_greeting_hear(FfChannel *ch, const FfGreetingWords *words, FfFrame *f, void *payload,
                      size_t cap, GError **error)
{
    return ff_greeting_hear_head(ch, words, f, error) &&
           ff_greeting_hear_payload(ch, words, f, payload, cap, error);
}

bool ff_greeting_expect(FfChannel *ch, const FfGreetingWords *words, FfFrameType type, FfFrame *f,
                        void *payload, size_t cap, GError **error)
{
    if (!ff_greeting_hear_head(ch, words, f, error)) {
        return false;
    }
    if (f->type != type) {
        g_set_error(error, FF_M_ERROR, 0, "%s: sent '%s' where '%s' belongs%s", ff_channel_peer(ch),
                    ff_frame_name(f->type), ff_frame_name(type), words->stranger);
        return false;
    }
    return ff_greeting_hear_payload(ch, words, f, payload, cap, error);
}

bool ff_greeting_say(FfChannel *ch, const FfGreetingWords *words, FfFrame f, const void *payload,
                     GError **error)
{
    int rc = ff_channel_send(ch, f, payload, true);

    return rc < 0 ? ff_greeting_lost(error, ch, words, words->saying, rc, NULL) : true;
}

bool ff_greeting_same(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint8_t diff = 0;

    for (size_t i = 0; i < n; i++) {
        diff |= a[i] ^ b[i];
    }
    return diff == 0;
}
