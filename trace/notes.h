/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads where the marks of a program are, out of its ELF file: the notes of <sys/sdt.h>, version 3.
 * Any file is read with care. No state; any thread.
 */
#ifndef FF_TRACE_NOTES_H
#define FF_TRACE_NOTES_H

#include <glib.h>
#include <stdint.h>

typedef struct {
    char *name;
    uint64_t offset;    /* of its instruction, in the file */
    uint64_t semaphore; /* of its counter, in the file; 0: it has none */
    char *operands;     /* "8@%rax 8@$5" */
} FfNote;

/* The marks of PROVIDER in the file FD (FfNote, freed with the array), as they stand there; empty
 * if it has none. NULL and ERROR: it is no ELF file of 64 bits, or cannot be read. */
GPtrArray *ff_notes_read(int fd, const char *provider, GError **error);
/* OPERAND ("8@%rax"), as an uprobe of tracefs fetches it ("%ax"; g_free); NULL: it is none that the
 * marks of trace/mark.h have. */
char *ff_note_fetch(const char *operand);

#endif
