/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory comparison through the qtest protocol, in pieces. One thread.
 */
#include "tests/lib/check.h"

#include <string.h>

enum { PAGE = 4096, PIECE = 1 << 20 };

/* The firmware's memory below 1 MiB is RAM, ROM and device memory mixed: not compared. */
#define FROM_MIB 1

static uint32_t counter_at(const uint8_t *page, unsigned cpu)
{
    uint32_t value;
    memcpy(&value, page + cpu * BOOTSECT_STRIDE, sizeof value);
    return value;
}

/* Guest-physical memory [0, N) (g_free). */
static uint8_t *read_memory(Vm *vm, uint64_t n)
{
    uint8_t *memory = g_malloc(n);

    for (uint64_t at = 0; at < n; at += PIECE) {
        qtest_read(vm_qtest(vm), at, memory + at, MIN((uint64_t)PIECE, n - at));
    }
    return memory;
}

char *check_counters(Vm *vm, const BootsectConfig *boot)
{
    if (vm_ring3(vm)) {
        g_autofree uint8_t *memory = read_memory(vm, ring3_end(vm_ring3(vm)));
        return ring3_check_image(vm_ring3(vm), memory);
    }
    uint64_t n_pages = (boot->end - boot->start) / PAGE;
    g_autofree uint32_t *counters = g_new(uint32_t, n_pages * boot->n_cpus);
    g_autofree uint8_t *piece = g_malloc(PIECE);
    for (uint64_t at = boot->start; at < boot->end; at += PIECE) {
        uint64_t length = MIN((uint64_t)PIECE, boot->end - at);
        qtest_read(vm_qtest(vm), at, piece, length);
        for (uint64_t i = 0; i < length / PAGE; i++)
            for (unsigned cpu = 0; cpu < boot->n_cpus; cpu++)
                counters[cpu * n_pages + (at - boot->start) / PAGE + i] =
                    counter_at(piece + i * PAGE, cpu);
    }
    for (unsigned cpu = 0; cpu < boot->n_cpus; cpu++) {
        g_autofree char *wrong = bootsect_check(counters + cpu * n_pages, n_pages);
        if (wrong)
            return g_strdup_printf("vCPU %u, %s", cpu, wrong);
        if (!counters[cpu * n_pages])
            return g_strdup_printf("vCPU %u never counted", cpu);
    }
    return NULL;
}

/* Compares one page; B's counters may be ahead of A's where BOOT (may be NULL) covers ADDRESS. */
static char *compare_page(const uint8_t *a, const uint8_t *b, uint64_t address,
                          const BootsectConfig *boot)
{
    bool counted = boot && address >= boot->start && address < boot->end;
    for (unsigned i = 0; i < PAGE; i++) {
        unsigned cpu = i / BOOTSECT_STRIDE;
        if (counted && i % BOOTSECT_STRIDE == 0 && cpu < boot->n_cpus) {
            if (counter_at(b, cpu) < counter_at(a, cpu))
                return g_strdup_printf("page 0x%" G_GINT64_MODIFIER "x: counter of vCPU %u went "
                                       "back from %u to %u",
                                       address, cpu, counter_at(a, cpu), counter_at(b, cpu));
            i += sizeof(uint32_t) - 1;
            continue;
        }
        if (a[i] != b[i])
            return g_strdup_printf("address 0x%" G_GINT64_MODIFIER "x: 0x%02x here, 0x%02x there",
                                   address + i, a[i], b[i]);
    }
    return NULL;
}

static char *compare(Vm *a, Vm *b, uint64_t from, uint64_t to, const BootsectConfig *boot)
{
    g_autofree uint8_t *in_a = g_malloc(PIECE), *in_b = g_malloc(PIECE);
    for (uint64_t at = from; at < to; at += PIECE) {
        uint64_t length = MIN((uint64_t)PIECE, to - at);
        qtest_read(vm_qtest(a), at, in_a, length);
        qtest_read(vm_qtest(b), at, in_b, length);
        for (uint64_t i = 0; i < length; i += PAGE) {
            if (!memcmp(in_a + i, in_b + i, PAGE))
                continue;
            char *wrong = compare_page(in_a + i, in_b + i, at + i, boot);
            if (wrong)
                return wrong;
        }
    }
    return NULL;
}

char *check_equal(Vm *a, Vm *b, uint64_t from, uint64_t to)
{
    return compare(a, b, from, to, NULL);
}

/* What the guest does not use is equal. */
static char *check_ring3_moved(Vm *source, Vm *destination, uint64_t ram)
{
    const Ring3 *guest = vm_ring3(source);
    g_autofree uint8_t *then = read_memory(source, ring3_end(guest));
    g_autofree uint8_t *now = read_memory(destination, ring3_end(guest));
    char *wrong = ring3_check_image(guest, then);

    if (!wrong)
        wrong = ring3_check_later(guest, now, then);
    return wrong ? wrong : compare(source, destination, ring3_end(guest), ram, NULL);
}

char *check_moved(Vm *source, Vm *destination, const BootsectConfig *boot, uint64_t ram)
{
    if (vm_ring3(source))
        return check_ring3_moved(source, destination, ram);
    return compare(source, destination, FROM_MIB << 20, ram, boot);
}

void check_right(char *wrong)
{
    if (wrong)
        g_test_fail_printf("%s", wrong);
    g_free(wrong);
}
