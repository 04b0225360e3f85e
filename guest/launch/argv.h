/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rewriting of QEMU's command line, as a pure function: argv in, argv and a plan out.
 *
 * Nothing here opens, creates or reads anything but what an injected callback answers, so
 * every rule is tested without QEMU. The plan names the things that the launcher must make
 * (memfds, private monitor sockets); where the new argv needs their fd numbers it holds
 * tokens, which ff_plan_render() replaces.
 */
#ifndef FF_GUEST_LAUNCH_ARGV_H
#define FF_GUEST_LAUNCH_ARGV_H

#include "guest/launch/plan.h"

/*
 * Plans the start of QEMU from ARGV (argv[0] included, NULL-terminated).
 * Returns NULL and sets ERROR (one line) only for a command line that QEMU itself would refuse
 * and that the plan cannot be made for. Any thread.
 */
FfPlan *ff_plan_new(const char *const *argv, const FfArgvSystem *sys, GError **error);
void ff_plan_free(FfPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfPlan, ff_plan_free)

/* The real system, for the launcher. Its opaque is NULL: a copy with the path of the real QEMU
 * there asks it about machine types. */
const FfArgvSystem *ff_argv_system_real(void);

/* The fds that the launcher has made for a plan. */
typedef struct {
    const int *ram, *monitors, *configs;
    int priv; /* the private monitor's */
} FfPlanFds;

/*
 * Returns a new NULL-terminated argv with "@FF_RAM<i>@", "@FF_MON<i>@" and "@FF_CONFIG<i>@"
 * replaced by the decimal numbers of FDS, and "@FF_PRIV@" (the private monitor, which the plan
 * always adds: -chardev socket,id=farfault-private,fd=@FF_PRIV@,server=on,wait=off -qmp
 * chardev:farfault-private). Free with g_strfreev().
 */
char **ff_plan_render(const FfPlan *plan, const FfPlanFds *fds);
/* The same of the text of configuration file INDEX, which has no other configuration in it
 * (g_free). */
char *ff_plan_render_config(const FfPlan *plan, guint index, const FfPlanFds *fds);

#endif
