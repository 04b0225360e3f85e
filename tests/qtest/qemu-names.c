/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints the names in a QEMU's schema, sorted, one a line, for scripts/check-schema. */
#include <stdio.h>

#include "cli/watch/qemu-names.h"

int main(int argc, char **argv)
{
    g_autoptr(GHashTable) names = argc == 2 ? ff_qemu_names(argv[1]) : NULL;

    if (!names) {
        fprintf(stderr, "qemu-names: %s does not say what it can be told\n",
                argc == 2 ? argv[1] : "no QEMU");
        return 1;
    }
    g_autoptr(GList) list = g_list_sort(g_hash_table_get_keys(names), (GCompareFunc)g_strcmp0);

    for (GList *one = list; one; one = one->next) {
        puts(one->data);
    }
    return 0;
}
