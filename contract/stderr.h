/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU has written to its stderr last: a ring in the memory that the agent in QEMU shares with
 * relay and engine, after what arms its hook (discards.h). The agent (guest/agent/stderr.c) copies
 * each message on its way; stderr itself stays what it was (a file, a terminal, libvirt's pipe),
 * and nobody stands in it. So the engine can say why QEMU could not load a guest, also when that
 * QEMU has ended.
 *
 * It is text, for people. A program that reads it relies on nothing in it: a guest may have taken
 * over QEMU.
 */
#ifndef FF_CONTRACT_STDERR_H
#define FF_CONTRACT_STDERR_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "contract/discards.h"

#define FF_STDERR_OFFSET 8192 /* in the memfd; of an agent of before it the file ends earlier */
#define FF_STDERR_END (FF_STDERR_OFFSET + sizeof(FfStderrPage))
#define FF_STDERR_VERSION 1u

typedef struct {
    uint32_t version; /* 0: nothing is copied */
    uint32_t reserved;
    /* Atomic; bytes since QEMU's start: the next one goes to text[written % sizeof(text)]. It grows
     * before the bytes are there, as QEMU's threads have no lock here: a reader may see those of
     * another message. What a thread has said before it closes a socket, or ends, is whole for a
     * reader that hears of that. */
    uint64_t written;
    char text[4096 - 16];
} FfStderrPage;
static_assert(sizeof(FfStderrPage) == 4096, "shared between processes");
static_assert(sizeof(FfDiscardsPage) <= FF_STDERR_OFFSET, "it comes first");

/* No text of ff_stderr_since() is longer, bytes. */
#define FF_STDERR_MAX 480

/* How much QEMU has written until now. FD: the agent's memory (borrowed), -1: there is none. Any
 * thread. */
uint64_t ff_stderr_written(int fd);
/* Its last lines after the first WRITTEN bytes, separated by "; ", without the program's name in
 * front of them; what is not printable ASCII is a "?" (g_free). NULL: there are none, or the agent
 * does not copy them. Any thread. */
char *ff_stderr_since(int fd, uint64_t written);

#endif
