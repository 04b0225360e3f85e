/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which capabilities exclude each other, as each version of QEMU has it, for those that QEMU does
 * not see. Pure; any thread.
 */
#ifndef FF_QAPI_CAPS_CHECK_H
#define FF_QAPI_CAPS_CHECK_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef struct {
    JsonArray *changes;    /* as migrate-set-capabilities has them; the last word counts */
    JsonArray *current;    /* as query-migrate-capabilities has them, ours included */
    unsigned version;      /* QEMU's: major * 10000 + minor * 100 + micro */
    bool incoming_started; /* this side listens for a source, or has one */
    bool one_channel;      /* it came as an fd: no additional connection can come */
    bool may_restore; /* it waits for an incoming migration: mapped-ram and postcopy-ram together
                         are a lazy restore */
} FfCapsCheck;

/* NULL, or QEMU's error. */
const char *ff_caps_check(const FfCapsCheck *check);
/* The first of CHANGES that this QEMU does not know (and is not postcopy-*); NULL: none. */
const char *ff_caps_unknown(const FfCapsCheck *check);
/* What NAME is after CHANGES. */
bool ff_caps_after(const FfCapsCheck *check, const char *name);

#endif
