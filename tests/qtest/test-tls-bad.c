/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Credentials with which no migration can begin: objects that are wrong, and files that have
 * changed since their object was made. The guest continues, and no descriptor is left.
 */
#include <string.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/vm.h"

static char *dir; /* of certs_new_pair() */

static const struct {
    const char *creds, *object, *says;
} bad[] = {
    {"tls9", NULL, "No TLS credentials with id 'tls9'"},
    {"x", "{'qom-type': 'secret', 'id': 'x', 'data': 'hidden words'}",
     "Object with id 'x' is not TLS credentials"},
    {"y", "{'qom-type': 'tls-creds-psk', 'id': 'y', 'dir': '%s/psk-server', 'endpoint': 'server'}",
     "Expected TLS credentials for a client endpoint"},
    {"z",
     "{'qom-type': 'tls-creds-psk', 'id': 'z', 'dir': '%s/psk-client', 'endpoint': 'client', "
     "'priority': 'NORMAL:-AES-128-GCM'}",
     "farfault does not know '-AES-128-GCM'"},
};

static void test_bad(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = "64M"});
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "postcopy-ram", true);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        if (bad[i].object) {
            g_auto(GStrv) parts = g_strsplit(bad[i].object, "%s", 2);
            g_autofree char *args = g_strjoinv(dir, parts);
            qmp_ok(q, "object-add", "%s", args);
        }
        qmp_ok(q, "migrate-set-parameters", "{'tls-creds': '%s'}", bad[i].creds);
        g_autofree char *desc = qmp_error(q, "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
        if (!strstr(desc, bad[i].says)) {
            g_error("%s: %s", bad[i].creds, desc);
        }
    }
    /* An object that is gone is gone for the engine, too. */
    qmp_ok(q, "object-del", "{'id': 'z'}");
    g_autofree char *desc = qmp_error(q, "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    g_assert_cmpstr(desc, ==, "No TLS credentials with id 'z'");
    g_autofree char *log = vm_stderr(vm);
    g_assert_null(strstr(log, "hidden words"));
}

/* Files that have changed since the object was made: QEMU does not look again, the engine does. */
static const struct {
    const char *creds, *file;
    const char *text; /* NULL: the file is gone; "@NAME": a copy of that */
    const char *says;
} rotated[] = {
    {"x", "ca-cert.pem", NULL, "Unable to access credentials "},
    {"x", "ca-cert.pem", "garbage\n", "Cannot load CA certificate"},
    {"x", "ca-cert.pem", "@other-cert.pem", "Our own certificate "},
    {"x", "ca-cert.pem", "@client-cert.pem", "basic constraints do not show a CA"},
    {"x", "client-cert.pem", "", "Cannot load certificate"},
    {"x", "client-key.pem", NULL, "has client-cert.pem without client-key.pem"},
    {"x", "client-key.pem", "@server-key.pem", "key values mismatch"},
    {"p", "keys.psk", NULL, "Unable to access credentials "},
    {"p", "keys.psk", "qemu 00\n", "line 1: expected USERNAME:KEY"},
    {"p", "keys.psk", "qemu:xyz\n", "in hexadecimal"},
    {"p", "keys.psk", "fred:00\n", "Username qemu not found in PSK file"},
};

static void put_file(const char *folder, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    if (!text) {
        g_assert_cmpint(unlink(path), ==, 0);
    } else if (*text == '@') {
        certs_copy(dir, text + 1, folder, name);
    } else {
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
    }
}

static unsigned count_fds(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) d = g_dir_open(path, 0, NULL);
    unsigned n = 0;

    while (d && g_dir_read_name(d)) {
        n++;
    }
    return n;
}

static void test_rotated(void)
{
    const char *why;
    unsigned fds = 0;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) vm = vm_start(&(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = "64M"});
    g_autofree char *x509 = certs_creds(dir, "rotated-x", "ca", "client", false);
    g_autofree char *psk = certs_psk(dir, "rotated-p", "qemu:" CERTS_KEY "\n");
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "postcopy-ram", true);
    qmp_ok(q, "object-add",
           "{'qom-type': 'tls-creds-x509', 'id': 'x', 'dir': '%s', 'endpoint': 'client'}", x509);
    qmp_ok(q, "object-add",
           "{'qom-type': 'tls-creds-psk', 'id': 'p', 'dir': '%s', 'endpoint': 'client'}", psk);
    for (unsigned i = 0; i < G_N_ELEMENTS(rotated); i++) {
        const char *folder = *rotated[i].creds == 'x' ? x509 : psk;
        g_autofree char *path = g_build_filename(folder, rotated[i].file, NULL), *good = NULL;

        g_assert_true(g_file_get_contents(path, &good, NULL, NULL));
        put_file(folder, rotated[i].file, rotated[i].text);
        qmp_ok(q, "migrate-set-parameters", "{'tls-creds': '%s'}", rotated[i].creds);
        g_autofree char *desc = qmp_error(q, "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
        if (!strstr(desc, rotated[i].says)) {
            g_error("%s: %s", rotated[i].file, desc);
        }
        g_assert_null(strstr(desc, CERTS_KEY));
        put_file(folder, rotated[i].file, good);
        unsigned now = count_fds(vm_engine(vm));
        g_assert_cmpuint(now, ==, i ? fds : now);
        fds = now;
    }
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "running");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    dir = certs_new_pair();
    if (!dir) {
        g_print("1..0 # SKIP no openssl command\n");
        return 0;
    }
    certs_ca(dir, "other", "ec");
    g_test_add_func("/tls-bad/objects", test_bad);
    g_test_add_func("/tls-bad/rotated", test_rotated);
    int rc = g_test_run();

    certs_remove(dir);
    g_free(dir);
    return rc;
}
