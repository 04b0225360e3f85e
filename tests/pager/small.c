/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See small.h. */
#include "tests/pager/small.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/pager/client.h"

bool small_fill(unsigned page, void *buf)
{
    for (unsigned i = 0; i < 512; i++) {
        ((uint64_t *)buf)[i] = client_word(page, i);
    }
    return !client_is_zero(page);
}

size_t small_size(const Small *c)
{
    return MAX(c->pages, 1) * client_page_size(c->kind);
}

int small_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(sock, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return sock;
}

static void hand_over(const Small *c)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    g_autofree char *text = g_strdup_printf(
        "[{\"base_host_virt_addr\":%" G_GUINT64_FORMAT ",\"size\":%zu,\"offset\":0,"
        "\"page_size\":%" G_GUINT64_FORMAT "}]",
        (guint64)(uintptr_t)c->page, small_size(c), (guint64)client_page_size(c->kind));
    struct iovec iov = {text, strlen(text)};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

    cm->cmsg_level = SOL_SOCKET;
    cm->cmsg_type = SCM_RIGHTS;
    cm->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cm), &c->uffd, sizeof(int));
    g_assert_cmpint(sendmsg(c->sock, &mh, MSG_NOSIGNAL), ==, (ssize_t)iov.iov_len);
}

static uint64_t *map(const Small *c)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;

    if (c->kind != CLIENT_ANON) {
        flags = MAP_ANONYMOUS | (c->kind == CLIENT_SHMEM ? MAP_SHARED : MAP_PRIVATE | MAP_HUGETLB);
    }
    void *p = mmap(NULL, small_size(c), PROT_READ | PROT_WRITE, flags, -1, 0);
    g_assert_true(p != MAP_FAILED);
    return p;
}

/* Its pages are those of the file, from 0 on. */
void small_start(Small *c, const Daemon *d)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE | c->features};

    c->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    g_assert_cmpint(ioctl(c->uffd, UFFDIO_API, &api), ==, 0);
    c->page = map(c);
    struct uffdio_register reg = {.range = {(uintptr_t)c->page, small_size(c)},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    g_assert_cmpint(ioctl(c->uffd, UFFDIO_REGISTER, &reg), ==, 0);
    c->sock = small_connect(d->socket);
    hand_over(c);
}

void small_check(const Small *c)
{
    const volatile uint64_t *words = c->page;

    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmpuint(words[i], ==, client_word(0, i));
    }
}

void small_end(Small *c)
{
    close(c->uffd);
    close(c->sock);
    munmap(c->page, small_size(c));
}
