/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Secrets as crypto/secret_common.c of QEMU reads them: plain, base64, and AES-256-CBC under
 * another secret, which is how libvirt hands passphrases over. No message names their content.
 * Any thread.
 */
#include "net/secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

#define SECRET_ERROR g_quark_from_static_string("farfault-secret")
#define KEY_BYTES 32
#define IV_BYTES 16

void ff_wipe(void *bytes, gsize length)
{
    if (bytes) {
        OPENSSL_cleanse(bytes, length);
    }
}

void ff_wipe_free(char *text)
{
    if (text) {
        ff_wipe(text, strlen(text));
        g_free(text);
    }
}

static FfSecret *secret_new(const void *bytes, gsize length)
{
    FfSecret *secret = g_malloc0(sizeof(*secret) + length + 1);

    secret->length = length;
    if (bytes) {
        memcpy(secret->bytes, bytes, length);
    }
    return secret;
}

void ff_secret_free(FfSecret *secret)
{
    if (secret) {
        ff_wipe(secret->bytes, secret->length);
        g_free(secret);
    }
}

/* QEMU refuses what is no base64, GLib passes over it. */
static FfSecret *decode_base64(const char *text, gsize length, const char *id, GError **error)
{
    gsize n = 0;

    while (length && g_ascii_isspace(text[length - 1])) {
        length--;
    }
    for (gsize i = 0; i < length; i++) {
        if (!g_ascii_isalnum(text[i]) && !memchr("+/=\r\n", text[i], 5)) {
            g_set_error(error, SECRET_ERROR, 0, "Base64 data of secret '%s' is not valid", id);
            return NULL;
        }
    }
    g_autofree char *copy = g_strndup(text, length);
    guint8 *bytes = g_base64_decode(copy, &n);
    FfSecret *secret = secret_new(bytes, n);

    ff_wipe(copy, length);
    ff_wipe(bytes, n);
    g_free(bytes);
    return secret;
}

static FfSecret *decrypt_secret(const FfSecret *in, const FfSecret *key, const FfSecret *iv,
                                const char *id, GError **error)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    g_autoptr(FfSecret) out = secret_new(NULL, in->length + IV_BYTES);
    int n = 0, rest = 0;

    /* PKCS#7 padding is checked and taken off by the library. */
    bool ok = ctx && in->length &&
              EVP_DecryptInit_ex(ctx, EVP_aes_256_cbc(), NULL, key->bytes, iv->bytes) &&
              EVP_DecryptUpdate(ctx, out->bytes, &n, in->bytes, (int)in->length) &&
              EVP_DecryptFinal_ex(ctx, out->bytes + n, &rest);

    EVP_CIPHER_CTX_free(ctx);
    if (!ok) {
        g_set_error(error, SECRET_ERROR, 0,
                    "secret '%s' cannot be decrypted: wrong key, IV or data", id);
        return NULL;
    }
    return secret_new(out->bytes, (gsize)(n + rest));
}

static FfSecret *read_input(const FfSecretSpec *spec, GError **error)
{
    bool data = spec->data && *spec->data, file = spec->file && *spec->file;

    if (data && file) {
        g_set_error_literal(error, SECRET_ERROR, 0, "'file' and 'data' are mutually exclusive");
        return NULL;
    }
    if (data) {
        return secret_new(spec->data, strlen(spec->data));
    }
    if (!file) {
        g_set_error_literal(error, SECRET_ERROR, 0, "Must provide 'file' or 'data'");
        return NULL;
    }
    g_autoptr(GError) own = NULL;
    char *text = NULL;
    gsize length = 0;

    if (!g_file_get_contents(spec->file, &text, &length, &own)) {
        g_set_error(error, SECRET_ERROR, 0, "Unable to read %s: %s", spec->file, own->message);
        return NULL;
    }
    FfSecret *secret = secret_new(text, length);

    ff_wipe(text, length);
    g_free(text);
    return secret;
}

static FfSecret *decrypt_under(const FfSecretSpec *spec, const FfSecret *in, const FfSecret *key,
                               GError **error)
{
    if (key->length != KEY_BYTES) {
        g_set_error_literal(error, SECRET_ERROR, 0, "Key should be 32 bytes in length");
        return NULL;
    }
    if (!spec->iv || !*spec->iv) {
        g_set_error_literal(error, SECRET_ERROR, 0, "IV is required to decrypt secret");
        return NULL;
    }
    g_autoptr(FfSecret) iv = decode_base64(spec->iv, strlen(spec->iv), spec->id, error);

    if (!iv) {
        return NULL;
    }
    if (iv->length != IV_BYTES) {
        g_set_error(error, SECRET_ERROR, 0, "IV should be 16 bytes in length not %" G_GSIZE_FORMAT,
                    iv->length);
        return NULL;
    }
    return decrypt_secret(in, key, iv, spec->id, error);
}

FfSecret *ff_secret_new(const FfSecretSpec *spec, const FfSecret *key, GError **error)
{
    g_autoptr(FfSecret) in = read_input(spec, error);

    if (in && spec->base64) {
        FfSecret *decoded = decode_base64((const char *)in->bytes, in->length, spec->id, error);

        ff_secret_free(in);
        in = decoded;
    }
    if (!in || !key) {
        return g_steal_pointer(&in);
    }
    return decrypt_under(spec, in, key, error);
}
