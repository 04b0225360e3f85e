/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the tests of lazy restores share: a guest that writes everywhere is saved, by farfault or by
 * stock QEMU 10, and is restored; each vCPU's counters have one step at most, and a stopped guest
 * comes back byte for byte.
 */
#ifndef FF_TESTS_RESTORE_RIG_H
#define FF_TESTS_RESTORE_RIG_H

#include "tests/lib/vm.h"

#define RESTORE_RAM_MIB 64
#define RESTORE_BUSY_MIB 24
#define OFFSET 65672 /* as libvirt has it: no multiple of anything */
#define RESTORE_PC "pc-i440fx-7.2"

typedef enum { OLD, NEW, NEWEST } RestoreVersion; /* 7.2, 10 and 11 */
typedef enum { OURS, STOCK } RestoreSaver;
typedef enum { COMMAND, INCOMING, BY_FD } RestoreWay;

typedef struct {
    const char *name;
    RestoreSaver saver;
    RestoreVersion from, to;
    RestoreWay way;
    uint64_t offset;
    bool stopped;
    bool compressed; /* by farfault convert, afterwards */
    const char *machine;
    unsigned n_cpus;
    const char *const *args; /* more of them; they name the memory, if there is SIZE; can be NULL */
    const char *size;        /* of -m; NULL: RESTORE_RAM_MIB */
    const Ring3 *ring3;      /* that guest; NULL: the boot-sector one */
} RestoreRow;

/* A guest, and the file that it was saved to. */
typedef struct {
    const RestoreRow *row;
    char *newer;
    BootsectConfig boot;
    Vm *saved;
    char *path;
    bool may_be_saved; /* the restored guest: a snapshot of it was promised */
    bool shared;       /* its guest, and what that was saved to, are those of other cases, too */
} RestoreScene;

/* A two-processor guest of farfault's own snapshot. */
extern const RestoreRow restore_plain;

/* Starts ROW's guest, and saves it. FALSE: skipped. */
bool restore_begin(RestoreScene *s, const RestoreRow *row);
/* A file of this case's own, of a guest that is saved once for all of them. FALSE: skipped. */
bool restore_begin_plain(RestoreScene *s);
/* S is OF, with a file of its own. */
void restore_copy(RestoreScene *s, const RestoreScene *of);
void restore_end(RestoreScene *s);
/* The end of the program: of what all cases shared. */
void restore_rig_end(void);
/* FALSE: built without fault points; skipped. */
bool restore_has_faults(void);

/* A QEMU as that of the saved guest; FAULTS can be NULL. */
Vm *restore_start(const RestoreScene *s, RestoreVersion version, bool incoming, const char *memory,
                  const char *faults);
/* One that waits to be restored. */
Vm *restore_start_again(const RestoreScene *s, const char *faults);
/* Asks VM to be restored from PATH, in the row's way. */
void restore_ask(const RestoreScene *s, Vm *vm, const char *path);
/* The same by x-farfault-restore, with MORE members (", 'a': 1"). */
void restore_ask_with(const RestoreScene *s, Vm *vm, const char *path, const char *more);

/* A guest that runs, and whose memory does not come before restore_release(). NULL: skipped. */
Vm *restore_begin_held(RestoreScene *s);
/* The same of a scene that has begun. It needs restore_has_faults(). */
Vm *restore_start_held(const RestoreScene *s);
/* The same in its parts, with hold.h: faults after which nothing fills and the guest's reads end
 * soon (the file is small: it could all be here before the guest runs). */
#define RESTORE_HELD "destination/*/at/fill=hold;destination/postcopy-active/call/read-file#30=hold"
void restore_release(Vm *vm);
/* After restore_release(); VM can be NULL. */
void restore_end_held(RestoreScene *s, Vm *vm);

/* The engine did it, by faults and fill. */
void restore_check_info(Vm *vm);
/* It runs, and has never seen a wrong counter. */
void restore_check_goes_on(const RestoreScene *s, Vm *vm);
/* The same of one that has just been restored, with what it was when it was saved. */
void restore_check_restored(const RestoreScene *s, Vm *vm);
/* Of query-migrate (g_free). */
char *restore_error_desc(Vm *vm);
/* After postcopy-paused: PATH is named, and all is well. */
void restore_recovers(const RestoreScene *s, Vm *vm, const char *path);

#endif
