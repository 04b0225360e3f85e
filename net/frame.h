/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire format between two engines: one header, one encoder, one decoder.
 *
 * A connection opens with the prologue (QEMU's own stream header and a MIG_CMD_PING that
 * carries our token, so that a stock destination is not broken by it), after which
 * everything in both directions is frames: a 40-byte header, little-endian, and a payload of
 * `length` bytes. The header alone decides if a frame is acceptable: ff_frame_decode() checks
 * what needs no state, ff_frame_check_run() what needs the list of blocks.
 */
#ifndef FF_NET_FRAME_H
#define FF_NET_FRAME_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_FRAME_MAGIC 0x52464146u /* "FAFR" */
#define FF_WIRE_VERSION 1u

/* Largest run of small pages in one frame, and the largest page (bytes). */
#define FF_RUN_MAX_BYTES (128u * 1024)
#define FF_FRAME_MAX_DATA (2u * 1024 * 1024)
#define FF_FRAME_MAX_TEXT 1024u
#define FF_PARTS_MAX (64u * 1024)
#define FF_MAX_BLOCKS 128u

/* The token in the first PING ("FarF" as QEMU's big-endian u32). */
#define FF_PROLOGUE_TOKEN 0x46617246u
#define FF_PROLOGUE_HEADER 8        /* magic and version */
#define FF_PROLOGUE_COMMANDS 14     /* OPEN_RETURN_PATH and PING */
#define FF_PROLOGUE_OPEN 5          /* the first of them */
#define FF_PROLOGUE_CONFIGURATION 7 /* QEMU_VM_CONFIGURATION */
#define FF_PROLOGUE_SUBSECTION 5    /* QEMU_VM_SUBSECTION, of the configuration section */
#define FF_PROLOGUE_SIZE (FF_PROLOGUE_HEADER + FF_PROLOGUE_COMMANDS)
#define FF_CONFIGURATION_MAX 512
#define FF_PROLOGUE_MAX (FF_PROLOGUE_SIZE + FF_CONFIGURATION_MAX)
/* A stock destination's answer to the token: MIG_RP_MSG_PONG. */
#define FF_PONG_SIZE 8
/* What stands in front of it with switchover-ack, if no device wants to be asked:
 * MIG_RP_MSG_SWITCHOVER_ACK (QEMU 8.1). */
#define FF_SWITCHOVER_ACK_SIZE 4

typedef enum {
    FF_FRAME_GREETING = 1,  /* D->S: version, features (FfGreeting) */
    FF_FRAME_HELLO,         /* S->D: FfHello and n_pages FfHelloBlock */
    FF_FRAME_HELLO_REPLY,   /* D->S: page = 0: accepted, payload FfHelloReply; 1: refused, text */
    FF_FRAME_CHANNEL,       /* S->D, first on an additional connection: FfChannelHello */
    FF_FRAME_CHANNEL_REPLY, /* D->S: accepted */
    FF_FRAME_SHARED,        /* S->D: no additional connection; urgent frames use this one */
    FF_FRAME_PREPARE,       /* S->D: empty your RAM of all that is not valid, register, await device
                               state; flags: FF_PREPARE_COMPLETE */
    FF_FRAME_READY,         /* D->S: done; page = 1: the answer to STALE with FF_STALE_TELL */
    FF_FRAME_DEVICE,  /* S->D: a piece of device state; flags: FF_DEVICE_COMPRESSED, FF_DEVICE_DELTA
                       */
    FF_FRAME_LOADED,  /* D->S: device state loaded; the guest may not run yet */
    FF_FRAME_GRANT,   /* S->D: the right to run; payload: the guest's run state */
    FF_FRAME_RUNNING, /* D->S: the guest was given its run state back; page = 1: it runs */
    FF_FRAME_PAGES,   /* S->D: a run of pages with data */
    FF_FRAME_ZERO,    /* S->D: a run of zero pages */
    FF_FRAME_END,     /* S->D, on each channel: no page will follow on it */
    FF_FRAME_REQUEST, /* D->S: a run of pages that somebody waits for */
    FF_FRAME_ACK,     /* D->S: page = number of page frames placed on channel flags: 0 the main
                         one, 1 the urgent one, then the additional ones */
    FF_FRAME_DONE,    /* D->S: every page is here; page = 1: the guest runs, or has run, here */
    FF_FRAME_FINISHED, /* S->D: the source has let go */
    FF_FRAME_ABORT,    /* either way, before the grant: why, one line */
    /* A lost connection is made again: prologue, greeting, then (docs/design/recovery.md) */
    FF_FRAME_RESUME,       /* S->D, in place of HELLO: FfResume */
    FF_FRAME_RESUME_REPLY, /* D->S: page = 0: accepted, payload FfResumeReply; 1: refused, text */
    FF_FRAME_HAVE,         /* D->S: n_pages from page on (both multiples of 64, but for the end of a
                              block): flags = 1: all received; 0: payload has a bit for each */
    FF_FRAME_HAVE_END,     /* D->S: what was not named is not here */
    FF_FRAME_RESUMED,      /* S->D: the channels stand; page = 1: urgent frames share this one */
    FF_FRAME_STALE,        /* S->D: n_pages FfStaleRun: what D has of them is no longer valid */
    FF_FRAME_REVOKE,  /* S->D, in place of RESUME: FfResume: end, unless you were granted the guest
                       */
    FF_FRAME_REVOKED, /* D->S: page = 0: this QEMU has ended; 1: refused, text */
    FF_FRAME_PAUSED,  /* either way, after the grant: the user paused this side, do not come back */
    FF_FRAME_ALIVE,   /* either way, on each channel: nothing else was to be said for a while */
    FF_FRAME_COMPRESSED, /* S->D, not on the urgent channel: a run of pages with data, as one zstd
                        frame. With FF_FEATURE_ZSTD of both */
    FF_FRAME_BASE,       /* S->D, before PREPARE: more of the base of device state, whole pages of
                            FF_DELTA_PAGE bytes; flags: FF_DEVICE_COMPRESSED. With
                            FF_FEATURE_DELTA_DEVICE of both */
    /* S->D, on the main and on additional bulk connections, in precopy: what is sent from now on
     * may be newer than pages before it; page = counts them on this connection. D->S: all that came
     * before it there is placed; flags: which, as in ACK. With FF_FEATURE_ROUNDS of both */
    FF_FRAME_ROUND,
    /* Either way, on the main channel, after the grant: this side's QEMU has ended, and what it
     * had is gone. The last word. With FF_FEATURE_ENDED of the side that hears it */
    FF_FRAME_ENDED,
    FF_FRAME_PARTS, /* S->D, right after HELLO: what the guest is made of, text
                       (migration/destination/parts.h). With FF_FEATURE_PARTS of both */
    FF_FRAME__MAX
} FfFrameType;

typedef struct {
    uint32_t magic;
    uint16_t type;
    uint16_t flags;
    uint32_t length; /* of the payload, bytes */
    uint32_t epoch;
    uint32_t block;   /* index into HELLO's list */
    uint32_t n_pages; /* of the run, in pages of the block; HELLO: number of blocks */
    uint64_t page;    /* first of the run; other types: as said above */
    uint64_t reserved;
} FfFrame;
static_assert(sizeof(FfFrame) == 40, "FfFrame is a wire structure");

enum {
    FF_FEATURE_LISTENS = 1 << 0,       /* D accepts additional connections at the same address */
    FF_FEATURE_VALIDATE_UUID = 1 << 1, /* S: the guests' UUIDs must be the same */
    FF_FEATURE_ALIVE = 1 << 2,         /* says ALIVE, and knows it */
    FF_FEATURE_ZSTD = 1 << 3,          /* D: takes PACKED. S: may say it */
    FF_FEATURE_COMPRESSED_DEVICE =
        1 << 4,                       /* D: takes DEVICE with FF_DEVICE_COMPRESSED. S: may say it */
    FF_FEATURE_DELTA_DEVICE = 1 << 5, /* D: takes BASE, DEVICE with FF_DEVICE_DELTA. S: the same */
    FF_FEATURE_ROUNDS = 1 << 6,       /* D: takes pages of precopy on additional bulk connections,
                                         after the main one's first ROUND. S: may say them */
    FF_FEATURE_ENDED = 1 << 7,        /* knows ENDED */
    FF_FEATURE_PARTS = 1 << 8,        /* D: takes PARTS, and says after FfHelloReply, in text, where
                                         the guests differ. S: PARTS follows this HELLO */
};

typedef struct {
    uint32_t version;
    uint32_t features;
    uint64_t reserved;
} FfGreeting;
static_assert(sizeof(FfGreeting) == 16, "FfGreeting is a wire structure");

typedef struct {
    uint32_t version;
    uint32_t features;
    uint8_t session[16]; /* random, of this migration */
    uint8_t vm_uuid[16]; /* the guest's UUID; zeros if it has none */
    uint64_t epoch;
} FfHello;
static_assert(sizeof(FfHello) == 48, "FfHello is a wire structure");

typedef struct {
    char id[128]; /* NUL-terminated */
    uint64_t size, page_size, gpa;
} FfHelloBlock;
static_assert(sizeof(FfHelloBlock) == 152, "FfHelloBlock is a wire structure");

typedef struct {
    uint8_t secret[32]; /* proves that an additional connection belongs to this migration */
} FfHelloReply;
static_assert(sizeof(FfHelloReply) == 32, "FfHelloReply is a wire structure");

/* Flags of PREPARE: every page is sent before the grant (no postcopy), so wait for all of them. */
#define FF_PREPARE_COMPLETE 1u
/* Flags of DEVICE and BASE: one zstd frame of `page` bytes, more than it has and at most
 * FF_RUN_MAX_BYTES.
 */
#define FF_DEVICE_COMPRESSED 1u
/* What is then left is a delta (net/delta.h) of `n_pages` bytes, more than it has and at most
 * FF_RUN_MAX_BYTES. */
#define FF_DEVICE_DELTA 2u
/* Flags of STALE. LAST: the guest is stopped, and pages that come from now on are final; sent
 * exactly once, perhaps without a run. TELL: answer with READY when it is done. */
#define FF_STALE_LAST 1u
#define FF_STALE_TELL 2u

typedef struct {
    uint32_t block;
    uint32_t n_pages;
    uint64_t page;
} FfStaleRun;
static_assert(sizeof(FfStaleRun) == 16, "FfStaleRun is a wire structure");
#define FF_STALE_MAX_RUNS (FF_RUN_MAX_BYTES / sizeof(FfStaleRun)) /* in one frame */

typedef struct {
    uint8_t session[16];
    uint8_t secret[32];
    uint32_t kind; /* FfChannelKind */
    uint32_t epoch;
} FfChannelHello;
static_assert(sizeof(FfChannelHello) == 56, "FfChannelHello is a wire structure");

typedef enum {
    FF_CHANNEL_MAIN,
    FF_CHANNEL_URGENT,
    FF_CHANNEL_BULK, /* S->D: pages only, after the switch, or in rounds with FF_FEATURE_ROUNDS;
                        opened before the urgent one */
} FfChannelKind;

typedef struct {
    uint32_t version;
    uint32_t features;
    uint8_t session[16];
    uint8_t secret[32];
    uint64_t epoch; /* of the connection that is to be, at least */
} FfResume;
static_assert(sizeof(FfResume) == 64, "FfResume is a wire structure");

typedef struct {
    uint64_t epoch; /* of the connection that is to be; every frame of an older one is refused */
    uint32_t phase; /* FfPhase of the destination */
    uint32_t reserved;
} FfResumeReply;
static_assert(sizeof(FfResumeReply) == 16, "FfResumeReply is a wire structure");

/* Most pages that one HAVE names by bits: 64 KiB of them. */
#define FF_HAVE_MAX_PAGES (64u * 1024 * 8)

/* What a run must fit into. */
typedef struct {
    uint64_t size, page_size;
} FfFrameBlock;

/* QEMU's configuration section for MACHINE ("pc-i440fx-7.2"), and for the capability validate-uuid
 * with UUID (else NULL). Returns its length, 0 if the name is too long or QEMU has no such section
 * for that machine. */
size_t ff_configuration_encode(uint8_t out[FF_CONFIGURATION_MAX], const char *machine,
                               const uint8_t *uuid);
/* Writes the source's prologue, with the configuration section (LEN 0: without, which a stock
 * destination refuses, but for a machine that has none). Returns its length, at most
 * FF_PROLOGUE_SIZE + LEN. */
size_t ff_prologue_encode(uint8_t *out, const void *configuration, size_t len);
/* Makes QEMU's own of a prologue of LEN bytes: no farfault answers it. */
void ff_prologue_as_qemu(uint8_t *prologue, size_t len);
typedef enum { FF_PEER_FARFAULT, FF_PEER_PLAIN_QEMU, FF_PEER_UNKNOWN, FF_PEER_MORE } FfPeer;
/* Tells from the first N bytes who connected; FF_PEER_MORE: not before *NEED bytes are there (at
 * most FF_PROLOGUE_MAX). */
FfPeer ff_prologue_decode(const uint8_t *in, size_t n, size_t *need);
/* What a stock destination answers to a prologue of LEN bytes. */
void ff_pong_encode(uint8_t out[FF_PONG_SIZE], const uint8_t *prologue, size_t len);
void ff_switchover_ack_encode(uint8_t out[FF_SWITCHOVER_ACK_SIZE]);
/* Of IN, the first bytes of an answer: TRUE, and the first FF_PONG_SIZE - FF_SWITCHOVER_ACK_SIZE
 * bytes after it stand at its beginning then. */
bool ff_switchover_ack_take(uint8_t in[FF_PONG_SIZE]);

/* Fills a header; every field not named is zero. */
FfFrame ff_frame(FfFrameType type, uint32_t length);
/* Host order to the wire and back (in place). Decode returns 0, or -EBADMSG with *WHY set to a
 * static text: wrong magic, unknown type, a length that this type cannot have. */
void ff_frame_encode(FfFrame *f);
int ff_frame_decode(FfFrame *f, const char **why);
/* PAGES, PACKED, ZERO, REQUEST: the run lies in one of the blocks, and a PAGES payload has its
 * size; a PACKED one is shorter than its run, which is not longer than one may be. Returns 0 or
 * -EBADMSG with *WHY set. */
int ff_frame_check_run(const FfFrame *f, const FfFrameBlock *blocks, unsigned n_blocks,
                       const char **why);
/* DEVICE, BASE: whether it is compressed or a delta is said, and of what sizes it is. 0 or -EBADMSG
 * with *WHY set. */
int ff_frame_check_device(const FfFrame *f, const char **why);
/* HAVE: the same as of a run, and a payload of 64-bit words with a bit for each page, or (flags =
 * 1) none. */
int ff_frame_check_have(const FfFrame *f, const FfFrameBlock *blocks, unsigned n_blocks,
                        const char **why);
const char *ff_frame_name(unsigned type);
/* Words of a peer, for people: in TEXT what is not printable ASCII becomes '?' (a log is read on
 * terminals, and QMP is UTF-8). Returns TEXT. */
char *ff_peer_text(char *text);

#endif
