/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of farfault upgrade have in common: the two QEMUs, and what is known of them. For
 * cli/upgrade/ alone. One thread; what an upgrade has is the caller's of ff_cli_upgrade().
 */
#ifndef FF_CLI_UPGRADE_INTERNAL_H
#define FF_CLI_UPGRADE_INTERNAL_H

#include <gio/gio.h>
#include <stdbool.h>
#include <sys/types.h>

#include "cli/common/qmp.h"

typedef struct {
    gboolean help, check, keep_process;
    char *qemu, *args_from;
    char **positional;
} FfUpgradeLine;

typedef enum { FF_END_GOING, FF_END_COMPLETED, FF_END_FAILED } FfUpgradeEnd;

typedef struct {
    const char *address;
    FfCliQmp *running, *prepared;
    int old_pid, old_pidfd;
    char **args;        /* the new QEMU's */
    char **own;         /* the running one's, as it was given; NULL: it is not known */
    char *qemu;         /* its program */
    GPtrArray *options; /* of farfault run, char * */
    GArray *given;      /* of int: numbers of the fds that the new QEMU gets, as the running one */
    pid_t pid;          /* of the new QEMU, our child; 0: none */
    int log;            /* its stderr; -1 */
    FfUpgradeEnd end;
    gint64 stop, resume; /* QEMU's event times, us; 0: not seen */
    bool old_gone, new_gone;
    bool stays;       /* the running QEMU's process, for those who know it */
    int front;        /* the process that has stayed at an upgrade before; 0: none has */
    bool ran;         /* the guest, when it was looked at first */
    bool arrived;     /* the new engine has done all: the guest runs, if it is to */
    bool heard;       /* something came from an engine since it was last looked */
    bool handed;      /* the engines may have begun: who has the guest is theirs to say */
    char *state;      /* of the guest in the new QEMU, if it does not run there; NULL */
    GArray *balloons; /* of FfBalloon, the running QEMU's; NULL: not asked yet */
    GPtrArray
        *names; /* of the new QEMU's files, of FfInheritedName *; NULL: it has made none yet */
    GString *warning; /* what did not work beside that, each after "; "; empty: nothing */
} FfUpgrade;

#define ff_upgrade_fail(error, ...)                                                                \
    (g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, __VA_ARGS__), false)

/* ---- running.c ----------------------------------------------------------------------- */

/* The monitor of u->address: one, or that of a process. NULL and ERROR. */
FfCliQmp *ff_upgrade_open_running(FfUpgrade *u, GError **error);
/* What the new QEMU is to be started with, and whether it can be. */
bool ff_upgrade_look_at_running(FfUpgrade *u, const FfUpgradeLine *line, GError **error);
/* What the running QEMU lends. NULL and ERROR: it does not, or who answers is not the QEMU any more
 * that was looked at: with another upgrade a client goes along, and finds itself at a new one. */
JsonNode *ff_upgrade_lent(FfUpgrade *u, GError **error);
/* It has one that can leave it. */
bool ff_upgrade_has_guest(FfUpgrade *u, GError **error);

/* ---- new.c --------------------------------------------------------------------------- */

/* Starts the new QEMU and compares the two. FALSE and ERROR: end it (ff_upgrade_end_new()). */
bool ff_upgrade_prepare(FfUpgrade *u, GError **error);
/* Ends it, if there is one: it has no guest. */
void ff_upgrade_end_new(FfUpgrade *u);
/* COMMAND, of an engine, with a copy of SOCKET. */
bool ff_upgrade_tell(FfCliQmp *qmp, const char *command, int socket, bool keep_process,
                     GError **error);
/* Tells the running QEMU's engine to hand its guest over, by a copy of SOCKET. That it has the
 * guest still is asked once QEMU has the copy: if another upgrade comes in between, the next QEMU,
 * which this connection then speaks to, has not. */
bool ff_upgrade_hand_over(FfUpgrade *u, int socket, GError **error);
/* The last line that was written to LOG, u->log (g_free); NULL: nothing was. */
char *ff_upgrade_last_line(int log);

/* ---- switch.c ------------------------------------------------------------------------ */

/* The guest goes over, which the engines do. FALSE and ERROR: where it is then, u->end and ERROR
 * say. */
bool ff_upgrade_switch_over(FfUpgrade *u, GError **error);

/* ---- signal.c ------------------------------------------------------------------------ */

/* A signal that ends this program has it say so before, and where the guest is. */
void ff_upgrade_watch_signals(void);
/* It says TEXT, a constant, from now on. */
void ff_upgrade_say_at_signal(const char *text);

#endif
