/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Relatives; see family.h for the threads. Under the closed gate nobody places anything in the
 * whole family, and no other one of it has an event.
 *
 * System calls: those of pager/server/image.c and uffd/.
 */
#include "pager/server/family.h"

#include <string.h>

#include "base/failpoints.h"
#include "uffd/uffd.h"

static FfSession *find_session(const FfSessions *all, uint64_t id)
{
    for (guint i = 0; i < all->sessions->len; i++) {
        FfSession *s = g_ptr_array_index(all->sessions, i);
        if (s->id == id) {
            return s;
        }
    }
    return NULL;
}

/* The holder tells of it. Also if S is about to end: its child has nobody else. */
static FfSession *wait_for_child(FfSession *s, uint64_t id)
{
    FfSession *child;

    pthread_mutex_lock(&s->all->lock);
    while (!(child = find_session(s->all, id))) {
        pthread_cond_wait(&s->all->changed, &s->all->lock);
    }
    pthread_mutex_unlock(&s->all->lock);
    return child;
}

static bool sharing_is_known(const FfImage *image)
{
    for (unsigned i = 0; i < image->n_blocks; i++) {
        if (image->block[i].sharing == FF_SHARING_UNKNOWN) {
            return false;
        }
    }
    return true;
}

/* The state of S, between two events. */
static FfImage *make_child(const FfSession *s, const FfSession *child)
{
    FfImage *image = ff_image_create(child->memfd, s->image->block, s->image->n_blocks);

    if (!image) {
        return NULL;
    }
    for (unsigned i = 0; i < image->n_blocks; i++) {
        memcpy(ff_image_bits(image, i), ff_image_bits(s->image, i),
               ff_bitmap_words(s->placed[i].n_pages) * sizeof(uint64_t));
    }
    if (!ff_image_begin(image, s->space)) {
        ff_image_unmap(image);
        return NULL;
    }
    image->copy[0].n_unmaps = 0; /* those are of the parent's mappings */
    image->features = s->image->features;
    image->own = s->image->own;
    FF_FAULT_AT("child-made");
    __atomic_store_n(&child->rec->taken, FF_TAKEN, __ATOMIC_RELEASE);
    return image;
}

void ff_family_fork(FfSession *s, uint64_t id)
{
    FfSession *child = wait_for_child(s, id);

    if (child->image) {
        return; /* the pager before this one has died after it was made */
    }
    FfImage *image = sharing_is_known(s->image) ? make_child(s, child) : NULL;
    if (!image) {
        ff_session_stick(s, "it has forked, and the child cannot be served (its maps cannot be "
                            "read, or there is no memory): both wait");
        return;
    }
    pthread_mutex_lock(&s->all->lock);
    child->image = image;
    pthread_cond_broadcast(&s->all->changed);
    pthread_mutex_unlock(&s->all->lock);
}

void ff_family_gave_back(FfSession *s, const FfRun *run)
{
    pthread_mutex_lock(&s->all->lock);
    for (guint i = 0; i < s->all->sessions->len; i++) {
        FfSession *r = g_ptr_array_index(s->all->sessions, i);
        if (r == s || r->root != s->root || !r->image) {
            continue;
        }
        FfBitmap bits;
        const FfImageBlock *b = &r->image->block[run->block];
        ff_bitmap_init_over(&bits, ff_image_bits(r->image, run->block), b->size / b->page_size);
        ff_bitmap_set_run(&bits, run->first, run->n);
        if (r->space) {
            ff_place_mark_closed(r->space, run); /* wakes the threads that wait */
        }
    }
    pthread_mutex_unlock(&s->all->lock);
}

/* Its parent has forked, and looks for it until that was applied. Under the lock. */
static bool is_wanted(const FfSessions *all, const FfSession *s)
{
    const FfSession *parent = s->parent ? find_session(all, s->parent) : NULL;

    return parent &&
           (!s->image || (ff_space_record_has_event(parent->rec) &&
                          parent->rec->in.event == UFFD_EVENT_FORK && parent->rec->child == s->id));
}

void ff_family_probe(FfSessions *all, uint64_t root)
{
    pthread_mutex_lock(&all->lock);
    for (guint i = 0; i < all->sessions->len; i++) {
        FfSession *s = g_ptr_array_index(all->sessions, i);
        if (s->root == root && !is_wanted(all, s) && ff_uffd_is_gone(s->uffd)) {
            ff_session_end(s);
        }
    }
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}
