/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cloud Hypervisor's peer when it sends; see take-snapshot.h. All that it says is taken for
 * hostile, but for its memory, which is whatever it is.
 *
 * Its memory stands still from State until the last step is answered, or until the connection ends:
 * then its guest continues. So each piece is copied only while the connection is there; once all is
 * copied, its end does no harm, and the snapshot is finished. A process that has died has no guest
 * that continues: then our descriptors are all that is left of it, and all of it is copied.
 *
 * System calls: accept4, getsockopt, pidfd_open, poll, recv, recvmsg, send, fstat, close.
 */
#include "pager/cloud-hypervisor/take-snapshot.h"

#include <errno.h>
#include <gio/gio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "pager/holder/log.h"
#include "pager/holder/vmm-wire.h"

#define FIRST_MS 2000 /* for the first byte: it begins to talk at once */
#define SAY_AFTER_MS 5000
#define DEATH_MS 1000 /* from the end of a dying process's connections to its own, at most */
#define CONFIG_MAX (16ull << 20)
#define STATE_MAX (256ull << 20)
#define PIECE (64u << 10)
#define FDS_MAX 4

typedef enum { CONNECTED, STARTED, PASSING, CONFIGURED, STATED, STORED } Step;

typedef struct {
    int sock, stop;
    int process; /* a pidfd; -1: not known */
    pid_t pid;   /* of it */
    Step step;
    bool abandoned;
    unsigned n; /* of `fd` */
    uint32_t number[FF_OFFLOAD_SLOTS];
    int fd[FF_OFFLOAD_SLOTS];
    unsigned n_slots;
    FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
    GByteArray *config, *state;
    FfOffloadWriter *writer;
    FfReceived *r;
} Peer;

static bool fail_take(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "no snapshot was taken: %s", what);
    return false;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* 1: SOCK can be read, or has ended; 0: not in MS milliseconds (-1: none); -EINTR: STOP. */
static int wait_readable(int sock, int stop, int ms)
{
    struct pollfd pfd[] = {{.fd = sock, .events = POLLIN}, {.fd = stop, .events = POLLIN}};
    int n;

    do {
        n = poll(pfd, G_N_ELEMENTS(pfd), ms);
    } while (n < 0 && errno == EINTR);
    return pfd[1].revents ? -EINTR : n > 0;
}

static bool wait_word(const Peer *p, GError **error)
{
    int rc = wait_readable(p->sock, p->stop, SAY_AFTER_MS);

    if (rc == 0) {
        ff_say("Cloud Hypervisor says nothing: still waiting");
        rc = wait_readable(p->sock, p->stop, -1);
    }
    return rc == 1 || fail_take(error, "this was ended by a signal");
}

/* Of one recv(). FALSE: not a byte. */
static bool was_read(ssize_t n, GError **error)
{
    if (n > 0) {
        return true;
    }
    return n < 0 ? fail_take(error, g_strerror(errno))
                 : fail_take(error, "Cloud Hypervisor has left");
}

/* Descriptors that come with it are lost. */
static bool read_all(const Peer *p, void *to, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        if (!wait_word(p, error)) {
            return false;
        }
        ssize_t n = recv(p->sock, (char *)to + done, len - done, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (!was_read(n, error)) {
            return false;
        }
        done += n;
    }
    return true;
}

/* As much as comes: no memory is taken for what is only promised. */
static GByteArray *read_text(const Peer *p, uint64_t len, GError **error)
{
    g_autoptr(GByteArray) text = g_byte_array_new();

    while (text->len < len) {
        guint some = (guint)MIN(len - text->len, PIECE), at = text->len;
        g_byte_array_set_size(text, at + some);
        if (!read_all(p, text->data + at, some, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&text);
}

/* FALSE: nobody hears it. */
static bool send_response(const Peer *p, FfVmmStatus status)
{
    const FfVmmResponse response = {.status = GUINT16_TO_LE(status)};

    return send(p->sock, &response, sizeof(response), MSG_NOSIGNAL) == sizeof(response);
}

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct {
    int fd[FDS_MAX];
    unsigned n;
    bool lost; /* there were more */
} Fds;

static void fds_clear(Fds *fds)
{
    for (unsigned i = 0; i < fds->n; i++) {
        close(fds->fd[i]);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Fds, fds_clear)

static void take_fds(Fds *fds, struct msghdr *mh)
{
    fds->lost = fds->lost || mh->msg_flags & MSG_CTRUNC;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        const unsigned char *at = CMSG_DATA(c);
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t left = c->cmsg_len - CMSG_LEN(0); left >= sizeof(int); left -= sizeof(int)) {
            int fd;
            memcpy(&fd, at, sizeof(fd));
            at += sizeof(fd);
            if (fds->n < FDS_MAX) {
                fds->fd[fds->n++] = fd;
            } else {
                close(fd);
                fds->lost = true;
            }
        }
    }
}

/* The slot's number, and what comes with it. */
static bool read_slot(const Peer *p, uint32_t *slot, Fds *fds, GError **error)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;

    for (size_t done = 0; done < sizeof(*slot);) {
        struct iovec iov = {(char *)slot + done, sizeof(*slot) - done};
        struct msghdr mh = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof(control)};
        if (!wait_word(p, error)) {
            return false;
        }
        ssize_t n = recvmsg(p->sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (!was_read(n, error)) {
            return false;
        }
        done += n;
        take_fds(fds, &mh);
    }
    return true;
}

/* Memory can be a file as well, of a zone that has one. */
static bool receive_memory(Peer *p, uint64_t len, GError **error)
{
    g_auto(Fds) fds = {.n = 0};
    uint32_t slot;
    struct stat st;

    if (!read_slot(p, &slot, &fds, error)) {
        return false;
    }
    slot = GUINT32_FROM_LE(slot);
    if (fds.n != 1 || fds.lost) {
        return fail_take(error, "MemoryFd has passed no descriptor, or more than one");
    }
    if (fstat(fds.fd[0], &st) < 0 || !S_ISREG(st.st_mode)) {
        return fail_take(error, "what MemoryFd has passed is no memory (no memfd, and no file)");
    }
    for (unsigned i = 0; i < p->n; i++) {
        if (p->number[i] == slot) {
            return fail_take(error, "MemoryFd has passed memory of one slot twice");
        }
    }
    if (p->n == FF_OFFLOAD_SLOTS) {
        return fail_take(error, "MemoryFd has passed too many slots (32 at most)");
    }
    p->number[p->n] = slot;
    p->fd[p->n++] = fds.fd[0];
    fds.n = 0;
    return true;
}

static int find_memory(const Peer *p, uint32_t slot)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (p->number[i] == slot) {
            return p->fd[i];
        }
    }
    return -1;
}

/* ---- the other steps ------------------------------------------------------------------------- */

static bool receive_start(Peer *p, uint64_t len, GError **error)
{
    return true; /* the version is looked at with the request */
}

/* Each slot of the table has its memory, which is large enough; and there are no others. */
static bool memory_fits(const Peer *p, GError **error)
{
    g_autofree char *what = NULL;
    struct stat st;

    for (unsigned i = 0; i < p->n_slots; i++) {
        const FfOffloadSlot *s = &p->slot[i];
        int fd = find_memory(p, s->slot);
        if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < s->file_offset + s->size) {
            what = g_strdup_printf("memory of slot %u %s", s->slot,
                                   fd < 0 ? "was not passed" : "is smaller than Config says");
            return fail_take(error, what);
        }
    }
    return p->n == p->n_slots ||
           fail_take(error, "MemoryFd has passed a slot that Config does not name");
}

static bool receive_config(Peer *p, uint64_t len, GError **error)
{
    FfOffloadFacts facts;

    p->config = read_text(p, len, error);
    if (!p->config) {
        return false;
    }
    p->n_slots = ff_offload_parse((char *)p->config->data, p->config->len, p->slot, &facts, error);
    if (!p->n_slots) {
        g_prefix_error(error, "no snapshot was taken: Config: ");
        return false;
    }
    if (facts.private_file) {
        return fail_take(error,
                         "a zone of its memory is a file that is not shared, so what it passes is "
                         "not that memory: give the zone shared=on");
    }
    if (facts.foreign) {
        ff_say("%s of vm_config has a device that is another process: farfault pager --to will not "
               "restore this guest, Cloud Hypervisor's own offload_daemon does (without "
               "--ondemand)",
               facts.foreign);
    }
    for (unsigned i = 0; i < p->n_slots; i++) {
        p->r->memory += p->slot[i].size;
    }
    return memory_fits(p, error);
}

static bool receive_state(Peer *p, uint64_t len, GError **error)
{
    p->state = read_text(p, len, error);
    return p->state;
}

/* The end of its connection is that of the process, and none that it has made: such a one may let
 * its guest run before it dies. A process that is killed closes its files when its last thread
 * ends, and is marked before (PF_EXITING, linux/sched.h; the ninth field of stat, and the seventh
 * after its name). */
static bool is_exiting(const Peer *p)
{
    const unsigned long exiting = 0x4;
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", p->pid), *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return true; /* it has been waited for as well */
    }
    const char *at = strrchr(text, ')');
    unsigned long flags = 0;
    return at && sscanf(at, ") %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 && flags & exiting;
}

static bool is_dead(Peer *p)
{
    struct pollfd pfd = {.fd = p->process, .events = POLLIN};

    if (!p->r->gone && p->process >= 0 && is_exiting(p) && poll(&pfd, 1, DEATH_MS) == 1) {
        ff_say("Cloud Hypervisor has died: what it has passed is kept");
        p->r->gone = true;
    }
    return p->r->gone;
}

static bool go_on(void *opaque, GError **error)
{
    Peer *p = opaque;
    struct pollfd pfd[] = {{.fd = p->stop, .events = POLLIN},
                           {.fd = p->sock, .events = POLLIN | POLLRDHUP}};

    if (poll(pfd, G_N_ELEMENTS(pfd), 0) <= 0) {
        return true;
    }
    if (pfd[0].revents) {
        return fail_take(error, "this was ended by a signal");
    }
    return is_dead(p) ||
           fail_take(error, "Cloud Hypervisor has not waited for the answer to the last "
                            "step, so its guest may run already");
}

static bool store_snapshot(Peer *p, uint64_t len, GError **error)
{
    for (unsigned i = 0; i < p->n_slots; i++) {
        if (!ff_offload_writer_memory(p->writer, &p->slot[i], find_memory(p, p->slot[i].slot),
                                      go_on, p, error)) {
            return false;
        }
    }
    p->r->bytes = ff_offload_writer_bytes(p->writer);
    /* The last look: all that was read is from before it. */
    return go_on(p, error) && ff_offload_writer_commit(p->writer, p->config, p->state, error);
}

/* ---- the order ------------------------------------------------------------------------------- */

static const struct {
    Step from;
    FfVmmCommand command;
    Step to;
    uint64_t least, most; /* bytes of payload */
    bool (*receive)(Peer *p, uint64_t len, GError **error);
} steps[] = {
    {CONNECTED, FF_VMM_START, STARTED, 0, 0, receive_start},
    {STARTED, FF_VMM_MEMORY_FD, PASSING, 4, 4, receive_memory},
    {PASSING, FF_VMM_MEMORY_FD, PASSING, 4, 4, receive_memory},
    {PASSING, FF_VMM_CONFIG, CONFIGURED, 1, CONFIG_MAX, receive_config},
    {CONFIGURED, FF_VMM_STATE, STATED, 1, STATE_MAX, receive_state},
    {STATED, FF_VMM_COMPLETE, STORED, 0, 0, store_snapshot},
    {STATED, FF_VMM_COMPLETE_PAUSED, STORED, 0, 0, store_snapshot},
};

static const char *const expected[] = {
    [CONNECTED] = "Start",  [STARTED] = "MemoryFd", [PASSING] = "MemoryFd or Config",
    [CONFIGURED] = "State", [STATED] = "Complete",
};

static bool refuse_request(Peer *p, const FfVmmRequest *request, GError **error)
{
    FfVmmCommand command = GUINT16_FROM_LE(request->command);
    g_autofree char *what = NULL;

    if (p->step != CONNECTED && command == FF_VMM_ABANDON && request->length == 0) {
        p->abandoned = send_response(p, FF_VMM_OK);
        return fail_take(error, "Cloud Hypervisor has abandoned it");
    }
    if (p->step == STARTED && command == FF_VMM_CONFIG) {
        return fail_take(error, "Cloud Hypervisor passes no memory: send-migration needs local=on");
    }
    what = g_strdup_printf("it has sent command %u with %" G_GUINT64_FORMAT " bytes, where %s was "
                           "expected",
                           command, GUINT64_FROM_LE(request->length), expected[p->step]);
    return fail_take(error, what);
}

static bool is_known_version(const FfVmmRequest *request, GError **error)
{
    if (GUINT16_FROM_LE(request->command) != FF_VMM_START ||
        (!request->header[0] && !request->header[1])) {
        return true;
    }
    g_autofree char *what =
        g_strdup_printf("Cloud Hypervisor speaks version %u of its protocol, this one version 0",
                        request->header[0] | request->header[1] << 8);
    return fail_take(error, what);
}

static bool take_step(Peer *p, GError **error)
{
    FfVmmRequest request;

    if (!read_all(p, &request, sizeof(request), error) || !is_known_version(&request, error)) {
        return false;
    }
    uint64_t len = GUINT64_FROM_LE(request.length);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (steps[i].from == p->step && steps[i].command == GUINT16_FROM_LE(request.command) &&
            len >= steps[i].least && len <= steps[i].most) {
            if (!steps[i].receive(p, len, error)) {
                return false;
            }
            p->step = steps[i].to;
            p->r->ran = steps[i].command == FF_VMM_COMPLETE;
            return true;
        }
    }
    return refuse_request(p, &request, error);
}

static void peer_clear(Peer *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        close(p->fd[i]);
    }
    g_clear_pointer(&p->config, g_byte_array_unref);
    g_clear_pointer(&p->state, g_byte_array_unref);
    if (p->process >= 0) {
        close(p->process);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Peer, peer_clear)

/* Of the process that has connected; not of this one (a test). If it has ended, and another has its
 * number by now, it is not taken for dead. */
static int open_process(int sock, pid_t *pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.pid <= 0 ||
        cred.pid == getpid()) {
        return -1;
    }
    *pid = cred.pid;
    return (int)syscall(SYS_pidfd_open, cred.pid, 0);
}

/* Step by step; each is acknowledged, but the last one. */
static bool run_protocol(Peer *p, GError **error)
{
    for (;;) {
        if (!take_step(p, error)) {
            return false;
        }
        if (p->step == STORED) {
            return true;
        }
        if (!send_response(p, FF_VMM_OK)) {
            return fail_take(error, "Cloud Hypervisor has left");
        }
    }
}

bool ff_receive_snapshot(int sock, int stop, FfOffloadWriter *w, FfReceived *r, GError **error)
{
    g_auto(Peer) p = {.sock = sock, .stop = stop, .writer = w, .r = r};
    gint64 since = g_get_monotonic_time();

    FF_FAULT_SIDE("receiver");
    p.process = open_process(sock, &p.pid);
    *r = (FfReceived){0};
    if (!run_protocol(&p, error)) {
        if (!p.abandoned) {
            send_response(&p, FF_VMM_ERROR);
        }
        return false;
    }
    FF_FAULT_AT("receive-stored");
    if (!send_response(&p, FF_VMM_OK) && !is_dead(&p)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "the snapshot is whole, but Cloud Hypervisor has left before it was told: its "
                    "guest may run still");
        return false;
    }
    r->us = g_get_monotonic_time() - since;
    return true;
}

/* ---- who connects ---------------------------------------------------------------------------- */

static bool may_connect(uid_t uid, const uid_t *uids, unsigned n)
{
    bool may = uid == 0 || uid == geteuid();

    for (unsigned i = 0; i < n; i++) {
        may = may || uids[i] == uid;
    }
    return may;
}

/* NULL: it is one. */
static const char *is_no_peer(int sock, int stop, const uid_t *uids, unsigned n_uids)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    char byte;

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
        !may_connect(cred.uid, uids, n_uids)) {
        return "is a user's who may not connect (--allow)";
    }
    int rc = wait_readable(sock, stop, FIRST_MS);
    if (rc <= 0) {
        return rc ? NULL : "has said nothing for 2 s"; /* a signal: the next wait sees it */
    }
    return recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 ? NULL : "has left without a word";
}

int ff_receive_accept(int listener, int stop, const uid_t *uids, unsigned n_uids, GError **error)
{
    for (;;) {
        if (wait_readable(listener, stop, -1) < 0) {
            fail_take(error, "this was ended by a signal");
            return -1;
        }
        int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (sock < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) {
            continue;
        }
        if (sock < 0) {
            fail_take(error, g_strerror(errno));
            return -1;
        }
        const char *why = is_no_peer(sock, stop, uids, n_uids);
        if (!why) {
            return sock;
        }
        ff_say("a process that has connected %s", why);
        close(sock);
    }
}
