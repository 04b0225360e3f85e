/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's command line, one word a line: whatever it is, there is a plan that can be rendered, or
 * an error of one line. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "guest/launch/argv.h"
#include "tests/unit/config-reader.h"

#define MONITOR 77 /* the fd that each has */

static char fs_kind(const char *path, uint64_t *page_size, void *opaque)
{
    *page_size = 2 << 20;
    return strstr(path, "shm") ? 't' : strstr(path, "huge") ? 'h' : strstr(path, "no") ? 0 : 'r';
}

static bool fd_is_listening(int fd, void *opaque)
{
    return fd % 2;
}

static bool was_read;

static char *read_file(const char *path, GError **error, void *opaque)
{
    /* The text after an empty word. */
    was_read = true;
    return g_strdup(opaque);
}

/* As QEMU's answer may be: a name, none, or nobody knows. */
static bool machine_ram_id(const char *type, char **ram_id, void *opaque)
{
    *ram_id = strstr(type, "q35") ? g_strdup("pc.ram") : NULL;
    return !strstr(type, "pve");
}

/* CONFIG: what each file has in it. */
static void check_plan(const FfPlan *plan, const char *config)
{
    g_autofree int *ram = g_new0(int, plan->ram->len + 1);
    g_autofree int *mon = g_new0(int, plan->monitors->len + 1);
    g_autofree int *configs = g_new0(int, plan->configs->len + 1);
    const FfPlanFds fds = {ram, mon, configs, 3};

    for (guint i = 0; i < plan->monitors->len; i++) {
        mon[i] = MONITOR;
    }
    g_auto(GStrv) argv = plan->passthrough ? NULL : ff_plan_render(plan, &fds);
    g_autofree char *copy = plan->configs->len ? ff_plan_render_config(plan, 0, &fds) : NULL;
    if (was_read) {
        config_check_monitors(plan, copy ? copy : config, MONITOR);
    }
    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *r = plan->ram->pdata[i];

        g_assert_nonnull(r->id);
        g_assert_true(r->size && r->page_size && r->size % r->page_size == 0);
    }
    for (guint i = 0; argv && argv[i]; i++) {
        g_assert_null(strstr(argv[i], "@FF_PRIV@"));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;

    fuzz_quiet();
    g_autofree char *text = g_strndup((const char *)data, size);
    char *config = strstr(text, "\n\n");
    FfArgvSystem sys = {.fs_kind = fs_kind,
                        .fd_is_listening = fd_is_listening,
                        .read_file = read_file,
                        .machine_ram_id = machine_ram_id,
                        .default_hugepage_size = 2 << 20,
                        .opaque = config ? config + 2 : ""};
    g_autofree char *head = config ? g_strndup(text, config - text) : g_strdup(text);
    was_read = false;
    if (strstr(text, "@FF_")) {
        return 0; /* our own tokens */
    }
    g_autofree char *line = g_strconcat("qemu-system-x86_64\n", head, NULL);
    g_auto(GStrv) argv = g_strsplit(line, "\n", -1);
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &sys, &error);

    g_assert_true((plan != NULL) == (error == NULL));
    if (plan) {
        check_plan(plan, sys.opaque);
    }
    return 0;
}
