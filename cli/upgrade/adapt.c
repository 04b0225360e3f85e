/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See adapt.h. What a value means is known by guest/launch/argv-opts.h, which parses as QEMU
 * does.
 *
 *   -chardev file                append=on
 *   -chardev ...,logfile=PATH    logappend=on; that of -qmp and -monitor, too
 *   -serial, -parallel file:PATH a chardev of their own, with append=on
 *   -device vmgenid              the guid of the running one
 *   -netdev tap,fd=N             the name of the interface that the running one has there
 *
 * One thread; no state.
 */
#include "cli/upgrade/adapt.h"

#include <string.h>

#include "cli/common/restore-adapt.h"
#include "guest/launch/argv-opts.h"
#include "qmp/json.h"

#define FILE_PREFIX "file:"

/* Both QEMUs have the file open; the first one writes no more when the second one begins to. */
static char *adapt_chardev(const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "backend");
    bool is_file = !g_strcmp0(ff_opts_get(opts, "backend"), "file");
    bool has_log = ff_opts_get(opts, "logfile");

    if (is_file) {
        ff_opts_set(opts, "append", "on");
    }
    if (has_log) {
        ff_opts_set(opts, "logappend", "on");
    }
    return is_file || has_log ? ff_opts_print(opts, "backend") : g_strdup(value);
}

/* The log of a monitor's. */
static char *adapt_monitor(const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "device");

    if (!ff_opts_get(opts, "logfile")) {
        return g_strdup(value);
    }
    ff_opts_set(opts, "logappend", "on");
    return ff_opts_print(opts, "device");
}

static bool is_monitor(const FfOption *option)
{
    return option->kind == FF_OPT_QMP || option->kind == FF_OPT_QMP_PRETTY ||
           option->kind == FF_OPT_MONITOR;
}

/* A second QEMU would make up another one: the guest would take itself for a copy. NULL and ERROR:
 * the first one has not said which it has. */
static char *adapt_device(const char *value, FfCliQmp *running, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "driver");

    if (g_strcmp0(ff_opts_get(opts, "driver"), "vmgenid")) {
        return g_strdup(value);
    }
    g_autoptr(JsonNode) node = ff_cli_qmp_call(running, "query-vm-generation-id", NULL, &local);
    const char *guid = ff_json_string(ff_json_node_object(node), "guid");
    if (local && !ff_qmp_refused(local)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    if (guid) {
        ff_opts_set(opts, "guid", guid);
    }
    return ff_opts_print(opts, "driver");
}

/* The interface of the tap that process PID has as FD (g_free); NULL: that is none. */
static char *interface_of(int pid, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%s", pid, fd), *text = NULL;
    bool is_number = *fd && !fd[strspn(fd, "0123456789")];
    const char *at =
        is_number && g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, "\niff:\t") : NULL;

    at = at ? at + strlen("\niff:\t") : NULL;
    return at && *at != '\n' ? g_strndup(at, strcspn(at, "\n")) : NULL;
}

char **ff_upgrade_taps_of(int pid)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    g_autofree char *folder = g_strdup_printf("/proc/%d/fdinfo", pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *fd;

    while (dir && (fd = g_dir_read_name(dir))) {
        g_autofree char *name = interface_of(pid, fd);

        if (name) {
            g_strv_builder_add(b, name);
        }
    }
    return g_strv_builder_end(b);
}

/* Who has started the guest gave it an open tap, with that number. */
static char *adapt_netdev(const char *value, int pid)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "type");
    const char *fd = ff_opts_get(opts, "fd");
    bool is_tap = !g_strcmp0(ff_opts_get(opts, "type"), "tap") && fd;
    g_autofree char *name = is_tap ? interface_of(pid, fd) : NULL;

    if (!name) {
        return g_strdup(value);
    }
    ff_opts_remove(opts, "fd");
    ff_opts_set(opts, "ifname", name);
    ff_opts_set(opts, "script", "no");
    ff_opts_set(opts, "downscript", "no");
    return ff_opts_print(opts, "type");
}

/* N counts these chardevs. */
static void add_serial(GStrvBuilder *b, const char *option, const char *path, unsigned *n)
{
    g_autofree char *escaped = ff_opts_escape(path);
    g_autofree char *chardev =
        g_strdup_printf("file,id=farfault-serial%u,append=on,path=%s", *n, escaped);
    g_autofree char *value = g_strdup_printf("chardev:farfault-serial%u", (*n)++);

    g_strv_builder_add_many(b, "-chardev", chardev, option, value, NULL);
}

bool ff_upgrade_adapt_args(FfCliQmp *running, int pid, char ***args, GError **error)
{
    g_autoptr(GStrvBuilder) b = g_strv_builder_new();
    unsigned n = 0;

    for (char **word = *args; *word; word++) {
        const FfOption *option = ff_option_find(*word);
        const char *value = option && option->has_arg ? word[1] : NULL;
        g_autofree char *adapted = NULL;

        if (!value) {
            g_strv_builder_add(b, *word);
            continue;
        }
        word++;
        if (ff_restore_is_monitor(option, value)) {
            continue;
        }
        bool is_serial = option->kind == FF_OPT_SERIAL || option->kind == FF_OPT_PARALLEL;
        if (is_serial && g_str_has_prefix(value, FILE_PREFIX)) {
            add_serial(b, word[-1], value + strlen(FILE_PREFIX), &n);
            continue;
        }
        adapted = option->kind == FF_OPT_CHARDEV  ? adapt_chardev(value)
                  : option->kind == FF_OPT_DEVICE ? adapt_device(value, running, error)
                  : option->kind == FF_OPT_NETDEV ? adapt_netdev(value, pid)
                  : is_monitor(option)            ? adapt_monitor(value)
                                                  : g_strdup(value);
        if (!adapted) {
            return false;
        }
        g_strv_builder_add_many(b, word[-1], adapted, NULL);
    }
    g_strfreev(*args);
    *args = g_strv_builder_end(b);
    return true;
}
