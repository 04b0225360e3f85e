/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A careful operator of one migration that may break at any moment: continues as the statuses say,
 * repeats migrate-recover and resume while both sides are paused, until the guest is at one side
 * or its QEMU was killed, or QEMU itself cannot recover it. At each look it makes sure that the
 * guest runs at most once. One thread.
 */
#ifndef FF_TESTS_OPERATOR_H
#define FF_TESTS_OPERATOR_H

#include "tests/lib/vm.h"

typedef enum { OPERATOR_GO_ON, OPERATOR_SOURCE, OPERATOR_DESTINATION, OPERATOR_LOST } OperatorEnd;

typedef struct {
    Vm *s, *d;
    int s_pidfd, d_pidfd;
    int wake;         /* eventfd that ends a wait; -1: none */
    gint qemu_killed; /* atomic; bits: 1 the source's, 2 the destination's */
    bool switched;    /* migrate-start-postcopy was taken */
    bool release_ram; /* the capability is on at the source; set by the caller */
    bool d_ended;
    bool s_cannot_quit; /* its QEMU has a thread that waits for ever */
    unsigned recoveries, source_port;
    char *seen; /* what both sides said last */
    /* The port for the source, given the destination's; NULL: the same. */
    unsigned (*port)(unsigned port, void *opaque);
    void *opaque;
} Operator;

/* Does not own S and D. */
void operator_init(Operator *o, Vm *s, Vm *d);
/* Runs COMMAND with ARGS (can be NULL); FALSE: an error, or no QEMU. */
bool operator_try(Operator *o, Vm *vm, const char *command, const char *args);
/* migrate-incoming and migrate; with SWITCH_AT_ONCE also migrate-start-postcopy. */
void operator_begin(Operator *o, bool switch_at_once);
/* migrate once more, to where the destination says that it listens. */
void operator_again(Operator *o, bool switch_at_once);
/* Looks at both sides and does what they need. */
OperatorEnd operator_look(Operator *o);
/* Until there may be something new to look at. */
void operator_wait(Operator *o);
/* Looks and waits until the end. */
OperatorEnd operator_run(Operator *o);
/* After AT_DESTINATION: the source may have to be told. */
void operator_finish_source(Operator *o);
/* The guest, of RAM bytes, runs where END says and its memory is right; with it stopped there, a
 * source that stands is compared with it. The source is told first (operator_finish_source()). */
void operator_check_guest(Operator *o, OperatorEnd end, const BootsectConfig *boot, uint64_t ram);
/* The member "status" of query-status at VM; "" if it has ended (g_free). */
char *operator_run_state(Operator *o, Vm *vm);
/* Ends both QEMUs, by force what is superfluous or stands still, and frees what is O's. */
void operator_end(Operator *o, OperatorEnd end);

#endif
