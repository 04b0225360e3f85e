/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the holder holds, and how it reads: only while nobody is inside the family's gate, right
 * into the record, and no further than one event. See internal.h.
 *
 * A userfaultfd is armed in the epoll (once) when everything in it was read. Until then the space
 * is `ready`, and read_family() of its family reads it when the gate allows: at once, or when the
 * pager tells that the last one has left, that an event was applied, or that there is room for
 * faults.
 *
 * System calls: preadv2, read, getrlimit, setrlimit, poll, eventfd, epoll_ctl, fcntl, readlinkat,
 * close.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/pidfd.h"

#define AGAIN_MS 100
#define ENDS_MS 1000

FfHeldSpace *ff_holder_find(FfHolder *h, uint64_t id)
{
    FfHeldSpace *s = &h->space[id % FF_HOLDER_SPACES];

    return id && s->id == id ? s : NULL;
}

static unsigned index_of(const FfHolder *h, const FfHeldSpace *s)
{
    return s - h->space;
}

/* ---- spaces come and go ---------------------------------------------------------------------- */

static void release_space(FfHolder *h, FfHeldSpace *s)
{
    ff_holder_close(h, &s->uffd);
    ff_holder_close(h, &s->memfd);
    ff_holder_close(h, &s->news);
    ff_holder_close(h, &s->told);
    ff_holder_close(h, &s->sock);
    ff_holder_close(h, &s->pidfd);
    if (s->rec) {
        ff_space_record_unmap(s->rec);
    }
    *s = (FfHeldSpace){0};
}

/* A place with a record and an eventfd: its index, or -1. Its id is not set, but it is not free. */
static int prepare_space(FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (s->id || s->rec) {
            continue;
        }
        *s = (FfHeldSpace){.root = i, .parent = -1, .next = -1, .uffd = -1, .told = -1, .sock = -1};
        s->pidfd = -1;
        s->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        s->memfd = ff_space_record_create(&s->rec);
        if (s->news < 0 || s->memfd < 0) {
            release_space(h, s);
            return -1;
        }
        return i;
    }
    return -1;
}

/* What a child needs is there before anything is read. */
static bool have_spare(FfHolder *h)
{
    if (h->spare < 0) {
        h->spare = prepare_space(h);
    }
    return h->spare >= 0;
}

static void name_space(FfHolder *h, FfHeldSpace *s)
{
    s->id = ++h->last_number * FF_HOLDER_SPACES + index_of(h, s);
    s->rec->id = s->id;
    s->rec->root = h->space[s->root].id;
}

/* Takes UFFD. The kernel's list of what can be read is looked at again, so nothing is missed. */
static bool watch_uffd(FfHolder *h, FfHeldSpace *s, int uffd)
{
    s->uffd = uffd;
    fcntl(uffd, F_SETFL, fcntl(uffd, F_GETFL) | O_NONBLOCK);
    fcntl(uffd, F_SETFD, FD_CLOEXEC);
    return ff_holder_watch(h, uffd, FF_ON_UFFD, index_of(h, s), EPOLLIN | EPOLLONESHOT);
}

/* Anything else could make the one thread wait, or hand it messages of somebody's own. */
static bool is_userfaultfd(int fd)
{
    char target[64] = "";
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return readlink(path, target, sizeof(target) - 1) > 0 &&
           strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

void ff_holder_registered(FfHolder *h, uint64_t connection)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (s->id && s->root == (int)i && s->connection == connection) {
            __atomic_store_n(&s->rec->registered, 1, __ATOMIC_RELEASE);
            for (; s; s = s->next < 0 ? NULL : &h->space[s->next]) {
                ff_tell(s->news);
            }
        }
    }
}

void ff_holder_keep_only(FfHolder *h, uint64_t connection)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        bool other = s->id && s->root == (int)i && s->connection != connection;
        while (other && s->id && s->next >= 0) {
            ff_holder_drop(h, h->space[s->next].id, true);
        }
        if (other && s->id) {
            ff_holder_kill_process(s);
        }
    }
}

/* Its pager has what it needs, and cannot refuse it any more. */
static bool is_taken(const FfHeldSpace *s)
{
    return __atomic_load_n(&s->rec->taken, __ATOMIC_ACQUIRE) == FF_TAKEN;
}

bool ff_holder_all_run(FfHolder *h, uint64_t connection)
{
    bool all = ff_holder_kept_run(h, connection);

    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        FfHeldSpace *s = &h->space[i];
        if (s->id && s->root == (int)i && s->connection == connection && s->pidfd >= 0) {
            s->runs = s->runs || ff_holder_is_let_run(s->rec->pid, s->pidfd);
            all = all && s->runs && is_taken(s);
        }
    }
    return all;
}

static void look_if_lost(FfHolder *h, const FfHeldSpace *root)
{
    if (!root->runs && root->pidfd >= 0 && ff_pidfd_has_ended(root->pidfd)) {
        ff_holder_lost(h, root->connection);
    }
}

/* ---- clients --------------------------------------------------------------------------------- */

/* The first one of a family, without a userfaultfd. NULL and errno: no room. */
static FfHeldSpace *new_root(FfHolder *h, pid_t pid, uid_t uid, const void *hello, uint32_t len)
{
    int i = prepare_space(h);
    FfHeldSpace *s = i < 0 ? NULL : &h->space[i];

    if (s && (s->told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        release_space(h, s);
        s = NULL;
    }
    if (!s) {
        return NULL;
    }
    name_space(h, s);
    s->n_family = 1;
    s->rec->root = s->id;
    s->rec->pid = pid;
    s->rec->uid = uid;
    s->rec->hello_len = len;
    memcpy(s->rec->hello, hello, len);
    s->rec->dialect = h->cfg->dialect;
    s->rec->registered = !h->cfg->arrival->registers_later;
    return s;
}

/* Nothing is ever read of what stands here for its userfaultfd. */
FfHeldSpace *ff_holder_add_without(FfHolder *h, pid_t pid, uid_t uid, const void *hello,
                                   uint32_t len)
{
    FfHeldSpace *s = new_root(h, pid, uid, hello, len);

    if (!s) {
        return NULL;
    }
    s->uffd = fcntl(h->null_fd, F_DUPFD_CLOEXEC, 0);
    if (s->uffd < 0 || !ff_holder_watch(h, s->told, FF_ON_TOLD, index_of(h, s), EPOLLIN)) {
        release_space(h, s);
        return NULL;
    }
    return s;
}

bool ff_holder_add_client(FfHolder *h, FfPending *p)
{
    if (!is_userfaultfd(p->uffd)) {
        ff_say("process %d: what it passed is not a userfaultfd", p->pid);
        return false;
    }
    FfHeldSpace *s = new_root(h, p->pid, p->uid, p->bytes, p->len);
    if (!s) {
        ff_say("process %d: no room for another client (%u at most, and files: ulimit -n)", p->pid,
               FF_HOLDER_SPACES);
        return false;
    }
    unsigned i = index_of(h, s);
    s->rec->dialect = p->dialect;
    s->connection = p->connection;
    s->sock = p->sock;
    s->pidfd = p->pidfd;
    int uffd = p->uffd;
    s->uffd = uffd;
    ff_holder_hold(h, s);
    p->sock = p->uffd = p->pidfd = -1;
    if (!ff_holder_watch(h, s->told, FF_ON_TOLD, i, EPOLLIN) || !watch_uffd(h, s, uffd) ||
        !ff_holder_watch(h, s->sock, FF_ON_SOCK, i, EPOLLRDHUP) ||
        (s->pidfd >= 0 && !ff_holder_watch(h, s->pidfd, FF_ON_CLIENT, i, EPOLLIN))) {
        ff_say("process %d: cannot be watched: %s", s->rec->pid, g_strerror(errno));
        ff_holder_kill_space(h, s);
        release_space(h, s);
        return false;
    }
    ff_holder_tell_pager(h);
    if (h->cfg->arrival->ends_unseen) {
        ff_holder_set_timer(h, ENDS_MS); /* look_for_ends() */
    }
    return true;
}

/* ---- reading: the gate is closed, and nobody is inside --------------------------------------- */

typedef enum { READ_ALL, READ_EVENT, READ_LATER } Read;

static void add_child(FfHolder *h, FfHeldSpace *parent, int uffd)
{
    FfHeldSpace *s = &h->space[h->spare];

    h->spare = -1;
    s->root = parent->root;
    s->parent = index_of(h, parent);
    s->next = parent->next;
    parent->next = index_of(h, s);
    h->space[s->root].n_family++;
    name_space(h, s);
    s->rec->pid = 0;
    s->rec->uid = parent->rec->uid;
    s->rec->dialect = parent->rec->dialect;
    s->tries = 0;
    s->uffd = uffd;
    ff_holder_hold(h, s);
    if (!watch_uffd(h, s, uffd)) {
        ff_say("a child of process %d cannot be watched, and waits: %s", parent->rec->pid,
               g_strerror(errno));
    }
    parent->rec->child = s->id;
    ff_holder_tell_pager(h);
}

/* What is in `in`. */
static Read file_space(FfHolder *h, FfHeldSpace *s)
{
    FfSpaceRecord *r = s->rec;

    if (r->in.event == UFFD_EVENT_PAGEFAULT) {
        /* There was room before the read. */
        ff_space_record_add_fault(r, &r->in);
        return READ_ALL;
    }
    if (r->in.event == UFFD_EVENT_FORK) {
        add_child(h, s, r->in.arg.fork.ufd);
    }
    FF_FAULT_AT("holder-event");
    __atomic_store_n(&r->seq, r->in_seq, __ATOMIC_RELEASE);
    FF_FAULT_AT("holder-filed");
    return READ_EVENT; /* it is the pager's when read_family() has set the gate */
}

static bool has_room(FfSpaceRecord *r)
{
    if (r->head - __atomic_load_n(&r->tail, __ATOMIC_SEQ_CST) < FF_SPACE_RECORD_FAULTS) {
        return true;
    }
    /* Against ff_space_record_take_faults(): one of the two sees the other. */
    __atomic_store_n(&r->full, 1, __ATOMIC_SEQ_CST);
    return r->head - __atomic_load_n(&r->tail, __ATOMIC_SEQ_CST) < FF_SPACE_RECORD_FAULTS;
}

static void arm_space(FfHolder *h, FfHeldSpace *s)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT,
                            .data.u64 = (uint64_t)FF_ON_UFFD << 32 | index_of(h, s)};

    s->ready = false;
    epoll_ctl(h->epoll, EPOLL_CTL_MOD, s->uffd, &e);
}

/* A process that has another fd of it can make it wait (O_NONBLOCK is not this fd's alone), so it
 * is said with each read, where the kernel knows that of a userfaultfd (6.18 does, 6.1 does
 * not). */
static ssize_t read_one(FfHeldSpace *s)
{
    struct iovec iov = {&s->rec->in, sizeof(s->rec->in)};
    ssize_t n = preadv2(s->uffd, &iov, 1, -1, RWF_NOWAIT);

    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        int flags = fcntl(s->uffd, F_GETFL);
        if (!(flags & O_NONBLOCK)) {
            fcntl(s->uffd, F_SETFL, flags | O_NONBLOCK);
        }
        n = read(s->uffd, &s->rec->in, sizeof(s->rec->in));
    }
    return n;
}

/* The same where nothing is ready for a child: with no fd free the kernel keeps a fork for later
 * (EMFILE), and hands out the rest. */
static ssize_t read_no_fork(FfHeldSpace *s)
{
    struct rlimit files, none;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0) {
        return -1;
    }
    none = (struct rlimit){0, files.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &none) < 0) {
        return -1;
    }
    ssize_t n = read_one(s);
    int err = errno;
    setrlimit(RLIMIT_NOFILE, &files);
    errno = err;
    return n;
}

static void say_no_room(FfHolder *h, const FfHeldSpace *s)
{
    FfHeldSpace *root = &h->space[s->root];

    if (!root->said_room && !h->unguarded) { /* of which something was said */
        ff_say("process %d or a child of it has forked, and waits: no room for another child"
               " (%u of one client, %u in all; files: ulimit -n)",
               root->rec->pid, FF_HOLDER_FAMILY, FF_HOLDER_SPACES);
        root->said_room = true;
    }
}

/* Until an event, or nothing is there. */
static Read read_messages(FfHolder *h, FfHeldSpace *s)
{
    FfSpaceRecord *r = s->rec;
    bool may_fork = have_spare(h) && !h->unguarded && h->space[s->root].n_family < FF_HOLDER_FAMILY;

    for (;;) {
        if (!has_room(r)) {
            s->full = true;
            return READ_LATER;
        }
        r->in_seq = r->seq + 1;
        ssize_t n = FF_FAULT_CALL("holder-read", may_fork ? read_one(s) : read_no_fork(s));
        if (n < 0 && errno == EAGAIN) {
            arm_space(h, s);
            return READ_ALL;
        }
        if (n < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
            say_no_room(h, s);                /* a child's userfaultfd: it waits in fork() */
            ff_holder_set_timer(h, AGAIN_MS); /* what becomes free has no event */
            return READ_LATER;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n != sizeof(r->in)) {
            s->ready = false;
            ff_say("process %d: its userfaultfd cannot be read: %s", r->pid,
                   g_strerror(n < 0 ? errno : EIO));
            return READ_ALL;
        }
        FF_FAULT_AT("holder-was-read");
        if (file_space(h, s) == READ_EVENT) {
            return READ_EVENT; /* `ready` still: more may be there */
        }
    }
}

static bool can_be_read(const FfHeldSpace *s)
{
    return s->ready && !s->full && s->uffd >= 0;
}

/* Reads of ROOT's family what the gate allows. */
static void read_family(FfHolder *h, FfHeldSpace *root)
{
    bool any = false;

    /* Until then the client can neither change its memory nor fork: what the pager finds out about
     * it is what the first event finds. */
    if (!is_taken(root)) {
        return; /* the pager tells */
    }
    if (ff_gate_state(ff_gate_look(root->rec)) == FF_GATE_EVENT) {
        return; /* the pager opens it, and tells */
    }
    for (FfHeldSpace *s = root; s; s = s->next < 0 ? NULL : &h->space[s->next]) {
        any = any || can_be_read(s);
    }
    if (any && !ff_gate_close(root->rec)) {
        return; /* the last one that leaves tells */
    }
    for (FfHeldSpace *s = root; any && s; s = s->next < 0 ? NULL : &h->space[s->next]) {
        if (!can_be_read(s)) {
            continue;
        }
        uint64_t head = s->rec->head;
        Read what = read_messages(h, s);
        if (what == READ_EVENT) {
            ff_gate_set(root->rec, FF_GATE_EVENT);
        }
        if (what == READ_EVENT || s->rec->head != head) {
            ff_tell(s->news);
        }
        if (what == READ_EVENT) {
            return;
        }
    }
    if (ff_gate_state(ff_gate_look(root->rec)) == FF_GATE_CLOSED) {
        ff_gate_set(root->rec, FF_GATE_OPEN);
    }
}

/* The process that had to open the gate has not: a pager that died after it had applied the event,
 * or before anything was read. */
static void open_if_no_event(FfHolder *h, FfHeldSpace *root)
{
    bool event = false;

    for (FfHeldSpace *s = root; s; s = s->next < 0 ? NULL : &h->space[s->next]) {
        event = event || (s->uffd >= 0 && ff_space_record_has_event(s->rec));
    }
    if (!event && ff_gate_state(ff_gate_look(root->rec)) == FF_GATE_EVENT) {
        ff_gate_set(root->rec, FF_GATE_OPEN);
    }
}

void ff_holder_drop(FfHolder *h, uint64_t id, bool failed)
{
    FfHeldSpace *s = ff_holder_find(h, id);

    if (!s) {
        return;
    }
    FfHeldSpace *root = &h->space[s->root];
    /* Else the gate is its owner's, who may be about to open it: one that is opened here as well is
     * opened twice, the second time over the next event. */
    bool owes = s->uffd >= 0 && ff_space_record_has_event(s->rec);
    if (failed) {
        ff_holder_kill_space(h, s);
    } else {
        look_if_lost(h, s);
        ff_holder_let_go(h, s);
    }
    ff_holder_close(h, &s->uffd);
    s->ready = false;
    root->n_family--;
    root->said_room = false;
    if (s != root) {
        for (FfHeldSpace *p = root;; p = &h->space[p->next]) {
            if (p->next == (int)index_of(h, s)) {
                p->next = s->next;
                break;
            }
        }
        release_space(h, s);
    }
    /* The root's record has the gate, so it stays for as long as there is anybody. */
    if (root->uffd < 0 && root->next < 0) {
        release_space(h, root);
    } else {
        if (owes) {
            open_if_no_event(h, root); /* nobody is left for it */
        }
        read_family(h, root);
    }
}

void ff_holder_on_uffd(FfHolder *h, unsigned i)
{
    FfHeldSpace *s = &h->space[i];

    if (s->id && s->uffd >= 0) {
        s->ready = true;
        read_family(h, &h->space[s->root]);
    }
}

static void look_for_room(FfHolder *h, FfHeldSpace *root)
{
    for (FfHeldSpace *s = root; s; s = s->next < 0 ? NULL : &h->space[s->next]) {
        s->full = s->full && !has_room(s->rec);
    }
}

/* Once for each fd: it stays as it is then. Whose fd it was may have been dropped meanwhile, and
 * another client have its place. */
void ff_holder_on_end(FfHolder *h, unsigned i, FfHolderOn on)
{
    FfHeldSpace *root = &h->space[i];
    struct pollfd pfd = {.fd = on == FF_ON_SOCK ? root->sock : root->pidfd,
                         .events = on == FF_ON_SOCK ? POLLRDHUP : POLLIN};

    if (root->id && pfd.fd >= 0 && poll(&pfd, 1, 0) == 1) {
        epoll_ctl(h->epoll, EPOLL_CTL_DEL, pfd.fd, NULL);
        look_if_lost(h, root);
        ff_holder_tell_probe(h, root);
    }
}

void ff_holder_on_told(FfHolder *h, unsigned i)
{
    FfHeldSpace *root = &h->space[i];

    if (!root->id) {
        return;
    }
    ff_untell(root->told);
    look_for_room(h, root);
    read_family(h, root);
}

/* That a process of CRIU's has another memory (execve) has no event, nor has the end of a child: it
 * has no socket. */
static void look_for_ends(FfHolder *h, FfHeldSpace *root)
{
    if (h->cfg->arrival->ends_unseen) {
        ff_holder_tell_probe(h, root);
        ff_holder_set_timer(h, ENDS_MS);
    }
}

void ff_holder_try_again(FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        if (h->space[i].id && h->space[i].root == (int)i) {
            read_family(h, &h->space[i]);
            look_for_ends(h, &h->space[i]);
        }
    }
    ff_holder_tell_pager(h);
}

void ff_holder_reset_gates(FfHolder *h)
{
    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        if (h->space[i].id && h->space[i].root == (int)i) {
            ff_gate_reset(h->space[i].rec);
            open_if_no_event(h, &h->space[i]);
            look_for_room(h, &h->space[i]); /* it may have died before it told */
            read_family(h, &h->space[i]);
        }
    }
}
