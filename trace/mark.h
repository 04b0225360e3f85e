/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Marks for tracers (USDT): FF_MARK3(pass, a, b, c) is the place "farfault:pass" of the program, at
 * which perf, bpftrace, SystemTap and gdb can stop by, with three numbers. The table of
 * trace/marks.c lists them; docs/trace.md shows it.
 *
 * A mark is one nop, and a note in the file that says where it is and in which registers the
 * numbers are; no tracer, no branch, no memory, no lock. So it may stand on the fault path. What
 * the numbers are made of must be at hand there: an expression that costs something is paid for
 * without a tracer, too.
 *
 * The note is that of SystemTap's <sys/sdt.h>, version 3, written here for x86-64 so that nothing
 * is needed to build it: https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation. All
 * numbers are 64 bits wide; a text is the address of one.
 */
#ifndef FF_TRACE_MARK_H
#define FF_TRACE_MARK_H

#include <stdint.h>

#define FF_MARK_NUMBER(x) ((uint64_t)(x))

/* The base tells a tracer by how much prelink has moved the program. */
#define FF_MARK_NOTE(name, format)                                                                 \
    "990: nop\n"                                                                                   \
    ".pushsection .note.stapsdt, \"\", \"note\"\n"                                                 \
    ".balign 4\n"                                                                                  \
    ".4byte 992f - 991f, 994f - 993f, 3\n"                                                         \
    "991: .asciz \"stapsdt\"\n"                                                                    \
    "992: .balign 4\n"                                                                             \
    "993: .8byte 990b\n"                                                                           \
    ".8byte _.stapsdt.base\n"                                                                      \
    ".8byte 0\n"                                                                                   \
    ".asciz \"farfault\"\n"                                                                        \
    ".asciz \"" name "\"\n"                                                                        \
    ".asciz \"" format "\"\n"                                                                      \
    "994: .balign 4\n"                                                                             \
    ".popsection\n"                                                                                \
    ".ifndef _.stapsdt.base\n"                                                                     \
    ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"                    \
    ".weak _.stapsdt.base\n"                                                                       \
    ".hidden _.stapsdt.base\n"                                                                     \
    "_.stapsdt.base: .space 1\n"                                                                   \
    ".size _.stapsdt.base, 1\n"                                                                    \
    ".popsection\n"                                                                                \
    ".endif\n"

#define FF_MARK1(name, a) __asm__ volatile(FF_MARK_NOTE(#name, "8@%0") : : "nr"(FF_MARK_NUMBER(a)))
#define FF_MARK2(name, a, b)                                                                       \
    __asm__ volatile(FF_MARK_NOTE(#name, "8@%0 8@%1")                                              \
                     :                                                                             \
                     : "nr"(FF_MARK_NUMBER(a)), "nr"(FF_MARK_NUMBER(b)))
#define FF_MARK3(name, a, b, c)                                                                    \
    __asm__ volatile(FF_MARK_NOTE(#name, "8@%0 8@%1 8@%2")                                         \
                     :                                                                             \
                     : "nr"(FF_MARK_NUMBER(a)), "nr"(FF_MARK_NUMBER(b)), "nr"(FF_MARK_NUMBER(c)))
#define FF_MARK4(name, a, b, c, d)                                                                 \
    __asm__ volatile(FF_MARK_NOTE(#name, "8@%0 8@%1 8@%2 8@%3")                                    \
                     :                                                                             \
                     : "nr"(FF_MARK_NUMBER(a)), "nr"(FF_MARK_NUMBER(b)), "nr"(FF_MARK_NUMBER(c)),  \
                       "nr"(FF_MARK_NUMBER(d)))

#endif
