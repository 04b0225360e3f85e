/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two network namespaces joined by a veth pair, shaped in both directions: a link between two
 * hosts. They are the run's own and end with it.
 */
#ifndef FF_TESTS_SHAPEDNET_H
#define FF_TESTS_SHAPEDNET_H

#include <stdint.h>

typedef enum { SHAPED_SOURCE, SHAPED_DESTINATION, SHAPED_OUTSIDE, SHAPED_PLACES } ShapedPlace;
#define SHAPED_ADDRESS_SOURCE "10.77.0.1"
#define SHAPED_ADDRESS_DESTINATION "10.77.0.2"

typedef struct ShapedNet ShapedNet;
/* MEGABITS per second, by tbf with 20 ms of queue; 0: as fast as it goes. NULL and *WHY (static)
 * where that cannot be. */
ShapedNet *shaped_net_new(unsigned megabits, const char **why);
/* What this thread starts from now on is there. */
void shaped_net_enter(const ShapedNet *net, ShapedPlace place);
/* Bytes that PLACE sent over the link so far, with all headers. */
uint64_t shaped_net_sent(const ShapedNet *net, ShapedPlace place);
/* Goes outside first. */
void shaped_net_free(ShapedNet *net);

#endif
