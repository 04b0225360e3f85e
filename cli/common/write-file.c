/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See write-file.h. A new file takes the place of the old name. So /dev/null or /dev/stdout would
 * become files if root asked for it: what is no file stays what it is.
 */
#include "cli/common/write-file.h"

#include <string.h>
#include <sys/stat.h>

bool ff_write_file(const char *path, const char *text, GError **error)
{
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: %s", path,
                    S_ISDIR(st.st_mode)
                        ? "is a folder: give the name of a file in it"
                        : "is no ordinary file, and would be replaced by one: give another name");
        return false;
    }
    return g_file_set_contents_full(path, text, (gssize)strlen(text),
                                    G_FILE_SET_CONTENTS_CONSISTENT, 0644, error);
}
