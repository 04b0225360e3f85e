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

static void go_on(FfCall *call);

static void answered(FfCall *call, JsonNode *result, const GError *error)
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
    ff_call_inner(call, property ? "qom-get" : "qom-list", args, answered);
}

void ff_call_get_tls(FfCall *call, bool server, FfHandler next)
{
    const char *why;

    ff_tls_choice_clear(&call->tls);
    call->next = next;
    if (ff_engine_fits(call->driver, call->capabilities, call->parameters, &why)) {
        call->tls.answers =
            ff_tls_answers_new(json_node_get_object(call->parameters), call->target.host, server);
    }
    if (call->tls.answers) {
        go_on(call);
    } else {
        next(call);
    }
}

/* --- the migration's ------------------------------------------------------------------------- */

void ff_driver_forget_tls(FfDriver *d)
{
    if (d->config.state->driver_flags & FF_DRIVER_TLS) {
        d->config.state->driver_flags &= ~(uint32_t)FF_DRIVER_TLS;
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
        config->tls_refusal = choice->error ? choice->error->message
                                            : (char *)"the TLS credentials of this migration were "
                                                      "lost with the engine that died";
        ff_driver_log(d, "farfault: engine: TLS: %s", config->tls_refusal);
    }
}
