/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's place between QEMU and a vhost-user back-end: QEMU's chardev is a private listening
 * socket, to which the relay connects when a back-end is there; what passes is
 * guest/vhost/session.c's. Only control messages pass here, data goes by shared rings, and fds go
 * with the message that they came with. When one of the two ends, the other is let go as well. When
 * QEMU has closed its socket, the chardev was removed: a back-end may be wanted by another QEMU
 * then.
 *
 * One thread; no locks.
 */
#include "guest/relay/vhost-conn.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoint-deadline.h"
#include "guest/relay/accept.h"
#include "guest/relay/conn.h"

/* Until a ring that is being stopped is looked at again. */
#define AGAIN_MS 1
/* What one side has not read yet, bytes, and messages of QEMU's that wait for a back-end: as long
 * as it is more, the other side is not read from. */
#define MAX_QUEUED (64u * 1024)
#define MAX_QUEUED_FDS 64u
#define MAX_WAITING 64
/* Until QEMU is offered a back-end again that it has not taken. */
#define OFFER_S 1
/* What a back-end may take for an answer to a word on its way to pages that it waits for: one that
 * does not know the word leaves it out. Its device can stand meanwhile, and QEMU with it. */
#define ANSWER_MS 10000
/* QEMU tries vhost-user-blk's handshake four times. */
#define MAX_STAND_INS 4

/* Of the next connection. */
static uint32_t next_number = 1;

struct FfVhostConn {
    FfRelay *relay;
    const FfRelayMonitor *plan;
    const FfVhostConnOps *ops;
    void *opaque;
    FfAccept *accept;
    FfConn *backend, *qemu; /* both, or none; .qemu alone while there is no back-end yet */
    FfVhostReader from_backend, from_qemu;
    FfVhostSession *session;
    uint32_t number;
    pid_t pid;          /* 0: not known */
    bool cannot_wait;   /* for pages, whatever it says */
    bool stands;        /* that was said of this connection */
    guint timer;        /* 0: none */
    guint late;         /* the timer of an answer; 0: none is due */
    unsigned asked;     /* which */
    bool maps;          /* no other back-end of its process may */
    int coming;         /* a back-end that QEMU has not taken yet; -1: none */
    guint offer;        /* the timer until it is offered again; 0: none */
    bool told;          /* that it was not taken */
    bool not_ours;      /* the back-end is another QEMU's still */
    unsigned stood_in;  /* so often was QEMU answered in its place */
    FfVhostKnown known; /* of the last connection */
    bool comes_later;   /* one that has come at once, before .accept was there, was sent away */
    bool removed;
};

static void end_timer(guint *timer)
{
    if (*timer) {
        g_source_remove(*timer);
        *timer = 0;
    }
}

bool ff_vhost_conn_is_removed(FfVhostConn *b)
{
    if (b->removed || b->session || ff_conn_qemu_listens(b->plan->qemu)) {
        return b->removed;
    }
    b->removed = true;
    b->ops->removed(b, b->opaque);
    end_timer(&b->offer);
    if (b->coming >= 0) {
        close(g_steal_fd(&b->coming));
    }
    g_clear_pointer(&b->accept, ff_accept_end);
    return true;
}

static void stand_in_for_backend(FfVhostConn *b);

static void close_both(FfVhostConn *b, const char *why)
{
    if (!b->session) {
        return;
    }
    if (why) {
        ff_relay_log(b->relay, "vhost-user back-end '%s': the connection is closed: %s",
                     b->plan->id, why);
    }
    /* The next one would break off at the same place. */
    b->cannot_wait |= ff_vhost_session_is_on_its_way(b->session);
    b->ops->parts(b, b->opaque);
    g_clear_pointer(&b->backend, ff_conn_free);
    g_clear_pointer(&b->qemu, ff_conn_free);
    ff_vhost_reader_clear(&b->from_backend);
    ff_vhost_reader_clear(&b->from_qemu);
    FfVhostKnown known;
    if (ff_vhost_session_known(b->session, &known)) {
        b->known = known;
    }
    g_clear_pointer(&b->session, ff_vhost_session_free);
    end_timer(&b->timer);
    end_timer(&b->late);
    b->asked = 0;
    b->maps = false;
    b->ops->ended(b, b->opaque);
    if (b->accept && !ff_vhost_conn_is_removed(b)) {
        ff_accept_next(b->accept);
    } else if (b->not_ours) {
        /* QEMU gives its device up when its handshake has failed some times. */
        stand_in_for_backend(b);
    }
}

/* ---- what the session says ------------------------------------------------------------------- */

static void write_message(FfConn *conn, FfVhostMessage *msg)
{
    g_autoptr(FfVhostMessage) own = msg;
    size_t len = sizeof(msg->header) + msg->header.size;
    g_autofree uint8_t *bytes = g_malloc(len);

    memcpy(bytes, &msg->header, sizeof(msg->header));
    memcpy(bytes + sizeof(msg->header), msg->payload, msg->header.size);
    ff_conn_write(conn, bytes, len, msg->fds, msg->n_fds);
    msg->n_fds = 0; /* taken */
}

static void to_backend(FfVhostMessage *msg, void *opaque)
{
    write_message(((FfVhostConn *)opaque)->backend, msg);
}

static void to_qemu(FfVhostMessage *msg, void *opaque)
{
    write_message(((FfVhostConn *)opaque)->qemu, msg);
}

static void pace_reading(FfVhostConn *b);

static gboolean too_late(gpointer data)
{
    FfVhostConn *b = data;

    b->late = 0;
    /* It waits for the word that its faults are answered, and is not the one to blame. */
    if (ff_vhost_session_stands(b->session)) {
        ff_relay_log(b->relay,
                     "vhost-user back-end '%s': nobody answers its faults: the device stands until "
                     "all of the guest's memory is there",
                     b->plan->id);
        pace_reading(b);
    } else {
        close_both(b, "it does not say how it waits for pages: the device stands until all of the "
                      "guest's memory is there");
    }
    return G_SOURCE_REMOVE;
}

/* Nobody waits for an answer for ever. */
static void watch_answer(FfVhostConn *b)
{
    unsigned asked = ff_vhost_session_asks(b->session);

    if (asked == b->asked) {
        return;
    }
    b->asked = asked;
    end_timer(&b->late);
    if (asked) {
        b->late = g_timeout_add(ff_deadline_ms("back-end-answer", ANSWER_MS), too_late, b);
    }
}

/* Of a message of 12 bytes there can be 16 fds, and they are this process's. */
static bool is_full(const FfConn *conn)
{
    return ff_conn_queued(conn) >= MAX_QUEUED || ff_conn_queued_fds(conn) >= MAX_QUEUED_FDS;
}

/* Nobody has more queued for him than he reads. Nothing is done with B after that: another back-end
 * may have its turn then. */
static void pace_reading(FfVhostConn *b)
{
    bool mapped = b->maps;

    b->maps = ff_vhost_session_maps(b->session);
    ff_conn_set_reading(b->qemu, !(b->backend && is_full(b->backend)) &&
                                     ff_vhost_session_waiting(b->session) < MAX_WAITING);
    if (b->backend) {
        ff_conn_set_reading(b->backend, !is_full(b->qemu));
    }
    watch_answer(b);
    if (mapped && !b->maps) {
        b->ops->mapped(b->opaque);
    }
}

static void connection_drained(FfConn *conn, void *opaque)
{
    pace_reading(opaque);
}

static gboolean look_again(gpointer data)
{
    FfVhostConn *b = data;

    b->timer = 0;
    if (!ff_vhost_session_again(b->session)) {
        close_both(b, "QEMU breaks the protocol");
    } else {
        pace_reading(b);
    }
    return G_SOURCE_REMOVE;
}

static void look_later(void *opaque)
{
    FfVhostConn *b = opaque;

    if (!b->timer) {
        b->timer = g_timeout_add(AGAIN_MS, look_again, b);
    }
}

static void log_begun(void *opaque)
{
    FfVhostConn *b = opaque;

    b->ops->logs(b, b->opaque);
}

static bool can_wait(void *opaque)
{
    FfVhostConn *b = opaque;

    return !b->cannot_wait && b->ops->can_wait(b, b->opaque);
}

static void device_stands(void *opaque)
{
    FfVhostConn *b = opaque;

    bool parks = b->ops->parks(b->opaque);

    /* Memory that is all there in a moment, as after a precopy, is not worth a word. */
    if (!b->stands && (parks || b->ops->misses(b->opaque))) {
        b->stands = true;
        ff_relay_log(b->relay, "vhost-user back-end '%s': %s", b->plan->id,
                     parks
                         ? "the device stands until the snapshot is saved"
                         : "it does not wait for pages: the device stands until all of the guest's "
                           "memory is there");
    }
}

static bool hand_waits(void *opaque)
{
    FfVhostConn *b = opaque;

    b->cannot_wait = !b->ops->hand(b, b->opaque);
    return !b->cannot_wait;
}

static bool may_begin(void *opaque)
{
    FfVhostConn *b = opaque;

    return b->ops->may_begin(b, b->opaque);
}

static void check_waits(void *opaque)
{
    FfVhostConn *b = opaque;

    b->ops->check(b, b->opaque);
}

static void all_there(void *opaque)
{
    FfVhostConn *b = opaque;

    b->ops->all_there(b, b->opaque);
}

static const FfVhostSessionOps session_ops = {
    .to_backend = to_backend,
    .to_qemu = to_qemu,
    .again = look_later,
    .logs = log_begun,
    .can_wait = can_wait,
    .stands = device_stands,
    .hand = hand_waits,
    .may_begin = may_begin,
    .check = check_waits,
    .all_there = all_there,
};

/* ---- what comes ------------------------------------------------------------------------------ */

/* FALSE: the back-end has what it must not have. Where a ring runs that is to be parked, it runs
 * on: the engine is told so when it asks, and takes no snapshot (guest/relay/backends.c). */
static bool look_at_session(FfVhostConn *b)
{
    bool parks = b->ops->parks(b->opaque);

    b->stands = b->stands && (parks || b->ops->holds(b->opaque));
    if (parks) {
        ff_vhost_session_park(b->session);
        return true;
    }
    int rc = ff_vhost_session_hold(b->session, b->ops->holds(b->opaque));

    if (rc < 0) {
        ff_relay_log(b->relay,
                     "vhost-user back-end '%s': it has the memory of a guest that is still coming",
                     b->plan->id);
    }
    return rc == 0;
}

static bool take_from_qemu(FfVhostMessage *msg, void *opaque)
{
    FfVhostConn *b = opaque;

    /* Whether it may have memory is looked at for each message: QEMU begins a guest when it is told
     * so, which follows the store of the phase. */
    if (!look_at_session(b)) {
        ff_vhost_message_free(msg);
        return false;
    }
    if (!ff_vhost_session_from_qemu(b->session, msg)) {
        return false;
    }
    /* Nobody could answer it before the guest is this QEMU's, which would stand until then. */
    if (b->not_ours && ff_vhost_session_waiting(b->session)) {
        ff_relay_log(b->relay,
                     "vhost-user back-end '%s': QEMU asks it what the other QEMU has not asked",
                     b->plan->id);
        return false;
    }
    return true;
}

static bool take_from_backend(FfVhostMessage *msg, void *opaque)
{
    FfVhostConn *b = opaque;
    bool arrives = ff_vhost_session_is_absent(b->session);

    if (arrives) {
        end_timer(&b->late);
    }
    return ff_vhost_session_from_backend(b->session, msg);
}

static void qemu_data(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds,
                      void *opaque)
{
    FfVhostConn *b = opaque;

    if (ff_vhost_read(&b->from_qemu, buf, len, fds, n_fds, take_from_qemu, b) < 0) {
        close_both(b, "QEMU breaks the protocol");
    } else {
        pace_reading(b);
    }
}

static void backend_data(FfConn *conn, const char *buf, size_t len, int *fds, unsigned n_fds,
                         void *opaque)
{
    FfVhostConn *b = opaque;

    if (ff_vhost_read(&b->from_backend, buf, len, fds, n_fds, take_from_backend, b) < 0) {
        close_both(b, "the back-end breaks the protocol");
    } else {
        pace_reading(b);
    }
}

static void one_ended(FfConn *conn, bool gone, void *opaque)
{
    close_both(opaque, NULL);
}

static const FfConnOps qemu_ops = {
    .data = qemu_data, .end = one_ended, .drained = connection_drained};
static const FfConnOps backend_ops = {
    .data = backend_data, .end = one_ended, .drained = connection_drained};

/* ---- beginning and end ----------------------------------------------------------------------- */

static gboolean offer_again(gpointer data);

static pid_t peer_pid(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 ? cred.pid : 0;
}

static void begin_session(FfVhostConn *b, int backend, int qemu, FfVhostSession *session)
{
    b->session = session;
    b->stands = false;
    b->number = next_number++;
    b->qemu = ff_conn_new(qemu, qemu, &qemu_ops, b);
    if (backend >= 0) {
        b->backend = ff_conn_new(backend, backend, &backend_ops, b);
        b->pid = peer_pid(backend);
    }
}

static FfVhostKind kind_of(const FfVhostConn *b)
{
    return b->plan->network ? FF_VHOST_NETWORK : FF_VHOST_DISK;
}

/* It is the next QEMU's, and QEMU 10 begins the rings of a guest that stands. */
static bool is_given_away(const FfVhostConn *b)
{
    return ff_state_is_marked(b->relay->state, FF_MARK_MOVED);
}

/* FD, of a back-end that has come, is not wanted now. It may have come before b->accept is there
 * (open_accept()). */
static void come_later(FfVhostConn *b, int fd)
{
    close(fd);
    if (b->accept) {
        ff_accept_next(b->accept);
    } else {
        b->comes_later = true;
    }
}

/* A QEMU that hangs takes no connection; the back-end may be one that connects only once. */
static void offer_to_qemu(FfVhostConn *b)
{
    if (is_given_away(b)) {
        come_later(b, g_steal_fd(&b->coming));
        return;
    }
    int fd = ff_conn_to_qemu(b->plan->qemu), backend = b->coming;

    if (fd < 0 && ff_vhost_conn_is_removed(b)) {
        return;
    }
    if (fd < 0) {
        if (!b->told) {
            ff_relay_log(b->relay,
                         "vhost-user back-end '%s': QEMU does not take the connection, it is tried "
                         "again: %s",
                         b->plan->id, g_strerror(-fd));
        }
        b->told = true;
        b->offer = g_timeout_add_seconds(OFFER_S, offer_again, b);
        return;
    }
    b->told = false;
    b->coming = -1;
    begin_session(b, backend, fd, ff_vhost_session_new(kind_of(b), &session_ops, b));
    ff_vhost_session_remember(b->session, &b->known);
    b->ops->came(b, b->opaque);
}

static gboolean offer_again(gpointer data)
{
    FfVhostConn *b = data;

    b->offer = 0;
    offer_to_qemu(b);
    return G_SOURCE_REMOVE;
}

static gboolean arrives_late(gpointer data)
{
    FfVhostConn *b = data;

    b->late = 0;
    ff_relay_log(b->relay,
                 "vhost-user back-end '%s': %s is connected, and does not answer: the device "
                 "stands until it does (does it serve somebody else?)",
                 b->plan->id, b->plan->path);
    return G_SOURCE_REMOVE;
}

/* The last QEMU's back-end lives, and this is none of its connections: another disk may be behind
 * it. */
static bool is_another(const FfVhostConn *b, pid_t pid)
{
    pid_t known = b->plan->known_pid;

    return known > 0 && pid > 0 && pid != known && (kill(known, 0) == 0 || errno == EPERM);
}

static void backend_came(int in, int out, void *opaque)
{
    FfVhostConn *b = opaque;

    if (is_given_away(b)) {
        come_later(b, in);
        return;
    }
    if (b->session && is_another(b, peer_pid(in))) {
        if (!b->told) {
            ff_relay_log(b->relay,
                         "vhost-user back-end '%s': at %s listens another process than %d, which "
                         "the guest's last QEMU had and which lives: the device stands; end both, "
                         "and start the guest's own there",
                         b->plan->id, b->plan->path ? b->plan->path : "its socket",
                         (int)b->plan->known_pid);
        }
        b->told = true;
        come_later(b, in);
        return;
    }
    if (b->session) { /* of a QEMU that was answered without it until now */
        b->backend = ff_conn_new(in, in, &backend_ops, b);
        b->pid = peer_pid(in);
        ff_vhost_session_arrived(b->session);
        b->late = g_timeout_add(ff_deadline_ms("back-end-answer", ANSWER_MS), arrives_late, b);
        pace_reading(b);
        return;
    }
    b->coming = in;
    offer_to_qemu(b);
}

FfVhostSession *ff_vhost_conn_session(FfVhostConn *b)
{
    return b->session;
}

const char *ff_vhost_conn_id(const FfVhostConn *b)
{
    return b->plan->id;
}

const char *ff_vhost_conn_path(const FfVhostConn *b)
{
    return b->plan->path;
}

char *ff_vhost_conn_place(const FfVhostConn *b)
{
    const char *path = b->plan->path;

    return !path                      ? g_strdup("")
           : b->plan->abstract        ? g_strconcat("@", path, NULL)
           : g_path_is_absolute(path) ? g_canonicalize_filename(path, NULL)
                                      : g_strdup(path);
}

bool ff_vhost_conn_is_awaited(const FfVhostConn *b)
{
    return b->session && !b->backend && !b->not_ours;
}

bool ff_vhost_conn_is_network(const FfVhostConn *b)
{
    return b->plan->network;
}

uint32_t ff_vhost_conn_number(const FfVhostConn *b)
{
    return b->number;
}

uint32_t ff_vhost_conn_next_number(void)
{
    return next_number++;
}

pid_t ff_vhost_conn_pid(const FfVhostConn *b)
{
    return b->pid;
}

static void continue_session(FfVhostConn *b, bool ok)
{
    if (!ok) {
        close_both(b, "QEMU breaks the protocol");
    } else {
        pace_reading(b);
    }
}

void ff_vhost_conn_may_wait(FfVhostConn *b)
{
    continue_session(b, ff_vhost_session_may_wait(b->session));
}

void ff_vhost_conn_handed(FfVhostConn *b)
{
    continue_session(b, ff_vhost_session_handed(b->session));
}

void ff_vhost_conn_checked(FfVhostConn *b)
{
    continue_session(b, ff_vhost_session_checked(b->session));
}

void ff_vhost_conn_cannot_wait(FfVhostConn *b)
{
    b->cannot_wait = true;
    if (ff_vhost_session_stands(b->session)) {
        pace_reading(b);
    } else {
        close_both(b, "it cannot wait for pages");
    }
}

void ff_vhost_conn_look(FfVhostConn *b)
{
    if (b->session && !look_at_session(b)) {
        close_both(b, "it must not have it yet");
    } else if (b->session) {
        pace_reading(b);
    }
}

bool ff_vhost_conn_rests(const FfVhostConn *b)
{
    if (!b->session) {
        return b->coming < 0;
    }
    return ff_vhost_session_rests(b->session) && b->backend && !b->from_backend.msg &&
           !b->from_qemu.msg && !ff_conn_queued(b->backend) && !ff_conn_queued(b->qemu);
}

FfRelayBackend ff_vhost_conn_describe(const FfVhostConn *b)
{
    if (!b->session) {
        return (FfRelayBackend){
            .backend = -1, .qemu = -1, .known = g_memdup2(&b->known, sizeof(b->known))};
    }
    FfVhostRest rest = ff_vhost_session_describe(b->session);

    return (FfRelayBackend){.backend = ff_conn_in(b->backend),
                            .qemu = ff_conn_in(b->qemu),
                            .cannot_wait = b->cannot_wait,
                            .rest = g_memdup2(&rest, sizeof(rest))};
}

static void open_accept(FfVhostConn *b)
{
    b->comes_later = false;
    b->accept = ff_accept_new(b->relay, b->plan, backend_came, b);
    if (b->comes_later) {
        ff_accept_next(b->accept);
    }
    if (b->removed) {
        g_clear_pointer(&b->accept, ff_accept_end); /* a back-end had come at once */
    }
}

/* QEMU is answered what the back-end has answered the other one. */
static void stand_in_for_backend(FfVhostConn *b)
{
    int fd = b->stood_in++ < MAX_STAND_INS ? ff_conn_to_qemu(b->plan->qemu) : -ECANCELED;

    b->not_ours = true;
    b->known = *b->plan->known; /* also if that session comes to nothing */
    if (fd < 0) {
        ff_relay_log(b->relay, "vhost-user back-end '%s': QEMU does not take the connection: %s",
                     b->plan->id, g_strerror(-fd));
        return;
    }
    begin_session(b, -1, fd,
                  ff_vhost_session_new_absent(kind_of(b), b->plan->known, &session_ops, b));
}

FfVhostConn *ff_vhost_conn_new(FfRelay *relay, const FfRelayMonitor *plan,
                               const FfVhostConnOps *ops, void *opaque)
{
    FfVhostConn *b = g_new0(FfVhostConn, 1);

    b->relay = relay;
    b->plan = plan;
    b->ops = ops;
    b->opaque = opaque;
    b->coming = -1;
    if (plan->kind == FF_RELAY_SPARE) {
        b->removed = true;
        return b;
    }
    /* The mark is gone when the guest is this QEMU's; the plan stays what it was. */
    if (!plan->had && plan->known && ff_state_is_marked(relay->state, FF_MARK_BORROWED)) {
        stand_in_for_backend(b);
        return b;
    }
    if (plan->known && relay->plan->succeeds >= 0) {
        b->known = *plan->known; /* of a back-end that was away when the relay before had to tell */
    }
    if (plan->had) {
        b->cannot_wait = plan->had->cannot_wait;
        begin_session(b, plan->had->backend, plan->had->qemu,
                      ff_vhost_session_resume(kind_of(b), plan->had->rest, &session_ops, b));
    }
    open_accept(b);
    return b;
}

void ff_vhost_conn_is_free(FfVhostConn *b)
{
    if (b->not_ours) {
        b->not_ours = false;
        open_accept(b);
    }
}

void ff_vhost_conn_open(FfVhostConn *b)
{
    b->removed = false;
    open_accept(b);
}

void ff_vhost_conn_leave(FfVhostConn *b)
{
    FfAccept *accept = g_steal_pointer(&b->accept); /* no additional one */

    b->not_ours = false;
    close_both(b, NULL);
    end_timer(&b->offer);
    if (b->coming >= 0) {
        close(g_steal_fd(&b->coming));
    }
    g_clear_pointer(&accept, ff_accept_end);
}

void ff_vhost_conn_end(FfVhostConn *b)
{
    ff_vhost_conn_leave(b);
    g_free(b);
}
