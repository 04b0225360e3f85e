/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which open files of another process may have its pages pinned by a buffered read, by the file
 * system that each is on.
 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/qemu/files.h"
#include "tests/lib/slowfile.h"

/* What ff_files_copy() says of a process that has nothing but PATH (NULL: nothing) and FD (-1:
 * none) open, and a pipe. */
static bool copies(const char *path, int fd, const int *ours, unsigned n)
{
    int ready[2];
    char byte = 0;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid_t child = fork();
    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0; i < 1024; i++) {
            if (i != ready[1] && i != fd) {
                close(i);
            }
        }
        if (!path || open(path, O_RDONLY) >= 0) {
            byte = write(ready[1], "1", 1);
        }
        for (;;) {
            pause();
        }
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    bool all = ff_files_copy(child, ours, n);
    kill(child, SIGKILL);
    g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
    g_assert_false(ff_files_copy(child, ours, n)); /* nobody to look at */
    return all;
}

static void test_kinds(void)
{
    int memory = memfd_create("farfault-ram", MFD_CLOEXEC);

    g_assert_true(copies(NULL, -1, NULL, 0));
    g_assert_true(copies("/proc/self/maps", -1, NULL, 0));
    g_assert_true(copies(NULL, memory, NULL, 0));
    g_assert_true(copies(NULL, memory, &memory, 1));
    close(memory);
    g_assert_false(ff_files_copy(0, NULL, 0));
}

/* As mountinfo calls them. A developer who adds one to the list has read its read_iter. */
static void test_types(void)
{
    static const char *const copying[] = {
        "ext2", "ext3",  "ext4",   "xfs",     "btrfs",    "tmpfs",  "ramfs",   "hugetlbfs",
        "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "iso9660", "squashfs"};
    static const char *const drained[] = {
        "fuse", "fuse.sshfs", "fuse.glusterfs", "fuseblk", "virtiofs", "9p",       "cifs", "smb3",
        "afs",  "ceph",       "overlay",        "zfs",     "nfs",      "nfs4",     "f2fs", "erofs",
        "gfs2", "ocfs2",      "bcachefs",       "ext4x",   "ext",      "ext4.sub", ""};

    for (unsigned i = 0; i < G_N_ELEMENTS(copying); i++) {
        g_assert_true(ff_files_type_copies(copying[i]));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(drained); i++) {
        g_assert_false(ff_files_type_copies(drained[i]));
    }
}

static void test_fuse(void)
{
    g_autofree char *directory = g_dir_make_tmp("ff-files-XXXXXX", NULL);
    const char *why = NULL;
    SlowFile *slow = slowfile_new(directory, &why);

    if (slow) {
        int fd = open(slowfile_path(slow), O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_false(copies(NULL, fd, NULL, 0));
        /* a mount of the guest's memory, which is not in every list */
        g_assert_true(copies(NULL, fd, &fd, 1));
        close(fd);
        slowfile_free(slow);
    } else {
        g_test_skip(why);
    }
    g_rmdir(directory);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/files/kinds", test_kinds);
    g_test_add_func("/files/types", test_types);
    g_test_add_func("/files/fuse", test_fuse);
    return g_test_run();
}
