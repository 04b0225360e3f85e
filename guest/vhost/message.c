/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See message.h. The fds of a message come with its first byte (front-ends and back-ends send them
 * so); those that come with a later one count as its as well.
 *
 * Any thread; no locks. System calls: close.
 */
#include "guest/vhost/message.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* What is known of a request. SIZE: of its payload; ANY: it is not looked at here. */
#define ANY UINT32_MAX
typedef struct {
    uint32_t size;
    bool answer;
} Known;

static const Known known[FF_VHOST_LAST_KNOWN + 1] = {
    [FF_VHOST_GET_FEATURES] = {0, true},
    [FF_VHOST_SET_FEATURES] = {8, false},
    [FF_VHOST_SET_OWNER] = {0, false},
    [FF_VHOST_RESET_OWNER] = {0, false},
    [FF_VHOST_SET_MEM_TABLE] = {ANY, false},
    [FF_VHOST_SET_LOG_BASE] = {ANY, false}, /* with LOG_SHMFD it has one */
    [FF_VHOST_SET_LOG_FD] = {ANY, false},
    [FF_VHOST_SET_VRING_NUM] = {sizeof(FfVhostVringState), false},
    [FF_VHOST_SET_VRING_ADDR] = {sizeof(FfVhostVringAddr), false},
    [FF_VHOST_SET_VRING_BASE] = {sizeof(FfVhostVringState), false},
    [FF_VHOST_GET_VRING_BASE] = {sizeof(FfVhostVringState), true},
    [FF_VHOST_SET_VRING_KICK] = {8, false},
    [FF_VHOST_SET_VRING_CALL] = {8, false},
    [FF_VHOST_SET_VRING_ERR] = {8, false},
    [FF_VHOST_GET_PROTOCOL_FEATURES] = {0, true},
    [FF_VHOST_SET_PROTOCOL_FEATURES] = {8, false},
    [FF_VHOST_GET_QUEUE_NUM] = {0, true},
    [FF_VHOST_SET_VRING_ENABLE] = {sizeof(FfVhostVringState), false},
    [FF_VHOST_SEND_RARP] = {ANY, false},
    [FF_VHOST_NET_SET_MTU] = {ANY, false},
    [FF_VHOST_SET_BACKEND_REQ_FD] = {ANY, false},
    [FF_VHOST_IOTLB_MSG] = {ANY, false},
    [FF_VHOST_SET_VRING_ENDIAN] = {ANY, false},
    [FF_VHOST_GET_CONFIG] = {ANY, true},
    [FF_VHOST_SET_CONFIG] = {ANY, false},
    [FF_VHOST_CREATE_CRYPTO_SESSION] = {ANY, true},
    [FF_VHOST_CLOSE_CRYPTO_SESSION] = {ANY, false},
    [FF_VHOST_POSTCOPY_ADVISE] = {ANY, true},
    [FF_VHOST_POSTCOPY_LISTEN] = {ANY, false},
    [FF_VHOST_POSTCOPY_END] = {ANY, true},
    [FF_VHOST_GET_INFLIGHT_FD] = {ANY, true},
    [FF_VHOST_SET_INFLIGHT_FD] = {ANY, false},
    [FF_VHOST_GPU_SET_SOCKET] = {ANY, false},
    [FF_VHOST_RESET_DEVICE] = {0, false},
    [FF_VHOST_VRING_KICK] = {sizeof(FfVhostVringState), false},
    [FF_VHOST_GET_MAX_MEM_SLOTS] = {0, true},
    [FF_VHOST_ADD_MEM_REG] = {sizeof(FfVhostOneRegion), false},
    [FF_VHOST_REM_MEM_REG] = {sizeof(FfVhostOneRegion), false},
    [FF_VHOST_SET_STATUS] = {8, false},
    [FF_VHOST_GET_STATUS] = {0, true},
};

bool ff_vhost_message_fits(const FfVhostMessage *msg)
{
    uint32_t request = msg->header.request, size = msg->header.size;

    if (request == FF_VHOST_SET_MEM_TABLE) {
        FfVhostMemory memory;

        if (size < sizeof(memory)) {
            return false;
        }
        memcpy(&memory, msg->payload, sizeof(memory));
        /* QEMU sends no more than there are; others may send a table of full length. */
        return memory.n <= (size - sizeof(memory)) / sizeof(FfVhostRegion) &&
               memory.n == msg->n_fds;
    }
    if (request == FF_VHOST_ADD_MEM_REG && msg->n_fds != 1) {
        return false;
    }
    return request > FF_VHOST_LAST_KNOWN || known[request].size == ANY ||
           known[request].size == size;
}

bool ff_vhost_has_answer(uint32_t request, uint64_t protocol)
{
    if (request == FF_VHOST_SET_LOG_BASE) {
        return protocol & FF_VHOST_PROTOCOL_F_LOG_SHMFD;
    }
    return request <= FF_VHOST_LAST_KNOWN && known[request].answer;
}

void ff_vhost_message_clear(FfVhostMessage *msg)
{
    for (unsigned i = 0; i < msg->n_fds; i++) {
        close(msg->fds[i]);
    }
    msg->n_fds = 0;
}

FfVhostMessage *ff_vhost_message_new(uint32_t request, uint32_t flags, const void *payload,
                                     uint32_t size)
{
    FfVhostMessage *msg = g_malloc(sizeof(*msg));

    g_assert(size <= sizeof(msg->payload));
    msg->header = (FfVhostHeader){request, FF_VHOST_VERSION | flags, size};
    msg->n_fds = 0;
    if (size) {
        memcpy(msg->payload, payload, size);
    }
    return msg;
}

void ff_vhost_message_free(FfVhostMessage *msg)
{
    if (msg) {
        ff_vhost_message_clear(msg);
        g_free(msg);
    }
}

unsigned ff_vhost_n_regions(const FfVhostMessage *msg)
{
    FfVhostMemory memory;

    if (msg->header.request != FF_VHOST_SET_MEM_TABLE) {
        return 1;
    }
    memcpy(&memory, msg->payload, sizeof(memory));
    return memory.n;
}

FfVhostRegion ff_vhost_region(const FfVhostMessage *msg, unsigned i)
{
    FfVhostRegion region;
    /* Eight bytes in front, a count or padding. */
    memcpy(&region, msg->payload + sizeof(FfVhostMemory) + i * sizeof(region), sizeof(region));
    return region;
}

uint64_t ff_vhost_u64(const FfVhostMessage *msg)
{
    uint64_t value = 0;

    if (msg->header.size >= sizeof(value)) {
        memcpy(&value, msg->payload, sizeof(value));
    }
    return value;
}

FfVhostVringState ff_vhost_state(const FfVhostMessage *msg)
{
    FfVhostVringState state;

    memcpy(&state, msg->payload, sizeof(state));
    return state;
}

FfVhostVringAddr ff_vhost_addr(const FfVhostMessage *msg)
{
    FfVhostVringAddr addr;

    memcpy(&addr, msg->payload, sizeof(addr));
    return addr;
}

/* ---- the stream ------------------------------------------------------------------------------ */

static void close_all(const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        close(fds[i]);
    }
}

/* Adds the fds to the message that is coming. */
static bool add_fds(FfVhostReader *r, const int *fds, unsigned n)
{
    if (n > FF_VHOST_MAX_FDS - r->msg->n_fds) {
        close_all(fds, n);
        return false;
    }
    memcpy(r->msg->fds + r->msg->n_fds, fds, n * sizeof(*fds));
    r->msg->n_fds += n;
    return true;
}

/* Takes what belongs to the header or to the payload. Returns the bytes. */
static size_t take_bytes(FfVhostReader *r, const uint8_t *at, size_t len)
{
    size_t head = sizeof(FfVhostHeader);
    bool in_head = r->have < head;
    size_t n = MIN(len, in_head ? head - r->have : head + r->msg->header.size - r->have);
    uint8_t *to = in_head ? (uint8_t *)&r->msg->header + r->have : r->msg->payload + r->have - head;

    memcpy(to, at, n);
    r->have += n;
    return n;
}

int ff_vhost_read(FfVhostReader *r, const void *buf, size_t len, const int *fds, unsigned n_fds,
                  FfVhostTake *take, void *opaque)
{
    const uint8_t *at = buf;

    if (!len) {
        close_all(fds, n_fds);
    }
    while (len) {
        if (!r->msg) {
            r->msg = g_malloc(sizeof(*r->msg));
            r->msg->n_fds = 0;
            r->have = 0;
        }
        if (n_fds && !add_fds(r, fds, n_fds)) {
            return -EPROTO;
        }
        n_fds = 0;
        size_t n = take_bytes(r, at, len);
        at += n;
        len -= n;
        if (r->have < sizeof(FfVhostHeader)) {
            continue;
        }
        const FfVhostHeader *h = &r->msg->header;
        if (h->size > FF_VHOST_MAX_PAYLOAD || (h->flags & 3) != FF_VHOST_VERSION) {
            return -EPROTO;
        }
        if (r->have == sizeof(FfVhostHeader) + h->size && !take(g_steal_pointer(&r->msg), opaque)) {
            return -ECANCELED;
        }
    }
    return 0;
}

void ff_vhost_reader_clear(FfVhostReader *r)
{
    g_clear_pointer(&r->msg, ff_vhost_message_free);
}
