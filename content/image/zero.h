/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Is a page of a saved guest, or of a process, zeros? Any thread. */
#ifndef FF_CONTENT_IMAGE_ZERO_H
#define FF_CONTENT_IMAGE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* LEN bytes, one at least. Nearly always the first one tells. */
static inline bool ff_saved_is_zero(const void *data, size_t len)
{
    const uint8_t *bytes = data;

    return !bytes[0] && memcmp(bytes, bytes + 1, len - 1) == 0;
}

#endif
