/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state memfd: what must outlive a crash of the engine, and of the relay. Made by the
 * launcher, mapped by the relay and by the engine. QEMU holds it, too, and never looks at it: so it
 * is there for the relay that `farfault attach` starts. One writer at a time: the engine while one
 * is attached, else the relay. Stores that decide about the right to run are single aligned
 * words with release order; the observer is the next engine (or the relay) after a crash.
 *
 * Relay and engine have an open file description of their own with a lock on it (flock), which so
 * lasts until both have ended: no second relay stands beside one that lives.
 */
#ifndef FF_CONTRACT_STATE_H
#define FF_CONTRACT_STATE_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "contract/actions.h"
#include "contract/kinds.h"
#include "contract/totals.h"

#define FF_STATE_MAGIC 0x4554415453464600ull
#define FF_STATE_VERSION 4u
#define FF_STATE_MAX_BLOCKS 128
#define FF_STATE_UNDO_MAX (128 * 1024)
#define FF_STATE_PLUGGED 8
#define FF_STATE_INFO_MAX (28 * 1024 - 24 - FF_STATE_PLUGGED * 192)
#define FF_STATE_OLD_UFFDS 9

typedef enum { FF_ROLE_NONE, FF_ROLE_SOURCE, FF_ROLE_DESTINATION } FfRole;
/* Who may run the guest, as this side knows it (design: "the right to run"). */
typedef enum { FF_RUN_NONE, FF_RUN_MINE, FF_RUN_GIVEN } FfRunRight;
/* Phase of the switchover, for the destination and for an adopting engine. */
typedef enum {
    FF_PHASE_IDLE,    /* nothing under way; nothing to undo */
    FF_PHASE_SETUP,   /* undo log is valid; guest not stopped yet */
    FF_PHASE_STOPPED, /* S: guest stopped by us, device state on its way */
    FF_PHASE_LOADING, /* D: device state is being fed */
    FF_PHASE_LOADED,  /* D: loaded, may not run */
    FF_PHASE_GRANTED, /* D: may run. S: the grant was given */
    FF_PHASE_DONE,    /* all pages received */
    FF_PHASE_DEAD,    /* D: revoked, QEMU reaped */
} FfPhase;

/* What the agent in QEMU has handed over. */
typedef enum { FF_STATE_AGENT_SILENT, FF_STATE_AGENT_REFUSED, FF_STATE_AGENT_READY } FfStateAgent;

/* The client's last word on running that QEMU has obeyed while it waits for an incoming migration
 * that nobody has begun: it decides in place of -S. */
typedef enum { FF_SAID_NOTHING, FF_SAID_CONT, FF_SAID_STOP } FfSaid;

/* A chardev that a client has added for a vhost-user device, and that the relay has taken over
 * (guest/relay/hotplug-vhost.h). Written by the relay alone; the observers are the relay that comes
 * after it, and the engine. */
typedef struct {
    uint32_t use;       /* FF_PLUGGED_*, atomic: stored after the rest */
    uint32_t reconnect; /* seconds */
    uint32_t network;   /* 0 or 1 */
    char path[108];     /* of the back-end's socket */
    char id[72];
} FfStatePlugged;
static_assert(sizeof(FfStatePlugged) == 192, "as FF_STATE_INFO_MAX has it");
static_assert(FF_STATE_PLUGGED == 8, "the relay says so in words");
/* FfStatePlugged.use; what is none of them (0, or the text of a farfault of before) is one that was
 * not used yet. */
enum {
    FF_PLUGGED_IN = 0x67756c70, /* it is there */
    /* QEMU has removed it, and what it was given is used up; or QEMU was asked, and has not
     * answered yet. */
    FF_PLUGGED_OVER = 0x65766f70,
};

typedef struct {
    char id[128];
    uint64_t size, page_size, gpa;
    uint64_t bitmap_offset; /* of the received bitmap in the memfd; 64-bit words */
} FfStateBlock;

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t role;      /* FfRole */
    uint32_t phase;     /* FfPhase, atomic */
    uint32_t run_right; /* FfRunRight, atomic */
    uint64_t epoch;
    uint8_t uuid[16];   /* of the migration session */
    char run_state[32]; /* original run state of the source ("running", ...) */
    uint32_t n_blocks;
    uint32_t undo_len;     /* bytes of the undo log in use; 0 = nothing to undo. Atomic: stored
                              after the text, cleared before the text is reused. */
    uint32_t info_len;     /* bytes of the last query-migrate (JSON) */
    uint32_t client_flags; /* client's capabilities that QEMU never sees, FF_CLIENT_CAP_* */
    uint32_t policy;       /* FfPolicy */
    uint32_t driver_flags; /* FF_DRIVER_*, what qapi/ must know of an earlier engine's time */
    uint8_t secret[32];    /* of the session: proves to the peer that a new connection is ours */
    uint32_t resumed;      /* D: the guest was given its run state; stored after it was */
    uint32_t peer;         /* FfPeerWish */
    uint32_t peer_timeout; /* x-farfault-peer-timeout, seconds; 0: FF_PEER_TIMEOUT */
    uint32_t channels;     /* x-farfault-channels; 0: ff_channels_default() */
    uint32_t auto_recover; /* x-farfault-auto-recover, seconds */
    uint32_t agent;        /* FfStateAgent; this and the next six: written by the relay alone */
    /* The fd numbers of QEMU's own copies, as farfaults before kinds.h read and wrote them: [0]
     * tracks, those after it are for missing pages. n_uffds 0: uffd_errno says why. */
    int32_t uffd_errno;
    uint32_t n_uffds;
    int32_t uffd_in_qemu[FF_STATE_OLD_UFFDS];
    uint32_t n_kinds;               /* FF_KINDS; 0: only the three above are written */
    int32_t kind_in_qemu[FF_KINDS]; /* -1: it keeps none */
    int32_t kind_error[FF_KINDS];   /* FfAgentHello.error */
    uint8_t compress;               /* FfCompress */
    uint8_t zstd_level;             /* x-farfault-zstd-level; 0: FF_ZSTD_LEVEL_DEFAULT */
    uint8_t said;                   /* FfSaid; written by the relay alone */
    uint8_t untracked;              /* FfUntracked, x-farfault-untracked */
    /* FfAgentHello.hook_kept; 0: none. Written by the relay alone. This and the next one are 0
     * where a farfault of before them has written the rest. */
    uint16_t hook_in_qemu;
    uint16_t marks; /* atomic; FF_MARK_* */
    /* S: inode of the engine's end of the device-state socket, of which QEMU has a copy (a socket
     * of QEMU's own that nobody reads); 0: none. */
    uint64_t kept_inner;
    char peer_uri[256]; /* S: where the destination listens; empty if that is not known */
    char native[504];   /* why QEMU carries the migration, or has carried the last one, though the
                           client's settings would have it the engine's; empty: it does not. The
                           driver's */
    /* contract/actions.h; written by the relay alone. The end of what was native before, 0 but
     * where a farfault of before has written a text as long. */
    uint8_t actions[FF_ACTIONS];
    uint32_t reserved;
    FfStateBlock block[FF_STATE_MAX_BLOCKS];
    char undo[FF_STATE_UNDO_MAX]; /* JSON: QEMU's capabilities and parameters before us */
    char info[FF_STATE_INFO_MAX];
    /* The end of what was info before: a text of a farfault of then reaches to here only if it is
     * longer than FF_STATE_INFO_MAX. */
    FfStatePlugged plugged[FF_STATE_PLUGGED];
    FfStateTotals totals;
    /* QEMU's version, as FfDriverPort.version says it; 0: not known yet. So an engine that has not
     * heard QEMU's greeting yet answers as the one before it did. */
    uint32_t qemu_version;
    /* S: the monitor whose client has begun, or resumed, the migration, counted from 1; 0: not
     * known. The driver's. */
    uint32_t client;
    /* Inode of a parcel of which QEMU has a copy: what the next relay and engine need of an upgrade
     * (contract/upgrade-commit.h); 0: none. The number of a socket has no more bits. */
    uint32_t kept_pact;
    /* FfRestoreWish; 0 where a farfault of before it has written the rest. Written by the relay
     * alone. */
    uint32_t restore;
    /* The relay's process, and its number of the socket at which it is asked to let another one
     * take its place (guest/relay/replace-relay.h); 0 both: a farfault of before it, or it cannot.
     * Written by the relay alone. */
    int32_t relay, relay_door;
} FfStateHeader;
static_assert(sizeof(FfStateHeader) % 8 == 0, "bitmaps follow, in 64-bit words");
static_assert(offsetof(FfStateHeader, kept_inner) == 240, "nobody's place has moved");
static_assert(sizeof(((FfStateHeader *)NULL)->info) + sizeof(((FfStateHeader *)NULL)->plugged) +
                      sizeof(FfStateTotals) + 24 ==
                  32 * 1024,
              "the bitmaps begin where they did");
static_assert(offsetof(FfStateHeader, block) == offsetof(FfStateHeader, native) + 512,
              "nor that of what follows");
static_assert(FF_STATE_OLD_UFFDS + 1 + 2 * FF_KINDS == 16,
              "the room is that of the numbers before");

enum {
    FF_CLIENT_CAP_POSTCOPY_RAM = 1 << 0,
    FF_CLIENT_CAP_POSTCOPY_PREEMPT = 1 << 1,
    FF_CLIENT_CAP_POSTCOPY_BLOCKTIME = 1 << 2,
    /* Of a guest whose memory is shared by farfault's doing alone (FfDriverConfig.shares_ram): QEMU
     * is never told that it is on, and would leave that memory out of what it saves. */
    FF_CLIENT_CAP_IGNORE_SHARED = 1 << 3,
};
/* Their names, from bit 0 on. */
#define FF_CLIENT_CAPS 4
/* Of FLAGS in client_flags: QEMU's own list had them on when it was last read. What has changed
 * there since was typed at a human monitor of QEMU's own. */
#define FF_CLIENT_CAP_IN_QEMU(flags) ((flags) << 8)
#define FF_CLIENT_CAP_NAMES                                                                        \
    {                                                                                              \
        "postcopy-ram", "postcopy-preempt", "postcopy-blocktime", "x-ignore-shared"                \
    }
enum {
    /* migrate-incoming went to QEMU: it carries the incoming migration itself. */
    FF_DRIVER_NATIVE_INCOMING = 1 << 0,
    FF_DRIVER_AUTO_POSTCOPY = 1 << 1, /* x-farfault-auto-postcopy */
    /* The migration under way has TLS: an engine that adopts it must not continue in the clear. */
    FF_DRIVER_TLS = 1 << 2,
    FF_DRIVER_EVENTS = 1 << 3, /* the client wants MIGRATION events of this migration */
    /* Nobody has come yet. The relay, too, looks at it. */
    FF_DRIVER_LISTENS = 1 << 4,
    /* QEMU carries the migration, or has carried the last one, over connections of the engine's,
     * since the peer has no farfault or this side is refused. */
    FF_DRIVER_PLAIN_PEER = 1 << 6,
    /* What the client has been told of the switch, and done: qapi/events.c. */
    FF_DRIVER_SWITCHED = 1 << 7, /* postcopy-active was said */
    FF_DRIVER_FOLLOWED = 1 << 8, /* the client has continued from there */
    /* Its last word on running, if there was one (S: while the guest stood for the switch). */
    FF_DRIVER_CLIENT_CONT = 1 << 9,
    FF_DRIVER_CLIENT_STOP = 1 << 10,
    FF_DRIVER_KEEP_FAILED = 1 << 11, /* with FF_DRIVER_LISTENS: exit-on-error is false */
    /* Nothing is the engine's any more (phase IDLE), and QEMU has not said yet that it migrates, or
     * (D) that it listens or has its source. The relay, too, looks at it. */
    FF_DRIVER_GIVING_BACK = 1 << 12,
    /* A migration or a snapshot waits for the end of a restore: qapi/after-restore.c. */
    FF_DRIVER_DEFERRED = 1 << 13,
    /* QEMU's last migration had come to an end before this one began: such a status says nothing of
     * this one. */
    FF_DRIVER_ENDED_BEFORE = 1 << 14,
    /* A restore whose client takes it for QEMU's own: qapi/restore-asked.c. With
     * FF_DRIVER_SWITCHED: it was told that all is here. */
    FF_DRIVER_AS_EAGER = 1 << 15,
    /* With FF_DRIVER_GIVING_BACK: the switch was asked for, and answered. QEMU, which connects by
     * itself, must be asked for it when it has begun. */
    FF_DRIVER_SWITCH_KEPT = 1 << 16,
    FF_DRIVER_TOLD_PAUSED =
        1 << 17, /* as .._SWITCHED: postcopy-paused was the last that was said */
};
/* Until the source is known the relay holds the listening sockets of the destination under this
 * name and a number from 0, so that the next engine continues there. */
#define FF_LISTENER_HELD "incoming:"
#define FF_LISTENERS_HELD_MAX 8
/* Name and seals of the memfd with the TLS credentials of a migration under way (FF_DRIVER_TLS), of
 * which QEMU has a copy. No object of QEMU's can have such an id. */
#define FF_TLS_KEPT_NAME "farfault:tls"
#define FF_TLS_KEPT_SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)
/* FfStateHeader.marks: what a next engine must undo, or know, whatever the phase is. */
enum {
    /* Guest memory may be protected against writes by the userfaultfd that the relay lends
     * (FF_LINK_TAKE_UFFD): a thread that writes to it waits. Set by the engine when it takes it,
     * before anything is registered; cleared when nothing is any more, before it goes back. */
    FF_MARK_PROTECTED = 1 << 0,
    /* D: guest and memory come from a file, which the relay holds as FF_FILE_HELD; `secret` is an
     * FfStateFile. Set before the phase is SETUP, cleared when it is IDLE. */
    FF_MARK_FILE = 1 << 1,
    /* D: what is missing comes from the source's dump, of which the relay holds the directory as
     * FF_FILE_HELD; the source is not resumed any more. Set when the phase is GRANTED, after the
     * dump was verified; cleared after the phase is DONE. */
    FF_MARK_DUMP = 1 << 2,
    /* The migration is the change of the guest's QEMU (docs/design/upgrade.md). Set before the
     * phase is SETUP, cleared when it is IDLE. */
    FF_MARK_UPGRADE = 1 << 3,
    /* D: guest memory is another QEMU's still, whose guest runs: nothing may be loaded, dropped or
     * placed here but by an upgrade. Set at the start of this QEMU, cleared when the guest is its
     * own. */
    FF_MARK_BORROWED = 1 << 4,
    /* S: the guest runs, or may run, in its next QEMU, which has the monitors' sockets: their names
     * are not removed at the end. Set before the guest is given away, cleared if it stays. */
    FF_MARK_MOVED = 1 << 5,
    /* S: all of guest memory is here still, nothing of it was given up (release-ram). Set before
     * the phase is SETUP, cleared before the first page is given up, or when it is IDLE and the
     * guest was not given away. An engine of before it has never set it. */
    FF_MARK_WHOLE = 1 << 6,
    /* S: devices in other processes (vhost-user) get no ring, whatever QEMU says, as a live
     * snapshot could not catch their writes. Set when the guest stands for it and they have
     * finished, before the guest runs on; cleared when its memory is saved, or is not to be. The
     * relay, too, looks at it. */
    FF_MARK_PARKED = 1 << 7,
    /* S: in the phase of an upgrade: this process is to stay when the guest has gone to the next
     * QEMU, as its front (guest/relay/placeholder.h). When the phase is IDLE: it is that, for good.
     * Set before the guest is stopped, cleared if it stays here. The relay, too, looks at it. */
    FF_MARK_FRONT = 1 << 8,
    /* Of each FF_CLIENT_CAP_*, FF_MARK_CAP() times: QEMU has been told of it, as no engine could be
     * started, and knows better than client_flags what the client wants. Set by the relay when QEMU
     * has answered, cleared by the engine that has asked QEMU. */
    FF_MARK_CAPS = 15 << 9,
    /* S: the migration was one that is over when the guest is given away; its guest ran, and the
     * destination has said that it is not to run there yet: a client may find that it cannot, and
     * continue here (libvirt). Set before the phase is DONE, cleared before it is SETUP. */
    FF_MARK_STANDS_THERE = 1 << 13,
    /* S: the guest was suspended to RAM when it was stopped, now or before by its client: QEMU ends
     * itself if it is continued when its migration is completed. Set when the device state, which
     * says so, is sent; cleared before the phase is SETUP. */
    FF_MARK_SUSPENDED = 1 << 14,
};
/* FLAGS: of FF_CLIENT_CAP_*. */
#define FF_MARK_CAP(flags) ((unsigned)(flags) << 9)
static_assert(FF_MARK_CAP((1u << FF_CLIENT_CAPS) - 1) == FF_MARK_CAPS, "a mark for each");
#define FF_FILE_HELD "file"
/* The description of that file which has the lease (migration/restore/lease.h), while there is one.
 */
#define FF_LEASE_HELD "file-lease"
#define FF_STATE_NO_TIME INT64_MIN
/* In place of a session's secret: what the file of a restore is. */
typedef struct {
    uint64_t size;    /* FfRestoreId */
    int64_t mtime_ns; /* FF_STATE_NO_TIME: of an export */
    int64_t offset;   /* where the guest begins in it; -1: to be looked for */
    uint64_t digest;  /* ff_saved_digest(); 0: an older engine's */
} FfStateFile;
static_assert(sizeof(FfStateFile) == sizeof(((FfStateHeader *)0)->secret), "in its place");
static_assert(offsetof(FfStateHeader, secret) % 8 == 0, "each of its numbers is stored at once");
/* x-farfault-peer-timeout as long as nobody has set it (seconds). */
#define FF_PEER_TIMEOUT 30
/* x-farfault-compress: whether bulk runs are compressed. */
typedef enum { FF_COMPRESS_NEVER, FF_COMPRESS_AUTO, FF_COMPRESS_ALWAYS } FfCompress;
/* x-farfault-untracked: what becomes of a migration whose guest's writes cannot be tracked from
 * outside, so that there is no precopy. */
typedef enum {
    FF_UNTRACKED_QEMU,     /* QEMU carries it */
    FF_UNTRACKED_POSTCOPY, /* the guest is moved at once, all of its memory follows */
    FF_UNTRACKED_WAIT,     /* the same, as soon as the client asks for postcopy */
} FfUntracked;
/* The setting "restore": what becomes of a guest whose client restores it from a file in QEMU's own
 * way. */
typedef enum {
    FF_RESTORE_EAGER, /* QEMU reads all of it first */
    FF_RESTORE_LAZY,  /* it runs before its memory is there, if that can be */
} FfRestoreWish;
/* x-farfault-peer: which peers are accepted. */
typedef enum { FF_PEER_WISH_AUTO, FF_PEER_WISH_REQUIRE, FF_PEER_WISH_NATIVE } FfPeerWish;
typedef enum { FF_POLICY_AUTO, FF_POLICY_ALWAYS, FF_POLICY_NEVER } FfPolicy;

/* In a refusal of the launcher's: the file system of the guest's RAM is one that userfaultfd does
 * not serve, so QEMU's own postcopy cannot go to it either. */
#define FF_RAM_ON_DISK " of a disk"

/* Makes a new state memfd (close-on-exec, not executable). Returns the fd or -errno. */
int ff_state_create(FfPolicy policy);
/* Maps it; the header is checked, as QEMU may have written to it. Returns NULL and sets ERROR when
 * it is not one. */
FfStateHeader *ff_state_map(int fd, GError **error);
/* A migration is under way, or what one has done to QEMU is not undone yet. */
bool ff_state_is_under_way(const FfStateHeader *state);

/* Guest memory is another QEMU's still, which guards it against this one: it must stay guarded
 * until this one is dead, or the guest is its own. */
bool ff_state_is_guarded(const FfStateHeader *state);

/* The guest has left, and the process stays as its front. Any thread. */
bool ff_state_is_front(const FfStateHeader *state);

/* The guest is another host's, with all of its memory, and may run there: it must not be continued
 * here. Any thread. */
bool ff_state_is_given(const FfStateHeader *state);

/* A device was plugged whose back-end is another process, behind the relay. Any thread. */
bool ff_state_has_plugged(const FfStateHeader *state);

/* MARK: of FF_MARK_*. Observers: the relay when this engine has died, and the next engine. Any
 * thread. */
static inline void ff_state_mark(FfStateHeader *state, unsigned mark)
{
    __atomic_or_fetch(&state->marks, (uint16_t)mark, __ATOMIC_ACQ_REL);
}
static inline void ff_state_unmark(FfStateHeader *state, unsigned mark)
{
    __atomic_and_fetch(&state->marks, (uint16_t)~mark, __ATOMIC_ACQ_REL);
}
static inline bool ff_state_is_marked(const FfStateHeader *state, unsigned mark)
{
    return __atomic_load_n(&state->marks, __ATOMIC_ACQUIRE) & mark;
}

#endif
