/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ways in which runs of memory can cross a connection, compared.
 */
#ifndef FF_BENCH_TRANSPORTS_H
#define FF_BENCH_TRANSPORTS_H

/* Prints one line of JSON for each way, over loopback and (as root) over a veth pair: GB/s, and
 * processor seconds per GiB at both ends. Each takes so many SECONDS. */
void bench_transports(double seconds);

#endif
