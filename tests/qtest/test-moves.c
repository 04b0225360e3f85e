/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whole migrations in a few lines each (move.h): to begin a new test with. One thread. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/move.h"

static void test_postcopy(void)
{
    Move *m = move_new(NULL);

    if (m) {
        move_start(m);
        move_switch(m);
        move_finish(m);
    }
}

static void test_precopy(void)
{
    static const char *const devices[] = {"-device", "virtio-balloon-pci", NULL};
    Move *m = move_new(&(MoveConfig){.mib = 32, .bandwidth = 1 << 30, .devices = devices});

    if (m) {
        move_start(m);
        move_finish(m);
    }
}

static void test_cancelled(void)
{
    Move *m = move_new(&(MoveConfig){.n_cpus = 2});

    if (m) {
        move_start(m);
        move_cancel(m);
        move_start(m);
        move_switch(m);
        move_finish(m);
    }
}

/* ---- a guest that stands --------------------------------------------------------------------- */

/* Whether somebody writes to the image by its locks: QEMU's is on byte 101 (raw-posix's
 * RAW_PERM_BASE and BLK_PERM_WRITE). */
static bool is_locked(const char *image)
{
    g_autofree char *locks = NULL, *tail = NULL;
    struct stat st;

    g_assert_cmpint(stat(image, &st), ==, 0);
    g_assert_true(g_file_get_contents("/proc/locks", &locks, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(locks, "\n", -1);
    tail = g_strdup_printf(":%" G_GUINT64_FORMAT " ", (guint64)st.st_ino);
    for (char **line = lines; *line; line++) {
        const char *at = strstr(*line, tail);
        unsigned first, last;

        if (at && sscanf(at + strlen(tail), "%u %u", &first, &last) == 2 && first <= 101 &&
            last >= 101) {
            return true;
        }
    }
    return false;
}

static Vm *start_with_image(const char *name, const char *qemu, const char *image)
{
    g_autofree char *drive = g_strdup_printf("if=virtio,format=raw,file=%s", image);
    const char *args[] = {"-machine", "pc-i440fx-7.2", "-drive", drive, NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "32M",
                                .args = args,
                                .qemu = qemu,
                                .incoming = strcmp(name, "first") ? "defer" : NULL});
}

/* It stands when it goes, and is not started where it comes: its disk is that QEMU's all the same,
 * locks and all; so it can go on, as often as one likes. */
static void test_standing(gconstpointer newer)
{
    g_autofree char *qemu = newer ? vm_newer_qemu() : NULL, *image = NULL;
    static const char *const names[] = {"second", "third", "fourth"};
    const char *why;

    if (newer && !qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    int fd = g_file_open_tmp("image-XXXXXX", &image, NULL);
    g_assert_true(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
    close(fd);
    Vm *vm = start_with_image("first", qemu, image);
    qmp_ok(vm_qmp(vm), "stop", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        Vm *next = start_with_image(names[i], qemu, image);

        move_prepare(vm, next);
        qmp_ok(vm_qmp(next), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
        g_autofree char *uri = move_listen_uri(next);
        qmp_ok(vm_qmp(vm), "migrate", "{'uri': '%s'}", uri);
        if (i == 1) {
            qmp_ok(vm_qmp(vm), "migrate-start-postcopy", NULL);
        }
        move_wait_completed(vm, next);
        vm_end(vm);
        g_assert_true(is_locked(image));
        vm = next;
    }
    qmp_ok(vm_qmp(vm), "cont", NULL);
    g_autofree char *state = qmp_run_state(vm_qmp(vm));
    g_assert_cmpstr(state, ==, "running");
    vm_end(vm);
    g_assert_cmpint(unlink(image), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/moves/postcopy", test_postcopy);
    g_test_add_func("/moves/precopy", test_precopy);
    g_test_add_func("/moves/cancelled", test_cancelled);
    g_test_add_data_func("/moves/standing/installed", NULL, test_standing);
    g_test_add_data_func("/moves/standing/newer", "", test_standing);
    return g_test_run();
}
