/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring-3 guest (tests/lib/ring3.h) in a bench: it says nothing by itself, so its record is read
 * out of QEMU's memory every 10 ms while it runs. That is no waiting for a state, it is what is
 * measured. One thread, the default main context.
 */
#ifndef FF_BENCH_SAMPLED_H
#define FF_BENCH_SAMPLED_H

#include "guest.h"
#include "tests/lib/ring3.h"

/* The most that it can work in. */
#define BENCH_SAMPLED_MIB 960

/* Speaks for a guest whose QEMU has the arguments of bench_sampled_add_args(). The config is a
 * Ring3. .last has its steps as writes, a report comes each second, and its clock is the host's,
 * which goes on where nobody runs it. */
extern const BenchVoice bench_sampled_voice;

/* Appends those that it needs of a QEMU whose monitor is at QMP: the guest, whose ROM is written to
 * ROM, and a monitor beside the other one, which is to come behind it in ARGV. */
void bench_sampled_add_args(const Ring3 *guest, const char *rom, const char *qmp, GPtrArray *argv);
/* Where that monitor is, if the other one is at QMP (g_free). */
char *bench_sampled_monitor(const char *qmp);

#endif
