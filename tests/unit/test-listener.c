/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest/launch/listener.c: which process listens at a path, also where another socket has the same
 * name and the same inode number on another file system, where stat(2) has a device of its own
 * (overlayfs), and where that process is in another network namespace. Needs root for the mounts.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/launch/listener.h"

/* Bound to PATH (relative); it listens if LISTENS. */
static int socket_at(const char *path, bool listens)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_true(!listens || listen(fd, 1) == 0);
    return fd;
}

/* IS: a process listens at PATH; PID: as it is named. */
static void check(const char *path, bool is, pid_t pid)
{
    FfListener listener;

    ff_listener_find(path, &listener);
    g_assert_cmpint(listener.is, ==, is);
    g_assert_cmpint(listener.pid, ==, pid);
}

/* The working directory is a new folder (g_free). */
static char *enter_folder(void)
{
    char *folder = g_dir_make_tmp("ff-listener-XXXXXX", NULL);

    g_assert_nonnull(folder);
    g_assert_cmpint(chdir(folder), ==, 0);
    return folder;
}

static void leave_folder(char *folder)
{
    g_assert_cmpint(chdir("/"), ==, 0);
    g_assert_cmpint(rmdir(folder), ==, 0);
    g_free(folder);
}

/* FALSE: skipped. */
static bool may_mount(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        g_test_skip("may not mount");
        return false;
    }
    return true;
}

static void test_plain(void)
{
    char *folder = enter_folder();
    g_autofree char *absolute = g_build_filename(folder, "a", NULL);

    check("a", false, 0);
    int fd = socket_at("a", true);
    check("a", true, getpid());
    check(absolute, true, getpid());
    g_assert_cmpint(symlink("a", "link"), ==, 0); /* whose name QEMU takes, and not the socket's */
    check("link", false, 0);
    close(fd);
    check("a", false, 0);
    g_assert_cmpint(unlink("a"), ==, 0);
    fd = socket_at("a", false);
    check("a", false, 0);
    close(fd);
    g_assert_cmpint(unlink("a"), ==, 0);
    g_assert_cmpint(unlink("link"), ==, 0);
    leave_folder(folder);
}

static void mount_tmpfs(const char *point)
{
    g_assert_cmpint(g_mkdir(point, 0700), ==, 0);
    g_assert_cmpint(mount("none", point, "tmpfs", 0, NULL), ==, 0);
}

static void unmount(const char *point)
{
    g_assert_cmpint(umount(point), ==, 0);
    g_assert_cmpint(rmdir(point), ==, 0);
}

/* As in two containers of one kind. */
static void test_same_inode(void)
{
    struct stat a, b;

    if (!may_mount()) {
        return;
    }
    char *folder = enter_folder();
    mount_tmpfs("one");
    mount_tmpfs("two");
    int fd = socket_at("one/a", true);
    close(socket_at("two/a", false));
    g_assert_cmpint(stat("one/a", &a), ==, 0);
    g_assert_cmpint(stat("two/a", &b), ==, 0);
    if (a.st_ino != b.st_ino) {
        g_test_skip("this kernel gives tmpfs files other numbers");
    }
    check("one/a", true, getpid());
    check("two/a", false, 0);
    close(fd);
    unmount("one");
    unmount("two");
    leave_folder(folder);
}

static void test_overlayfs(void)
{
    if (!may_mount()) {
        return;
    }
    char *folder = enter_folder();
    mount_tmpfs("all");
    for (const char *const *name = (const char *const[]){"lower", "upper", "work", "merged", NULL};
         *name; name++) {
        g_autofree char *path = g_build_filename("all", *name, NULL);

        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    }
    if (mount("none", "all/merged", "overlay", 0,
              "lowerdir=all/lower,upperdir=all/upper,workdir=all/work") < 0) {
        g_test_skip("no overlayfs");
    } else {
        int fd = socket_at("all/merged/a", true);

        check("all/merged/a", true, getpid());
        close(fd);
        check("all/merged/a", false, 0);
        g_assert_cmpint(umount("all/merged"), ==, 0);
    }
    unmount("all");
    leave_folder(folder);
}

/* Paths are not a network namespace's: clients of both reach it. */
static void test_other_network(void)
{
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        g_test_skip("no network namespace can be made");
        close(own);
        return;
    }
    char *folder = enter_folder();
    int fd = socket_at("a", true);
    g_assert_cmpint(setns(own, CLONE_NEWNET), ==, 0);
    check("a", true, 0);
    close(fd);
    check("a", false, 0);
    close(own);
    g_assert_cmpint(unlink("a"), ==, 0);
    leave_folder(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/listener/plain", test_plain);
    g_test_add_func("/listener/same-inode", test_same_inode);
    g_test_add_func("/listener/overlayfs", test_overlayfs);
    g_test_add_func("/listener/other-network", test_other_network);
    return g_test_run();
}
