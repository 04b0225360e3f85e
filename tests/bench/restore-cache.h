/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file of the bench in the page cache or not, and how fast it can be read. Looks whether it is
 * so: a file that stays where it should not be is an error, not a figure. One thread calls these.
 */
#ifndef FF_BENCH_RESTORE_CACHE_H
#define FF_BENCH_RESTORE_CACHE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* None of it is in the page cache: it alone is dropped. Only where that does not help, and root
 * asks, all of the page cache is. */
bool bench_cache_drop(const char *path, GError **error);
/* All of its data is. */
bool bench_cache_fill(const char *path, GError **error);

/* Bytes of data in it. */
bool bench_cache_data(const char *path, uint64_t *bytes, GError **error);

/* Reads all of its data, in the order of the file, by four threads, a MiB by each at once: past the
 * page cache (where the file system can) if DIRECT. *BYTES of data in *US microseconds. */
bool bench_cache_read(const char *path, bool direct, uint64_t *bytes, int64_t *us, GError **error);

#endif
