/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See vhost-faults.h.
 *
 * Thread: its own, between start and end; of the destination it uses the space, which is there
 * meanwhile, and what blocks there are. No lock. System calls: poll, recvmsg, sendmsg, fstat,
 * eventfd, close.
 */
#include "migration/destination/vhost-faults.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/sharers.h"
#include "uffd/sharers.h"

/* A back-end's connection, and its number in the space. */
typedef struct {
    uint32_t number;
    int sharer;
} Sharer;

struct FfDestSharers {
    FfDestination *d;
    int stop; /* eventfd */
    GThread *thread;
    GArray *all; /* of Sharer; its thread */
};

/* ---- what is asked --------------------------------------------------------------------------- */

/* -1: it is no block of the guest's, or not only one. */
static int block_of(const FfRam *ram, const FfSharersRegion *r)
{
    int block = -1;

    for (unsigned i = 0; i < ram->n_blocks; i++) {
        struct stat st;

        if (fstat(ram->blocks[i].info.memfd, &st) == 0 && st.st_dev == r->dev &&
            st.st_ino == r->ino) {
            if (block >= 0) {
                return -1;
            }
            block = (int)i;
        }
    }
    return block;
}

static Sharer *find_sharer(const FfDestSharers *s, uint32_t number)
{
    for (guint i = 0; i < s->all->len; i++) {
        Sharer *x = &g_array_index(s->all, Sharer, i);

        if (x->number == number) {
            return x;
        }
    }
    return NULL;
}

static int fill_ranges(const FfDestSharers *s, const FfSharersRequest *request,
                       FfSharerRange *ranges)
{
    for (uint32_t i = 0; i < request->n_regions; i++) {
        const FfSharersRegion *r = &request->regions[i];
        int block = block_of(s->d->ram, r);

        if (block < 0) {
            return -EFAULT;
        }
        ranges[i] = (FfSharerRange){r->addr, r->size, (unsigned)block, r->offset};
    }
    return 0;
}

/* UFFD is taken. */
static int add_sharer(FfDestSharers *s, const FfSharersRequest *request, int uffd)
{
    FfSharerRange ranges[FF_SHARERS_REGIONS];
    Sharer fresh = {.number = request->number};
    int rc = uffd < 0 || request->n_regions > FF_SHARERS_REGIONS ? -EBADF
                                                                 : fill_ranges(s, request, ranges);

    if (rc < 0 || find_sharer(s, request->number)) {
        if (uffd >= 0) {
            close(uffd);
        }
        return rc;
    }
    fresh.sharer = ff_space_add_sharer(s->d->placer.space, uffd, ranges, request->n_regions);
    if (fresh.sharer >= 0) {
        g_array_append_val(s->all, fresh);
    }
    return MIN(fresh.sharer, 0);
}

static void send_answer(const FfDestSharers *s, const FfSharersAnswer *answer)
{
    (void)ff_rights_send(s->d->cfg->sharers_fd, answer, sizeof(*answer), NULL, 0);
}

static void answer_request(FfDestSharers *s, const FfSharersRequest *request, int uffd)
{
    FfSharersAnswer answer = {.op = request->op, .number = request->number, .rc = -ENOENT};

    if (request->op == FF_SHARERS_HAND) {
        answer.rc = add_sharer(s, request, uffd);
    } else {
        const Sharer *x = find_sharer(s, request->number);

        if (uffd >= 0) {
            close(uffd);
        }
        if (x) {
            answer.rc = ff_sharers_check(ff_space_sharers(s->d->placer.space), x->sharer);
        }
    }
    send_answer(s, &answer);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* FALSE: the relay has gone. */
static bool take_request(FfDestSharers *s)
{
    FfSharersRequest request;
    FfRights rights;
    ssize_t n = ff_rights_receive(s->d->cfg->sharers_fd, &request, sizeof(request), &rights);

    if (n == -EAGAIN || n == -EINTR) {
        return true;
    }
    if (n != sizeof(request)) {
        return false;
    }
    answer_request(s, &request, rights.n ? rights.fd[0] : -1);
    for (unsigned i = 1; i < rights.n; i++) {
        close(rights.fd[i]);
    }
    return true;
}

static gpointer run_sharers(gpointer opaque)
{
    FfDestSharers *s = opaque;
    const FfSharersAnswer ready = {.op = FF_SHARERS_READY};
    struct pollfd pfd[2] = {{.fd = s->d->cfg->sharers_fd, .events = POLLIN},
                            {.fd = s->stop, .events = POLLIN}};

    send_answer(s, &ready);
    for (;;) {
        if (poll(pfd, 2, -1) < 0) {
            if (errno != EINTR) {
                break;
            }
        } else if (pfd[1].revents || (pfd[0].revents && !take_request(s))) {
            break;
        }
    }
    return NULL;
}

void ff_dest_vhost_faults_start(FfDestination *d)
{
    int stop = d->cfg->sharers_fd < 0 || d->origin || d->sharers
                   ? -1
                   : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (stop < 0) {
        return; /* they wait until all is there */
    }
    FfDestSharers *s = g_new0(FfDestSharers, 1);

    s->d = d;
    s->stop = stop;
    s->all = g_array_new(FALSE, FALSE, sizeof(Sharer));
    d->sharers = s;
    s->thread = g_thread_new("ff-sharers", run_sharers, s);
}

void ff_dest_vhost_faults_end(FfDestination *d)
{
    g_autofree FfDestSharers *s = g_steal_pointer(&d->sharers);
    uint64_t one = 1;

    if (!s) {
        return;
    }
    while (write(s->stop, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    g_thread_join(s->thread);
    close(s->stop);
    g_array_unref(s->all);
}
