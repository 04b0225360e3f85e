/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whom a source that is refused asks before its QEMU begins: a peer is told nothing that QEMU's
 * stream might not begin with, since QEMU's migration would fail then, and without farfault it
 * would not.
 */
#include <glib.h>
#include <string.h>

#include "migration/common/qemu-carries.h"

typedef struct {
    const char *name;
    const char *machine; /* NULL: it is not known, or QEMU says more of it */
    bool uuid, validate_uuid, unsure, greets;
} Case;

static const Case cases[] = {
    {"x86", "pc-i440fx-7.2", .greets = true},
    {"uuid", "q35", .uuid = true, .validate_uuid = true, .greets = true},
    {"no-uuid", "q35", .validate_uuid = true},
    {"other-target", NULL},
    {"no-answer", "q35", .unsure = true},
};

static const Case *now;

static char *machine(FfVmmState *state)
{
    return g_strdup(now->machine);
}

static void test_greets(gconstpointer data)
{
    FfVmm vmm = {.state.machine = machine};
    FfConnection conn = {0};
    FfMigrationConfig cfg = {.plain = true, .answered_first = true, .vmm = &vmm};
    FfPlain plain = {.cfg = &cfg, .conn = &conn, .refused = (char *)"no"};
    GError *error = g_error_new_literal(FF_M_ERROR, FF_M_ERROR_REFUSED, "no");

    now = data;
    cfg.validate_uuid = now->validate_uuid;
    plain.unsure = now->unsure;
    memset(conn.vm_uuid, now->uuid, sizeof(conn.vm_uuid));
    g_assert_cmpint(ff_plain_greets(&plain, &error), ==, now->greets);
    /* Then QEMU begins by itself. */
    g_assert_true(!error == now->greets);
    g_clear_error(&error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/plain/greets/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_greets);
    }
    return g_test_run();
}
