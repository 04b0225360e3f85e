/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The TLS credentials of a migration, from the parameters tls-creds, tls-hostname and tls-authz:
 * QEMU has the objects that they name (whoever made them: QMP, HMP, the command line), so it is
 * asked for their properties when a migration begins. Nothing is kept between migrations.
 *
 * The answers outlive a crash of the engine in a memfd that the relay holds while the migration
 * runs: a QEMU that waits for guest memory answers nothing. QEMU, whose objects they are, holds
 * that memfd, too, for the relay that `farfault attach` starts. Main loop's thread.
 */
#ifndef FF_QAPI_TLS_H
#define FF_QAPI_TLS_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "contract/state.h"
#include "net/tls.h"

typedef struct {
    FfTls *tls;          /* NULL: none wanted, or QEMU must carry the migration, or ERROR is set */
    char *hostname;      /* the host that the destination's certificate must name; can be NULL */
    const char *native;  /* why QEMU must carry it (static); NULL */
    GError *error;       /* NULL: all is well */
    JsonObject *answers; /* of QEMU, for ff_tls_keep(); NULL */
} FfTlsChoice;

void ff_tls_choice_clear(FfTlsChoice *choice);

/* What is still to be asked of QEMU about the objects: the path and the property (NULL: the list
 * of a folder; g_free both). FALSE: nothing more; the answers are complete or wrong. */
bool ff_tls_missing(JsonObject *answers, char **path, char **property);
/* Begins with the client's PARAMETERS; HOST (can be NULL) is where a source connects to. NULL if
 * no tls-creds are set. */
JsonObject *ff_tls_answers_new(JsonObject *parameters, const char *host, bool server);
void ff_tls_answer(JsonObject *answers, const char *path, const char *property, JsonNode *result);
/* From complete answers. */
void ff_tls_choose(FfTlsChoice *choice, JsonObject *answers);
/* Wipes what is secret in it. */
void ff_tls_answers_free(JsonObject *answers);

/* The answers in a memfd (close-on-exec, mode 0600, sealed: contract/state.h has its name), or -1;
 * and back, NULL if it is none. */
int ff_tls_keep(JsonObject *answers);
JsonObject *ff_tls_kept(int fd);

#endif
