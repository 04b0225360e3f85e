/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See hold.h. */
#include "tests/lib/hold.h"

#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

static void make(Vm *vm, const char *name)
{
    g_autofree char *path = vm_path(vm, name);

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
}

static void meet(Vm *vm, const char *name)
{
    g_autofree char *path = g_build_filename(vm_dir(vm), name, NULL);
    alarm(TEST_TIMEOUT); /* ends the program: nobody may come */
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    alarm(0);
    struct pollfd reader = {.fd = fd};

    g_assert_cmpint(fd, >=, 0);
    /* Until the process that has it open has closed it (POLLERR): the next meeting here is with the
     * next one. */
    g_assert_cmpint(poll(&reader, 1, TEST_TIMEOUT * 1000), ==, 1);
    close(fd);
}

void hold_make(Vm *vm)
{
    make(vm, "hold");
    make(vm, "held");
}

void hold_wait(Vm *vm)
{
    meet(vm, "held");
}

void hold_let_go(Vm *vm)
{
    meet(vm, "hold");
}
