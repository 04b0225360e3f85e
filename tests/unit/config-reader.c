/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See config-reader.h. Lines end after 1023 bytes, names and values are cut by scanf's widths. */
#include "tests/unit/config-reader.h"

#include <stdio.h>
#include <string.h>

#define LINE 1023 /* bytes of one fgets() */

typedef struct {
    char group[64];
    GHashTable *keys; /* char * of char * */
} Section;

static void section_free(gpointer data)
{
    Section *section = data;

    g_hash_table_unref(section->keys);
    g_free(section);
}

static Section *section_add(GPtrArray *sections, const char *group)
{
    Section *section = g_new0(Section, 1);

    g_strlcpy(section->group, group, sizeof(section->group));
    section->keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_ptr_array_add(sections, section);
    return section;
}

/* FALSE: QEMU ends with a parse error. */
static bool line_read(GPtrArray *sections, const char *line)
{
    char name[64], value[1024] = "";

    if (*line == '\n' || *line == '#') {
        return true;
    }
    if (*line == '[') {
        if (sscanf(line, "[%63s \"%63[^\"]\"]", name, value) == 2) {
            g_hash_table_insert(section_add(sections, name)->keys, g_strdup("id"), g_strdup(value));
            return true;
        }
        if (sscanf(line, "[%63[^]]]", name) == 1) {
            section_add(sections, name);
            return true;
        }
    }
    if (!sections->len || (sscanf(line, " %63s = \"%1023[^\"]\"", name, value) != 2 &&
                           sscanf(line, " %63s = \"\"", name) != 1)) {
        return false;
    }
    Section *last = sections->pdata[sections->len - 1];

    g_hash_table_insert(last->keys, g_strdup(name), g_strdup(value));
    return true;
}

static GPtrArray *read_all(const char *text)
{
    g_autoptr(GPtrArray) sections = g_ptr_array_new_with_free_func(section_free);

    while (*text) {
        size_t len = strcspn(text, "\n");

        len = MIN(len + (text[len] == '\n'), LINE);
        g_autofree char *line = g_strndup(text, len);
        if (!line_read(sections, line)) {
            return NULL;
        }
        text += len;
    }
    return g_steal_pointer(&sections);
}

static const char *get(const Section *section, const char *key)
{
    return g_hash_table_lookup(section->keys, key);
}

static bool is_control(const Section *section)
{
    return (!strcmp(section->group, "mon") && !g_strcmp0(get(section, "mode"), "control")) ||
           (!strcmp(section->group, "object") &&
            !g_strcmp0(get(section, "qom-type"), "monitor-qmp"));
}

void config_check_monitors(const FfPlan *plan, const char *text, int fd)
{
    g_autofree char *number = g_strdup_printf("%d", fd);
    g_autoptr(GPtrArray) sections =
        plan->engine_refused || plan->passthrough ? NULL : read_all(text);

    for (guint i = 0; sections && i < sections->len; i++) {
        const Section *monitor = sections->pdata[i];
        const char *id = is_control(monitor) ? get(monitor, "chardev") : NULL;

        for (guint k = 0; id && k < sections->len; k++) {
            const Section *chardev = sections->pdata[k];

            if (!strcmp(chardev->group, "chardev") && !g_strcmp0(get(chardev, "id"), id)) {
                g_assert_cmpstr(get(chardev, "fd"), ==, number);
            }
        }
    }
}
