/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel makes of guest RAM: transparent huge pages where the guest begins, none where it
 * arrives. One thread.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/vm.h"

/* A size that nothing else in QEMU has. */
#define RAM_MIB 70

/* The line of /proc/PID/smaps that begins the mapping of guest RAM, and what follows (g_free). */
static char *ram_mapping(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)vm_pid(vm));
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long start, end;

        if (sscanf(line, "%lx-%lx rw-s", &start, &end) == 2 && end - start == RAM_MIB << 20) {
            char *flags = strstr(line, "\nVmFlags:");

            return flags ? g_strndup(line, flags - line) : g_strdup(line);
        }
    }
    test_fail("%s has no mapping of %d MiB", path, RAM_MIB);
}

static char *start_and_look(const char *incoming)
{
    g_autofree char *memory = g_strdup_printf("%dM", RAM_MIB);
    g_autoptr(Vm) vm = vm_start(
        &(VmConfig){.name = "vm", .launcher = VM_RUN, .memory = memory, .incoming = incoming});

    return ram_mapping(vm);
}

/* The same two conditions as for the launcher, found in another way. */
static const char *why_none(void)
{
    g_autofree char *enabled = NULL;
    int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);

    if (fs < 0) {
        return "this user may mount nothing";
    }
    bool huge = syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0;
    close(fs);
    if (!huge ||
        !g_file_get_contents("/sys/kernel/mm/transparent_hugepage/enabled", &enabled, NULL, NULL)) {
        return "this kernel has no huge pages for tmpfs";
    }
    return strstr(enabled, "[never]") ? "huge pages are off" : NULL;
}

static void test_begins(void)
{
    const char *why = NULL;

    if (!vm_farfault_available(&why) || (why = why_none())) {
        g_test_skip(why);
        return;
    }
    g_autofree char *mapping = start_and_look(NULL);
    char *eligible = strstr(mapping, "THPeligible:");

    g_assert_nonnull(eligible);
    g_assert_cmpint(atoi(eligible + strlen("THPeligible:")), ==, 1);
}

static void test_arrives(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *mapping = start_and_look("defer");

    g_assert_nonnull(strstr(mapping, "memfd:farfault-pc.ram"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory/begins", test_begins);
    g_test_add_func("/memory/arrives", test_arrives);
    return g_test_run();
}
