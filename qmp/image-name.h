/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which file of this host a name means that QEMU has for an image. Any thread; no state.
 */
#ifndef FF_QMP_IMAGE_NAME_H
#define FF_QMP_IMAGE_NAME_H

#include <stdbool.h>

#include "qmp/json.h"

/* A and B are there, and are the same file, by whatever names. */
bool ff_is_same_file(const char *a, const char *b);
/* The path, absolute (g_free), of the local file or block device that is called NAME by a QEMU
 * whose folder is CWD (NULL: not known). IMAGE: what QEMU says of it (ImageInfo); NULL: NAME is not
 * taken apart if it is written as options. NULL: it is something else. */
char *ff_image_path(const char *name, JsonObject *image, const char *cwd);

#endif
