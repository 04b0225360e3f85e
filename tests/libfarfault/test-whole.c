/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file with the final name is always whole. The calls with which ff_snapshot_save_path() makes it
 * are recorded (tests/libfarfault/record.h), and every prefix of them is replayed on a
 * disk that keeps what was synced alone, and on one that keeps everything. And a program that saves
 * all the time is killed at random moments. FF_ROUNDS says how often.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"
#include "tests/libfarfault/record.h"

#define LEN (4u << 20)

/* ---- replaying it ---------------------------------------------------------------------------- */

/* A file, after the first N operations; only those that were SYNCED by then. NULL: it has no name.
 */
static GByteArray *replay(const GArray *ops, guint n, const char *path, bool synced)
{
    g_autoptr(GByteArray) now = g_byte_array_new();
    GByteArray *there = g_byte_array_new();
    bool has_name = false;

    for (guint i = 0; i < n; i++) {
        const Op *op = &g_array_index(ops, Op, i);
        if (op->kind == OP_SIZE) {
            guint old = now->len;
            g_byte_array_set_size(now, (guint)op->offset);
            if (now->len > old) {
                memset(now->data + old, 0, now->len - old);
            }
        } else if (op->kind == OP_WRITE) {
            gsize len;
            const void *data = g_bytes_get_data(op->data, &len);
            g_assert_cmpuint(op->offset + len, <=, now->len);
            memcpy(now->data + op->offset, data, len);
        } else if (op->kind == OP_LINK || op->kind == OP_RENAME) {
            has_name |= !strcmp(op->name, path);
        }
        if (op->kind == OP_SYNC || !synced) {
            g_byte_array_set_size(there, now->len);
            if (now->len) {
                memcpy(there->data, now->data, now->len);
            }
        }
    }
    if (!has_name) {
        g_byte_array_unref(there);
        return NULL;
    }
    return there;
}

/* How many prefixes there are after which the file has its name, and is not WHOLE. */
static unsigned count_torn(const GArray *ops, const char *path, GBytes *whole)
{
    unsigned torn = 0;

    for (guint n = 0; n <= ops->len; n++) {
        for (unsigned synced = 0; synced < 2; synced++) {
            g_autoptr(GByteArray) file = replay(ops, n, path, synced);
            torn += file && (file->len != g_bytes_get_size(whole) ||
                             memcmp(file->data, g_bytes_get_data(whole, NULL), file->len) != 0);
        }
    }
    return torn;
}

static char *new_directory(void)
{
    char *dir = g_dir_make_tmp("libfarfault-XXXXXX", NULL);

    g_assert_nonnull(dir);
    return dir;
}

static void remove_directory(char *dir)
{
    GDir *d = g_dir_open(dir, 0, NULL);

    for (const char *name; (name = g_dir_read_name(d));) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_assert_cmpint(unlink(path), ==, 0);
    }
    g_dir_close(d);
    g_assert_cmpint(rmdir(dir), ==, 0);
    g_free(dir);
}

static void test_prefixes(void)
{
    World *w = world_new(W_ANON, LEN);
    FfSnapshotOptions options = {
        .size = sizeof(options), .buffer = 1u << 20, .flags = FF_SNAPSHOT_NO_DIRECT};
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "dump", NULL);
    char *data;
    gsize len;

    if (!w) {
        remove_directory(dir);
        return;
    }
    memset(w->map, 7, LEN / 4);
    g_assert_true(g_file_set_contents(path, "the one before", -1, NULL));
    GArray *ops = record_new();
    call(ff_snapshot_prepare(w->m, &options));
    call(ff_snapshot_begin(w->m));
    record_start(ops, path);
    call(ff_snapshot_save_path(w->m, path));
    call(ff_snapshot_wait(w->m, NULL));
    record_stop();
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    g_autoptr(GBytes) whole = g_bytes_new_take(data, len);
    g_assert_cmpuint(len, ==, LEN + 4096);
    g_assert_cmpuint(ops->len, >, LEN / 4 / (128u << 10));
    g_autoptr(GByteArray) last = replay(ops, ops->len, path, true);
    g_assert_nonnull(last); /* all was recorded */
    g_assert_cmpuint(last->len, ==, len);
    g_assert_cmpuint(count_torn(ops, path, whole), ==, 0);
    g_assert_cmpint(g_array_index(ops, Op, ops->len - 1).kind, ==, OP_SYNC_DIRECTORY);
    /* That a forgotten sync would be seen. */
    for (guint i = ops->len; i-- > 0;) {
        if (g_array_index(ops, Op, i).kind == OP_SYNC) {
            g_array_remove_index(ops, i);
        }
    }
    g_assert_cmpuint(count_torn(ops, path, whole), >, 0);
    g_array_unref(ops);
    world_free(w);
    remove_directory(dir);
}

/* ---- killed ---------------------------------------------------------------------------------- */

static void say(int fd)
{
    if (write(fd, "", 1) != 1) {
        _exit(1);
    }
}

/* Each file holds one number everywhere. */
static void save_for_ever(const char *path, int fd, pid_t parent)
{
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = 1u << 20};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    World *w = getppid() == parent ? world_new(W_ANON, LEN) : NULL;
    for (uint64_t generation = 1; w; generation++) {
        uint64_t *words = (uint64_t *)(void *)w->map;
        for (size_t i = 0; i < LEN / 8; i++) {
            words[i] = generation;
        }
        call(ff_snapshot_prepare(w->m, &options));
        call(ff_snapshot_begin(w->m));
        say(fd);
        call(ff_snapshot_save_path(w->m, path));
        say(fd);
        for (size_t i = 0; i < LEN / 8; i += 512) {
            words[i] = 0;
        }
        say(fd);
        call(ff_snapshot_wait(w->m, NULL));
        say(fd);
    }
    _exit(1);
}

/* Is there, and whole? */
static bool check_file(const char *path)
{
    g_autofree char *data = NULL;
    gsize len;

    if (!g_file_get_contents(path, &data, &len, NULL)) {
        return false;
    }
    const FfFileHeader *header = (const FfFileHeader *)(const void *)data;
    const FfFileRegion *region = (const FfFileRegion *)(const void *)(header + 1);
    g_assert_cmpuint(len, ==, LEN + 4096);
    g_assert_cmpuint(header->magic, ==, FF_FILE_MAGIC);
    const uint64_t *words = (const uint64_t *)(const void *)(data + region->offset);
    for (size_t i = 0; i < LEN / 8; i++) {
        g_assert_cmpuint(words[i], ==, words[0]);
    }
    g_assert_cmpuint(words[0], >, 0);
    return true;
}

static void test_killed(void)
{
    char *dir = new_directory();
    g_autofree char *path = g_build_filename(dir, "dump", NULL);
    unsigned rounds = world_rounds(12), there = 0;
    World *w = world_new(W_ANON, LEN); /* is it possible at all? */

    if (!w) {
        remove_directory(dir);
        return;
    }
    world_free(w);
    for (unsigned i = 0; i < rounds; i++) {
        unsigned moment = i == 0 ? 6 : (unsigned)g_test_rand_int_range(1, 12);
        int fds[2];
        g_assert_cmpint(pipe(fds), ==, 0);
        pid_t self = getpid(), pid = fork();
        if (pid == 0) {
            close(fds[0]);
            save_for_ever(path, fds[1], self);
        }
        close(fds[1]);
        for (char c; moment > 0; moment--) {
            g_assert_cmpint(read(fds[0], &c, 1), ==, 1);
        }
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        close(fds[0]);
        there += check_file(path);
    }
    g_assert_cmpuint(there, ==, rounds); /* from the first round on */
    remove_directory(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/libfarfault/whole/prefixes", test_prefixes);
    g_test_add_func("/libfarfault/whole/killed", test_killed);
    return g_test_run();
}
