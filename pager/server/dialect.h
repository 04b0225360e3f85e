/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A dialect: how programs of one kind ask for their pages, and what is different with them. Each
 * has a file in pager/dialects/ and a row in dialects.c there; the rest of pager/ knows no dialect,
 * and asks this table.
 */
#ifndef FF_PAGER_SERVER_DIALECT_H
#define FF_PAGER_SERVER_DIALECT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pager/server/image.h"

typedef struct FfSession FfSession;

typedef struct {
    const char *name; /* in reports */

    /* ---- the holder's process. What comes is hostile: nothing is parsed or allocated here. ----
     */

    /* Do these LEN bytes (at least one) begin the first message of such a client? NULL: it is known
     * otherwise which clients are of this dialect (a folder of images, a connection of ours). */
    bool (*recognise)(const char *bytes, size_t len);
    /* These LEN bytes are a whole message, without a userfaultfd. If it is a question: the length
     * of the answer, which is in ANSWER (ROOM bytes at most); else 0. CONTENT: the size of the
     * pager's content, in bytes. NULL: such clients ask nothing. */
    size_t (*answer)(const char *bytes, size_t len, uint64_t content, char *answer, size_t room);

    /* ---- the pager's process: the owner of a session ------------------------------------------
     */

    /* What is known of a client, from its first message (FfSpaceRecord.hello), which is hostile.
     * NULL and ERROR (one line): it is refused. */
    FfImage *(*make_image)(FfSession *s, GError **error);
    /* FfSession.source or .block_source, and .set_path: content as it was when the client came.
     * FALSE and ERROR: it is tried again, and must find all as before. */
    bool (*open_source)(FfSession *s, GError **error);
    /* All that a session does, until it has ended or needs only the threads that were started
     * (session-internal.h has what dialects have in common). */
    void (*serve)(FfSession *s);
    /* The session ends: whatever its threads wait for outside of pager/server/. Any thread. Can be
     * NULL. */
    void (*wake)(FfSession *s);
    /* What the dialect has of S; its threads have ended, and the others may never have run. Can be
     * NULL. */
    void (*close)(FfSession *s);

    bool own_content; /* of each client; the pager opens none for all */
    /* The memory is files of the pager's own: nothing tells of pages that are given back, and zeros
     * cost memory. */
    bool memory_is_ours;
    /* What the process gives back has its content again when it is touched; else it is zeros. */
    bool comes_again;
} FfDialect;

#endif
