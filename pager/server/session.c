/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sessions come, are adopted and go; see session.h and session-internal.h.
 *
 * A session is not given up because something fails: its userfaultfd would be closed, and a client
 * without a copy of it would continue with zeros. It is given up when its process has ended, or
 * before anything was placed (a first message that is not right).
 *
 * System calls: openat, read, close, poll, and those of pager/holder/ and uffd/.
 */
#include "pager/server/session.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "pager/holder/log.h"
#include "pager/server/family.h"
#include "pager/server/messages.h"
#include "pager/server/session-internal.h"
#include "pager/server/session-working-set.h"
#include "pager/server/work.h"

#define SOURCE_AGAIN_MS 1000
#define THREADS_AGAIN_MS 1000
#define SMALL_PAGE 4096 /* larger ones take their time */

/* ---- what a space tells ---------------------------------------------------------------------- */

static void on_present(const FfPresent *p, void *opaque)
{
    FfSession *s = opaque;

    if (p->as == FF_PRESENT_NOTHING) {
        return;
    }
    if (ff_work_is_demand()) {
        ff_image_count(s->image, demand, p->pages);
    } else {
        ff_image_count(s->image, bulk, p->pages);
    }
    if (ff_set_is_placing()) {
        ff_image_count(s->image, set_used, p->pages);
    }
    if (p->as == FF_PRESENT_ZEROS) {
        ff_image_count(s->image, zeros, p->pages);
    } else {
        ff_image_count(s->image, data, p->bytes);
    }
}

static void on_failed(const FfRun *run, int rc, void *opaque)
{
    FfSession *s = opaque;

    if (!ff_session_is_stuck(s) && !__atomic_exchange_n(&s->said_memory, true, __ATOMIC_ACQ_REL)) {
        ff_session_log(s, "somebody waits, and cannot be helped: %s", g_strerror(-rc));
    }
}

static const FfSpaceOps space_ops = {.present = on_present, .failed = on_failed};

/* ---- making ---------------------------------------------------------------------------------- */

/* Features that the process has asked for: the kernel says so in the third line of fdinfo. */
static bool read_features(int uffd, uint64_t *features)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", uffd), *text = NULL;
    uint64_t api, all;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    const char *line = strstr(text, "API:");
    return line && sscanf(line, "API: %" SCNx64 ":%" SCNx64 ":%" SCNx64, &api, features, &all) == 3;
}

bool ff_session_features(const FfSession *s, uint64_t *features, GError **error)
{
    if (!read_features(s->uffd, features)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "what its userfaultfd tells of is not known");
        return false;
    }
    return true;
}

bool ff_session_check_features(const FfSession *s, uint64_t *features, GError **error)
{
    if (!ff_session_features(s, features, error)) {
        return false;
    }
    if (!(*features & UFFD_FEATURE_EVENT_REMOVE)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "its userfaultfd does not tell of memory that it gives back "
                            "(UFFD_FEATURE_EVENT_REMOVE), so old content would come back");
        return false;
    }
    return true;
}

/* A client's image, from its first message. */
static bool make_image(FfSession *s, GError **error)
{
    FfImage *image =
        s->rec->hello_len > FF_SPACE_RECORD_HELLO_MAX ? NULL : s->dialect->make_image(s, error);

    if (!image) {
        return false;
    }
    FF_FAULT_AT("client-made");
    __atomic_store_n(&s->rec->taken, FF_TAKEN, __ATOMIC_RELEASE);
    pthread_mutex_lock(&s->all->lock);
    s->image = image;
    pthread_mutex_unlock(&s->all->lock);
    return true;
}

/* One at a time: the holder finds out over which one a pager died. */
static bool make_image_alone(FfSession *s, GError **error)
{
    pthread_mutex_lock(&s->all->making);
    __atomic_store_n(&s->rec->taken, FF_TAKEN_BEGUN, __ATOMIC_RELEASE);
    bool made = make_image(s, error);
    pthread_mutex_unlock(&s->all->making);
    if (made) {
        ff_tell(s->told);
    }
    return made;
}

/* FALSE: the end. */
static bool wait_for_parent(FfSession *s)
{
    pthread_mutex_lock(&s->all->lock);
    while (!s->image && !ff_session_is_ending(s)) {
        pthread_cond_wait(&s->all->changed, &s->all->lock);
    }
    pthread_mutex_unlock(&s->all->lock);
    return s->image;
}

/* Of a client that a pager before this one has made it can be away for now. FALSE: the end. */
static bool wait_for_source(FfSession *s)
{
    bool said = false;

    for (;;) {
        g_autoptr(GError) error = NULL;
        if (s->dialect->open_source(s, &error)) {
            return true;
        }
        if (!said) {
            ff_session_log(s, "%s: it waits, and it is tried again", error->message);
        }
        said = true;
        if (ff_work_pause(s, SOURCE_AGAIN_MS)) { /* what is put back has no event */
            return false;
        }
    }
}

static int open_space(FfSession *s, bool faults)
{
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *b = &s->image->block[i];
        ff_bitmap_init_over(&s->placed[i], ff_image_bits(s->image, i), b->size / b->page_size);
    }
    FfSpaceConfig cfg = {.uffd = s->uffd,
                         .features = s->image->features,
                         .pagemap_fd = -1,
                         .grows = true,
                         .comes_again = s->dialect->comes_again,
                         .shared_remove = FF_SHARED_REMOVE_GIVES_BACK,
                         .messages = faults ? &s->messages : NULL,
                         .pager = faults ? &s->pager : NULL,
                         .ops = &space_ops,
                         .opaque = s};
    g_autoptr(FfSpace) space = ff_space_new(&cfg);
    int rc = space ? ff_image_load(s->image, s->rec, space) : -errno;
    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&s->all->lock);
    s->space = g_steal_pointer(&space);
    pthread_mutex_unlock(&s->all->lock);
    return 0;
}

bool ff_session_open_space(FfSession *s, bool faults)
{
    int rc = open_space(s, faults);

    if (rc < 0) {
        ff_session_log(s, "what is known of its memory cannot be used: %s, so it waits",
                       g_strerror(-rc));
    }
    return rc == 0;
}

/* ---- the owner ------------------------------------------------------------------------------- */

static gpointer run_faults(gpointer p)
{
    FfSession *s = p;
    g_autoptr(FfWorker) w = ff_worker_new(s, SMALL_PAGE, true);

    s->at_once = w;
    ff_faults_run(s->space);
    s->at_once = NULL;
    return NULL;
}

/* Some processes register their memory only after they have passed their userfaultfd. FALSE: the
 * end. */
static bool wait_registered(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    while (!__atomic_load_n(&s->root_rec->registered, __ATOMIC_ACQUIRE) &&
           !ff_session_is_ending(s)) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return !ff_session_is_ending(s);
}

bool ff_session_begin(FfSession *s, unsigned demands, const char *name, GThreadFunc run)
{
    g_autoptr(GError) error = NULL;
    bool said = false;

    ff_set_begin(s);
    ff_image_count(s->image, pagers, 1);
    while (!ff_work_start(s, demands, &error) ||
           !(s->faults = g_thread_try_new(name, run, s, &error))) {
        if (!said) {
            ff_session_log(s, "%s: it waits, and it is tried again", error->message);
        }
        said = true;
        g_clear_error(&error);
        if (ff_work_pause(s, THREADS_AGAIN_MS)) { /* what becomes free has no event */
            return false;
        }
    }
    ff_tell(s->news); /* what its predecessor has not taken */
    return true;
}

/* After a pager that has died: a thread that was told to it and not answered is told again. */
bool ff_session_answer_faults(FfSession *s)
{
    if (!ff_session_open_space(s, true) ||
        !ff_session_begin(s, FF_SESSION_DEMANDS, "fault", run_faults)) {
        return false;
    }
    ff_space_wake_all(s->space);
    ff_family_probe(s->all, s->root); /* ends that were told to a predecessor */
    if (s->source) {
        __atomic_store_n(&s->cached, ff_content_nowait_reader(s->source), __ATOMIC_RELEASE);
    }
    return true;
}

bool ff_session_fill(FfSession *s, bool bulk)
{
    bool registered = (bulk || s->learnt || s->set) && wait_registered(s);

    ff_set_learn(s); /* also of one that has ended by now */
    if (registered) {
        ff_set_place(s); /* also without bulk: somebody has waited for it before */
    }
    if (bulk && registered) {
        ff_work_bulk(s);
    }
    return bulk && registered;
}

static void close_all(FfSession *s)
{
    if (s->space) {
        ff_space_free(s->space);
    }
    ff_set_end(s);
    g_clear_pointer(&s->cached, ff_content_reader_free);
    if (s->dialect && s->dialect->close) {
        s->dialect->close(s);
    }
    g_clear_pointer(&s->set_path, g_free);
    if (s->image) {
        ff_image_unmap(s->image);
    }
    close(s->uffd);
    close(s->memfd);
    close(s->news);
    close(s->told);
    if (s->rec) {
        ff_space_record_unmap(s->rec);
    }
    if (s->root_rec) {
        ff_space_record_unmap(s->root_rec);
    }
}

/* WHY can be NULL. S is gone after it. */
static void drop_session(FfSession *s, const char *why)
{
    FfHoldMessage msg = {.type = FF_HOLD_DROP, .id = s->id};

    pthread_mutex_lock(&s->all->lock);
    g_ptr_array_remove_fast(s->all->sessions, s);
    pthread_mutex_unlock(&s->all->lock);
    g_strlcpy(msg.text, why ? why : "", sizeof(msg.text));
    struct pollfd link = {.fd = s->all->link, .events = POLLOUT};
    close_all(s);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->asked_lock);
    pthread_mutex_destroy(&s->calm_lock);
    pthread_mutex_destroy(&s->bulk_lock);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->calm);
    g_free(s);
    while (ff_hold_send(link.fd, &msg, NULL, 0) == -EAGAIN) {
        poll(&link, 1, -1);
    }
}

/* Of a fork the child has nothing but what its parent's thread makes for it. */
static void wait_applied(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    while (ff_space_record_has_event(s->rec) && !ff_session_is_stuck(s)) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static gpointer run_owner(gpointer p)
{
    FfSession *s = p;
    g_autoptr(GError) error = NULL;

    if (s->parent ? !wait_for_parent(s) : !s->image && !make_image_alone(s, &error)) {
        drop_session(s, error ? error->message : NULL);
        return NULL;
    }
    if (wait_for_source(s)) { /* else nobody needs it any more */
        s->dialect->serve(s);
    }
    ff_session_wait_end(s);
    if (s->faults) {
        wait_applied(s);
    }
    if (ff_session_is_stuck(s) && ff_space_record_owes_event(s->rec, s->root_rec)) {
        /* Its memory is gone, and the event with it. It is no reason to open the gate once more,
         * over the next one, for a holder or a pager that finds it. */
        ff_space_record_forget_event(s->rec);
        FF_FAULT_AT("event-forgotten");
        ff_gate_set(s->root_rec, FF_GATE_OPEN);
    }
    ff_work_join(s);
    if (s->faults) {
        ff_faults_stop(s->space);
        g_thread_join(s->faults);
    }
    ff_work_clear(s);
    FfSessions *all = s->all;
    uint64_t root = s->root;
    drop_session(s, NULL);
    ff_family_probe(all, root); /* a child that it had not made yet */
    return NULL;
}

/* ---- all of them ----------------------------------------------------------------------------- */

void ff_sessions_init(FfSessions *all)
{
    pthread_mutex_init(&all->lock, NULL);
    pthread_mutex_init(&all->making, NULL);
    pthread_cond_init(&all->changed, NULL);
    all->sessions = g_ptr_array_new();
    all->learning = g_ptr_array_new_with_free_func(g_free);
}

static void init_locks(FfSession *s)
{
    pthread_condattr_t mono;

    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->asked_lock, NULL);
    pthread_mutex_init(&s->calm_lock, NULL);
    pthread_mutex_init(&s->bulk_lock, NULL);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &mono);
    pthread_cond_init(&s->calm, &mono);
    pthread_condattr_destroy(&mono);
}

/* Takes ROOT. The image: before any thread of the family applies an event, which may be one of this
 * one's memory. */
static bool map_records(FfSession *s, int root)
{
    bool ok = ff_space_record_map(s->memfd, &s->rec) == 0 &&
              ff_space_record_map(root, &s->root_rec) == 0 &&
              (__atomic_load_n(&s->rec->taken, __ATOMIC_ACQUIRE) != FF_TAKEN ||
               (s->image = ff_image_map(s->memfd)));
    int err = errno;

    close(root);
    errno = err;
    return ok;
}

void ff_session_add(FfSessions *all, const FfHoldMessage *msg, const int *fds)
{
    FfSession *s = g_new0(FfSession, 1);

    s->all = all;
    s->id = msg->id;
    s->root = msg->root;
    s->parent = msg->parent;
    s->uffd = fds[FF_HOLD_FD_UFFD];
    s->memfd = fds[FF_HOLD_FD_RECORD];
    s->news = fds[FF_HOLD_FD_NEWS];
    s->told = fds[FF_HOLD_FD_TOLD];
    if (!map_records(s, fds[FF_HOLD_FD_ROOT])) {
        ff_say("what is known of a client cannot be mapped (%s), so it waits", g_strerror(errno));
        close_all(s); /* the holder keeps it for the next pager */
        g_free(s);
        return;
    }
    s->dialect = all->dialects[s->rec->dialect];
    init_locks(s);
    ff_session_read_message(s);
    pthread_mutex_lock(&all->lock);
    g_ptr_array_add(all->sessions, s);
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}

void ff_sessions_hurry(FfSessions *all)
{
    pthread_mutex_lock(&all->lock);
    __atomic_store_n(&all->hurry, 1, __ATOMIC_RELEASE);
    for (guint i = 0; i < all->sessions->len; i++) {
        FfSession *s = g_ptr_array_index(all->sessions, i);
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&all->lock);
}

/* FALSE: no thread can be had. */
static bool start_threads(FfSession *s)
{
    g_autoptr(GError) error = NULL;
    GThread *owner = g_thread_try_new("owner", run_owner, s, &error);

    if (!owner) {
        if (!s->said_waits) {
            ff_session_log(s, "%s: it waits, and it is tried again", error->message);
        }
        s->said_waits = true;
        return false;
    }
    s->started = true;
    g_thread_unref(owner);
    return true;
}

/* One that has begun can leave the list at any time. */
bool ff_sessions_start_all(FfSessions *all)
{
    bool ok = true;

    pthread_mutex_lock(&all->lock);
    for (guint i = 0; i < all->sessions->len && ok; i++) {
        FfSession *s = g_ptr_array_index(all->sessions, i);
        ok = s->started || start_threads(s);
    }
    pthread_mutex_unlock(&all->lock);
    return ok;
}
