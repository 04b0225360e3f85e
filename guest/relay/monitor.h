/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One client monitor. The main loop's thread. */
#ifndef FF_GUEST_RELAY_MONITOR_H
#define FF_GUEST_RELAY_MONITOR_H

#include "guest/relay/shared.h"

FfMonitor *ff_monitor_new(FfRelay *relay, unsigned index);
void ff_monitor_open(FfMonitor *mon);
void ff_monitor_go(FfMonitor *mon); /* clients need not wait any more */
/* The engine's answers. SEQ names the command; unknown ones are ignored (the client is gone). */
void ff_monitor_reply(FfMonitor *mon, uint32_t seq, GBytes *line);
void ff_monitor_pass(FfMonitor *mon, uint32_t seq, GBytes *instead); /* INSTEAD can be NULL */
/* There is no engine: SEQ is QEMU's. */
void ff_monitor_do_without(FfMonitor *mon, uint32_t seq);
void ff_monitor_event(FfMonitor *mon, GBytes *line);
int ff_monitor_take_fd(FfMonitor *mon, const char *name); /* the caller owns it; -1: none */
/* FALSE: no client, or no object. */
bool ff_monitor_inject(FfMonitor *mon, uint32_t seq, GBytes *command);
/* relay->filters have changed. */
void ff_monitor_filters_changed(FfMonitor *mon);
bool ff_monitor_has_pending(const FfMonitor *mon);
/* QEMU owes an answer to cont or stop. */
bool ff_monitor_has_words(const FfMonitor *mon);
void ff_monitor_refuse(FfMonitor *mon, uint32_t seq, const char *desc);
/* The engine is gone: what it owed is asked again, or answered with an error. DESC NULL: as
 * ff_absence_text() says. */
void ff_monitor_engine_lost(FfMonitor *mon, const char *desc);
/* The engine has never worked: what it was sent has its turn once more, at another or at QEMU. */
void ff_monitor_own_again(FfMonitor *mon);
void ff_monitor_pump(FfMonitor *mon); /* continues with what waits */
/* Nothing is under way in it: each message has come and gone as a whole. */
bool ff_monitor_rests(const FfMonitor *mon);
/* Of one that rests: its client and its connection to QEMU, borrowed but for .greeting (g_free).
 * FALSE: it has no client. */
bool ff_monitor_session(const FfMonitor *mon, FfRelaySession *session);
/* ---- a client that goes to another relay (clients.h) ---- */
/* It listens, and has a client that has negotiated and is none that has begun the upgrade. */
bool ff_monitor_may_go(const FfMonitor *mon);
/* The same; or such a client is about to come here itself, and may go then. */
bool ff_monitor_will_go(const FfMonitor *mon);
/* Of that client nothing is under way, and QEMU owes it nothing; what it has said, and nobody has
 * carried out, may be there, half a command as well, if it is no more than can go along. */
bool ff_monitor_is_quiet(const FfMonitor *mon);
/* Fds have come with that. */
bool ff_monitor_has_fds(const FfMonitor *mon);
/* What it has negotiated. */
bool ff_monitor_has_oob(const FfMonitor *mon);
/* Fds that came with byte AT of what it has said. */
typedef struct {
    size_t at;
    const int *fds; /* borrowed */
    unsigned n;
} FfUnreadFds;
/* What it has said, base64 (g_free), and the fds that came with it (to be added to FDS, of
 * FfUnreadFds). */
char *ff_monitor_unread(const FfMonitor *mon, GArray *fds);
/* It is not read meanwhile. */
void ff_monitor_hold(FfMonitor *mon, bool held);
/* It is another relay's. */
void ff_monitor_gone(FfMonitor *mon);
/* Takes FD, the client of another relay's monitor, and UNREAD with FDS, which are taken as well.
 * FALSE: it has a client; nothing is taken. */
bool ff_monitor_adopt(FfMonitor *mon, int fd, bool oob_enabled, const char *unread,
                      const GArray *fds);
/* Such a client is to come later: until then no other one does, and it will hear what QEMU says
 * from now on. It does not come after all (FALSE: none was awaited). */
void ff_monitor_await(FfMonitor *mon, bool oob_enabled);
bool ff_monitor_await_no_more(FfMonitor *mon);
/* FD becomes the client of a monitor of FF_RELAY_DOOR. FALSE: it is not one, or has a client, or
 * the guest is another QEMU's; FD is not taken. */
bool ff_monitor_give(FfMonitor *mon, int fd);
/* QEMU has ended: what it still said goes to the client, and no other one comes. */
void ff_monitor_hear_out(FfMonitor *mon);
void ff_monitor_end(FfMonitor *mon);
/* The guest is another QEMU's, and so is what listens here: the client is let go, and no other one
 * comes. */
void ff_monitor_leave(FfMonitor *mon);

#endif
