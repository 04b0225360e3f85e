/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What CRIU's page server is asked, and answers (docs/design/pager.md, "CRIU's page server"): a
 * process that has dumped others lazily has their pages still. One asks for a run of pages and gets
 * it, or the first part of it. Any number of requests can be on their way; they are answered in
 * their order. In the byte order of the host, as CRIU has it.
 *
 * No state, no system calls; any thread.
 */
#ifndef FF_PAGER_REMOTE_PAGE_SERVER_H
#define FF_PAGER_REMOTE_PAGE_SERVER_H

#include <assert.h>
#include <stdint.h>

#define FF_PAGE_SERVER_PAGE 4096u

typedef enum {
    FF_PAGE_SERVER_ADD = 6 | 4 << 16, /* of an answer: PAGES pages follow */
    FF_PAGE_SERVER_GET = 7,
    FF_PAGE_SERVER_CLOSE = 0x1023, /* all is here: it answers with its status, 32 bits, 0 */
} FfPageServerCommand;

typedef struct {
    uint32_t command;
    uint32_t unused; /* whatever CRIU's compiler leaves there */
    uint64_t pages, addr, pid;
} FfPageServerFrame;
static_assert(sizeof(FfPageServerFrame) == 32, "on the wire");

/* What is wrong with ANSWER to ASKED; NULL: nothing is. */
const char *ff_page_server_check(const FfPageServerFrame *asked, const FfPageServerFrame *answer);

#endif
