/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See parts.h. The kinds are looked at in the order of a table, and of each side only the first
 * kind with a difference is named: a device is often in two of them. */
#include "migration/destination/parts.h"

#include <stdbool.h>
#include <string.h>

#include "net/frame.h"

#define NAMED 3 /* differences; how many more there are is said */

typedef enum { KIND, NAME, VALUE, WORDS, FIELDS } Field;

typedef struct {
    char **lines;      /* all, each split at its tabs in FIELD */
    GPtrArray *parts;  /* char *[FIELDS], borrowed from LINES; g_free */
    GHashTable *index; /* kind and name -> the part */
    GPtrArray *keys;
} Parts;

static void parts_clear(Parts *p)
{
    g_clear_pointer(&p->index, g_hash_table_unref);
    g_clear_pointer(&p->parts, g_ptr_array_unref);
    g_clear_pointer(&p->keys, g_ptr_array_unref);
    g_strfreev(p->lines);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Parts, parts_clear)

/* FALSE: too few fields. */
static bool split_line(char *line, char **part)
{
    for (unsigned i = 0; i < FIELDS; i++) {
        part[i] = line;
        line = strchr(line, '\t');
        if (line) {
            *line++ = 0;
        } else if (i < FIELDS - 1) {
            return false;
        } else {
            break;
        }
    }
    for (unsigned i = 0; i < FIELDS; i++) {
        ff_peer_text(part[i]);
    }
    return true;
}

static Parts parse_parts(const char *text)
{
    Parts p = {.lines = g_strsplit(text, "\n", -1),
               .parts = g_ptr_array_new_with_free_func(g_free),
               .index = g_hash_table_new(g_str_hash, g_str_equal),
               .keys = g_ptr_array_new_with_free_func(g_free)};

    for (char **line = p.lines; *line; line++) {
        g_autofree char **part = g_new0(char *, FIELDS);

        if (split_line(*line, part)) {
            char *key = g_strdup_printf("%s\t%s", part[KIND], part[NAME]);
            g_ptr_array_add(p.keys, key);
            g_hash_table_insert(p.index, key, part);
            g_ptr_array_add(p.parts, g_steal_pointer(&part));
        }
    }
    return p;
}

static char **look_up(const Parts *p, const char *kind, const char *name)
{
    g_autofree char *key = g_strdup_printf("%s\t%s", kind, name);

    return g_hash_table_lookup(p->index, key);
}

/* ---- what is said of a kind ------------------------------------------------------------------ */

static unsigned count_kind(const Parts *p, const char *kind)
{
    unsigned n = 0;

    for (guint i = 0; i < p->parts->len; i++) {
        n += strcmp(((char **)p->parts->pdata[i])[KIND], kind) == 0;
    }
    return n;
}

typedef struct {
    GString *text;
    unsigned n;
} List;

G_GNUC_PRINTF(2, 3) static void add(List *list, const char *format, ...)
{
    va_list ap;

    if (list->n++ < NAMED) {
        g_string_append(list->text, list->text->len ? "; " : "");
        va_start(ap, format);
        g_string_append_vprintf(list->text, format, ap);
        va_end(ap);
    }
}

/* NULL: nothing was added. */
static char *end_list(List *list, const char *fix)
{
    if (list->n > NAMED) {
        g_string_append_printf(list->text, "; and %u more", list->n - NAMED);
    }
    if (list->n && fix) {
        g_string_append_printf(list->text, ": %s", fix);
    }
    return g_string_free(list->text, !list->n);
}

/* Devices of which QEMU saves nothing (those that -dump-vmstate of 7.2 and 10.0 does not list), so
 * that they may be missing. */
static bool has_state(char **part)
{
    static const char *const none[] = {"edu",       "1234:11e8", "pci-testdev",   "1b36:0005",
                                       "pxb",       "1b36:0009", "pxb-pcie",      "1b36:000b",
                                       "pxb-cxl",   "ati-vga",   "1002:5046",     "cxl-rp",
                                       "8086:7075", "cxl-type3", "8086:0d93",     "cxl-upstream",
                                       "19e5:a128", "19e5:a129", "cxl-downstream"};

    for (unsigned i = 0; i < G_N_ELEMENTS(none); i++) {
        if (strcmp(part[VALUE], none[i]) == 0) {
            return false;
        }
    }
    return true;
}

/* Of parts of KIND that HERE has: those that THERE has not (OTHER NULL), or otherwise. */
typedef void Difference(List *list, char **part, char **other);

static void each_difference(const char *kind, const Parts *here, const Parts *there,
                            Difference *said, List *list)
{
    for (guint i = 0; i < here->parts->len; i++) {
        char **part = here->parts->pdata[i];
        if (strcmp(part[KIND], kind) == 0) {
            char **other = look_up(there, kind, part[NAME]);
            if (!other || strcmp(part[VALUE], other[VALUE]) != 0) {
                said(list, part, other);
            }
        }
    }
}

static void say_lacking(List *list, char **part, char **other)
{
    add(list, "the source has %s at %s, the destination %s%s", part[WORDS], part[NAME],
        other ? "has " : "nothing there", other ? other[WORDS] : "");
}

static void lacks_device(List *list, char **part, char **other)
{
    if (has_state(part)) {
        say_lacking(list, part, other);
    }
}

static void lacks_stateless(List *list, char **part, char **other)
{
    if (!has_state(part)) {
        say_lacking(list, part, other);
    }
}

static void more_device(List *list, char **part, char **other)
{
    if (!other) {
        add(list, "the destination has %s at %s, the source nothing there", part[WORDS],
            part[NAME]);
    }
}

static void counts_other(List *list, char **part, char **other)
{
    add(list, "%s: %s at the source, %s at the destination", part[WORDS], part[VALUE],
        other ? other[VALUE] : "none");
}

static void more_other(List *list, char **part, char **other)
{
    if (!other) {
        add(list, "%s: none at the source, %s at the destination", part[WORDS], part[VALUE]);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static char *compare_machine(const Parts *source, const Parts *destination)
{
    char **ours = look_up(source, "machine", "type");
    char **theirs = look_up(destination, "machine", "type");

    return !ours || !theirs || !strcmp(ours[VALUE], theirs[VALUE])
               ? NULL
               : g_strdup_printf("machine type %s at the source, %s at the destination: start both "
                                 "with the same -machine",
                                 ours[VALUE], theirs[VALUE]);
}

static void no_cpu(List *list, char **part, char **other)
{
    list->n += !other;
}

static char *compare_cpus(const Parts *source, const Parts *destination)
{
    List missing = {NULL, 0};

    each_difference("cpu", source, destination, no_cpu, &missing);
    return missing.n ? g_strdup_printf("%u virtual CPUs at the source, %u at the destination: "
                                       "start both with the same -smp",
                                       count_kind(source, "cpu"), count_kind(destination, "cpu"))
                     : NULL;
}

static char *compare_devices(const char *kind, const Parts *source, const Parts *destination)
{
    List list = {g_string_new(NULL), 0};

    each_difference(kind, source, destination, lacks_device, &list);
    return end_list(&list, "start both with the same devices");
}

static char *list_differences(const Parts *source, const Parts *destination)
{
    unsigned here = count_kind(source, "cpu"), there = count_kind(destination, "cpu");
    List list = {g_string_new(NULL), 0};

    if (there > here) {
        add(&list, "%u virtual CPUs at the source, %u at the destination", here, there);
    }
    each_difference("device", source, destination, lacks_stateless, &list);
    each_difference("device", destination, source, more_device, &list);
    if (!list.n || there > here) {
        each_difference("pci", source, destination, lacks_stateless, &list);
        each_difference("pci", destination, source, more_device, &list);
    }
    each_difference("other", source, destination, counts_other, &list);
    each_difference("other", destination, source, more_other, &list);
    return end_list(&list, NULL);
}

static char *compare_versions(const Parts *source, const Parts *destination)
{
    char **ours = look_up(source, "qemu", "version");
    char **theirs = look_up(destination, "qemu", "version");

    return !ours || !theirs || !strcmp(ours[VALUE], theirs[VALUE])
               ? NULL
               : g_strdup_printf("QEMU %s at the source, %s at the destination", ours[VALUE],
                                 theirs[VALUE]);
}

FfPartsFit ff_parts_compare(const char *source, const char *destination)
{
    g_auto(Parts) ours = parse_parts(source), theirs = parse_parts(destination);
    FfPartsFit fit = {.refusal = compare_machine(&ours, &theirs),
                      .versions = compare_versions(&ours, &theirs)};

    fit.refusal = fit.refusal ? fit.refusal : compare_cpus(&ours, &theirs);
    fit.refusal = fit.refusal ? fit.refusal : compare_devices("device", &ours, &theirs);
    fit.refusal = fit.refusal ? fit.refusal : compare_devices("pci", &ours, &theirs);
    fit.differences = list_differences(&ours, &theirs);
    return fit;
}

/* ---- a saved guest --------------------------------------------------------------------------- */

#define ROOT "0000:00"

/* Where QEMU has a PCI device in the names of its sections, from the root bus that all machines
 * have; NULL: it is not there (g_free). */
static char *section_path(char **part)
{
    if (strcmp(part[KIND], "pci") == 0) {
        return g_str_has_prefix(part[NAME], "00:") ? g_strconcat("0000:", part[NAME], NULL) : NULL;
    }
    const char *at = strchr(part[NAME], '/');
    return at ? g_strdelimit(g_strconcat(ROOT, at, NULL), "/", ':') : NULL;
}

/* The devices that have a section in TAIL: "0000:00:03.0/virtio-net" after its length. What looks
 * like one and is none hides a device at most. */
static GHashTable *find_sections(const char *tail, size_t n)
{
    GHashTable *found = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    const char *end = tail + n;

    for (const char *at = tail; (at = memmem(at, (size_t)(end - at), ROOT, strlen(ROOT))); at++) {
        size_t len = at > tail ? (uint8_t)at[-1] : 0;
        const char *slash = len <= (size_t)(end - at) ? memchr(at, '/', len) : NULL;
        if (slash) {
            g_hash_table_add(found, g_strndup(at, (gsize)(slash - at)));
        }
    }
    return found;
}

static void list_more(List *list, const Parts *p, const char *kind, GHashTable *sections)
{
    for (guint i = 0; i < p->parts->len; i++) {
        char **part = p->parts->pdata[i];
        g_autofree char *path = strcmp(part[KIND], kind) ? NULL : section_path(part);
        if (path && has_state(part) && !g_hash_table_contains(sections, path)) {
            add(list, "QEMU has %s at %s, the saved guest nothing there", part[WORDS], part[NAME]);
        }
    }
}

char *ff_parts_more(const char *parts, const void *tail, size_t n)
{
    g_auto(Parts) ours = parse_parts(parts);
    g_autoptr(GHashTable) sections = find_sections(tail, n);
    List list = {g_string_new(NULL), 0};

    list_more(&list, &ours, "device", sections);
    if (!list.n) {
        list_more(&list, &ours, "pci", sections);
    }
    return end_list(&list, NULL);
}

void ff_parts_fit_clear(FfPartsFit *fit)
{
    g_clear_pointer(&fit->refusal, g_free);
    g_clear_pointer(&fit->differences, g_free);
    g_clear_pointer(&fit->versions, g_free);
}
