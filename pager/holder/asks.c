/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client that keeps its userfaultfd to itself and asks for its pages by a socket, as Cloud
 * Hypervisor does: one request, its answer, the next request. The pager may die at any time; so
 * it is this process that has the socket, and that reads and writes there. A request goes into the
 * record right after it was read, and is answered once, after the pager has said in the record that
 * the page is there: of an answer too many the client would take a page to be there that is not.
 *
 * An answer may have the page in it: the pager has left it in memory that both map, and touches
 * that no more before the next request. So it is sent as one, in whatever pieces.
 *
 * Nothing is ever said but that a page is there. What is no request, or asks for what the guest
 * does not have, is not answered: the client would end, and let go of its userfaultfd before.
 *
 * The end of the connection and of the talk (config.h) is the end of the holder. See
 * internal.h. System calls: recv, send, sendmsg, shutdown, epoll_ctl.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"

/* What is there to be read waits in the socket while one is answered; the end is always seen. */
static void listen_for(FfHolder *h, uint32_t events)
{
    struct epoll_event e = {.events = events | EPOLLRDHUP, .data.u64 = (uint64_t)FF_ON_ASK << 32};

    epoll_ctl(h->epoll, EPOLL_CTL_MOD, h->cfg->asks->fault_fd, &e);
}

static void end_if_all_ended(FfHolder *h)
{
    if (h->asks.closed && h->asks.finished) {
        h->ending = true;
    }
}

static void tell_talk(FfHolder *h)
{
    if (!h->asks.told) {
        h->asks.told = true;
        send(h->cfg->asks->talk_fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static void on_closed(FfHolder *h)
{
    ff_say("Cloud Hypervisor (process %d) asks for no more pages: it has all of them, or has ended",
           h->cfg->asks->pid);
    h->asks.closed = true;
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->cfg->asks->fault_fd, NULL);
    shutdown(h->cfg->asks->talk_fd, SHUT_WR);
    end_if_all_ended(h);
}

static void be_deaf(FfHolder *h, const char *why)
{
    ff_say("Cloud Hypervisor (process %d) %s: it waits from now on", h->cfg->asks->pid, why);
    h->asks.deaf = true;
    listen_for(h, 0);
}

static bool is_request(const FfVmmAsk *ask)
{
    return GUINT16_FROM_LE(ask->request.command) == FF_VMM_PAGE_FAULT &&
           GUINT64_FROM_LE(ask->request.length) == sizeof(ask->range);
}

/* A whole one is in `in`. */
static void take_request(FfHolder *h)
{
    FfHeldSpace *s = ff_holder_find(h, h->asks.id);

    if (!is_request(&h->asks.in)) {
        be_deaf(h, "has asked for what is no page");
        return;
    }
    h->asks.waiting = true;
    h->asks.sent = 0;
    listen_for(h, 0);
    if (s) { /* else the pager has given it up */
        s->rec->ask.gpa = GUINT64_FROM_LE(h->asks.in.range.gpa);
        s->rec->ask.length = GUINT64_FROM_LE(h->asks.in.range.length);
        FF_FAULT_AT("ask-read");
        __atomic_add_fetch(&s->rec->ask.asked, 1, __ATOMIC_SEQ_CST);
        ff_tell(s->news);
    }
}

static void read_some(FfHolder *h)
{
    ssize_t n = recv(h->cfg->asks->fault_fd, (char *)&h->asks.in + h->asks.len,
                     sizeof(h->asks.in) - h->asks.len, MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        on_closed(h);
    } else if (n > 0) {
        h->asks.len += n;
        if (h->asks.len == sizeof(h->asks.in)) {
            h->asks.len = 0;
            take_request(h);
        }
    }
}

/* What is left of the answer. As sendmsg(). */
static ssize_t send_some(const FfHolder *h, uint64_t page)
{
    const FfHolderAsks *a = h->cfg->asks;
    const FfVmmResponse ok = {.status = GUINT16_TO_LE(FF_VMM_OK), .length = GUINT64_TO_LE(page)};
    uint64_t head = MIN(h->asks.sent, sizeof(ok)), body = h->asks.sent - head;
    struct iovec iov[] = {{(char *)&ok + head, sizeof(ok) - head},
                          {page ? (char *)a->answer + body : NULL, page - body}};
    struct msghdr mh = {.msg_iov = iov, .msg_iovlen = G_N_ELEMENTS(iov)};

    return sendmsg(a->fault_fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void ff_holder_answer(FfHolder *h)
{
    const FfHeldSpace *s = h->asks.waiting ? ff_holder_find(h, h->asks.id) : NULL;

    if (!s || h->asks.closed ||
        __atomic_load_n(&s->rec->ask.answered, __ATOMIC_SEQ_CST) != s->rec->ask.asked) {
        return;
    }
    uint64_t page = h->cfg->asks->answer ? MIN(s->rec->ask.length, h->cfg->asks->answer_len) : 0;
    ssize_t n = send_some(h, page);
    h->asks.sent += n > 0 ? n : 0;
    if (h->asks.sent == sizeof(FfVmmResponse) + page) {
        h->asks.waiting = false;
        tell_talk(h);
        listen_for(h, EPOLLIN);
    } else if (n >= 0 || errno == EAGAIN || errno == EINTR) {
        listen_for(h, EPOLLOUT); /* it asks, and does not read */
    } else {
        on_closed(h);
    }
}

void ff_holder_on_ask(FfHolder *h, uint32_t events)
{
    if (h->asks.closed) {
        return;
    }
    if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
        on_closed(h); /* a client that has closed its end reads no answer */
    } else if (h->asks.waiting) {
        ff_holder_answer(h);
    } else if (!h->asks.deaf) {
        read_some(h);
    }
}

/* A byte: the guest may run. The end without it: that one has said why not. */
void ff_holder_on_talk(FfHolder *h)
{
    char byte;
    ssize_t n = recv(h->cfg->asks->talk_fd, &byte, 1, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    h->exit_status = n == 1 ? 0 : 1;
    h->asks.finished = true;
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->cfg->asks->talk_fd, NULL);
    end_if_all_ended(h);
}

static bool begin_asks(FfHolder *h)
{
    const FfHolderAsks *a = h->cfg->asks;
    const FfHeldSpace *s = ff_holder_add_without(h, a->pid, a->uid, a->hello, a->hello_len);

    if (!s) {
        return false;
    }
    h->asks.id = s->id;
    return ff_holder_watch(h, a->fault_fd, FF_ON_ASK, 0, EPOLLIN | EPOLLRDHUP) &&
           ff_holder_watch(h, a->talk_fd, FF_ON_TALK, 0, EPOLLIN);
}

/* A client that has no answer waits; one whose connection ends does not. */
static int kept_open(const FfHolder *h)
{
    return h->asks.closed ? -1 : h->cfg->asks->fault_fd;
}

const FfArrival ff_arrival_asks = {
    .begin = begin_asks, .kept_open = kept_open, .guarded = FF_GUARDED_NONE};
