/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `farfault run`, and farfault called by the name of a QEMU: finds the real QEMU and the policy,
 * and becomes it.
 *
 * Threads: the only one.
 */
#include "cli/common/cli.h"

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/options.h"
#include "cli/common/restore-hint.h"
#include "cli/common/userfault.h"
#include "guest/launch/launch.h"
#include "guest/launch/paths.h"

static int print_failure(const char *message)
{
    fprintf(stderr, "farfault: %s\n", message);
    return 1;
}

/* A setting that is one of a few words, the first of which is the default. */
typedef struct {
    const char *option, *variable, *key; /* where it is looked for, in this order */
    const char *what;                    /* for an error */
    const char *words[4];                /* ended by NULL */
} Setting;

/* Of farfault upgrade alone: inherited sockets (guest/launch/launch.h); -1: none. */
typedef struct {
    int socket, monitor;
} Borrow;

static const Setting policy_setting = {
    "--policy", "FARFAULT_POLICY", "policy", "policy", {"auto", "always", "never"}};
static const Setting untracked_setting = {
    "--untracked", "FARFAULT_UNTRACKED", "untracked", "such choice", {"qemu", "postcopy", "wait"}};
static const Setting restore_setting = {
    "--restore", "FARFAULT_RESTORE", "restore", "such choice", {"eager", "lazy"}};
/* Who is the peer of the back-ends of vhost-user disks and networks. */
static const Setting vhost_setting = {"--vhost-user",
                                      "FARFAULT_VHOST_USER",
                                      "vhost-user",
                                      "such choice",
                                      {"qemu", "farfault", "migrate"}};

/* The word of SETTING; OPTION is what the command line says, can be NULL. Returns a static string,
 * or NULL and ERROR. */
static const char *find_setting(const Setting *setting, const char *option, GError **error)
{
    const char *const *words = setting->words;
    g_autofree char *where = g_strdup(setting->option);
    const char *text = option;
    g_autofree char *configured = NULL;
    if (!text) {
        g_free(where);
        where = g_strdup(setting->variable);
        text = g_getenv(setting->variable);
    }
    if (!text || !*text) {
        GError *err = NULL;
        g_free(where);
        where = g_strdup_printf("[migration] %s= of /etc/farfault/farfault.conf", setting->key);
        text = configured = ff_config_get("migration", setting->key, &err);
        if (err) {
            g_propagate_error(error, err);
            return NULL;
        }
    }
    if (!text) {
        return words[0];
    }
    for (size_t i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            return words[i];
        }
    }
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                "%s: \"%s\" is no %s: it must be %s%s%s or %s", where, text, setting->what,
                words[0], words[2] ? ", " : "", words[2] ? words[1] : "",
                words[2] ? words[2] : words[1]);
    return NULL;
}

/* What the command line says; NULL: nothing. */
typedef struct {
    const char *policy, *untracked, *restore, *vhost;
    bool needed; /* farfault restore's: QEMU alone is of no use */
} Said;

/* What is started by farfault must be QEMU: it gets QEMU's arguments, and fds by number. */
static int refuse_wrapper(char **argv, unsigned qemu)
{
    g_autoptr(GString) words = g_string_new(NULL);

    for (unsigned i = 0; i < qemu; i++) {
        g_autofree char *word = ff_shell_word(argv[i]);
        g_string_append_printf(words, "%s ", word);
    }
    fprintf(stderr,
            "farfault: %s is no QEMU: put it in front of farfault: %sfarfault ... -- %s ...\n",
            argv[0], words->str, argv[qemu]);
    return FF_CLI_USAGE_STATUS;
}

static int run_qemu(char **argv, const Said *said, const Borrow *borrow)
{
    g_autoptr(GError) error = NULL;
    const char *policy = find_setting(&policy_setting, said->policy, &error);
    const char *untracked =
        policy ? find_setting(&untracked_setting, said->untracked, &error) : NULL;
    const char *restore = untracked ? find_setting(&restore_setting, said->restore, &error) : NULL;
    const char *vhost = restore ? find_setting(&vhost_setting, said->vhost, &error) : NULL;
    if (!vhost) {
        const char *wrong = restore     ? said->vhost
                            : untracked ? said->restore
                            : policy    ? said->untracked
                                        : said->policy;
        print_failure(error->message);
        return wrong ? FF_CLI_USAGE_STATUS : 1;
    }
    unsigned wrapped = ff_find_wrapped_qemu(argv);
    if (wrapped) {
        return refuse_wrapper(argv, wrapped);
    }
    g_autofree char *qemu = ff_find_real_qemu(argv[0], &error);
    if (!qemu) {
        print_failure(error->message);
        return 127; /* as a shell says that a command was not found */
    }
    int uffd = ff_cli_new_uffd();
    g_autofree char *fix = uffd < 0 ? ff_cli_userfault_fix(g_get_user_name()) : NULL;

    if (uffd >= 0) {
        close(uffd);
    }
    FfLaunchOptions options = {.qemu = qemu,
                               .userfault_fix = fix,
                               .policy = policy,
                               .untracked = untracked,
                               .restore = restore,
                               .takes_backends = strcmp(vhost, "qemu") != 0,
                               .follows_backends = strcmp(vhost, "migrate") == 0,
                               .needed = said->needed,
                               .borrow_fd = borrow->socket,
                               .monitor_fd = borrow->monitor};
    return ff_launch(&options, argv);
}

/* TRUE if ARGV[*I] is the option NAME: *VALUE is its value, and *I its last word. */
static bool take_option(char **argv, int argc, int *i, const char *name, const char **value)
{
    size_t len = strlen(name);

    if (!g_str_has_prefix(argv[*i], name)) {
        return false;
    }
    if (argv[*i][len] == '=') {
        *value = argv[*i] + len + 1;
        return true;
    }
    if (argv[*i][len] || *i + 1 >= argc) {
        return false;
    }
    *value = argv[++*i];
    return true;
}

static int unknown_option(const char *option)
{
    const char *const known[] = {policy_setting.option,
                                 untracked_setting.option,
                                 restore_setting.option,
                                 vhost_setting.option,
                                 "--help",
                                 NULL};
    g_autofree char *text = ff_cli_unknown_option(option, known);

    fprintf(stderr,
            "farfault: run: %s (options of QEMU come after its name; see farfault help run)\n",
            text);
    return FF_CLI_USAGE_STATUS;
}

int ff_cli_run(int argc, char **argv)
{
    Said said = {0};
    const char *borrow = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--") == 0) {
            i++;
            break;
        }
        if (!take_option(argv, argc, &i, policy_setting.option, &said.policy) &&
            !take_option(argv, argc, &i, untracked_setting.option, &said.untracked) &&
            !take_option(argv, argc, &i, restore_setting.option, &said.restore) &&
            !take_option(argv, argc, &i, vhost_setting.option, &said.vhost) &&
            !take_option(argv, argc, &i, "--borrow", &borrow)) {
            return unknown_option(argv[i]);
        }
    }
    if (i >= argc) {
        fprintf(stderr, "farfault: run: name the QEMU to start, e.g. "
                        "farfault run qemu-system-x86_64 -m 1G ...\n");
        return FF_CLI_USAGE_STATUS;
    }
    Borrow sockets = {-1, -1};
    if (borrow && sscanf(borrow, "%d,%d", &sockets.socket, &sockets.monitor) != 2) {
        return print_failure("run: --borrow is farfault upgrade's own");
    }
    return run_qemu(argv + i, &said, &sockets);
}

int ff_cli_run_as_qemu(char **argv)
{
    return run_qemu(argv, &(Said){0}, &(Borrow){-1, -1});
}

int ff_cli_run_restored(char **argv, const char *vhost)
{
    return run_qemu(argv, &(Said){.vhost = vhost, .needed = true}, &(Borrow){-1, -1});
}
