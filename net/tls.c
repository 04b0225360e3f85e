/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection's TLS session: handshake, read, write, and what an error means to the reader of
 * a log. See tls.h for the threads.
 *
 * Lock: FfTlsSession.lock is a leaf, held around one call of OpenSSL on a non-blocking socket.
 * OpenSSL's error queue is the thread's, so it is emptied before and read after each call inside
 * of the lock. The peer's certificate is verified inside of the handshake (ff_tls_verify), so that
 * a refused peer gets an alert and not a connection that just closes. Only whether it names the
 * host is looked at when the handshake is over, as GnuTLS does: the server knows by then whom it
 * talks to, and may believe it when it is told that nothing will come (ff_tls_declined).
 * Nothing is read or written before a session is `usable`.
 * System calls: read, write (the socket), setsockopt (TCP_ULP, where the kernel has TLS).
 */
#include "base/sync.h"
#include "net/dn.h"
#include "net/tls-internal.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>

struct FfTlsSession {
    FfTls *tls;
    SSL *ssl;       /* lock */
    char *hostname; /* can be NULL */
    FfMutex lock;
    bool usable;      /* lock; the handshake is over and the peer is who it must be */
    bool dead;        /* lock; OpenSSL must not be entered any more */
    bool ended;       /* lock; the peer has said that it writes no more */
    unsigned records; /* lock; written under the current key */
    unsigned keys;    /* lock; that were left behind */
    int err;          /* lock */
    gpointer why;     /* atomic; char *, set once. Observer: any thread */
};

/* ---- what both sides bring along ------------------------------------------------------------- */

static void tls_clear(gpointer p)
{
    FfTls *tls = p;

    SSL_CTX_free(tls->ctx);
    ff_authz_free(tls->authz);
    g_clear_pointer(&tls->keys, g_ptr_array_unref);
}

FfTls *ff_tls_ref(FfTls *tls)
{
    return tls ? g_atomic_rc_box_acquire(tls) : NULL;
}

void ff_tls_unref(FfTls *tls)
{
    if (tls) {
        g_atomic_rc_box_release_full(tls, tls_clear);
    }
}

bool ff_tls_is_server(const FfTls *tls)
{
    return tls->server;
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void set_why(FfTlsSession *s, char *text)
{
    if (!g_atomic_pointer_compare_and_exchange(&s->why, NULL, text)) {
        g_free(text);
    }
}

const char *ff_tls_why(FfTlsSession *s)
{
    return g_atomic_pointer_get(&s->why);
}

const char *ff_tls_openssl_error(void)
{
    unsigned long e = ERR_get_error();
    const char *reason = ERR_reason_error_string(e);

    ERR_clear_error();
    return reason ? reason : "unknown error of OpenSSL";
}

/* What an alert of the peer says about this side. */
static const struct {
    int alert;
    const char *text;
} alerts[] = {
    {SSL_AD_BAD_CERTIFICATE, "it does not accept this side's certificate"},
    {SSL_AD_UNSUPPORTED_CERTIFICATE, "it does not accept this side's kind of certificate"},
    {SSL_AD_CERTIFICATE_REVOKED, "this side's certificate has been revoked"},
    {SSL_AD_CERTIFICATE_EXPIRED, "this side's certificate has expired"},
    {SSL_AD_CERTIFICATE_UNKNOWN, "it does not accept this side's certificate"},
    {SSL_AD_UNKNOWN_CA, "it does not know the issuer of this side's certificate"},
    {SSL_AD_CERTIFICATE_REQUIRED,
     "it requires a certificate of this side: put client-cert.pem and client-key.pem into the "
     "directory of tls-creds"},
    {SSL_AD_HANDSHAKE_FAILURE,
     "the credentials of the two sides are of different kinds or have nothing in common, or this "
     "side is not authorised"},
    {SSL_AD_PROTOCOL_VERSION, "it speaks no TLS version that this side allows"},
    {SSL_AD_UNKNOWN_PSK_IDENTITY, "it does not know this user name"},
    {SSL_AD_DECRYPT_ERROR, "the keys differ"},
    {SSL_AD_ILLEGAL_PARAMETER, "the keys differ"},
};

static char *alert_text(const FfTlsSession *s, int alert)
{
    if (alert == SSL_AD_UNEXPECTED_MESSAGE && !SSL_is_init_finished(s->ssl)) {
        return g_strdup("the peer does not use TLS: set tls-creds on both sides or on none");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(alerts); i++) {
        if (alerts[i].alert == alert) {
            return g_strdup_printf("the peer refused TLS: %s", alerts[i].text);
        }
    }
    return g_strdup_printf("the peer refused TLS: alert %d (%s)", alert,
                           SSL_alert_desc_string_long(alert));
}

static void explain_error(FfTlsSession *s)
{
    int reason = ERR_GET_REASON(ERR_peek_error());

    if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
        set_why(s, alert_text(s, reason - SSL_AD_REASON_OFFSET));
        return;
    }
    switch (reason) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        s->err = 0; /* the protocol above tells by itself whether it was at its end */
        return;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        set_why(s, g_strdup("what the peer sent is no TLS"));
        return;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        set_why(s, g_strdup("Verify failed: No certificate was found."));
        return;
    case SSL_R_NO_SHARED_CIPHER:
        set_why(s, g_strdup(s->tls->psk ? "the peer offered no key that this side knows"
                                        : "the peer has no TLS cipher in common with this side"));
        return;
    case SSL_R_BINDER_DOES_NOT_VERIFY:
        set_why(s, g_strdup("the peer's key is not the one of this side"));
        return;
    default:
        set_why(s, g_strdup_printf("TLS: %s", ERR_reason_error_string(ERR_peek_error())));
    }
}

/* The outcome of a call that returned RC <= 0. Under the lock. */
static FfIo call_outcome(FfTlsSession *s, int rc, int sys, short *events)
{
    switch (SSL_get_error(s->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        *events = POLLIN;
        return FF_IO_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        *events = POLLOUT;
        return FF_IO_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        s->ended = true;
        break;
    case SSL_ERROR_SYSCALL:
        s->err = sys;
        break;
    default:
        s->err = EPROTO;
        explain_error(s);
    }
    ERR_clear_error();
    s->dead = true;
    return FF_IO_DEAD;
}

int ff_tls_errno(FfTlsSession *s)
{
    ff_mutex_lock(&s->lock);
    int err = s->err;
    ff_mutex_unlock(&s->lock);
    return err;
}

/* ---- who the peer is ------------------------------------------------------------------------- */

const char *ff_tls_verify_text(int code)
{
    switch (code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return "The certificate has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return "The certificate is not yet activated";
    case X509_V_ERR_CERT_REVOKED:
        return "The certificate has been revoked";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        return "The certificate hasn't got a known issuer";
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
        return "The certificate uses an insecure algorithm";
    case X509_V_ERR_INVALID_PURPOSE:
        return "The certificate's purpose does not allow this use of it";
    default:
        return "The certificate is not trusted";
    }
}

int ff_tls_each_error(int ok, X509_STORE_CTX *store)
{
    if (!ok && X509_STORE_CTX_get_error(store) == X509_V_ERR_UNABLE_TO_GET_CRL) {
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    return ok;
}

/* As gnutls_x509_crt_check_hostname(): an address may stand among the addresses or, misplaced,
 * among the names. */
static bool is_host(X509 *cert, const char *name)
{
    unsigned char raw[16];
    bool address = inet_pton(AF_INET, name, raw) == 1 || inet_pton(AF_INET6, name, raw) == 1;

    return (address && X509_check_ip_asc(cert, name, 0) == 1) ||
           X509_check_host(cert, name, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
}

/* Why a client does not accept the host that CERT names; NULL: it does. g_free. */
static char *why_not_host(const FfTlsSession *s, X509 *cert)
{
    if (!cert) {
        return g_strdup("Verify failed: No certificate was found.");
    }
    if (!s->hostname) {
        return g_strdup("No hostname for certificate validation: set tls-hostname");
    }
    if (!is_host(cert, s->hostname)) {
        return g_strdup_printf("Certificate does not match the hostname %s", s->hostname);
    }
    return NULL;
}

/* Why a server does not let in the peer that CERT names; NULL: it does. g_free. */
static char *why_not_in(const FfTlsSession *s, X509 *cert)
{
    g_autofree char *name = NULL;

    if (s->tls->authz) {
        name = ff_dn_subject(cert);
        if (!ff_authz_allows(s->tls->authz, name)) {
            return g_strdup_printf("TLS x509 authz check for %s is denied", name);
        }
    }
    return NULL;
}

int ff_tls_verify(X509_STORE_CTX *store, void *opaque)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    FfTlsSession *s = SSL_get_app_data(ssl);
    char *why;

    if (s->tls->psk) {
        set_why(s, g_strdup("the peer shows a certificate where a shared key is expected"));
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    X509_STORE_CTX_set_verify_cb(store, ff_tls_each_error);
    if (X509_verify_cert(store) != 1) {
        int code = X509_STORE_CTX_get_error(store);
        set_why(s, g_strdup_printf("%s (%s)", ff_tls_verify_text(code),
                                   X509_verify_cert_error_string(code)));
        return 0;
    }
    why = why_not_in(s, X509_STORE_CTX_get0_cert(store));
    if (why) {
        set_why(s, why);
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    return 1;
}

/* ---- shared keys ----------------------------------------------------------------------------- */

/* An external key goes with SHA-256 (RFC 8446, 4.2.11). */
static SSL_SESSION *psk_session(SSL *ssl, const FfPsk *psk)
{
    static const unsigned char aes128gcm[] = {0x13, 0x01};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes128gcm);
    SSL_SESSION *session = SSL_SESSION_new();

    if (session && cipher &&
        SSL_SESSION_set1_master_key(session, psk->key->bytes, psk->key->length) &&
        SSL_SESSION_set_cipher(session, cipher) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION)) {
        return session;
    }
    SSL_SESSION_free(session);
    return NULL;
}

int ff_tls_psk_client(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_len,
                      SSL_SESSION **session)
{
    const FfTlsSession *s = SSL_get_app_data(ssl);
    const FfPsk *mine = s->tls->mine;

    *session = NULL;
    if (md && EVP_MD_get_type(md) != NID_sha256) {
        return 1; /* no key for this one: the handshake ends without */
    }
    *id = (const unsigned char *)mine->name;
    *id_len = strlen(mine->name);
    *session = psk_session(ssl, mine);
    return *session != NULL;
}

int ff_tls_psk_server(SSL *ssl, const unsigned char *id, size_t id_len, SSL_SESSION **session)
{
    FfTlsSession *s = SSL_get_app_data(ssl);

    *session = NULL;
    for (guint i = 0; i < s->tls->keys->len; i++) {
        const FfPsk *psk = s->tls->keys->pdata[i];
        if (strlen(psk->name) == id_len && memcmp(psk->name, id, id_len) == 0) {
            *session = psk_session(ssl, psk);
            return *session != NULL;
        }
    }
    set_why(s, g_strdup("the peer's user name is in no line of keys.psk"));
    return 1;
}

/* ---- the session ----------------------------------------------------------------------------- */

FfTlsSession *ff_tls_session_new(FfTls *tls, int fd, const char *hostname)
{
    FfTlsSession *s = g_new0(FfTlsSession, 1);
    unsigned char raw[16];

    ff_mutex_init(&s->lock);
    s->tls = ff_tls_ref(tls);
    s->hostname = g_strdup(hostname);
    s->ssl = SSL_new(tls->ctx);
    if (!s->ssl || !SSL_set_fd(s->ssl, fd)) {
        g_error("out of memory for a TLS session");
    }
    SSL_set_app_data(s->ssl, s);
    if (tls->server) {
        SSL_set_accept_state(s->ssl);
        return s;
    }
    SSL_set_connect_state(s->ssl);
    /* SNI has names, never addresses (RFC 6066). */
    if (hostname && inet_pton(AF_INET, hostname, raw) != 1 &&
        inet_pton(AF_INET6, hostname, raw) != 1) {
        SSL_set_tlsext_host_name(s->ssl, hostname);
    }
    return s;
}

void ff_tls_session_free(FfTlsSession *s)
{
    if (s) {
        SSL_free(s->ssl);
        ERR_clear_error();
        ff_tls_unref(s->tls);
        ff_mutex_clear(&s->lock);
        g_free(s->hostname);
        g_free(s->why);
        g_free(s);
    }
}

/* The handshake is over: a client with a shared key takes no server that does not know it, one with
 * certificates none of another host. Under the lock. */
static FfIo check_peer(FfTlsSession *s)
{
    const FfTls *tls = s->tls;
    char *why = NULL;

    if (tls->psk && !SSL_session_reused(s->ssl)) {
        why = g_strdup("the peer did not use the shared key");
    } else if (!tls->psk && !tls->server && tls->verify_peer) {
        why = why_not_host(s, SSL_get0_peer_certificate(s->ssl));
    }
    if (!why) {
        s->usable = true;
        return FF_IO_DONE;
    }
    set_why(s, why);
    s->err = EPROTO;
    s->dead = true;
    /* All that the peer hears: a handshake that is over leaves no alert to be sent. */
    SSL_shutdown(s->ssl);
    ERR_clear_error();
    return FF_IO_DEAD;
}

FfIo ff_tls_handshake(FfTlsSession *s, short *events)
{
    FfIo io = FF_IO_DEAD;

    *events = 0;
    ff_mutex_lock(&s->lock);
    if (!s->dead) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_do_handshake(s->ssl), sys = errno;
        io = rc == 1 ? check_peer(s) : call_outcome(s, rc, sys, events);
    }
    ff_mutex_unlock(&s->lock);
    return io;
}

FfIo ff_tls_read(FfTlsSession *s, void *buf, size_t len, size_t *done, short *events)
{
    FfIo io = FF_IO_DEAD;

    *done = 0;
    *events = 0;
    ff_mutex_lock(&s->lock);
    if (s->usable && !s->dead) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_read_ex(s->ssl, buf, len, done), sys = errno;
        io = rc == 1 ? FF_IO_DONE : call_outcome(s, rc, sys, events);
    }
    ff_mutex_unlock(&s->lock);
    return io;
}

/*
 * A long transfer changes its keys on the way. OpenSSL reads nothing while a change of keys is half
 * written, so two ends that both fill their sockets could wait for each other for ever: it is begun
 * only while the socket takes much more than its few bytes, and else tried again after the next
 * record. The kernel's TLS cannot change keys.
 */
static void count_record(FfTlsSession *s)
{
    struct pollfd p = {.fd = SSL_get_fd(s->ssl), .events = POLLOUT};

    if (++s->records >= s->tls->records_per_key && SSL_version(s->ssl) == TLS1_3_VERSION &&
        !BIO_get_ktls_send(SSL_get_wbio(s->ssl)) && poll(&p, 1, 0) == 1 && p.revents == POLLOUT &&
        SSL_key_update(s->ssl, SSL_KEY_UPDATE_NOT_REQUESTED)) {
        s->records = 0;
        s->keys++;
        SSL_do_handshake(s->ssl); /* writes it; a failure shows in the next call */
    }
}

/* A peer that refused us has closed, so the write fails; its alert waits to be read. */
static void look_for_alert(FfTlsSession *s)
{
    char sink[1024];
    size_t n;
    short events;
    int err = s->err, rc = 1;

    for (int i = 0; rc == 1 && i < 64; i++) {
        ERR_clear_error();
        rc = SSL_read_ex(s->ssl, sink, sizeof(sink), &n);
    }
    if (rc != 1) {
        call_outcome(s, rc, 0, &events);
    }
    s->dead = true;
    s->err = s->err ? s->err : err;
}

FfIo ff_tls_write(FfTlsSession *s, const void *buf, size_t len, short *events)
{
    FfIo io = FF_IO_DEAD;
    size_t done;

    *events = 0;
    ff_mutex_lock(&s->lock);
    if (s->usable && !s->dead) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_write_ex(s->ssl, buf, len, &done), sys = errno;
        io = rc == 1 ? FF_IO_DONE : call_outcome(s, rc, sys, events);
        if (io == FF_IO_DONE) {
            count_record(s);
        } else if (io == FF_IO_DEAD && s->err && s->err != EPROTO) {
            look_for_alert(s);
        }
    }
    ff_mutex_unlock(&s->lock);
    return io;
}

FfIo ff_tls_finish(FfTlsSession *s, short *events)
{
    FfIo io = FF_IO_DEAD;

    *events = 0;
    ff_mutex_lock(&s->lock);
    if (!s->dead) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_shutdown(s->ssl), sys = errno; /* 0: ours is out, the peer's is to come */
        io = rc >= 0 ? FF_IO_DONE : call_outcome(s, rc, sys, events);
    }
    ff_mutex_unlock(&s->lock);
    return io;
}

bool ff_tls_pending(FfTlsSession *s)
{
    ff_mutex_lock(&s->lock);
    bool pending = !s->dead && SSL_pending(s->ssl) > 0;
    ff_mutex_unlock(&s->lock);
    return pending;
}

static bool is_proved(const FfTlsSession *s)
{
    return s->usable && (s->tls->psk || s->tls->verify_peer);
}

bool ff_tls_proved(FfTlsSession *s)
{
    ff_mutex_lock(&s->lock);
    bool yes = is_proved(s);
    ff_mutex_unlock(&s->lock);
    return yes;
}

bool ff_tls_declined(FfTlsSession *s)
{
    ff_mutex_lock(&s->lock);
    bool declined = s->ended && is_proved(s);
    ff_mutex_unlock(&s->lock);
    return declined;
}

char *ff_tls_describe(FfTlsSession *s)
{
    ff_mutex_lock(&s->lock);
    g_autofree char *key = s->keys ? g_strdup_printf(", key %u", s->keys + 1) : NULL;
    char *text =
        g_strdup_printf("%s %s%s%s", SSL_get_version(s->ssl), SSL_get_cipher_name(s->ssl),
                        BIO_get_ktls_send(SSL_get_wbio(s->ssl)) ? " (kernel)" : "", key ? key : "");
    ff_mutex_unlock(&s->lock);
    return text;
}
