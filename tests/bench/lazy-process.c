/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process of scripts/bench-criu: lazy-process MIB RESULT
 *
 * It fills MIB of memory, no page of it zeros, says so by a line, and waits for SIGUSR1, in which
 * time it is dumped and restored. From then on, until SIGUSR2, it touches pages at random that it
 * does not have yet, one each 200 us. Then it checks every word, and writes to RESULT how long the
 * touches took: a line "touches N p50-us A p99-us B worst-us C bad D".
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / sizeof(uint64_t))
#define BETWEEN_NS 200000
#define TOUCHES (1u << 20)

static volatile sig_atomic_t over;

static void on_over(int number)
{
    over = 1;
}

static uint64_t word(uint64_t i)
{
    return (i + 1) * 0x9e3779b97f4a7c15ull;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Of anonymous memory mincore() knows what is mapped. */
static int is_missing(uint64_t *page)
{
    unsigned char there = 0;

    return mincore(page, PAGE, &there) == 0 && !(there & 1);
}

static unsigned touch_until_over(uint64_t *memory, uint64_t pages, uint32_t *took_ns)
{
    uint64_t random = 88172645463325252ull;
    unsigned n = 0;

    while (!over && n < TOUCHES) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t *page = memory + random % pages * WORDS;
        if (is_missing(page)) {
            uint64_t since = now_ns();
            (void)*(volatile uint64_t *)page;
            took_ns[n++] = (uint32_t)(now_ns() - since);
            nanosleep(&(struct timespec){.tv_nsec = BETWEEN_NS}, NULL);
        }
    }
    return n;
}

int main(int argc, char **argv)
{
    sigset_t begin;
    int number;

    if (argc != 3) {
        return 2;
    }
    uint64_t len = strtoull(argv[1], NULL, 10) << 20;
    uint64_t *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *took_ns = calloc(TOUCHES, sizeof(*took_ns));
    if (memory == MAP_FAILED || !took_ns || madvise(memory, len, MADV_NOHUGEPAGE) < 0) {
        return 1;
    }
    for (uint64_t i = 0; i < len / sizeof(*memory); i++) {
        memory[i] = word(i);
    }
    sigemptyset(&begin);
    sigaddset(&begin, SIGUSR1);
    sigprocmask(SIG_BLOCK, &begin, NULL);
    signal(SIGUSR2, on_over);
    printf("filled\n");
    if (!freopen("/dev/null", "w", stdout)) { /* nobody has to give it the pipe back */
        return 1;
    }
    sigwait(&begin, &number);

    unsigned n = touch_until_over(memory, len / PAGE, took_ns);
    uint64_t bad = 0;
    for (uint64_t i = 0; i < len / sizeof(*memory); i++) {
        bad += memory[i] != word(i);
    }
    qsort(took_ns, n, sizeof(*took_ns), by_value);
    FILE *result = fopen(argv[2], "w");
    if (!result) {
        return 1;
    }
    fprintf(result, "touches %u p50-us %.1f p99-us %.1f worst-us %.1f bad %lu\n", n,
            n ? took_ns[n / 2] / 1e3 : 0, n ? took_ns[n * 99ul / 100] / 1e3 : 0,
            n ? took_ns[n - 1] / 1e3 : 0, (unsigned long)bad);
    return fclose(result) == 0 && !bad ? 0 : 1;
}
