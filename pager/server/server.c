/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager's main thread: hears the holder. It waits for no session. See server.h. System calls:
 * fcntl, poll, close.
 */
#include "pager/server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/files.h"
#include "pager/holder/log.h"
#include "pager/server/answers.h"
#include "pager/server/family.h"
#include "pager/server/session.h"

#define SOURCE_AGAIN_MS 1000
#define START_AGAIN_MS 1000

typedef struct {
    FfSessions sessions;
    bool ready, all_started;
    FfAnswers answers;
} Server;

static void close_all(const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        close(fds[i]);
    }
}

/* Not before it knows all clients. */
static void be_ready(Server *s)
{
    g_autoptr(GError) error = NULL;

    s->ready = true;
    s->all_started = ff_sessions_start_all(&s->sessions);
    if ((s->answers.control >= 0 || s->answers.metrics >= 0) &&
        !ff_answers_start(&s->answers, &error)) {
        ff_say("--control and --metrics are not answered: %s", error->message);
    }
}

/* FALSE: the holder has gone. */
static bool on_link(Server *s)
{
    FfHoldMessage msg;
    int fds[FF_HOLD_FDS];
    unsigned n;
    int rc = ff_hold_receive(FF_HOLD_LINK_FD, &msg, fds, &n);

    if (rc == -EPROTO) {
        /* Not all fds have come. The next pager may have more. */
        ff_say("not enough files for all clients: ulimit -n");
    }
    if (rc <= 0) {
        return false;
    }
    switch (msg.type) {
    case FF_HOLD_SPACE:
        g_assert_cmpuint(n, ==, FF_HOLD_FDS);
        ff_session_add(&s->sessions, &msg, fds);
        s->all_started = s->ready && ff_sessions_start_all(&s->sessions);
        break;
    case FF_HOLD_READY:
        be_ready(s);
        break;
    case FF_HOLD_HURRY:
        ff_sessions_hurry(&s->sessions);
        break;
    case FF_HOLD_PROBE:
        ff_family_probe(&s->sessions, msg.root);
        break;
    default:
        close_all(fds, n);
    }
    return true;
}

static void run_server(Server *s)
{
    struct pollfd link = {.fd = FF_HOLD_LINK_FD, .events = POLLIN};

    for (;;) {
        /* A thread that can be had again has no event. */
        int n = poll(&link, 1, s->ready && !s->all_started ? START_AGAIN_MS : -1);
        if (n == 0) {
            s->all_started = ff_sessions_start_all(&s->sessions);
        } else if (n > 0 && !on_link(s)) {
            return;
        }
    }
}

static_assert(FF_SERVER_SOURCE_FD == 4, "FF_SOURCE_INHERITED");

static FfContent *open_source(const FfServerConfig *cfg, GError **error)
{
    /* By its fd: another file may have its name by now. */
    static const char path[] = FF_SOURCE_INHERITED;

    FfContentAccess access = cfg->access;

    access.plugin = path; /* what is far has that there */
    return ff_content_open(cfg->far ? cfg->far : path, &cfg->source, &access, error);
}

/* Until it can be opened: clients wait, and the holder's messages as well. NULL: it has gone. */
static FfContent *wait_for_source(const FfServerConfig *cfg)
{
    g_autofree char *said = NULL;
    struct pollfd link = {.fd = FF_HOLD_LINK_FD}; /* nothing but POLLHUP */

    for (;;) {
        g_autoptr(GError) error = NULL;
        FfContent *source = open_source(cfg, &error);
        if (source) {
            return source;
        }
        if (g_strcmp0(said, error->message)) {
            ff_say("%s: all clients wait, and it is tried again", error->message);
            g_free(said);
            said = g_strdup(error->message);
        }
        if (poll(&link, 1, SOURCE_AGAIN_MS) != 0) {
            return NULL;
        }
    }
}

/* What cannot be mapped now the next pager may have. */
static FfFetchedPages *map_store(void)
{
    g_autoptr(GError) error = NULL;
    FfFetchedPages *fetched =
        ff_fetched_map(FF_SERVER_FETCHED_FD, FF_SERVER_FETCHED_FD + 1, &error);

    if (!fetched) {
        ff_say("%s: all clients wait", error->message);
    }
    return fetched;
}

int ff_server_run(const FfServerConfig *cfg)
{
    Server s = {.answers = {.all = &s.sessions,
                            .control = cfg->control ? FF_SERVER_CONTROL_FD : -1,
                            .metrics = cfg->metrics ? FF_SERVER_METRICS_FD : -1}};

    FF_FAULT_SIDE("pager");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* of a terminal: the holder ends this */
    for (int fd = FF_HOLD_LINK_FD; fd < FF_SERVER_SLOT_FD + 2 * (int)cfg->slots; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    ff_files_raise();
    bool one = !cfg->only || !cfg->only->own_content;
    g_autoptr(FfContent) source = one ? wait_for_source(cfg) : NULL;
    if (one && !source) {
        return 1;
    }
    g_autoptr(FfFetchedPages) fetched = cfg->fetched ? map_store() : NULL;
    if (cfg->fetched && !fetched) {
        return 1;
    }
    FF_FAULT_AT("pager-begins");
    s.sessions = (FfSessions){.dialects = cfg->dialects,
                              .source = source,
                              .inherited = FF_SERVER_SOURCE_FD,
                              .fetched = fetched,
                              .slots = cfg->slots,
                              .slot_fd = FF_SERVER_SLOT_FD,
                              .link = FF_HOLD_LINK_FD,
                              .bulk = cfg->bulk,
                              .rate = cfg->rate,
                              .memory = cfg->memory,
                              .sets = cfg->sets,
                              .learn = cfg->learn,
                              .name = cfg->name,
                              .set = cfg->set};
    ff_sessions_init(&s.sessions);
    run_server(&s);
    /* Sessions' threads end with the process, and what they hold is in their records. */
    _exit(1);
}
