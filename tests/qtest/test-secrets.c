/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is secret is not left behind: after a migration under TLS neither a passphrase that came
 * over QMP in the clear nor a shared key is found in the memory of relay or engine, or in a log.
 * That the search works is shown by QEMU, which keeps the passphrase.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define PASSPHRASE "Korrektes-Pferd-Batterie-7731"
#define CHUNK (1 << 20)

static char *dir;

/* ---- looking into a process ------------------------------------------------------------------ */

static unsigned count_in(const char *buf, size_t n, const char *text)
{
    unsigned found = 0;

    for (const char *at = buf; (at = memmem(at, n - (at - buf), text, strlen(text))); at++)
        found++;
    return found;
}

/* How often TEXT stands in the private writable memory of PID. */
static unsigned count_in_process(pid_t pid, const char *text)
{
    g_autofree char *maps_path = g_strdup_printf("/proc/%d/maps", pid);
    g_autofree char *mem_path = g_strdup_printf("/proc/%d/mem", pid);
    g_autofree char *maps = NULL, *buf = g_malloc(CHUNK);
    int mem = open(mem_path, O_RDONLY | O_CLOEXEC);
    unsigned found = 0;

    g_assert_cmpint(mem, >=, 0);
    g_assert_true(g_file_get_contents(maps_path, &maps, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        unsigned long from, to;
        char mode[5];

        if (sscanf(lines[i], "%lx-%lx %4s", &from, &to, mode) != 3 || strcmp(mode, "rw-p"))
            continue;
        /* Pieces overlap, so that none of their borders hides it. */
        for (unsigned long at = from; at < to; at += CHUNK - strlen(text)) {
            ssize_t n = pread(mem, buf, MIN(CHUNK, to - at), (off_t)at);

            if (n > 0)
                found += count_in(buf, (size_t)n, text);
        }
    }
    close(mem);
    return found;
}

static pid_t parent_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    int parent = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(sscanf(strrchr(text, ')'), ") %*c %d", &parent), ==, 1);
    return parent;
}

static void check_clean(Vm *vm, const char *secret)
{
    /* It stays a while longer. */
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    pid_t engine = vm_engine(vm), relay = parent_of(engine);
    g_autofree char *log = vm_stderr(vm);
    unsigned in_relay = count_in_process(relay, secret);
    unsigned in_engine = count_in_process(engine, secret);

    g_assert_null(strstr(log, secret));
    if (in_relay || in_engine)
        test_fail("\"%s\" is left %u times in the relay, %u times in the engine", secret, in_relay,
                  in_engine);
}

/* ---- a migration ----------------------------------------------------------------------------- */

static void test_clean(gconstpointer data)
{
    bool psk = data;
    const char *secret = psk ? CERTS_KEY : PASSPHRASE, *kind = psk ? "psk" : "x509";
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(16 << 20, 0, 1);
    g_autoptr(Vm) source =
        vm_start(&(VmConfig){.name = "source", .launcher = VM_RUN, .memory = "16M", .boot = &boot});
    g_autoptr(Vm) destination = vm_start(&(VmConfig){.name = "destination",
                                                     .launcher = VM_RUN,
                                                     .memory = "16M",
                                                     .boot = &boot,
                                                     .incoming = "defer"});
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    if (!psk) {
        qmp_ok(s, "object-add", "{'qom-type': 'secret', 'id': 'pass', 'data': '" PASSPHRASE "'}");
        g_assert_cmpuint(count_in_process(vm_pid(source), PASSPHRASE), >, 0);
        check_clean(source, PASSPHRASE);
    }
    move_set_tls(source, dir, kind, false, psk ? NULL : "pass");
    move_set_tls(destination, dir, kind, true, NULL);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    check_clean(source, secret);
    check_clean(destination, secret);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    dir = certs_new_pair();
    if (!dir) {
        g_print("1..0 # SKIP no openssl command\n");
        return 0;
    }
    certs_openssl(dir, "pkey -in client-key.pem -aes256 -passout pass:" PASSPHRASE
                       " -out x509-client/client-key.pem");
    g_test_add_data_func("/secrets/passphrase", NULL, test_clean);
    g_test_add_data_func("/secrets/psk", GINT_TO_POINTER(1), test_clean);
    int rc = g_test_run();

    certs_remove(dir);
    g_free(dir);
    return rc;
}
