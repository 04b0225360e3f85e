/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A simulated destination: threads that stand for vCPUs fault on missing pages, readers of one or
 * more userfaultfds place them. How many faults per second are served, by ways to read, to place
 * and to wake.
 */
#ifndef FF_TESTS_BENCH_FAULTS_H
#define FF_TESTS_BENCH_FAULTS_H

/* Every way in turn, ROUNDS times, by number of threads and order of pages: the median, least and
 * most of each as a line of JSON. Ends the program where userfaultfd is not permitted. */
void bench_faults(unsigned rounds);

#endif
