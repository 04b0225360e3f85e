/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What relay and engine give up before they hear from anybody: capabilities, new privileges, core
 * dumps, and the system calls that their code does not name.
 *
 * The filter of system calls is made from the lines "System calls:" at the head of the files, and
 * from libraries.txt (generate.py). What is on no list answers ENOSYS, as an old kernel would, for
 * a process that is killed may be the one that a guest waits for; and the kernel's audit log has
 * it. Files may be read and made, but none that is there is opened for writing, renamed or given
 * other rights. In a build with -Dfaults=true it ends the process with a line that names it, so
 * that a list which is too short does not pass a test.
 */
#ifndef FF_BASE_SANDBOX_H
#define FF_BASE_SANDBOX_H

#include <glib.h>
#include <stdbool.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FF_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FF_SANITIZED 1
#endif
#endif
#ifndef FF_SANITIZED
#define FF_SANITIZED 0 /* 1: the build has a sanitizer, whose library does what no filter knows */
#endif

typedef enum {
    FF_SANDBOX_RELAY, /* also starts the engine, so it may all that an engine may */
    FF_SANDBOX_ENGINE,
} FfSandbox;

/* Before the first thread. FALSE and ERROR: something could not be given up; the rest is. Without
 * effect on system calls under a sanitizer, whose own are many. */
bool ff_sandbox_enter(FfSandbox kind, GError **error);

#endif
