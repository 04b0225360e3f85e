/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See offspring.h. What the kernel says (drivers/connector/cn_proc.c) comes in the order in which
 * it happened, before a fork returns and before an end can be waited for. So what was said of a
 * process that is seen to have ended is all there is of it, and its pid means nobody else until
 * its end was said.
 *
 * System calls: socket, bind, setsockopt, sendto, recvfrom, pidfd_open, pidfd_send_signal, kill,
 * poll, close; files of /proc.
 */
#include "holder/offspring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of what was said and not yet heard; a build makes some thousand processes a second. */
#define BUFFER (8 << 20)
#define AGAIN_MS 100
#define FIRST_PIDS 0xEFFFFFFCu /* PROC_PID_INIT_INO */

typedef struct {
    pid_t pid;
    int pidfd;  /* -1: it had ended when it was heard of, or there was no room for one */
    bool fresh; /* its children were not looked for yet */
} Member;

struct FfOffspring {
    GHashTable *all; /* pid, Member */
    int events;      /* -1: there are none */
    bool lost;       /* /proc has other pids than ours, or is not there: nobody can be known */
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

static void add(FfOffspring *o, pid_t pid, int pidfd)
{
    Member *m = g_new(Member, 1);

    *m = (Member){.pid = pid, .pidfd = pidfd, .fresh = true};
    g_hash_table_insert(o->all, GINT_TO_POINTER(pid), m);
}

static int open_pid(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Its last thread has ended; somebody may have to wait for it still. */
static bool has_ended(const Member *m)
{
    struct pollfd pfd = {.fd = m->pidfd, .events = POLLIN};

    return m->pidfd >= 0 && poll(&pfd, 1, 0) == 1;
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
    if (bind(sock, (const struct sockaddr *)&group, sizeof(group)) < 0 ||
        ask(sock, PROC_CN_MCAST_LISTEN) < 0) {
        close(sock);
        return -1;
    }
    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)); /* less will do as well */
    return sock;
}

static void on_fork(FfOffspring *o, pid_t parent, pid_t child)
{
    if (find(o, parent)) {
        g_hash_table_remove(o->all, GINT_TO_POINTER(child)); /* its end was not heard */
        add(o, child, open_pid(child));
    }
}

/* Of any of its threads. */
static void on_end(FfOffspring *o, pid_t tid, pid_t pid)
{
    const Member *m = find(o, pid);

    if (m && (m->pidfd >= 0 ? has_ended(m) : tid == pid)) {
        g_hash_table_remove(o->all, GINT_TO_POINTER(pid));
    }
}

static void on_event(FfOffspring *o, const struct proc_event *ev)
{
    if (ev->what == PROC_EVENT_FORK &&
        ev->event_data.fork.child_pid == ev->event_data.fork.child_tgid) { /* no thread */
        on_fork(o, ev->event_data.fork.parent_tgid, ev->event_data.fork.child_tgid);
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

/* Something was lost. Who looks finds whom it was of; but of these the end may have been told. */
static void drop_unseen(FfOffspring *o)
{
    GHashTableIter it;
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &m)) {
        if (((Member *)m)->pidfd < 0) {
            g_hash_table_iter_remove(&it);
        }
    }
}

void ff_offspring_hear(FfOffspring *o)
{
    char bytes[1024];
    ssize_t n = 0;

    while (o->events >= 0) {
        struct sockaddr_nl from = {0};
        socklen_t len = sizeof(from);
        n = recvfrom(o->events, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &len);
        if (n > 0 && from.nl_pid == 0) { /* the kernel's */
            on_message(o, bytes, (size_t)n);
        } else if (n < 0 && errno == ENOBUFS) {
            drop_unseen(o);
        } else if (n < 0 && errno != EINTR) {
            return;
        }
    }
}

/* ---- what is seen ---------------------------------------------------------------------------- */

/* Is a child of PARENT. */
static bool is_child(pid_t pid, pid_t parent)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    int ppid = 0;
    const char *end;

    return g_file_get_contents(path, &text, NULL, NULL) && (end = strrchr(text, ')')) &&
           sscanf(end, ") %*c %d", &ppid) == 1 && ppid == parent;
}

/* The result: a child of PARENT was not known yet. As long as that lives its pid is its own. */
static bool look_at_child(FfOffspring *o, const Member *parent, pid_t pid)
{
    if (find(o, pid)) {
        return false;
    }
    int pidfd = open_pid(pid);
    if (pidfd < 0) {
        return false;
    }
    if (!is_child(pid, parent->pid) || has_ended(parent)) {
        close(pidfd);
        return false;
    }
    add(o, pid, pidfd);
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
    gpointer m;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &m)) {
        if (has_ended(m)) {
            g_array_append_val(ended, ((Member *)m)->pid);
        }
    }
    ff_offspring_hear(o);
    for (guint i = 0; i < ended->len; i++) {
        pid_t pid = g_array_index(ended, pid_t, i);
        const Member *now = find(o, pid);
        if (now && has_ended(now)) {
            g_hash_table_remove(o->all, GINT_TO_POINTER(pid));
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
        if (m->pidfd >= 0 && (m->fresh || !fresh)) {
            m->fresh = false;
            found = look_at(o, m) || found;
        }
    }
    return found;
}

void ff_offspring_look(FfOffspring *o)
{
    drop_ended(o);
    for (bool found = look_once(o, false); found;) {
        found = look_once(o, true);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

static void send_all(const FfOffspring *o, int sig)
{
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        const Member *m = p;
        if (m->pidfd >= 0) {
            syscall(SYS_pidfd_send_signal, m->pidfd, sig, NULL, 0);
        } else {
            kill(m->pid, sig);
        }
    }
}

/* Those that had no pidfd get one, or have ended. */
static void open_all(FfOffspring *o)
{
    GHashTableIter it;
    gpointer p;

    g_hash_table_iter_init(&it, o->all);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        Member *m = p;
        if (m->pidfd < 0) {
            m->pidfd = open_pid(m->pid);
            if (m->pidfd < 0 && errno == ESRCH) {
                g_hash_table_iter_remove(&it);
            }
        }
    }
}

/* Until the first has. */
static void wait_end(const FfOffspring *o)
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
    poll((struct pollfd *)(void *)ends->data, ends->len, unseen ? AGAIN_MS : -1);
}

void ff_offspring_kill(FfOffspring *o)
{
    for (;;) {
        drop_ended(o);
        open_all(o);
        /* Who stands starts nobody while others are looked for; it is not to run again. */
        send_all(o, SIGSTOP);
        while (look_once(o, false)) {
            send_all(o, SIGSTOP);
        }
        if (g_hash_table_size(o->all) == 0) {
            return;
        }
        send_all(o, SIGKILL);
        wait_end(o);
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

    o->all = g_hash_table_new_full(NULL, NULL, NULL, member_free);
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

void ff_offspring_add(FfOffspring *o, int pidfd)
{
    pid_t pid = o->lost ? -1 : pid_of(pidfd);

    if (pid > 0 && !find(o, pid)) {
        add(o, pid, fcntl(pidfd, F_DUPFD_CLOEXEC, 0));
        ff_offspring_look(o);
    }
}
