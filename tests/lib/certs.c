/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See certs.h. */
#include "tests/lib/certs.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

bool certs_possible(void)
{
    g_autofree char *path = g_find_program_in_path("openssl");

    if (!path) {
        g_test_skip("no openssl command");
    }
    return path != NULL;
}

void certs_remove(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
            certs_remove(path);
        } else {
            g_unlink(path);
        }
    }
    g_rmdir(dir);
}

void certs_openssl(const char *dir, const char *args)
{
    g_autofree char *line = g_strdup_printf("openssl %s", args), *err = NULL;
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    int status = 0;

    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    g_spawn_sync(dir, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                 NULL, &err, &status, &error);
    g_assert_no_error(error);
    if (status) {
        g_error("%s: %s", line, err);
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) error = NULL;

    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
}

void certs_copy(const char *dir, const char *from, const char *to_dir, const char *to)
{
    g_autofree char *path = g_build_filename(dir, from, NULL), *text = NULL;
    g_autoptr(GError) error = NULL;

    g_file_get_contents(path, &text, NULL, &error);
    g_assert_no_error(error);
    write_file(to_dir, to, text);
}

/* What "openssl ca" wants to know. */
static void write_config(const char *dir)
{
    write_file(dir, "ca.cnf",
               "oid_section=oids\n[oids]\nweird=1.2.3.4.5\n"
               "[req]\ndistinguished_name=dn\nstring_mask=utf8only\n[dn]\n"
               "[ca]\ndefault_ca=d\n"
               "[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
               "policy=any\ndefault_days=30\ndefault_crl_days=30\nunique_subject=no\n"
               "preserve=yes\n[any]\ncommonName=optional\n");
    write_file(dir, "index.txt", "");
}

static const char *new_key(const char *key)
{
    return !key || !strcmp(key, "ec") ? "ec -pkeyopt ec_paramgen_curve:prime256v1" : key;
}

void certs_ca(const char *dir, const char *name, const char *key)
{
    g_autofree char *args =
        g_strdup_printf("req -x509 -newkey %s -nodes "
                        "-keyout %s-key.pem -out %s-cert.pem -subj /CN=%s -days 30 "
                        "-addext basicConstraints=critical,CA:TRUE "
                        "-addext keyUsage=critical,keyCertSign,cRLSign",
                        new_key(key), name, name, name);

    write_config(dir);
    certs_openssl(dir, args);
}

void certs_issue(const char *dir, const char *name, const CertSpec *spec)
{
    g_autofree char *quoted = g_shell_quote(spec->subject);
    g_autofree char *request =
        g_strdup_printf("req -new -newkey %s -nodes -utf8 -multivalue-rdn -config ca.cnf "
                        "-keyout %s-key.pem -out %s.csr -subj %s",
                        new_key(spec->key), name, name, quoted);
    g_autofree char *ext =
        g_strdup_printf("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n"
                        "extendedKeyUsage=%s\n%s%s\n",
                        spec->use, spec->san ? "subjectAltName=" : "", spec->san ? spec->san : "");
    g_autofree char *sign = NULL;

    /* "ca" drops what its policy does not name from the subject, but it alone sets both dates. */
    if (spec->from) {
        sign = g_strdup_printf("ca -batch -notext -config ca.cnf -cert %s-cert.pem "
                               "-keyfile %s-key.pem -in %s.csr -out %s-cert.pem -extfile ext.cnf "
                               "-startdate %s -enddate %s",
                               spec->ca, spec->ca, name, name, spec->from, spec->to);
    } else {
        sign = g_strdup_printf("x509 -req -in %s.csr -CA %s-cert.pem -CAkey %s-key.pem "
                               "-out %s-cert.pem -days 30 -extfile ext.cnf",
                               name, spec->ca, spec->ca, name);
    }
    write_file(dir, "ext.cnf", ext);
    certs_openssl(dir, request);
    certs_openssl(dir, sign);
}

void certs_revoke(const char *dir, const char *ca, const char *name)
{
    g_autofree char *who =
        g_strdup_printf("-config ca.cnf -cert %s-cert.pem -keyfile %s-key.pem", ca, ca);
    g_autofree char *revoke = g_strdup_printf("ca %s -revoke %s-cert.pem", who, name);
    g_autofree char *list = g_strdup_printf("ca %s -gencrl -out crl.pem", who);

    certs_openssl(dir, revoke);
    certs_openssl(dir, list);
}

char *certs_creds(const char *dir, const char *name, const char *ca, const char *cert, bool server)
{
    char *path = g_build_filename(dir, name, NULL);
    const char *role = server ? "server" : "client";
    g_autofree char *ca_file = g_strdup_printf("%s-cert.pem", ca);

    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    certs_copy(dir, ca_file, path, "ca-cert.pem");
    for (unsigned i = 0; cert && i < 2; i++) {
        const char *what = i ? "key" : "cert";
        g_autofree char *from = g_strdup_printf("%s-%s.pem", cert, what);
        g_autofree char *to = g_strdup_printf("%s-%s.pem", role, what);
        certs_copy(dir, from, path, to);
    }
    return path;
}

char *certs_psk(const char *dir, const char *name, const char *text)
{
    char *path = g_build_filename(dir, name, NULL);

    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    write_file(path, "keys.psk", text);
    return path;
}

char *certs_new_pair(void)
{
    g_autofree char *program = g_find_program_in_path("openssl");
    char *dir;

    if (!program) {
        return NULL;
    }
    dir = g_dir_make_tmp("ff-certs-XXXXXX", NULL);
    certs_ca(dir, "ca", "ec");
    certs_issue(dir, "server",
                &(CertSpec){"ca", "/CN=" CERTS_HOST, "DNS:" CERTS_HOST ",IP:127.0.0.1",
                            "serverAuth", NULL, NULL, NULL});
    certs_issue(dir, "client", &(CertSpec){"ca", "/CN=c", NULL, "clientAuth", NULL, NULL, NULL});
    g_free(certs_creds(dir, "x509-server", "ca", "server", true));
    g_free(certs_creds(dir, "x509-client", "ca", "client", false));
    g_free(certs_psk(dir, "psk-server", "qemu:" CERTS_KEY "\n"));
    g_free(certs_psk(dir, "psk-client", "qemu:" CERTS_KEY "\n"));
    return dir;
}
