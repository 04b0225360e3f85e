/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frames of a compressed array; see frames.h.
 *
 * A slot unpacks a frame and keeps it, so that a stream unpacks each frame once, whatever the size
 * of its blocks, and so do threads that load several blocks of one frame: a thread that wants a
 * frame that another one just unpacks waits for that. When all slots are in use one waits for a
 * slot. A thread that has a slot reads the file and unpacks, and touches no array: it waits for
 * nobody.
 *
 * Lock: `lock`, a leaf; not held while a frame is read, unpacked or copied. System calls: fstat,
 * pread64.
 */
#include "libfarfault/arrays/frames.h"

#include <errno.h>
#include <gio/gio.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/seekable.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"

#define FRAME_MAX (64u << 20) /* is unpacked for one block */
#define ROOM (16u << 20)      /* of all slots, if so many frames are no larger */
#define SLOTS_MAX 16
#define SLOTS_MIN 2
#define NONE G_MAXUINT

typedef struct {
    FfSeekable *s;
    guint frame;    /* lock; NONE */
    unsigned users; /* lock */
    bool ready;     /* lock: it is unpacked; else its one user does that */
    bool old;       /* lock: ff_frames_forget() came after that had begun */
    uint64_t used;  /* lock: when, by `clock` */
} Slot;

struct FfFrames {
    int fd;
    char *path;
    uint64_t file_size;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a frame is unpacked, or was not; a slot has no user */
    Slot slots[SLOTS_MAX];
    unsigned n_slots; /* lock to write; of the first one nothing but the table changes hands */
    unsigned max_slots;
    uint64_t clock; /* lock */
};

/* FfSeekableRead */
static bool read_file(void *opaque, uint64_t at, void *to, size_t n, GError **error)
{
    FfFrames *f = opaque;

    for (size_t done = 0; done < n;) {
        ssize_t some = pread(f->fd, (char *)to + done, n - done, (off_t)(at + done));
        if (some < 0 && errno == EINTR) {
            continue;
        }
        if (some <= 0) {
            int err = some < 0 ? errno : ESTALE; /* it was cut since */
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err), "%s: %s", f->path,
                        ff_strerror(err));
            return false;
        }
        done += (size_t)some;
    }
    return true;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* One more, if there may be. */
static Slot *add_slot(FfFrames *f)
{
    bool may_add = f->n_slots < f->max_slots && ff_reserve("a frame", FF_FRAMES_CONTEXT) == 0;
    FfSeekable *s = may_add ? ff_seekable_dup(f->slots[0].s, NULL) : NULL;

    if (!s) {
        return NULL;
    }
    Slot *slot = &f->slots[f->n_slots++];
    *slot = (Slot){.s = s, .frame = NONE};
    return slot;
}

/* The one of FRAME, unpacked or not, as the file is now; NULL. */
static Slot *find_slot(FfFrames *f, guint frame)
{
    for (unsigned i = 0; i < f->n_slots; i++) {
        if (f->slots[i].frame == frame && !f->slots[i].old) {
            return &f->slots[i];
        }
    }
    return NULL;
}

/* One that nobody uses, and that was used longest ago; NULL. */
static Slot *oldest_slot(FfFrames *f)
{
    Slot *oldest = NULL;

    for (unsigned i = 0; i < f->n_slots; i++) {
        Slot *slot = &f->slots[i];
        if (!slot->users && (!oldest || slot->used < oldest->used)) {
            oldest = slot;
        }
    }
    return oldest;
}

/* The caller is a user of the slot that is returned, and unpacks FRAME there unless it is ready.
 * Locked, drops the lock. */
static Slot *take_slot(FfFrames *f, guint frame)
{
    for (;;) {
        Slot *slot = find_slot(f, frame);
        if (slot && slot->ready) {
            slot->users++;
            return slot;
        }
        if (!slot) {
            Slot *oldest = oldest_slot(f), *more = NULL;
            if (!oldest || oldest->frame != NONE) {
                more = add_slot(f);
            }
            slot = more ? more : oldest;
            if (slot) {
                ff_seekable_forget(slot->s);
                slot->frame = frame;
                slot->ready = slot->old = false;
                slot->users = 1;
                return slot;
            }
        }
        pthread_cond_wait(&f->changed, &f->lock);
    }
}

/* Of one frame. */
static int read_frame(FfFrames *f, guint frame, uint64_t at, void *to, size_t n)
{
    pthread_mutex_lock(&f->lock);
    Slot *slot = take_slot(f, frame);
    bool was_ready = slot->ready;
    pthread_mutex_unlock(&f->lock);
    bool ok = ff_seekable_read(slot->s, at, to, n, NULL);
    pthread_mutex_lock(&f->lock);
    slot->used = ++f->clock;
    slot->users--;
    slot->ready = ok;
    slot->frame = ok ? frame : NONE;
    if (!was_ready || !slot->users) {
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return ok ? 0 : -EIO;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* What is said of a file without a table. */
static int fail_open(FfFrames *f, const GError *error)
{
    uint8_t magic[4];
    int rc = ff_fail_error(error);

    if (rc == -ENOMEM) {
        return rc;
    }
    if (f->file_size < sizeof(magic) || !read_file(f, 0, magic, sizeof(magic), NULL) ||
        !ff_seekable_is(magic)) {
        return ff_fail(-EINVAL, "%s: not compressed by zstd: ff_array_open() is for plain files",
                       f->path);
    }
    return ff_fail(-EINVAL, "%s", error->message);
}

int ff_frames_new(int fd, const char *path, FfFrames **result)
{
    g_autoptr(FfFrames) f = g_new0(FfFrames, 1);
    g_autoptr(GError) error = NULL;
    struct stat st;

    *f = (FfFrames){.fd = fd, .path = g_strdup(path)};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (fstat(fd, &st) < 0) {
        return ff_fail(-errno, "%s: %s", path, ff_strerror(errno));
    }
    f->file_size = (uint64_t)st.st_size;
    FfSeekable *s = ff_seekable_new(path, f->file_size, FRAME_MAX, read_file, f, &error);
    if (!s) {
        return fail_open(f, error);
    }
    f->slots[f->n_slots++] = (Slot){.s = s, .frame = NONE};
    f->max_slots = (unsigned)CLAMP(ROOM / ff_seekable_largest(s), SLOTS_MIN, SLOTS_MAX);
    *result = g_steal_pointer(&f);
    return 0;
}

void ff_frames_free(FfFrames *f)
{
    if (!f) {
        return;
    }
    for (unsigned i = 0; i < f->n_slots; i++) {
        ff_seekable_free(f->slots[i].s);
    }
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    g_free(f->path);
    g_free(f);
}

uint64_t ff_frames_len(const FfFrames *f)
{
    return ff_seekable_size(f->slots[0].s);
}

int ff_frames_read(FfFrames *f, uint64_t at, void *to, size_t n)
{
    int rc = 0;

    for (size_t done = 0, some; done < n && rc == 0; done += some) {
        FfSeekableFrame frame = ff_seekable_frame(f->slots[0].s, at + done);
        some = MIN(n - done, frame.end - (at + done));
        rc = read_frame(f, frame.number, at + done, (char *)to + done, some);
    }
    return rc;
}

void ff_frames_forget(FfFrames *f)
{
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->n_slots; i++) {
        f->slots[i].old = true;
    }
    pthread_mutex_unlock(&f->lock);
}

void ff_frames_where(const FfFrames *f, uint64_t at, uint64_t end, uint64_t *from, uint64_t *to)
{
    const FfSeekable *s = f->slots[0].s;

    *from = ff_seekable_frame(s, at).packed_begin;
    *to = ff_seekable_frame(s, end - 1).packed_end;
}
