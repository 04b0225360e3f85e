/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `farfault doctor`: what works on this host and what to do about the rest, one line each.
 *
 * Every answer is found by trying (a userfaultfd is made, as each user, in a child that became
 * that user), not from version numbers, where trying is possible. Changes nothing.
 *
 * Threads: the only one.
 * System calls: userfaultfd, ioctl(USERFAULTFD_IOC_NEW, UFFDIO_API), memfd_create, fork, setuid.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/common/cli.h"
#include "cli/common/commands.h"
#include "cli/common/help.h"
#include "cli/common/options.h"
#include "cli/common/userfault.h"
#include "cli/watch/qemu-names.h"
#include "guest/launch/attach.h"
#include "guest/launch/paths.h"
#include "guest/launch/stopped.h"
#include "guest/launch/takes.h"
#include "uffd/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* A guest that cannot migrate by postcopy, as against one that does it worse; for those of libvirt
 * see libvirts_verdict(). */
typedef enum { OK, WARN, FAIL } Verdict;

static bool failed;

/* One line: what was looked at, how it is, and what to do. FIX is NULL when all is well. */
static void print_check(Verdict verdict, const char *subject, const char *fix, const char *format,
                        ...) G_GNUC_PRINTF(4, 5);
static void print_check(Verdict verdict, const char *subject, const char *fix, const char *format,
                        ...)
{
    static const char *const words[] = {"ok", "warn", "FAIL"};
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    printf("%-4s  %-16s %s%s%s\n", words[verdict], subject, text, fix ? ": " : "", fix ?: "");
    failed |= verdict == FAIL;
}

/* The first line of FILE, "" if it cannot be read. */
static char *first_line(const char *file)
{
    g_autofree char *text = NULL;
    if (!g_file_get_contents(file, &text, NULL, NULL)) {
        return g_strdup("");
    }
    text[strcspn(text, "\n")] = 0;
    return g_steal_pointer(&text);
}

static bool file_contains(const char *file, const char *part)
{
    g_autofree char *text = NULL;
    return g_file_get_contents(file, &text, NULL, NULL) && strstr(text, part);
}

static void check_features(int uffd, const char *release)
{
    uint64_t have = 0;
    const uint64_t needed = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS;
    int err = ff_uffd_init(uffd, 0, &have);
    if (err < 0 || (have & needed) != needed) {
        print_check(FAIL, "kernel", "use Linux 5.7 or newer",
                    "Linux %s cannot hand over faults in shared memory", release);
        return;
    }
    print_check(OK, "kernel", NULL, "Linux %s: postcopy of shared memory and hugepages", release);
    if ((have & FF_UFFD_TRACKING) == FF_UFFD_TRACKING) {
        print_check(OK, "precopy", NULL, "write tracking from outside (WP_ASYNC)");
    } else {
        print_check(WARN, "precopy",
                    "Linux 6.7 or newer has it; or see untracked= in farfault.conf",
                    "no write tracking from outside, QEMU carries what leaves this host");
    }
    if ((have & FF_UFFD_PROTECTION) == FF_UFFD_PROTECTION) {
        print_check(OK, "snapshots", NULL, "synchronous write protection of shared memory");
    } else {
        print_check(WARN, "snapshots", "Linux 5.19 or newer has it",
                    "no synchronous write protection of shared memory, so no live snapshots");
    }
}

/* KVM's guests see vmx or svm where it is on, and are tracked until they use it. */
static void check_nested(void)
{
    static const char *const modules[] = {"kvm_intel", "kvm_amd"};
    for (size_t i = 0; i < G_N_ELEMENTS(modules); i++) {
        g_autofree char *path = g_strdup_printf("/sys/module/%s/parameters/nested", modules[i]);
        g_autofree char *on = first_line(path);
        if (strcmp(on, "1") == 0 || strcmp(on, "Y") == 0) {
            print_check(OK, "nested KVM", NULL,
                        "on (%s): QEMU carries guests that use it, farfault those that only could",
                        modules[i]);
        }
    }
}

static void check_kernel(void)
{
    struct utsname name;
    uname(&name);
    int uffd = ff_cli_new_uffd();
    if (uffd >= 0) {
        check_features(uffd, name.release);
        close(uffd);
    } else if (uffd == -ENOSYS) {
        print_check(FAIL, "kernel", "use one with CONFIG_USERFAULTFD",
                    "Linux %s has no userfaultfd", name.release);
    } else {
        print_check(WARN, "kernel", "run farfault doctor as root",
                    "Linux %s: features not examined, this user may not use userfaultfd",
                    name.release);
    }
}

/* Becomes PW for good and returns 0, or the errno of what this user is refused. */
static int try_as(const struct passwd *pw)
{
    if (initgroups(pw->pw_name, pw->pw_gid) < 0 || setgid(pw->pw_gid) < 0 ||
        setuid(pw->pw_uid) < 0) {
        return errno;
    }
    int fd = ff_cli_new_uffd();
    return fd >= 0 ? 0 : -fd;
}

/* VERDICT, if it may not; WHOSE: in front of what it is then. */
static void check_permission(const struct passwd *pw, Verdict verdict, const char *whose)
{
    g_autofree char *subject = g_strdup_printf("user %s", pw->pw_name);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int err = pw->pw_uid == getuid() ? -ff_cli_new_uffd() : try_as(pw);
        _exit(MAX(0, err));
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        print_check(WARN, subject, "try again", "could not be examined");
    } else if (WEXITSTATUS(status) == 0) {
        print_check(OK, subject, NULL, "may use userfaultfd");
    } else {
        g_autofree char *fix = ff_cli_userfault_fix(pw->pw_name);

        print_check(
            verdict, subject, fix,
            "may not use userfaultfd (%s): %sno postcopy into this host, and QEMU carries what "
            "leaves it",
            g_strerror(WEXITSTATUS(status)), whose);
    }
}

/* FILE, of libvirt's, is of a domain whose emulator is farfault. */
static bool is_domain_of_ours(const char *file)
{
    g_autofree char *text = NULL;
    const char *begin = g_file_get_contents(file, &text, NULL, NULL) ? text : "";

    begin = strstr(begin, "<emulator>");
    if (!begin) {
        return false;
    }
    begin += strlen("<emulator>");
    g_autofree char *path = g_strndup(begin, strcspn(begin, "<"));
    char *program = realpath(path, NULL); /* a link to farfault, installed and in a build folder */
    g_autofree char *name = program ? g_path_get_basename(program) : NULL;
    free(program);
    return strstr(path, "/farfault/") || !g_strcmp0(name, "farfault");
}

/* How bad it is that guests of libvirt cannot do something: those of this host may all be QEMU's
 * own, or there are none. Their files are root's: others are told less. */
static Verdict libvirts_verdict(void)
{
    static const char *const folders[] = {"/etc/libvirt/qemu", "/run/libvirt/qemu"};

    for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autoptr(GDir) dir = g_dir_open(folders[i], 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *file = g_build_filename(folders[i], name, NULL);

            if (g_str_has_suffix(name, ".xml") && is_domain_of_ours(file)) {
                return FAIL;
            }
        }
    }
    return WARN;
}

/* The users that run QEMU under libvirt, by distribution, and the one that asks. */
static void check_permissions(void)
{
    static const char *const names[] = {"libvirt-qemu", "qemu"};
    const struct passwd *self = getpwuid(getuid());
    if (self) {
        check_permission(self, FAIL, "");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        const struct passwd *pw = getpwnam(names[i]);
        if (!pw || pw->pw_uid == getuid()) {
            continue;
        }
        if (geteuid() == 0) {
            check_permission(pw, libvirts_verdict(), "for guests of libvirt ");
        } else {
            print_check(WARN, names[i], "run farfault doctor as root",
                        "libvirt's guests: not examined");
        }
    }
}

static void check_shmem_thp(void)
{
    g_autofree char *mode = first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    char *begin = strchr(mode, '['), *end = strchr(mode, ']');
    if (!begin || !end) {
        print_check(WARN, "huge pages", "use <memoryBacking><hugepages/> where speed matters",
                    "this kernel has none for shared memory");
        return;
    }
    *end = 0;
    if (strcmp(begin + 1, "never") == 0 || strcmp(begin + 1, "deny") == 0) {
        g_autofree char *fix =
            g_strdup_printf("%s --huge-pages, or use hugepages", ff_cli_install_host());

        print_check(
            WARN, "huge pages", fix,
            "shmem_enabled is %s: guests not started by root have no transparent huge pages",
            begin + 1);
    } else {
        print_check(OK, "huge pages", NULL, "shmem_enabled is %s", begin + 1);
    }
}

/* Daemons are in folders that a user of Debian's has not on PATH (g_free). */
static char *find_program(const char *program)
{
    static const char *const folders[] = {"/usr/sbin", "/sbin"};
    char *found = g_find_program_in_path(program);

    for (size_t i = 0; !found && i < G_N_ELEMENTS(folders); i++) {
        g_autofree char *path = g_build_filename(folders[i], program, NULL);

        found = g_find_program_in_path(path);
    }
    return found;
}

/* The first line that PROGRAM --version prints, NULL if it cannot be run. */
static char *version_of(const char *program)
{
    g_autofree char *path = find_program(program), *out = NULL;
    char *argv[] = {path ? path : (char *)program, (char *)"--version", NULL};
    int status = 0;
    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                      NULL, &out, NULL, &status, NULL) ||
        status != 0) {
        return NULL;
    }
    out[strcspn(out, "\n")] = 0;
    return g_steal_pointer(&out);
}

/* Of a QEMU that can be used. */
static void check_tried(const char *qemu, unsigned major, unsigned minor)
{
    g_autoptr(GHashTable) names = ff_qemu_names(qemu);
    g_autofree char *untried = ff_qemu_untried(major, minor, names);

    if (untried) {
        print_check(WARN, "QEMU", "move a guest that you can spare first", "%s is %u.%u, %s", qemu,
                    major, minor, untried);
    }
}

static void check_qemu(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *qemu = ff_find_real_qemu("qemu-system-x86_64", &error);
    if (!qemu) {
        print_check(FAIL, "QEMU", NULL, "%s", error->message);
        return;
    }
    g_autofree char *version = version_of(qemu), *why = NULL;
    unsigned major = 0, minor = 0;
    if (!version || sscanf(version, "QEMU emulator version %u.%u", &major, &minor) != 2) {
        print_check(FAIL, "QEMU", "install QEMU again", "%s does not tell its version", qemu);
    } else if (major < 7 || (major == 7 && minor < 2)) {
        print_check(FAIL, "QEMU", "install 7.2 or newer", "%s is %u.%u", qemu, major, minor);
    } else if (ff_takes(qemu, true, &why) == FF_TAKES_NOT) {
        print_check(
            FAIL, "QEMU", "use an older QEMU or a newer farfault",
            "%s is %u.%u, and refuses what farfault adds to its command line (%s), so its guests "
            "start without farfault",
            qemu, major, minor, why);
    } else if (!ff_is_elf(qemu)) {
        print_check(WARN, "QEMU",
                    "name the program itself in [qemu] binary=", "%s is %u.%u, called by a script",
                    qemu, major, minor);
        check_tried(qemu, major, minor);
    } else {
        print_check(OK, "QEMU", NULL, "%s is %u.%u", qemu, major, minor);
        check_tried(qemu, major, minor);
    }
}

static void check_parts(void)
{
    static const char *const parts[] = {"farfault-relay", "farfault-engine", "farfault-agent.so"};
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        g_autofree char *path = ff_find_helper(parts[i]);
        if (!path) {
            print_check(FAIL, "farfault", "install farfault again", "%s is missing", parts[i]);
        }
    }
    g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = exe ? g_path_get_dirname(exe) : NULL;
    g_autofree char *link =
        dir ? g_build_filename(dir, "../lib/farfault/qemu-system-x86_64", NULL) : NULL;
    if (link && access(link, X_OK) == 0) {
        g_autofree char *path = g_canonicalize_filename(link, NULL);
        print_check(OK, "farfault", NULL, "for libvirt: <emulator>%s</emulator>", path);
    } else {
        print_check(WARN, "farfault", "meson install puts the emulator for libvirt in place",
                    "not installed, it runs from a build folder");
    }
}

static void check_config(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *policy = ff_config_get("migration", "policy", &error);
    g_autofree char *untracked = error ? NULL : ff_config_get("migration", "untracked", &error);
    g_autofree char *restore = error ? NULL : ff_config_get("migration", "restore", &error);
    if (error) {
        print_check(FAIL, "settings", "correct the file", "%s", error->message);
    } else {
        print_check(OK, "settings", NULL, "policy %s, untracked %s, restore %s",
                    policy ?: "auto (the default)", untracked ?: "qemu (the default)",
                    restore ?: "eager (the default)");
    }
}

/* It merges private memory alone. */
static void check_ksm(void)
{
    g_autofree char *run = NULL;

    if (g_file_get_contents("/sys/kernel/mm/ksm/run", &run, NULL, NULL) && atoi(run) == 1) {
        print_check(
            WARN, "KSM", "plan with the guests' whole memory, or run those without farfault",
            "is on, and does not merge the memory of guests under farfault, which is shared");
    }
}

/* libvirt from 10.1 on lets its guests see the device by itself. Older ones must be told. */
static void check_libvirt_device(unsigned major, unsigned minor)
{
    static const char file[] = "/etc/libvirt/qemu.conf";
    g_autofree char *sysctl = first_line("/proc/sys/vm/unprivileged_userfaultfd");
    if (major > 10 || (major == 10 && minor >= 1) || strcmp(sysctl, "1") == 0) {
        return;
    }
    if (access(file, R_OK) < 0) {
        print_check(WARN, "libvirt's /dev", "run farfault doctor as root", "%s cannot be read",
                    file);
    } else if (file_contains(file, "\"/dev/userfaultfd\"")) {
        print_check(OK, "libvirt's /dev", NULL, "guests see /dev/userfaultfd");
    } else {
        g_autofree char *fix =
            g_strdup_printf("add it to cgroup_device_acl in %s (%s), or set "
                            "vm.unprivileged_userfaultfd=1; not needed where QEMU runs as root",
                            file, ff_cli_install_host());

        print_check(libvirts_verdict(), "libvirt's /dev", fix,
                    "guests of libvirt %u.%u do not see /dev/userfaultfd", major, minor);
    }
}

static void check_libvirt(void)
{
    g_autofree char *version = version_of("libvirtd");
    unsigned major = 0, minor = 0;
    if (!version) {
        version = version_of("virtqemud");
    }
    const char *number = version ? strrchr(version, ' ') : NULL;
    if (!number || sscanf(number, " %u.%u", &major, &minor) != 2) {
        print_check(WARN, "libvirt", "install libvirt-daemon-system to use virsh", "not found");
        return;
    }
    print_check(OK, "libvirt", NULL, "%u.%u", major, minor);
    check_libvirt_device(major, minor);
}

static void check_confinement(void)
{
    g_autofree char *apparmor = first_line("/sys/module/apparmor/parameters/enabled");
    g_autofree char *enforce = first_line("/sys/fs/selinux/enforce");
    if (strcmp(apparmor, "Y") == 0) {
        if (file_contains("/etc/apparmor.d/local/abstractions/libvirt-qemu", "farfault")) {
            print_check(OK, "AppArmor", NULL, "guests of libvirt may use farfault");
        } else {
            g_autofree char *fix = g_strdup_printf("%s adds the rules", ff_cli_install_host());

            print_check(libvirts_verdict(), "AppArmor", fix,
                        "the profile of libvirt's guests does not know farfault");
        }
    }
    if (strcmp(enforce, "1") == 0) {
        print_check(WARN, "SELinux", "if guests do not start, look into the audit log",
                    "enforcing, which has not been tried with farfault");
    }
}

/* Where it is not 0 a process may be taken from only by the process that started it, or by root; at
 * 3 by nobody.
 */
static void check_yama(void)
{
    g_autofree char *scope = first_line("/proc/sys/kernel/yama/ptrace_scope");
    int level = atoi(scope);
    if (level > 2) {
        print_check(WARN, "Yama", "set kernel.yama.ptrace_scope to 2 or less (it takes a boot)",
                    "ptrace_scope is %d: farfault attach cannot give a guest a new relay", level);
    } else if (level > 0) {
        print_check(OK, "Yama", NULL, "ptrace_scope is %d: farfault attach has to be run by root",
                    level);
    }
}

static void say_stopped(const FfStopped *it)
{
    g_autofree char *fix = g_strdup_printf("kill -CONT %d", it->pid);
    g_autofree char *guest = it->qemu ? g_strdup_printf("of QEMU process %d", it->qemu)
                                      : g_strdup("of a guest that this user cannot see");

    switch (it->kind) {
    case FF_STOPPED_QEMU:
        print_check(WARN, "guests", fix,
                    "QEMU process %d is stopped by a signal, a migration waits for it", it->pid);
        break;
    case FF_STOPPED_RELAY:
        print_check(WARN, "guests", fix,
                    "relay %d %s is stopped by a signal, all QMP clients wait for it", it->pid,
                    guest);
        break;
    case FF_STOPPED_ENGINE:
        print_check(
            WARN, "guests", fix,
            "migration engine %d %s is stopped by a signal; its relay replaces it after 30 s",
            it->pid, guest);
        break;
    }
}

static void say_unprotectable(const FfAttachLoss *it)
{
    print_check(WARN, "guests", "start it again to have them",
                it->lost
                    ? "QEMU process %d has no live snapshots any more: the process that held the "
                      "userfaultfd for them has ended"
                    : "QEMU process %d has no live snapshots: an older farfault has started it",
                it->pid);
}

/* Guests that wait for somebody to type something: their QMP is answered by nobody. And those that
 * lack what they cannot get before their next start. */
static void check_guests(void)
{
    g_autoptr(GArray) pids = ff_attach_orphans(), stopped = ff_stopped_find();
    g_autoptr(GArray) unprotectable = ff_attach_unprotectable(), old = ff_attach_outdated();
    for (guint i = 0; i < pids->len; i++) {
        int pid = g_array_index(pids, pid_t, i);
        g_autofree char *fix = g_strdup_printf("farfault attach %d", pid);
        print_check(WARN, "guests", fix, "QEMU process %d has lost its relay", pid);
    }
    for (guint i = 0; i < stopped->len; i++) {
        say_stopped(&g_array_index(stopped, FfStopped, i));
    }
    for (guint i = 0; i < old->len; i++) {
        const FfAttachOld *it = &g_array_index(old, FfAttachOld, i);
        g_autofree char *fix = g_strdup_printf("farfault attach --replace %d", it->pid);
        if (it->relay) {
            print_check(WARN, "guests", fix,
                        "relay %d of QEMU process %d is of the farfault before this one", it->relay,
                        it->pid);
        } else {
            print_check(WARN, "guests", "it has this one when QEMU is started again",
                        "the relay of QEMU process %d is of an older farfault, and stays", it->pid);
        }
    }
    for (guint i = 0; i < unprotectable->len; i++) {
        say_unprotectable(&g_array_index(unprotectable, FfAttachLoss, i));
    }
}

int ff_cli_doctor(int argc, char **argv)
{
    gboolean help = FALSE;
    g_auto(GStrv) rest = NULL;
    g_autoptr(GError) error = NULL;
    const GOptionEntry entries[] = {
        {"help", 'h', 0, G_OPTION_ARG_NONE, &help, NULL, NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &rest, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };

    if (!ff_cli_options(entries, argc, argv, &error)) {
        fprintf(stderr, "farfault: %s (farfault doctor --help)\n", error->message);
        return FF_CLI_USAGE_STATUS;
    }
    if (help) {
        fputs(ff_help_doctor, stdout);
        return 0;
    }
    if (rest) {
        fprintf(stderr, "farfault: doctor: takes no arguments; see farfault help doctor\n");
        return FF_CLI_USAGE_STATUS;
    }
    check_kernel();
    check_nested();
    check_permissions();
    check_shmem_thp();
    check_parts();
    check_config();
    check_ksm();
    check_qemu();
    check_libvirt();
    check_confinement();
    check_yama();
    check_guests();
    return failed ? 1 : 0;
}
