/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state as QEMU sees it: out, in, and how that ends.
 *
 * The inner migration runs over a socketpair of which QEMU has one end (getfd on the private
 * monitor) and the caller the other. A copy of the caller's end stays here: it hangs up when QEMU
 * has closed its end, which is the last thing that an outgoing migration does, after the run state
 * and the disks are as they will stay. There is no event for that, so this is what is waited for.
 * QEMU's end must have no other copy then.
 *
 * Threads: the coordinator's. No lock here.
 */
#include "guest/qemu/device-state.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "guest/qemu/call.h"
#include "guest/qemu/internal.h"
#include "guest/qemu/status.h"
#include "qmp/json.h"

#define KEPT_NAME "farfault-kept" /* the copy that QEMU holds of the engine's end */
#define STREAM_NAME "farfault-inner"
/* Bytes that the stream holds, as far as the system permits: QEMU and engine wake each other less
 * often while the guest stands still. */
#define STREAM_BUFFER (1 << 20)
/* Of one that QEMU finds full: what is in it is read while the guest stands still. The kernel makes
 * the least of it that there is. */
#define FULL_BUFFER 1
/* For a QEMU that may hang in a page fault. */
#define TAKE_BACK_DEADLINE_MS 2000
/* See leave_finish_migrate(). */
#define SETTLE_DEADLINE_MS 10000
#define SETTLE_STEP_MS 2

/* The arguments of what starts the inner migration on QEMU's end. */
static JsonObject *stream_args(FfQemu *qemu)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "uri", "fd:" STREAM_NAME);
    if (qemu->vmm.state.keep_failed) {
        json_object_set_boolean_member(args, "exit-on-error", FALSE);
    }
    return args;
}

/* No cancel, as for stop: what was sent to QEMU is carried out. */
bool ff_qemu_begin_stream(FfQemu *qemu, GError **error)
{
    qemu->offered = false;
    g_autoptr(JsonNode) reply = ff_qemu_call_firm(qemu, "migrate", stream_args(qemu), error);
    return reply != NULL;
}

static void set_buffer(int fd, int bytes)
{
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

/* From now on QEMU's end is QEMU's alone. A writer that waits there continues. */
static void widen_buffer(FfQemu *qemu)
{
    if (qemu->their_end >= 0) {
        set_buffer(qemu->their_end, STREAM_BUFFER);
        close(qemu->their_end);
        qemu->their_end = -1;
    }
}

void ff_qemu_adopt_stream(FfQemu *qemu, int fd)
{
    widen_buffer(qemu);
    if (qemu->stream >= 0) {
        close(qemu->stream);
    }
    qemu->stream = fd;
}

/* The arguments of getfd and closefd. */
static JsonObject *fd_args(const char *name)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", name);
    return args;
}

/* QEMU flushes its stream after the list of RAM blocks, before it takes its big lock for the
 * devices. In a socket that is full that write waits: so QEMU makes its thread and all that while
 * memory is still being protected. That it really stands there is looked at twice: nothing of it is
 * in the socket when it is let go, and it says "active", which it does after that flush, not
 * before that (ff_qemu_stood()). Returns how many bytes are in the way; -errno. */
static ssize_t fill_socket(int fd)
{
    static const char waste[4096];
    ssize_t n, all = 0;

    if (FF_FAULT_STEP("fill", false)) {
        set_buffer(fd, STREAM_BUFFER);
        return 0;
    }

    while ((n = send(fd, waste, sizeof(waste), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0) {
        all += n;
    }
    return errno == EAGAIN ? all : -errno;
}

void ff_qemu_set_too_early(GError **error)
{
    g_set_error_literal(
        error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
        "QEMU did not wait with its devices until all memory was protected, so they "
        "would not fit together: save this guest with QEMU's own migrate, and report "
        "its version");
}

static bool has_written(const FfQemu *qemu)
{
    int n = 0;

    return ioctl(qemu->stream, FIONREAD, &n) < 0 || (size_t)n > qemu->in_the_way;
}

bool ff_qemu_let_save(FfVmmState *state, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    char waste[65536];

    if (!FF_FAULT_STEP("look-whether-written", false) && has_written(qemu)) {
        ff_qemu_set_too_early(error);
        return false;
    }
    qemu->let_save_us = g_get_real_time();

    while (qemu->in_the_way) {
        ssize_t n = recv(qemu->stream, waste, MIN(sizeof(waste), qemu->in_the_way), 0);
        if (n <= 0 && errno != EINTR) {
            g_set_error(error, G_IO_ERROR, n ? g_io_error_from_errno(errno) : G_IO_ERROR_CLOSED,
                        "device state: %s", n ? g_strerror(errno) : "QEMU closed its stream");
            return false;
        }
        qemu->in_the_way -= MAX(n, 0);
    }
    widen_buffer(qemu);
    return true;
}

/* Sends QEMU one end of a new socketpair by the name STREAM_NAME, for which it is yet to be waited.
 * *FD is the other, of which a copy is kept. NULL and ERROR if there is none. */
static FfQmpCall *send_stream(FfQemu *qemu, int *fd, GError **error)
{
    g_autoptr(JsonObject) args = fd_args(STREAM_NAME);
    FfQmpCall *asked;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "cannot make a socket pair for the device state: %s", g_strerror(errno));
        return NULL;
    }
    set_buffer(pair[0], STREAM_BUFFER);
    set_buffer(pair[1], qemu->vmm.state.one_way ? FULL_BUFFER : STREAM_BUFFER);
    ssize_t filled = qemu->vmm.state.one_way ? fill_socket(pair[1]) : 0;
    if (filled < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-filled),
                    "cannot fill the socket pair for the device state: %s", g_strerror(-filled));
        close(pair[0]);
        close(pair[1]);
        return NULL;
    }
    int kept = fcntl(pair[0], F_DUPFD_CLOEXEC, 3);
    if (kept < 0) {
        /* Without it nobody would wait for QEMU's end of it. */
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "no descriptor for the device state: %s", g_strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return NULL;
    }
    qemu->in_the_way = filled;
    qemu->let_save_us = 0;
    asked = ff_qmp_call_begin(qemu->qmp, "getfd", args, &pair[1], 1);
    ff_qemu_adopt_stream(qemu, kept);
    if (qemu->vmm.state.ends_failed) {
        /* The return path ends before it has begun, which QEMU finds when all is written. */
        shutdown(pair[0], SHUT_WR);
    }
    if (qemu->vmm.state.one_way) {
        qemu->their_end = pair[1];
    } else {
        close(pair[1]);
    }
    *fd = pair[0];
    return asked;
}

static void take_back_stream(FfQemu *qemu)
{
    ff_qemu_call_and_forget(qemu, "closefd", fd_args(STREAM_NAME), TAKE_BACK_DEADLINE_MS);
    ff_qemu_adopt_stream(qemu, -1);
}

/* The source's. */
static int give_stream(FfQemu *qemu, GError **error)
{
    int fd = -1;
    FfQmpCall *asked = send_stream(qemu, &fd, error);
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) reply = asked ? ff_qemu_answer(asked, "getfd", &local) : NULL;

    if (asked && !reply) {
        g_propagate_error(error, g_steal_pointer(&local));
        close(fd);
        ff_qemu_adopt_stream(qemu, -1);
        return -1;
    }
    return fd;
}

bool ff_qemu_save(FfVmmState *state, int *fd, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    int stream = give_stream(qemu, error);

    if (stream < 0) {
        return false;
    }
    if (!ff_qemu_begin_stream(qemu, error)) {
        close(stream);
        take_back_stream(qemu);
        return false;
    }
    *fd = stream;
    return true;
}

bool ff_qemu_offer(FfVmmState *state, int *fd, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);

    *fd = give_stream(qemu, error);
    qemu->offered = *fd >= 0;
    return qemu->offered;
}

/* Not before somebody else holds the stream: an engine that dies while only QEMU had a copy would
 * leave QEMU waiting for an end. shutdown() ends it for all copies. */
void ff_qemu_keep(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(JsonObject) args = fd_args(KEPT_NAME);
    struct stat st;

    if (qemu->stream < 0 || fstat(qemu->stream, &st) < 0) {
        return;
    }
    __atomic_store_n(&qemu->state->kept_inner, st.st_ino, __ATOMIC_RELEASE);
    ff_qmp_call(qemu->qmp, "getfd", args, &qemu->stream, 1, NULL, NULL);
}

void ff_qemu_forget_kept(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(JsonObject) args = fd_args(KEPT_NAME);

    if (__atomic_exchange_n(&qemu->state->kept_inner, 0, __ATOMIC_ACQ_REL)) {
        ff_qmp_call(qemu->qmp, "closefd", args, NULL, 0, NULL, NULL);
    }
}

typedef struct {
    FfQmpCall *asked;
    const char *command;
    unsigned deadline_ms;
} Asked;

/* The answers to N questions, of which none is waited for after the first failure. */
static bool take_answers(FfQemu *qemu, const Asked *a, unsigned n, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < n; i++) {
        if (!ok) {
            ff_qmp_call_drop(a[i].asked);
            continue;
        }
        g_autoptr(JsonNode) reply =
            ff_qmp_call_end(a[i].asked, a[i].deadline_ms, qemu->cancel, error);
        ok = reply != NULL;
        if (!ok) {
            g_prefix_error(error, "%s: ", a[i].command);
        }
    }
    return ok;
}

bool ff_qemu_load(FfVmmState *state, int *fd, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    int stream = -1;
    /* While QEMU waits, stop means: do not start by yourself when the state is loaded, whatever
     * run state the blob names. The right to run comes later, with the grant. In one go with what
     * follows: QEMU carries out one after the other, and is given nothing to load before it has
     * said that it took them all. */
    FfQmpCall *stop = ff_qemu_ask(qemu, "stop", NULL);
    FfQmpCall *getfd = send_stream(qemu, &stream, error);

    if (!getfd) {
        ff_qmp_call_drop(stop);
        return false;
    }
    const Asked asked[] = {
        {stop, "stop", qemu->deadline_ms},
        {getfd, "getfd", 0},
        {ff_qemu_ask(qemu, "migrate-incoming", stream_args(qemu)), "migrate-incoming", 0}};
    if (!take_answers(qemu, asked, G_N_ELEMENTS(asked), error)) {
        /* It may have begun to wait: then it ends, as a failed incoming migration does. */
        close(stream);
        take_back_stream(qemu);
        return false;
    }
    qemu->loading = true;
    *fd = stream;
    return true;
}

/* None: there was no migration since QEMU began. */
static bool is_over(const char *status)
{
    return !status || g_strcmp0(status, "completed") == 0 || g_strcmp0(status, "failed") == 0 ||
           g_strcmp0(status, "cancelled") == 0;
}

/* Waits until the inner migration is over, as *STATUS says then (with *DESC, both g_free). */
static bool wait_over(FfQemu *qemu, char **status, char **desc, GError **error)
{
    /* Made before the query, so that an end after it is not missed. */
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(qemu->qmp, "MIGRATION");

    for (;;) {
        g_autoptr(JsonNode) event = NULL;
        if (!ff_qemu_migrate_status(qemu, status, desc, error)) {
            return false;
        }
        if (is_over(*status)) {
            return true;
        }
        g_clear_pointer(status, g_free);
        g_clear_pointer(desc, g_free);
        event = ff_qmp_watch_next(watch, 0, NULL, error);
        if (!event) {
            return false;
        }
    }
}

/* Waits until QEMU has closed its end of the stream, and throws away what it still writes: a QEMU
 * that cannot write would never come to the end. Also ends when QEMU dies. */
static void wait_hangup(FfQemu *qemu)
{
    struct pollfd pfd = {.fd = qemu->stream, .events = POLLIN};
    char waste[4096];
    ssize_t n;

    if (qemu->stream < 0) {
        return;
    }
    do {
        n = poll(&pfd, 1, -1);
        if (n > 0) {
            n = recv(qemu->stream, waste, sizeof(waste), MSG_DONTWAIT);
        }
    } while (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)));
    /* 0: closed; another error: closed with data unread. */
    ff_qemu_adopt_stream(qemu, -1);
}

/* QEMU says that the migration is over a moment before it sets the run state (and, 10.x, opens
 * the disks again). A thread that saw the stream's end need not wait here. But when somebody else
 * shut the stream down, or there is none (its engine died), nothing tells that moment: ask again,
 * slowly, until a deadline. */
static bool leave_finish_migrate(FfQemu *qemu, FfQmpWatch *watch, GError **error)
{
    gint64 end = g_get_monotonic_time() + SETTLE_DEADLINE_MS * G_TIME_SPAN_MILLISECOND;

    for (;;) {
        g_autofree char *state = ff_qemu_run_state(qemu, true, error);
        g_autoptr(JsonNode) event = NULL;
        if (!state || strcmp(state, "finish-migrate") != 0) {
            return state != NULL;
        }
        if (g_get_monotonic_time() > end) {
            break;
        }
        event = ff_qmp_watch_next(watch, SETTLE_STEP_MS, NULL, NULL);
    }
    g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                        "QEMU does not leave \"finish-migrate\"");
    return false;
}

/* A stream that QEMU was offered and has not begun with would never end. With one that it has, the
 * name is gone, and the command does nothing. */
static void drop_offer(FfQemu *qemu)
{
    g_autoptr(JsonObject) args = fd_args(STREAM_NAME);

    ff_qmp_call(qemu->qmp, "closefd", args, NULL, 0, NULL, NULL);
}

bool ff_qemu_wait_saved(FfVmmState *state, int status, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    const char *expected = status == 0 && !state->ends_failed ? "completed" : "failed";
    g_autofree char *result = NULL;
    g_autofree char *desc = NULL;
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(qemu->qmp, NULL);

    widen_buffer(qemu);
    if (status != 0 && qemu->stream >= 0) {
        /* The end of the stream means failure just as SHUT(1) does. */
        shutdown(qemu->stream, SHUT_WR);
        drop_offer(qemu);
    }
    /* First this, as QEMU may not get to the end before it has written everything. */
    wait_hangup(qemu);
    if (qemu->offered) {
        qemu->offered = false;
        return true;
    }
    if (!wait_over(qemu, &result, &desc, error)) {
        return false;
    }
    /* One that nobody answered has come to its end whatever was wanted (FfVmmState.one_way). */
    if (status == 0 && g_strcmp0(result, expected) != 0) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "the inner migration is \"%s\" instead of \"%s\"%s%s", result ? result : "none",
                    expected, desc ? ": " : "", desc ? desc : "");
        return false;
    }
    return leave_finish_migrate(qemu, watch, error);
}

char *ff_qemu_machine(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);

    if (!qemu->machine) {
        g_autoptr(JsonNode) args = json_from_string(FF_QEMU_MACHINE_ARGS, NULL);
        g_autoptr(JsonNode) node = ff_qemu_call(qemu, "qom-get", json_node_dup_object(args), NULL);

        qemu->machine = node ? ff_qemu_machine_name(node) : NULL;
    }
    return g_strdup(qemu->says_more ? NULL : qemu->machine);
}
