/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line of a QEMU that is started beside the one whose guest it takes over
 * (docs/design/upgrade.md). Where the running one listens at a path, or has its pid file, the new
 * one gets another name beside it, which is renamed when the guest is its own. A VNC server on a
 * port listens nowhere before that, and no port of the host is forwarded.
 *
 * Pure functions; any thread.
 */
#ifndef FF_GUEST_LAUNCH_INHERIT_ARGV_H
#define FF_GUEST_LAUNCH_INHERIT_ARGV_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "guest/launch/argv-opts.h"

/* What a name beside another one is longer by, at most; bytes. */
#define FF_LENT_LONGER 16
/* The monitor of farfault upgrade, over a socket that ends with that command. */
#define FF_LENT_MONITOR "farfault-upgrade"

/* A file that QEMU makes under NOW, and that is to be THEN; absolute. */
typedef struct {
    char *now, *then;
} FfInheritedName;

/*
 * ARGV, with -incoming defer in place of any other, without -S and -daemonize, with the connected
 * socket MONITOR_FD as one more monitor (g_strfreev). TAP_FDS: what QEMU is to have for the taps,
 * one for each of ff_inherited_taps(); can be NULL if these are not looked at. PID: of the QEMU
 * that it starts. FOLDER: the one that it is started in. *NAMES: of FfInheritedName *
 * (g_ptr_array_unref). MONITOR_FD can be -1, and ARGV without QEMU itself, for *NAMES alone.
 */
char **ff_inherited_argv(char *const *argv, int monitor_fd, const int *tap_fds, pid_t pid,
                         const char *folder, GPtrArray **names);

/* The interfaces of the taps on ARGV, in its order (g_strfreev). */
char **ff_inherited_taps(char *const *argv);
/* What stands against a -netdev tap of these options, whose first one is "type"; NULL: nothing. */
const char *ff_inherited_tap_refused(const GPtrArray *opts);

/* The options of the user network that VALUE of OPTION (-netdev, -nic) is, whose first one is
 * "type" (g_ptr_array_unref); NULL: it is none. */
GPtrArray *ff_inherited_user_network(const FfOption *option, const char *value);
/* One of them forwards a port of the host, which two QEMUs cannot have. */
bool ff_inherited_is_forward(const FfOpt *opt);

/* The fds that who has started QEMU has given it, by their numbers (-add-fd, sockets that listen):
 * of int (g_array_unref). The next QEMU gets them under the same ones. */
GArray *ff_inherited_numbers(char *const *argv);

/* The chardevs that are pseudo-terminals, in the order in which QEMU makes them (g_strfreev). */
char **ff_inherited_ptys(char *const *argv);

/* The path at which such a chardev's socket listens, which can get another name; NULL: it has none.
 * OPTS: of guest/launch/argv-opts.h; what the chardev is said by. Valid as long as they are. */
const char *ff_inherited_socket_path(const GPtrArray *opts);
/* The same of the old notation, unix:PATH,...; g_free. */
char *ff_inherited_old_socket_path(const char *value);
/* ID is the chardev of a QMP monitor on ARGV: of those the launcher knows more. */
bool ff_inherited_is_control(char *const *argv, const char *id);

#endif
