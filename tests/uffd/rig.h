/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space over real memory of this process, for tests: kinds of memory, a pager that answers by a
 * thread of its own, and counts of what it was asked and told.
 */
#ifndef FF_TESTS_UFFD_RIG_H
#define FF_TESTS_UFFD_RIG_H

#include <glib.h>
#include <linux/userfaultfd.h>
#include <pthread.h>

#include "tests/lib/hugepages.h"
#include "uffd/faults.h"
#include "uffd/place.h"
#include "uffd/space.h"
#include "uffd/uffd.h"

typedef enum { RIG_MEMFD, RIG_SHMEM_HUGE, RIG_HUGETLB, RIG_ANON, RIG_KINDS } RigKind;

#define RIG_BIT(kind) (1u << (kind))
#define RIG_ALL (RIG_BIT(RIG_KINDS) - 1)
#define RIG_FILES (RIG_ALL & ~RIG_BIT(RIG_ANON))

/* Of the first waits that began. */
#define RIG_WAITS 64
typedef struct {
    int32_t tid;
    int64_t since_us;
    unsigned ended; /* times */
} RigWait;

typedef struct Rig Rig;
struct Rig {
    FfPager pager; /* first: what the space calls with is the rig */
    RigKind kind;
    int fd;      /* -1: private */
    char *map;   /* in the space */
    char *alias; /* files: another mapping, not in the space */
    uint64_t page_size, len;
    unsigned n_pages;
    FfBacking backing;
    int uffd, mem_fd;
    HugePages *pool;
    FfSpace *s;
    bool is_client; /* the space is of another process */
    GThread *faults, *filler;
    void *opaque; /* the test's */

    /* Content for a run, by the filler; NULL: rig_fill_pattern(). */
    void (*fill)(Rig *r, const FfRun *run);

    pthread_mutex_t lock;
    pthread_cond_t changed;
    FfRun *queue; /* lock; requests that the filler has not taken */
    unsigned queue_len, queue_cap;
    bool end;                                               /* lock */
    unsigned *asked;                                        /* lock; by page */
    unsigned asked_all;                                     /* lock */
    unsigned removed[2];                                    /* lock; pages by FfRemoved */
    unsigned completed;                                     /* lock */
    uint64_t present;                                       /* lock */
    uint64_t present_as[FF_PRESENT_NOTHING + 1], duplicate; /* lock */
    RigWait waits[RIG_WAITS];                               /* lock */
    unsigned began, ended;                                  /* lock */
    unsigned written;                                       /* lock */
    unsigned full;                                          /* lock */
    int failed;                                             /* lock; the first one */
    int64_t failed_page;                                    /* lock; -1: not known */
    FfSpace *child;                                         /* lock */
};

/* What the memory holds in the end. */
uint64_t rig_word(unsigned page, unsigned word);
void rig_pattern(const Rig *r, unsigned page, void *buf);
/* Page PAGE at AT holds the pattern; or all zeros. Touches it. */
void rig_check(const Rig *r, unsigned page, const char *at);
void rig_check_zero(const Rig *r, const char *at);
bool rig_is_pattern(const Rig *r, unsigned page, const void *data);
void rig_fill_pattern(Rig *r, const FfRun *run);

/* Memory of KIND, 1024 small pages or 8 huge ones, all missing, in a space (where MADV_REMOVE is
 * what gives shared memory back) that is registered in MODE with FEATURES besides those that the
 * kind needs. NULL: skipped, with the reason. */
Rig *rig_new(RigKind kind, uint64_t mode, uint64_t features);
/* The same, not registered yet, with a userfaultfd of somebody else's (taken); MEM_FD: taken. */
Rig *rig_new_memory(RigKind kind);
void rig_open_space(Rig *r, int uffd, int mem_fd, uint64_t features);
/* Features of KIND in MODE and FEATURES; FALSE: skipped. */
bool rig_features(RigKind kind, uint64_t mode, uint64_t *features);
/* Starts fault thread and filler. */
void rig_start(Rig *r);
void rig_stop(Rig *r);
/* The fault thread ends; another one begins, for a pager that has lost what it was asked for. */
void rig_stop_faults(Rig *r);
void rig_start_faults_again(Rig *r);
void rig_free(Rig *r);

char *rig_page(const Rig *r, unsigned page);
/* Takes pages out of memory, past the space. */
void rig_drop(Rig *r, unsigned page, unsigned n);
/* Writes the pattern into the file, or the private memory. */
void rig_populate(Rig *r);
unsigned rig_asked(Rig *r);
/* Waits until the pager was asked for N pages in all. */
void rig_wait_asked(Rig *r, unsigned n);
/* Waits for the first failure, which is forgotten. */
int rig_wait_failed(Rig *r);
/* Waits until N waits have begun in all. */
void rig_wait_began(Rig *r, unsigned n);
/* Waits until all was placed for the Nth time: a thread that reads the last page comes before its
 * mark. */
void rig_wait_completed(Rig *r, unsigned n);

/* FN is called once, at the next of the named points POINT (base/failpoints.h) that any thread
 * reaches; what it returns is the errno of a call that is not to be made. FALSE: skipped, as this
 * build has none. rig_free() takes away what was not reached. */
typedef int (*RigAt)(void *opaque);
bool rig_at(const char *point, RigAt fn, void *opaque);

typedef void (*RigTest)(RigKind kind);
/* One test for each kind of KINDS, NAME/memfd and so on. */
void rig_add(const char *name, unsigned kinds, RigTest test);

/* Rig.written, under its lock. */
unsigned rig_written(Rig *r);

#endif
