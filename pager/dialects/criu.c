/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CRIU's processes (criu/uffd.c, criu/pie/restorer.c there): each sends its pid and its
 * userfaultfd, and keeps no copy of it; what it misses is in its images (pager/server/criu.h), or
 * comes from a page server by way of a fetched (pager/server/fetched-pages.h). How they connect:
 * pager/holder/criu.c.
 *
 * System calls: those of pager/server/image.c.
 */
#include <errno.h>
#include <gio/gio.h>
#include <string.h>

#include "pager/dialects/dialects.h"
#include "pager/server/criu.h"
#include "pager/server/session-internal.h"
#include "pager/server/work.h"

#define PAGE 4096

static bool fail_criu(GError **error, const char *what, int rc)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", what, g_strerror(-rc));
    return false;
}

/* What is read of its images, and SIZE bytes of content. */
static bool open_images(FfSession *s, FfCriu *c, int pid, uint64_t *size, GError **error)
{
    FfFetchedPages *fetched = s->all->fetched;

    if (!fetched) {
        bool ok = ff_criu_open(c, s->all->inherited, pid, NULL, error);
        *size = ok ? ff_content_size(c->source) : 0;
        return ok;
    }
    const FfFetchedPart *part = ff_fetched_part(fetched, pid);
    if (!ff_criu_open_lazy(c, s->all->inherited, pid, size, error)) {
        return false;
    }
    if (*size && (!part || part->pages * FF_FETCHED_PAGE != *size ||
                  memcmp(&part->pagemap, &c->stamp, sizeof(c->stamp)) != 0)) {
        return fail_criu(error, "CRIU's pagemap was changed since the pager began", -ESTALE);
    }
    return true;
}

/* One block, in as many ranges as the images have. */
static FfImage *make_image(FfSession *s, GError **error)
{
    g_auto(FfCriu) c = {0};
    FfHoldPid hello;
    uint64_t features, size;

    memcpy(&hello, s->rec->hello, sizeof(hello));
    if (!ff_session_check_features(s, &features, error) ||
        !open_images(s, &c, hello.pid, &size, error)) {
        return NULL;
    }
    if (!size || c.ranges->len > FF_IMAGE_RANGES) {
        fail_criu(error, "CRIU's images have no lazy pages, or too many runs of them", -E2BIG);
        return NULL;
    }
    FfImage *image =
        ff_image_create(s->memfd, &(FfImageBlock){size, PAGE, 0, .sharing = FF_SHARING_PRIVATE}, 1);
    if (!image) {
        fail_criu(error, "no room for what is known of its memory", -errno);
        return NULL;
    }
    image->features = features;
    for (guint i = 0; i < c.ranges->len; i++) {
        const FfCriuRange *r = &g_array_index(c.ranges, FfCriuRange, i);
        image->copy[0].range[i] = (FfImageRange){r->addr, r->len, r->offset, 0};
    }
    image->copy[0].n_ranges = c.ranges->len;
    image->own.criu.pid = hello.pid;
    image->own.criu.pagemap = c.stamp;
    if (c.source) {
        image->own.criu.pages = *ff_content_identity(c.source);
    }
    return image;
}

static bool open_known(FfSession *s, GError **error)
{
    const FfImageOwn *own = &s->image->own;
    FfFetchedPages *fetched = s->all->fetched;
    uint64_t size;

    if (fetched
            ? !open_images(s, &s->criu, own->criu.pid, &size, error)
            : !ff_criu_open(&s->criu, s->all->inherited, own->criu.pid, &own->criu.pages, error)) {
        return false;
    }
    if (fetched) {
        s->criu.source =
            ff_source_open_fetched(fetched, ff_fetched_part(fetched, own->criu.pid), &s->ending);
    }
    return memcmp(&s->criu.stamp, &own->criu.pagemap, sizeof(own->criu.pagemap)) == 0 ||
           fail_criu(error, "CRIU's pagemap was changed while it was in use", -ESTALE);
}

static bool open_source(FfSession *s, GError **error)
{
    if (!open_known(s, error)) {
        ff_criu_clear(&s->criu);
        return false;
    }
    s->source = s->criu.source;
    s->set_path = g_strconcat(ff_content_name(s->source), FF_WORKING_SET_SUFFIX, NULL);
    return true;
}

/* Where only what somebody waits for is placed. FALSE: the end. */
static bool wait_hurry(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    while (!ff_session_hurries(s) && !ff_session_is_ending(s)) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return !ff_session_is_ending(s);
}

/* A process of which another host has a copy is not let go before that one knows. FALSE: the end.
 */
static bool wait_let_go(FfSession *s)
{
    return !s->all->fetched || ff_fetched_wait_done(s->all->fetched, &s->ending);
}

static void serve_criu(FfSession *s)
{
    if (ff_session_answer_faults(s) &&
        ff_session_fill(s, s->all->bulk || (s->all->fetched && wait_hurry(s))) &&
        ff_space_missing(s->space) == 0 && wait_let_go(s)) {
        ff_session_end(s); /* what it gives back from now on the kernel fills with zeros */
    }
}

static void wake_criu(FfSession *s)
{
    if (s->all->fetched) {
        ff_fetched_wake(s->all->fetched);
    }
}

static void close_session(FfSession *s)
{
    ff_criu_clear(&s->criu);
}

const FfDialect ff_dialect_criu = {.name = "criu",
                                   .make_image = make_image,
                                   .open_source = open_source,
                                   .serve = serve_criu,
                                   .wake = wake_criu,
                                   .close = close_session,
                                   .own_content = true};
