/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See notes.h. Section headers lead to .note.stapsdt, program headers from an address to its place
 * in the file. Each number of the file is checked before it is used, and what it says of a size is
 * limited: it can be anybody's.
 */
#include "trace/notes.h"

#include <elf.h>
#include <errno.h>
#include <gio/gio.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define HEADERS_MAX 4096
#define NOTES_MAX (1 << 20) /* bytes */
#define NOTE_TYPE 3
#define ALIGN4(n) (((n) + (uint64_t)3) & ~(uint64_t)3)

typedef struct {
    uint64_t location, base, semaphore;
} Addresses;
G_STATIC_ASSERT(sizeof(Addresses) == 24);

typedef struct {
    int fd;
    Elf64_Phdr *program;
    unsigned n_program;
    uint64_t base; /* address of .stapsdt.base; 0: it has none */
} File;

static void note_free(gpointer opaque)
{
    FfNote *note = opaque;

    g_free(note->name);
    g_free(note->operands);
    g_free(note);
}

/* LEN bytes at AT; NULL if the file has not so many. */
static void *read_at(int fd, uint64_t at, size_t len)
{
    g_autofree char *buf = g_malloc0(len + 1);

    if (at > G_MAXINT64 - len || pread(fd, buf, len, (off_t)at) != (ssize_t)len) {
        return NULL;
    }
    return g_steal_pointer(&buf);
}

/* Its place in the file. FALSE: none. */
static bool to_offset(const File *f, uint64_t address, uint64_t *offset)
{
    for (unsigned i = 0; i < f->n_program; i++) {
        const Elf64_Phdr *p = &f->program[i];

        if (p->p_type == PT_LOAD && address >= p->p_vaddr && address - p->p_vaddr < p->p_filesz) {
            *offset = address - p->p_vaddr + p->p_offset;
            return true;
        }
    }
    return false;
}

/* The text at *AT, which then is after it; NULL: it does not end before END. */
static const char *next_text(const char **at, const char *end)
{
    const char *text = *at, *nul = memchr(text, 0, end - text);

    *at = nul ? nul + 1 : end;
    return nul ? text : NULL;
}

/* DESC, LEN bytes: where it is, provider, name, operands. */
static void add_note(const File *f, const char *desc, size_t len, const char *provider,
                     GPtrArray *notes)
{
    const char *at = desc + sizeof(Addresses), *end = desc + len;
    Addresses a;
    uint64_t offset, semaphore = 0;

    if (len < sizeof(a)) {
        return;
    }
    memcpy(&a, desc, sizeof(a));
    const char *whose = next_text(&at, end), *name = next_text(&at, end);
    const char *operands = next_text(&at, end);
    uint64_t moved = f->base && a.base ? f->base - a.base : 0; /* by prelink */

    if (!operands || strcmp(whose, provider) || !to_offset(f, a.location + moved, &offset) ||
        (a.semaphore && !to_offset(f, a.semaphore + moved, &semaphore))) {
        return;
    }
    FfNote *note = g_new0(FfNote, 1);
    *note = (FfNote){g_strdup(name), offset, semaphore, g_strdup(operands)};
    g_ptr_array_add(notes, note);
}

static void read_notes(const File *f, const Elf64_Shdr *section, const char *provider,
                       GPtrArray *notes)
{
    g_autofree char *text =
        section->sh_size <= NOTES_MAX ? read_at(f->fd, section->sh_offset, section->sh_size) : NULL;
    uint64_t at = 0, len = text ? section->sh_size : 0;

    while (len - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr head;

        memcpy(&head, text + at, sizeof(head));
        uint64_t desc = at + sizeof(head) + ALIGN4(head.n_namesz), end = desc + head.n_descsz;
        if (end > len) {
            return;
        }
        if (head.n_type == NOTE_TYPE && head.n_namesz == sizeof("stapsdt") &&
            !memcmp(text + at + sizeof(head), "stapsdt", sizeof("stapsdt"))) {
            add_note(f, text + desc, head.n_descsz, provider, notes);
        }
        at = MIN(ALIGN4(end), len);
    }
}

static GPtrArray *read_sections(File *f, const Elf64_Shdr *sections, unsigned n, const char *names,
                                size_t names_len, const char *provider)
{
    GPtrArray *notes = g_ptr_array_new_with_free_func(note_free);
    const Elf64_Shdr *found = NULL;

    for (unsigned i = 0; i < n; i++) {
        const char *name = sections[i].sh_name < names_len ? names + sections[i].sh_name : "";

        if (!strcmp(name, ".stapsdt.base")) {
            f->base = sections[i].sh_addr;
        } else if (!strcmp(name, ".note.stapsdt") && sections[i].sh_type == SHT_NOTE) {
            found = &sections[i];
        }
    }
    if (found) {
        read_notes(f, found, provider, notes);
    }
    return notes;
}

GPtrArray *ff_notes_read(int fd, const char *provider, GError **error)
{
    g_autofree Elf64_Ehdr *head = read_at(fd, 0, sizeof(*head));
    bool is = head && !memcmp(head->e_ident, ELFMAG, SELFMAG) &&
              head->e_ident[EI_CLASS] == ELFCLASS64 && head->e_machine == EM_X86_64 &&
              head->e_phentsize == sizeof(Elf64_Phdr) && head->e_phnum <= HEADERS_MAX;

    if (!is) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "no program for x86-64");
        return NULL;
    }
    g_autofree Elf64_Phdr *program = read_at(fd, head->e_phoff, head->e_phnum * sizeof(Elf64_Phdr));
    bool listed = head->e_shentsize == sizeof(Elf64_Shdr) && head->e_shnum <= HEADERS_MAX &&
                  head->e_shstrndx < head->e_shnum;
    g_autofree Elf64_Shdr *sections =
        listed ? read_at(fd, head->e_shoff, head->e_shnum * sizeof(Elf64_Shdr)) : NULL;
    const Elf64_Shdr *strings = sections ? &sections[head->e_shstrndx] : NULL;
    bool sane = strings && strings->sh_size <= NOTES_MAX;
    g_autofree char *names = sane ? read_at(fd, strings->sh_offset, strings->sh_size) : NULL;
    File f = {.fd = fd, .program = program, .n_program = program ? head->e_phnum : 0};

    return read_sections(&f, sections, names ? head->e_shnum : 0, names,
                         names ? strings->sh_size : 0, provider);
}

/* As the kernel names registers: those of 16 bits, and r8 to r15. */
static char *fetch_register(const char *name)
{
    static const char *const known[] = {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp"};
    guint64 number;

    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        if (name[0] == 'r' && !strcmp(name + 1, known[i])) {
            return g_strconcat("%", known[i], NULL);
        }
    }
    return name[0] == 'r' && g_ascii_string_to_unsigned(name + 1, 10, 8, 15, &number, NULL)
               ? g_strconcat("%", name, NULL)
               : NULL;
}

char *ff_note_fetch(const char *operand)
{
    gint64 number;

    if (g_str_has_prefix(operand, "8@%")) {
        return fetch_register(operand + strlen("8@%"));
    }
    if (g_str_has_prefix(operand, "8@$") &&
        g_ascii_string_to_signed(operand + strlen("8@$"), 10, G_MININT64, G_MAXINT64, &number,
                                 NULL)) {
        return g_strdup_printf("\\%" G_GINT64_FORMAT, number);
    }
    return NULL;
}
