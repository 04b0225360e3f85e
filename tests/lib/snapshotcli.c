/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command farfault snapshot, as a process of the test's. One thread. */
#include "tests/lib/snapshotcli.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/vm.h"

Cli cli_start(const char *monitor, const char *file, const char *const *args,
              GSpawnChildSetupFunc setup, void *opaque)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    Cli cli;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"snapshot");
    g_ptr_array_add(argv, (char *)monitor);
    g_ptr_array_add(argv, (char *)file);
    for (unsigned i = 0; args && args[i]; i++) {
        g_ptr_array_add(argv, (char *)args[i]);
    }
    g_ptr_array_add(argv, NULL);
    g_spawn_async_with_pipes(NULL, (char **)argv->pdata, NULL, G_SPAWN_DO_NOT_REAP_CHILD, setup,
                             opaque, &cli.pid, NULL, &cli.out, &cli.err, &error);
    g_assert_no_error(error);
    return cli;
}

static char *read_all(int fd)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buf[4096];
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        g_string_append_len(text, buf, MAX(n, 0));
    }
    close(fd);
    return g_string_free(g_steal_pointer(&text), FALSE);
}

int cli_end(Cli *cli, char **out, char **err)
{
    int status;

    *out = read_all(cli->out);
    *err = read_all(cli->err);
    g_assert_cmpint(waitpid(cli->pid, &status, 0), ==, cli->pid);
    g_test_message("%s%s", *out, *err);
    return status;
}

void cli_fails(Cli *cli, const char *part)
{
    g_autofree char *out = NULL, *err = NULL;
    int status = cli_end(cli, &out, &err);

    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    g_assert_cmpstr(out, ==, "");
    g_assert_true(g_str_has_suffix(err, "\n"));
    g_strchomp(err);
    const char *last = strrchr(err, '\n') ? strrchr(err, '\n') + 1 : err;
    g_assert_true(g_str_has_prefix(last, "farfault: "));
    if (!strstr(last, part)) {
        test_fail("it says '%s', not '%s'", last, part);
    }
}

char *cli_succeeds(Cli *cli)
{
    g_autofree char *err = NULL;
    char *out = NULL;
    int status = cli_end(cli, &out, &err);

    if (status != 0) {
        test_fail("farfault snapshot: %s", err);
    }
    return out;
}

char *folder_new(void)
{
    g_autoptr(GError) error = NULL;
    char *path = g_dir_make_tmp("ff-snapshot-XXXXXX", &error);

    g_assert_no_error(error);
    return path;
}

void assert_empty(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name = g_dir_read_name(dir);

    if (name) {
        test_fail("%s was left", name);
    }
}

void folder_free(char *path)
{
    assert_empty(path);
    g_assert_cmpint(g_rmdir(path), ==, 0);
    g_free(path);
}
