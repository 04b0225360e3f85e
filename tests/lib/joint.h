/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two connected sockets joined: what comes from the one goes to the other, in both directions, and
 * so does the end of each.
 */
#ifndef FF_TESTS_JOINT_H
#define FF_TESTS_JOINT_H

#include <glib.h>

typedef struct {
    int fds[2];
    GThread *threads[2]; /* threads[i] reads fds[i] */
} Joint;

/* Owns A and B, which block. J stays where it is until joint_finish(). */
void joint_start(Joint *j, int a, int b);
/* Waits until both directions have ended. */
void joint_finish(Joint *j);

#endif
