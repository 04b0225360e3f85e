/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's process: its end by pidfd, and what the agent hands over.
 *
 * -daemonize: the process that the launcher became ends when its child stands; the agent in
 * the child has handed over again before that (its atfork handler runs first), so whenever a
 * pidfd says "ended" the hand-over socket is looked at before that is believed. Without an
 * agent the child still holds the other end of the socket, whose end is then QEMU's.
 *
 * The agent says farewell when QEMU's main loop is over and waits (guest/agent/agent.h): unless a
 * migration is under way, which needs to know that QEMU has ended, the relay ends first; or this is
 * the front of a guest that runs in another QEMU (placeholder.h), and waits for that one's end.
 *
 * One thread; no locks. System calls: pidfd_open, pidfd_send_signal, recvmsg, sendmsg.
 */
#include "guest/relay/guest.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/pidfd.h"
#include "base/rights.h"
#include "guest/relay/behind-placeholder.h"
#include "guest/relay/hook.h"
#include "guest/relay/placeholder.h"
#include "guest/relay/uffds.h"

static void source_clear(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static gboolean guest_ended(gint fd, GIOCondition condition, gpointer data)
{
    FfRelay *relay = data;
    FfGuest *guest = &relay->guest;

    ff_guest_look(relay);
    if (guest->pidfd != fd) {
        return G_SOURCE_REMOVE; /* daemonized: another process counts now */
    }
    if (relay->plan->daemonize && !guest->hello && guest->agent_source) {
        source_clear(&guest->pid_source);
        close_fd(&guest->pidfd);
        return G_SOURCE_REMOVE;
    }
    ff_relay_end(relay);
    return G_SOURCE_REMOVE;
}

static void guest_watch(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;

    source_clear(&guest->pid_source);
    guest->pid_source = g_unix_fd_source_new(guest->pidfd, G_IO_IN);
    g_source_set_callback(guest->pid_source, G_SOURCE_FUNC(guest_ended), relay, NULL);
    g_source_attach(guest->pid_source, NULL);
}

static void guest_refuse(FfRelay *relay, const char *why)
{
    ff_relay_log(relay, "%s; the guest runs, its migrations are QEMU's", why);
}

/* There is no hand-over: it is as if there were no userfaultfd. */
static void guest_has_no_agent(FfRelay *relay, const char *why)
{
    g_free(relay->guest.refusal);
    relay->guest.refusal = g_strdup(why);
    guest_refuse(relay, why);
}

/* A hand-over replaces the one before it whole. */
static void guest_adopt(FfRelay *relay, const FfAgentHello *hello, const int *fds)
{
    FfGuest *guest = &relay->guest;
    unsigned n_uffds = ff_uffds_count(hello);

    close_fd(&guest->pidfd);
    close_fd(&guest->pagemap);
    close_fd(&guest->maps);
    close_fd(&guest->mem);
    guest->pid = hello->pid;
    guest->pidfd = fds[FF_AGENT_FD_PIDFD];
    guest->pagemap = fds[FF_AGENT_FD_PAGEMAP];
    guest->maps = fds[FF_AGENT_FD_MAPS];
    guest->mem = fds[FF_AGENT_FD_MEM];
    g_clear_pointer(&guest->refusal, g_free);
    ff_uffds_adopt(relay, hello, fds + FF_AGENT_FD_UFFDS);
    ff_hook_adopt(relay, hello, hello->hook_error ? -1 : fds[FF_AGENT_FD_UFFDS + n_uffds]);
    if (guest->uffd_error[FF_KIND_MISSING]) {
        guest_refuse(relay, guest->uffd_error[FF_KIND_MISSING]);
    }
    guest->hello = true;
    guest_watch(relay);
}

/* The relay before this one had it. */
static void guest_inherit(FfRelay *relay)
{
    const FfRelayAgent *agent = relay->plan->agent;
    bool marked = ff_state_is_marked(relay->state, FF_MARK_PROTECTED);

    guest_adopt(relay, &agent->hello, agent->fds);
    if (marked) {
        ff_state_mark(relay->state, FF_MARK_PROTECTED);
    }
}

static void guest_farewell(FfRelay *relay)
{
    if (ff_placeholder_farewell(relay)) {
        return;
    }
    ff_behind_orderly(relay);
    bool ends = !ff_state_is_under_way(relay->state);
    int pidfd = ends ? pidfd_open(getpid(), 0) : -1;
    /* If it is not answered, QEMU waits for a while only. */
    ssize_t n = ff_rights_send(relay->plan->agent_fd, "", 1, &pidfd, pidfd >= 0);

    if (n < 0) {
        ff_relay_log(relay, "QEMU's farewell cannot be answered: %s", g_strerror(-n));
    }
    close_fd(&pidfd);
    if (ends) {
        ff_relay_end(relay);
    }
}

/* An agent of before the hook says less. */
static bool is_known(FfAgentHello *hello, ssize_t n)
{
    if (n == offsetof(FfAgentHello, hook_error) && hello->version == FF_AGENT_VERSION_NO_HOOK) {
        hello->hook_error = FF_AGENT_EOLDER;
        hello->hook_kept = -1;
        return hello->magic == FF_AGENT_MAGIC;
    }
    return n == sizeof(*hello) && hello->magic == FF_AGENT_MAGIC &&
           hello->version == FF_AGENT_VERSION;
}

/* One message. Returns its size, 0 at the end, or -errno. */
static ssize_t guest_receive(FfRelay *relay)
{
    FfAgentHello hello = {0};
    FfRights rights;
    ssize_t n = ff_rights_receive(relay->plan->agent_fd, &hello, sizeof(hello), &rights);

    if (n <= 0) {
        return n;
    }
    if (n == 1 && !rights.n) {
        guest_farewell(relay);
        return n;
    }
    bool known = is_known(&hello, n);
    unsigned want = FF_AGENT_FD_UFFDS + ff_uffds_count(&hello) + !hello.hook_error;
    if (!known || rights.n != want) {
        for (unsigned i = 0; i < rights.n; i++) {
            close(rights.fd[i]);
        }
        guest_has_no_agent(relay, known && rights.n < want
                                      ? "the relay may open too few files (RLIMIT_NOFILE, ulimit "
                                        "-n)"
                                      : "the agent in QEMU is of another version: install relay "
                                        "and agent from one build");
        return n;
    }
    guest_adopt(relay, &hello, rights.fd);
    return n;
}

void ff_guest_look(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;
    ssize_t n;

    if (!guest->agent_source) {
        return;
    }
    do {
        n = guest_receive(relay);
    } while (n > 0 || n == -EINTR);
    if (n == -EAGAIN) {
        return;
    }
    source_clear(&guest->agent_source);
    close(relay->plan->agent_fd);
    if (guest->pidfd < 0) {
        ff_relay_end(relay); /* the daemon that held the other end */
    }
}

static gboolean guest_agent(gint fd, GIOCondition condition, gpointer data)
{
    FfRelay *relay = data;

    ff_guest_look(relay);
    return relay->guest.agent_source ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

void ff_guest_is_up(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;

    ff_guest_look(relay);
    if (!guest->hello && !guest->refusal) {
        guest_has_no_agent(relay, "QEMU did not load farfault-agent.so: use a dynamically linked "
                                  "QEMU without setuid and file capabilities");
    }
}

void ff_guest_hung_up(FfRelay *relay)
{
    if (relay->guest.pidfd < 0 && !relay->guest.agent_source) {
        ff_relay_end(relay); /* the only sign that is left of a daemon without an agent */
    }
}

bool ff_guest_has_ended(const FfRelay *relay)
{
    return relay->guest.pidfd >= 0 && ff_pidfd_has_ended(relay->guest.pidfd);
}

void ff_guest_kill(FfRelay *relay, const char *why)
{
    ff_relay_log(relay, "QEMU is killed: %s", why);
    if (relay->guest.pidfd < 0 || pidfd_send_signal(relay->guest.pidfd, SIGKILL, NULL, 0) < 0) {
        ff_relay_log(relay, "QEMU cannot be killed: %s", g_strerror(errno));
    }
}

void ff_guest_left(FfRelay *relay)
{
    if (ff_state_is_marked(relay->state, FF_MARK_BORROWED) &&
        !ff_state_is_under_way(relay->state)) {
        ff_guest_kill(relay, "farfault upgrade has ended, and the guest was not handed over");
    }
}

bool ff_guest_start(FfRelay *relay, GError **error)
{
    FfGuest *guest = &relay->guest;

    guest->pagemap = guest->maps = guest->mem = -1;
    ff_uffds_init(guest);
    ff_hook_init(guest);
    guest->pid = relay->plan->qemu_pid;
    guest->pidfd = -1;
    if (relay->plan->agent) {
        guest_inherit(relay);
    } else {
        guest->pidfd = pidfd_open(guest->pid, 0);
        if (guest->pidfd < 0) {
            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "pidfd of QEMU: %s",
                        g_strerror(errno));
            return false;
        }
        guest_watch(relay);
    }
    if (relay->plan->agent_fd >= 0) {
        guest->agent_source = g_unix_fd_source_new(relay->plan->agent_fd, G_IO_IN);
        g_source_set_callback(guest->agent_source, G_SOURCE_FUNC(guest_agent), relay, NULL);
        g_source_attach(guest->agent_source, NULL);
    }
    return true;
}
