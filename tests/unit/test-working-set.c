/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Working sets as files: what was written is read again; what is cut, damaged, of another file, or
 * could be another's, is refused in one line; nothing else of that name is removed. */
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/working-set.h"

#define PAGE FF_WORKING_SET_PAGE
#define IN_FILE 400
#define N 150 /* two chunks, and a part of one */

typedef struct {
    char *dir, *path, *set;
    int fd;
    FfWorkingSetFile file;
    uint64_t places[N];
} World;

static void fill(uint8_t *page, uint64_t number)
{
    memset(page, (int)number, PAGE);
    memcpy(page, &number, sizeof(number));
}

static void know(World *w)
{
    struct stat st;

    g_assert_cmpint(fstat(w->fd, &st), ==, 0);
    w->file = (FfWorkingSetFile){(uint64_t)st.st_size,
                                 st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec, 0x1234};
}

static void begin(World *w)
{
    uint8_t page[PAGE];

    w->dir = g_dir_make_tmp("ff-set-XXXXXX", NULL);
    w->path = g_build_filename(w->dir, "file", NULL);
    w->set = g_strconcat(w->path, ".ws", NULL);
    w->fd = open(w->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(w->fd, >=, 0);
    for (uint64_t i = 0; i < IN_FILE; i++) {
        fill(page, i);
        g_assert_cmpint(pwrite(w->fd, page, PAGE, (off_t)(i * PAGE)), ==, PAGE);
    }
    know(w);
    for (unsigned i = 0; i < N; i++) {
        w->places[i] = (i * 7 + 3) % IN_FILE * PAGE;
    }
}

static void end(World *w)
{
    close(w->fd);
    g_unlink(w->set);
    g_unlink(w->path);
    g_assert_cmpint(g_rmdir(w->dir), ==, 0);
    g_free(w->dir);
    g_free(w->path);
    g_free(w->set);
}

static void write_set(World *w)
{
    g_autoptr(GError) error = NULL;

    ff_working_set_write(w->set, w->fd, &w->file, w->places, N, NULL, 0, &error);
    g_assert_no_error(error);
}

static void refused(World *w, const char *says)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(ff_working_set_open(w->set, w->fd, &w->file, &error));
    g_assert_nonnull(error);
    if (!g_str_has_prefix(error->message, w->set) || strchr(error->message, '\n') ||
        (says && !strstr(error->message, says))) {
        g_error("'%s' is not one line with '%s'", error->message, says);
    }
}

static void check(World *w)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FfWorkingSet) set = ff_working_set_open(w->set, w->fd, &w->file, &error);
    uint8_t chunk[FF_WORKING_SET_CHUNK * PAGE], page[PAGE];

    g_assert_no_error(error);
    g_assert_cmpuint(set->n, ==, N);
    g_assert_cmpmem(set->places, N * 8, w->places, N * 8);
    for (unsigned i = 0; i < N; i += FF_WORKING_SET_CHUNK) {
        unsigned n = MIN(N - i, FF_WORKING_SET_CHUNK);

        g_assert_cmpint(pread(set->fd, chunk, n * PAGE, (off_t)(set->at + i * PAGE)), ==, n * PAGE);
        g_assert_true(ff_working_set_is_right(set, i / FF_WORKING_SET_CHUNK, chunk, n * PAGE));
        for (unsigned k = 0; k < n; k++) {
            fill(page, w->places[i + k] / PAGE);
            g_assert_cmpmem(page, PAGE, chunk + k * PAGE, PAGE);
        }
        chunk[n * PAGE / 2] ^= 1;
        g_assert_false(ff_working_set_is_right(set, i / FF_WORKING_SET_CHUNK, chunk, n * PAGE));
    }
}

static void test_written(void)
{
    g_autoptr(GError) error = NULL;
    World w;

    begin(&w);
    g_assert_null(ff_working_set_open(w.set, w.fd, &w.file, &error));
    g_assert_no_error(error); /* there is none */
    write_set(&w);
    check(&w);
    write_set(&w); /* in its place */
    check(&w);
    end(&w);
}

static void test_another(void)
{
    World w;

    begin(&w);
    write_set(&w);
    FfWorkingSetFile file = w.file;
    w.file.digest++;
    refused(&w, "of another file");
    w.file = file;
    w.file.mtime_ns++;
    refused(&w, "of another file");
    w.file = file;
    w.file.size++;
    refused(&w, "of another file");
    end(&w);
}

/* Each byte in front of the pages. */
static void test_damaged(void)
{
    World w;
    uint8_t byte;

    begin(&w);
    write_set(&w);
    int fd = open(w.set, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < sizeof(FfWorkingSetHead) + (N + 3) * 8; i++) {
        g_assert_cmpint(pread(fd, &byte, 1, i), ==, 1);
        byte ^= 0x40;
        g_assert_cmpint(pwrite(fd, &byte, 1, i), ==, 1);
        refused(&w, NULL);
        byte ^= 0x40;
        g_assert_cmpint(pwrite(fd, &byte, 1, i), ==, 1);
    }
    check(&w);
    for (off_t size = lseek(fd, 0, SEEK_END) - 1; size >= 0; size = size * 9 / 10 - 1) {
        g_assert_cmpint(ftruncate(fd, size), ==, 0);
        refused(&w, NULL);
    }
    close(fd);
    end(&w);
}

/* And runs of pages without data, after the others. */
static void test_zeros(void)
{
    const FfWorkingSetRun zeros[] = {{500, 3}, {900, 1}};
    World w;
    uint8_t byte;

    begin(&w);
    g_assert_true(
        ff_working_set_write(w.set, w.fd, &w.file, w.places, N, zeros, G_N_ELEMENTS(zeros), NULL));
    check(&w);
    FfWorkingSet *set = ff_working_set_open(w.set, w.fd, &w.file, NULL);
    g_assert_cmpmem(set->zeros, set->n_zeros * sizeof(*zeros), zeros, sizeof(zeros));
    off_t at = (off_t)(set->at + N * PAGE);
    ff_working_set_free(set);
    int fd = open(w.set, O_RDWR | O_CLOEXEC);
    off_t size = lseek(fd, 0, SEEK_END);
    g_assert_cmpint(size, ==, at + (off_t)(sizeof(FfWorkingSetZeros) + sizeof(zeros)));
    for (off_t i = at; i < size; i++) {
        g_assert_cmpint(pread(fd, &byte, 1, i), ==, 1);
        byte ^= 0x40;
        g_assert_cmpint(pwrite(fd, &byte, 1, i), ==, 1);
        refused(&w, NULL);
        byte ^= 0x40;
        g_assert_cmpint(pwrite(fd, &byte, 1, i), ==, 1);
    }
    check(&w);
    while (--size >= at) {
        g_assert_cmpint(ftruncate(fd, size), ==, 0);
        refused(&w, NULL);
    }
    close(fd);
    write_set(&w); /* in its place */
    check(&w);
    end(&w);
}

static void test_others(void)
{
    World w;

    begin(&w);
    write_set(&w);
    g_assert_cmpint(chmod(w.set, 0666), ==, 0);
    refused(&w, "written by others");
    g_assert_cmpint(chmod(w.path, 0666), ==, 0);
    check(&w); /* a user who can write the one can write the other */
    g_assert_cmpint(chmod(w.path, 0600), ==, 0);
    g_assert_cmpint(chmod(w.set, 0600), ==, 0);
    if (geteuid() == 0) {
        g_assert_cmpint(chown(w.set, 12345, -1), ==, 0);
        refused(&w, "written by others");
        g_assert_cmpint(chown(w.set, 0, -1), ==, 0);
        /* One group may write the one, another group the other. */
        g_assert_cmpint(chmod(w.path, 0660), ==, 0);
        g_assert_cmpint(chmod(w.set, 0660), ==, 0);
        check(&w);
        g_assert_cmpint(chown(w.set, -1, 12345), ==, 0);
        refused(&w, "written by others");
    }
    g_unlink(w.set);
    g_assert_cmpint(symlink("file", w.set), ==, 0);
    refused(&w, NULL);
    g_unlink(w.set);
    g_assert_cmpint(mkfifo(w.set, 0600), ==, 0);
    refused(&w, NULL);
    end(&w);
}

static void not_written(World *w, uint64_t n, const char *says)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(ff_working_set_write(w->set, w->fd, &w->file, w->places, n, NULL, 0, &error));
    if (!strstr(error->message, says)) {
        g_error("'%s' does not say '%s'", error->message, says);
    }
}

static void test_not_written(void)
{
    g_autofree char *text = NULL;
    World w;

    begin(&w);
    not_written(&w, 0, "no working set");
    g_assert_true(g_file_set_contents(w.set, "somebody's", -1, NULL));
    not_written(&w, N, "it is there");
    g_assert_true(g_file_get_contents(w.set, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "somebody's");
    g_unlink(w.set);
    g_assert_cmpint(pwrite(w.fd, "x", 1, IN_FILE * PAGE), ==, 1);
    not_written(&w, N, "changed");
    g_assert_false(g_file_test(w.set, G_FILE_TEST_EXISTS));
    end(&w);
}

/* FILE.ws is not written beside nothing, nor beside another FILE. */
static void test_removed(void)
{
    World w;
    g_autofree char *away = NULL;

    begin(&w);
    away = g_strconcat(w.path, ".away", NULL);
    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(i == 1 ? g_rename(away, w.path) : g_rename(w.path, away), ==, 0);
        if (i == 2) {
            g_assert_true(g_file_set_contents(w.path, "another", -1, NULL));
        }
        know(&w);
        bool ok = ff_working_set_write(w.set, w.fd, &w.file, w.places, N, NULL, 0, &error);
        g_assert_true(ok == (i == 1));
        g_assert_true(ok == g_file_test(w.set, G_FILE_TEST_EXISTS));
        g_assert_true(ok || strstr(error->message, "not there any more"));
        g_unlink(w.set);
    }
    g_unlink(away);
    end(&w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/working-set/written", test_written);
    g_test_add_func("/working-set/another", test_another);
    g_test_add_func("/working-set/damaged", test_damaged);
    g_test_add_func("/working-set/zeros", test_zeros);
    g_test_add_func("/working-set/others", test_others);
    g_test_add_func("/working-set/removed", test_removed);
    g_test_add_func("/working-set/not-written", test_not_written);
    return g_test_run();
}
