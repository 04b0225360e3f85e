/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The addresses of a TCP host and port, without making the caller's main loop wait for them: a name
 * server that does not answer is waited for in a thread. A caller that has a thread of its own
 * waits itself.
 */
#ifndef FF_NET_RESOLVE_H
#define FF_NET_RESOLVE_H

#include <glib.h>
#include <netdb.h>

typedef struct FfResolve FfResolve;

/* LIST is the callee's now (freeaddrinfo); NULL if RC, getaddrinfo()'s, is not 0. */
typedef void (*FfResolved)(struct addrinfo *list, int rc, gpointer opaque);

/*
 * Finds the addresses at which HOST ("": any address) and PORT can be listened for; FAMILY is
 * AF_INET, AF_INET6 or AF_UNSPEC. DONE is called once, from the main loop of the calling thread's
 * default context, and never before this has returned; the result is gone then. What needs nobody
 * to be asked (numbers) makes no thread. Without a thread to be had RC is EAI_AGAIN.
 */
FfResolve *ff_resolve(const char *host, const char *port, int family, FfResolved done,
                      gpointer opaque);
/* DONE is not called any more. getaddrinfo() cannot be interrupted: its thread ends when it comes
 * back, or with the process. The thread that called ff_resolve(). */
void ff_resolve_cancel(FfResolve *r);

/* The same for a thread that may wait as long as that takes. Returns getaddrinfo()'s result; *LIST
 * is the caller's, NULL unless that is 0. */
int ff_resolve_now(const char *host, const char *port, int family, struct addrinfo **list);

#endif
