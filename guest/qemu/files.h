/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether the files that QEMU has open are on file systems of which a buffered read is a copy by
 * the processor, so that write tracking sees it when it happens (docs/design/precopy.md). Others
 * may have the reader's own pages pinned, and written to later by a device or another process.
 */
#ifndef FF_GUEST_QEMU_FILES_H
#define FF_GUEST_QEMU_FILES_H

#include <glib.h>
#include <stdbool.h>

/* FALSE also if it cannot be seen (another user's process). OURS[0..N): files of this process, the
 * guest's memory, on whose mounts QEMU may have files as well. Asks no file system, which could
 * hang. No state; any thread. */
bool ff_files_copy(int pid, const int *ours, unsigned n);
/* TYPE as in /proc/PID/mountinfo. */
bool ff_files_type_copies(const char *type);

#endif
