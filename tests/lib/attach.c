/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See attach.h. One thread. */
#include "tests/lib/attach.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

int attach_run(const char *const *argv, char **text)
{
    g_autofree char *out = NULL, *err = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_true(WIFEXITED(status));
    *text = g_strconcat(out, err, NULL);
    return WEXITSTATUS(status);
}

int attach_run_farfault(const char *build, const char *command, const char *target, char **text)
{
    g_autofree char *farfault =
        build ? g_build_filename(build, "cli/farfault", NULL) : vm_build_path("cli/farfault");
    const char *argv[] = {farfault, command, target, NULL};

    return attach_run(argv, text);
}

int attach_try(Vm *vm, const char *build, char **text)
{
    g_autofree char *target = g_strdup_printf("%d", (int)vm_pid(vm));

    return attach_run_farfault(build, "attach", target, text);
}

void attach_vm(Vm *vm, const char *build)
{
    g_autofree char *text = NULL;
    int status = attach_try(vm, build, &text);

    if (status) {
        g_error("attach: %d: %s", status, text);
    }
    vm_reconnect(vm);
}

int attach_replace_try(Vm *vm, char **text)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(vm));
    const char *argv[] = {farfault, "attach", "--replace", pid, NULL};

    return attach_run(argv, text);
}

void attach_replace(Vm *vm)
{
    g_autofree char *text = NULL;
    pid_t before = vm_relay(vm);
    int status = attach_replace_try(vm, &text);

    if (status) {
        g_error("attach --replace: %d: %s", status, text);
    }
    g_assert_cmpint(vm_relay(vm), !=, before);
}

void attach_kill_relay(Vm *vm, bool both)
{
    pid_t relay = vm_relay(vm), engine = both ? vm_find_engine(vm) : 0;

    kill(relay, SIGKILL);
    if (engine) {
        kill(engine, SIGKILL);
    }
    vm_wait_qmp_end(vm);
}

int attach_open_memfd(Vm *vm, const char *name, int flags)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/fd", (int)vm_pid(vm));
    g_autoptr(GDir) fds = g_dir_open(dir, 0, NULL);
    const char *fd;

    while (fds && (fd = g_dir_read_name(fds))) {
        g_autofree char *path = g_build_filename(dir, fd, NULL);
        g_autofree char *link = g_file_read_link(path, NULL);

        if (link && strstr(link, name)) {
            int copy = open(path, flags | O_CLOEXEC);

            g_assert_cmpint(copy, >=, 0);
            return copy;
        }
    }
    return -1;
}
