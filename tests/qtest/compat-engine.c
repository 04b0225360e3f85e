/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's program of a guest of test-compat: it becomes the engine of one tree
 * ($FF_COMPAT_FIRST), and once the first fault of FARFAULT_FAULTS has happened (its file is there)
 * that of the other ($FF_COMPAT_NEXT). The relay keeps the program that it started with, so this
 * is how its next engine can be another one. Says which on stderr.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *faults = g_getenv("FARFAULT_FAULTS");
    g_autofree char *dir = g_strndup(faults, strcspn(faults, ";"));
    g_autofree char *mark = g_build_filename(dir, "fault-0", NULL);
    int fd = open(mark, O_RDONLY | O_CLOEXEC);
    const char *engine = g_getenv(fd >= 0 ? "FF_COMPAT_NEXT" : "FF_COMPAT_FIRST");

    dprintf(STDERR_FILENO, "compat-engine: %s\n", engine);
    execv(engine, argv);
    return 127;
}
