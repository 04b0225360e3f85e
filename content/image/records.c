/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks over the sections of "ram"; see records.h.
 *
 * Device sections do not say how long they are, so the first one ends the walk. In an ordinary
 * stream it stands after the END of "ram"; in one of a background snapshot, where QEMU keeps device
 * state back, "ram" has no END, and it stands after the last page. Where one stands in front of the
 * first page (virtio-mem with its early_setup), what follows cannot be told from pages: mapped-ram
 * has no pages there, so all of it is tail; an ordinary stream is refused, as is one with a second
 * live section (dirty-bitmap, vfio).
 *
 * System calls: none.
 */
#include "content/image/records.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <string.h>

typedef struct {
    FfSaved *s;
    FfCursor c;
    const FfPageSink *sink;
    void *opaque;
    int block;           /* of the last record; -1: none yet */
    unsigned n_sections; /* that have ended */
    bool pages, ended;
} Walk;

static void read_block_name(Walk *w)
{
    uint64_t at = w->c.at;
    g_autofree char *name = ff_cursor_text(&w->c, ff_cursor_u8(&w->c), "the name of a block");

    for (guint i = 0; name && i < w->s->blocks->len; i++) {
        if (!strcmp(ff_saved_block(w->s, i)->name, name)) {
            w->block = i;
            return;
        }
    }
    ff_cursor_fail(&w->c, "damaged: a page of a block '%s' at byte %" PRIu64, name ? name : "", at);
}

static void read_page(Walk *w, uint64_t word, uint64_t flags)
{
    uint64_t offset = word & ~(FF_SAVED_PAGE - 1), at = w->c.at;

    if (w->s->form == FF_SAVED_MAPPED) {
        ff_cursor_fail(&w->c, "damaged: a page among the sections of mapped-ram");
        return;
    }
    if (!(flags & FF_RECORD_CONTINUE)) {
        read_block_name(w);
    } else if (w->block < 0) {
        ff_cursor_fail(&w->c, "damaged: a page of no block at byte %" PRIu64, at);
    }
    if (w->c.error) {
        return;
    }
    FfSavedBlock *b = ff_saved_block(w->s, w->block);
    if (offset >= b->size) {
        ff_cursor_fail(&w->c,
                       "damaged: a page at %" PRIu64 " of block '%s', which has %" PRIu64 " bytes",
                       offset, b->name, b->size);
        return;
    }
    w->pages = true;
    uint64_t page = offset / FF_SAVED_PAGE;
    if (flags & FF_RECORD_PAGE) {
        const uint8_t *bytes = ff_cursor_bytes(&w->c, FF_SAVED_PAGE);

        if (bytes) {
            w->sink->data(w->opaque, w->block, page, bytes, &w->c.error);
        }
    } else if (ff_cursor_u8(&w->c) != 0) {
        ff_cursor_fail(&w->c,
                       "a page full of one byte that is not 0: written by a QEMU older than 1.7");
    } else if (!w->c.error) {
        w->sink->zero(w->opaque, w->block, page, &w->c.error);
    }
}

static const char *unreadable_reason(uint64_t flags)
{
    if (flags & FF_RECORD_XBZRLE) {
        return "was saved with xbzrle on: its pages are differences";
    }
    if (flags & FF_RECORD_COMPRESSED) {
        return "was saved with QEMU's compress on";
    }
    if (flags & FF_RECORD_HOOK) {
        return "was saved over RDMA";
    }
    return NULL;
}

/* Records up to EOS. */
static void read_records(Walk *w)
{
    while (!w->c.error) {
        uint64_t at = w->c.at, word = ff_cursor_u64(&w->c), flags = word & (FF_SAVED_PAGE - 1);
        uint64_t kind = flags & ~(uint64_t)FF_RECORD_CONTINUE;

        if (w->c.error) {
            return;
        }
        if (kind == FF_RECORD_PAGE || kind == FF_RECORD_ZERO) {
            read_page(w, word, flags);
        } else if (word == FF_RECORD_EOS) {
            return;
        } else if (word != FF_RECORD_MULTIFD_FLUSH) {
            const char *why = unreadable_reason(flags);

            if (why) {
                ff_cursor_fail(&w->c, "%s", why);
            }
            ff_cursor_fail(&w->c, "damaged: flags 0x%" PRIx64 " at byte %" PRIu64, flags, at);
        }
    }
}

static void read_footer(Walk *w)
{
    uint64_t at = w->c.at;

    bool has = w->c.error || ff_cursor_u8(&w->c) == FF_SECTION_FOOTER;
    if (w->n_sections++ && has != w->s->has_footers) {
        ff_cursor_fail(&w->c, "damaged: the section before byte %" PRIu64 " has %s", at,
                       has ? "an end that others have not" : "no end");
        return;
    }
    w->s->has_footers = has;
    if (!has) {
        w->c.at = at; /* machine types older than 2.4 have none */
        return;
    }
    if (ff_cursor_u32(&w->c) != w->s->section) {
        ff_cursor_fail(&w->c,
                       "damaged: the end of the section at byte %" PRIu64 " is of another one", at);
    }
}

static void read_ram(Walk *w)
{
    if (ff_cursor_u32(&w->c) != w->s->section) {
        ff_cursor_fail(&w->c, "damaged: a section at byte %" PRIu64 " that never began",
                       w->c.at - 4);
    }
    read_records(w);
    read_footer(w);
}

static void read_command(Walk *w)
{
    uint16_t command = ff_cursor_u16(&w->c), n = ff_cursor_u16(&w->c);

    if (command == FF_COMMAND_SWITCHOVER_START && !n) {
        w->s->switchover_start = true;
    } else if (command != 2) { /* PING */
        ff_cursor_fail(&w->c, "command %u among the memory is not known", command);
    }
    ff_cursor_bytes(&w->c, n);
}

/* The first section that is not "ram"'s is at AT. */
static void find_tail(Walk *w, uint8_t type, uint64_t at)
{
    if (type == FF_SECTION_START) {
        ff_cursor_u32(&w->c);
        g_autofree char *name = ff_cursor_text(&w->c, ff_cursor_u8(&w->c), "the name of a section");

        ff_cursor_fail(&w->c, "was saved with a second live section, '%s': cannot be read",
                       name ? name : "");
    } else if (type != FF_SECTION_FULL && type != FF_SECTION_EOF) {
        ff_cursor_fail(&w->c, "damaged: a section of type %u at byte %" PRIu64, type, at);
    } else if (!w->ended && !w->pages && w->s->form == FF_SAVED_STREAM) {
        ff_cursor_fail(&w->c, "a device section (virtio-mem?) stands in front of the memory: "
                              "where it ends cannot be known");
    }
    w->s->tail = at;
    w->s->early = !w->ended && w->s->form == FF_SAVED_MAPPED;
    w->s->background = !w->ended && !w->s->early;
}

static void walk_records(Walk *w)
{
    read_records(w);
    read_footer(w);
    while (!w->c.error) {
        uint64_t at = w->c.at;
        uint8_t type = ff_cursor_u8(&w->c);

        if (w->c.error) {
            return;
        }
        if (!w->ended && (type == FF_SECTION_PART || type == FF_SECTION_END)) {
            read_ram(w);
            w->ended = type == FF_SECTION_END;
        } else if (!w->ended && type == FF_SECTION_COMMAND) {
            read_command(w);
        } else {
            find_tail(w, type, at);
            return;
        }
    }
}

bool ff_records_walk(FfSaved *s, const FfPageSink *sink, void *opaque, GError **error)
{
    Walk w = {.s = s, .sink = sink, .opaque = opaque, .block = -1};

    ff_cursor_init(&w.c, s->in, s->records);
    walk_records(&w);
    s->end = ff_input_size(s->in);
    bool ok = !w.c.error;
    if (!ok) {
        g_propagate_error(error, g_steal_pointer(&w.c.error));
    }
    ff_cursor_clear(&w.c);
    return ok;
}
