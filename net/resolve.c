/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See resolve.h. All names of hosts are looked up here. One thread for each name under way; it
 * writes what getaddrinfo() says into the request, and hands the request back to the caller's main
 * loop, which alone frees it and alone knows whether somebody still waits. No lock.
 */
#include "net/resolve.h"

#include <string.h>
#include <sys/socket.h>

struct FfResolve {
    GMainContext *context;
    char *host, *port;
    int family;
    struct addrinfo *list;
    int rc;
    gint ready;      /* atomic; set by the thread after LIST and RC, seen by the main loop's */
    FfResolved done; /* the main loop's thread; NULL: nobody waits any more */
    gpointer opaque;
};

static int look_up(const char *host, const char *port, int family, int flags,
                   struct addrinfo **list)
{
    struct addrinfo hints = {
        .ai_flags = AI_PASSIVE | flags, .ai_socktype = SOCK_STREAM, .ai_family = family};
    int rc = getaddrinfo(*host ? host : NULL, port, &hints, list);

    if (rc) {
        *list = NULL;
    }
    return rc;
}

int ff_resolve_now(const char *host, const char *port, int family, struct addrinfo **list)
{
    return look_up(host, port, family, 0, list);
}

static gboolean deliver_answer(gpointer opaque)
{
    FfResolve *r = opaque;

    if (g_atomic_int_get(&r->ready) && r->done) {
        r->done(g_steal_pointer(&r->list), r->rc, r->opaque);
    }
    return G_SOURCE_REMOVE;
}

static void resolve_free(gpointer opaque)
{
    FfResolve *r = opaque;

    if (r->list) {
        freeaddrinfo(r->list);
    }
    g_main_context_unref(r->context);
    g_free(r->host);
    g_free(r->port);
    g_free(r);
}

/* The request belongs to the main loop from here on. Any thread. */
static void hand_back(FfResolve *r)
{
    g_autoptr(GMainContext) context = g_main_context_ref(r->context);
    g_autoptr(GSource) source = g_idle_source_new();

    g_atomic_int_set(&r->ready, 1);
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, deliver_answer, r, resolve_free);
    g_source_attach(source, context);
}

static gpointer resolve_thread(gpointer opaque)
{
    FfResolve *r = opaque;

    r->rc = look_up(r->host, r->port, r->family, 0, &r->list);
    hand_back(r);
    return NULL;
}

FfResolve *ff_resolve(const char *host, const char *port, int family, FfResolved done,
                      gpointer opaque)
{
    FfResolve *r = g_new0(FfResolve, 1);

    r->context = g_main_context_ref_thread_default();
    r->host = g_strdup(host);
    r->port = g_strdup(port);
    r->family = family;
    r->done = done;
    r->opaque = opaque;
    r->rc = look_up(host, port, family, AI_NUMERICHOST | AI_NUMERICSERV, &r->list);
    if (!r->rc) {
        hand_back(r);
        return r;
    }
    GThread *thread = g_thread_try_new("ff-resolve", resolve_thread, r, NULL);

    if (thread) {
        g_thread_unref(thread);
    } else {
        r->rc = EAI_AGAIN;
        hand_back(r);
    }
    return r;
}

void ff_resolve_cancel(FfResolve *r)
{
    r->done = NULL;
}
