/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that receives a guest as Cloud Hypervisor does (vm.receive-migration with
 * memory_mode=postcopy), written from its sources (vmm/src/lib.rs, uffd.rs, memory_manager.rs at
 * ae44c29) without a look at the server: it registers the memfds that it is given, and asks for
 * each page. Its "vCPUs" (threads) read, write and give back pages; each knows what must be there.
 * What is wrong ends the process with a line that says so.
 *
 * The guest: two slots of one zone, and one of virtio-mem of which nothing is plugged in.
 */
#ifndef FF_TESTS_PAGER_VMM_H
#define FF_TESTS_PAGER_VMM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define VMM_PAGE 4096u
#define VMM_SLOTS 3
#define VMM_PAGES 1024u /* that the guest has */

typedef struct {
    uint32_t slot;
    uint64_t gpa, size, file_offset;
} VmmSlot;
extern const VmmSlot vmm_slot[VMM_SLOTS];

enum {
    VMM_PREFAULTS = 1 << 0, /* asks for all pages, one after the other, when nobody waits */
    VMM_BALLOON = 1 << 1,   /* gives pages back, of which nothing tells the pager */
    VMM_LARGE = 1 << 2,     /* asks for 2 MiB at a time, as of a zone with huge pages */
    VMM_PRECOPY = 1 << 3,   /* was not told of postcopy: takes the memfds as they are */
    VMM_OWN = 1 << 6,       /* gets no memfds: its memory is its own, and answers have pages */
    VMM_OLD = 1 << 5,       /* as v53.0: what is placed needs no answer to be seen */
    VMM_FREEZES = 1 << 4,   /* waits for a byte of `go`, misses a page, and ends with VMM_FROZEN if
                               nobody answers, and nobody has closed the connection */
};
/* How it ends; 0: all was right. */
#define VMM_ABANDONED 40
#define VMM_FROZEN 42

typedef struct {
    int listener;
    unsigned vcpus, ops, flags;
    uint32_t seed;
    int go;
    bool expects_paused;
} VmmPlan;

/* The files of a snapshot, in DIR. */
void vmm_write_snapshot(const char *dir);
const char *vmm_config(void);
const char *vmm_state(void);
/* Listens at PATH. */
int vmm_listen(const char *path);
/* Forks it. */
pid_t vmm_start(const VmmPlan *plan);

/* ---- for a test that does something else on purpose ------------------------------------------ */

typedef struct {
    int listener, control, fault;
    int memory[VMM_SLOTS]; /* -1: it was not passed */
    bool own;              /* none may be passed */
} VmmPeer;

/* The next request on the control connection: its command, or 0 at the end. MEMORY_FD and payloads
 * are looked at; what is wrong ends the process. */
unsigned vmm_receive(VmmPeer *p);
/* STATUS: 1 is OK. */
void vmm_respond(int sock, unsigned status, uint64_t length);
/* The connection for pages. */
void vmm_accept_fault(VmmPeer *p);
/* All up to State, which is not answered; the connection for pages is there. */
void vmm_receive_to_state(VmmPeer *p, int listener, bool own);
/* The same, and the answer. */
void vmm_receive_all(VmmPeer *p, int listener, bool own);
void vmm_peer_clear(VmmPeer *p);
/* FALSE: it cannot be sent. */
bool vmm_ask(int sock, unsigned command, uint64_t payload, uint64_t gpa, uint64_t length);
/* FALSE: no answer of a page that is there. */
bool vmm_read_answer(int sock);
/* The same with the page in it, LENGTH bytes: to DATA. */
bool vmm_read_page(int sock, void *data, uint64_t length);

#endif
