/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two engines in this process move a guest's memory, without QEMU. One thread.
 */
#ifndef FF_TESTS_BENCH_ENGINES_H
#define FF_TESTS_BENCH_ENGINES_H

#include "tests/lib/shapednet.h"
#include "tests/lib/side.h"

/* The options of the bench NAME. FALSE: they are wrong, which was said. */
bool engines_options(const char *name, const char *what, const GOptionEntry *entries, int *argc,
                     char ***argv);
/* A link of MEGABITS each way (0: not shaped) for the bench NAME. NULL: there can be none, which
 * was said. */
ShapedNet *engines_net(const char *name, int megabits);
/* Random words into the one block of S, each of which stands there 2^ALIKE times. */
void engines_fill(Side *s, unsigned alike);
/* Of this process, seconds. */
double engines_cpu(void);
/* D listens, in its part of NET (NULL: loopback); this thread is in the source's then. Returns
 * where (g_free). */
char *engines_listen(Side *d, const ShapedNet *net);
/* By postcopy from S to D, which have one block each, over NET (NULL: loopback), to the end; the
 * threads that touch pages of D's have found none wrong, and both have the same memory then.
 * Returns the processor seconds of everything meanwhile. */
double engines_move(Side *s, Side *d, const ShapedNet *net);

#endif
