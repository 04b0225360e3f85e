/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fds that a process keeps for somebody else, out of the reach of others of its user.
 *
 * What is open under a number can be opened again by any process that may read it
 * (/proc/PID/fd/N), and what is a name can be connected to. What lies in the queue of a socket has
 * no number: only a process that can take the socket itself (pidfd_getfd(), which asks for the
 * right to attach, as ptrace does, Yama included) gets copies. They can be taken any number of
 * times.
 *
 * Any thread; nothing is kept here.
 */
#ifndef FF_GUEST_LAUNCH_FDSTORE_H
#define FF_GUEST_LAUNCH_FDSTORE_H

#define FF_PARCEL_MAX 253 /* fds: SCM_MAX_FD */

/*
 * Makes a socket with copies of the N FDS in its queue. Returns it, close-on-exec, or -errno.
 *
 * -ETOOMANYREFS: the kernel counts what lies in the sockets of a user against RLIMIT_NOFILE, and
 * lets nobody of that user send more. So half of the limit is left to others.
 */
int ff_fdstore_new(const int *fds, unsigned n);
/* Copies of what lies in PARCEL, close-on-exec, in their order. Returns their number (at most
 * FF_PARCEL_MAX, the size of FDS), or -errno: it is no parcel. */
int ff_fdstore_look(int parcel, int *fds);

#endif
