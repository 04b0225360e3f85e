/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The section "globalstate" of QEMU's device state (migration/global_state.c): the length of the
 * name with its end, and the name in 100 bytes. Device sections do not say how long they are, so it
 * is looked for; it is there once.
 *
 * System calls: none.
 */
#include "content/image/run-state.h"

#include <glib.h>
#include <string.h>

/* Name of the section, instance 0, version 1, length of "paused" with its end; its name. */
static const uint8_t paused[] = "\x0bglobalstate\0\0\0\0\0\0\0\1\0\0\0\7paused";
#define AT_LENGTH (sizeof(paused) - sizeof("paused") - 4)

bool ff_run_state_set_running(uint8_t *stream, size_t n)
{
    static const uint8_t running[] = "\0\0\0\x08running";
    uint8_t *found = memmem(stream, n, paused, sizeof(paused));

    if (!found) {
        return false;
    }
    size_t left = n - (found + 1 - stream);
    if (left < sizeof(paused) + sizeof("running") ||
        memmem(found + 1, left, paused, sizeof(paused))) {
        return false;
    }
    memcpy(found + AT_LENGTH, running, sizeof(running));
    return true;
}

/* Names of QEMU's run states are shorter. */
#define LONGEST 32

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
