/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What QEMU says to a question. One that it has not answered is no "no". */
#ifndef FF_GUEST_QEMU_TRISTATE_H
#define FF_GUEST_QEMU_TRISTATE_H

typedef enum {
    FF_TOLD_NOTHING, /* it has not answered in time, or not as it should; with ERROR */
    FF_TOLD_NO,
    FF_TOLD_YES,
} FfTold;

#endif
