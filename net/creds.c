/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the properties of QEMU's tls-creds objects to an SSL_CTX: which files, which checks, which
 * versions and ciphers. QEMU has loaded and checked the same object when it was made; what is
 * checked here again is what may have changed since, in files that anybody may have rotated.
 * Any thread; nothing global is touched.
 */
#include "net/creds.h"
#include "net/tls-internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <unistd.h>

#define CREDS_ERROR g_quark_from_static_string("farfault-tls-creds")
#define CA_FILE "ca-cert.pem"
#define SUITES_256 "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define SUITES "TLS_AES_128_GCM_SHA256:" SUITES_256
/* An external key is bound to SHA-256. */
#define SUITES_PSK_256 "TLS_CHACHA20_POLY1305_SHA256"
#define SUITES_PSK "TLS_AES_128_GCM_SHA256:" SUITES_PSK_256
/* RFC 8446, 5.5, allows 2^24.5 for AES-GCM. */
#define RECORDS_PER_KEY (1u << 22)
#define CIPHERS_12_256 "ECDHE+AESGCM+AES256:ECDHE+CHACHA20"
#define CIPHERS_12 "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"

G_GNUC_PRINTF(2, 3) static bool fail(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, CREDS_ERROR, 0, text);
    return false;
}

/* ---- priority -------------------------------------------------------------------------------- */

typedef struct {
    bool tls12, tls13, strong;
} Versions;

/* One word of a GnuTLS priority string; FALSE: it cannot be said to OpenSSL. */
static bool priority_word(const char *word, bool first, Versions *v)
{
    static const char *const old[] = {"-VERS-SSL3.0",  "-VERS-TLS1.0",       "-VERS-TLS1.1",
                                      "-VERS-DTLS1.0", "-VERS-DTLS1.2",      "-VERS-DTLS0.9",
                                      "-ARCFOUR-128",  "-VERS-DTLS-ALL",     "-VERS-DTLS-ALL",
                                      "-3DES-CBC",     "%SERVER_PRECEDENCE", NULL};

    if (first && (!strcmp(word, "NORMAL") || !strcmp(word, "SECURE128"))) {
        v->tls12 = v->tls13 = true;
    } else if (first && (!strcmp(word, "SECURE192") || !strcmp(word, "SECURE256"))) {
        v->tls12 = v->tls13 = v->strong = true;
    } else if (!strcmp(word, "-VERS-ALL") || !strcmp(word, "-VERS-TLS-ALL")) {
        v->tls12 = v->tls13 = false;
    } else if (!strcmp(word, "+VERS-TLS1.2") || !strcmp(word, "-VERS-TLS1.2")) {
        v->tls12 = *word == '+';
    } else if (!strcmp(word, "+VERS-TLS1.3") || !strcmp(word, "-VERS-TLS1.3")) {
        v->tls13 = *word == '+';
    } else {
        return !first && g_strv_contains(old, word);
    }
    return true;
}

static bool set_priority(SSL_CTX *ctx, const char *priority, bool psk, GError **error)
{
    Versions v = {.tls13 = true};

    if (priority && *priority) {
        g_auto(GStrv) words = g_strsplit(priority, ":", -1);

        v = (Versions){0};
        for (unsigned i = 0; words[i]; i++) {
            if (!priority_word(words[i], i == 0, &v)) {
                return fail(error,
                            "Unable to set TLS session priority %s: farfault does not know '%s'; "
                            "it takes NORMAL, SECURE128, SECURE192, SECURE256 and +VERS-/-VERS- of "
                            "TLS1.2 and TLS1.3",
                            priority, words[i]);
            }
        }
    }
    v.tls12 = v.tls12 && !psk;
    if (!v.tls12 && !v.tls13) {
        return fail(error, "Unable to set TLS session priority %s: it leaves no version of TLS%s",
                    priority, psk ? "; shared keys need TLS 1.3" : "");
    }
    const char *suites =
        psk ? (v.strong ? SUITES_PSK_256 : SUITES_PSK) : (v.strong ? SUITES_256 : SUITES);
    SSL_CTX_set_min_proto_version(ctx, v.tls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
    SSL_CTX_set_max_proto_version(ctx, v.tls13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    if (!SSL_CTX_set_ciphersuites(ctx, suites) ||
        !SSL_CTX_set_cipher_list(ctx, v.strong ? CIPHERS_12_256 : CIPHERS_12)) {
        return fail(error, "Cannot set TLS ciphers: %s", ff_tls_openssl_error());
    }
    return true;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* *PATH is NULL if the file does not exist and need not. */
static bool find_file(const FfCredsSpec *spec, const char *name, bool required, char **path,
                      GError **error)
{
    *path = g_build_filename(spec->dir, name, NULL);
    if (access(*path, R_OK) == 0) {
        return true;
    }
    if (errno == ENOENT && !required) {
        g_clear_pointer(path, g_free);
        return true;
    }
    fail(error, "Unable to access credentials %s: %s%s", *path, g_strerror(errno),
         errno == EACCES ? " (it is read by the user that QEMU runs as, also with -runas)" : "");
    g_clear_pointer(path, g_free);
    return false;
}

static int give_password(char *buf, int size, int writing, void *opaque)
{
    const FfSecret *password = opaque;

    /* Without one: an error, and never a question on a terminal. */
    if (!password || password->length > (gsize)size) {
        return -1;
    }
    memcpy(buf, password->bytes, password->length);
    return (int)password->length;
}

static bool load_key(SSL_CTX *ctx, const FfCredsSpec *spec, const char *path, const char *cert,
                     GError **error)
{
    BIO *bio = BIO_new_file(path, "r");
    EVP_PKEY *key =
        bio ? PEM_read_bio_PrivateKey(bio, NULL, give_password, (void *)spec->password) : NULL;

    BIO_free(bio);
    if (!key) {
        return fail(error, "Cannot load certificate '%s' & key '%s': %s%s", cert, path,
                    ff_tls_openssl_error(),
                    spec->password ? " (is passwordid the right secret?)" : "");
    }
    bool ok = SSL_CTX_use_PrivateKey(ctx, key) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    EVP_PKEY_free(key);
    return ok || fail(error, "Cannot load certificate '%s' & key '%s': %s", cert, path,
                      ff_tls_openssl_error());
}

static bool check_times(X509 *cert, const char *who, const char *path, GError **error)
{
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) {
        return fail(error, "The %s certificate %s has expired", who, path);
    }
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0) {
        return fail(error, "The %s certificate %s is not yet active", who, path);
    }
    return true;
}

/* What is not said to be critical is a recommendation. */
static bool is_critical(X509 *cert, int nid)
{
    int at = X509_get_ext_by_NID(cert, nid, -1);

    return at >= 0 && X509_EXTENSION_get_critical(X509_get_ext(cert, at));
}

static bool check_usage(const FfCredsSpec *spec, X509 *cert, const char *path, GError **error)
{
    const char *who = spec->server ? "server" : "client";

    if (X509_get_extension_flags(cert) & EXFLAG_CA) {
        return fail(error,
                    "The certificate %s basic constraints show a CA, but we need one for a %s",
                    path, who);
    }
    if (!(X509_get_key_usage(cert) & KU_DIGITAL_SIGNATURE) && is_critical(cert, NID_key_usage)) {
        return fail(error, "Certificate %s usage does not permit digital signature", path);
    }
    if (X509_check_purpose(cert, spec->server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT,
                           0) != 1) {
        return fail(error, "Certificate %s purpose does not allow use with a TLS %s", path, who);
    }
    return true;
}

static bool check_chain(SSL_CTX *ctx, X509 *cert, const char *path, const char *ca, GError **error)
{
    STACK_OF(X509) *chain = NULL;
    X509_STORE_CTX *store = X509_STORE_CTX_new();

    SSL_CTX_get0_chain_certs(ctx, &chain);
    if (!store || !X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(ctx), cert, chain)) {
        g_error("out of memory for TLS");
    }
    X509_STORE_CTX_set_verify_cb(store, ff_tls_each_error);
    int ok = X509_verify_cert(store), code = X509_STORE_CTX_get_error(store);

    X509_STORE_CTX_free(store);
    return ok == 1 || fail(error, "Our own certificate %s failed validation against %s: %s", path,
                           ca, ff_tls_verify_text(code));
}

/* As sanity-check of QEMU does. */
static bool check_own(const FfCredsSpec *spec, SSL_CTX *ctx, const char *path, GError **error)
{
    X509 *cert = SSL_CTX_get0_certificate(ctx);
    g_autofree char *ca = g_build_filename(spec->dir, CA_FILE, NULL);

    return !spec->sanity_check ||
           (check_times(cert, spec->server ? "server" : "client", path, error) &&
            check_usage(spec, cert, path, error) && check_chain(ctx, cert, path, ca, error));
}

/* The same for the first certificate of the file of CAs. */
static bool check_ca(const FfCredsSpec *spec, const char *path, GError **error)
{
    BIO *bio = spec->sanity_check ? BIO_new_file(path, "r") : NULL;
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    bool ok = true;

    BIO_free(bio);
    if (cert) {
        uint32_t flags = X509_get_extension_flags(cert);

        ok = check_times(cert, "CA", path, error);
        if (ok && !(flags & EXFLAG_BCONS)) {
            ok = fail(error, "The certificate %s is missing basic constraints for a CA", path);
        } else if (ok && !(flags & EXFLAG_CA)) {
            ok = fail(error, "The certificate %s basic constraints do not show a CA", path);
        } else if (ok && !(X509_get_key_usage(cert) & KU_KEY_CERT_SIGN) &&
                   is_critical(cert, NID_key_usage)) {
            ok = fail(error, "Certificate %s usage does not permit certificate signing", path);
        }
    }
    X509_free(cert);
    return ok;
}

static bool load_own(SSL_CTX *ctx, const FfCredsSpec *spec, GError **error)
{
    g_autofree char *cert = NULL, *key = NULL;
    const char *who = spec->server ? "server" : "client";
    g_autofree char *cert_name = g_strdup_printf("%s-cert.pem", who);
    g_autofree char *key_name = g_strdup_printf("%s-key.pem", who);

    if (!find_file(spec, cert_name, spec->server, &cert, error) ||
        !find_file(spec, key_name, spec->server, &key, error)) {
        return false;
    }
    if (!cert && !key) {
        return true; /* a client that shows none */
    }
    if (!cert || !key) {
        return fail(error, "%s has %s without %s", spec->dir, cert ? cert_name : key_name,
                    cert ? key_name : cert_name);
    }
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1) {
        return fail(error, "Cannot load certificate '%s' & key '%s': %s", cert, key,
                    ff_tls_openssl_error());
    }
    return load_key(ctx, spec, key, cert, error) && check_own(spec, ctx, cert, error);
}

static bool load_trust(SSL_CTX *ctx, const FfCredsSpec *spec, GError **error)
{
    g_autofree char *ca = NULL, *crl = NULL;
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);

    if (!find_file(spec, CA_FILE, true, &ca, error) ||
        !find_file(spec, "ca-crl.pem", false, &crl, error)) {
        return false;
    }
    if (X509_STORE_load_file(store, ca) != 1) {
        return fail(error, "Cannot load CA certificate '%s': %s", ca, ff_tls_openssl_error());
    }
    if (!check_ca(spec, ca, error)) {
        return false;
    }
    /* What the file names is trusted, be it a root or not, as with GnuTLS. */
    X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
    if (crl) {
        X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
        if (!lookup || X509_load_crl_file(lookup, crl, X509_FILETYPE_PEM) < 1) {
            return fail(error, "Cannot load CRL '%s': %s", crl, ff_tls_openssl_error());
        }
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    }
    if (spec->server) {
        SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(ca));
    }
    return true;
}

static bool load_dh(SSL_CTX *ctx, const FfCredsSpec *spec, GError **error)
{
    g_autofree char *path = NULL;

    if (!find_file(spec, "dh-params.pem", false, &path, error)) {
        return false;
    }
    SSL_CTX_set_dh_auto(ctx, 1);
    if (!path) {
        return true;
    }
    BIO *bio = BIO_new_file(path, "r");
    EVP_PKEY *dh = bio ? PEM_read_bio_Parameters(bio, NULL) : NULL;

    BIO_free(bio);
    if (!dh || SSL_CTX_set0_tmp_dh_pkey(ctx, dh) != 1) {
        EVP_PKEY_free(dh);
        return fail(error, "Unable to load DH parameters from %s: %s", path,
                    ff_tls_openssl_error());
    }
    return true;
}

static bool load_x509(FfTls *tls, const FfCredsSpec *spec, GError **error)
{
    int mode = SSL_VERIFY_NONE;

    if (!load_trust(tls->ctx, spec, error) || !load_own(tls->ctx, spec, error) ||
        (spec->server && !load_dh(tls->ctx, spec, error))) {
        return false;
    }
    if (spec->verify_peer) {
        mode = SSL_VERIFY_PEER | (spec->server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
    }
    SSL_CTX_set_verify(tls->ctx, mode, NULL);
    SSL_CTX_set_cert_verify_callback(tls->ctx, ff_tls_verify, NULL);
    return true;
}

/* ---- shared keys ----------------------------------------------------------------------------- */

static void psk_free(gpointer p)
{
    FfPsk *psk = p;

    g_free(psk->name);
    ff_secret_free(psk->key);
    g_free(psk);
}

static FfSecret *from_hex(const char *hex)
{
    gsize n = strlen(hex) / 2;

    if (!n || strlen(hex) % 2 || n > 64 || strspn(hex, "0123456789abcdefABCDEF") != 2 * n) {
        return NULL;
    }
    FfSecret *key = g_malloc0(sizeof(*key) + n + 1);

    key->length = n;
    for (gsize i = 0; i < n; i++) {
        key->bytes[i] =
            (guint8)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
    }
    return key;
}

static bool add_psk(FfTls *tls, char *line, unsigned number, const char *path, GError **error)
{
    char *colon = strchr(line, ':');

    g_strchomp(line);
    if (!*line) {
        return true;
    }
    if (!colon || colon == line) {
        return fail(error, "PSK file %s, line %u: expected USERNAME:KEY", path, number);
    }
    FfSecret *key = from_hex(colon + 1);

    if (!key) {
        return fail(error, "PSK file %s, line %u: the key is not 1 to 64 bytes in hexadecimal",
                    path, number);
    }
    FfPsk *psk = g_new(FfPsk, 1);

    *psk = (FfPsk){g_strndup(line, colon - line), key};
    g_ptr_array_add(tls->keys, psk);
    return true;
}

static bool read_keys(FfTls *tls, const char *path, GError **error)
{
    g_autoptr(GError) own = NULL;
    char *text = NULL, *line;
    gsize length = 0;
    bool ok = true;

    if (!g_file_get_contents(path, &text, &length, &own)) {
        return fail(error, "Cannot read PSK file %s: %s", path, own->message);
    }
    line = text;
    for (unsigned number = 1; ok && line; number++) {
        char *end = strchr(line, '\n');
        if (end) {
            *end++ = '\0';
        }
        ok = add_psk(tls, line, number, path, error);
        line = end;
    }
    ff_wipe(text, length);
    g_free(text);
    return ok;
}

static bool load_psk(FfTls *tls, const FfCredsSpec *spec, GError **error)
{
    const char *username = spec->username && *spec->username ? spec->username : "qemu";
    g_autofree char *path = NULL;

    tls->keys = g_ptr_array_new_with_free_func(psk_free);
    if (!find_file(spec, "keys.psk", true, &path, error) || !read_keys(tls, path, error)) {
        return false;
    }
    if (spec->server) {
        SSL_CTX_set_psk_find_session_callback(tls->ctx, ff_tls_psk_server);
        return true;
    }
    for (guint i = 0; i < tls->keys->len && !tls->mine; i++) {
        const FfPsk *psk = tls->keys->pdata[i];
        tls->mine = strcmp(psk->name, username) ? NULL : psk;
    }
    if (!tls->mine) {
        return fail(error, "Username %s not found in PSK file %s", username, path);
    }
    /* A server that shows a certificate instead is none that knows the key. */
    SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(tls->ctx, ff_tls_verify, NULL);
    SSL_CTX_set_psk_use_session_callback(tls->ctx, ff_tls_psk_client);
    return true;
}

/* ---- both ------------------------------------------------------------------------------------ */

static SSL_CTX *new_ctx(bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

    if (!ctx) {
        g_error("out of memory for TLS");
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0); /* sessions are never resumed */
    SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return ctx;
}

FfTls *ff_creds_load(FfCredsSpec *spec, GError **error)
{
    g_autoptr(FfTls) tls = g_atomic_rc_box_new0(FfTls);

    tls->server = spec->server;
    tls->psk = spec->psk;
    tls->verify_peer = spec->verify_peer;
    tls->records_per_key = spec->records_per_key ? spec->records_per_key : RECORDS_PER_KEY;
    tls->authz = g_steal_pointer(&spec->authz);
    tls->ctx = new_ctx(spec->server);
    ERR_clear_error();
    if (!spec->dir || !*spec->dir) {
        fail(error, "Missing 'dir' property value");
        return NULL;
    }
    if (!set_priority(tls->ctx, spec->priority, spec->psk, error) ||
        !(spec->psk ? load_psk(tls, spec, error) : load_x509(tls, spec, error))) {
        return NULL;
    }
    return g_steal_pointer(&tls);
}
