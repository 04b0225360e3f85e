/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See userfault.h. Groups and their members are those that this host has. System calls: open,
 * ioctl(USERFAULTFD_IOC_NEW), userfaultfd. */
#include "cli/common/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <pwd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEVICE "/dev/userfaultfd"
/* It is there also where a /dev of the process's own has no device. */
#define IN_KERNEL "/sys/class/misc/userfaultfd"
/* To which install-host gives the device. */
#define HOSTS_GROUP "kvm"
#define FOR_ALL "set vm.unprivileged_userfaultfd=1"

int ff_cli_new_uffd(void)
{
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC) : -1;

    if (device >= 0) {
        close(device);
    }
    if (fd < 0) {
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    }
    return fd >= 0 ? fd : -errno;
}

/* The group, not root's, whose members may open the device; NULL: there is none. */
static const struct group *device_group(void)
{
    struct stat st;
    bool has = stat(DEVICE, &st) == 0 && st.st_gid != 0 && (st.st_mode & 060) == 060;

    return has ? getgrgid(st.st_gid) : NULL;
}

/* As the lists of this host have it; a process may have begun before. GROUP can be NULL. */
static bool is_member(const char *user, const struct group *group)
{
    const struct passwd *pw = getpwnam(user);

    for (char **member = group ? group->gr_mem : NULL; member && *member; member++) {
        if (!strcmp(*member, user)) {
            return true;
        }
    }
    return pw && group && pw->pw_gid == group->gr_gid;
}

const char *ff_cli_install_host(void)
{
    g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = exe ? g_path_get_dirname(exe) : NULL;
    g_autofree char *path =
        dir ? g_build_filename(dir, "../sbin/farfault-install-host", NULL) : NULL;

    return path && access(path, F_OK) == 0 ? "farfault-install-host" : "scripts/install-host";
}

char *ff_cli_userfault_fix(const char *name)
{
    const struct group *group = device_group();
    g_autofree char *user = g_strdup(name); /* may be getpwnam()'s, which is asked again below */

    if (access(DEVICE, F_OK) < 0) {
        return access(IN_KERNEL, F_OK) < 0
                   ? g_strdup(FOR_ALL " (Linux 6.1 or newer has a device instead)")
                   : g_strdup("let it see " DEVICE " (libvirt: cgroup_device_acl, see farfault "
                              "doctor), or " FOR_ALL);
    }
    if (!group && is_member(user, getgrnam(HOSTS_GROUP))) {
        return g_strdup_printf("give it the device (%s), or " FOR_ALL, ff_cli_install_host());
    }
    if (!group) {
        return g_strdup_printf("give it the device (%s && usermod -aG " HOSTS_GROUP
                               " %s as root, and a new login), or " FOR_ALL,
                               ff_cli_install_host(), user);
    }
    if (is_member(user, group)) {
        return g_strdup_printf("log in again: %s has come into group %s, which has the device, "
                               "since; or " FOR_ALL,
                               user, group->gr_name);
    }
    return g_strdup_printf("usermod -aG %s %s as root, and a new login; or " FOR_ALL,
                           group->gr_name, user);
}

char *ff_cli_userfault_fix_qemu(bool here)
{
    return here ? ff_cli_userfault_fix("USER") : g_strdup("run it as root, or " FOR_ALL);
}
