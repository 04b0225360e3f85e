/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of an array; see redo.h.
 *
 * A record's checksum covers its header and its pages. It is valid if its transaction's number is
 * that of the record before it, or if that one is an end; an end also says how many records it
 * ends. All is written before the one fdatasync() of ff_redo_end(), in any order, as what is torn
 * or missing has no valid checksum. Emptying it is synced before anything is written over it: else
 * a part of the old transactions could be valid again, without the later ones. For the same reason
 * a record is never written over: with the end of its transaction on the disk, and the old content
 * of the record, all would have valid checksums.
 *
 * Locks: `adding`, of the thread that appends; under it `lock`, a leaf, for the table of pages.
 * `finding`, of the thread that looks for what has ended: over no other.
 *
 * System calls: pread64, pwritev, ftruncate, fdatasync, flock, getrandom.
 */
#include "libfarfault/arrays/redo.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include "libfarfault/common/rlimits.h"

#define MAGIC 0x4f44455246460a00ull /* "\0\nFFREDO" */
#define VERSION 1u
#define FIRST 4096u /* of the records */
#define PAGES_MAX 512u

enum { PAGES = 1, END = 2, DROP = 3 };

/* Little-endian, at byte 0. */
typedef struct {
    uint64_t magic;
    uint32_t version, reserved;
    uint64_t len; /* of the array, in bytes */
    uint64_t checksum;
} Header;
_Static_assert(sizeof(Header) == 32, "of a file");

/* In front of `n` pages. END: `n` is 0, `first` how many records it ends. DROP: `n` is 0; what
 * stands before it, of page `first` in this transaction, is void. */
typedef struct {
    uint32_t kind, n;
    uint64_t transaction; /* drawn */
    uint64_t first;       /* page */
    uint64_t checksum;    /* of this, with 0 here, and the pages */
} Record;
_Static_assert(sizeof(Record) == 32, "of a file");

struct FfRedo {
    int fd;
    uint64_t len;
    bool nameless, has_header, lost;
    bool torn;          /* there may be something of this transaction after `at` */
    uint64_t at, ended; /* the next record's place; the end of what is valid */
    uint64_t transaction, n_records;
    pthread_mutex_t adding; /* over `lock`; held while a record is written */
    pthread_mutex_t lock;
    GHashTable *places; /* lock: page + 1 -> where it is */
    pthread_mutex_t finding;
    GHashTable *ended_places; /* finding: the same, of what has ended; NULL: not looked for yet */
};

static uint64_t sum_words(uint64_t h, const void *data, size_t n)
{
    const char *at = data;

    for (size_t i = 0; i < n; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, at + i, sizeof(word));
        h = (h ^ GUINT64_FROM_LE(word)) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    return h;
}

static uint64_t sum_record(Record r, const void *data)
{
    r.checksum = 0;
    return sum_words(sum_words(MAGIC, &r, sizeof(r)), data,
                     GUINT32_FROM_LE(r.n) * (size_t)FF_REDO_PAGE);
}

/* All of IOV. */
static int write_all(int fd, uint64_t at, struct iovec *iov, int n)
{
    while (n > 0) {
        ssize_t done = pwritev(fd, iov, n, (off_t)at);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -EIO;
        }
        at += (uint64_t)done;
        for (; n > 0 && (size_t)done >= iov->iov_len; iov++, n--) {
            done -= (ssize_t)iov->iov_len;
        }
        if (n > 0) {
            iov->iov_base = (char *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
    return 0;
}

/* How much of N bytes there is; or -errno. */
static ssize_t read_all(int fd, uint64_t at, void *to, size_t n)
{
    size_t done = 0;

    while (done < n) {
        ssize_t some = pread(fd, (char *)to + done, n - done, (off_t)(at + done));
        if (some < 0 && errno == EINTR) {
            continue;
        }
        if (some <= 0) {
            return some < 0 ? -errno : (ssize_t)done;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

/* ---- begin and end --------------------------------------------------------------------------- */

void ff_redo_begin(FfRedo *r)
{
    pthread_mutex_lock(&r->lock);
    g_hash_table_remove_all(r->places);
    pthread_mutex_unlock(&r->lock);
    if ((r->at > r->ended || r->torn) && ftruncate(r->fd, (off_t)r->ended) < 0) {
        /* It takes room, and is not valid. */
    }
    r->at = r->ended;
    r->torn = false;
    r->n_records = 0;
    if (getrandom(&r->transaction, sizeof(r->transaction), 0) != sizeof(r->transaction)) {
        r->transaction++;
    }
}

int ff_redo_new(int fd, uint64_t len, bool nameless, FfRedo **result)
{
    FfRedo *r = g_new0(FfRedo, 1);

    *r = (FfRedo){.fd = fd, .len = len, .nameless = nameless, .at = FIRST, .ended = FIRST};
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->adding, NULL);
    pthread_mutex_init(&r->finding, NULL);
    r->places = g_hash_table_new(g_direct_hash, g_direct_equal);
    *result = r;
    return 0;
}

void ff_redo_free(FfRedo *r)
{
    if (r) {
        close(r->fd);
        g_hash_table_unref(r->places);
        pthread_mutex_destroy(&r->lock);
        pthread_mutex_destroy(&r->adding);
        pthread_mutex_destroy(&r->finding);
        g_clear_pointer(&r->ended_places, g_hash_table_unref);
        g_free(r);
    }
}

void ff_redo_unlock(FfRedo *r)
{
    flock(r->fd, LOCK_UN);
}

void ff_redo_set_len(FfRedo *r, uint64_t len)
{
    r->len = len;
}

int ff_redo_reset(FfRedo *r)
{
    int rc = ftruncate(r->fd, 0) < 0 ? -errno : 0;

    if (rc == 0) {
        r->has_header = false;
        r->at = r->ended = FIRST;
        rc = fdatasync(r->fd) < 0 ? -errno : 0;
    }
    if (rc < 0) {
        r->lost = true;
        return rc;
    }
    ff_redo_begin(r);
    return 0;
}

bool ff_redo_is_lost(const FfRedo *r)
{
    return r->lost;
}

uint64_t ff_redo_size(const FfRedo *r)
{
    return r->ended - FIRST;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether there is a valid record at AT; DATA has room for PAGES_MAX pages. 1, 0 or -errno. */
static int read_record(const FfRedo *r, uint64_t at, Record *record, void *data)
{
    ssize_t n = read_all(r->fd, at, record, sizeof(*record));
    uint32_t kind = GUINT32_FROM_LE(record->kind), pages = GUINT32_FROM_LE(record->n);

    if (n != sizeof(*record)) {
        return n < 0 ? (int)n : 0;
    }
    if (kind == PAGES ? pages < 1 || pages > PAGES_MAX : (kind != END && kind != DROP) || pages) {
        return 0;
    }
    size_t len = pages * (size_t)FF_REDO_PAGE;
    n = read_all(r->fd, at + sizeof(*record), data, len);
    return n < 0
               ? (int)n
               : (size_t)n == len && sum_record(*record, data) == GUINT64_FROM_LE(record->checksum);
}

/* N more in TABLE: GLib makes it twice as large, 20 bytes for each, before it is full. */
static int reserve_places(GHashTable *table, uint64_t n)
{
    return ff_reserve("the table of the log", (g_hash_table_size(table) + n) * 60);
}

/* The transaction at AT. *END: what comes after it; AT: it has no end. DROPS: page + 1 -> the place
 * up to which what it has of that is void. 0 or -errno. */
static int find_end(const FfRedo *r, uint64_t at, void *data, GHashTable *drops, uint64_t *end)
{
    uint64_t transaction = 0, n = 0;
    Record record;
    int rc;

    *end = at;
    g_hash_table_remove_all(drops);
    for (uint64_t next = at; (rc = read_record(r, next, &record, data)) > 0; n++) {
        if (n && record.transaction != transaction) {
            return 0;
        }
        transaction = record.transaction;
        if (GUINT32_FROM_LE(record.kind) == DROP) {
            rc = reserve_places(drops, 1);
            if (rc < 0) {
                return rc;
            }
            g_hash_table_insert(drops, GSIZE_TO_POINTER(GUINT64_FROM_LE(record.first) + 1),
                                GSIZE_TO_POINTER(next));
        }
        next += sizeof(record) + GUINT32_FROM_LE(record.n) * (size_t)FF_REDO_PAGE;
        if (GUINT32_FROM_LE(record.kind) == END) {
            *end = GUINT64_FROM_LE(record.first) == n ? next : at;
            return 0;
        }
    }
    return rc;
}

/* Of N pages from FIRST on, which are DATA, and in the file at PLACE. */
typedef int Visit(void *opaque, uint64_t first, uint64_t n, const char *data, uint64_t place);

/* Those of N pages of the record at AT that are not void. */
static int replay_pages(GHashTable *drops, uint64_t at, uint64_t first, uint64_t n,
                        const char *data, Visit *visit, void *opaque)
{
    uint64_t place = at + sizeof(Record);
    int rc = 0;

    if (g_hash_table_size(drops) == 0) {
        return visit(opaque, first, n, data, place);
    }
    for (uint64_t i = 0; i < n && rc >= 0; i++) {
        gpointer key = GSIZE_TO_POINTER(first + i + 1);
        if (at > GPOINTER_TO_SIZE(g_hash_table_lookup(drops, key))) {
            rc = visit(opaque, first + i, 1, data + i * FF_REDO_PAGE, place + i * FF_REDO_PAGE);
        }
    }
    return rc;
}

static int replay_one(const FfRedo *r, uint64_t at, uint64_t end, void *data, GHashTable *drops,
                      Visit *visit, void *opaque)
{
    Record record;
    int rc = 0;

    while (at < end && rc >= 0) {
        rc = read_record(r, at, &record, data);
        uint32_t n = GUINT32_FROM_LE(record.n);
        if (rc > 0 && n) {
            rc = replay_pages(drops, at, GUINT64_FROM_LE(record.first), n, data, visit, opaque);
        } else if (rc == 0) {
            rc = -EIO; /* it was there a moment ago */
        }
        at += sizeof(record) + n * (size_t)FF_REDO_PAGE;
    }
    return MIN(rc, 0);
}

/* Of N bytes of a header, which may never have come to the disk: they are of another file. */
static bool is_foreign(const Header *header, size_t n)
{
    static const uint64_t none, magic = GUINT64_TO_LE(MAGIC);

    n = MIN(n, sizeof(magic));
    return memcmp(&header->magic, &magic, n) != 0 && memcmp(&header->magic, &none, n) != 0;
}

/* What begins before LIMIT. *REACHED: the end of the last one that is whole. */
static int visit_all(const FfRedo *r, uint64_t limit, uint64_t *len, uint64_t *reached,
                     Visit *visit, void *opaque)
{
    Header header;
    ssize_t n = read_all(r->fd, 0, &header, sizeof(header));
    g_autofree void *data = g_try_malloc(PAGES_MAX * (size_t)FF_REDO_PAGE);
    g_autoptr(GHashTable) drops = g_hash_table_new(g_direct_hash, g_direct_equal);
    int rc = 0;

    *len = 0;
    *reached = FIRST;
    if (!data) {
        return -ENOMEM;
    }
    if (n > 0 && is_foreign(&header, (size_t)n)) {
        return -EBADMSG;
    }
    if (n < (ssize_t)sizeof(header) || GUINT64_FROM_LE(header.magic) != MAGIC ||
        sum_words(0, &header, offsetof(Header, checksum)) != GUINT64_FROM_LE(header.checksum)) {
        return n < 0 ? (int)n : 0;
    }
    if (GUINT32_FROM_LE(header.version) != VERSION) {
        return -EPROTO;
    }
    *len = GUINT64_FROM_LE(header.len);
    for (uint64_t at = FIRST, end; rc == 0 && at < limit; at = end) {
        rc = find_end(r, at, data, drops, &end);
        if (rc < 0 || end == at) {
            break;
        }
        rc = replay_one(r, at, end, data, drops, visit, opaque);
        *reached = end;
    }
    return rc;
}

typedef struct {
    FfRedoPages *pages;
    void *opaque;
} Caller;

static int tell_caller(void *opaque, uint64_t first, uint64_t n, const char *data, uint64_t place)
{
    const Caller *c = opaque;

    return c->pages(c->opaque, first, n, data);
}

int ff_redo_replay(FfRedo *r, uint64_t *len, FfRedoPages *pages, void *opaque)
{
    Caller c = {pages, opaque};
    uint64_t reached;

    return visit_all(r, UINT64_MAX, len, &reached, tell_caller, &c);
}

static void note_places(GHashTable *places, uint64_t first, uint64_t n, uint64_t place)
{
    for (uint64_t i = 0; i < n; i++) {
        g_hash_table_insert(places, GSIZE_TO_POINTER(first + i + 1),
                            GSIZE_TO_POINTER(place + i * FF_REDO_PAGE));
    }
}

static int note_ended(void *places, uint64_t first, uint64_t n, const char *data, uint64_t place)
{
    int rc = reserve_places(places, n);

    if (rc == 0) {
        note_places(places, first, n, place);
    }
    return rc;
}

/* Under `finding`. What is there after `ended` nobody knows, and can be cut. 0 or -errno. */
static int find_ended(FfRedo *r)
{
    if (r->ended_places) {
        return 0;
    }
    g_autoptr(GHashTable) places = g_hash_table_new(g_direct_hash, g_direct_equal);
    uint64_t len, reached;
    int rc = visit_all(r, r->ended, &len, &reached, note_ended, places);

    if (rc == 0 && reached < r->ended) {
        rc = -EIO; /* it has been written, and does not read as that */
    }
    if (rc == 0) {
        r->ended_places = g_steal_pointer(&places);
    }
    return rc;
}

/* 0: nowhere. */
static uint64_t place_of(GHashTable *places, uint64_t page)
{
    return GPOINTER_TO_SIZE(g_hash_table_lookup(places, GSIZE_TO_POINTER(page + 1)));
}

/* In this transaction. */
static uint64_t find_place(FfRedo *r, uint64_t page)
{
    pthread_mutex_lock(&r->lock);
    uint64_t at = place_of(r->places, page);
    pthread_mutex_unlock(&r->lock);
    return at;
}

static int read_page(const FfRedo *r, uint64_t at, void *data)
{
    if (!at) {
        return -ENOENT;
    }
    ssize_t n = read_all(r->fd, at, data, FF_REDO_PAGE);
    return n < 0 ? (int)n : n == FF_REDO_PAGE ? 0 : -EIO;
}

int ff_redo_read(FfRedo *r, uint64_t page, void *data)
{
    return read_page(r, find_place(r, page), data);
}

int ff_redo_read_ended(FfRedo *r, uint64_t page, void *data)
{
    pthread_mutex_lock(&r->finding);
    int rc = find_ended(r);
    uint64_t at = rc < 0 ? 0 : place_of(r->ended_places, page);
    pthread_mutex_unlock(&r->finding);
    return rc < 0 ? rc : read_page(r, at, data);
}

void ff_redo_forget(FfRedo *r, uint64_t page)
{
    pthread_mutex_lock(&r->lock);
    g_hash_table_remove(r->places, GSIZE_TO_POINTER(page + 1));
    pthread_mutex_unlock(&r->lock);
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_header(FfRedo *r)
{
    Header header = {.magic = GUINT64_TO_LE(MAGIC),
                     .version = GUINT32_TO_LE(VERSION),
                     .len = GUINT64_TO_LE(r->len)};
    struct iovec iov = {&header, sizeof(header)};

    header.checksum = GUINT64_TO_LE(sum_words(0, &header, offsetof(Header, checksum)));
    return write_all(r->fd, 0, &iov, 1);
}

/* What failed is gone from the disk before anything is written in its place: else its parts, and
 * those of what comes there, could be valid together. */
static int cut_log(FfRedo *r)
{
    if (r->torn && !r->nameless && (ftruncate(r->fd, (off_t)r->at) < 0 || fdatasync(r->fd) < 0)) {
        r->lost = true;
        return -errno;
    }
    r->torn = false;
    return 0;
}

static int write_record(FfRedo *r, uint32_t kind, uint64_t first, uint32_t n, const void *data)
{
    Record record = {.kind = GUINT32_TO_LE(kind),
                     .n = GUINT32_TO_LE(n),
                     .transaction = r->transaction,
                     .first = GUINT64_TO_LE(first)};
    struct iovec iov[] = {{&record, sizeof(record)}, {(void *)data, n * (size_t)FF_REDO_PAGE}};
    int rc = r->lost ? -EIO : 0;

    rc = rc < 0 ? rc : cut_log(r);
    if (rc == 0 && !r->has_header) {
        rc = write_header(r);
        r->has_header = rc == 0;
    }
    if (rc == 0) {
        record.checksum = GUINT64_TO_LE(sum_record(record, data));
        rc = write_all(r->fd, r->at, iov, n ? 2 : 1);
        r->torn = rc < 0;
    }
    return rc;
}

/* Under `adding`. 1: what is at PLACE is DATA, now at least; 0: it needs a record. Or -errno. */
static int record_again(FfRedo *r, uint64_t place, const void *data)
{
    char old[FF_REDO_PAGE];
    struct iovec iov = {(void *)data, FF_REDO_PAGE};

    if (place && r->nameless) {
        int rc = write_all(r->fd, place, &iov, 1);
        return rc < 0 ? rc : 1;
    }
    return place && read_page(r, place, old) == 0 && memcmp(old, data, sizeof(old)) == 0;
}

/* Under `adding`. */
static int add_record(FfRedo *r, uint64_t first, uint64_t n, const void *data)
{
    pthread_mutex_lock(&r->lock);
    int rc = n ? reserve_places(r->places, n) : 0;
    pthread_mutex_unlock(&r->lock);

    rc = rc == 0 && n ? write_record(r, PAGES, first, (uint32_t)n, data) : rc;
    if (rc == 0 && n) {
        pthread_mutex_lock(&r->lock);
        note_places(r->places, first, n, r->at + sizeof(Record));
        pthread_mutex_unlock(&r->lock);
        r->at += sizeof(Record) + n * FF_REDO_PAGE;
        r->n_records++;
    }
    return rc;
}

int ff_redo_add(FfRedo *r, uint64_t first, uint64_t n, const void *data)
{
    const char *from = data;
    uint64_t begin = 0; /* of what is to be one record */
    int rc = 0;

    pthread_mutex_lock(&r->adding);
    for (uint64_t i = 0; i < n && rc >= 0; i++) {
        rc = record_again(r, find_place(r, first + i), from + i * FF_REDO_PAGE);
        if (rc > 0 || i - begin == PAGES_MAX) {
            int added = add_record(r, first + begin, i - begin, from + begin * FF_REDO_PAGE);
            begin = i + (rc > 0);
            rc = MIN(added, rc);
        }
    }
    if (rc >= 0) {
        rc = add_record(r, first + begin, n - begin, from + begin * FF_REDO_PAGE);
    }
    pthread_mutex_unlock(&r->adding);
    return rc;
}

/* Of N pages from FIRST on those that this transaction has; NULL: there is no memory. */
static GArray *find_places(FfRedo *r, uint64_t first, uint64_t n)
{
    GHashTableIter iter;
    gpointer key;

    pthread_mutex_lock(&r->lock);
    guint size = g_hash_table_size(r->places), room = (guint)MIN(n, size);
    if (ff_reserve("the table of the log", room * sizeof(uint64_t)) < 0) {
        pthread_mutex_unlock(&r->lock);
        return NULL;
    }
    GArray *found = g_array_sized_new(FALSE, FALSE, sizeof(uint64_t), room);
    g_hash_table_iter_init(&iter, r->places);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t page = GPOINTER_TO_SIZE(key) - 1;
        if (page - first < n) {
            g_array_append_val(found, page);
        }
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

int ff_redo_drop(FfRedo *r, uint64_t first, uint64_t n)
{
    int rc = 0;

    pthread_mutex_lock(&r->adding);
    g_autoptr(GArray) found = find_places(r, first, n);
    uint64_t at = r->at;
    if (!found) {
        pthread_mutex_unlock(&r->adding);
        return -ENOMEM;
    }
    for (guint i = 0; i < found->len && rc == 0; i++) {
        rc = write_record(r, DROP, g_array_index(found, uint64_t, i), 0, NULL);
        r->at += sizeof(Record);
    }
    if (rc < 0) {
        r->at = at; /* none of them counts */
        r->torn = true;
    } else {
        r->n_records += found->len;
    }
    pthread_mutex_unlock(&r->adding);
    return rc;
}

int ff_redo_end(FfRedo *r)
{
    int rc = write_record(r, END, r->n_records, 0, NULL);

    if (rc < 0) {
        return rc; /* a part of it at most: it is not valid, and written over */
    }
    if (fdatasync(r->fd) < 0) {
        rc = -errno;
        r->lost = true;
        return rc;
    }
    r->at += sizeof(Record);
    r->ended = r->at;
    r->n_records = 0;
    return 0;
}
