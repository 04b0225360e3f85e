/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random deaths and failures while guests are restored lazily. A round restores a copy of a file
 * that was saved at the beginning, and does up to four of these meanwhile:
 *
 *   the engine is killed, or stands for a while    QEMU stands for a while, or is killed
 *   a read fails                                   the file is written to, and put right again
 *   migrate-pause                                  a snapshot is asked for, and perhaps cancelled
 *   the file is opened for writing, which waits while its guest needs it
 *
 * It may learn a working set, or read one. Whatever pauses is repaired and recovered. In the end
 * this QEMU has ended before its guest could run (the engine was killed early), or was killed, and
 * the file is restored once more; else the guest is right: one that was saved standing is compared
 * byte for byte, one that ran has checked each of its counters, which zeros for data would break.
 *
 * Files: of farfault, QEMU 7.2; with --newer also of stock QEMU 10, restored by both.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/qtest/restore-rig.h"

#define ACTIONS 4
#define MOMENT_US 40000 /* between two of them, at most */
#define LOOK_US 2000

static const RestoreRow kinds[] = {
    {"ran", OURS, OLD, OLD, COMMAND, .machine = RESTORE_PC, .n_cpus = 2},
    {"stood", OURS, OLD, OLD, COMMAND, .stopped = true, .machine = RESTORE_PC, .n_cpus = 2},
    {"stock, stood", STOCK, NEW, OLD, COMMAND, .stopped = true, .machine = RESTORE_PC, .n_cpus = 2},
    {"stock, 10", STOCK, NEW, NEW, INCOMING, .stopped = true, .machine = "q35", .n_cpus = 1},
};
#define OLD_KINDS 2

static RestoreScene scenes[G_N_ELEMENTS(kinds)];
static struct {
    unsigned right, ended, guests_killed, engines_killed, paused, snapshots, writers;
} total;

typedef struct {
    GRand *rand;
    RestoreScene s;
    Vm *vm;
    struct stat file; /* as it was */
    bool asked;       /* for a snapshot, */
    bool accepted;    /* and it was promised */
    bool killed;      /* the guest */
    pid_t writer;     /* 0: none */
} Round;

static int below(Round *r, int n)
{
    return g_rand_int_range(r->rand, 0, n);
}

/* An error is none of ours: the moment was another one. FALSE: it is one, or QEMU has ended. */
static bool say(Round *r, const char *command, const char *name, const char *value)
{
    g_autoptr(JsonObject) answer =
        name ? qmp_call(vm_qmp(r->vm), command, "{'%s': '%s'}", name, value)
             : qmp_call(vm_qmp(r->vm), command, NULL);

    return answer && json_object_has_member(answer, "return");
}

/* A member of what query-migrate has answered (g_free). */
static char *text_of(JsonObject *answer, const char *member)
{
    JsonObject *info = json_object_has_member(answer, "return")
                           ? json_object_get_object_member(answer, "return")
                           : NULL;

    return g_strdup(info ? json_object_get_string_member_with_default(info, member, "none")
                         : "none");
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void put_right(Round *r)
{
    const struct timespec times[] = {r->file.st_atim, r->file.st_mtim};

    g_assert_cmpint(utimensat(AT_FDCWD, r->s.path, times, 0), ==, 0);
}

static void stand(Round *r, pid_t pid)
{
    kill(pid, SIGSTOP);
    g_usleep(below(r, MOMENT_US));
    kill(pid, SIGCONT);
}

static void kill_engine(Round *r, bool for_a_while)
{
    pid_t engine = vm_find_engine(r->vm);

    if (!engine) {
        return;
    }
    if (for_a_while) {
        stand(r, engine);
    } else {
        total.engines_killed++;
        kill(engine, SIGKILL);
    }
}

static void snapshot(Round *r)
{
    g_autofree char *path = vm_path(r->vm, "next");

    r->asked = true;
    total.snapshots++;
    r->accepted = say(r, "x-farfault-snapshot", "file", path);
    if (below(r, 2)) {
        say(r, "migrate_cancel", NULL, NULL);
    }
}

/* As a write does it. Not before the engine knows what the file is: that would be what it is then.
 */
static void write_to_file(Round *r)
{
    g_autoptr(JsonObject) answer = qmp_call(vm_qmp(r->vm), "query-migrate", NULL);
    g_autofree char *status = answer ? text_of(answer, "status") : g_strdup("");

    if (!strcmp(status, "postcopy-active")) {
        utimensat(AT_FDCWD, r->s.path, NULL, 0);
    }
}

static void start_writer(Round *r)
{
    r->writer = fork();
    g_assert_cmpint(r->writer, >=, 0);
    if (r->writer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close_range(3, ~0u, 0);
        _exit(open(r->s.path, O_WRONLY) < 0);
    }
    total.writers++;
}

/* Nobody needs the file any more. */
static void end_writer(Round *r)
{
    int status;

    if (r->writer) {
        g_assert_cmpint(waitpid(r->writer, &status, 0), ==, r->writer);
        g_assert_cmpint(status, ==, 0);
    }
}

static void act(Round *r)
{
    switch (below(r, 9)) {
    case 0:
    case 1:
        kill_engine(r, false);
        break;
    case 2:
        kill_engine(r, true);
        break;
    case 3:
        write_to_file(r);
        break;
    case 4:
        say(r, "migrate-pause", NULL, NULL);
        break;
    case 5:
        if (!r->asked) {
            snapshot(r);
        }
        break;
    case 6:
        if (below(r, 3) == 0) {
            total.guests_killed++;
            r->killed = true;
            vm_kill(r->vm);
        }
        break;
    case 7:
        if (!r->writer) {
            start_writer(r);
        }
        break;
    default:
        stand(r, vm_pid(r->vm));
    }
}

/* ---- until it is settled --------------------------------------------------------------------- */

/* The snapshot was promised, or its engine died before it could say so. Another one that has failed
 * is the restore, and its QEMU ends. */
static bool is_of_snapshot(Round *r, JsonObject *answer, const char *status)
{
    g_autofree char *why = text_of(answer, "error-desc");

    return (!strcmp(status, "failed") || !strcmp(status, "cancelled")) &&
           (r->accepted || strstr(why, "before it began"));
}

/* TRUE: the guest has come. FALSE: this QEMU has ended. */
static bool settle(Round *r)
{
    for (;; g_usleep(LOOK_US)) {
        g_autoptr(JsonObject) answer = qmp_call(vm_qmp(r->vm), "query-migrate", NULL);

        if (!answer) {
            return false;
        }
        g_autofree char *status = text_of(answer, "status");
        if (!strcmp(status, "postcopy-paused")) {
            total.paused++;
            put_right(r);
            g_autofree char *uri = g_strconcat("file:", r->s.path, NULL);
            say(r, "migrate-recover", "uri", uri);
        } else if (!strcmp(status, "completed")) {
            return true;
        } else if (is_of_snapshot(r, answer, status)) {
            put_right(r); /* the guest fills on, and answers by itself */
            return true;
        }
    }
}

/* ---- a round --------------------------------------------------------------------------------- */

static Vm *begin(Round *r)
{
    static const char *const sets[] = {"", "", "", ", 'working-set': 'learn'"};
    g_autofree char *faults = NULL;
    const char *set = sets[below(r, G_N_ELEMENTS(sets))];

    if (below(r, 2)) {
        faults = g_strdup_printf(
            "destination/postcopy-active/call/read-file#%d=EIO;destination/*/step/not-cached=skip",
            1 + below(r, 90));
    }
    Vm *vm = restore_start_again(&r->s, faults);
    if (r->s.row->way == INCOMING) {
        restore_ask(&r->s, vm, r->s.path);
    } else {
        restore_ask_with(&r->s, vm, r->s.path, set);
    }
    return vm;
}

static void once_more(Round *r)
{
    put_right(r);
    r->vm = restore_start_again(&r->s, NULL);
    restore_ask(&r->s, r->vm, r->s.path);
    qmp_expect_migration(vm_qmp(r->vm), "completed");
}

/* It fails the program if anything is wrong. */
static void run(guint32 seed, unsigned n_kinds)
{
    Round r = {.rand = g_rand_new_with_seed(seed)};
    unsigned kind = below(&r, n_kinds);

    if (!scenes[kind].path && !restore_begin(&scenes[kind], &kinds[kind])) {
        g_error("no guest");
    }
    restore_copy(&r.s, &scenes[kind]);
    g_assert_cmpint(stat(r.s.path, &r.file), ==, 0);
    r.vm = begin(&r);
    for (int i = below(&r, ACTIONS + 1); i > 0 && !r.killed; i--) {
        g_usleep(below(&r, MOMENT_US)); /* the moment, not an event */
        act(&r);
    }
    bool came = !r.killed && settle(&r);
    if (!came) {
        total.ended += !r.killed;
        vm_end(r.vm);
        once_more(&r);
    }
    end_writer(&r);
    r.s.may_be_saved = came && r.accepted;
    restore_check_restored(&r.s, r.vm);
    total.right++;
    printf("ok - seed %u, %s%s\n", seed, kinds[kind].name, came ? "" : ", once more");
    fflush(stdout);
    vm_end(r.vm);
    g_autofree char *set = g_strconcat(r.s.path, ".ws", NULL);
    unlink(set);
    unlink(r.s.path);
    restore_end(&r.s);
    g_rand_free(r.rand);
}

int main(int argc, char **argv)
{
    gint rounds = 3;
    gint64 seed = 1;
    gboolean newer = FALSE;
    const GOptionEntry entries[] = {
        {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "How many", "N"},
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of the first one", "S"},
        {"newer", 0, 0, G_OPTION_ARG_NONE, &newer, "Stock QEMU 10 as well", NULL},
        {NULL, 0, 0, 0, NULL, NULL, NULL}};
    g_autoptr(GOptionContext) options = g_option_context_new("");
    g_autoptr(GError) error = NULL;
    const char *why = NULL;

    g_option_context_add_main_entries(options, entries, NULL);
    if (!g_option_context_parse(options, &argc, &argv, &error)) {
        fprintf(stderr, "chaos-restores: %s\n", error->message);
        return 2;
    }
    if (!vm_faults_available(&why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    printf("1..%d\n", rounds);
    for (gint i = 0; i < rounds; i++) {
        run((guint32)(seed + i), newer ? G_N_ELEMENTS(kinds) : OLD_KINDS);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(scenes); i++) {
        restore_end(&scenes[i]);
    }
    printf("# %u right; %u QEMUs ended before their guest ran, %u were killed; %u engines killed, "
           "%u pauses, %u snapshots asked for, %u writers\n",
           total.right, total.ended, total.guests_killed, total.engines_killed, total.paused,
           total.snapshots, total.writers);
    return 0;
}
