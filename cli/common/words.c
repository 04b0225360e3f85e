/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See words.h. */
#include "cli/common/words.h"

#include <string.h>

#include "cli/common/format.h"
#include "qmp/json.h"

/* QEMU leaves a guest so that stood for a live snapshot. Only of one that is complete: the others
 * may have been refused because the guest runs elsewhere, and must not be said to be here. */
static bool is_here(JsonObject *info)
{
    return ff_json_object(ff_json_object(info, "x-farfault"), "snapshot") &&
           !g_strcmp0(ff_json_string(info, "status"), "completed");
}

const char *ff_words_guest(const char *state, JsonObject *info)
{
    static const struct {
        const char *state, *words;
    } table[] = {
        {"inmigrate", "waits for an incoming migration"},
        {"postmigrate", "has moved away, or was saved; it does not run here any more"},
        {"finish-migrate", "is stopped here while its migration ends"},
        {"prelaunch", "was started with -S and has not run yet"},
        {"running", "runs"},
        {"paused", "is paused"},
        {"suspended", "sleeps (suspended to RAM)"},
        {"shutdown", "has shut down"},
        {"io-error", "is stopped by an I/O error"},
        {"guest-panicked", "has panicked"},
    };

    if (!strcmp(state, "postmigrate") && is_here(info)) {
        return "is paused, as it was before its live snapshot: cont lets it run";
    }
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (!strcmp(state, table[i].state)) {
            return table[i].words;
        }
    }
    return state;
}

FfWordsKind ff_words_kind(JsonObject *info)
{
    JsonObject *x = ff_json_object(info, "x-farfault");

    return ff_json_object(x, "snapshot")  ? FF_WORDS_SNAPSHOT
           : ff_json_object(x, "restore") ? FF_WORDS_RESTORE
           : ff_json_bool(x, "upgrade")   ? FF_WORDS_UPGRADE
                                          : FF_WORDS_MIGRATION;
}

const char *ff_words_kind_name(FfWordsKind kind)
{
    static const char *const names[] = {[FF_WORDS_MIGRATION] = "migration",
                                        [FF_WORDS_SNAPSHOT] = "live snapshot",
                                        [FF_WORDS_RESTORE] = "restore",
                                        [FF_WORDS_UPGRADE] = "upgrade"};

    return names[kind];
}

/* Where it is not as of a migration; NULL. */
static const char *words_of_kind(const char *status, FfWordsKind kind)
{
    static const struct {
        FfWordsKind kind;
        const char *status, *words;
    } table[] = {
        {FF_WORDS_SNAPSHOT, "active", "is being taken"},
        {FF_WORDS_RESTORE, "active", "loads the device state"},
        {FF_WORDS_RESTORE, "postcopy-active", "runs: its memory follows from the file"},
        {FF_WORDS_RESTORE, "postcopy-paused", "is paused: the file cannot be read"},
        {FF_WORDS_UPGRADE, "active", "runs; the guest is in its old QEMU"},
        {FF_WORDS_UPGRADE, "postcopy-paused", "is paused"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (kind == table[i].kind && !strcmp(status, table[i].status)) {
            return table[i].words;
        }
    }
    return NULL;
}

const char *ff_words_migration(const char *status, FfWordsKind kind)
{
    static const struct {
        const char *status, *words;
    } table[] = {
        {"none", "none so far"},
        {"setup", "is being set up"},
        {"active", "runs; the guest has not been switched over"},
        {"pre-switchover", "waits for migrate-continue before the switch"},
        {"device", "moves the device state"},
        {"postcopy-device", "is switched over: the destination loads the device state"},
        {"postcopy-active", "runs by postcopy: the guest has been switched over, and its memory "
                            "follows"},
        {"postcopy-paused", "is paused after the switch: the connection broke"},
        {"postcopy-recover", "is recovering after a pause"},
        {"completed", "completed"},
        {"failing", "is failing"},
        {"failed", "failed"},
        {"cancelling", "is being cancelled"},
        {"cancelled", "was cancelled"},
    };

    const char *own = words_of_kind(status, kind);
    if (own) {
        return own;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (!strcmp(status, table[i].status)) {
            return table[i].words;
        }
    }
    return status;
}

/* QEMU says what it expected even when the guest has been switched, and how long it took only at
 * the end. */
char *ff_words_downtime(JsonObject *info)
{
    const char *status = ff_json_string_or(info, "status", "none");
    gint64 downtime = ff_json_int(info, "downtime", -1);
    gint64 expected = ff_json_int(info, "expected-downtime", -1);
    bool snapshot = ff_json_object(ff_json_object(info, "x-farfault"), "snapshot");
    bool ahead = ff_words_under_way(status) && !g_str_has_prefix(status, "postcopy-");
    g_autofree char *text = ff_format_duration(downtime >= 0 ? downtime : expected);

    return downtime >= 0                         ? g_steal_pointer(&text)
           : expected >= 0 && ahead && !snapshot ? g_strdup_printf("%s expected", text)
                                                 : NULL;
}

bool ff_words_under_way(const char *status)
{
    return strcmp(status, "none") != 0 && !ff_words_over(status);
}

bool ff_words_over(const char *status)
{
    return !strcmp(status, "completed") || !strcmp(status, "failed") ||
           !strcmp(status, "cancelled");
}
