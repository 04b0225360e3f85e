/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asks QEMU, one question after the other, for the objects that a migration's TLS parameters
 * name, and gives the outcome to the migration. What the answers mean is in tls.c. Main loop's
 * thread.
 */
#include <string.h>
#include <unistd.h>

#include "qapi/driver-private.h"

#define HELD "tls"
#define LOST                                                                                       \
    "the TLS credentials of this migration were lost with the engine that died: it cannot be "     \
    "recovered; farfault dump keeps this half of the guest"

static void go_on(FfCall *call);

static void on_answered(FfCall *call, JsonNode *result, const GError *error)
{
    char *path = NULL, *property = NULL;

    /* The question is the one that is still open. */
    ff_tls_missing(call->tls.answers, &path, &property);
    if (error || !result) {
        g_set_error(&call->tls.error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC,
                    "the TLS object %s cannot be read from QEMU: %s", path,
                    error ? error->message : "no answer");
    } else {
        ff_tls_answer(call->tls.answers, path, property, result);
    }
    g_free(path);
    g_free(property);
    if (call->tls.error) {
        call->next(call);
    } else {
        go_on(call);
    }
}

static void go_on(FfCall *call)
{
    g_autofree char *path = NULL, *property = NULL;

    if (!ff_tls_missing(call->tls.answers, &path, &property)) {
        ff_tls_choose(&call->tls, call->tls.answers);
        call->next(call);
        return;
    }
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", path);
    if (property) {
        json_object_set_string_member(args, "property", property);
    }
    ff_call_inner(call, property ? "qom-get" : "qom-list", args, on_answered);
}

void ff_call_get_tls(FfCall *call, bool server, FfHandler next)
{
    ff_tls_choice_clear(&call->tls);
    call->next = next;
    if (server ? ff_policy_engine_carries(call) : ff_policy_engine_begins(call)) {
        call->tls.answers =
            ff_tls_answers_new(json_node_get_object(call->parameters), call->target.host, server);
    }
    if (call->tls.answers) {
        go_on(call);
    } else {
        next(call);
    }
}

/* ---- the migration's ------------------------------------------------------------------------- */

static void qemu_told(FfCall *call, JsonNode *result, const GError *error)
{
    ff_call_return(call, NULL); /* without QEMU's copy only `farfault attach` lacks something */
}

/* QEMU keeps FD, or forgets it (-1): what it has outlives relay and engine. */
static void tell_qemu(FfDriver *d, int fd)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", FF_TLS_KEPT_NAME);
    ff_call_inner_fd(ff_call_new_own(d), fd >= 0 ? "getfd" : "closefd", args, fd, qemu_told);
}

void ff_driver_forget_tls(FfDriver *d)
{
    if (d->config.state->driver_flags & FF_DRIVER_TLS) {
        d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_TLS;
        tell_qemu(d, -1);
        ff_driver_keep(d, HELD, -1);
    }
}

void ff_driver_use_tls(FfCall *call, FfMigrationConfig *config)
{
    FfDriver *d = call->driver;

    ff_driver_forget_tls(d);
    if (!call->tls.tls) {
        return;
    }
    config->tls = call->tls.tls;
    config->tls_hostname = call->tls.hostname;
    d->config.state->driver_flags |= FF_DRIVER_TLS;
    int fd = ff_tls_keep(call->tls.answers);

    if (fd >= 0) {
        tell_qemu(d, fd);
        ff_driver_keep(d, HELD, fd);
    }
}

void ff_driver_adopt_tls(FfDriver *d, FfMigrationConfig *config, FfTlsChoice *choice)
{
    if (!(d->config.state->driver_flags & FF_DRIVER_TLS)) {
        return;
    }
    choice->answers = ff_tls_kept(d->config.tls_fd);
    if (choice->answers) {
        ff_tls_choose(choice, choice->answers);
    }
    config->tls = choice->tls;
    config->tls_hostname = choice->hostname;
    if (!choice->tls) {
        config->tls_refusal = choice->error ? choice->error->message : (char *)LOST;
        ff_driver_log(d, "farfault: engine: TLS: %s", config->tls_refusal);
    }
}

bool ff_driver_read_tls_again(FfDriver *d, GError **error)
{
    FfTlsChoice choice = {0};

    if (!d->migration || !ff_migration_lacks_tls(d->migration)) {
        return true;
    }
    choice.answers = ff_tls_kept(d->config.tls_fd);
    if (choice.answers) {
        ff_tls_choose(&choice, choice.answers);
    }
    bool ok = choice.tls;
    if (ok) {
        ff_migration_set_tls(d->migration, choice.tls, choice.hostname);
    } else if (choice.error) {
        g_set_error(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC,
                    "the TLS credentials cannot be read again: %s: put that right and repeat this "
                    "command",
                    choice.error->message);
    } else {
        g_set_error_literal(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC, LOST);
    }
    ff_tls_choice_clear(&choice);
    return ok;
}
