/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which media of two QEMUs are the same: by other names of files and nodes, in the same order, and
 * nothing else. A table over what query-block says.
 */
#include <string.h>

#include "qmp/disk.h"

#define CWD "/guest"
#define NODE "farfault-0123abcd-0"
#define MEDIUM(file, drv, node, more, image)                                                       \
    "{'file': " file ", 'drv': '" drv "', 'ro': false, 'node-name': '" node "'" more               \
    ", 'image': {'filename': " file ", 'format': '" drv "'" image "}}"
#define BACKING(name, format, more)                                                                \
    ", 'full-backing-filename': '" name "', 'backing-image': {'filename': '" name                  \
    "', 'format': '" format "'" more "}"
#define RELATIVE                                                                                   \
    ", 'full-backing-filename': '/dev/null', 'backing-image': {'filename': "                       \
    "'../dev/null', 'format': 'raw'}"
/* What QEMU calls an overlay whose base has another name than in the header. */
#define OPTIONS(base, more)                                                                        \
    "'json:{\\\"backing\\\": {\\\"driver\\\": \\\"raw\\\", \\\"file\\\": {\\\"driver\\\": "        \
    "\\\"file\\\", \\\"filename\\\": \\\"" base "\\\"" more "}}, \\\"driver\\\": \\\"qcow2\\\", "  \
    "\\\"file\\\": {\\\"driver\\\": \\\"file\\\", \\\"filename\\\": \\\"/o\\\"}}'"
#define BARE_OPTIONS(more)                                                                         \
    "'json:{\\\"backing\\\": {\\\"driver\\\": \\\"file\\\", \\\"filename\\\": "                    \
    "\\\"../dev/null\\\"" more "}, \\\"driver\\\": \\\"qcow2\\\", "                                \
    "\\\"file\\\": {\\\"driver\\\": \\\"file\\\", \\\"filename\\\": \\\"/o\\\"}}'"
#define OVERLAY MEDIUM("'/o'", "qcow2", NODE, "", BACKING("/b", "raw", ""))
#define TWO MEDIUM("'/p'", "qcow2", NODE, "", BACKING("/o", "qcow2", BACKING("/b", "raw", "")))

typedef struct {
    const char *name, *medium, *text;
    bool same;
    const char *cwd; /* NULL: CWD */
} Row;

static const Row rows[] = {
    {"no-node", OVERLAY, "/o (qcow2) on /b (raw)", true},
    {"other-node", OVERLAY, "/o (qcow2) node=disk0 on /b (raw)", true},
    {"same-node", OVERLAY, "/o (qcow2) node=" NODE " on /b (raw)", true},
    {"chain", TWO, "/p (qcow2) on /o (qcow2) on /b (raw)", true},
    {"bare-base", MEDIUM("'/o'", "qcow2", NODE, "", BACKING("/b", "file", "")),
     "/o (qcow2) on /b (raw)", true},
    {"relative-base", MEDIUM(OPTIONS("../dev/null", ""), "qcow2", NODE, "", RELATIVE),
     "/o (qcow2) on /dev/null (raw)", true},
    {"relative-bare", MEDIUM(BARE_OPTIONS(""), "qcow2", NODE, "", RELATIVE),
     "/o (qcow2) on /dev/null (raw)", true},
    {"relative", MEDIUM("'./d'", "raw", "#block1", "", ""), "d (raw)", true},
    {"absolute", MEDIUM("'d'", "raw", "#block1", "", ""), "/guest/d (raw)", true},
    {"brackets", MEDIUM("'/a (raw) on b'", "raw", "#block1", "", ""), "/a (raw) on b (raw)", true},
    {"limits", MEDIUM("'/o'", "qcow2", NODE, ", 'iops': 5", ""), "/o (qcow2) node=x iops=5", true},
    {"protocol", MEDIUM("'nbd:unix:/s'", "raw", "#block1", "", ""), "nbd:unix:/s (raw)", true},
    {"none", "null", "(no medium)", true},

    {"base-alone", OVERLAY, "/b (raw)", false},
    {"base-as-overlay", OVERLAY, "/b (qcow2)", false},
    {"overlay-as-raw", OVERLAY, "/o (raw)", false},
    {"no-base", OVERLAY, "/o (qcow2)", false},
    {"other-base", OVERLAY, "/o (qcow2) on /c (raw)", false},
    {"base-format", OVERLAY, "/o (qcow2) on /b (qcow2)", false},
    {"read-only", OVERLAY, "/o (qcow2, read-only) on /b (raw)", false},
    {"other-overlay", OVERLAY, "/q (qcow2) on /b (raw)", false},
    {"more", OVERLAY, "/o (qcow2) on /b (raw) on /a (raw)", false},
    {"shorter", TWO, "/o (qcow2) on /b (raw)", false},
    {"skips-one", TWO, "/p (qcow2) on /b (raw)", false},
    {"other-order", TWO, "/o (qcow2) on /p (qcow2) on /b (raw)", false},
    {"clients-node", MEDIUM("'/o'", "raw", "disk0", "", ""), "/o (raw)", false},
    {"clients-node-2", MEDIUM("'/o'", "raw", "disk0", "", ""), "/o (raw) node=disk1", false},
    {"clients-node-3", MEDIUM("'/o'", "raw", "farfault-disk-0", "", ""), "/o (raw)", false},
    {"not-named", MEDIUM("'/o'", "raw", "#block1", "", ""), "/o (raw) node=disk0", false},
    {"bare-disk", MEDIUM("'/o'", "file", "#block1", "", ""), "/o (raw)", false},
    {"limit", OVERLAY, "/o (qcow2) iops=5 on /b (raw)", false},
    {"node-and-more", OVERLAY, "/o (qcow2) node=a b on /b (raw)", false},
    {"part-of-base",
     MEDIUM(OPTIONS("../dev/null", ", \\\"offset\\\": 512"), "qcow2", NODE, "", RELATIVE),
     "/o (qcow2) on /dev/null (raw)", false},
    {"part-of-bare", MEDIUM(BARE_OPTIONS(", \\\"offset\\\": 512"), "qcow2", NODE, "", RELATIVE),
     "/o (qcow2) on /dev/null (raw)", false},
    {"options-base", MEDIUM(OPTIONS("../dev/zero", ""), "qcow2", NODE, "", RELATIVE),
     "/o (qcow2) on /dev/null (raw)", false},
    {"no-folder", MEDIUM("'d'", "raw", "#block1", "", ""), "/guest/d (raw)", false, ""},
    {"medium-gone", OVERLAY, "(no medium)", false},
    {"medium-come", "null", "/o (qcow2) on /b (raw)", false},
    {"empty", OVERLAY, "", false},
};

static void test_row(const void *opaque)
{
    const Row *row = opaque;
    g_autofree char *json = g_strdelimit(g_strdup(row->medium), "'", '"');
    g_autoptr(JsonNode) node = json_from_string(json, NULL);
    JsonObject *medium = ff_json_node_object(node);
    g_autofree char *own = ff_disk_describe(medium);

    g_test_message("%s", own);
    g_assert_true(medium || !strcmp(row->medium, "null"));
    g_assert_true(ff_disk_is_described(medium, own, CWD));
    g_assert_true(ff_disk_is_described(medium, row->text, row->cwd ? NULL : CWD) == row->same);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/disk/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
