/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two pagers say to each other (docs/design/pager.md, "Another host"). Little-endian. One
 * asks and waits for the answer, any number of times; one that has nothing more to ask closes.
 */
#ifndef FF_SERVER_REMOTE_WIRE_H
#define FF_SERVER_REMOTE_WIRE_H

#include <assert.h>
#include <stdint.h>

#define FF_REMOTE_MAGIC "FFPAGES1"
#define FF_REMOTE_PAGE 4096u
#define FF_REMOTE_LEN_MAX (4u << 20)
#define FF_REMOTE_TEXT_MAX 512u

/* First, the one that asks. */
typedef struct {
    char magic[8];
} FfRemoteHello;
static_assert(sizeof(FfRemoteHello) == 8, "on the wire");

/* Then the one that answers. */
typedef struct {
    char magic[8];
    uint64_t size;     /* bytes */
    uint64_t identity; /* another number: another content */
} FfRemoteWelcome;
static_assert(sizeof(FfRemoteWelcome) == 24, "on the wire");

#define FF_REMOTE_READ 0x44414552u /* "READ" */

/* LEN bytes from AT on, or fewer: a multiple of PIECE, which is one of FF_REMOTE_PAGE. */
typedef struct {
    uint32_t magic; /* FF_REMOTE_READ */
    uint32_t piece;
    uint64_t at, len;
} FfRemoteRequest;
static_assert(sizeof(FfRemoteRequest) == 24, "on the wire");

typedef enum {
    FF_REMOTE_DATA = 1, /* LEN bytes follow */
    FF_REMOTE_ZEROS,    /* LEN bytes are zeros; nothing follows */
    FF_REMOTE_FAILED,   /* they cannot be read now: LEN bytes of text follow, which say why */
} FfRemoteStatus;

typedef struct {
    uint32_t status; /* FfRemoteStatus */
    uint32_t reserved;
    uint64_t at; /* of the request */
    uint64_t len;
    uint64_t sum; /* XXH64 of what follows; 0: nothing does */
} FfRemoteAnswer;
static_assert(sizeof(FfRemoteAnswer) == 32, "on the wire");

#endif
