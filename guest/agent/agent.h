/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the agent (preloaded into QEMU) says to the relay: one SOCK_SEQPACKET message per
 * hand-over, the fds as SCM_RIGHTS in the order of the enum. A later message (QEMU daemonized:
 * another address space) replaces the earlier one whole.
 *
 * QEMU keeps its end. When it is about to exit it sends one byte, and is answered by one byte: with
 * the relay's pidfd, if the relay ends now, which QEMU waits for; without, if it has something left
 * to do. So what relay and engine hold of the guest's memory is let go before the one process that
 * others know of is gone. QEMU waits FF_AGENT_FAREWELL_MS for either at most. If the byte is
 * FF_AGENT_PATIENCE, the pidfd is that of the QEMU that runs behind this one
 * (guest/relay/placeholder.h), with that of the one that may just get its guest, and both are
 * waited for as long as it takes, as this one's own end would.
 */
#ifndef FF_GUEST_AGENT_AGENT_H
#define FF_GUEST_AGENT_AGENT_H

#include <assert.h>
#include <errno.h>
#include <stdint.h>

#include "contract/kinds.h"

#define FF_AGENT_MAGIC 0x54474146u /* "FAGT" */
#define FF_AGENT_VERSION 6u
#define FF_AGENT_VERSION_NO_HOOK 5u /* ends before .hook_error; a relay takes it, too */
#define FF_AGENT_FAREWELL_MS 5000
#define FF_AGENT_PATIENCE 1
#define FF_AGENT_MAX_WAITS 2

/* Environment, removed by the agent inside QEMU: the number of the hand-over socket's fd, and
 * the real QEMU binary ("DEV:INO" of it in decimal; "*": the binary is a script, so any program
 * with "qemu-system-" or "qemu-kvm" in its file name). In any other process the agent does nothing
 * and leaves all of them in place. */
#define FF_AGENT_ENV_FD "FARFAULT_AGENT_FD"
#define FF_AGENT_ENV_EXE "FARFAULT_AGENT_EXE"
/* "N,N,...": fds that QEMU needed over exec, but that none of its children may inherit. */
#define FF_AGENT_ENV_CLOEXEC "FARFAULT_AGENT_CLOEXEC"
/* "1": QEMU will fork twice (-daemonize); the second child hands over again, once. */
#define FF_AGENT_ENV_DAEMONIZE "FARFAULT_AGENT_DAEMONIZE"

/* Taps that another QEMU has still, in place of which this one is given stand-ins (taps.c):
 * "GO,PIDFD;", an eventfd that says that the guest is this QEMU's, and the other QEMU's pidfd; and
 * of each tap "STAND-IN,OTHER,TAP;", both ends of the pair of sockets that QEMU has one of, and the
 * tap. Numbers of fds. */
#define FF_AGENT_ENV_TAPS "FARFAULT_AGENT_TAPS"

/* The number of a pidfd: of the process that others know as this guest's (front.c). It stays open.
 */
#define FF_AGENT_ENV_FRONT "FARFAULT_AGENT_FRONT"

/* "N,N,...": the master sides of pseudo-terminals, in the order in which QEMU makes its own, in
 * whose place they come (ptys.c). */
#define FF_AGENT_ENV_PTYS "FARFAULT_AGENT_PTYS"
/* Is there: what QEMU listens at is another one's still (accept.c). */
#define FF_AGENT_ENV_LATER "FARFAULT_AGENT_LATER"
/* Its value where there is memory enough for what the guest would wait for (preallocate.c). */
#define FF_AGENT_LATER_FILLS "fill"

/* QEMU binds a socket of its own to such a path and the number of an fd, a listening socket, which
 * takes that one's place (sockets.c). There is no such folder, so QEMU finds nothing to remove; it
 * ends in "fd/" as what has the number of an fd behind it. */
#define FF_AGENT_SOCKET_PATH "/proc/self/farfault-fd/"

enum {
    FF_AGENT_FD_PIDFD,
    FF_AGENT_FD_PAGEMAP,
    FF_AGENT_FD_MAPS,
    FF_AGENT_FD_MEM,  /* for reading; where that is refused, /proc/self/maps once more */
    FF_AGENT_FD_UFFDS /* of each kind that could be made, in their order; after them the memory by
                         which the hook for discards is armed (contract/discards.h), if there is one
                       */
};
#define FF_AGENT_MAX_FDS (FF_AGENT_FD_UFFDS + FF_KINDS + 1)

typedef struct {
    uint32_t magic;
    uint32_t version; /* FF_AGENT_VERSION, or one that is named above */
    int32_t pid;      /* of QEMU, in its own pid namespace */
    /* Of each kind: 0, or why there is none (then no fd of it follows): an errno, EOPNOTSUPP if the
     * kernel does not know what it needs. */
    int32_t error[FF_KINDS];
    int32_t kept[FF_KINDS]; /* its number in QEMU, which keeps a copy; -1: it keeps none */
    int32_t hook_error;     /* 0, or why there is no hook: as above */
    int32_t hook_kept; /* QEMU's number of a socket that has another copy of what arms it in its
                          queue; -1: there is none */
} FfAgentHello;
static_assert(sizeof(FfAgentHello) == 20 + 8 * FF_KINDS, "FfAgentHello is sent between processes");

/* What `farfault attach` says of a kind in the agent's place. */
#define FF_AGENT_EOLDER EPROTONOSUPPORT /* an older farfault has started QEMU */
#define FF_AGENT_ELOST EOWNERDEAD       /* its holder has ended, and QEMU has no copy */

#endif
