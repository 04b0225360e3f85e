/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate to a file that is there, with background-snapshot on: QEMU overwrites such a file. A new
 * one takes its place in one step, with its mode and what stands in front of the offset; until
 * then, and whatever happens, the old one is as it was. What cannot be replaced is QEMU's to
 * overwrite.
 */
#include "tests/lib/fusefolder.h"
#include "tests/qtest/snapshot-rig.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM ((uint64_t)SNAP_RAM_MIB << 20)
#define OLD "what was there before"
#define OFFSET 5000

static bool begin(Snap *t, const char *faults)
{
    if (!snap_begin(t, faults, NULL)) {
        return false;
    }
    qmp_set_capability(vm_qmp(t->vm), "background-snapshot", true);
    return true;
}

/* Settings are the client's own: it has set one. */
static void end(Snap *t)
{
    qmp_set_capability(vm_qmp(t->vm), "background-snapshot", false);
    snap_expect_settings(t);
    snap_end(t);
}

static void put_old(const char *path, mode_t mode)
{
    g_assert_true(g_file_set_contents(path, OLD, -1, NULL));
    g_assert_cmpint(chmod(path, mode), ==, 0);
}

static void expect_old(const char *path, ino_t inode)
{
    g_autofree char *text = NULL;
    struct stat st;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, OLD);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_ino, ==, inode);
}

/* No other name beside the file's. */
static void expect_alone(Snap *t)
{
    g_autofree char *base = g_path_get_basename(t->path);
    g_autoptr(GDir) dir = g_dir_open(vm_dir(t->vm), 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, base) && strcmp(name, base) != 0) {
            test_fail("%s is there", name);
        }
    }
}

static void ask(Snap *t, const char *option)
{
    qmp_ok(vm_qmp(t->vm), "migrate", "{'uri': 'file:%s%s'}", t->path, option);
}

/* ---- it is replaced -------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    mode_t mode;
    bool linked; /* by a symbolic link */
} Row;

static const Row rows[] = {{"private", 0600}, {"shared", 0664}, {"link", 0600, true}};

static void test_replaced(gconstpointer data)
{
    const Row *row = data;
    Snap t = {0};

    if (!begin(&t, "snapshot/*/at/armed=hold")) {
        return;
    }
    g_autofree char *then = vm_path(t.vm, "then"), *real = vm_path(t.vm, "real");
    const char *path = row->linked ? real : t.path;
    struct stat before, after;
    put_old(path, row->mode);
    g_assert_true(!row->linked || symlink("real", t.path) == 0);
    int reader = open(t.path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fstat(reader, &before), ==, 0);
    ask(&t, "");
    snap_wait_held(&t);
    snap_save_memory(t.vm, RAM, then);
    expect_old(t.path, before.st_ino);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_assert_true(snap_is_equal(then, t.path, RAM));
    expect_alone(&t);
    g_assert_cmpint(lstat(path, &after), ==, 0);
    g_assert_cmpuint(after.st_mode, ==, before.st_mode);
    g_assert_cmpuint(after.st_gid, ==, before.st_gid);
    g_assert_cmpuint(after.st_ino, !=, before.st_ino);
    /* A process that reads it continues with what it has opened. */
    char text[64] = "";
    g_assert_cmpint(pread(reader, text, sizeof(text), 0), ==, strlen(OLD));
    g_assert_cmpstr(text, ==, OLD);
    close(reader);
    end(&t);
}

/* ---- what stands in front of the offset ------------------------------------------------------ */

static void test_offset(gconstpointer data)
{
    const unsigned size = GPOINTER_TO_UINT(data); /* of the old file */
    Snap t = {0};

    if (!begin(&t, "snapshot/*/at/armed=hold")) {
        return;
    }
    g_autofree uint8_t *old = g_malloc(size);
    uint8_t now[OFFSET], expected[OFFSET] = {0};
    memset(old, 'o', size);
    g_assert_true(g_file_set_contents(t.path, (char *)old, size, NULL));
    ask(&t, ",offset=" G_STRINGIFY(OFFSET));
    snap_wait_held(&t);
    /* As the client wrote it last. */
    int writer = open(t.path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(pwrite(writer, "new", 3, 0), ==, 3);
    close(writer);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    memset(expected, 'o', MIN(size, OFFSET));
    memcpy(expected, "new", 3);
    int fd = open(t.path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(pread(fd, now, OFFSET, 0), ==, OFFSET);
    g_assert_cmpmem(now, OFFSET, expected, OFFSET);
    uint32_t magic = 0;
    g_assert_cmpint(pread(fd, &magic, sizeof(magic), OFFSET), ==, sizeof(magic));
    g_assert_cmpuint(magic, ==, GUINT32_TO_BE(0x5145564d)); /* "QEVM" */
    close(fd);
    end(&t);
}

/* ---- it fails -------------------------------------------------------------------------------- */

static const char *const failures[] = {"snapshot/*/call/output-sync=EIO",
                                       "snapshot/*/at/running=kill", "snapshot/*/at/saved=kill",
                                       "snapshot/*/at/committing=kill"};

static void test_fails(gconstpointer faults)
{
    struct stat before;
    Snap t = {0};

    if (!begin(&t, faults)) {
        return;
    }
    put_old(t.path, 0600);
    g_assert_cmpint(stat(t.path, &before), ==, 0);
    qmp_ok_or_dies(vm_qmp(t.vm), "migrate", "{'uri': 'file:%s'}", t.path);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    if (!vm_fault_happened(t.vm, 0)) {
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(t.vm), "query-migrate", NULL);
        test_fail("it failed before that: %s",
                  json_object_get_string_member_with_default(info, "error-desc", "?"));
    }
    expect_old(t.path, before.st_ino);
    expect_alone(&t);
    end(&t);
}

static void test_cancelled(void)
{
    struct stat before;
    Snap t = {0};

    if (!begin(&t, NULL)) {
        return;
    }
    put_old(t.path, 0600);
    g_assert_cmpint(stat(t.path, &before), ==, 0);
    snap_slow_down(&t);
    ask(&t, "");
    qmp_expect(vm_qmp(t.vm), "RESUME");
    qmp_ok(vm_qmp(t.vm), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(t.vm), "cancelled");
    expect_old(t.path, before.st_ino);
    expect_alone(&t);
    end(&t);
}

/* Another file has come there meanwhile. */
static void test_other(void)
{
    Snap t = {0};

    if (!begin(&t, "snapshot/*/at/armed=hold")) {
        return;
    }
    g_autofree char *other = vm_path(t.vm, "other");
    struct stat st;
    put_old(t.path, 0600);
    put_old(other, 0600);
    g_assert_cmpint(stat(other, &st), ==, 0);
    ask(&t, "");
    snap_wait_held(&t);
    g_assert_cmpint(g_rename(other, t.path), ==, 0);
    snap_let_go(&t);
    qmp_expect_migration(vm_qmp(t.vm), "failed");
    snap_expect_error(&t, "another file is there");
    expect_old(t.path, st.st_ino);
    expect_alone(&t);
    end(&t);
}

/* ---- it cannot be replaced ------------------------------------------------------------------- */

typedef struct {
    const char *name, *why;
} Refusal;

static const Refusal refusals[] = {
    {"names", "it has other names"},
    {"open", "somebody has it open for writing"},
    {"user", "it belongs to another user"},
    {"group", "a new one cannot have its mode and group"},
    {"mounted", "something is mounted there"},
    {"device", "it is not a regular file"},
    {"dangling", "it leads to nothing"},
};

/* What must be undone: an fd, a mount. FALSE: skipped. */
static bool make_difficult(Snap *t, const char *how, int *fd)
{
    g_autofree char *other = vm_path(t->vm, "other");

    *fd = -1;
    put_old(t->path, 0600);
    if (!strcmp(how, "names")) {
        g_assert_cmpint(link(t->path, other), ==, 0);
    } else if (!strcmp(how, "open")) {
        *fd = open(t->path, O_RDWR | O_CLOEXEC);
    } else if (!strcmp(how, "user") || !strcmp(how, "group")) {
        return chown(t->path, *how == 'u' ? 65534 : (uid_t)-1, 65534) == 0;
    } else if (!strcmp(how, "mounted")) {
        return mount(t->path, t->path, NULL, MS_BIND, NULL) == 0;
    } else {
        g_assert_cmpint(unlink(t->path), ==, 0);
        g_assert_cmpint(symlink(!strcmp(how, "device") ? "/dev/null" : "other", t->path), ==, 0);
    }
    return true;
}

static void end_difficult(Snap *t, const char *how, int fd)
{
    if (!strcmp(how, "mounted")) {
        g_assert_cmpint(umount(t->path), ==, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* QEMU 7.2 knows no files: it says so, and the engine why it does not write it. */
static void test_refused(gconstpointer data)
{
    const Refusal *r = data;
    Snap t = {0};
    int fd;

    if (!begin(&t, NULL)) {
        return;
    }
    if (!make_difficult(&t, r->name, &fd)) {
        g_test_skip("not permitted here");
    } else {
        ask(&t, "");
        qmp_expect_migration(vm_qmp(t.vm), "failed");
        snap_expect_error(&t, "valid migration protocol");
        snap_expect_error(&t, r->why);
        g_assert_false(qmp_has_event(vm_qmp(t.vm), "STOP"));
        end_difficult(&t, r->name, fd);
        expect_alone(&t);
    }
    end(&t);
}

/* QEMU 10 does: the name that the file has besides shows the same. */
static void test_in_place(void)
{
    g_autofree char *newer = vm_newer_qemu();
    Snap t = {.qemu = newer};

    if (!newer || !begin(&t, NULL)) {
        return;
    }
    g_autofree char *other = vm_path(t.vm, "other");
    put_old(t.path, 0600);
    g_assert_cmpint(link(t.path, other), ==, 0);
    ask(&t, "");
    qmp_expect_migration(vm_qmp(t.vm), "completed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(t.vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "qemu");
    g_assert_nonnull(strstr(json_object_get_string_member(own, "reason"), "it has other names"));
    g_autofree uint8_t *whole = snap_read(other, RAM);
    g_assert_nonnull(whole);
    end(&t);
}

/* A file system with 1 MiB beside a file of OLD MiB, for t->path. Its folder (g_free); NULL: not
 * permitted. */
static char *fill_all_but_one(Snap *t, unsigned old)
{
    g_autofree char *options = g_strdup_printf("size=%um", old + 1);
    g_autofree char *dir = vm_path(t->vm, "small");

    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    if (mount("small", dir, "tmpfs", 0, options) < 0) {
        return NULL;
    }
    g_free(t->path);
    t->path = g_build_filename(dir, "file", NULL);
    int fd = open(t->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(posix_fallocate(fd, 0, (off_t)old << 20), ==, 0);
    close(fd);
    return g_steal_pointer(&dir);
}

/* In place of an old file of so many MiB there is room for the guest, or not either. */
static void test_room(gconstpointer data)
{
    const unsigned old = GPOINTER_TO_UINT(data);
    struct stat st;
    Snap t = {0};

    if (!begin(&t, NULL)) {
        return;
    }
    g_autofree char *dir = fill_all_but_one(&t, old);
    if (!dir) {
        g_test_skip("not permitted here");
    } else {
        ask(&t, "");
        qmp_expect_migration(vm_qmp(t.vm), "failed");
        snap_expect_error(&t, "and there is room for");
        /* QEMU 7.2's own word: it knows no files, and would have overwritten it. */
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(t.vm), "query-migrate", NULL);
        const char *why = json_object_get_string_member(info, "error-desc");
        g_assert_cmpint(strstr(why, "valid migration protocol") != NULL, ==, old >= SNAP_RAM_MIB);
        g_assert_cmpint(stat(t.path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, (off_t)old << 20);
        g_assert_cmpint(umount2(dir, MNT_DETACH), ==, 0);
        g_assert_cmpint(rmdir(dir), ==, 0);
    }
    end(&t);
}

/* The engine stands in another folder than QEMU. */
static void test_relative(void)
{
    Snap t = {0};

    if (!begin(&t, NULL)) {
        return;
    }
    g_autofree char *own =
        qmp_error(vm_qmp(t.vm), "x-farfault-snapshot", "{'file': 'farfault-relative'}");
    g_assert_cmpstr(own, ==, "'file' has to be an absolute path");
    g_autofree char *error =
        qmp_error(vm_qmp(t.vm), "migrate", "{'uri': 'file:farfault-relative'}");
    g_assert_nonnull(strstr(error, "valid migration protocol")); /* QEMU 7.2's own word */
    end(&t);
}

/* ---- file systems that can little ------------------------------------------------------------ */

static void test_fuse(void)
{
    const FuseFolderConfig bare = {.no_rename2 = true, .no_link = true};
    const char *why;
    FuseFolder *folder = fusefolder_new(&bare, &why);
    Snap t = {0};

    if (!folder) {
        g_test_skip(why);
        return;
    }
    if (begin(&t, "snapshot/*/at/armed=hold")) {
        g_autofree char *then = vm_path(t.vm, "then");
        g_free(t.path);
        t.path = fusefolder_path(folder, "file");
        int fd = open(t.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        g_assert_cmpint(write(fd, OLD, strlen(OLD)), ==, strlen(OLD));
        close(fd);
        ask(&t, "");
        snap_wait_held(&t);
        snap_save_memory(t.vm, RAM, then);
        snap_let_go(&t);
        qmp_expect_migration(vm_qmp(t.vm), "completed");
        g_autofree char *list = fusefolder_list(folder);
        g_assert_cmpstr(list, ==, "file ");
        g_assert_true(snap_is_equal(then, t.path, RAM));
        end(&t);
    }
    fusefolder_free(folder);
}

int main(int argc, char **argv)
{
    static const unsigned sizes[] = {100, 1 << 20};

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/snapshot/over/replaced/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_replaced);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *path = g_strdup_printf("/snapshot/over/offset/%u", sizes[i]);

        g_test_add_data_func(path, GUINT_TO_POINTER(sizes[i]), test_offset);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(failures); i++) {
        g_autofree char *name = g_path_get_basename(failures[i]);
        g_autofree char *path = g_strconcat("/snapshot/over/fails/", name, NULL);

        g_test_add_data_func(path, failures[i], test_fails);
    }
    g_test_add_func("/snapshot/over/cancelled", test_cancelled);
    g_test_add_func("/snapshot/over/other", test_other);
    for (unsigned i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *path = g_strconcat("/snapshot/over/refused/", refusals[i].name, NULL);

        g_test_add_data_func(path, &refusals[i], test_refused);
    }
    g_test_add_func("/snapshot/over/in-place", test_in_place);
    g_test_add_data_func("/snapshot/over/room/one", GUINT_TO_POINTER(SNAP_RAM_MIB), test_room);
    g_test_add_data_func("/snapshot/over/room/none", GUINT_TO_POINTER(1), test_room);
    g_test_add_func("/snapshot/over/relative", test_relative);
    g_test_add_func("/snapshot/over/fuse", test_fuse);
    return g_test_run();
}
