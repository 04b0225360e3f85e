/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In front of vfprintf() of the process: what goes to stderr is copied to a ring in shared memory
 * (contract/stderr.h) on its way. QEMU's error_report(), and all that it says of a guest that it
 * cannot load, comes here: error_vprintf() calls vfprintf(), or with _FORTIFY_SOURCE
 * __vfprintf_chk().
 *
 * Standing in fd 2 itself would change what others have given QEMU (a terminal, a file that is
 * opened for appending, libvirt's pipe), and a reader that has died would lose lines, or stop QEMU.
 * This changes nothing: the real function does what it did, first with the caller's arguments, and
 * its result is the caller's.
 *
 * Threads: any of QEMU's. No lock, no allocation, no system call; errno is what it was (%m). A
 * message to another file costs a comparison.
 * System calls: mmap.
 */
#undef _FORTIFY_SOURCE /* no inline function of these names */
#include "guest/agent/stderr.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "contract/stderr.h"

/* Of one call; the rest of a longer one is left out. */
#define MAX_CALL 1024

/* The memory starts at the beginning of the file: pages may be larger than FF_STDERR_OFFSET. */
static FfStderrPage *page; /* NULL: nothing is copied. Written once, before there are threads */

static void append_text(const char *text, size_t len)
{
    /* Observer: the engine (ff_stderr_since()). */
    uint64_t at = __atomic_fetch_add(&page->written, len, __ATOMIC_RELEASE);

    for (size_t i = 0; i < len; i++) {
        page->text[(at + i) % sizeof(page->text)] = text[i];
    }
}

__attribute__((format(printf, 2, 0))) static void copy(FILE *stream, const char *format, va_list ap)
{
    char text[MAX_CALL];
    int saved_errno = errno;
    va_list own;

    if (!page || stream != stderr) {
        return;
    }
    va_copy(own, ap);
    int len = vsnprintf(text, sizeof(text), format, own);
    va_end(own);
    if (len >= MAX_CALL) {
        len = MAX_CALL - 1;
        text[len - 1] = '\n';
    }
    if (len > 0) {
        append_text(text, len);
    }
    errno = saved_errno;
}

typedef int Vfprintf(FILE *, const char *, va_list);
typedef int VfprintfChk(FILE *, int, const char *, va_list);

/* The real ones: known before there are threads, but to a caller that prints before that. */
static Vfprintf *real_vfprintf;
static VfprintfChk *real_vfprintf_chk;

static void find_real(void)
{
    real_vfprintf = (Vfprintf *)dlsym(RTLD_NEXT, "vfprintf");
    real_vfprintf_chk = (VfprintfChk *)dlsym(RTLD_NEXT, "__vfprintf_chk");
}

int ff_agent_vfprintf(FILE *stream, const char *format, va_list ap) __asm__("vfprintf")
    __attribute__((format(printf, 2, 0)));
__attribute__((visibility("default"))) int ff_agent_vfprintf(FILE *stream, const char *format,
                                                             va_list ap)
{
    if (!real_vfprintf) {
        find_real();
    }
    copy(stream, format, ap);
    return real_vfprintf(stream, format, ap);
}

int ff_agent_vfprintf_chk(FILE *stream, int flag, const char *format,
                          va_list ap) __asm__("__vfprintf_chk")
    __attribute__((format(printf, 3, 0)));
__attribute__((visibility("default"))) int ff_agent_vfprintf_chk(FILE *stream, int flag,
                                                                 const char *format, va_list ap)
{
    if (!real_vfprintf_chk) {
        find_real();
    }
    copy(stream, format, ap);
    return real_vfprintf_chk(stream, flag, format, ap);
}

void ff_stderr_start(int fd)
{
    find_real();
    char *memory =
        fd < 0 ? MAP_FAILED : mmap(NULL, FF_STDERR_END, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (memory != MAP_FAILED) {
        page = (FfStderrPage *)(memory + FF_STDERR_OFFSET);
        page->version = FF_STDERR_VERSION;
    }
}
