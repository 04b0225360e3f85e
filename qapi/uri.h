/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a migration goes to or comes from: the URI or the channels of migrate and
 * migrate-incoming.
 *
 * Pure; any thread.
 */
#ifndef FF_QAPI_URI_H
#define FF_QAPI_URI_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FF_URI_NONE,  /* neither URI nor channels */
    FF_URI_TCP,   /* host, port */
    FF_URI_UNIX,  /* path */
    FF_URI_FD,    /* name: of getfd, or a number */
    FF_URI_FILE,  /* path, offset */
    FF_URI_OTHER, /* exec, a file of an fdset, rdma, vsock, several channels, options: QEMU's
                     business */
} FfTargetKind;

typedef struct {
    FfTargetKind kind;
    char *uri;  /* "tcp:HOST:PORT[,ipv4=on|,ipv6=on]", "unix:PATH", "fd:NAME" */
    char *said; /* what that was before ff_uri_make_absolute(); NULL: the same */
    char *host; /* without brackets */
    char *port;
    char *path;
    char *name;
    uint64_t offset;   /* bytes */
    gboolean in_fdset; /* FF_URI_OTHER: file number FDSET of QEMU's, from OFFSET on */
    gint64 fdset;
    gboolean ipv4, ipv6; /* as asked for; both FALSE: any */
} FfUri;

void ff_uri_clear(FfUri *target);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfUri, ff_uri_clear)

void ff_uri_parse(FfUri *target, const char *uri);
/* Of the arguments "uri" and "channels", checked against the schema. */
void ff_uri_from_arguments(FfUri *target, JsonObject *args);
/* Of TCP: AF_INET, AF_INET6 or AF_UNSPEC. */
int ff_uri_family(const FfUri *target);
/* A path without / at its beginning is one of the folder in which process PID runs, whatever folder
 * the engine runs in. FALSE: that folder is not to be had, or the path would be too long. */
bool ff_uri_make_absolute(FfUri *target, int pid);
#define FF_URI_NOT_ABSOLUTE                                                                        \
    "a path that begins in QEMU's folder, which is too long or not to be had: write it from / on"
/* Of a unix socket, as it was said. */
const char *ff_uri_said_path(const FfUri *target);

#endif
