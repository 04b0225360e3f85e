/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is concluded from "info ramblock" about a memory backend: the text as QEMU 7.2 and 10.0
 * print it, with memory that has no name, and texts that are none. Whatever is not
 * understood counts as saved.
 */
#include <glib.h>

#include "guest/qemu/ramblock.h"

#define HEAD_7_2                                                                                   \
    "              Block Name    PSize              Offset               Used              "       \
    "Total\r\n"
#define REST_7_2 "    4 KiB  0x0000000001000000 0x0000000004000000 0x0000000004000000\r\n"
#define HEAD_10                                                                                    \
    "              Block Name    PSize              Offset               Used              Total " \
    "               HVA  RO\r\n"
#define REST_10                                                                                    \
    "    4 KiB  0x0000000001000000 0x0000000008000000 0x0000000008000000 0x00007f5f8be00000  "     \
    "rw\r\n"

static const struct {
    const char *name, *text;
    bool saved; /* the backend "more" */
} rows[] = {
    {"plain", HEAD_7_2 "                  pc.ram" REST_7_2 "                    more" REST_7_2,
     true},
    {"path", HEAD_7_2 "                  pc.ram" REST_7_2 "           /objects/more" REST_7_2,
     true},
    {"device", HEAD_10 "       0000:00:01.0/more" REST_10 "                  pc.ram" REST_10, true},
    {"no-name/7.2",
     HEAD_7_2 "                  pc.ram" REST_7_2 "                        " REST_7_2, false},
    {"no-name/10", HEAD_10 "                        " REST_10 "    0000:00:02.0/vga.vram" REST_10,
     false},
    {"others",
     HEAD_10 "                 moremore" REST_10 "                     more2" REST_10
             "                   a/more/b" REST_10,
     false},
    {"unnamed-alone", HEAD_7_2 "                        " REST_7_2, true},
    {"head-alone", HEAD_7_2, true},
    {"empty", "", true},
    {"other-words", "no such command", true},
};

static void test_row(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);

    g_assert_cmpint(ff_qemu_is_saved_in(rows[i].text, "more"), ==, rows[i].saved);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/ramblock/%s", rows[i].name);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_row);
    }
    return g_test_run();
}
