/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process that others know as the guest's, which runs in this one
 * (guest/relay/behind-placeholder.h).
 */
#ifndef FF_GUEST_AGENT_FRONT_H
#define FF_GUEST_AGENT_FRONT_H

/*
 * TEXT: FF_AGENT_ENV_FRONT. When that process ends, this one is killed. Before there is another
 * thread. Returns 0 or -errno: then nobody does.
 */
int ff_front_watch(const char *text);

#endif
