/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What Cloud Hypervisor does when it sends a guest to a receiver on the same host (send-migration
 * with local=on), written from its sources (vmm/src/lib.rs, vm.rs, memory_manager.rs, protocol.rs
 * at ae44c29) without a look at the receiver: one step after the other, each with its answer. The
 * guest is that of vmm.h.
 */
#ifndef FF_TESTS_PAGER_SENDER_H
#define FF_TESTS_PAGER_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/pager/vmm.h"

/* Start, MemoryFd of each slot, Config, State, and the last one. */
#define SENDER_STEPS (VMM_SLOTS + 4u)

typedef enum { SENDER_LEFT, SENDER_OK, SENDER_ERROR } SenderAnswer;

typedef struct {
    int sock;
    int memory[VMM_SLOTS]; /* memfds; one zone's are one */
    bool paused;           /* the guest was, before */
} Sender;

/* Connects to PATH, with a guest whose memory is that of vmm_write_snapshot(). */
void sender_begin(Sender *s, const char *path);
void sender_end(Sender *s);
/* One step, without its answer. */
void sender_send(Sender *s, unsigned step);
/* Steps [0, UNTIL), each acknowledged. */
void sender_send_until(Sender *s, unsigned until);
/* Waits for it. */
SenderAnswer sender_answer(const Sender *s);
/* There is no answer, and no end. */
bool sender_hears_nothing(const Sender *s);

/* ---- for a test that does something else on purpose ------------------------------------------ */

/* VERSION: of the protocol. */
void sender_request(const Sender *s, unsigned command, unsigned version, uint64_t length);
/* SLOT, with N descriptors. */
void sender_pass(const Sender *s, uint32_t slot, const int *fds, unsigned n);
void sender_text(const Sender *s, const char *text);

#endif
