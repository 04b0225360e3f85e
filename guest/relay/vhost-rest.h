/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A connection of vhost-user at rest, as text for the next relay (replace-relay.h), and what is
 * known of a back-end. Any thread. */
#ifndef FF_GUEST_RELAY_VHOST_REST_H
#define FF_GUEST_RELAY_VHOST_REST_H

#include <json-glib/json-glib.h>

#include "guest/vhost/session.h"

/* What a back-end has told its QEMU, for one that is to have it next (guest/launch/inherit.h). */
JsonObject *ff_vhost_known_write(const FfVhostKnown *known);
/* NULL: it is not understood (g_free). */
FfVhostKnown *ff_vhost_known_read(JsonObject *o);

/* The number that FD has at the reader. */
typedef int FfVhostGiveFd(int fd, void *opaque);

JsonObject *ff_vhost_rest_write(const FfVhostRest *rest, FfVhostGiveFd *give, void *opaque);
/* NULL: it is not understood. Its fds are added to FDS (of int). Lives as long as the process. */
FfVhostRest *ff_vhost_rest_read(JsonObject *o, GArray *fds);

#endif
