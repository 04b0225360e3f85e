/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a migration goes to or comes from: the URI or the channels of migrate and
 * migrate-incoming.
 *
 * Pure; any thread.
 */
#ifndef FF_QAPI_TARGET_H
#define FF_QAPI_TARGET_H

#include <glib.h>
#include <json-glib/json-glib.h>

typedef enum {
    FF_TARGET_NONE,  /* neither URI nor channels */
    FF_TARGET_TCP,   /* host, port */
    FF_TARGET_UNIX,  /* path */
    FF_TARGET_FD,    /* name: of getfd, or a number */
    FF_TARGET_OTHER, /* exec, file, rdma, vsock, several channels, options: QEMU's business */
} FfTargetKind;

typedef struct {
    FfTargetKind kind;
    char *uri;  /* "tcp:HOST:PORT", "unix:PATH", "fd:NAME" */
    char *host; /* without brackets */
    char *port;
    char *path;
    char *name;
    gboolean ipv4, ipv6; /* as asked for; both FALSE: any */
} FfTarget;

void ff_target_clear(FfTarget *target);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfTarget, ff_target_clear)

void ff_target_from_uri(FfTarget *target, const char *uri);
/* Of the arguments "uri" and "channels", checked against the schema. */
void ff_target_from_arguments(FfTarget *target, JsonObject *args);

#endif
