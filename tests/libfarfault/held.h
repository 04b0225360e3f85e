/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot whose callback is held: everything after the first 128 KiB stays unsaved for as long
 * as a test wants.
 */
#ifndef FF_TESTS_LIBFARFAULT_HELD_H
#define FF_TESTS_LIBFARFAULT_HELD_H

#include "tests/libfarfault/world.h"

#define HELD_LEN (8u << 20)
#define HELD_LATE (HELD_LEN / 2) /* where nothing is saved while the callback is held */

typedef struct {
    World *w;
    WorldPages pages;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool reached, go; /* lock */
    int stop;         /* what the callback returns */
    char *then;       /* what the memory held */
} Held;

/* Words that differ, and with SALT. */
void held_fill(World *w, uint64_t salt);
/* A snapshot of KIND that is being saved, and held; OPTIONS can be NULL. FALSE: skipped. */
bool held_new(Held *h, WorldKind kind, const FfSnapshotOptions *options);
void held_go(Held *h);
void held_free(Held *h);
/* It ends, with what the memory held at the moment. */
void held_assert_saved(Held *h);

/* RC is no error. */
void call(int rc);
/* RC, with a line that has TEXT in it. */
void assert_says(int rc, int expected, const char *text);

#endif
