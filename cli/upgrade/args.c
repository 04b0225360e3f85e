/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See args.h. Options are known by a table; what is not in it is refused. Monitors are
 * those that the launcher takes (guest/launch/argv.h): they are lent, if they listen.
 *
 * Any thread; no state.
 */
#include "cli/upgrade/args.h"

#include <gio/gio.h>
#include <string.h>
#include <sys/un.h>

#include "cli/upgrade/vnc.h"
#include "guest/launch/argv-opts.h"
#include "guest/launch/argv.h"
#include "guest/launch/inherit-argv.h"

#define HANDED "cannot be handed over to another QEMU yet"
#define NO_KIND "does not say what it is"

/* What an option is looked at with. */
typedef struct {
    const FfPlan *plan;
    const GArray *given; /* of int: numbers of fds that the new QEMU gets */
} Line;

/* NULL: it is harmless; else what is wrong with VALUE. */
typedef const char *Check(const char *value, const Line *line);

static bool has_prefix_of(const char *text, const char *const *prefixes)
{
    for (; *prefixes; prefixes++) {
        if (g_str_has_prefix(text, *prefixes)) {
            return true;
        }
    }
    return false;
}

/* The value begins with one of NAMES, as a whole word. */
static bool is_one_of(const char *value, const char *const *names)
{
    g_autofree char *word = g_strndup(value, strcspn(value, ",:"));

    return g_strv_contains(names, word);
}

/* Those that write to guest memory, or empty it, when they are made or reset: the new QEMU does
 * that while the guest runs, before anything is guarded. */
static const char *const touching[] = {"loader", "guest-loader", "virtio-mem", "hv-balloon", NULL};

/* Of a vhost-user device: its back-end serves one QEMU, and the next one when that has ended. */
static bool is_of_backend(const FfPlan *plan, const char *id)
{
    for (guint i = 0; id && i < plan->monitors->len; i++) {
        const FfPlanMonitor *m = plan->monitors->pdata[i];

        if (m->backend && m->kind == FF_CLIENT_CONNECT_UNIX && !strcmp(m->chardev_id, id)) {
            return true;
        }
    }
    return false;
}

static bool has_backend(const GPtrArray *opts, const Line *line)
{
    return is_of_backend(line->plan, ff_opts_get(opts, "chardev"));
}

#define NO_BACKEND                                                                                 \
    HANDED ": of vhost-user devices only those whose chardev connects to a path, of a guest that " \
           "was started with --vhost-user=migrate"

static const char *check_device(const char *value, const Line *line)
{
    static const char *const bad[] = {"vfio",       "vhost",        "ivshmem",
                                      "usb-host",   "usb-redir",    "usb-mtp",
                                      "scsi-block", "scsi-generic", "virtio-input-host",
                                      "virtio-9p",  "pvpanic-host", "u2f-",
                                      "ccid-card",  "tpm-",         "xen-",
                                      "nvdimm",     "virtio-pmem",  "canokey",
                                      "acpi-erst",  "cxl-",         "pvrdma",
                                      "x-remote",   "x-pci-proxy",  NULL};
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "driver");
    const char *name = ff_opts_get(opts, "driver"), *guid = ff_opts_get(opts, "guid");

    if (!name) {
        return NO_KIND;
    }
    if (!strcmp(name, "vmgenid") && (!guid || !strcmp(guid, "auto"))) {
        return HANDED ": the guest would see another generation";
    }
    if (g_str_has_prefix(name, "vhost-user-blk")) {
        return has_backend(opts, line) ? NULL : NO_BACKEND;
    }
    if (has_prefix_of(name, touching)) {
        return HANDED ": a second one writes to the memory of the running guest";
    }
    return has_prefix_of(name, bad) ? HANDED : NULL;
}

static const char *check_drive(const char *value, const Line *line)
{
    static const char *const bad[] = {"snapshot=on", "/dev/fdset",   "fat:", "vvfat",
                                      "file=fd:",    "\"snapshot\"", NULL};

    for (unsigned i = 0; bad[i]; i++) {
        if (strstr(value, bad[i])) {
            return HANDED ": its content is in the running QEMU alone";
        }
    }
    return NULL;
}

/* OPTS: with the key "type". */
static const char *check_network(const GPtrArray *opts)
{
    static const char *const ports[] = {"guestfwd", "smb", NULL};
    static const char *const good[] = {"user", "none", NULL};
    const char *type = ff_opts_get(opts, "type");

    if (!type || !g_strv_contains(good, type)) {
        return HANDED ": of these only user, none, and -netdev tap";
    }
    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (has_prefix_of(opt->key, ports)) {
            return HANDED ": the port, or the process, is the running QEMU's";
        }
        if (g_str_has_prefix(opt->key, "hostfwd")) {
            const char *id = ff_opts_get(opts, "id");

            /* It goes into a line of the human monitor's. */
            if (!ff_inherited_is_forward(opt) || strpbrk(opt->value, " \t\n\"\\")) {
                return HANDED ": only hostfwd=tcp:... and hostfwd=udp:...";
            }
            if (!id || strpbrk(id, " \t\n\"\\")) {
                return HANDED ": with hostfwd= the network must have an id=";
            }
        }
    }
    return NULL;
}

static const char *check_net(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "type");

    return check_network(opts);
}

static const char *check_netdev(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "type");

    if (!g_strcmp0(ff_opts_get(opts, "type"), "vhost-user")) {
        return has_backend(opts, line) ? NULL : NO_BACKEND;
    }
    return !g_strcmp0(ff_opts_get(opts, "type"), "tap") ? ff_inherited_tap_refused(opts)
                                                        : check_network(opts);
}

/* QEMU's human monitors are not seen by the relay: at the old QEMU somebody could end its part of
 * the upgrade and let the guest run, and at the new one before it has it. */
#define ONLY_QMP                                                                                   \
    HANDED ": only QMP monitors that listen: give the command line without it, and with "          \
           "-monitor none, by --args-from; for human commands there is human-monitor-command"

static const char *check_object(const char *value, const Line *line)
{
    static const char *const good[] = {"memory-backend-ram",
                                       "memory-backend-file",
                                       "memory-backend-memfd",
                                       "iothread",
                                       "rng-random",
                                       "rng-builtin",
                                       "secret",
                                       "throttle-group",
                                       FF_QMP_MONITOR_TYPE, /* its chardev is looked at */
                                       NULL};
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "qom-type");
    const char *type = ff_opts_get(opts, "qom-type");

    if (ff_opt_is_monitor_type(type) && strcmp(type, FF_QMP_MONITOR_TYPE)) {
        return ONLY_QMP;
    }
    return type && g_strv_contains(good, type) ? NULL : HANDED;
}

#define RELATIVE                                                                                   \
    "its path is relative, and a daemon has left its folder: give --args-from with absolute paths"

static bool is_relative(const GPtrArray *opts, const char *key)
{
    const char *path = ff_opts_get(opts, key);

    return path && *path != '/';
}

/* The new QEMU has a name beside it for a while, and starts in the folder in which the running one
 * is. */
static const char *check_path(const char *path, const Line *line)
{
    if (line->plan->daemonize && *path != '/') {
        return RELATIVE;
    }
    return strlen(path) + FF_LENT_LONGER < sizeof(((struct sockaddr_un *)NULL)->sun_path) ? NULL
                                                                                          : HANDED
               ": its path is longer than 91 bytes";
}

static bool is_lent(const FfPlan *plan, const char *id)
{
    for (guint i = 0; id && i < plan->monitors->len; i++) {
        const FfPlanMonitor *m = plan->monitors->pdata[i];

        if (!m->backend && !strcmp(m->chardev_id, id)) {
            return m->kind == FF_CLIENT_LISTEN_UNIX || m->kind == FF_CLIENT_LISTEN_TCP ||
                   m->kind == FF_CLIENT_LISTEN_FD;
        }
    }
    return false;
}

static bool has_number(const GArray *given, int number)
{
    for (guint i = 0; i < given->len; i++) {
        if (g_array_index(given, int, i) == number) {
            return true;
        }
    }
    return false;
}

/* Who has started the running QEMU has given it that, and it is lent. */
static bool is_given(const Line *line, const char *number)
{
    guint64 n;

    return number && g_ascii_string_to_unsigned(number, 10, 0, G_MAXINT, &n, NULL) &&
           has_number(line->given, (int)n);
}

#define NOT_GIVEN                                                                                  \
    HANDED ": there is no copy of that fd: an older farfault has started the guest, or its relay " \
           "has died since"

static const char *check_add_fd(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, NULL);

    return is_given(line, ff_opts_get(opts, "fd")) ? NULL : NOT_GIVEN;
}

static const char *check_socket(const GPtrArray *opts, const Line *line)
{
    const FfPlan *plan = line->plan;
    const char *id = ff_opts_get(opts, "id"), *path = ff_inherited_socket_path(opts);

    if (is_lent(plan, id)) {
        return NULL;
    }
    if (is_of_backend(plan, id)) {
        return plan->daemonize && is_relative(opts, "path") ? RELATIVE : NULL;
    }
    if (id && ff_inherited_is_control((char *const *)plan->argv->pdata, id)) {
        return HANDED ": of QMP monitors those that listen and are nothing else";
    }
    if (ff_opts_get(opts, "fd") && ff_opt_bool(ff_opts_get(opts, "server"), false)) {
        return is_given(line, ff_opts_get(opts, "fd")) ? NULL : NOT_GIVEN;
    }
    return path ? check_path(path, line)
                : HANDED ": of sockets those that listen at a path, QMP monitors, and vhost-user "
                         "devices of a guest that was started with --vhost-user=migrate";
}

static const char *check_chardev(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "backend");

    if (ff_opts_get(opts, "logfile") && !ff_opt_bool(ff_opts_get(opts, "logappend"), false)) {
        return HANDED ": a second QEMU would truncate its log";
    }
    if (line->plan->daemonize && (is_relative(opts, "path") || is_relative(opts, "logfile"))) {
        return RELATIVE;
    }
    if (is_one_of(value, (const char *const[]){"null", "ringbuf", "memory", "pty", NULL})) {
        return NULL;
    }
    if (is_one_of(value, (const char *const[]){"socket", NULL})) {
        return check_socket(opts, line);
    }
    if (is_one_of(value, (const char *const[]){"file", NULL})) {
        return ff_opt_bool(ff_opts_get(opts, "append"), false) ? NULL
                                                               : HANDED
                   ": a second QEMU would truncate it";
    }
    return HANDED ": of these only sockets that listen, pty, file and null";
}

/* VALUE is a socket of the old notation that listens: *WHY is what is wrong with it. */
static bool is_old_socket(const char *value, const Line *line, const char **why)
{
    g_autofree char *path = ff_inherited_old_socket_path(value);

    *why = path ? check_path(path, line) : NULL;
    return path;
}

static const char *check_serial(const char *value, const Line *line)
{
    const char *why;

    if (is_one_of(value, (const char *const[]){"none", "null", "chardev", "pty", NULL})) {
        return NULL;
    }
    return is_old_socket(value, line, &why) ? why
                                            : HANDED
               ": of these only file:PATH, unix:PATH with server=on, pty, null and chardev:ID";
}

static const char *check_display(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "type");

    return g_strcmp0(ff_opts_get(opts, "type"), "none") ? HANDED ": only -display none" : NULL;
}

static const char *check_audio(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_read(value, "driver");

    return g_strcmp0(ff_opts_get(opts, "driver"), "none") ? HANDED : NULL;
}

static const char *check_monitor(const char *value, const Line *line)
{
    return strcmp(value, "none") && strcmp(value, "null") ? ONLY_QMP : NULL;
}

static const char *check_mon(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "chardev");

    return !g_strcmp0(ff_opts_get(opts, "mode"), "control") ? NULL : check_monitor(value, line);
}

static const char *check_vnc(const char *value, const Line *line)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "vnc");
    const char *where = ff_opts_get(opts, "vnc"), *why = ff_upgrade_vnc_refused(value);

    return !why && g_str_has_prefix(where, "unix:") ? check_path(where + strlen("unix:"), line)
                                                    : why;
}

static const struct {
    const char *name;
    bool has_value;
    Check *check;
} known[] = {
    {"nodefaults", false, NULL},
    {"no-user-config", false, NULL},
    {"S", false, NULL},
    {"enable-kvm", false, NULL},
    {"no-reboot", false, NULL},
    {"no-shutdown", false, NULL},
    {"no-hpet", false, NULL},
    {"no-acpi", false, NULL},
    {"no-fd-bootchk", false, NULL},
    {"usb", false, NULL},
    {"machine", true, NULL},
    {"M", true, NULL},
    {"accel", true, NULL},
    {"cpu", true, NULL},
    {"smp", true, NULL},
    {"m", true, NULL},
    {"numa", true, NULL},
    {"name", true, NULL},
    {"uuid", true, NULL},
    {"rtc", true, NULL},
    {"boot", true, NULL},
    {"bios", true, NULL},
    {"kernel", true, NULL},
    {"initrd", true, NULL},
    {"append", true, NULL},
    {"smbios", true, NULL},
    {"fw_cfg", true, NULL},
    {"global", true, NULL},
    {"L", true, NULL},
    {"k", true, NULL},
    {"vga", true, NULL},
    {"overcommit", true, NULL},
    {"msg", true, NULL},
    {"action", true, NULL},
    {"watchdog-action", true, NULL},
    {"sandbox", true, NULL},
    {"incoming", true, NULL}, /* is replaced */
    {"loadvm", true, NULL},   /* is left out */
    {"add-fd", true, check_add_fd},
    {"pidfile", true, check_path},
    {"daemonize", false, NULL}, /* is left out */
    {"display", true, check_display},
    {"vnc", true, check_vnc},
    {"audiodev", true, check_audio},
    {"device", true, check_device},
    {"drive", true, check_drive},
    {"blockdev", true, check_drive},
    {"hda", true, check_drive},
    {"hdb", true, check_drive},
    {"hdc", true, check_drive},
    {"hdd", true, check_drive},
    {"cdrom", true, check_drive},
    {"pflash", true, check_drive},
    {"netdev", true, check_netdev},
    {"nic", true, check_net},
    {"net", true, check_net},
    {"object", true, check_object},
    {"chardev", true, check_chardev},
    {"serial", true, check_serial},
    {"parallel", true, check_serial},
    {"monitor", true, check_monitor},
    {"mon", true, check_mon}, /* its chardev is looked at */
    {"qmp", true, NULL},      /* the launcher's plan has it */
};

static bool refuse_option(GError **error, const char *option, const char *value, const char *why)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "%s%s%s: %s", option, value ? " " : "",
                value ? value : "", why);
    return false;
}

/* *I is the last word of it afterwards. */
static bool check_option(char *const *argv, unsigned *i, const Line *line, GError **error)
{
    const char *option = argv[*i], *name = option + 1 + (option[1] == '-');

    for (unsigned k = 0; k < G_N_ELEMENTS(known); k++) {
        if (strcmp(known[k].name, name)) {
            continue;
        }
        const char *value = known[k].has_value ? argv[*i + 1] : NULL;
        if (known[k].has_value && !value) {
            return refuse_option(error, option, NULL, "it lacks its value");
        }
        *i += known[k].has_value;
        const char *why = known[k].check ? known[k].check(value, line) : NULL;
        return !why || refuse_option(error, option, value, why);
    }
    return refuse_option(error, option, NULL, HANDED);
}

static bool check_monitors(const FfPlan *plan, GError **error)
{
    for (guint i = 0; i < plan->monitors->len; i++) {
        const FfPlanMonitor *m = plan->monitors->pdata[i];

        if (m->backend || m->kind == FF_CLIENT_DOOR) {
            continue; /* its chardev was looked at, or each QEMU has its own */
        }
        if (plan->daemonize && m->path && !m->abstract && *m->path != '/') {
            return refuse_option(error, "monitor", m->path, RELATIVE);
        }
        if (!is_lent(plan, m->chardev_id)) {
            return refuse_option(error, "monitor", m->chardev_id,
                                 HANDED ": only QMP monitors that listen (server=on)");
        }
    }
    return true;
}

/* The interface of the tap ID (g_free); NULL: there is none. */
static char *tap_of(char *const *argv, const char *id)
{
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&argv, &value))) {
        g_autoptr(GPtrArray) opts =
            option->kind == FF_OPT_NETDEV ? ff_opts_read(value, "type") : NULL;

        if (opts && !g_strcmp0(ff_opts_get(opts, "type"), "tap") &&
            !g_strcmp0(ff_opts_get(opts, "id"), id)) {
            return g_strdup(ff_opts_get(opts, "ifname") ?: "");
        }
    }
    return NULL;
}

bool ff_upgrade_same_taps(char *const *own, char *const *argv, const char *const *taps,
                          GError **error)
{
    char *const *at = own;
    const FfOption *option;
    const char *value;

    while ((option = ff_option_next(&at, &value))) {
        g_autoptr(GPtrArray) opts =
            option->kind == FF_OPT_NETDEV ? ff_opts_read(value, "type") : NULL;
        const char *id = opts ? ff_opts_get(opts, "id") : NULL;
        g_autofree char *a = id ? tap_of(own, id) : NULL, *b = id ? tap_of(argv, id) : NULL;

        if ((!a || g_strv_contains(taps, a)) && g_strcmp0(a, b) != 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "network '%s' is %s in the running QEMU and %s in the new one: use the "
                        "guest's own command line (--args-from)",
                        id, a ? a : "no tap", b ? b : "no tap");
            return false;
        }
    }
    return true;
}

/* FfArgvSystem. A connected one is not lent. */
static bool is_lent_listener(int fd, void *given)
{
    return has_number(given, fd);
}

bool ff_upgrade_check_args(char *const *argv, bool in_root, bool vhost, const GArray *given,
                           GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();

    g_ptr_array_add(words, (char *)"qemu-system-x86_64");
    for (char *const *word = argv; *word; word++) {
        g_ptr_array_add(words, *word);
    }
    g_ptr_array_add(words, NULL);
    FfArgvSystem sys = *ff_argv_system_real();
    sys.takes_backends = sys.follows_backends = sys.has_agent = vhost;
    sys.fd_is_listening = is_lent_listener; /* they are not this process's */
    sys.machine_ram_id = NULL;
    sys.opaque = (void *)given;
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)words->pdata, &sys, error);
    if (!plan) {
        return false;
    }
    const Line line = {plan, given};
    plan->daemonize |= in_root;
    if (plan->passthrough) {
        return refuse_option(error, "the command line", NULL, "it starts no guest");
    }
    if (plan->engine_refused) {
        return refuse_option(error, "guest RAM", NULL, plan->engine_refused);
    }
    bool displays = true, monitors = true;
    unsigned n_vnc = 0, n_pidfile = 0;
    for (unsigned i = 0; argv[i]; i++) {
        const char *option = argv[i];

        if (argv[i][0] != '-') {
            const char *why = check_drive(argv[i], &line);
            if (why) {
                return refuse_option(error, argv[i], NULL, why);
            }
        } else if (!check_option(argv, &i, &line, error)) {
            return false;
        }
        n_vnc += g_str_has_suffix(option, "-vnc");
        n_pidfile += g_str_has_suffix(option, "-pidfile");
        monitors &=
            !g_str_has_suffix(option, "-nodefaults") && !g_str_has_suffix(option, "-monitor");
        displays &= !g_str_has_suffix(option, "-display") && !n_vnc;
    }
    if (n_vnc > 1 || n_pidfile > 1) {
        return refuse_option(error, n_vnc > 1 ? "-vnc" : "-pidfile", NULL,
                             HANDED ": more than one");
    }
    if (n_vnc && monitors) {
        return refuse_option(error, "-vnc", NULL,
                             HANDED ": QEMU's human monitor is in it: give -monitor none");
    }
    /* QEMU's default is a window, or VNC at the next port that is free. */
    return displays
               ? refuse_option(error, "the display", NULL, HANDED ": give -display none or -vnc")
               : check_monitors(plan, error);
}
