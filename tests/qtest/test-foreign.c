/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices whose memory is other processes', and that nobody follows: virtiofs, with Debian's
 * virtiofsd behind it, and ivshmem. QEMU 7.2 does not migrate them: with farfault the client gets
 * the same words as without, and the guest runs on.
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

/* What the client hears of its migrate (g_free). MORE: on QEMU's command line. */
static char *try_to_migrate(VmLauncher launcher, bool postcopy, const char *const *more)
{
    BootsectConfig boot = bootsect_config((uint64_t)RAM_MIB << 20, 1 << 20, 1);
    const char *args[20] = {
        "-machine", "pc,memory-backend=ram0",
        "-m",       G_STRINGIFY(RAM_MIB) "M",
        "-object",  "memory-backend-memfd,id=ram0,share=on,size=" G_STRINGIFY(RAM_MIB) "M"};

    for (unsigned i = 0; more[i]; i++) {
        args[6 + i] = more[i];
    }
    Vm *vm = vm_start(&(VmConfig){.name = "vm", .launcher = launcher, .args = args, .boot = &boot});
    Qmp *q = vm_qmp(vm);

    vm_wait_serial(vm, "B");
    qmp_set_capability(q, "postcopy-ram", postcopy);
    char *error = qmp_error(q, "migrate", "{'uri': 'tcp:127.0.0.1:1'}");
    vm_wait_new_serial(vm, "B");
    vm_end(vm);
    return error;
}

static char *with_virtiofs(VmLauncher launcher, bool postcopy)
{
    g_autofree char *folder = g_dir_make_tmp("ff-virtiofs-XXXXXX", NULL);
    g_autofree char *socket = g_build_filename(folder, "socket", NULL);
    g_autofree char *chardev = g_strdup_printf("socket,id=c,path=%s", socket);
    const char *const more[] = {"-chardev", chardev, "-device", "vhost-user-fs-pci,chardev=c,tag=t",
                                NULL};
    GPid daemon = start_daemon(socket, folder);
    char *error = try_to_migrate(launcher, postcopy, more);

    waitpid(daemon, NULL, 0);
    unlink(socket);
    rmdir(folder);
    return error;
}

static char *with_ivshmem(VmLauncher launcher, bool postcopy)
{
    g_autofree char *folder = g_dir_make_tmp("ff-ivshmem-XXXXXX", NULL);
    g_autofree char *file = g_build_filename(folder, "shared", NULL);
    g_autofree char *object =
        g_strdup_printf("memory-backend-file,id=shm,share=on,size=1M,mem-path=%s", file);
    const char *const more[] = {"-object", object, "-device", "ivshmem-plain,memdev=shm", NULL};
    char *error = try_to_migrate(launcher, postcopy, more);

    unlink(file);
    rmdir(folder);
    return error;
}

static void same_words(char *(*with)(VmLauncher launcher, bool postcopy), const char *device)
{
    static const char *const whos[] = {"qemu", "migrate"};

    for (unsigned postcopy = 0; postcopy < 2; postcopy++) {
        g_autofree char *plain = with(VM_PLAIN, postcopy);

        g_assert_nonnull(strstr(plain, device));
        for (unsigned i = 0; i < G_N_ELEMENTS(whos); i++) {
            g_setenv("FARFAULT_VHOST_USER", whos[i], TRUE);
            g_autofree char *ours = with(VM_RUN, postcopy);

            g_assert_cmpstr(ours, ==, plain);
        }
    }
}

static void test_virtiofs(void)
{
    const char *why = NULL;

    if (!g_file_test(PROGRAM, G_FILE_TEST_IS_EXECUTABLE) || geteuid()) {
        why = "there is no virtiofsd that may run here (root; qemu-system-common)";
    }
    if (why || !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    same_words(with_virtiofs, "vhost-user-fs");
}

static void test_ivshmem(void)
{
    const char *why = NULL;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    same_words(with_ivshmem, "ivshmem");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/foreign/virtiofs", test_virtiofs);
    g_test_add_func("/foreign/ivshmem", test_ivshmem);
    return g_test_run();
}
