/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An NBD server (nbdkit, qemu-nbd) that serves a file, for a test. */
#ifndef FF_TESTS_PAGER_EXPORTER_H
#define FF_TESTS_PAGER_EXPORTER_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#define EXPORTER_PAGES 2048u

typedef struct {
    char *dir, *file, *socket, *uri; /* URI: nbd+unix, of the export without a name */
    pid_t pid;                       /* 0: none runs */
    char *command;
} Exporter;

/* PROGRAM is installed, and farfault was built with libnbd. FALSE: the test is skipped. */
bool exporter_possible(const char *program);
/* A folder with a file of EXPORTER_PAGES pages (small_fill()). */
Exporter exporter_new(void);
/* Such a file; MORE is added to a word of each page. */
void exporter_write_file(const char *path, unsigned more);
/* Starts COMMAND (a shell's quoting, "FILE" and "DIR" are replaced), or the one before (NULL). It
 * gets its socket as systemd would pass it: clients can connect at once. */
void exporter_start(Exporter *e, const char *command);
/* Nothing listens after it. */
void exporter_kill(Exporter *e);
void exporter_end(Exporter *e);
/* Runs COMMAND as above to its end, with success. */
void exporter_run(const Exporter *e, const char *command);

#endif
