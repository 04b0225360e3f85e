/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which chardevs the relay would take over, by what clients say. One thread. */
#include <string.h>

#include "guest/relay/hotplug-vhost.h"

#define UNIX(path, more)                                                                           \
    "{'type':'socket','data':{'addr':{'type':'unix','data':{'path':'" path "'}}" more "}}"
#define CLIENT ",'server':false,'reconnect':2"
#define BLK "{'execute':'device_add','arguments':{'driver':'vhost-user-blk-pci','chardev':'c'}}"
#define NET "{'execute':'netdev_add','arguments':{'type':'vhost-user','id':'n','chardev':'c'}}"

static FfQmpCommand *parse(const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');

    return ff_qmp_command_parse(json, strlen(json));
}

/* It goes to QEMU, and is answered later. */
static guint pass(FfHotplug *p, const char *text)
{
    g_autoptr(FfQmpCommand) command = parse(text);

    g_assert_true(ff_hotplug_concerns(command));
    return ff_hotplug_passes(p, command);
}

static char *answer(FfHotplug *p, const char *text, guint number, bool error)
{
    g_autoptr(FfQmpCommand) command = parse(text);

    return ff_hotplug_heard(p, command->json->str, number, error);
}

/* QEMU has carried it out. */
static char *hear(FfHotplug *p, const char *text)
{
    return answer(p, text, pass(p, text), false);
}

static void add(FfHotplug *p, const char *backend)
{
    g_autofree char *text =
        g_strdup_printf("{'execute':'chardev-add','arguments':{'id':'c','backend':%s}}", backend);

    g_assert_null(hear(p, text));
}

static FfPlug *take(FfHotplug *p, const char *text)
{
    g_autoptr(FfQmpCommand) command = parse(text);
    bool network;

    g_assert_true(ff_hotplug_adds(command));
    g_autofree char *id = ff_hotplug_chardev(command, &network);
    if (id) {
        g_assert_cmpint(network, ==, !strcmp(text, NET));
    } else {
        ff_hotplug_forget(p, command->json->str, command->json->len); /* as QEMU is given it */
    }
    return id ? ff_hotplug_take(p, id) : NULL;
}

static void test_taken(void)
{
    g_autoptr(FfHotplug) p = ff_hotplug_new();

    for (unsigned network = 0; network < 2; network++) {
        add(p, UNIX("/a b", ",'server':false,'reconnect':3"));
        g_autoptr(FfPlug) plug = take(p, network ? NET : BLK);

        g_assert_nonnull(plug);
        g_assert_cmpstr(plug->id, ==, "c");
        g_assert_cmpstr(plug->path, ==, "/a b");
        g_assert_cmpuint(plug->reconnect, ==, 3);
        g_autoptr(FfQmpCommand) again = parse(plug->again);
        g_assert_cmpstr(again->name, ==, "chardev-add");
        g_assert_nonnull(strstr(again->json->str, "\"/a b\""));
        g_autofree char *change = ff_plug_command(plug, "chardev-change", 77);
        g_assert_nonnull(strstr(change, "farfault-fd/77\""));
        g_autoptr(FfPlug) twice = take(p, BLK);
        g_assert_null(twice);
    }
}

/* Milliseconds are rounded up: 0 would be never. */
static void test_ms(void)
{
    g_autoptr(FfHotplug) p = ff_hotplug_new();

    add(p, UNIX("/a", ",'server':false,'reconnect-ms':1"));
    g_autoptr(FfPlug) plug = take(p, BLK);
    g_assert_cmpuint(plug->reconnect, ==, 1);
}

static void test_left(void)
{
    static const char *const backends[] = {
        UNIX("/a", ""), /* QEMU listens, as it does if nothing is said */
        UNIX("/a", ",'server':true"),
        UNIX("/a", ",'server':false"), /* it must not be let go of */
        UNIX("a", CLIENT),
        UNIX("/a", CLIENT ",'logfile':'/l'"),
        UNIX("/a", CLIENT ",'tls-creds':'t'"),
        "{'type':'socket','data':{'addr':{'type':'unix','data':{'path':'/"
        "a','abstract':true}}" CLIENT "}}",
        "{'type':'socket','data':{'addr':{'type':'inet','data':{'host':'h','port':'1'}}" CLIENT
        "}}",
        "{'type':'socket','data':{'addr':{'type':'fd','data':{'str':'f'}}" CLIENT "}}",
        "{'type':'pty','data':{}}",
        "{'type':'socket'}",
        "{}",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(backends); i++) {
        g_autoptr(FfHotplug) p = ff_hotplug_new();

        add(p, backends[i]);
        g_autoptr(FfPlug) plug = take(p, BLK);
        g_test_message("%s", backends[i]);
        g_assert_null(plug);
    }
}

static void test_long(void)
{
    g_autoptr(FfHotplug) p = ff_hotplug_new();
    g_autofree char *path = g_strnfill(108, 'x'), *backend = NULL;

    backend =
        g_strdup_printf("{'type':'socket','data':{'addr':{'type':'unix','data':{'path':'/%s'}}"
                        ",'server':false}}",
                        path);
    add(p, backend);
    g_autoptr(FfPlug) plug = take(p, BLK);
    g_assert_null(plug);
}

/* What is there no more, or is something else by now, or for somebody else. */
static void test_forgotten(void)
{
    g_autoptr(FfHotplug) p = ff_hotplug_new();

    add(p, UNIX("/a", CLIENT));
    g_autofree char *removed = hear(p, "{'execute':'chardev-remove','arguments':{'id':'c'}}");
    g_assert_cmpstr(removed, ==, "c");
    g_autoptr(FfPlug) none = take(p, BLK);
    g_assert_null(none);

    add(p, UNIX("/a", CLIENT));
    g_autofree char *changed =
        hear(p, "{'execute':'chardev-change','arguments':{'id':'c','backend':"
                "{'type':'null','data':{}}}}");
    g_assert_cmpstr(changed, ==, "c");
    g_autoptr(FfPlug) other = take(p, BLK);
    g_assert_null(other);

    add(p, UNIX("/a", CLIENT));
    g_autoptr(FfPlug) serial =
        take(p, "{'execute':'device_add','arguments':{'driver':'virtconsole','chardev':'c'}}");
    g_assert_null(serial);
    g_autoptr(FfPlug) fs = take(
        p, "{'execute':'device_add','arguments':{'driver':'vhost-user-fs-pci','chardev':'c'}}");
    g_assert_null(fs);
    g_autoptr(FfPlug) used = take(p, BLK); /* by the first of these */
    g_assert_null(used);
    g_autoptr(FfPlug) bare = take(p, "{'execute':'device_add'}");
    g_assert_null(bare);

    static const char human[] = "{\"command-line\":\"chardev-remove c\"}", longer[] = "\"cc\"";
    add(p, UNIX("/a", CLIENT));
    ff_hotplug_forget(p, longer, strlen(longer));
    g_autoptr(FfPlug) plug = take(p, BLK);
    g_assert_nonnull(plug);
    add(p, UNIX("/a", CLIENT));
    ff_hotplug_forget(p, human, strlen(human));
    g_autoptr(FfPlug) gone = take(p, BLK);
    g_assert_null(gone);
}

#define ADD_AS(id)                                                                                 \
    "{'execute':'chardev-add','arguments':{'id':'" id "','backend':" UNIX("/a", CLIENT) "}}"
#define ADD ADD_AS("c")
#define REMOVE "{'execute':'chardev-remove','arguments':{'id':'c'}}"

static void assert_known(FfHotplug *p, bool known)
{
    g_autoptr(FfPlug) plug = take(p, BLK);

    g_assert_cmpint(plug != NULL, ==, known);
}

/* What was said of a chardev while it was being made. */
static void test_meanwhile(void)
{
    static const char human[] = "{\"command-line\":\"chardev-remove c\"}", other[] = "\"d\"";
    g_autoptr(FfHotplug) p = ff_hotplug_new();
    guint first = pass(p, ADD), second = pass(p, REMOVE);

    g_assert_null(answer(p, ADD, first, false)); /* at another monitor */
    assert_known(p, false);
    g_autofree char *removed = answer(p, REMOVE, second, false);
    g_assert_cmpstr(removed, ==, "c");
    assert_known(p, false);

    first = pass(p, ADD);
    ff_hotplug_forget(p, human, strlen(human));
    g_assert_null(answer(p, ADD, first, false));
    assert_known(p, false);
    first = pass(p, ADD);
    ff_hotplug_forget(p, other, strlen(other));
    g_assert_null(answer(p, ADD, first, false));
    assert_known(p, true);

    g_assert_null(answer(p, ADD, pass(p, ADD), false));
    second = pass(p, REMOVE); /* its answer may never come */
    assert_known(p, false);
    g_assert_null(answer(p, REMOVE, second, true));
    first = pass(p, ADD);
    g_assert_null(answer(p, ADD, first, true));
    assert_known(p, false);
    g_assert_null(answer(p, ADD, pass(p, ADD), false));
    assert_known(p, true);

    g_assert_null(answer(p, ADD, pass(p, ADD), false));
    pass(p, "{'execute':'chardev-remove'}"); /* of which nobody knows what it is about */
    assert_known(p, false);
}

/* Of one that was changed it is not known whether it has a user. */
static void test_changed(void)
{
    g_autoptr(FfHotplug) p = ff_hotplug_new();
    g_autofree char *changed = hear(p, "{'execute':'chardev-change','arguments':{'id':'c',"
                                       "'backend':" UNIX("/a", CLIENT) "}}");

    g_assert_cmpstr(changed, ==, "c");
    assert_known(p, false);
}

/* Those that could be taken for others, or for several. */
static void test_ids(void)
{
    static const char *const texts[] = {ADD_AS("c\\nd"), ADD_AS("c\\u0000x"), ADD_AS("\u00fc"),
                                        ADD_AS("c "), ADD_AS("")};
    static const char *const ids[] = {"c", "c\nd", "\u00fc", "c ", ""};

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(FfHotplug) p = ff_hotplug_new();

        g_assert_null(hear(p, texts[i]));
        for (unsigned k = 0; k < G_N_ELEMENTS(ids); k++) {
            g_assert_null(ff_hotplug_take(p, ids[k]));
        }
    }
}

static void test_others(void)
{
    static const char *const texts[] = {"{'execute':'query-status'}", "{'execute':7}",
                                        "{'exec-oob':'device_add'}"};

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(FfQmpCommand) command = parse(texts[i]);

        g_assert_false(ff_hotplug_concerns(command));
        g_assert_false(ff_hotplug_adds(command));
    }
    g_assert_false(ff_hotplug_adds(NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/plugged/taken", test_taken);
    g_test_add_func("/plugged/ms", test_ms);
    g_test_add_func("/plugged/left", test_left);
    g_test_add_func("/plugged/long", test_long);
    g_test_add_func("/plugged/forgotten", test_forgotten);
    g_test_add_func("/plugged/meanwhile", test_meanwhile);
    g_test_add_func("/plugged/changed", test_changed);
    g_test_add_func("/plugged/ids", test_ids);
    g_test_add_func("/plugged/others", test_others);
    return g_test_run();
}
