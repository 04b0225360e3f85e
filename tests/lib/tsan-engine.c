/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine ends without waiting for its threads (engine/main.c says why), so one that has ended
 * by itself just then was joined by nobody. ThreadSanitizer calls that a leak, in this program
 * wrongly; in the tests of its parts it still says so. Linked into TSan builds only.
 */

/* Found by name by the compiler's run-time library, which has no header for it in gcc 12. */
const char *__tsan_default_options(void);

const char *__tsan_default_options(void)
{
    return "report_thread_leaks=0";
}
