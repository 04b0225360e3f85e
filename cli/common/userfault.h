/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a user may wait for faults, and what lets one do so. One thread. */
#ifndef FF_CLI_COMMON_USERFAULT_H
#define FF_CLI_COMMON_USERFAULT_H

#include <stdbool.h>

/* A userfaultfd that may also wait for the kernel's faults, as farfault's agent in QEMU makes it;
 * or -errno. */
int ff_cli_new_uffd(void);

/* What lets USER wait for them, for a person to do (g_free): first the group of /dev/userfaultfd,
 * where it has one. */
char *ff_cli_userfault_fix(const char *user);
/* The same for a QEMU, stock or under farfault, whose user is not known (USER). HERE: it is on this
 * host, and can use its device. */
char *ff_cli_userfault_fix_qemu(bool here);
/* What sets a host up, by the name that it has here. */
const char *ff_cli_install_host(void);

#endif
