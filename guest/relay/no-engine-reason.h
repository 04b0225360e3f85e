/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why there is no engine. The main loop's thread. */
#ifndef FF_GUEST_RELAY_NO_ENGINE_REASON_H
#define FF_GUEST_RELAY_NO_ENGINE_REASON_H

#include "guest/relay/shared.h"

/* One line for a client. Valid until the next call. */
const char *ff_absence_text(FfRelay *relay);
/* The same for the log, once. AGAIN: it is going to be tried again. */
void ff_absence_tell(FfRelay *relay, const char *why, bool again);

#endif
