/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is concluded from "info registers -a" about a guest that may be a hypervisor: the text as
 * QEMU 7.2 and 10.0 print it, for guests of several vCPUs, and such texts cut off.
 */
#include <glib.h>
#include <string.h>

#include "guest/qemu/nested-virtualisation.h"

#define CPU(n, cr4, rest)                                                                          \
    "\r\nCPU#" n "\r\n"                                                                            \
    "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1\r\n"                                      \
    "ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000\r\n"                                      \
    "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n"                         \
    "GDT=     00000000 0000ffff\r\n"                                                               \
    "CR0=60000010 CR2=00003000 CR3=00002000 CR4=" cr4 "\r\n"                                       \
    "DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 \r\n"     \
    "DR6=00000000ffff0ff0 DR7=0000000000000400\r\n" rest
#define END                                                                                        \
    "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\r\n"                                           \
    "XMM06=0000000000001000 0000000000002000 XMM07=0000000000000000 0000000000000000\r\n"
/* A Linux guest of 64 bits has SCE, LME, LMA and NXE. */
#define IDLE(n) CPU(n, "000006f0", "EFER=0000000000000d01\r\n" END)
#define VMX(n) CPU(n, "000026f0", "EFER=0000000000000d01\r\n" END)
#define SVM(n) CPU(n, "000006f0", "EFER=0000000000001d01\r\n" END)

#define UNKNOWN "does not tell the registers"
static const struct {
    const char *name, *text;
    const char *says; /* NULL: it is no hypervisor */
} rows[] = {
    {"one", IDLE("0"), NULL},
    {"three", IDLE("0") IDLE("1") IDLE("2"), NULL},
    {"reset", CPU("0", "00000000", "EFER=0000000000000000\r\n" END), NULL},
    /* All bits but those two. */
    {"others", CPU("0", "ffffdfff", "EFER=ffffffffffffefff\r\n" END), NULL},
    {"vmx/one", VMX("0"), "(vmx)"},
    {"vmx/first", VMX("0") IDLE("1") IDLE("2"), "(vmx)"},
    {"vmx/last", IDLE("0") IDLE("1") VMX("2"), "(vmx)"},
    {"svm/one", SVM("0"), "(svm)"},
    {"svm/first", SVM("0") IDLE("1") IDLE("2"), "(svm)"},
    {"svm/last", IDLE("0") IDLE("1") SVM("2"), "(svm)"},
    {"svm/alone", CPU("0", "00000000", "EFER=0000000000001000\r\n" END), "(svm)"},
    {"vmx/alone", CPU("0", "00002000", "EFER=0000000000000000\r\n" END), "(vmx)"},
    /* Without EFER: no QEMU that is known, and no reason to believe it. */
    {"no-efer", CPU("0", "000006f0", END), UNKNOWN},
    {"no-efer/second", IDLE("0") CPU("1", "000006f0", END), UNKNOWN},
    {"no-efer/vmx", CPU("0", "000026f0", END), "(vmx)"},
    {"empty", "", UNKNOWN},
    {"an-error", "unknown command: 'info registers -a'\r\n", UNKNOWN},
    {"cut/before", "\r\nCPU#0\r\nEAX=00000000", UNKNOWN},
    {"cut/cr4", "\r\nCPU#0\r\nCR0=60000010 CR4=0000", UNKNOWN},
    {"cut/efer", CPU("0", "000006f0", "EFER=000000000000"), UNKNOWN},
    {"cut/efer/none", CPU("0", "000006f0", "EFER="), UNKNOWN},
    {"cut/second", IDLE("0") "\r\nCPU#1\r\nEAX=00000000", UNKNOWN},
    {"cut/second/cr4", IDLE("0") "\r\nCPU#1\r\nCR0=60000010 CR4=0000", UNKNOWN},
    {"cut/second/efer", IDLE("0") CPU("1", "000006f0", "EFER=0000"), UNKNOWN},
};

static void check(const char *text, const char *says)
{
    g_autofree char *why = ff_qemu_nested_in(text);

    if (says) {
        g_assert_nonnull(why);
        g_assert_nonnull(strstr(why, says));
    } else {
        g_assert_cmpstr(why, ==, NULL);
    }
}

static void test_row(gconstpointer row)
{
    check(rows[GPOINTER_TO_UINT(row)].text, rows[GPOINTER_TO_UINT(row)].says);
}

/* Wherever it is cut off in front of the last register it is not known. One that ends between two
 * vCPUs is that of a guest with one less. */
static void test_cut(void)
{
    static const char text[] = IDLE("0") IDLE("1"), efer[] = "EFER=0000000000000d01";
    size_t told = strstr(text, efer) + strlen(efer) - text;
    size_t second = g_strrstr(text, "CPU#") + strlen("CPU#") - text;
    size_t end = g_strrstr(text, efer) + strlen(efer) - text;

    for (size_t n = 0; n <= end; n++) {
        g_autofree char *part = g_strndup(text, n);
        check(part, n > told && n < second ? NULL : UNKNOWN);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/nested/%s", rows[i].name);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_row);
    }
    g_test_add_func("/nested/cut/anywhere", test_cut);
    return g_test_run();
}
