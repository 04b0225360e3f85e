/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the take-over of QMP monitors: which ones, and what QEMU is given in their place.
 *
 * A control monitor is a chardev (-chardev, or made by -qmp) and a -mon or, from QEMU 11.1 on, an
 * object. These stay; the chardev is replaced by one of the same id on a private listening socket,
 * so ids, labels and the order of QEMU's "compat_monitorN" stay what they were. logfile= stays with
 * QEMU: the same bytes pass there. The launcher's own monitors are "-qmp chardev:ID", which every
 * version knows; those before 11.1 count it for "compat_monitorN", so it stands last.
 *
 * Left to QEMU, with a warning that names the monitor: what is no plain byte stream of one
 * client (telnet, websocket, TLS, mux, pty, pipe, vc, ...), port 0 (only QEMU's query-chardev
 * would tell the port), and options that are not known here. Left without a word: what QEMU
 * refuses anyway. HMP monitors and chardevs with another user are never touched.
 *
 * The chardevs of vhost-user-blk devices and of vhost-user networks are taken in the same way, if
 * that is wanted: the relay stands in the sockets of their back-ends as it does in the monitors'.
 * Pure but for the injected questions; any thread.
 */
#include "guest/launch/argv-rewrite.h"

#include <string.h>

#include "contract/state.h"
#include "guest/agent/agent.h"

#define PRIVATE_ID "farfault-private"
#define DOOR_ID "farfault-door"

/* A reason that is not worth a warning: QEMU itself will refuse this. */
static const char qemu_refuses[] = "";

static unsigned parse_number(const char *text, bool *bad)
{
    guint64 value = 0;

    if (text && !g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT, &value, NULL)) {
        *bad = true;
    }
    return (unsigned)value;
}

static const char *known_options(const GPtrArray *opts)
{
    static const char *const keys[] = {
        "backend",   "id",           "path",     "host",    "port",      "fd",
        "server",    "wait",         "to",       "ipv4",    "ipv6",      "delay",
        "nodelay",   "reconnect",    "abstract", "tight",   "telnet",    "websocket",
        "tn3270",    "reconnect-ms", "mux",      "logfile", "logappend", "signal",
        "tls-creds", "tls-authz",    NULL};

    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (!g_strv_contains(keys, opt->key)) {
            return opt->key;
        }
    }
    return NULL;
}

/* Options that make the stream something else than bytes of one client. */
static const char *not_plain(const GPtrArray *opts)
{
    static const char *const flags[] = {"telnet", "websocket", "tn3270", "mux"};

    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        if (ff_opt_bool(ff_opts_get(opts, flags[i]), false)) {
            return flags[i];
        }
    }
    if (ff_opts_get(opts, "tls-creds")) {
        return "tls-creds";
    }
    return ff_opt_bool(ff_opts_get(opts, "tight"), true) ? NULL : "tight=off";
}

/* ipv4=off means ipv6, and the other way round (QEMU's inet_ai_family_from_address()). */
static void inet_families(const GPtrArray *opts, FfPlanMonitor *mon)
{
    const char *v4 = ff_opts_get(opts, "ipv4");
    const char *v6 = ff_opts_get(opts, "ipv6");

    mon->ipv4 = ff_opt_bool(v4, false) || (v6 && !ff_opt_bool(v6, false));
    mon->ipv6 = ff_opt_bool(v6, false) || (v4 && !ff_opt_bool(v4, false));
}

static const char *bad_boolean(const GPtrArray *opts)
{
    static const char *const keys[] = {"server", "wait",   "ipv4",      "ipv6",      "delay",
                                       "telnet", "mux",    "websocket", "tn3270",    "nodelay",
                                       "tight",  "signal", "abstract",  "logappend", NULL};

    for (guint i = 0; i < opts->len; i++) {
        const FfOpt *opt = opts->pdata[i];

        if (g_strv_contains(keys, opt->key) && !ff_opt_is_bool(opt->value)) {
            return qemu_refuses;
        }
    }
    return NULL;
}

static const char *plan_inet(const GPtrArray *opts, bool server, FfPlanMonitor *mon)
{
    const char *port = ff_opts_get(opts, "port");
    bool bad = false;

    if (!port) {
        return qemu_refuses;
    }
    if (server && g_str_equal(port, "0")) {
        return "port=0";
    }
    mon->kind = server ? FF_CLIENT_LISTEN_TCP : FF_CLIENT_CONNECT_TCP;
    mon->host = g_strdup(ff_opts_get(opts, "host"));
    mon->port = g_strdup(port);
    mon->to = parse_number(ff_opts_get(opts, "to"), &bad);
    inet_families(opts, mon);
    return bad ? qemu_refuses : NULL;
}

static const char *plan_fd(const FfRewrite *rw, const char *text, bool server, FfPlanMonitor *mon)
{
    bool bad = false;

    mon->fd = (int)parse_number(text, &bad);
    if (bad || mon->reconnect || rw->sys->fd_is_listening(mon->fd, rw->sys->opaque) != server) {
        return qemu_refuses;
    }
    mon->kind = server ? FF_CLIENT_LISTEN_FD : FF_CLIENT_CONNECTED_FD;
    return NULL;
}

static const char *plan_socket(const FfRewrite *rw, const GPtrArray *opts, FfPlanMonitor *mon)
{
    const char *path = ff_opts_get(opts, "path");
    const char *host = ff_opts_get(opts, "host");
    const char *fd = ff_opts_get(opts, "fd");
    bool server = ff_opt_bool(ff_opts_get(opts, "server"), false);
    bool bad = false;
    unsigned seconds = parse_number(ff_opts_get(opts, "reconnect"), &bad);
    unsigned ms = parse_number(ff_opts_get(opts, "reconnect-ms"), &bad);

    mon->reconnect = seconds ? seconds : ms / 1000 + (ms % 1000 != 0);
    mon->wait = server && ff_opt_bool(ff_opts_get(opts, "wait"), true);
    if (bad || !!path + !!host + !!fd != 1 || (server && mon->reconnect) ||
        (!server && ff_opts_get(opts, "wait"))) {
        return qemu_refuses;
    }
    if (fd) {
        return plan_fd(rw, fd, server, mon);
    }
    if (host) {
        return plan_inet(opts, server, mon);
    }
    mon->kind = server ? FF_CLIENT_LISTEN_UNIX : FF_CLIENT_CONNECT_UNIX;
    mon->path = g_strdup(path);
    mon->abstract = ff_opt_bool(ff_opts_get(opts, "abstract"), false);
    return NULL;
}

static bool is_stdio(const FfArg *arg)
{
    if (ff_arg_is_device(arg)) {
        return g_str_equal(arg->value, "stdio") || g_str_equal(arg->value, "mon:stdio");
    }
    if (ff_arg_kind(arg) != FF_OPT_CHARDEV) {
        return false;
    }
    g_autoptr(GPtrArray) opts = ff_opts_parse(arg->value, "backend");

    return !g_strcmp0(ff_opts_get(opts, "backend"), "stdio");
}

/* -serial and an isa-serial device take the place of the default serial port. */
static bool has_default_serial(const FfRewrite *rw)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        if (ff_arg_kind(arg) == FF_OPT_DEVICE) {
            g_autoptr(FfBackend) device = ff_backend_new_device(arg->value);

            if (device && !g_strcmp0(device->type, "isa-serial")) {
                return false;
            }
        }
    }
    return !ff_rewrite_find(rw, FF_OPT_SERIAL);
}

/* QEMU gives stdin to one chardev only, and none under -daemonize. */
static bool stdio_is_free(const FfRewrite *rw)
{
    guint users = 0;

    for (guint i = 0; i < rw->args->len; i++) {
        users += is_stdio(rw->args->pdata[i]);
    }
    users += ff_rewrite_find(rw, FF_OPT_NOGRAPHIC) && !ff_rewrite_find(rw, FF_OPT_NODEFAULTS) &&
             has_default_serial(rw);
    return users == 1 && !ff_rewrite_find(rw, FF_OPT_DAEMONIZE);
}

/* Fills MON from a chardev's options. Returns NULL, or why QEMU keeps it. */
static const char *plan_chardev(const FfRewrite *rw, const GPtrArray *opts, FfPlanMonitor *mon)
{
    const char *backend = ff_opts_get(opts, "backend");
    const char *odd = known_options(opts);

    if (!backend) {
        return qemu_refuses;
    }
    odd = odd ? odd : bad_boolean(opts);
    odd = odd ? odd : not_plain(opts);
    if (odd) {
        return odd;
    }
    if (g_str_equal(backend, "stdio")) {
        mon->kind = FF_CLIENT_STDIO;
        return stdio_is_free(rw) ? NULL : qemu_refuses;
    }
    if (!g_str_equal(backend, "socket")) {
        return backend;
    }
    return plan_socket(rw, opts, mon);
}

/* FILE: that the monitor or its chardev is in; NULL: both are on the command line. There the engine
 * still migrates for other monitors; a manager that writes such files has this one only, and must
 * not be a client whom no engine hears. */
static void leave_monitor(FfRewrite *rw, const char *id, const char *file, const char *why)
{
    if (file) {
        ff_rewrite_refuse(rw, g_strdup_printf("QMP monitor %s of %s stays QEMU's own%s%s%s", id,
                                              file, *why ? " (" : "", why, *why ? ")" : ""));
    }
    if (why != qemu_refuses) {
        char *line = g_strdup_printf(
            "QMP monitor %s (%s)%s%s stays QEMU's own: migrations that are started there are not "
            "farfault's; use a unix, tcp or stdio monitor",
            id, why, file ? " of " : "", file ? file : "");

        g_ptr_array_add(rw->plan->warnings, g_strdelimit(line, "\r\n", ' '));
    }
}

static void warn_left_backend(FfRewrite *rw, const char *id, const char *why)
{
    if (why != qemu_refuses) {
        g_ptr_array_add(rw->plan->warnings,
                        g_strdup_printf("the back-end of chardev %s (%s) stays QEMU's own: this "
                                        "guest's migrations are not farfault's; use a unix socket",
                                        id, why));
    }
}

/* Who uses a chardev that is taken. */
typedef enum { MONITOR, DISK, NETWORK } Use;

/* Takes the chardev over. Returns the options of the socket that QEMU gets in its place, NULL if
 * QEMU keeps it. */
static char *take_chardev(FfRewrite *rw, const char *id, const char *file, const GPtrArray *opts,
                          Use use)
{
    bool backend = use != MONITOR;
    g_autoptr(FfPlanMonitor) mon = g_new0(FfPlanMonitor, 1);
    const char *why = plan_chardev(rw, opts, mon);
    GString *value;

    if (!why && backend && !mon->path) {
        why = "no path=";
    }
    if (!why && use == NETWORK && !rw->sys->has_agent) {
        why = "farfault-agent.so, which QEMU would have its socket from, was not found";
    }
    mon->chardev_id = g_strdup(id);
    mon->backend = backend;
    mon->network = use == NETWORK;
    mon->followed = backend && rw->sys->follows_backends;
    mon->wait &= !backend; /* the device waits for it, and says so */
    if (why && backend) {
        warn_left_backend(rw, id, why);
    } else if (why) {
        leave_monitor(rw, id, file, why);
    }
    if (why) {
        return NULL;
    }
    value = g_string_new(NULL);
    /* For a network QEMU takes only a socket that it has by its path. */
    g_string_printf(value, "%s@FF_MON%u@,server=on,wait=%s",
                    mon->network ? "path=" FF_AGENT_SOCKET_PATH : "fd=", rw->plan->monitors->len,
                    mon->wait && !rw->sys->clients_come_later ? "on" : "off");
    if (ff_opts_get(opts, "logfile")) {
        g_autofree char *path = ff_opts_escape(ff_opts_get(opts, "logfile"));
        bool append = ff_opt_bool(ff_opts_get(opts, "logappend"), false);

        g_string_append_printf(value, ",logfile=%s%s", path, append ? ",logappend=on" : "");
    }
    g_ptr_array_add(rw->plan->monitors, g_steal_pointer(&mon));
    return g_string_free(value, FALSE);
}

GPtrArray *ff_argv_device(const char *dev, const char **kind)
{
    *kind = dev;
    if (g_str_equal(dev, "stdio")) {
        return ff_opts_parse("backend=stdio", NULL);
    }
    if (g_str_has_prefix(dev, "unix:")) {
        GPtrArray *opts = ff_opts_parse(dev + strlen("unix:"), "path");

        ff_opts_set(opts, "backend", "socket");
        return opts;
    }
    if (g_str_has_prefix(dev, "tcp:")) {
        const char *at = dev + strlen("tcp:");
        const char *colon = strchr(at, ':');
        size_t len = colon ? strcspn(colon + 1, ",") : 0;

        /* "[::1]" is not understood here: QEMU cuts at the first colon. */
        if (len == 0 || *at == '[' || strcspn(at, ",") < (size_t)(colon - at)) {
            *kind = qemu_refuses;
            return NULL;
        }
        g_autofree char *host = g_strndup(at, (gsize)(colon - at));
        g_autofree char *port = g_strndup(colon + 1, len);
        const char *rest = colon + 1 + len;
        GPtrArray *opts = ff_opts_parse(*rest ? rest + 1 : rest, NULL);

        ff_opts_set(opts, "backend", "socket");
        ff_opts_set(opts, "host", host);
        ff_opts_set(opts, "port", port);
        return opts;
    }
    return NULL;
}

/* -qmp DEV: QEMU gives the chardev a label of its own. */
static void take_inline(FfRewrite *rw, FfArg *arg, guint index)
{
    g_autofree char *id = g_strdup_printf("compat_monitor%u", index);
    const char *kind;
    g_autoptr(GPtrArray) opts = ff_argv_device(arg->value, &kind);

    if (!opts) {
        leave_monitor(rw, id, NULL, kind);
        return;
    }
    g_autofree char *socket = take_chardev(rw, id, NULL, opts, MONITOR);
    arg->new_value = socket ? g_strconcat("unix:", socket, NULL) : NULL;
}

/* TRUE if ARG is another user of the chardev ID than its own -chardev. */
static bool uses_chardev(const FfArg *arg, const char *id)
{
    static const char *const keys[] = {"chardev",    "indev",        "outdev",
                                       "primary_in", "secondary_in", "notify_dev"};
    g_autoptr(FfBackend) list = NULL;

    if (ff_arg_is_device(arg)) {
        return g_str_has_prefix(arg->value, "chardev:") && g_str_equal(arg->value + 8, id);
    }
    switch (ff_arg_kind(arg)) {
    case FF_OPT_MON:
    case FF_OPT_DEVICE:
    case FF_OPT_OBJECT:
    case FF_OPT_NETDEV:
    case FF_OPT_TPMDEV:
        list = ff_backend_new_device(arg->value);
        break;
    default:
        return false;
    }
    for (size_t i = 0; list && i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *value = ff_backend_get(list, keys[i]);

        if (!g_strcmp0(value, id)) {
            return true;
        }
    }
    if (ff_arg_kind(arg) == FF_OPT_MON) {
        g_autoptr(GPtrArray) opts = ff_opts_parse(arg->value, "chardev");

        return !g_strcmp0(ff_opts_get(opts, "chardev"), id);
    }
    return false;
}

/* The only -chardev ID, if USER is the only one that uses it; else NULL. */
static FfArg *sole_chardev(const FfRewrite *rw, const char *id, const FfArg *user)
{
    g_autofree char *set = g_strdup_printf("chardev.%s.", id);
    FfArg *found = NULL;

    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];

        if (arg != user && uses_chardev(arg, id)) {
            return NULL;
        }
        if (ff_arg_kind(arg) == FF_OPT_SET && g_str_has_prefix(arg->value, set)) {
            return NULL;
        }
        if (ff_arg_kind(arg) == FF_OPT_CHARDEV) {
            g_autoptr(GPtrArray) opts = ff_opts_parse(arg->value, "backend");

            if (!g_strcmp0(ff_opts_get(opts, "id"), id)) {
                if (found) {
                    return NULL;
                }
                found = arg;
            }
        }
    }
    return found;
}

static void take_named(FfRewrite *rw, const FfArg *user, const char *id, Use use)
{
    FfArg *chardev = sole_chardev(rw, id, user);
    const char *file = ff_arg_file(user);
    g_autoptr(GPtrArray) opts = NULL;

    if (!file && chardev) {
        file = ff_arg_file(chardev);
    }
    if (!chardev || ff_arg_is_fixed(chardev)) {
        const char *why = chardev ? "its chardev is in a file that stays as it is"
                                  : "its chardev is not on the command line, or has another user";
        if (use == MONITOR) {
            leave_monitor(rw, id, file, why);
        } else {
            warn_left_backend(rw, id, why);
        }
        return;
    }
    opts = ff_opts_parse(chardev->value, "backend");
    g_autofree char *socket = take_chardev(rw, id, file, opts, use), *escaped = ff_opts_escape(id);
    chardev->new_value = socket ? g_strdup_printf("socket,id=%s,%s", escaped, socket) : NULL;
}

static void take_mon(FfRewrite *rw, const FfArg *arg)
{
    bool control = false;
    g_autofree char *id = ff_opt_monitor(arg->option, arg->value, &control);
    g_autoptr(GPtrArray) opts = ff_opts_read(arg->value, NULL);
    const char *at_end = ff_opts_get(opts, "close-action"); /* an object's */

    if (!id || !control) {
        return;
    }
    /* A new relay connects anew. */
    if (at_end && !g_str_equal(at_end, "none")) {
        leave_monitor(rw, id, ff_arg_file(arg), "close-action");
        return;
    }
    take_named(rw, arg, id, MONITOR);
}

void ff_argv_rewrite_monitors(FfRewrite *rw)
{
    /* QEMU counts every -monitor and -qmp for the label of the next one. */
    guint index = 0;

    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];

        switch (ff_arg_kind(arg)) {
        case FF_OPT_MONITOR:
            index += !g_str_has_prefix(arg->value, "none");
            break;
        case FF_OPT_QMP:
        case FF_OPT_QMP_PRETTY:
            if (g_str_has_prefix(arg->value, "chardev:")) {
                take_named(rw, arg, arg->value + strlen("chardev:"), MONITOR);
            } else {
                take_inline(rw, arg, index);
            }
            index++;
            break;
        case FF_OPT_MON:
        case FF_OPT_OBJECT:
            take_mon(rw, arg);
            break;
        default:
            break;
        }
    }
}

/* What ARG attaches to a vhost-user back-end; MONITOR: nothing. */
static Use use_of(const FfArg *arg, const FfBackend *part)
{
    if (ff_arg_kind(arg) == FF_OPT_DEVICE) {
        return part->type && g_str_has_prefix(part->type, "vhost-user-blk") ? DISK : MONITOR;
    }
    g_autofree char *type = ff_backend_get(part, "type");
    return g_strcmp0(type, "vhost-user") == 0 ? NETWORK : MONITOR;
}

/* For chardevs of such devices that a client adds while the guest runs. QEMU has them by their
 * paths, as a network's. */
static void add_spares(FfRewrite *rw)
{
    for (unsigned i = 0; i < FF_STATE_PLUGGED; i++) {
        FfPlanMonitor *mon = g_new0(FfPlanMonitor, 1);

        mon->kind = FF_CLIENT_SPARE;
        mon->chardev_id = g_strdup("");
        mon->backend = true;
        mon->followed = rw->sys->follows_backends;
        g_ptr_array_add(rw->plan->monitors, mon);
    }
}

/* Who gives QEMU the socket of its monitor has the one connection that there is. */
static bool is_taken(const FfPlanMonitor *mon)
{
    return mon->kind == FF_CLIENT_LISTEN_FD || mon->kind == FF_CLIENT_CONNECTED_FD;
}

/* One more monitor for farfault upgrade, of a guest that has none for it. */
void ff_argv_add_door(FfRewrite *rw)
{
    bool taken = false;

    for (guint i = 0; i < rw->plan->monitors->len; i++) {
        const FfPlanMonitor *mon = rw->plan->monitors->pdata[i];

        if (!mon->backend && !is_taken(mon)) {
            return;
        }
        taken |= !mon->backend;
    }
    if (!taken) {
        return;
    }
    FfPlanMonitor *mon = g_new0(FfPlanMonitor, 1);

    g_ptr_array_add(rw->tail, g_strdup("-chardev"));
    g_ptr_array_add(rw->tail,
                    g_strdup_printf("socket,id=" DOOR_ID ",fd=@FF_MON%u@,server=on,wait=off",
                                    rw->plan->monitors->len));
    g_ptr_array_add(rw->tail, g_strdup("-qmp"));
    g_ptr_array_add(rw->tail, g_strdup("chardev:" DOOR_ID));
    mon->kind = FF_CLIENT_DOOR;
    mon->chardev_id = g_strdup(DOOR_ID);
    g_ptr_array_add(rw->plan->monitors, mon);
}

void ff_argv_rewrite_backends(FfRewrite *rw)
{
    for (guint i = 0; rw->sys->takes_backends && i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];
        FfOptKind kind = ff_arg_kind(arg);
        g_autoptr(FfBackend) part = kind == FF_OPT_DEVICE   ? ff_backend_new_device(arg->value)
                                    : kind == FF_OPT_NETDEV ? ff_backend_new_netdev(arg->value)
                                                            : NULL;
        g_autofree char *id = part ? ff_backend_get(part, "chardev") : NULL;

        if (id && use_of(arg, part) != MONITOR) {
            take_named(rw, arg, id, use_of(arg, part));
        }
    }
    if (rw->sys->takes_backends && rw->sys->has_agent) {
        add_spares(rw);
    }
}

/* TRUE if QEMU would make its default HMP monitor. */
static bool has_default_monitor(const FfRewrite *rw)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];
        g_autofree char *chardev = NULL;
        bool control;

        switch (ff_arg_kind(arg)) {
        case FF_OPT_NODEFAULTS:
        case FF_OPT_MONITOR:
        case FF_OPT_QMP:
        case FF_OPT_QMP_PRETTY:
            return false;
        case FF_OPT_MON:
            if (!arg->section) { /* one of a file leaves it */
                return false;
            }
            break;
        case FF_OPT_OBJECT:
            chardev = ff_opt_monitor(arg->option, arg->value, &control);
            if (chardev) {
                return false;
            }
            break;
        case FF_OPT_SERIAL:
        case FF_OPT_PARALLEL:
            if (g_str_has_prefix(arg->value, "mon:")) {
                return false;
            }
            break;
        default:
            break;
        }
    }
    return true;
}

/*
 * Any -qmp on the command line takes QEMU's default HMP monitor away, and with -nographic the
 * console's ctrl-a c with it. The private one must not: so the default is written out, as
 * QEMU's qemu_create_default_devices() makes it. Before all others that are added: its label has a
 * number.
 */
void ff_argv_keep_default_monitor(FfRewrite *rw)
{
    const char *option = "-monitor", *value = "vc:80Cx24C";

    if (!has_default_monitor(rw)) {
        return;
    }
    if (ff_rewrite_find(rw, FF_OPT_NOGRAPHIC)) {
        bool serial = has_default_serial(rw);

        option = serial ? "-serial" : "-monitor";
        value = serial ? "mon:stdio" : "stdio";
    }
    g_ptr_array_add(rw->tail, g_strdup(option));
    g_ptr_array_add(rw->tail, g_strdup(value));
}

void ff_argv_add_private_monitor(FfRewrite *rw)
{
    g_ptr_array_add(rw->tail, g_strdup("-chardev"));
    g_ptr_array_add(rw->tail, g_strdup("socket,id=" PRIVATE_ID ",fd=@FF_PRIV@,server=on,wait=off"));
    g_ptr_array_add(rw->tail, g_strdup("-qmp"));
    g_ptr_array_add(rw->tail, g_strdup("chardev:" PRIVATE_ID));
}
