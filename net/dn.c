/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The text of a certificate's subject as gnutls_x509_crt_get_dn() writes it (its legacy form:
 * most general part first, RFC 4514 escapes): the text that QEMU's authz objects compare with.
 * Compared with stock QEMU by tests/qtest/test-tls. Pure; any thread.
 */
#include "net/dn.h"

#include <glib.h>
#include <openssl/asn1.h>
#include <openssl/objects.h>
#include <stdbool.h>
#include <string.h>

/* GnuTLS's names of attributes. A value is written as text only if it has the string type that
 * the attribute ought to have; DIRECTORY is any of a DirectoryString's. */
#define DIRECTORY 0
static const struct {
    const char *oid, *name;
    int type;
} attributes[] = {
    {"2.5.4.3", "CN", DIRECTORY},
    {"2.5.4.4", "surName", DIRECTORY},
    {"2.5.4.5", "serialNumber", V_ASN1_PRINTABLESTRING},
    {"2.5.4.6", "C", V_ASN1_PRINTABLESTRING},
    {"2.5.4.7", "L", DIRECTORY},
    {"2.5.4.8", "ST", DIRECTORY},
    {"2.5.4.9", "street", DIRECTORY},
    {"2.5.4.10", "O", DIRECTORY},
    {"2.5.4.11", "OU", DIRECTORY},
    {"2.5.4.12", "title", DIRECTORY},
    {"2.5.4.13", "description", DIRECTORY},
    {"2.5.4.15", "businessCategory", DIRECTORY},
    {"2.5.4.17", "postalCode", DIRECTORY},
    {"2.5.4.20", "telephoneNumber", V_ASN1_PRINTABLESTRING},
    {"2.5.4.41", "name", DIRECTORY},
    {"2.5.4.42", "givenName", DIRECTORY},
    {"2.5.4.43", "initials", DIRECTORY},
    {"2.5.4.44", "generationQualifier", DIRECTORY},
    {"2.5.4.46", "dnQualifier", V_ASN1_PRINTABLESTRING},
    {"2.5.4.65", "pseudonym", DIRECTORY},
    {"0.9.2342.19200300.100.1.1", "UID", DIRECTORY},
    {"0.9.2342.19200300.100.1.25", "DC", V_ASN1_IA5STRING},
    {"1.2.840.113549.1.9.1", "EMAIL", V_ASN1_IA5STRING},
    {"1.2.840.113556.1.4.656", "userPrincipalName", DIRECTORY},
    {"1.3.6.1.4.1.311.60.2.1.1", "jurisdictionOfIncorporationLocalityName", DIRECTORY},
    {"1.3.6.1.4.1.311.60.2.1.2", "jurisdictionOfIncorporationStateOrProvinceName", DIRECTORY},
    {"1.3.6.1.4.1.311.60.2.1.3", "jurisdictionOfIncorporationCountryName", V_ASN1_PRINTABLESTRING},
    {"1.3.6.1.5.5.7.8.5", "XmppAddr", V_ASN1_UTF8STRING},
    {"1.3.6.1.5.5.7.9.2", "placeOfBirth", DIRECTORY},
    {"1.3.6.1.5.5.7.9.3", "gender", V_ASN1_PRINTABLESTRING},
    {"1.3.6.1.5.5.7.9.4", "countryOfCitizenship", V_ASN1_PRINTABLESTRING},
    {"1.3.6.1.5.5.7.9.5", "countryOfResidence", V_ASN1_PRINTABLESTRING},
};

static bool is_text(int type, const ASN1_STRING *value)
{
    int has = ASN1_STRING_type(value);

    if (type != DIRECTORY) {
        return has == type;
    }
    return has == V_ASN1_UTF8STRING || has == V_ASN1_PRINTABLESTRING ||
           has == V_ASN1_TELETEXSTRING || has == V_ASN1_BMPSTRING;
}

static void append_escaped(GString *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bool edge =
            (i == 0 && (text[i] == '#' || text[i] == ' ')) || (i == length - 1 && text[i] == ' ');
        if (edge || strchr(",+\"\\<>;", text[i])) {
            g_string_append_c(out, '\\');
        }
        g_string_append_c(out, text[i]);
    }
}

/* FALSE: it cannot be written as text. */
static bool append_text(GString *out, const ASN1_STRING *value)
{
    unsigned char *utf8 = NULL;
    int length = ASN1_STRING_to_UTF8(&utf8, value);
    /* A NUL would end the text for some readers and not for others. */
    bool ok = length >= 0 && !memchr(utf8, 0, (size_t)length);

    if (ok) {
        append_escaped(out, (const char *)utf8, (size_t)length);
    }
    OPENSSL_free(utf8);
    return ok;
}

/* "#" and the DER encoding. */
static void append_hex(GString *out, const ASN1_STRING *value)
{
    ASN1_TYPE *any = ASN1_TYPE_new();
    unsigned char *der = NULL;

    ASN1_TYPE_set1(any, ASN1_STRING_type(value), value);
    int length = i2d_ASN1_TYPE(any, &der);
    g_string_append_c(out, '#');
    for (int i = 0; i < length; i++) {
        g_string_append_printf(out, "%02x", der[i]);
    }
    OPENSSL_free(der);
    ASN1_TYPE_free(any);
}

static void append_attribute(GString *out, const X509_NAME_ENTRY *entry)
{
    const ASN1_STRING *value = X509_NAME_ENTRY_get_data(entry);
    const ASN1_OBJECT *object = X509_NAME_ENTRY_get_object(entry);
    int length = OBJ_obj2txt(NULL, 0, object, 1);
    g_autofree char *oid = g_malloc0((gsize)MAX(length, 0) + 1);

    OBJ_obj2txt(oid, length + 1, object, 1);
    for (unsigned i = 0; i < G_N_ELEMENTS(attributes); i++) {
        if (!strcmp(attributes[i].oid, oid)) {
            g_string_append_printf(out, "%s=", attributes[i].name);
            if (!is_text(attributes[i].type, value) || !append_text(out, value)) {
                append_hex(out, value);
            }
            return;
        }
    }
    g_string_append_printf(out, "%s=", oid);
    append_hex(out, value);
}

char *ff_dn_subject(X509 *cert)
{
    X509_NAME *name = X509_get_subject_name(cert);
    GString *out = g_string_new(NULL);
    int last = -1;

    for (int i = 0; i < X509_NAME_entry_count(name); i++) {
        const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, i);
        int rdn = X509_NAME_ENTRY_set(entry);

        if (i) {
            g_string_append_c(out, rdn == last ? '+' : ',');
        }
        last = rdn;
        append_attribute(out, entry);
    }
    return g_string_free(out, FALSE);
}
