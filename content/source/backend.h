/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a backend of content provides. A backend's object begins with an FfContent, its reader with
 * an FfContentReader.
 *
 * One layer can be on another: image.c has what is in a file of a saved guest, whatever backend has
 * the file.
 */
#ifndef FF_CONTENT_SOURCE_BACKEND_H
#define FF_CONTENT_SOURCE_BACKEND_H

#include "content/source/content.h"

#define FF_CONTENT_PAGE 4096ull

typedef struct {
    void (*close)(FfContent *c); /* frees C; NULL: g_free() does */
    void (*rest)(FfContent *c);  /* ff_content_rest(); NULL: nothing is to be closed */
    FfContentReader *(*reader)(FfContent *c, GError **error);
    void (*reader_close)(FfContentReader *r);
    /* What is AT, of *LEN bytes at most: zeros, or what must be read. NULL: all must be read. With
     * FF_CONTENT_NOWAIT it need not be known. */
    bool (*extent)(FfContentReader *r, uint64_t at, uint64_t *len, unsigned flags, bool *zero,
                   GError **error);
    /* LEN bytes, all of them. With FF_CONTENT_NOWAIT: FALSE without an ERROR. */
    bool (*fill)(FfContentReader *r, uint64_t at, void *buf, uint64_t len, unsigned flags,
                 GError **error);
    /* N pages of FF_CONTENT_PAGE bytes, at the places AT, into PAGES, all asked for at once. GOOD:
     * of each, whether it could be read. FALSE: no more can come. NULL: fill() does. */
    bool (*fill_pages)(FfContentReader *r, const uint64_t *at, unsigned n, uint8_t *pages,
                       bool *good, GError **error);
    /* After a read, before anything of it is given out: it is still what was opened. NULL: each
     * read has seen to it. ERROR can be NULL. */
    bool (*check)(FfContentReader *r, GError **error);
    /* Instead of the three: as ff_content_read(), without FLAGS. */
    bool (*read)(FfContentReader *r, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                 bool *zero, GError **error);
    /* NULL: nothing is known without a wait. */
    bool (*can_nowait)(FfContentReader *r);
} FfContentOps;

typedef enum {
    FF_CONTENT_FILE,
    FF_CONTENT_FAR,    /* ff_content_is_far() */
    FF_CONTENT_COMING, /* all of it is fetched anyway */
} FfContentWhere;

struct FfContent {
    const FfContentOps *ops;
    char *name; /* g_free'd with it */
    FfContentIdentity id;
    uint64_t size;
    FfContentWhere where;
    bool compressed;
    GArray *map; /* FfContentExtent, by START: all that is no zeros; NULL: as it is stored */
    /* Before anything is read by a new connection, with a reader of that one: what is there is
     * what was opened. NULL: the size says enough. */
    bool (*greet)(FfContent *upper, FfContentReader *r, GError **error);
    FfContent *upper;
};

struct FfContentReader {
    FfContent *content;
    bool hurry;
    int64_t until; /* ff_content_reader_until() */
};

/* What R has AT, as FfContentOps.extent, also where there is none. */
bool ff_content_extent(FfContentReader *r, uint64_t at, uint64_t *len, unsigned flags, bool *zero,
                       GError **error);
/* The file PATH, as its bytes are. */
FfContent *ff_content_open_file(const char *path, const FfContentIdentity *known, GError **error);
/* What is in the mapped-ram or compressed file UNDER (taken): UNDER itself if it is neither. KNOWN
 * as in ff_content_open(). */
FfContent *ff_content_open_image(FfContent *under, const FfContentIdentity *known, GError **error);
/* MAP of UNDER (both taken). */
FfContent *ff_content_new_map(FfContent *under, GArray *map, uint64_t size);

/* Which raw content R reads, of a server that has no time of the last change; 0: not known, as it
 * cannot be read. */
uint64_t ff_content_sample(FfContentReader *r);
/* FfContent.greet: C's digest is of that, and so is what R reads, as far as it can be read now. */
bool ff_content_has_sample(FfContent *c, FfContentReader *r, GError **error);

/* A plugin's one symbol, "ff_content_plugin". */
typedef struct {
    uint64_t abi; /* FF_CONTENT_ABI */
    /* The export URI, as its bytes are. */
    FfContent *(*open)(const char *uri, const FfContentIdentity *known,
                       const FfContentAccess *access, GError **error);
} FfContentPlugin;
/* A plugin of another build than the program's is none: structures may differ. */
#define FF_CONTENT_ABI                                                                             \
    (3ull << 48 | sizeof(FfContent) << 32 | sizeof(FfContentReader) << 16 | sizeof(FfContentOps))

#endif
