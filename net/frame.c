/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire format: encoder and decoder. Pure functions; any thread. What a peer can reach is
 * decided here: a header that passes ff_frame_decode() and ff_frame_check_run() needs no
 * additional bounds check by the thread that acts on it.
 */
#include "net/frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net/delta.h"

/* QEMU's stream: migration/savevm.c (QEMU_VM_FILE_MAGIC, QEMU_VM_COMMAND, MIG_CMD_*). */
static const uint8_t header[FF_PROLOGUE_HEADER] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
static const uint8_t commands[FF_PROLOGUE_COMMANDS] = {
    0x08, 0,   1,   0,   0, /* command OPEN_RETURN_PATH, length 0 */
    0x08, 0,   2,   0,   4, /* command PING, length 4 */
    'F',  'a', 'r', 'F',
};
static_assert(FF_PROLOGUE_TOKEN == ('F' << 24 | 'a' << 16 | 'r' << 8 | 'F'), "the token's bytes");

/* vmstate_configuration and its subsection vmstate_configuration_uuid. */
enum { VM_CONFIGURATION = FF_PROLOGUE_CONFIGURATION, VM_COMMAND = 0x08 };
#define MACHINE_MAX 255u
#define UUID_SIZE 16
static const uint8_t uuid_head[] = {FF_PROLOGUE_SUBSECTION,
                                    18,
                                    'c',
                                    'o',
                                    'n',
                                    'f',
                                    'i',
                                    'g',
                                    'u',
                                    'r',
                                    'a',
                                    't',
                                    'i',
                                    'o',
                                    'n',
                                    '/',
                                    'u',
                                    'u',
                                    'i',
                                    'd',
                                    0,
                                    0,
                                    0,
                                    1};

/* send-configuration is off in machines of before 2.4. A machine that has no such number is newer,
 * or came from a distribution. */
static bool is_told(const char *machine)
{
    const char *version = strrchr(machine, '-');
    unsigned major, minor;

    return !version || sscanf(version, "-%u.%u", &major, &minor) != 2 || major > 2 ||
           (major == 2 && minor > 3);
}

size_t ff_configuration_encode(uint8_t out[FF_CONFIGURATION_MAX], const char *machine,
                               const uint8_t *uuid)
{
    size_t len = strlen(machine), at = 5 + len;

    if (len == 0 || len > MACHINE_MAX || !is_told(machine)) {
        return 0;
    }
    out[0] = VM_CONFIGURATION;
    out[1] = out[2] = out[3] = 0;
    out[4] = len;
    memcpy(out + 5, machine, len);
    if (uuid) {
        memcpy(out + at, uuid_head, sizeof(uuid_head));
        memcpy(out + at + sizeof(uuid_head), uuid, UUID_SIZE);
        at += sizeof(uuid_head) + UUID_SIZE;
    }
    return at;
}

size_t ff_prologue_encode(uint8_t *out, const void *configuration, size_t len)
{
    memcpy(out, header, sizeof(header));
    if (len) {
        memcpy(out + sizeof(header), configuration, len);
    }
    memcpy(out + sizeof(header) + len, commands, sizeof(commands));
    return FF_PROLOGUE_SIZE + len;
}

FfPeer ff_prologue_decode(const uint8_t *in, size_t n, size_t *need)
{
    size_t at = sizeof(header);

    *need = at + 1;
    if (n && memcmp(in, header, MIN(n, sizeof(header))) != 0) {
        return FF_PEER_UNKNOWN;
    }
    if (n < *need) {
        return FF_PEER_MORE;
    }
    if (in[at] == VM_CONFIGURATION) {
        *need = at + 5;
        if (n < *need) {
            return FF_PEER_MORE;
        }
        if (in[at + 1] || in[at + 2] || in[at + 3]) {
            return FF_PEER_PLAIN_QEMU; /* no machine of ours has a name like that */
        }
        at += 5 + in[at + 4];
        *need = at + 1;
        if (n < *need) {
            return FF_PEER_MORE;
        }
        if (in[at] == FF_PROLOGUE_SUBSECTION) {
            size_t have = MIN(n - at, sizeof(uuid_head));
            if (memcmp(in + at, uuid_head, have) != 0) {
                return FF_PEER_PLAIN_QEMU;
            }
            at += sizeof(uuid_head) + UUID_SIZE;
        }
    }
    *need = at + sizeof(commands);
    if (n > at && memcmp(in + at, commands, MIN(n - at, sizeof(commands))) != 0) {
        return FF_PEER_PLAIN_QEMU;
    }
    return n < *need ? FF_PEER_MORE : FF_PEER_FARFAULT;
}

void ff_prologue_as_qemu(uint8_t *prologue, size_t len)
{
    static const uint8_t first[] = {0, 0, 0, 1}; /* as migration_thread() counts its PINGs */

    memcpy(prologue + len - sizeof(first), first, sizeof(first));
}

void ff_pong_encode(uint8_t out[FF_PONG_SIZE], const uint8_t *prologue, size_t len)
{
    static const uint8_t head[] = {0, 2, 0, 4}; /* MIG_RP_MSG_PONG, length 4 */

    memcpy(out, head, sizeof(head));
    memcpy(out + sizeof(head), prologue + len - 4, 4);
}

void ff_switchover_ack_encode(uint8_t out[FF_SWITCHOVER_ACK_SIZE])
{
    static const uint8_t ack[FF_SWITCHOVER_ACK_SIZE] = {0, 7, 0, 0}; /* type, no data */

    memcpy(out, ack, sizeof(ack));
}

bool ff_switchover_ack_take(uint8_t in[FF_PONG_SIZE])
{
    uint8_t ack[FF_SWITCHOVER_ACK_SIZE];

    ff_switchover_ack_encode(ack);
    if (memcmp(in, ack, sizeof(ack)) != 0) {
        return false;
    }
    memmove(in, in + sizeof(ack), FF_PONG_SIZE - sizeof(ack));
    return true;
}

FfFrame ff_frame(FfFrameType type, uint32_t length)
{
    return (FfFrame){.magic = FF_FRAME_MAGIC, .type = type, .length = length};
}

static void swap_all(FfFrame *f)
{
    f->magic = GUINT32_TO_LE(f->magic);
    f->type = GUINT16_TO_LE(f->type);
    f->flags = GUINT16_TO_LE(f->flags);
    f->length = GUINT32_TO_LE(f->length);
    f->epoch = GUINT32_TO_LE(f->epoch);
    f->block = GUINT32_TO_LE(f->block);
    f->n_pages = GUINT32_TO_LE(f->n_pages);
    f->page = GUINT64_TO_LE(f->page);
    f->reserved = GUINT64_TO_LE(f->reserved);
}

void ff_frame_encode(FfFrame *f)
{
    swap_all(f);
}

/* For each type: its name and the least and the greatest payload, bytes. */
static const struct {
    const char *name;
    uint32_t min, max;
} types[FF_FRAME__MAX] = {
    [FF_FRAME_GREETING] = {"greeting", sizeof(FfGreeting), sizeof(FfGreeting)},
    [FF_FRAME_HELLO] = {"hello", sizeof(FfHello) + sizeof(FfHelloBlock),
                        sizeof(FfHello) + FF_MAX_BLOCKS * sizeof(FfHelloBlock)},
    [FF_FRAME_HELLO_REPLY] = {"hello-reply", 1, FF_FRAME_MAX_TEXT},
    [FF_FRAME_CHANNEL] = {"channel", sizeof(FfChannelHello), sizeof(FfChannelHello)},
    [FF_FRAME_CHANNEL_REPLY] = {"channel-reply", 0, 0},
    [FF_FRAME_SHARED] = {"shared", 0, 0},
    [FF_FRAME_PREPARE] = {"prepare", 0, 0},
    [FF_FRAME_READY] = {"ready", 0, 0},
    [FF_FRAME_DEVICE] = {"device", 1, FF_RUN_MAX_BYTES},
    [FF_FRAME_LOADED] = {"loaded", 0, 0},
    [FF_FRAME_GRANT] = {"grant", 1, 31},
    [FF_FRAME_RUNNING] = {"running", 0, 0},
    [FF_FRAME_PAGES] = {"pages", 1, FF_FRAME_MAX_DATA},
    [FF_FRAME_ZERO] = {"zero", 0, 0},
    [FF_FRAME_END] = {"end", 0, 0},
    [FF_FRAME_REQUEST] = {"request", 0, 0},
    [FF_FRAME_ACK] = {"ack", 0, 0},
    [FF_FRAME_DONE] = {"done", 0, 0},
    [FF_FRAME_FINISHED] = {"finished", 0, 0},
    [FF_FRAME_ABORT] = {"abort", 1, FF_FRAME_MAX_TEXT},
    [FF_FRAME_RESUME] = {"resume", sizeof(FfResume), sizeof(FfResume)},
    [FF_FRAME_RESUME_REPLY] = {"resume-reply", 1, FF_FRAME_MAX_TEXT},
    [FF_FRAME_HAVE] = {"have", 0, FF_HAVE_MAX_PAGES / 8},
    [FF_FRAME_HAVE_END] = {"have-end", 0, 0},
    [FF_FRAME_RESUMED] = {"resumed", 0, 0},
    [FF_FRAME_STALE] = {"stale", 0, FF_RUN_MAX_BYTES},
    [FF_FRAME_REVOKE] = {"revoke", sizeof(FfResume), sizeof(FfResume)},
    [FF_FRAME_REVOKED] = {"revoked", 0, FF_FRAME_MAX_TEXT},
    [FF_FRAME_PAUSED] = {"paused", 0, 0},
    [FF_FRAME_ALIVE] = {"alive", 0, 0},
    [FF_FRAME_COMPRESSED] = {"packed", 1, FF_FRAME_MAX_DATA - 1},
    [FF_FRAME_BASE] = {"base", 1, FF_RUN_MAX_BYTES},
    [FF_FRAME_ROUND] = {"round", 0, 0},
    [FF_FRAME_ENDED] = {"ended", 0, 0},
    [FF_FRAME_PARTS] = {"parts", 1, FF_PARTS_MAX},
};

const char *ff_frame_name(unsigned type)
{
    return type < FF_FRAME__MAX && types[type].name ? types[type].name : "unknown";
}

int ff_frame_decode(FfFrame *f, const char **why)
{
    swap_all(f);
    if (f->magic != FF_FRAME_MAGIC) {
        *why = "no frame begins where one should (wrong magic)";
        return -EBADMSG;
    }
    if (f->type >= FF_FRAME__MAX || !types[f->type].name) {
        *why = "unknown type of frame";
        return -EBADMSG;
    }
    if (f->length < types[f->type].min || f->length > types[f->type].max) {
        *why = "a length that this type of frame cannot have";
        return -EBADMSG;
    }
    return 0;
}

int ff_frame_check_run(const FfFrame *f, const FfFrameBlock *blocks, unsigned n_blocks,
                       const char **why)
{
    if (f->block >= n_blocks) {
        *why = "a block index out of range";
        return -EBADMSG;
    }
    const FfFrameBlock *b = &blocks[f->block];
    uint64_t n = b->size / b->page_size;
    if (f->n_pages == 0 || f->page >= n || f->n_pages > n - f->page) {
        *why = "a run outside of its block";
        return -EBADMSG;
    }
    uint64_t bytes = f->n_pages * b->page_size;
    if (f->type == FF_FRAME_PAGES && f->length != bytes) {
        *why = "a payload that is not as long as its run";
        return -EBADMSG;
    }
    if (f->type == FF_FRAME_COMPRESSED &&
        bytes > MIN(FF_FRAME_MAX_DATA, MAX(FF_RUN_MAX_BYTES, b->page_size))) {
        *why = "a run that is too long";
        return -EBADMSG;
    }
    if (f->type == FF_FRAME_COMPRESSED && f->length >= bytes) {
        *why = "a compressed payload that is not shorter than its run";
        return -EBADMSG;
    }
    return 0;
}

int ff_frame_check_device(const FfFrame *f, const char **why)
{
    bool packed = f->flags & FF_DEVICE_COMPRESSED, delta = f->flags & FF_DEVICE_DELTA;

    if (f->flags & ~(FF_DEVICE_COMPRESSED | FF_DEVICE_DELTA)) {
        *why = "flags that it cannot have";
        return -EBADMSG;
    }
    if (packed ? f->page <= f->length || f->page > FF_RUN_MAX_BYTES : f->page != 0) {
        *why = "a compressed payload of a size that it cannot have";
        return -EBADMSG;
    }
    uint64_t left = packed ? f->page : f->length;
    if (delta ? f->n_pages <= left || f->n_pages > FF_RUN_MAX_BYTES : f->n_pages != 0) {
        *why = "a delta of a size that it cannot have";
        return -EBADMSG;
    }
    return 0;
}

int ff_frame_check_have(const FfFrame *f, const FfFrameBlock *blocks, unsigned n_blocks,
                        const char **why)
{
    int rc = ff_frame_check_run(f, blocks, n_blocks, why);

    if (rc < 0) {
        return rc;
    }
    const FfFrameBlock *b = &blocks[f->block];
    bool to_end = f->page + f->n_pages == b->size / b->page_size;
    if (f->page % 64 || (f->n_pages % 64 && !to_end)) {
        *why = "a list of pages that does not begin or end at a word";
        return -EBADMSG;
    }
    uint64_t bytes = ((uint64_t)f->n_pages + 63) / 64 * 8;
    if (f->flags > 1 || f->length != (f->flags ? 0 : bytes)) {
        *why = "a list of pages that is not as long as its run";
        return -EBADMSG;
    }
    return 0;
}

char *ff_peer_text(char *text)
{
    for (char *p = text; *p; p++) {
        *p = g_ascii_isprint(*p) ? *p : '?';
    }
    return text;
}
