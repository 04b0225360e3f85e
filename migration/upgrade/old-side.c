/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The coordinator of the old QEMU's side; see old-side.h. The order that matters:
 *
 *   guard, then ACCEPT     the new QEMU loads nothing before its writes are seen
 *   right GIVEN, then the word   an engine without the pact (farfault attach) knows that the guest
 *                          cannot be the new QEMU's as long as the right is not given
 *   OLD, then the new QEMU's end, then its pages back, then SHUT(1)   nobody writes to the memory
 *                          of a guest that runs here
 *
 * This QEMU never learns that its migration is over: it stays in finish-migrate, where it refuses
 * cont, until it is killed. But for one that is to stay as a front (guest/relay/placeholder.h): it
 * is told so when the guest is the other one's for good.
 *
 * Threads: the coordinator; on_page_written() and on_guard_failed() are the guard's. System calls:
 * pidfd_send_signal, poll, recvfrom, sendto, shutdown, mmap, munmap, fstat.
 */
#include "migration/upgrade/old-side.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "migration/common/ownership.h"
#include "migration/upgrade/compare.h"
#include "migration/upgrade/link.h"

#define PEER "the new QEMU"
#define DIED "the migration engine ended unexpectedly"

/* A new QEMU, or engine of it, that says nothing for so long has failed; ms. The guest may be
 * standing, and the word lets no side run that has been given up. */
static int silence_limit_ms(const FfOldSide *s)
{
    return s->cfg->peer_timeout_ms ? (int)s->cfg->peer_timeout_ms : -1;
}

/* ---- the guard ------------------------------------------------------------------------------- */

/* FfGuardConfig. What the new QEMU writes when the guest is its own need not be kept. Before it has
 * anything to load the guest runs here: what is kept then would be older than what is put back. */
static int on_page_written(unsigned block, uint64_t page, const void *content, void *opaque)
{
    FfOldSide *s = opaque;

    if (!__atomic_load_n(&s->loads, __ATOMIC_ACQUIRE)) {
        return -EPERM;
    }
    if (ff_upgrade_commit_word(s->pact) == FF_UPGRADE_COMMIT_TAKEN) {
        return 0;
    }
    return ff_upgrade_commit_keep_page(s->pact, block, page, content,
                                       s->ram->blocks[block].info.page_size);
}

/* FfGuardConfig */
static void on_guard_failed(int rc, void *opaque)
{
    FfOldSide *s = opaque;

    if (rc == -ENOENT && ff_upgrade_commit_word(s->pact) == FF_UPGRADE_COMMIT_TAKEN) {
        return; /* its memory is its own, and it has lifted the guard by itself */
    }
    ff_control_dead(s->control, PEER " writes to the guest's memory: %s",
                    rc == -ENOSPC  ? "more pages than can be put back"
                    : rc == -EPERM ? "while the guest still runs in the old one"
                                   : g_strerror(-rc));
    ff_mutex_lock(&s->control->lock);
    ff_old_side_wake_locked(s);
    ff_mutex_unlock(&s->control->lock);
}

static bool guard_memory(FfOldSide *s, GError **error)
{
    g_autofree FfGuardBlock *blocks = g_new0(FfGuardBlock, s->ram->n_blocks);

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        const FfRamBlock *b = &s->ram->blocks[i].info;
        blocks[i] = (FfGuardBlock){b->memfd, b->size, b->page_size};
    }
    s->guard = ff_guard_new(&(FfGuardConfig){.uffd = s->uffd,
                                             .maps_fd = s->maps,
                                             .blocks = blocks,
                                             .n_blocks = s->ram->n_blocks,
                                             .written = on_page_written,
                                             .failed = on_guard_failed,
                                             .opaque = s},
                            error);
    return s->guard;
}

/* ---- before the guest is stopped ------------------------------------------------------------- */

/* FALSE and ERROR: somebody wants it to end. */
static bool goes_on(FfOldSide *s, GError **error)
{
    ff_mutex_lock(&s->control->lock);
    bool cancelled = s->control->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT);
    bool dead = s->control->events & FF_EV_DEAD;
    if (cancelled) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "the upgrade was cancelled");
    } else if (dead) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            s->control->error ? s->control->error : "it failed");
    }
    ff_mutex_unlock(&s->control->lock);
    return !cancelled && !dead;
}

/* What is lent is what QEMU has mapped. */
static bool look_at_guest(FfOldSide *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;
    GPtrArray *blocks = NULL;
    uint8_t uuid[16];

    memory->takes_devices = true;
    if (memory->check(memory, FF_ROLE_SOURCE, &blocks, uuid, error) != FF_GUEST_FITS ||
        !ff_ram_set_blocks(s->ram, s->control, blocks, error) ||
        !ff_ram_is_mapped(s->ram, s->cfg->maps_fd, error)) {
        return false;
    }
    ff_ram_store(s->ram, s->cfg->state);
    return true;
}

static uint64_t largest_page(const FfRam *ram)
{
    uint64_t size = 4096;

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        size = MAX(size, ram->blocks[i].info.page_size);
    }
    return size;
}

static void store_fd(FfOldSide *s, const char *name, int fd)
{
    if (s->control->ops.hold) {
        s->control->ops.hold(name, fd, s->control->ops.opaque);
    }
}

static void drop_fd(FfOldSide *s, const char *name)
{
    if (s->control->ops.drop) {
        s->control->ops.drop(name, s->control->ops.opaque);
    }
}

/* This engine and its relay may both die: the next ones need the same as if it was this one alone.
 */
static bool keep_pact(FfOldSide *s, const int *fds, unsigned n, GError **error)
{
    FfVmmState *state = &s->cfg->vmm->state;

    return !state->keep_pact || state->keep_pact(state, fds, n, error);
}

static bool accept_peer(FfOldSide *s, GError **error)
{
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);
    int fds[FF_UPGRADE_FDS];

    if (!ff_upgrade_await(s->link, silence_limit_ms(s), FF_UPGRADE_OFFER, PEER, m, fds,
                          FF_UPGRADE_FDS, error)) {
        return false;
    }
    s->heir = fds[FF_UPGRADE_FD_PIDFD];
    s->uffd = fds[FF_UPGRADE_FD_UFFD];
    s->maps = fds[FF_UPGRADE_FD_MAPS];
    store_fd(s, FF_HEIR_HELD, s->heir);
    store_fd(s, FF_HEIR_UFFD_HELD, s->uffd);
    if (!ff_upgrade_same_memory(s->ram, m, error)) {
        return false;
    }
    int pact = ff_upgrade_commit_create(largest_page(s->ram));
    if (pact < 0) {
        g_set_error(error, FF_M_ERROR, 0, "the pact: %s", g_strerror(-pact));
        return false;
    }
    store_fd(s, FF_UPGRADE_COMMIT_HELD, pact);
    s->pact = ff_upgrade_commit_map(pact, error);
    const int kept[] = {pact, s->heir, s->uffd};
    bool ok = s->pact && keep_pact(s, kept, G_N_ELEMENTS(kept), error) && guard_memory(s, error);
    FF_FAULT_AT("guarded");
    int rc =
        ok ? ff_upgrade_send(s->link, silence_limit_ms(s), FF_UPGRADE_ACCEPT, NULL, 0, &pact, 1)
           : 0;
    close(pact);
    if (rc < 0) {
        return ff_upgrade_peer_error(m, rc, PEER, error);
    }
    ok = ok &&
         ff_upgrade_await(s->link, silence_limit_ms(s), FF_UPGRADE_READY, PEER, m, NULL, 0, error);
    s->theirs = ok && m->length ? g_strndup((const char *)m->bytes, m->length) : NULL;
    return ok;
}

static bool disks_are_the_same(FfOldSide *s, GError **error)
{
    g_autofree char *now = NULL, *ours = NULL;

    if (!ff_upgrade_look_at_disks(s->cfg->vmm, s->theirs, &now, &ours, error) ||
        !ff_upgrade_same_parts(s->theirs, ours, error)) {
        return false;
    }
    if (strcmp(now, s->disks) != 0) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "the guest's disks have been changed meanwhile, and changed back: "
                            "repeat the upgrade");
        return false;
    }
    return true;
}

static bool is_as_it_was(FfOldSide *s, GError **error)
{
    return disks_are_the_same(s, error) && ff_ram_is_mapped(s->ram, s->cfg->maps_fd, error);
}

static gpointer look_again(gpointer p)
{
    FfOldSide *s = p;

    is_as_it_was(s, &s->differ);
    return NULL;
}

/* The guest stands, and the relay passes nothing on to QEMU any more: what is true now is true when
 * the guest is given away. QEMU answers when it has saved its devices, while the new one loads
 * them.
 */
static void begin_to_look(FfOldSide *s)
{
    s->looks = g_thread_try_new("ff-look", look_again, s, NULL);
    if (!s->looks) {
        look_again(s);
    }
}

/* Clients' commands pass again when they have waited for that long (guest/relay/clients-wait.c);
 * ms. */
#define PASS_AGAIN_MS 4000

/* FALSE and ERROR: they are not the same. */
static bool end_look(FfOldSide *s, GError **error)
{
    if (s->looks) {
        g_thread_join(g_steal_pointer(&s->looks));
    }
    if (s->differ) {
        g_propagate_error(error, g_steal_pointer(&s->differ));
        return false;
    }
    return true;
}

/* What they write is in the memory that the new QEMU has; but they must have stopped writing. */
static bool devices_stand(FfOldSide *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    return !memory->has_devices || memory->devices_stand(memory, error);
}

/* While the guest runs: QEMU stops a device by a question, and would wait for the answer of one
 * that hangs, with its main loop and the guest. */
static bool devices_answer(FfOldSide *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (!memory->has_devices) {
        return true;
    }
    bool ok = memory->log_begin(memory, error);
    memory->log_end(memory);
    return ok;
}

static bool begin_handover(FfOldSide *s, GError **error)
{
    g_autofree char *ours = NULL;

    s->begun_us = g_get_monotonic_time();
    FF_FAULT_AT("setup");
    if (!look_at_guest(s, error) ||
        !ff_upgrade_look_at_disks(s->cfg->vmm, NULL, &s->disks, &ours, error) ||
        !accept_peer(s, error) || !disks_are_the_same(s, error) || !devices_answer(s, error) ||
        !goes_on(s, error)) {
        return false;
    }
    ff_stamp(s->stats->setup_us);
    ff_control_set_status(s->control, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    return true;
}

/* ---- the switch ------------------------------------------------------------------------------ */

static bool stop_guest(FfOldSide *s, GError **error)
{
    FfVmm *vmm = s->cfg->vmm;

    if (!vmm->state.prepare(&vmm->state, FF_ROLE_SOURCE, error)) {
        return false;
    }
    FF_FAULT_AT("prepared");
    if (s->cfg->upgrade.stays) {
        ff_state_mark(s->cfg->state, FF_MARK_FRONT);
    }
    ff_ownership_stopped(s->cfg->state);
    FF_FAULT_AT("stopping");
    /* As for a migration (migration/source/source.c). */
    ff_mutex_lock(&s->control->lock);
    s->stopped = s->control->moves = true;
    ff_mutex_unlock(&s->control->lock);
    if (!FF_FAULT_STEP("words", ff_control_await_words(s->control, error)) ||
        !vmm->state.offer(&vmm->state, &s->inner, error)) {
        return false;
    }
    s->saving = true;
    /* If this process dies, QEMU must not see the end of this socket. */
    store_fd(s, "inner", s->inner);
    if (vmm->state.keep) {
        vmm->state.keep(&vmm->state);
    }
    ff_control_set_status(s->control, FF_STATUS_DEVICE);
    ff_stamp(s->stats->stop_us);
    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = true;
    ff_mutex_unlock(&s->control->lock);
    if (!vmm->state.stop_and_save(&vmm->state, &s->run_state, error)) {
        return false;
    }
    g_strlcpy(s->cfg->state->run_state, s->run_state, sizeof(s->cfg->state->run_state));
    FF_FAULT_AT("stopped");
    ff_control_moved(s->control);
    begin_to_look(s);
    return true;
}

/* One piece. */
static bool send_state(FfOldSide *s, uint8_t *buf, GError **error)
{
    ssize_t n = recv(s->inner, buf, FF_UPGRADE_PIECE, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "QEMU ended its device state early: see the log of the old QEMU");
        return false;
    }
    ff_count(s->stats->device_bytes, n);
    int rc = ff_upgrade_send(s->link, silence_limit_ms(s), FF_UPGRADE_DEVICE, buf, n, NULL, 0);
    return rc == 0 || ff_upgrade_peer_error(NULL, rc, PEER, error);
}

/* Device state goes to the new QEMU as it comes, until that one says that it has it. */
static bool send_all_state(FfOldSide *s, GError **error)
{
    g_autofree uint8_t *buf = g_malloc(FF_UPGRADE_PIECE);
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);
    struct pollfd fds[] = {{s->inner, POLLIN, 0}, {s->link, POLLIN, 0}};

    __atomic_store_n(&s->loads, true, __ATOMIC_RELEASE);
    for (;;) {
        int n = poll(fds, 2, silence_limit_ms(s));
        if (n == 0) {
            return ff_upgrade_peer_error(m, -ETIMEDOUT, PEER, error);
        }
        if (n < 0 && errno != EINTR) {
            g_set_error(error, FF_M_ERROR, 0, "poll: %s", g_strerror(errno));
            return false;
        }
        if (fds[1].revents) {
            FF_FAULT_AT("loaded");
            return ff_upgrade_await(s->link, silence_limit_ms(s), FF_UPGRADE_LOADED, PEER, m, NULL,
                                    0, error);
        }
        if (fds[0].revents && !send_state(s, buf, error)) {
            return false;
        }
    }
}

/* TRUE: the word is GIVEN, and this side has let go. */
static bool give_right(FfOldSide *s, GError **error)
{
    g_autoptr(GError) moved = NULL;

    /* If this QEMU ends from now on, the guest may be the other one's, and the monitors' sockets: a
     * client that has it quit is told so (guest/relay/monitor.c). */
    ff_state_mark(s->cfg->state, FF_MARK_MOVED);
    /* The relay's turn has come once more: what it has let pass before it looked at the mark is in
     * front of what QEMU is asked now. */
    bool late = g_get_monotonic_time() - s->begun_us > PASS_AGAIN_MS * 1000LL;
    bool stands = ff_control_await_words(s->control, &moved) && end_look(s, &moved) &&
                  (!late || is_as_it_was(s, &moved)) &&
                  s->cfg->vmm->run.stands(&s->cfg->vmm->run, &moved) && devices_stand(s, &moved);

    if (!goes_on(s, error)) {
        ff_state_unmark(s->cfg->state, FF_MARK_MOVED);
        return false;
    }
    ff_mutex_lock(&s->control->lock);
    bool cancelled = s->control->events & (FF_EV_WANT_CANCEL | FF_EV_QUIT | FF_EV_DEAD);
    bool ok = stands && !cancelled && !s->resumed;
    if (ok) {
        if (s->control->start_paused && ff_vmm_runs(s->run_state)) {
            g_free(s->run_state);
            s->run_state = g_strdup("paused"); /* the client has said stop meanwhile */
        }
        ff_upgrade_commit_set_run_state(s->pact, s->run_state);
        ff_ownership_give(s->cfg->state);
        s->control->granted = true;
    }
    ff_mutex_unlock(&s->control->lock);
    if (!ok) {
        if (!stands) {
            g_propagate_error(error, g_steal_pointer(&moved));
        } else {
            g_set_error_literal(error, FF_M_ERROR, 0,
                                s->resumed ? "the guest was resumed" : "the upgrade was ended");
        }
        ff_state_unmark(s->cfg->state, FF_MARK_MOVED);
        return false;
    }
    FF_FAULT_AT("giving");
    if (!ff_upgrade_commit_change(s->pact, FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_GIVEN)) {
        g_set_error_literal(error, FF_M_ERROR, 0, PEER " has given up");
        return false;
    }
    FF_FAULT_AT("given");
    /* An engine that does not get it reads the word. */
    ff_upgrade_send(s->link, silence_limit_ms(s), FF_UPGRADE_GIVE, NULL, 0, NULL, 0);
    return true;
}

static bool await_taken(FfOldSide *s, GError **error)
{
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);

    bool ok =
        ff_upgrade_await(s->link, silence_limit_ms(s), FF_UPGRADE_RUNNING, PEER, m, NULL, 0, error);
    if (ok) {
        ff_stamp(s->stats->running_us);
    }
    FF_FAULT_AT("running");
    return ok;
}

/* ---- the guest is the new QEMU's ------------------------------------------------------------- */

static void kill_it(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    if (pidfd >= 0) {
        /* ESRCH: it has ended. */
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
        while (poll(&p, 1, -1) < 0 && errno == EINTR) {
        }
    }
}

static const uint8_t shut_good[8] = {0, 1, 0, 4, 0, 0, 0, 0};

/* Its disks stay inactive when it ends: in finish-migrate its end would be a migration that fails,
 * before which it opens them. */
static void complete_inner(FfOldSide *s)
{
    FfVmmState *state = &s->cfg->vmm->state;
    g_autoptr(GError) error = NULL;

    if (s->inner >= 0 && send(s->inner, shut_good, sizeof(shut_good), MSG_NOSIGNAL) < 0) {
        g_message("QEMU's stream: %s", g_strerror(errno));
    }
    FF_FAULT_AT("inner-told");
    if (state->wait_saved(state, 0, &error)) {
        ff_close_fd(&s->inner);
    } else {
        /* It must not see an end that is none: relay and QEMU hold the stream still. */
        g_warning("this QEMU did not end its migration: %s", error->message);
    }
    FF_FAULT_AT("inner-over");
}

/* The guest runs behind this QEMU, which has nothing of it any more. Nobody can say cont to it: its
 * monitors are the other one's. */
static void become_front(FfOldSide *s)
{
    FfVmmState *state = &s->cfg->vmm->state;
    g_autoptr(GError) error = NULL;

    if (s->inner >= 0) {
        complete_inner(s);
    }
    if (state->leave) {
        state->leave(state, s->cfg->pidfd);
    }
    FF_FAULT_AT("all-left");
    ff_mutex_lock(&s->control->lock);
    ff_close_fd(&s->link); /* the new engine waits for it */
    ff_mutex_unlock(&s->control->lock);
    if (ff_ownership_phase(s->cfg->state) != FF_PHASE_DONE) { /* of an engine that died after it */
        ff_ownership_done(s->cfg->state);
    }
    FF_FAULT_AT("done");
    if (!state->undo(state, &error)) {
        g_warning("%s", error->message);
    }
    if (state->forget_pact) {
        state->forget_pact(state);
    }
    if (s->inner < 0) {
        if (state->forget_kept) {
            state->forget_kept(state);
        }
        drop_fd(s, "inner");
    }
    drop_fd(s, FF_HEIR_UFFD_HELD);
    drop_fd(s, FF_UPGRADE_COMMIT_HELD); /* the relay watches FF_HEIR_HELD from now on */
    g_message("the guest runs in its next QEMU: this process stays as its front");
    ff_ownership_idle(s->cfg->state);
    FF_FAULT_AT("front");
    ff_state_unmark(s->cfg->state, FF_MARK_UPGRADE);
    ff_control_set_status(s->control, FF_STATUS_COMPLETED);
    ff_control_sync(s->control);
}

/* This QEMU is not told that it has completed: it would obey cont then. */
static void end_old(FfOldSide *s)
{
    if (ff_state_is_marked(s->cfg->state, FF_MARK_FRONT)) {
        become_front(s);
        return;
    }
    ff_ownership_done(s->cfg->state);
    FF_FAULT_AT("done");
    ff_control_set_status(s->control, FF_STATUS_COMPLETED);
    ff_control_sync(s->control);
    g_message("the guest runs in its new QEMU: this one is ended");
    kill_it(s->cfg->pidfd);
}

/* The end of this QEMU, which comes when the memory is guarded no more, would say the same. */
static void leave_devices(FfOldSide *s)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (memory->has_devices) {
        memory->devices_leave(memory);
        FF_FAULT_AT("left");
        ff_upgrade_send(s->link, silence_limit_ms(s), FF_UPGRADE_LEFT, NULL, 0, NULL, 0);
    }
}

static void finish_handover(FfOldSide *s)
{
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);
    g_autoptr(GError) ignored = NULL;

    ff_stamp(s->control->end_us);
    if (ff_state_is_marked(s->cfg->state, FF_MARK_FRONT)) {
        complete_inner(s);
    }
    leave_devices(s);
    /* Until then the guard answers; after it, or if the new engine has died, its side does. */
    if (s->link >= 0) {
        ff_upgrade_await(s->link, -1, FF_UPGRADE_LIFTED, PEER, m, NULL, 0, &ignored);
    }
    FF_FAULT_AT("lifted");
    g_clear_pointer(&s->guard, ff_guard_free);
    end_old(s);
}

/* ---- the guest stays ------------------------------------------------------------------------- */

static bool put_page(const FfRamBlock *b, uint64_t page, const void *content)
{
    void *map = FF_FAULT_MAP("put-page", mmap(NULL, b->page_size, PROT_READ | PROT_WRITE,
                                              MAP_SHARED, b->memfd, (off_t)(page * b->page_size)));

    if (map == MAP_FAILED) {
        return false;
    }
    memcpy(map, content, b->page_size);
    munmap(map, b->page_size);
    return true;
}

/* The new QEMU has ended, and the guest stands. The youngest content first: each page is there
 * once, but for one that was let go, protected by nobody, and kept once more; the oldest is the
 * guest's. FALSE: not all of it. */
static bool put_back(FfOldSide *s)
{
    unsigned n = ff_upgrade_commit_pages(s->pact);
    bool ok = true;

    for (unsigned i = n; i-- > 0;) {
        unsigned block;
        uint64_t page;
        const void *content = ff_upgrade_commit_page(s->pact, i, &block, &page);

        if (block >= s->ram->n_blocks || page >= s->ram->blocks[block].n_pages ||
            !FF_FAULT_STEP("put-back", put_page(&s->ram->blocks[block].info, page, content))) {
            g_critical("a page that " PEER " wrote could not be put back");
            ok = false;
        }
    }
    if (n && ok) {
        /* An engine that comes after this one would put them over what the guest has written. */
        ff_upgrade_commit_forget_pages(s->pact);
        g_message("upgrade: %u pages that " PEER " had written were put back", n);
    }
    return ok;
}

/* After it nobody but this QEMU has the memory. FALSE: it is not all as it was. */
static bool end_heir(FfOldSide *s)
{
    bool ok = true;

    FF_FAULT_AT("ending-heir");
    kill_it(s->heir);
    g_clear_pointer(&s->guard, ff_guard_free);
    if (s->pact) {
        ok = put_back(s);
    }
    FF_FAULT_AT("put-back");
    return ok;
}

/* Nobody may start the guest. */
static void stay_stopped(FfOldSide *s, const char *why)
{
    g_warning("%s", why);
    /* Why it failed is not what must be done now. */
    ff_mutex_lock(&s->control->lock);
    g_clear_pointer(&s->control->error, g_free);
    ff_mutex_unlock(&s->control->lock);
    ff_control_set_error(s->control, why);
    if (s->control->status == FF_STATUS_SETUP) {
        ff_control_set_status(s->control, FF_STATUS_ACTIVE); /* SETUP cannot be paused */
    }
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_RECOVER);
    ff_control_set_status(s->control, FF_STATUS_POSTCOPY_PAUSED);
    ff_control_moved(s->control);
    ff_control_wait(s->control, FF_EV_QUIT);
}

/* FALSE: the next engine does it, and nothing may be done any more. */
static bool restart_guest(FfOldSide *s)
{
    static const uint8_t shut_bad[8] = {0, 1, 0, 4, 0, 0, 0, 1};
    FfVmm *vmm = s->cfg->vmm;
    g_autoptr(GError) error = NULL;
    bool running = false;

    if (s->inner >= 0) {
        if (send(s->inner, shut_bad, sizeof(shut_bad), MSG_NOSIGNAL) < 0) {
            g_message("roll back: QEMU's stream: %s", g_strerror(errno));
        }
        shutdown(s->inner, SHUT_RDWR);
        if (!vmm->state.wait_saved(&vmm->state, 1, &error)) {
            g_warning("roll back: %s", error->message);
            g_clear_error(&error);
        }
    } else if (!s->saving && vmm->state.forget_kept) {
        vmm->state.forget_kept(&vmm->state);
    }
    const char *state = s->run_state ? s->run_state : s->cfg->state->run_state;
    ff_mutex_lock(&s->control->lock);
    bool start = !s->control->start_paused;
    s->control->moves = true;
    ff_mutex_unlock(&s->control->lock);
    if (*state && !vmm->run.resume(&vmm->run, state, start, &running, &error)) {
        if (ff_control_fail_unheard(s->control, s->cfg->pidfd, error)) {
            return false;
        }
        g_warning("roll back: the guest could not be resumed: %s", error->message);
        g_clear_error(&error);
    }
    /* One look decides: from then on QEMU is told at once. */
    ff_mutex_lock(&s->control->lock);
    bool halt = s->control->start_paused;
    s->stopped = halt;
    s->cfg->state->run_state[0] = 0; /* as in ff_source_release_guest() */
    ff_mutex_unlock(&s->control->lock);
    if (halt) {
        if (!vmm->run.halt(&vmm->run, &error)) {
            g_warning("roll back: the guest could not be stopped again: %s", error->message);
        }
        ff_mutex_lock(&s->control->lock);
        s->stopped = false;
        ff_mutex_unlock(&s->control->lock);
    }
    ff_control_moved(s->control);
    return true;
}

static void forget(FfOldSide *s)
{
    FfVmmState *state = &s->cfg->vmm->state;

    if (state->forget_pact) {
        state->forget_pact(state);
    }
    drop_fd(s, FF_HEIR_UFFD_HELD);
    drop_fd(s, FF_HEIR_HELD);
    drop_fd(s, FF_UPGRADE_COMMIT_HELD);
    drop_fd(s, "inner");
}

/* The word is OLD, or there is none. */
static void keep_guest(FfOldSide *s, bool cancelled)
{
    FfVmmState *state = &s->cfg->vmm->state;
    g_autoptr(GError) error = NULL;

    bool whole = end_heir(s);

    ff_state_unmark(s->cfg->state, FF_MARK_MOVED | FF_MARK_FRONT); /* it is dead */
    if (!whole) {
        stay_stopped(s, "guest memory that " PEER " had written could not be put back: "
                        "the guest stands; end this engine, and the next one tries it again");
        return;
    }
    if (cancelled) {
        ff_control_set_status(s->control, FF_STATUS_CANCELLING);
    }
    if (ff_ownership_right(s->cfg->state) == FF_RUN_GIVEN) {
        ff_ownership_take_back(s->cfg->state);
    }
    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = false;
    s->control->granted = false;
    ff_mutex_unlock(&s->control->lock);
    if (s->stopped && !restart_guest(s)) {
        end_look(s, NULL);
        return;
    }
    end_look(s, NULL); /* a QEMU that could not write its state answers when it has given that up */
    FF_FAULT_AT("restarted");
    if (!state->undo(state, &error)) {
        g_warning("roll back: %s", error->message);
    }
    forget(s);
    ff_ownership_idle(s->cfg->state);
    ff_state_unmark(s->cfg->state, FF_MARK_UPGRADE);
    ff_control_set_status(s->control, cancelled ? FF_STATUS_CANCELLED : FF_STATUS_FAILED);
}

static void roll_back(FfOldSide *s, const GError *why)
{
    bool cancelled = g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
                     (ff_control_events(s->control) & FF_EV_WANT_CANCEL);

    FF_FAULT_AT("rolling-back");
    if (s->pact && !ff_upgrade_commit_keep_guest(s->pact)) {
        finish_handover(s); /* it was faster */
        return;
    }
    if (!cancelled) {
        ff_control_set_error(s->control, why->message);
    }
    ff_upgrade_send(s->link, 0, FF_UPGRADE_FAILED, why->message, strlen(why->message), NULL, 0);
    keep_guest(s, cancelled);
}

void ff_old_side_coordinate(FfOldSide *s)
{
    g_autoptr(GError) error = NULL;

    FF_FAULT_AT("begun");
    if (begin_handover(s, &error) && stop_guest(s, &error) && send_all_state(s, &error) &&
        give_right(s, &error) && await_taken(s, &error)) {
        finish_handover(s);
    } else {
        roll_back(s, error);
    }
}

/* ---- after an engine that died --------------------------------------------------------------- */

/* Nobody knows whose the guest is, or what its memory was: it is not made two. */
static const char unknown[] =
    DIED " while its guest was handed to a new QEMU, and its relay as well: "
         "if the guest runs there, end this QEMU by SIGTERM";

void ff_old_side_adopt_begin(FfOldSide *s)
{
    FfUpgradeConfig *held = &s->cfg->upgrade;

    s->inner = g_steal_fd(&s->cfg->fd);
    s->heir = g_steal_fd(&held->heir_fd);
    s->pact = held->pact_fd >= 0 ? ff_upgrade_commit_map(held->pact_fd, NULL) : NULL;
    s->stopped = ff_ownership_phase(s->cfg->state) != FF_PHASE_SETUP;
    s->saving = s->inner >= 0;
    s->control->granted = ff_ownership_right(s->cfg->state) == FF_RUN_GIVEN;
}

/* The pages that the new QEMU has written are known by their block. */
static void cannot_put_back(FfOldSide *s, const GError *why)
{
    g_autofree char *text = g_strdup_printf(
        DIED ", and the next one cannot put back what " PEER " may have written to guest memory: "
             "%s: the guest stands, and neither QEMU may continue with it: end both by SIGTERM",
        why->message);

    ff_state_unmark(s->cfg->state, FF_MARK_MOVED | FF_MARK_FRONT); /* the word is OLD */
    stay_stopped(s, text);
}

void ff_old_side_adopt(FfOldSide *s)
{
    FfStateHeader *state = s->cfg->state;
    FfPhase phase = ff_ownership_phase(state);
    bool given = ff_ownership_right(state) == FF_RUN_GIVEN;
    g_autoptr(GError) error = NULL;

    if (phase == FF_PHASE_DONE || (s->pact && !ff_upgrade_commit_keep_guest(s->pact))) {
        ff_control_set_status(s->control, FF_STATUS_ACTIVE);
        end_old(s);
        return;
    }
    /* In SETUP the guest runs here, and the pact was perhaps never made known. */
    bool kept = __atomic_load_n(&state->kept_pact, __ATOMIC_ACQUIRE);
    if (!s->pact && (given || (kept && phase != FF_PHASE_SETUP))) {
        stay_stopped(s, unknown);
        return;
    }
    if (s->pact && !ff_ram_adopt(s->ram, s->control,
                                 s->cfg->vmm->memory.blocks(&s->cfg->vmm->memory), state, &error)) {
        cannot_put_back(s, error);
        return;
    }
    ff_control_set_error(s->control,
                         DIED ": the guest continues in the old QEMU, repeat the upgrade");
    keep_guest(s, false);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_old_side_init(FfOldSide *s)
{
    s->link = g_steal_fd(&s->cfg->fd);
    s->heir = s->uffd = s->maps = s->inner = -1;
}

void ff_old_side_wake_locked(FfOldSide *s)
{
    if (s->link >= 0) {
        shutdown(s->link, SHUT_RDWR);
    }
}

void ff_old_side_clear(FfOldSide *s)
{
    end_look(s, NULL);
    ff_guard_free(s->guard);
    ff_upgrade_commit_free(s->pact);
    ff_close_fd(&s->link);
    ff_close_fd(&s->heir);
    ff_close_fd(&s->uffd);
    ff_close_fd(&s->maps);
    ff_close_fd(&s->inner);
    ff_close_fd(&s->cfg->upgrade.pact_fd);
    ff_close_fd(&s->cfg->upgrade.heir_fd);
    g_free(s->run_state);
    g_free(s->disks);
    g_free(s->theirs);
}
