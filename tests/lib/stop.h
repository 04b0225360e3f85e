/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that is stopped, and is when the call returns. */
#ifndef FF_TESTS_STOP_H
#define FF_TESTS_STOP_H

#include <sys/types.h>

/* SIGSTOP, and until the last thread of PID has taken it: where processors are few, others continue
 * after kill() has returned. Fails the test after 30 s. SIGCONT is kill()'s. */
void stop_process(pid_t pid);

#endif
