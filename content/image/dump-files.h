/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files of a dump (docs/dump.md): what they are called, how their checksums are made, and
 * reading them.
 *
 * What is opened has been verified but for the memory itself, of which ff_dump_read() verifies each
 * piece. An FfDumpFiles does not change: any number of threads may read.
 */
#ifndef FF_CONTENT_IMAGE_DUMP_FILES_H
#define FF_CONTENT_IMAGE_DUMP_FILES_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_DUMP_FORMAT 2
#define FF_DUMP_ABOUT "dump"
/* Of memory there is a checksum for each of these pieces, of a hole as of zeros (bytes). */
#define FF_DUMP_PIECE (1u << 20)

typedef struct {
    char *id, *memory_path; /* the path for errors */
    uint64_t size, page_size, address;
    uint64_t n_pages, n_pieces;
    uint64_t *held; /* as a set of pageset.h: content is in the file */
    uint64_t *sums; /* [n_pieces], as ff_xxh64() says them */
    int fd;         /* of its memory */
} FfDumpBlock;

typedef struct {
    int dir;
    char *path; /* of the directory, for errors */
    char *role, *phase, *run_right, *run_state;
    uint8_t session[16];
    uint64_t epoch;
    /* It has given up memory (release-ram), or does not say: a page that it has may be zeros in
     * place of what the destination was sent. */
    bool released;
    unsigned n_blocks;
    FfDumpBlock *blocks;
    uint64_t device_bytes, device_sum; /* 0: it has no device state */
} FfDumpFiles;

/* DIR (taken) is the directory PATH. NULL and ERROR, one line: no dump, one that did not come to
 * its end, of another format, cut or damaged. */
FfDumpFiles *ff_dump_files_open(int dir, const char *path, GError **error);
void ff_dump_files_free(FfDumpFiles *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDumpFiles, ff_dump_files_free)

/* Reads piece PIECE of a block into BUF (FF_DUMP_PIECE bytes; the last one can be shorter) and
 * verifies it. 0; -EBADMSG: damaged; -ENODATA: cut; another -errno. */
int ff_dump_read(const FfDumpBlock *b, uint64_t piece, uint8_t *buf);
/* Its length, bytes. */
uint64_t ff_dump_piece_size(const FfDumpBlock *b, uint64_t piece);
/* It is zeros, as its checksum says. */
bool ff_dump_piece_is_zero(const FfDumpBlock *b, uint64_t piece);
/* The device state, verified; NULL and ERROR. */
GBytes *ff_dump_read_devices(const FfDumpFiles *f, GError **error);

/* What -ERRNO of ff_dump_read() means for piece PIECE of B. */
void ff_dump_set_error(const FfDumpBlock *b, uint64_t piece, int rc, GError **error);
/* The description with its checksum at its end, which LEN counts; g_free. */
char *ff_dump_seal(const char *text, gsize *len);

#endif
