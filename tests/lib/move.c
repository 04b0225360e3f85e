/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The steps that all tests of a migration share. One thread.
 */
#include "tests/lib/move.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/check.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* Bytes per second before the switch. */
#define PRECOPY_BANDWIDTH "8388608"

bool move_stock(void)
{
    return g_strcmp0(g_getenv("FF_TEST_STOCK"), "1") == 0;
}

void move_prepare(Vm *source, Vm *destination)
{
    Vm *both[] = {source, destination};
    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        qmp_set_capability(vm_qmp(both[i]), "events", true);
        qmp_set_capability(vm_qmp(both[i]), "postcopy-ram", true);
    }
    qmp_ok(vm_qmp(source), "migrate-set-parameters", "{'max-bandwidth': " PRECOPY_BANDWIDTH "}");
}

void move_set_tls(Vm *vm, const char *dir, const char *kind, bool server, const char *passwordid)
{
    const char *side = server ? "server" : "client";
    bool x509 = !strcmp(kind, "x509");
    g_autofree char *password =
        passwordid ? g_strdup_printf(", 'passwordid': '%s'", passwordid) : NULL;

    qmp_ok(vm_qmp(vm), "object-add",
           "{'qom-type': 'tls-creds-%s', 'id': 'tls0', 'dir': '%s/%s-%s', 'endpoint': '%s'%s%s}",
           kind, dir, kind, side, side, x509 ? ", 'verify-peer': true" : "",
           password ? password : "");
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'tls-creds': 'tls0'}");
    if (x509 && !server)
        qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'tls-hostname': '" CERTS_HOST "'}");
}

char *move_listen_uri(Vm *destination)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(destination), "query-migrate", NULL);
    if (!json_object_has_member(info, "socket-address"))
        test_fail("the destination does not say where it listens");
    JsonArray *all = json_object_get_array_member(info, "socket-address");
    JsonObject *first = json_array_get_object_element(all, 0);
    const char *host = json_object_get_string_member(first, "host");
    g_assert_cmpstr(json_object_get_string_member(first, "type"), ==, "inet");
    return g_strdup_printf(strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
                           json_object_get_string_member(first, "port"));
}

char *move_listen(Vm *destination)
{
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    return move_listen_uri(destination);
}

void move_begin_unheard(Vm *source, const char *uri, bool switch_at_once)
{
    g_autofree char *text =
        g_strdup_printf("{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"%s\"}}\n%s", uri,
                        switch_at_once ? "{\"execute\": \"migrate-start-postcopy\"}\n" : "");

    stream_send(qmp_stream(vm_qmp(source)), text, strlen(text), NULL, 0);
}

void move_wait_completed(Vm *source, Vm *destination)
{
    qmp_expect_migration(vm_qmp(source), "completed");
    qmp_expect_migration(vm_qmp(destination), "completed");
}

void move_check_guest(Vm *source, Vm *destination, const BootsectConfig *boot, uint64_t ram)
{
    vm_wait_works(destination);
    qmp_ok(vm_qmp(destination), "stop", NULL);
    check_right(check_moved(source, destination, boot, ram));
}

int64_t move_ram_count(Vm *source, const char *name)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    if (!json_object_has_member(info, "ram"))
        return 0;
    return json_object_get_int_member(json_object_get_object_member(info, "ram"), name);
}

bool move_await_count(Vm *source, const char *name, int64_t n)
{
    while (move_ram_count(source, name) < n) {
        g_autofree char *status = qmp_migrate_status(vm_qmp(source));

        if (!strcmp(status, "completed") || !strcmp(status, "failed"))
            return false;
    }
    return true;
}

char *move_check_counts(Vm *source, uint64_t ram)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    const char *status = json_object_get_string_member_with_default(info, "status", "none");
    if (strcmp(status, "completed"))
        return g_strdup_printf("query-migrate says \"%s\" at the end", status);
    if (!json_object_has_member(info, "ram"))
        return g_strdup("query-migrate has no \"ram\"");
    JsonObject *counts = json_object_get_object_member(info, "ram");
    int64_t remaining = json_object_get_int_member(counts, "remaining");
    if (remaining)
        return g_strdup_printf("%" G_GINT64_FORMAT " bytes remain at the end", remaining);
    if (!ram)
        return NULL;
    int64_t total = json_object_get_int_member(counts, "total");
    int64_t pages = total / json_object_get_int_member(counts, "page-size");
    int64_t sent = json_object_get_int_member(counts, "normal") +
                   json_object_get_int_member(counts, "duplicate");
    /* Precopy may have sent some more than once. */
    if (total < (int64_t)ram || sent < pages)
        return g_strdup_printf("%" G_GINT64_FORMAT " pages were sent of %" G_GINT64_FORMAT
                               " (total %" G_GINT64_FORMAT " bytes)",
                               sent, pages, total);
    return NULL;
}

char *move_check_summary(Vm *vm)
{
    qmp_ok(vm_qmp(vm), "quit", NULL);
    int status = vm_wait_exit(vm);
    g_autofree char *text = vm_stderr(vm);
    if (status)
        return g_strdup_printf("QEMU ended with status %d: %s", status, text);
    if (!strstr(text, "farfault: migration"))
        return g_strdup_printf("no summary in stderr: \"%s\"", text);
    return NULL;
}

/* ---- a whole one ----------------------------------------------------------------------------- */

static Vm *side(const Move *m, bool incoming)
{
    return vm_start(&(VmConfig){.name = incoming ? "destination" : "source",
                                .launcher = VM_RUN,
                                .qemu = m->qemu,
                                .memory = m->sections ? NULL : m->memory,
                                .sections = m->sections,
                                .args = (const char *const *)m->args->pdata,
                                .boot = m->has_ring3 ? NULL : &m->boot,
                                .ring3 = m->has_ring3 ? &m->ring3 : NULL,
                                .incoming = incoming ? "defer" : NULL});
}

Move *move_new(const MoveConfig *config)
{
    const MoveConfig c = config ? *config : (MoveConfig){0};
    const char *why;

    if (!vm_farfault_available(&why) ||
        (c.ring3 && !ring3_available(c.ring3->accel, c.qemu, &why))) {
        g_test_skip(why);
        return NULL;
    }
    Move *m = g_new0(Move, 1);
    unsigned mib = c.mib ? c.mib : 64, n_cpus = c.n_cpus ? c.n_cpus : 1;

    m->ram = (uint64_t)mib << 20;
    if (c.ring3) {
        m->has_ring3 = true;
        m->ring3 = *c.ring3;
        n_cpus = c.ring3->n_cpus ? c.ring3->n_cpus : 1;
    }
    m->boot = bootsect_config(m->ram, 0, n_cpus);
    m->qemu = g_strdup(c.qemu);
    m->sections = c.sections;
    m->memory = g_strdup_printf("%uM", mib);
    m->args = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(m->args, g_strdup("-smp"));
    g_ptr_array_add(m->args, g_strdup_printf("%u", n_cpus));
    for (unsigned i = 0; c.devices && c.devices[i]; i++) {
        g_ptr_array_add(m->args, g_strdup(c.devices[i]));
    }
    g_ptr_array_add(m->args, NULL);
    m->source = side(m, false);
    m->destination = side(m, true);
    vm_wait_ready(m->source);
    move_prepare(m->source, m->destination);
    if (c.bandwidth) {
        qmp_ok(vm_qmp(m->source), "migrate-set-parameters",
               "{'max-bandwidth': %" G_GUINT64_FORMAT "}", c.bandwidth);
    }
    return m;
}

void move_start(Move *m)
{
    g_autofree char *uri = move_listen(m->destination);

    qmp_ok(vm_qmp(m->source), "migrate", "{'uri': '%s'}", uri);
}

void move_switch(Move *m)
{
    qmp_ok(vm_qmp(m->source), "migrate-start-postcopy", NULL);
}

void move_cancel(Move *m)
{
    qmp_expect_migration(vm_qmp(m->destination), "active"); /* else it would continue to listen */
    qmp_ok(vm_qmp(m->source), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(m->source), "cancelled");
    vm_wait_works(m->source);
    g_assert_cmpint(vm_wait_exit(m->destination), ==, 1);
    vm_end(m->destination);
    m->destination = side(m, true);
    move_prepare(m->source, m->destination);
}

void move_finish(Move *m)
{
    move_wait_completed(m->source, m->destination);
    move_check_guest(m->source, m->destination, &m->boot, m->ram);
    check_right(move_check_counts(m->source, m->ram));
    vm_end(m->source);
    vm_end(m->destination);
    g_ptr_array_unref(m->args);
    g_free(m->memory);
    g_free(m->qemu);
    g_free(m);
}

/* ---- after a migration that has failed ------------------------------------------------------- */

static bool can_be_yanked(Qmp *q)
{
    g_autoptr(JsonObject) answer = qmp_call(q, "query-yank", NULL);
    JsonArray *list = json_object_get_array_member(answer, "return");

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *instance = json_array_get_object_element(list, i);
        if (!strcmp(json_object_get_string_member(instance, "type"), "migration")) {
            return true;
        }
    }
    return false;
}

/* The thread that reads QEMU's return path, by its name; 0: it has ended. */
static pid_t return_path(Vm *vm)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%d/task", vm_pid(vm));
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *tid;

    g_assert_nonnull(dir);
    while ((tid = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("%s/%s/comm", tasks, tid), *name = NULL;
        if (g_file_get_contents(path, &name, NULL, NULL) && !strcmp(name, "return path\n")) {
            return (pid_t)g_ascii_strtoll(tid, NULL, 10);
        }
    }
    return 0;
}

void move_await_cleanup(Vm *vm)
{
    int64_t deadline = test_deadline(60);
    pid_t tid;

    while (can_be_yanked(vm_qmp(vm))) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    while ((tid = return_path(vm))) {
        struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD),
                             .events = POLLIN};

        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        if (end.fd >= 0) {
            g_assert_cmpint(poll(&end, 1, 60000), ==, 1);
            close(end.fd);
        }
    }
}
