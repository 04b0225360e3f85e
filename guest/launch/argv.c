/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the rewriting of QEMU's command line: scans it once, lets one pass per subject mark what
 * it changes, and writes the new one.
 *
 * Passes: argv-help.c (does it start a guest?), argv-config.c (files), argv-monitor.c (QMP),
 * argv-sockets.c (what else listens), argv-memory.c with argv-backend.c (RAM), and -incoming here.
 * A pass never changes the words of another. Monitors come before RAM: one of a file that QEMU
 * keeps stands against the engine. Everything that no pass knows is copied, in its place. Pure but
 * for the injected questions; any thread.
 */
#include "guest/launch/argv.h"

#include "guest/launch/argv-rewrite.h"

#include <string.h>
#include <sys/un.h>

static void arg_free(gpointer data)
{
    FfArg *arg = data;

    g_free(arg->new_value);
    g_clear_pointer(&arg->before, g_ptr_array_unref);
    g_free(arg);
}

static void config_free(gpointer data)
{
    FfPlanConfig *config = data;

    g_free(config->path);
    g_free(config->text);
    g_free(config);
}

static void ram_free(gpointer data)
{
    FfPlanRam *ram = data;

    g_free(ram->id);
    g_free(ram->mount);
    g_free(ram);
}

/*
 * An option that is not in the table (a newer QEMU's) is taken for one without an argument. If
 * it has one, that word is read next: it is copied in any case, and only an argument that is
 * itself the name of an option ("-new -S") would be misread.
 */
static GPtrArray *scan_options(const char *const *argv)
{
    GPtrArray *args = g_ptr_array_new_with_free_func(arg_free);

    for (const char *const *at = argv + 1; *at; at++) {
        FfArg *arg = g_new0(FfArg, 1);

        arg->word = *at;
        arg->option = ff_option_find(*at);
        if (arg->option && arg->option->has_arg && at[1]) {
            arg->value = *++at;
        }
        g_ptr_array_add(args, arg);
    }
    return args;
}

static void read_identity(FfRewrite *rw)
{
    FfPlan *plan = rw->plan;

    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];
        g_autoptr(GPtrArray) opts = NULL;
        const char *value;

        switch (ff_arg_kind(arg)) {
        case FF_OPT_S:
            plan->start_paused = true;
            break;
        case FF_OPT_DAEMONIZE:
            plan->daemonize = true;
            break;
        case FF_OPT_RUNAS:
            g_free(plan->runas);
            plan->runas = g_strdup(arg->value);
            break;
        case FF_OPT_RUN_WITH:
            opts = ff_opts_parse(arg->value, NULL);
            value = ff_opts_get(opts, "user");
            if (value) {
                g_free(plan->runas);
                plan->runas = g_strdup(value);
            }
            break;
        case FF_OPT_NAME:
            opts = ff_opts_parse(arg->value, "guest");
            value = ff_opts_get(opts, "guest");
            if (value) {
                g_free(plan->name);
                plan->name = g_strdup(value);
            }
            break;
        default:
            break;
        }
    }
}

/* With -daemonize QEMU would name its socket before it goes to /, and is there when the engine
 * comes to do it. FALSE: the whole path would be too long for that. */
static bool make_absolute(const FfRewrite *rw)
{
    static const char scheme[] = "unix:";
    FfPlan *plan = rw->plan;
    const char *path = plan->incoming + strlen(scheme);

    if (!plan->daemonize || !g_str_has_prefix(plan->incoming, scheme) || *path == '/' || !*path) {
        return true;
    }
    g_autofree char *whole = rw->sys->folder ? g_build_filename(rw->sys->folder, path, NULL) : NULL;

    if (!whole || strlen(whole) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        return false;
    }
    g_free(plan->incoming);
    plan->incoming = g_strconcat(scheme, whole, NULL);
    return true;
}

/* The last -incoming counts. Only plain sockets are taken: the engine listens there itself, or
 * takes a copy of the fd out of QEMU (which is given it back by number if it is no socket). */
static void rewrite_incoming(FfRewrite *rw)
{
    FfArg *last = NULL;

    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];

        if (ff_arg_kind(arg) == FF_OPT_INCOMING && !ff_incoming_is_cpr(arg->value)) {
            last = arg;
        }
    }
    if (!last) {
        return;
    }
    rw->plan->incoming = g_strdup(last->value);
    /* A guest that the engine may not migrate starts as if farfault were not there. */
    if (!rw->plan->engine_refused &&
        (g_str_has_prefix(last->value, "tcp:") || g_str_has_prefix(last->value, "unix:") ||
         g_str_has_prefix(last->value, "fd:")) &&
        make_absolute(rw)) {
        rw->plan->incoming_taken = true;
        last->new_value = g_strdup("defer");
    }
}

static void move_words(GPtrArray *to, GPtrArray *words)
{
    for (guint i = 0; words && i < words->len; i++) {
        g_ptr_array_add(to, g_strdup(words->pdata[i]));
    }
}

static void write_argv(FfRewrite *rw)
{
    GPtrArray *argv = rw->plan->argv;

    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        if (arg->drop || arg->section) {
            continue;
        }
        move_words(argv, arg->before);
        g_ptr_array_add(argv, g_strdup(arg->word));
        if (arg->value) {
            g_ptr_array_add(argv, g_strdup(arg->new_value ? arg->new_value : arg->value));
        }
    }
    move_words(argv, rw->tail);
    g_ptr_array_add(argv, NULL);
}

static FfPlan *plan_alloc(const char *program)
{
    FfPlan *plan = g_new0(FfPlan, 1);

    plan->argv = g_ptr_array_new_with_free_func(g_free);
    plan->ram = g_ptr_array_new_with_free_func(ram_free);
    plan->monitors = g_ptr_array_new_with_free_func((GDestroyNotify)ff_plan_monitor_free);
    plan->configs = g_ptr_array_new_with_free_func(config_free);
    plan->sockets = g_ptr_array_new_with_free_func(g_free);
    plan->warnings = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(plan->argv, g_strdup(program));
    return plan;
}

FfPlan *ff_plan_new(const char *const *argv, const FfArgvSystem *sys, GError **error)
{
    g_autoptr(FfPlan) plan = NULL;
    g_autoptr(GPtrArray) args = NULL;

    if (!argv[0]) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                    "no QEMU to start: give its command line");
        return NULL;
    }
    plan = plan_alloc(argv[0]);
    args = scan_options(argv);
    g_autoptr(GPtrArray) configs = g_ptr_array_new_with_free_func((GDestroyNotify)ff_config_free);
    g_autoptr(GPtrArray) machine = ff_opts_new();
    g_autoptr(GPtrArray) memory = ff_opts_new();
    g_autoptr(GPtrArray) tail = g_ptr_array_new_with_free_func(g_free);
    FfRewrite rw = {sys, plan, args, configs, machine, memory, tail};

    plan->passthrough = ff_argv_starts_no_guest(args);
    if (!plan->passthrough) {
        ff_argv_read_config(&rw);
        read_identity(&rw);
        ff_argv_note_sockets(&rw);
        ff_argv_rewrite_monitors(&rw);
        ff_argv_rewrite_memory(&rw);
        rewrite_incoming(&rw);
        ff_argv_rewrite_backends(&rw);
        ff_argv_keep_default_monitor(&rw);
        ff_argv_add_door(&rw);
        ff_argv_add_private_monitor(&rw);
        ff_argv_write_config(&rw);
    }
    write_argv(&rw);
    return g_steal_pointer(&plan);
}

void ff_plan_free(FfPlan *plan)
{
    if (!plan) {
        return;
    }
    g_ptr_array_unref(plan->argv);
    g_ptr_array_unref(plan->ram);
    g_ptr_array_unref(plan->monitors);
    g_ptr_array_unref(plan->configs);
    g_ptr_array_unref(plan->sockets);
    g_ptr_array_unref(plan->warnings);
    g_free(plan->incoming);
    g_free(plan->runas);
    g_free(plan->name);
    g_free(plan->engine_refused);
    g_free(plan);
}

/* TEXT begins with "@". Returns the length of the token that stands there and its *FD; 0 if it
 * is none of this plan's. */
static size_t token_parse(const char *text, const FfPlan *plan, const FfPlanFds *fds, int *fd)
{
    const struct {
        const char *name;
        const GPtrArray *list;
        const int *fds;
    } kinds[] = {
        {"@FF_RAM", plan->ram, fds->ram},
        {"@FF_MON", plan->monitors, fds->monitors},
        {"@FF_CONFIG", plan->configs, fds->configs},
    };

    if (g_str_has_prefix(text, "@FF_PRIV@")) {
        *fd = fds->priv;
        return strlen("@FF_PRIV@");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_str_has_prefix(text, kinds[i].name)) {
            char *end;
            guint64 index = g_ascii_strtoull(text + strlen(kinds[i].name), &end, 10);

            if (*end != '@' || index >= kinds[i].list->len || !kinds[i].fds) {
                return 0;
            }
            *fd = kinds[i].fds[index];
            return (size_t)(end + 1 - text);
        }
    }
    return 0;
}

/* Tokens stand after "fd=", in a file "fd = \"", or "fd/" only; the same text in a user's words
 * stays what it is. */
static char *word_render(const char *word, const FfPlan *plan, const FfPlanFds *fds)
{
    static const char *const before[] = {"fd=", "fd/", "fd = \""};
    GString *out = g_string_new(NULL);

    while (*word) {
        size_t len = 0;
        int fd;

        for (size_t i = 0; *word == '@' && !len && i < G_N_ELEMENTS(before); i++) {
            if (g_str_has_suffix(out->str, before[i])) {
                len = token_parse(word, plan, fds, &fd);
            }
        }
        if (len) {
            g_string_append_printf(out, "%d", fd);
            word += len;
        } else {
            g_string_append_c(out, *word++);
        }
    }
    return g_string_free(out, FALSE);
}

char **ff_plan_render(const FfPlan *plan, const FfPlanFds *fds)
{
    char **argv = g_new0(char *, plan->argv->len);

    for (guint i = 0; i + 1 < plan->argv->len; i++) {
        const char *word = plan->argv->pdata[i];

        argv[i] = plan->passthrough ? g_strdup(word) : word_render(word, plan, fds);
    }
    return argv;
}

char *ff_plan_render_config(const FfPlan *plan, guint index, const FfPlanFds *fds)
{
    const FfPlanConfig *config = plan->configs->pdata[index];
    FfPlanFds own = *fds;

    own.configs = NULL;
    return word_render(config->text, plan, &own);
}
