/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why there is no engine. The main loop's thread. */
#ifndef FF_RELAY_ABSENCE_H
#define FF_RELAY_ABSENCE_H

#include "relay/shared.h"

/* One line for a client. Valid until the next call. */
const char *ff_absence_text(FfRelay *relay);
/* The same for the log, once. AGAIN: it is going to be tried again. */
void ff_absence_tell(FfRelay *relay, const char *why, bool again);

#endif
