/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A farfault pager that gives a file to others, for a test: `farfault pager --listen tcp:`. */
#ifndef FF_TESTS_SERVER_GIVER_H
#define FF_TESTS_SERVER_GIVER_H

#include <glib.h>
#include <sys/resource.h>
#include <sys/types.h>

#define GIVER_PAGES 2048u

typedef struct {
    char *dir, *file, *uri;
    pid_t pid;
    struct rlimit files; /* of the next one that is started; rlim_max 0: as the test's */
} Giver;

/* A folder with a file (small_fill()), which is given at SCHEME ("tcp:127.0.0.1:0"). CREDS: an
 * option, or NULL. */
Giver giver_new(const char *scheme, const char *creds);
/* Once more, at `uri`. */
void giver_start(Giver *g, const char *scheme, const char *creds);
void giver_kill(Giver *g);
void giver_end(Giver *g);
/* MORE is added to a word of each page. */
void giver_write_file(const char *path, unsigned more);

#endif
