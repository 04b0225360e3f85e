/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into QEMU: another user of userfaultfd in the same process. The environment variable
 * OTHER_UFFD names a directory with two FIFOs. When somebody opens "go", the second largest mapping
 * of a memfd is registered for write protection, of which nothing is protected; when somebody opens
 * it once more that ends. Each time "done" can be opened afterwards.
 *
 * Thread: one of its own, until the second time.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    uint64_t start, len;
} Mapping;

static void find(Mapping *second)
{
    Mapping first = {0, 0};
    FILE *f = fopen("/proc/self/maps", "re");
    char line[512];

    *second = first;
    while (f && fgets(line, sizeof(line), f)) {
        uint64_t start, end;
        if (!strstr(line, "/memfd:") ||
            sscanf(line, "%" SCNx64 "-%" SCNx64 " rw-s", &start, &end) != 2) {
            continue;
        }
        Mapping m = {start, end - start};
        if (m.len > first.len) {
            *second = first;
            first = m;
        } else if (m.len > second->len) {
            *second = m;
        }
    }
    if (f) {
        fclose(f);
    }
}

/* -1: it cannot be had. */
static int register_it(void)
{
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    Mapping m;

    find(&m);
    struct uffdio_register r = {{m.start, m.len}, UFFDIO_REGISTER_MODE_WP, 0};
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &r) < 0) {
        fprintf(stderr, "other-uffd: %s\n", strerror(errno));
        return -1;
    }
    return uffd;
}

/* Until somebody opens the FIFO NAME, and has closed it. */
static void wait_at(const char *dir, const char *name)
{
    char path[4096], c;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && read(fd, &c, 1) > 0) {
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void *run(void *dir)
{
    wait_at(dir, "go");
    int uffd = register_it();
    if (uffd < 0) {
        return NULL;
    }
    wait_at(dir, "done");
    wait_at(dir, "go");
    close(uffd);
    wait_at(dir, "done");
    return NULL;
}

static __attribute__((constructor)) void begin(void)
{
    const char *dir = getenv("OTHER_UFFD");
    sigset_t all, old;
    pthread_t thread;

    if (!dir || strncmp(program_invocation_short_name, "qemu-system", 11) != 0) {
        return;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, run, (void *)dir) == 0) {
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}
