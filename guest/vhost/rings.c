/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See rings.h. Rings are split ones, in memory that is read through the regions' fds: nothing is
 * mapped here. An fd that is no file (or one of another process's making that cannot be read) makes
 * a ring unreadable, no more.
 *
 * One thread; no locks. System calls: fcntl, fstat, pread64, pwrite64, poll, write, close.
 */
#include "guest/vhost/rings.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Entries of the largest ring, and bytes of a used ring of N. */
#define MAX_NUM 32768u
#define USED_BYTES(n) (6 + 8 * (uint64_t)(n))

/* ---- memory ---------------------------------------------------------------------------------- */

static bool is_same(const FfVhostRegion *a, const FfVhostRegion *b)
{
    return a->guest == b->guest && a->size == b->size && a->user == b->user;
}

static void drop_region(FfVhostRings *r, unsigned i)
{
    close(r->fds[i]);
    r->n_regions--;
    r->regions[i] = r->regions[r->n_regions];
    r->fds[i] = r->fds[r->n_regions];
}

static bool add_region(FfVhostRings *r, const FfVhostRegion *region, int fd)
{
    if (r->n_regions == FF_VHOST_MAX_REGIONS || region->guest + region->size < region->guest ||
        region->user + region->size < region->user) {
        return false;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy >= 0) {
        r->regions[r->n_regions] = *region;
        r->fds[r->n_regions++] = copy;
    }
    return copy >= 0;
}

static bool is_file(int one, int other)
{
    struct stat a, b;

    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static bool has_table(const FfVhostRings *r, const FfVhostMessage *msg)
{
    unsigned n = ff_vhost_n_regions(msg);
    bool same = n == r->n_regions;

    for (unsigned i = 0; i < n && same; i++) {
        FfVhostRegion region = ff_vhost_region(msg, i);

        same =
            memcmp(&region, &r->regions[i], sizeof(region)) == 0 && is_file(r->fds[i], msg->fds[i]);
    }
    return same;
}

static bool set_table(FfVhostRings *r, const FfVhostMessage *msg)
{
    bool all = true;

    while (r->n_regions) {
        drop_region(r, r->n_regions - 1);
    }
    for (unsigned i = 0; i < ff_vhost_n_regions(msg) && all; i++) {
        FfVhostRegion region = ff_vhost_region(msg, i);

        all = add_region(r, &region, msg->fds[i]);
    }
    return all;
}

bool ff_vhost_rings_memory(FfVhostRings *r, const FfVhostMessage *msg, bool *changed)
{
    if (msg->header.request == FF_VHOST_SET_MEM_TABLE) {
        *changed = !has_table(r, msg);
        return set_table(r, msg);
    }
    FfVhostRegion region = ff_vhost_region(msg, 0);

    *changed = true;
    if (msg->header.request == FF_VHOST_ADD_MEM_REG) {
        return add_region(r, &region, msg->fds[0]);
    }
    for (unsigned i = r->n_regions; i-- > 0;) {
        if (is_same(&r->regions[i], &region)) {
            drop_region(r, i);
        }
    }
    return true;
}

/* The file, and *AT in it, of LEN bytes at the front-end's address USER; -1: in no region. */
static int find_region(const FfVhostRings *r, uint64_t user, size_t len, off_t *at)
{
    for (unsigned i = 0; i < r->n_regions; i++) {
        const FfVhostRegion *region = &r->regions[i];
        uint64_t offset = user - region->user;

        if (user >= region->user && offset < region->size && region->size - offset >= len) {
            *at = (off_t)(region->offset + offset);
            return r->fds[i];
        }
    }
    return -1;
}

/* Reads a little-endian u16 at the front-end's address USER. */
static bool read_u16(const FfVhostRings *r, uint64_t user, uint16_t *value)
{
    off_t at;
    int fd = find_region(r, user, sizeof(*value), &at);
    bool ok = fd >= 0 && pread(fd, value, sizeof(*value), at) == sizeof(*value);

    *value = ok ? GUINT16_FROM_LE(*value) : 0;
    return ok;
}

/* There is a page, and not a hole that reads as zeros. */
static bool is_there(const FfVhostRings *r, uint64_t user)
{
    off_t at;
    int fd = find_region(r, user, sizeof(uint16_t), &at);

    return fd >= 0 && lseek(fd, at, SEEK_DATA) == at;
}

/* ---- rings ----------------------------------------------------------------------------------- */

FfVhostRing *ff_vhost_rings_make(FfVhostRings *r, uint64_t i)
{
    if (i >= FF_VHOST_MAX_RINGS) {
        return NULL;
    }
    if (!r->rings) {
        r->rings = g_new0(FfVhostRing, FF_VHOST_MAX_RINGS);
        for (unsigned k = 0; k < FF_VHOST_MAX_RINGS; k++) {
            r->rings[k].kick = -1;
        }
    }
    return &r->rings[i];
}

static void set_kick(FfVhostRing *ring, const FfVhostMessage *msg)
{
    if (ring->kick >= 0) {
        close(ring->kick);
    }
    ring->kick = msg->n_fds == 1 ? fcntl(msg->fds[0], F_DUPFD_CLOEXEC, 0) : -1;
    ring->started = true;
}

void ff_vhost_rings_note(FfVhostRings *r, const FfVhostMessage *msg)
{
    FfVhostVringAddr addr;
    FfVhostRing *ring;

    if (msg->header.request == FF_VHOST_SET_VRING_NUM) {
        ring = ff_vhost_rings_make(r, ff_vhost_state(msg).index);
        if (ring) {
            ring->num = ff_vhost_state(msg).value;
        }
    } else if (msg->header.request == FF_VHOST_SET_VRING_BASE) {
        ring = ff_vhost_rings_make(r, ff_vhost_state(msg).index);
        if (ring) {
            ring->base = (uint16_t)ff_vhost_state(msg).value;
            ring->has_base = true;
        }
    } else if (msg->header.request == FF_VHOST_SET_VRING_ADDR) {
        addr = ff_vhost_addr(msg);
        ring = ff_vhost_rings_make(r, addr.index);
        if (ring) {
            ring->addr = addr;
            ring->has_addr = true;
        }
    } else if (msg->header.request == FF_VHOST_SET_VRING_KICK) {
        ring = ff_vhost_rings_make(r, ff_vhost_u64(msg) & FF_VHOST_VRING_INDEX);
        if (ring) {
            set_kick(ring, msg);
        }
    } else if (msg->header.request == FF_VHOST_SET_VRING_ENABLE) {
        ring = ff_vhost_rings_make(r, ff_vhost_state(msg).index);
        if (ring) {
            ring->disabled = !ff_vhost_state(msg).value;
        }
    }
}

void ff_vhost_rings_stopped(FfVhostRings *r, unsigned i)
{
    FfVhostRing *ring = r->rings ? ff_vhost_rings_make(r, i) : NULL;

    if (!ring) {
        return;
    }
    if (ring->kick >= 0) {
        close(ring->kick);
    }
    *ring = (FfVhostRing){
        .kick = -1,
        .was_used = ring->addr.used,
        .was_size = ring->has_addr ? USED_BYTES(ring->num ? MIN(ring->num, MAX_NUM) : MAX_NUM) : 0,
    };
}

static const FfVhostRing *running_ring(const FfVhostRings *r, unsigned i)
{
    const FfVhostRing *ring = r->rings && i < FF_VHOST_MAX_RINGS ? &r->rings[i] : NULL;

    return ring && ring->started && ring->has_addr ? ring : NULL;
}

bool ff_vhost_rings_run(const FfVhostRings *r, unsigned i)
{
    return r->rings && i < FF_VHOST_MAX_RINGS && r->rings[i].started;
}

const FfVhostVringAddr *ff_vhost_rings_addr(const FfVhostRings *r, unsigned i)
{
    const FfVhostRing *ring = r->rings && i < FF_VHOST_MAX_RINGS ? &r->rings[i] : NULL;

    return ring && ring->has_addr ? &ring->addr : NULL;
}

FfVhostRingLook ff_vhost_rings_look(const FfVhostRings *r, unsigned i)
{
    const FfVhostRing *ring = running_ring(r, i);
    uint16_t avail, used;

    if (!ring || ring->disabled) {
        return FF_VHOST_RING_IDLE;
    }
    /* Both rings begin with u16 flags, u16 index. */
    if (!read_u16(r, ring->addr.avail + 2, &avail) || !read_u16(r, ring->addr.used + 2, &used)) {
        return FF_VHOST_RING_UNREADABLE;
    }
    return avail == used ? FF_VHOST_RING_IDLE : FF_VHOST_RING_BUSY;
}

bool ff_vhost_rings_is_behind(const FfVhostRings *r, unsigned i, FfVhostVringState *state)
{
    const FfVhostRing *ring = running_ring(r, i);
    uint16_t used, n;

    if (!ring || !ring->has_base || !is_there(r, ring->addr.used + 2) ||
        !read_u16(r, ring->addr.used + 2, &used)) {
        return false;
    }
    n = used - ring->base;
    *state = (FfVhostVringState){i, used};
    return n && n <= (ring->num ? ring->num : MAX_NUM);
}

void ff_vhost_rings_forget_base(FfVhostRings *r, unsigned i)
{
    FfVhostRing *ring = r->rings ? ff_vhost_rings_make(r, i) : NULL;

    if (ring) {
        ring->has_base = false;
    }
}

void ff_vhost_rings_kick(const FfVhostRings *r, unsigned i)
{
    const FfVhostRing *ring = running_ring(r, i);
    const uint64_t one = 1;

    /* A full counter is a kick that was not heard yet; a process that has cleared O_NONBLOCK,
     * which all that have the eventfd share, would have this thread wait for that. */
    struct pollfd pfd = {.fd = ring ? ring->kick : -1, .events = POLLOUT};

    if (poll(&pfd, 1, 0) == 1 && pfd.revents == POLLOUT &&
        write(ring->kick, &one, sizeof(one)) < 0) {
        return;
    }
}

/* The bits of [FROM, END) of the guest's physical memory, and of their neighbours: a whole byte can
 * be set with neither a look nor a lock, whoever else sets bits in it or takes them. */
static int log_pages(int log, uint64_t size, uint64_t from, uint64_t end)
{
    uint8_t ones[USED_BYTES(MAX_NUM) / FF_VHOST_LOG_PAGE / 8 + 2];
    uint64_t first = from / FF_VHOST_LOG_PAGE / 8, last = (end - 1) / FF_VHOST_LOG_PAGE / 8;
    size_t n = last - first + 1;
    ssize_t done;

    if (last >= size) {
        return -ERANGE;
    }
    memset(ones, 0xff, sizeof(ones));
    done = pwrite(log, ones, n, (off_t)first);
    return done < 0 ? -errno : done == (ssize_t)n ? 0 : -EIO;
}

int ff_vhost_rings_log_used(const FfVhostRings *r, unsigned i, int log, uint64_t size)
{
    const FfVhostRing *ring = r->rings && i < FF_VHOST_MAX_RINGS ? &r->rings[i] : NULL;
    uint64_t from = ring ? ring->was_used : 0, end = ring ? from + ring->was_size : 0;
    int rc = 0;

    for (unsigned k = 0; k < r->n_regions && !rc; k++) {
        const FfVhostRegion *region = &r->regions[k];
        uint64_t first = MAX(from, region->user), last = MIN(end, region->user + region->size);

        if (first < last) {
            rc = log_pages(log, size, region->guest + (first - region->user),
                           region->guest + (last - region->user));
        }
    }
    return rc;
}

void ff_vhost_rings_clear(FfVhostRings *r)
{
    while (r->n_regions) {
        drop_region(r, r->n_regions - 1);
    }
    for (unsigned i = 0; r->rings && i < FF_VHOST_MAX_RINGS; i++) {
        ff_vhost_rings_stopped(r, i);
    }
    g_clear_pointer(&r->rings, g_free);
}
