/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the QEMU whose guest is to be taken over lends to the one that is being started: guest RAM,
 * the sockets at which its monitors listen, its taps, a pidfd of itself (docs/design/upgrade.md).
 * It comes as one message on a socket: a JSON text, {"ram": [{"id":, "size":, "page-size":}],
 * "monitors": [{"id":}], "taps": [{"id": name of the interface}], "qemu": [{"id": "pidfd"}, {"id":
 * "door"}, {"id": "front"}, {"id": "front-door"}], "backends": [{"id":, what
 * guest/relay/vhost-rest.h writes}], "stays": BOOL, "given": [{"id": number}], "ptys": [{"id":
 * chardev}]}, and the fds of all but "backends" and "stays" in this order.
 *
 * The launcher's only thread.
 */
#ifndef FF_GUEST_LAUNCH_INHERIT_H
#define FF_GUEST_LAUNCH_INHERIT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "guest/launch/endpoint.h"
#include "guest/launch/plan.h"

typedef struct FfInherited FfInherited;

/* Waits for the message. NULL and ERROR: there is none, or it is none. */
FfInherited *ff_inherited_receive(int socket, GError **error);
/* What nobody has taken is closed. */
void ff_inherited_free(FfInherited *lent);

/* The memory of RAM, the caller's; -1 and ERROR: there is none of this name and size. */
int ff_inherited_ram(FfInherited *lent, const FfPlanRam *ram, GError **error);
/* MON has a socket of its own at which it listens. */
bool ff_inherited_listens(const FfPlanMonitor *mon);
/* That socket; FALSE and ERROR: it is not lent. Its name is not to be removed when this launch
 * fails. */
bool ff_inherited_endpoint(FfInherited *lent, const FfPlanMonitor *mon, FfEndpoint *endpoint,
                           GError **error);
/* Behind the last ff_inherited_endpoint(). FALSE and ERROR: one is left that none of MONITORS
 * (FfPlanMonitor) is, under that name, and its clients would lose it. */
bool ff_inherited_all_endpoints(const FfInherited *lent, const GPtrArray *monitors, GError **error);

/* The tap of the interface NAME, the caller's; -1 and ERROR: there is none. */
int ff_inherited_tap(FfInherited *lent, const char *name, GError **error);
/* What the vhost-user back-end of MON's chardev has told the running QEMU, LENT's; NULL and ERROR:
 * it has none, or another one. */
JsonObject *ff_inherited_backend(FfInherited *lent, const FfPlanMonitor *mon, GError **error);
/* What the running QEMU was given by number is, under the same numbers, this process's. FALSE and
 * ERROR: one of them is another file's here. */
bool ff_inherited_place_given(FfInherited *lent, GError **error);
/* The master side of the pseudo-terminal that chardev ID is, the caller's; -1 and ERROR: there is
 * none. */
int ff_inherited_pty(FfInherited *lent, const char *id, GError **error);
/* A pidfd of the running QEMU, and where its relay is asked for its clients
 * (guest/relay/clients.h), the caller's; -1: an older farfault lends none. */
int ff_inherited_pidfd(FfInherited *lent);
int ff_inherited_door(FfInherited *lent);
/* The same of the process that stays as the guest's front (guest/relay/placeholder.h); -1: there is
 * none. *ITSELF: it is the QEMU that lends. *DOOR: of its relay, -1: it has ended. */
int ff_inherited_front(FfInherited *lent, int *door, bool *itself);

#endif
