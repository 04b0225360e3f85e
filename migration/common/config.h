/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a migration is told when it starts, and what it tells: statuses, a snapshot for
 * query-migrate, the callbacks, the configuration. The functions are in migration/migration.h.
 */
#ifndef FF_MIGRATION_COMMON_CONFIG_H
#define FF_MIGRATION_COMMON_CONFIG_H

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>

#include "contract/state.h"
#include "contract/vmm.h"
#include "net/channel.h"
#include "net/tls.h"

/* QEMU's MigrationStatus; ff_status_name() gives QEMU's string. */
typedef enum {
    FF_STATUS_NONE,
    FF_STATUS_SETUP,
    FF_STATUS_CANCELLING,
    FF_STATUS_CANCELLED,
    FF_STATUS_ACTIVE,
    FF_STATUS_POSTCOPY_ACTIVE,
    FF_STATUS_POSTCOPY_PAUSED,
    FF_STATUS_POSTCOPY_RECOVER_SETUP, /* QEMU 9.1 and newer */
    FF_STATUS_POSTCOPY_RECOVER,
    FF_STATUS_COMPLETED,
    FF_STATUS_FAILED,
    FF_STATUS_PRE_SWITCHOVER,
    FF_STATUS_DEVICE,
    FF_STATUS__MAX
} FfStatus;
const char *ff_status_name(FfStatus status);

/* Bulk connections, at most. */
#define FF_CHANNELS_MAX 8
/* Those that are taken where nobody says: as many as this process may use processors, 2 to 4. More
 * would stand in the way of vCPUs that got their pages (docs/decisions.md). Any thread. */
unsigned ff_channels_default(void);

/* One thread of QEMU that waits for a page. */
typedef struct {
    int vcpu; /* index, -1: another thread */
    char *block;
    uint64_t offset; /* in it, bytes */
    int64_t ms;      /* since then */
} FfHalfWait;

/* What one side of a migration between the switch and its end has and waits for. */
typedef struct {
    FfPhase phase;
    uint64_t epoch;
    bool may_run;               /* destination: it was granted the guest */
    int64_t broken_ms;          /* since the connection broke, -1: it stands */
    bool peer_ended;            /* the peer's VMM has ended, as the peer has said */
    bool pages_known;           /* false: an engine that has adopted cannot say what is where */
    uint64_t pages_total;       /* of all guest RAM; 0 as long as such a one has not found it */
    uint64_t pages_destination; /* destination: that are here. Source: that are there, at most:
                                   what was on its way when the connection broke counts. 0: not
                                   known */
    uint64_t bytes_missing;     /* that are not at the destination, as far as that */
    bool released;              /* source: memory was given up that the destination has */
    bool device_state;          /* a copy of it is here, for a dump */
    char *peer_uri;             /* source: where the destination listens; can be NULL */
    FfHalfWait *waits;
    unsigned n_waits; /* at most 64 are named */
} FfSplit;

#define FF_LATENCY_BUCKETS 32
#define FF_PLACES 64 /* equal parts of guest memory, block after block */
#define FF_MAX_VCPUS 512

/* A snapshot for query-migrate and for the summary. Times in milliseconds unless said. */
typedef struct {
    FfRole role;
    FfStatus status;
    char *error_desc;                         /* NULL if none */
    int64_t total_time, setup_time, downtime; /* downtime -1: not known yet, or not here */
    uint64_t ram_total, ram_remaining, ram_transferred; /* bytes */
    uint64_t page_size;                                 /* bytes, of the first block */
    uint64_t pages_normal, pages_zero;                  /* sent (source) or placed (destination) */
    uint64_t pages_bulk, pages_urgent;                  /* the same pages by the way they took */
    uint64_t pages_duplicate;                           /* arrived twice; 0 without recovery */
    uint64_t pages_compressed;                          /* of pages_normal */
    uint64_t requests;                                  /* requests sent (D) or received (S) */
    uint64_t dirty_sync_count;
    uint64_t bytes_wire;   /* all channels, both directions' payload */
    uint64_t device_bytes; /* device state */
    uint64_t device_wire;  /* of it, what was sent while the guest stood still */
    uint64_t postcopy_bytes;
    uint64_t dirty_pages_rate; /* pages that the guest wrote per second, in the last round */
    int64_t expected_downtime; /* if the rest were sent now; -1: not known yet */
    char *untracked;           /* source: why there is no precopy; NULL: there is */
    char *differences;         /* source: what differs in the guests, and hinders nothing; NULL */
    double mbps;               /* megabits per second, recent */
    /* Destination: time from reading a fault to its page placed; [i] counts latencies in
     * [2^i, 2^(i+1)) microseconds ([0]: below 2). Source: from request to answer written. */
    uint64_t latency[FF_LATENCY_BUCKETS];
    double latency_mean_us;
    double
        latency_p99_us; /* upper edge of the bucket that holds it; of a snapshot exact below 4096 */
    /* Destination: of these, what devices in other processes waited (vhost-user). */
    uint64_t device_latency[FF_LATENCY_BUCKETS];
    uint64_t device_waits, device_wait_max_us;
    double device_wait_mean_us;
    uint64_t vcpu_wait_max_us;  /* destination: the longest of a vCPU's */
    uint64_t places[FF_PLACES]; /* source: of the requests, by where in memory */
    bool all_here;              /* destination: every page was received */
    uint32_t blocktime_ms;      /* all vCPUs blocked at once (QEMU: postcopy-blocktime) */
    uint32_t n_vcpus;
    uint32_t *vcpu_blocktime_ms; /* [n_vcpus] */
    uint64_t *vcpu_latency_ns;   /* [n_vcpus]: mean of a vCPU's waits */
    uint64_t other_latency_ns;   /* the same of QEMU's other threads */
    bool urgent_shared;          /* urgent pages share the main connection */
    char *socket_address;        /* destination: where it listens, as a URI; NULL if n/a */
    FfSplit *split;              /* NULL: the guest is whole */
    char *not_started;           /* destination: why the guest, which is its own, stands; NULL */
    bool upgrade;                /* between two QEMUs on this host; its memory stays */
    bool restore;                /* destination: from a file. REQUESTS are faults, of which ... */
    uint64_t fault_bytes, fill_bytes; /* ... were read for them, and for what nobody asked for */
    uint64_t set_bytes, set_used; /* in its working set (0: none); of which nobody had needed them
                                     before they came */
    /* A live snapshot; what follows is its own. RAM and pages are those of the file, LATENCY is
     * that of writes to memory that was not saved yet, of which there were REQUESTS. */
    bool snapshot;
    unsigned buffer_slots, buffer_free; /* pages; 0 when it is over */
    uint64_t write_waits;               /* writes that waited for room there, or for the disk */
    unsigned passes;                    /* over all memory, before the guest was stopped */
    uint64_t arm_us;                    /* of the blackout, for memory */
    const char *way;                    /* how the file was written; static */
} FfMigrationInfo;

/* A live snapshot of a source's guest, in place of a migration to a peer. */
typedef struct {
    bool wanted;
    char *path;       /* of the file; NULL: FfMigrationConfig.fd, a regular file that is open for
                         writing */
    char *name;       /* of the file that FfMigrationConfig.fd is, for messages; NULL: not known */
    bool replaces;    /* what is at PATH, if the snapshot is complete; else nothing must be there */
    uint64_t offset;  /* where it begins in the file, bytes */
    bool mapped;      /* as mapped-ram, which QEMU 9.0 and newer read; else an ordinary stream */
    uint64_t buffer;  /* bytes, for what the guest overwrites before it is saved */
    GPtrArray *disks; /* FfDisk *, with a reference: they are branched at the same instant; NULL:
                         they are left alone */
    bool alone;       /* the VMM is to take none in the engine's place */
    int uffd;         /* for protection; borrowed until done() */
} FfSnapshotConfig;

/* What becomes of a restore's working set (content/image/working-set.h). */
typedef enum {
    FF_SET_USE,    /* what PATH.ws has is read first */
    FF_SET_LEARN,  /* it is found out, and written to PATH.ws */
    FF_SET_IGNORE, /* neither */
} FfUseSet;

/* A destination whose guest is in a file. */
typedef struct {
    bool wanted;
    char *path;     /* for errors, and to open it if fd is -1 */
    int fd;         /* taken; -1 */
    int lease_fd;   /* taken; a description of it that has a lease; -1: none */
    int64_t offset; /* where the guest begins in it, bytes; -1: to be looked for */
    FfUseSet set;   /* of PATH, if it is the file's name */
    bool as_eager;  /* the client takes it for one of QEMU's: migration/restore/wait.h */
} FfRestoreConfig;

/* The guest changes its VMM on this host, and keeps its memory (docs/design/upgrade.md).
 * FfMigrationConfig.fd is the socket to the other engine; of one that adopts: what was held as
 * "inner". */
typedef struct {
    bool wanted, adopts;
    int uffd;    /* destination: for protection; borrowed until done() */
    int pact_fd; /* adopting: what was held; taken; -1 */
    int heir_fd; /* likewise, of a source */
    int taps_fd; /* destination: an eventfd that gives the VMM its taps; borrowed; -1 */
    bool stays;  /* source: the VMM is not ended, but stays as the guest's front
                    (guest/relay/placeholder.h) */
} FfUpgradeConfig;

/* What a side knows of a peer with which QEMU's own migration continues: a farfault there that
 * leaves it to its QEMU looks like none. */
#define FF_PLAIN_DESTINATION                                                                       \
    "the destination answers as QEMU does: it has no farfault, or one that leaves the migration "  \
    "to QEMU"
#define FF_PLAIN_SOURCE                                                                            \
    "the source sends QEMU's own migration: it has no farfault, or one that leaves the migration " \
    "to QEMU"

/* A migration that the VMM's own is to carry: the peer is a QEMU without farfault, or this side is
 * refused. Valid during the callback. */
typedef struct {
    /* Why this side's engine does not migrate the guest; NULL: it is the peer that speaks as
     * QEMU does. */
    const char *refused;
    int fd; /* source that is refused: the socket of the configuration, the callee's; -1: its URI */
    /* The connection, perhaps under TLS; the callee's. NULL: a source that is refused has made
     * none.
     */
    FfChannel *channel;
    /* For its additional connections, borrowed; NULL: in the clear. HOSTNAME can be NULL. */
    FfTls *tls;
    const char *tls_hostname;
    /* Source: what the peer was sent. QEMU's own stream begins with the same, but for the PING,
     * and perhaps without the command before it. */
    GBytes *opening;
    bool acked;    /* source: the peer's word that QEMU may switch over was read before its PONG */
    bool postcopy; /* source: the switch was asked for */
    /* Source: an additional connection that this peer waited for, perhaps under TLS; nothing was
     * said on it. The callee's; NULL: it needed none. */
    FfChannel *second;
    GByteArray *first; /* destination: what was read of the peer's stream */
    /* Destination: connections that came after it and have not said who they are, perhaps
     * additional channels of it: of FfChannel (ff_handshakes_later()); the callee's. NULL: none. */
    GPtrArray *later;
    bool run;         /* destination: the guest is to run when it has arrived */
    bool run_changed; /* the client has said so since the start */
} FfPlainPeer;

typedef struct {
    /* The status changed (once per change, in order). */
    void (*status)(FfStatus status, void *opaque);
    /* A new round of dirty bitmap sync began (MIGRATION_PASS). */
    void (*pass)(uint64_t pass, void *opaque);
    /* The migration is over (completed, failed, cancelled); the object may be freed. */
    void (*done)(void *opaque);
    /* QEMU must die: why, one line. */
    void (*kill_vmm)(const char *why, void *opaque);
    /* In place of done(): this process cannot continue it (what it has adopted; or with a monitor
     * that has broken), and another one may. Why, one line. Can be NULL: then it does what it can.
     */
    void (*fail)(const char *why, void *opaque);
    /* In place of done(): the VMM's own migration is to carry it. Nothing was changed in the guest;
     * the object may be freed. Can be NULL: then it is a failure. */
    void (*plain)(const FfPlainPeer *peer, void *opaque);
    /* Keep a duplicate of FD under NAME beyond a crash of this process; drop it again. The fd is
     * borrowed. Both can be NULL; they come from the coordinator's thread. */
    void (*hold)(const char *name, int fd, void *opaque);
    void (*drop)(const char *name, void *opaque);
    /* After done(), of a migration that lives on: now it may be freed. NULL: none ever does. */
    void (*parted)(void *opaque);
    /* After status(): ff_migration_synced() must be called when the client has been told all that
     * came before. Can be NULL: nobody waits for that. */
    void (*sync)(void *opaque);
    /* ff_migration_words_heard() must be called when the VMM has carried out every cont and stop
     * that a client had said before this side held the guest, and what it reported of them has been
     * told. Can be NULL: nobody says any. */
    void (*words)(void *opaque);
    /* The guest is no more being stopped or started: a client that was told to wait (FF_STOP_LATER)
     * asks again. Can be NULL, as above. */
    void (*moved)(void *opaque);
    void *opaque;
} FfMigrationOps;

typedef struct {
    FfRole role;
    FfSnapshotConfig snapshot; /* source */
    FfUpgradeConfig upgrade;
    FfRestoreConfig
        restore; /* destination; of one that adopts only as_eager, and the fds: what was held, -1 */
    char *uri;   /* "tcp:HOST:PORT", "unix:PATH"; NULL if fd is given */
    int fd;      /* connected socket (source, or destination); -1 if uri is given.
                    Destination: also a listening socket whose first connection waits to
                    be accepted: the driver listens itself, since only then it is known
                    who carries the migration. Ownership goes to the migration. */
    int device_fd;     /* adopting: what was held as "device", -1: nothing; taken */
    int listen_fd;     /* destination that adopts: the listening socket that was held as
                          "listener", -1: none; taken */
    bool start_paused; /* destination: -S was given: wait for the client's cont */
    bool client_cont;  /* source that adopts: the client said cont while the guest stood */
    bool pause_before_switchover;
    bool release_ram;
    bool validate_uuid; /* source: a guest with another UUID is refused */
    bool blocktime;
    bool plain; /* a peer may be a QEMU without farfault; else it must be a farfault,
                   and this side's VMM carries nothing */
    /* Source: where this side is refused, the VMM's own migration begins when the peer has said
     * something, over the connection on which it did. Else at once, by itself. */
    bool answered_first;
    const char *refusal; /* source: why this side is refused, as its driver knows already; NULL. It
                            outlives the migration */
    /* Source: a peer that has said nothing for so long is offered an additional connection, as a
     * QEMU may wait for one (migration/common/qemu-carries.c); 0: never. */
    unsigned second_ms;
    const char *silence;      /* source: what a peer's silence can mean besides, and what to do; a
                                 static string; can be NULL */
    unsigned auto_recover_s;  /* after a break both sides reconnect by themselves for so long,
                                 before they are postcopy-paused */
    unsigned peer_timeout_ms; /* a peer of whom nothing is heard for so long is gone; 0: it is
                                 waited for as long as the connection stands */
    uint64_t max_bandwidth;   /* bytes per second; 0 = no limit */
    uint64_t max_postcopy_bandwidth; /* bytes per second; 0 = no limit */
    unsigned channels;               /* S: bulk connections, up to FF_CHANNELS_MAX; 0 is 1 */
    FfCompress compress;             /* source: bulk runs, if the peer takes them */
    unsigned zstd_level;             /* 0: the default one */
    uint64_t downtime_limit;         /* ms: what is left and fits into it is sent with the guest
                                        stopped, and the migration ends without postcopy */
    uint64_t switchover_bandwidth;   /* bytes per second to reckon that with; 0 = as measured */
    bool auto_postcopy;              /* switch by itself when the rounds do not converge */
    bool client_switches;            /* somebody may ask for the switch */
    FfUntracked untracked;           /* without that FF_UNTRACKED_WAIT is FF_UNTRACKED_POSTCOPY */
    FfStateHeader *state;
    int state_fd;            /* to make room for the bitmaps; borrowed */
    const int *uffds;        /* from the agent, by kind (FF_KINDS), -1: none; borrowed */
    char *const *uffd_error; /* why there is none of a kind; each can be NULL. Borrowed; can be NULL
                              */
    int pagemap_fd, maps_fd, pidfd; /* borrowed */
    int discard_fd;                 /* contract/discards.h, contract/stderr.h; borrowed; -1: none */
    int sharers_fd;                 /* contract/sharers.h; borrowed; -1: none */
    const char *discard_error;      /* why there is none; NULL: it is not known. Borrowed */
    int mem_fd; /* the VMM's memory, for reading; taken, and closed before there is a peer; -1: none
                 */
    FfVmm *vmm;
    FfTls *tls;         /* NULL: in the clear; a reference is taken */
    char *tls_refusal;  /* adopting: why the credentials that it had are not there; can be NULL. No
                           connection is made or accepted then, until ff_migration_set_tls() */
    char *tls_hostname; /* source: the host the destination's certificate must name; can be NULL */
} FfMigrationConfig;

#endif
