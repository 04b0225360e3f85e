/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which commands the engine answers. Names are exact, in QMP and in HMP: QEMU's human monitor
 * takes the first word up to a blank or a slash and knows no abbreviations but the aliases in
 * its table ("c|cont", "stop|s"). Pure functions; any thread.
 */
#include "guest/relay/routing.h"

#include "contract/link.h"

#include <string.h>

static const char *const always[] = {
    "migrate",
    "migrate_cancel",
    "migrate-incoming",
    "migrate-start-postcopy",
    "migrate-pause",
    "migrate-recover",
    "migrate-continue",
    "migrate-set-capabilities",
    "query-migrate-capabilities",
    "migrate-set-parameters",
    "query-migrate-parameters",
    "query-migrate",
    "object-add",
    "object-del",
    NULL,
};

static const char *const run_state[] = {
    "cont",         "stop",          "system_reset",      "system_wakeup",
    "query-status", "snapshot-save", "snapshot-load",     "xen-save-devices-state",
    "device_add",   "device_del",    "dump-guest-memory", "netdev_add",
    NULL,
};

static const char *const hmp_run_state[] = {
    "c",      "cont",   "s",          "stop",       "system_reset",      "system_wakeup",
    "savevm", "loadvm", "device_add", "device_del", "dump-guest-memory", "netdev_add",
    NULL,
};

/* Takes the next word as QEMU's get_command_name() does; *LINE stands after it then. */
static char *hmp_word(const char **line)
{
    const char *start = *line + strspn(*line, " \t\n\v\f\r");
    size_t len = strcspn(start, "/ \t\n\v\f\r");

    *line = start + len;
    return g_strndup(start, len);
}

static bool is_migrate_word(const char *word)
{
    return !strcmp(word, "migrate") || g_str_has_prefix(word, "migrate_");
}

static bool hmp_owned(const char *line, unsigned filters)
{
    g_autofree char *word = hmp_word(&line);

    if (!strcmp(word, "info")) {
        g_autofree char *what = hmp_word(&line);

        return is_migrate_word(what) ||
               ((filters & FF_FILTER_RUN_STATE) && !strcmp(what, "status"));
    }
    return is_migrate_word(word) || !strcmp(word, "object_add") || !strcmp(word, "object_del") ||
           ((filters & FF_FILTER_RUN_STATE) && g_strv_contains(hmp_run_state, word));
}

bool ff_owned(const FfQmpCommand *command, unsigned filters)
{
    if (!command || !command->name) {
        return false;
    }
    if (!strcmp(command->name, "human-monitor-command")) {
        return command->command_line && hmp_owned(command->command_line, filters);
    }
    return g_strv_contains(always, command->name) ||
           g_str_has_prefix(command->name, "x-farfault-") ||
           ((filters & FF_FILTER_RUN_STATE) && g_strv_contains(run_state, command->name));
}

/* Whether COMMAND is QMP of the human monitor, in LINE; else *LINE is untouched. */
static bool is_hmp(const FfQmpCommand *command, const char **line)
{
    if (strcmp(command->name, "human-monitor-command") || !command->command_line) {
        return false;
    }
    *line = command->command_line;
    return true;
}

const char *ff_own_entries(const FfQmpCommand *command)
{
    const char *name = command && command->name ? command->name : "";

    return !strcmp(name, "query-commands")     ? ff_own_names
           : !strcmp(name, "query-qmp-schema") ? ff_own_schema
                                               : NULL;
}

/* COMMAND (may be NULL) is one of NAMES, or says one of WORDS to the human monitor. */
static bool is_one_of(const FfQmpCommand *command, const char *const *names,
                      const char *const *words)
{
    const char *line;

    if (!command || !command->name) {
        return false;
    }
    if (is_hmp(command, &line)) {
        g_autofree char *word = hmp_word(&line);

        return g_strv_contains(words, word);
    }
    return g_strv_contains(names, command->name);
}

bool ff_starts_incoming(const FfQmpCommand *command)
{
    static const char *const names[] = {"migrate-incoming", NULL};
    static const char *const words[] = {"migrate_incoming", NULL};

    return is_one_of(command, names, words);
}

bool ff_starts_migration(const FfQmpCommand *command)
{
    static const char *const names[] = {"migrate", "migrate-incoming", NULL};
    static const char *const words[] = {"migrate", "migrate_incoming", NULL};

    return is_one_of(command, names, words);
}

bool ff_recovers(const FfQmpCommand *command)
{
    static const char *const names[] = {"migrate-recover", NULL};
    static const char *const words[] = {"migrate_recover", NULL};

    return is_one_of(command, names, words);
}

bool ff_adds_device(const FfQmpCommand *command)
{
    static const char *const names[] = {"device_add", "netdev_add", NULL};

    return is_one_of(command, names, names);
}

bool ff_needs_guest(const FfQmpCommand *command)
{
    static const char *const names[] = {
        "quit", "cont", "system_reset", "system_wakeup", "snapshot-load", "yank", NULL};
    static const char *const words[] = {
        "q", "quit", "c", "cont", "system_reset", "system_wakeup", "loadvm", NULL};

    return is_one_of(command, names, words);
}

FfSaid ff_says(const FfQmpCommand *command)
{
    static const char *const conts[] = {"cont", "c", NULL}, *const stops[] = {"stop", "s", NULL};

    if (!command || !command->name) {
        return FF_SAID_NOTHING;
    }
    if (!strcmp(command->name, "human-monitor-command") && command->command_line) {
        const char *line = command->command_line;
        g_autofree char *word = hmp_word(&line);

        return line[strspn(line, " \t\n\v\f\r")] ? FF_SAID_NOTHING /* it takes no arguments */
               : g_strv_contains(conts, word)    ? FF_SAID_CONT
               : g_strv_contains(stops, word)    ? FF_SAID_STOP
                                                 : FF_SAID_NOTHING;
    }
    return !strcmp(command->name, "cont")   ? FF_SAID_CONT
           : !strcmp(command->name, "stop") ? FF_SAID_STOP
                                            : FF_SAID_NOTHING;
}

static bool is_name_byte(char c)
{
    return g_ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
}

bool ff_mentions(const char *text, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    const char *end = text + len, *at = text;

    while (name_len && (at = memmem(at, end - at, name, name_len))) {
        const char *after = at + name_len;

        if ((at == text || !is_name_byte(at[-1])) && (after == end || !is_name_byte(*after))) {
            return true;
        }
        at++;
    }
    return false;
}
