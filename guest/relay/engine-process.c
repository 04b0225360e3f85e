/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's process: started, watched by its pidfd, killed, reaped. None runs that has no pidfd,
 * and none is started before the one before it is dead.
 *
 * One thread; no locks.
 *
 * System calls: execve, kill, waitid, wait4, pidfd_open, pidfd_send_signal, vfork.
 */
#include "guest/relay/engine-internal.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/failpoints.h"

#define END_MS 3500    /* how long an engine may take to end when QEMU has ended */
#define KILLED_MS 1000 /* and then by SIGKILL: its memory is freed first */

/* How it ended, if that was its own doing or somebody else's: says who must be asked. */
static void tell_end(FfRelay *relay, const siginfo_t *info)
{
    if (info->si_code == CLD_KILLED || info->si_code == CLD_DUMPED) {
        bool out_of_memory = info->si_status == SIGKILL;

        ff_relay_log(relay, "the migration engine (process %d) was killed by signal %d (%s)%s",
                     (int)info->si_pid, info->si_status, g_strsignal(info->si_status),
                     out_of_memory ? ": the kernel's log says whether memory had run out" : "");
    } else if (info->si_status != 0) {
        ff_relay_log(relay, "the migration engine (process %d) ended with status %d",
                     (int)info->si_pid, info->si_status);
    }
}

static gboolean process_reap(gint pidfd, GIOCondition condition, gpointer data)
{
    FfRelay *relay = data;
    FfEngine *engine = relay->engine;
    siginfo_t info = {0};

    /* `farfault attach` has made a relay that is not its engine's parent for a first one. */
    if (waitid(P_PIDFD, pidfd, &info, WEXITED) == 0 && !engine->condemned) {
        tell_end(relay, &info);
    }
    engine->condemned = false;
    close(pidfd);
    if (engine->pidfd == pidfd) {
        engine->pidfd = -1; /* the end of its link follows */
    }
    if (engine->ending == pidfd) {
        engine->ending = -1;
        engine->dead(relay);
    }
    return G_SOURCE_REMOVE;
}

void ff_process_let_go(FfEngine *engine)
{
    if (engine->pidfd >= 0) {
        engine->ending = engine->pidfd;
        engine->ending_since = g_get_monotonic_time();
        engine->pidfd = -1;
    }
}

bool ff_process_kill(FfEngine *engine, bool condemned)
{
    if (engine->ending < 0) {
        return false;
    }
    engine->condemned = condemned;
    /* It is of our user; and if the kernel forbids it all the same, its link has ended. */
    return FF_FAULT_STEP(
        "kill-engine",
        FF_FAULT_CALL("kill-engine", pidfd_send_signal(engine->ending, SIGKILL, NULL, 0)) == 0);
}

/* Its program or a library is missing. */
bool ff_process_try_kept(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    engine->kept = !engine->kept && relay->libraries;
    if (engine->kept) {
        ff_relay_log(relay, "the migration engine does not start with the libraries that are "
                            "installed: it gets those of the guest's start");
    }
    return engine->kept;
}

/* 0: its end will be known. Else (-errno) it is killed, and counts as alive until it is reaped. */
static int process_watch(FfRelay *relay, pid_t pid)
{
    FfEngine *engine = relay->engine;
    GSource *source;

    /* The child is not reaped yet, so the pid is its own. */
    engine->pidfd = FF_FAULT_CALL("pidfd-open", pidfd_open(pid, 0));
    if (engine->pidfd < 0) {
        int ret = -errno;

        kill(pid, SIGKILL);
        engine->unwatched = pid;
        return ret;
    }
    source = g_unix_fd_source_new(engine->pidfd, G_IO_IN);
    g_source_set_callback(source, G_SOURCE_FUNC(process_reap), relay, NULL);
    g_source_attach(source, NULL);
    g_source_unref(source);
    return 0;
}

bool ff_process_reap_unwatched(FfEngine *engine)
{
    if (engine->unwatched && waitpid(engine->unwatched, NULL, WNOHANG) == 0) {
        return false;
    }
    engine->unwatched = 0;
    return true;
}

int ff_process_start(FfRelay *relay, int *link)
{
    int sv[2], pid, ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        return -errno;
    }
    pid = ff_engine_spawn(relay, sv[1], relay->engine->kept);
    if (pid == -ENOENT && ff_process_try_kept(relay)) {
        pid = ff_engine_spawn(relay, sv[1], true);
    }
    close(sv[1]);
    ret = pid < 0 ? pid : process_watch(relay, pid);
    if (ret < 0) {
        close(sv[0]);
        return ret;
    }
    *link = sv[0];
    return 0;
}

void ff_process_end(FfEngine *engine)
{
    ff_process_let_go(engine);
    if (engine->ending < 0) {
        return; /* it has ended already */
    }
    struct pollfd pfd = {engine->ending, POLLIN, 0};
    pidfd_send_signal(engine->ending, SIGTERM, NULL, 0);
    if (poll(&pfd, 1, END_MS) <= 0) {
        pidfd_send_signal(engine->ending, SIGKILL, NULL, 0);
        (void)poll(&pfd, 1, KILLED_MS);
    }
}
