/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of QEMU's qtest protocol: reads and writes guest-physical memory through QEMU's own
 * address space (so a read of a page that has not come yet waits for it, in QEMU's main loop).
 */
#ifndef FF_TESTS_QTESTPROTO_H
#define FF_TESTS_QTESTPROTO_H

#include <stdint.h>

#include "tests/lib/stream.h"

typedef struct Qtest Qtest;
/* Takes FD over. */
Qtest *qtest_new(int fd, const char *label);
void qtest_free(Qtest *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qtest, qtest_free)

void qtest_read(Qtest *t, uint64_t address, void *data, size_t length);
void qtest_write(Qtest *t, uint64_t address, const void *data, size_t length);
uint64_t qtest_readq(Qtest *t, uint64_t address);
void qtest_writeq(Qtest *t, uint64_t address, uint64_t value);
/* The same in two steps, as QEMU may wait meanwhile. */
void qtest_send_writeq(Qtest *t, uint64_t address, uint64_t value);
void qtest_take_answer(Qtest *t);
/* I/O ports; WIDTH is 1, 2 or 4 bytes. */
void qtest_out(Qtest *t, unsigned width, uint16_t port, uint32_t value);
uint32_t qtest_in(Qtest *t, unsigned width, uint16_t port);

#endif
