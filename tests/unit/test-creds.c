/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's credentials: files that are missing, cut, unreadable, of the wrong kind, time or issuer,
 * keys under passphrases, and secrets under secrets; each error in one line, with no secret in it.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/tls-rig.h"

/* ---- credentials that cannot be loaded ------------------------------------------------------- */

static const struct {
    const char *dir, *file;
    const char *text; /* what the file becomes; "@NAME": a copy of that; "<NAME": its first half;
                         NULL: it is removed */
    FfCredsSpec spec;
    const char *says;
} bad_files[] = {
    {"server", "ca-cert.pem", NULL, {.server = true}, "Unable to access credentials"},
    {"server", "server-key.pem", NULL, {.server = true}, "Unable to access credentials"},
    {"client", "client-key.pem", NULL, {0}, "client-cert.pem without client-key.pem"},
    {"server", "ca-cert.pem", "garbage\n", {.server = true}, "Cannot load CA certificate"},
    {"server", "server-cert.pem", "", {.server = true}, "Cannot load certificate"},
    {"server",
     "server-key.pem",
     "-----BEGIN PRIVATE KEY-----\nAAAA\n",
     {.server = true},
     "Cannot load certificate"},
    {"server", "ca-crl.pem", "garbage\n", {.server = true}, "Cannot load CRL"},
    {"server", "dh-params.pem", "garbage\n", {.server = true}, "Unable to load DH parameters"},
    {"psk", "keys.psk", NULL, {.psk = true}, "Unable to access credentials"},
    {"psk", "keys.psk", "no colon\n", {.psk = true}, "line 1: expected USERNAME:KEY"},
    {"psk", "keys.psk", "qemu:" KEY_A "\n:00\n", {.psk = true}, "line 2: expected USERNAME:KEY"},
    {"psk", "keys.psk", "qemu:0g\n", {.psk = true}, "in hexadecimal"},
    {"psk", "keys.psk", "qemu:012\n", {.psk = true}, "in hexadecimal"},
    {"psk", "keys.psk", "qemu:\n", {.psk = true}, "in hexadecimal"},
    {"psk", "keys.psk", "", {.psk = true}, "Username qemu not found"},
    {"psk",
     "keys.psk",
     "fred:" KEY_A "\n",
     {.psk = true, .username = "joe"},
     "Username joe not found"},
    {"server",
     "x",
     "",
     {.server = true, .priority = "NORMAL:+AES-128-CBC"},
     "farfault does not know '+AES-128-CBC'"},
    {"server", "x", "", {.server = true, .priority = "@SYSTEM"}, "does not know '@SYSTEM'"},
    {"server", "x", "", {.server = true, .priority = "NORMAL:-VERS-ALL"}, "leaves no version"},
    {"psk", "x", "", {.psk = true, .priority = "NORMAL:-VERS-TLS1.3"}, "need TLS 1.3"},
    {"server-expired", "x", "", {.server = true, .sanity_check = true}, "has expired"},
    {"server-early", "x", "", {.server = true, .sanity_check = true}, "not yet active"},
    {"server-purpose",
     "x",
     "",
     {.server = true, .sanity_check = true},
     "purpose does not allow use with a TLS server"},
    {"server-weaker", "x", "", {.server = true}, "ee key too small"},
    {"client-purpose",
     "x",
     "",
     {.sanity_check = true},
     "purpose does not allow use with a TLS client"},
    {"server", "server-cert.pem", "<server-cert.pem", {.server = true}, "Cannot load certificate"},
    {"server", "ca-cert.pem", "<ca-cert.pem", {.server = true}, "Cannot load CA certificate"},
    {"server",
     "ca-cert.pem",
     "@other-cert.pem",
     {.server = true, .sanity_check = true},
     "ca-cert.pem: The certificate hasn't got a known issuer"},
    {"server",
     "ca-cert.pem",
     "@server-cert.pem",
     {.server = true, .sanity_check = true},
     "basic constraints do not show a CA"},
    {"server",
     "ca-cert.pem",
     "@server-expired-cert.pem",
     {.server = true, .sanity_check = true},
     "The CA certificate "},
    {"server-crl",
     "server-cert.pem",
     "@client-revoked-cert.pem",
     {.server = true, .sanity_check = true},
     "key values mismatch"},
    {"client-crl", "x", "", {.sanity_check = true}, "The certificate has been revoked"},
    {"server-is-ca",
     "x",
     "",
     {.server = true, .sanity_check = true},
     "basic constraints show a CA, but we need one for a server"},
};

static void copy_folder(const char *from, const char *to)
{
    g_autoptr(GDir) d = g_dir_open(from, 0, NULL);
    const char *name;

    g_assert_cmpint(g_mkdir(to, 0700), ==, 0);
    while ((name = g_dir_read_name(d))) {
        certs_copy(from, name, to, name);
    }
}

static void put_file(const char *path, const char *text)
{
    g_autofree char *copy = *text == '@' || *text == '<' ? sub(text + 1) : NULL, *bytes = NULL;
    gsize length;

    if (!copy) {
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
        return;
    }
    g_assert_true(g_file_get_contents(copy, &bytes, &length, NULL));
    g_assert_true(
        g_file_set_contents(path, bytes, (gssize)(*text == '<' ? length / 2 : length), NULL));
}

static void test_bad_files(void)
{
    g_autofree char *psk = certs_psk(dir, "psk", "qemu:" KEY_A "\n");

    for (unsigned i = 0; i < G_N_ELEMENTS(bad_files); i++) {
        g_autofree char *from = sub(bad_files[i].dir), *to = sub("bad"), *says = NULL;
        g_autofree char *file = g_build_filename(to, bad_files[i].file, NULL);
        FfCredsSpec spec = bad_files[i].spec;

        copy_folder(from, to);
        if (bad_files[i].text) {
            put_file(file, bad_files[i].text);
        } else {
            g_assert_cmpint(g_unlink(file), ==, 0);
        }
        spec.dir = to;
        g_assert_null(load(spec, &says));
        expect(bad_files[i].file, says, bad_files[i].says);
        g_assert_null(strstr(says, KEY_A));
        certs_remove(to);
    }
    certs_remove(psk);
}

/* As a user who may not read the files. In a process of its own. */
static void test_unreadable(void)
{
    g_autofree char *psk = NULL, *to = NULL, *key = NULL, *keys = NULL, *from = NULL;
    g_autofree char *says = NULL, *other = NULL;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        return;
    }
    psk = certs_psk(dir, "unreadable-psk", "qemu:" KEY_A "\n");
    to = sub("unreadable");
    key = g_build_filename(to, "server-key.pem", NULL);
    keys = g_build_filename(psk, "keys.psk", NULL);
    from = sub("server");
    copy_folder(from, to);
    g_assert_cmpint(g_chmod(key, 0) | g_chmod(keys, 0), ==, 0);
    g_assert_cmpint(g_chmod(dir, 0755) | g_chmod(psk, 0755) | g_chmod(to, 0755), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        const char *const files[] = {"ca-cert.pem", "server-cert.pem"};
        g_autofree char *path = g_build_filename(to, files[i], NULL);

        g_assert_cmpint(g_chmod(path, 0644), ==, 0);
    }
    g_assert_cmpint(setresgid(65534, 65534, 0) | setresuid(65534, 65534, 0), ==, 0);
    g_assert_null(load((FfCredsSpec){.psk = true, .server = true, .dir = psk}, &says));
    expect("psk", says, "keys.psk: Permission denied");
    g_assert_null(load((FfCredsSpec){.server = true, .dir = to}, &other));
    expect("key", other, "server-key.pem: Permission denied");
    g_assert_cmpint(setresuid(0, 0, 0) | setresgid(0, 0, 0), ==, 0); /* to remove the folder */
}

/* A key of another certificate, and keys under a passphrase. */
static void test_keys(void)
{
    g_autofree char *to = sub("keys"), *from = sub("server"), *says = NULL, *other = NULL;
    const FfSecretSpec good = {.id = "s", .data = "let me in"}, bad = {.id = "s", .data = "no"};
    g_autoptr(FfSecret) password = ff_secret_new(&good, NULL, NULL);
    g_autoptr(FfSecret) wrong = ff_secret_new(&bad, NULL, NULL);

    copy_folder(from, to);
    certs_copy(dir, "server-other-key.pem", to, "server-key.pem");
    g_assert_null(load((FfCredsSpec){.server = true, .dir = to}, &says));
    expect("key", says, "key values mismatch");
    certs_openssl(dir, "pkey -in server-key.pem -aes256 -passout 'pass:let me in' "
                       "-out keys/server-key.pem");
    g_clear_pointer(&says, g_free);
    g_assert_null(load((FfCredsSpec){.server = true, .dir = to}, &says));
    expect("key", says, "Cannot load certificate");
    g_assert_null(load((FfCredsSpec){.server = true, .dir = to, .password = wrong}, &other));
    expect("key", other, "is passwordid the right secret?");
    ff_tls_unref(load((FfCredsSpec){.server = true, .dir = to, .password = password}, NULL));
    certs_remove(to);
}

/* ---- secrets --------------------------------------------------------------------------------- */

static void test_secret(void)
{
    g_autofree char *file = sub("secret");
    guint8 raw[32], iv[16];
    g_autoptr(GError) error = NULL;

    memset(raw, 0x41, sizeof(raw));
    memset(iv, 0x42, sizeof(iv));
    g_autofree char *key64 = g_base64_encode(raw, sizeof(raw));
    g_autofree char *iv64 = g_base64_encode(iv, sizeof(iv));
    /* As libvirt does it: a master key in a file, passphrases under it. */
    certs_openssl(dir, "rand -out plain 16");
    g_assert_true(g_file_set_contents(file, "letmein", -1, NULL));
    g_autofree char *hex_key = g_strnfill(64, '4');
    for (unsigned i = 1; i < 64; i += 2) {
        hex_key[i] = '1';
    }
    g_autofree char *args =
        g_strdup_printf("enc -aes-256-cbc -a -A -K %s -iv 42424242424242424242424242424242 -in "
                        "secret -out secret.aes",
                        hex_key);
    certs_openssl(dir, args);
    g_autofree char *aes_file = sub("secret.aes"), *aes = NULL;
    g_assert_true(g_file_get_contents(aes_file, &aes, NULL, NULL));

    FfSecretSpec master = {.id = "m", .data = key64, .base64 = true};
    g_autoptr(FfSecret) key = ff_secret_new(&master, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(key->bytes, key->length, raw, sizeof(raw));

    const struct {
        FfSecretSpec spec;
        bool keyed;
        const char *plain, *says;
    } cases[] = {
        {{.id = "s", .data = "letmein"}, false, "letmein"},
        {{.id = "s", .file = file}, false, "letmein"},
        {{.id = "s", .data = "bGV0bWVpbg==", .base64 = true}, false, "letmein"},
        {{.id = "s", .data = aes, .base64 = true, .iv = iv64}, true, "letmein"},
        {{.id = "s", .data = "b%V0", .base64 = true}, false, NULL, "is not valid"},
        {{.id = "s", .data = aes, .base64 = true}, true, NULL, "IV is required"},
        {{.id = "s", .data = aes, .base64 = true, .iv = "QUJD"}, true, NULL, "IV should be 16"},
        {{.id = "s", .data = "bGV0bWVpbg==", .base64 = true, .iv = iv64},
         true,
         NULL,
         "cannot be decrypted"},
        {{.id = "s", .data = "a", .file = file}, false, NULL, "mutually exclusive"},
        {{.id = "s"}, false, NULL, "Must provide"},
        {{.id = "s", .file = "/nowhere"}, false, NULL, "Unable to read /nowhere"},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) wrong = NULL;
        g_autoptr(FfSecret) s = ff_secret_new(&cases[i].spec, cases[i].keyed ? key : NULL, &wrong);

        if (cases[i].plain) {
            g_assert_no_error(wrong);
            g_assert_cmpstr((char *)s->bytes, ==, cases[i].plain);
        } else {
            g_assert_null(s);
            expect("secret", wrong->message, cases[i].says);
            g_assert_null(strstr(wrong->message, "letmein"));
        }
    }
    g_autoptr(FfSecret) shorter = ff_secret_new(&cases[0].spec, NULL, NULL);
    g_assert_null(ff_secret_new(&cases[3].spec, shorter, &error));
    expect("secret", error->message, "Key should be 32 bytes");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!tls_rig_new()) {
        return 0;
    }
    g_test_add_func("/creds/bad-files", test_bad_files);
    if (getuid() == 0) {
        g_test_add_func("/creds/unreadable", test_unreadable);
    }
    g_test_add_func("/creds/keys", test_keys);
    g_test_add_func("/creds/secret", test_secret);
    int rc = g_test_run();

    tls_rig_free();
    return rc;
}
