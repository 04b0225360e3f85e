/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which saved guest a file is, in one number: device state, and which pages stand where. Two
 * snapshots of a guest that ran in between have different ones. The pages themselves are not read.
 */
#ifndef FF_CONTENT_IMAGE_DIGEST_H
#define FF_CONTENT_IMAGE_DIGEST_H

#include "content/image/saved.h"

/* S is mapped-ram, and was walked to its end. Never 0. ERROR (G_IO_ERROR): it cannot be read. */
bool ff_saved_digest(const FfSaved *s, uint64_t *digest, GError **error);

#endif
