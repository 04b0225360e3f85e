/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a peer of a given name may come in: QEMU's authz-simple, authz-list and
 * authz-list-file (whose text the caller has read). Immutable once built; any thread.
 */
#ifndef FF_NET_AUTHZ_H
#define FF_NET_AUTHZ_H

#include <glib.h>
#include <stdbool.h>

typedef struct FfAuthz FfAuthz;

/* authz-simple: exactly IDENTITY. */
FfAuthz *ff_authz_new_simple(const char *identity);
/* authz-list: the first rule that matches decides, else ALLOW. */
FfAuthz *ff_authz_new_list(bool allow);
/* GLOB: MATCH has * and ?, as in g_pattern_match_simple(); else it is the whole name. */
void ff_authz_add_rule(FfAuthz *authz, const char *match, bool glob, bool allow);
bool ff_authz_allows(const FfAuthz *authz, const char *name);
void ff_authz_free(FfAuthz *authz);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfAuthz, ff_authz_free)

#endif
