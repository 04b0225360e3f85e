/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest with disks, of which farfault snapshot --disks is asked; and what must be true of them,
 * of the folder for their overlays and of the manifest afterwards.
 */
#ifndef FF_TESTS_DISKS_RIG_H
#define FF_TESTS_DISKS_RIG_H

#include "tests/lib/snapshotcli.h"
#include "tests/qtest/snapshot-rig.h"

#define LINE "from now on the guest has to be started with "
#define UNKNOWN "whether the guest has gone on with the overlays is not known"
#define SLOW "65536" /* bytes per second: longer than any test lasts */

typedef struct {
    Snap snap;
    char *images, *folder; /* where its images are, and their overlays come to */
    char *d1, *d2;         /* images: raw, qcow2 */
    char *manifest;
    char *before; /* disks_of() */
    unsigned nodes;
} Rig;

/* With MORE arguments (NULL-terminated; can be NULL), in which %s is R->d2. Always: the disk that
 * it boots from (disk0), and D1. QEMU, FAULTS: can be NULL. FALSE: the test is skipped. */
bool rig_begin(Rig *r, const char *qemu, const char *faults, const char *const *more);
/* The guest continues, and counts right; all is freed. */
void rig_end(Rig *r);
/* The same without the guest. */
void rig_free(Rig *r);
/* SLOWLY: until somebody ends it. */
Cli rig_ask(Rig *r, bool slowly);

/* "DEVICE DRIVE NODE IMAGE" of each disk that has a medium, one a line (g_free). */
char *rig_disks_of(Vm *vm);
/* The list that ANSWER has as "return". */
JsonArray *rig_list(JsonObject *answer);

/* What QEMU has now is what must be there afterwards. */
void rig_look(Rig *r);
/* Nothing of the snapshot is left, nor of its overlays, in QEMU and in files. */
void rig_check_as_before(Rig *r);
/* The manifest has that STATE, SAID as its line, and N disks, whose overlays can be read. */
void rig_check_manifest(Rig *r, const char *said, const char *state, unsigned n);
/* What the manifest says that the guest must be started with (g_free). */
char *rig_start_of(const Rig *r);
/* The guest uses each overlay of the manifest, and none of the bases. */
void rig_check_in_use(Rig *r);
/* The command has failed with PART (* is anything) in its line; the next one, which is returned
 * (g_free), begins so and says what the guest has. */
char *rig_fails_with_line(Cli *cli, const char *part, const char *begin);
/* The last line of TEXT (borrowed), which loses its end. */
char *rig_last_line(char *text);

/* An image of 4 MiB, full of ones (g_free its path). */
char *rig_image_new(const char *folder, const char *name, bool qcow2);
/* A program, which must succeed. */
void rig_run(const char *const *argv);
char *rig_checksum(const char *path);
unsigned rig_count_files(const char *folder);
/* With what is in it. */
void rig_remove_folder(char *folder);

#endif
