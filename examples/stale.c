/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes wrong with ff_fork() and memory that is not a region. A list whose nodes are in a
 * region, and whose head and length are variables of the program: in the child the nodes are of
 * now, the head and the length of ff_template_start(). Then the same with the head in the region,
 * and the length passed as the argument.
 */
#include <farfault.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "example.h"

#define SIZE (1u << 20)

typedef struct Node {
    struct Node *next;
    int value;
} Node;

typedef struct {
    Node *head;
    Node nodes[];
} Region;

static Region *region;
static Node *head; /* not in a region */
static int length; /* likewise */

static void push(int value)
{
    Node *node = &region->nodes[length++];

    *node = (Node){head, value};
    head = region->head = node;
}

static void print(const char *whose, const Node *from, int n)
{
    printf("%-34s length %d:", whose, n);
    for (; from; from = from->next) {
        printf(" %d", from->value);
    }
    printf("\n");
    fflush(stdout);
}

static int child(void *opaque, const void *arg, size_t len)
{
    print("child, by variables:", head, length); /* wrong: as of ff_template_start() */
    print("child, by region and argument:", region->head, *(const int *)arg);
    return 0;
}

int main(void)
{
    FfMemory *m;

    region = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    push(1);
    if (ff_memory_new(0, &m) < 0 || ff_region_add(m, region, SIZE, -1, 0) < 0 ||
        ff_template_start(m, child, NULL) < 0) {
        die(ff_last_error());
    }
    push(2);
    push(3);
    print("program:", head, length);
    if (ff_fork_prepare(m, NULL) < 0 || ff_fork(m, &length, sizeof(length)) < 0) {
        die(ff_last_error());
    }
    push(4); /* after the moment: the child sees nothing of it */
    if (ff_fork_wait(m, NULL, NULL) < 0) {
        die(ff_last_error());
    }
    ff_memory_free(m);
    return 0;
}
