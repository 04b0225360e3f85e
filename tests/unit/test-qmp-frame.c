/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Framing of QMP. Each table of the framer is fed whole, byte by byte and in pieces of seven,
 * with the same result. That QEMU itself agrees is tested in tests/qtest/test-monitors.c.
 */
#include "guest/relay/qmp-frame.h"

#include <stdint.h>
#include <string.h>

static void feed_all(FfQmpFramer *framer, const char *text, size_t len, size_t step,
                     GPtrArray *messages)
{
    for (size_t at = 0; at < len;) {
        GBytes *message;

        at += ff_qmp_framer_feed(framer, text + at, MIN(step, len - at), &message);
        if (message) {
            gsize size;
            const char *data = g_bytes_get_data(message, &size);

            g_ptr_array_add(messages, g_strndup(data, size));
            g_bytes_unref(message);
        }
    }
}

static GPtrArray *frame_all(const char *text, size_t len, size_t step)
{
    g_autoptr(FfQmpFramer) framer = ff_qmp_framer_new();
    GPtrArray *messages = g_ptr_array_new_with_free_func(g_free);

    feed_all(framer, text, len, step, messages);
    return messages;
}

/* The same, with another framer from byte AT on. */
static GPtrArray *frame_moved(const char *text, size_t len, size_t at)
{
    g_autoptr(FfQmpFramer) first = ff_qmp_framer_new(), second = ff_qmp_framer_new();
    GPtrArray *messages = g_ptr_array_new_with_free_func(g_free);

    feed_all(first, text, at, SIZE_MAX, messages);
    guint n = messages->len;
    if (!ff_qmp_framer_moves(first)) {
        feed_all(first, text + at, len - at, SIZE_MAX, messages);
        return messages;
    }
    feed_all(second, ff_qmp_framer_held(first), ff_qmp_framer_pending(first), SIZE_MAX, messages);
    g_assert_cmpuint(messages->len, ==, n); /* it is no more than a part */
    feed_all(second, text + at, len - at, SIZE_MAX, messages);
    return messages;
}

/* Input, and its messages separated by '|'. */
static const struct {
    const char *input, *messages;
} frames[] = {
    {"{\"execute\":\"x\"}", "{\"execute\":\"x\"}"},
    {"{\"a\":1}{\"b\":2}\r\n[3]\n", "{\"a\":1}|{\"b\":2}|\r\n[3]"},
    {"{'a':'}\\'{'}{}", "{'a':'}\\'{'}|{}"},
    {"{\"a\":\"\\\"}\"}", "{\"a\":\"\\\"}\"}"},
    {"{\"a\":[{},[{}]]}", "{\"a\":[{},[{}]]}"},
    {"{\"a\":", ""},
    {"\"text\"{}", "\"text\"|{}"},
    {"12 {}", "12 |{}"},
    {"12{}", "12\n|{}"},
    {"-0.5e+3true\n", "-0.5e+3\n|true\n"},
    {"01{}", "01|{}"},
    {"1.x{}", "1.x|{}"},
    {"@ garbage {}", "@|{}"},
    {"@ \t still garbage\n{}", "@|\n{}"},
    {"{\"a\": @ \"b\", {}}", "{\"a\": @|,| {}|}"},
    {"}{}", "}|{}"},
    {"{]}{}", "{]|}|{}"},
    {"[}]{}", "[}|]|{}"},
    {":,{}", ":|,|{}"},
    {"{\"a\":\"\x01\"}{}", "{\"a\":\"\x01|}|{}"},
    {"{\"a\"\xff{}", "{\"a\"\xff|{}"},
    {"\xff\xff{}", "\xff|\xff|{}"},
    {"%d{}", "%|{}"},
    {"T{}", "T|{}"},
};

static void test_frames(void)
{
    static const size_t steps[] = {SIZE_MAX, 1, 7};

    for (size_t i = 0; i < G_N_ELEMENTS(frames); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(steps); j++) {
            g_autoptr(GPtrArray) messages =
                frame_all(frames[i].input, strlen(frames[i].input), steps[j]);
            g_autofree char *joined = NULL;

            g_ptr_array_add(messages, NULL);
            joined = g_strjoinv("|", (char **)messages->pdata);
            g_assert_cmpstr(joined, ==, frames[i].messages);
        }
    }
}

/* Long runs of blanks are shortened, and cost no memory. */
static void test_blanks(void)
{
    g_autoptr(FfQmpFramer) framer = ff_qmp_framer_new();
    g_autofree char *blanks = g_strnfill(1 << 20, ' ');
    GBytes *message;

    g_assert_cmpuint(ff_qmp_framer_feed(framer, "{", 1, &message), ==, 1);
    for (int i = 0; i < 32; i++) {
        g_assert_cmpuint(ff_qmp_framer_feed(framer, blanks, 1 << 20, &message), ==, 1 << 20);
    }
    g_assert_cmpuint(ff_qmp_framer_pending(framer), <, 8192);
    ff_qmp_framer_feed(framer, "}", 1, &message);
    g_assert_nonnull(message);
    g_bytes_unref(message);
}

static void test_nesting(void)
{
    g_autofree char *open = g_strnfill(FF_QMP_MAX_NESTING + 1, '[');
    g_autoptr(GPtrArray) messages = frame_all(open, strlen(open), SIZE_MAX);
    g_autofree char *close = NULL, *both = NULL;
    g_autoptr(GPtrArray) good = NULL;

    g_assert_cmpuint(messages->len, ==, 1);
    open[FF_QMP_MAX_NESTING] = 0;
    close = g_strnfill(FF_QMP_MAX_NESTING, ']');
    both = g_strconcat(open, close, NULL);
    good = frame_all(both, strlen(both), SIZE_MAX);
    g_assert_cmpuint(good->len, ==, 1);
    g_assert_cmpuint(strlen(good->pdata[0]), ==, 2 * FF_QMP_MAX_NESTING);
}

/* A string over QEMU's limit is cut where QEMU cuts it, and what follows is framed again. */
static void test_size(void)
{
    g_autoptr(FfQmpFramer) framer = ff_qmp_framer_new();
    g_autofree char *text = g_strnfill(FF_QMP_MAX_SIZE + 2, 'a');
    g_autoptr(GBytes) message = NULL;
    size_t used;

    text[0] = '"';
    used = ff_qmp_framer_feed(framer, text, FF_QMP_MAX_SIZE + 2, &message);
    g_assert_cmpuint(used, ==, FF_QMP_MAX_SIZE + 1);
    g_assert_nonnull(message);
    g_assert_cmpuint(ff_qmp_framer_pending(framer), ==, 0);
}

static const struct {
    const char *text;
    const char *name; /* "!" = not parsed at all; "oob:" before the name of an exec-oob */
    const char *id, *json;
} commands[] = {
    {"{\"execute\":\"cont\"}", "cont", NULL, "{\"execute\": \"cont\"}"},
    {"{'execute':'\\u0063ont'}", "cont", NULL, "{\"execute\": \"cont\"}"},
    {"{\"exec\\u0075te\":\"cont\",\"id\":1.50}", "cont", "1.5",
     "{\"execute\": \"cont\", \"id\": 1.5}"},
    {"{\"execute\":\"cont\",\"id\":-0.}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":.5}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":01}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":1.}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":1e}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":1e+}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":+1}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":--1}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":-}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":-0.0}", "cont", "0", NULL},
    {"{\"execute\":\"cont\",\"id\":-2.5E+1}", "cont", "-25", NULL},
    {"{\"exec-oob\":\"migrate-pause\"}", "oob:migrate-pause", NULL, NULL},
    {"{\"id\":{\"execute\":\"stop\"},\"execute\":\"cont\"}", "cont", "{\"execute\": \"stop\"}",
     NULL},
    {"{\"execute\":\"cont\",\"arguments\":{\"execute\":\"stop\"}}", "cont", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":null}", "cont", "null", NULL},
    {"{\"execute\":\"cont\",\"id\":[1e3,-0,18446744073709551615,'\\ud83d\\ude00']}", "cont",
     "[1000, 0, 18446744073709551615, \"\\uD83D\\uDE00\"]", NULL},
    {"{\"execute\":\"cont\",\"arguments\":{\"id\":1.0,\"x\":[-0,2E1,0.50]},\"id\":[1.0,{\"id\":2.0}"
     "]}",
     "cont", "[1, {\"id\": 2}]",
     "{\"execute\": \"cont\", \"arguments\": {\"id\": 1.0, \"x\": [-0, 2E1, 0.50]}, \"id\": [1, "
     "{\"id\": 2}]}"},
    {"{\"execute\":\"a\\u0000b\"}",
     "a\xC0\x80"
     "b",
     NULL, "{\"execute\": \"a\\u0000b\"}"},
    {"\r\n {\"execute\":\"cont\"} \n", "cont", NULL, NULL},
    /* parsed, but QEMU refuses the form */
    {"{}", NULL, NULL, "{}"},
    {"{\"execute\":1,\"id\":7}", NULL, "7", NULL},
    {"{\"execute\":\"cont\",\"foo\":1}", NULL, NULL, NULL},
    {"{\"execute\":\"cont\",\"arguments\":[]}", NULL, NULL, NULL},
    {"{\"execute\":\"cont\",\"exec-oob\":\"cont\"}", NULL, NULL, NULL},
    /* QEMU's parser refuses them */
    {"{\"execute\":\"cont\",\"execute\":\"stop\"}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",\"id\":{\"a\":1,\"a\":2}}", "!", NULL, NULL},
    {"{\"execute\":\"\\x\"}", "!", NULL, NULL},
    {"{\"execute\":\"\\ud800\"}", "!", NULL, NULL},
    {"{\"execute\":\"\\u12\"}", "!", NULL, NULL},
    {"{\"execute\":\"\xC0\xAF\"}", "!", NULL, NULL},
    {"{\"execute\":\"\xEF\xBF\xBE\"}", "!", NULL, NULL},
    {"{\"execute\":\"cont\",}", "!", NULL, NULL},
    {"{\"execute\" \"cont\"}", "!", NULL, NULL},
    {"{\"execute\":nul}", "!", NULL, NULL},
    {"{execute:\"cont\"}", "!", NULL, NULL},
    {"[]", "!", NULL, NULL},
    {"12\n", "!", NULL, NULL},
    {"\"text\"", "!", NULL, NULL},
};

static void test_commands(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        const char *text = commands[i].text, *name = commands[i].name;
        g_autoptr(FfQmpCommand) c = ff_qmp_command_parse(text, strlen(text));
        g_autofree char *escaped = g_strescape(text, NULL);

        g_test_message("%s", escaped);
        if (name && !strcmp(name, "!")) {
            g_assert_null(c);
            continue;
        }
        g_assert_nonnull(c);
        if (name && g_str_has_prefix(name, "oob:")) {
            g_assert_true(c->oob);
            name += 4;
        }
        g_assert_cmpstr(c->name, ==, name);
        g_assert_cmpstr(c->id, ==, commands[i].id);
        if (commands[i].json) {
            g_assert_cmpstr(c->json->str, ==, commands[i].json);
        }
    }
}

static void test_arguments(void)
{
    static const char text[] = "{'execute':'getfd','arguments':{'fdname':'m\\u0069g',"
                               "'x':{'fdname':'no'},'command-line':'info migrate',"
                               "'enable':['a','oob']}}";
    g_autoptr(FfQmpCommand) c = ff_qmp_command_parse(text, strlen(text));

    g_assert_cmpstr(c->fdname, ==, "mig");
    g_assert_cmpstr(c->command_line, ==, "info migrate");
    g_assert_true(c->enable_oob);
}

static void test_id_equal(void)
{
    g_assert_true(ff_qmp_id_equal(NULL, NULL));
    g_assert_false(ff_qmp_id_equal(NULL, "null"));
    g_assert_true(ff_qmp_id_equal("\"a\"", "\"a\""));
    g_assert_false(ff_qmp_id_equal("1", "\"1\""));
    g_assert_true(ff_qmp_id_equal("{\"a\": 1, \"b\": [{}]}", "{\"b\": [{}], \"a\": 1}"));
    g_assert_false(ff_qmp_id_equal("{\"a\": 1}", "{\"a\": 2}"));
}

/* What QEMU says, and for each of its messages kind, event or id, separated by '|'. */
static const struct {
    const char *input, *answers;
} answers[] = {
    {"{\"QMP\": {\"version\": {}}}\r\n", "greeting"},
    {"{\"return\": {}}\r\n", "reply"},
    {"{\"return\": {\"id\": 5, \"event\": \"x\"}, \"id\": \"a\\u0041\"}\r\n", "reply \"aA\""},
    {"{\"id\": {\"b\": [1]}, \"error\": {\"class\": \"X\"}}\r\n", "error {\"b\": [1]}"},
    {"{\"timestamp\": {\"seconds\": 1}, \"event\": \"STOP\"}\r\n{\"return\": []}\r\n",
     "event STOP|reply"},
    {"{\r\n    \"return\": [\r\n        {\r\n        }\r\n    ],\r\n    \"id\": 3\r\n}\r\n"
     "{\r\n    \"event\": \"RESUME\"\r\n}\r\n",
     "reply 3|event RESUME"},
    {"{\"return\": \"}{\\\"\"}\r\n", "reply"},
    {"{\"return\": 1}{\"return\": 2, \"id\": 2}\r\n", "reply|reply 2"},
    {"junk\r\n{\"return\": 1}\n", "unknown|reply"},
    {"{\"what\": 1}\r\n", "unknown"},
    {"{\"a-key-that-is-longer-than-any-other-key\": 1, \"return\": 1}\n", "reply"},
};

static char *split_all(const char *text, size_t step)
{
    static const char *const kinds[] = {"unknown", "greeting", "reply", "event"};
    g_autoptr(FfQmpSplitter) s = ff_qmp_splitter_new();
    GString *out = g_string_new(NULL);
    size_t len = strlen(text);

    for (size_t at = 0; at < len;) {
        const FfQmpAnswer *a = ff_qmp_splitter_answer(s);
        bool end;

        at += ff_qmp_splitter_feed(s, text + at, MIN(step, len - at), &end);
        if (end) {
            g_string_append_printf(out, "%s%s", out->len ? "|" : "",
                                   a->is_error ? "error" : kinds[a->kind]);
            if (a->event || a->id) {
                g_string_append_printf(out, " %s", a->event ? a->event : a->id);
            }
            g_assert_true(ff_qmp_splitter_idle(s));
        }
    }
    return g_string_free(out, FALSE);
}

static void test_answers(void)
{
    static const size_t steps[] = {SIZE_MAX, 1, 7};

    for (size_t i = 0; i < G_N_ELEMENTS(answers); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(steps); j++) {
            g_autofree char *found = split_all(answers[i].input, steps[j]);

            g_assert_cmpstr(found, ==, answers[i].answers);
        }
    }
}

/* Kind and event are known as early as possible, so that a long message can stream. */
static void test_early(void)
{
    static const char reply[] = "{\"return\": {\"a\"",
                      event[] = "{\"timestamp\": {}, \"event\": "
                                "\"STOP\", \"data\"",
                      late[] = "{\"id\": [{\"return\": []}], \"return\": [";
    g_autoptr(FfQmpSplitter) s = ff_qmp_splitter_new();
    bool end;
    size_t used;

    g_assert_cmpuint(ff_qmp_splitter_feed(s, reply, strlen(reply), &end), ==, 9);
    g_assert_cmpint(ff_qmp_splitter_answer(s)->kind, ==, FF_QMP_REPLY);
    g_clear_pointer(&s, ff_qmp_splitter_free);
    s = ff_qmp_splitter_new();
    used = ff_qmp_splitter_feed(s, event, strlen(event), &end);
    g_assert_cmpint(ff_qmp_splitter_answer(s)->kind, ==, FF_QMP_EVENT);
    used += ff_qmp_splitter_feed(s, event + used, strlen(event) - used, &end);
    g_assert_cmpstr(ff_qmp_splitter_answer(s)->event, ==, "STOP");
    g_assert_cmpuint(used, <, strlen(event));
    g_clear_pointer(&s, ff_qmp_splitter_free);
    s = ff_qmp_splitter_new();
    used = ff_qmp_splitter_feed(s, late, strlen(late), &end);
    g_assert_cmpint(ff_qmp_splitter_answer(s)->kind, ==, FF_QMP_REPLY);
    g_assert_false(ff_qmp_splitter_answer(s)->returns);
    used += ff_qmp_splitter_feed(s, late + used, strlen(late) - used, &end);
    g_assert_true(ff_qmp_splitter_answer(s)->returns);
    g_assert_cmpstr(late + used, ==, ": [");
}

static void assert_same(const GPtrArray *a, const GPtrArray *b)
{
    g_assert_cmpuint(a->len, ==, b->len);
    for (guint i = 0; i < a->len; i++) {
        g_assert_cmpstr(a->pdata[i], ==, b->pdata[i]);
    }
}

/* Another framer goes on in the middle of any message. */
static void test_moved(void)
{
    static const char alphabet[] = "{}[]:,\"'\\ \r\nu01.-+eEtrue@\x01\xFF";
    static const char command[] = " {'a': [1.5e-3, true, \"\\\"\"]} 17 {";

    for (int round = 0; round < 2000; round++) {
        char text[sizeof(command)];

        for (size_t i = 0; i < sizeof(text); i++) {
            text[i] = round ? alphabet[g_random_int_range(0, sizeof(alphabet) - 1)] : command[i];
        }
        g_autoptr(GPtrArray) whole = frame_all(text, sizeof(text), SIZE_MAX);
        for (size_t at = 0; at < sizeof(text); at++) {
            g_autoptr(GPtrArray) moved = frame_moved(text, sizeof(text), at);

            assert_same(whole, moved);
        }
    }
}

/* Any bytes, in both directions: no crash, and every byte is used. */
static void test_random(void)
{
    static const char alphabet[] = "{}[]:,\"'\\ \r\n\tu0129.-+eEtrue%@\x01\x80\xC0\xFF";

    for (int round = 0; round < 2000; round++) {
        g_autoptr(FfQmpSplitter) s = ff_qmp_splitter_new();
        char text[64];
        g_autoptr(GPtrArray) messages = NULL;

        for (size_t i = 0; i < sizeof(text); i++) {
            text[i] = alphabet[g_test_rand_int_range(0, sizeof(alphabet) - 1)];
        }
        messages = frame_all(text, sizeof(text), 1 + round % 9);
        for (guint i = 0; i < messages->len; i++) {
            FfQmpCommand *c = ff_qmp_command_parse(messages->pdata[i], strlen(messages->pdata[i]));

            if (c) {
                ff_qmp_command_free(c);
            }
        }
        for (size_t at = 0; at < sizeof(text);) {
            bool end;

            at += ff_qmp_splitter_feed(s, text + at, sizeof(text) - at, &end);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qmp-frame/frames", test_frames);
    g_test_add_func("/qmp-frame/blanks", test_blanks);
    g_test_add_func("/qmp-frame/nesting", test_nesting);
    g_test_add_func("/qmp-frame/size", test_size);
    g_test_add_func("/qmp-frame/commands", test_commands);
    g_test_add_func("/qmp-frame/arguments", test_arguments);
    g_test_add_func("/qmp-frame/id-equal", test_id_equal);
    g_test_add_func("/qmp-frame/answers", test_answers);
    g_test_add_func("/qmp-frame/early", test_early);
    g_test_add_func("/qmp-frame/moved", test_moved);
    g_test_add_func("/qmp-frame/random", test_random);
    return g_test_run();
}
