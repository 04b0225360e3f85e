/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault metrics beside real guests: what it says of a migration, a snapshot and a restore is
 * what query-migrate says, at both ends, while it is under way and after it; over HTTP as well.
 *
 * Other guests of this host are on the page too: samples are found by pid.
 */
#include <gio/gio.h>
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/metricstext.h"
#include "tests/lib/move.h"

#define RAM_MIB 64
#define RAM ((uint64_t)RAM_MIB << 20)

static const char *const args[] = {
    "-machine", "pc", "-smp", "2", "-uuid", "c7a5fdbd-edaf-9455-926a-d65c16db1809", NULL};

static Vm *start(const BootsectConfig *boot, const char *incoming)
{
    return vm_start(&(VmConfig){.name = "metered",
                                .launcher = VM_RUN,
                                .memory = G_STRINGIFY(RAM_MIB) "M",
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

/* What the command prints; right by the checker, and by promtool if there is one. */
static char *metrics(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;
    char *argv[] = {farfault, (char *)"metrics", NULL};
    char *out = NULL;
    bool there;
    int status;

    g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, NULL, &status, &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    g_autofree char *wrong = metrics_check(out, false);
    g_assert_cmpstr(wrong, ==, NULL);
    g_autofree char *said = metrics_promtool(out, &there);
    g_assert_cmpstr(said, ==, NULL);
    return out;
}

/* NAME{domain="metered",pid="...",LABELS}; LABELS can be empty. */
static char *series(Vm *vm, const char *name, const char *labels)
{
    return g_strdup_printf("%s{domain=\"metered\",pid=\"%d\"%s%s}", name, (int)vm_pid(vm),
                           *labels ? "," : "", labels);
}

static double value(const char *text, Vm *vm, const char *name, const char *labels)
{
    g_autofree char *s = series(vm, name, labels);

    return metrics_value(text, s);
}

static int64_t number(JsonObject *info, const char *name)
{
    JsonObject *x = json_object_get_object_member(info, "x-farfault");

    return json_object_get_int_member(x, name);
}

/* All that the histogram of query-migrate counts. */
static int64_t waits(JsonObject *info)
{
    JsonArray *list = json_object_get_array_member(
        json_object_get_object_member(info, "x-farfault"), "latency-us");
    int64_t sum = 0;

    for (guint i = 0; i < json_array_get_length(list); i++) {
        sum += json_array_get_int_element(json_array_get_array_element(list, i), 1);
    }
    return sum;
}

/* KIND is the only thing that VM's engine has carried. */
static void check_numbers(const char *text, Vm *vm, const char *kind)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    g_autofree char *label = g_strdup_printf("kind=\"%s\"", kind);
    g_autofree char *good = g_strdup_printf("kind=\"%s\",result=\"completed\"", kind);
    g_autofree char *bad = g_strdup_printf("kind=\"%s\",result=\"failed\"", kind);
    g_autofree char *bulk = g_strdup_printf("kind=\"%s\",way=\"bulk\"", kind);
    g_autofree char *urgent = g_strdup_printf("kind=\"%s\",way=\"urgent\"", kind);
    g_autofree char *runs = series(vm, "farfault_operation_running", "kind");

    *strstr(runs, ",kind") = 0;
    g_assert_cmpfloat(value(text, vm, "farfault_operations_total", good), ==, 1);
    g_assert_cmpfloat(value(text, vm, "farfault_operations_total", bad), ==, 0);
    g_assert_cmpfloat(value(text, vm, "farfault_transferred_bytes_total", label), ==,
                      number(info, "bytes-wire"));
    g_assert_cmpfloat(value(text, vm, "farfault_pages_total", bulk), ==,
                      number(info, "pages-bulk"));
    g_assert_cmpfloat(value(text, vm, "farfault_pages_total", urgent), ==,
                      number(info, "pages-urgent"));
    g_assert_cmpfloat(value(text, vm, "farfault_zero_pages_total", label), ==,
                      number(info, "pages-zero"));
    g_assert_cmpfloat(value(text, vm, "farfault_fault_latency_seconds_count", label), ==,
                      waits(info));
    g_assert_cmpfloat(value(text, vm, "farfault_pauses_total", label), ==, 0);
    g_assert_cmpfloat(value(text, vm, "farfault_guest_relay_up", ""), ==, 1);
    g_assert_false(metrics_has(text, runs));
    bool stood = strcmp(kind, "incoming") && strcmp(kind, "restore"); /* the guest, here */
    g_assert_true(json_object_has_member(info, "downtime") == stood);
    if (stood) {
        double ms = 1000 * value(text, vm, "farfault_stopped_seconds_total", label);
        g_assert_cmpfloat_with_epsilon(ms, json_object_get_int_member(info, "downtime"), 0.001);
    } else {
        /* Else a sum over both sides has it twice. */
        g_assert_cmpfloat(value(text, vm, "farfault_stopped_seconds_total", label), ==, 0);
    }
}

static void test_migration(void)
{
    const char *why;
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) source = start(&boot, NULL);
    g_autoptr(Vm) destination = start(&boot, "defer");

    vm_wait_serial(source, "AB");
    move_prepare(source, destination);
    g_autofree char *before = metrics();
    g_assert_cmpfloat(value(before, source, "farfault_guest_info",
                            "uuid=\"c7a5fdbd-edaf-9455-926a-d65c16db1809\""),
                      ==, 1);
    g_assert_cmpfloat(value(before, source, "farfault_operations_total",
                            "kind=\"outgoing\",result=\"completed\""),
                      ==, 0);
    g_autofree char *uri = move_listen(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(source), "active");
    g_autofree char *meanwhile = metrics();
    g_assert_cmpfloat(value(meanwhile, source, "farfault_operation_running",
                            "kind=\"outgoing\",status=\"active\""),
                      ==, 1);
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    move_check_guest(source, destination, &boot, RAM);
    g_autofree char *after = metrics();
    check_numbers(after, source, "outgoing");
    check_numbers(after, destination, "incoming");
}

static void test_saved(void)
{
    const char *why;
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 16 << 20, 2);
    g_autoptr(Vm) saved = start(&boot, NULL);
    g_autoptr(Vm) restored = start(&boot, "defer");
    g_autofree char *path = vm_path(saved, "file");

    vm_wait_serial(saved, "AB");
    qmp_set_capability(vm_qmp(saved), "events", true);
    qmp_set_capability(vm_qmp(restored), "events", true);
    qmp_ok(vm_qmp(saved), "x-farfault-snapshot", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(saved), "completed");
    qmp_ok(vm_qmp(restored), "x-farfault-restore", "{'file': '%s'}", path);
    qmp_expect_migration(vm_qmp(restored), "completed");
    g_autofree char *text = metrics();
    check_numbers(text, saved, "snapshot");
    check_numbers(text, restored, "restore");
}

/* ---- over HTTP ------------------------------------------------------------------------------- */

/* The answer to REQUEST from the server at ADDRESS, up to its end (g_free). */
static char *ask(const char *address, const char *request)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocketConnection) c =
        g_socket_client_connect_to_host(client, address, 0, NULL, &error);
    g_autoptr(GString) text = g_string_new(NULL);
    char buf[4096];
    gssize n;

    g_assert_no_error(error);
    g_output_stream_write_all(g_io_stream_get_output_stream(G_IO_STREAM(c)), request,
                              strlen(request), NULL, NULL, &error);
    g_assert_no_error(error);
    while ((n = g_input_stream_read(g_io_stream_get_input_stream(G_IO_STREAM(c)), buf, sizeof(buf),
                                    NULL, &error)) > 0) {
        g_string_append_len(text, buf, n);
    }
    g_assert_no_error(error);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* Clients that say nothing keep nobody else from an answer for ever; a port in use is an error. */
static void test_listen(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GError) error = NULL;
    g_autoptr(GSubprocess) server = g_subprocess_new(G_SUBPROCESS_FLAGS_STDERR_PIPE, &error,
                                                     farfault, "metrics", "--listen", "0", NULL);
    g_assert_no_error(error);
    g_autoptr(GDataInputStream) err = g_data_input_stream_new(g_subprocess_get_stderr_pipe(server));
    g_autofree char *line = g_data_input_stream_read_line(err, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(g_str_has_prefix(line, "farfault: metrics at http://127.0.0.1:"));
    g_autofree char *address = g_strdup(line + strlen("farfault: metrics at http://"));
    *strchr(address, '/') = 0;

    g_autofree char *text = ask(address, "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    g_assert_true(g_str_has_prefix(text, "HTTP/1.1 200 OK\r\n"));
    g_autofree char *wrong = metrics_check(strstr(text, "\r\n\r\n") + 4, false);
    g_assert_cmpstr(wrong, ==, NULL);
    g_autofree char *open =
        ask(address, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n");
    g_autofree char *wrong_open = metrics_check(strstr(open, "\r\n\r\n") + 4, true);
    g_assert_cmpstr(wrong_open, ==, NULL);

    GSocketConnection *mute[20];
    g_autoptr(GSocketClient) client = g_socket_client_new();
    for (unsigned i = 0; i < G_N_ELEMENTS(mute); i++) {
        mute[i] = g_socket_client_connect_to_host(client, address, 0, NULL, &error);
        g_assert_no_error(error);
    }
    g_autofree char *late = ask(address, "GET /metrics HTTP/1.0\r\n\r\n");
    g_assert_true(g_str_has_prefix(late, "HTTP/1.1 200 OK\r\n"));
    for (unsigned i = 0; i < G_N_ELEMENTS(mute); i++) {
        g_object_unref(mute[i]);
    }

    g_autofree char *said = NULL;
    g_autoptr(GSubprocess) second = g_subprocess_new(
        G_SUBPROCESS_FLAGS_STDERR_PIPE, &error, farfault, "metrics", "--listen", address, NULL);
    g_assert_no_error(error);
    g_subprocess_communicate_utf8(second, NULL, NULL, NULL, &said, &error);
    g_assert_no_error(error);
    g_assert_cmpint(g_subprocess_get_exit_status(second), ==, 1);
    g_assert_nonnull(strstr(said, "cannot listen at"));
    g_subprocess_send_signal(server, 15);
    g_subprocess_wait(server, NULL, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/metrics-guests/migration", test_migration);
    g_test_add_func("/metrics-guests/saved", test_saved);
    g_test_add_func("/metrics-guests/listen", test_listen);
    return g_test_run();
}
