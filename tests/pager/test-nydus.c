/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with clients of nydusd's: each does what smoke/tests/tool/uffd_client.go of
 * dragonflyoss/nydus does (NewUffdClient(), Handshake(), ReadAt()), in a process of its own, and
 * compares all that it reads.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "tests/pager/client.h"
#include "tests/pager/daemon.h"
#include "tests/pager/small.h"

#define PAGES 1536u /* 6 MiB */
#define PAGE ((uint64_t)4096)
#define HUGE ((uint64_t)2 << 20)

typedef struct {
    const char *name;
    int policy;         /* 0: zero-copy, 1: copy */
    bool at_once;       /* the question and what follows in one message */
    bool parts;         /* two regions, of which both have the third quarter of the image */
    uint64_t page_size; /* as it is said; 0: PAGE */
    bool beyond;        /* the region is larger than the image */
    bool huge;          /* its pages are */
    const char *more;   /* an option of the pager's, or NULL */
    const char *faults; /* NULL: none */
} Row;

static const Row rows[] = {
    {"copy", 1},
    {"zero-copy", 0},
    {"at-once", 1, .at_once = true},
    {"parts", 1, .parts = true},
    {"no-bulk", 1, .more = "--no-bulk"},
    {"large-reads", 1, .page_size = HUGE},
    {"large-reads-of-parts", 1, .parts = true, .page_size = HUGE},
    {"other-reads", 1, .page_size = 16 * PAGE},
    {"beyond", 1, .beyond = true},
    {"beyond-large-reads", 1, .page_size = HUGE, .beyond = true},
    {"huge", 1, .page_size = HUGE, .huge = true},
#ifdef FF_FAULTS
    /* The next one finds the same. */
    {"pager-dies", 1, .more = "--no-bulk", .faults = "pager/none/at/place-marked#300=kill"},
#endif
};

/* ---- the client ------------------------------------------------------------------------------ */

static void need(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "client %d: %s: %s\n", getpid(), what, strerror(errno));
        _exit(3);
    }
}

static void send_with_fd(int sock, const char *text, int fd)
{
    need(client_send(sock, text, strlen(text), fd), "sendmsg");
}

/* How large the image is. */
static uint64_t read_answer(int sock)
{
    char text[4096] = "";
    uint64_t size;
    unsigned block, flags, version;

    need(recv(sock, text, sizeof(text) - 1, 0) > 0, "recv");
    need(sscanf(text,
                "{\"type\":3,\"size\":%" SCNu64 ",\"block_size\":%u,\"flags\":%u,\"version\":%u}",
                &size, &block, &flags, &version) == 4 &&
             block == PAGE && !flags && version == 1,
         text);
    return size;
}

static char *map_image(const Row *row, uint64_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (row->huge ? MAP_HUGETLB : 0);
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);

    need(p != MAP_FAILED, "mmap");
    madvise(p, size, MADV_NOHUGEPAGE);
    return p;
}

/* With no features, as there: the kernel tells of no memory that is given back. */
static int register_image(const char *at, uint64_t size)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {(uintptr_t)at, size},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    need(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd");
    need(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0, "UFFDIO_REGISTER");
    return uffd;
}

static char *region_text(const Row *row, const char *at, uint64_t size, uint64_t offset)
{
    return g_strdup_printf(
        "{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
        ",\"page_size\":%" PRIu64 ",\"prot\":1,\"flags\":18}",
        (uint64_t)(uintptr_t)at, size, offset, row->page_size ? row->page_size : PAGE);
}

static void check(const char *at, unsigned first, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const volatile uint64_t *words = (const volatile uint64_t *)(at + i * PAGE);
        for (unsigned k = 0; k < 512; k++) {
            uint64_t expected = client_is_zero(first + i) ? 0 : client_word(first + i, k);
            if (words[k] != expected) {
                fprintf(stderr, "client: page %u of the image is wrong: %" PRIx64 "\n", first + i,
                        words[k]);
                _exit(2);
            }
        }
    }
}

/* Reads all; what is given back is the image's again. */
static void read_image(const Row *row, char *at, unsigned first, unsigned n)
{
    unsigned step = row->huge ? HUGE / PAGE : 16;

    check(at, first, n);
    for (unsigned i = 0; i + step <= n; i += 4 * step) {
        need(madvise(at + i * PAGE, step * PAGE, MADV_DONTNEED) == 0, "madvise");
    }
    check(at, first, n);
}

static int run(const Row *row, const char *path)
{
    int sock = small_connect(path);
    uint64_t size = PAGES * PAGE;

    if (!row->at_once) {
        send_with_fd(sock, "{\"type\":2}", -1);
        size = read_answer(sock);
        need(size == PAGES * PAGE, "its size");
    }
    /* The second one of `parts` is after the first. */
    unsigned half = PAGES / 2, quarter = PAGES / 4;
    uint64_t more = row->parts ? quarter * PAGE : row->beyond ? HUGE : 0;
    char *at = map_image(row, size + more);
    int uffd = register_image(at, size + more);
    g_autofree char *one = region_text(row, at,
                                       row->parts    ? 3 * quarter * PAGE
                                       : row->beyond ? size + more
                                                     : size,
                                       0);
    g_autofree char *two =
        region_text(row, at + 3 * quarter * PAGE, (PAGES - half) * PAGE, half * PAGE);
    g_autofree char *text = g_strdup_printf(
        "%s{\"type\":0,\"regions\":[%s%s%s],\"policy\":%d,\"enable_prefault\":false}",
        row->at_once ? "{ \"type\" : 2 }" : "", one, row->parts ? "," : "", row->parts ? two : "",
        row->policy);

    send_with_fd(sock, text, uffd);
    if (row->at_once) {
        need(read_answer(sock) == size, "its size");
    }
    read_image(row, at, 0, row->parts ? 3 * quarter : PAGES);
    if (row->parts) {
        read_image(row, at + 3 * quarter * PAGE, half, PAGES - half);
    }
    if (row->beyond) {
        need(!at[size] && !at[size + more - 1], "zeros after the image");
    }
    return 0;
}

static pid_t start(const Row *row, const Daemon *d)
{
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(run(row, d->socket));
    }
    return pid;
}

/* Its memory is a file of its own, whose pages it is told of when it maps them (a minor fault):
 * what it has put there is its own. */
static int run_minor(const char *path)
{
    uint64_t size = PAGES * PAGE;
    int file = memfd_create("memory", MFD_CLOEXEC), sock = small_connect(path);
    char page[PAGE];

    memset(page, 77, PAGE);
    need(file >= 0 && ftruncate(file, (off_t)size) == 0 &&
             pwrite(file, page, PAGE, 5 * PAGE) == (ssize_t)PAGE,
         "memfd");
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM};
    struct uffdio_register reg = {.range = {(uintptr_t)at, size},
                                  .mode =
                                      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    need(at != MAP_FAILED && uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0 &&
             ioctl(uffd, UFFDIO_REGISTER, &reg) == 0,
         "userfaultfd");
    g_autofree char *one = region_text(&rows[0], at, size, 0);
    g_autofree char *text = g_strdup_printf("{\"regions\":[%s],\"policy\":1}", one);
    send_with_fd(sock, text, uffd);
    alarm(5); /* it was told for ever */
    check(at + 4 * PAGE, 4, 1);
    need(!memcmp(at + 5 * PAGE, page, PAGE), "what it has put there");
    return 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_row(gconstpointer data)
{
    const Row *row = data;

    HugePages *pool = row->huge ? hugepages_new(PAGES * PAGE / HUGE) : NULL;

    if (row->huge && !pool) {
        return;
    }
    Daemon *d = daemon_start(PAGES, PAGE, small_fill, row->faults, row->more);
    assert_ended_well(start(row, d));
    g_assert_true(!row->faults || daemon_fault_happened(d, 0));
    if (!row->policy) {
        daemon_wait_said(d, "its pages are copied");
    }
    daemon_stop(d);
    hugepages_free(pool);
}

static void test_minor(void)
{
    Daemon *d = daemon_start(PAGES, PAGE, small_fill, NULL, "--no-bulk");
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(run_minor(d->socket));
    }
    assert_ended_well(pid);
    daemon_stop(d);
}

/* Beside one of Firecracker's, at the same socket. */
static void test_beside(void)
{
    Daemon *d = daemon_start(PAGES, PAGE, small_fill, NULL, "--no-bulk");
    Small c = {.pages = PAGES};

    small_start(&c, d);
    small_check(&c);
    assert_ended_well(start(&rows[0], d));
    small_check(&c);
    g_autoptr(JsonNode) report = daemon_report(d);
    JsonArray *all = json_node_get_array(report);
    g_assert_cmpuint(json_array_get_length(all), >=, 1);
    JsonObject *first = json_array_get_object_element(all, 0);
    g_assert_cmpstr(json_object_get_string_member(first, "dialect"), ==, "firecracker");
    small_end(&c);
    daemon_stop(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/nydus/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/nydus/minor", test_minor);
    g_test_add_func("/nydus/beside", test_beside);
    return g_test_run();
}
