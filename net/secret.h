/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's "secret" objects: from their properties to the plain bytes. Pure but for the file; any
 * thread.
 */
#ifndef FF_NET_SECRET_H
#define FF_NET_SECRET_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    const char *id;   /* for messages */
    const char *data; /* one of data and file; NULL or "": not set */
    const char *file;
    bool base64;
    const char *iv; /* base64; with a KEY only */
} FfSecretSpec;

/* Plain bytes, NUL after them; wiped when freed. */
typedef struct {
    gsize length;
    guint8 bytes[];
} FfSecret;

/* KEY (can be NULL): the secret that "keyid" names. NULL and ERROR if it cannot be had. */
FfSecret *ff_secret_new(const FfSecretSpec *spec, const FfSecret *key, GError **error);
void ff_secret_free(FfSecret *secret);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSecret, ff_secret_free)

/* Overwrites LENGTH bytes in a way that no compiler leaves out. */
void ff_wipe(void *bytes, gsize length);
/* A g_malloc'ed text, NULL allowed: wiped and freed. */
void ff_wipe_free(char *text);

#endif
