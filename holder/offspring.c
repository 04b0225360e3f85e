/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See offspring.h. What the kernel says (drivers/connector/cn_proc.c) comes in the order in which
 * it happened: a fork before its child runs, an end before its pid can be another's. It may be
 * heard late. So a pid may be another's when it is heard of; that one began later.
 *
 * System calls: socket, bind, setsockopt, sendto, recvfrom, pidfd_open, pidfd_send_signal, kill,
 * poll, close, getrlimit, clock_gettime; files of /proc.
 */
#include "holder/offspring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "holder/say.h"

/* Of what was said and not yet heard; a build makes some thousand processes a second. */
#define BUFFER (8 << 20)
#define HEARD_MAX 65536 /* at once; more than there is room for */
#define AGAIN_MS 100
#define STUCK_MS (15 * 1000)
#define PIDFDS_MAX (1u << 16)
#define NS 1000000000ull
#define FIRST_PIDS 0xEFFFFFFCu /* PROC_PID_INIT_INO */

typedef struct {
    pid_t pid;
    int pidfd;      /* -1: there is none */
    bool gone;      /* it had ended when it was heard of; its end is still to be heard */
    bool fresh;     /* its children were not looked for yet */
    uint64_t begun; /* clock ticks since the boot; 0: not known */
} Member;

struct FfOffspring {
    GHashTable *all; /* pid, Member */
    int events;      /* -1: there are none */
    unsigned pidfds, most_pidfds;
    bool lost; /* /proc has other pids than ours, or is not there: nobody can be known */
};

/* ---- who belongs to them --------------------------------------------------------------------- */

static void member_free(gpointer p)
{
    Member *m = p;

    if (m->pidfd >= 0) {
        close(m->pidfd);
    }
    g_free(m);
}

static Member *find(const FfOffspring *o, pid_t pid)
{
    return g_hash_table_lookup(o->all, GINT_TO_POINTER(pid));
}

static void forget(FfOffspring *o, pid_t pid)
{
    const Member *m = find(o, pid);

    o->pidfds -= m && m->pidfd >= 0;
    g_hash_table_remove(o->all, GINT_TO_POINTER(pid));
}

/* PIDFD: is taken; -1: it has ended. Files are the guard's for other things first. */
static void add(FfOffspring *o, pid_t pid, int pidfd, uint64_t begun)
{
    Member *m = g_new(Member, 1);

    *m = (Member){.pid = pid, .pidfd = pidfd, .gone = pidfd < 0, .fresh = true, .begun = begun};
    if (pidfd >= 0 && o->pidfds == o->most_pidfds) {
        close(pidfd);
        m->pidfd = -1;
    }
    o->pidfds += m->pidfd >= 0;
    g_hash_table_insert(o->all, GINT_TO_POINTER(pid), m);
}

static int open_pid(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* What /proc/PID/stat says behind the name: the parent's pid, and when it began (clock ticks since
 * the boot). FALSE: it has ended, and nobody waits for it any more. */
static bool read_stat(pid_t pid, pid_t *parent, uint64_t *begun)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    const char *end;
    int ppid = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(end = strrchr(text, ')')) ||
        sscanf(end,
               ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
               "%" SCNu64,
               &ppid, begun) != 2) {
        return false;
    }
    *parent = ppid;
    return true;
}

/* A pidfd of M for a moment (close); -1: it has ended, and its pid may be another's. */
static int open_again(const Member *m)
{
    int pidfd = m->gone ? -1 : open_pid(m->pid);
    uint64_t begun = 0;
    pid_t parent;

    if (pidfd >= 0 && (!read_stat(m->pid, &parent, &begun) || begun != m->begun)) {
        close(pidfd);
        pidfd = -1;
    }
    return pidfd;
}

/* Its last thread has ended; somebody may have to wait for it still. */
static bool has_ended(const Member *m)
{
    struct pollfd pfd = {.fd = m->pidfd >= 0 ? m->pidfd : open_again(m), .events = POLLIN};
    bool ended = pfd.fd < 0 || poll(&pfd, 1, 0) == 1;

    if (pfd.fd >= 0 && m->pidfd < 0) {
        close(pfd.fd);
    }
    return ended;
}

/* ---- what the kernel says -------------------------------------------------------------------- */

static int ask(int sock, uint32_t op)
{
    uint32_t words[NLMSG_LENGTH(sizeof(struct cn_msg) + sizeof(op)) / sizeof(uint32_t)];
    const struct nlmsghdr nl = {.nlmsg_len = sizeof(words), .nlmsg_type = NLMSG_DONE};
    const struct cn_msg cn = {.id = {CN_IDX_PROC, CN_VAL_PROC}, .len = sizeof(op)};
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    char *at = (char *)words;

    memcpy(at, &nl, sizeof(nl));
    memcpy(at + NLMSG_HDRLEN, &cn, sizeof(cn));
    memcpy(at + NLMSG_HDRLEN + sizeof(cn), &op, sizeof(op));
    return sendto(sock, words, sizeof(words), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) <
                   0
               ? -errno
               : 0;
}

/* What is said has the pids of the first namespace. In another one it comes nonetheless, as soon
 * as somebody else listens (netlink knows network namespaces alone). */
static bool in_first_pids(void)
{
    struct stat st;

    return stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == FIRST_PIDS;
}

/* -1: not here, or not for us. Where it is not for us the kernel may as well say nothing. */
static int listen_to_forks(void)
{
    if (!in_first_pids()) {
        return -1;
    }
    const struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
    const int room = BUFFER;
    int sock = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR);

    if (sock < 0) {
        return -1;
    }
    /* Only those two: everybody may have the kernel tell of names and ids as fast as he can. */
    struct sock_filter only[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 NLMSG_HDRLEN + sizeof(struct cn_msg) + offsetof(struct proc_event, what)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)PROC_EVENT_FORK), 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)PROC_EVENT_EXIT), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    const struct sock_fprog filter = {G_N_ELEMENTS(only), only};
    if (setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0 ||
        bind(sock, (const struct sockaddr *)&group, sizeof(group)) < 0 ||
        ask(sock, PROC_CN_MCAST_LISTEN) < 0) {
        close(sock);
        return -1;
    }
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0) {
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* as much as it may */
    }
    return sock;
}

/* What of /proc's clock is later than WHEN (ns of CLOCK_MONOTONIC, with which events are marked).
 */
static bool is_later(uint64_t ticks, uint64_t when)
{
    struct timespec boot, mono;

    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    uint64_t asleep = (uint64_t)(boot.tv_sec - mono.tv_sec) * NS + (uint64_t)boot.tv_nsec -
                      (uint64_t)mono.tv_nsec;
    uint64_t tick = NS / (uint64_t)sysconf(_SC_CLK_TCK);
    return ticks * tick > when + asleep + tick;
}

/* The process itself, and not one that has its pid by now. -1: it has ended. */
static int open_child(pid_t child, uint64_t when, uint64_t *begun)
{
    int pidfd = open_pid(child);
    pid_t parent;

    if (pidfd >= 0 && (!read_stat(child, &parent, begun) || is_later(*begun, when))) {
        close(pidfd);
        pidfd = -1;
    }
    return pidfd;
}

/* Whoever had its pid before has ended. */
static void on_fork(FfOffspring *o, pid_t parent, pid_t child, uint64_t when)
{
    uint64_t begun = 0;

    forget(o, child);
    if (find(o, parent)) {
        add(o, child, open_child(child, when, &begun), begun);
    }
}

/* Of any of its threads. */
static void on_end(FfOffspring *o, pid_t tid, pid_t pid)
{
    const Member *m = find(o, pid);

    if (m && (m->gone ? tid == pid : has_ended(m))) {
        forget(o, pid);
    }
}

static void on_event(FfOffspring *o, const struct proc_event *ev)
{
    if (ev->what == PROC_EVENT_FORK &&
        ev->event_data.fork.child_pid == ev->event_data.fork.child_tgid) { /* no thread */
        on_fork(o, ev->event_data.fork.parent_tgid, ev->event_data.fork.child_tgid,
                ev->timestamp_ns);
    } else if (ev->what == PROC_EVENT_EXIT) {
        on_end(o, ev->event_data.exit.process_pid, ev->event_data.exit.process_tgid);
    }
}

/* One datagram of LEN bytes: one message. */
static void on_message(FfOffspring *o, const char *bytes, size_t len)
{
    struct proc_event ev = {0};
    struct cn_msg cn;

    if (len < NLMSG_HDRLEN + sizeof(cn)) {
        return;
    }
    memcpy(&cn, bytes + NLMSG_HDRLEN, sizeof(cn));
    len -= NLMSG_HDRLEN + sizeof(cn);
    if (cn.id.idx == CN_IDX_PROC && cn.id.val == CN_VAL_PROC) {
        memcpy(&ev, bytes + NLMSG_HDRLEN + sizeof(cn), MIN(len, sizeof(ev)));
        on_event(o, &ev);
    }
}

/* Something was lost. Who looks finds whom it was of; but it may have been the end of these. */
static void drop_gone(FfOffspring *o)
{
    g_autofree gpointer *pids = NULL;
    guint n = 0;

    pids = g_hash_table_get_keys_as_array(o->all, &n);
    for (guint i = 0; i < n; i++) {
        const Member *m = find(o, GPOINTER_TO_INT(pids[i]));
        if (m->gone || has_ended(m)) {
            forget(o, m->pid);
        }
    }
}

/* That something was lost is said before what was kept. */
void ff_offspring_hear(FfOffspring *o)
{
    char bytes[1024];
    bool lost = false;

    for (unsigned i = 0; o->events >= 0 && i < HEARD_MAX; i++) {
        struct sockaddr_nl from = {0};
        socklen_t len = sizeof(from);
        ssize_t n = recvfrom(o->events, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &len);
        if (n > 0 && from.nl_pid == 0) { /* the kernel's */
            on_message(o, bytes, (size_t)n);
        } else if (n < 0 && errno == ENOBUFS) {
            lost = true;
        } else if (n < 0 && errno != EINTR) {
            break;
        }
    }
    if (lost) {
        drop_gone(o);
    }
}

/* ---- what is seen ---------------------------------------------------------------------------- */

/* The result: a child of PARENT was not known yet. As long as that lives its pid is its own. */
static bool look_at_child(FfOffspring *o, const Member *parent, pid_t pid)
{
    uint64_t begun = 0;
    pid_t its_parent = 0;

    if (find(o, pid)) {
        return false;
    }
    int pidfd = open_pid(pid);
    if (pidfd < 0) {
        return false;
    }
    if (!read_stat(pid, &its_parent, &begun) || its_parent != parent->pid || has_ended(parent)) {
        close(pidfd);
        return false;
    }
    add(o, pid, pidfd, begun);
    return true;
}

static bool look_at_thread(FfOffspring *o, const Member *m, const char *tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%s/children", m->pid, tid), *text = NULL;
    bool found = false;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    g_auto(GStrv) pids = g_strsplit(g_strstrip(text), " ", -1);
    for (unsigned i = 0; pids[i]; i++) {
        pid_t child = (pid_t)g_ascii_strtoll(pids[i], NULL, 10);
        found = (child > 0 && look_at_child(o, m, child)) || found;
    }
    return found;
}

static bool look_at(FfOffspring *o, const Member *m)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", m->pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    bool found = false;
    const char *tid;

    while (dir && (tid = g_dir_read_name(dir))) {
        found = look_at_thread(o, m, tid) || found;
    }
    return found;
}

/* Those whose end was seen, and all that was said of them heard after it. */
static void drop_ended(FfOffspring *o)
{
    g_autoptr(GArray) ended = g_array_new(FALSE, FALSE, sizeof(pid_t));
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        const Member *m = p;
        if (!m->gone && has_ended(m)) {
            g_array_append_val(ended, m->pid);
        }
    }
    ff_offspring_hear(o);
    for (guint i = 0; i < ended->len; i++) {
        const Member *now = find(o, g_array_index(ended, pid_t, i));
        if (now && !now->gone && has_ended(now)) {
            forget(o, now->pid);
        }
    }
}

/* The result: somebody was found. FRESH: only of those whose children were not looked for. */
static bool look_once(FfOffspring *o, bool fresh)
{
    g_autofree gpointer *pids = NULL;
    guint n = 0;
    bool found = false;

    pids = g_hash_table_get_keys_as_array(o->all, &n);
    for (guint i = 0; i < n; i++) {
        Member *m = find(o, GPOINTER_TO_INT(pids[i]));
        if (!m->gone && (m->fresh || !fresh)) {
            m->fresh = false;
            found = look_at(o, m) || found;
        }
    }
    return found;
}

static void look_at_fresh(FfOffspring *o)
{
    while (look_once(o, true)) {
    }
}

void ff_offspring_look(FfOffspring *o)
{
    drop_ended(o);
    look_once(o, false);
    look_at_fresh(o);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void send_one(const Member *m, int sig)
{
    int pidfd = m->pidfd >= 0 ? m->pidfd : open_again(m);

    if (pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
    }
    if (pidfd >= 0 && m->pidfd < 0) {
        close(pidfd);
    }
}

static void send_all(const FfOffspring *o, int sig)
{
    GHashTableIter it;
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &m)) {
        send_one(m, sig);
    }
}

/* Until the first has, or for a while. The result: a while. */
static bool wait_end(const FfOffspring *o)
{
    g_autoptr(GArray) ends = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    GHashTableIter it;
    gpointer p;
    bool unseen = false;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        struct pollfd pfd = {.fd = ((const Member *)p)->pidfd, .events = POLLIN};
        g_array_append_val(ends, pfd);
        unseen = unseen || pfd.fd < 0;
    }
    return poll((struct pollfd *)(void *)ends->data, ends->len, unseen ? AGAIN_MS : STUCK_MS) ==
               0 &&
           !unseen;
}

/* Of one of them. */
static void say_stuck(const FfOffspring *o)
{
    GHashTableIter it;
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    if (g_hash_table_iter_next(&it, NULL, &m)) {
        ff_say("process %d, which is to be killed, does not end (%u are left): its page server "
               "waits until it does; is it frozen, or another user's?",
               ((const Member *)m)->pid, g_hash_table_size(o->all));
    }
}

void ff_offspring_kill(FfOffspring *o)
{
    for (bool said = false;;) {
        drop_ended(o);
        drop_gone(o);
        /* Who stands starts nobody while others are looked for; it is not to run again. */
        send_all(o, SIGSTOP);
        while (look_once(o, false)) {
            send_all(o, SIGSTOP);
        }
        if (g_hash_table_size(o->all) == 0) {
            return;
        }
        send_all(o, SIGKILL);
        if (wait_end(o) && !said) {
            say_stuck(o);
            said = true;
        }
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static bool proc_is_ours(void)
{
    g_autofree char *self = g_file_read_link("/proc/self", NULL);

    return self && g_ascii_strtoll(self, NULL, 10) == getpid();
}

FfOffspring *ff_offspring_new(void)
{
    FfOffspring *o = g_new0(FfOffspring, 1);
    struct rlimit files;

    o->all = g_hash_table_new_full(NULL, NULL, NULL, member_free);
    o->most_pidfds =
        getrlimit(RLIMIT_NOFILE, &files) == 0 ? (unsigned)MIN(files.rlim_cur / 2, PIDFDS_MAX) : 0;
    o->lost = !proc_is_ours();
    o->events = o->lost ? -1 : listen_to_forks();
    return o;
}

void ff_offspring_free(FfOffspring *o)
{
    if (o->events >= 0) {
        ask(o->events, PROC_CN_MCAST_IGNORE); /* before Linux 6.6 it would be told for ever */
        close(o->events);
    }
    g_hash_table_unref(o->all);
    g_free(o);
}

int ff_offspring_fd(const FfOffspring *o)
{
    return o->events;
}

/* In the pid namespace of /proc; 0: it has ended, -1: it has none there. */
static pid_t pid_of(int pidfd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", pidfd), *text = NULL;
    const char *line;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(line = strstr(text, "\nPid:"))) {
        return -1;
    }
    return (pid_t)g_ascii_strtoll(line + strlen("\nPid:"), NULL, 10);
}

/* One that had its pid before has ended, if that is not the same process (CRIU gives pids again).
 */
void ff_offspring_add(FfOffspring *o, int pidfd)
{
    pid_t pid = o->lost ? -1 : pid_of(pidfd), parent;
    const Member *before = pid > 0 ? find(o, pid) : NULL;
    uint64_t begun = 0;

    if (before && (before->gone || has_ended(before))) {
        forget(o, pid);
        before = NULL;
    }
    int own = pid > 0 && !before ? fcntl(pidfd, F_DUPFD_CLOEXEC, 0) : -1;
    if (own >= 0 && read_stat(pid, &parent, &begun)) {
        add(o, pid, own, begun);
        look_at_fresh(o);
    } else if (own >= 0) {
        close(own);
    }
}
