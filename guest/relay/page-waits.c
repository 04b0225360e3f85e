/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See page-waits.h. What is not answered, as an engine has ended, the next one is asked; until then
 * the back-end waits, and QEMU only with what it asks it. When every page is there nobody need
 * answer.
 *
 * One thread; no locks. System calls: socketpair, fstat, fstatfs, readlink, fcntl,
 * ioctl(UFFDIO_WAKE), close.
 */
#include "guest/relay/page-waits.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/maps.h"
#include "contract/sharers.h"
#include "guest/relay/internal.h"
#include "uffd/backing.h"
#include "uffd/uffd.h"

/* Of userspace; what the kernel takes for UFFDIO_WAKE. */
#define FIRST_ADDRESS (1ull << 20)
#define LAST_ADDRESS ((1ull << 47) - (1ull << 20))

struct FfPageWaits {
    FfRelay *relay;
    const GPtrArray *backends;
    int engine; /* our end; -1: none */
    GSource *source;
    bool ready;   /* the engine answers for pages that are missing */
    GArray *left; /* of Left: they have no connection */
};

/* A userfaultfd of a back-end's connection that ended with another relay. */
typedef struct {
    int uffd;
    FfSharersRequest request; /* HAND */
    pid_t pid;
} Left;

FfPageWaits *ff_page_waits_new(FfRelay *relay, const GPtrArray *backends)
{
    FfPageWaits *s = g_new0(FfPageWaits, 1);

    s->relay = relay;
    s->backends = backends;
    s->engine = -1;
    s->left = g_array_new(FALSE, FALSE, sizeof(Left));
    return s;
}

void ff_page_waits_end(FfPageWaits *s)
{
    if (s->source) {
        g_source_destroy(s->source);
        g_clear_pointer(&s->source, g_source_unref);
    }
    if (s->engine >= 0) {
        close(g_steal_fd(&s->engine));
    }
    s->ready = false;
}

void ff_page_waits_forget(FfPageWaits *s)
{
    for (guint i = 0; i < s->left->len; i++) {
        const Left *left = &g_array_index(s->left, Left, i);

        /* An engine that was done before it heard of it has not. */
        for (uint32_t k = 0; k < left->request.n_regions; k++) {
            ff_uffd_unregister_own(left->uffd, left->request.regions[k].addr,
                                   left->request.regions[k].size);
        }
        close(left->uffd);
    }
    g_array_set_size(s->left, 0);
}

void ff_page_waits_free(FfPageWaits *s)
{
    if (s) {
        ff_page_waits_end(s);
        ff_page_waits_forget(s);
        g_array_unref(s->left);
        g_free(s);
    }
}

/* ---- to the engine --------------------------------------------------------------------------- */

/* FALSE: there is an engine, and it is not told. */
static bool send_request(FfPageWaits *s, const FfSharersRequest *request, int fd)
{
    return s->engine < 0 || ff_rights_send(s->engine, request, sizeof(*request), &fd, fd >= 0) >= 0;
}

static bool is_uffd(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *link = g_file_read_link(path, NULL);

    return !g_strcmp0(link, FF_UFFD_LINK);
}

/* A fault thread that waits in read() would answer for nobody else. */
static bool is_usable(int uffd)
{
    int flags = fcntl(uffd, F_GETFL);

    return is_uffd(uffd) && flags >= 0 &&
           (flags & O_NONBLOCK || fcntl(uffd, F_SETFL, flags | O_NONBLOCK) == 0);
}

/* ---- where a back-end has mapped what -------------------------------------------------------- */

/* The address of REGION, a part of the file FD; 0: there is none, or more than one. */
static uint64_t find_mapping(const char *maps, int fd, const FfVhostRegion *region)
{
    g_autoptr(GArray) all = ff_maps_of_file(maps, fd);
    uint64_t exact = 0, covering = 0, region_end = region->offset + region->size;
    unsigned n_exact = 0, n_covering = 0;

    for (guint i = 0; i < all->len; i++) {
        const FfMapping *m = &g_array_index(all, FfMapping, i);
        uint64_t end = m->offset + (m->end - m->start);

        /* What it has mapped for this it cannot touch yet. */
        if (!m->closed || region->offset < m->offset || region_end > end) {
            continue;
        }
        covering = m->start + (region->offset - m->offset);
        n_covering++;
        /* From its own beginning or, as before QEMU 9.0, from the file's. */
        if (end == region_end && (m->offset == region->offset || !m->offset)) {
            exact = covering;
            n_exact++;
        }
    }
    return n_exact == 1 ? exact : n_covering == 1 ? covering : 0;
}

static bool fill_regions(FfSharersRequest *request, const FfVhostWaits *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        const FfVhostRegion *r = &w->regions[i];
        struct stat st;

        if (fstat(w->fds[i], &st) < 0) {
            return false;
        }
        request->regions[request->n_regions++] =
            (FfSharersRegion){r->user, r->size, r->offset, st.st_dev, st.st_ino};
    }
    return true;
}

void ff_page_waits_check(FfPageWaits *s, FfVhostConn *backend)
{
    const FfSharersRequest request = {.op = FF_SHARERS_CHECK,
                                      .number = ff_vhost_conn_number(backend)};

    send_request(s, &request, -1);
}

static bool all_known(const FfVhostWaits *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        if (!w->regions[i].user) {
            return false;
        }
    }
    return true;
}

static bool refuse_backend(FfPageWaits *s, FfVhostConn *backend, const char *why)
{
    ff_relay_log(s->relay,
                 "vhost-user back-end '%s': %s: the device stands until all of the guest's memory "
                 "is there",
                 ff_vhost_conn_id(backend), why);
    return false;
}

/* Where the back-end did not say it. */
static bool find_addresses(FfVhostConn *backend, const FfVhostWaits *w)
{
    g_autofree char *maps = NULL;

    for (unsigned i = 0; i < w->n; i++) {
        uint64_t addr;

        if (w->regions[i].user) {
            continue;
        }
        if (!maps && !(maps = ff_maps_of_process(ff_vhost_conn_pid(backend)))) {
            return false;
        }
        if (!(addr = find_mapping(maps, w->fds[i], &w->regions[i]))) {
            return false;
        }
        ff_vhost_session_set_address(ff_vhost_conn_session(backend), i, addr);
    }
    return true;
}

bool ff_page_waits_hand(FfPageWaits *s, FfVhostConn *backend)
{
    FfSharersRequest request = {.op = FF_SHARERS_HAND, .number = ff_vhost_conn_number(backend)};
    FfVhostWaits w;

    if (!ff_vhost_session_faults(ff_vhost_conn_session(backend), &w) || !is_usable(w.uffd)) {
        return refuse_backend(s, backend, "what it waits in is no userfaultfd");
    }
    if (!find_addresses(backend, &w) || !fill_regions(&request, &w)) {
        return refuse_backend(s, backend, "where it has mapped the guest's memory is not known");
    }
    if (!send_request(s, &request, w.uffd)) {
        return refuse_backend(s, backend, "farfault's engine takes no more");
    }
    if (w.checks) {
        ff_page_waits_check(s, backend);
    }
    return true;
}

/* Its process may wait for a page still. */
void ff_page_waits_keep(FfPageWaits *s, FfVhostConn *backend)
{
    FfVhostWaits w;
    Left left = {.uffd = -1, .pid = ff_vhost_conn_pid(backend)};

    left.request =
        (FfSharersRequest){.op = FF_SHARERS_HAND, .number = ff_vhost_conn_number(backend)};
    if (ff_vhost_session_faults(ff_vhost_conn_session(backend), &w) && all_known(&w) &&
        fill_regions(&left.request, &w) && (left.uffd = fcntl(w.uffd, F_DUPFD_CLOEXEC, 0)) >= 0) {
        g_array_append_val(s->left, left);
    }
}

void ff_page_waits_all_there(FfVhostConn *backend)
{
    FfVhostWaits w;
    bool any = ff_vhost_session_faults(ff_vhost_conn_session(backend), &w);

    for (unsigned i = 0; any && i < w.n; i++) {
        if (w.regions[i].user) {
            ff_uffd_unregister_own(w.uffd, w.regions[i].user, w.regions[i].size);
        }
    }
}

/* ---- what another relay has left ------------------------------------------------------------- */

/* One whose process has ended waits for nothing. */
static void drop_gone(FfPageWaits *s)
{
    for (guint i = s->left->len; i-- > 0;) {
        int uffd = g_array_index(s->left, Left, i).uffd;

        if (ff_uffd_is_gone(uffd)) {
            close(uffd);
            g_array_remove_index(s->left, i);
        }
    }
}

/* What that process waits in it has from this relay's time. */
static bool knows_process(const FfPageWaits *s, pid_t pid)
{
    for (guint i = 0; i < s->backends->len; i++) {
        FfVhostConn *backend = s->backends->pdata[i];
        const FfVhostSession *session = ff_vhost_conn_session(backend);
        FfVhostWaits w;

        if (session && ff_vhost_conn_pid(backend) == pid && ff_vhost_session_faults(session, &w)) {
            return true;
        }
    }
    for (guint i = 0; i < s->left->len; i++) {
        if (g_array_index(s->left, Left, i).pid == pid) {
            return true;
        }
    }
    return false;
}

void ff_page_waits_take_left(FfPageWaits *s, FfVhostConn *backend)
{
    pid_t pid = ff_vhost_conn_pid(backend);

    if (pid <= 0 || knows_process(s, pid)) {
        return;
    }
    g_autoptr(GPtrArray) all = ff_left_waits_new(s->relay, pid);
    for (guint i = 0; i < all->len; i++) {
        FfLeftWait *found = all->pdata[i];
        Left left = {.uffd = g_steal_fd(&found->uffd), .pid = pid};

        left.request = (FfSharersRequest){.op = FF_SHARERS_HAND,
                                          .number = ff_vhost_conn_next_number(),
                                          .n_regions = found->n_regions};
        memcpy(left.request.regions, found->regions, sizeof(found->regions));
        g_array_append_val(s->left, left);
        send_request(s, &left.request, left.uffd);
        /* Also of a thread that waits where nothing is mapped any more. */
        ff_uffd_wake(left.uffd, FIRST_ADDRESS, LAST_ADDRESS - FIRST_ADDRESS);
        ff_relay_log(s->relay,
                     "vhost-user back-end '%s': it waits for pages since before this relay",
                     ff_vhost_conn_id(backend));
    }
}

bool ff_page_waits_is_ready(const FfPageWaits *s)
{
    return s->ready;
}

bool ff_page_waits_can_wait(const FfPageWaits *s, FfVhostConn *backend)
{
    const int *fds;
    unsigned n;

    ff_vhost_session_regions(ff_vhost_conn_session(backend), &n, &fds);
    for (unsigned i = 0; i < n; i++) {
        FfBacking backing;

        if (ff_backing_of_file(fds[i], &backing) < 0) {
            return false;
        }
    }
    return s->ready;
}

/* ---- from the engine ------------------------------------------------------------------------- */

static FfVhostConn *find_backend(const FfPageWaits *s, uint32_t number)
{
    for (guint i = 0; i < s->backends->len; i++) {
        FfVhostConn *backend = s->backends->pdata[i];

        if (ff_vhost_conn_session(backend) && ff_vhost_conn_number(backend) == number) {
            return backend;
        }
    }
    return NULL;
}

bool ff_page_waits_may_begin(const FfPageWaits *s, FfVhostConn *backend)
{
    pid_t pid = ff_vhost_conn_pid(backend);

    for (guint i = 0; i < s->backends->len; i++) {
        FfVhostConn *other = s->backends->pdata[i];
        const FfVhostSession *session = ff_vhost_conn_session(other);

        if (other != backend && session && ff_vhost_conn_pid(other) == pid &&
            ff_vhost_session_maps(session)) {
            return false;
        }
    }
    return true;
}

void ff_page_waits_go_on(FfPageWaits *s)
{
    for (guint i = 0; i < s->backends->len; i++) {
        FfVhostConn *backend = s->backends->pdata[i];

        if (ff_vhost_conn_session(backend)) {
            ff_vhost_conn_may_wait(backend);
        }
    }
}

static void handle_answer(FfPageWaits *s, const FfSharersAnswer *answer)
{
    FfVhostConn *backend = find_backend(s, answer->number);

    if (answer->op == FF_SHARERS_READY) {
        s->ready = true;
        ff_page_waits_go_on(s);
        return;
    }
    if (!backend) {
        return;
    }
    if (answer->rc == -ESHUTDOWN) {
        return; /* all is there, and the next look at the phase says so */
    }
    if (answer->rc < 0) {
        ff_relay_log(s->relay, "vhost-user back-end '%s': %s: %s", ff_vhost_conn_id(backend),
                     answer->op == FF_SHARERS_CHECK ? "it has not registered the guest's memory"
                                                    : "its faults cannot be answered",
                     g_strerror(-answer->rc));
        ff_vhost_conn_cannot_wait(backend);
    } else if (answer->op == FF_SHARERS_CHECK) {
        ff_vhost_conn_checked(backend);
    } else {
        ff_vhost_conn_handed(backend);
    }
}

static gboolean engine_says(gint fd, GIOCondition condition, gpointer data)
{
    FfPageWaits *s = data;
    FfSharersAnswer answer;
    ssize_t n = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (n != sizeof(answer)) {
        ff_page_waits_end(s);
        return G_SOURCE_REMOVE;
    }
    handle_answer(s, &answer);
    return G_SOURCE_CONTINUE;
}

/* Those that have a connection first: the engine has room for so many. */
static void tell_all(FfPageWaits *s)
{
    for (guint i = 0; i < s->backends->len; i++) {
        FfVhostConn *backend = s->backends->pdata[i];
        const FfVhostSession *session = ff_vhost_conn_session(backend);
        FfVhostWaits w;

        if (session && ff_vhost_session_faults(session, &w) && !ff_page_waits_hand(s, backend)) {
            ff_vhost_conn_cannot_wait(backend);
        }
    }
    drop_gone(s);
    for (guint i = 0; i < s->left->len; i++) {
        const Left *left = &g_array_index(s->left, Left, i);

        if (!send_request(s, &left->request, left->uffd)) {
            ff_relay_log(s->relay, "a back-end that has gone waits for pages: farfault's engine "
                                   "takes no more");
        }
    }
}

int ff_page_waits_offer(FfPageWaits *s)
{
    int pair[2];

    ff_page_waits_end(s);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        return -1;
    }
    s->engine = pair[0];
    s->source = g_unix_fd_source_new(s->engine, G_IO_IN | G_IO_HUP);
    g_source_set_callback(s->source, G_SOURCE_FUNC(engine_says), s, NULL);
    g_source_attach(s->source, NULL);
    tell_all(s);
    return pair[1];
}
