/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Back-ends that wait for pages, and the engine that answers their faults (contract/sharers.h). The
 * main loop's thread. */
#ifndef FF_GUEST_RELAY_PAGE_WAITS_H
#define FF_GUEST_RELAY_PAGE_WAITS_H

#include "guest/relay/vhost-conn.h"

typedef struct FfPageWaits FfPageWaits;

/* BACKENDS: of FfVhostConn *, all that there are; borrowed. */
FfPageWaits *ff_page_waits_new(FfRelay *relay, const GPtrArray *backends);
void ff_page_waits_free(FfPageWaits *s);
/* A new engine's end of the socket, the caller's; -1: there is none. It is told of all that wait.
 */
int ff_page_waits_offer(FfPageWaits *s);
/* The engine has gone. */
void ff_page_waits_end(FfPageWaits *s);
/* TRUE: an engine has said that it answers for pages that are missing. */
bool ff_page_waits_is_ready(const FfPageWaits *s);
/* TRUE: there is an engine, and it could answer for what BACKEND will have. */
bool ff_page_waits_can_wait(const FfPageWaits *s, FfVhostConn *backend);
/* BACKEND has come while memory is held: what its process waits in since before this relay is
 * answered for, too. */
void ff_page_waits_take_left(FfPageWaits *s, FfVhostConn *backend);
/* FALSE: another back-end of BACKEND's process is on its way; what it maps could not be told from
 * BACKEND's. ff_page_waits_go_on(), when one has come there or its connection has ended. */
bool ff_page_waits_may_begin(const FfPageWaits *s, FfVhostConn *backend);
void ff_page_waits_go_on(FfPageWaits *s);
/* BACKEND's session wants it. FALSE: it cannot be answered for. */
bool ff_page_waits_hand(FfPageWaits *s, FfVhostConn *backend);
void ff_page_waits_check(FfPageWaits *s, FfVhostConn *backend);
/* Its connection is about to end. */
void ff_page_waits_keep(FfPageWaits *s, FfVhostConn *backend);
/* Nothing is missing any more: nothing that it has registered is, from now on. */
void ff_page_waits_all_there(FfVhostConn *backend);
/* Nor is anything that was kept needed. */
void ff_page_waits_forget(FfPageWaits *s);

#endif
