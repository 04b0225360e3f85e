/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The switchover as QEMU sees it: stop, device state out, device state in, run, roll back.
 *
 * The inner migration runs over a socketpair of which QEMU has one end (getfd on the private
 * monitor) and the caller the other. A copy of the caller's end stays here: it hangs up when QEMU
 * has closed its end, which is the last thing that an outgoing migration does, after the run state
 * and the disks are as they will stay. There is no event for that, so this is what is waited for.
 * QEMU's end must have no other copy.
 *
 * Threads: the coordinator's; the answers are read by the thread that runs the QMP client's
 * context. No lock here.
 */
#include "qemu/inner-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT_NAME "farfault-kept" /* the copy that QEMU holds of the engine's end */
#define STREAM_NAME "farfault-inner"
/* Bytes that the stream holds, as far as the system permits: QEMU and engine wake each other less
 * often while the guest stands still. */
#define STREAM_BUFFER (1 << 20)
/* For QEMUs that are to die anyway and may hang in a page fault. */
#define ABANDON_DEADLINE_MS 2000
/* See leave_finish_migrate(). */
#define SETTLE_DEADLINE_MS 10000
#define SETTLE_STEP_MS 2

static JsonNode *call(FfInner *inner, const char *command, JsonObject *args, int fd,
                      unsigned deadline_ms, GCancellable *cancel, GError **error)
{
    JsonNode *result = ff_qmp_call_sync(inner->qmp, command, args, &fd, fd >= 0 ? 1 : 0,
                                        deadline_ms, cancel, error);

    if (args) {
        json_object_unref(args);
    }
    if (!result) {
        g_prefix_error(error, "%s: ", command);
    }
    return result;
}

JsonNode *ff_inner_call(FfInner *inner, const char *command, JsonObject *args, GError **error)
{
    return call(inner, command, args, -1, inner->deadline_ms, inner->cancel, error);
}

JsonNode *ff_inner_call_firm(FfInner *inner, const char *command, JsonObject *args, GError **error)
{
    return call(inner, command, args, -1, 0, NULL, error);
}

JsonNode *ff_inner_call_patient(FfInner *inner, const char *command, JsonObject *args,
                                GError **error)
{
    return call(inner, command, args, -1, 0, inner->cancel, error);
}

JsonNode *ff_inner_call_optional(FfInner *inner, const char *command, JsonObject *args,
                                 GError **error)
{
    g_autoptr(GError) local = NULL;
    JsonNode *result = ff_inner_call(inner, command, args, &local);

    if (!result && !g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND)) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return result;
}

/* For commands whose failure changes nothing any more. */
static void call_and_forget(FfInner *inner, const char *command, JsonObject *args,
                            unsigned deadline_ms)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = call(inner, command, args, -1, deadline_ms, NULL, &error);

    if (!reply) {
        g_message("%s: %s", inner->name, error->message);
    }
}

static void set_no_status(GError **error)
{
    g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL,
                        "query-status: QEMU named no status");
}

static char *run_state(FfInner *inner, unsigned deadline_ms, GCancellable *cancel, GError **error)
{
    g_autoptr(JsonNode) node = call(inner, "query-status", NULL, -1, deadline_ms, cancel, error);
    const char *state =
        ff_json_node_object(node) ? ff_json_string(ff_json_node_object(node), "status") : NULL;

    if (node && !state) {
        set_no_status(error);
    }
    return g_strdup(state);
}

char *ff_inner_run_state(FfInner *inner, bool firm, GError **error)
{
    return run_state(inner, firm ? 0 : inner->deadline_ms, firm ? NULL : inner->cancel, error);
}

/* query-migrate's status and, if it has one, its error text (both g_free). */
static bool migrate_status(FfInner *inner, char **status, char **desc, GError **error)
{
    g_autoptr(JsonNode) node = ff_inner_call_firm(inner, "query-migrate", NULL, error);
    JsonObject *o = ff_json_node_object(node);

    if (!node) {
        return false;
    }
    *status = g_strdup(o ? ff_json_string(o, "status") : NULL);
    *desc = g_strdup(o ? ff_json_string(o, "error-desc") : NULL);
    return true;
}

static const char *status_of(JsonNode *query_status)
{
    JsonObject *o = ff_json_node_object(query_status);

    return o ? ff_json_string(o, "status") : NULL;
}

/* The arguments of what starts the inner migration on QEMU's end. */
static JsonObject *stream_args(FfInner *inner)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "uri", "fd:" STREAM_NAME);
    if (inner->vmm.state.keep_failed) {
        json_object_set_boolean_member(args, "exit-on-error", FALSE);
    }
    return args;
}

/* Source: starts the inner migration. No cancel, as for stop: what was sent to QEMU is carried out.
 */
static bool begin_stream(FfInner *inner, GError **error)
{
    inner->offered = false;
    g_autoptr(JsonNode) reply = call(inner, "migrate", stream_args(inner), -1, 0, NULL, error);
    return reply != NULL;
}

/* What the guest was before stop, from what QEMU says to query-status before (WAS) and after (IS)
 * it; g_free. NULL and ERROR if it does not stand. */
static char *stopped_state(JsonNode *was, JsonNode *is, GError **error)
{
    const char *before = status_of(was), *after = status_of(is);

    if (!before || !after) {
        set_no_status(error);
    } else if (strcmp(after, "running") == 0 || strcmp(after, "suspended") == 0) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU is still \"%s\" after stop: resume the guest and try again", after);
    } else {
        /* A guest that was not running keeps its state ("io-error", ...), and the blob carries
         * it. */
        return g_strdup(strcmp(after, "paused") == 0 ? before : after);
    }
    return NULL;
}

FfQmpCall *ff_inner_ask(FfInner *inner, const char *command, JsonObject *args)
{
    FfQmpCall *asked = ff_qmp_call_begin(inner->qmp, command, args, NULL, 0);

    if (args) {
        json_object_unref(args);
    }
    return asked;
}

JsonNode *ff_inner_answer(FfQmpCall *asked, const char *command, GError **error)
{
    g_autoptr(GError) local = NULL;
    JsonNode *result = ff_qmp_call_end(asked, 0, NULL, &local);

    if (!result && error && !*error) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", command);
    }
    return result;
}

/* With SAVE also starts the inner migration, on the stream that was offered. */
static bool stop_guest(FfInner *inner, bool save, char **before, GError **error)
{
    g_autoptr(FfQmpWatch) resumed = ff_qmp_watch_new(inner->qmp, "RESUME");
    /* While the guest still runs: for the engine that comes after a crash of this one between stop
     * and the return. */
    g_autofree char *first = ff_inner_run_state(inner, false, error);
    g_autoptr(GError) early = NULL;
    g_autoptr(GError) late = NULL;

    if (!first) {
        return false;
    }
    g_strlcpy(inner->state->run_state, first, sizeof(inner->state->run_state));
    /* In one go, since the guest's network goes quiet here: QEMU carries out and answers one after
     * the other. No deadline: QEMU answers stop when all I/O is drained, however long the storage
     * takes; and no cancel: what was sent to QEMU is carried out. */
    FfQmpCall *asked[] = {ff_inner_ask(inner, "query-status", NULL),
                          ff_inner_ask(inner, "stop", NULL),
                          ff_inner_ask(inner, "query-status", NULL)};
    FfQmpCall *registers = ff_inner_ask_registers(inner);
    bool saves = !save || begin_stream(inner, &late);
    g_autoptr(JsonNode) was = ff_inner_answer(asked[0], "query-status", &early);
    g_autoptr(JsonNode) stopped = ff_inner_answer(asked[1], "stop", &early);
    g_autoptr(JsonNode) is = ff_inner_answer(asked[2], "query-status", &early);
    g_free(inner->nested_at_stop);
    inner->nested_at_stop = ff_inner_take_registers(registers);
    if (early) {
        g_propagate_error(error, g_steal_pointer(&early));
        return false;
    }
    *before = stopped_state(was, is, error);
    if (!*before) {
        return false;
    }
    if (!saves) {
        g_propagate_error(error, g_steal_pointer(&late));
        return false;
    }
    /* Behind stop, by another monitor: memory may have been written since. With SAVE QEMU would
     * have stopped a running guest by itself, and would start it again if the stream ended. */
    if (ff_qmp_watch_any(resumed)) {
        g_set_error_literal(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                            "the guest was resumed by another monitor during the switchover: "
                            "repeat the migration");
        return false;
    }
    return true;
}

static bool inner_stop(FfVmmRun *run, char **before, GError **error)
{
    return stop_guest(ff_inner_of_run(run), false, before, error);
}

static bool inner_stop_and_save(FfVmmState *state, char **before, GError **error)
{
    return stop_guest(ff_inner_of_state(state), true, before, error);
}

/* While its migration waits for SHUT, QEMU refuses cont on every monitor. */
static bool inner_stands(FfVmmRun *run, GError **error)
{
    g_autofree char *state = ff_inner_run_state(ff_inner_of_run(run), false, error);

    if (state && strcmp(state, "finish-migrate") != 0) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU is \"%s\" in place of \"finish-migrate\": another monitor has ended its "
                    "part of the migration, or resumed the guest: repeat the migration",
                    state);
        return false;
    }
    return state != NULL;
}

/* The arguments of getfd and closefd. */
static JsonObject *fd_args(const char *name)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", name);
    return args;
}

/* Sends QEMU one end of a new socketpair by the name STREAM_NAME, for which it is yet to be waited.
 * *FD is the other, of which a copy is kept. NULL and ERROR if there is none. */
static FfQmpCall *send_stream(FfInner *inner, int *fd, GError **error)
{
    g_autoptr(JsonObject) args = fd_args(STREAM_NAME);
    FfQmpCall *asked;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "cannot make a socket pair for the device state: %s", g_strerror(errno));
        return NULL;
    }
    for (unsigned i = 0; i < 2; i++) {
        int bytes = STREAM_BUFFER;
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    asked = ff_qmp_call_begin(inner->qmp, "getfd", args, &pair[1], 1);
    close(pair[1]);
    ff_inner_adopt_stream(&inner->vmm, fcntl(pair[0], F_DUPFD_CLOEXEC, 3));
    *fd = pair[0];
    return asked;
}

static void take_back_stream(FfInner *inner)
{
    call_and_forget(inner, "closefd", fd_args(STREAM_NAME), ABANDON_DEADLINE_MS);
    ff_inner_adopt_stream(&inner->vmm, -1);
}

/* The source's. */
static int give_stream(FfInner *inner, GError **error)
{
    int fd = -1;
    FfQmpCall *asked = send_stream(inner, &fd, error);
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) reply = asked ? ff_inner_answer(asked, "getfd", &local) : NULL;

    if (asked && !reply) {
        g_propagate_error(error, g_steal_pointer(&local));
        close(fd);
        ff_inner_adopt_stream(&inner->vmm, -1);
        return -1;
    }
    return fd;
}

static bool inner_save(FfVmmState *state, int *fd, GError **error)
{
    FfInner *inner = ff_inner_of_state(state);
    int stream = give_stream(inner, error);

    if (stream < 0) {
        return false;
    }
    if (!begin_stream(inner, error)) {
        close(stream);
        take_back_stream(inner);
        return false;
    }
    *fd = stream;
    return true;
}

static bool inner_offer(FfVmmState *state, int *fd, GError **error)
{
    FfInner *inner = ff_inner_of_state(state);

    *fd = give_stream(inner, error);
    inner->offered = *fd >= 0;
    return inner->offered;
}

/* Not before somebody else holds the stream: an engine that dies while only QEMU had a copy would
 * leave QEMU waiting for an end. shutdown() ends it for all copies. */
static void inner_keep(FfVmmState *state)
{
    FfInner *inner = ff_inner_of_state(state);
    g_autoptr(JsonObject) args = fd_args(KEPT_NAME);
    struct stat st;

    if (inner->stream < 0 || fstat(inner->stream, &st) < 0) {
        return;
    }
    __atomic_store_n(&inner->state->kept_inner, st.st_ino, __ATOMIC_RELEASE);
    ff_qmp_call(inner->qmp, "getfd", args, &inner->stream, 1, NULL, NULL);
}

void ff_inner_forget_kept(FfVmmState *state)
{
    FfInner *inner = ff_inner_of_state(state);
    g_autoptr(JsonObject) args = fd_args(KEPT_NAME);

    if (__atomic_exchange_n(&inner->state->kept_inner, 0, __ATOMIC_ACQ_REL)) {
        ff_qmp_call(inner->qmp, "closefd", args, NULL, 0, NULL, NULL);
    }
}

typedef struct {
    FfQmpCall *asked;
    const char *command;
    unsigned deadline_ms;
} Asked;

/* The answers to N questions, of which none is waited for behind the first failure. */
static bool take_answers(FfInner *inner, const Asked *a, unsigned n, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < n; i++) {
        if (!ok) {
            ff_qmp_call_drop(a[i].asked);
            continue;
        }
        g_autoptr(JsonNode) reply =
            ff_qmp_call_end(a[i].asked, a[i].deadline_ms, inner->cancel, error);
        ok = reply != NULL;
        if (!ok) {
            g_prefix_error(error, "%s: ", a[i].command);
        }
    }
    return ok;
}

static bool inner_load(FfVmmState *state, int *fd, GError **error)
{
    FfInner *inner = ff_inner_of_state(state);
    int stream = -1;
    /* While QEMU waits, stop means: do not start by yourself when the state is loaded, whatever
     * run state the blob names. The right to run comes later, with the grant. In one go with what
     * follows: QEMU carries out one after the other, and is given nothing to load before it has
     * said that it took them all. */
    FfQmpCall *stop = ff_inner_ask(inner, "stop", NULL);
    FfQmpCall *getfd = send_stream(inner, &stream, error);

    if (!getfd) {
        ff_qmp_call_drop(stop);
        return false;
    }
    const Asked asked[] = {
        {stop, "stop", inner->deadline_ms},
        {getfd, "getfd", 0},
        {ff_inner_ask(inner, "migrate-incoming", stream_args(inner)), "migrate-incoming", 0}};
    if (!take_answers(inner, asked, G_N_ELEMENTS(asked), error)) {
        /* It may have begun to wait: then it ends, as a failed incoming migration does. */
        close(stream);
        take_back_stream(inner);
        return false;
    }
    inner->loading = true;
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
static bool wait_over(FfInner *inner, char **status, char **desc, GError **error)
{
    /* Made before the query, so that an end after it is not missed. */
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(inner->qmp, "MIGRATION");

    for (;;) {
        g_autoptr(JsonNode) event = NULL;
        if (!migrate_status(inner, status, desc, error)) {
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
static void wait_hangup(FfInner *inner)
{
    struct pollfd pfd = {.fd = inner->stream, .events = POLLIN};
    char waste[4096];
    ssize_t n;

    if (inner->stream < 0) {
        return;
    }
    do {
        n = poll(&pfd, 1, -1);
        if (n > 0) {
            n = recv(inner->stream, waste, sizeof(waste), MSG_DONTWAIT);
        }
    } while (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)));
    /* 0: closed; another error: closed with data unread. */
    ff_inner_adopt_stream(&inner->vmm, -1);
}

/* QEMU says that the migration is over a moment before it sets the run state (and, 10.x, opens
 * the disks again). Who saw the stream's end need not wait here. But when somebody else shut the
 * stream down, or there is none (its engine died), nothing tells that moment: ask again, slowly,
 * until a deadline. */
static bool leave_finish_migrate(FfInner *inner, FfQmpWatch *watch, GError **error)
{
    gint64 end = g_get_monotonic_time() + SETTLE_DEADLINE_MS * G_TIME_SPAN_MILLISECOND;

    for (;;) {
        g_autofree char *state = ff_inner_run_state(inner, true, error);
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
static void drop_offer(FfInner *inner)
{
    g_autoptr(JsonObject) args = fd_args(STREAM_NAME);

    ff_qmp_call(inner->qmp, "closefd", args, NULL, 0, NULL, NULL);
}

static bool inner_wait_saved(FfVmmState *state, int status, GError **error)
{
    FfInner *inner = ff_inner_of_state(state);
    const char *expected = status == 0 ? "completed" : "failed";
    g_autofree char *result = NULL;
    g_autofree char *desc = NULL;
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(inner->qmp, NULL);

    if (status != 0 && inner->stream >= 0) {
        /* The end of the stream means failure just as SHUT(1) does. */
        shutdown(inner->stream, SHUT_WR);
        drop_offer(inner);
    }
    /* First this, as QEMU may not get to the end before it has written everything. */
    wait_hangup(inner);
    if (inner->offered) {
        inner->offered = false;
        return true;
    }
    if (!wait_over(inner, &result, &desc, error)) {
        return false;
    }
    if ((g_strcmp0(result, "completed") == 0) != (status == 0)) {
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "the inner migration is \"%s\" instead of \"%s\"%s%s", result ? result : "none",
                    expected, desc ? ": " : "", desc ? desc : "");
        return false;
    }
    return leave_finish_migrate(inner, watch, error);
}

/* The run state (g_free), when it is no more "inmigrate", ASKED being the first question for it.
 * QEMU sends SHUT behind its change of state, so this has not been seen to wait for WATCH. */
static char *settled_state(FfInner *inner, FfQmpWatch *watch, FfQmpCall *asked, GError **error)
{
    for (;; asked = ff_inner_ask(inner, "query-status", NULL)) {
        g_autoptr(GError) local = NULL;
        g_autoptr(JsonNode) node = ff_inner_answer(asked, "query-status", &local);
        g_autoptr(JsonNode) event = NULL;
        const char *state = status_of(node);

        if (node && !state) {
            set_no_status(&local);
        }
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        if (strcmp(state, "inmigrate") != 0) {
            return g_strdup(state);
        }
        /* The watch sees the event of the end only after QEMU changed its run state. */
        event = ff_qmp_watch_next(watch, 0, NULL, error);
        if (!event) {
            return NULL;
        }
    }
}

static bool inner_resume(FfVmmRun *run, const char *state, bool start, bool *running,
                         GError **error)
{
    FfInner *inner = ff_inner_of_run(run);
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(inner->qmp, "MIGRATION");
    /* "suspended": QEMU (9.0 and newer) noted in the device state that a stopped guest was
     * suspended, and cont brings it back to that. All other states came with the blob. */
    bool starts = start && (strcmp(state, "running") == 0 || strcmp(state, "suspended") == 0);
    FfQmpCall *cont = starts ? ff_inner_ask(inner, "cont", NULL) : NULL;
    FfQmpCall *asked = ff_inner_ask(inner, "query-status", NULL);
    g_autofree char *now = NULL;

    *running = false;
    if (cont) {
        g_autoptr(GError) local = NULL;
        g_autoptr(JsonNode) reply = ff_inner_answer(cont, "cont", &local);
        if (!reply) {
            ff_qmp_call_drop(asked);
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
    }
    now = settled_state(inner, watch, asked, error);
    *running = now && strcmp(now, "running") == 0;
    return now != NULL;
}

static bool inner_halt(FfVmmRun *run, GError **error)
{
    g_autoptr(JsonNode) reply = ff_inner_call_firm(ff_inner_of_run(run), "stop", NULL, error);

    return reply;
}

static void inner_announce(FfVmmRun *run)
{
    static const char *const names[][2] = {{"announce-initial", "initial"},
                                           {"announce-max", "max"},
                                           {"announce-rounds", "rounds"},
                                           {"announce-step", "step"}};
    FfInner *inner = ff_inner_of_run(run);
    g_autoptr(JsonNode) node = ff_inner_call_firm(inner, "query-migrate-parameters", NULL, NULL);
    JsonObject *have = ff_json_node_object(node), *args;

    if (!have) {
        return;
    }
    args = json_object_new();
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_object_set_int_member(args, names[i][1], ff_json_int(have, names[i][0], 0));
    }
    call_and_forget(inner, "announce-self", args, 0);
}

static void inner_doom(FfVmmState *state)
{
    FfInner *inner = ff_inner_of_state(state);
    int fd = -1;

    if (!inner->loading && !state->keep_failed) {
        /* QEMU ends with status 1 when its stream ends early, here before the first byte; but not
         * when a TLS handshake fails, nor if it takes no stream at all (multifd). It may have the
         * client's settings still: who gives up before a source was greeted has changed nothing. */
        ff_inner_prepare(state, FF_ROLE_DESTINATION, NULL);
        inner_load(state, &fd, NULL);
    }
    if (inner->stream >= 0) {
        shutdown(inner->stream, SHUT_RDWR);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void inner_abandon(FfVmmState *state)
{
    FfInner *inner = ff_inner_of_state(state);
    g_autofree char *now = NULL;

    inner_doom(state); /* again is as good: it loads by now, or could not */
    now = run_state(inner, ABANDON_DEADLINE_MS, NULL, NULL);
    if (now && strcmp(now, "inmigrate") != 0) {
        /* Already loaded: there is no way to make QEMU exit with another status than 0. */
        call_and_forget(inner, "quit", NULL, ABANDON_DEADLINE_MS);
    } else if (now && state->keep_failed) {
        g_autoptr(GError) error = NULL;

        if (!ff_inner_undo(state, &error)) {
            g_message("%s: %s", inner->name, error->message);
        }
    }
}

static int compare_index(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return x[0] < y[0] ? -1 : x[0] > y[0];
}

static GArray *inner_vcpu_threads(FfVmmRun *run)
{
    FfInner *inner = ff_inner_of_run(run);
    g_autoptr(JsonNode) node = ff_inner_call(inner, "query-cpus-fast", NULL, NULL);
    JsonArray *list = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    g_autoptr(GArray) cpus = g_array_new(FALSE, FALSE, 2 * sizeof(int64_t));
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(int32_t));

    for (guint i = 0; list && i < json_array_get_length(list); i++) {
        JsonObject *cpu = ff_json_node_object(json_array_get_element(list, i));
        if (cpu) {
            int64_t pair[2] = {ff_json_int(cpu, "cpu-index", 0), ff_json_int(cpu, "thread-id", 0)};
            g_array_append_val(cpus, pair);
        }
    }
    g_array_sort(cpus, compare_index);
    for (guint i = 0; i < cpus->len; i++) {
        int32_t tid = ((int64_t *)(void *)cpus->data)[2 * i + 1];
        g_array_append_val(threads, tid);
    }
    return threads;
}

static GPtrArray *inner_blocks(FfVmmMemory *memory)
{
    return ff_inner_of_memory(memory)->blocks;
}

char *ff_inner_machine_name(JsonNode *answer)
{
    static const char suffix[] = "-machine";
    const char *type =
        JSON_NODE_HOLDS_VALUE(answer) && json_node_get_value_type(answer) == G_TYPE_STRING
            ? json_node_get_string(answer)
            : NULL;

    if (!type || !g_str_has_suffix(type, suffix)) {
        return NULL;
    }
    return g_strndup(type, strlen(type) - strlen(suffix));
}

static char *inner_machine(FfVmmState *state)
{
    FfInner *inner = ff_inner_of_state(state);

    if (!inner->machine) {
        g_autoptr(JsonNode) args = json_from_string(FF_INNER_MACHINE_ARGS, NULL);
        g_autoptr(JsonNode) node =
            ff_inner_call(inner, "qom-get", json_node_dup_object(args), NULL);

        inner->machine = node ? ff_inner_machine_name(node) : NULL;
    }
    return g_strdup(inner->machine);
}

static void block_free(void *data)
{
    FfRamBlock *block = data;
    g_free(block->id);
    g_free(block);
}

FfVmm *ff_inner_new(const FfInnerConfig *config)
{
    FfInner *inner = g_new0(FfInner, 1);

    inner->vmm = (FfVmm){
        .run = {.stop = inner_stop,
                .stands = inner_stands,
                .resume = inner_resume,
                .halt = inner_halt,
                .announce = inner_announce,
                .vcpu_threads = inner_vcpu_threads},
        .memory = {.check = ff_inner_check,
                   .blocks = inner_blocks,
                   .untrackable = ff_inner_untrackable,
                   .drain = ff_inner_drain},
        .state = {.prepare = ff_inner_prepare,
                  .unset_tls = ff_inner_unset_tls,
                  .undo = ff_inner_undo,
                  .save = inner_save,
                  .offer = inner_offer,
                  .stop_and_save = inner_stop_and_save,
                  .keep = inner_keep,
                  .forget_kept = ff_inner_forget_kept,
                  .wait_saved = inner_wait_saved,
                  .machine = inner_machine,
                  .load = inner_load,
                  .abandon = inner_abandon,
                  .doom = inner_doom},
    };
    inner->qmp = ff_qmp_client_ref(config->qmp);
    inner->state = config->state;
    inner->blocks = g_ptr_array_new_with_free_func(block_free);
    for (guint i = 0; config->ram && i < config->ram->len; i++) {
        FfRamBlock *copy = g_memdup2(config->ram->pdata[i], sizeof(FfRamBlock));
        copy->id = g_strdup(copy->id);
        copy->gpa = 0;
        g_ptr_array_add(inner->blocks, copy);
    }
    inner->name = g_strdup(config->name ? config->name : "guest");
    inner->qemu_pid = config->qemu_pid;
    inner->cancel = config->cancel ? g_object_ref(config->cancel) : NULL;
    inner->deadline_ms = config->deadline_ms;
    inner->stream = -1;
    ff_mutex_init(&inner->undo_lock);
    return &inner->vmm;
}

void ff_inner_adopt_stream(FfVmm *vmm, int fd)
{
    FfInner *inner = (FfInner *)vmm;

    if (inner->stream >= 0) {
        close(inner->stream);
    }
    inner->stream = fd;
}

void ff_inner_free(FfVmm *vmm)
{
    FfInner *inner = (FfInner *)vmm;

    ff_inner_adopt_stream(vmm, -1);
    g_ptr_array_unref(inner->blocks);
    g_free(inner->name);
    g_free(inner->machine);
    g_free(inner->nested_at_stop);
    g_clear_object(&inner->cancel);
    ff_qmp_client_unref(inner->qmp);
    ff_mutex_clear(&inner->undo_lock);
    g_free(inner);
}
