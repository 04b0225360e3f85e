/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test guest's memory that comes and goes; see extra.h. Each word is a function of its place
 * and of how often memory was taken. One thread.
 */
#include "extra.h"

#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, RESERVED_MIB = 8 };

static uint64_t (*memory)[WORDS];
static uint64_t n_pages, taken, bad;

static uint64_t word_at(uint64_t page, unsigned word)
{
    return (page + 1) * 0x9e3779b97f4a7c15u + word * 0xbf58476d1ce4e5b9u + (taken << 56);
}

bool extra_taken(void)
{
    return memory;
}

bool extra_take(unsigned mib)
{
    struct sysinfo info;
    sysinfo(&info);
    if (((uint64_t)info.freeram * info.mem_unit) >> 20 < mib + RESERVED_MIB)
        return false;
    void *p =
        mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    memory = p;
    n_pages = (uint64_t)mib << 8;
    taken++;
    for (uint64_t page = 0; page < n_pages; page++)
        for (unsigned i = 0; i < WORDS; i++)
            memory[page][i] = word_at(page, i);
    return true;
}

static void check_page(uint64_t page)
{
    for (unsigned i = 0; i < WORDS; i++) {
        if (memory[page][i] != word_at(page, i)) {
            char text[128];
            int n = snprintf(text, sizeof text, "FF bad extra page=%llu word=%u found=%#llx\n",
                             (unsigned long long)page, i, (unsigned long long)memory[page][i]);
            if (bad++ < 10 && write(STDOUT_FILENO, text, n) < 0)
                return;
            return;
        }
    }
}

uint64_t extra_verify(void)
{
    for (uint64_t page = 0; memory && page < n_pages; page++)
        check_page(page);
    return bad;
}

void extra_damage(void)
{
    memory[n_pages / 2][WORDS / 2] ^= 1;
}

void extra_give_back(void)
{
    extra_verify();
    munmap(memory, n_pages * PAGE);
    memory = NULL;
}
