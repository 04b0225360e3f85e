/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables that docs/architecture.md shows as the code makes them. */
#ifndef FF_TESTS_DOCUMENTED_H
#define FF_TESTS_DOCUMENTED_H

/* Fails the test if the page does not show TABLE, word for word; prints it then. */
void documented_check(const char *table);

#endif
