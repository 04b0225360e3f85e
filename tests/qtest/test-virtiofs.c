/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device whose process nobody follows, with Debian's virtiofsd behind it. QEMU 7.2 does not
 * migrate it: with farfault the client gets the same words as without, and the guest runs on.
 */
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/vm.h"

#define PROGRAM "/usr/lib/qemu/virtiofsd"
#define RAM_MIB 64

static void end_with_parent(gpointer opaque)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* It listens at SOCKET when this returns, and ends with its connection. */
static GPid start_daemon(const char *socket, const char *folder)
{
    g_autofree char *path = g_strconcat("--socket-path=", socket, NULL);
    g_autofree char *source = g_strconcat("source=", folder, NULL);
    const char *argv[] = {PROGRAM, path, "-o", source, "-o", "sandbox=chroot", NULL};
    int watch = inotify_init1(IN_CLOEXEC);
    g_autoptr(GError) error = NULL;
    char buf[4096];
    GPid pid;

    g_assert_cmpint(inotify_add_watch(watch, folder, IN_CREATE), >=, 0);
    g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL,
                  end_with_parent, NULL, &pid, &error);
    g_assert_no_error(error);
    while (!g_file_test(socket, G_FILE_TEST_EXISTS)) {
        g_assert_cmpint(read(watch, buf, sizeof(buf)), >, 0);
    }
    close(watch);
    return pid;
}

/* What the client hears of its migrate (g_free). */
static char *try_to_migrate(VmLauncher launcher, bool postcopy)
{
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, 1 << 20, 1);
    g_autofree char *folder = g_dir_make_tmp("ff-virtiofs-XXXXXX", NULL);
    g_autofree char *socket = g_build_filename(folder, "socket", NULL);
    g_autofree char *chardev = g_strdup_printf("socket,id=c,path=%s", socket);
    const char *const args[] = {
        "-machine", "pc,memory-backend=ram0",
        "-m",       G_STRINGIFY(RAM_MIB) "M",
        "-object",  "memory-backend-memfd,id=ram0,share=on,size=" G_STRINGIFY(RAM_MIB) "M",
        "-chardev", chardev,
        "-device",  "vhost-user-fs-pci,chardev=c,tag=t",
        NULL};
    GPid daemon = start_daemon(socket, folder);
    Vm *vm = vm_start(&(VmConfig){.name = "vm", .launcher = launcher, .args = args, .boot = &boot});
    Qmp *q = vm_qmp(vm);

    vm_wait_serial(vm, "B");
    qmp_set_capability(q, "postcopy-ram", postcopy);
    char *error = qmp_error(q, "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    vm_wait_new_serial(vm, "B");
    vm_end(vm);
    waitpid(daemon, NULL, 0);
    unlink(socket);
    rmdir(folder);
    return error;
}

static void test_refused(gconstpointer postcopy)
{
    static const char *const whos[] = {"qemu", "migrate"};
    const char *why = NULL;

    if (!g_file_test(PROGRAM, G_FILE_TEST_IS_EXECUTABLE) || geteuid()) {
        why = "there is no virtiofsd that may run here (root; qemu-system-common)";
    }
    if (why || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *plain = try_to_migrate(VM_PLAIN, GPOINTER_TO_INT(postcopy));

    g_assert_nonnull(strstr(plain, "vhost-user-fs"));
    for (unsigned i = 0; i < G_N_ELEMENTS(whos); i++) {
        g_setenv("FARFAULT_VHOST_USER", whos[i], TRUE);
        g_autofree char *ours = try_to_migrate(VM_RUN, GPOINTER_TO_INT(postcopy));

        g_assert_cmpstr(ours, ==, plain);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/virtiofs/precopy", GINT_TO_POINTER(false), test_refused);
    g_test_add_data_func("/virtiofs/postcopy", GINT_TO_POINTER(true), test_refused);
    return g_test_run();
}
