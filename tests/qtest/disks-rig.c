/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See disks-rig.h. Thread: the test's. */
#include "tests/qtest/disks-rig.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what a guest's disks are ---------------------------------------------------------------- */

JsonArray *rig_list(JsonObject *answer)
{
    return json_object_get_array_member(answer, "return");
}

static const char *string_of(JsonObject *o, const char *name)
{
    return json_object_get_string_member_with_default(o, name, "");
}

/* "DEVICE DRIVE NODE IMAGE" of each that has a medium, one a line (g_free). */
char *rig_disks_of(Vm *vm)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-block", NULL);
    JsonArray *list = rig_list(answer);
    GString *s = g_string_new(NULL);

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *entry = json_array_get_object_element(list, i);

        if (json_object_has_member(entry, "inserted")) {
            JsonObject *inserted = json_object_get_object_member(entry, "inserted");
            JsonObject *image = json_object_get_object_member(inserted, "image");

            g_string_append_printf(s, "%s %s %s %s\n", string_of(entry, "qdev"),
                                   string_of(entry, "device"), string_of(inserted, "node-name"),
                                   string_of(image, "filename"));
        }
    }
    return g_string_free(s, FALSE);
}

static unsigned count_nodes(Vm *vm)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(vm), "query-named-block-nodes", NULL);

    return json_array_get_length(rig_list(answer));
}

char *rig_checksum(const char *path)
{
    g_autofree char *bytes = NULL;
    gsize n;

    g_assert_true(g_file_get_contents(path, &bytes, &n, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)bytes, n);
}

/* What it holds. */
unsigned rig_count_files(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

void rig_remove_folder(char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    folder_free(folder);
}

void rig_run(const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL,
                 G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                 NULL, NULL, NULL, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
}

char *rig_image_new(const char *folder, const char *name, bool qcow2)
{
    g_autofree char *ones = g_malloc(4 << 20), *plain = g_strconcat(folder, "/", name, NULL);
    g_autofree char *packed = g_strconcat(plain, ".qcow2", NULL);
    const char *const argv[] = {"qemu-img", "convert", "-f",   "raw", "-O",
                                "qcow2",    plain,     packed, NULL};

    memset(ones, 1, 4 << 20);
    g_assert_true(g_file_set_contents(plain, ones, 4 << 20, NULL));
    if (!qcow2) {
        return g_steal_pointer(&plain);
    }
    rig_run(argv);
    g_assert_cmpint(g_unlink(plain), ==, 0);
    return g_steal_pointer(&packed);
}

/* ---- a guest and its disks ------------------------------------------------------------------- */

void rig_look(Rig *r)
{
    g_free(r->before);
    r->before = rig_disks_of(r->snap.vm);
    r->nodes = count_nodes(r->snap.vm);
}

bool rig_begin(Rig *r, const char *qemu, const char *faults, const char *const *more)
{
    *r = (Rig){.images = folder_new(), .folder = folder_new()};
    r->d1 = rig_image_new(r->images, "d1", false);
    r->d2 = rig_image_new(r->images, "d2", true);
    g_autofree char *drive = g_strdup_printf("if=none,id=d1,format=raw,file=%s", r->d1);
    g_autoptr(GPtrArray) args = g_ptr_array_new_with_free_func(g_free);
    const char *const fixed[] = {"-machine", "pc",  "-m",      G_STRINGIFY(SNAP_RAM_MIB) "M",
                                 "-drive",   drive, "-device", "virtio-blk-pci,drive=d1,id=disk1",
                                 NULL};

    for (unsigned i = 0; fixed[i]; i++) {
        g_ptr_array_add(args, g_strdup(fixed[i]));
    }
    for (unsigned i = 0; more && more[i]; i++) {
        g_auto(GStrv) parts = g_strsplit(more[i], "%s", -1);

        g_ptr_array_add(args, g_strjoinv(r->d2, parts));
    }
    g_ptr_array_add(args, NULL);
    r->snap.listens = true;
    r->snap.qemu = qemu ? qemu : "qemu-system-x86_64";
    r->snap.args = (const char *const *)args->pdata;
    if (!snap_begin(&r->snap, faults, NULL)) {
        rig_remove_folder(r->images);
        rig_remove_folder(r->folder);
        g_free(r->d1);
        g_free(r->d2);
        return false;
    }
    r->snap.args = NULL;
    r->manifest = vm_path(r->snap.vm, "file.disks"); /* beside snap.path */
    rig_look(r);
    return true;
}

void rig_free(Rig *r)
{
    rig_remove_folder(r->images);
    rig_remove_folder(r->folder);
    g_free(r->d1);
    g_free(r->d2);
    g_free(r->manifest);
    g_free(r->before);
}

/* The guest continues, and counts right. */
void rig_end(Rig *r)
{
    snap_end(&r->snap);
    rig_free(r);
}

Cli rig_ask(Rig *r, bool slowly)
{
    g_autofree char *monitor = vm_path(r->snap.vm, "server");
    const char *args[] = {"--disks", r->folder, "--quiet", slowly ? "--max-bandwidth" : NULL,
                          SLOW,      NULL};

    return cli_start(monitor, r->snap.path, args, NULL, NULL);
}

/* Nothing of it has been. */
void rig_check_as_before(Rig *r)
{
    g_autofree char *now = rig_disks_of(r->snap.vm);

    g_assert_cmpstr(now, ==, r->before);
    g_assert_cmpuint(count_nodes(r->snap.vm), ==, r->nodes);
    assert_empty(r->folder);
    g_assert_false(g_file_test(r->manifest, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(r->snap.path, G_FILE_TEST_EXISTS));
}

static JsonObject *manifest_of(const Rig *r, JsonNode **root)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(r->manifest, &text, NULL, NULL));
    g_test_message("%s", text);
    *root = json_from_string(text, NULL);
    g_assert_nonnull(*root);
    return json_node_get_object(*root);
}

/* Of each disk the manifest has base and overlay, and the guest has what it says in STATE. SAID:
 * the last line. */
char *rig_start_of(const Rig *r)
{
    g_autoptr(JsonNode) root = NULL;

    return g_strdup(string_of(manifest_of(r, &root), "start"));
}

void rig_check_manifest(Rig *r, const char *said, const char *state, unsigned n)
{
    g_autoptr(JsonNode) root = NULL;
    JsonObject *top = manifest_of(r, &root);
    JsonArray *disks = json_object_get_array_member(top, "disks");

    g_assert_cmpstr(string_of(top, "state"), ==, state);
    g_assert_cmpstr(string_of(top, "snapshot"), ==, r->snap.path);
    g_assert_cmpstr(string_of(top, "start"), ==, said);
    g_assert_cmpuint(json_array_get_length(disks), ==, n);
    for (guint i = 0; i < n; i++) {
        JsonObject *d = json_array_get_object_element(disks, i);
        const char *overlay = string_of(d, "overlay"), *base = string_of(d, "base");
        struct stat st;

        g_assert_true(g_str_has_prefix(overlay, r->folder));
        g_assert_true(g_path_is_absolute(base));
        g_assert_nonnull(strstr(said, overlay));
        g_assert_cmpint(stat(overlay, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0600);
        /* A user who starts the guest with it finds the base. */
        const char *const argv[] = {"qemu-img", "info", "-U", "--backing-chain", overlay, NULL};
        rig_run(argv);
    }
}

/* Each disk that the manifest has is one of the guest's, by its overlay. */
void rig_check_in_use(Rig *r)
{
    g_autoptr(JsonNode) root = NULL;
    JsonArray *disks = json_object_get_array_member(manifest_of(r, &root), "disks");
    g_autofree char *now = rig_disks_of(r->snap.vm);

    g_test_message("%s", now);
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *d = json_array_get_object_element(disks, i);
        g_autofree char *base = g_strdup_printf(" %s\n", string_of(d, "base"));

        g_assert_nonnull(strstr(now, string_of(d, "overlay")));
        g_assert_null(strstr(now, base));
    }
}

/* The last line of TEXT (borrowed), which loses its end. */
char *rig_last_line(char *text)
{
    g_strchomp(text);
    return strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text;
}

/* It has failed with PART in its line, and the next one says what the guest has (g_free). */
char *rig_fails_with_line(Cli *cli, const char *part, const char *begin)
{
    g_autofree char *out = NULL, *err = NULL;
    int status = cli_end(cli, &out, &err);

    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    g_assert_cmpstr(out, ==, "");
    g_autofree char *all = g_strdup(err);
    char *last = rig_last_line(err);

    g_autofree char *pattern = g_strconcat("*", part, "*", NULL);

    if (!g_pattern_match_simple(pattern, all) || !g_str_has_prefix(last, begin)) {
        test_fail("it says '%s'", err);
    }
    return g_strdup(last);
}
