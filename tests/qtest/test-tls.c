/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Postcopy under TLS between two real QEMUs, with the objects and parameters that QEMU's own
 * tests use; sides that do not fit; and the text of a certificate's subject, compared with what
 * stock QEMU sees.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "net/creds.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM_MIB 64
#define KEY "000102030405060708090a0b0c0d0e0f"

static char *dir;

typedef enum {
    NONE,
    PSK,
    PSK_OTHER,
    X509,
    X509_PASSWORD,
    X509_NO_CERT,
    X509_OTHER_CA, /* trusts another */
    X509_REVOKED,  /* the client's certificate has been; X509_CRL knows it */
    X509_CRL,
    X509_EXPIRED,
    ANON
} Creds;

typedef struct {
    const char *name;
    Creds source, destination;
    const char *hostname; /* tls-hostname; NULL: not set */
    const char *authz;    /* identity that may come in; NULL: not set */
    bool by_unix;
    bool argument;     /* objects on the command line, -incoming URI */
    bool no_verify;    /* verify-peer of the server */
    const char *fails; /* what the source's query-migrate says then; NULL: it succeeds */
    bool ends;         /* the destination's QEMU, with status 1; else it waits on */
} Row;

static const Row rows[] = {
    {"psk/tcp", PSK, PSK},
    {"psk/unix", PSK, PSK, .by_unix = true},
    {"psk/argument", PSK, PSK, .argument = true},
    {"x509/tcp", X509, X509},
    {"x509/unix/hostname", X509, X509, .hostname = "dest.example.org", .by_unix = true},
    {"x509/argument", X509, X509, .argument = true},
    {"x509/authz", X509, X509, .authz = "O=Example,CN=client.example.org"},
    {"x509/passwordid", X509_PASSWORD, X509},
    {"x509/no-verify", X509_NO_CERT, X509, .no_verify = true},
    {"fail/psk/keys", PSK, PSK_OTHER, .fails = "the keys differ"},
    {"fail/x509/hostname", X509, X509, .hostname = "wrong.example.org",
     .fails = "Certificate does not match the hostname wrong.example.org", .ends = true},
    {"fail/x509/hostname/no-verify", X509_NO_CERT, X509, .hostname = "wrong.example.org",
     .no_verify = true, .fails = "Certificate does not match the hostname wrong.example.org"},
    {"fail/x509/unix", X509, X509, .by_unix = true,
     .fails = "No hostname for certificate validation", .ends = true},
    {"fail/x509/authz", X509, X509, .authz = "O=Example,CN=other", .fails = "not authorised"},
    {"fail/x509/no-cert", X509_NO_CERT, X509, .fails = "requires a certificate of this side"},
    {"fail/x509/ca", X509_OTHER_CA, X509, .fails = "The certificate hasn't got a known issuer"},
    {"fail/x509/revoked", X509_REVOKED, X509_CRL, .fails = "certificate has been revoked"},
    {"fail/x509/expired", X509, X509_EXPIRED, .fails = "The certificate has expired"},
    {"fail/source-only", PSK, NONE, .fails = "set tls-creds on both sides"},
    {"fail/destination-only", NONE, X509, .fails = "this side has no tls-creds"},
    {"fail/kinds", PSK, X509, .fails = "TLS"},
};

/* ---- objects --------------------------------------------------------------------------------- */

static const char *folder(Creds creds, bool server)
{
    switch (creds) {
    case PSK:
        return "psk";
    case PSK_OTHER:
        return "psk-other";
    case X509_PASSWORD:
        return "client-password";
    case X509_NO_CERT:
        return "none";
    case X509_OTHER_CA:
        return "client-other-ca";
    case X509_REVOKED:
        return "client-revoked";
    case X509_CRL:
        return "server-crl";
    case X509_EXPIRED:
        return "server-expired";
    default:
        return server ? "server" : "client";
    }
}

/* The objects of one side, as JSON with single quotes; each g_free. */
static GPtrArray *objects(const Row *row, bool server)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(g_free);
    Creds creds = server ? row->destination : row->source;
    const char *type = creds == ANON                        ? "tls-creds-anon"
                       : creds == PSK || creds == PSK_OTHER ? "tls-creds-psk"
                                                            : "tls-creds-x509";
    bool x509 = !strcmp(type, "tls-creds-x509");
    const char *verify = x509 && !(server && row->no_verify) ? "true" : "false";

    if (creds == X509_PASSWORD) {
        g_ptr_array_add(list, g_strdup("{'qom-type': 'secret', 'id': 'pass', 'data': "
                                       "'bGV0IG1lIGlu', 'format': 'base64'}"));
    }
    if (server && row->authz) {
        g_ptr_array_add(list, g_strdup_printf("{'qom-type': 'authz-simple', 'id': 'authz0', "
                                              "'identity': '%s'}",
                                              row->authz));
    }
    g_ptr_array_add(list, g_strdup_printf("{'qom-type': '%s', 'id': 'tls0', 'dir': '%s/%s', "
                                          "'endpoint': '%s', 'verify-peer': %s%s%s}",
                                          type, dir, folder(creds, server),
                                          server ? "server" : "client", verify,
                                          !x509 ? ""
                                          : creds == X509_EXPIRED || creds == X509_OTHER_CA
                                              ? ", 'sanity-check': false"
                                              : ", 'sanity-check': true",
                                          creds == X509_PASSWORD ? ", 'passwordid': 'pass'" : ""));
    return list;
}

static void set_parameters(const Row *row, Vm *vm, bool server)
{
    g_autoptr(GPtrArray) list = objects(row, server);
    Qmp *q = vm_qmp(vm);

    if ((server ? row->destination : row->source) == NONE) {
        return;
    }
    for (guint i = 0; !row->argument && i < list->len; i++) {
        qmp_ok(q, "object-add", "%s", (char *)list->pdata[i]);
    }
    qmp_ok(q, "migrate-set-parameters", "{'tls-creds': 'tls0'}");
    if (server && row->authz) {
        qmp_ok(q, "migrate-set-parameters", "{'tls-authz': 'authz0'}");
    }
    if (!server && row->hostname) {
        qmp_ok(q, "migrate-set-parameters", "{'tls-hostname': '%s'}", row->hostname);
    }
}

static Vm *start_vm(const Row *row, bool server, const BootsectConfig *boot, const char *incoming)
{
    g_autoptr(GPtrArray) list = objects(row, server);
    g_autoptr(GPtrArray) args = g_ptr_array_new();

    for (guint i = 0; row->argument && i < list->len; i++) {
        g_ptr_array_add(args, "-object");
        g_ptr_array_add(args, g_strdelimit(list->pdata[i], "'", '"'));
    }
    g_ptr_array_add(args, NULL);
    g_autofree char *memory = g_strdup_printf("%uM", RAM_MIB);
    return vm_start(&(VmConfig){.name = server ? "destination" : "source",
                                .launcher = VM_RUN,
                                .memory = memory,
                                .args = (const char *const *)args->pdata,
                                .boot = boot,
                                .incoming = incoming});
}

/* ---- one move -------------------------------------------------------------------------------- */

static void succeed(Vm *source, Vm *destination, const BootsectConfig *boot)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect(d, "RESUME");
    move_wait_completed(source, destination);
    g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
    g_assert_true(json_object_has_member(info, "x-farfault"));
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_counters(destination, boot);
    g_assert_cmpstr(wrong, ==, NULL);
    g_autofree char *differs = check_moved(source, destination, boot, RAM_MIB << 20);
    g_assert_cmpstr(differs, ==, NULL);
}

/* The source's guest never stopped, and what went wrong is said. */
static void check_failed(const Row *row, Vm *source, Vm *destination)
{
    Qmp *s = vm_qmp(source);

    qmp_expect_migration(s, "failed");
    if (row->ends) {
        kill(vm_pid(destination), SIGTERM); /* changes nothing any more */
        g_assert_cmpint(vm_wait_exit(destination), ==, 1);
    }
    g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);
    const char *desc = json_object_get_string_member_with_default(info, "error-desc", "");
    if (!strstr(desc, row->fails)) {
        g_error("%s: the source says: %s", row->name, desc);
    }
    g_assert_false(qmp_has_event(s, "STOP"));
    g_autofree char *state = qmp_run_state(s);
    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(source, "B");
    if (!row->ends) {
        g_autofree char *waits = qmp_run_state(vm_qmp(destination));
        g_assert_cmpstr(waits, ==, "inmigrate");
    }
    vm_wait_stderr(destination, row->ends ? "it does not accept this side's" : "refused");
    g_autofree char *log = vm_stderr(source), *other = vm_stderr(destination);
    g_assert_null(strstr(log, KEY));
    g_assert_null(strstr(other, KEY));
}

static void move(const void *opaque)
{
    const Row *row = opaque;
    const char *why;
    BootsectConfig boot = bootsect_config(RAM_MIB << 20, 0, 1);

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start_vm(row, false, &boot, NULL);
    g_autofree char *path = vm_path(source, "migration");
    g_autofree char *listen =
        row->by_unix ? g_strdup_printf("unix:%s", path) : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) destination = start_vm(row, true, &boot, row->argument ? listen : "defer");

    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    set_parameters(row, source, false);
    set_parameters(row, destination, true);
    if (!row->argument) {
        qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': '%s'}", listen);
    }
    g_autofree char *uri = row->by_unix ? g_strdup(listen) : move_listen_uri(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    if (row->fails) {
        check_failed(row, source, destination);
    } else {
        succeed(source, destination, &boot);
    }
}

/* ---- engines that die ------------------------------------------------------------------------ */

static void speak_in_the_clear(const char *path)
{
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) ch =
        ff_channel_new(ff_address_connect(address, NULL, NULL), FF_CHANNEL_MAIN);
    uint8_t prologue[FF_PROLOGUE_SIZE], answer[7];
    struct iovec iov = {prologue, sizeof(prologue)};

    ff_prologue_encode(prologue, NULL, 0);
    g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
    g_assert_cmpint(ff_channel_read_all(ch, answer, sizeof(answer), 20000), ==, 0);
    g_assert_cmpint(answer[0], ==, 21); /* an alert of TLS, and nothing else */
    g_assert_cmpint(ff_channel_read_all(ch, answer, 1, 20000), <, 0);
}

/* Both engines are killed in postcopy: their successors have the credentials, though the guest's
 * QEMU may answer nothing, and let no peer in that speaks in the clear. */
static void test_adopted(const void *opaque)
{
    const Row *row = opaque;
    const char *why;
    BootsectConfig boot = bootsect_config(RAM_MIB << 20, 0, 1);

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start_vm(row, false, &boot, NULL);
    g_autoptr(Vm) destination = start_vm(row, true, &boot, "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    set_parameters(row, source, false);
    set_parameters(row, destination, true);
    qmp_ok(s, "migrate-set-parameters",
           "{'max-postcopy-bandwidth': 4096, 'x-farfault-channels': 4}");
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "postcopy-active");
    qmp_expect(d, "RESUME");
    pid_t there = vm_engine(destination);
    kill(vm_engine(source), SIGKILL);
    kill(there, SIGKILL);
    qmp_expect_migration(s, "postcopy-paused");
    qmp_expect_migration(d, "postcopy-paused");
    g_autofree char *path = vm_path(destination, "recover.sock");
    qmp_ok(d, "migrate-recover", "{'uri': 'unix:%s'}", path);
    speak_in_the_clear(path);
    qmp_ok(s, "migrate", "{'uri': 'unix:%s', 'resume': true}", path);
    qmp_expect_migration(s, "postcopy-active");
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_counters(destination, &boot);
    g_assert_cmpstr(wrong, ==, NULL);
    g_autofree char *differs = check_moved(source, destination, &boot, RAM_MIB << 20);
    g_assert_cmpstr(differs, ==, NULL);
}

static const Row adopted_rows[] = {
    {"psk", PSK, PSK},
    {"x509", X509_PASSWORD, X509, .hostname = "dest.example.org",
     .authz = "O=Example,CN=client.example.org"},
};

/* ---- names ----------------------------------------------------------------------------------- */

static const char *const subjects[] = {
    "/C=DE/ST=Bavaria/L=Munich/O=Example Org/OU=Unit/CN=client.example.org",
    "/CN=q\"uo<t>e;d\\\\x",
    "/O=Comma, Inc/CN=a=b",
    "/CN=#hash/O= lead",
    "/CN=trail /O=x=y",
    "/CN=J\303\274rgen M\303\274ller",
    "/CN=multi+OU=value/O=z",
    "/emailAddress=a@b.c/CN=m",
    "/DC=org/DC=example/UID=fred/CN=f",
    "/weird=hello/CN=w",
    "/serialNumber=123/street=Main St/postalCode=80331/CN=s",
    "/GN=Gi/SN=Sur/title=Dr/CN=n/initials=GS/pseudonym=p/dnQualifier=dq/generationQualifier=gq/"
    "name=nm",
    "/businessCategory=b/description=d/CN=x",
    "/jurisdictionC=DE/organizationIdentifier=oi/telephoneNumber=1/unstructuredName=un/CN=1",
    "/CN=two  spaces/O=tab\tx",
};

/* Shows CERT to the stock QEMU that listens at URI; it closes. */
static void show(const char *uri, FfTls *client)
{
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(GError) error = NULL;
    int fd = ff_address_connect(address, NULL, &error);
    char c;

    g_assert_no_error(error);
    g_autoptr(FfChannel) ch = ff_channel_new(fd, FF_CHANNEL_MAIN);
    if (!ff_channel_start_tls(ch, client, "dest.example.org", 20000, &error)) {
        g_error("%s", error->message);
    }
    g_assert_cmpint(ff_channel_read_all(ch, &c, 1, 20000), <, 0);
}

/* What our server says of the same certificate. */
typedef struct {
    int fd;
    FfTls *tls;
    char *error;
} Server;

static gpointer serve(gpointer p)
{
    Server *s = p;
    g_autoptr(FfChannel) ch = ff_channel_new(s->fd, FF_CHANNEL_MAIN);
    g_autoptr(GError) error = NULL;

    g_assert_false(ff_channel_start_tls(ch, s->tls, NULL, 20000, &error));
    s->error = g_strdup(error->message);
    return NULL;
}

static char *our_name(FfTls *server, FfTls *client)
{
    int sv[2];
    char c;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    Server s = {sv[0], server, NULL};
    GThread *t = g_thread_new("server", serve, &s);
    g_autoptr(FfChannel) ch = ff_channel_new(sv[1], FF_CHANNEL_MAIN);
    if (ff_channel_start_tls(ch, client, "dest.example.org", 20000, NULL)) {
        ff_channel_read_all(ch, &c, 1, 20000);
    }
    ff_channel_shutdown(ch);
    g_thread_join(t);
    char *at = strstr(s.error, "TLS x509 authz check for ");
    g_assert_nonnull(at);
    char *name = g_strdup(at);
    g_free(s.error);
    return name;
}

static FfTls *load(const char *name, bool server)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) error = NULL;
    FfCredsSpec spec = {.server = server,
                        .verify_peer = true,
                        .dir = path,
                        .authz = server ? ff_authz_new_simple("nobody") : NULL};
    FfTls *tls = ff_creds_load(&spec, &error);

    g_assert_no_error(error);
    return tls;
}

static void test_names(void)
{
    g_autofree char *object =
        g_strdup_printf("tls-creds-x509,id=tls0,dir=%s/server,endpoint=server,verify-peer=on", dir);
    const char *const args[] = {"-object", object, "-object", "authz-simple,id=a,identity=nobody",
                                NULL};
    g_autoptr(Vm) stock = vm_start(&(VmConfig){
        .name = "stock", .launcher = VM_PLAIN, .memory = "64M", .args = args, .incoming = "defer"});
    g_autoptr(FfTls) server = load("server", true);
    g_autoptr(GPtrArray) ours = g_ptr_array_new_with_free_func(g_free);

    qmp_ok(vm_qmp(stock), "migrate-set-parameters", "{'tls-creds': 'tls0', 'tls-authz': 'a'}");
    qmp_ok(vm_qmp(stock), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(stock);
    for (unsigned i = 0; i < G_N_ELEMENTS(subjects); i++) {
        certs_issue(dir, "named",
                    &(CertSpec){"ca", subjects[i], NULL, "clientAuth", NULL, NULL, NULL});
        g_autofree char *path = certs_creds(dir, "named-dir", "ca", "named", false);
        g_autoptr(FfTls) client = load("named-dir", false);
        g_ptr_array_add(ours, our_name(server, client));
        show(uri, client);
        certs_remove(path);
    }
    for (guint i = 0; i < ours->len; i++) {
        vm_wait_stderr(stock, ours->pdata[i]);
    }
}

/* ---- the folders ----------------------------------------------------------------------------- */

static void make_credentials(void)
{
    certs_ca(dir, "ca", "ec");
    certs_issue(dir, "server",
                &(CertSpec){"ca", "/CN=dest.example.org", "DNS:dest.example.org,IP:127.0.0.1",
                            "serverAuth", NULL, NULL, NULL});
    certs_issue(dir, "client",
                &(CertSpec){"ca", "/O=Example/CN=client.example.org", NULL, "clientAuth", NULL,
                            NULL, NULL});
    g_free(certs_creds(dir, "server", "ca", "server", true));
    g_free(certs_creds(dir, "client", "ca", "client", false));
    g_free(certs_creds(dir, "client-password", "ca", "client", false));
    g_free(certs_creds(dir, "none", "ca", NULL, false));
    certs_ca(dir, "other", "ec");
    certs_issue(dir, "expired",
                &(CertSpec){"ca", "/CN=dest.example.org", "DNS:dest.example.org,IP:127.0.0.1",
                            "serverAuth", NULL, "20200101000000Z", "20200102000000Z"});
    certs_issue(dir, "revoked", &(CertSpec){"ca", "/CN=r", NULL, "clientAuth", NULL, NULL, NULL});
    certs_revoke(dir, "ca", "revoked");
    g_free(certs_creds(dir, "client-other-ca", "other", "client", false));
    g_free(certs_creds(dir, "client-revoked", "ca", "revoked", false));
    g_free(certs_creds(dir, "server-expired", "ca", "expired", true));
    g_autofree char *crl = certs_creds(dir, "server-crl", "ca", "server", true);
    certs_copy(dir, "crl.pem", crl, "ca-crl.pem");
    certs_openssl(dir, "pkey -in client-key.pem -aes256 -passout 'pass:let me in' "
                       "-out client-password/client-key.pem");
    g_free(certs_psk(dir, "psk", "qemu:" KEY "\n"));
    g_free(certs_psk(dir, "psk-other", "qemu:ff" KEY "\n"));
}

int main(int argc, char **argv)
{
    g_autofree char *program = g_find_program_in_path("openssl");

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (!program) {
        g_print("1..0 # SKIP no openssl command\n");
        return 0;
    }
    dir = g_dir_make_tmp("ff-tls-XXXXXX", NULL);
    make_credentials();
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/tls/%s", rows[i].name);
        g_test_add_data_func(path, &rows[i], move);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(adopted_rows); i++) {
        g_autofree char *path = g_strdup_printf("/tls/adopted/%s", adopted_rows[i].name);
        g_test_add_data_func(path, &adopted_rows[i], test_adopted);
    }
    g_test_add_func("/tls/names", test_names);
    int rc = g_test_run();
    certs_remove(dir);
    g_free(dir);
    return rc;
}
