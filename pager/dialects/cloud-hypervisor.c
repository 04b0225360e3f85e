/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cloud Hypervisor, which asks for its pages (pager/holder/asks.c): its memory is memfds of ours,
 * which the pager maps as well and fills by a userfaultfd of its own. Or its memory is its own, and
 * the pager reads what is asked for into a memfd, from which the holder sends it. Whose snapshot it
 * is: pager/cloud-hypervisor/offload.h; who connects to it: pager/cloud-hypervisor/send-snapshot.h.
 *
 * A page comes into a memfd by UFFDIO_COPY, at the pager's own mapping of it: whole, and never over
 * one that is there, whoever tries. Then its bit is set, and only then is the request answered. So
 * whenever a pager dies, its successor may place again what it finds without a bit: nobody has
 * seen the page. And what has a bit never comes from the file again: a page that is not there
 * although it has one, was given back by the guest (a hole was punched, of which nothing tells),
 * and is zeros.
 *
 * Of a client whose memory is its own each answer is what the file has, whether or not the same was
 * asked for before: the client puts it where nothing is (UFFDIO_COPY), and asks again for what it
 * could not put anywhere. It is in the memfd for answers before the request is answered, and is not
 * touched again before the next one.
 *
 * Nobody reads or writes in the mapping, so the userfaultfd needs no rights and tells of nothing.
 *
 * System calls: userfaultfd, mmap, munmap, lseek, poll, read, and those of uffd/.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "pager/cloud-hypervisor/offload.h"
#include "pager/dialects/dialects.h"
#include "pager/server/session-internal.h"
#include "pager/server/work.h"
#include "uffd/uffd.h"

#define GATE_BYTES (64ull << 10) /* placed at once: bulk waits meanwhile */
#define REQUEST_MAX (1ull << 30) /* the largest page that there is */
#define SOURCE_AGAIN_MS 1000
#define MEMORY_AGAIN_MS 10

/* ---- making and opening ---------------------------------------------------------------------- */

/* From what the holder was told. NULL and errno. */
static FfImage *make_blocks(FfSession *s)
{
    FfOffloadSlot slot[FF_OFFLOAD_SLOTS];
    FfImageBlock block[FF_OFFLOAD_SLOTS];
    unsigned n = s->rec->hello_len / sizeof(slot[0]);
    G_STATIC_ASSERT(FF_OFFLOAD_SLOTS <= FF_IMAGE_BLOCKS);

    if (!n || n != s->all->slots || n > FF_OFFLOAD_SLOTS || s->rec->hello_len % sizeof(slot[0])) {
        errno = EINVAL;
        return NULL;
    }
    memcpy(slot, s->rec->hello, s->rec->hello_len);
    for (unsigned i = 0; i < n; i++) {
        block[i] = (FfImageBlock){.size = slot[i].size,
                                  .page_size = FF_OFFLOAD_PAGE,
                                  .sharing = FF_SHARING_SHARED,
                                  .gpa = slot[i].gpa,
                                  .file_offset = slot[i].file_offset,
                                  .identity = slot[i].identity};
    }
    FfImage *image = ff_image_create(s->memfd, block, n);
    if (image) {
        for (unsigned i = 0; i < n; i++) {
            image->copy[0].range[i] = (FfImageRange){.len = block[i].size, .block = i};
        }
        image->copy[0].n_ranges = n;
    }
    return image;
}

static FfImage *make_image(FfSession *s, GError **error)
{
    FfImage *image = make_blocks(s);

    if (!image) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "no room for what is known of its memory: %s", g_strerror(errno));
    }
    return image;
}

static void open_block(FfSession *s, unsigned i)
{
    int fd = s->all->slot_fd + (int)(s->all->slots + i);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    bool said = false;

    for (;;) {
        g_autoptr(GError) error = NULL;
        s->block_source[i] = ff_content_open(path, &s->image->block[i].identity, NULL, &error);
        if (s->block_source[i]) {
            return;
        }
        if (!said) {
            ff_session_log(s, "%s: the guest waits until it is what it was", error->message);
        }
        said = true;
        ff_work_pause(s, SOURCE_AGAIN_MS);
    }
}

/* Waits until all are what they were. */
static bool open_source(FfSession *s, GError **error)
{
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        open_block(s, i);
    }
    return true;
}

static bool is_own(const FfSession *s)
{
    FfOffloadSlot first;

    memcpy(&first, s->rec->hello, sizeof(first));
    return first.own;
}

/* Ranges say how much there is; nobody looks there. */
static int map_answer(FfSession *s)
{
    uint64_t at = FF_OFFLOAD_ANSWER;
    void *answer =
        mmap(NULL, FF_OFFLOAD_ANSWER, PROT_READ | PROT_WRITE, MAP_SHARED, s->all->slot_fd, 0);

    if (answer == MAP_FAILED) {
        return -errno;
    }
    s->vmm.answer = answer;
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        s->image->copy[0].range[i].addr = at;
        at += s->image->block[i].size;
    }
    return 0;
}

/* The memory: the image's ranges are where, and S->uffd is that userfaultfd. Or the memfd for
 * answers; nothing is registered then. The address is another one in each pager; what the record
 * says of the one before is not needed. 0 or -errno. */
static int map_memory(FfSession *s)
{
    FfImageCopy *copy = &s->image->copy[0];

    if (is_own(s)) {
        return map_answer(s);
    }
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    int rc = uffd < 0 ? -errno : ff_uffd_init(uffd, UFFD_FEATURE_MISSING_SHMEM, NULL);

    if (uffd >= 0) {
        close(s->uffd);
        s->uffd = uffd;
    }
    for (unsigned i = 0; i < s->image->n_blocks && rc == 0; i++) {
        const FfImageBlock *b = &s->image->block[i];
        void *at = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        s->all->slot_fd + (int)i, (off_t)b->file_offset);
        if (at == MAP_FAILED) {
            return -errno;
        }
        s->vmm.map_len[i] = b->size;
        copy->range[i].addr = (uintptr_t)at;
    }
    return rc;
}

static void close_session(FfSession *s)
{
    if (s->vmm.answer) {
        munmap(s->vmm.answer, FF_OFFLOAD_ANSWER);
    }
    for (unsigned i = 0; s->image && i < s->image->n_blocks; i++) {
        if (s->vmm.map_len[i]) {
            munmap((void *)(uintptr_t)s->image->copy[0].range[i].addr, s->vmm.map_len[i]);
        }
        ff_content_free(s->block_source[i]);
    }
}

/* ---- answering ------------------------------------------------------------------------------- */

/* Of the session's life: the client's end is the pager's. */
static void wait_request(FfSession *s)
{
    struct pollfd pfd = {.fd = s->news, .events = POLLIN};

    for (;;) {
        ff_untell(s->news);
        if (__atomic_load_n(&s->rec->ask.asked, __ATOMIC_SEQ_CST) != s->rec->ask.answered) {
            return;
        }
        poll(&pfd, 1, -1);
    }
}

/* FALSE: the guest has no such pages. */
static bool find_run(const FfSession *s, uint64_t gpa, uint64_t length, FfRun *run)
{
    if (!length || length > REQUEST_MAX || gpa % FF_OFFLOAD_PAGE || length % FF_OFFLOAD_PAGE) {
        return false;
    }
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *b = &s->image->block[i];
        if (gpa >= b->gpa && gpa - b->gpa < b->size && length <= b->size - (gpa - b->gpa)) {
            *run = (FfRun){i, (gpa - b->gpa) / FF_OFFLOAD_PAGE, length / FF_OFFLOAD_PAGE};
            return true;
        }
    }
    return false;
}

/* Of pages that have bits: also those that are there, as nothing tells of a hole that is punched. 0
 * or -errno. */
static int be_there(FfSession *s, const FfRun *run)
{
    int rc = 0;

    pthread_mutex_lock(&s->asked_lock);
    for (uint64_t i = 0; i < run->n && rc == 0; i++) {
        rc = ff_place_again(s->space, run->block, run->first + i, false);
        rc = rc == -ELOOP ? 0 : rc; /* it asks for the same one again and again */
    }
    pthread_mutex_unlock(&s->asked_lock);
    return rc;
}

static void place_part(FfWorker *w, FfSession *s, const FfRun *run)
{
    while (ff_bitmap_count_run(&s->placed[run->block], run->first, run->n) != run->n) {
        if (!ff_worker_place(w, run)) {
            ff_work_pause(s, SOURCE_AGAIN_MS);
        } else if (!ff_bitmap_test(&s->placed[run->block], run->first)) {
            ff_work_pause(s, MEMORY_AGAIN_MS);
        }
    }
    while (be_there(s, run) < 0) { /* there is no memory */
        ff_work_pause(s, MEMORY_AGAIN_MS);
    }
}

/* Until all of RUN is there. */
static void place_run(FfWorker *w, FfSession *s, const FfRun *run)
{
    const uint64_t most = GATE_BYTES / FF_OFFLOAD_PAGE;

    for (uint64_t i = 0; i < run->n; i += most) {
        place_part(w, s, &(FfRun){run->block, run->first + i, MIN(most, run->n - i)});
    }
}

static void read_answer(FfWorker *w, FfSession *s, const FfRun *run)
{
    while (!ff_worker_read(w, run, s->vmm.answer)) {
        ff_work_pause(s, SOURCE_AGAIN_MS);
    }
}

/* FALSE: it is not answered, ever. */
static bool may_answer(FfSession *s, FfRun *run)
{
    if (!find_run(s, s->rec->ask.gpa, s->rec->ask.length, run)) {
        ff_session_log(s,
                       "it has asked for %" PRIu64 " bytes at %" PRIx64
                       ", which the guest does not have: it waits from now on",
                       s->rec->ask.length, s->rec->ask.gpa);
        return false;
    }
    if (s->vmm.answer && s->rec->ask.length > FF_OFFLOAD_ANSWER) {
        ff_session_log(s,
                       "it has asked for a page of %" PRIu64
                       " bytes, and with --own-memory no page "
                       "can be larger than 2 MiB: it waits from now on",
                       s->rec->ask.length);
        return false;
    }
    return true;
}

static void answer_request(FfWorker *w, FfSession *s)
{
    uint64_t asked = __atomic_load_n(&s->rec->ask.asked, __ATOMIC_SEQ_CST);
    gint64 since = g_get_monotonic_time();
    FfRun run;

    if (!may_answer(s, &run)) {
        ff_session_wait_end(s);
        return;
    }
    ff_image_count(s->image, faults, run.n);
    __atomic_add_fetch(&s->waiting, 1, __ATOMIC_SEQ_CST);
    if (s->vmm.answer) {
        read_answer(w, s, &run);
    } else {
        place_run(w, s, &run);
    }
    FF_FAULT_AT("asked-placed");
    ff_work_answered(s, since);
    /* Observer: the holder. */
    __atomic_store_n(&s->rec->ask.answered, asked, __ATOMIC_SEQ_CST);
    FF_FAULT_AT("asked-answered");
    ff_tell(s->told);
}

/* What is there before anything was placed, somebody has touched before he could ask: it is zeros,
 * and would be taken for content. */
static bool is_empty(const FfSession *s)
{
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        if (lseek(s->all->slot_fd + (int)i, 0, SEEK_DATA) >= 0 || errno != ENXIO) {
            return false;
        }
    }
    return true;
}

/* With the first request: from then on nobody finds a page that is not ours. */
static void begin_session(FfSession *s)
{
    wait_request(s);
    if (!s->vmm.answer && !s->image->own.cloud_hypervisor.begun && !is_empty(s)) {
        ff_session_log(s, "it has touched its memory before it could ask for it, so it gets none, "
                          "and the guest does not run");
        ff_session_wait_end(s);
    }
    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->image->own.cloud_hypervisor.begun, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&s->changed); /* to the owner */
    pthread_mutex_unlock(&s->lock);
}

/* Until something may be placed for nobody. */
static void wait_begun(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->image->own.cloud_hypervisor.begun) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

/* The thread that answers, without an end. */
static gpointer run_answers(gpointer session)
{
    FfSession *s = session;
    g_autoptr(FfWorker) w = ff_worker_new(s, GATE_BYTES, true);

    begin_session(s);
    while (!ff_session_is_ending(s)) {
        wait_request(s);
        answer_request(w, s);
    }
    return NULL;
}

/* ---- the dialect ----------------------------------------------------------------------------- */

static void serve_cloud_hypervisor(FfSession *s)
{
    int rc = map_memory(s);

    if (rc == 0 && !ff_session_open_space(s, false)) {
        return;
    }
    if (rc == 0 && !s->vmm.answer) {
        rc = ff_space_register(s->space, UFFDIO_REGISTER_MODE_MISSING, NULL);
    }
    if (rc < 0) {
        ff_session_log(s, "its memory cannot be mapped: %s, so it waits", g_strerror(-rc));
        return;
    }
    if (!ff_session_begin(s, 0, "asked", run_answers)) {
        return;
    }
    wait_begun(s);
    if (!s->vmm.answer) {
        ff_session_fill(s, s->all->bulk);
    }
}

const FfDialect ff_dialect_cloud_hypervisor = {.name = "cloud-hypervisor",
                                               .make_image = make_image,
                                               .open_source = open_source,
                                               .serve = serve_cloud_hypervisor,
                                               .close = close_session,
                                               .own_content = true,
                                               .memory_is_ours = true};
