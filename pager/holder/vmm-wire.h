/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cloud Hypervisor's migration protocol, as far as it is spoken with a restored guest
 * (vm-migration/src/protocol.rs there, version 0). Little-endian, on a unix stream socket: a
 * request and its payload, then a response.
 */
#ifndef FF_PAGER_HOLDER_VMM_WIRE_H
#define FF_PAGER_HOLDER_VMM_WIRE_H

#include <assert.h>
#include <stdint.h>

typedef enum {
    FF_VMM_START = 1,  /* the header's first two bytes: the version */
    FF_VMM_CONFIG = 2, /* JSON */
    FF_VMM_STATE = 3,  /* JSON */
    FF_VMM_COMPLETE = 5,
    FF_VMM_ABANDON = 6,
    FF_VMM_MEMORY_FD = 7, /* the slot (32 bits), sent with its memfd */
    FF_VMM_COMPLETE_PAUSED = 8,
    FF_VMM_PAGE_FAULT = 9, /* FfVmmRange. From the VMM, on a connection of its own */
} FfVmmCommand;

typedef enum { FF_VMM_OK = 1, FF_VMM_ERROR = 2 } FfVmmStatus;

/* What each connection but the first begins with (16 bits). */
#define FF_VMM_ROLE_FAULT 2

typedef struct {
    uint16_t command;
    uint8_t header[6];
    uint64_t length; /* of the payload, bytes */
} FfVmmRequest;
static_assert(sizeof(FfVmmRequest) == 16, "as it is on the wire");

typedef struct {
    uint16_t status;
    uint8_t padding[6];
    uint64_t length; /* of the payload, bytes */
} FfVmmResponse;
static_assert(sizeof(FfVmmResponse) == 16, "as it is on the wire");

typedef struct {
    uint64_t gpa, length; /* bytes */
} FfVmmRange;

typedef struct {
    FfVmmRequest request;
    FfVmmRange range;
} FfVmmAsk;
static_assert(sizeof(FfVmmAsk) == 32, "as it is on the wire");

#endif
