/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast something goes, from the numbers of one look after the other. Pure; one thread for each.
 *
 * The rate is taken from the bytes transferred between two looks and smoothed; the time left
 * from how fast "remaining" falls, because zero pages cost few bytes. While a guest writes faster
 * than its memory is sent, "remaining" does not fall, and no time is known.
 */
#ifndef FF_CLI_COMMON_RATE_H
#define FF_CLI_COMMON_RATE_H

#include <glib.h>

typedef struct {
    gint64 when; /* monotonic us of the last look; 0 = none yet */
    gint64 transferred, remaining, faults;
    double rate, fall; /* bytes per second; 0: not known */
    double fault_rate; /* per second, since the look before */
} FfRate;

/* The numbers at NOW (monotonic, us). Two looks within 10 ms are one. */
void ff_rate_look(FfRate *pace, gint64 now, gint64 transferred, gint64 remaining, gint64 faults);
/* Milliseconds until nothing remains; -1: not known. */
gint64 ff_rate_left(const FfRate *pace);

#endif
