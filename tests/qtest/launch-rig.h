/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An installed farfault of its own for one test of the launcher, with test-relay in place of the
 * relay. Everything lies in one directory, which is gone at the end, as are all processes.
 */
#ifndef FF_TESTS_LAUNCH_RIG_H
#define FF_TESTS_LAUNCH_RIG_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    char *base; /* the directory that is removed at the end */
    char *dir;  /* BASE/NAME: working directory; holds bin/, lib/farfault/, files of the test */
    int report; /* FIFO that test-relay writes to */
    int go;     /* FIFO that lets it end QEMU */
    char **env; /* of what is started; change with rig_setenv() */
    uid_t uid;  /* user that it is started as, (uid_t) -1: this one */
    pid_t pid;  /* of what was started, 0 when reaped */
    JsonParser *parser;
    const int *fds; /* additional fds to be inherited with their numbers, up to -1; can be NULL */
} Rig;

/* NAME: of the directory that farfault lies in. */
Rig *rig_new(const char *name);
/* Puts the real relay and engine in place of test-relay. */
void rig_use_relay(Rig *rig);
void rig_free(Rig *rig);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rig, rig_free)

char *rig_path(const Rig *rig, const char *name);
void rig_setenv(Rig *rig, const char *name, const char *value);
/* Contents of a file in DIR, "" if there is none. */
char *rig_read(const Rig *rig, const char *name);
/* Takes away one of the installed files. */
void rig_remove(const Rig *rig, const char *name);

/* Starts PROGRAM with ARGV (NULL-terminated); stdout and stderr are the files "out" and "err". */
void rig_spawn(Rig *rig, const char *program, const char *const *argv);
/* Starts `farfault run qemu-system-x86_64 -display none -m 64M ARGS...`, NULL-terminated. */
void rig_run(Rig *rig, ...) G_GNUC_NULL_TERMINATED;
/* Waits for the end. Returns the exit status, or -SIGNAL. */
int rig_wait(Rig *rig);
/* Waits until nothing that was started is left, the daemonized QEMU and the relay included. */
void rig_wait_all(Rig *rig);
/* Waits for what test-relay reports. */
JsonObject *rig_report(Rig *rig);
/* Lets test-relay end QEMU. */
void rig_quit(Rig *rig);

#endif
