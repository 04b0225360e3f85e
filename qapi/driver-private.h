/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the driver: the object, one command under way (FfCall), and what its files share.
 *
 * All of it belongs to the main loop's thread.
 */
#ifndef FF_QAPI_DRIVER_PRIVATE_H
#define FF_QAPI_DRIVER_PRIVATE_H

#include <netdb.h>

#include "migration/migration.h"
#include "qapi/json.h"
#include "qapi/port.h"
#include "qapi/schema.h"
#include "qapi/tls.h"
#include "qapi/uri.h"

typedef struct FfDriver FfDriver;
typedef struct FfCall FfCall;
typedef struct FfIncoming FfIncoming;
typedef struct FfOutgoing FfOutgoing;

/* What the side that starts a migration does when it continues. */
typedef struct {
    /* QEMU carries it: the peer has no farfault, or this side is refused. */
    void (*plain)(FfDriver *driver, const FfPlainPeer *peer);
    void (*active)(FfDriver *driver); /* the peer is known */
    void (*done)(FfDriver *driver, FfMigration *migration);
    bool needs_events; /* whoever has asked for it waits for those of its own, whatever clients want
                        */
} FfStartOps;

struct FfDriver {
    FfDriverConfig config;
    void (*dispatch)(FfCall *call); /* runs the handler of call->name; driver.c */
    GHashTable *clients;            /* mon -> GQueue of FfCall: one runs at a time, in order */
    GHashTable *waiting;            /* seq of TAKE_FD and INJECT -> what waits for the answer */
    GPtrArray *names;               /* host names that are being asked for; requests.c */
    uint32_t next_seq;
    unsigned calls;  /* under way */
    uint32_t filter; /* the relay's, as told last */
    guint linger;    /* source of the one-shot timer; 0: not running */

    FfMigration *migration;      /* NULL: none under way */
    FfTotals totals;             /* before it; totals.c */
    bool counting;               /* it is in the stored ones */
    const FfStartOps *start_ops; /* of the last one */
    FfIncoming *incoming;        /* NULL: we do not listen for a source */
    int snapshot_uffd;           /* of a live snapshot under way; -1: none */
    GPtrArray *kept_events;      /* of an upgrade under way: char *, for clients to come; NULL */
    unsigned attendant;          /* the client whose end is its end; UINT_MAX: none */
    FfMigration *parting;        /* over, and lives on (ff_migration_lives_on()); NULL */
    bool hurried;                /* the relay waits for this engine's end; until the next start */
    FfOutgoing *outgoing;        /* NULL: QEMU carries none that we splice */
    char *uri;                   /* where the migration goes to; NULL: an fd */
    char *client_uri;            /* the same as the client wrote it, for QEMU */
    FfStatus status;             /* as last reported */
    bool events;                 /* the client wants MIGRATION events */
    bool inner_begun; /* QEMU may have said, or say, what nobody is to see: an inner migration's */
    guint paused_timer;                             /* postcopy-paused is said later; 0: no */
    gint64 told_active;                             /* us: the client was, last; 0: not by us */
    FfCall *resuming;                               /* its answer waits for the peer; NULL */
    guint resume_timer;                             /* no longer than this; 0: no resuming */
    bool resume_begun;                              /* the status has left postcopy-paused */
    bool blocktime;                                 /* the client asked for postcopy-blocktime */
    bool has_singlestep;                            /* this QEMU's query-status has that member */
    char *globals;                                  /* first lines of "info migrate"; NULL */
    uint64_t downtime_limit;                        /* ms, the client's */
    uint64_t switchover_bandwidth;                  /* avail-switchover-bandwidth, the client's */
    uint64_t max_bandwidth, max_postcopy_bandwidth; /* the client's; bytes per second */
    JsonArray *socket_address;                      /* where this destination listens; NULL */
    bool restoring;                                 /* QEMU's settings are being put back */
    bool taking_back; /* an engine died before it gave its guest away: that is being undone */
    bool lifting;     /* or in a live snapshot: its protection is being taken away */
    GQueue waiting_restored; /* what waits for that; restore-settings.c */
    GQueue waiting_moved; /* stop, while the guest is being stopped or started; cont-stop-order.c */
    uint32_t words_seq;   /* of the last FF_LINK_SYNC for cont and stop; cont-stop-order.c */
    GQueue waiting_over;  /* what came after a migration's last event; wait-for-end.c */
    bool looking;         /* QEMU is asked how its migration stands; qemu-migration-status.c */
    bool asking_caps;     /* QEMU, for what was set without an engine; capabilities.c */
    GQueue waiting_caps;  /* FfCall: what waits for its answer */
    /* What waits for the end of a restore; after-restore.c. */
    bool deferring;          /* from its answer until it has begun, or is over */
    bool deferred_cancelled; /* while it begins */
    bool deferred_over;      /* it is, before it began: that is what query-migrate says of it */
    FfCall *deferred;        /* NULL: there is none, or it begins */
    void (*deferred_next)(FfCall *call);
};

typedef void (*FfHandler)(FfCall *call);
typedef void (*FfCallInner)(FfCall *call, JsonNode *result, const GError *error);

/* A live snapshot that a command asks for. */
typedef struct {
    char *path; /* NULL: the client's file, which the call has */
    uint64_t offset, buffer;
    bool mapped;
    bool has_bandwidth; /* else the parameter's */
    uint64_t bandwidth; /* bytes per second; 0: no limit */
    bool own;           /* asked for by x-farfault-snapshot: QEMU takes none in its place */
    GPtrArray *disks;   /* FfDisk *; NULL: they are left alone */
    bool attended;      /* it ends with its client */
    bool detached;      /* the client was answered before it began: FfCall.gone says nothing */
    int fd;             /* the client's file, while call->fd is for the userfaultfd; -1 */
    char *refusal;      /* call->native; NULL */
} FfSnapshotRequest;

/* One command of a client, from its arrival to its answer. */
struct FfCall {
    FfDriver *driver;
    unsigned mon;
    uint32_t seq;
    char *id;   /* text of its id; NULL: none */
    char *name; /* "migrate", ...; of the QMP command also when it came by HMP */
    JsonObject *args;
    bool oob;
    bool gone; /* the client is: nobody wants the answer */
    /* By HMP: how to write a result as text (NULL: nothing is written). */
    bool hmp;
    void (*render)(GString *out, JsonNode *result);
    char *preface; /* stands before the text; NULL */

    /* Collected on the way by the handlers of migrate and migrate-incoming. */
    FfUri target;
    JsonNode *inner_capabilities; /* QEMU's, or the undo log's */
    JsonNode *capabilities;       /* the client's */
    JsonNode *parameters;
    FfHandler next;
    FfHandler restored;      /* of ff_call_restore() */
    FfHandler next_restored; /* of ff_call_after_restore() */
    /* In place of an answer that is an error, for a call of our own; NULL. */
    void (*failed)(FfDriver *d, const char *why);
    /* In place of the client's line, which has been answered: QEMU is given the command; NULL. */
    void (*pass)(FfCall *call);
    int fd;
    FfTlsChoice tls;
    const char *native; /* why QEMU carries it though the engine was asked for; static; NULL */
    FfSnapshotRequest *snapshot; /* it asks for one; NULL: it does not */
    bool patient;                /* QEMU may take any time for what it is asked */
    bool as_eager;               /* it asks for a restore, and takes it for QEMU's own */
    gpointer addition;           /* object-add's own, objects.c; NULL */
    gpointer late;               /* return-path.c's own; NULL */
    gpointer kept;               /* restore-disks.c's own; NULL */
    unsigned others_asked;       /* unknown-devices.c's own */
    bool others;                 /* ff_call_when_others_known(): there are some */
    const char *why;             /* it is QEMU's to carry; static; NULL */
};

/* The answer; each ends CALL and frees it. RESULT is taken, NULL is {}. */
void ff_call_return(FfCall *call, JsonNode *result);
void ff_call_error(FfCall *call, const char *format, ...) G_GNUC_PRINTF(2, 3);
void ff_call_gerror(FfCall *call, const GError *error);
/* Text of the human monitor, as QEMU has given it. */
void ff_call_text(FfCall *call, const char *text);
/* QEMU answers what the client wrote. */
void ff_call_pass(FfCall *call);
/* QEMU's answer to a command of ours becomes the client's (FfCallInner). */
void ff_call_forward(FfCall *call, JsonNode *result, const GError *error);

/* Asks QEMU on the private monitor and continues with NEXT. ARGS is taken (may be NULL). A QEMU
 * that does not answer in time is an error. */
void ff_call_inner(FfCall *call, const char *command, JsonObject *args, FfCallInner next);
/* The same, with FD (borrowed). */
void ff_call_inner_fd(FfCall *call, const char *command, JsonObject *args, int fd,
                      FfCallInner next);
/* QEMU was given a socket by NAME, and refuses to migrate over it: then it does not close it. */
void ff_driver_close_given(FfDriver *driver, const char *name);
/* A call of our own, that no client waits for: its answer goes nowhere. */
FfCall *ff_call_new_own(FfDriver *driver);

/* Takes the fd that the client gave with getfd NAME; continues with NEXT, call->fd is it or -1. */
void ff_call_take_fd(FfCall *call, const char *name, FfHandler next);
/* Takes QEMU's userfaultfd for synchronous write protection from the relay; continues with NEXT:
 * call->fd is it, FF_MARK_PROTECTED is set; or there is an error (one line). The relay has a copy,
 * so nobody is let go by closing it: one of the next two must be called, also if the client is
 * gone. */
void ff_call_take_uffd(FfCall *call, FfCallInner next);
/* The contrary; nothing is registered in FD, which is taken. */
void ff_driver_give_uffd(FfDriver *driver, int fd);
/* Something is, and cannot be taken out: the last copies are closed, FD as well, and a thread that
 * waits continues. The guest has no live snapshots any more. */
void ff_driver_lose_uffd(FfDriver *driver, int fd);
/* unprotect.c. Takes the protection away that an engine before this one has left. */
void ff_driver_lift_protection(FfDriver *driver);
/* Runs COMMAND for QEMU on the client's own connection; ARGS is taken. */
void ff_call_inject(FfCall *call, const char *command, JsonObject *args, FfCallInner next);

/* Finds the addresses of HOST and PORT to listen at (ff_resolve(); FAMILY as there) and continues
 * with NEXT: LIST, which is gone afterwards, or ERROR in QEMU's words. However long that takes the
 * main loop continues. */
typedef void (*FfCallResolved)(FfCall *call, const struct addrinfo *list, const GError *error);
void ff_call_resolve(FfCall *call, const char *host, const char *port, int family,
                     FfCallResolved next);
/* The driver ends: no name is waited for any more. */
void ff_driver_forget_names(FfDriver *driver);

/* Without an answer. */
void ff_call_free(FfCall *call);
/* Runs the handler of call->name. */
void ff_call_dispatch(FfCall *call);
/* human-monitor-command: hmp.c. */
void ff_hmp_command(FfCall *call);

/* One frame to the relay, without an fd. */
void ff_driver_send(FfDriver *driver, FfLinkType type, unsigned mon, uint32_t seq,
                    const char *payload, gsize length);
/* FD_REPLY or INJECT_REPLY has come. Takes FD. requests.c. */
void ff_driver_relay_answer(FfDriver *driver, uint32_t seq, const char *payload, gsize length,
                            int fd);
/* An event for the clients; DATA is taken. */
void ff_driver_event(FfDriver *driver, const char *name, JsonObject *data);
void ff_driver_filter(FfDriver *driver, uint32_t filter);
/* Closes what QEMU's memory could be read through: a peer is to be spoken to. Safe to call twice.
 */
void ff_driver_close_mem(FfDriver *driver);
/* What is under way is another engine's from here on; why was logged. */
void ff_driver_fail(FfDriver *driver);
/* Something began or ended: the linger timer is set or stopped. */
void ff_driver_touch(FfDriver *driver);
/* It says IDLE now, or as soon as all that is left would be of use only later. */
void ff_driver_rest(FfDriver *driver);
/* QEMU's; the oldest that is served while it is not known. Versions differ in words. */
unsigned ff_driver_version(FfDriver *driver);
#define FF_QEMU_7_2 70200
#define FF_QEMU_8_1 80100
#define FF_QEMU_8_2 80200
#define FF_QEMU_9_1 90100
#define FF_QEMU_10_1 100100
#define FF_QEMU_11_1 110100
/* The guest's migration is the engine's, or QEMU's settings are not its own: QEMU is given no
 * command that we have not understood. */
bool ff_driver_is_engaged(FfDriver *driver);
void ff_driver_log(FfDriver *driver, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* capabilities.c. Collects call->capabilities and call->inner_capabilities, then NEXT; errors end
 * CALL. */
void ff_call_get_capabilities(FfCall *call, FfHandler next);
bool ff_capability(JsonNode *capabilities, const char *name);
/* QEMU may have other ones than the next function gives it. */
bool ff_call_has_capabilities(const FfCall *call);
/* Gives QEMU the client's postcopy capabilities, then NEXT. */
void ff_call_give_capabilities(FfCall *call, FfCallInner next);
/* Takes them away again. */
void ff_call_take_capabilities(FfCall *call, FfCallInner next);
/* ERROR is QEMU's. If it is about postcopy, in a migration that is QEMU's because of WHY (can be
 * NULL), the client is told both. Ends CALL. */
void ff_call_postcopy_error(FfCall *call, const GError *error, const char *why);
/* TRUE: CALL waits until QEMU has said what it was told of them without an engine, and is
 * dispatched again then; an error of QEMU's is its answer. */
bool ff_capabilities_hold(FfCall *call);
/* The driver ends: nothing waits any more. */
void ff_capabilities_forget(FfDriver *driver);
void ff_handle_set_capabilities(FfCall *call);
void ff_handle_query_capabilities(FfCall *call);
/* The one line why the engine carries no migration of this guest on this side, NULL if it does. */
const char *ff_driver_refusal(FfDriver *driver);

/* qemu-migration-status.c. QEMU has said STATUS of a migration (NULL: nothing). */
void ff_carried_status(FfDriver *driver, const char *status);
/* Asks QEMU, if it migrates over connections of the engine's. */
void ff_carried_look(FfDriver *driver);

/* parameters.c */
void ff_call_get_parameters(FfCall *call, FfHandler next);
void ff_handle_set_parameters(FfCall *call);
void ff_handle_query_parameters(FfCall *call);
/* Takes max-bandwidth, downtime-limit, ... of PARAMETERS into the driver. */
void ff_driver_take_parameters(FfDriver *driver, JsonObject *parameters);
/* Seconds. */
unsigned ff_driver_peer_timeout(const FfDriver *driver);
/* x-farfault-channels, x-farfault-zstd-level. */
unsigned ff_driver_channels(const FfDriver *driver);
unsigned ff_driver_zstd_level(const FfDriver *driver);

/* tls-requests.c. Fills call->tls by what tls-creds, tls-hostname and tls-authz of call->parameters
 * name, if they do and the engine fits; then NEXT, which looks for call->tls.error. */
void ff_call_get_tls(FfCall *call, bool server, FfHandler next);
/* Gives CONFIG the credentials of CALL, and has them kept beyond a crash. */
void ff_driver_use_tls(FfCall *call, FfMigrationConfig *config);
/* The same for a migration whose engine died. */
void ff_driver_adopt_tls(FfDriver *driver, FfMigrationConfig *config, FfTlsChoice *choice);
/* Before a new connection: credentials that could not be read then may be readable now. FALSE and
 * ERROR: they are not. */
bool ff_driver_read_tls_again(FfDriver *driver, GError **error);
/* The migration is over. */
void ff_driver_forget_tls(FfDriver *driver);

/* query.c */
void ff_handle_query_migrate(FfCall *call);

/* info.c */
/* What decides about the members beside the migration itself. */
typedef struct {
    unsigned version;          /* QEMU's */
    uint64_t downtime_limit;   /* ms, the client's */
    bool blocktime;            /* the client asked for postcopy-blocktime */
    JsonArray *socket_address; /* where this destination listens; NULL */
    bool client_stopped;       /* destination: the guest stands as a client wants it, not for -S */
} FfInfoView;
FfInfoView ff_info_view(FfDriver *driver);
JsonObject *ff_info_to_json(const FfMigrationInfo *info, const FfInfoView *view);
char *ff_info_summary(const FfMigrationInfo *info);
/* Keeps INFO in the state memfd for queries after the migration; NULL forgets it. */
void ff_driver_store_info(FfDriver *driver, const FfMigrationInfo *info);
/* Status of the last migration that the engine carried, "none" if it carried none (g_free). */
char *ff_driver_stored_status(FfDriver *driver);
/* QEMU carries the migration that begins, because of WHY: kept for queries, and logged. */
void ff_driver_store_native(FfDriver *driver, const char *why);
void ff_driver_store_failure(FfDriver *driver, FfRole role, const char *why);
/* The same of any end; WHY can be NULL. */
void ff_driver_store_end(FfDriver *driver, FfRole role, FfStatus status, const char *why);
/* STATUS, and how far the restore is of which INFO is; NULL: that is over. */
JsonObject *ff_info_beside_restore(FfStatus status, const FfMigrationInfo *info);

/* totals.c: nothing where a migration is not counted */
/* A use begins. Before its first status. */
void ff_totals_begin(FfDriver *driver, FfUse use);
/* The one that the engine before this one had under way. */
void ff_totals_adopt(FfDriver *driver);
void ff_totals_status(FfDriver *driver, FfStatus status);
/* Its numbers as they are now. */
void ff_totals_look(FfDriver *driver);
void ff_totals_end(FfDriver *driver, const FfMigrationInfo *info);
/* It was none of the engine's: QEMU carries it, or it did not begin. */
void ff_totals_drop(FfDriver *driver);
/* Nothing is under way: an engine that died at the end of something, or an older one that has
 * taken it over, may have left it there. */
void ff_totals_settle(FfDriver *driver);

/* policy.c */
/* Whether the engine can carry what the client has set up; else CALL's native says what stands
 * against the engine, if it is not what the client has set up. */
bool ff_policy_engine_carries(FfCall *call);
/* Why the client's migration is not QEMU's to carry (g_free): with such devices QEMU's own postcopy
 * loses the guest, or the device: qemu-storage-daemon says where its faults are wrongly, and one
 * that has its memory locked fills what is missing with zeros (docs/design/vhost-user.md). WHY:
 * what stands against the engine; NULL: the peer has none. NULL: it is, also if its client wants it
 * to be. */
char *ff_policy_would_lose(const FfDriver *driver, bool others, const char *why);
/* OTHERS: of such devices one was plugged, and stayed QEMU's own; as the engine's check has found,
 * if there was one. */
bool ff_policy_found_others(const FfDriver *driver);
/* It is worth a question whether there are. */
bool ff_policy_asks_for_others(const FfDriver *driver);
/* Asks QEMU if it is, and continues with NEXT: call->others. */
void ff_call_when_others_known(FfCall *call, FfHandler next);
/* Of a source: QEMU's own migration of this guest is not to begin before the peer has said
 * something: with these capabilities somebody may ask for the switch. */
bool ff_policy_answered_first(const FfDriver *driver, JsonNode *capabilities);
/* The engine carries it, or speaks to the peer before QEMU does. */
bool ff_policy_engine_begins(FfCall *call);

/* fdstore.c */
/* Keeps FD (taken; -1: drops it) under NAME beyond a crash of this process. */
void ff_driver_keep(FfDriver *driver, const char *name, int fd);

/* QEMU's own words for what must wait for the end of a migration. */
#define FF_MIGRATING "There's a migration process in progress"

/* pass-to-qemu.c */
/* Gives QEMU the client's postcopy capabilities, then PASS: QEMU carries this migration. */
void ff_call_pass_native(FfCall *call);
/* Another client's migration was faster, and QEMU is to begin none: then an error ends CALL. */
bool ff_call_too_late(FfCall *call);

/* return-path.c */
/* NEXT, when nothing of a migration that has failed or was cancelled can meet the next one in QEMU
 * any more; after a second in any case. */
void ff_call_after_return_path(FfCall *call, FfHandler next);

/* migration-ops.c */
/* Starts the migration; CONFIG's URI, fd and role are set. The answer of ff_migration_start. */
bool ff_driver_start(FfDriver *driver, FfMigrationConfig *config, JsonNode *capabilities,
                     const FfStartOps *start_ops, GError **error);
/* Takes over the migration of an engine that died, as the state memfd has it. */
void ff_driver_adopt(FfDriver *driver, const FfStartOps *start_ops);
/* Destination: the guest is not to run when it has arrived, by -S or by what the client has said
 * before migrate-incoming. */
bool ff_driver_begins_paused(const FfDriver *driver);
/* Whether the guest of an engine that died is to stand: the client's last word. */
bool ff_driver_adopts_paused(const FfDriver *driver);

/* qemu-blockers.c */
/* Of query-migrate's INFO: QEMU carries a migration. Why it refuses one (g_free, NULL: it does
 * not). */
bool ff_blocked_by_migration(JsonNode *info);
/* Whether QEMU's query-migrate (INFO) says that its last one has failed, was cancelled or is
 * completed. */
bool ff_has_ended(JsonNode *info);
char *ff_blocked_by(JsonObject *info);

/* snapshot.c */
void ff_handle_snapshot(FfCall *call); /* x-farfault-snapshot */
/* A migrate whose capabilities are known asks for a live snapshot; then it becomes one. */
bool ff_snapshot_is_wanted(FfCall *call);
void ff_snapshot_migrate(FfCall *call);
/* The one that is under way is a live snapshot: the guest runs here, and nothing of its run state
 * is hidden. */
bool ff_driver_takes_snapshot(const FfDriver *d);
/* The client MON is gone. */
void ff_snapshot_client_gone(FfDriver *d, unsigned mon);

/* restore.c */
void ff_handle_restore(FfCall *call); /* x-farfault-restore */
/* A migrate-incoming whose capabilities are known asks for a lazy restore; with the parameters it
 * becomes one. */
bool ff_restore_is_wanted(FfCall *call);
void ff_restore_incoming(FfCall *call);
/* migrate-recover, of a migration that is a restore. */
void ff_restore_recover(FfCall *call);

/* migration-ops.c */
/* The client of a restore that fills was told that it is over. */
bool ff_driver_fills_unseen(const FfDriver *d);

/* after-restore.c */
/* FALSE: no restore is under way. Else CALL is answered, or NEXT is called with it, or with one of
 * our own in its place, when the restore is over. */
bool ff_call_after_restore(FfCall *call, FfHandler next);
/* deferred.c */
/* The guest's memory comes from a file. */
bool ff_restore_is_under_way(const FfDriver *d);
/* The restore is over: what waits begins. */
void ff_deferred_go_on(FfDriver *driver);
/* A migration was started, or QEMU was given one. */
void ff_deferred_begun(FfDriver *driver);
/* It will not begin. */
void ff_deferred_fail(FfDriver *driver, const char *why);
/* It is over before it began, as STATUS; the restore may continue. WHY can be NULL. */
void ff_deferred_end(FfDriver *driver, FfStatus status, const char *why);
/* FfCall.failed */
void ff_deferred_failed(FfDriver *driver, const char *why);
/* migrate_cancel; FALSE: nothing waits. */
bool ff_deferred_cancel(FfDriver *driver);
/* The engine before this one may have died while something waited. */
void ff_deferred_adopt(FfDriver *driver);

/* upgrade.c */
void ff_handle_lend(FfCall *call);      /* x-farfault-lend */
void ff_handle_hand_over(FfCall *call); /* x-farfault-hand-over */
void ff_handle_take_over(FfCall *call); /* x-farfault-take-over */
/* Answers CALL if it would touch guest memory that is another QEMU's still. */
bool ff_upgrade_refuses(FfCall *call);
/* The new QEMU's memory is guarded by its old one, and must stay so. */
bool ff_driver_is_guarded(const FfDriver *driver);
extern const FfStartOps ff_upgrade_ops;

/* commands.c */
/* Of migrate. */
extern const FfStartOps ff_migrate_ops;
void ff_handle_migrate(FfCall *call);
void ff_handle_start_postcopy(FfCall *call);
void ff_handle_cancel(FfCall *call);
void ff_handle_continue(FfCall *call);

/* wait-for-end.c */
/* TRUE: this side's migration has had its last event, and is not taken down yet. NEXT is called
 * with CALL when it is: a client that acts on the event is not told that a migration is under way.
 */
bool ff_call_when_over(FfCall *call, FfHandler next);
/* The same of a guest that is just taken over from another QEMU, at its new one: settings that a
 * client changes again and again would keep it from putting back its own (ff_qemu_undo()). */
bool ff_call_when_taken_over(FfCall *call, FfHandler next);
/* The same, of what begins something else: FALSE as long as the guest may go back to its old QEMU.
 */
bool ff_call_when_guest_is_here(FfCall *call, FfHandler next);
/* This QEMU has its guest: it borrows no memory, or the guest is its own for good. */
bool ff_driver_has_guest(const FfDriver *d);
/* The same of a guest that came in and is whole: only its source does not know it yet, and has no
 * claim to more time. (Of a restore a client may be told so before its memory is here: FALSE
 * then.) */
bool ff_call_when_whole(FfCall *call, FfHandler next);
/* The same, whatever it has said: it is about to end (there is one). */
void ff_call_await_end(FfCall *call, FfHandler next);
/* It is taken down. */
void ff_driver_migration_over(FfDriver *driver);

/* events.c */
/* Whether the client has the capability "events"; an engine that adopts must know. */
void ff_driver_want_events(FfDriver *driver, bool on);
/* A migration begins, whose STATUS needs no event. */
void ff_driver_report_anew(FfDriver *driver, FfStatus status);
/* Reports STATUS: the event, if the client wants it and it is a change. */
void ff_driver_report(FfDriver *driver, FfStatus status);
/* CALL's client moves the guest away. */
void ff_driver_client_is(FfCall *call);
/* CALL asks for the status; what it is told of STATUS. */
void ff_driver_client_looked(FfCall *call);
FfStatus ff_driver_client_sees(const FfCall *call, FfStatus status);
/* The client has said cont or stop, which an engine that adopts must know. */
void ff_driver_client_runs(FfDriver *driver, bool run);
/* It said cont to QEMU: what it said before that is over. */
void ff_driver_client_forget(FfDriver *driver);
/* CALL is answered when the resumed migration stands, or has failed again. */
void ff_driver_hold_resume(FfCall *call);
void ff_driver_report_clear(FfDriver *driver);

/* recover.c */
void ff_handle_pause(FfCall *call);
void ff_handle_recover(FfCall *call);
void ff_handle_revoke(FfCall *call);
/* dump.c */
void ff_handle_dump(FfCall *call);
void ff_handle_end(FfCall *call);
/* INFO has a half. */
JsonObject *ff_split_to_json(const FfMigrationInfo *info);
/* migrate with resume=true; driver->migration is there. */
void ff_resume_migration(FfCall *call);

/* incoming-command.c */
void ff_handle_incoming(FfCall *call);
/* incoming-start.c */
void ff_driver_start_incoming(FfDriver *driver, uint32_t seq, const char *uri);
/* Goes on where the engine before this one listened, if nobody had been greeted. */
void ff_driver_listen_again(FfDriver *driver);
/* incoming.c */
void ff_incoming_free(FfIncoming *incoming);
/* Removes the name of QEMU's own socket, if it has one still. */
void ff_incoming_remove_name(FfIncoming *incoming);
/* The source is known, and nobody else is awaited: listens no more, but for what the migration
 * has of it. */
void ff_incoming_release(FfIncoming *incoming);
/* QEMU carries it over connections that we splice. */
bool ff_incoming_is_native(const FfIncoming *incoming);
/* The client's cont or stop while nobody has connected yet. */
void ff_incoming_set_paused(FfIncoming *incoming, bool paused);

/* FfStartOps, for a source, too: a guest that leaves may have come in by QEMU. */
void ff_incoming_active(FfDriver *driver);
void ff_incoming_done(FfDriver *driver, FfMigration *migration);
/* incoming-stream.c */
extern const FfStartOps ff_incoming_ops;

/* outgoing.c */
/* QEMU is to carry it: the destination has no farfault, or this side is refused. URI: where it goes
 * to, NULL if it cannot be connected to. */
void ff_outgoing_start(FfDriver *driver, const FfPlainPeer *peer, const char *uri);
void ff_outgoing_free(FfOutgoing *outgoing);
/* Its connections are over: QEMU's end of them, too. */
void ff_outgoing_end(FfDriver *driver);
/* Removes the name of the socket that QEMU connects to, if it has one still. */
void ff_outgoing_remove_name(FfOutgoing *outgoing);
/* A new engine: if the one before it died before QEMU had begun, the client hears that it failed.
 */
void ff_outgoing_look(FfDriver *driver);
/* Of QEMU's query-migrate (INFO), before a migration begins that it may come to carry. */
void ff_outgoing_note_older(FfDriver *driver, JsonNode *info);
/* QEMU has its migration; else it may not be freed, as QEMU's answers are waited for. */
bool ff_outgoing_has_begun(const FfOutgoing *outgoing);
/* TRUE: CALL waits until QEMU has begun, and is dispatched again then. */
bool ff_outgoing_holds(FfOutgoing *outgoing, FfCall *call);

/* runstate.c */
void ff_handle_cont(FfCall *call);
void ff_handle_stop(FfCall *call);
void ff_handle_reset(FfCall *call);
void ff_handle_wakeup(FfCall *call);
void ff_handle_query_status(FfCall *call);

/* cont-stop-order.c */
/* NEXT, when the guest is no more being stopped or started by the engine. */
void ff_call_when_moved(FfCall *call, FfHandler next);
/* That is so, or a call that waits for it must not wait. */
void ff_driver_moved(FfDriver *driver);
/* The switch waits until QEMU has carried out what clients have said; the relay says that QEMU has
 * answered all that it has passed (SEQ: words_seq of then). */
void ff_driver_await_words(FfDriver *driver);
void ff_driver_words_answered(FfDriver *driver, uint32_t seq);

/* refuse.c */
/* Answers CALL if it is something that QEMU must not do during a migration. */
bool ff_call_refuse(FfCall *call);

/* restore-settings.c */
/* QEMU is about to be given a connection that is under TLS already: takes its tls-creds away, until
 * ff_driver_restore_settings(); then NEXT. */
void ff_call_unset_tls(FfCall *call, FfCallInner next);
/* QEMU carries a migration over connections that we splice, or is about to. */
bool ff_driver_splices(FfDriver *driver);
/* A migration that QEMU carried is over: QEMU's settings are put back if the undo log has some. */
void ff_driver_restore_settings(FfDriver *driver);
/* NEXT, as soon as that is not under way, nor the undoing of what an engine has left. */
void ff_call_when_restored(FfCall *call, FfHandler next);
/* What is waited for there may be over. */
void ff_driver_go_on(FfDriver *driver);
/* NEXT, after QEMU's own settings are back: the undo log of a migration that is over may have been
 * left behind. If they cannot be put back, an error ends CALL. */
void ff_call_restore(FfCall *call, FfHandler next);

/* objects.c */
void ff_handle_object_add(FfCall *call);
void ff_handle_object_del(FfCall *call);
/* object_add of the human monitor; TEXT is its argument. */
void ff_hmp_object_add(FfCall *call, const char *text);

#endif
