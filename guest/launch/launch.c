/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts QEMU: the calling process becomes it.
 *
 * The command line is planned by ff_plan_new(). A QEMU that refuses what is added there (takes.h)
 * starts with the user's own one, and farfault has no part in its guest. Else everything that the
 * plan names is made (guest RAM, private monitor sockets, the clients' endpoints, the agent's
 * socket), the relay is started and has said that it stands, and QEMU is exec'd with the agent
 * preloaded. All fds made here are close-on-exec, with high numbers: what QEMU needs is opened to
 * it just before the exec, and the agent closes it to QEMU's children right after. Inherited fds
 * keep their numbers and stay open, but those that the relay took over.
 *
 * Nothing inherited is closed before the exec: libvirt's pid file is POSIX-locked by this PID, and
 * closing any fd of it would drop the lock.
 *
 * Threads: none but the caller's.
 * System calls: memfd_create, fsopen, fsconfig, fsmount, mmap, socketpair, execve, write,
 * pidfd_open, poll, and those of endpoint.c, launch-relay.c, listener.c.
 */
#include "guest/launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/agent/ptys.h"
#include "guest/launch/argv.h"
#include "guest/launch/endpoint.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/inherit-argv.h"
#include "guest/launch/inherit.h"
#include "guest/launch/internal.h"
#include "guest/launch/launch-relay.h"
#include "guest/launch/listener.h"
#include "guest/launch/paths.h"
#include "guest/launch/scheduling.h"
#include "guest/launch/takes.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* They go with the relay's first message to an engine, which has room for no more. */
#define MAX_GIVEN 24
/* A second QEMU fills no memory ahead where it has less left (bytes): the guest,
 * which runs in the first one, would be what the kernel ends. */
#define FILL_ROOM (512ull << 20)
/* How long a process that has the name of a socket may take to end. */
#define ENDS_MS 1000

typedef struct {
    const FfLaunchOptions *options;
    FfInherited *lent; /* NULL: all is this guest's own */
    GPtrArray *names;  /* of FfInheritedName *; NULL: as lent */
    FfInheritedTaps taps;
    int other, other_door; /* a pidfd of the QEMU that lends, its relay's door; -1: there is none */
    int front, front_door; /* the same of the process that stays as the guest's front */
    bool other_stays;      /* it is that one */
    GArray *given;         /* of FfGivenFd */
    GArray *ptys;          /* of int: of the pseudo-terminals that come */
    char **command_line;
    FfPlan *plan;
    const char *prog;          /* as QEMU names itself in messages */
    int *ram_fds;              /* one per plan->ram */
    int *config_fds;           /* one per plan->configs */
    FfPrivateSocket *monitors; /* one per plan->monitors, and one more: QEMU's own monitor */
    FfEndpoint *endpoints;     /* one per plan->monitors */
    JsonObject *
        *known; /* the same: of vhost-user back-ends that are another QEMU's still; LENT's */
    int agent_qemu, agent_relay; /* hand-over socket, -1 = no agent */
    int agent_file;              /* the agent itself, when LD_PRELOAD cannot hold its path; or -1 */
    char *agent_path;            /* for LD_PRELOAD */
    FfRunas runas;
    int state_fd, kept_state; /* the relay's, QEMU's; -1: none */
    int kept;                 /* the parcel with QEMU's, and the names of its monitors; -1: none */
    int plan_fd;              /* what the relay was told, for QEMU to keep; -1: none */
    bool relay_started;
    bool qemu_error; /* the error that stopped it is one that QEMU would have reported */
} Launch;

static void launch_clear(Launch *l)
{
    ff_inherited_taps_clear(&l->taps);
    if (l->plan && l->endpoints && !l->relay_started && !l->lent) {
        for (guint i = 0; i < l->plan->monitors->len; i++) {
            ff_endpoint_undo(&l->endpoints[i]);
        }
    }
    g_free(l->ram_fds);
    g_free(l->config_fds);
    g_free(l->monitors);
    g_free(l->endpoints);
    g_free(l->known);
    g_free(l->agent_path);
    g_clear_pointer(&l->lent, ff_inherited_free);
    g_clear_pointer(&l->given, g_array_unref);
    g_clear_pointer(&l->ptys, g_array_unref);
    g_clear_pointer(&l->names, g_ptr_array_unref);
    g_clear_pointer(&l->plan, ff_plan_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Launch, launch_clear)

/*
 * Reserves the huge pages of FD. A mapping reserves them for the file, not for the mapper: the
 * reservation outlives the munmap, and QEMU's own mapping cannot fail for want of pages.
 */
static bool reserve_hugepages(int fd, const FfPlanRam *ram, uint64_t size, GError **error)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        munmap(p, size);
        return true;
    }
    int err = errno;
    uint64_t kib = ram->page_size / 1024;
    g_autofree char *dir = g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB", kib);
    g_autofree char *file = g_build_filename(dir, "free_hugepages", NULL);
    g_autofree char *available = NULL;
    if (g_file_get_contents(file, &available, NULL, NULL)) {
        g_strchomp(available);
    }
    ff_launch_fail(error,
                   "memory backend '%s' needs %" PRIu64 " huge pages of %" PRIu64
                   " KiB, %s are free (%s): raise %s/nr_hugepages%s%s, or make the guest smaller",
                   ram->id, size / ram->page_size, kib, available ?: "none", g_strerror(err), dir,
                   ram->mount ? " and, if it is limited, size= of the mount of " : "",
                   ram->mount ? ram->mount : "");
    return false;
}

/* As for anonymous memory: unless they are off for all. */
static bool wants_thp(const FfPlanRam *ram)
{
    g_autofree char *enabled = NULL;

    return ram->thp &&
           g_file_get_contents("/sys/kernel/mm/transparent_hugepage/enabled", &enabled, NULL,
                               NULL) &&
           !strstr(enabled, "[never]");
}

/* QEMU opens it by this name. A security module may refuse a file that has no place in the tree,
 * but not a memfd; it treats the launcher as it will treat QEMU. */
static bool can_be_reopened(int fd)
{
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", fd);
    int again = open(name, O_RDWR | O_CLOEXEC);

    if (again >= 0) {
        close(again);
    }
    return again >= 0;
}

/*
 * A file of a tmpfs of its own, mounted nowhere, with huge=advise: then QEMU's MADV_HUGEPAGE, which
 * it gives to all guest RAM, has the effect that it has on anonymous memory, whatever shmem_enabled
 * says of memfds. Needs CAP_SYS_ADMIN. Returns an fd, or -1.
 */
static int thp_file(void)
{
    int fd = -1, mount = -1;
    int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);

    if (fs >= 0 && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0 &&
        syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", "0", 0) == 0 &&
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
                        MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID);
    }
    if (mount >= 0) {
        fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        close(mount); /* the file keeps the file system */
    }
    if (fs >= 0) {
        close(fs);
    }
    if (fd >= 0 && !can_be_reopened(fd)) {
        close(fd);
        return -1;
    }
    return ff_fd_high(fd);
}

/*
 * A file without a name in the hugetlbfs that the user named, as QEMU makes one there: the mount's
 * size= limits it, and what min_size= has set aside is its. (A memfd has neither.) Returns an fd,
 * or -1: a kernel without O_TMPFILE there, or a directory that may not be written to.
 */
static int mounted_file(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0 && !can_be_reopened(fd)) {
        close(fd);
        return -1;
    }
    return ff_fd_high(fd);
}

static int ram_memfd(const FfPlanRam *ram)
{
    int fd = ram->mount ? mounted_file(ram->mount) : wants_thp(ram) ? thp_file() : -1;
    if (fd >= 0) {
        return fd;
    }
    unsigned flags = MFD_CLOEXEC | (ram->seal ? MFD_ALLOW_SEALING : 0);
    if (ram->page_size > (uint64_t)getpagesize()) {
        flags |= MFD_HUGETLB | ((unsigned)__builtin_ctzll(ram->page_size) << MFD_HUGE_SHIFT);
    }
    /* the name shows in /proc/PID/maps; the kernel takes 249 bytes */
    g_autofree char *name = g_strdup_printf("farfault-%.200s", ram->id);
    fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) { /* before Linux 6.3 */
        fd = memfd_create(name, flags);
    }
    return ff_fd_high(fd);
}

/* Returns a memfd of RAM's size, or -1. */
static int make_ram(const FfPlanRam *ram, GError **error)
{
    bool huge = ram->page_size > (uint64_t)getpagesize();
    uint64_t size = (ram->size + ram->page_size - 1) / ram->page_size * ram->page_size;
    int fd = ram_memfd(ram);
    if (fd < 0) {
        if (huge) {
            ff_launch_fail(error,
                           "memory backend '%s': this kernel offers no huge pages of %" PRIu64
                           " KiB (%s)",
                           ram->id, ram->page_size / 1024, g_strerror(errno));
        } else {
            ff_launch_fail(error, "memory backend '%s': memfd_create: %s", ram->id,
                           g_strerror(errno));
        }
        return -1;
    }
    if (ftruncate(fd, size) < 0) {
        ff_launch_fail(error, "memory backend '%s' of %" PRIu64 " bytes: %s", ram->id, size,
                       g_strerror(errno));
        return -1;
    }
    if (huge && !ram->unreserved && !reserve_hugepages(fd, ram, size, error)) {
        return -1;
    }
    if (ram->seal && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        ff_launch_fail(error, "memory backend '%s': cannot seal it: %s", ram->id,
                       g_strerror(errno));
        return -1;
    }
    return fd;
}

static bool make_all_ram(Launch *l, GError **error)
{
    l->ram_fds = g_new(int, l->plan->ram->len + 1);
    for (guint i = 0; i < l->plan->ram->len; i++) {
        l->ram_fds[i] = l->lent ? ff_inherited_ram(l->lent, l->plan->ram->pdata[i], error)
                                : make_ram(l->plan->ram->pdata[i], error);
        if (l->ram_fds[i] < 0) {
            return false;
        }
    }
    return true;
}

static bool open_endpoints(Launch *l, GError **error)
{
    guint n = l->plan->monitors->len;
    l->endpoints = g_new0(FfEndpoint, n + 1);
    l->known = g_new0(JsonObject *, n + 1);
    for (guint i = 0; i < n; i++) {
        const FfPlanMonitor *mon = l->plan->monitors->pdata[i];
        GError *err = NULL;
        if (l->lent && ff_inherited_listens(mon)) {
            if (!ff_inherited_endpoint(l->lent, mon, &l->endpoints[i], error)) {
                return false;
            }
            continue;
        }
        if (l->lent && mon->backend) {
            /* Of a spare one nothing is known; of another one nothing else is of use. */
            if (mon->kind != FF_CLIENT_SPARE &&
                !(l->known[i] = ff_inherited_backend(l->lent, mon, error))) {
                return false;
            }
            l->endpoints[i] = (FfEndpoint){.fd = -1, .in = -1, .out = -1};
            continue;
        }
        if (!ff_endpoint_open(mon, &l->endpoints[i], &err)) {
            l->qemu_error = true;
            g_propagate_prefixed_error(error, err, "-chardev socket,id=%s: ", mon->chardev_id);
            return false;
        }
    }
    if (l->lent && !ff_inherited_all_endpoints(l->lent, l->plan->monitors, error)) {
        return false;
    }
    l->monitors = g_new0(FfPrivateSocket, n + 1);
    return ff_private_sockets_new(l->monitors, n + 1, l->runas.uid, l->runas.gid, error);
}

/* The fds that QEMU's command line names; .monitors is the caller's (g_free). */
static FfPlanFds plan_fds(const Launch *l, int **monitors)
{
    guint n = l->plan->monitors->len;

    *monitors = g_new(int, n + 1);
    for (guint i = 0; i < n; i++) {
        (*monitors)[i] = l->monitors[i].listen_fd;
    }
    return (FfPlanFds){l->ram_fds, *monitors, l->config_fds, l->monitors[n].listen_fd};
}

/* QEMU reads them by /proc/self/fd while it reads its command line: before -sandbox, -chroot and
 * -runas, and once. They are sealed. */
static bool make_configs(Launch *l, GError **error)
{
    guint n = l->plan->configs->len;
    g_autofree int *monitors = NULL;
    const FfPlanFds fds = plan_fds(l, &monitors);

    l->config_fds = g_new(int, n + 1);
    for (guint i = 0; i < n; i++) {
        const FfPlanConfig *config = l->plan->configs->pdata[i];
        g_autofree char *text = ff_plan_render_config(l->plan, i, &fds);
        ssize_t len = (ssize_t)strlen(text);
        int fd = ff_fd_high(memfd_create("farfault-config", MFD_CLOEXEC | MFD_ALLOW_SEALING));

        if (fd < 0 || write(fd, text, (size_t)len) != len ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL) < 0) {
            ff_launch_fail(error, "cannot make a copy of %s: %s", config->path, g_strerror(errno));
            return false;
        }
        l->config_fds[i] = fd;
    }
    return true;
}

/*
 * Finds the agent and makes its socket. Without it the guest runs, and never migrates by
 * postcopy: a warning. A path that LD_PRELOAD cannot hold is given as /proc/self/fd/N.
 */
static void prepare_agent(Launch *l)
{
    l->agent_qemu = l->agent_relay = l->agent_file = -1;
    g_autofree char *path = ff_find_helper("farfault-agent.so");
    int pair[2];
    if (!path) {
        fprintf(stderr, "farfault: warning: farfault-agent.so was not found beside farfault, this "
                        "guest cannot migrate by postcopy: install farfault again\n");
        return;
    }
    if (strpbrk(path, FF_PRELOAD_SPLITS)) {
        l->agent_file = ff_fd_high(open(path, O_RDONLY | O_CLOEXEC));
        g_free(path);
        path = g_strdup_printf("/proc/self/fd/%d", l->agent_file);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        fprintf(stderr,
                "farfault: warning: socketpair: %s, this guest cannot migrate by postcopy\n",
                g_strerror(errno));
        return;
    }
    l->agent_qemu = ff_fd_high(pair[0]);
    l->agent_relay = ff_fd_high(pair[1]);
    l->agent_path = g_steal_pointer(&path);
}

/*
 * The state memfd, of which QEMU keeps a copy for the relay that `farfault attach` starts if this
 * one dies. Without the agent nobody would close QEMU's copies to its children, so there are none.
 */
static void make_state(Launch *l)
{
    l->state_fd = l->kept_state = l->plan_fd = -1;
    int fd = l->agent_qemu >= 0 ? ff_fd_high(ff_state_create(FF_POLICY_AUTO)) : -1;
    int own = fd >= 0 ? ff_relay_lock(fd, 0) : -1;
    if (own >= 0) {
        l->state_fd = own;
        l->kept_state = fd;
    } else if (fd >= 0) {
        close(fd);
    }
}

/* What QEMU keeps for the next relay is in nobody's reach, where the kernel has room for it: any
 * process of the user can take that room, and must be noticed. */
static void make_parcel(Launch *l)
{
    guint n = l->plan->monitors->len;
    g_autofree int *fds = g_new(int, n + 2);
    int parcel;

    l->kept = -1;
    if (l->kept_state < 0) {
        return;
    }
    fds[0] = l->kept_state;
    fds[1] = l->monitors[n].path_fd;
    for (guint i = 0; i < n; i++) {
        fds[2 + i] = l->monitors[i].path_fd;
    }
    parcel = ff_fdstore_new(fds, n + 2);
    if (parcel < 0) {
        fprintf(stderr,
                "farfault: warning: what decides which side runs this guest is open to other "
                "processes of its user: %s\n",
                parcel == -ETOOMANYREFS ? "their sockets hold half as many fds as RLIMIT_NOFILE"
                                        : g_strerror(-parcel));
    }
    l->kept = ff_fd_high(parcel);
}

static bool start_relay(Launch *l, GError **error)
{
    FfRelayStart start = {
        .plan = l->plan,
        .policy = l->options->policy,
        .untracked = l->options->untracked,
        .restore = l->options->restore,
        .userfault_fix = l->options->userfault_fix,
        .ram_fds = l->ram_fds,
        .monitors = l->monitors,
        .endpoints = l->endpoints,
        .qemu_monitor = &l->monitors[l->plan->monitors->len],
        .agent_fd = l->agent_relay,
        .state_fd = l->state_fd,
        .kept = l->kept,
        .kept_state = l->kept_state,
        .runas = l->runas,
        .command_line = l->command_line,
        .borrowed = l->lent,
        .known = l->known,
        .names = l->names,
        .taps_fd = l->taps.go,
        .other_fd = l->other,
        .other_door = l->other_door,
        .front_fd = l->front,
        .front_door = l->front_door,
        .other_stays = l->other_stays,
        .given = l->given,
    };
    l->relay_started = ff_relay_start(&start, &l->plan_fd, error);
    if (l->state_fd >= 0) {
        close(l->state_fd); /* the lock is the relay's alone */
    }
    return l->relay_started;
}

/* Lets QEMU inherit FD; LIST names it to the agent, which closes it to QEMU's children. */
static void give_qemu(int fd, GString *list)
{
    fcntl(fd, F_SETFD, 0);
    g_string_append_printf(list, "%s%d", list->len ? "," : "", fd);
}

/* What QEMU only keeps, for a relay that comes after this one (attach.c). What is in the parcel
 * has no number there. */
static void give_for_attach(const Launch *l, GString *list)
{
    guint n = l->plan->monitors->len;

    if (l->kept_state < 0) {
        return;
    }
    if (l->plan_fd >= 0) {
        give_qemu(l->plan_fd, list);
    }
    if (l->kept >= 0) {
        give_qemu(l->kept, list);
        return;
    }
    give_qemu(l->kept_state, list);
    for (guint i = 0; i <= n; i++) {
        give_qemu(l->monitors[i].path_fd, list);
    }
}

/* fds are QEMU's, or not, from here on; only exec may follow. */
static void sort_fds(Launch *l, GString *list)
{
    guint n = l->plan->monitors->len;
    for (guint i = 0; i < l->plan->ram->len; i++) {
        give_qemu(l->ram_fds[i], list);
    }
    for (guint i = 0; i < l->plan->configs->len; i++) {
        give_qemu(l->config_fds[i], list);
    }
    for (guint i = 0; i < n; i++) {
        give_qemu(l->monitors[i].listen_fd, list);
        if (l->endpoints[i].fd >= 0) {
            fcntl(l->endpoints[i].fd, F_SETFD, FD_CLOEXEC); /* an inherited one is the relay's */
        }
    }
    give_qemu(l->monitors[n].listen_fd, list);
    give_for_attach(l, list);
    if (l->agent_file >= 0) {
        give_qemu(l->agent_file, list);
    }
    for (guint i = 0; l->taps.fds && i < l->taps.fds->len; i++) {
        give_qemu(g_array_index(l->taps.fds, int, i), list);
    }
    /* The agent watches the one, and farfault attach finds both. */
    if (l->front >= 0) {
        give_qemu(l->front, list);
    }
    if (l->front_door >= 0) {
        give_qemu(l->front_door, list);
    }
    for (guint i = 0; l->ptys && i < l->ptys->len; i++) {
        give_qemu(g_array_index(l->ptys, int, i), list);
    }
    if (l->agent_qemu >= 0) {
        fcntl(l->agent_qemu, F_SETFD, 0);
    }
}

static void set_environment(const Launch *l, const char *fd_list)
{
    struct stat st;
    if (!l->agent_path) {
        return;
    }
    g_autofree char *fd = g_strdup_printf("%d", l->agent_qemu);
    g_autofree char *exe = g_strdup("*");
    if (ff_is_elf(l->options->qemu) && stat(l->options->qemu, &st) == 0) {
        g_free(exe);
        exe = g_strdup_printf("%llu:%llu", (unsigned long long)st.st_dev,
                              (unsigned long long)st.st_ino);
    }
    g_autofree char *preload = ff_preload(l->agent_path);
    setenv(FF_AGENT_ENV_FD, fd, 1);
    setenv(FF_AGENT_ENV_EXE, exe, 1);
    setenv(FF_AGENT_ENV_CLOEXEC, fd_list, 1);
    if (l->taps.text) {
        setenv(FF_AGENT_ENV_TAPS, l->taps.text, 1);
    }
    if (l->lent) {
        bool room = ff_scheduling_memory_left() > FILL_ROOM;

        setenv(FF_AGENT_ENV_LATER, room ? FF_AGENT_LATER_FILLS : "1", 1);
    }
    if (l->ptys && l->ptys->len) {
        g_autoptr(GString) ptys = g_string_new(NULL);

        for (guint i = 0; i < l->ptys->len; i++) {
            g_string_append_printf(ptys, "%s%d", i ? "," : "", g_array_index(l->ptys, int, i));
        }
        setenv(FF_AGENT_ENV_PTYS, ptys->str, 1);
    }
    if (l->front >= 0) {
        g_autofree char *front = g_strdup_printf("%d", l->front);

        setenv(FF_AGENT_ENV_FRONT, front, 1);
    }
    if (l->plan->daemonize) {
        setenv(FF_AGENT_ENV_DAEMONIZE, "1", 1);
    }
    setenv("LD_PRELOAD", preload, 1);
}

/* Without /proc QEMU looks for its modules beside what it was called, which may be our link. */
static int exec_qemu(const char *qemu, char **argv)
{
    if (access("/proc/self/exe", F_OK) < 0) {
        argv[0] = (char *)qemu;
    }
    execv(qemu, argv);
    int err = errno;
    fprintf(stderr, "farfault: cannot run %s: %s\n", qemu, g_strerror(err));
    return err == ENOENT ? 127 : 126;
}

/* Of a QEMU that takes this one's place later. What cannot be copied it cannot have. */
static void copy_given(Launch *l)
{
    g_autoptr(GArray) numbers = ff_inherited_numbers(l->command_line);

    l->given = g_array_new(FALSE, FALSE, sizeof(FfGivenFd));
    for (guint i = 0; i < numbers->len && i < MAX_GIVEN; i++) {
        int number = g_array_index(numbers, int, i);
        int copy = fcntl(number, F_DUPFD_CLOEXEC, 0);

        if (copy >= 0) {
            FfGivenFd given = {number, ff_fd_high(copy)};
            g_array_append_val(l->given, given);
        }
    }
}

static bool prepare_launch(Launch *l, GError **error)
{
    if (access(l->options->qemu, X_OK) < 0) {
        ff_launch_fail(error, "cannot run %s: %s", l->options->qemu, g_strerror(errno));
        return false;
    }
    l->runas = (FfRunas){.uid = (uid_t)-1, .gid = (gid_t)-1};
    if (l->plan->runas && !ff_runas_parse(l->plan->runas, &l->runas, error)) {
        return false;
    }
    if (!make_all_ram(l, error) || !open_endpoints(l, error) || !make_configs(l, error)) {
        return false;
    }
    prepare_agent(l);
    if (l->taps.text && !l->agent_path) {
        ff_launch_fail(error, "the taps cannot be taken over without farfault-agent.so: install "
                              "farfault again");
        return false;
    }
    if (l->front >= 0 && !l->agent_path) {
        ff_launch_fail(error, "the process that stays cannot be watched without farfault-agent.so: "
                              "install farfault again");
        return false;
    }
    copy_given(l);
    make_state(l);
    make_parcel(l);
    return start_relay(l, error);
}

static bool take_ptys(Launch *l, char *const *argv, GError **error)
{
    g_auto(GStrv) ids = ff_inherited_ptys(argv);

    if (g_strv_length(ids) > FF_AGENT_MAX_PTYS) {
        ff_launch_fail(error, "its %u pseudo-terminals are too many: at most %d",
                       g_strv_length(ids), FF_AGENT_MAX_PTYS);
        return false;
    }
    l->ptys = g_array_new(FALSE, FALSE, sizeof(int));
    for (unsigned i = 0; ids[i]; i++) {
        int fd = ff_inherited_pty(l->lent, ids[i], error);

        if (fd < 0) {
            return false;
        }
        fd = ff_fd_high(fd);
        g_array_append_val(l->ptys, fd);
    }
    return true;
}

/* The command line of a QEMU that takes another one's guest over (g_strfreev). */
static char **borrow_guest(Launch *l, char **argv, GError **error)
{
    const FfLaunchOptions *options = l->options;

    l->lent = ff_inherited_receive(options->borrow_fd, error);
    close(options->borrow_fd); /* none of QEMU's */
    if (!l->lent) {
        return NULL;
    }
    l->other = ff_fd_high(ff_inherited_pidfd(l->lent));
    l->other_door = ff_fd_high(ff_inherited_door(l->lent));
    l->front = ff_fd_high(ff_inherited_front(l->lent, &l->front_door, &l->other_stays));
    l->front_door = ff_fd_high(l->front_door);
    if (!ff_inherited_place_given(l->lent, error) || !take_ptys(l, argv, error)) {
        return NULL;
    }
    if (!ff_inherited_taps_take(&l->taps, l->lent, l->other, argv, error)) {
        return NULL;
    }
    return ff_inherited_argv(argv, options->monitor_fd, l->taps.stand_ins, getpid(), NULL,
                             &l->names);
}

/* TRUE: QEMU takes what is added to its command line, or nobody knows. FALSE: said on stderr. */
static bool takes_additions(const FfLaunchOptions *options)
{
    bool needed = options->borrow_fd >= 0 || options->needed;
    g_autofree char *why = NULL;
    FfTakes takes = ff_takes(options->qemu, false, &why);

    if (takes == FF_TAKES_NOT) {
        fprintf(stderr, "farfault: %s%s refuses what farfault adds to its command line (%s)%s\n",
                needed ? "" : "warning: ", options->qemu, why,
                needed ? ""
                       : ": this guest starts without farfault, and its migrations are QEMU's");
    }
    return takes != FF_TAKES_NOT;
}

/* TRUE: this process may do what the plan needs. FALSE: said on stderr. */
static bool is_within_limits(const FfLaunchOptions *options, const FfPlan *plan)
{
    g_autofree char *why = options->borrow_fd < 0 ? ff_shortage_of(plan) : NULL;

    if (why) {
        fprintf(stderr, "farfault: %s%s%s\n", options->needed ? "" : "warning: ", why,
                options->needed
                    ? ""
                    : ": this guest starts without farfault, and its migrations are QEMU's");
    }
    return !why;
}

/* It may just be ending, and its successor started by the same script. */
static bool ends_soon(pid_t pid)
{
    struct pollfd pfd = {.fd = pid > 0 ? pidfd_open(pid, 0) : -1, .events = POLLIN};
    bool ended = pfd.fd >= 0 ? poll(&pfd, 1, ENDS_MS) == 1 : pid > 0 && errno == ESRCH;

    if (pfd.fd >= 0) {
        close(pfd.fd);
    }
    return ended;
}

/* A running guest whose socket got another one's name would not be reached any more. farfault
 * restore is typed while the saved guest still runs; a QEMU that is started over another one is
 * none of farfault's business, but a warning. FALSE: said on stderr. */
static bool is_alone(const FfLaunchOptions *options, const FfPlan *plan)
{
    bool alone = true;

    for (guint i = 0; options->borrow_fd < 0 && i < plan->sockets->len; i++) {
        const char *path = plan->sockets->pdata[i];
        FfListener listener;

        ff_listener_find(path, &listener);
        if (!listener.is || (options->needed && ends_soon(listener.pid))) {
            continue;
        }
        g_autofree char *who = listener.pid ? g_strdup_printf("process %d", (int)listener.pid)
                                            : g_strdup("another process");
        fprintf(stderr, "farfault: %s%s: %s listens there%s\n",
                options->needed ? "" : "warning: ", path, who,
                options->needed ? ": end that guest, or give this one another path"
                                : ", and is not reached there any more");
        alone = false;
    }
    return alone || !options->needed;
}

int ff_launch(const FfLaunchOptions *options, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_auto(Launch) l = {.options = options,
                        .taps.go = -1,
                        .other = -1,
                        .other_door = -1,
                        .front = -1,
                        .front_door = -1};
    const char *slash = strrchr(argv[0], '/');
    l.prog = slash ? slash + 1 : argv[0];

    FfArgvSystem sys = *ff_argv_system_real();
    sys.opaque = (void *)options->qemu;
    sys.clients_come_later = options->borrow_fd >= 0; /* they are the other QEMU's still */
    g_autofree char *agent = ff_find_helper("farfault-agent.so");
    sys.has_agent = agent;
    sys.takes_backends = options->takes_backends;
    sys.follows_backends = options->follows_backends;
    l.command_line = argv + 1;
    g_auto(GStrv) more = NULL;
    if (options->borrow_fd >= 0) {
        if (!takes_additions(options)) {
            return 1;
        }
        more = borrow_guest(&l, argv, &error);
        if (!more) {
            fprintf(stderr, "farfault: %s\n", error->message);
            return 1;
        }
        argv = more;
    }
    l.plan = ff_plan_new((const char *const *)argv, &sys, &error);
    if (l.plan && l.plan->passthrough) {
        return exec_qemu(options->qemu, argv);
    }
    if (l.plan && options->borrow_fd < 0 &&
        (!is_within_limits(options, l.plan) || !takes_additions(options))) {
        return options->needed ? 1 : exec_qemu(options->qemu, argv);
    }
    if (l.plan && !is_alone(options, l.plan)) {
        return 1;
    }
    for (guint i = 0; l.plan && i < l.plan->warnings->len; i++) {
        fprintf(stderr, "farfault: warning: %s\n", (char *)l.plan->warnings->pdata[i]);
    }
    if (!l.plan || !prepare_launch(&l, &error)) {
        fprintf(stderr, "%s: %s\n", !l.plan || l.qemu_error ? l.prog : "farfault", error->message);
        return 1;
    }

    g_autofree int *mon_fds = NULL;
    const FfPlanFds fds = plan_fds(&l, &mon_fds);
    g_auto(GStrv) new_argv = ff_plan_render(l.plan, &fds);
    g_autoptr(GString) fd_list = g_string_new(NULL);
    sort_fds(&l, fd_list);
    set_environment(&l, fd_list->str);
    return exec_qemu(options->qemu, new_argv);
}
