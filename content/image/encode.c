/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Headers and sections; see encode.h.
 *
 * System calls: none.
 */
#include "content/image/encode.h"

#include <string.h>

void ff_encode_number(GByteArray *b, uint64_t value, unsigned bytes)
{
    while (bytes--) {
        uint8_t byte = value >> (8 * bytes);

        g_byte_array_append(b, &byte, 1);
    }
}

void ff_encode_text(GByteArray *b, const char *text)
{
    ff_encode_number(b, strlen(text), 1);
    g_byte_array_append(b, (const uint8_t *)text, strlen(text));
}

static void encode_subsection(GByteArray *b, const char *name)
{
    ff_encode_number(b, FF_SECTION_SUBSECTION, 1);
    ff_encode_text(b, name);
    ff_encode_number(b, 1, 4);
}

void ff_encode_head(GByteArray *b, const FfSaved *s, const char *capability)
{
    g_byte_array_append(b, (const uint8_t *)"QEVM\0\0\0\3\7", 9);
    ff_encode_number(b, strlen(s->machine), 4);
    g_byte_array_append(b, (const uint8_t *)s->machine, strlen(s->machine));
    if (capability) {
        encode_subsection(b, "configuration/capabilities");
        ff_encode_number(b, 1, 4);
        ff_encode_text(b, capability);
    }
    if (s->has_uuid) {
        encode_subsection(b, "configuration/uuid");
        g_byte_array_append(b, s->uuid, sizeof(s->uuid));
    }
    ff_encode_number(b, FF_SECTION_START, 1);
    ff_encode_number(b, s->section, 4);
    ff_encode_text(b, "ram");
    ff_encode_number(b, 0, 4);
    ff_encode_number(b, 4, 4);
    ff_encode_number(b, s->memory | FF_RECORD_TABLE, 8);
}

void ff_encode_block(GByteArray *b, const FfSavedBlock *block)
{
    ff_encode_text(b, block->name);
    ff_encode_number(b, block->size, 8);
}

void ff_encode_mapped(GByteArray *b, uint64_t bitmap, uint64_t pages)
{
    ff_encode_number(b, 1, 4);
    ff_encode_number(b, FF_SAVED_PAGE, 8);
    ff_encode_number(b, bitmap, 8);
    ff_encode_number(b, pages, 8);
}

void ff_encode_eos(GByteArray *b, const FfSaved *s)
{
    ff_encode_number(b, FF_RECORD_EOS, 8);
    if (s->has_footers) {
        ff_encode_number(b, FF_SECTION_FOOTER, 1);
        ff_encode_number(b, s->section, 4);
    }
}

void ff_encode_end(GByteArray *b, const FfSaved *s)
{
    if (s->early) {
        return;
    }
    if (s->switchover_start) {
        ff_encode_number(b, FF_SECTION_COMMAND, 1);
        ff_encode_number(b, FF_COMMAND_SWITCHOVER_START, 2);
        ff_encode_number(b, 0, 2);
    }
    ff_encode_number(b, FF_SECTION_END, 1);
    ff_encode_number(b, s->section, 4);
    ff_encode_eos(b, s);
}
