/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot as Cloud Hypervisor's offload daemon leaves it, which is a folder:
 *
 *     migration_config.json   the configuration, with the table of memory
 *     state.json              the devices
 *     memory-SLOT             the memory of one slot
 *
 * Everything in it is taken for damaged.
 */
#ifndef FF_PAGER_CLOUD_HYPERVISOR_OFFLOAD_H
#define FF_PAGER_CLOUD_HYPERVISOR_OFFLOAD_H

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "content/source/content.h"

#define FF_OFFLOAD_SLOTS 32
#define FF_OFFLOAD_PAGE 4096
#define FF_OFFLOAD_ANSWER (2u << 20) /* bytes of an answer with pages, at most */

/* Also what a record has as the first message of such a client: an array of them. */
typedef struct {
    uint64_t gpa, size;         /* guest-physical; bytes */
    uint64_t file_offset;       /* where it begins in its memfd */
    FfContentIdentity identity; /* of memory-SLOT */
    uint32_t slot;
    uint32_t own; /* bool: its memory is Cloud Hypervisor's own, and answers have pages */
} FfOffloadSlot;
static_assert(sizeof(FfOffloadSlot) == 80, "no holes");

/* What vm_config has of the guest. */
typedef struct {
    const char
        *foreign;      /* its member that has a device which is another process; static, or NULL */
    bool private_file; /* a zone is a file that is not shared: what is passed for it is not it */
    int64_t largest_page; /* bytes; 0: no size is said */
} FfOffloadFacts;

/* Of migration_config.json: SLOTS (FF_OFFLOAD_SLOTS), which are whole pages, beside each other, in
 * the order of the table, without identities. FACTS NULL: a guest that has a device
 * which is another process is refused. Their number; 0 and ERROR (G_IO_ERROR, one line). */
unsigned ff_offload_parse(const char *text, size_t len, FfOffloadSlot *slots, FfOffloadFacts *facts,
                          GError **error);

typedef struct {
    char *config, *state; /* as they are in the files */
    size_t config_len, state_len;
    unsigned n_slots;
    FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
    int file[FF_OFFLOAD_SLOTS];   /* memory-SLOT, to read */
    int memory[FF_OFFLOAD_SLOTS]; /* a memfd of its own, empty. Of `own` slots: the first one is for
                                     an answer (FF_OFFLOAD_ANSWER), the others are -1 */
} FfOffload;

/* Of the folder PATH. OWN: answers will have pages. ERROR as above, which names the file. */
bool ff_offload_open(FfOffload *o, const char *path, bool own, GError **error);
void ff_offload_clear(FfOffload *o);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfOffload, ff_offload_clear)

#endif
