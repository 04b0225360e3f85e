/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See files.h. No state. System calls: getrlimit, setrlimit.
 */
#include "base/files.h"

#include <sys/resource.h>

uint64_t ff_files_raise(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0) {
        return 0;
    }
    const struct rlimit all = {files.rlim_max, files.rlim_max};
    return setrlimit(RLIMIT_NOFILE, &all) == 0 ? all.rlim_cur : files.rlim_cur;
}
