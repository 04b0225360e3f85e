/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See tls-rig.h. */
#include "tests/unit/tls-rig.h"

#include <string.h>

char *dir;

FfTls *load(FfCredsSpec spec, char **text)
{
    g_autoptr(GError) error = NULL;
    FfTls *tls = ff_creds_load(&spec, &error);

    ff_authz_free(spec.authz);
    if (error && text) {
        *text = g_strdup(error->message);
    } else {
        g_assert_no_error(error);
    }
    return tls;
}

char *sub(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

void expect(const char *what, const char *got, const char *want)
{
    if (!want) {
        g_assert_cmpstr(got, ==, NULL);
    } else if (!got || !strstr(got, want)) {
        g_error("%s: expected '%s', got '%s'", what, want, got ? got : "success");
    }
}

/* ---- the folders ----------------------------------------------------------------------------- */

static void issue(const char *name, CertSpec spec)
{
    certs_issue(dir, name, &spec);
}

static void make_certs(void)
{
    const char *srv = "/CN=dest.example.org", *san = "DNS:dest.example.org,IP:127.0.0.1,IP:::1";
    const char *cli = "/C=DE/O=Example/CN=client.example.org";

    certs_ca(dir, "other", "ec");
    certs_ca(dir, "weak", "rsa:1024");
    certs_ca(dir, "ca", "ec");
    issue("server", (CertSpec){"ca", srv, san, "serverAuth"});
    issue("server-other", (CertSpec){"other", srv, san, "serverAuth"});
    issue("server-expired",
          (CertSpec){"ca", srv, san, "serverAuth", NULL, "20200101000000Z", "20200102000000Z"});
    issue("server-early",
          (CertSpec){"ca", srv, san, "serverAuth", NULL, "20990101000000Z", "20990202000000Z"});
    issue("server-purpose", (CertSpec){"ca", srv, san, "clientAuth"});
    issue("server-weak", (CertSpec){"weak", srv, san, "serverAuth"});
    issue("server-weaker", (CertSpec){"ca", srv, san, "serverAuth", "rsa:1024"});
    certs_ca(dir, "server-is-ca", "ec");
    issue("client", (CertSpec){"ca", cli, NULL, "clientAuth"});
    issue("client-other", (CertSpec){"other", cli, NULL, "clientAuth"});
    issue("client-expired",
          (CertSpec){"ca", cli, NULL, "clientAuth", NULL, "20200101000000Z", "20200102000000Z"});
    issue("client-revoked", (CertSpec){"ca", cli, NULL, "clientAuth"});
    issue("client-purpose", (CertSpec){"ca", cli, NULL, "serverAuth"});
    certs_revoke(dir, "ca", "client-revoked");
}

static void make_folders(void)
{
    static const struct {
        const char *name, *ca, *cert;
    } folders[] = {
        {"server", "ca", "server"},
        {"server-other", "ca", "server-other"},
        {"server-expired", "ca", "server-expired"},
        {"server-early", "ca", "server-early"},
        {"server-purpose", "ca", "server-purpose"},
        {"server-weak", "ca", "server-weak"},
        {"server-weaker", "ca", "server-weaker"},
        {"server-crl", "ca", "server"},
        {"client", "ca", "client"},
        {"client-other", "ca", "client-other"},
        {"client-expired", "ca", "client-expired"},
        {"client-revoked", "ca", "client-revoked"},
        {"client-purpose", "ca", "client-purpose"},
        {"client-weakly", "weak", "client"},
        {"client-crl", "ca", "client-revoked"},
        {"server-is-ca", "ca", "server-is-ca"},
        {"none", "ca", NULL},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_free(certs_creds(dir, folders[i].name, folders[i].ca, folders[i].cert,
                           g_str_has_prefix(folders[i].name, "server")));
    }
    g_autofree char *crl = sub("server-crl");
    g_autofree char *client_crl = sub("client-crl");
    certs_copy(dir, "crl.pem", crl, "ca-crl.pem");
    certs_copy(dir, "crl.pem", client_crl, "ca-crl.pem");
}

bool tls_rig_new(void)
{
    g_autofree char *program = g_find_program_in_path("openssl");

    if (!program) {
        g_print("1..0 # SKIP no openssl command\n");
        return false;
    }
    dir = g_dir_make_tmp("ff-tls-XXXXXX", NULL);
    make_certs();
    make_folders();
    return true;
}

void tls_rig_free(void)
{
    certs_remove(dir);
    g_free(dir);
}
