/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See maps.h. Any thread. System calls: open, read, fstat, close. */
#include "contract/maps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

char *ff_maps_of_process(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", pid);
    char *text = NULL;

    return pid > 0 && g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

static bool parse_mapping(const char *line, const struct stat *st, FfMapping *m)
{
    unsigned major_nr, minor_nr;
    uint64_t ino;
    char perms[5];

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m->start, &m->end,
               perms, &m->offset, &major_nr, &minor_nr, &ino) != 7) {
        return false;
    }
    m->closed = !strcmp(perms, "---s");
    return perms[3] == 's' && ino == st->st_ino && makedev(major_nr, minor_nr) == st->st_dev;
}

GArray *ff_maps_of_file(const char *maps, int fd)
{
    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    GArray *all = g_array_new(FALSE, FALSE, sizeof(FfMapping));
    struct stat st;

    for (char **l = lines; fstat(fd, &st) == 0 && *l; l++) {
        FfMapping m;

        if (parse_mapping(*l, &st, &m)) {
            g_array_append_val(all, m);
        }
    }
    return all;
}
