/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process that fetches content from another host; see internal.h and FfHolderFetcher. It
 * is not started again: a connection that is lost is so for good, and what was not fetched as well.
 * Then the holder ends, and the guard kills those that miss pages. When all was fetched and placed
 * the holder ends as well: what was fetched takes memory, and is of no use any more.
 *
 * System calls: recv, send, epoll_ctl, setsockopt, shutdown.
 */
#include "pager/holder/internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define LOOK_MS 20
#define LOOK_LATER_MS 500
#define SAY_US (15 * G_USEC_PER_SEC)

/* What is restored does not run yet, or no pager has taken it. That has no event. */
static void look_again(FfHolder *h)
{
    gint64 waited = g_get_monotonic_time() - h->restored_us;

    if (waited > SAY_US && !h->said_restored) {
        ff_say("the page server is not told that all is here as long as a restored process is held "
               "(by a debugger?) or no pager can take it");
        h->said_restored = true;
    }
    ff_holder_set_timer(h, waited > SAY_US ? LOOK_LATER_MS : LOOK_MS);
}

bool ff_holder_fetcher_begin(FfHolder *h)
{
    return ff_holder_watch(h, h->cfg->fetcher->link, FF_ON_FETCHER, 0, EPOLLIN);
}

/* Nobody else decides: an ending holder says nothing more, and the other copies are kept. */
void ff_holder_look(FfHolder *h)
{
    const char byte = FF_HOLD_COMMIT;

    if (!h->restored || h->committed || h->ending) {
        return;
    }
    if (!ff_holder_all_run(h, h->restored)) { /* which may find the end as well */
        look_again(h);
        return;
    }
    if (h->fetched && !h->ending) {
        h->committed = true;
        send(h->cfg->fetcher->link, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

/* Until here an end of ours is a reset, and the other copies run again. They are given up, and
 * those here kept, at once: nobody can end the one without the other. */
static void give_up(FfHolder *h)
{
    const struct linger orderly = {0};
    const char byte = FF_HOLD_GIVEN_UP;
    int server = h->cfg->fetcher->server;

    h->given_up = true;
    setsockopt(server, SOL_SOCKET, SO_LINGER, &orderly, sizeof(orderly));
    shutdown(server, SHUT_WR); /* other processes may have it still */
    send(h->cfg->fetcher->link, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    ff_holder_let_server_go(h);
    ff_holder_let_kept_go(h);
    ff_holder_end_if_placed(h);
}

void ff_holder_on_fetcher(FfHolder *h)
{
    char byte = 0;
    ssize_t n = recv(h->cfg->fetcher->link, &byte, 1, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n == 1 && byte == FF_HOLD_FETCHED) {
        h->fetched = true;
        ff_holder_look(h);
        return;
    }
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, h->cfg->fetcher->link, NULL);
    if (n == 1) {
        give_up(h);
        return;
    }
    ff_say("no more pages come, as the process that fetches them has ended: processes that were "
           "restored and miss some are killed");
    h->exit_status = 1;
    h->ending = true;
}

void ff_holder_end_if_placed(FfHolder *h)
{
    bool some = false;

    for (unsigned i = 0; i < FF_HOLDER_SPACES; i++) {
        some = some || h->space[i].id;
    }
    h->ending = h->ending || (h->given_up && !some);
}

bool ff_holder_restored(FfHolder *h, uint64_t connection)
{
    if (!h->cfg->fetcher || !connection) {
        return true;
    }
    bool first = !ff_holder_has_restored_others(h, connection);
    if (!first) {
        ff_say("a second restore has come to its end: its processes may not run, and are killed");
    } else {
        h->restored = connection;
        h->restored_us = g_get_monotonic_time();
    }
    ff_holder_keep_only(h, h->restored);
    ff_holder_look(h);
    return first;
}
