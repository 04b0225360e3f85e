/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See descendants.h. What the kernel says (drivers/connector/cn_proc.c) comes in the order in which
 * it happened: a fork before its child runs, an end before its pid can be another's. It may be
 * heard late. So a pid may be another's when it is heard of; that one began later.
 *
 * System calls: socket, bind, setsockopt, sendto, recvfrom, recv, pidfd_open, pidfd_send_signal,
 * poll, close, mmap, getrlimit, clock_gettime; files of /proc.
 */
#include "pager/holder/descendants.h"

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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/pidfd.h"
#include "pager/holder/log.h"

/* Of what was said and not yet heard; a build makes some thousand processes a second. */
#define BUFFER (8 << 20)
#define HEARD_MAX 65536 /* at once; more than there is room for */
#define AGAIN_MS 100
#define STUCK_MS (15 * 1000)
#define PIDFDS_MAX (1u << 16)
#define LOG_MAX (1 << 16)
#define GONE UINT64_MAX
#define NS 1000000000ull
#define STAND_TRIES 2000
#define FIRST_PIDS 0xEFFFFFFCu /* PROC_PID_INIT_INO */
#define FIRST_TIME 0xEFFFFFFAu /* PROC_TIME_INIT_INO */

typedef struct {
    pid_t pid;
    int pidfd;      /* -1: there is none */
    bool gone;      /* it had ended when it was heard of; its end is still to be heard */
    bool fresh;     /* its children were not looked for yet */
    uint64_t begun; /* clock ticks since the boot */
    int slot;       /* of the log; -1: that is full */
} Member;

/* As the next one finds it, whenever the one before was killed. */
typedef struct {
    uint64_t begun; /* GONE: Member.gone */
    uint32_t pid;   /* 0: free. Written last; observer: the process that comes after this one */
    uint32_t reserved;
} Entry;
_Static_assert(sizeof(Entry) == 16, "");

struct FfDescendantsLog {
    int events; /* -1: there are none */
    bool lost;  /* /proc has other pids than ours, or is not there: nobody can be known */
    Entry *all; /* LOG_MAX, shared */
};

struct FfDescendants {
    GHashTable *all; /* pid, Member */
    FfDescendantsLog *log;
    GArray *free; /* its slots (int) */
    unsigned pidfds, most_pidfds;
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

static Member *find_member(const FfDescendants *o, pid_t pid)
{
    return g_hash_table_lookup(o->all, GINT_TO_POINTER(pid));
}

static void forget_member(FfDescendants *o, pid_t pid)
{
    const Member *m = find_member(o, pid);

    if (m && m->slot >= 0) {
        __atomic_store_n(&o->log->all[m->slot].pid, 0, __ATOMIC_RELEASE);
        g_array_append_val(o->free, m->slot);
    }
    o->pidfds -= m && m->pidfd >= 0;
    g_hash_table_remove(o->all, GINT_TO_POINTER(pid));
}

static void write_down(FfDescendants *o, Member *m)
{
    if (!o->free->len) {
        m->slot = -1;
        return;
    }
    m->slot = g_array_index(o->free, int, o->free->len - 1);
    g_array_set_size(o->free, o->free->len - 1);
    o->log->all[m->slot].begun = m->gone ? GONE : m->begun;
    __atomic_store_n(&o->log->all[m->slot].pid, (uint32_t)m->pid, __ATOMIC_RELEASE);
}

/* PIDFD: is taken; -ESRCH: it has ended; else there is none. Files are for other things first. */
static void add_member(FfDescendants *o, pid_t pid, int pidfd, uint64_t begun)
{
    Member *m = g_new(Member, 1);

    *m = (Member){
        .pid = pid, .pidfd = pidfd, .gone = pidfd == -ESRCH, .fresh = true, .begun = begun};
    if (pidfd >= 0 && o->pidfds == o->most_pidfds) {
        close(pidfd);
        m->pidfd = -1;
    }
    o->pidfds += m->pidfd >= 0;
    write_down(o, m);
    g_hash_table_insert(o->all, GINT_TO_POINTER(pid), m);
}

/* Or -errno. */
static int open_pid(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    return pidfd < 0 ? -errno : pidfd;
}

typedef struct {
    char state;
    pid_t parent;
    uint64_t begun; /* clock ticks since the boot */
} Stat;

/* Of /proc/PID/stat. 0, -ESRCH: it has ended, and nobody waits for it any more; -errno. */
static int read_stat(pid_t pid, Stat *stat)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid);
    char text[1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    int err = errno;

    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        return err == ENOENT ? -ESRCH : -err;
    }
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* of the name */
    return end && sscanf(end,
                         ") %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                         "%*d %" SCNu64,
                         &stat->state, &stat->parent, &stat->begun) == 3
               ? 0
               : -ESRCH;
}

static bool is_stopped(pid_t pid)
{
    Stat stat;

    return read_stat(pid, &stat) == 0 && strchr("TtZX", stat.state);
}

/* A pidfd of M for a moment (close); -ESRCH: it has ended, and its pid may be another's. Else
 * -errno. */
static int open_again(const Member *m)
{
    int pidfd = m->gone ? -ESRCH : open_pid(m->pid), rc;
    Stat stat;

    if (pidfd >= 0 && ((rc = read_stat(m->pid, &stat)) < 0 || stat.begun != m->begun)) {
        close(pidfd);
        pidfd = rc < 0 ? rc : -ESRCH;
    }
    return pidfd;
}

/* Its last thread has ended; somebody may have to wait for it still. */
static bool has_ended(const Member *m)
{
    struct pollfd pfd = {.fd = m->pidfd >= 0 ? m->pidfd : open_again(m), .events = POLLIN};
    bool ended = pfd.fd < 0 ? pfd.fd == -ESRCH : poll(&pfd, 1, 0) == 1;

    if (pfd.fd >= 0 && m->pidfd < 0) {
        close(pfd.fd);
    }
    return ended;
}

/* ---- what the kernel says -------------------------------------------------------------------- */

static int ask_connector(int sock, uint32_t op)
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

static bool is_first(const char *kind, uint32_t first)
{
    g_autofree char *path = g_strdup_printf("/proc/self/ns/%s", kind);
    struct stat st;

    return stat(path, &st) < 0 ? errno == ENOENT : st.st_ino == first;
}

/* What is said has the pids and the time of the first namespaces. In another one it comes
 * nonetheless, as soon as somebody else listens (netlink knows network namespaces alone). */
static bool is_first_place(void)
{
    return is_first("pid", FIRST_PIDS) && is_first("time", FIRST_TIME);
}

/* -1: not here, or not for us. Where it is not for us the kernel may as well say nothing. */
static int listen_to_forks(void)
{
    if (!is_first_place()) {
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
        ask_connector(sock, PROC_CN_MCAST_LISTEN) < 0) {
        close(sock);
        return -1;
    }
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0) {
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* as much as it may */
    }
    return sock;
}

static uint64_t ns_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS + (uint64_t)now.tv_nsec;
}

/* Of CLOCK_MONOTONIC (ns), with which events are marked, in ticks of /proc's clock. */
static uint64_t ticks_of(uint64_t when)
{
    uint64_t before, boot, mono = ns_of(CLOCK_MONOTONIC);

    do {
        before = mono;
        boot = ns_of(CLOCK_BOOTTIME);
        mono = ns_of(CLOCK_MONOTONIC);
    } while (mono - before > NS / 1000); /* the time between is not sleep */
    return (when + boot - before) / (NS / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* The process itself, and not one that has its pid by now. -ESRCH: it has ended; -errno: it is
 * known by *BEGUN alone. */
static int open_child(pid_t child, uint64_t when, uint64_t *begun)
{
    int pidfd = open_pid(child);
    Stat stat = {.begun = ticks_of(when)};
    int rc = pidfd == -ESRCH ? -ESRCH : read_stat(child, &stat);

    *begun = stat.begun;
    if (rc == -ESRCH || stat.begun > ticks_of(when) + 1) {
        if (pidfd >= 0) {
            close(pidfd);
        }
        pidfd = -ESRCH;
    }
    return pidfd;
}

/* Who is known with that pid may be the child itself, if this is heard late; or has had it before,
 * and has ended. */
static void on_fork(FfDescendants *o, pid_t parent, pid_t child, uint64_t when)
{
    const Member *known = find_member(o, child);
    uint64_t begun = 0;

    if (known && !known->gone && known->begun + 1 >= ticks_of(when)) {
        return;
    }
    forget_member(o, child);
    if (find_member(o, parent)) {
        int pidfd = open_child(child, when, &begun);
        add_member(o, child, pidfd, begun);
    }
}

/* Of any of its threads. */
static void on_end(FfDescendants *o, pid_t tid, pid_t pid)
{
    const Member *m = find_member(o, pid);

    if (m && (m->gone ? tid == pid : has_ended(m))) {
        forget_member(o, pid);
    }
}

static void on_event(FfDescendants *o, const struct proc_event *ev)
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
static void on_message(FfDescendants *o, const char *bytes, size_t len)
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

/* FALSE: there is nothing more. A message is taken away when it was acted on: who is killed before
 * leaves it to the next one. */
static bool hear_one(FfDescendants *o, bool *lost)
{
    char bytes[1024];
    struct sockaddr_nl from = {0};
    socklen_t len = sizeof(from);
    ssize_t n =
        recvfrom(o->log->events, bytes, sizeof(bytes), MSG_PEEK, (struct sockaddr *)&from, &len);

    if (n > 0 && from.nl_pid == 0) { /* the kernel's */
        on_message(o, bytes, (size_t)n);
    }
    n = n < 0 ? n : recv(o->log->events, bytes, sizeof(bytes), 0);
    *lost = *lost || (n < 0 && errno == ENOBUFS); /* is said before what was kept */
    return n >= 0 || errno == ENOBUFS || errno == EINTR;
}

/* The result: something was lost. */
static bool hear_all(FfDescendants *o)
{
    bool lost = false;

    for (unsigned i = 0; o->log->events >= 0 && i < HEARD_MAX && hear_one(o, &lost); i++) {
    }
    return lost;
}

/* Nobody is dropped before what was said of him is heard: it may be whom he has started. GONE: also
 * those of which the end was still to be heard. The result: something was lost. */
static bool drop_ended(FfDescendants *o, bool gone)
{
    g_autoptr(GArray) ended = g_array_new(FALSE, FALSE, sizeof(pid_t));
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        const Member *m = p;
        if (m->gone ? gone : has_ended(m)) {
            g_array_append_val(ended, m->pid);
        }
    }
    bool lost = hear_all(o);
    for (guint i = 0; i < ended->len; i++) {
        const Member *now = find_member(o, g_array_index(ended, pid_t, i));
        if (now && (now->gone ? gone : has_ended(now))) {
            forget_member(o, now->pid);
        }
    }
    return lost;
}

/* Where something was lost it may have been the end of those that are gone. Who looks finds the
 * rest. */
void ff_descendants_hear(FfDescendants *o)
{
    if (hear_all(o)) {
        drop_ended(o, true);
    }
}

/* ---- what is seen ---------------------------------------------------------------------------- */

/* The result: a child of PARENT was not known yet. As long as that lives its pid is its own. */
static bool look_at_child(FfDescendants *o, const Member *parent, pid_t pid)
{
    Stat stat;

    if (find_member(o, pid)) {
        return false;
    }
    int pidfd = open_pid(pid);
    if (pidfd < 0) {
        return false;
    }
    if (read_stat(pid, &stat) < 0 || stat.parent != parent->pid || has_ended(parent)) {
        close(pidfd);
        return false;
    }
    add_member(o, pid, pidfd, stat.begun);
    return true;
}

static bool look_at_thread(FfDescendants *o, const Member *m, const char *tid)
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

static bool look_at(FfDescendants *o, const Member *m)
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

/* The result: somebody was found. FRESH: only of those whose children were not looked for. */
static bool look_once(FfDescendants *o, bool fresh)
{
    g_autofree gpointer *pids = NULL;
    guint n = 0;
    bool found = false;

    pids = g_hash_table_get_keys_as_array(o->all, &n);
    for (guint i = 0; i < n; i++) {
        Member *m = find_member(o, GPOINTER_TO_INT(pids[i]));
        if (!m->gone && (m->fresh || !fresh)) {
            m->fresh = false;
            found = look_at(o, m) || found;
        }
    }
    return found;
}

static void look_at_fresh(FfDescendants *o)
{
    while (look_once(o, true)) {
    }
}

void ff_descendants_look(FfDescendants *o)
{
    if (drop_ended(o, false)) {
        drop_ended(o, true);
    }
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

static void send_all(const FfDescendants *o, int sig)
{
    GHashTableIter it;
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &m)) {
        send_one(m, sig);
    }
}

/* Until one of them has ended, or for a while. */
static void wait_end(const FfDescendants *o)
{
    g_autoptr(GArray) ends = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        struct pollfd pfd = {.fd = ((const Member *)p)->pidfd, .events = POLLIN};
        if (pfd.fd >= 0) {
            g_array_append_val(ends, pfd);
        }
    }
    bool unseen = ends->len < g_hash_table_size(o->all);
    poll((struct pollfd *)(void *)ends->data, ends->len, unseen ? AGAIN_MS : STUCK_MS);
}

/* Of one of them. */
static void say_stuck(const FfDescendants *o)
{
    GHashTableIter it;
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    if (g_hash_table_iter_next(&it, NULL, &m)) {
        ff_say("process %d does not end although it is killed (%u are left): its page server "
               "waits until it does; is it frozen, or another user's?",
               ((const Member *)m)->pid, g_hash_table_size(o->all));
    }
}

/* SIGSTOP is told, but not obeyed at once: who is in fork() comes out of it first. */
static bool all_stand(const FfDescendants *o)
{
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        const Member *m = p;
        if (!m->gone && !is_stopped(m->pid) && !has_ended(m)) {
            return false;
        }
    }
    return true;
}

/* Where the kernel tells of forks it will tell of that one as well. */
static void stop_all(FfDescendants *o)
{
    send_all(o, SIGSTOP);
    for (unsigned i = 0; o->log->events < 0 && i < STAND_TRIES && !all_stand(o); i++) {
        poll(NULL, 0, 1); /* there is no event of it */
    }
}

void ff_descendants_kill(FfDescendants *o)
{
    gint64 since = g_get_monotonic_time();
    bool said = false;

    for (;;) {
        drop_ended(o, true);
        /* Who stands starts nobody while others are looked for; it is not to run again. */
        stop_all(o);
        while (look_once(o, false)) {
            stop_all(o);
        }
        if (g_hash_table_size(o->all) == 0) {
            return;
        }
        send_all(o, SIGKILL);
        wait_end(o);
        if (!said && g_get_monotonic_time() - since > STUCK_MS * 1000) {
            said = true;
            say_stuck(o);
        }
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static bool proc_is_ours(void)
{
    g_autofree char *self = g_file_read_link("/proc/self", NULL);

    return self && g_ascii_strtoll(self, NULL, 10) == getpid();
}

FfDescendantsLog *ff_descendants_log_new(void)
{
    FfDescendantsLog *log = g_new0(FfDescendantsLog, 1);

    log->all = mmap(NULL, LOG_MAX * sizeof(Entry), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (log->all == MAP_FAILED) {
        g_error("no memory for %u processes: %s", LOG_MAX, g_strerror(errno));
    }
    log->lost = !proc_is_ours();
    log->events = log->lost ? -1 : listen_to_forks();
    return log;
}

void ff_descendants_log_free(FfDescendantsLog *log)
{
    if (log->events >= 0) {
        close(log->events);
    }
    munmap(log->all, LOG_MAX * sizeof(Entry));
    g_free(log);
}

int ff_descendants_log_fd(const FfDescendantsLog *log)
{
    return log->events;
}

void ff_descendants_log_move(FfDescendantsLog *log, int fd)
{
    log->events = fd;
}

/* Of one that has ended since, forks may not have been heard yet. */
static void take_up(FfDescendants *o, int slot)
{
    Entry *e = &o->log->all[slot];
    Member m = {.pid = (pid_t)e->pid, .begun = e->begun, .gone = e->begun == GONE};
    int pidfd = open_again(&m);

    g_array_append_val(o->free, slot); /* the last one, so it is taken again */
    if (pidfd >= 0 || o->log->events >= 0) {
        add_member(o, m.pid, pidfd, m.begun);
    } else {
        e->pid = 0;
    }
}

FfDescendants *ff_descendants_new(FfDescendantsLog *log)
{
    FfDescendants *o = g_new0(FfDescendants, 1);
    struct rlimit files;

    o->all = g_hash_table_new_full(NULL, NULL, NULL, member_free);
    o->log = log;
    o->free = g_array_new(FALSE, FALSE, sizeof(int));
    o->most_pidfds =
        getrlimit(RLIMIT_NOFILE, &files) == 0 ? (unsigned)MIN(files.rlim_cur / 2, PIDFDS_MAX) : 0;
    for (int i = LOG_MAX; i-- > 0;) {
        if (log->all[i].pid) {
            take_up(o, i);
        } else {
            g_array_append_val(o->free, i);
        }
    }
    return o;
}

void ff_descendants_free(FfDescendants *o)
{
    if (o->log->events >= 0) {
        ask_connector(o->log->events,
                      PROC_CN_MCAST_IGNORE); /* before Linux 6.6 it would speak for ever */
    }
    g_hash_table_unref(o->all);
    g_array_unref(o->free);
    g_free(o);
}

/* One that had its pid before has ended, if that is not the same process (CRIU gives pids again).
 */
void ff_descendants_add(FfDescendants *o, int pidfd)
{
    pid_t pid = o->log->lost ? -1 : ff_pidfd_pid(pidfd);
    const Member *before = pid > 0 ? find_member(o, pid) : NULL;
    Stat stat;

    if (before && (before->gone || has_ended(before))) {
        forget_member(o, pid);
        before = NULL;
    }
    int own = pid > 0 && !before ? fcntl(pidfd, F_DUPFD_CLOEXEC, 0) : -1;
    if (own >= 0 && read_stat(pid, &stat) == 0) {
        add_member(o, pid, own, stat.begun);
        look_at_fresh(o);
    } else if (own >= 0) {
        close(own);
    }
}
