/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The coordinator of the new QEMU's side; see new-side.h. Its one rule: cont is said after the word
 * is TAKEN, which this side alone can make it, and only of GIVEN. Until then every end of the old
 * engine, and every failure, makes the word OLD, and this QEMU is killed.
 *
 * This side never touches guest memory: nothing is dropped, placed or registered by it, but for the
 * end of the old side's guard.
 *
 * Threads: the coordinator; one that lifts the guard. System calls: poll, recvfrom, sendto,
 * shutdown, fstat, eventfd, write.
 */
#include "migration/upgrade/new-side.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/failpoints.h"
#include "contract/caches.h"
#include "migration/common/ownership.h"
#include "migration/upgrade/link.h"
#include "uffd/unprotect.h"

#define PEER "the old QEMU's engine"
#define DIED "the migration engine ended unexpectedly"

/* Until the old QEMU has left its devices. */
#define LEFT_MS 1000
/* Until it has ended, or has nothing of the guest any more. */
#define END_MS 5000
/* While it starts it opens its disks for writing: the old QEMU's caches are its own. Until this
 * engine says that it has; so long if it dies before. */
#define CACHES_KEPT_US (10 * 1000 * 1000)

/* ---- before device state --------------------------------------------------------------------- */

static bool look_at_guest(FfNewSide *t, GError **error)
{
    FfVmmMemory *memory = &t->cfg->vmm->memory;
    GPtrArray *blocks = NULL;
    uint8_t uuid[16];

    memory->takes_devices = true;
    if (memory->check(memory, FF_ROLE_DESTINATION, &blocks, uuid, error) != FF_GUEST_FITS ||
        !ff_ram_set_blocks(t->ram, t->control, blocks, error)) {
        return false;
    }
    ff_ram_store(t->ram, t->cfg->state);
    return true;
}

static bool describe_block(const FfRamBlock *b, FfUpgradeBlock *block, GError **error)
{
    struct stat st;

    if (fstat(b->memfd, &st) < 0) {
        g_set_error(error, FF_M_ERROR, 0, "guest RAM '%s': %s", b->id, g_strerror(errno));
        return false;
    }
    *block = (FfUpgradeBlock){
        .size = b->size, .page_size = b->page_size, .dev = st.st_dev, .ino = st.st_ino};
    g_strlcpy(block->id, b->id, sizeof(block->id));
    return true;
}

static bool offer_memory(FfNewSide *t, GError **error)
{
    g_autofree FfUpgradeBlock *blocks = g_new0(FfUpgradeBlock, t->ram->n_blocks);
    const int fds[FF_UPGRADE_FDS] = {[FF_UPGRADE_FD_PIDFD] = t->cfg->pidfd,
                                     [FF_UPGRADE_FD_UFFD] = t->cfg->upgrade.uffd,
                                     [FF_UPGRADE_FD_MAPS] = t->cfg->maps_fd};

    for (unsigned i = 0; i < t->ram->n_blocks; i++) {
        if (!describe_block(&t->ram->blocks[i].info, &blocks[i], error)) {
            return false;
        }
    }
    int rc = ff_upgrade_send(t->link, -1, FF_UPGRADE_OFFER, blocks,
                             t->ram->n_blocks * sizeof(*blocks), fds, FF_UPGRADE_FDS);
    return rc == 0 || ff_upgrade_peer_error(NULL, rc, PEER, error);
}

static bool agree_on_memory(FfNewSide *t, FfUpgradeMessage *m, GError **error)
{
    int pact;

    t->uffd_is_free = false; /* the other side registers it */
    if (!offer_memory(t, error) ||
        !ff_upgrade_await(t->link, -1, FF_UPGRADE_ACCEPT, PEER, m, &pact, 1, error)) {
        return false;
    }
    if (t->control->ops.hold) {
        t->control->ops.hold(FF_UPGRADE_COMMIT_HELD, pact, t->control->ops.opaque);
    }
    t->pact = ff_upgrade_commit_map(pact, error);
    FfVmmState *state = &t->cfg->vmm->state;
    bool ok = t->pact && (!state->keep_pact || state->keep_pact(state, &pact, 1, error));
    close(pact);
    return ok;
}

/* The old side looks whether its own QEMU still has the same, when its guest stands. */
static bool say_ready(FfNewSide *t, const char *disks, GError **error)
{
    size_t len = strlen(disks);

    if (len > FF_UPGRADE_PIECE) {
        g_set_error_literal(error, FF_M_ERROR, 0,
                            "the list of its disks and devices is too long: give it fewer");
        return false;
    }
    int rc = ff_upgrade_send(t->link, -1, FF_UPGRADE_READY, disks, len, NULL, 0);
    return rc == 0 || ff_upgrade_peer_error(NULL, rc, PEER, error);
}

static bool begin_load(FfNewSide *t, FfUpgradeMessage *m, GError **error)
{
    FfVmmState *state = &t->cfg->vmm->state;
    FfVmmDisks *disks = &t->cfg->vmm->disks;
    g_autofree char *here = NULL, *anywhere = NULL;

    FF_FAULT_AT("setup");
    if (!look_at_guest(t, error) || !agree_on_memory(t, m, error)) {
        return false;
    }
    FF_FAULT_AT("agreed");
    if ((disks->describe && !disks->describe(disks, NULL, &here, &anywhere, error)) ||
        !state->prepare(state, FF_ROLE_DESTINATION, error)) {
        return false;
    }
    ff_stamp(t->stats->setup_us);
    ff_control_set_status(t->control, FF_STATUS_ACTIVE);
    ff_ownership_loading(t->cfg->state);
    FF_FAULT_AT("loading");
    if (!state->load(state, &t->inner, error)) {
        return false;
    }
    FF_FAULT_AT("ready");
    return say_ready(t, anywhere ? anywhere : "", error);
}

/* ---- device state ---------------------------------------------------------------------------- */

static bool not_loaded(GError **error)
{
    g_set_error_literal(error, FF_M_ERROR, 0,
                        "it could not load the device state: it says on its stderr which device");
    return false;
}

static bool feed_devices(FfNewSide *t, const FfUpgradeMessage *m, GError **error)
{
    FfVmmState *state = &t->cfg->vmm->state;

    if (state->keeps_suspended && !state->keeps_suspended(state) &&
        ff_run_state_seek(&t->run_state, m->bytes, m->length)) {
        g_set_error_literal(error, FF_M_ERROR, 0, FF_WOULD_NOT_STAY_SUSPENDED);
        return false;
    }
    for (size_t at = 0; at < m->length;) {
        ssize_t n = send(t->inner, m->bytes + at, m->length - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return not_loaded(error);
        }
        at += MAX(n, 0);
    }
    ff_count(t->stats->device_bytes, m->length);
    return true;
}

/* What QEMU says on its return path (migration/migration.h): be16 type, be16 length, payload. What
 * matters is SHUT. *DONE: it has loaded all. */
static bool hear_qemu(FfNewSide *t, bool *done, GError **error)
{
    static const uint8_t shut[8] = {0, 1, 0, 4, 0, 0, 0, 0};
    unsigned payload = t->n_said < 4 ? 0 : t->said[2] << 8 | t->said[3];
    unsigned whole = 4 + payload;
    ssize_t n = whole > sizeof(t->said)
                    ? 0
                    : recv(t->inner, t->said + t->n_said, whole - t->n_said, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        return not_loaded(error);
    }
    t->n_said += n;
    if (t->n_said < 4 || t->n_said < 4u + (t->said[2] << 8 | t->said[3])) {
        return true;
    }
    t->n_said = 0;
    *done = memcmp(t->said, shut, sizeof(shut)) == 0;
    return *done || memcmp(t->said, shut, 2) != 0 || not_loaded(error);
}

static bool load_devices(FfNewSide *t, FfUpgradeMessage *m, GError **error)
{
    struct pollfd fds[] = {{t->inner, POLLIN, 0}, {t->link, POLLIN, 0}};
    bool done = false;

    while (!done) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            g_set_error(error, FF_M_ERROR, 0, "poll: %s", g_strerror(errno));
            return false;
        }
        if (fds[0].revents) {
            if (!hear_qemu(t, &done, error)) {
                return false;
            }
        } else if (fds[1].revents) {
            if (!ff_upgrade_await(t->link, -1, FF_UPGRADE_DEVICE, PEER, m, NULL, 0, error) ||
                !feed_devices(t, m, error)) {
                return false;
            }
        }
    }
    FF_FAULT_AT("shut");
    if (t->cfg->vmm->state.put_back) {
        t->cfg->vmm->state.put_back(&t->cfg->vmm->state);
    }
    ff_ownership_loaded(t->cfg->state);
    FF_FAULT_AT("loaded");
    /* An engine that does not get it sees the end of this one, or continues to read the word. */
    ff_upgrade_send(t->link, -1, FF_UPGRADE_LOADED, NULL, 0, NULL, 0);
    return true;
}

/* ---- the commit ------------------------------------------------------------------------------ */

/* Whatever comes from the old engine, or its end: the word decides. */
static bool take_right(FfNewSide *t, FfUpgradeMessage *m, GError **error)
{
    g_autoptr(GError) said = NULL;

    do {
        g_clear_error(&said);
    } while (!ff_upgrade_await(t->link, -1, FF_UPGRADE_GIVE, PEER, m, NULL, 0, &said) &&
             m->type == FF_UPGRADE_DEVICE); /* of which QEMU needs no more */
    FF_FAULT_AT("grant");
    if (getppid() != t->relay) {
        /* This engine ends with it, and nobody would let the guest run. */
        g_set_error_literal(error, FF_M_ERROR, 0, "the relay has ended");
        return false;
    }
    if (!ff_upgrade_commit_change(t->pact, FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_TAKEN)) {
        g_propagate_error(
            error, said ? g_steal_pointer(&said)
                        : g_error_new_literal(FF_M_ERROR, 0, PEER " has taken the guest back"));
        return false;
    }
    FF_FAULT_AT("taken");
    return true;
}

/* Its agent does it (guest/agent/taps.c): until then what the guest sends waits. */
static void give_taps(const FfNewSide *t)
{
    uint64_t one = 1;
    int fd = t->cfg->upgrade.taps_fd;

    while (fd >= 0 && write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* Of a guest that is this QEMU's. */
static void run_guest(FfNewSide *t)
{
    FfVmmRun *run = &t->cfg->vmm->run;
    g_autoptr(GError) error = NULL;
    bool running = false;

    give_taps(t);
    ff_caches_keep(t->cfg->discard_fd, g_get_monotonic_time() + CACHES_KEPT_US);
    ff_mutex_lock(&t->control->lock);
    t->control->granted = t->control->moves = true;
    bool start = !t->control->start_paused || t->control->client_cont;
    ff_mutex_unlock(&t->control->lock);
    /* What a client of the old QEMU says from here on is refused: it could not be obeyed at once.
     */
    start = !(t->pact && ff_upgrade_commit_hear_no_more(t->pact)) && start;
    if (!run->resume(run, t->cfg->state->run_state, start, &running, &error)) {
        g_warning("the guest could not be started: %s; try the monitor's cont", error->message);
        ff_mutex_lock(&t->control->lock);
        t->not_started = g_strdup(error->message);
        ff_mutex_unlock(&t->control->lock);
    }
    ff_caches_keep(t->cfg->discard_fd, 0); /* what opens them next may come from another host */
    FF_FAULT_AT("resumed");
    __atomic_store_n(&t->cfg->state->resumed, 1, __ATOMIC_RELEASE);
    ff_control_moved(t->control);
    ff_stamp(t->stats->running_us);
}

static void lift_guard(FfNewSide *t)
{
    g_autofree FfLiftBlock *blocks = g_new0(FfLiftBlock, t->ram->n_blocks);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < t->ram->n_blocks; i++) {
        const FfRamBlock *b = &t->ram->blocks[i].info;
        blocks[i] = (FfLiftBlock){b->memfd, b->page_size};
    }
    t->uffd_is_free =
        ff_unprotect_all(t->cfg->upgrade.uffd, t->cfg->maps_fd, blocks, t->ram->n_blocks, &error);
    if (!t->uffd_is_free) {
        g_warning("upgrade: %s", error->message);
    }
}

/* When the guest has been started; or when nobody answers the guard any more: QEMU may write to a
 * guarded page before it says that it has started. */
static gpointer lift_in_time(gpointer p)
{
    FfNewSide *t = p;
    struct pollfd pfd[] = {{t->link, POLLRDHUP, 0}, {t->started_fd, POLLIN, 0}};

    while (poll(pfd, G_N_ELEMENTS(pfd), -1) < 0 && errno == EINTR) {
    }
    lift_guard(t);
    return NULL;
}

/* The guest runs, and waits for them. An old engine that dies, or hangs, says nothing: then its
 * QEMU's end does, which the relay sees. */
static void take_devices(FfNewSide *t)
{
    FfVmmMemory *memory = &t->cfg->vmm->memory;
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);
    g_autoptr(GError) ignored = NULL;

    if (memory->has_devices &&
        ff_upgrade_await(t->link, LEFT_MS, FF_UPGRADE_LEFT, PEER, m, NULL, 0, &ignored)) {
        memory->devices_take(memory);
    }
}

/* Nobody takes it back: the guard is needed no more. */
static void run_and_lift(FfNewSide *t)
{
    uint64_t one = 1;
    GThread *lifter;

    t->started_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lifter = t->started_fd < 0 ? NULL : g_thread_try_new("ff-lift", lift_in_time, t, NULL);
    if (!lifter) {
        lift_guard(t);
    }
    run_guest(t);
    ff_upgrade_send(t->link, -1, FF_UPGRADE_RUNNING, NULL, 0, NULL, 0);
    FF_FAULT_AT("running");
    if (lifter) {
        while (write(t->started_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
    }
    take_devices(t);
    if (lifter) {
        g_thread_join(lifter);
    }
    if (t->started_fd >= 0) {
        close(t->started_fd);
    }
}

/* Who was connected to the old QEMU's devices has seen an end there, and may come here, as clients
 * are told when this is over (qapi/upgrade.c). Its engine may hang. */
static void await_others_end(const FfNewSide *t)
{
    struct pollfd pfd = {t->link, POLLRDHUP, 0};
    int64_t until = g_get_monotonic_time() + END_MS * 1000LL;

    while (t->link >= 0 && !pfd.revents && g_get_monotonic_time() < until) {
        poll(&pfd, 1, (int)ff_deadline_left_ms(until));
    }
}

static void complete_upgrade(FfNewSide *t)
{
    FfVmmState *state = &t->cfg->vmm->state;
    FfVmmMemory *memory = &t->cfg->vmm->memory;
    g_autoptr(GError) error = NULL;

    ff_stamp(t->control->end_us);
    if (ff_ownership_phase(t->cfg->state) != FF_PHASE_DONE) { /* of an engine that died after it */
        ff_ownership_done(t->cfg->state);
    }
    FF_FAULT_AT("done");
    if (memory->all_here) {
        memory->all_here(memory);
    }
    if (!state->undo(state, &error)) {
        g_warning("%s", error->message);
    }
    FF_FAULT_AT("undone");
    if (state->forget_pact) {
        state->forget_pact(state);
    }
    if (t->control->ops.drop) {
        t->control->ops.drop(FF_UPGRADE_COMMIT_HELD, t->control->ops.opaque);
    }
    /* First: a QEMU that is IDLE, and has borrowed memory, got no guest, and is killed. */
    ff_state_unmark(t->cfg->state, FF_MARK_BORROWED);
    ff_ownership_idle(t->cfg->state);
    FF_FAULT_AT("idle");
    ff_state_unmark(t->cfg->state, FF_MARK_UPGRADE);
    await_others_end(t);
    ff_control_set_status(t->control, FF_STATUS_COMPLETED);
}

static void run_and_complete(FfNewSide *t)
{
    g_autofree char *run_state = ff_upgrade_commit_run_state(t->pact);

    ff_ownership_grant(t->cfg->state, run_state);
    FF_FAULT_AT("granted");
    run_and_lift(t);
    FF_FAULT_AT("lifted");
    /* Its clients find the new QEMU before the old one is ended: the relay knows (moved). */
    ff_control_sync_clients(t->control);
    ff_upgrade_send(t->link, -1, FF_UPGRADE_LIFTED, NULL, 0, NULL, 0);
    complete_upgrade(t);
}

/* ---- it does not come to that ---------------------------------------------------------------- */

static void give_up(FfNewSide *t, const GError *why)
{
    FF_FAULT_AT("giving-up");
    ff_control_set_error(t->control, why->message);
    ff_ownership_dead(t->cfg->state);
    g_message("the upgrade has failed: %s", why->message);
    ff_upgrade_send(t->link, -1, FF_UPGRADE_FAILED, why->message, strlen(why->message), NULL, 0);
    ff_control_set_status(t->control, FF_STATUS_FAILED);
    ff_control_kill_vmm(t->control, why->message);
}

void ff_new_side_coordinate(FfNewSide *t)
{
    g_autofree FfUpgradeMessage *m = g_new(FfUpgradeMessage, 1);
    g_autoptr(GError) error = NULL;

    if (begin_load(t, m, &error) && load_devices(t, m, &error) && take_right(t, m, &error)) {
        run_and_complete(t);
    } else if (t->pact && !ff_upgrade_commit_keep_guest(t->pact)) {
        g_assert_not_reached(); /* nobody but take_right() makes it TAKEN */
    } else {
        give_up(t, error);
    }
}

/* ---- after an engine that died --------------------------------------------------------------- */

void ff_new_side_look(FfStateHeader *state, int pact_fd)
{
    if (state->role != FF_ROLE_DESTINATION || !ff_state_is_marked(state, FF_MARK_UPGRADE) ||
        ff_ownership_phase(state) != FF_PHASE_LOADED || pact_fd < 0) {
        return;
    }
    g_autoptr(FfUpgradeCommit) pact = ff_upgrade_commit_map(pact_fd, NULL);
    g_autofree char *run_state = pact ? ff_upgrade_commit_run_state(pact) : NULL;

    if (pact && ff_upgrade_commit_word(pact) == FF_UPGRADE_COMMIT_TAKEN) {
        ff_ownership_grant(state, run_state);
    }
}

void ff_new_side_adopt(FfNewSide *t)
{
    FfPhase phase = ff_ownership_phase(t->cfg->state);

    t->pact =
        t->cfg->upgrade.pact_fd >= 0 ? ff_upgrade_commit_map(t->cfg->upgrade.pact_fd, NULL) : NULL;
    if (phase == FF_PHASE_GRANTED || phase == FF_PHASE_DONE) {
        ff_control_set_status(t->control, FF_STATUS_ACTIVE);
        if (phase == FF_PHASE_GRANTED &&
            !__atomic_load_n(&t->cfg->state->resumed, __ATOMIC_ACQUIRE)) {
            run_guest(t);
        }
        ff_control_moved(t->control);
        ff_control_sync_clients(t->control); /* as in run_and_complete() */
        complete_upgrade(t);                 /* the driver lifts what is guarded */
        return;
    }
    if (!t->pact && phase == FF_PHASE_LOADED) {
        /* It may be this one's, and the other QEMU gone. */
        static const char why[] =
            DIED " and its relay as well, and what the two QEMUs had agreed on "
                 "is lost: if the guest runs in the old one, end this QEMU";
        g_warning("%s", why);
        ff_control_set_error(t->control, why);
        ff_control_set_status(t->control, FF_STATUS_ACTIVE);
        ff_control_wait(t->control, FF_EV_QUIT);
        return;
    }
    if (t->pact && !ff_upgrade_commit_keep_guest(t->pact)) {
        g_assert_not_reached(); /* ff_new_side_look() */
    }
    g_autoptr(GError) why =
        g_error_new_literal(FF_M_ERROR, 0, DIED " before the guest could run here");
    give_up(t, why);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_new_side_init(FfNewSide *t)
{
    t->relay = getppid();
    t->link = g_steal_fd(&t->cfg->fd);
    t->inner = -1;
    t->uffd_is_free = true;
}

void ff_new_side_wake_locked(FfNewSide *t)
{
    if (t->link >= 0) {
        shutdown(t->link, SHUT_RDWR);
    }
}

void ff_new_side_clear(FfNewSide *t)
{
    ff_upgrade_commit_free(t->pact);
    ff_close_fd(&t->link);
    ff_close_fd(&t->inner);
    ff_close_fd(&t->cfg->upgrade.pact_fd);
    ff_close_fd(&t->cfg->upgrade.heir_fd);
    g_free(t->not_started);
}
