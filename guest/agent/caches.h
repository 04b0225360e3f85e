/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hook in front of posix_fadvise(); see contract/caches.h. */
#ifndef FF_GUEST_AGENT_CACHES_H
#define FF_GUEST_AGENT_CACHES_H

/* FD: of the memory that is shared with relay and engine (ff_hook_start()); borrowed. Without it
 * each call passes. Before there is another thread. */
void ff_caches_start(int fd);

#endif
