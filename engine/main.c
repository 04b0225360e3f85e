/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's program: what stands between the relay, QEMU's private monitor and the driver.
 *
 * The relay starts it with the link as fd 3; the first frame (INIT) brings the fds of everything
 * that outlives an engine. It then serves the driver on the default main context until the link
 * ends. Threads: the main loop's here; the migration makes its own.
 *
 * System calls: fstat, close_range.
 */
#include <errno.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/priority.h"
#include "base/sandbox.h"
#include "contract/link.h"
#include "engine/init.h"
#include "engine/port.h"
#include "migration/restore/lease.h"
#include "migration/upgrade/new-side.h"
#include "qapi/driver.h"

typedef struct {
    FfLink *link;
    GMainLoop *loop;
    FfEngineInit *init;
    FfEnginePort *port;
    FfDriver *driver;
    int status;
    bool failed; /* the next engine must find all as it is now */
} Engine;

static void end_engine(Engine *e, int status)
{
    e->status = status;
    g_main_loop_quit(e->loop);
}

/* A command that is read from here on would find no migration, and could start the guest. */
static void fail_engine(void *opaque)
{
    Engine *e = opaque;

    e->failed = true;
    end_engine(e, EXIT_FAILURE);
}

static bool start_engine(Engine *e, const char *json, gsize length, int *fds, unsigned n_fds)
{
    g_autoptr(GError) error = NULL;

    e->init = ff_engine_init_new(json, length, fds, n_fds, &error);
    if (e->init) {
        e->port = ff_engine_port_new(e->init, e->link, fail_engine, e, &error);
    }
    if (!e->port) {
        fprintf(stderr, "farfault: engine: %s\n", error->message);
        return false;
    }
    ff_link_send(e->link, FF_LINK_STARTED, 0, 0, NULL, 0, NULL, 0);
    ff_new_side_look(e->init->state, e->init->pact_fd);
    e->driver = ff_driver_new(ff_engine_port_config(e->port));
    ff_engine_port_set_driver(e->port, e->driver);
    return true;
}

static void on_frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds,
                     void *opaque)
{
    Engine *e = opaque;
    gsize length;
    const char *data = g_bytes_get_data(payload, &length);
    int fd = -1;

    if (e->failed) {
        return;
    }
    if (!e->driver) {
        if (header->type != FF_LINK_INIT || !start_engine(e, data, length, fds, header->n_fds)) {
            end_engine(e, EXIT_FAILURE);
        }
        return;
    }
    if (header->type == FF_LINK_PING) {
        ff_link_send(link, FF_LINK_PONG, 0, header->seq, NULL, 0, NULL, 0);
        ff_driver_look(e->driver);
        return;
    }
    if (header->n_fds) {
        fd = fds[0];
        fds[0] = -1;
    }
    ff_driver_frame(e->driver, header->type, header->mon, header->seq, data ? data : "", length,
                    fd);
}

/* The relay is gone, and so is QEMU, or it needs us no more. */
static void on_closed(FfLink *link, const GError *error, void *opaque)
{
    Engine *e = opaque;

    if (e->failed) {
        return;
    }
    if (error) {
        fprintf(stderr, "farfault: engine: the relay's link broke: %s\n", error->message);
    }
    end_engine(e, error ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* Guest memory passes through this process: no core dump and no debugger of another user sees
 * it, nothing it starts gains rights, and it can do little but its work. */
static void shut_doors(void)
{
    g_autoptr(GError) error = NULL;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that is longer than RLIMIT_FSIZE is an error, like others */
    ff_lease_init();
    signal(SIGTERM, SIG_IGN); /* the end of the link is our end, with a last word */
    if (!ff_sandbox_enter(FF_SANDBOX_ENGINE, &error)) {
        fprintf(stderr, "farfault: engine: continues with more rights than it needs: %s\n",
                error->message);
    }
}

static bool is_socket(int fd)
{
    struct stat st;

    return !fstat(fd, &st) && S_ISSOCK(st.st_mode);
}

int main(int argc, char **argv)
{
    static const FfLinkOps ops = {.frame = on_frame, .closed = on_closed};
    Engine e = {.status = EXIT_SUCCESS};

    setlocale(LC_ALL, "C");
    if (argc > 1 || !is_socket(FF_LINK_FD)) {
        fprintf(stderr, "farfault-engine is started by farfault-relay, with its link as fd %d\n",
                FF_LINK_FD);
        return EXIT_FAILURE;
    }
    close_range(FF_LINK_FD + 1, ~0u, 0); /* the files of kept libraries, which are loaded by now */
    /* The relay starts us by a path that says nothing. */
    prctl(PR_SET_NAME, "farfault-engine", 0, 0, 0);
    shut_doors();
    /* QMP of the switchover goes through this thread. */
    ff_priority_urgent();
    e.loop = g_main_loop_new(NULL, FALSE);
    e.link = ff_link_new(FF_LINK_FD, NULL, &ops, &e);
    g_main_loop_run(e.loop);
    if (e.driver && !e.failed) {
        ff_driver_last_words(e.driver);
    }
    /* No thread of the migration is waited for: with the relay or QEMU gone there is nobody left
     * to work for, and the kernel takes the rest. */
    if (e.status == EXIT_SUCCESS) {
        ff_link_free(e.link);
    } /* else with the process: the relay kills one whose link has ended, and would say so */
    fflush(stderr);
    _exit(e.status);
}
