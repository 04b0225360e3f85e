/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every libFuzzer target has. */
#ifndef FF_TESTS_FUZZ_H
#define FF_TESTS_FUZZ_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_no_log(const char *domain, GLogLevelFlags level, const char *text,
                               gpointer data)
{
    if (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) {
        g_printerr("%s\n", text);
        abort();
    }
}

/* Messages are dropped; what GLib calls critical is a finding. */
static inline void fuzz_quiet(void)
{
    g_log_set_default_handler(fuzz_no_log, NULL);
}

#endif
