/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's libraries: kept open from the relay's start, so that a guest has an engine as long
 * as it runs. A package that is removed (apt autoremove) or replaced by one with other names (an
 * upgrade of the distribution) takes the names away; the files live on behind our fds. Open fds
 * cost no memory: the pages are the page cache's, shared by all guests.
 *
 * Which libraries there are the dynamic linker says ("ld.so --list"). An engine with the kept ones
 * is ld.so itself, by fd, with --preload of each library's /proc/self/fd/N, in their order: what
 * is loaded satisfies by its SONAME each library that needs it, so nothing is looked for by path.
 * ld.so is kept, too, since it fits only its own libc.
 *
 * The engine starts without them as long as that works: a library that is upgraded because it had
 * a hole shall be used. What is overwritten in place, which no package manager does, is not kept.
 *
 * One thread; the list is made once, at the start, and is waited for (3 ms). System calls: open,
 * pipe2, posix_spawn, poll, read, wait4, kill.
 */
#include "guest/relay/libraries.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINKER "ld.so"   /* its name on its command line */
#define LOWEST_FD 10     /* above those that the engine is given by number */
#define LIST_MS 2000     /* for each piece of what ld.so says */
#define MAX_LIST 65536   /* bytes of it */
#define MAX_LIBRARIES 64 /* an engine has 17 */

struct FfLibraries {
    int linker;
    GArray *fds; /* of int: in the order in which they are loaded */
};

static void libraries_free(FfLibraries *libraries)
{
    for (guint i = 0; i < libraries->fds->len; i++) {
        close(g_array_index(libraries->fds, int, i));
    }
    if (libraries->linker >= 0) {
        close(libraries->linker);
    }
    g_array_unref(libraries->fds);
    g_free(libraries);
}

static int open_high(const char *path)
{
    int low = open(path, O_RDONLY | O_CLOEXEC);
    int fd = low >= 0 ? fcntl(low, F_DUPFD_CLOEXEC, LOWEST_FD) : -1;

    if (low >= 0) {
        close(low);
    }
    return fd;
}

/* The dynamic linker of this program; the engine is of the same build. NULL: it has none. */
static const char *find_linker(void)
{
    const Elf64_Phdr *headers = (const void *)getauxval(AT_PHDR);
    const Elf64_Phdr *interpreter = NULL;
    uintptr_t base = 0;

    for (unsigned long i = 0; headers && i < getauxval(AT_PHNUM); i++) {
        if (headers[i].p_type == PT_PHDR) {
            base = (uintptr_t)headers - headers[i].p_vaddr;
        } else if (headers[i].p_type == PT_INTERP) {
            interpreter = &headers[i];
        }
    }
    return interpreter ? (const char *)(base + interpreter->p_vaddr) : NULL;
}

static pid_t start_list(int linker, int program, int null_fd, int out)
{
    g_autofree char *linker_path = g_strdup_printf("/proc/self/fd/%d", linker);
    g_autofree char *program_path = g_strdup_printf("/proc/self/fd/%d", program);
    char *argv[] = {(char *)LINKER, (char *)"--list", program_path, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, program, program); /* survives the exec */
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, null_fd, STDERR_FILENO);
    int ret = posix_spawn(&pid, linker_path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return ret ? -ret : pid;
}

/* All of FD, or NULL. */
static char *read_list(int fd)
{
    g_autoptr(GString) text = g_string_new(NULL);
    struct pollfd pfd = {fd, POLLIN, 0};
    char buf[4096];

    for (;;) {
        ssize_t n = poll(&pfd, 1, LIST_MS) == 1 ? read(fd, buf, sizeof(buf)) : -1;

        if (n == 0) {
            return g_string_free(g_steal_pointer(&text), FALSE);
        }
        if (n < 0 || text->len + (size_t)n > MAX_LIST) {
            return NULL;
        }
        g_string_append_len(text, buf, n);
    }
}

/* What ld.so says of PROGRAM (g_free), or NULL. */
static char *list_libraries(int linker, int program, int null_fd)
{
    int out[2], status = -1;
    pid_t pid;

    if (pipe2(out, O_CLOEXEC) < 0) {
        return NULL;
    }
    pid = start_list(linker, program, null_fd, out[1]);
    close(out[1]);
    g_autofree char *text = pid > 0 ? read_list(out[0]) : NULL;
    close(out[0]);
    if (pid > 0) {
        if (!text) {
            kill(pid, SIGKILL);
        }
        waitpid(pid, &status, 0);
    }
    return status == 0 ? g_steal_pointer(&text) : NULL;
}

/* "\tNAME => PATH (0xADDRESS)"; the vDSO has no path, and ld.so calls itself what we call it. */
static bool keep_line(FfLibraries *libraries, const char *line)
{
    const char *arrow = strstr(line, " => ");
    const char *end = arrow ? g_strrstr(arrow, " (0x") : NULL;

    if (!arrow) {
        return true;
    }
    if (!end || libraries->fds->len == MAX_LIBRARIES) {
        return false; /* "not found" */
    }
    g_autofree char *path = g_strndup(arrow + 4, end - arrow - 4);
    if (!strcmp(path, LINKER)) {
        return true;
    }
    int fd = open_high(path);
    if (fd >= 0) {
        g_array_append_val(libraries->fds, fd);
    }
    return fd >= 0;
}

FfLibraries *ff_libraries_keep(int program, int null_fd)
{
    FfLibraries *libraries = g_new0(FfLibraries, 1);
    const char *linker = find_linker();
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    bool ok = true;

    libraries->fds = g_array_new(FALSE, FALSE, sizeof(int));
    libraries->linker = linker ? open_high(linker) : -1;
    text = libraries->linker >= 0 ? list_libraries(libraries->linker, program, null_fd) : NULL;
    lines = g_strsplit(text ? text : "", "\n", -1);
    for (unsigned i = 0; ok && lines[i]; i++) {
        ok = keep_line(libraries, lines[i]);
    }
    if (!ok || libraries->fds->len == 0) {
        libraries_free(libraries);
        return NULL;
    }
    return libraries;
}

char *ff_libraries_linker(const FfLibraries *libraries)
{
    return g_strdup_printf("/proc/self/fd/%d", libraries->linker);
}

char **ff_libraries_argv(const FfLibraries *libraries, const char *name, const char *program)
{
    g_autoptr(GString) preload = g_string_new(NULL);
    const char *argv[] = {name, "--argv0", name, "--preload", NULL, program, NULL};

    for (guint i = 0; i < libraries->fds->len; i++) {
        g_string_append_printf(preload, "%s/proc/self/fd/%d", i ? ":" : "",
                               g_array_index(libraries->fds, int, i));
    }
    argv[4] = preload->str;
    return g_strdupv((char **)argv);
}

void ff_libraries_inherit(const FfLibraries *libraries, posix_spawn_file_actions_t *actions)
{
    for (guint i = 0; i < libraries->fds->len; i++) {
        int fd = g_array_index(libraries->fds, int, i);

        posix_spawn_file_actions_adddup2(actions, fd, fd);
    }
}
