/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's libraries, kept open for a guest whose host loses them (libraries.c). One thread. */
#ifndef FF_GUEST_RELAY_LIBRARIES_H
#define FF_GUEST_RELAY_LIBRARIES_H

#include <glib.h>
#include <spawn.h>

typedef struct FfLibraries FfLibraries;

/* Opens what the program behind PROGRAM (an fd) is linked with now. NULL_FD: of /dev/null. Blocks
 * for milliseconds. Returns NULL if that cannot be done: it is linked statically, the dynamic
 * linker is not glibc's, there are no fds left. What is returned lives as long as the process. */
FfLibraries *ff_libraries_keep(int program, int null_fd);
/* The path (g_free) of the dynamic linker, to be started with _argv() (g_strfreev) in place of
 * PROGRAM (a path) by the name NAME; it needs the fds of _inherit(), which stay open there. */
char *ff_libraries_linker(const FfLibraries *libraries);
char **ff_libraries_argv(const FfLibraries *libraries, const char *name, const char *program);
void ff_libraries_inherit(const FfLibraries *libraries, posix_spawn_file_actions_t *actions);

#endif
