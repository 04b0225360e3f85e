/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random deaths and stops while a guest changes its QEMU. A round is one farfault upgrade, and up
 * to three of these at random moments, of any process of the guest (old or new QEMU, their relays
 * and engines, the command itself):
 *
 *   it is killed, a relay perhaps with its engine
 *   it stands for a while, short or longer than its peer waits
 *
 * A third of the moments are counted from the beginning, the others from when one of the engines
 * has come to some named point of the switch, where it stands for a moment. A QEMU without relay
 * and engine gets new ones by farfault attach. In the end there is one QEMU, its guest runs without
 * anybody's help, its socket and its pid file are at their places, and each of its counters is
 * right. There may be none only if a QEMU was killed; the next round has a new guest then.
 *
 * With --keep the first QEMU's process stays as the guest's front, which is a second one; whoever
 * of the two is killed, none is left.
 *
 * Moments are no events: so this sleeps.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/qtest/upgrade-rig.h"

#define ACTIONS 3
#define LIMIT_S 180
#define LOOK_US 10000
#define HELP_US (3 * G_USEC_PER_SEC) /* without a sign of the guest, before there is an attach */

static struct {
    unsigned stayed, moved, lost, killed, stood, attached, stranded;
} total;

static gboolean keeps; /* --keep */

typedef struct {
    GRand *rand;
    Guest *g;
    Command *command;
    pid_t old;
    pid_t front; /* with --keep: the first QEMU of this guest */
    bool qemu_killed;
    GString *what; /* happened */
} Round;

static int below(Round *r, int n)
{
    return g_rand_int_range(r->rand, 0, n);
}

static char *name_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid);
    char *name = NULL;

    g_file_get_contents(path, &name, NULL, NULL);
    return name ? g_strchomp(name) : g_strdup("?");
}

static G_NORETURN void wrong(Round *r, const char *why)
{
    g_autofree char *log = g_build_filename(r->g->dir, "stderr", NULL), *text = NULL;

    g_file_get_contents(log, &text, NULL, NULL);
    g_error("%s: %s\n%s", why, r->what->str, text ? text : "");
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void stand(Round *r, pid_t pid)
{
    int ms = below(r, 12) ? below(r, 300) : 8000; /* the peer waits for 5 s */

    g_string_append_printf(r->what, " for %d ms", ms);
    total.stood++;
    kill(pid, SIGSTOP);
    g_usleep((gulong)ms * 1000);
    kill(pid, SIGCONT);
}

static pid_t parent_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    int parent = 0;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        sscanf(strrchr(text, ')') + 1, " %*c %d", &parent);
    }
    return parent > 1 && parent != getpid() ? parent : pid;
}

static void act(Round *r)
{
    g_autoptr(GArray) all = up_processes(r->g);
    g_autoptr(GArray) qemus = up_qemus(r->g);
    bool stands = below(r, 3) == 0;

    if (stands || below(r, 4) == 0) { /* most rounds would end here else */
        g_array_append_vals(all, qemus->data, qemus->len);
    }
    if (!all->len) {
        return;
    }
    int i = below(r, (int)all->len);
    pid_t pid = g_array_index(all, pid_t, i);
    g_autofree char *name = name_of(pid);
    const char *side = pid == r->old ? "old " : "";

    g_string_append_printf(r->what, "; %s%s (%d) %s", side, name, (int)pid,
                           stands ? "stands" : "is killed");
    if (stands) {
        stand(r, pid);
        return;
    }
    total.killed++;
    if (g_str_has_prefix(name, "farfault-engine") && below(r, 3) == 0) {
        g_string_append(r->what, " with its relay");
        kill(parent_of(pid), SIGKILL);
    }
    r->qemu_killed |= !g_str_has_prefix(name, "farfault");
    kill(pid, SIGKILL);
}

/* What the engines that are started from now on do: the new one's in this round, which is the old
 * one's in the next. */
static void draw_points(Round *r)
{
    static const char *const old[] = {
        "begun",  "setup", "guarded", "active", "prepared", "stopping",    "stopped",  "loaded",
        "giving", "given", "running", "lifted", "done",     "ending-heir", "put-back", "restarted"};
    static const char *const new[] = {"setup",   "agreed", "loading", "ready",   "shut",
                                      "loaded",  "grant",  "taken",   "granted", "resumed",
                                      "running", "lifted", "done",    "undone",  "idle"};
    int ms = 1 + below(r, 80);
    g_autofree char *faults =
        g_strdup_printf("takeover/*/at/%s=stop:%d;handover/*/at/%s=stop:%d",
                        new[below(r, G_N_ELEMENTS(new))], ms, old[below(r, G_N_ELEMENTS(old))], ms);

    up_set_faults(r->g, faults);
    g_string_append_printf(r->what, "; %s", faults);
}

static void await_point(Round *r)
{
    g_autofree char *first = g_build_filename(r->g->dir, "fault-0", NULL);
    g_autofree char *second = g_build_filename(r->g->dir, "fault-1", NULL);

    while (!g_file_test(first, G_FILE_TEST_EXISTS) && !g_file_test(second, G_FILE_TEST_EXISTS) &&
           up_is_under_way(r->command)) {
        g_usleep(500);
    }
}

/* ---- until it is settled --------------------------------------------------------------------- */

static void attach(Round *r, pid_t pid)
{
    g_autofree char *said = up_try_attach(r->g, pid);

    total.attached += strstr(said, " serves the guest") != NULL;
    g_string_append_printf(r->what, "; attach %d: %s", (int)pid, g_strchomp(said));
}

/* The old one first: it knows whose the guest is. */
static void help(Round *r, const GArray *qemus)
{
    for (unsigned old = 2; old-- > 0;) {
        for (guint i = 0; i < qemus->len; i++) {
            pid_t pid = g_array_index(qemus, pid_t, i);

            if ((pid == r->old) == old) {
                attach(r, pid);
            }
        }
    }
}

/* Who is at the guest's serial port; 0: nobody, or it takes nobody just now. */
static pid_t at_serial(const Guest *g)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);

    g_snprintf(address.sun_path, sizeof(address.sun_path), "%s/serial", g->dir);
    bool ok = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
              getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0;
    close(fd);
    return ok ? cred.pid : 0;
}

/* The one of QEMUS that has the guest, and nobody else can have it; 0: that is not so yet. */
static pid_t sole(const Round *r, const GArray *qemus)
{
    if (qemus->len == 1) {
        return g_array_index(qemus, pid_t, 0);
    }
    if (!keeps || qemus->len != 2) {
        return 0;
    }
    pid_t a = g_array_index(qemus, pid_t, 0), b = g_array_index(qemus, pid_t, 1);
    pid_t now = at_serial(r->g);

    return (a == r->front || b == r->front) && (now == a || now == b) && now != r->front ? now : 0;
}

/* All relays of a guest and the QEMU behind are dead: nobody is left who would end the front, which
 * says of itself what it is. */
static void end_stranded(Round *r, const GArray *qemus)
{
    pid_t pid = qemus->len == 1 ? g_array_index(qemus, pid_t, 0) : 0;

    if (!keeps || !r->qemu_killed || pid != r->front) {
        return;
    }
    g_autofree char *said = up_try_attach(r->g, pid);
    if (strstr(said, "only stays for those who know it")) {
        g_string_append_printf(r->what, "; the front %d is left alone", (int)pid);
        total.stranded++;
        kill(pid, SIGKILL);
    }
}

/* The only QEMU, whose guest runs, but for a front; 0: there is none any more. */
static pid_t settle(Round *r)
{
    int64_t begin = g_get_monotonic_time(), helped = begin;
    pid_t alone = 0;

    for (;; g_usleep(LOOK_US)) {
        g_autoptr(GArray) qemus = up_qemus(r->g);
        int64_t now = g_get_monotonic_time();

        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        if (!qemus->len) {
            return 0;
        }
        /* What it wrote before it was alone says nothing: it may stand, and be taken back. */
        pid_t one = sole(r, qemus);
        if (up_has_run(r->g) && alone && alone == one) {
            return one;
        }
        alone = one;
        if (now - begin > LIMIT_S * G_USEC_PER_SEC) {
            wrong(r, qemus->len > 1 ? "two QEMUs are left" : "the guest does not run");
        }
        if (now - helped > HELP_US) {
            end_stranded(r, qemus);
            help(r, qemus);
            helped = g_get_monotonic_time();
        }
    }
}

/* Its pid file and its socket are at their places. */
static bool is_at_its_place(const Round *r, pid_t pid)
{
    g_autofree char *path = g_build_filename(r->g->dir, "pid", NULL), *text = NULL;

    return at_serial(r->g) == pid && g_file_get_contents(path, &text, NULL, NULL) &&
           atoi(text) == (keeps ? r->front : pid);
}

static bool is_left(const Guest *g)
{
    g_autoptr(GArray) qemus = up_qemus(g);

    return qemus->len > 0;
}

/* A relay that came by attach gives the names when its engine has done what was left. FALSE: the
 * QEMU was killed, and was seen dying. */
static bool await_place(Round *r, pid_t pid)
{
    int64_t until = g_get_monotonic_time() + LIMIT_S * G_USEC_PER_SEC;

    while (!is_at_its_place(r, pid)) {
        if (r->qemu_killed && !is_left(r->g)) {
            return false;
        }
        if (g_get_monotonic_time() > until) {
            wrong(r, "its socket or its pid file is another one's");
        }
        g_usleep(LOOK_US);
    }
    return true;
}

/* ---- a round --------------------------------------------------------------------------------- */

static void begin_guest(Round *r)
{
    r->g = up_new();
    g_autofree char *serial = g_strdup_printf("unix:%s/serial,server=on,wait=off", r->g->dir);
    g_autofree char *pid = g_build_filename(r->g->dir, "pid", NULL);
    const char *const more[] = {"-serial", serial, "-pidfile", pid, NULL};

    r->g->faults =
        g_strdup_printf("%s;nobody/*/at/nowhere=kill;handover/*/at/stopped=stop:30", r->g->dir);
    up_start_vmgenid(r->g, more);
    qmp_ok(r->g->qmp, "migrate-set-parameters", "{'x-farfault-peer-timeout': 5}");
}

static void run(Round *r, const char *const *programs, unsigned n_programs)
{
    g_autofree char *said = NULL;

    r->what = g_string_new(NULL);
    r->qemu_killed = false;
    if (!r->g) {
        begin_guest(r);
    }
    r->old = r->front && at_serial(r->g) ? at_serial(r->g) : up_only_qemu(r->g);
    r->front = r->front ? r->front : keeps ? r->old : 0;
    draw_points(r);
    r->command =
        up_begin_with(r->g, programs[below(r, (int)n_programs)], keeps ? "--keep-process" : NULL);
    bool late = below(r, 3);
    if (late) {
        await_point(r);
    }
    for (int i = below(r, ACTIONS + 1); i > 0; i--) {
        g_usleep((gulong)below(r, late ? 50 : 700) * 1000);
        act(r);
    }
    alarm(LIMIT_S); /* the command ends */
    int status = up_finish(r->command, &said);
    alarm(0);
    g_clear_pointer(&r->command, up_command_free);
    pid_t now = settle(r);
    g_string_append_printf(r->what, "; the command: %d", status);
    if (!now && !r->qemu_killed) {
        wrong(r, "no QEMU is left");
    }
    if (status == 0 && now == r->old) {
        wrong(r, "the command says that the guest has moved");
    }
    if (now) {
        /* Its relay may have been the one. */
        g_autofree char *text = up_try_attach(r->g, now);
        g_string_append_printf(r->what, "; attach %d: %s", (int)now, g_strchomp(text));
        up_has_run(r->g);
        now = await_place(r, now) ? now : 0;
    }
    if (now) {
        printf("# %s\n", r->what->str);
        fflush(stdout);
        up_check_memory(r->g);
    } else {
        g_clear_pointer(&r->g, up_end);
        r->front = 0;
    }
    total.stayed += now == r->old;
    total.moved += now && now != r->old;
    total.lost += !now;
    printf("ok - %s%s\n", !now ? "lost" : now == r->old ? "stayed" : "moved", r->what->str);
    fflush(stdout);
    g_string_free(r->what, TRUE);
}

int main(int argc, char **argv)
{
    gint rounds = 3;
    gint64 seed = 1;
    gboolean newer = FALSE;
    const GOptionEntry entries[] = {
        {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "How many", "N"},
        {"seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of the first one", "S"},
        {"keep", 0, 0, G_OPTION_ARG_NONE, &keeps, "The first process stays", NULL},
        {"newer", 0, 0, G_OPTION_ARG_NONE, &newer, "To QEMU 10 and back as well", NULL},
        {NULL, 0, 0, 0, NULL, NULL, NULL}};
    g_autoptr(GOptionContext) options = g_option_context_new("");
    g_autoptr(GError) error = NULL;
    const char *why = NULL;

    g_option_context_add_main_entries(options, entries, NULL);
    if (!g_option_context_parse(options, &argc, &argv, &error)) {
        fprintf(stderr, "chaos-upgrades: %s\n", error->message);
        return 2;
    }
    if (!vm_faults_available(&why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    g_autofree char *installed = up_installed();
    g_autofree char *ten = newer ? vm_newer_qemu() : NULL;
    const char *const programs[] = {installed, ten};
    Round r = {0};

    printf("1..%d\n", rounds);
    for (gint i = 0; i < rounds; i++) {
        r.rand = g_rand_new_with_seed((guint32)(seed + i));
        printf("# seed %u\n", (unsigned)(seed + i));
        run(&r, programs, ten ? 2 : 1);
        g_rand_free(r.rand);
    }
    g_clear_pointer(&r.g, up_end);
    printf("# %u stayed, %u moved, %u lost with a QEMU that was killed; %u killed, %u stood, %u "
           "relays by attach; wrong: 0\n",
           total.stayed, total.moved, total.lost, total.killed, total.stood, total.attached);
    return 0;
}
