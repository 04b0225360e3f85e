/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of a live snapshot (docs/design/snapshot.md): guest RAM is protected ahead while the
 * guest runs; it is stopped, its memory armed and its device state read; it runs on, and its old
 * memory is written.
 *
 * An engine that dies in between leaves what a source before its commit point leaves: the next one
 * takes the guest back as from a migration (migration/adopt.c). The kernel ends the protection when
 * the last copy of the userfaultfd is closed.
 *
 * System calls: recvfrom, close, fstatfs, fstat.
 */
#include "migration/snapshot/snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "content/image/run-state.h"
#include "migration/common/ownership.h"
#include "migration/snapshot/devices.h"
#include "migration/snapshot/guest.h"
#include "uffd/regions.h"

#define STATE_PIECE (256u << 10)
#define STATE_ROOM (1u << 20)  /* bytes, with their pages before the stop */
#define STATE_MAX (256u << 20) /* QEMU's has some MB at most, with firmware */
#define AHEAD_US 20000         /* for QEMU to let the guest run, before the first write */

/* ---- before the instant ---------------------------------------------------------------------- */

/* What is given back before it is saved would be lost, and nothing tells of it: the hook in QEMU
 * drops it. */
static bool keeps_what_is_given_back(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (s->cfg->discard_fd >= 0 &&
        !FF_FAULT_STEP("discards", ff_discards_map(s->cfg->discard_fd, &s->discards) < 0)) {
        return true;
    }
    g_autofree char *device = memory->gives_back ? memory->gives_back(memory) : NULL;
    if (!device) {
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0,
                "the guest has %s, by which it may give back memory that is not saved yet (%s): "
                "take it away for as long as that takes, or start the guest again",
                device,
                s->cfg->discard_error ? s->cfg->discard_error
                                      : "an older farfault has started this guest");
    return ff_plain_refuse(s->plain, error);
}

/* Else that would be found out with the guest standing. */
static bool has_plain_state(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;
    g_autofree char *device = memory->saved_before ? memory->saved_before(memory) : NULL;

    if (!device) {
        return true;
    }
    g_set_error(error, FF_M_ERROR, 0,
                "the guest has a device whose state its QEMU writes in front of the memory, where "
                "its end cannot be known (%s)",
                device);
    return ff_plain_refuse(s->plain, error);
}

static int arm_hook(FfSnapshot *s, const FfRegions *regions)
{
    unsigned n;
    const FfRegion *r = ff_regions_all(regions, &n);
    int rc = 0;

    for (unsigned i = 0; i < s->ram->n_blocks && rc == 0; i++) {
        rc = ff_discards_add_file(s->discards, s->ram->blocks[i].info.memfd);
    }
    for (unsigned i = 0; i < n && rc == 0; i++) {
        rc = ff_discards_add_range(s->discards, r[i].addr, r[i].len);
    }
    if (rc == 0) {
        ff_discards_arm(s->discards);
    }
    return rc;
}

static bool drop_discards(FfSnapshot *s, GError **error)
{
    if (!s->discards) {
        return true;
    }
    g_autoptr(FfRegions) regions = ff_ram_regions(s->ram, s->cfg->maps_fd, error);
    int rc = regions ? arm_hook(s, regions) : -1;
    if (regions && rc < 0) {
        g_set_error(error, FF_M_ERROR, 0, "QEMU's discards of memory cannot be held up: %s",
                    g_strerror(-rc));
    }
    return rc == 0;
}

static bool can_branch(FfSnapshot *s, GError **error)
{
    if (s->cfg->snapshot.disks && !s->cfg->vmm->disks.branch) {
        g_set_error_literal(error, FF_M_ERROR, 0, "this guest's disks cannot have overlays");
        return false;
    }
    return true;
}

/* What KVM writes for a guest's own guests it writes past all page tables: it would be in the file
 * as it was later. STOPPED: what was asked together with stop. */
static bool sees_all_writes(FfSnapshot *s, bool stopped, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;
    g_autofree char *why = memory->untrackable ? memory->untrackable(memory, stopped) : NULL;

    if (why) {
        g_set_error_literal(error, FF_M_ERROR, 0, why);
    }
    return !why;
}

static FfBlockUse use_of(FfSnapshot *s, const char *block)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    return memory->use ? memory->use(memory, block) : FF_BLOCK_SAVED;
}

/* All but backends that no device has taken: QEMU's stream lacks these. NULL: the guest has memory
 * that it lacks as well. */
static GPtrArray *used_blocks(FfSnapshot *s, GPtrArray *all, GError **error)
{
    g_autoptr(GPtrArray) blocks = g_ptr_array_new();

    g_clear_pointer(&s->unused, g_ptr_array_unref);
    s->unused = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < all->len; i++) {
        const FfRamBlock *b = all->pdata[i];
        FfBlockUse use = use_of(s, b->id);

        if (use == FF_BLOCK_LEFT_OUT) {
            g_set_error(error, FF_M_ERROR, 0,
                        "the guest has memory that no snapshot of its QEMU has (memory backend "
                        "\"%s\"): take away the device that uses it",
                        b->id);
            return NULL;
        }
        g_ptr_array_add(use == FF_BLOCK_UNUSED ? s->unused : blocks,
                        use == FF_BLOCK_UNUSED ? (void *)g_strdup(b->id) : (void *)b);
    }
    return g_steal_pointer(&blocks);
}

/* By another monitor a device may have taken a backend since, before the instant. */
static bool is_still_unused(FfSnapshot *s, GError **error)
{
    for (guint i = 0; i < s->unused->len; i++) {
        const char *block = s->unused->pdata[i];

        if (use_of(s, block) != FF_BLOCK_UNUSED) {
            g_set_error(error, FF_M_ERROR, 0,
                        "a device took the memory backend \"%s\" during the snapshot, which has "
                        "not saved it: repeat the snapshot",
                        block);
            return false;
        }
    }
    return true;
}

static bool is_known(const FfSnapshot *s, const char *block)
{
    bool known = g_ptr_array_find_with_equal_func(s->unused, block, g_str_equal, NULL);

    for (unsigned i = 0; i < s->ram->n_blocks && !known; i++) {
        known = !strcmp(s->ram->blocks[i].info.id, block);
    }
    return known;
}

/* Nor has it made one and given it to a device. */
static bool is_all_known(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;

    if (!memory->backends) {
        return true;
    }
    g_autoptr(GPtrArray) ids = memory->backends(memory, error);
    for (guint i = 0; ids && i < ids->len; i++) {
        const char *block = ids->pdata[i];

        if (!is_known(s, block) && use_of(s, block) != FF_BLOCK_UNUSED) {
            g_set_error(error, FF_M_ERROR, 0,
                        "a device got the new memory backend \"%s\" during the snapshot, which has "
                        "not saved it: repeat the snapshot",
                        block);
            return false;
        }
    }
    return ids;
}

static bool look_at_guest(FfSnapshot *s, GError **error)
{
    FfVmmMemory *memory = &s->cfg->vmm->memory;
    GPtrArray *all = NULL;
    uint8_t uuid[16];
    memory->takes_devices = true;
    FfGuestFit fit = memory->check(memory, FF_ROLE_SOURCE, &all, uuid, error);

    if (fit != FF_GUEST_FITS) {
        return fit == FF_GUEST_REFUSED && ff_plain_refuse(s->plain, error);
    }
    g_autoptr(GPtrArray) blocks = used_blocks(s, all, error);
    if (!blocks) {
        return ff_plain_refuse(s->plain, error);
    }
    return has_plain_state(s, error) && keeps_what_is_given_back(s, error) &&
           sees_all_writes(s, false, error) &&
           ff_ram_set_blocks(s->ram, s->control, blocks, error) && ff_ram_map(s->ram, error);
}

/* What is a hole of a memfd needs no room. */
static uint64_t count_allocated(const FfSnapshot *s)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        struct stat st;
        if (fstat(s->ram->blocks[i].info.memfd, &st) == 0) {
            bytes += (uint64_t)st.st_blocks * 512;
        }
    }
    return bytes;
}

static bool has_room(FfSnapshot *s, GError **error)
{
    uint64_t needed = count_allocated(s);
    struct statvfs fs;

    struct stat st;

    /* A file system without blocks does not say: a memfd's, a tmpfs without a limit, some of FUSE.
     */
    if (fstatvfs(ff_output_fd(s->output), &fs) < 0 || fstat(ff_output_fd(s->output), &st) < 0 ||
        fs.f_blocks == 0) {
        return true; /* it is seen when it is written */
    }
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512;
    if (room >= needed) {
        return true;
    }
    uint64_t old = ff_output_replaced_bytes(s->output);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                "%s: the guest has %" PRIu64 " MiB of memory in use, and there is room for %" PRIu64
                " MiB%s",
                ff_output_path(s->output), needed >> 20, room >> 20,
                old ? " beside the file that is there" : "");
    if (old > 0 && room + old >= needed) {
        g_clear_pointer(&s->output, ff_output_free); /* QEMU overwrites the old one */
        ff_plain_refuse(s->plain, error);
    }
    return false;
}

/* Over what is there, as QEMU does. What can only be written in place is QEMU's: no file that is
 * there is opened for writing here (base/sandbox.c). */
static FfOutput *new_over(FfSnapshot *s, GError **error)
{
    const FfSnapshotConfig *c = &s->cfg->snapshot;
    GError *local = NULL;
    FfOutput *output = ff_output_new_over(c->path, c->offset, &local);

    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_EXISTS)) {
        ff_plain_refuse(s->plain, &local);
    }
    if (local) {
        g_propagate_error(error, local);
    }
    return output;
}

static bool open_output(FfSnapshot *s, GError **error)
{
    const FfSnapshotConfig *c = &s->cfg->snapshot;

    const char *name = c->name ? c->name : "the client's file";

    s->output = !c->path      ? ff_output_new_fd(g_steal_fd(&s->cfg->fd), name, error)
                : c->replaces ? new_over(s, error)
                              : ff_output_new(c->path, error);
    if (!s->output || !ff_output_may_be_named(s->output, error) || !has_room(s, error)) {
        return false;
    }
    /* What is in a client's file may be an older snapshot: broken off, this one would leave that
     * with pages of its own, and a whole end. */
    if (!c->path && ftruncate(ff_output_fd(s->output), (off_t)c->offset) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s",
                    ff_output_path(s->output), g_strerror(errno));
        return false;
    }
    s->is_cut = true;
    return true;
}

static bool make_capture(FfSnapshot *s, GError **error)
{
    g_autofree FfCaptureBlock *blocks = g_new0(FfCaptureBlock, s->ram->n_blocks);

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        const FfBlock *b = &s->ram->blocks[i];
        blocks[i] = (FfCaptureBlock){
            .name = b->info.id,
            .backing = {b->info.page_size > 4096 ? FF_BACKING_HUGETLB : FF_BACKING_SHARED,
                        b->info.memfd, b->info.size, b->info.page_size},
            /* A look at a hole of hugetlb by a mapping would fill it, or be SIGBUS. */
            .map = b->info.page_size > 4096 ? NULL : b->map,
        };
    }
    bool stuck = false;
    FfCapture *capture = ff_capture_new(
        &(FfCaptureConfig){.uffd = s->cfg->snapshot.uffd,
                           .maps_fd = s->cfg->maps_fd,
                           .pagemap_fd = s->cfg->pagemap_fd,
                           .pidfd = s->cfg->pidfd,
                           .blocks = blocks,
                           .n_blocks = s->ram->n_blocks,
                           .buffer = MIN(s->cfg->snapshot.buffer, s->ram->total_bytes),
                           .fault_thread = ff_priority_urgent,
                           .stuck = &stuck,
                           .stands = true},
        error);
    s->uffd_is_free = !capture && !stuck;
    if (!capture) {
        return false;
    }
    ff_mutex_lock(&s->control->lock);
    s->capture = capture;
    ff_capture_set_bandwidth(capture, s->cfg->max_bandwidth);
    ff_mutex_unlock(&s->control->lock);
    return true;
}

/* Ahead of the passes, as it may take long. */
static void flush_disks(FfSnapshot *s)
{
    FfVmmDisks *disks = &s->cfg->vmm->disks;
    g_autoptr(GError) local = NULL;

    if (disks->flush && !FF_FAULT_STEP("flush", disks->flush(disks, &local))) {
        g_message("snapshot: the disks could not be flushed ahead: %s",
                  local ? local->message : "left out");
    }
}

static bool begin_snapshot(FfSnapshot *s, GError **error)
{
    FF_FAULT_AT("setup");
    if (!can_branch(s, error) || !look_at_guest(s, error) || !open_output(s, error) ||
        !drop_discards(s, error) || !make_capture(s, error) ||
        !ff_snapshot_devices_begin(s, error)) {
        return false;
    }
    ff_stamp(s->stats->setup_us);
    ff_control_set_status(s->control, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    ff_control_new_pass(s->control);
    /* Its first answer is also the barrier for discards: none is past the hook's check then. One
     * that came after a page was protected would take the protection out with it. */
    flush_disks(s);
    bool ok = ff_snapshot_goes_on(s, error) && ff_capture_prepare(s->capture, error) &&
              ff_snapshot_goes_on(s, error);
    FF_FAULT_AT("protected");
    return ok;
}

/* ---- the instant ----------------------------------------------------------------------------- */

/* The memory for it is not part of the buffer: there is an end to it. */
static bool read_state(FfSnapshot *s, GError **error)
{
    bool fits = true;
    ssize_t n;

    do {
        guint had = fits ? s->state->len : 0; /* QEMU waits until all is read */

        g_byte_array_set_size(s->state, had + STATE_PIECE);
        n = recv(s->inner, s->state->data + had, STATE_PIECE, 0);
        int err = errno;
        g_byte_array_set_size(s->state, had + (guint)MAX(n, 0));
        fits = fits && !FF_FAULT_STEP("state-size", s->state->len > STATE_MAX);
        errno = err;
    } while (n > 0 || (n < 0 && errno == EINTR));
    if (!fits) {
        g_set_error(error, FF_M_ERROR, 0, "QEMU's device state has more than %u MiB",
                    STATE_MAX >> 20);
    }
    return fits;
}

static void make_room_for_state(FfSnapshot *s)
{
    g_byte_array_set_size(s->state, STATE_ROOM);
    memset(s->state->data, 0, STATE_ROOM);
    g_byte_array_set_size(s->state, 0);
}

static bool undo_settings(FfSnapshot *s, GError **error)
{
    FfVmmState *state = &s->cfg->vmm->state;

    state->one_way = false;
    state->between = NULL;
    s->cfg->vmm->disks.plan = NULL;
    return state->undo(state, error); /* also what prepare() set before it failed */
}

/* What is being written ends soon. */
static void fail_writing(FfSnapshot *s)
{
    ff_mutex_lock(&s->control->lock);
    ff_snapshot_cancel_locked(s);
    ff_mutex_unlock(&s->control->lock);
}

/* TO, if it is FROM still. */
static void order_resume(FfSnapshot *s, FfResumeOrder from, FfResumeOrder to)
{
    ff_mutex_lock(&s->control->lock);
    s->order = s->order == from ? to : s->order;
    ff_cond_broadcast(&s->control->changed);
    ff_mutex_unlock(&s->control->lock);
}

static FfResumeOrder await_order(FfSnapshot *s)
{
    ff_mutex_lock(&s->control->lock);
    while (s->order == FF_RESUME_LATER) {
        ff_cond_wait(&s->control->changed, &s->control->lock);
    }
    FfResumeOrder what = s->order;
    ff_mutex_unlock(&s->control->lock);
    return what;
}

/* The first writes would take a processor from QEMU, which is about to let the guest run. But QEMU
 * may itself wait for a page to be saved, as the buffer has no room: so there is an end to it. */
static void await_resumed(FfSnapshot *s)
{
    int64_t end = g_get_monotonic_time() + AHEAD_US;

    ff_mutex_lock(&s->control->lock);
    while (s->order == FF_RESUME_NOW && g_get_monotonic_time() < end) {
        ff_cond_wait_until(&s->control->changed, &s->control->lock, end);
    }
    ff_mutex_unlock(&s->control->lock);
}

/* The guest runs on, beside the writer. */
static gpointer resume_guest(gpointer p)
{
    FfSnapshot *s = p;
    FfVmmState *state = &s->cfg->vmm->state;

    ff_priority_urgent();
    if (await_order(s) == FF_RESUME_NEVER) {
        return NULL;
    }
    bool ok = ff_snapshot_release_guest(s, &s->resume_error);
    order_resume(s, FF_RESUME_NOW, FF_RESUME_DONE);
    if (!ok || s->intruder) {
        fail_writing(s);
        return NULL;
    }
    FF_FAULT_AT("running");
    s->saving = false;
    if (!state->wait_saved(state, 0, &s->resume_error) || !undo_settings(s, &s->resume_error)) {
        fail_writing(s);
    }
    return NULL;
}

/* FALSE and ERROR: it does not, or QEMU is not as it was. */
static bool end_resuming(FfSnapshot *s, GError **error)
{
    if (s->resumer) {
        order_resume(s, FF_RESUME_LATER, FF_RESUME_NEVER);
        g_thread_join(g_steal_pointer(&s->resumer));
    }
    if (s->intruder || s->resume_error) {
        g_propagate_error(error, s->intruder ? g_error_copy(s->intruder)
                                             : g_steal_pointer(&s->resume_error));
        return false;
    }
    return true;
}

static bool take_instant(FfSnapshot *s, GError **error)
{
    FfVmmState *state = &s->cfg->vmm->state;

    make_room_for_state(s);
    /* Ahead: a thread is not made at once. */
    s->resumer = g_thread_try_new("ff-resume", resume_guest, s, error);
    if (!s->resumer || !ff_snapshot_stop_guest(s, error) || !sees_all_writes(s, true, error) ||
        !ff_snapshot_devices_park(s, error) || !ff_capture_arm(s->capture, error)) {
        return false;
    }
    FF_FAULT_AT("armed");
    /* Not before: QEMU's main loop runs between stop and the moment at which its migration stands
     * in its way, and what it does for a device then (somebody writes to the guest's serial port)
     * must be in memory and device, or is told by its write. */
    if (!state->let_save(state, error) || !read_state(s, error)) {
        return false;
    }
    ff_close_fd(&s->inner);
    FF_FAULT_AT("saved");
    if (!ff_capture_stood(s->capture, error)) {
        return false;
    }
    /* QEMU closes its end when it has left finish-migrate: the guest need not wait for the question
     * how that went. And the thread that waits for QEMU's answer must not be the one that saves:
     * QEMU itself may wait for a page to be saved. */
    if (!ff_snapshot_goes_on(s, error)) {
        return false;
    }
    ff_count(s->stats->device_bytes, s->state->len);
    order_resume(s, FF_RESUME_LATER, FF_RESUME_NOW);
    return true;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void mark_piece(FfSnapshot *s, unsigned block, unsigned number)
{
    const FfBitmap *data = ff_capture_data(s->capture, block);
    uint64_t per_page = s->ram->blocks[block].info.page_size / FF_SAVED_PAGE, first, n;

    for (uint64_t at = 0; (n = ff_bitmap_next_run(data, at, true, &first)); at = first + n) {
        ff_live_file_mark(s->file, number, first * per_page, n * per_page);
    }
}

static bool write_mapped(FfSnapshot *s, GError **error)
{
    g_autofree uint64_t *places = g_new0(uint64_t, s->ram->n_blocks);
    FfWriterWay way = ff_output_may_be_direct(s->output) ? FF_WRITER_DIRECT : FF_WRITER_BUFFERED;

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        places[i] = ff_live_file_place(s->file, s->numbers[i]);
    }
    if (!ff_capture_write(s->capture, ff_output_fd(s->output), places, way, error)) {
        g_prefix_error(error, "%s: ", ff_output_path(s->output));
        return false;
    }
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        mark_piece(s, i, s->numbers[i]);
    }
    return true;
}

static bool put_page(void *opaque, unsigned block, uint64_t page, const uint8_t *bytes,
                     GError **error)
{
    FfSnapshot *s = opaque;

    return ff_live_file_put(s->file, s->numbers[block], page, bytes, error);
}

static bool write_pages(FfSnapshot *s, GError **error)
{
    s->numbers = g_new0(int, s->ram->n_blocks);
    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        const FfRamBlock *b = &s->ram->blocks[i].info;

        s->numbers[i] = ff_live_file_block(s->file, b->id, b->size, error);
        if (s->numbers[i] < 0) {
            return false;
        }
    }
    return s->cfg->snapshot.mapped ? write_mapped(s, error)
                                   : ff_capture_stream(s->capture, put_page, s, error);
}

/* The memory is saved, or is not to be: the guest has it for itself. */
static void end_capture(FfSnapshot *s)
{
    if (!s->capture) {
        ff_discards_disarm(s->discards);
        return;
    }
    ff_mutex_lock(&s->control->lock);
    FfCapture *capture = g_steal_pointer(&s->capture);
    s->last = ff_capture_stats(capture);
    ff_mutex_unlock(&s->control->lock);
    s->uffd_is_free = ff_capture_end(capture);
    ff_capture_free(capture);
    ff_discards_disarm(s->discards);
}

static bool save_memory(FfSnapshot *s, GError **error)
{
    ff_priority_link(); /* it is the fault thread that comes first; still a full buffer waits for us
                         */
    /* It was stopped for its snapshot alone: a client that restores it gets it as it was. */
    if (s->saved_state && !ff_run_state_set(s->state->data, s->state->len, s->saved_state)) {
        g_message("snapshot: the guest will be paused when it is restored: say cont");
    }
    g_autoptr(FfInput) in =
        ff_input_new_memory("QEMU's device state", s->state->data, s->state->len, error);

    if (!in) {
        return false;
    }
    if (!s->cfg->snapshot.mapped && !ff_output_seek(s->output, s->cfg->snapshot.offset, error)) {
        return false;
    }
    s->file = ff_live_file_new(g_steal_pointer(&in),
                               s->cfg->snapshot.mapped ? FF_SAVED_MAPPED : FF_SAVED_STREAM,
                               s->output, s->cfg->snapshot.offset, error);
    if (!s->file) {
        return false;
    }
    await_resumed(s);
    if (!write_pages(s, error)) {
        return false;
    }
    end_capture(s);
    ff_snapshot_devices_end(s);
    FF_FAULT_AT("written");
    return end_resuming(s, error) && is_still_unused(s, error) && is_all_known(s, error) &&
           ff_live_file_end(s->file, error) && ff_snapshot_goes_on(s, error) &&
           ff_output_commit(s->output, error);
}

/* ---- its ends -------------------------------------------------------------------------------- */

/* A client's file has no name that could be missing: it ends where it began, and has no end that
 * would call it whole. */
static void cut_file(FfSnapshot *s)
{
    const FfSnapshotConfig *c = &s->cfg->snapshot;

    if (s->is_cut && !c->path && ftruncate(ff_output_fd(s->output), (off_t)c->offset) < 0) {
        g_warning("snapshot: %s: %s", ff_output_path(s->output), g_strerror(errno));
    }
}

/* QEMU's part of what was begun. */
static void end_saving(FfSnapshot *s)
{
    FfVmmState *state = &s->cfg->vmm->state;
    g_autoptr(GError) error = NULL;

    if (s->saving && !s->begun && s->inner >= 0) {
        /* QEMU may have the stream and not know that it is to begin: it would never close it. */
        shutdown(s->inner, SHUT_RDWR);
    }
    /* What has begun is soon over, and needs a thread that reads. */
    if (s->saving && !state->wait_saved(state, s->begun ? 0 : 1, &error)) {
        g_warning("snapshot: %s", error->message);
    }
    ff_close_fd(&s->inner);
}

static void roll_back(FfSnapshot *s, const GError *why)
{
    g_autoptr(GError) left = NULL, resuming = NULL, stands = NULL;

    ff_priority_urgent(); /* the guest may stand still */
    FF_FAULT_AT("rolling-back");
    ff_mutex_lock(&s->control->lock);
    s->stopped_by_us = false; /* that QEMU's part fails is our doing from here on */
    ff_mutex_unlock(&s->control->lock);
    /* First, as QEMU may wait for a page, and answers nobody then. */
    end_capture(s);
    ff_snapshot_devices_end(s);
    if (!end_resuming(s, &resuming)) {
        why = resuming; /* the writer was stopped for it */
    }
    bool cancelled = g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
                     (ff_control_events(s->control) & FF_EV_WANT_CANCEL);
    if (cancelled) {
        ff_control_set_status(s->control, FF_STATUS_CANCELLING);
    }
    end_saving(s);
    if (s->stopped && !ff_snapshot_release_in_the_end(s, &stands)) {
        if (s->left_to_next) {
            return;
        }
        g_warning("snapshot: the guest could not be resumed: %s", stands->message);
        cancelled = false; /* not everything is as it was */
    }
    if (s->intruder) {
        why = s->intruder; /* it says more than what came of it */
    }
    cut_file(s);
    if (!undo_settings(s, &left)) {
        g_warning("snapshot: %s", left->message);
    }
    if (!cancelled) {
        g_autofree char *text =
            stands ? g_strdup_printf("%s; and the guest could not be resumed (%s): say cont",
                                     why->message, stands->message)
                   : g_strdup(why->message);
        ff_control_set_error(s->control, text);
    }
    if (s->output) {
        ff_output_drop(s->output); /* a client that hears of the end finds nothing of it */
    }
    ff_ownership_idle(s->cfg->state);
    ff_control_set_status(s->control, cancelled ? FF_STATUS_CANCELLED : FF_STATUS_FAILED);
}

void ff_snapshot_coordinate(FfSnapshot *s)
{
    g_autoptr(GError) error = NULL;

    if (begin_snapshot(s, &error) && take_instant(s, &error) && save_memory(s, &error)) {
        ff_stamp(s->control->end_us);
        ff_ownership_idle(s->cfg->state);
        ff_control_set_status(s->control, FF_STATUS_COMPLETED);
    } else if (ff_plain_hand_over(s->plain, error)) {
        ff_snapshot_devices_end(s);
    } else {
        roll_back(s, error);
    }
}

void ff_snapshot_init(FfSnapshot *s)
{
    s->inner = -1;
    s->uffd_is_free = true;
    s->state = g_byte_array_new();
}

void ff_snapshot_cancel_locked(FfSnapshot *s)
{
    if (s->capture) {
        ff_capture_cancel(s->capture);
    }
}

void ff_snapshot_describe_locked(const FfSnapshot *s, FfMigrationInfo *info)
{
    const FfCaptureStats st = s->capture ? ff_capture_stats(s->capture) : s->last;

    info->snapshot = true;
    info->page_size = FF_SAVED_PAGE;
    /* Of one that was cancelled it stays what it was. */
    info->ram_remaining = st.pages ? st.left * (info->ram_total / st.pages) : info->ram_total;
    info->ram_transferred = info->bytes_wire = st.bytes;
    info->pages_normal = st.bytes / FF_SAVED_PAGE;
    info->pages_zero = st.zeros;
    info->requests = st.faults;
    info->buffer_slots = st.slots;
    info->buffer_free = st.free_slots;
    info->write_waits = st.waited;
    info->passes = st.passes;
    info->arm_us = st.arm_us;
    info->way = ff_writer_way_name(st.way);
    memcpy(info->latency, st.latency, sizeof(info->latency));
    info->latency_p99_us = (double)st.latency_p99_us;
}

void ff_snapshot_clear(FfSnapshot *s)
{
    ff_discards_free(s->discards);
    ff_live_file_free(s->file);
    ff_output_free(s->output);
    g_byte_array_unref(s->state);
    g_clear_pointer(&s->unused, g_ptr_array_unref);
    g_free(s->numbers);
    g_free(s->run_state);
    g_free(s->saved_state);
    g_clear_error(&s->intruder);
    g_clear_error(&s->resume_error);
}
