/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kinds of userfaultfds, of which each QEMU makes one each before its main(): none can be made
 * later. Agent, relay, engine and `farfault attach` name them by these, and never by a number
 * of their own. docs/architecture.md says who holds which, and what becomes of it when they die.
 *
 * The order is that in which farfaults before had theirs: [0] tracked, [1] and later had missing
 * pages.
 */
#ifndef FF_CONTRACT_KINDS_H
#define FF_CONTRACT_KINDS_H

typedef enum {
    FF_KIND_TRACKING, /* asynchronous write protection: a thread that writes continues, a scan
                         tells */
    FF_KIND_MISSING,  /* a thread that touches a missing page waits for it */
    FF_KIND_PROTECT,  /* synchronous write protection: a thread that writes waits. QEMU keeps no
                         copy */
    FF_KINDS
} FfKind;

/* As relay and engine name them to each other, by kind. */
#define FF_KIND_NAMES                                                                              \
    {                                                                                              \
        "tracking", "missing", "protect"                                                           \
    }

#endif
