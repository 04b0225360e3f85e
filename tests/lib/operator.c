/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See operator.h. Errors of commands are no failures: an engine may die under each of them. What
 * is asserted: never two running copies, and a side that ends without having been killed.
 */
#include "tests/lib/operator.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

#define LOOK_MS 250 /* an event may lie in a buffer already: look again */

void operator_init(Operator *o, Vm *s, Vm *d)
{
    *o = (Operator){.s = s, .d = d, .wake = -1};
    o->s_pidfd = pidfd_open(vm_pid(s), 0);
    o->d_pidfd = pidfd_open(vm_pid(d), 0);
}

static bool ended(int pidfd)
{
    return test_wait_readable(pidfd, 0);
}

static int pidfd_of(const Operator *o, const Vm *vm)
{
    return vm == o->s ? o->s_pidfd : o->d_pidfd;
}

/* The answer's "return", or NULL: an error (an engine that died under the command), or no QEMU. */
static JsonObject *ask(Operator *o, Vm *vm, const char *command)
{
    g_autoptr(JsonObject) answer =
        ended(pidfd_of(o, vm)) ? NULL : qmp_call(vm_qmp(vm), command, NULL);

    return answer && json_object_has_member(answer, "return")
               ? json_object_ref(json_object_get_object_member(answer, "return"))
               : NULL;
}

/* The member "status" of COMMAND's answer, or "" (g_free). */
static char *ask_status(Operator *o, Vm *vm, const char *command)
{
    g_autoptr(JsonObject) object = ask(o, vm, command);

    return g_strdup(object ? json_object_get_string_member_with_default(object, "status", "none")
                           : "");
}

char *operator_run_state(Operator *o, Vm *vm)
{
    return ask_status(o, vm, "query-status");
}

bool operator_try(Operator *o, Vm *vm, const char *command, const char *args)
{
    g_autoptr(JsonObject) answer =
        ended(pidfd_of(o, vm)) ? NULL : qmp_call(vm_qmp(vm), command, args ? "%s" : NULL, args);

    if (answer && json_object_has_member(answer, "error")) {
        JsonObject *error = json_object_get_object_member(answer, "error");
        g_print("# %s: %s\n", command, json_object_get_string_member(error, "desc"));
    }
    return answer && json_object_has_member(answer, "return");
}

/* The destination first: a source that runs after it ran is one guest too many. */
static void never_two(Operator *o)
{
    g_autofree char *d = operator_run_state(o, o->d), *s = operator_run_state(o, o->s);

    if (!strcmp(d, "running") && !strcmp(s, "running")) {
        g_error("the guest runs at both sides");
    }
}

/* Where the destination listens, for the source; 0: it does not say. */
static unsigned target(Operator *o)
{
    g_autoptr(JsonObject) info = ask(o, o->d, "query-migrate");

    if (!info || !json_object_has_member(info, "socket-address")) {
        return 0;
    }
    JsonArray *all = json_object_get_array_member(info, "socket-address");
    JsonObject *first = json_array_get_object_element(all, 0);
    unsigned port = atoi(json_object_get_string_member(first, "port"));
    o->source_port = o->port ? o->port(port, o->opaque) : port;
    return o->source_port;
}

void operator_begin(Operator *o, bool switch_at_once)
{
    operator_try(o, o->d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    operator_again(o, switch_at_once);
}

void operator_again(Operator *o, bool switch_at_once)
{
    unsigned port = target(o);

    /* Its engine died: nobody listens there, and the source must find that out. */
    g_autofree char *args = g_strdup_printf("{'uri': 'tcp:127.0.0.1:%u'}", port ? port : 1);
    operator_try(o, o->s, "migrate", args);
    if (switch_at_once) {
        o->switched = operator_try(o, o->s, "migrate-start-postcopy", NULL);
    }
}

static void resume(Operator *o)
{
    g_autofree char *args =
        g_strdup_printf("{'uri': 'tcp:127.0.0.1:%u', 'resume': true}", o->source_port);

    o->recoveries++;
    operator_try(o, o->s, "migrate", args);
}

static bool carried_by_qemu(Operator *o)
{
    g_autoptr(JsonObject) info = ask(o, o->s, "query-migrate");
    JsonObject *own = info && json_object_has_member(info, "x-farfault")
                          ? json_object_get_object_member(info, "x-farfault")
                          : NULL;

    return own && !strcmp(json_object_get_string_member_with_default(own, "engine", ""), "qemu");
}

/* The guest has given up memory that the peer may not have: QEMU itself recovers nothing then. */
static bool released_by_qemu(Operator *o)
{
    return o->release_ram && carried_by_qemu(o);
}

/* A switch of QEMU's own that fails leaves the guest as it stands, in QEMU 7.2: it has not noted
 * that it ran (postcopy_start()). Nothing is lost, and cont brings it back. But the thread that
 * reads the return path may wait to be resumed then, for ever, and QEMU's end for that
 * (migration_shutdown(), pthread_cond_destroy()). */
static void continue_after_qemu(Operator *o)
{
    g_autofree char *state = operator_run_state(o, o->s);

    if (!strcmp(state, "postmigrate") && carried_by_qemu(o)) {
        g_print("# QEMU carried it, and its switch failed: it stands until cont\n");
        g_assert_true(operator_try(o, o->s, "cont", NULL));
        o->s_cannot_quit = true;
        o->d_ended = ended(o->d_pidfd);
    }
}

static void recover(Operator *o)
{
    if (operator_try(o, o->d, "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}") && target(o)) {
        resume(o);
    }
}

void operator_wait(Operator *o)
{
    struct pollfd fds[] = {
        {o->wake, POLLIN, 0},
        {o->s_pidfd, POLLIN, 0},
        {o->d_ended ? -1 : o->d_pidfd, POLLIN, 0},
        {stream_fd(qmp_stream(vm_qmp(o->s))), POLLIN, 0},
        {o->d_ended ? -1 : stream_fd(qmp_stream(vm_qmp(o->d))), POLLIN, 0},
    };
    uint64_t n;

    poll(fds, G_N_ELEMENTS(fds), LOOK_MS);
    if (fds[0].revents) {
        G_GNUC_UNUSED ssize_t got = read(o->wake, &n, sizeof(n));
    }
}

static bool one_of(const char *status, const char *a, const char *b)
{
    return !strcmp(status, a) || !strcmp(status, b);
}

static void note(Operator *o, const char *s, const char *d)
{
    g_autofree char *now = g_strdup_printf("%s / %s%s", s, d, o->d_ended ? " (ended)" : "");

    if (g_strcmp0(now, o->seen)) {
        g_print("# %s\n", now);
        g_free(o->seen);
        o->seen = g_steal_pointer(&now);
    }
}

/* For a person who reads why a run failed. */
static void note_error(Operator *o)
{
    g_autoptr(JsonObject) info = ask(o, o->s, "query-migrate");

    if (info && json_object_has_member(info, "error-desc")) {
        g_print("# error-desc: %s\n", json_object_get_string_member(info, "error-desc"));
    }
}

OperatorEnd operator_look(Operator *o)
{
    g_autofree char *d = ask_status(o, o->d, "query-migrate");
    g_autofree char *s = ask_status(o, o->s, "query-migrate");
    int killed = g_atomic_int_get(&o->qemu_killed);

    o->d_ended = ended(o->d_pidfd);
    note(o, s, d);
    if (ended(o->s_pidfd)) {
        g_assert_true(killed & 1);
        /* Its pages are lost with it, unless they are all there. */
        return !strcmp(d, "completed") ? OPERATOR_DESTINATION
               : o->d_ended || *d      ? OPERATOR_LOST
                                       : OPERATOR_GO_ON;
    }
    if (one_of(s, "failed", "cancelled")) {
        note_error(o);
        continue_after_qemu(o);
        return OPERATOR_SOURCE;
    }
    if (!strcmp(d, "completed") && one_of(s, "completed", "postcopy-paused")) {
        return OPERATOR_DESTINATION;
    }
    if (o->d_ended && !strcmp(s, "completed")) {
        /* All pages were there, and it ended before its own "completed" was seen. */
        g_assert_true(killed & 2);
        return OPERATOR_LOST;
    }
    if (o->d_ended && !strcmp(s, "postcopy-paused")) {
        /* QEMU's destination ends when the connection breaks between migrate-start-postcopy and its
         * "postcopy-active", and its source has given the guest away then. */
        if (!(killed & 2) && carried_by_qemu(o)) {
            g_print("# QEMU carried it, and the connection broke in its switch\n");
            return OPERATOR_LOST;
        }
        g_assert_true(killed & 2);
        return OPERATOR_LOST;
    }
    if (o->d_ended && !strcmp(s, "postcopy-active") && carried_by_qemu(o)) {
        /* Where one direction of the connection is cut QEMU's source waits for ever. */
        operator_try(o, o->s, "migrate-pause", NULL);
    }
    if (!strcmp(s, "active") && !o->switched) {
        o->switched = operator_try(o, o->s, "migrate-start-postcopy", NULL);
    }
    if (!strcmp(s, "postcopy-paused") && !strcmp(d, "postcopy-paused")) {
        if (released_by_qemu(o)) {
            g_print("# QEMU carried it, with release-ram: it cannot be recovered\n");
            return OPERATOR_LOST;
        }
        recover(o);
    }
    never_two(o);
    return OPERATOR_GO_ON;
}

OperatorEnd operator_run(Operator *o)
{
    OperatorEnd end;

    while ((end = operator_look(o)) == OPERATOR_GO_ON) {
        operator_wait(o);
    }
    never_two(o);
    return end;
}

static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&a, &len), ==, 0);
    close(fd);
    return ntohs(a.sin_port);
}

void operator_finish_source(Operator *o)
{
    for (;;) {
        g_autofree char *s = ask_status(o, o->s, "query-migrate");
        if (!strcmp(s, "completed")) {
            return;
        }
        if (!strcmp(s, "postcopy-paused")) {
            /* A completed destination does not say where it listens. */
            unsigned port = free_port();
            g_autofree char *uri = g_strdup_printf("{'uri': 'tcp:127.0.0.1:%u'}", port);
            if (operator_try(o, o->d, "migrate-recover", uri)) {
                o->source_port = o->port ? o->port(port, o->opaque) : port;
                resume(o);
            }
        }
        operator_wait(o);
    }
}

void operator_check_guest(Operator *o, OperatorEnd end, const BootsectConfig *boot, uint64_t ram)
{
    Vm *vm = end == OPERATOR_SOURCE ? o->s : o->d;
    g_autofree char *state = operator_run_state(o, vm);

    g_assert_cmpstr(state, ==, "running");
    vm_wait_works(vm);
    if (end == OPERATOR_DESTINATION) {
        operator_finish_source(o);
    }
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, boot));
    if (end == OPERATOR_DESTINATION) {
        check_right(check_moved(o->s, o->d, boot, ram));
    }
}

static void end_vm(Vm *vm, int pidfd, bool by_force)
{
    if (by_force && !ended(pidfd)) {
        kill(vm_pid(vm), SIGKILL);
    }
    if (by_force || ended(pidfd)) {
        vm_wait_exit(vm);
    }
    vm_end(vm);
    close(pidfd);
}

void operator_end(Operator *o, OperatorEnd end)
{
    end_vm(o->d, o->d_pidfd, end != OPERATOR_DESTINATION);
    end_vm(o->s, o->s_pidfd, end != OPERATOR_SOURCE || o->s_cannot_quit);
    g_free(o->seen);
}
