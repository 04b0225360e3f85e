/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's private blocks of guest memory; see private.h. System calls: pread.
 */
#include "uffd/private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "uffd/regions.h"

#define PAGE 4096u
#define ALIGNMENT (2u << 20) /* QEMU_VMALLOC_ALIGN on x86_64 */
#define HEAP (64u << 20)     /* glibc: HEAP_MAX_SIZE of a thread's arena; its alignment, too */
/* Pages that are looked at by one read of each file. */
#define PIECE 64u
/* Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_THERE (3ull << 62) /* present or swapped */

typedef struct {
    uint64_t start, end;
} Block;

static bool parse_mapping(const char *line, Block *b, char perms[5])
{
    uint64_t offset, inode;
    unsigned maj, min;

    return sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &b->start,
                  &b->end, perms, &offset, &maj, &min, &inode) == 7 &&
           inode == 0 && perms[3] == 'p';
}

static int by_size(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Block *)a)->end - ((const Block *)a)->start;
    uint64_t y = ((const Block *)b)->end - ((const Block *)b)->start;

    return x < y ? -1 : x > y;
}

/* A heap of malloc that is used up but for its last page looks like a block. No block of memory of
 * a guest is a page less than such a size. */
static bool may_be_heap(const Block *b)
{
    return b->start % HEAP == 0 && (b->end + PAGE) % HEAP == 0;
}

/* A block is told by what stands after it. */
static GArray *find_blocks(int maps_fd)
{
    g_autofree char *text = ff_maps_read(maps_fd, NULL);
    GArray *blocks = g_array_new(FALSE, FALSE, sizeof(Block));
    g_auto(GStrv) lines = g_strsplit(text ? text : "", "\n", -1);
    Block last = {0}, b;
    char perms[5];

    for (char **l = lines; *l; l++) {
        bool anonymous = parse_mapping(*l, &b, perms);
        if (anonymous && !strncmp(perms, "---", 3) && b.end - b.start == PAGE &&
            last.end == b.start && last.start % ALIGNMENT == 0 && !may_be_heap(&last)) {
            g_array_append_val(blocks, last);
        }
        last = anonymous && !strncmp(perms, "rw-", 3) ? b : (Block){0};
    }
    g_array_sort(blocks, by_size);
    return blocks;
}

/* Both files give what they have; less is an error here, as the whole range is mapped. */
static int read_at(int fd, void *out, size_t n, uint64_t at)
{
    ssize_t got;

    do {
        got = pread(fd, out, n, (off_t)at);
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)n ? 0 : got < 0 ? -errno : -EIO;
}

static bool all_zero(const uint8_t *p)
{
    return p[0] == 0 && memcmp(p, p + 1, PAGE - 1) == 0;
}

/* N pages from ADDR on, by way of DATA. 0, 1: FN has enough, or -errno. */
static int read_piece(int pagemap_fd, int mem_fd, uint64_t addr, unsigned n, uint8_t *data,
                      FfPrivateFunc fn, void *opaque)
{
    uint64_t entries[PIECE];
    int rc = read_at(pagemap_fd, entries, n * sizeof(*entries), addr / PAGE * sizeof(*entries));

    for (unsigned i = 0, run; rc == 0 && i < n; i += MAX(run, 1)) {
        for (run = 0; i + run < n && entries[i + run] & PAGEMAP_THERE; run++) {
        }
        if (run && mem_fd >= 0) {
            rc = read_at(mem_fd, data, (size_t)run * PAGE, addr + (uint64_t)i * PAGE);
        }
        for (unsigned j = 0; rc == 0 && j < run; j++) {
            const uint8_t *page = data + (size_t)j * PAGE;
            rc = mem_fd < 0 ? !fn(NULL, opaque) : !all_zero(page) && !fn(page, opaque);
        }
    }
    return rc;
}

int ff_private_read(int maps_fd, int pagemap_fd, int mem_fd, FfPrivateFunc fn, void *opaque)
{
    g_autoptr(GArray) blocks = find_blocks(maps_fd);
    g_autofree uint8_t *data = g_malloc(PIECE * PAGE);
    int rc = 0;

    for (guint i = 0; rc == 0 && i < blocks->len; i++) {
        const Block *b = &g_array_index(blocks, Block, i);
        for (uint64_t at = b->start; rc == 0 && at < b->end; at += (uint64_t)PIECE * PAGE) {
            unsigned n = MIN(PIECE, (b->end - at) / PAGE);
            rc = read_piece(pagemap_fd, mem_fd, at, n, data, fn, opaque);
        }
    }
    explicit_bzero(data, PIECE * PAGE);
    return MIN(rc, 0);
}
