/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What farfault prints for people to type is typed, to the letter: by a shell, or at QEMU's human
 * monitor. Each case brings about what is printed, takes the command out of it, and looks at what
 * it has done. All paths have a space and a quote in them.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/snapshotcli.h"
#include "tests/qtest/upgrade-rig.h"

#define ODD "it's a" /* begins the names of files */

/* A guest with two disks, "raw" and "packed" (qcow2), each of 1 MiB of ones; and its snapshot. */
typedef struct {
    Guest *g;
    char *raw, *packed, *file, *overlays;
    char *out;     /* what farfault snapshot said */
    char *said;    /* what the last restore said until the guest ran */
    char *program; /* QEMU */
} Scene;

/* ---- programs -------------------------------------------------------------------------------- */

/* A shell with farfault in its PATH runs LINE. Returns its pid; *SAID: what it says. */
static pid_t type_line(const char *line, FILE **said)
{
    g_autofree char *cli = vm_build_path("cli");
    g_autofree char *path = g_strconcat(cli, ":", g_getenv("PATH"), NULL);
    int fds[2];

    g_test_message("$ %s", line);
    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        g_setenv("PATH", path, TRUE);
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        execl("/bin/sh", "sh", "-c", line, NULL);
        _exit(127);
    }
    close(fds[1]);
    *said = fdopen(fds[0], "r");
    return pid;
}

/* The same, and waits for its end; all that it said (g_free). STATUS -1: any. */
static char *run_line(const char *line, int status)
{
    g_autoptr(GString) all = g_string_new(NULL);
    FILE *said;
    pid_t pid = type_line(line, &said);
    int got, c;

    alarm(TEST_TIMEOUT); /* ends the program: what was to be refused may run for ever */
    while ((c = fgetc(said)) != EOF) {
        g_string_append_c(all, (char)c);
    }
    fclose(said);
    g_assert_cmpint(waitpid(pid, &got, 0), ==, pid);
    alarm(0);
    g_test_message("%s", all->str);
    if (!WIFEXITED(got) || (status >= 0 && WEXITSTATUS(got) != status)) {
        g_error("status %d of: %s\n%s", got, line, all->str);
    }
    return g_string_free(g_steal_pointer(&all), FALSE);
}

static char *run_any(const char *line)
{
    return run_line(line, -1);
}

static char *run_ok(const char *format, ...) G_GNUC_PRINTF(1, 2);

static char *run_ok(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *line = g_strdup_vprintf(format, args);
    va_end(args);
    return run_line(line, 0);
}

/* Of the row NAME of what a command printed (g_free). */
static char *row_of(const char *out, const char *name)
{
    g_autofree char *begin = g_strdup_printf("\n  %-12s ", name);
    const char *at = strstr(out, begin);

    if (!at) {
        g_error("there is no row '%s' in: %s", name, out);
    }
    at += strlen(begin);
    return g_strndup(at, strcspn(at, "\n"));
}

/* What stands between BEGIN and END in TEXT (g_free). */
static char *between(const char *text, const char *begin, const char *end)
{
    const char *at = strstr(text, begin);
    const char *stop = at ? strstr(at, end) : NULL;

    if (!stop) {
        g_error("no '%s' and '%s' in: %s", begin, end, text);
    }
    return g_strndup(at, stop - at);
}

static char *checksum(const char *path)
{
    g_autofree char *bytes = NULL;
    gsize n;

    g_assert_true(g_file_get_contents(path, &bytes, &n, NULL));
    return g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)bytes, n);
}

static void remove_all(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_remove(path);
    }
    g_rmdir(folder);
}

/* ---- the guest ------------------------------------------------------------------------------- */

static char *drive(const char *id, const char *format, const char *path)
{
    return g_strdup_printf("if=none,id=%s,format=%s,file=%s", id, format, path);
}

static bool without_machine; /* the guest has QEMU's default */
static bool copies_on_read;  /* its disk "packed" does */

static void start_guest(Scene *s)
{
    g_autofree char *raw = drive("raw", "raw", s->raw);
    g_autofree char *plain = drive("packed", "qcow2", s->packed);
    g_autofree char *packed = g_strconcat(copies_on_read ? "copy-on-read=on," : "", plain, NULL);
    const char *const args[] = {"-machine", "pc-i440fx-7.2",
                                "-m",       "32M",
                                "-drive",   raw,
                                "-device",  "virtio-blk-pci,drive=raw",
                                "-drive",   packed,
                                "-device",  "virtio-blk-pci,drive=packed",
                                "-name",    "it's a guest",
                                NULL};

    up_start(s->g, s->program, args + (without_machine ? 2 : 0));
}

static void take(Scene *s, const char *const *args)
{
    up_disconnect(s->g);
    Cli cli = cli_start(s->g->monitor, s->file, args, NULL, NULL);
    s->out = cli_succeeds(&cli);
    up_reconnect(s->g);
}

static void end_guest(Scene *s)
{
    qmp_ok(s->g->qmp, "quit", NULL);
    up_disconnect(s->g);
    up_await_qemus(s->g, 0);
}

static void end(Scene *s)
{
    up_disconnect(s->g);
    remove_all(s->overlays);
    up_end(s->g);
    g_free(s->raw);
    g_free(s->packed);
    g_free(s->file);
    g_free(s->overlays);
    g_free(s->out);
    g_free(s->said);
    g_free(s->program);
}

/* Of all cases of /typed/base; the raw disk has a right overlay, so that it is the other that is
 * refused. */
static struct {
    Scene s;
    char *line, *overlay; /* without --disks; in which the guest that was saved has continued */
} shared;

static void end_shared(void)
{
    if (shared.line) {
        end(&shared.s);
        g_free(shared.line);
        g_free(shared.overlay);
        shared.line = NULL;
    }
}

/* FALSE: skipped. PROGRAM (taken): QEMU; NULL: the installed one. */
static bool begin_with(Scene *s, char *program)
{
    const char *why;

    end_shared(); /* a guest's end waits for all processes */
    *s = (Scene){.program = program ? program : up_installed()};
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    s->g = up_new();
    s->raw = g_build_filename(s->g->dir, ODD " disk", NULL);
    s->packed = g_build_filename(s->g->dir, ODD " disk.qcow2", NULL);
    s->file = g_build_filename(s->g->dir, ODD " guest", NULL);
    s->overlays = g_build_filename(s->g->dir, ODD " folder", NULL);
    g_assert_cmpint(g_mkdir(s->overlays, 0700), ==, 0);
    g_autofree char *ones = g_malloc(1 << 20), *raw = g_shell_quote(s->raw);
    g_autofree char *packed = g_shell_quote(s->packed);
    memset(ones, 1, 1 << 20);
    g_assert_true(g_file_set_contents(s->raw, ones, 1 << 20, NULL));
    g_free(run_ok("qemu-img convert -f raw -O qcow2 %s %s", raw, packed));
    up_set_faults(s->g, "never/*/at/never=kill"); /* by which up_processes() knows them */
    start_guest(s);
    return true;
}

static bool begin(Scene *s)
{
    return begin_with(s, NULL);
}

/* The guest's drive DISK has byte WAS in its first half, and gets BECOMES there. */
static void write_disk(Scene *s, const char *disk, int was, int becomes)
{
    g_autofree char *read = g_strdup_printf("qemu-io %s \\\"read -P %d 0 512k\\\"", disk, was);
    g_autofree char *write =
        g_strdup_printf("qemu-io %s \\\"write -P %d 0 512k\\\"", disk, becomes);
    g_autofree char *found = qmp_hmp(s->g->qmp, read), *wrote = qmp_hmp(s->g->qmp, write);
    g_autofree char *flush = g_strdup_printf("qemu-io %s \\\"flush\\\"", disk);
    g_autofree char *flushed = qmp_hmp(s->g->qmp, flush);

    if (strstr(found, "failed") || strstr(wrote, "failed") || strstr(flushed, "failed")) {
        g_error("disk %s: %s%s%s", disk, found, wrote, flushed);
    }
}

static void write_both(Scene *s, int was, int becomes)
{
    write_disk(s, "raw", was, becomes);
    write_disk(s, "packed", was, becomes);
}

/* What LINE has restored, until it runs. Its QEMU is that of s->g from then on. */
static void restore(Scene *s, const char *line)
{
    g_autoptr(GString) all = g_string_new(NULL);
    char text[1024];
    FILE *said;

    type_line(line, &said);
    do {
        if (!fgets(text, sizeof(text), said)) {
            g_error("it has ended, and has restored nothing: %s", line);
        }
        g_test_message("%s", text);
        g_string_append(all, text);
    } while (!strstr(text, "restored: guest ran after "));
    fclose(said);
    g_free(s->said);
    s->said = g_strdup(all->str);
    up_reconnect(s->g);
}

/* ---- a snapshot with its disks --------------------------------------------------------------- */

/* The bases are SUMS, and each overlay that is in use has BYTE. */
static void check_disks(Scene *s, char *const *sums, int byte)
{
    g_autofree char *raw = checksum(s->raw), *packed = checksum(s->packed);

    g_assert_cmpstr(raw, ==, sums[0]);
    g_assert_cmpstr(packed, ==, sums[1]);
    write_both(s, byte, byte);
}

/* QEMU 10 is a script, whose program would be without its libraries (g_free). */
static char *of_program(const Scene *s, const char *line)
{
    const char *begins = strstr(line, " -- ") + strlen(" -- "), *ends = strchr(begins, ' ');

    return g_strdup_printf("%.*s%s%s", (int)(begins - line), line, s->program, ends);
}

/* Whoever does what is printed has the guest of that instant, and whoever continues has theirs. */
static void test_disks(gconstpointer newer)
{
    char *program = newer ? vm_newer_qemu() : NULL;
    Scene s;

    if ((newer && !program) || !begin_with(&s, program)) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    char *sums[] = {NULL, NULL};

    take(&s, args);
    g_autofree char *printed = row_of(s.out, "restore"), *quoted = g_shell_quote(s.file);
    g_autofree char *line = of_program(&s, printed);
    g_autofree char *info = run_ok("farfault info %s", quoted), *same = row_of(info, "restore");
    g_autofree char *first = row_of(s.out, "first"), *first_too = row_of(info, "first");
    g_autofree char *last =
        g_strdup(strstr(s.out, "from now on the guest has to be started with "));

    g_assert_cmpstr(printed, ==, same);
    g_assert_cmpstr(first, ==, first_too);
    g_assert_nonnull(strstr(first, "end this guest"));
    sums[0] = checksum(s.raw);
    sums[1] = checksum(s.packed);
    check_disks(&s, sums, 1);
    write_both(&s, 1, 2);
    end_guest(&s);
    restore(&s, line);
    check_disks(&s, sums, 1);
    write_both(&s, 1, 3);
    check_disks(&s, sums, 3);
    end_guest(&s);
    if (!newer) { /* as often as somebody likes */
        restore(&s, line);
        check_disks(&s, sums, 1);
        end_guest(&s);
    }
    /* The guest that was saved is started with what the last line names. */
    g_free(s.raw);
    g_free(s.packed);
    g_assert_nonnull(last);
    s.raw = between(strchr(last, '/'), "/", " for raw");
    s.packed = between(strstr(last, "packed-20") - strlen(s.overlays) - 1, "/", " for packed");
    start_guest(&s);
    write_both(&s, 2, 2);
    g_free(sums[0]);
    g_free(sums[1]);
    end(&s);
}

static void replace_one(GString *text, const char *from, const char *to)
{
    g_assert_cmpuint(g_string_replace(text, from, to, 1), ==, 1);
}

static unsigned count_files(const char *folder)
{
    g_autoptr(GDir) files = g_dir_open(folder, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(files)) {
        n++;
    }
    return n;
}

/* S's FILE.disks has FILES (JSON) below the bases (g_free: its text before). */
static char *put_below(const Scene *s, const char *files)
{
    g_autofree char *path = g_strconcat(s->file, ".disks", NULL);
    char *was = NULL;

    g_assert_true(g_file_get_contents(path, &was, NULL, NULL));
    g_autofree char *below = g_strconcat("\"below\" : ", files, NULL);
    g_autoptr(GString) text = g_string_new(was);
    g_assert_cmpuint(g_string_replace(text, "\"below\" : []", below, 0), ==, 2);
    g_assert_true(g_file_set_contents(path, text->str, -1, NULL));
    return was;
}

/* Another memory is found by the engine, a missing device by QEMU as it loads; another disk than
 * was kept, or with another format or other files behind it, by the command. A restore that fails
 * leaves no overlay, and names none; one that succeeds names its own, and whose it is. */
static void test_not_restored(void)
{
    static const char as_saved[] = ": start QEMU as the saved guest was started";
    static const char *const wrong[][3] = {
        {" -m 32M ", " -m 16M ", as_saved},
        {" -device virtio-blk-pci,drive=raw ", " -device ide-hd,drive=raw ", as_saved},
        {" disk.qcow2'", " copy.qcow2'", "disk packed: no disk of this QEMU is "},
        {"format=qcow2,file=", "format=raw,file=", " is raw in this QEMU, and was qcow2: "}};
    Scene s;

    if (!begin(&s)) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    take(&s, args);
    end_guest(&s);
    g_autofree char *line = row_of(s.out, "restore"), *quoted = g_shell_quote(s.file);
    g_autofree char *info = run_ok("farfault info %s", quoted), *version = row_of(info, "QEMU");
    g_assert_nonnull(strstr(version, "; with farfault restore 7.2 or newer"));
    unsigned before = count_files(s.overlays);
    g_autofree char *packed = g_shell_quote(s.packed), *list = g_strconcat(s.file, ".disks", NULL);
    g_autofree char *copy = g_build_filename(s.g->dir, ODD " copy.qcow2", NULL);
    g_autofree char *to = g_shell_quote(copy);
    g_free(run_ok("cp %s %s", packed, to));
    for (guint i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GString) typed = g_string_new(line);

        replace_one(typed, wrong[i][0], wrong[i][1]);
        g_autofree char *said = run_line(typed->str, 1);
        g_assert_null(strstr(said, "from now on"));
        g_assert_nonnull(strstr(said, wrong[i][2]));
        g_assert_cmpuint(count_files(s.overlays), ==, before);
    }
    g_autoptr(GString) exchanged = g_string_new(line);
    replace_one(exchanged, "id=raw,", "id=other,");
    replace_one(exchanged, "id=packed,", "id=raw,");
    replace_one(exchanged, "id=other,", "id=packed,");
    g_autofree char *why = run_line(exchanged->str, 1);
    g_assert_nonnull(strstr(why, ", which was disk raw at the snapshot: "));
    static const char *const below[][2] = {{"[\"/dev/null\"]", "has other files behind "},
                                           {"\"/dev/null\"", "is not what farfault snapshot"},
                                           {"[0]", "is not what farfault snapshot"}};
    for (guint i = 0; i < G_N_ELEMENTS(below); i++) {
        g_autofree char *kept = put_below(&s, below[i][0]), *said = run_line(line, 1);

        g_assert_nonnull(strstr(said, below[i][1]));
        g_assert_true(g_file_set_contents(list, kept, -1, NULL));
    }
    restore(&s, line);
    const char *process = strstr(s.said, ", QEMU process ");
    g_assert_nonnull(process);
    g_assert_nonnull(strstr(process, ": from now on the guest has to be started with "));
    g_autofree char *exe =
        g_strdup_printf("/proc/%d/exe", atoi(process + strlen(", QEMU process ")));
    g_autofree char *running = g_file_read_link(exe, NULL);
    g_assert_cmpstr(running, ==, s.program);
    g_assert_cmpuint(count_files(s.overlays), ==, before + 2);
    /* Its own snapshot's command has no monitor of this one's. */
    g_free(g_steal_pointer(&s.out));
    g_autofree char *first = g_steal_pointer(&s.file);
    s.file = g_strconcat(first, " again", NULL);
    take(&s, args);
    g_autofree char *again = row_of(s.out, "restore");
    g_assert_null(strstr(again, "farfault-restore"));
    end_guest(&s);
    restore(&s, again);
    end_guest(&s);
    end(&s);
}

/* WORD between quotes of a shell's (g_free). */
static char *in_quotes(const char *word)
{
    g_auto(GStrv) pieces = g_strsplit(word, "'", -1);

    return g_strjoinv("'\\''", pieces);
}

/* What is in the place of the first %s of FORMAT is PATH, as a shell has it there (g_free). */
static char *with_path(const char *format, const char *path)
{
    g_auto(GStrv) parts = g_strsplit(format, "%s", 2);
    g_autofree char *quoted = in_quotes(path);

    return g_strjoinv(quoted, parts);
}

/* ---- bases that were written since ----------------------------------------------------------- */

/* LINE is refused by the one line that says so of DISK, whose image is PATH; both NULL: of any
 * (g_free: it). */
static char *is_spoiled(const Scene *s, const char *line, const char *disk, const char *path,
                        const char *how)
{
    g_autofree char *which = disk ? g_strdup_printf("disk %s: %s", disk, path) : g_strdup("");
    g_autofree char *says =
        g_strdup_printf("%s was written after the snapshot (%s): the snapshot, and the overlay in "
                        "which the guest went on, no longer fit it",
                        which, how);
    unsigned before = count_files(s->overlays);
    char *said = run_line(line, 1);

    g_assert_nonnull(strstr(said, says));
    g_assert_null(strstr(said, "from now on"));
    g_assert_true(!disk || !strchr(said, '\n')[1]); /* nothing was begun */
    g_assert_cmpuint(count_files(s->overlays), ==, before);
    return said;
}

/* FROM in all of FILE.disks is TO. */
static void put_in_list(const char *list, const char *from, const char *to)
{
    g_autofree char *was = NULL;

    g_assert_true(g_file_get_contents(list, &was, NULL, NULL));
    g_autoptr(GString) text = g_string_new(was);
    g_assert_cmpuint(g_string_replace(text, from, to, 0), ==, 2);
    g_assert_true(g_file_set_contents(list, text->str, -1, NULL));
}

/* With LINE and without --disks, over an overlay of each base that somebody has made. */
static char *line_over(Scene *s, const char *line)
{
    g_autofree char *folder = g_shell_quote(s->overlays);
    g_autofree char *option = g_strdup_printf("--disks %s ", folder);
    g_autoptr(GString) typed = g_string_new(line);
    const char *const bases_of[][2] = {{s->raw, "raw"}, {s->packed, "qcow2"}};

    replace_one(typed, option, "");
    for (guint i = 0; i < G_N_ELEMENTS(bases_of); i++) {
        g_autofree char *own = g_strconcat(bases_of[i][0], ".own", NULL);
        g_autofree char *to = g_shell_quote(own), *from = g_shell_quote(bases_of[i][0]);
        g_autofree char *as_raw = g_strdup_printf("format=%s,file=%%s'", bases_of[i][1]);
        g_autofree char *is = with_path(as_raw, bases_of[i][0]);
        g_autofree char *becomes = with_path("format=qcow2,file=%s'", own);

        g_free(run_ok("qemu-img create -q -f qcow2 -b %s -F %s %s", from, bases_of[i][1], to));
        replace_one(typed, is, becomes);
    }
    return g_strdup(typed->str);
}

/* A guest is started by its old command again, and writes: whatever is restored would have disks
 * that its memory does not know. Images that are put back fit again. */
static void test_written(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    take(&s, args);
    write_both(&s, 1, 2);
    end_guest(&s);
    g_autofree char *line = row_of(s.out, "restore"), *file = g_shell_quote(s.file);
    g_autofree char *raw = g_shell_quote(s.raw), *packed = g_shell_quote(s.packed);
    g_autofree char *list = g_strconcat(s.file, ".disks", NULL), *noted = NULL;
    g_autofree char *over = line_over(&s, line);
    g_assert_nonnull(strstr(s.out, "; started with an image that it had before, it destroys the "
                                   "snapshot and the overlay"));
    g_free(run_ok("cp -p %s %s.copy && cp -p %s %s.copy", raw, raw, packed, packed));
    g_autofree char *fits = run_ok("farfault info %s", file);
    g_assert_null(strstr(fits, "spoiled"));
    g_assert_true(g_file_get_contents(list, &noted, NULL, NULL));

    start_guest(&s);
    write_both(&s, 1, 7);
    end_guest(&s);
    g_free(is_spoiled(&s, line, "raw", s.raw, "its time differs"));
    g_free(is_spoiled(&s, over, NULL, NULL, "its time differs"));
    g_autofree char *info = run_ok("farfault info %s", file), *row = row_of(info, "spoiled");
    g_autofree char *json = run_ok("farfault info --json %s", file);
    g_assert_nonnull(strstr(row, " was written after the snapshot (its time differs): "));
    g_assert_nonnull(strstr(json, "\"spoiled\":\"disk packed: "));
    /* A copy with another time, which the line says how to give back. */
    g_free(run_ok("cp %s.copy %s", raw, raw));
    g_autofree char *said = is_spoiled(&s, line, "raw", s.raw, "its time differs");
    g_autofree char *touch = between(said, "touch -d @", "\n");
    g_free(run_ok("%s", touch));
    g_free(run_ok("qemu-img resize -q --shrink -f raw %s 512k", packed));
    g_free(is_spoiled(&s, line, "packed", s.packed, "size and time differ"));
    /* As from an archive that has whole seconds alone. */
    g_free(run_ok("cp %s.copy %s", packed, packed));
    g_free(run_ok("touch -d \"@$(stat -c %%Y %s.copy)\" %s", packed, packed));
    char *sums[] = {checksum(s.raw), checksum(s.packed)};
    restore(&s, line);
    check_disks(&s, sums, 1);
    end_guest(&s);
    restore(&s, over);
    check_disks(&s, sums, 1);
    end_guest(&s);
    /* Of an older farfault; and of none. */
    put_in_list(list, "\"files\" : [", "\"filed\" : [");
    g_free(run_ok("touch %s", raw));
    restore(&s, line);
    end_guest(&s);
    g_assert_true(g_file_set_contents(list, noted, -1, NULL));
    put_in_list(list, "\"changed\" : \"@", "\"changed\" : \"");
    g_autofree char *wrong = run_line(line, 1);
    g_assert_nonnull(strstr(wrong, " is not what farfault snapshot"));
    g_free(sums[0]);
    g_free(sums[1]);
    end(&s);
}

/* ---- a restored guest that is ended at its terminal ------------------------------------------ */

/* Ctrl-C of LINE, which has a session of its own, when it says WHEN (NULL: when HELD is opened);
 * all that it says behind that (g_free). */
static char *interrupt(const char *line, const char *when, const char *held)
{
    g_autofree char *own = g_strconcat("exec setsid ", strstr(line, "farfault restore"), NULL);
    g_autoptr(GString) all = g_string_new(NULL);
    char text[1024];
    FILE *said;
    pid_t pid = type_line(own, &said);
    int got;

    alarm(TEST_TIMEOUT);
    if (held) {
        int fd = open(held, O_WRONLY | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        close(fd);
    }
    while (when && fgets(text, sizeof(text), said) && !strstr(text, when)) {
        g_test_message("%s", text);
    }
    g_assert_cmpint(kill(-pid, SIGINT), ==, 0);
    while (fgets(text, sizeof(text), said)) {
        g_test_message("%s", text);
        g_string_append(all, text);
    }
    fclose(said);
    g_assert_cmpint(waitpid(pid, &got, 0), ==, pid);
    alarm(0);
    return g_string_free(g_steal_pointer(&all), FALSE);
}

/* If the guest has run its overlays are named once more; if it has never come they go. */
static void test_interrupted(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    g_autofree char *hold = g_build_filename(s.g->dir, "hold", NULL);
    g_autofree char *held = g_build_filename(s.g->dir, "held", NULL);
    g_autofree char *faults = g_strconcat(s.g->dir, ";destination/*/at/loaded=hold", NULL);
    take(&s, args);
    end_guest(&s);
    g_autofree char *line = row_of(s.out, "restore");
    unsigned before = count_files(s.overlays);

    g_autofree char *ran = interrupt(line, "restored: guest ran after ", NULL);
    g_autofree char *names =
        g_strdup_printf(" has ended: what its guest wrote is in %s/raw-20", s.overlays);
    g_assert_nonnull(strstr(ran, names));
    g_assert_cmpuint(count_files(s.overlays), ==, before + 2);
    up_await_qemus(s.g, 0);
#ifdef FF_FAULTS
    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    g_assert_cmpint(mkfifo(held, 0600), ==, 0);
    g_setenv("FARFAULT_FAULTS", faults, TRUE);
    g_autofree char *not_yet = interrupt(line, NULL, held);
    g_unsetenv("FARFAULT_FAULTS");
    g_assert_null(strstr(not_yet, "from now on"));
    g_assert_null(strstr(not_yet, "has ended"));
    g_assert_cmpuint(count_files(s.overlays), ==, before + 2);
#endif
    end(&s);
}

/* QEMU keeps storing in the base what is read from behind it: the disk is the same. */
static void test_copy_on_read(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    end_guest(&s);
    g_autofree char *below = g_steal_pointer(&s.packed), *from = g_shell_quote(below);
    s.packed = g_strconcat(below, ".front", NULL);
    g_autofree char *front = g_shell_quote(s.packed), *size = NULL, *now = NULL;
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    g_free(run_ok("qemu-img create -q -f qcow2 -b %s -F qcow2 %s", from, front));
    g_free(run_ok("touch -d 1960-01-01 %s", from)); /* as some archives have it */
    copies_on_read = true;
    start_guest(&s);
    copies_on_read = false;
    take(&s, args);
    g_autofree char *line = row_of(s.out, "restore"), *file = g_shell_quote(s.file);
    size = run_ok("stat -c %%s %s", front);
    write_both(&s, 1, 2);
    end_guest(&s);
    now = run_ok("stat -c %%s %s", front);
    g_assert_cmpstr(size, !=, now);
    g_autofree char *info = run_ok("farfault info %s", file);
    g_assert_null(strstr(info, "spoiled"));
    char *sums[] = {checksum(s.raw), checksum(s.packed)};
    restore(&s, line);
    check_disks(&s, sums, 1);
    end_guest(&s);
    g_free(sums[0]);
    g_free(sums[1]);
    end(&s);
}

/* What stands in TEXT behind BEGIN, and before END (g_free). */
static char *behind(const char *text, const char *begin, const char *end)
{
    g_autofree char *all = between(text, begin, end);

    return g_strdup(all + strlen(begin));
}

/* The guest's own command line, with its machine's version, RAW and PACKED in the place of its
 * disks: the file with it (g_free). */
static char *args_with(const Scene *s, const char *raw, const char *packed)
{
    char *path = g_build_filename(s->g->dir, "args", NULL);
    g_autofree char *raw_was = drive("raw", "raw", s->raw), *raw_is = drive("raw", "raw", raw);
    g_autofree char *packed_was = drive("packed", "qcow2", s->packed);
    g_autofree char *packed_is = drive("packed", "qcow2", packed);
    g_autoptr(GString) text = g_string_new("-machine pc-i440fx-7.2");

    for (char **word = s->g->args; *word; word++) {
        g_autofree char *quoted = g_shell_quote(!strcmp(*word, raw_was)      ? raw_is
                                                : !strcmp(*word, packed_was) ? packed_is
                                                                             : *word);
        g_string_append_printf(text, " %s", quoted);
    }
    g_assert_true(g_file_set_contents(path, text->str, -1, NULL));
    return path;
}

/* Whoever has it started with what TEXT prints has its disks, and nothing else has them. */
static void upgrade_by(Scene *s, const char *text, const char *program)
{
    g_autofree char *raw = behind(text, "guest has to be started with ", " for raw");
    g_autofree char *packed = behind(text, " for raw, ", " for packed");
    g_autofree char *said = NULL, *why = NULL;

    g_free(args_with(s, raw, s->packed));
    g_autofree char *args = g_build_filename(s->g->dir, "args", NULL);
    const char *const typed[] = {"--qemu", program, "--args-from", args, NULL};
    g_assert_cmpint(up_run(s->g, typed, &why), ==, 1);
    g_autofree char *fix = g_strdup_printf("command line with file=%s for it", packed);
    g_assert_nonnull(strstr(why, fix));
    g_free(args_with(s, raw, packed));
    g_assert_cmpint(up_run(s->g, typed, &said), ==, 0);
    up_reconnect(s->g);
}

/* A second snapshot's command has the disks of its instant, not those that the guest was started
 * with; the first one's bases are its own as well. The guest had no -machine. */
static void test_twice(void)
{
    g_autofree char *newer = vm_newer_qemu(), *older = up_installed();
    Scene s;

    without_machine = true;
    bool begun = begin(&s);
    without_machine = false;
    if (!begun) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", NULL};
    take(&s, args);
    char *sums[] = {checksum(s.raw), checksum(s.packed)};
    g_autofree char *first = g_steal_pointer(&s.out), *file = g_steal_pointer(&s.file);
    g_autofree char *once = row_of(first, "restore"), *quoted = g_shell_quote(file);
    s.file = g_strconcat(file, " again", NULL);
    write_both(&s, 1, 2);
    take(&s, args);
    write_both(&s, 2, 3);
    upgrade_by(&s, s.out, older);
    write_both(&s, 3, 4);
    end_guest(&s);
    /* The first one's disks with the second one's memory. */
    g_autofree char *again = g_shell_quote(s.file), *line = row_of(s.out, "restore");
    g_autofree char *folder = g_shell_quote(s.overlays);
    g_autofree char *option = g_strdup_printf("--disks %s ", folder);
    g_autoptr(GString) mixed = g_string_new(once);
    replace_one(mixed, quoted, again);
    g_autofree char *not_it = run_line(mixed->str, 1);
    g_assert_nonnull(strstr(not_it, "disk raw: no disk of this QEMU is "));
    replace_one(mixed, option, "");
    g_autofree char *refused = run_line(mixed->str, 1);
    g_assert_nonnull(strstr(refused, ", which belongs to the snapshot: give it an overlay"));
    g_assert_nonnull(strstr(line, " -machine pc-i440fx-7.2 "));
    restore(&s, line);
    check_disks(&s, sums, 2);
    upgrade_by(&s, s.said, newer ? newer : older);
    write_both(&s, 2, 5);
    check_disks(&s, sums, 5);
    end_guest(&s);
    g_free(sums[0]);
    g_free(sums[1]);
    end(&s);
}

typedef struct {
    const char *name, *from, *to; /* what is put in the place of what */
    bool given;                   /* the shell opens it */
    const char *says;             /* of the disk; NULL: that it is written to */
} Base;

static const Base bases[] = {
    {"drive", NULL, NULL},
    {"blockdev", "-drive 'if=none,id=packed,format=qcow2,file=%s'",
     "-blockdev 'qcow2,node-name=packed,file.driver=file,file.filename=%s'"},
    {"json", "-drive 'if=none,id=packed,format=qcow2,file=%s'",
     "-blockdev '{\"driver\": \"qcow2\", \"node-name\": \"packed\", \"file\": {\"driver\": "
     "\"file\", \"filename\": \"%s\"}}'"},
    {"link", "file=%s", "file=%s.link"},
    {"fd", "file=%s' -device", "file=/dev/fdset/5' -add-fd fd=9,set=5 -add-fd fd=8,set=5 -device",
     true},
    {"overlay", "file=%s", "file=OVERLAY"},
    /* What came later, which is only read. */
    {"behind", "file=%s", "file=BEHIND", false, "this QEMU reads "},
};

static bool begin_shared(void)
{
    Scene *s = &shared.s;

    if (shared.line || !begin(s)) {
        return shared.line;
    }
    const char *const args[] = {"--disks", s->overlays, "--quiet", NULL};
    take(s, args);
    end_guest(s);
    g_autofree char *printed = row_of(s->out, "restore"), *folder = g_shell_quote(s->overlays);
    g_autofree char *option = g_strdup_printf("--disks %s ", folder);
    g_autofree char *link = g_strconcat(s->packed, ".link", NULL);
    g_autofree char *over = g_build_filename(s->overlays, "own.qcow2", NULL);
    g_autofree char *raw = g_shell_quote(s->raw), *own = g_shell_quote(over);
    g_autofree char *base = with_path("format=raw,file=%s'", s->raw);
    g_autofree char *right = with_path("format=qcow2,file=%s'", over);
    g_autofree char *last = between(s->out, " for raw, ", ",format=qcow2 for packed");
    g_autoptr(GString) line = g_string_new(printed);

    replace_one(line, option, "");
    replace_one(line, base, right);
    g_assert_cmpint(symlink(s->packed, link), ==, 0);
    g_free(run_ok("qemu-img create -q -f qcow2 -b %s -F raw %s", raw, own));
    shared.overlay = g_strdup(last + strlen(" for raw, "));
    shared.line = g_strdup(line->str);
    return true;
}

/* A command that has a base in any way is refused; nothing is written, and nothing left. */
static void test_base(gconstpointer data)
{
    const Base *b = data;

    if (!begin_shared()) {
        return;
    }
    g_autofree char *sum = checksum(shared.s.packed);
    g_autofree char *overlay = in_quotes(shared.overlay), *path = in_quotes(shared.s.packed);
    g_autofree char *later = g_build_filename(shared.s.overlays, "later.qcow2", NULL);
    g_autofree char *quoted = g_shell_quote(later), *front = g_shell_quote(shared.overlay);
    g_autofree char *behind = in_quotes(later);
    g_autofree char *says =
        g_strdup_printf("disk packed: %s", b->says ? b->says : "this QEMU can write to ");
    g_autoptr(GString) typed = g_string_new(shared.line);

    g_free(run_ok("qemu-img create -q -f qcow2 -b %s -F qcow2 %s", front, quoted));

    if (b->from) {
        g_autofree char *from = with_path(b->from, shared.s.packed);
        g_autofree char *to = with_path(b->to, shared.s.packed);

        replace_one(typed, from, to);
        g_string_replace(typed, "OVERLAY", overlay, 1);
        g_string_replace(typed, "BEHIND", behind, 1);
    }
    if (b->given) {
        g_string_append_printf(typed, " 9<>'%s' 8<'%s'", path, path);
    }
    g_autofree char *said = run_line(typed->str, 1), *after = checksum(shared.s.packed);
    g_assert_nonnull(strstr(said, says));
    g_assert_cmpstr(after, ==, sum);
}

/* Clients that ask by QMP are refused before anything has begun. */
static void test_asked(void)
{
    static const char said[] = "disk raw: this QEMU can write to ";
    Scene *s = &shared.s;

    g_autofree char *newer = vm_newer_qemu(); /* which has mapped-ram */
    if (!newer || !begin_shared()) {
        return;
    }
    g_autofree char *raw = drive("raw", "raw", s->raw);
    g_autofree char *link = g_build_filename(s->g->dir, "link", NULL);
    const char *const args[] = {"-machine",  "pc-i440fx-7.2",
                                "-m",        "32M",
                                "-drive",    raw,
                                "-device",   "virtio-blk-pci,drive=raw",
                                "-incoming", "defer",
                                NULL};
    g_autofree char *both = g_build_filename(s->g->dir, "both", NULL);
    g_autofree char *disks = g_strconcat(s->file, ".disks", NULL);
    g_autofree char *beside = g_strconcat(both, ".disks", NULL);
    const char *const files[] = {both, link}; /* FILE.disks is beside this name; beside its own */

    g_assert_cmpint(symlink(s->file, link), ==, 0);
    g_assert_cmpint(symlink(s->file, both), ==, 0);
    g_assert_cmpint(symlink(disks, beside), ==, 0);
    g_unlink(s->g->monitor);
    g_clear_pointer(&s->g->args, g_strfreev);
    up_start(s->g, newer, args);
    Qmp *q = s->g->qmp;
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *why = qmp_error(q, "x-farfault-restore", "{'file': '%s'}", files[i]);
        g_assert_nonnull(strstr(why, said));
    }
    qmp_ok(q, "migrate-set-capabilities",
           "{'capabilities': [{'capability': 'mapped-ram', 'state': true},"
           " {'capability': 'postcopy-ram', 'state': true}]}");
    g_autofree char *lazy = qmp_error(q, "migrate-incoming", "{'uri': 'file:%s'}", link);
    g_assert_nonnull(strstr(lazy, said));
    g_autofree char *state = qmp_run_state(q);
    g_assert_cmpstr(state, ==, "inmigrate");
    g_unlink(link);
    end_guest(s);
}

/* Whose disks were left alone is given no command that would run it over them. */
static void test_left_alone(void)
{
    static const char *const args[] = {"--quiet", NULL};
    Scene s;

    if (!begin(&s)) {
        return;
    }
    take(&s, args);
    g_autofree char *line = row_of(s.out, "restore");

    g_assert_null(strstr(line, "qemu-system"));
    g_assert_nonnull(strstr(line, "the guest's disks as they were at this instant"));
    g_autofree char *quoted = g_shell_quote(s.file);
    g_autofree char *info = run_ok("farfault info %s", quoted), *said = row_of(info, "restore");
    g_assert_nonnull(strstr(said, "as the guest had it, with -machine pc-i440fx-7.2"));
    g_autofree char *json = run_ok("farfault info --json %s", quoted);
    g_assert_nonnull(strstr(json, "\"qemu-at-least-farfault\":\"7.2\""));
    end_guest(&s);
    end(&s);
}

/* The same of a guest whose command line has a disk that it does not have any more, or says itself
 * what is behind an image: by that its overlay would be of another one. */
static void test_other_image(gconstpointer name)
{
    bool mirror = !strcmp(name, "mirror");
    Scene s;

    if (!begin(&s)) {
        return;
    }
    const char *const with[] = {"--disks", s.overlays, "--quiet", NULL};
    g_autofree char *own = g_build_filename(s.g->dir, "own.qcow2", NULL);
    g_autofree char *packed = g_shell_quote(s.packed), *to = g_shell_quote(own);

    if (mirror) {
        qmp_ok(s.g->qmp, "drive-mirror",
               "{'device': 'packed', 'job-id': 'job', 'sync': 'full', 'target': '%s'}", own);
        qmp_expect(s.g->qmp, "BLOCK_JOB_READY");
        qmp_ok(s.g->qmp, "block-job-complete", "{'device': 'job'}");
        qmp_expect(s.g->qmp, "BLOCK_JOB_COMPLETED");
    } else {
        g_autofree char *disk = g_strdup_printf(
            "driver=qcow2,node-name=packed,file.driver=file,file.filename=%s,backing.driver=qcow2,"
            "backing.file.driver=file,backing.file.filename=%s",
            own, s.packed);
        const char *const args[] = {"-machine",  "pc-i440fx-7.2",
                                    "-m",        "32M",
                                    "-blockdev", disk,
                                    "-device",   "virtio-blk-pci,drive=packed",
                                    NULL};

        end_guest(&s);
        g_free(run_ok("qemu-img create -q -f qcow2 -b %s -F qcow2 %s", packed, to));
        g_clear_pointer(&s.g->args, g_strfreev);
        up_start(s.g, s.program, args);
        take(&s, with);
        g_autofree char *first = row_of(s.out, "restore"), *as_given = in_quotes(own);
        g_assert_nonnull(strstr(first, as_given)); /* nothing has come in front yet */
        g_free(s.out);
        g_autofree char *file = g_steal_pointer(&s.file);
        s.file = g_strconcat(file, " again", NULL);
    }
    take(&s, with);
    g_autofree char *line = row_of(s.out, "restore");
    g_assert_null(strstr(line, "qemu-system"));
    g_assert_nonnull(strstr(line, "the guest's disks as they were at this instant"));
    end_guest(&s);
    end(&s);
}

/* ---- an ordinary stream ---------------------------------------------------------------------- */

/* The word NEW of LINE is the file NAME of the guest's folder, which has to be new (g_free). */
static char *with_new(const Scene *s, const char *line, const char *name)
{
    g_autofree char *path = g_build_filename(s->g->dir, name, NULL), *quoted = g_shell_quote(path);
    g_autoptr(GString) text = g_string_new(line);

    g_assert_cmpuint(g_string_replace(text, " NEW", " ", 1), ==, 1);
    return g_strconcat(text->str, quoted, NULL);
}

/* Of the disk NAME; the overlay that the command makes (g_free). */
static char *make_overlay(const Scene *s, const char *disk)
{
    g_autofree char *begin = g_strdup_printf(" for disk %s: stock QEMU gets", disk);
    g_autofree char *row = between(s->out, begin, "\n");
    g_autofree char *line = with_new(s, strstr(row, "qemu-img create"), disk);

    g_free(run_line(line, 0));
    return g_build_filename(s->g->dir, disk, NULL);
}

/* Restored by stock QEMU, over the overlays that the lines say; and made mapped-ram. */
static void test_stream(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    const char *const args[] = {"--disks", s.overlays, "--quiet", "--format", "stream", NULL};

    take(&s, args);
    end_guest(&s);
    g_autofree char *raw = make_overlay(&s, "raw"), *packed = make_overlay(&s, "packed");
    char *sums[] = {checksum(s.raw), checksum(s.packed)};
    g_autofree char *incoming = row_of(s.out, "restore");
    g_autofree char *line = g_strdup_printf(
        "exec qemu-system-x86_64 -nodefaults -display none -accel tcg -serial null -machine "
        "pc-i440fx-7.2 -m 32M -drive if=none,id=raw,file=%s,format=qcow2 -device "
        "virtio-blk-pci,drive=raw -drive if=none,id=packed,file=%s,format=qcow2 -device "
        "virtio-blk-pci,drive=packed -qmp unix:%s,server=on %s",
        raw, packed, s.g->monitor, incoming);
    FILE *said;

    g_unlink(s.g->monitor);
    type_line(line, &said); /* it waits for us */
    up_await_monitor(s.g);
    qmp_expect(s.g->qmp, "RESUME");
    check_disks(&s, sums, 1);
    write_both(&s, 1, 2);
    check_disks(&s, sums, 2);
    end_guest(&s);
    fclose(said);
    g_autofree char *quoted = g_shell_quote(s.file);
    g_autofree char *typed = g_strdup_printf("farfault restore %s -- qemu-system-x86_64", quoted);
    g_autofree char *refused = run_line(typed, 1);
    g_autofree char *convert = with_new(&s, g_strchomp(strstr(refused, "farfault convert")), "new");
    g_free(run_line(convert, 0));
    g_autofree char *info = run_ok("farfault info %s/new", s.g->dir);
    g_assert_nonnull(strstr(info, "format       mapped-ram"));
    g_assert_nonnull(strstr(info, "for disk packed: stock QEMU gets an overlay"));
    g_assert_nonnull(strstr(info, "farfault restore --disks DIRECTORY "));
    g_free(sums[0]);
    g_free(sums[1]);
    end(&s);
}

/* ---- a guest without its relay --------------------------------------------------------------- */

static void test_attach(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    pid_t qemu = up_only_qemu(s.g);
    g_autoptr(GArray) others = up_processes(s.g);
    g_autofree char *wanted = g_strdup_printf("farfault attach %d", (int)qemu);

    up_disconnect(s.g);
    for (guint i = 0; i < others->len; i++) {
        pid_t pid = g_array_index(others, pid_t, i);
        struct pollfd ends = {.fd = pidfd_open(pid, 0), .events = POLLIN};

        kill(pid, SIGKILL);
        g_assert_cmpint(poll(&ends, 1, -1), ==, 1);
        close(ends.fd);
        waitpid(pid, NULL, WNOHANG); /* if it is a child of ours by now */
    }
    g_autofree char *doctor = run_any("farfault doctor");
    g_autofree char *status = run_any("farfault status");
    g_assert_nonnull(strstr(doctor, wanted));
    g_assert_nonnull(strstr(status, wanted));
    g_free(run_line(wanted, 0));
    up_reconnect(s.g);
    write_both(&s, 1, 2);
    end_guest(&s);
    end(&s);
}

/* ---- a guest that is stopped by a signal ----------------------------------------------------- */

static void test_stopped(void)
{
    Scene s;

    if (!begin(&s)) {
        return;
    }
    pid_t qemu = up_only_qemu(s.g);
    g_autofree char *wanted = g_strdup_printf("kill -CONT %d", (int)qemu);
    siginfo_t info;

    kill(qemu, SIGSTOP);
    g_assert_cmpint(waitid(P_PID, (id_t)qemu, &info, WSTOPPED), ==, 0);
    g_autofree char *doctor = run_any("farfault doctor");
    g_assert_nonnull(strstr(doctor, wanted));
    g_free(run_line(wanted, 0));
    write_both(&s, 1, 2);
    end_guest(&s);
    end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/typed/disks", NULL, test_disks);
    g_test_add_data_func("/typed/disks/newer", "newer", test_disks);
    g_test_add_func("/typed/twice", test_twice);
    for (guint i = 0; i < G_N_ELEMENTS(bases); i++) {
        g_autofree char *path = g_strconcat("/typed/base/", bases[i].name, NULL);

        g_test_add_data_func(path, &bases[i], test_base);
    }
    g_test_add_func("/typed/base/asked", test_asked);
    g_test_add_func("/typed/not-restored", test_not_restored);
    g_test_add_func("/typed/written", test_written);
    g_test_add_func("/typed/copy-on-read", test_copy_on_read);
    g_test_add_func("/typed/interrupted", test_interrupted);
    g_test_add_func("/typed/left-alone", test_left_alone);
    g_test_add_data_func("/typed/other-image/mirror", "mirror", test_other_image);
    g_test_add_data_func("/typed/other-image/backing", "backing", test_other_image);
    g_test_add_func("/typed/stream", test_stream);
    g_test_add_func("/typed/attach", test_attach);
    g_test_add_func("/typed/stopped", test_stopped);
    int rc = g_test_run();
    end_shared();
    return rc;
}
