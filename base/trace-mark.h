/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Marks for tracers (USDT): FF_MARK3(pass, a, b, c) is the place "farfault:pass" of the program, at
 * which perf, bpftrace, SystemTap and gdb can stop by, with three numbers. docs/trace.md has the
 * table.
 *
 * A mark is one nop, and a note in the file that says where it is and where the numbers are
 * (SystemTap's <sys/sdt.h>): no tracer, no branch, no lock. So it may stand on the fault path. What
 * the numbers are made of must be at hand there: an expression that costs something is paid for
 * without a tracer, too. Without that header there are no marks.
 */
#ifndef FF_BASE_TRACE_MARK_H
#define FF_BASE_TRACE_MARK_H

#ifdef FF_HAVE_SDT
#include <sys/sdt.h>

#define FF_MARK1(name, a) DTRACE_PROBE1(farfault, name, a)
#define FF_MARK2(name, a, b) DTRACE_PROBE2(farfault, name, a, b)
#define FF_MARK3(name, a, b, c) DTRACE_PROBE3(farfault, name, a, b, c)
#define FF_MARK4(name, a, b, c, d) DTRACE_PROBE4(farfault, name, a, b, c, d)
#else
#define FF_MARK1(name, a) ((void)(a))
#define FF_MARK2(name, a, b) ((void)(a), (void)(b))
#define FF_MARK3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define FF_MARK4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

#endif
