/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lease on the file of a restore, with writers in processes of their own: who is held back, who
 * is told, and what the next engine finds of one that has died.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migration/restore/lease.h"

#define CUT (-1) /* truncate() in place of open() */

typedef struct {
    char *path;
    int fd;
    int told; /* how often */
} World;

typedef struct {
    pid_t pid;
    int over; /* a byte comes from it: errno, or 0 */
} Writer;

static void waits(void *opaque)
{
    ((World *)opaque)->told++;
}

/* FALSE: skipped. */
static bool begin(World *w)
{
    g_autofree char *seconds = NULL;

    *w = (World){0};
    int fd = g_file_open_tmp("ff-lease-XXXXXX", &w->path, NULL);
    g_assert_cmpint(write(fd, "12345678", 8), ==, 8);
    close(fd);
    w->fd = open(w->path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(w->fd, >=, 0);
    bool some = fcntl(w->fd, F_SETLEASE, F_RDLCK) == 0 && fcntl(w->fd, F_SETLEASE, F_UNLCK) == 0 &&
                g_file_get_contents("/proc/sys/fs/lease-break-time", &seconds, NULL, NULL) &&
                g_ascii_strtoull(seconds, NULL, 10) >= 20;
    if (!some) {
        g_test_skip("no leases here, or too short ones");
    }
    return some;
}

static void end(World *w)
{
    close(w->fd);
    g_unlink(w->path);
    g_free(w->path);
}

static Writer start_writer(const World *w, int flags)
{
    Writer writer;
    int ends[2];

    g_assert_cmpint(pipe(ends), ==, 0);
    writer = (Writer){fork(), ends[0]};
    g_assert_cmpint(writer.pid, >=, 0);
    if (writer.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int rc = flags == CUT ? truncate(w->path, 0) : open(w->path, flags);
        char byte = rc < 0 ? (char)errno : 0;
        _exit(write(ends[1], &byte, 1) != 1);
    }
    close(ends[1]);
    return writer;
}

static bool is_over_in(const Writer *writer, int ms)
{
    struct pollfd p = {.fd = writer->over, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

static bool is_over(const Writer *writer)
{
    return is_over_in(writer, 0);
}

/* What became of it: 0 or an errno. */
static int finish(Writer *writer)
{
    char byte = -1;

    g_assert_cmpint(read(writer->over, &byte, 1), ==, 1);
    g_assert_cmpint(waitpid(writer->pid, NULL, 0), ==, writer->pid);
    close(writer->over);
    return byte;
}

static FfLease *take(World *w)
{
    return ff_lease_take(w->fd, w->path, NULL, waits, w);
}

static void wait_told(const World *w)
{
    while (!w->told) {
        g_main_context_iteration(NULL, TRUE);
    }
}

/* ---- one that is had ------------------------------------------------------------------------- */

static void test_held_back(gconstpointer flags)
{
    World w;

    if (begin(&w)) {
        FfLease *l = take(&w);
        g_assert_nonnull(l);
        g_assert_cmpint(w.told, ==, 0);
        Writer writer = start_writer(&w, GPOINTER_TO_INT(flags));

        wait_told(&w);
        g_assert_false(is_over(&writer));
        ff_lease_end(l);
        g_assert_cmpint(finish(&writer), ==, 0);
        g_assert_cmpint(w.told, ==, 1);
    }
    end(&w);
}

/* A process that does not want to wait is told so, and the others are held back as before. */
static void test_nonblock(void)
{
    World w;

    if (begin(&w)) {
        FfLease *l = take(&w);
        Writer first = start_writer(&w, O_WRONLY | O_NONBLOCK);

        g_assert_cmpint(finish(&first), ==, EWOULDBLOCK);
        wait_told(&w);
        ff_lease_end(l);
        Writer second = start_writer(&w, O_WRONLY | O_NONBLOCK);
        g_assert_cmpint(finish(&second), ==, 0);
    }
    end(&w);
}

/* A process that reads is in nobody's way. */
static void test_reader(void)
{
    World w;

    if (begin(&w)) {
        FfLease *l = take(&w);
        Writer reader = start_writer(&w, O_RDONLY);

        g_assert_cmpint(finish(&reader), ==, 0);
        g_assert_false(g_main_context_iteration(NULL, FALSE));
        ff_lease_end(l);
        g_assert_cmpint(w.told, ==, 0);
    }
    end(&w);
}

/* Two guests of one file: a writer waits for both. */
static void test_two(void)
{
    World w;

    if (begin(&w)) {
        int other = open(w.path, O_RDONLY | O_CLOEXEC);
        FfLease *l = take(&w);

        g_assert_cmpint(fcntl(other, F_SETLEASE, F_RDLCK), ==, 0);
        Writer writer = start_writer(&w, O_WRONLY);
        wait_told(&w);
        g_assert_cmpint(fcntl(other, F_GETLEASE), ==, F_UNLCK);
        ff_lease_end(l);
        g_assert_false(is_over(&writer));
        g_assert_cmpint(fcntl(other, F_SETLEASE, F_UNLCK), ==, 0); /* the writer has a copy, too */
        close(other);
        g_assert_cmpint(finish(&writer), ==, 0);
    }
    end(&w);
}

/* ---- one of an engine that has died ---------------------------------------------------------- */

static void take_and_die(World *w)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        _exit(!take(w));
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(fcntl(w->fd, F_GETLEASE), ==, F_RDLCK);
}

/* The next one is told of a process that comes after its beginning. */
static void test_kept(void)
{
    World w;

    if (begin(&w)) {
        take_and_die(&w);
        FfLease *l = take(&w);
        g_assert_nonnull(l);
        g_assert_cmpint(w.told, ==, 0);
        Writer writer = start_writer(&w, O_RDWR);

        wait_told(&w);
        ff_lease_end(l);
        g_assert_cmpint(finish(&writer), ==, 0);
    }
    end(&w);
}

/* It finds the one that came before, and lets it in. */
static void test_kept_broken(void)
{
    World w;

    if (begin(&w)) {
        take_and_die(&w);
        Writer writer = start_writer(&w, O_RDWR);
        /* Nobody is told, and the kernel has no other event for it. */
        while (fcntl(w.fd, F_GETLEASE) == F_RDLCK) {
            g_usleep(1000);
        }
        FfLease *l = take(&w);
        g_assert_nonnull(l);
        g_assert_cmpint(w.told, ==, 1);
        g_assert_false(is_over(&writer));
        ff_lease_end(l);
        g_assert_cmpint(finish(&writer), ==, 0);
    }
    end(&w);
}

/* ---- of a file that changes its owner -------------------------------------------------------- */

#define NOBODY 65534
#define SOON_MS 10000 /* less than the kernel has him wait */

/* An engine of that user's, and perhaps one before it. 0: all was right. */
static int lives_as_nobody(World *w, int go, int went, bool killed)
{
    FfLease *l = NULL;
    char byte = 0;

    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) { /* another user's would be forgotten */
        return 1;
    }
    World own = {.path = w->path, .fd = ff_lease_open(w->fd)};
    if (killed) {
        take_and_die(&own);
    } else {
        l = take(&own);
    }
    if (write(went, &byte, 1) != 1 || read(go, &byte, 1) != 1) {
        return 2;
    }
    l = l ? l : take(&own);
    if (!l || own.told || write(went, &byte, 1) != 1) {
        return 3;
    }
    wait_told(&own);
    ff_lease_end(l);
    close(own.fd);
    /* What is read is open still. */
    return write(went, &byte, 1) == 1 && read(go, &byte, 1) == 1 ? 0 : 4;
}

static void test_chown(gconstpointer killed)
{
    int go[2], went[2], status;
    char byte = 0;
    World w;

    if (begin(&w) && geteuid() == 0) {
        g_assert_cmpint(pipe(go) | pipe(went), ==, 0);
        g_assert_cmpint(chown(w.path, NOBODY, NOBODY), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
            _exit(lives_as_nobody(&w, go[0], went[1], killed != NULL));
        }
        close(went[1]);
        g_assert_cmpint(read(went[0], &byte, 1), ==, 1);
        g_assert_cmpint(chown(w.path, 0, 0), ==, 0);
        g_assert_cmpint(write(go[1], &byte, 1), ==, 1);
        g_assert_cmpint(read(went[0], &byte, 1), ==, 1);
        Writer writer = start_writer(&w, O_WRONLY);
        g_assert_cmpint(read(went[0], &byte, 1), ==, 1);
        g_assert_true(is_over_in(&writer, SOON_MS));
        g_assert_cmpint(finish(&writer), ==, 0);
        g_assert_cmpint(write(go[1], &byte, 1), ==, 1);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        close(go[0]);
        close(go[1]);
        close(went[0]);
    } else if (geteuid() != 0) {
        g_test_skip("for root alone");
    }
    end(&w);
}

/* ---- none ------------------------------------------------------------------------------------ */

static void test_written_to(void)
{
    World w;

    if (begin(&w)) {
        int fd = open(w.path, O_WRONLY | O_CLOEXEC);

        g_assert_null(take(&w));
        Writer writer = start_writer(&w, O_WRONLY);
        g_assert_cmpint(finish(&writer), ==, 0);
        /* The next attempt has nothing of this one. */
        g_assert_null(take(&w));
        close(fd);
        FfLease *l = take(&w);
        g_assert_nonnull(l);
        ff_lease_end(l);
        g_assert_cmpint(w.told, ==, 0);
    }
    end(&w);
}

static void test_no_file(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    g_assert_null(ff_lease_take(fd, "/dev/null", NULL, waits, NULL));
    close(fd);
}

int main(int argc, char **argv)
{
    ff_lease_init();
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/lease/held-back/write", GINT_TO_POINTER(O_WRONLY), test_held_back);
    g_test_add_data_func("/lease/held-back/read-write", GINT_TO_POINTER(O_RDWR), test_held_back);
    g_test_add_data_func("/lease/held-back/overwrite", GINT_TO_POINTER(O_WRONLY | O_TRUNC),
                         test_held_back);
    g_test_add_data_func("/lease/held-back/truncate", GINT_TO_POINTER(CUT), test_held_back);
    g_test_add_func("/lease/nonblock", test_nonblock);
    g_test_add_func("/lease/reader", test_reader);
    g_test_add_func("/lease/two", test_two);
    g_test_add_func("/lease/kept", test_kept);
    g_test_add_func("/lease/kept-broken", test_kept_broken);
    g_test_add_data_func("/lease/chown", NULL, test_chown);
    g_test_add_data_func("/lease/chown-killed", "", test_chown);
    g_test_add_func("/lease/written-to", test_written_to);
    g_test_add_func("/lease/no-file", test_no_file);
    return g_test_run();
}
