/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The name of a unix socket between QEMU and the engine: a folder that only this user may enter,
 * with the socket in it. It is there as long as somebody may still connect, and no longer than its
 * owner.
 *
 * Any thread, one at a time.
 */
#ifndef FF_QAPI_PRIVATE_NAME_H
#define FF_QAPI_PRIVATE_NAME_H

#include <glib.h>
#include <stdbool.h>

typedef struct FfPrivateName FfPrivateName;

/* Makes the folder; the socket, NAME in it, is the caller's or QEMU's to make. NULL and ERROR: the
 * folder cannot be made. */
FfPrivateName *ff_private_name_new(const char *name, GError **error);
/* PATH is such a name, by its form; an engine that was killed has left it. */
bool ff_private_name_is_one(const char *path);
/* Takes it over. */
FfPrivateName *ff_private_name_adopt(const char *path);
/* Of the socket; valid, though perhaps removed, until ff_private_name_free(). */
const char *ff_private_name_path(const FfPrivateName *name);
/* Removes socket and folder. NAME can be NULL; safe to call twice. */
void ff_private_name_remove(FfPrivateName *name);
/* Removes and frees; NAME can be NULL. */
void ff_private_name_free(FfPrivateName *name);

#endif
