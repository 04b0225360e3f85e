/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See sandbox.h. Each step stands alone: what an unprivileged process has not got, it need not
 * give up. The main thread, before there is another.
 *
 * What root keeps: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH for keys and sockets of QEMU's user,
 * CAP_NET_BIND_SERVICE, CAP_SYS_NICE for the threads of the fault path, CAP_KILL for QEMU itself,
 * CAP_LEASE for a saved guest that is another user's, and CAP_SYS_PTRACE: the kernel asks for it at
 * /proc/PID/fd of a QEMU that has more capabilities.
 *
 * What the filter cannot take from a process that has them, it takes from openat and fchmod: no
 * file that is there is opened for writing or given other rights, be it root's relay and root's
 * file. (Another file in its place takes no more than link and unlink, which both need.) It holds
 * for all threads; Landlock would not do (docs/decisions.md).
 *
 * System calls: capset, capget, seccomp, prctl, setrlimit.
 */
#include "base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/syscalls.h"

static const unsigned kept[] = {CAP_DAC_OVERRIDE,     CAP_DAC_READ_SEARCH, CAP_KILL,    CAP_LEASE,
                                CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE,      CAP_SYS_NICE};

static bool set_errno_error(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", what, g_strerror(errno));
    return false;
}

/* ---- capabilities ---------------------------------------------------------------------------- */

static bool is_kept(unsigned cap)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kept); i++) {
        if (kept[i] == cap) {
            return true;
        }
    }
    return false;
}

static bool drop_capabilities(GError **error)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (!is_kept(cap)) {
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* refused to one without capabilities anyway */
        }
    }
    if (syscall(SYS_capget, &header, data) < 0) {
        return set_errno_error(error, "capget");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(data); i++) {
        unsigned mask = 0;
        for (unsigned cap = 0; cap < 32; cap++) {
            mask |= is_kept(i * 32 + cap) ? 1u << cap : 0;
        }
        data[i].permitted &= mask;
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, data) == 0 || set_errno_error(error, "capset");
}

/* ---- system calls ---------------------------------------------------------------------------- */

#ifdef FF_FAULTS
#define NOT_LISTED SECCOMP_RET_TRAP
#define REFUSED SECCOMP_RET_TRAP

/* Async-signal-safe. */
G_NORETURN static void on_sigsys(int signal, siginfo_t *info, void *context)
{
    char text[] = "farfault: system call 0000 is not on the list of this program\n";
    unsigned n = info->si_syscall;

    for (char *digit = text + 25; n; n /= 10) {
        *digit-- = '0' + n % 10;
    }
    G_GNUC_UNUSED ssize_t written = write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(128 + SIGSYS);
}

static void watch_calls(void)
{
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

    sigaction(SIGSYS, &action, NULL);
}
#else
#define NOT_LISTED (SECCOMP_RET_ERRNO | ENOSYS)
#define REFUSED (SECCOMP_RET_ERRNO | EACCES)

static void watch_calls(void)
{
}
#endif

/* P: struct sock_filter. */
static void emit_instruction(GArray *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    struct sock_filter f = {code, yes, no, k};

    g_array_append_val(p, f);
}

static void load_field(GArray *p, size_t offset)
{
    emit_instruction(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void emit_action(GArray *p, uint32_t action)
{
    emit_instruction(p, BPF_RET | BPF_K, action, 0, 0);
}

/* If the call (which is loaded) is NR: N instructions that follow decide. */
static void if_call(GArray *p, unsigned nr, uint8_t n)
{
    emit_instruction(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, n);
}

static void allow_calls(GArray *p, const unsigned *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if_call(p, calls[i], 1);
        emit_action(p, SECCOMP_RET_ALLOW);
    }
}

/* Low halves of arguments, little-endian. */
#define ARG(n) offsetof(struct seccomp_data, args[n])

/* Threads, and for the relay posix_spawn() (which shares its memory until the exec); neither makes
 * a process that continues with this one's code, nor a namespace. */
static void judge_clone(GArray *p, FfSandbox kind)
{
    const uint32_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    const uint32_t needs = kind == FF_SANDBOX_RELAY ? CLONE_THREAD | CLONE_VFORK : CLONE_THREAD;

    if_call(p, __NR_clone3, 1);
    emit_action(p, SECCOMP_RET_ERRNO | ENOSYS); /* its flags lie in memory: libc takes clone then */
    if_call(p, __NR_clone, 5);
    load_field(p, ARG(0));
    emit_instruction(p, BPF_JMP | BPF_JSET | BPF_K, namespaces, 1, 0);
    emit_instruction(p, BPF_JMP | BPF_JSET | BPF_K, needs, 1, 0);
    emit_action(p, SECCOMP_RET_ERRNO | EPERM);
    emit_action(p, SECCOMP_RET_ALLOW);
}

/* A file is opened to be read, or is made here: what is there already is nothing that relay or
 * engine write to. (What they do write to came to them as an fd.) FLAGS: the argument's number. */
static void judge_open(GArray *p, unsigned nr, unsigned flags)
{
    const uint32_t new = O_CREAT | O_EXCL, writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
    const uint32_t nameless = O_TMPFILE & ~O_DIRECTORY;

    if_call(p, nr, 11);
    load_field(p, ARG(flags));
    emit_instruction(p, BPF_JMP | BPF_JSET | BPF_K, nameless, 0, 1);
    emit_action(p, SECCOMP_RET_ALLOW);
    load_field(p, ARG(flags));
    emit_instruction(p, BPF_ALU | BPF_AND | BPF_K, new, 0, 0);
    emit_instruction(p, BPF_JMP | BPF_JEQ | BPF_K, new, 0, 1);
    emit_action(p, SECCOMP_RET_ALLOW);
    load_field(p, ARG(flags));
    emit_instruction(p, BPF_JMP | BPF_JSET | BPF_K, writes, 0, 1);
    emit_action(p, REFUSED);
    emit_action(p, SECCOMP_RET_ALLOW);
}

/* For memfds and sockets that are made here: nobody else's rights, no set-user-id. */
static void judge_fchmod(GArray *p)
{
    if_call(p, __NR_fchmod, 4);
    load_field(p, ARG(1));
    emit_instruction(p, BPF_JMP | BPF_JSET | BPF_K, ~0600u, 0, 1);
    emit_action(p, REFUSED);
    emit_action(p, SECCOMP_RET_ALLOW);
}

/* A file that was made here gets its name, over none that is there; with renameat over one. */
static void judge_rename(GArray *p)
{
    if_call(p, __NR_renameat2, 4);
    load_field(p, ARG(4));
    emit_instruction(p, BPF_JMP | BPF_JEQ | BPF_K, RENAME_NOREPLACE, 0, 1);
    emit_action(p, SECCOMP_RET_ALLOW);
    emit_action(p, REFUSED);
}

static void judge_socket(GArray *p)
{
    static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

    if_call(p, __NR_socket, 2 + 2 * G_N_ELEMENTS(families));
    load_field(p, ARG(0));
    for (unsigned i = 0; i < G_N_ELEMENTS(families); i++) {
        emit_instruction(p, BPF_JMP | BPF_JEQ | BPF_K, families[i], 0, 1);
        emit_action(p, SECCOMP_RET_ALLOW);
    }
    emit_action(p, SECCOMP_RET_ERRNO | EAFNOSUPPORT);
}

static bool filter_calls(FfSandbox kind, GError **error)
{
    g_autoptr(GArray) p = g_array_new(FALSE, FALSE, sizeof(struct sock_filter));

    load_field(p, offsetof(struct seccomp_data, arch));
    emit_instruction(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    emit_action(p, SECCOMP_RET_KILL_PROCESS);
    load_field(p, offsetof(struct seccomp_data, nr));
    judge_clone(p, kind);
    judge_socket(p);
    judge_open(p, __NR_open, 1);
    judge_open(p, __NR_openat, 2);
    judge_fchmod(p);
    judge_rename(p);
    if (kind == FF_SANDBOX_RELAY) {
        allow_calls(p, relay_calls, G_N_ELEMENTS(relay_calls));
    } else {
        allow_calls(p, engine_calls, G_N_ELEMENTS(engine_calls));
    }
#ifdef FF_FAULTS
    allow_calls(p, fault_calls, G_N_ELEMENTS(fault_calls));
#endif
    emit_action(p, NOT_LISTED);
    struct sock_fprog program = {p->len, (struct sock_filter *)(void *)p->data};
    watch_calls();
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &program) == 0 ||
           set_errno_error(error, "seccomp");
}

/* ---- all of it ------------------------------------------------------------------------------- */

bool ff_sandbox_enter(FfSandbox kind, GError **error)
{
    const struct rlimit none = {0, 0};

    /* LeakSanitizer looks at its process with ptrace, which is refused otherwise. */
    if (prctl(PR_SET_DUMPABLE, FF_SANITIZED, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0) {
        return set_errno_error(error, "privileges cannot be given up");
    }
    if (!drop_capabilities(error)) {
        return false;
    }
    return FF_SANITIZED || filter_calls(kind, error);
}
