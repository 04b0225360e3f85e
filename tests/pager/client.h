/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that hands its memory to a pager as Firecracker does, written from what is known of
 * Firecracker and of the kernel, without a look at the server. Its "vCPUs" (threads) read, write,
 * give back, move and unmap memory, and fork; each knows for each page what must be there. What is
 * wrong ends the process with a line that says so.
 */
#ifndef FF_TESTS_PAGER_CLIENT_H
#define FF_TESTS_PAGER_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum { CLIENT_ANON, CLIENT_SHMEM, CLIENT_HUGETLB, CLIENT_KINDS } ClientKind;

enum {
    CLIENT_BALLOON = 1 << 0, /* gives memory back */
    CLIENT_MOVES = 1 << 1,   /* mremap */
    CLIENT_FORKS = 1 << 2,
    CLIENT_READS_ALL = 1 << 3, /* in the end */
    CLIENT_WAITS = 1 << 4,     /* in the end, for a byte of `go`, and reads all after it */
    CLIENT_FREEZES = 1 << 7,   /* ends with CLIENT_FROZEN as soon as a fault waits for a handler */
    CLIENT_OLD = 1 << 5,       /* sends page_size_kib alone, as an old Firecracker */
    CLIENT_WAITS_FIRST = 1 << 9,    /* for a byte of `go`, before anything else */
    CLIENT_READS_AT_ONCE = 1 << 10, /* in the end, with a thread for each page */
    CLIENT_LEAVES = 1 << 8, /* forks when all has been done, and exits at once: the child runs on */
    CLIENT_SPLIT = 1 << 6,  /* its message comes in pieces, the userfaultfd with the last */
};

#define CLIENT_FROZEN 42

typedef struct {
    const char *socket;
    ClientKind kind;
    unsigned pages;   /* of the file */
    unsigned regions; /* in which they are */
    unsigned vcpus, ops;
    unsigned flags;
    uint32_t seed;
    int go; /* CLIENT_WAITS; CLIENT_LEAVES: the child writes a byte there when it has read all */
} ClientPlan;

uint64_t client_page_size(ClientKind kind);
/* Is page PAGE of the memory file zeros? The others hold client_word(). */
bool client_is_zero(unsigned page);
uint64_t client_word(unsigned page, unsigned word);

/* Sends LEN bytes of TEXT to a socket, in one message, FD with them (-1: none). FALSE and errno. */
bool client_send(int sock, const char *text, size_t len, int fd);

/* Forks it; it ends with 0 if all was right. */
pid_t client_start(const ClientPlan *plan);

#endif
