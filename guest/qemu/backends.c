/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See backends.h. The log is a memfd of ours with a bit for each 4 KiB of the guest's physical
 * memory, into which the back-ends write; which block of RAM such an address is in the relay
 * knows from what QEMU has told them.
 *
 * A back-end sets a bit after the data is there, each byte by an atomic "or". It is taken, to 0,
 * before a page is copied: data that lands after the copy has a bit that is seen later.
 *
 * Threads: the coordinator's. No lock. System calls: memfd_create, ftruncate, fcntl, mmap, munmap,
 * fstat, close.
 */
#include "guest/qemu/backends.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/backends.h"
#include "guest/qemu/internal.h"

/* Bytes of guest memory for each bit. */
#define LOG_PAGE 4096u

typedef struct {
    uint64_t guest, size; /* guest-physical address; bytes */
    unsigned block;
    uint64_t offset;
} Region;

struct FfWriteLog {
    uint8_t *map;
    size_t size;
    Region regions[FF_BACKENDS_REGIONS];
    unsigned n_regions;
    uint64_t page_size[FF_STATE_MAX_BLOCKS]; /* of each block */
};

char *ff_qemu_backends_probe(FfQemu *qemu, FfRole role, GError **error)
{
    FfBackendsAnswer answer;

    return ff_backends_ask(qemu->backends, FF_BACKENDS_PROBE, role == FF_ROLE_DESTINATION, -1,
                           &answer, error)
               ? g_strconcat("\n", answer.ids, NULL)
               : NULL;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static bool G_GNUC_PRINTF(2, 3) fail_log(GError **error, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    *error = g_error_new_valist(FF_QMP_ERROR, FF_QMP_ERROR_REFUSED, format, ap);
    va_end(ap);
    return false;
}

/* The block whose file R is a part of; -1: none. */
static int block_of(const FfQemu *qemu, const FfBackendRegion *r)
{
    for (guint i = 0; i < qemu->blocks->len; i++) {
        const FfRamBlock *b = qemu->blocks->pdata[i];
        struct stat st;

        if (fstat(b->memfd, &st) == 0 && st.st_dev == r->dev && st.st_ino == r->ino) {
            return r->offset <= b->size && r->size <= b->size - r->offset ? (int)i : -1;
        }
    }
    return -1;
}

static bool set_regions(FfWriteLog *log, const FfQemu *qemu, const FfBackendsAnswer *answer,
                        GError **error)
{
    for (guint i = 0; i < qemu->blocks->len; i++) {
        log->page_size[i] = ((FfRamBlock *)qemu->blocks->pdata[i])->page_size;
    }
    for (uint32_t i = 0; i < answer->n_regions; i++) {
        const FfBackendRegion *r = &answer->regions[i];
        int block = block_of(qemu, r);

        if (block < 0 || r->guest % LOG_PAGE || r->offset % LOG_PAGE || r->size % LOG_PAGE ||
            r->guest / LOG_PAGE / 8 >= log->size ||
            (r->guest + r->size) / LOG_PAGE / 8 >= log->size) {
            return fail_log(error,
                            "devices in other processes have memory at 0x%" G_GINT64_MODIFIER
                            "x that is none of farfault's",
                            r->guest);
        }
        log->regions[log->n_regions++] = (Region){r->guest, r->size, (unsigned)block, r->offset};
    }
    return true;
}

/* Nobody who has the fd can take away what is mapped here. */
static bool map_log(FfWriteLog *log, int fd, GError **error)
{
    bool sized = ftruncate(fd, (off_t)log->size) == 0 &&
                 fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
    void *map =
        sized ? mmap(NULL, log->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (map == MAP_FAILED) {
        return fail_log(error, "there is no memory for a log of what devices write: %s",
                        g_strerror(errno));
    }
    log->map = map;
    return true;
}

static bool begin_log(FfQemu *qemu, int fd, GError **error)
{
    FfBackendsAnswer answer;

    if (qemu->blocks->len > FF_STATE_MAX_BLOCKS) {
        return fail_log(error, "the guest has too many memory backends");
    }
    if (!ff_backends_ask(qemu->backends, FF_BACKENDS_PROBE, false, -1, &answer, error)) {
        return false;
    }
    qemu->log = g_new0(FfWriteLog, 1);
    qemu->log->size = (answer.log_bytes / LOG_PAGE + 1) * LOG_PAGE;
    return map_log(qemu->log, fd, error) &&
           ff_backends_ask(qemu->backends, FF_BACKENDS_LOG, false, fd, &answer, error) &&
           set_regions(qemu->log, qemu, &answer, error);
}

bool ff_qemu_log_begin(FfVmmMemory *memory, GError **error)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);

    ff_qemu_log_end(memory);
    int fd = memfd_create("farfault-writes", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return fail_log(error, "there is no log of what devices write: %s", g_strerror(errno));
    }
    bool ok = begin_log(qemu, fd, error);

    close(fd);
    if (!ok) {
        ff_qemu_log_end(memory);
    }
    return ok;
}

void ff_qemu_log_end(FfVmmMemory *memory)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    FfWriteLog *log = g_steal_pointer(&qemu->log);
    FfBackendsAnswer answer;
    g_autoptr(GError) error = NULL;

    if (!log) {
        return;
    }
    /* Whatever the relay says, its end of the socket ends the log with this process. */
    if (!ff_backends_ask(qemu->backends, FF_BACKENDS_END, false, -1, &answer, &error)) {
        g_warning("%s", error->message);
    }
    if (log->map) {
        munmap(log->map, log->size);
    }
    g_free(log);
}

/* ---- what was written ------------------------------------------------------------------------ */

/* [FROM, END) of the guest's physical memory, in whole pages of the blocks that it is in. */
static void tell_pages(const FfWriteLog *log, uint64_t from, uint64_t end, FfVmmWritten *fn,
                       void *opaque)
{
    for (unsigned i = 0; i < log->n_regions; i++) {
        const Region *r = &log->regions[i];
        uint64_t first = MAX(from, r->guest), last = MIN(end, r->guest + r->size);

        if (first < last) {
            uint64_t page = log->page_size[r->block];
            uint64_t at = (r->offset + (first - r->guest)) / page * page;
            uint64_t to = (r->offset + (last - r->guest) + page - 1) / page * page;

            fn(r->block, at, to - at, opaque);
        }
    }
}

static void take_byte(FfWriteLog *log, size_t at, FfVmmWritten *fn, void *opaque)
{
    unsigned bits = __atomic_exchange_n(&log->map[at], 0, __ATOMIC_SEQ_CST);

    for (unsigned first = 0; bits >> first; first++) {
        unsigned last = first;

        while (bits >> last & 1) {
            last++;
        }
        if (last > first) {
            tell_pages(log, (at * 8 + first) * LOG_PAGE, (at * 8 + last) * LOG_PAGE, fn, opaque);
            first = last;
        }
    }
}

void ff_qemu_log_take(FfVmmMemory *memory, FfVmmWritten *fn, void *opaque)
{
    FfWriteLog *log = ff_qemu_of_memory(memory)->log;

    for (size_t at = 0; log && at < log->size; at += sizeof(uint64_t)) {
        /* Mostly nothing; a bit that comes now belongs to the next time. */
        if (!__atomic_load_n((uint64_t *)(void *)(log->map + at), __ATOMIC_SEQ_CST)) {
            continue;
        }
        for (size_t i = 0; i < sizeof(uint64_t); i++) {
            take_byte(log, at + i, fn, opaque);
        }
    }
}

bool ff_qemu_log_whole(FfVmmMemory *memory, bool stopped, GError **error)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    FfBackendsAnswer answer;

    if (!qemu->log) {
        return fail_log(error, "devices in other processes: there is no log of what they write");
    }
    return ff_backends_ask(qemu->backends, FF_BACKENDS_LOST, stopped, -1, &answer, error);
}

/* ---- an upgrade ------------------------------------------------------------------------------ */

bool ff_qemu_devices_stand(FfVmmMemory *memory, GError **error)
{
    FfBackendsAnswer answer;

    return ff_backends_ask(ff_qemu_of_memory(memory)->backends, FF_BACKENDS_STAND, 1, -1, &answer,
                           error);
}

/* A relay that does not answer sees the end of a process later. */
static void tell_relay(const FfVmmMemory *memory, int relay, FfBackendsOp op)
{
    FfBackendsAnswer answer;
    g_autoptr(GError) error = NULL;

    if (memory->has_devices && !ff_backends_ask(relay, op, 0, -1, &answer, &error)) {
        g_warning("%s", error->message);
    }
}

void ff_qemu_devices_leave(FfVmmMemory *memory)
{
    tell_relay(memory, ff_qemu_of_memory(memory)->backends, FF_BACKENDS_LEAVE);
}

void ff_qemu_devices_take(FfVmmMemory *memory)
{
    tell_relay(memory, ff_qemu_of_memory(memory)->backends, FF_BACKENDS_TAKE);
}

GPtrArray *ff_qemu_devices_known(FfVmmMemory *memory, bool lent, GError **error)
{
    const uint32_t flag = lent ? FF_BACKENDS_LENT : 0;
    int relay = ff_qemu_of_memory(memory)->backends;
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(g_free);
    FfBackendsAnswer answer = {.ids = "?"};

    for (uint32_t i = 0; relay >= 0 && answer.ids[0]; i++) {
        if (!ff_backends_ask(relay, FF_BACKENDS_KNOWN, i | flag, -1, &answer, error)) {
            return NULL;
        }
        if (answer.ids[0]) {
            g_ptr_array_add(all, g_strdup(answer.ids));
        }
    }
    return g_steal_pointer(&all);
}

/* Also of an engine that has adopted, which has checked nothing. */
void ff_qemu_all_here(FfVmmMemory *memory)
{
    int relay = ff_qemu_of_memory(memory)->backends;
    FfBackendsAnswer answer;
    g_autoptr(GError) error = NULL;

    if (relay >= 0 && !ff_backends_ask(relay, FF_BACKENDS_LOOK, false, -1, &answer, &error)) {
        g_warning("%s; they get the guest's memory when this engine ends", error->message);
    }
}
