/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One migration, as its driver (qapi/) sees it: start, switch over, cancel, look at.
 *
 * All functions are called from the main loop's thread and none of them blocks. The callbacks
 * of FfMigrationOps come on the main loop's thread too, by g_main_context_invoke order, so the
 * driver needs no lock. Knows nothing of QMP text.
 */
#ifndef FF_MIGRATION_MIGRATION_H
#define FF_MIGRATION_MIGRATION_H

#include "migration/common/config.h"

typedef struct FfMigration FfMigration;

void ff_migration_info_free(FfMigrationInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfMigrationInfo, ff_migration_info_free)

/* Starts a migration by CONFIG (copied). For a destination with a URI it listens at once, so an
 * address in use is an error here. Returns NULL and sets ERROR if it cannot start. */
FfMigration *ff_migration_start(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error);
/*
 * For an engine that finds a migration under way whose engine died (state->phase is not IDLE):
 * rolls it back, pauses it, or ends it, as the phase says; then statuses and done() come as from
 * any migration. CONFIG's fd is the device-state socket that was held as "inner", or -1.
 */
FfMigration *ff_migration_adopt(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error);
/* Asks for the switch to postcopy; at any moment after the start. */
bool ff_migration_start_postcopy(FfMigration *m, GError **error);
/* migrate-continue: leave pre-switchover. */
bool ff_migration_continue(FfMigration *m, FfStatus from, GError **error);
/* Before the grant: rolls back, status goes cancelling -> cancelled. After it: error. */
bool ff_migration_cancel(FfMigration *m, GError **error);
/* Postcopy or recovery only: breaks the channels on purpose -> postcopy-paused. */
bool ff_migration_pause(FfMigration *m, GError **error);
/* Source, postcopy-paused: connects to URI, or continues over FD (taken; -1 with a URI). What
 * comes of it is told by the status: postcopy-active, or postcopy-paused again. RECOVER_SETUP:
 * the client knows postcopy-recover-setup. */
bool ff_migration_resume(FfMigration *m, const char *uri, int fd, bool recover_setup,
                         GError **error);
/* Live change of auto_recover_s. */
void ff_migration_set_auto_recover(FfMigration *m, unsigned seconds);
/* Source, postcopy-paused: takes the guest back from a destination that has loaded it and never
 * ran it. What comes of it is told by the status: failed (the guest continues here), or
 * postcopy-paused again. URI NULL, FD -1: where the connection was. FORCE: the client knows that
 * the destination has ended without having run it; nobody is asked. */
bool ff_migration_revoke(FfMigration *m, const char *uri, int fd, bool force, GError **error);
/* The same when it is over, completed, and STATE's guest the destination's, which is not asked any
 * more: FORCE must be set. cont is obeyed here from then on. With no migration under way. */
bool ff_migration_reclaim(FfStateHeader *state, bool force, GError **error);
/* After done(): TRUE if the object is to live on until parted(): its peer is still to be told of
 * the end, or it makes huge pages. It may be freed at any time. */
bool ff_migration_lives_on(FfMigration *m);
/* What it lives on for serves speed alone: huge pages. */
bool ff_migration_is_spare(const FfMigration *m);
/* This process is about to end: if it is because the VMM has ended in the middle of postcopy, and
 * not the relay alone, the peer is told that what only this side had is gone. */
void ff_migration_vmm_ended(FfMigration *m);
/* A peer waits for the word that this side's VMM has ended, or is being told so: this process must
 * live until it is FALSE. The main loop's context is woken up then. */
bool ff_migration_speaks(FfMigration *m);
/* After done(), of a live snapshot: nothing is registered in its userfaultfd, which can be used for
 * the next one. */
bool ff_migration_frees_uffd(const FfMigration *m);
/* TRUE: it had TLS, and FfMigrationConfig.tls_refusal still holds. */
bool ff_migration_lacks_tls(FfMigration *m);
/* The answer to FfMigrationOps.sync. */
void ff_migration_synced(FfMigration *m);
/* Gives such a migration its credentials (a reference is taken; HOSTNAME is copied, can be NULL).
 */
void ff_migration_set_tls(FfMigration *m, FfTls *tls, const char *hostname);
/* Destination, postcopy-paused: listens at URI, or waits for the source on FD (taken; -1 with a
 * URI), in place of where it listened before. */
bool ff_migration_recover(FfMigration *m, const char *uri, int fd, GError **error);
/* Its guest comes from a file: it has no connection, and none to recover. */
bool ff_migration_is_restore(FfMigration *m);
/* Something waits for the end of it. */
void ff_migration_hurry(FfMigration *m);
/* Restore, postcopy-paused: continues with the file at PATH, which must be the same. */
bool ff_migration_recover_file(FfMigration *m, const char *path, GError **error);
/* Destination, postcopy-paused, of a guest that was granted to it: what is missing comes from the
 * source's dump in directory PATH (absolute). What comes of it is told by the status:
 * postcopy-active, or postcopy-paused again. */
bool ff_migration_recover_dump(FfMigration *m, const char *path, GError **error);
/* Destination: one has taken the source's place, for good. */
bool ff_migration_has_dump(FfMigration *m);
/* A destination that is completed, but waits for its source to know it, waits no more. */
void ff_migration_stop_waiting(FfMigration *m);
/* Destination: the client's cont. *NOW: the guest may run and the caller must pass it to QEMU;
 * else it is remembered and carried out after the grant. */
bool ff_migration_client_cont(FfMigration *m, bool *now, GError **error);
typedef enum {
    FF_STOP_REFUSED, /* it is somebody else's to stop by now; ERROR says so */
    FF_STOP_IS_VMMS, /* the guest is not held: the caller passes it to QEMU */
    FF_STOP_STANDS,  /* the guest stands, and is not to run afterwards, neither at the destination
                        nor here after a rollback */
    FF_STOP_LATER,   /* it is being stopped, or started: it is not known yet that it stands. The
                        caller asks again after FfMigrationOps.moved or .done */
} FfStopSaid;

/* The client's stop. *HOLDS: the guest is not QEMU's to stop or start now, and what is said is
 * remembered. */
FfStopSaid ff_migration_client_stop(FfMigration *m, bool *holds, GError **error);
/* FfMigrationOps.words: it has been done. */
void ff_migration_words_heard(FfMigration *m);
/* QEMU says that the guest runs again. TRUE: somebody else's doing (a monitor that is QEMU's own),
 * while it has no right to run here: the caller stops it. A source that may still roll back does
 * so. */
bool ff_migration_resumed(FfMigration *m);
/* QEMU says that it has given its own migration up. A source that may still roll back does so: the
 * end of the device state may never come, since QEMU 7.2 leaves its return path waiting. */
void ff_migration_vmm_failed(FfMigration *m);
/* TRUE while the guest may not run here because of this migration (S: from stop on; D: until the
 * grant). */
bool ff_migration_holds_guest(FfMigration *m);
void ff_migration_set_bandwidth(FfMigration *m, uint64_t max_bandwidth,
                                uint64_t max_postcopy_bandwidth);
/* Live changes of the parameters of the same name in the configuration. */
void ff_migration_set_switchover(FfMigration *m, uint64_t downtime_limit,
                                 uint64_t switchover_bandwidth, bool auto_postcopy);
FfMigrationInfo *ff_migration_info(FfMigration *m);
/* Joins the threads, closes everything. Only after done(). */
void ff_migration_free(FfMigration *m);

#endif
