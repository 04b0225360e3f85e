/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A viewer of images: each is decoded into a page of a volatile range when it is looked at, by just
 * looking at it. All of them would take 256 MiB; the range keeps 16. When the system is short of
 * memory more of it goes, and the viewer draws all the same.
 */
#include <farfault.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGES 1024u
#define SIDE 256u
#define IMAGE (SIDE * SIDE * 4u) /* bytes, decoded */
#define LIMIT (16u << 20)

/* What a file would have: a colour and a step. */
typedef struct {
    uint32_t colour, step;
} Packed;

static Packed packed[IMAGES];

static uint32_t pixel(const Packed *p, uint32_t i)
{
    return p->colour + i * p->step;
}

/* In a thread of the library's: a thread that looks at the image waits for it. */
static int decode(void *opaque, size_t page, void *buf)
{
    const Packed *p = (const Packed *)opaque + page;
    uint32_t *pixels = buf;

    for (uint32_t i = 0; i < SIDE * SIDE; i++) {
        pixels[i] = pixel(p, i);
    }
    return 0;
}

static uint64_t draw(FfVolatile *v, unsigned image)
{
    const uint32_t *pixels =
        (const uint32_t *)(const void *)((char *)ff_volatile_addr(v) + (size_t)image * IMAGE);
    uint64_t wrong = 0;

    for (uint32_t i = 0; i < SIDE * SIDE; i++) {
        wrong += pixels[i] != pixel(&packed[image], i);
    }
    return wrong;
}

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, ff_last_error());
    exit(1);
}

int main(void)
{
    FfVolatileOptions options = {.size = sizeof(options), .page_size = IMAGE, .limit = LIMIT};
    FfVolatileStats stats = {.size = sizeof(stats)};
    FfVolatile *v;
    uint64_t wrong = 0;

    for (unsigned i = 0; i < IMAGES; i++) {
        packed[i] = (Packed){i * 2654435761u, i % 7 + 1};
    }
    int rc = ff_volatile_new((size_t)IMAGES * IMAGE, decode, packed, &options, &v);
    if (rc < 0) {
        fprintf(stderr, "%s\n", ff_last_error());
        return rc == -1 ? 77 : 1; /* no permission: nothing to show */
    }
    ff_volatile_unpin(v, 0, 0); /* all of it can be decoded again */
    if (ff_volatile_watch(v, -1, 0) < 0) {
        printf("without the system's pressure: %s\n", ff_last_error());
    }
    for (unsigned i = 0; i < 3 * IMAGES; i++) {
        wrong += draw(v, i < IMAGES ? i : i * 7919 % 40); /* all once, then some again and again */
        if (i % IMAGES == IMAGES - 1) {
            if (ff_volatile_stats(v, &stats) < 0) {
                die("stats");
            }
            printf("drawn %4u images, decoded %4llu, %3llu MiB of memory\n", i + 1,
                   (unsigned long long)stats.regenerated, (unsigned long long)stats.bytes >> 20);
        }
    }
    printf("%s\n", wrong ? "WRONG pixels" : "all pixels were right");
    ff_volatile_free(v);
    return wrong != 0;
}
