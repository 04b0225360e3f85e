/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Says to the new relay what the agent in QEMU said to the first one: the userfaultfds that QEMU
 * keeps, its process, and what arms its hook.
 *
 * One thread. System calls: socketpair.
 */
#include "guest/launch/attach-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/internal.h"
#include "qmp/json.h"

static int open_proc(FfAttach *a, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)a->pid, name);

    return open(path, O_RDONLY | O_CLOEXEC);
}

static int send_hello(int sock, const FfAgentHello *hello, const int *fds, unsigned n)
{
    ssize_t sent = ff_rights_send(sock, hello, sizeof(*hello), fds, n);

    return sent == sizeof(*hello) ? 0 : sent < 0 ? (int)sent : -EIO;
}

/* Pidfd, pagemap, maps and mem. */
static bool take_process(FfAttach *a, int *fds, GError **error)
{
    fds[FF_AGENT_FD_PIDFD] = fcntl(a->pidfd, F_DUPFD_CLOEXEC, 0);
    fds[FF_AGENT_FD_PAGEMAP] = open_proc(a, "pagemap");
    fds[FF_AGENT_FD_MAPS] = open_proc(a, "maps");
    fds[FF_AGENT_FD_MEM] = open_proc(a, "mem");
    if (fds[FF_AGENT_FD_MEM] < 0) {
        fds[FF_AGENT_FD_MEM] = open_proc(a, "maps"); /* as the agent does */
    }
    if (fds[FF_AGENT_FD_PAGEMAP] >= 0 && fds[FF_AGENT_FD_MAPS] >= 0 && fds[FF_AGENT_FD_MEM] >= 0) {
        return true;
    }
    ff_launch_fail(error, "the memory map of process %d may not be read: be root", (int)a->pid);
    return false;
}

/* What arms the agent's hook for discards; -1: the farfault that started QEMU had no hook, or QEMU
 * does not keep it any more. The relay looks whether it is one. */
static int take_hook(FfAttach *a, FfAgentHello *hello)
{
    int kept = a->state->hook_in_qemu, fds[FF_PARCEL_MAX], n = 0;
    int parcel = kept > 0 ? ff_attach_take(a, kept, "socket:", "its hook", NULL) : -1;

    if (parcel >= 0) {
        n = ff_fdstore_look(parcel, fds);
        close(parcel);
    }
    while (n > 1) {
        close(fds[--n]);
    }
    hello->hook_error = n == 1 ? 0 : FF_AGENT_EOLDER;
    hello->hook_kept = n == 1 ? kept : -1;
    return n == 1 ? fds[0] : -1;
}

/* Says to the relay what the agent said to the first one. */
static bool speak_for_agent(FfAttach *a, GError **error)
{
    FfAgentHello hello = {.magic = FF_AGENT_MAGIC, .version = FF_AGENT_VERSION, .pid = a->pid};
    int fds[FF_AGENT_MAX_FDS], pair[2] = {-1, -1};
    unsigned n = FF_AGENT_FD_UFFDS;
    bool ok = take_process(a, fds, error);

    ff_attach_kinds(a->state, &hello);
    for (unsigned i = 0; ok && i < FF_KINDS; i++) {
        if (hello.error[i]) {
            continue;
        }
        fds[n] =
            ff_attach_take(a, hello.kept[i], "anon_inode:[userfaultfd]", "its userfaultfds", error);
        ok = fds[n] >= 0;
        n += ok;
    }
    int hook = take_hook(a, &hello);
    if (hook >= 0) {
        fds[n++] = hook;
    }
    if (hello.error[FF_KIND_PROTECT] == FF_AGENT_ELOST) {
        ff_attach_note(
            a, "the userfaultfd for live snapshots has ended with the relay: they need this guest "
               "to be started again, or farfault upgrade");
    }
    if (ok && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        ff_launch_fail(error, "cannot make a socket pair: %s", g_strerror(errno));
        ok = false;
    }
    if (ok && send_hello(pair[0], &hello, fds, n) < 0) {
        ff_launch_fail(error, "the userfaultfds cannot be handed on: %s", g_strerror(errno));
        ok = false;
    }
    json_object_set_int_member(a->plan, "agent-fd", ff_attach_give(a, pair[1]));
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (pair[0] >= 0) {
        close(pair[0]);
    }
    return ok;
}

bool ff_attach_take_uffds(FfAttach *a, GError **error)
{
    if (a->state->agent == FF_STATE_AGENT_SILENT) {
        json_object_set_int_member(a->plan, "agent-fd", -1);
        return true;
    }
    return speak_for_agent(a, error);
}
