/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a guest whose memory somebody else holds: what comes out is, byte for byte, what QEMU
 * would have written without x-ignore-shared.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "content/image/live-file.h"
#include "content/image/statistics.h"
#include "tests/lib/savedfile.h"

typedef struct {
    SavedFile state; /* x-ignore-shared: block 0 is shared */
    SavedFile whole; /* without */
    char *dir, *path;
    FfOutput *o;
} Test;

static Test begin(const SavedFileKind *kind)
{
    Test t = {.dir = g_dir_make_tmp("ff-live-XXXXXX", NULL)};
    SavedFileKind state = *kind, whole = *kind;
    GError *error = NULL;

    state.shared = true;
    state.mapped = false;
    t.state = savedfile_new(&state);
    t.whole = savedfile_new(&whole);
    t.path = g_build_filename(t.dir, "file", NULL);
    t.o = ff_output_new(t.path, &error);
    g_assert_no_error(error);
    return t;
}

static void end(Test *t)
{
    ff_output_free(t->o);
    g_unlink(t->path);
    g_assert_cmpint(g_rmdir(t->dir), ==, 0);
    savedfile_clear(&t->state);
    savedfile_clear(&t->whole);
    g_free(t->dir);
    g_free(t->path);
}

static FfLiveFile *try_open(const Test *t, size_t n, FfSavedForm form, uint64_t base,
                            GError **error)
{
    FfInput *in = ff_input_new_memory("state", t->state.bytes->data, n, error);

    return in ? ff_live_file_new(in, form, t->o, base, error) : NULL;
}

static FfLiveFile *open_state(const Test *t, FfSavedForm form, uint64_t base)
{
    g_autoptr(GError) error = NULL;
    FfLiveFile *f = try_open(t, t->state.bytes->len, form, base, &error);

    g_assert_no_error(error);
    g_assert_cmpint(ff_live_file_block(f, "pc.ram", SAVEDFILE_PAGES * SAVEDFILE_PAGE, &error), ==,
                    0);
    return f;
}

/* By the caller's own writes for mapped-ram, else page by page; backwards, as the order does not
 * matter. */
static void hand_in(const Test *t, FfLiveFile *f, bool by_place)
{
    g_autoptr(GError) error = NULL;

    for (uint64_t page = SAVEDFILE_PAGES; page-- > 0;) {
        uint8_t bytes[SAVEDFILE_PAGE];

        savedfile_fill(0, page, bytes);
        if (by_place && savedfile_has_data(0, page)) {
            g_assert_cmpint(pwrite(ff_output_fd(t->o), bytes, sizeof(bytes),
                                   ff_live_file_place(f, 0) + page * SAVEDFILE_PAGE),
                            ==, sizeof(bytes));
            ff_live_file_mark(f, 0, page, 1);
        } else if (!by_place) {
            g_assert_true(
                ff_live_file_put(f, 0, page, savedfile_has_data(0, page) ? bytes : NULL, &error));
        }
    }
}

static void commit(Test *t, FfLiveFile *f)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ff_live_file_end(f, &error));
    g_assert_true(ff_output_commit(t->o, &error));
    ff_live_file_free(f);
}

static void assert_contents(const Test *t, uint64_t base, const SavedFile *right)
{
    g_autofree char *data = NULL;
    gsize n;

    g_assert_true(g_file_get_contents(t->path, &data, &n, NULL));
    g_assert_cmpmem(data + base, n - base, right->bytes->data, right->bytes->len);
}

static void test_mapped(gconstpointer data)
{
    Test t = begin(data);
    FfLiveFile *f = open_state(&t, FF_SAVED_MAPPED, 0);

    hand_in(&t, f, true);
    commit(&t, f);
    assert_contents(&t, 0, &t.whole);
    end(&t);
}

static void test_put(gconstpointer data)
{
    Test t = begin(data);
    FfLiveFile *f = open_state(&t, FF_SAVED_MAPPED, 0);

    hand_in(&t, f, false);
    commit(&t, f);
    assert_contents(&t, 0, &t.whole);
    end(&t);
}

/* Pages are in another order than QEMU's, so what is compared is what is in it. */
static void test_stream(gconstpointer data)
{
    Test t = begin(data);
    FfLiveFile *f = open_state(&t, FF_SAVED_STREAM, 0);
    g_autoptr(GError) error = NULL;

    hand_in(&t, f, false);
    commit(&t, f);
    FfInput *in = ff_input_open(t.path, &error);
    g_autoptr(FfSaved) s = ff_saved_open(in, 0, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);
    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_cmpuint(s->capabilities->len, ==, 0);
    g_assert_cmpuint(v->data, ==, 25);
    g_assert_cmpuint(v->absent, ==, 0);
    end(&t);
}

static void test_offset(void)
{
    Test t = begin(&(SavedFileKind){.mapped = true});
    FfLiveFile *f = open_state(&t, FF_SAVED_MAPPED, 65672);
    g_autoptr(GError) error = NULL;

    hand_in(&t, f, true);
    commit(&t, f);
    FfInput *in = ff_input_open(t.path, &error);
    g_autoptr(FfSaved) s = ff_saved_open(in, 65672, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);
    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_cmpuint(v->data, ==, 25);
    end(&t);
}

/* ---- what cannot be -------------------------------------------------------------------------- */

/* Cut anywhere, the state is refused. */
static void test_cut(void)
{
    Test t = begin(&(SavedFileKind){.mapped = true});

    for (size_t n = 0; n < t.state.bytes->len; n += n < 300 ? 1 : 97) {
        g_autoptr(GError) error = NULL;

        g_assert_null(try_open(&t, n, FF_SAVED_MAPPED, 0, &error));
        g_assert_nonnull(error);
        g_assert_null(strchr(error->message, '\n'));
    }
    end(&t);
}

static void assert_refused(FfLiveFile *f, const char *name, uint64_t size, const char *why)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(ff_live_file_block(f, name, size, &error), ==, -1);
    g_assert_cmpstr(error->message, ==, why);
}

static void test_blocks(void)
{
    Test t = begin(&(SavedFileKind){.mapped = true});
    g_autoptr(GError) error = NULL;
    g_autoptr(FfLiveFile) f = try_open(&t, t.state.bytes->len, FF_SAVED_MAPPED, 0, &error);

    g_assert_no_error(error);
    assert_refused(f, "ram", 4096, "state: block 'ram' is not in it");
    assert_refused(f, "pc.ram", 4096, "state: block 'pc.ram' has another size");
    assert_refused(f, "/rom@etc/table", SAVEDFILE_SMALL * SAVEDFILE_PAGE,
                   "state: block '/rom@etc/table' is in it, with its memory");
    /* QEMU has put a device's path in front of the backend's id. */
    assert_refused(f, "table", SAVEDFILE_SMALL * SAVEDFILE_PAGE,
                   "state: block 'table' is in it, with its memory");
    assert_refused(f, "able", SAVEDFILE_SMALL * SAVEDFILE_PAGE, "state: block 'able' is not in it");
    g_assert_false(ff_live_file_end(f, &error));
    g_assert_cmpstr(error->message, ==, "state: block 'pc.ram' has no memory, in it or elsewhere");
    end(&t);
}

/* A state with all of the memory is none. */
static void test_whole(void)
{
    Test t = begin(&(SavedFileKind){0});
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_new_memory("s", t.whole.bytes->data, t.whole.bytes->len, &error);

    g_assert_null(ff_live_file_new(in, FF_SAVED_MAPPED, t.o, 0, &error));
    g_assert_cmpstr(error->message, ==, "s: no stream that was written with x-ignore-shared");
    end(&t);
}

int main(int argc, char **argv)
{
    static const SavedFileKind mapped = {.mapped = true};
    static const SavedFileKind newer = {.mapped = true, .switchover = true};
    static const SavedFileKind old = {.mapped = true, .no_footers = true};
    static const SavedFileKind stream = {0};

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/live-file/mapped", &mapped, test_mapped);
    g_test_add_data_func("/live-file/mapped/newer", &newer, test_mapped);
    g_test_add_data_func("/live-file/mapped/old", &old, test_mapped);
    g_test_add_data_func("/live-file/put", &mapped, test_put);
    g_test_add_data_func("/live-file/stream", &stream, test_stream);
    g_test_add_func("/live-file/offset", test_offset);
    g_test_add_func("/live-file/cut", test_cut);
    g_test_add_func("/live-file/blocks", test_blocks);
    g_test_add_func("/live-file/whole", test_whole);
    return g_test_run();
}
