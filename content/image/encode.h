/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of a saved guest's file that are not pages, byte for byte as QEMU writes them. No
 * state; any thread.
 */
#ifndef FF_CONTENT_IMAGE_ENCODE_H
#define FF_CONTENT_IMAGE_ENCODE_H

#include "content/image/saved.h"

/* Each appends to B. */
void ff_encode_number(GByteArray *b, uint64_t value, unsigned bytes);
void ff_encode_text(GByteArray *b, const char *text);
/* Header, configuration with CAPABILITY alone (NULL: none), and the start of section "ram" up to
 * its first block. */
void ff_encode_head(GByteArray *b, const FfSaved *s, const char *capability);
/* Name and size of a block. */
void ff_encode_block(GByteArray *b, const FfSavedBlock *block);
/* The header of mapped-ram after it. */
void ff_encode_mapped(GByteArray *b, uint64_t bitmap, uint64_t pages);
/* End of the records of a section "ram". */
void ff_encode_eos(GByteArray *b, const FfSaved *s);
/* The END section of "ram", and what QEMU has in front of it; nothing if it is in S's tail. */
void ff_encode_end(GByteArray *b, const FfSaved *s);

#endif
