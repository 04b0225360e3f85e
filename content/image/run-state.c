/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The section "globalstate" of QEMU's device state (migration/global_state.c): the length of the
 * name with its end, and the name in 100 bytes. Device sections do not say how long they are, so it
 * is looked for; it is there once.
 *
 * System calls: none.
 */
#include "content/image/run-state.h"

#include <assert.h>
#include <glib.h>
#include <string.h>

/* Name of the section, instance 0, version 1, length of "paused" with its end; its name. */
static const uint8_t paused[] = "\x0bglobalstate\0\0\0\0\0\0\0\1\0\0\0\7paused";
#define AT_LENGTH (sizeof(paused) - sizeof("paused") - 4)

/* Names of QEMU's run states are shorter. */
#define LONGEST 32

bool ff_run_state_set(uint8_t *stream, size_t n, const char *run_state)
{
    uint8_t *found = memmem(stream, n, paused, sizeof(paused));
    size_t length = strlen(run_state) + 1;

    if (!found || length >= LONGEST) {
        return false;
    }
    size_t left = n - (found + 1 - stream);
    if (left < sizeof(paused) + LONGEST || memmem(found + 1, left, paused, sizeof(paused))) {
        return false;
    }
    found[AT_LENGTH + 3] = (uint8_t)length;
    memcpy(found + AT_LENGTH + 4, run_state, length);
    return true;
}

char *ff_run_state_read(const uint8_t *stream, size_t n)
{
    const uint8_t *found = memmem(stream, n, paused, AT_LENGTH);
    size_t left = found ? n - (found + AT_LENGTH - stream) : 0, length;

    if (left < 4 + LONGEST) {
        return g_strdup("running");
    }
    const char *name = (const char *)found + AT_LENGTH + 4;
    if (memmem(name, left - 4, paused, AT_LENGTH)) {
        return g_strdup("paused"); /* two: one of them may be the guest's own doing */
    }
    length = strnlen(name, LONGEST);
    for (size_t i = 0; i < length; i++) {
        if (!g_ascii_islower(name[i]) && name[i] != '-') {
            return g_strdup("running");
        }
    }
    return length && length < LONGEST ? g_strndup(name, length) : g_strdup("running");
}

#define NAMES (FF_RUN_STATE_BYTES - 2) /* the flags' place */
static_assert(AT_LENGTH + 4 + LONGEST == NAMES, "as the header has it");

static bool says_suspended(const uint8_t *stream, size_t n)
{
    const uint8_t *found = stream;

    while ((found = memmem(found, n - (size_t)(found - stream), paused, AT_LENGTH))) {
        if (n - (size_t)(found - stream) < FF_RUN_STATE_BYTES) {
            return false;
        }
        const char *name = (const char *)found + AT_LENGTH + 4;
        if ((found[NAMES] == 1 && found[NAMES + 1] == 1) ||
            !memcmp(name, "suspended", sizeof("suspended"))) {
            return true;
        }
        found++;
    }
    return false;
}

bool ff_run_state_seek(FfRunStateSeeker *s, const uint8_t *data, size_t n)
{
    uint8_t both[2 * sizeof(s->had)];
    size_t more = MIN(n, sizeof(s->had));

    memcpy(both, s->had, s->n);
    if (more) {
        memcpy(both + s->n, data, more);
    }
    s->suspended = s->suspended || says_suspended(both, s->n + more) || says_suspended(data, n);
    if (n >= sizeof(s->had)) {
        memcpy(s->had, data + n - sizeof(s->had), sizeof(s->had));
        s->n = sizeof(s->had);
    } else {
        size_t all = s->n + n, keep = MIN(all, sizeof(s->had));

        memmove(s->had, both + all - keep, keep);
        s->n = keep;
    }
    return s->suspended;
}
