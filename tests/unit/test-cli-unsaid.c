/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands conclude where a QEMU does not answer: an upgrade does not take the two for
 * alike, nor the guest for one without a generation, and a snapshot with overlays does not leave
 * out a disk. A table over scripted QEMUs, in whose place this file stands: it answers the calls of
 * cli/common/qmp.h itself.
 */
#include <string.h>
#include <unistd.h>

#include "cli/snapshot/disks.h"
#include "cli/upgrade/adapt.h"
#include "cli/upgrade/compare.h"

#define UNSAID "?"
#define NO_ANSWER "QEMU has not answered"

typedef struct {
    const char *command, *argument; /* ARGUMENT is a part of the arguments; NULL: any */
    const char *answer;             /* "!text": QEMU's error; UNSAID */
} Answer;

struct FfCliQmp {
    const Answer *odd; /* before all others; NULL: none */
};

/* The first match counts. */
static const Answer usual[] = {
    {"qom-get", "/machine\"", "'pc-test-1.0-machine'"},
    {"query-cpus-fast", NULL, "[{'qom-path': '/cpu'}]"},
    {"qom-get", "feature-words", "!Property not found"},
    {"qom-get", "/cpu\"", "'test-cpu'"},
    {"qom-list", "/d0\"", "[{'name': 'drive', 'type': 'str'}, {'name': 'x', 'type': 'bool'}]"},
    {"qom-list", "/machine/peripheral\"", "[{'name': 'd0', 'type': 'child<virtio-blk-pci>'}]"},
    {"qom-list", NULL, "[]"},
    {"qom-get", "\"drive\"", "'disk0'"},
    {"human-monitor-command", NULL, "''"},
    {"query-vm-generation-id", NULL, "{'guid': '11111111-2222-4333-8444-555555555555'}"},
    {"query-block-jobs", NULL, "!the next question"},
    {"query-", NULL, "[]"},
};

static const Answer *find(const Answer *table, gsize n, const char *command, const char *arguments)
{
    for (gsize i = 0; i < n; i++) {
        if (g_str_has_prefix(command, table[i].command) &&
            (!table[i].argument || strstr(arguments, table[i].argument))) {
            return &table[i];
        }
    }
    return NULL;
}

JsonNode *ff_cli_qmp_call(FfCliQmp *qmp, const char *command, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, arguments ? arguments : json_object_new());
    g_autofree char *text = json_to_string(node, FALSE);
    const Answer *a = qmp->odd ? find(qmp->odd, 1, command, text) : NULL;

    a = a ? a : find(usual, G_N_ELEMENTS(usual), command, text);
    g_assert_nonnull(a);
    if (!strcmp(a->answer, UNSAID)) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT, NO_ANSWER);
        return NULL;
    }
    if (a->answer[0] == '!') {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC, a->answer + 1);
        return NULL;
    }
    g_autofree char *json = g_strdelimit(g_strdup(a->answer), "'", '"');
    JsonNode *answer = json_from_string(json, NULL);
    g_assert_nonnull(answer);
    return answer;
}

const char *ff_cli_qmp_host(const FfCliQmp *qmp)
{
    return NULL;
}

static void assert_says(const GError *error, const char *part)
{
    g_test_message("%s", error ? error->message : "nothing");
    g_assert_true(!error == !part);
    g_assert_true(!part || strstr(error->message, part));
}

typedef struct {
    const char *name;
    Answer running, prepared; /* what is not as usual */
    const char *part;         /* of the error; NULL: none */
} Row;

#define AS_USUAL                                                                                   \
    {                                                                                              \
        "none", NULL, NULL                                                                         \
    }
#define DRIVE(answer)                                                                              \
    {                                                                                              \
        "qom-get", "\"drive\"", answer                                                             \
    }

static const Row rows[] = {
    {"alike", AS_USUAL, AS_USUAL, NULL},
    {"other-disk", AS_USUAL, DRIVE("'disk1'"), "property of a device 'd0.drive' is disk0"},
    /* What else differs is a disk's to say. */
    {"overlay", DRIVE("'farfault-0123abcd-0'"), AS_USUAL, NULL},
    {"overlay-none", DRIVE("'farfault-0123abcd-0'"), DRIVE("''"), "'d0.drive' is farfault-0123"},
    {"clients-node", DRIVE("'farfault-disk'"), AS_USUAL, "'d0.drive' is farfault-disk in the"},
    {"no-value", DRIVE("!no such property"), DRIVE("!no such property"), NULL},
    {"running", DRIVE(UNSAID), DRIVE("'disk1'"), NO_ANSWER},
    {"prepared", AS_USUAL, DRIVE(UNSAID), NO_ANSWER},
    {"places", {"qom-list", "/d0\"", UNSAID}, AS_USUAL, NO_ANSWER},
    {"features", {"qom-get", "feature-words", UNSAID}, AS_USUAL, NO_ANSWER},
};

static void test_compare(const void *opaque)
{
    const Row *row = opaque;
    FfCliQmp running = {&row->running}, prepared = {&row->prepared};
    g_autoptr(GError) error = NULL;
    bool alike = ff_upgrade_compare(&running, &prepared, "/", &error);

    g_assert_true(alike == !row->part);
    assert_says(error, row->part);
}

/* PART: of the error; else of the command line. */
static const Row generations[] = {
    {"said", AS_USUAL, .part = "guid=11111111-2222"},
    {"none",
     {"query-vm-generation-id", NULL, "!VM Generation ID device not found"},
     .part = "auto"},
    {"unsaid", {"query-vm-generation-id", NULL, UNSAID}, .part = NO_ANSWER},
};

static void test_generation(const void *opaque)
{
    static const char *const line[] = {"-device", "vmgenid,guid=auto", NULL};
    const Row *row = opaque;
    FfCliQmp qmp = {&row->running};
    g_auto(GStrv) args = g_strdupv((char **)line);
    g_autoptr(GError) error = NULL;

    if (ff_upgrade_adapt_args(&qmp, getpid(), &args, &error)) {
        g_test_message("%s", args[1]);
        g_assert_nonnull(strstr(args[1], row->part));
    } else {
        assert_says(error, row->part);
        g_assert_cmpstr(args[1], ==, line[1]);
    }
}

/* All have an error: the next question after those. */
static const Row disks[] = {
    {"none", AS_USUAL, .part = "the next question"},
    {"plugged",
     {"qom-list", "/machine/peripheral\"", "[{'name': 'v', 'type': 'child<vhost-user-blk-pci>'}]"},
     .part = "v is another process's disk"},
    {"plugged/unsaid", {"qom-list", "/machine/peripheral\"", UNSAID}, .part = NO_ANSWER},
    {"anonymous/unsaid", {"qom-list", "/machine/peripheral-anon\"", UNSAID}, .part = NO_ANSWER},
};

static void test_disks(const void *opaque)
{
    const Row *row = opaque;
    FfCliQmp qmp = {&row->running};
    FfCliHost host;
    g_autoptr(GError) error = NULL;

    g_assert_null(ff_cli_disks_plan(&qmp, &host, &error));
    assert_says(error, row->part);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/cli-unsaid/compare/%s", rows[i].name);
        g_test_add_data_func(path, &rows[i], test_compare);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(generations); i++) {
        g_autofree char *path = g_strdup_printf("/cli-unsaid/generation/%s", generations[i].name);
        g_test_add_data_func(path, &generations[i], test_generation);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(disks); i++) {
        g_autofree char *path = g_strdup_printf("/cli-unsaid/disks/%s", disks[i].name);
        g_test_add_data_func(path, &disks[i], test_disks);
    }
    return g_test_run();
}
