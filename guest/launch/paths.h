/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie: farfault's own helpers, the real QEMU, the configuration file.
 */
#ifndef FF_GUEST_LAUNCH_PATHS_H
#define FF_GUEST_LAUNCH_PATHS_H

#include <glib.h>
#include <stdbool.h>

/*
 * Finds the sibling NAME ("farfault-relay", "farfault-engine", "farfault-agent.so") of the
 * running program, from its path: DIR/../lib/farfault/NAME and DIR/NAME when installed,
 * DIR/../{relay,engine,agent,cli,content}/NAME in the build tree. Returns an absolute path, NULL if
 * there is none. Any thread.
 */
char *ff_find_helper(const char *name);

/* LD_PRELOAD with AGENT in front of what is there (g_free). The loader splits it at these, or
 * expands them: a path with one of them cannot be in it. */
char *ff_preload(const char *agent);
#define FF_PRELOAD_SPLITS " :$"

/*
 * Finds the QEMU that ARGV0 stands for: FARFAULT_QEMU, else [qemu] binary= of the configuration
 * file, else ARGV0 itself if it has a slash and is not farfault, else the next program on PATH
 * with ARGV0's file name that is not farfault. ARGV0 with a slash that names another program
 * wins over the settings. Returns a path; NULL and ERROR (one line) if there is none.
 */
char *ff_find_real_qemu(const char *argv0, GError **error);

/* Which word of ARGV is a QEMU, where the first one is another program that would start it ("nice",
 * "numactl"); 0: there is none. */
unsigned ff_find_wrapped_qemu(char *const *argv);

/*
 * The setting KEY of [GROUP] in /etc/farfault/farfault.conf (FARFAULT_CONF names another file).
 * Returns NULL without an error when the file or the key does not exist.
 */
char *ff_config_get(const char *group, const char *key, GError **error);

/* TRUE if PATH is a program in a format that the kernel loads itself (ELF), not a script. */
bool ff_is_elf(const char *path);

#endif
