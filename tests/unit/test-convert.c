/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files of saved guests in another form: pages, device state and round trips byte for byte; and
 * what is left when it cannot be written (nothing), on file systems that are full, read-only, or
 * have no files without a name.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "content/image/convert.h"
#include "content/image/mapped.h"
#include "content/image/output.h"
#include "content/image/statistics.h"
#include "tests/lib/savedfile.h"

/* The file system has no O_TMPFILE. */
static bool no_nameless;

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    va_start(args, flags);
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {
        mode = va_arg(args, mode_t);
    }
    va_end(args);
    if (no_nameless && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

typedef struct {
    char *dir, *in;
    SavedFile file;
} Test;

static Test begin(const SavedFileKind *kind)
{
    Test t = {.dir = g_dir_make_tmp("ff-convert-XXXXXX", NULL)};

    t.in = g_build_filename(t.dir, "in", NULL);
    t.file = savedfile_new(kind);
    g_assert_true(g_file_set_contents(t.in, (char *)t.file.bytes->data, t.file.bytes->len, NULL));
    return t;
}

/* Nothing but the files that were named is there. */
static void end(Test *t)
{
    static const char *const names[] = {"in", "a", "b", "c"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(t->dir, names[i], NULL);

        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(t->dir), ==, 0);
    savedfile_clear(&t->file);
    g_free(t->dir);
    g_free(t->in);
}

/* From file FROM to file TO of T; the error's text (g_free), or NULL. */
static char *try_convert(const Test *t, const char *from, int64_t offset, const char *to,
                         FfConvertOptions *options)
{
    g_autofree char *in_path = g_build_filename(t->dir, from, NULL);
    g_autofree char *out_path = g_build_filename(t->dir, to, NULL);
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(in_path, &error);

    g_assert_no_error(error);
    g_autoptr(FfSaved) s = ff_saved_open(in, offset, &error);
    if (!error && ff_convert(s, out_path, options, &error)) {
        return NULL;
    }
    g_assert_null(strchr(error->message, '\n'));
    return g_strdup(error->message);
}

static void convert(const Test *t, const char *from, const char *to, FfSavedForm form)
{
    g_autofree char *problem =
        try_convert(t, from, FF_SAVED_OFFSET_LOOK, to, &(FfConvertOptions){.to = form});

    g_assert_cmpstr(problem, ==, NULL);
}

static GByteArray *contents(const Test *t, const char *name)
{
    g_autofree char *path = g_build_filename(t->dir, name, NULL);
    char *data;
    gsize n;

    g_assert_true(g_file_get_contents(path, &data, &n, NULL));
    return g_byte_array_new_take((uint8_t *)data, n);
}

static void assert_equal(const Test *t, const char *a, const char *b)
{
    g_autoptr(GByteArray) x = contents(t, a), y = contents(t, b);

    g_assert_cmpmem(x->data, x->len, y->data, y->len);
}

/* ---- contents -------------------------------------------------------------------------------- */

/* Of mapped-ram FILE at OFFSET: each page is what it should be, the tail is the original's. */
static void check_mapped(const Test *t, const char *name, uint64_t offset)
{
    g_autofree char *path = g_build_filename(t->dir, name, NULL);
    g_autoptr(GError) error = NULL;
    FfInput *in = ff_input_open(path, &error);
    g_autoptr(FfSaved) s = ff_saved_open(in, offset, &error);
    g_assert_no_error(error);
    g_autoptr(FfSurvey) v = ff_statistics_new(s, NULL);
    g_autoptr(GByteArray) all = contents(t, name);
    uint32_t tail = t->file.bytes->len - t->file.tail;

    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_cmpuint(s->form, ==, FF_SAVED_MAPPED);
    g_assert_cmpuint(v->data, ==, 25);
    for (guint i = 0; i < s->blocks->len; i++) {
        const FfSavedBlock *b = ff_saved_block(s, i);

        g_assert_cmpuint(b->pages % (1 << 20), ==, 0);
        for (uint64_t page = 0; page < b->size / FF_SAVED_PAGE; page++) {
            uint8_t right[SAVEDFILE_PAGE] = {0};

            if (savedfile_has_data(i, page)) {
                savedfile_fill(i, page, right);
            }
            g_assert_cmpmem(all->data + b->pages + page * SAVEDFILE_PAGE, SAVEDFILE_PAGE, right,
                            SAVEDFILE_PAGE);
        }
    }
    g_assert_cmpmem(all->data + s->tail, all->len - s->tail, t->file.bytes->data + t->file.tail,
                    tail);
}

static void test_stream(gconstpointer data)
{
    Test t = begin(data);

    convert(&t, "in", "a", FF_SAVED_MAPPED);
    check_mapped(&t, "a", 0);
    convert(&t, "a", "b", FF_SAVED_STREAM);
    convert(&t, "b", "c", FF_SAVED_MAPPED);
    assert_equal(&t, "a", "c");
    end(&t);
}

/* The form that stock QEMU writes comes back as it was. */
static void test_mapped(gconstpointer data)
{
    Test t = begin(data);

    convert(&t, "in", "a", FF_SAVED_STREAM);
    convert(&t, "a", "b", FF_SAVED_MAPPED);
    assert_equal(&t, "in", "b");
    end(&t);
}

static void test_sparse(void)
{
    Test t = begin(&(SavedFileKind){0});
    g_autofree char *path = g_build_filename(t.dir, "a", NULL);
    struct stat st;

    convert(&t, "in", "a", FF_SAVED_MAPPED);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, >, 2 << 20);
    g_assert_cmpint(st.st_blocks * 512, <, 200 << 10);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    end(&t);
}

static void test_offset(void)
{
    static const uint64_t offsets[] = {4096, 65672, (3 << 20) + 5};

    for (unsigned i = 0; i < G_N_ELEMENTS(offsets); i++) {
        Test t = begin(&(SavedFileKind){0});
        g_autofree char *problem = try_convert(
            &t, "in", 0, "a", &(FfConvertOptions){.to = FF_SAVED_MAPPED, .offset = offsets[i]});

        g_assert_cmpstr(problem, ==, NULL);
        check_mapped(&t, "a", offsets[i]);
        end(&t);
    }
}

/* Libvirt's image stays one: its header says raw, or sparse if it was and is, and what comes after
 * it is at its place. */
static void test_libvirt(gconstpointer data)
{
    bool mapped = GPOINTER_TO_INT(data), same = GPOINTER_TO_INT(data) > 1;
    uint32_t numbers[] = {2, 65532 - 92, 1, mapped ? 6 : 0};
    SavedFileKind kind = {.mapped = mapped, .prefix = 65532};
    Test t = begin(&kind);
    g_autofree char *out = g_build_filename(t.dir, "a", NULL);
    g_autofree char *header = NULL;
    g_autoptr(GError) error = NULL;
    FfConvertOptions options = {.to = mapped && !same ? FF_SAVED_STREAM : FF_SAVED_MAPPED,
                                .libvirt = true};
    gsize n;

    {
        g_autoptr(FfSaved) s = ff_saved_open(ff_input_open(t.in, NULL), kind.prefix, NULL);

        g_assert_false(ff_convert(s, out, &options, &error));
        g_assert_nonnull(strstr(error->message, "no image of libvirt's"));
        g_clear_error(&error);
        g_assert_false(g_file_test(out, G_FILE_TEST_EXISTS));
    }
    memcpy(t.file.bytes->data, "LibvirtQemudSave", 16);
    memcpy(t.file.bytes->data + 16, numbers, sizeof(numbers));
    memcpy(t.file.bytes->data + 92, "<domain/>", 10);
    g_assert_true(g_file_set_contents(t.in, (char *)t.file.bytes->data, t.file.bytes->len, NULL));
    g_autoptr(FfSaved) s = ff_saved_open(ff_input_open(t.in, NULL), FF_SAVED_OFFSET_LOOK, &error);
    g_assert_no_error(error);
    g_assert_true(ff_convert(s, out, &options, &error));
    g_assert_true(g_file_get_contents(out, &header, &n, NULL));
    g_assert_cmpint(options.sparse, ==, same);
    numbers[3] = same ? 6 : 0;
    g_assert_cmpmem(header + 16, sizeof(numbers), numbers, sizeof(numbers));
    g_assert_cmpmem(header, 16, t.file.bytes->data, 16);
    g_assert_cmpmem(header + 32, kind.prefix - 32, t.file.bytes->data + 32, kind.prefix - 32);
    g_autoptr(FfSaved) other =
        ff_saved_open(ff_input_open(out, NULL), FF_SAVED_OFFSET_LOOK, &error);
    g_assert_no_error(error);
    g_assert_cmpint(other->form, ==, options.to);
    g_assert_cmpuint(other->offset, ==, kind.prefix);
    g_autoptr(FfSurvey) v = ff_statistics_new(other, NULL);
    g_assert_cmpstr(v->problem, ==, NULL);
    g_assert_cmpuint(v->absent, ==, 0);
    end(&t);
}

/* Compressed, and back; damaged, it is refused. */
static void test_compress(gconstpointer data)
{
    Test t = begin(data);
    g_autofree char *path = g_build_filename(t.dir, "a", NULL);
    g_autofree char *problem =
        try_convert(&t, "in", 0, "a", &(FfConvertOptions){.to = FF_SAVED_MAPPED, .compress = true});

    g_assert_cmpstr(problem, ==, NULL);
    convert(&t, "a", "b", FF_SAVED_MAPPED);
    check_mapped(&t, "b", 0);
    g_autoptr(GByteArray) packed = contents(&t, "a");
    g_assert_cmpuint(packed->len, <, 100 << 10);
    for (unsigned at = 4; at < packed->len; at += packed->len / 37) {
        packed->data[at] ^= 0x10;
        g_assert_true(g_file_set_contents(path, (char *)packed->data, packed->len, NULL));
        packed->data[at] ^= 0x10;

        g_autoptr(GError) error = NULL;
        FfInput *in = ff_input_open(path, &error);
        g_autoptr(FfSaved) s = in ? ff_saved_open(in, 0, &error) : NULL;
        g_autofree char *out = g_build_filename(t.dir, "c", NULL);
        if (error || ff_convert(s, out, &(FfConvertOptions){.to = FF_SAVED_MAPPED}, &error)) {
            /* A frame of zeros that nothing is read of may be damaged. */
            if (!error) {
                assert_equal(&t, "b", "c");
                g_assert_cmpint(g_unlink(out), ==, 0);
            }
        }
        g_assert_false(error && g_file_test(out, G_FILE_TEST_EXISTS));
    }
    end(&t);
}

/* Another save of the same guest has its pages at the same places: what is overwritten when it was
 * opened would become one of two moments. */
static void test_overwritten(gconstpointer data)
{
    Test t = begin(&(SavedFileKind){.mapped = true});
    g_autofree char *out = g_build_filename(t.dir, "a", NULL);
    FfConvertOptions options = {.to = data ? FF_SAVED_MAPPED : FF_SAVED_STREAM, .compress = data};
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};
    g_autoptr(GError) error = NULL;
    g_autoptr(FfSaved) s = ff_saved_open(ff_input_open(t.in, NULL), 0, &error);

    g_assert_no_error(error);
    int fd = open(t.in, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(write(fd, t.file.bytes->data, t.file.bytes->len), ==, t.file.bytes->len);
    g_assert_cmpint(futimens(fd, times), ==, 0); /* the clock of files is a coarse one */
    close(fd);
    g_assert_false(ff_convert(s, out, &options, &error));
    g_assert_nonnull(strstr(error->message, "it was written to while it was read"));
    g_assert_false(g_file_test(out, G_FILE_TEST_EXISTS));
    end(&t);
}

static void test_zstd(void)
{
    Test t = begin(&(SavedFileKind){0});
    g_autofree char *zstd = g_find_program_in_path("zstd");

    if (!zstd) {
        g_test_skip("zstd is not installed");
    } else {
        g_autofree char *problem = try_convert(
            &t, "in", 0, "a", &(FfConvertOptions){.to = FF_SAVED_MAPPED, .compress = true});
        g_autofree char *a = g_build_filename(t.dir, "a", NULL),
                        *b = g_build_filename(t.dir, "b", NULL);
        const char *argv[] = {zstd, "-dq", a, "-o", b, NULL};
        int status = -1;

        g_assert_cmpstr(problem, ==, NULL);
        g_assert_true(
            g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, NULL, &status, NULL));
        g_assert_cmpint(status, ==, 0);
        convert(&t, "in", "c", FF_SAVED_MAPPED);
        assert_equal(&t, "b", "c");
    }
    end(&t);
}

/* It cannot be cut: what an older one left there would be the end of one that was broken off. */
static void test_device(void)
{
    g_autoptr(GError) error = NULL;
    int fd = open("/dev/loop0", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        g_test_skip("no block device that can be opened");
        return;
    }
    g_autoptr(FfOutput) o = ff_output_new_fd(fd, "FILE", &error);
    g_assert_null(o);
    g_assert_cmpstr(error->message, ==, "FILE: it has to be a regular file");
}

/* ---- refused --------------------------------------------------------------------------------- */

static void assert_refused(const Test *t, FfSavedForm to, const char *why)
{
    g_autofree char *problem =
        try_convert(t, "in", FF_SAVED_OFFSET_LOOK, "a", &(FfConvertOptions){.to = to});
    g_autofree char *out = g_build_filename(t->dir, "a", NULL);

    if (!problem || !strstr(problem, why)) {
        g_test_fail_printf("says '%s', not '%s'", problem ? problem : "nothing", why);
    }
    g_assert_false(g_file_test(out, G_FILE_TEST_EXISTS));
}

static void test_refused(void)
{
    Test t = begin(&(SavedFileKind){.shared = true});

    assert_refused(&t, FF_SAVED_MAPPED, "x-ignore-shared");
    end(&t);
    t = begin(&(SavedFileKind){0});
    assert_refused(&t, FF_SAVED_STREAM, "an ordinary stream already");
    end(&t);
    t = begin(&(SavedFileKind){.mapped = true, .early = true});
    assert_refused(&t, FF_SAVED_STREAM, "a device section");
    convert(&t, "in", "b", FF_SAVED_MAPPED);
    assert_equal(&t, "in", "b");
    end(&t);
}

/* Cut anywhere in its pages or after them: by what the output is then, nobody could tell. */
static void test_cut(gconstpointer data)
{
    Test t = begin(data);
    const SavedFileKind *kind = data;
    gsize step = t.file.bytes->len / 61;

    for (gsize n = t.file.bytes->len - 1; n > 100; n -= MIN(n, step)) {
        g_assert_true(g_file_set_contents(t.in, (char *)t.file.bytes->data, n, NULL));
        assert_refused(&t, kind->mapped ? FF_SAVED_STREAM : FF_SAVED_MAPPED, "");
    }
    end(&t);
}

static void test_exists(void)
{
    for (int i = 0; i < 2; i++) {
        Test t = begin(&(SavedFileKind){0});
        g_autofree char *out = g_build_filename(t.dir, "a", NULL);
        g_autoptr(GError) error = NULL;
        char *text;

        no_nameless = i;
        /* Made while we write. */
        g_autoptr(FfOutput) o = ff_output_new(out, &error);
        g_assert_no_error(error);
        g_assert_true(g_file_set_contents(out, "mine", -1, NULL));
        g_assert_true(ff_output_append(o, "ours", 4, NULL));
        g_assert_false(ff_output_commit(o, &error));
        g_assert_nonnull(strstr(error->message, "is there already"));
        g_assert_true(g_file_get_contents(out, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "mine");
        g_free(text);
        g_autofree char *problem =
            try_convert(&t, "in", 0, "a", &(FfConvertOptions){.to = FF_SAVED_MAPPED});
        g_assert_nonnull(strstr(problem, "is there already"));
        g_clear_pointer(&o, ff_output_free);
        end(&t);
        no_nameless = false;
    }
}

/* ---- file systems ---------------------------------------------------------------------------- */

/* With a file system of SIZE bytes at the test's directory/fs, in a mount namespace of its own. */
static int in_file_system(const Test *t, const char *options, unsigned long flags, const char *why)
{
    g_autofree char *fs = g_build_filename(t->dir, "fs", NULL);

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("fs", fs, "tmpfs", flags, options) < 0) {
        return 77;
    }
    g_autofree char *problem =
        try_convert(t, "in", 0, "fs/a", &(FfConvertOptions){.to = FF_SAVED_MAPPED});
    g_autofree char *packed = try_convert(
        t, "in", 0, "fs/a", &(FfConvertOptions){.to = FF_SAVED_MAPPED, .compress = true});
    g_autoptr(GDir) left = g_dir_open(fs, 0, NULL);
    if (!problem || !strstr(problem, why) || !packed || !strstr(packed, why)) {
        g_printerr("says '%s' and '%s'\n", problem, packed);
        return 1;
    }
    return g_dir_read_name(left) ? 2 : 0;
}

static void try_file_system(const char *options, unsigned long flags, const char *why)
{
    Test t = begin(&(SavedFileKind){0});
    g_autofree char *fs = g_build_filename(t.dir, "fs", NULL);
    int status;

    g_assert_cmpint(g_mkdir(fs, 0700), ==, 0);
    pid_t pid = fork();
    if (!pid) {
        _exit(in_file_system(&t, options, flags, why));
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(g_rmdir(fs), ==, 0);
    end(&t);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        g_test_skip("may not mount");
    } else {
        g_assert_cmpint(status, ==, 0);
    }
}

static void test_full(gconstpointer data)
{
    no_nameless = GPOINTER_TO_INT(data);
    try_file_system("size=64k", 0, "No space left on device");
    no_nameless = false;
}

static void test_read_only(gconstpointer data)
{
    no_nameless = GPOINTER_TO_INT(data);
    try_file_system("size=64k", MS_RDONLY, "Read-only file system");
    no_nameless = false;
}

static bool has_part(const char *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        if (g_str_has_suffix(name, ".part")) {
            return true;
        }
    }
    return false;
}

/* A name that it has before its time goes with it, whatever ends it. */
static void test_signal(gconstpointer data)
{
    Test t = begin(&(SavedFileKind){0});
    g_autofree char *out = g_build_filename(t.dir, "a", NULL);
    int status;
    pid_t pid;

    no_nameless = true;
    pid = fork();
    if (!pid) {
        FfOutput *o = ff_output_new(out, NULL);

        if (o && ff_output_append(o, "ours", 4, NULL) && has_part(t.dir)) {
            raise(GPOINTER_TO_INT(data));
        }
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == GPOINTER_TO_INT(data));
    no_nameless = false;
    end(&t);
}

static void test_named(void)
{
    Test t = begin(&(SavedFileKind){0});

    no_nameless = true;
    convert(&t, "in", "a", FF_SAVED_MAPPED);
    check_mapped(&t, "a", 0);
    no_nameless = false;
    end(&t);
}

int main(int argc, char **argv)
{
    static const SavedFileKind stream = {0}, background = {.background = true};
    static const SavedFileKind switchover = {.switchover = true}, old = {.no_footers = true};
    static const SavedFileKind mapped = {.mapped = true};
    static const SavedFileKind mapped10 = {.mapped = true, .switchover = true};

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/convert/stream", &stream, test_stream);
    g_test_add_data_func("/convert/background", &background, test_stream);
    g_test_add_data_func("/convert/switchover", &switchover, test_stream);
    g_test_add_data_func("/convert/no-footers", &old, test_stream);
    g_test_add_data_func("/convert/mapped", &mapped, test_mapped);
    g_test_add_data_func("/convert/mapped-switchover", &mapped10, test_mapped);
    g_test_add_func("/convert/sparse", test_sparse);
    g_test_add_func("/convert/offset", test_offset);
    g_test_add_data_func("/convert/libvirt/raw", GINT_TO_POINTER(false), test_libvirt);
    g_test_add_data_func("/convert/libvirt/sparse", GINT_TO_POINTER(1), test_libvirt);
    g_test_add_data_func("/convert/libvirt/sparse-again", GINT_TO_POINTER(2), test_libvirt);
    g_test_add_data_func("/convert/compress/stream", &stream, test_compress);
    g_test_add_data_func("/convert/compress/mapped", &mapped, test_compress);
    g_test_add_func("/convert/compress/zstd", test_zstd);
    g_test_add_data_func("/convert/overwritten/plain", NULL, test_overwritten);
    g_test_add_data_func("/convert/overwritten/compress", "", test_overwritten);
    g_test_add_func("/convert/refused", test_refused);
    g_test_add_data_func("/convert/cut/stream", &stream, test_cut);
    g_test_add_data_func("/convert/cut/mapped", &mapped, test_cut);
    g_test_add_func("/convert/exists", test_exists);
    g_test_add_func("/convert/device", test_device);
    g_test_add_data_func("/convert/full/nameless", GINT_TO_POINTER(0), test_full);
    g_test_add_data_func("/convert/full/named", GINT_TO_POINTER(1), test_full);
    g_test_add_data_func("/convert/read-only/nameless", GINT_TO_POINTER(0), test_read_only);
    g_test_add_data_func("/convert/read-only/named", GINT_TO_POINTER(1), test_read_only);
    g_test_add_data_func("/convert/signal/term", GINT_TO_POINTER(SIGTERM), test_signal);
    g_test_add_data_func("/convert/signal/int", GINT_TO_POINTER(SIGINT), test_signal);
    g_test_add_func("/convert/named", test_named);
    return g_test_run();
}
