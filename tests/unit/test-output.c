/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new file that takes the place of one that is there: which can be replaced, and what is found
 * out when the new one is written.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/output.h"

#define OLD "what was there before"
#define NEW "a snapshot"

/* Without a flag it is the system call of that name in a glibc for kernels from 3.15 on, and the
 * engine's filter refuses that (base/sandbox.c). */
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (flags != RENAME_NOREPLACE) {
        errno = EACCES;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

static bool loses_answer, is_server;
static int removes;  /* so often it removes what is there, and fails */
static bool is_mute; /* nor can it be asked for then */

/* Nobody has it open (fcntl(2)). */
static bool is_closed(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool closed = fcntl(fd, F_SETLEASE, F_WRLCK) == 0;

    close(fd);
    return closed;
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    if (is_server && !is_closed(to)) {
        errno = EACCES;
        return -1;
    }
    if (removes > 0) {
        removes--;
        unlink(to);
        errno = EIO;
        return -1;
    }
    int rc = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);

    if (rc == 0 && loses_answer) {
        errno = ENOENT;
        return -1;
    }
    return rc;
}

int access(const char *path, int mode)
{
    if (is_mute && mode == F_OK) {
        errno = EIO;
        return -1;
    }
    return faccessat(AT_FDCWD, path, mode, 0);
}

typedef struct {
    char *dir, *path;
    int other; /* a descriptor */
} World;

static void begin(World *w, mode_t mode)
{
    w->dir = g_dir_make_tmp("ff-output-XXXXXX", NULL);
    w->path = g_build_filename(w->dir, "file", NULL);
    g_assert_true(g_file_set_contents(w->path, OLD, -1, NULL));
    g_assert_cmpint(chmod(w->path, mode), ==, 0);
}

static void end(World *w)
{
    g_autoptr(GDir) dir = g_dir_open(w->dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(w->dir, name, NULL);

        g_assert_null(strstr(name, ".part"));
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(g_rmdir(w->dir), ==, 0);
    g_free(w->dir);
    g_free(w->path);
}

static void expect_content(const World *w, const char *content)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(w->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, content);
}

static FfOutput *new_over(const World *w)
{
    g_autoptr(GError) error = NULL;
    FfOutput *o = ff_output_new_over(w->path, 0, &error);

    g_assert_no_error(error);
    g_assert_true(ff_output_append(o, NEW, strlen(NEW), &error));
    return o;
}

static void expect_left(const World *w, const char *why)
{
    g_autoptr(GError) error = NULL;
    FfOutput *o = ff_output_new_over(w->path, 0, &error);

    g_assert_null(o);
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS);
    g_assert_nonnull(strstr(error->message, why));
    expect_content(w, OLD);
}

static void test_replaced(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0640);
    g_autoptr(FfOutput) o = new_over(&w);
    g_assert_true(ff_output_commit(o, &error));
    g_assert_no_error(error);
    expect_content(&w, NEW);
    end(&w);
}

/* ---- rights and attributes ------------------------------------------------------------------- */

/* As the kernel takes it: version 2, then tag, rights, id. */
typedef struct {
    uint32_t version;
    struct {
        uint16_t tag, rights;
        uint32_t id;
    } entries[5];
} Acl;

/* setfacl -d -m u:4242:r */
static int set_default_acl(const char *dir)
{
    Acl acl = {htole32(2),
               {{htole16(0x01), htole16(7), UINT32_MAX},
                {htole16(0x02), htole16(4), htole32(4242)},
                {htole16(0x04), htole16(5), UINT32_MAX},
                {htole16(0x10), htole16(5), UINT32_MAX},
                {htole16(0x20), htole16(0), UINT32_MAX}}};

    return setxattr(dir, "system.posix_acl_default", &acl, sizeof(acl), 0);
}

/* It would show in no mode that somebody else may read the new one. */
static void test_default_acl(gconstpointer mode)
{
    World w;

    begin(&w, GPOINTER_TO_UINT(mode));
    if (set_default_acl(w.dir) < 0) {
        g_test_skip("no access control lists here");
    } else {
        expect_left(&w, "access control list");
    }
    end(&w);
}

/* A process that writes takes that away from the new one, and nobody finds out before all is
 * written. */
static void test_set_id(gconstpointer mode)
{
    World w;

    begin(&w, GPOINTER_TO_UINT(mode));
    expect_left(&w, "set-user-id");
    end(&w);
}

static void test_attribute(void)
{
    World w;

    begin(&w, 0600);
    if (setxattr(w.path, "user.note", "x", 1, 0) < 0) {
        g_test_skip("no attributes here");
    } else {
        expect_left(&w, "extended attributes");
    }
    end(&w);
}

/* Nothing is lost with it. */
static void test_removed(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0600);
    g_autoptr(FfOutput) o = new_over(&w);
    g_assert_cmpint(g_unlink(w.path), ==, 0);
    g_assert_true(ff_output_commit(o, &error));
    g_assert_no_error(error);
    expect_content(&w, NEW);
    end(&w);
}

/* chattr +a, or -a. FALSE: not permitted, or not possible there. */
static bool set_append(const char *path, bool on)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;
    bool done = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;

    flags = on ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
    done = done && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    close(fd);
    return done;
}

/* What is in such a folder keeps its name, and such a file its own. */
static void test_append(gconstpointer folder)
{
    World w;

    begin(&w, 0600);
    if (!set_append(folder ? w.dir : w.path, true)) {
        g_test_skip("not permitted here");
    } else {
        expect_left(&w, "may only grow");
        g_assert_true(set_append(folder ? w.dir : w.path, false));
    }
    end(&w);
}

/* The symbolic link by which it was asked for leads elsewhere by then. */
static void test_turned(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0600);
    g_autofree char *name = g_build_filename(w.dir, "link", NULL);
    g_autofree char *other = g_build_filename(w.dir, "other", NULL);
    g_assert_cmpint(symlink("file", name), ==, 0);
    g_assert_true(g_file_set_contents(other, OLD, -1, NULL));
    FfOutput *o = ff_output_new_over(name, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(g_unlink(name), ==, 0);
    g_assert_cmpint(symlink("other", name), ==, 0);
    g_assert_false(ff_output_commit(o, &error));
    g_assert_nonnull(strstr(error->message, "another file is there"));
    expect_content(&w, OLD);
    ff_output_free(o);
    end(&w);
}

/* A link of another user's in a folder that is everybody's leads nowhere for the kernel
 * (fs.protected_symlinks), so not for us either. */
static void test_foreign_link(void)
{
    g_autofree char *setting = NULL;
    g_autoptr(GError) error = NULL;
    World w;

    if (geteuid() != 0 ||
        !g_file_get_contents("/proc/sys/fs/protected_symlinks", &setting, NULL, NULL) ||
        setting[0] != '1') {
        g_test_skip("needs root, and fs.protected_symlinks to be 1");
        return;
    }
    begin(&w, 0600);
    g_autofree char *name = g_build_filename(w.dir, "link", NULL);
    g_assert_cmpint(chmod(w.dir, 01777), ==, 0);
    g_assert_cmpint(symlink("file", name), ==, 0);
    g_assert_cmpint(lchown(name, 65534, 65534), ==, 0);
    g_assert_null(ff_output_new_over(name, 0, &error));
    g_assert_nonnull(strstr(error->message, "leads to nothing that can be opened"));
    expect_content(&w, OLD);
    g_assert_cmpint(g_unlink(name), ==, 0);
    end(&w);
}

/* NFS: the rename was done, its answer lost, and what is asked again is not there any more. */
static void test_lost_answer(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0600);
    g_autoptr(FfOutput) o = new_over(&w);
    loses_answer = true;
    g_assert_true(ff_output_commit(o, &error));
    loses_answer = false;
    g_assert_no_error(error);
    expect_content(&w, NEW);
    end(&w);
}

/* SMB: a server replaces nothing that is open. */
static void test_server(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0600);
    g_autoptr(FfOutput) o = new_over(&w);
    is_server = true;
    g_assert_true(ff_output_commit(o, &error));
    is_server = false;
    g_assert_no_error(error);
    expect_content(&w, NEW);
    end(&w);
}

typedef struct {
    const char *name;
    int times;
    bool mute;
} Gone;

static const Gone gone[] = {
    {"once", 1, false},
    {"twice", 2, false},
    {"mute", 1, true},
    {"mute-twice", 2, true},
};

/* SMB, NFS: the old one went before the new one came. Once: it comes. Twice: it stays, and is
 * named. A server that is down cannot say that the old one went. */
static void test_gone(gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const Gone *row = data;
    World w;

    begin(&w, 0600);
    FfOutput *o = new_over(&w);
    removes = row->times;
    is_mute = row->mute;
    g_assert_true(ff_output_commit(o, &error) == (row->times == 1));
    is_mute = false;
    ff_output_drop(o);
    ff_output_free(o);
    if (row->times == 2) {
        const char *at = strstr(error->message, "rename ");
        g_assert_nonnull(at);
        g_assert_cmpint(g_rename(at + strlen("rename "), w.path), ==, 0);
    }
    expect_content(&w, NEW);
    end(&w);
}

#ifdef FF_FAULTS
/* FfFaultHook */
static int refuse_link(const char *place, const char *name)
{
    return !strcmp(name, "output-link") ? EACCES : 0;
}

/* It is made with a name: that it may not be linked is known before it is written. */
static void test_no_link(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w, 0600);
    ff_fault_hook(refuse_link);
    g_autoptr(FfOutput) o = new_over(&w);
    g_assert_true(ff_output_commit(o, &error));
    ff_fault_hook(NULL);
    g_assert_no_error(error);
    expect_content(&w, NEW);
    end(&w);
}

/* ---- what comes while the new one is written ------------------------------------------------- */

static void change_mode(const World *w)
{
    g_assert_cmpint(chmod(w->path, 0600), ==, 0);
}

static void open_for_writing(const World *w)
{
    g_assert_cmpint(dup2(open(w->path, O_WRONLY | O_CLOEXEC), w->other), >=, 0);
}

static void link_it(const World *w)
{
    g_autofree char *other = g_build_filename(w->dir, "other", NULL);

    g_assert_cmpint(link(w->path, other), ==, 0);
}

static void give_attribute(const World *w)
{
    if (setxattr(w->path, "user.note", "x", 1, 0) < 0) {
        g_test_message("no attributes here: its mode is changed");
        change_mode(w);
    }
}

/* It was short in front of the offset, and is not any more. */
static void extend(const World *w)
{
    g_assert_cmpint(truncate(w->path, 65 << 20), ==, 0);
}

static void write_again(const World *w)
{
    int fd = open(w->path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(pwrite(fd, "W", 1, 0), ==, 1);
    close(fd);
}

typedef struct {
    const char *name;
    void (*change)(const World *w);
    const char *point; /* of base/failpoints.h, before which */
    const char *why;
} Change;

static const Change changes[] = {
    {"mode", change_mode, "committing", "a new one cannot have its mode"},
    {"mode-late", change_mode, "output-sync", "a new one cannot have its mode"},
    {"open", open_for_writing, "committing", "somebody has it open for writing"},
    {"open-late", open_for_writing, "output-sync", "somebody has it open for writing"},
    {"name", link_it, "committing", "it has other names"},
    {"attribute", give_attribute, "committing", "a new one cannot have its"},
    {"extended", extend, "committing", "too much stands in front of the offset"},
    {"written-late", write_again, "output-sync", "it was written to"},
};

static const Change *expected;
static const World *changing;

/* FfFaultHook */
static int change_there(const char *place, const char *name)
{
    if (expected && !strcmp(name, expected->point)) {
        expected->change(changing);
        expected = NULL;
    }
    return 0;
}

/* It would be lost with the old one. */
static void test_changed(gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    const Change *change = data;
    struct stat before, after;
    World w;

    begin(&w, 0644);
    w.other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(stat(w.path, &before), ==, 0);
    FfOutput *o = ff_output_new_over(w.path, 66 << 20, &error);
    g_assert_no_error(error);
    expected = change;
    changing = &w;
    ff_fault_hook(change_there);
    g_assert_false(ff_output_commit(o, &error));
    ff_fault_hook(NULL);
    g_assert_null(expected);
    g_assert_nonnull(strstr(error->message, change->why));
    g_assert_cmpint(stat(w.path, &after), ==, 0);
    g_assert_cmpuint(after.st_ino, ==, before.st_ino);
    ff_output_free(o);
    close(w.other);
    end(&w);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/output/over/replaced", test_replaced);
    g_test_add_data_func("/output/over/default-acl/0640", GUINT_TO_POINTER(0640), test_default_acl);
    g_test_add_data_func("/output/over/default-acl/0600", GUINT_TO_POINTER(0600), test_default_acl);
    g_test_add_data_func("/output/over/set-id/user", GUINT_TO_POINTER(04700), test_set_id);
    g_test_add_data_func("/output/over/set-id/group", GUINT_TO_POINTER(02755), test_set_id);
    g_test_add_func("/output/over/attribute", test_attribute);
    g_test_add_func("/output/over/removed", test_removed);
    g_test_add_func("/output/over/turned", test_turned);
    g_test_add_func("/output/over/lost-answer", test_lost_answer);
    g_test_add_func("/output/over/server", test_server);
    for (unsigned i = 0; i < G_N_ELEMENTS(gone); i++) {
        g_autofree char *path = g_strconcat("/output/over/gone/", gone[i].name, NULL);

        g_test_add_data_func(path, &gone[i], test_gone);
    }
    g_test_add_data_func("/output/over/append/file", NULL, test_append);
    g_test_add_data_func("/output/over/append/folder", "", test_append);
    g_test_add_func("/output/over/foreign-link", test_foreign_link);
#ifdef FF_FAULTS
    g_test_add_func("/output/over/no-link", test_no_link);
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree char *path = g_strconcat("/output/over/changed/", changes[i].name, NULL);

        g_test_add_data_func(path, &changes[i], test_changed);
    }
#endif
    return g_test_run();
}
