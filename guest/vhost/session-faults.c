/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A back-end that can wait for pages (PAGEFAULT) gets guest memory that is not all there: it makes
 * a userfaultfd (POSTCOPY_ADVISE), listens (POSTCOPY_LISTEN), says at which of its addresses it has
 * mapped what it was given (SET_MEM_TABLE, whose answer is its own kind then), waits for the word
 * that its faults are answered, and registers. What it was told by ADD_MEM_REG without that it gets
 * as one table: qemu-storage-daemon 7.2 takes the word that ends ADD_MEM_REG for an error. What
 * QEMU changes of the memory later it gets when all is there, and no ring begins until then.
 *
 * Between its mapping and its registering it must touch nothing: one that has its memory locked
 * (mlockall(MCL_FUTURE), as DPDK's testpmd and Open vSwitch can) fills each mapping with zeros when
 * it is made. So it goes that way first with a small file of ours, and is held if there is anything
 * in that file then.
 *
 * A ring begins when it was seen that the memory is registered: a touch before that would make a
 * page of zeros, for everybody. Where nobody can answer its faults after all none begins until all
 * is there.
 *
 * One thread; no locks. System calls: memfd_create, ftruncate, fstat, fcntl, close.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/vhost/session-internal.h"

#define NEEDED (FF_VHOST_PROTOCOL_F_REPLY_ACK | FF_VHOST_PROTOCOL_F_PAGEFAULT)
#define PAGE 4096
/* Where no memory is: DPDK takes a table with the same numbers for the same memory. */
#define TRIAL_GUEST (1ull << 50)
#define TRIAL_USER (1ull << 30)
#define TRIAL_BYTES (2u << 20)

void ff_vhost_say(FfVhostSession *s, FfVhostMessage *msg, bool answered)
{
    if (answered) {
        g_queue_push_tail(&s->ours, GUINT_TO_POINTER(msg->header.request));
    }
    s->ops->to_backend(msg, s->opaque);
}

bool ff_vhost_session_is_on_its_way(const FfVhostSession *s)
{
    return s->faults >= FF_VHOST_FAULTS_ADVISE && s->faults <= FF_VHOST_FAULTS_CHECK;
}

static void send_faults_request(FfVhostSession *s, FfVhostFaults state, uint32_t request,
                                uint32_t flags)
{
    s->faults = state;
    ff_vhost_say(s, ff_vhost_message_new(request, flags, NULL, 0), true);
}

/* ---- the way in ------------------------------------------------------------------------------ */

void ff_vhost_faults_want(FfVhostSession *s)
{
    if (!s->holds || ff_vhost_session_is_on_its_way(s) || s->faults == FF_VHOST_FAULTS_WANTED) {
        return;
    }
    if (!s->parked && s->faults == FF_VHOST_FAULTS_NONE && (s->protocol & NEEDED) == NEEDED &&
        s->rings.n_regions && s->rings.n_regions <= FF_VHOST_MAX_FAULT_REGIONS && !s->odd &&
        s->ops->can_wait && s->ops->can_wait(s->opaque)) {
        s->faults = FF_VHOST_FAULTS_WANTED;
    } else if (s->ops->stands) {
        s->ops->stands(s->opaque);
    }
}

void ff_vhost_faults_begin(FfVhostSession *s)
{
    send_faults_request(s, FF_VHOST_FAULTS_ADVISE, FF_VHOST_POSTCOPY_ADVISE, 0);
}

bool ff_vhost_is_memory(const FfVhostMessage *msg)
{
    return msg->header.request == FF_VHOST_SET_MEM_TABLE ||
           msg->header.request == FF_VHOST_ADD_MEM_REG ||
           msg->header.request == FF_VHOST_REM_MEM_REG;
}

/* What was held of it is in the table. */
static void forget_memory(FfVhostSession *s)
{
    for (GList *l = s->held.head, *next; l; l = next) {
        next = l->next;
        if (ff_vhost_is_memory(l->data)) {
            ff_vhost_message_free(l->data);
            g_queue_delete_link(&s->held, l);
        }
    }
}

static void close_theirs(FfVhostSession *s)
{
    while (s->n_theirs) {
        close(s->their_fds[--s->n_theirs]);
    }
}

void ff_vhost_faults_clear(FfVhostSession *s)
{
    close_theirs(s);
    if (s->uffd >= 0) {
        close(g_steal_fd(&s->uffd));
    }
    if (s->trial >= 0) {
        close(g_steal_fd(&s->trial));
    }
}

/* FALSE: no fd is free. */
static bool keep_theirs(FfVhostSession *s)
{
    close_theirs(s);
    for (unsigned i = 0; i < s->rings.n_regions; i++) {
        int fd = fcntl(s->rings.fds[i], F_DUPFD_CLOEXEC, 0);

        if (fd < 0) {
            return false;
        }
        s->theirs[i] = s->rings.regions[i];
        s->their_fds[s->n_theirs++] = fd;
    }
    return true;
}

/* FALSE: as above. */
static bool tell_table(FfVhostSession *s)
{
    const FfVhostMemory head = {.n = s->rings.n_regions};
    uint8_t payload[sizeof(head) + sizeof(s->theirs)];
    uint32_t size = sizeof(head) + head.n * sizeof(s->theirs[0]); /* if it is as it must be */

    /* It can have changed since it was asked for. */
    if (s->odd || !head.n || head.n > FF_VHOST_MAX_FAULT_REGIONS || !keep_theirs(s)) {
        return false;
    }
    memcpy(payload, &head, sizeof(head));
    memcpy(payload + sizeof(head), s->theirs, size - sizeof(head));
    g_autoptr(FfVhostMessage) msg = ff_vhost_message_new(FF_VHOST_SET_MEM_TABLE, 0, payload, size);
    for (uint32_t i = 0; i < head.n; i++) {
        int fd = fcntl(s->their_fds[i], F_DUPFD_CLOEXEC, 0);

        if (fd < 0) {
            return false;
        }
        msg->fds[msg->n_fds++] = fd;
    }
    forget_memory(s);
    s->stale = false;
    s->faults = FF_VHOST_FAULTS_TABLE;
    ff_vhost_say(s, g_steal_pointer(&msg), true);
    return true;
}

/* The same with a file without content. FALSE: as above, or there is no memory for it. */
static bool tell_trial(FfVhostSession *s)
{
    const struct {
        FfVhostMemory head;
        FfVhostRegion region;
    } table = {{.n = 1}, {TRIAL_GUEST, TRIAL_BYTES, TRIAL_USER, 0}};
    int fd = -1;

    s->trial = memfd_create("farfault-trial", MFD_CLOEXEC);
    if (s->trial < 0 || ftruncate(s->trial, TRIAL_BYTES) < 0 ||
        (fd = fcntl(s->trial, F_DUPFD_CLOEXEC, 0)) < 0) {
        return false;
    }
    FfVhostMessage *msg = ff_vhost_message_new(FF_VHOST_SET_MEM_TABLE, 0, &table, sizeof(table));
    msg->fds[msg->n_fds++] = fd;
    s->faults = FF_VHOST_FAULTS_TRIAL;
    ff_vhost_say(s, msg, true);
    return true;
}

/* It has registered it: there is nothing in it, or it cannot be given what is missing. */
static bool end_trial(FfVhostSession *s)
{
    struct stat st;

    if (!s->holds) {
        ff_vhost_faults_tell_end(s);
        return true;
    }
    if (fstat(s->trial, &st) == 0 && st.st_blocks == 0) {
        close(g_steal_fd(&s->trial));
        return tell_table(s);
    }
    send_faults_request(s, FF_VHOST_FAULTS_TRIAL_FAILED, FF_VHOST_POSTCOPY_END,
                        FF_VHOST_NEED_REPLY);
    return true;
}

static void trial_failed(FfVhostSession *s)
{
    s->faults = s->holds ? FF_VHOST_FAULTS_CANNOT : FF_VHOST_FAULTS_NONE;
    ff_vhost_faults_clear(s);
    if (s->holds && s->ops->stands) {
        s->ops->stands(s->opaque);
    }
}

static bool take_uffd(FfVhostSession *s, FfVhostMessage *msg)
{
    if (msg->n_fds != 1) {
        s->faults = FF_VHOST_FAULTS_CANNOT;
        if (s->ops->stands) {
            s->ops->stands(s->opaque);
        }
        return true;
    }
    s->uffd = msg->fds[0];
    msg->n_fds = 0;
    send_faults_request(s, FF_VHOST_FAULTS_LISTEN, FF_VHOST_POSTCOPY_LISTEN, FF_VHOST_NEED_REPLY);
    return true;
}

void ff_vhost_faults_tell_end(FfVhostSession *s)
{
    s->ends_wait = false;
    /* What it has registered since the engine was done is unregistered before it touches any of it.
     */
    if (s->n_theirs) {
        s->ops->all_there(s->opaque);
    }
    send_faults_request(s, FF_VHOST_FAULTS_END, FF_VHOST_POSTCOPY_END, FF_VHOST_NEED_REPLY);
}

/* It may register, and says so by its answer to a question after that. */
static void let_register(FfVhostSession *s, FfVhostFaults state)
{
    const uint64_t good = 0;

    ff_vhost_say(s, ff_vhost_message_new(FF_VHOST_SET_MEM_TABLE, 0, &good, sizeof(good)), false);
    send_faults_request(s, state, FF_VHOST_GET_FEATURES, 0);
}

static bool take_addresses(FfVhostSession *s, const FfVhostMessage *msg)
{
    FfVhostMemory head;

    if (msg->header.size != sizeof(head) + s->n_theirs * sizeof(s->theirs[0])) {
        return false;
    }
    memcpy(&head, msg->payload, sizeof(head));
    if (head.n != s->n_theirs) {
        return false;
    }
    for (unsigned i = 0; i < head.n; i++) {
        FfVhostRegion r;

        memcpy(&r, msg->payload + sizeof(head) + i * sizeof(r), sizeof(r));
        if (r.guest != s->theirs[i].guest || r.size != s->theirs[i].size || r.user % PAGE) {
            return false;
        }
        /* libvhost-user (QEMU 7.2 to 10.0) sends back what it was sent. */
        s->theirs[i].user = r.user == s->theirs[i].user ? 0 : r.user;
    }
    s->faults = FF_VHOST_FAULTS_HANDED;
    if (s->holds && s->ops->hand(s->opaque)) {
        return true;
    }
    s->unanswered = s->holds;
    let_register(s, FF_VHOST_FAULTS_SYNC);
    return true;
}

static bool faults_registered(FfVhostSession *s)
{
    if (!s->holds) {
        ff_vhost_faults_tell_end(s);
        return true;
    }
    s->faults = FF_VHOST_FAULTS_CHECK;
    if (!s->unanswered) {
        s->ops->check(s->opaque);
    }
    return true;
}

/* Of what is held: a ring that begins may have something in memory that came after it. */
static void memory_first(FfVhostSession *s)
{
    GQueue rest = G_QUEUE_INIT;
    FfVhostMessage *msg;

    for (guint n = s->held.length; n && (msg = g_queue_pop_head(&s->held)); n--) {
        g_queue_push_tail(ff_vhost_is_memory(msg) ? &s->held : &rest, msg);
    }
    while ((msg = g_queue_pop_head(&rest))) {
        g_queue_push_tail(&s->held, msg);
    }
}

static void faults_ended(FfVhostSession *s)
{
    if (s->stale && s->n_theirs) {
        memory_first(s);
    }
    s->faults = FF_VHOST_FAULTS_NONE;
    s->stale = s->unanswered = false;
    ff_vhost_faults_clear(s);
}

bool ff_vhost_faults_answered(FfVhostSession *s, uint32_t request, FfVhostMessage *msg)
{
    switch (s->faults) {
    case FF_VHOST_FAULTS_ADVISE:
        return request == FF_VHOST_POSTCOPY_ADVISE && take_uffd(s, msg);
    case FF_VHOST_FAULTS_LISTEN:
        if (!s->holds) {
            ff_vhost_faults_tell_end(s);
            return true;
        }
        return request == FF_VHOST_POSTCOPY_LISTEN && !ff_vhost_u64(msg) && tell_trial(s);
    case FF_VHOST_FAULTS_TRIAL:
        let_register(s, FF_VHOST_FAULTS_TRIAL_SYNC);
        return request == FF_VHOST_SET_MEM_TABLE;
    case FF_VHOST_FAULTS_TRIAL_SYNC:
        return request == FF_VHOST_GET_FEATURES && end_trial(s);
    case FF_VHOST_FAULTS_TRIAL_FAILED:
        trial_failed(s);
        return request == FF_VHOST_POSTCOPY_END;
    case FF_VHOST_FAULTS_TABLE:
        return request == FF_VHOST_SET_MEM_TABLE && take_addresses(s, msg);
    case FF_VHOST_FAULTS_SYNC:
        return request == FF_VHOST_GET_FEATURES && faults_registered(s);
    case FF_VHOST_FAULTS_END:
        if (request == FF_VHOST_POSTCOPY_END) {
            faults_ended(s);
        }
        return true;
    default:
        return true;
    }
}

/* ---- what the engine says -------------------------------------------------------------------- */

void ff_vhost_session_set_address(FfVhostSession *s, unsigned i, uint64_t addr)
{
    s->theirs[i].user = addr;
}

void ff_vhost_faults_handed(FfVhostSession *s)
{
    if (s->faults == FF_VHOST_FAULTS_HANDED) {
        let_register(s, FF_VHOST_FAULTS_SYNC);
    }
}

void ff_vhost_faults_checked(FfVhostSession *s)
{
    if (s->faults == FF_VHOST_FAULTS_CHECK && !s->unanswered) {
        s->faults = FF_VHOST_FAULTS_ON;
        if (!s->stale) {
            forget_memory(s); /* QEMU has said the same once more */
        } else if (s->ops->stands) {
            s->ops->stands(s->opaque);
        }
    }
}

bool ff_vhost_session_stands(FfVhostSession *s)
{
    if (s->faults != FF_VHOST_FAULTS_HANDED) {
        return s->unanswered;
    }
    s->unanswered = true;
    let_register(s, FF_VHOST_FAULTS_SYNC);
    return true;
}

unsigned ff_vhost_session_asks(const FfVhostSession *s)
{
    bool asks = s->faults >= FF_VHOST_FAULTS_ADVISE && s->faults <= FF_VHOST_FAULTS_SYNC &&
                (s->ours.length || s->faults == FF_VHOST_FAULTS_HANDED);

    return asks ? s->faults : 0;
}

bool ff_vhost_session_maps(const FfVhostSession *s)
{
    return ff_vhost_session_is_on_its_way(s) &&
           !(s->unanswered && s->faults == FF_VHOST_FAULTS_CHECK);
}

bool ff_vhost_faults_keep(const FfVhostSession *s)
{
    return s->faults == FF_VHOST_FAULTS_ON && s->stale;
}

bool ff_vhost_session_faults(const FfVhostSession *s, FfVhostWaits *waits)
{
    *waits = (FfVhostWaits){.regions = s->theirs,
                            .fds = s->their_fds,
                            .n = s->n_theirs,
                            .uffd = s->uffd,
                            .checks = s->faults == FF_VHOST_FAULTS_CHECK};
    return !s->unanswered && s->faults >= FF_VHOST_FAULTS_HANDED && s->faults <= FF_VHOST_FAULTS_ON;
}

/* ---- the way out ----------------------------------------------------------------------------- */

void ff_vhost_faults_end(FfVhostSession *s)
{
    switch (s->faults) {
    case FF_VHOST_FAULTS_WANTED:
    case FF_VHOST_FAULTS_CANNOT:
        s->faults = FF_VHOST_FAULTS_NONE;
        break;
    case FF_VHOST_FAULTS_HANDED:
        let_register(s, FF_VHOST_FAULTS_SYNC); /* nobody need answer any more */
        break;
    case FF_VHOST_FAULTS_CHECK:
    case FF_VHOST_FAULTS_ON:
        s->ends_wait = true;
        break;
    default:
        break; /* goes on by itself, and ends */
    }
}
