/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a run leaves behind, beyond what vm_end() looks at.
 */
#ifndef FF_TESTS_CHAOS_LEFT_H
#define FF_TESTS_CHAOS_LEFT_H

/* Calls RUN and returns what it does, or 1 if something was left: an open descriptor of this
 * process, or a process in the control group that it made for itself (where it may make one). */
int chaos_left_run(int (*run)(void));
/* Removes the folder PATH, which must be empty; else what lies in it (g_free). */
char *chaos_left_files(const char *path);

#endif
