/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files of saved guests, made up: what QEMU writes, with the places that a test damages.
 */
#ifndef FF_TESTS_SAVEDFILE_H
#define FF_TESTS_SAVEDFILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define SAVEDFILE_PAGE 4096u
/* Of the first block; the second has SAVEDFILE_SMALL pages. */
#define SAVEDFILE_PAGES 70u
#define SAVEDFILE_SMALL 2u
#define SAVEDFILE_DEVICE "what devices say \6\0\0\0\7{\"a\":1}"

typedef struct {
    bool mapped;     /* else an ordinary stream */
    bool background; /* no END of "ram" */
    bool shared;     /* x-ignore-shared; the first block is not in the file */
    bool switchover; /* QEMU 10's command */
    bool no_footers;
    bool early;      /* a device section between START and END */
    uint32_t prefix; /* zeros in front */
} SavedFileKind;

typedef struct {
    GByteArray *bytes;
    /* Places in it. */
    uint32_t machine, sections, total, block, header, second, records, tail, description;
} SavedFile;

/* Page I of the first block has data if it is a multiple of 3, of the second if it is 1. */
bool savedfile_has_data(unsigned block, uint64_t page);
/* What is in such a page. */
void savedfile_fill(unsigned block, uint64_t page, uint8_t bytes[SAVEDFILE_PAGE]);

SavedFile savedfile_new(const SavedFileKind *kind);
void savedfile_clear(SavedFile *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(SavedFile, savedfile_clear)
/* Big-endian, over what is there. */
void savedfile_put32(SavedFile *f, uint32_t at, uint32_t value);
void savedfile_put64(SavedFile *f, uint32_t at, uint64_t value);

#endif
