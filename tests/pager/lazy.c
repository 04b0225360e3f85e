/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See lazy.h. */
#include "tests/pager/lazy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/pager/client.h"

#define BASE LAZY_BASE
#define FIRST_MAPPING 64u /* pages; the other one follows at once */
#define FIRST_RUN 100u    /* goes over both */
#define EAGER 4u          /* pages that are not lazy, after that */
#define LAST_RUN 20u
#define FINISHED 0x52535446

static LazyKind next;

/* ---- images ---------------------------------------------------------------------------------- */

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

static void save(const char *dir, const char *name, unsigned number, const GByteArray *file)
{
    g_autofree char *path = g_strdup_printf("%s/%s-%u.img", dir, name, number);

    g_assert_true(g_file_set_contents(path, (const char *)file->data, file->len, NULL));
}

/* ELSEWHERE: the lazy pages are not in the images. */
static void write_images(const char *dir, pid_t pid, bool elsewhere)
{
    unsigned flags = elsewhere ? 2 : 2 | 4;
    g_autoptr(GByteArray) pagemap = g_byte_array_new(), mm = g_byte_array_new(),
                          pages = g_byte_array_new(), m = g_byte_array_new();
    uint64_t words[512];

    put_u32(pagemap, 0x54564319);
    put_u32(pagemap, 0x56084025);
    put_field(m, 1, 7);
    put_message(pagemap, m);
    put_entry(pagemap, 0, FIRST_RUN, flags);
    put_entry(pagemap, FIRST_RUN, EAGER, 4);
    put_entry(pagemap, FIRST_RUN + EAGER, LAST_RUN, flags);
    save(dir, "pagemap", (unsigned)pid, pagemap);
    g_byte_array_set_size(m, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GByteArray) vma = g_byte_array_new();
        put_field(vma, 1, BASE + (i ? FIRST_MAPPING * 4096ull : 0));
        put_field(vma, 2, BASE + (i ? LAZY_PAGES : FIRST_MAPPING) * 4096ull);
        put_varint(m, 14 << 3 | 2);
        put_varint(m, vma->len);
        g_byte_array_append(m, vma->data, vma->len);
    }
    put_u32(mm, 0x54564319);
    put_u32(mm, 0x57492820);
    put_message(mm, m);
    save(dir, "mm", (unsigned)pid, mm);
    for (unsigned i = 0; !elsewhere && i < FIRST_RUN + EAGER + LAST_RUN; i++) {
        for (unsigned k = 0; k < 512; k++) {
            words[k] = client_word(i, k);
        }
        g_byte_array_append(pages, (guint8 *)words, sizeof(words));
    }
    g_autofree char *path = g_strdup_printf("%s/pages-7.img", dir);
    if (!g_file_test(path, G_FILE_TEST_EXISTS)) { /* else of a process before, and just as it was */
        save(dir, "pages", 7, pages);
    }
}

void lazy_write_images(const char *dir, pid_t pid)
{
    write_images(dir, pid, false);
}

void lazy_write_images_elsewhere(const char *dir, pid_t pid)
{
    write_images(dir, pid, true);
}

unsigned lazy_run_at(uint64_t addr)
{
    uint64_t page = (addr - BASE) / 4096;

    if (addr < BASE || addr % 4096) {
        return 0;
    }
    return page < FIRST_RUN                      ? FIRST_RUN - page
           : page < FIRST_RUN + EAGER            ? 0
           : page < FIRST_RUN + EAGER + LAST_RUN ? FIRST_RUN + EAGER + LAST_RUN - page
                                                 : 0;
}

/* ---- the process ----------------------------------------------------------------------------- */

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
        size_t len = (i ? LAZY_PAGES - FIRST_MAPPING : FIRST_MAPPING) * 4096ul;
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
    for (unsigned i = 0; i < LAZY_PAGES; i++) {
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

static void exec_sleep(void)
{
    execl("/bin/sleep", "sleep", "60", NULL);
    _exit(16);
}

static pid_t spawn(void)
{
    char *const argv[] = {(char *)"sleep", (char *)"60", NULL};
    pid_t pid;

    need(posix_spawn(&pid, "/bin/sleep", NULL, NULL, argv, NULL) == 0, 16);
    return pid;
}

static pid_t leave_daemon(void)
{
    int ends[2];
    pid_t pid;

    need(pipe(ends) == 0, 15);
    pid_t between = fork();
    if (between == 0) {
        setsid();
        pid = fork();
        if (pid == 0) {
            exec_sleep();
        }
        need(write(ends[1], &pid, sizeof(pid)) == sizeof(pid), 15);
        _exit(0);
    }
    need(waitpid(between, NULL, 0) == between && read(ends[0], &pid, sizeof(pid)) == sizeof(pid),
         15);
    return pid;
}

static void start_another(const LazyKind *kind, int go)
{
    pid_t pid = 0;

    switch (kind->then) {
    case LAZY_STAYS:
        return;
    case LAZY_EXECS:
        exec_sleep();
        return;
    case LAZY_FORKS_AND_EXECS:
        pid = fork();
        if (pid == 0) {
            exec_sleep();
        }
        break;
    case LAZY_SPAWNS:
        pid = spawn();
        break;
    case LAZY_LEAVES_A_DAEMON:
        pid = leave_daemon();
        break;
    }
    need(write(go, &pid, sizeof(pid)) == sizeof(pid), 15);
    wait_go(go);
}

static int make_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_FORK |
                                         UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    need(ioctl(uffd, UFFDIO_API, &api) == 0, 10);
    return uffd;
}

static int connect_to(const char *socket_path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(addr.sun_path, socket_path, sizeof(addr.sun_path) - 1);
    need(connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0, 11);
    return sock;
}

static void run(const char *socket_path, int go, bool leaves)
{
    int32_t pid = next.as ? next.as : getpid(), finished = FINISHED;

    wait_go(go); /* there are images */
    int uffd = make_uffd(), sock = connect_to(socket_path);
    pid = -pid; /* of a zombie, first */
    need(send(sock, &pid, 4, 0) == 4, 11);
    pid = -pid;
    need(send(sock, &pid, 2, 0) == 2 && send(sock, (char *)&pid + 2, 2, 0) == 2, 11);
    send_fd(sock, uffd);
    map_all(uffd);
    if (next.halts) {
        need(write(go, "h", 1) == 1, 15);
        wait_go(go);
    }
    send(sock, &finished, 4, MSG_NOSIGNAL);
    close(uffd);
    close(sock);
    need(write(go, "r", 1) == 1, 15); /* restored */
    wait_go(go);
    if (leaves && fork()) {
        _exit(0);
    }
    start_another(&next, go);
    read_all();
    wait_go(go);
    read_all();
    if (leaves) {
        _exit(0);
    }
    char *first = (char *)(uintptr_t)BASE;
    need(madvise(first, 4096, MADV_DONTNEED) == 0 && first[9] == 0, 3);
    _exit(0);
}

void lazy_next(const LazyKind *kind)
{
    next = *kind;
}

/* *GO: the end of the one that is returned to, which is another one in the process (0). */
static pid_t fork_with(int *go)
{
    int ends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    close(ends[pid == 0]);
    *go = ends[pid != 0];
    return pid;
}

static pid_t start(const char *socket_path, int *go, bool leaves)
{
    pid_t pid = fork_with(go);

    if (pid == 0) {
        run(socket_path, *go, leaves);
    }
    next = (LazyKind){0};
    return pid;
}

pid_t lazy_start(const char *socket_path, int *go)
{
    return start(socket_path, go, false);
}

/* Ends are the parent's: of the first all read a byte and read all, to the second they write one.
 */
static void one_of_many(int sock, int32_t as, const int *ends)
{
    int uffd = make_uffd();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    need(send(sock, &as, sizeof(as), 0) == sizeof(as), 11);
    send_fd(sock, uffd);
    map_all(uffd);
    close(uffd);
    close(sock);
    need(write(ends[1], "d", 1) == 1, 15);
    wait_go(ends[0]);
    read_all();
    _exit(0);
}

static void run_many(const char *socket_path, unsigned n, int go)
{
    int32_t finished = FINISHED;
    int begins[2], done[2], status;

    need(pipe(begins) == 0 && pipe(done) == 0, 15);
    wait_go(go); /* there are images */
    int sock = connect_to(socket_path);
    for (unsigned i = 0; i < n; i++) {
        if (fork() == 0) {
            one_of_many(sock, LAZY_MANY_FIRST + (int32_t)i, (const int[]){begins[0], done[1]});
        }
        wait_go(done[0]);
    }
    send(sock, &finished, 4, MSG_NOSIGNAL);
    close(sock);
    need(write(go, "r", 1) == 1, 15); /* restored */
    wait_go(go);
    for (unsigned i = 0; i < n; i++) {
        need(write(begins[1], "b", 1) == 1, 15);
    }
    for (unsigned i = 0; i < n; i++) {
        need(wait(&status) > 0 && status == 0, 4);
    }
    _exit(0);
}

pid_t lazy_start_many(const char *socket_path, unsigned n, int *go)
{
    pid_t pid = fork_with(go);

    if (pid == 0) {
        run_many(socket_path, n, *go);
    }
    return pid;
}

pid_t lazy_start_leaving(const char *socket_path, int *go)
{
    return start(socket_path, go, true);
}
