/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One page about one migration, snapshot or restore: HTML with its pictures in it, which asks for
 * nothing else and runs no script. Pure functions; any thread.
 */
#ifndef FF_CLI_COMMON_PAGE_H
#define FF_CLI_COMMON_PAGE_H

#include "cli/common/record.h"

/* The page (g_free). Each number of the last query-migrate of a side is the text of a cell whose id
 * is the side and the path of the member: "source.ram.transferred". */
char *ff_page(const FfRecord *record);
/* Writes it into the file at PATH, in place of what is there. */
bool ff_page_save(const FfRecord *record, const char *path, GError **error);

#endif
