/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tiny HTTP/1.1 server on 127.0.0.1, for range.c: one file, HEAD and GET with one range. It
 * closes a connection when it is first asked for one of 16 blocks, and makes the mistakes that
 * range_server_set() says.
 */
#ifndef FARFAULT_RANGE_SERVER_H
#define FARFAULT_RANGE_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define RANGE_BLOCK (64u << 10)

typedef struct RangeServer RangeServer;

/* Of a file of LEN bytes, whose name is PATH, in a thread; at a port that is free. */
RangeServer *range_server_start(const char *path, uint64_t len);
unsigned range_server_port(const RangeServer *s);
/* From now on: answers about block 100 are CUT; the file has LEN bytes. */
void range_server_set(RangeServer *s, bool cut, uint64_t len);
void range_server_stop(RangeServer *s);

/* What the file has: word I. */
static inline uint64_t range_word(uint64_t i)
{
    return i * 0x9e3779b97f4a7c15ull + 1;
}

static inline struct sockaddr_in loopback(unsigned port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
}

#endif
