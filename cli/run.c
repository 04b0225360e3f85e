/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `farfault run`, and farfault called by the name of a QEMU: finds the real QEMU and the policy,
 * and becomes it.
 *
 * Threads: the only one.
 */
#include "cli/cli.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "qemu/launch.h"
#include "qemu/paths.h"

static int fail(const char *message)
{
    fprintf(stderr, "farfault: %s\n", message);
    return 1;
}

/* The policy from, in this order: OPTION, FARFAULT_POLICY, the configuration file. OPTION can be
 * NULL. Returns a static string, or NULL and ERROR. */
static const char *find_policy(const char *option, GError **error)
{
    static const char *const policies[] = {"auto", "always", "never"};
    const char *where = "--policy";
    const char *text = option;
    g_autofree char *configured = NULL;
    if (!text) {
        where = "FARFAULT_POLICY";
        text = g_getenv("FARFAULT_POLICY");
    }
    if (!text || !*text) {
        GError *err = NULL;
        where = "[migration] policy= of /etc/farfault/farfault.conf";
        text = configured = ff_config_get("migration", "policy", &err);
        if (err) {
            g_propagate_error(error, err);
            return NULL;
        }
    }
    if (!text) {
        return policies[0];
    }
    for (size_t i = 0; i < G_N_ELEMENTS(policies); i++) {
        if (strcmp(text, policies[i]) == 0) {
            return policies[i];
        }
    }
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                "%s: \"%s\" is no policy: it must be auto, always or never", where, text);
    return NULL;
}

static int run(char **argv, const char *policy_option)
{
    g_autoptr(GError) error = NULL;
    const char *policy = find_policy(policy_option, &error);
    if (!policy) {
        return fail(error->message);
    }
    g_autofree char *qemu = ff_find_real_qemu(argv[0], &error);
    if (!qemu) {
        fail(error->message);
        return 127; /* as a shell says that a command was not found */
    }
    FfLaunchOptions options = {.qemu = qemu, .policy = policy};
    return ff_launch(&options, argv);
}

int ff_cli_run(int argc, char **argv)
{
    const char *policy = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--") == 0) {
            i++;
            break;
        }
        if (g_str_has_prefix(argv[i], "--policy=")) {
            policy = argv[i] + strlen("--policy=");
        } else if (strcmp(argv[i], "--policy") == 0 && i + 1 < argc) {
            policy = argv[++i];
        } else {
            fprintf(stderr,
                    "farfault: run: unknown option \"%s\" (options of QEMU go behind its "
                    "name); see farfault help run\n",
                    argv[i]);
            return FF_CLI_USAGE_STATUS;
        }
    }
    if (i >= argc) {
        fprintf(stderr, "farfault: run: name the QEMU to start, e.g. "
                        "farfault run qemu-system-x86_64 -m 1G ...\n");
        return FF_CLI_USAGE_STATUS;
    }
    return run(argv + i, policy);
}

int ff_cli_run_as_qemu(char **argv)
{
    return run(argv, NULL);
}
