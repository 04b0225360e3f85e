/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The test guest's own guest; see nested.h. Threads: main, and the one in which its vCPU runs.
 */
#include "nested.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, START = 0x1000, COUNTER = 0x800 };

/* Real mode: counts at START + COUNTER, leaves, and does it again. */
static const uint8_t code[] = {
    0x66, 0xff, 0x06, 0x00, 0x18, /* incl 0x1800 */
    0xe6, 0x10,                   /* out %al, $0x10 */
    0xeb, 0xf7,                   /* to the first */
};

static int kvm_fd = -1, vm_fd = -1, vcpu_fd = -1;
static uint8_t *page;
static struct kvm_run *run;
static size_t run_length;
static pthread_t thread;
static bool running;
static atomic_bool stopping;            /* main tells the vCPU's thread */
static atomic_uint_fast64_t exits, bad; /* the vCPU's thread counts, main reports */

void nested_load_modules(void)
{
    static const char *const names[] = {"irqbypass", "kvm", "kvm-amd"};

    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "/modules/%s.ko", names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        /* What is missing shows by /dev/kvm not being there. */
        if (fd >= 0) {
            syscall(SYS_finit_module, fd, "", 0);
            close(fd);
        }
    }
}

static void *work(void *arg)
{
    (void)arg;
    for (uint32_t want = 1; !atomic_load(&stopping); want++) {
        uint32_t have;
        if (ioctl(vcpu_fd, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO) {
            atomic_fetch_add(&bad, 1);
            return NULL;
        }
        memcpy(&have, page + COUNTER, sizeof have);
        if (have != want)
            atomic_fetch_add(&bad, 1);
        atomic_fetch_add(&exits, 1);
        usleep(1000); /* the memory's workers need the CPU, too */
    }
    return NULL;
}

static void forget(void)
{
    if (run && run != MAP_FAILED)
        munmap(run, run_length);
    if (page && page != MAP_FAILED)
        munmap(page, PAGE);
    run = NULL;
    page = NULL;
    /* After the mappings, which hold the virtual machine as well. */
    close(vcpu_fd);
    close(vm_fd);
    close(kvm_fd);
    kvm_fd = vm_fd = vcpu_fd = -1;
}

static const char *set_up_memory(void)
{
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return "no memory";
    memcpy(page, code, sizeof code);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = START, .memory_size = PAGE, .userspace_addr = (uintptr_t)page};
    return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) ? "no memory region" : NULL;
}

static const char *set_up_vcpu(void)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = START, .rflags = 2};

    vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
    if (vcpu_fd < 0)
        return "no vCPU";
    run_length = (size_t)ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    run = mmap(NULL, run_length, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
    if (run == MAP_FAILED || ioctl(vcpu_fd, KVM_GET_SREGS, &sregs))
        return "no registers";
    sregs.cs.base = sregs.cs.selector = 0;
    return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu_fd, KVM_SET_REGS, &regs)
               ? "its registers are not taken"
               : NULL;
}

const char *nested_begin(void)
{
    kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm_fd = kvm_fd < 0 ? -1 : ioctl(kvm_fd, KVM_CREATE_VM, 0);
    const char *error = kvm_fd < 0 ? "no /dev/kvm" : vm_fd < 0 ? "no virtual machine" : NULL;
    error = error ? error : set_up_memory();
    error = error ? error : set_up_vcpu();
    atomic_store(&stopping, false);
    if (!error && pthread_create(&thread, NULL, work, NULL))
        error = "no thread for it";
    if (error)
        forget();
    running = !error;
    return error;
}

void nested_end(void)
{
    atomic_store(&stopping, true);
    pthread_join(thread, NULL);
    forget();
    running = false;
}

bool nested_runs(void)
{
    return running;
}

NestedCounts nested_counts(void)
{
    return (NestedCounts){.exits = atomic_load(&exits), .bad = atomic_load(&bad)};
}
