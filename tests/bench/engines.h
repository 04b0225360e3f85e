/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two engines in this process move a guest's memory by postcopy, without QEMU. One thread.
 */
#ifndef FF_TESTS_BENCH_ENGINES_H
#define FF_TESTS_BENCH_ENGINES_H

#include "tests/lib/shapednet.h"
#include "tests/lib/side.h"

/* From S to D, which have one block each, over NET (NULL: loopback), to the end; who touches pages
 * of D's has found none wrong, and both have the same memory then. Returns the processor seconds of
 * everything meanwhile. */
double engines_move(Side *s, Side *d, const ShapedNet *net);

#endif
