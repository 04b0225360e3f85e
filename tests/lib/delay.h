/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A proxy between two sides of a migration that has one slow connection: what comes on it from the
 * side that connected is passed on late, in order, and nothing is lost. All others are passed on at
 * once. And that can make a destination look as if it were an older one.
 */
#ifndef FF_TESTS_DELAY_H
#define FF_TESTS_DELAY_H

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/frame.h"

typedef struct Delay Delay;

/* Listens at delay_uri() and connects to TO for each connection. The one with NUMBER, in the order
 * in which they come (from 0 on), is the slow one. */
Delay *delay_new(const char *to, unsigned number);
/* What has not been passed on yet, and what comes, is passed on US microseconds after it came;
 * negative: never. */
void delay_set(Delay *d, int64_t us);
const char *delay_uri(const Delay *d);
/* What the destination says of itself lacks FEATURES (FF_FEATURE_*). Before anybody connects. */
void delay_hide(Delay *d, uint32_t features);
/* Bytes that have come on the slow connection; of them, those that were not passed on yet. */
uint64_t delay_bytes(Delay *d);
uint64_t delay_pending(Delay *d);
/* The last frame that came on it, but for those that say that the source lives, is an empty one of
 * TYPE. */
bool delay_ends_with(Delay *d, FfFrameType type);
/* Breaks the slow connection; or only for the side that connected, and the other side notices
 * nothing. */
void delay_cut(Delay *d);
void delay_cut_near(Delay *d);
void delay_free(Delay *d);

#endif
