/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Authorisation lists, with the rules of QEMU's authz/: see authz.h. Pure; any thread.
 */
#include "net/authz.h"

typedef struct {
    char *match;
    bool glob, allow;
} Rule;

struct FfAuthz {
    GPtrArray *rules; /* Rule * */
    bool allow;       /* when no rule matches */
};

static void rule_free(gpointer p)
{
    Rule *rule = p;

    g_free(rule->match);
    g_free(rule);
}

FfAuthz *ff_authz_new_list(bool allow)
{
    FfAuthz *authz = g_new0(FfAuthz, 1);

    authz->rules = g_ptr_array_new_with_free_func(rule_free);
    authz->allow = allow;
    return authz;
}

FfAuthz *ff_authz_new_simple(const char *identity)
{
    FfAuthz *authz = ff_authz_new_list(false);

    ff_authz_add_rule(authz, identity, false, true);
    return authz;
}

void ff_authz_add_rule(FfAuthz *authz, const char *match, bool glob, bool allow)
{
    Rule *rule = g_new(Rule, 1);

    *rule = (Rule){g_strdup(match), glob, allow};
    g_ptr_array_add(authz->rules, rule);
}

bool ff_authz_allows(const FfAuthz *authz, const char *name)
{
    for (guint i = 0; i < authz->rules->len; i++) {
        const Rule *rule = authz->rules->pdata[i];

        if (rule->glob ? g_pattern_match_simple(rule->match, name)
                       : g_str_equal(rule->match, name)) {
            return rule->allow;
        }
    }
    return authz->allow;
}

void ff_authz_free(FfAuthz *authz)
{
    if (authz) {
        g_ptr_array_unref(authz->rules);
        g_free(authz);
    }
}
