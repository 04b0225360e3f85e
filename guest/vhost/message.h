/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst): their layout, and one
 * reader of a stream of them, with the fds that come along. Nothing is kept but what a reader has;
 * any thread, one for each reader.
 */
#ifndef FF_GUEST_VHOST_MESSAGE_H
#define FF_GUEST_VHOST_MESSAGE_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The protocol is in the host's byte order. What a front-end asks for: */
typedef enum {
    FF_VHOST_GET_FEATURES = 1,
    FF_VHOST_SET_FEATURES = 2,
    FF_VHOST_SET_OWNER = 3,
    FF_VHOST_RESET_OWNER = 4,
    FF_VHOST_SET_MEM_TABLE = 5,
    FF_VHOST_SET_LOG_BASE = 6,
    FF_VHOST_SET_LOG_FD = 7,
    FF_VHOST_SET_VRING_NUM = 8,
    FF_VHOST_SET_VRING_ADDR = 9,
    FF_VHOST_SET_VRING_BASE = 10,
    FF_VHOST_GET_VRING_BASE = 11,
    FF_VHOST_SET_VRING_KICK = 12,
    FF_VHOST_SET_VRING_CALL = 13,
    FF_VHOST_SET_VRING_ERR = 14,
    FF_VHOST_GET_PROTOCOL_FEATURES = 15,
    FF_VHOST_SET_PROTOCOL_FEATURES = 16,
    FF_VHOST_GET_QUEUE_NUM = 17,
    FF_VHOST_SET_VRING_ENABLE = 18,
    FF_VHOST_SEND_RARP = 19,
    FF_VHOST_NET_SET_MTU = 20,
    FF_VHOST_SET_BACKEND_REQ_FD = 21,
    FF_VHOST_IOTLB_MSG = 22,
    FF_VHOST_SET_VRING_ENDIAN = 23,
    FF_VHOST_GET_CONFIG = 24,
    FF_VHOST_SET_CONFIG = 25,
    FF_VHOST_CREATE_CRYPTO_SESSION = 26,
    FF_VHOST_CLOSE_CRYPTO_SESSION = 27,
    FF_VHOST_POSTCOPY_ADVISE = 28,
    FF_VHOST_POSTCOPY_LISTEN = 29,
    FF_VHOST_POSTCOPY_END = 30,
    FF_VHOST_GET_INFLIGHT_FD = 31,
    FF_VHOST_SET_INFLIGHT_FD = 32,
    FF_VHOST_GPU_SET_SOCKET = 33,
    FF_VHOST_RESET_DEVICE = 34,
    FF_VHOST_VRING_KICK = 35,
    FF_VHOST_GET_MAX_MEM_SLOTS = 36,
    FF_VHOST_ADD_MEM_REG = 37,
    FF_VHOST_REM_MEM_REG = 38,
    FF_VHOST_SET_STATUS = 39,
    FF_VHOST_GET_STATUS = 40,
    FF_VHOST_LAST_KNOWN = FF_VHOST_GET_STATUS,
} FfVhostRequest;

enum {
    FF_VHOST_VERSION = 1,        /* bits 0 and 1 of the flags */
    FF_VHOST_REPLY = 1 << 2,     /* an answer */
    FF_VHOST_NEED_REPLY = 1 << 3 /* with REPLY_ACK: an acknowledgement is wanted */
};

/* Bits of (GET|SET)_FEATURES ... */
#define FF_VHOST_F_LOG_ALL (1ull << 26)
#define FF_VHOST_F_PROTOCOL_FEATURES (1ull << 30) /* it knows (GET|SET)_PROTOCOL_FEATURES */
#define FF_VHOST_F_IOMMU (1ull << 33) /* QEMU says it only of a device that is behind one */
#define FF_VHOST_F_RING_PACKED (1ull << 34)
/* ... and of (GET|SET)_PROTOCOL_FEATURES. */
#define FF_VHOST_PROTOCOL_F_LOG_SHMFD (1ull << 1)
#define FF_VHOST_PROTOCOL_F_REPLY_ACK (1ull << 3)
#define FF_VHOST_PROTOCOL_F_PAGEFAULT (1ull << 8)
#define FF_VHOST_PROTOCOL_F_INFLIGHT_SHMFD (1ull << 12)
/* FfVhostVringAddr.flags: writes to the used ring are logged as well. */
#define FF_VHOST_VRING_F_LOG 1u

/* Bits of a log, each for so many bytes of the guest's physical memory. */
#define FF_VHOST_LOG_PAGE 4096u

typedef struct {
    uint32_t request, flags;
    uint32_t size; /* bytes after the header */
} FfVhostHeader;
static_assert(sizeof(FfVhostHeader) == 12, "sent between processes");

/* One region of guest memory. Its fd goes with the message. */
typedef struct {
    uint64_t guest, size; /* guest-physical address; bytes */
    uint64_t user;        /* the front-end's address of it */
    uint64_t offset;      /* of its beginning in the fd */
} FfVhostRegion;
static_assert(sizeof(FfVhostRegion) == 32, "sent between processes");

/* SET_MEM_TABLE: this and n regions. ADD_MEM_REG, REM_MEM_REG: the same with one. */
typedef struct {
    uint32_t n, padding;
} FfVhostMemory;
static_assert(sizeof(FfVhostMemory) == 8, "sent between processes");

typedef struct {
    uint64_t padding;
    FfVhostRegion region;
} FfVhostOneRegion;
static_assert(sizeof(FfVhostOneRegion) == 40, "sent between processes");

typedef struct {
    uint32_t index, value;
} FfVhostVringState;
static_assert(sizeof(FfVhostVringState) == 8, "sent between processes");

typedef struct {
    uint32_t index, flags;
    uint64_t desc, used, avail; /* the front-end's addresses */
    uint64_t log;               /* guest-physical address of the used ring */
} FfVhostVringAddr;
static_assert(sizeof(FfVhostVringAddr) == 40, "sent between processes");

/* GET_CONFIG, and its answer: this and .size bytes of the device's configuration from .offset on.
 */
typedef struct {
    uint32_t offset, size, flags;
} FfVhostConfig;
static_assert(sizeof(FfVhostConfig) == 12, "sent between processes");
#define FF_VHOST_MAX_CONFIG 256u /* bytes */

/* SET_LOG_BASE with LOG_SHMFD; the fd goes with the message. */
typedef struct {
    uint64_t size, offset;
} FfVhostLog;
static_assert(sizeof(FfVhostLog) == 16, "sent between processes");

/* SET_VRING_KICK, _CALL, _ERR: a u64 of the ring's index and this. */
#define FF_VHOST_VRING_NO_FD (1ull << 8)
#define FF_VHOST_VRING_INDEX 0xffull

/* In one table; more are said one by one. */
#define FF_VHOST_MAX_FAULT_REGIONS 8u
#define FF_VHOST_MAX_REGIONS 64 /* in a table here; QEMU has 8 or, in slots, up to 509 */
#define FF_VHOST_MAX_PAYLOAD 16384u
#define FF_VHOST_MAX_FDS 16u

typedef struct {
    FfVhostHeader header;
    uint8_t payload[FF_VHOST_MAX_PAYLOAD]; /* header.size bytes of it */
    int fds[FF_VHOST_MAX_FDS];
    unsigned n_fds;
} FfVhostMessage;

/* ---- one message ----------------------------------------------------------------------------- */

/* TRUE if the message has a payload of the request's size, or of any size that is right for it.
 * Requests that are not known here are. */
bool ff_vhost_message_fits(const FfVhostMessage *msg);
/* TRUE if an answer comes whatever the flags say. PROTOCOL: the features that are in use. */
bool ff_vhost_has_answer(uint32_t request, uint64_t protocol);
/* Closes its fds. */
void ff_vhost_message_clear(FfVhostMessage *msg);
FfVhostMessage *ff_vhost_message_new(uint32_t request, uint32_t flags, const void *payload,
                                     uint32_t size);
void ff_vhost_message_free(FfVhostMessage *msg);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfVhostMessage, ff_vhost_message_free)
/* Regions of a SET_MEM_TABLE, ADD_MEM_REG or REM_MEM_REG that fits: copied to *REGION, which are
 * then I-th of the return value's number. */
unsigned ff_vhost_n_regions(const FfVhostMessage *msg);
FfVhostRegion ff_vhost_region(const FfVhostMessage *msg, unsigned i);
/* The first 64 bits of the payload; 0 if it is shorter. */
uint64_t ff_vhost_u64(const FfVhostMessage *msg);
FfVhostVringState ff_vhost_state(const FfVhostMessage *msg);
FfVhostVringAddr ff_vhost_addr(const FfVhostMessage *msg);

/* ---- a stream of them ------------------------------------------------------------------------ */

/* All zeros: nothing has come. */
typedef struct {
    FfVhostMessage *msg; /* the one that is coming; NULL: none */
    size_t have;         /* bytes of it */
} FfVhostReader;

/* One whole message, the callee's. FALSE: nothing more is wanted, the stream is broken. */
typedef bool FfVhostTake(FfVhostMessage *msg, void *opaque);

/* Reads LEN bytes of BUF, with whose first byte the N_FDS FDS came (taken). Returns 0, -EPROTO (no
 * message of this protocol: too long, too many fds, another version) or -ECANCELED (TAKE said
 * FALSE). */
int ff_vhost_read(FfVhostReader *reader, const void *buf, size_t len, const int *fds,
                  unsigned n_fds, FfVhostTake *take, void *opaque);
void ff_vhost_reader_clear(FfVhostReader *reader);

#endif
