/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all parts of a session use; see session-internal.h. System calls: write. */
#include "pager/server/session-internal.h"

#include "pager/holder/log.h"

void ff_session_log(const FfSession *s, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_autofree char *said = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_autoptr(GString) text = g_string_new(said);
    if (s->all->name) {
        g_string_replace(text, FF_SOURCE_INHERITED, s->all->name, 0);
    }
    ff_say("process %d%s: %s", s->root_rec->pid, s->parent ? " (a child)" : "", text->str);
}

void ff_session_end(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->ending, true, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->calm_lock);
    pthread_cond_broadcast(&s->calm);
    pthread_mutex_unlock(&s->calm_lock);
    if (s->dialect->wake) {
        s->dialect->wake(s);
    }
}

void ff_session_wait_end(FfSession *s)
{
    pthread_mutex_lock(&s->lock);
    while (!ff_session_is_ending(s)) {
        pthread_cond_wait(&s->changed, &s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

void ff_session_stick(FfSession *s, const char *why)
{
    ff_session_log(s, "%s", why);
    __atomic_store_n(&s->stuck, true, __ATOMIC_RELEASE);
}
