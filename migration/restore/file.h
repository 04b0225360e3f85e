/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a saved guest as the source of a destination: what is in it, whether it is this
 * guest, and where its pages stand.
 *
 * Thread: the coordinator.
 */
#ifndef FF_MIGRATION_RESTORE_FILE_H
#define FF_MIGRATION_RESTORE_FILE_H

#include "content/image/saved.h"
#include "content/pagers/file.h"
#include "migration/common/ram.h"

/* By which it is known again, and its digest. */
typedef struct {
    uint64_t size;
    int64_t mtime_ns; /* both 0: of a block device, which has none for its content; an export has
                         FF_STATE_NO_TIME */
} FfRestoreId;

typedef struct {
    char *path;              /* for errors; or a URI */
    int fd;                  /* -1: it is an export */
    FfReaderFile *content;   /* an FfContent: its bytes, unpacked */
    FfContentReader *reader; /* the coordinator's */
    FfRestoreId id;
    bool compressed;
    uint64_t digest;     /* ff_saved_digest() */
    FfSaved *saved;      /* by `reader` */
    unsigned n_blocks;   /* of guest RAM; 0: not compared yet */
    FfFileBlock *blocks; /* [n_blocks] */
} FfRestoreFile;

/* FD (taken) is that of PATH, in which the guest begins at OFFSET (FF_SAVED_OFFSET_LOOK). NULL and
 * ERROR, one line: it cannot be restored lazily. */
FfRestoreFile *ff_restore_file_open(int fd, const char *path, int64_t offset, GError **error);
/* It is a URI of a server, and no path. */
bool ff_restore_is_uri(const char *path);
/* The same of an export. ERROR can be FF_CONTENT_GONE. */
FfRestoreFile *ff_restore_file_open_uri(const char *uri, int64_t offset, GError **error);
/* It can be read at all, within FF_FILE_PATIENCE_US. FALSE and ERROR. */
bool ff_restore_file_answers(const FfRestoreFile *f, GError **error);
/* Why the guest in FD (borrowed), of which a client is told before all of it was read that it was,
 * is not to be restored so (static); NULL: it can be. The main loop's thread. */
const char *ff_restore_file_doubt(int fd, const char *path, int64_t offset);
/* The same: it is a saved guest with mapped-ram. Of what is no regular file, or cannot be read,
 * that is not so. */
bool ff_restore_file_is_mapped(int fd, int64_t offset);
/* FALSE and ERROR: the guest in F is not that of RAM. MACHINE and UUID (16 bytes): NULL where
 * nobody can be asked. Once. */
bool ff_restore_file_compare(FfRestoreFile *f, const FfRam *ram, const char *machine,
                             const uint8_t *uuid, GError **error);
/* After that, here and below. Bytes of guest RAM that stand in the file. */
uint64_t ff_restore_file_data(const FfRestoreFile *f);
/* What QEMU must load, in a memfd; -1 and ERROR. *RUN_STATE (g_free): what the guest
 * was when it was saved. */
int ff_restore_file_devices(const FfRestoreFile *f, const FfRam *ram, FfVmmMemory *memory,
                            char **run_state, GError **error);
/* Its device state, after its RAM. */
GBytes *ff_restore_file_tail(const FfRestoreFile *f, GError **error);
/* The run state alone. */
char *ff_restore_file_run_state(const FfRestoreFile *f, GError **error);
void ff_restore_file_free(FfRestoreFile *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfRestoreFile, ff_restore_file_free)

#endif
