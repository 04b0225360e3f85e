/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See session-working-set.h. A set belongs to one file: its size and time, and as its digest the
 * file itself and the time of the last change of anything about it. So the next image that is built
 * in its place is another one, also if somebody has given it the same size and time. And the file
 * must be what the session's source was in the beginning, as a set can be of what was written to it
 * since.
 *
 * Threads: the owner; the fault thread, which notes; one that writes, which needs no session.
 *
 * System calls: open, fstat, close, and those of content/image/working-set.c.
 */
#include "pager/server/session-working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "content/image/working-set.h"
#include "content/image/xxh64.h"
#include "pager/holder/log.h"
#include "pager/server/work.h"

#define LEARN_MS 4000 /* as a lazy restore of a guest (migration/restore/restore.c) */
/* Of all memory: more is no faster than all of it. */
#define PART 4
#define PAGE FF_WORKING_SET_PAGE

static __thread bool is_placing;

bool ff_set_is_placing(void)
{
    return is_placing;
}

/* ---- which one ------------------------------------------------------------------------------- */

/* FALSE: it is no regular file. */
static bool identify_file(int fd, FfWorkingSetFile *file, FfInputStamp *now)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return false;
    }
    const uint64_t about[] = {st.st_dev, st.st_ino, (uint64_t)st.st_ctim.tv_sec,
                              (uint64_t)st.st_ctim.tv_nsec};
    *file =
        (FfWorkingSetFile){(uint64_t)st.st_size,
                           st.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st.st_mtim.tv_nsec,
                           ff_xxh64(about, sizeof(about), 0)};
    *now = ff_input_stamp_of(&st);
    return true;
}

/* What has the name of the source's file: an fd, or -1. It is FILE, and NOW. */
static int open_file(const FfSession *s, FfWorkingSetFile *file, FfInputStamp *now)
{
    int fd = open(ff_content_name(s->source), O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0 && !identify_file(fd, file, now)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* That is what the source was when it was opened for the first time. If not, a set of it has other
 * content than clients have. */
static bool is_source(const FfSession *s, const FfInputStamp *now)
{
    return memcmp(now, &ff_content_identity(s->source)->stamp, sizeof(*now)) == 0;
}

static bool has_set(const FfSession *s)
{
    return s->all->sets && !s->parent && s->set_path;
}

static bool are_inside(const FfSession *s, const FfWorkingSet *set)
{
    uint64_t pages = ff_content_size(s->source) / PAGE;
    bool inside = true;

    for (uint64_t i = 0; i < set->n_zeros && inside; i++) {
        inside = set->zeros[i].first < pages && set->zeros[i].n <= pages - set->zeros[i].first;
    }
    return inside;
}

static void open_set(FfSession *s)
{
    const char *path = s->set_path;
    g_autoptr(GError) error = NULL;
    FfWorkingSetFile file;
    FfInputStamp now;
    int fd = open_file(s, &file, &now);

    if (fd < 0) {
        return;
    }
    g_autoptr(FfWorkingSet) set = ff_working_set_open(path, fd, &file, &error);
    close(fd);
    if (set && !is_source(s, &now)) {
        ff_session_log(
            s, "the working set is not used: %s: its file was changed while it was in use", path);
        return;
    }
    if (set && (!ff_content_find(s->source, set->places, set->n) || !are_inside(s, set))) {
        ff_session_log(s,
                       "the working set is not used: %s: it has pages that are none of this "
                       "memory",
                       path);
        return;
    }
    if (error) {
        ff_session_log(s, "the working set is not used: %s", error->message);
        return;
    }
    s->set = g_steal_pointer(&set);
}

/* ---- finding it out -------------------------------------------------------------------------- */

/* One client at a time finds out the set of a file. FALSE: another one does. */
static bool claim_learning(FfSession *s)
{
    FfSessions *all = s->all;
    bool taken = false;

    pthread_mutex_lock(&all->lock);
    for (guint i = 0; i < all->learning->len; i++) {
        taken = taken || !strcmp(g_ptr_array_index(all->learning, i), s->set_path);
    }
    if (!taken) {
        g_ptr_array_add(all->learning, g_strdup(s->set_path));
    }
    pthread_mutex_unlock(&all->lock);
    return !taken;
}

static void release_learning(FfSessions *all, const char *path)
{
    pthread_mutex_lock(&all->lock);
    for (guint i = 0; i < all->learning->len; i++) {
        if (!strcmp(g_ptr_array_index(all->learning, i), path)) {
            g_ptr_array_remove_index_fast(all->learning, i);
            break;
        }
    }
    pthread_mutex_unlock(&all->lock);
}

/* A client that has had a pager before has been given pages that nobody has noted. */
static void prepare_learning(FfSession *s)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *b = &s->image->block[i];
        pages += b->page_size == PAGE ? b->size / PAGE : 0;
    }
    if (!pages || ff_content_is_compressed(s->source)) {
        ff_session_log(s, "no working set is found out: %s",
                       pages ? "the file is compressed" : "its pages are large");
    } else if (claim_learning(s)) {
        s->learnt_max = MIN(pages / PART + 1, FF_WORKING_SET_MAX);
        s->learnt = g_new(uint64_t, s->learnt_max);
    }
}

void ff_set_begin(FfSession *s)
{
    if (!has_set(s)) {
        return;
    }
    open_set(s);
    if (!s->set && s->all->learn && !s->image->counts.pagers) {
        prepare_learning(s);
    }
}

void ff_set_end(FfSession *s)
{
    if (s->learnt && !s->learnt_taken) {
        release_learning(s->all, s->set_path);
    }
    g_clear_pointer(&s->set, ff_working_set_free);
    g_clear_pointer(&s->learnt, g_free);
}

void ff_set_note(FfSession *s, const FfRun *run)
{
    const FfImageBlock *b = &s->image->block[run->block];
    uint64_t n = s->learnt_n;

    if (!s->learnt || b->page_size != PAGE) {
        return;
    }
    for (uint64_t i = 0; i < run->n && n < s->learnt_max; i++) {
        s->learnt[n++] = b->content + (run->first + i) * PAGE;
    }
    /* Observer: the owner, after some seconds. */
    __atomic_store_n(&s->learnt_n, n, __ATOMIC_RELEASE);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* All that the thread needs: the session may end meanwhile. */
typedef struct {
    FfSessions *all;
    char *path;
    int fd;
    FfWorkingSetFile file;
    uint64_t *places, n;
    GArray *zeros; /* FfWorkingSetRun */
} Writer;

static void writer_free(Writer *w)
{
    release_learning(w->all, w->path);
    if (w->fd >= 0) {
        close(w->fd);
    }
    g_free(w->path);
    g_free(w->places);
    g_clear_pointer(&w->zeros, g_array_unref);
    g_free(w);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Writer, writer_free)

static gpointer write_set(gpointer opaque)
{
    g_autoptr(Writer) w = opaque;
    g_autoptr(GError) error = NULL;

    if (ff_working_set_write(w->path, w->fd, &w->file, w->places, w->n,
                             (const FfWorkingSetRun *)(const void *)w->zeros->data, w->zeros->len,
                             &error)) {
        /* A folder that is known by its fd has no name here. */
        g_autofree char *name = g_path_get_basename(w->path);
        ff_say("working set written: %s: %" PRIu64 " KiB",
               g_str_has_prefix(w->path, "/proc/") ? name : w->path, (uint64_t)(w->n * PAGE >> 10));
    } else {
        ff_say("no working set was written: %s", error->message);
    }
    return NULL;
}

static int by_first(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const FfWorkingSetRun *)a)->first, y = ((const FfWorkingSetRun *)b)->first;

    return (x > y) - (x < y);
}

/* Those in a row are one. */
static void join_runs(GArray *runs)
{
    FfWorkingSetRun *r = (FfWorkingSetRun *)(void *)runs->data;
    guint n = 0;

    g_array_sort(runs, by_first);
    for (guint i = 0; i < runs->len; i++) {
        if (n && r[n - 1].first + r[n - 1].n == r[i].first) {
            r[n - 1].n += r[i].n;
        } else {
            r[n++] = r[i];
        }
    }
    g_array_set_size(runs, n);
}

/* Of what was needed: pages with data, each once, by their places in the file; and the others. */
static bool take_places(FfSession *s, Writer *w, GError **error)
{
    uint64_t n = __atomic_load_n(&s->learnt_n, __ATOMIC_ACQUIRE);
    g_autoptr(FfContentReader) r = ff_content_reader(s->source, error);
    FfBitmap seen;

    if (!r) {
        return false;
    }
    ff_bitmap_init(&seen, ff_content_size(s->source) / PAGE, false);
    w->places = g_new(uint64_t, n + 1);
    w->zeros = g_array_new(FALSE, FALSE, sizeof(FfWorkingSetRun));
    for (uint64_t i = 0; i < n; i++) {
        FfWorkingSetRun page = {s->learnt[i] / PAGE, 1};
        if (!ff_bitmap_set(&seen, page.first)) {
            continue;
        }
        if (ff_content_place(r, s->learnt[i], &w->places[w->n])) {
            w->n++;
        } else if (s->learnt[i] % PAGE == 0) {
            g_array_append_val(w->zeros, page);
        }
    }
    ff_bitmap_clear(&seen);
    join_runs(w->zeros);
    return true;
}

static void write_learnt(FfSession *s)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Writer) w = g_new0(Writer, 1);
    FfInputStamp now;

    s->learnt_taken = true; /* the writer says when it is over */
    w->all = s->all;
    w->path = g_strdup(s->set_path);
    w->fd = open_file(s, &w->file, &now);
    bool changed = w->fd >= 0 && !is_source(s, &now);
    if (w->fd < 0 || changed || !take_places(s, w, &error)) {
        ff_session_log(s, "no working set is written: %s",
                       error     ? error->message
                       : changed ? "its file was changed while it was in use"
                                 : "its content is no file");
        return;
    }
    GThread *thread = g_thread_try_new("working-set", write_set, w, &error);
    if (!thread) {
        ff_session_log(s, "no working set is written: %s", error->message);
        return;
    }
    g_steal_pointer(&w);
    g_thread_unref(thread);
}

void ff_set_learn(FfSession *s)
{
    if (s->learnt) {
        ff_work_pause(s, LEARN_MS);
        write_learnt(s);
    }
}

/* ---- placing --------------------------------------------------------------------------------- */

/* The page that the source has AT. FALSE: none of small pages. */
static bool page_at(const FfSession *s, uint64_t at, FfRun *run)
{
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *b = &s->image->block[i];
        if (at >= b->content && at - b->content < b->size) {
            *run = (FfRun){i, (at - b->content) / PAGE, 1};
            return b->page_size == PAGE && b->content % PAGE == 0;
        }
    }
    return false;
}

/* Those that the source does not have. FALSE: no more can be placed. */
static bool place_zeros(FfSession *s, FfWorker *w, FfContentReader *r, const FfWorkingSetRun *zeros)
{
    FfRun run;

    for (uint64_t i = 0; i < zeros->n; i += run.n) {
        if (!ff_work_wait_turn(s)) {
            return false;
        }
        uint64_t at = (zeros->first + i) * PAGE;
        if (!page_at(s, at, &run)) {
            run.n = 1;
            continue;
        }
        run.n = s->image->block[run.block].size / PAGE - run.first;
        run.n = MIN(MIN(run.n, zeros->n - i), FF_WORKING_SET_CHUNK);
        if (ff_content_is_hole(r, at, run.n * PAGE) && !ff_worker_put(w, &run, NULL)) {
            return false;
        }
    }
    return true;
}

static void place_all_zeros(FfSession *s, FfWorker *w)
{
    const FfWorkingSet *set = s->set;
    g_autoptr(FfContentReader) r = set->n_zeros ? ff_content_reader(s->source, NULL) : NULL;

    for (uint64_t i = 0; r && i < set->n_zeros; i++) {
        if (!place_zeros(s, w, r, &set->zeros[i])) {
            return;
        }
    }
}

static uint64_t count_pages(const FfWorkingSet *set)
{
    uint64_t n = set->n;

    for (uint64_t i = 0; i < set->n_zeros; i++) {
        n += set->zeros[i].n;
    }
    return n;
}

/* Pages in a row are placed together. */
static void place_chunk(FfSession *s, FfWorker *w, const uint64_t *at, uint64_t n, const char *data)
{
    FfRun run, next;

    for (uint64_t i = 0; i < n; i += run.n) {
        if (!page_at(s, at[i], &run)) {
            run.n = 1;
            continue;
        }
        while (i + run.n < n && page_at(s, at[i + run.n], &next) && next.block == run.block &&
               next.first == run.first + run.n) {
            run.n++;
        }
        if (!ff_worker_put(w, &run, data + i * PAGE)) {
            return;
        }
    }
}

void ff_set_place(FfSession *s)
{
    if (!s->set) {
        return;
    }
    g_autoptr(FfWorker) w = ff_worker_new(s, 0, false);
    g_autofree char *buf = g_malloc(FF_WORKING_SET_CHUNK * PAGE);
    const FfWorkingSet *set = s->set;
    g_autoptr(GError) error = NULL;

    __atomic_store_n(&s->image->counts.set, count_pages(set), __ATOMIC_RELAXED);
    is_placing = true;
    for (uint64_t i = 0; i < set->n && ff_work_wait_turn(s); i += FF_WORKING_SET_CHUNK) {
        uint64_t n = ff_working_set_read_chunk(set, i / FF_WORKING_SET_CHUNK, buf, &error);
        if (!n) {
            ff_session_log(s, "the working set is not used any more: %s", error->message);
            break;
        }
        FF_FAULT_AT("set-read");
        place_chunk(s, w, set->places + i, n, buf);
    }
    if (!error) {
        place_all_zeros(s, w);
    }
    is_placing = false;
    ff_session_log(s, "working set: %" PRIu64 " of %" PRIu64 " pages came before anybody waited",
                   __atomic_load_n(&s->image->counts.set_used, __ATOMIC_RELAXED), count_pages(set));
}
