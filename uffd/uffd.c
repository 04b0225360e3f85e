/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Thin wrappers of the userfaultfd ioctls.
 * No state; any thread. System calls: ioctl(UFFDIO_*), read, open (fdinfo), close.
 */
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/failpoints.h"

#define SMALL_PAGE 4096
/* Of a mapping that is being changed all the time. */
#define MAX_PROBES 1000

int ff_uffd_init(int uffd, uint64_t features, uint64_t *have)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    if (ioctl(uffd, UFFDIO_API, &api) < 0) {
        /* The kernel takes UFFDIO_API once and then answers EINVAL; it also answers EINVAL for
         * features that it does not know. Registering tells the two apart. */
        if (have) {
            *have = 0;
        }
        return errno == EINVAL && features == 0 ? 0 : -errno;
    }
    if (have) {
        *have = api.features;
    }
    return 0;
}

int ff_uffd_register_wp(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_register r = {.range = {addr, len}, .mode = UFFDIO_REGISTER_MODE_WP};

    return FF_FAULT_CALL("uffd-track", ioctl(uffd, UFFDIO_REGISTER, &r)) < 0 ? -errno : 0;
}

int ff_uffd_protect(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_writeprotect w = {.range = {addr, len}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    int rc;

    do {
        rc = ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0 ? -errno : 0;
    } while (rc == -EAGAIN || rc == -EINTR); /* the mapping was being changed */
    return rc;
}

/* linux/userfaultfd.h since 6.4; the headers of the build may be older than the kernel. */
#define CONTINUE_MODE_WP (1ull << 1)

int ff_uffd_map_protected(int uffd, uint64_t addr, uint64_t len)
{
    for (uint64_t at = addr, end = addr + len; at < end;) {
        struct uffdio_continue c = {.range = {at, end - at},
                                    .mode = CONTINUE_MODE_WP | UFFDIO_CONTINUE_MODE_DONTWAKE};
        if (ioctl(uffd, UFFDIO_CONTINUE, &c) == 0) {
            break;
        }
        int err = errno;
        if (c.mapped > 0) {
            at += c.mapped;
        } else if (err == EEXIST || err == EFAULT) {
            at += sysconf(_SC_PAGESIZE); /* mapped already; a hole */
        } else if (err != EAGAIN && err != EINTR) {
            return -err;
        }
    }
    return 0;
}

/* Here the kernel says ENOMEM of an address space that is gone, where others say ESRCH
 * (fs/userfaultfd.c). Taking the write protection off one page, of a range that is to lose it
 * anyway, tells that from a mapping that cannot be split. */
static bool is_gone(int uffd, uint64_t addr)
{
    struct uffdio_writeprotect w = {.range = {addr, sysconf(_SC_PAGESIZE)}};

    return ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0 && errno == ESRCH;
}

/* At any address: what is there is not protected, or not registered, and stays as it is. */
bool ff_uffd_is_gone(int uffd)
{
    return is_gone(uffd, 1ull << 32);
}

/* The kernel wakes the waiters first and then takes the range out, and a thread that faults under
 * its mapping's own lock (Linux 6.6 and later) can begin to wait in between: it would wait for
 * ever. Hence a second wake, after which nobody can come any more. */
int ff_uffd_unregister(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_range r = {addr, len};

    if (FF_FAULT_CALL("uffd-unregister", ioctl(uffd, UFFDIO_UNREGISTER, &r)) == 0) {
        return ff_uffd_wake(uffd, addr, len);
    }
    int rc = -errno;
    return rc == -ENOMEM && is_gone(uffd, addr) ? -ESRCH : rc;
}

int ff_uffd_unregister_own(int uffd, uint64_t addr, uint64_t len)
{
    /* What this has already it has again, and what nobody has for a moment. */
    int rc = ff_uffd_register(uffd, addr, len, UFFDIO_REGISTER_MODE_MISSING);

    if (rc == -EBUSY) {
        return 0;
    }
    return rc == 0 || rc == -ENOMEM ? ff_uffd_unregister(uffd, addr, len) : rc;
}

int ff_uffd_wake(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_range r = {addr, len};

    return ioctl(uffd, UFFDIO_WAKE, &r) < 0 ? -errno : 0;
}

int ff_uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode)
{
    struct uffdio_register r = {.range = {addr, len}, .mode = mode};

    return FF_FAULT_CALL("uffd-register", ioctl(uffd, UFFDIO_REGISTER, &r)) < 0 ? -errno : 0;
}

/* linux/userfaultfd.h since 6.6. */
struct poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define POISON _IOWR(UFFDIO, 0x08, struct poison)

/* The ioctl, its result, and in *DONE what the kernel says it did. */
static int try_once(int uffd, FfUffdOp op, uint64_t addr, const void *src, uint64_t len,
                    int64_t *done)
{
    struct uffdio_copy copy = {.dst = addr, .src = (uintptr_t)src, .len = len};
    struct uffdio_zeropage zero = {.range = {addr, len}};
    struct uffdio_continue cont = {.range = {addr, len}};
    struct poison poison = {.range = {addr, len}};
    int rc = -1;

    switch (op) {
    case FF_UFFD_COPY:
        rc = FF_FAULT_CALL("uffd-copy", ioctl(uffd, UFFDIO_COPY, &copy));
        *done = copy.copy;
        break;
    case FF_UFFD_ZERO:
        rc = FF_FAULT_CALL("uffd-zero", ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
        *done = zero.zeropage;
        break;
    case FF_UFFD_CONTINUE:
        rc = FF_FAULT_CALL("uffd-continue", ioctl(uffd, UFFDIO_CONTINUE, &cont));
        *done = cont.mapped;
        break;
    case FF_UFFD_POISON:
        rc = ioctl(uffd, POISON, &poison);
        *done = poison.updated;
        break;
    }
    return rc;
}

int ff_uffd_try(int uffd, FfUffdOp op, uint64_t addr, const void *src, uint64_t len, uint64_t *done)
{
    for (;;) {
        int64_t did = 0;
        int rc = try_once(uffd, op, addr, src, len, &did) < 0 ? -errno : 0;
        *done = rc == 0 ? len : did > 0 ? (uint64_t)did : 0;
        if (*done || rc != -EINTR) {
            return *done ? 0 : rc;
        }
    }
}

/* The kernel looks for a registered mapping before it reads the source, which cannot be read. Of
 * hugetlb it looks in between whether the page is there. */
int ff_uffd_is_registered(int uffd, uint64_t addr, uint64_t page_size)
{
    void *unreadable =
        mmap(NULL, page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int rc = -EAGAIN;
    uint64_t done;

    if (unreadable == MAP_FAILED) {
        return -errno;
    }
    for (unsigned i = 0; i < MAX_PROBES && rc == -EAGAIN; i++) {
        rc = ff_uffd_try(uffd, FF_UFFD_COPY, addr, unreadable, page_size, &done);
    }
    munmap(unreadable, page_size);
    bool known = rc == -EFAULT || (rc == -EEXIST && page_size > SMALL_PAGE);
    return known ? 0 : rc == 0 ? -EPROTO : rc;
}

int ff_uffd_try_protect(int uffd, uint64_t addr, uint64_t len, bool on)
{
    struct uffdio_writeprotect w = {.range = {addr, len},
                                    .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    int rc;

    do {
        rc = ioctl(uffd, UFFDIO_WRITEPROTECT, &w) < 0 ? -errno : 0;
    } while (rc == -EINTR);
    return rc;
}

/* The kernel looks at that before it looks at what it is asked for, which is impossible here. */
bool ff_uffd_is_changing(int uffd)
{
    struct uffdio_copy nothing = {.len = 0};

    return ioctl(uffd, UFFDIO_COPY, &nothing) < 0 && errno == EAGAIN;
}

int ff_uffd_pending(int uffd)
{
    char text[512];
    int n = 0;

    snprintf(text, sizeof(text), "/proc/self/fdinfo/%d", uffd);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    int rc = len < 0 ? -errno : 0;
    if (fd >= 0) {
        close(fd);
    }
    text[rc < 0 ? 0 : len] = '\0';
    const char *line = strstr(text, "\npending:");
    return rc < 0 ? rc : line && sscanf(line, "\npending: %d", &n) == 1 ? n : -EPROTO;
}

int ff_uffd_read(int uffd, struct uffd_msg *msgs, size_t max)
{
    ssize_t n;

    do {
        n = FF_FAULT_CALL("uffd-read", read(uffd, msgs, max * sizeof(*msgs)));
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return errno == EAGAIN ? 0 : -errno;
    }
    return n / sizeof(*msgs);
}
