/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command farfault snapshot, as a process of the test's, and a folder for its file. */
#ifndef FF_TESTS_SNAPSHOTCLI_H
#define FF_TESTS_SNAPSHOTCLI_H

#include <glib.h>

typedef struct {
    GPid pid;
    int out, err;
} Cli;

/* ARGS: after "farfault snapshot MONITOR FILE", NULL-terminated; SETUP runs in the child; can be
 * NULL. */
Cli cli_start(const char *monitor, const char *file, const char *const *args,
              GSpawnChildSetupFunc setup, void *opaque);
/* Waits for its end. Returns its wait status; *OUT, *ERR: what it said (g_free). */
int cli_end(Cli *cli, char **out, char **err);
/* It fails with status 1, and the last line that it says has PART in it. */
void cli_fails(Cli *cli, const char *part);
/* It succeeds; what it prints (g_free). */
char *cli_succeeds(Cli *cli);

/* A new folder (folder_free(), which fails the test unless it is empty again). */
char *folder_new(void);
void assert_empty(const char *folder);
void folder_free(char *path);

#endif
