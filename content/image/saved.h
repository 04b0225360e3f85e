/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is in the file of a saved guest: QEMU's ordinary migration stream, or mapped-ram.
 *
 *     header, configuration (machine, capabilities)
 *     START of "ram": the table of blocks; mapped-ram: after each its bitmap and its pages
 *     PART ... END of "ram": the pages of an ordinary stream
 *     tail: device state, and a description of it in JSON. We do not look into device state, whose
 *           sections do not say how long they are: it is copied as it is.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_SAVED_H
#define FF_CONTENT_IMAGE_SAVED_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "content/image/input.h"

#define FF_SAVED_PAGE 4096ull
/* Memory of all blocks; more is no guest of today's, and its bitmaps would be ours to hold. */
#define FF_SAVED_MEMORY_MAX (1ull << 44)

typedef enum { FF_SAVED_STREAM, FF_SAVED_MAPPED } FfSavedForm;

typedef struct {
    char *name;
    uint64_t size;    /* bytes, whole pages */
    uint64_t address; /* in the guest; only with x-ignore-shared */
    /* mapped-ram: places in the file. Both 0: the block is shared, and not in the file. */
    uint64_t bitmap, pages;
} FfSavedBlock;

/* Section types and flags of records, as on the wire. */
enum {
    FF_SECTION_EOF = 0,
    FF_SECTION_START = 1,
    FF_SECTION_PART = 2,
    FF_SECTION_END = 3,
    FF_SECTION_FULL = 4,
    FF_SECTION_SUBSECTION = 5,
    FF_SECTION_DESCRIPTION = 6,
    FF_SECTION_CONFIGURATION = 7,
    FF_SECTION_COMMAND = 8,
    FF_SECTION_FOOTER = 0x7e,
};
enum {
    FF_RECORD_ZERO = 0x02,
    FF_RECORD_TABLE = 0x04,
    FF_RECORD_PAGE = 0x08,
    FF_RECORD_EOS = 0x10,
    FF_RECORD_CONTINUE = 0x20,
    FF_RECORD_XBZRLE = 0x40,
    FF_RECORD_HOOK = 0x80,
    FF_RECORD_COMPRESSED = 0x100,
    FF_RECORD_MULTIFD_FLUSH = 0x200,
};
#define FF_COMMAND_OPEN_RETURN_PATH 1
/* QEMU 10, machine types from 10.0 on: stands before the END of "ram". */
#define FF_COMMAND_SWITCHOVER_START 11

typedef struct {
    FfInput *in;
    uint64_t offset; /* where the stream begins in the file, bytes */
    FfSavedForm form;
    char *machine;
    GPtrArray *capabilities; /* char *; those that QEMU compares */
    uint8_t uuid[16];
    bool has_uuid;
    uint32_t section; /* number of the section "ram" */
    GArray *blocks;   /* FfSavedBlock, as in the table */
    uint64_t memory;  /* bytes of all blocks */
    uint64_t records; /* where what follows the table of blocks begins */
    /* ---- known when ff_saved_walk() has come to its end ---- */
    bool has_footers;
    bool early;            /* device sections stand between START and END of "ram" (mapped-ram) */
    bool background;       /* of a background snapshot: "ram" has no END */
    bool switchover_start; /* the command was there */
    uint64_t tail;         /* where device state begins */
    uint64_t end;          /* where the file's last byte of it was */
} FfSaved;

/* For ff_saved_open(): the stream begins at once, or after the header of a save image of libvirt's.
 */
#define FF_SAVED_OFFSET_LOOK (-1)

/* Reads up to the end of the table of blocks. OFFSET: where the stream begins, or
 * FF_SAVED_OFFSET_LOOK. NULL and ERROR (G_IO_ERROR, one line that names PATH): it cannot be
 * opened, or is no such file. If only the machine could be read, as the file is cut or damaged
 * after it, the object is made all the same, and ERROR is set as well. IN is taken, and freed with
 * the object or at once. */
FfSaved *ff_saved_open(FfInput *in, int64_t offset, GError **error);
void ff_saved_free(FfSaved *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSaved, ff_saved_free)

static inline FfSavedBlock *ff_saved_block(const FfSaved *s, guint i)
{
    return &g_array_index(s->blocks, FfSavedBlock, i);
}

/* The number of the block that is the memory of BACKEND, an object's id. QEMU names it so, by the
 * object's path (machine types before 4.0), or with the path of its device in front (virtio-mem):
 * an id has no "/". -1: there is none; -2: more than one. */
int ff_saved_find(const FfSaved *s, const char *backend);
/* What libvirt has in front of S, S.offset bytes (g_free), for a stream of FORM: of the format
 * sparse if that is mapped-ram and S is a sparse image, which its libvirt knows then; else raw.
 * *SPARSE: which. NULL and ERROR: nothing of libvirt's. */
uint8_t *ff_saved_libvirt_header(const FfSaved *s, FfSavedForm form, bool *sparse, GError **error);
bool ff_saved_has_capability(const FfSaved *s, const char *name);
/* The block is shared memory, which QEMU left out (mapped-ram only: a stream does not say it). */
bool ff_saved_block_is_outside(const FfSaved *s, const FfSavedBlock *b);

#endif
