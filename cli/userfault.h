/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether this user may wait for faults. Any thread. */
#ifndef FF_CLI_USERFAULT_H
#define FF_CLI_USERFAULT_H

/* A userfaultfd that may also wait for the kernel's faults, as farfault's agent in QEMU makes it;
 * or -errno. */
int ff_cli_new_uffd(void);

#endif
