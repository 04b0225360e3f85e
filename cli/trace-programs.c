/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See trace-programs.h. A guest keeps the engine with which it was started, whatever is installed
 * since: its relay has the file open. So marks are looked for in the installed one, in what relays
 * have open under that name, and in what runs. Names are no proof, the notes in the file are.
 */
#include "cli/trace-programs.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/attach-find.h"
#include "launch/paths.h"
#include "trace/notes.h"

#define ENGINE "farfault-engine"
#define RELAY "farfault-relay"

void ff_engine_program_free(FfEngineProgram *program)
{
    close(program->fd);
    g_free(program->name);
    g_clear_pointer(&program->notes, g_ptr_array_unref);
    g_free(program);
}

static void program_free(gpointer opaque)
{
    ff_engine_program_free(opaque);
}

/* PATH is opened; no other kind of file than a regular one is. */
static FfEngineProgram *program_open(const char *path, GError **error)
{
    struct stat st;
    int fd = stat(path, &st) == 0 && S_ISREG(st.st_mode)
                 ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
                 : -1;

    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "%s: cannot be read", path);
        return NULL;
    }
    g_autoptr(FfEngineProgram) program = g_new0(FfEngineProgram, 1);
    *program = (FfEngineProgram){g_strdup(path), fd, NULL};
    program->notes = ff_notes_read(fd, "farfault", error);
    if (!program->notes) {
        g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    if (!program->notes->len) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "%s has no marks: its notes were stripped (.note.stapsdt); install one that "
                    "has them",
                    path);
        return NULL;
    }
    return g_steal_pointer(&program);
}

FfEngineProgram *ff_engine_program_installed(GError **error)
{
    g_autofree char *path = ff_find_helper(ENGINE);

    if (!path) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND,
                    ENGINE " was not found beside farfault: install farfault whole");
        return NULL;
    }
    return program_open(path, error);
}

static bool same_file(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void add(GPtrArray *programs, FfEngineProgram *program)
{
    for (guint i = 0; program && i < programs->len; i++) {
        FfEngineProgram *other = programs->pdata[i];

        if (same_file(other->fd, program->fd)) {
            g_clear_pointer(&program, ff_engine_program_free);
        }
    }
    if (program) {
        g_ptr_array_add(programs, program);
    }
}

/* LINK, of /proc, leads to a file of that NAME, which may be deleted. */
static bool leads_to(const char *link, const char *name)
{
    g_autofree char *base = g_path_get_basename(link);
    size_t n = strlen(name);

    return !strncmp(base, name, n) && (!base[n] || !strcmp(base + n, " (deleted)"));
}

/* Anybody can call a program of theirs so: root puts no breakpoints into it. */
static bool is_trusted(const char *path)
{
    struct stat st;

    return geteuid() != 0 || (stat(path, &st) == 0 && st.st_uid == 0);
}

/* A guest that is not asked for pays nothing, unless its engine is the same program. */
static void add_of_process(GPtrArray *programs, FfTraced *traced, pid_t pid)
{
    g_autofree char *exe = g_strdup_printf("/proc/%d/exe", (int)pid);
    g_autofree char *link = g_file_read_link(exe, NULL);
    bool engine = link && leads_to(link, ENGINE), relay = link && leads_to(link, RELAY);

    if ((!engine && !relay) || (!ff_traced_is_all(traced) && !ff_traced_guest(traced, pid))) {
        return;
    }
    if (engine && is_trusted(exe)) {
        add(programs, program_open(exe, NULL));
    }
    g_autoptr(GArray) fds = relay ? ff_attach_fds(pid, NULL) : NULL;
    for (guint i = 0; fds && i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *to = ff_attach_link(pid, fd);

        if (to && leads_to(to, ENGINE)) {
            g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);
            if (!is_trusted(path)) {
                continue;
            }
            add(programs, program_open(path, NULL));
        }
    }
}

GPtrArray *ff_engine_programs(FfTraced *traced, GError **error)
{
    g_autoptr(GPtrArray) programs = g_ptr_array_new_with_free_func(program_free);
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    g_autoptr(GError) why = NULL;

    for (pid_t pid; (pid = ff_next_process(proc));) {
        add_of_process(programs, traced, pid);
    }
    if (ff_traced_is_all(traced) || !programs->len) {
        add(programs, ff_engine_program_installed(&why));
    }
    if (!programs->len) {
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    return g_steal_pointer(&programs);
}
