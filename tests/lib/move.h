/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The steps that all tests of a migration share. The checks return NULL if all is right, else one
 * line (g_free).
 */
#ifndef FF_TESTS_MOVE_H
#define FF_TESTS_MOVE_H

#include "tests/lib/bootsect.h"
#include "tests/lib/vm.h"

/*
 * A whole migration of a guest that writes all the time, from one farfault to another: what most
 * tests need, in a few lines (tests/qtest/test-moves.c).
 */
typedef struct {
    unsigned mib;               /* of RAM; 0: 64 */
    unsigned n_cpus;            /* 0: 1 */
    const char *const *devices; /* more arguments of both QEMUs; NULL: none */
    uint64_t bandwidth;         /* max-bandwidth, bytes/s; 0: 8 MiB/s until the switch */
    const char *qemu;           /* the binary of both; NULL: the installed one */
    const char *sections;       /* VmConfig.sections of both, with .mib of RAM; NULL: none */
    const Ring3 *ring3;         /* that guest, in place of .n_cpus and a boot sector; NULL: none */
} MoveConfig;

typedef struct {
    Vm *source, *destination;
    BootsectConfig boot;
    bool has_ring3;
    Ring3 ring3;
    char *qemu;
    const char *sections; /* MoveConfig's */
    uint64_t ram;         /* bytes */
    GPtrArray *args;
    char *memory;
} Move;

/* Both QEMUs; the source's guest is at work, and nothing has begun. CONFIG can be NULL. NULL: the
 * test is skipped. */
Move *move_new(const MoveConfig *config);
/* The destination listens, and the source begins. */
void move_start(Move *m);
void move_switch(Move *m);
/* Before the switch: the guest continues at the source, the destination ends, as QEMU's does, and
 * another one takes its place. */
void move_cancel(Move *m);
/* Waits until both sides have completed; the guest runs at the destination, and every byte and
 * count is right. Ends both, and frees M. */
void move_finish(Move *m);

/* FF_TEST_STOCK=1: QEMU's own postcopy in place of farfault's. */
bool move_stock(void);
/* Events and postcopy on at both sides; precopy slow enough not to end before it is switched. */
void move_prepare(Vm *source, Vm *destination);
/* Puts the next migration of VM under TLS: object tls0 and the parameters, with the credentials of
 * KIND ("psk", "x509") in DIR of certs_new_pair(). PASSWORDID can be NULL. */
void move_set_tls(Vm *vm, const char *dir, const char *kind, bool server, const char *passwordid);
/* Where a destination that was told tcp:HOST:0 listens: the URI for the source (g_free). */
char *move_listen_uri(Vm *destination);
/* The destination listens at an address of loopback: the URI for the source (g_free). */
char *move_listen(Vm *destination);
/* migrate to URI, with SWITCH_AT_ONCE migrate-start-postcopy as well: written at once, answers are
 * not awaited, as the monitor's connection may end under each of them. */
void move_begin_unheard(Vm *source, const char *uri, bool switch_at_once);
/* Waits until both sides say "completed". */
void move_wait_completed(Vm *source, Vm *destination);
/* The guest of BOOT, with RAM bytes, runs at the destination; it is stopped, and its memory is that
 * which the source has still. */
void move_check_guest(Vm *source, Vm *destination, const BootsectConfig *boot, uint64_t ram);
/* NAME of "ram" in the source's query-migrate; 0 while there is none. */
int64_t move_ram_count(Vm *source, const char *name);
/* Until that is at least N, or the migration has ended: a guest that gets no processor writes
 * nothing, and has moved. FALSE: that is so. */
bool move_await_count(Vm *source, const char *name, int64_t n);
/* The source's query-migrate after the end: nothing remains, and (RAM not 0) every page of at
 * least RAM bytes was sent, as data or as zeros. */
char *move_check_counts(Vm *source, uint64_t ram);
/* Ends QEMU by "quit"; farfault's summary must stand in its stderr then. */
char *move_check_summary(Vm *vm);

/* QEMU says that a migration is over before it has cleaned up. A new one before that is refused
 * ("duplicate yank instance"), but QEMU 7.2 has reset what it was to clean up by then, and can come
 * to harm: its list of what can be yanked tells. Nor does a QEMU before 8.2 wait for the thread
 * that reads the return path, which takes the file of a new migration from under it. Kernels before
 * 6.9 do not tell of a thread's end. */
void move_await_cleanup(Vm *vm);

#endif
