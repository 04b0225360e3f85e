/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Patches the assembled boot sector, and judges the counters that it leaves in memory. Pure but
 * for bootsect_write(). Any thread.
 */
#include <string.h>

#include "tests/lib/bootsect.h"

/* From bootsect.S. */
extern const uint8_t bootsect[BOOTSECT_SIZE];
extern const uint8_t bootsect_params[];

typedef struct {
    uint32_t start, end, n_cpus;
} Params;

/* SeaBIOS keeps ACPI tables and its own high memory in the last 256 KiB of low RAM; QEMU's pc
 * machine has at most 3 GiB of it, q35 2 GiB. */
#define FIRMWARE_TOP (256u << 10)
#define LOW_RAM_MAX (2048ull << 20)

BootsectConfig bootsect_config(uint64_t ram, uint64_t limit, unsigned n_cpus)
{
    uint64_t low = MIN(ram, LOW_RAM_MAX);
    BootsectConfig config = {
        .start = 1 << 20, .end = (low - FIRMWARE_TOP) & ~4095ull, .n_cpus = n_cpus};
    g_assert_cmpuint(config.end, >, config.start);
    if (limit)
        config.end = MIN(config.end, config.start + (limit & ~4095ull));
    return config;
}

void bootsect_make(const BootsectConfig *config, uint8_t sector[BOOTSECT_SIZE])
{
    Params params = {config->start, config->end, config->n_cpus};
    g_assert_cmpuint(config->n_cpus, <=, 4096 / BOOTSECT_STRIDE);
    memcpy(sector, bootsect, BOOTSECT_SIZE);
    memcpy(sector + (bootsect_params - bootsect), &params, sizeof params);
}

void bootsect_write(const BootsectConfig *config, const char *path)
{
    uint8_t sector[BOOTSECT_SIZE];
    g_autoptr(GError) error = NULL;
    bootsect_make(config, sector);
    g_file_set_contents(path, (const char *)sector, sizeof sector, &error);
    g_assert_no_error(error);
}

char *bootsect_check(const uint32_t *counters, uint64_t n_pages)
{
    uint64_t step = 0; /* the page where the walk was; 0 = no step seen */
    for (uint64_t i = 1; i < n_pages; i++) {
        if (counters[i] == counters[i - 1])
            continue;
        if (counters[i] + 1 == counters[i - 1] && !step) {
            step = i;
            continue;
        }
        return g_strdup_printf("page %" G_GUINT64_FORMAT ": counter %u after %u%s", i, counters[i],
                               counters[i - 1], step ? ", and there was a step before" : "");
    }
    return NULL;
}
