/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A QEMU that is started for a question, and ends when it has answered. */
#ifndef FF_GUEST_LAUNCH_ARGV_ASK_H
#define FF_GUEST_LAUNCH_ARGV_ASK_H

#include <glib.h>
#include <json-glib/json-glib.h>

/* What it is started with. */
typedef struct {
    char **argv;    /* argv[0]: the program's path */
    char **envp;    /* NULL: this process's own */
    int in_out;     /* its stdin and stdout; -1: none */
    int err;        /* its stderr; -1: none */
    const int *fds; /* the first of them is its number 3, and so on; can be NULL */
    unsigned n_fds;
} FfAskStart;

/*
 * Starts it, closes this process's IN_OUT and FDS, and reads what FD says until its end. Waits
 * until the process has ended; one that has not after 60 s is killed. Returns the text (g_free),
 * with *STATUS as waitpid() has it; NULL: it could not be started, or was killed. In the process's
 * only thread.
 */
char *ff_ask(const FfAskStart *start, int fd, int *status);
/*
 * Starts QEMU (a path) without a guest, and asks for COMMAND of QMP, whose answer is a list. The
 * list (json_node_unref); NULL: none has come, or not within 60 s. In the process's only thread.
 */
JsonNode *ff_ask_list(const char *qemu, const char *command);

#endif
