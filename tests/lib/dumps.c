/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See dumps.h. One thread. */
#include "tests/lib/dumps.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/dump-files.h"
#include "content/image/xxh64.h"

static int open_it(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

char dump_change(const char *dir, const char *name, gsize at, char to)
{
    int fd = open_it(dir, name);
    char was;

    g_assert_cmpint(pread(fd, &was, 1, (off_t)at), ==, 1);
    g_assert_cmpint(pwrite(fd, &to, 1, (off_t)at), ==, 1);
    close(fd);
    return was;
}

void dump_flip(const char *dir, const char *name, gsize at)
{
    char was = dump_change(dir, name, at, 0);

    dump_change(dir, name, at, (char)~was);
}

gsize dump_cut(const char *dir, const char *name, gsize by)
{
    int fd = open_it(dir, name);
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(ftruncate(fd, st.st_size - (off_t)by), ==, 0);
    close(fd);
    return (gsize)st.st_size;
}

char **dump_names(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_strv_builder_add(names, name);
    }
    return g_strv_builder_end(names);
}

static GKeyFile *load(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, FF_DUMP_ABOUT, NULL);
    GKeyFile *about = g_key_file_new();

    g_assert_true(g_key_file_load_from_file(about, path, G_KEY_FILE_NONE, NULL));
    return about;
}

static void sum_list(GKeyFile *about, const char *dir, int block, const char *what)
{
    g_autofree char *name = g_strdup_printf("%d.%s", block, what);
    g_autofree char *group = g_strdup_printf("block %d", block);
    g_autofree char *key = g_strdup_printf("%s-sum", what);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *data = NULL;
    gsize n;

    g_assert_true(g_file_get_contents(path, &data, &n, NULL));
    g_autofree char *sum = g_strdup_printf("%016" G_GINT64_MODIFIER "x", ff_xxh64(data, n, 0));
    g_key_file_set_string(about, group, key, sum);
}

static void store(const char *dir, GKeyFile *about)
{
    g_autofree char *path = g_build_filename(dir, FF_DUMP_ABOUT, NULL);
    int blocks = g_key_file_get_integer(about, "dump", "blocks", NULL);
    gsize len;

    for (int i = 0; i < blocks; i++) {
        sum_list(about, dir, i, "pages");
        sum_list(about, dir, i, "sums");
    }
    g_key_file_remove_group(about, "end", NULL);
    g_autofree char *text = g_key_file_to_data(about, NULL, NULL);
    g_autofree char *sealed = ff_dump_seal(text, &len);
    g_assert_true(g_file_set_contents(path, sealed, (gssize)len, NULL));
}

void dump_say(const char *dir, const char *group, const char *key, const char *value)
{
    g_autoptr(GKeyFile) about = load(dir);

    g_key_file_set_string(about, group, key, value);
    store(dir, about);
}

void dump_sum_memory(const char *dir, unsigned block)
{
    g_autofree char *memory_name = g_strdup_printf("%u.memory", block);
    g_autofree char *sums_name = g_strdup_printf("%u.sums", block);
    g_autofree char *memory = g_build_filename(dir, memory_name, NULL);
    g_autofree char *path = g_build_filename(dir, sums_name, NULL);
    g_autoptr(GArray) sums = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GMappedFile) file = g_mapped_file_new(memory, FALSE, NULL);

    g_assert_nonnull(file);
    for (gsize at = 0, n = g_mapped_file_get_length(file); at < n; at += FF_DUMP_PIECE) {
        uint64_t sum =
            ff_xxh64(g_mapped_file_get_contents(file) + at, MIN(FF_DUMP_PIECE, n - at), 0);

        sum = GUINT64_TO_LE(sum);
        g_array_append_val(sums, sum);
    }
    g_assert_true(
        g_file_set_contents(path, sums->data, (gssize)(sums->len * sizeof(uint64_t)), NULL));
    dump_seal(dir);
}

void dump_seal(const char *dir)
{
    g_autoptr(GKeyFile) about = load(dir);

    store(dir, about);
}

char *dump_said(const char *dir, const char *group, const char *key)
{
    g_autoptr(GKeyFile) about = load(dir);

    return g_key_file_get_string(about, group, key, NULL);
}

void dump_copy(const char *from, const char *to)
{
    const char *const argv[] = {"cp", "-a", "--sparse=always", from, to, NULL};
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

void dump_remove(const char *dir)
{
    g_auto(GStrv) names = dump_names(dir);

    for (char **name = names; *name; name++) {
        g_autofree char *path = g_build_filename(dir, *name, NULL);

        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_rmdir(dir);
}
