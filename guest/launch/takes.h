/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a QEMU takes what the launcher adds to its command line.
 */
#ifndef FF_GUEST_LAUNCH_TAKES_H
#define FF_GUEST_LAUNCH_TAKES_H

#include <glib.h>
#include <stdbool.h>

typedef enum {
    FF_TAKES_ALL,
    FF_TAKES_NOT,     /* such a QEMU starts with the user's own command line */
    FF_TAKES_UNKNOWN, /* it could not be asked, or has not answered in time */
} FfTakes;

/*
 * Asks the program QEMU, by starting it once without a guest; or, not ANEW, remembers that it was
 * asked already. *WHY (g_free) is one line if the answer is not FF_TAKES_ALL. In the process's only
 * thread.
 */
FfTakes ff_takes(const char *qemu, bool anew, char **why);

#endif
