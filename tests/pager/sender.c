/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See sender.h. */
#include "tests/pager/sender.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/pager/client.h"

enum { START = 1, CONFIG = 2, STATE = 3, COMPLETE = 5, MEMORY_FD = 7, PAUSED = 8 };

/* Slots come in no order: there it is that of a hash table. */
static const unsigned order[VMM_SLOTS] = {1, 2, 0};

static int make_memfd(uint64_t size)
{
    int fd = memfd_create("ch_ram", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    return fd;
}

/* Pages 3 of 7 are holes, but for some that the guest has written zeros to. */
static void fill(int fd)
{
    uint64_t words[VMM_PAGE / 8];

    for (unsigned page = 0; page < VMM_PAGES; page++) {
        for (unsigned w = 0; w < G_N_ELEMENTS(words); w++) {
            words[w] = client_is_zero(page) ? 0 : client_word(page, w);
        }
        if (!client_is_zero(page) || page % 4 == 0) {
            g_assert_cmpint(pwrite(fd, words, sizeof(words), (off_t)page * VMM_PAGE), ==,
                            sizeof(words));
        }
    }
}

void sender_begin(Sender *s, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int zone = make_memfd(vmm_slot[1].file_offset + vmm_slot[1].size);

    *s = (Sender){.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                  .memory = {zone, zone, make_memfd(vmm_slot[2].size)}};
    fill(zone);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(s->sock, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
}

void sender_end(Sender *s)
{
    if (s->sock >= 0) {
        close(s->sock);
    }
    close(s->memory[1]);
    close(s->memory[2]);
}

void sender_request(const Sender *s, unsigned command, unsigned version, uint64_t length)
{
    uint8_t bytes[16] = {(uint8_t)command, (uint8_t)(command >> 8), (uint8_t)version};

    memcpy(bytes + 8, &length, sizeof(length)); /* this is little-endian as well */
    send(s->sock, bytes, sizeof(bytes), MSG_NOSIGNAL);
}

void sender_pass(const Sender *s, uint32_t slot, const int *fds, unsigned n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    struct iovec iov = {&slot, sizeof(slot)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        control.align = (struct cmsghdr){CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
        mh.msg_control = &control;
        mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
    }
    sendmsg(s->sock, &mh, MSG_NOSIGNAL);
}

void sender_text(const Sender *s, const char *text)
{
    send(s->sock, text, strlen(text), MSG_NOSIGNAL);
}

void sender_send(Sender *s, unsigned step)
{
    const char *text = step == VMM_SLOTS + 1 ? vmm_config() : vmm_state();

    if (step == 0) {
        sender_request(s, START, 0, 0);
    } else if (step <= VMM_SLOTS) {
        unsigned i = order[step - 1];
        sender_request(s, MEMORY_FD, 0, sizeof(uint32_t));
        sender_pass(s, vmm_slot[i].slot, &s->memory[i], 1);
    } else if (step < SENDER_STEPS - 1) {
        sender_request(s, step == VMM_SLOTS + 1 ? CONFIG : STATE, 0, strlen(text));
        sender_text(s, text);
    } else {
        sender_request(s, s->paused ? PAUSED : COMPLETE, 0, 0);
    }
}

void sender_send_until(Sender *s, unsigned until)
{
    for (unsigned step = 0; step < until; step++) {
        sender_send(s, step);
        g_assert_cmpint(sender_answer(s), ==, SENDER_OK);
    }
}

SenderAnswer sender_answer(const Sender *s)
{
    uint64_t words[2];
    ssize_t n = recv(s->sock, words, sizeof(words), MSG_WAITALL);

    if (n != sizeof(words)) {
        g_assert_cmpint(n, <=, 0);
        return SENDER_LEFT;
    }
    g_assert_cmpuint(words[1], ==, 0);
    g_assert_true(words[0] == 1 || words[0] == 2);
    return words[0] == 1 ? SENDER_OK : SENDER_ERROR;
}

bool sender_hears_nothing(const Sender *s)
{
    char byte;

    return recv(s->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}
