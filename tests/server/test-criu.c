/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with CRIU's images and a process that does what criu restore --lazy-pages makes a
 * process do, written from CRIU's sources: it passes its userfaultfd, registers its memory, says
 * that it is restored, and has no copy of the userfaultfd then.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/server/client.h"
#include "tests/server/daemon.h"

#define BASE 0x1000000000ull
#define PAGES 128u
#define FIRST_MAPPING 64u /* pages; the other one follows at once */
#define FIRST_RUN 100u    /* goes over both */
#define EAGER 4u          /* pages that are not lazy, behind that */
#define LAST_RUN 20u
#define FINISHED 0x52535446

typedef struct {
    Daemon *d;
    char *dir;
    pid_t pid;
    int go; /* to the client: a byte for each step; from it, one when it is restored */
} World;

/* ---- images ------------------------------------------------------------------------------------
 */

static void put_varint(GByteArray *b, uint64_t value)
{
    do {
        uint8_t byte = (value & 0x7f) | (value > 0x7f ? 0x80 : 0);
        g_byte_array_append(b, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_field(GByteArray *b, unsigned number, uint64_t value)
{
    put_varint(b, number << 3);
    put_varint(b, value);
}

static void put_u32(GByteArray *b, uint32_t value)
{
    g_byte_array_append(b, (const guint8 *)&value, sizeof(value));
}

static void put_message(GByteArray *file, const GByteArray *message)
{
    put_u32(file, message->len);
    g_byte_array_append(file, message->data, message->len);
}

static void put_entry(GByteArray *file, uint64_t page, unsigned pages, unsigned flags)
{
    g_autoptr(GByteArray) m = g_byte_array_new();

    put_field(m, 1, BASE + page * 4096);
    put_field(m, 2, pages);
    put_field(m, 4, flags);
    put_message(file, m);
}

static void save(const World *w, const char *name, unsigned number, const GByteArray *file)
{
    g_autofree char *path = g_strdup_printf("%s/%s-%u.img", w->dir, name, number);

    g_assert_true(g_file_set_contents(path, (const char *)file->data, file->len, NULL));
}

static void write_images(const World *w)
{
    g_autoptr(GByteArray) pagemap = g_byte_array_new(), mm = g_byte_array_new(),
                          pages = g_byte_array_new(), m = g_byte_array_new();
    uint64_t words[512];

    put_u32(pagemap, 0x54564319);
    put_u32(pagemap, 0x56084025);
    put_field(m, 1, 7);
    put_message(pagemap, m);
    put_entry(pagemap, 0, FIRST_RUN, 2 | 4);
    put_entry(pagemap, FIRST_RUN, EAGER, 4);
    put_entry(pagemap, FIRST_RUN + EAGER, LAST_RUN, 2 | 4);
    save(w, "pagemap", (unsigned)w->pid, pagemap);
    g_byte_array_set_size(m, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GByteArray) vma = g_byte_array_new();
        put_field(vma, 1, BASE + (i ? FIRST_MAPPING * 4096ull : 0));
        put_field(vma, 2, BASE + (i ? PAGES : FIRST_MAPPING) * 4096ull);
        put_varint(m, 14 << 3 | 2);
        put_varint(m, vma->len);
        g_byte_array_append(m, vma->data, vma->len);
    }
    put_u32(mm, 0x54564319);
    put_u32(mm, 0x57492820);
    put_message(mm, m);
    save(w, "mm", (unsigned)w->pid, mm);
    for (unsigned i = 0; i < FIRST_RUN + EAGER + LAST_RUN; i++) {
        for (unsigned k = 0; k < 512; k++) {
            words[k] = client_word(i, k);
        }
        g_byte_array_append(pages, (guint8 *)words, sizeof(words));
    }
    g_autofree char *path = g_strdup_printf("%s/pages-7.img", w->dir);
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) { /* else of a process before, and just as it was */
        save(w, "pages", 7, pages);
    }
}

/* ---- the process -------------------------------------------------------------------------------
 */

static void need(bool ok, int status)
{
    if (!ok) {
        _exit(status);
    }
}

static void send_fd(int sock, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

    cm->cmsg_level = SOL_SOCKET;
    cm->cmsg_type = SCM_RIGHTS;
    cm->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cm), &fd, sizeof(fd));
    need(sendmsg(sock, &mh, MSG_NOSIGNAL) == 1, 12);
}

static void map_all(int uffd)
{
    for (unsigned i = 0; i < 2; i++) {
        char *at = (char *)(uintptr_t)(BASE + (i ? FIRST_MAPPING * 4096ull : 0));
        size_t len = (i ? PAGES - FIRST_MAPPING : FIRST_MAPPING) * 4096ul;
        /* Not one mapping: one of them may be executed. */
        need(mmap(at, len, PROT_READ | PROT_WRITE | (i ? PROT_EXEC : 0),
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at,
             13);
        if (i) { /* what is not lazy is there already */
            memset(at + (FIRST_RUN - FIRST_MAPPING) * 4096ul, 1, EAGER * 4096ul);
        }
        struct uffdio_register reg = {.range = {(uintptr_t)at, len},
                                      .mode = UFFDIO_REGISTER_MODE_MISSING};
        need(ioctl(uffd, UFFDIO_REGISTER, &reg) == 0, 14);
    }
}

static void read_all(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        const volatile uint64_t *words = (const volatile uint64_t *)(uintptr_t)(BASE + i * 4096ull);
        bool eager = i >= FIRST_RUN && i < FIRST_RUN + EAGER;
        bool nothing = i >= FIRST_RUN + EAGER + LAST_RUN;
        for (unsigned k = 0; k < 512; k++) {
            need(words[k] == (eager ? 0x0101010101010101ull : nothing ? 0 : client_word(i, k)), 2);
        }
    }
}

static void wait_go(int go)
{
    char byte;

    need(read(go, &byte, 1) == 1, 15);
}

static void run(const char *socket_path, int go)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_FORK |
                                         UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), sock;
    int32_t pid = getpid(), finished = FINISHED;

    wait_go(go); /* there are images */
    need(ioctl(uffd, UFFDIO_API, &api) == 0, 10);
    strncpy(addr.sun_path, socket_path, sizeof(addr.sun_path) - 1);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0, 11);
    pid = -pid; /* of a zombie, first */
    need(send(sock, &pid, 4, 0) == 4, 11);
    pid = -pid;
    need(send(sock, &pid, 2, 0) == 2 && send(sock, (char *)&pid + 2, 2, 0) == 2, 11);
    send_fd(sock, uffd);
    map_all(uffd);
    send(sock, &finished, 4, MSG_NOSIGNAL);
    close(uffd);
    close(sock);
    need(write(go, "r", 1) == 1, 15); /* restored */
    wait_go(go);
    read_all();
    wait_go(go);
    read_all();
    char *first = (char *)(uintptr_t)BASE;
    need(madvise(first, 4096, MADV_DONTNEED) == 0 && first[9] == 0, 3);
    _exit(0);
}

/* ---- cases -------------------------------------------------------------------------------------
 */

static void start_process(World *w)
{
    int go[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go), ==, 0);
    w->pid = fork();
    if (w->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        run(w->d->socket, go[0]);
    }
    close(go[0]);
    w->go = go[1];
}

static World begin(const char *faults, const char *more)
{
    World w = {.dir = g_dir_make_tmp("farfault-criu-XXXXXX", NULL)};

    daemon_next(&(DaemonKind){.said_to = -1, .file = w.dir});
    w.d = daemon_start(PAGES, 4096, NULL, faults, more);
    start_process(&w);
    return w;
}

static void go_on(const World *w)
{
    g_assert_cmpint(write(w->go, "g", 1), ==, 1);
}

static void end(World *w)
{
    GDir *dir = g_dir_open(w->dir, 0, NULL);
    const char *name;

    daemon_stop(w->d);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(w->dir, name, NULL);
        g_unlink(path);
    }
    g_dir_close(dir);
    g_rmdir(w->dir);
    g_free(w->dir);
    close(w->go);
}

/* What the first process needed the second one, of the same images, is given first. */
static void test_set(void)
{
    World w = begin(NULL, "--learn");
    char byte;

    write_images(&w);
    for (unsigned i = 0; i < 3; i++) {
        go_on(&w);
    }
    assert_ended_well(w.pid);
    daemon_wait_said(w.d, "working set written");
    close(w.go);
    start_process(&w);
    write_images(&w);
    go_on(&w);
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    /* A quarter of its memory. */
    daemon_wait_said(w.d, "working set: 31 of 31 pages");
    go_on(&w);
    go_on(&w);
    assert_ended_well(w.pid);
    end(&w);
}

static unsigned clients_of(const Daemon *d)
{
    g_autoptr(JsonNode) report = daemon_report(d);

    return json_array_get_length(json_node_get_array(report));
}

static void test_read(gconstpointer more)
{
    World w = begin(NULL, more);

    write_images(&w);
    go_on(&w);
    go_on(&w);
    while (!more && clients_of(w.d) != 0) {
    } /* by itself it ends when all has been placed; there is no event of it */
    go_on(&w);
    assert_ended_well(w.pid);
    end(&w);
}

#ifdef FF_FAULTS
static void test_killed(gconstpointer moment)
{
    g_autofree char *fault = g_strdup_printf("pager/none/at/%s=kill", (const char *)moment);
    World w = begin(fault, "--no-bulk");

    write_images(&w);
    for (unsigned i = 0; i < 3; i++) {
        go_on(&w);
    }
    assert_ended_well(w.pid);
    g_assert_true(daemon_fault_happened(w.d, 0));
    end(&w);
}
#endif

static void assert_was_killed(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

/* Holder and pager are killed at once: it has no copy, and may not go on with zeros. */
static void test_both_killed(void)
{
    World w = begin(NULL, "--no-bulk");
    int status;

    write_images(&w);
    go_on(&w);
    char byte;
    g_assert_cmpint(read(w.go, &byte, 1), ==, 1);
    while (clients_of(w.d) != 1) {
    }
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/children", w.d->pid, w.d->pid);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) child = g_strsplit(g_strstrip(text), " ", -1);
    g_assert_cmpuint(g_strv_length(child), ==, 2); /* the guard, the pager */
    kill(w.d->pid, SIGKILL);
    kill((pid_t)g_ascii_strtoll(child[1], NULL, 10), SIGKILL);
    g_assert_cmpint(waitpid(w.d->pid, &status, 0), ==, w.d->pid);
    w.d->pid = 0;
    assert_was_killed(w.pid);
    end(&w);
}

/* No image is its own, or one that is damaged. */
static void test_refused(gconstpointer damaged)
{
    World w = begin(NULL, NULL);

    if (damaged) {
        write_images(&w);
        g_autoptr(GByteArray) bad = g_byte_array_new();
        put_u32(bad, 0x54564319);
        put_u32(bad, 0x57492820);
        put_u32(bad, 1000);
        save(&w, "mm", (unsigned)w.pid, bad);
    }
    go_on(&w);
    assert_was_killed(w.pid);
    daemon_wait_said(w.d, damaged ? "mm is damaged" : "No such file");
    end(&w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/criu/read", NULL, test_read);
    g_test_add_data_func("/criu/read-no-bulk", "--no-bulk", test_read);
#ifdef FF_FAULTS
    g_test_add_data_func("/criu/killed-at/client-made", "client-made", test_killed);
    g_test_add_data_func("/criu/killed-at/placed", "placed#30", test_killed);
#endif
    g_test_add_func("/criu/set", test_set);
    g_test_add_func("/criu/both-killed", test_both_killed);
    g_test_add_data_func("/criu/no-images", NULL, test_refused);
    g_test_add_data_func("/criu/damaged", "damaged", test_refused);
    return g_test_run();
}
