/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is kept beyond a crash of this process: fds that the relay holds for the next engine. Any
 * thread; the frame goes out on the main loop's.
 */
#include <string.h>
#include <unistd.h>

#include "base/sync.h"
#include "qapi/driver-private.h"

/* What is to be kept beyond a crash: said by the coordinator's thread, sent by ours. */
typedef struct {
    FfMutex lock;
    FfCond changed;
    bool sent; /* lock */
} Sent;

typedef struct {
    FfDriver *driver;
    char *name;
    int fd;     /* -1: drop */
    Sent *sent; /* of the thread that waits for it */
} Kept;

static void kept_free(gpointer opaque)
{
    Kept *kept = opaque;

    if (kept->fd >= 0) {
        close(kept->fd);
    }
    ff_mutex_lock(&kept->sent->lock);
    kept->sent->sent = true;
    ff_cond_broadcast(&kept->sent->changed);
    ff_mutex_unlock(&kept->sent->lock);
    g_free(kept->name);
    g_free(kept);
}

static gboolean send_kept(gpointer opaque)
{
    Kept *kept = opaque;
    const FfDriverConfig *config = &kept->driver->config;

    if (kept->fd < 0) {
        config->port->send(config->port_opaque, FF_LINK_DROP, 0, 0, kept->name, strlen(kept->name),
                           -1);
    } else {
        g_autoptr(GString) json = g_string_new("{\"name\": ");

        ff_dialect_print_string(json, kept->name);
        g_string_append_c(json, '}');
        config->port->send(config->port_opaque, FF_LINK_HOLD, 0, 0, json->str, json->len, kept->fd);
    }
    return G_SOURCE_REMOVE;
}

/* Returns when it is in the relay's socket, so that what the coordinator does next (give the guest
 * away) never finds the fd lost with this process. Nobody on the main loop's thread waits for a
 * coordinator that has not said done(). */
void ff_driver_keep(FfDriver *d, const char *name, int fd)
{
    Kept *kept = g_new0(Kept, 1);
    Sent sent = {.sent = false};

    ff_mutex_init(&sent.lock);
    ff_cond_init(&sent.changed);
    kept->driver = d;
    kept->name = g_strdup(name);
    kept->fd = fd;
    kept->sent = &sent;
    g_main_context_invoke_full(NULL, G_PRIORITY_HIGH, send_kept, kept, kept_free);
    ff_mutex_lock(&sent.lock);
    while (!sent.sent) {
        ff_cond_wait(&sent.changed, &sent.lock);
    }
    ff_mutex_unlock(&sent.lock);
    ff_mutex_clear(&sent.lock);
    ff_cond_clear(&sent.changed);
}
