/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rate limit; see pace.h. No system calls of its own. */
#include "migration/common/pace.h"

bool ff_pace_wait(FfPace *p, unsigned ends)
{
    FfControl *c = p->control;

    ff_mutex_lock(&c->lock);
    uint64_t limit = *p->limit;
    while (limit && !p->over && p->next_us > g_get_monotonic_time() && !(c->events & ends)) {
        ff_cond_wait_until(&c->changed, &c->lock, p->next_us);
        if (*p->limit != limit) {
            p->next_us = 0;
            limit = *p->limit;
        }
    }
    bool ok = !(c->events & ends);
    ff_mutex_unlock(&c->lock);
    return ok;
}

void ff_pace_charge(FfPace *p, uint64_t bytes)
{
    int64_t now = g_get_monotonic_time();

    ff_mutex_lock(&p->control->lock);
    if (*p->limit) {
        p->next_us = MAX(p->next_us, now) + bytes * G_USEC_PER_SEC / *p->limit;
    }
    ff_mutex_unlock(&p->control->lock);
}

void ff_pace_end_locked(FfPace *p)
{
    p->over = true;
    ff_cond_broadcast(&p->control->changed);
}
