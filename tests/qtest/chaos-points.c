/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See chaos-points.h. The tables name what the code has; a point that a run does not come to is
 * no fault of that run. One thread.
 */
#include "tests/qtest/chaos-points.h"

typedef struct {
    const char *const *names; /* NULL-terminated */
    const char *const *actions;
} Place;

static const char *const source_at[] = {
    "setup",    "connected",    "active",       "prepared",   "stopping",    "stopped",
    "frozen",   "offered",      "offered-held", "saving",     "saving-held", "loaded",
    "given",    "granted",      "running",      "done",       "saved",       "undone",
    "finished", "rolling-back", "given-back",   "qemu-began", NULL};
static const char *const destination_at[] = {
    "met",          "setup",    "greeted", "prepared",  "active",   "loading",
    "loading-held", "armed",    "shut",    "loaded",    "grant",    "granted",
    "resumed",      "running",  "placed",  "all",       "disarmed", "done",
    "undone",       "finished", "idle",    "attaching", NULL};
static const char *const source_messages[] = {
    "main/hello",  "urgent/channel", "main/prepare", "main/stale", "main/device",
    "main/grant",  "*/pages",        "*/zero",       "*/end",      "main/finished",
    "main/resume", "main/resumed",   "*/round",      NULL};
static const char *const destination_messages[] = {"main/greeting",
                                                   "main/hello-reply",
                                                   "urgent/channel-reply",
                                                   "main/round",
                                                   "main/ready",
                                                   "main/loaded",
                                                   "main/running",
                                                   "*/request",
                                                   "main/ack",
                                                   "main/done",
                                                   "main/resume-reply",
                                                   "main/have",
                                                   "main/have-end",
                                                   NULL};
static const char *const source_calls[] = {"map-ram", "send", "recv", NULL};
static const char *const destination_calls[] = {
    "map-state", "grow-state",      "write-ram", "punch", "uffd-register", "uffd-copy",
    "uffd-zero", "uffd-unregister", "uffd-read", "send",  "recv",          NULL};

static const char *const at_actions[] = {"kill", "kill", "abort", "stop", "delay", NULL};
/* In the clear only the magic number may change: nobody could tell that a page is another one. */
static const char *const message_actions[] = {"kill", "abort", "stop", "delay", "cut",
                                              "cut",  "dup",   "flip", "EIO",   NULL};
static const char *const call_actions[] = {"EAGAIN", "ENOMEM", "ENOSPC", "EIO", NULL};

bool chaos_points_built(void)
{
#ifdef FF_FAULTS
    return true;
#else
    return false;
#endif
}

static const char *draw(GRand *rand, const char *const *list)
{
    return list[g_rand_int_range(rand, 0, g_strv_length((char **)list))];
}

static void add(GRand *rand, GString *all, const char *side)
{
    bool source = side[0] == 's';
    const char *action;

    g_string_append_printf(all, "%s%s/*/", all->len ? ";" : "", side);
    switch (g_rand_int_range(rand, 0, 5)) {
    case 0:
    case 1:
        g_string_append_printf(all, "at/%s", draw(rand, source ? source_at : destination_at));
        action = draw(rand, at_actions);
        break;
    case 2:
    case 3:
        g_string_append(all, draw(rand, source ? source_messages : destination_messages));
        action = draw(rand, message_actions);
        break;
    default:
        g_string_append_printf(all, "call/%s",
                               draw(rand, source ? source_calls : destination_calls));
        action = draw(rand, call_actions);
    }
    if (g_rand_boolean(rand)) {
        g_string_append_printf(all, "#%d", 1 << g_rand_int_range(rand, 0, 9));
    }
    g_string_append_printf(all, "=%s", action);
    if (g_str_equal(action, "stop") || g_str_equal(action, "delay")) {
        g_string_append_printf(all, ":%d", g_rand_int_range(rand, 20, 600));
    } else if (g_str_equal(action, "cut")) {
        g_string_append_printf(all, ":%d", g_rand_int_range(rand, 0, 90));
    } else if (g_str_equal(action, "flip")) {
        g_string_append_printf(all, ":%d", g_rand_int_range(rand, 0, 4));
    }
}

char *chaos_points_draw(GRand *rand, const char *side, unsigned n)
{
    g_autoptr(GString) all = g_string_new(NULL);

    for (unsigned i = 0; i < n; i++) {
        add(rand, all, side);
    }
    return n ? g_strdup(all->str) : NULL;
}
