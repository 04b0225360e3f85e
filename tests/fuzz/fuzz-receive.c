/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a Cloud Hypervisor can say that sends its guest: there is a whole snapshot in the folder, of
 * the memory that it has passed, or nothing at all, and one line.
 *
 * The input is what a thread does, the peer: an operation, its argument, and what that needs. So an
 * input can talk well, or say any bytes, with any descriptors.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pager/cloud-hypervisor/take-snapshot.h"
#include "pager/holder/vmm-wire.h"

#define PAGE 4096u
#define MEMFDS 3
#define MEMFD_PAGES 8

enum { SAY, PASS, MEMORY, CONFIG, STATE, COMPLETE, CUT, OPERATIONS };

static const char *const configs[] = {
    "{\"memory_manager_data\":{\"guest_ram_mappings\":[{\"slot\":0,\"gpa\":0,\"size\":8192,"
    "\"file_offset\":0}]}}",
    "{\"memory_manager_data\":{\"guest_ram_mappings\":[{\"slot\":0,\"gpa\":0,\"size\":16384,"
    "\"file_offset\":4096},{\"slot\":1,\"gpa\":65536,\"size\":8192,\"file_offset\":0}]}}",
    "{\"vm_config\":{\"fs\":[{}]},\"memory_manager_data\":{\"guest_ram_mappings\":[{\"slot\":2,"
    "\"gpa\":0,\"size\":32768,\"file_offset\":0}]}}",
};

static char folder[64];
static int memfd[MEMFDS];

static void make_folder(void)
{
    if (!folder[0]) {
        g_snprintf(folder, sizeof(folder), "/dev/shm/ff-fuzz-receive-%d", getpid());
    }
}

/* Every other page, with what tells it from others. */
static void make_memory(void)
{
    for (unsigned i = 0; i < MEMFDS; i++) {
        memfd[i] = memfd_create("memory", MFD_CLOEXEC);
        g_assert_cmpint(ftruncate(memfd[i], (off_t)MEMFD_PAGES * PAGE), ==, 0);
        for (unsigned page = i % 2; page < MEMFD_PAGES; page += 2) {
            uint8_t byte = (uint8_t)(i * MEMFD_PAGES + page + 1);
            g_assert_cmpint(pwrite(memfd[i], &byte, 1, (off_t)page * PAGE + 77), ==, 1);
        }
    }
}

/* ---- the peer -------------------------------------------------------------------------------- */

typedef struct {
    int sock;
    const uint8_t *data;
    size_t size;
} Peer;

static uint8_t take(Peer *p)
{
    if (!p->size) {
        return 0;
    }
    p->size--;
    return *p->data++;
}

static void say(const Peer *p, const void *data, size_t len, const int *fds, unsigned n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)data, len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        control.align = (struct cmsghdr){CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
    }
    sendmsg(p->sock, &mh, MSG_NOSIGNAL);
}

static void request(const Peer *p, FfVmmCommand command, uint64_t len)
{
    const FfVmmRequest r = {.command = (uint16_t)command, .length = len};

    say(p, &r, sizeof(r), NULL, 0);
}

/* As many answers as there are, until the last step has its own. */
static void read_answers(const Peer *p)
{
    FfVmmResponse r;
    struct timeval patience = {.tv_usec = 100000};

    /* What was said before may have been no request, and then this is none either. */
    setsockopt(p->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    while (recv(p->sock, &r, sizeof(r), MSG_WAITALL) == sizeof(r) && r.status == FF_VMM_OK &&
           recv(p->sock, &r, sizeof(r), MSG_PEEK | MSG_DONTWAIT) > 0) {
    }
}

static void say_bytes(Peer *p, size_t len, const int *fds, unsigned n)
{
    len = MIN(len, p->size);
    if (len) {
        say(p, p->data, len, fds, n);
    }
    p->data += len;
    p->size -= len;
}

static void operate(Peer *p)
{
    unsigned operation = take(p) % OPERATIONS, argument = take(p);
    const int fds[] = {memfd[0], memfd[1], memfd[2], p->sock, memfd[0], memfd[1], memfd[2], 0};

    switch (operation) {
    case SAY:
        say_bytes(p, argument, NULL, 0);
        break;
    case PASS:
        say_bytes(p, argument >> 3, fds, argument & 7);
        break;
    case MEMORY: {
        uint32_t slot = argument >> 2;
        request(p, FF_VMM_MEMORY_FD, sizeof(slot));
        say(p, &slot, sizeof(slot), &memfd[argument % MEMFDS], 1);
        break;
    }
    case CONFIG: {
        const char *text = configs[argument % G_N_ELEMENTS(configs)];
        request(p, FF_VMM_CONFIG, strlen(text));
        say(p, text, strlen(text), NULL, 0);
        break;
    }
    case STATE:
        request(p, FF_VMM_STATE, argument);
        say_bytes(p, argument, NULL, 0);
        break;
    case COMPLETE:
        request(p, argument & 1 ? FF_VMM_COMPLETE : FF_VMM_COMPLETE_PAUSED, 0);
        if (argument & 2) {
            read_answers(p);
        }
        break;
    default:
        g_assert_cmpint(ftruncate(memfd[argument % MEMFDS], (off_t)(argument >> 2) * 512), ==, 0);
    }
}

static gpointer talk(gpointer opaque)
{
    Peer *p = opaque;

    if (take(p) & 1) {
        request(p, FF_VMM_START, 0);
    }
    while (p->size) {
        operate(p);
    }
    shutdown(p->sock, SHUT_WR);
    return NULL;
}

/* ---- what is there after it ------------------------------------------------------------------ */

static void look_into(bool done)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;
    unsigned n = 0;

    g_assert_true(!!dir == done);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        struct stat st;
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpuint(st.st_mode, ==, S_IFREG | 0600);
        g_assert_cmpint(st.st_size, >, 0);
        g_assert_cmpint(unlink(path), ==, 0);
        n++;
    }
    g_assert_true(done ? n >= 3 : n == 0);
    if (done) {
        g_assert_cmpint(rmdir(folder), ==, 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    int socks[2];
    FfReceived r;

    fuzz_quiet();
    make_folder();
    make_memory();
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), ==, 0);
    FfOffloadWriter *w = ff_offload_writer_new(folder, NULL);
    g_assert_nonnull(w);
    Peer p = {socks[1], data, size};
    GThread *thread = g_thread_new("peer", talk, &p);
    bool done = ff_receive_snapshot(socks[0], -1, w, &r, &error);
    ff_offload_writer_free(w);
    close(socks[0]); /* the peer, if it still says something, is not heard */
    g_thread_join(thread);
    close(socks[1]);
    /* Said of a peer that has not waited for the last answer. */
    bool whole = done || g_str_has_prefix(error->message, "the snapshot is whole");
    g_assert_true(done == !error);
    g_assert_true(done || !strchr(error->message, '\n'));
    look_into(whole);
    for (unsigned i = 0; i < MEMFDS; i++) {
        close(memfd[i]);
    }
    return 0;
}
