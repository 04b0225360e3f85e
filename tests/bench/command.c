/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See command.h. */
#include "command.h"

#include <string.h>

void bench_command_add(GPtrArray *argv, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_add(argv, g_strdup_vprintf(format, args));
    va_end(args);
}

void bench_command_add_words(GPtrArray *argv, const char *words)
{
    g_auto(GStrv) word = g_strsplit(words ? words : "", " ", -1);

    for (char **w = word; *w; w++) {
        if (**w) {
            bench_command_add(argv, "%s", *w);
        }
    }
}

static void add_linux(GPtrArray *argv, const BenchCommand *c)
{
    bench_command_add_words(argv, "-accel tcg -smp");
    bench_command_add(argv, "%d", c->vcpus);
    bench_command_add(argv, "-kernel");
    bench_command_add(argv, "%s/vmlinuz", c->guest);
    bench_command_add(argv, "-initrd");
    bench_command_add(argv, "%s/initrd.img", c->guest);
    bench_command_add(argv, "-append");
    /* pti=on keeps QEMU 7.2's own migration under TCG from losing dirty pages so often. */
    bench_command_add(argv, "console=ttyS0 quiet pti=on no_timer_check %s", c->load);
    bench_command_add_words(argv, "-chardev stdio,id=console,signal=off -serial chardev:console");
}

GPtrArray *bench_command_new(const BenchCommand *c)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);

    bench_command_add_words(argv, c->prefix);
    if (c->farfault) {
        bench_command_add(argv, "%s", c->farfault);
        bench_command_add_words(argv, "run --");
    }
    bench_command_add(argv, "%s", c->qemu);
    bench_command_add_words(argv,
                            "-name bench,debug-threads=on -nodefaults -display none -no-reboot -m");
    bench_command_add(argv, "%d", c->mem);
    for (guint i = 0; c->other && i < c->other->len; i++) {
        bench_command_add(argv, "%s", (const char *)c->other->pdata[i]);
    }
    if (!c->other) {
        add_linux(argv, c);
    }
    bench_command_add(argv, "-qmp");
    bench_command_add(argv, "unix:%s,server=on,wait=off", c->qmp);
    return argv;
}

char *bench_command_version(const char *qemu, GError **error)
{
    const char *argv[] = {qemu, "--version", NULL};
    g_autofree char *said = NULL;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &said, NULL, NULL,
                      error)) {
        return NULL;
    }
    const char *at = strstr(said, "version ");
    at = at ? at + strlen("version ") : "?";
    const char *dot = strchr(at, '.');
    return g_strndup(at, dot ? dot + 1 - at + strspn(dot + 1, "0123456789") : strlen(at));
}
