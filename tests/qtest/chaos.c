/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random migrations of a guest that verifies its memory, with random faults. chaos --seed S
 * --runs N [--guest NAME]: run i has the seed S + i, which decides about everything: how the
 * migration is made, which faults come, in which order, after how many bytes of which direction,
 * at which named point of which engine (chaos-points.c). Each run is a process of its own; one
 * line of TAP a run, with its seed.
 *
 * Some sources first meet a peer that accepts and says nothing, or a destination whose engine dies
 * before anybody was greeted: then they migrate again.
 *
 * The operator (tests/lib/operator.h, main thread of a run) continues as the statuses say. It holds
 * all the time: never two running copies; and at the end: a guest that runs at exactly one side
 * (unless its own QEMU was killed, or QEMU carried the migration with release-ram and the
 * connection broke: that one it never recovers), with its memory right, and nothing left over: no
 * process, not even one that nobody knows of (cgroup), no descriptor, no file.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/certs.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/move.h"
#include "tests/lib/operator.h"
#include "tests/lib/vm.h"
#include "tests/qtest/chaos-guest.h"
#include "tests/qtest/chaos-left.h"
#include "tests/qtest/chaos-points.h"
#include "tests/qtest/chaos-proxy.h"

#define MAX_FAULTS 4
#define SPARE 4         /* huge pages that no guest needs */
#define RUN_SECONDS 150 /* of a run that cannot come to its end */
#define KILLS 6         /* in a row: more than the relay answers at once */
#define HUNG_MS "4000"  /* how long the relay waits for an engine that was stopped */
/* More than a source says before the destination has said a byte, and less than of any guest. */
#define UNHEARD_MAX 4096
#define KEY "000102030405060708090a0b0c0d0e0f"

typedef enum {
    DO_CUT,
    DO_HALF_CUT,
    DO_STALL,
    DO_CORRUPT,
    DO_KILL_SOURCE_ENGINE,
    DO_KILL_DESTINATION_ENGINE,
    DO_KILL_BOTH_ENGINES,
    DO_KILL_SOURCE_QEMU,
    DO_KILL_DESTINATION_QEMU,
    DO_STOP_SOURCE_ENGINE,
    DO_STOP_DESTINATION_ENGINE,
    DO_FIVE_KILLS_SOURCE,
    DO_FIVE_KILLS_DESTINATION,
    DO_CANCEL,
    DO_PAUSE_SOURCE,
    DO_PAUSE_DESTINATION,
    DO_EMPTY_POOL, /* of a guest on huge pages only */
    DO__MAX
} Deed;

static const struct {
    const char *name;
    FaultKind kind;
    unsigned weight;
} deeds[DO__MAX] = {
    [DO_CUT] = {"cut", FAULT_CUT, 4},
    [DO_HALF_CUT] = {"half-cut", FAULT_HALF_CUT, 2},
    [DO_STALL] = {"stall", FAULT_STALL, 2},
    [DO_CORRUPT] = {"corrupt", FAULT_CORRUPT, 2},
    [DO_KILL_SOURCE_ENGINE] = {"kill-source-engine", FAULT_CALL, 3},
    [DO_KILL_DESTINATION_ENGINE] = {"kill-destination-engine", FAULT_CALL, 3},
    [DO_KILL_BOTH_ENGINES] = {"kill-both-engines", FAULT_CALL, 2},
    [DO_KILL_SOURCE_QEMU] = {"kill-source-qemu", FAULT_CALL, 1},
    [DO_KILL_DESTINATION_QEMU] = {"kill-destination-qemu", FAULT_CALL, 1},
    [DO_STOP_SOURCE_ENGINE] = {"stop-source-engine", FAULT_CALL, 1},
    [DO_STOP_DESTINATION_ENGINE] = {"stop-destination-engine", FAULT_CALL, 1},
    [DO_FIVE_KILLS_SOURCE] = {"five-kills-source", FAULT_CALL, 1},
    [DO_FIVE_KILLS_DESTINATION] = {"five-kills-destination", FAULT_CALL, 1},
    [DO_CANCEL] = {"cancel", FAULT_CALL, 2},
    [DO_PAUSE_SOURCE] = {"pause-source", FAULT_CALL, 2},
    [DO_PAUSE_DESTINATION] = {"pause-destination", FAULT_CALL, 1},
    [DO_EMPTY_POOL] = {"empty-pool", FAULT_CALL, 20},
};

typedef struct Run Run;
typedef struct {
    Run *run;
    Deed deed;
} Order;

struct Run {
    GRand *rand;
    const ChaosGuest *guest;
    Operator o;
    Proxy *proxy;
    Fault faults[MAX_FAULTS];
    Order orders[MAX_FAULTS];
    unsigned n_faults;
    char *points[2];   /* for the source's engine, the destination's; can be NULL */
    GMutex guests;     /* while a thread of the proxy does something to them */
    gint over;         /* atomic; they are about to end: nothing is done to them any more */
    int wake;          /* eventfd: the proxy's threads ask for something */
    gint asked;        /* atomic; bits by Deed, for the operator */
    HugePages *pool;   /* NULL: the guest needs none */
    gint emptied;      /* atomic; somebody took all huge pages */
    bool late;         /* ... when the guest is the destination's, not before */
    unsigned patience; /* so many recoveries later they are given back */
    /* Before all this the source finds a peer that says nothing; or the destination's engine dies
     * when the source has connected and nobody has greeted. Then it migrates again. */
    bool mute, ungreeted;
    unsigned ungreeted_ms; /* after the connection */
    bool alone;            /* nothing else happens */
    unsigned again;        /* so often, if it failed */
    bool tls;
    char *keys; /* folder of the TLS key; can be NULL */
    GString *plan;
};

/* ---- the plan -------------------------------------------------------------------------------- */

static void signal_engine(Vm *vm, int signal)
{
    pid_t pid = vm_find_engine(vm);

    if (pid) {
        kill(pid, signal);
    }
}

static void kill_engine(Vm *vm)
{
    signal_engine(vm, SIGKILL);
}

/* Each as soon as it is there; a side that has nothing to do any more has no next one. */
static void kill_engines(const Run *r, Vm *vm)
{
    pid_t last = 0;

    for (unsigned n = 0, looks = 0; n < KILLS && looks < 400 && !g_atomic_int_get(&r->over);
         looks++) {
        pid_t pid = vm_find_engine(vm);
        if (pid && pid != last) {
            kill(pid, SIGKILL);
            last = pid;
            n++;
        }
        g_usleep(5000); /* nothing tells that an engine was started */
    }
}

static void empty_pool(Run *r)
{
    hugepages_take(r->pool);
    g_atomic_int_set(&r->emptied, 1);
}

/* In a thread of the proxy. */
static void obey(void *opaque)
{
    Order *o = opaque;
    Run *r = o->run;
    uint64_t one = 1;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&r->guests);

    if (g_atomic_int_get(&r->over)) {
        return;
    }
    switch (o->deed) {
    case DO_KILL_SOURCE_ENGINE:
        kill_engine(r->o.s);
        break;
    case DO_KILL_DESTINATION_ENGINE:
        kill_engine(r->o.d);
        break;
    case DO_KILL_BOTH_ENGINES:
        kill_engine(r->o.s);
        kill_engine(r->o.d);
        break;
    case DO_STOP_SOURCE_ENGINE:
        signal_engine(r->o.s, SIGSTOP);
        break;
    case DO_STOP_DESTINATION_ENGINE:
        signal_engine(r->o.d, SIGSTOP);
        break;
    case DO_FIVE_KILLS_SOURCE:
        kill_engines(r, r->o.s);
        break;
    case DO_FIVE_KILLS_DESTINATION:
        kill_engines(r, r->o.d);
        break;
    case DO_KILL_SOURCE_QEMU:
        g_atomic_int_or((guint *)&r->o.qemu_killed, 1);
        pidfd_send_signal(r->o.s_pidfd, SIGKILL, NULL, 0);
        break;
    case DO_KILL_DESTINATION_QEMU:
        g_atomic_int_or((guint *)&r->o.qemu_killed, 2);
        pidfd_send_signal(r->o.d_pidfd, SIGKILL, NULL, 0);
        break;
    case DO_EMPTY_POOL:
        if (!r->late) {
            empty_pool(r);
            break;
        }
        /* fall through */
    default:
        g_atomic_int_or((guint *)&r->asked, 1u << o->deed);
    }
    G_GNUC_UNUSED ssize_t n = write(r->wake, &one, sizeof(one));
}

static unsigned weight(const Run *r, Deed deed)
{
    return deed == DO_EMPTY_POOL && !r->pool ? 0 : deeds[deed].weight;
}

static Deed draw_deed(Run *r)
{
    int total = 0;

    for (unsigned i = 0; i < DO__MAX; i++) {
        total += weight(r, i);
    }
    int at = g_rand_int_range(r->rand, 0, total);
    for (unsigned i = 0;; i++) {
        at -= weight(r, i);
        if (at < 0) {
            return i;
        }
    }
}

/* Small numbers have their share: the handshake is short, and matters. */
static uint64_t draw_bytes(Run *r, bool to_source)
{
    double least = g_rand_boolean(r->rand) ? 4 : to_source ? 9 : 15;
    double bits = g_rand_double_range(r->rand, least, to_source ? 14 : r->guest->bits);
    uint64_t whole = (uint64_t)bits;

    return (uint64_t)((1 + (bits - whole)) * (1ull << whole));
}

static void draw_plan(Run *r)
{
    static const char *const sides[] = {"source", "destination"};
    bool with_points = chaos_points_built() && g_rand_int_range(r->rand, 0, 3) > 0;

    r->tls = g_rand_int_range(r->rand, 0, 4) == 0;
    r->n_faults = g_rand_int_range(r->rand, with_points ? 0 : 1, MAX_FAULTS + 1);
    for (unsigned i = 0; i < r->n_faults; i++) {
        Deed deed = draw_deed(r);
        Fault *f = &r->faults[i];
        r->orders[i] = (Order){r, deed};
        f->kind = deeds[deed].kind;
        f->to_source = g_rand_int_range(r->rand, 0, 3) == 0;
        f->at = draw_bytes(r, f->to_source);
        f->ms = g_rand_int_range(r->rand, 20, 600);
        f->call = obey;
        f->opaque = &r->orders[i];
        /* Without TLS nobody can tell that a byte is another one. */
        r->tls |= deed == DO_CORRUPT;
        if (deed == DO_STOP_SOURCE_ENGINE || deed == DO_STOP_DESTINATION_ENGINE) {
            g_setenv("FARFAULT_DEADLINES", "engine-hung=" HUNG_MS, TRUE);
        }
        g_string_append_printf(r->plan, " %s@%s%" G_GUINT64_FORMAT, deeds[deed].name,
                               f->to_source ? "<" : ">", f->at);
    }
    for (unsigned side = 0; side < 2; side++) {
        unsigned n = with_points ? g_rand_int_range(r->rand, 0, 3) : 0;
        r->points[side] = chaos_points_draw(r->rand, sides[side], n);
        g_string_append_printf(r->plan, "%s%s", n ? " " : "", n ? r->points[side] : "");
    }
    g_string_append(r->plan, r->tls ? " tls" : "");
    if (r->pool) {
        r->patience = g_rand_int_range(r->rand, 1, 4);
        r->late = g_rand_boolean(r->rand);
        g_string_append_printf(r->plan, " %s%s", r->guest->name, r->late ? " late" : "");
    }
}

/* The huge pages that the run needs; "huge" and "kvm" are either kind. */
static void get_huge_pages(Run *r)
{
    const char *why = NULL;

    if (!strcmp(r->guest->name, "huge") && g_rand_boolean(r->rand)) {
        r->guest = chaos_guest("huge-unreserved");
    }
    if (!strcmp(r->guest->name, "kvm") && g_rand_boolean(r->rand)) {
        r->guest = chaos_guest("kvm-rare");
    }
    r->pool = r->guest->hugepages ? hugepages_try(r->guest->hugepages + SPARE, &why) : NULL;
    if (why) {
        g_error("%s", why);
    }
}

/* The QEMU of each side, of those in FF_CHAOS_QEMUS (paths, between colons), if there is that.
 * Returns what SIDES then borrow. By numbers of its own, so that a seed means what it did before.
 */
static char **draw_qemus(Run *r, unsigned seed, ChaosSide sides[2])
{
    const char *paths = g_getenv("FF_CHAOS_QEMUS");
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed ^ 0x71656d75);
    char **all = g_strsplit(paths ? paths : "", ":", -1);

    for (unsigned i = 0; i < 2 && paths; i++) {
        int which = g_rand_int_range(rand, 0, (int)g_strv_length(all));

        sides[i].qemu = all[which];
        g_string_append_printf(r->plan, "%sQEMU %d", i ? " to " : " ", which + 1);
    }
    return all;
}

/* Of their own, so that a seed means what it did before there were these. */
static void draw_unheard(Run *r, unsigned seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed ^ 0x6d757465);

    r->ungreeted = g_rand_int_range(rand, 0, 6) == 0;
    r->mute = g_rand_int_range(rand, 0, 12) == 0;
    r->ungreeted_ms = g_rand_int_range(rand, 0, 40);
    r->again = r->ungreeted + r->mute;
    r->alone = r->again && g_rand_boolean(rand);
    if (r->alone) {
        r->n_faults = 0;
        g_clear_pointer(&r->points[0], g_free);
        g_clear_pointer(&r->points[1], g_free);
        g_string_assign(r->plan, r->tls ? " tls" : "");
    }
    g_string_append_printf(r->plan, "%s", r->mute ? " mute" : "");
    if (r->ungreeted) {
        g_string_append_printf(r->plan, " kill-ungreeted:%u", r->ungreeted_ms);
    }
}

/* In the thread of the proxy that accepts: the source has said nothing to the destination yet. */
static void kill_ungreeted(void *opaque)
{
    Run *r = opaque;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&r->guests);

    poll(NULL, 0, (int)r->ungreeted_ms);
    if (!g_atomic_int_get(&r->over)) {
        kill_engine(r->o.d);
    }
}

/* ---- the operator's beginning ---------------------------------------------------------------- */

static unsigned by_the_proxy(unsigned port, void *opaque)
{
    Run *r = opaque;

    proxy_to(r->proxy, port);
    return proxy_port(r->proxy);
}

static void give_keys(Run *r, Vm *vm, bool server)
{
    qmp_ok(vm_qmp(vm), "object-add",
           "{'qom-type': 'tls-creds-psk', 'id': 'tls0', 'dir': '%s/psk', 'endpoint': '%s', "
           "'verify-peer': false}",
           r->keys, server ? "server" : "client");
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'tls-creds': 'tls0'}");
}

static void begin(Run *r)
{
    Qmp *sq = vm_qmp(r->o.s);

    move_prepare(r->o.s, r->o.d);
    if (r->tls) {
        r->keys = g_dir_make_tmp("ff-keys-XXXXXX", NULL);
        g_free(certs_psk(r->keys, "psk", "qemu:" KEY "\n"));
        give_keys(r, r->o.s, false);
        give_keys(r, r->o.d, true);
    }
    if (r->guest->bandwidth) {
        qmp_ok(sq, "migrate-set-parameters", "{'max-bandwidth': %u}", r->guest->bandwidth);
    }
    if (g_rand_boolean(r->rand) || r->late) {
        qmp_ok(sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': %u}",
               r->late ? 8388608 : 67108864);
    }
    if (g_rand_int_range(r->rand, 0, 4) == 0) {
        qmp_set_capability(sq, "release-ram", true);
        r->o.release_ram = true;
        g_string_append(r->plan, " release-ram");
    }
    bool early = g_rand_boolean(r->rand);
    g_print("# plan:%s\n", r->plan->str);
    if (r->mute) {
        proxy_be_mute(r->proxy);
    }
    if (r->ungreeted) {
        proxy_on_connect(r->proxy, kill_ungreeted, r);
    }
    operator_begin(&r->o, early);
}

/* The source's run state is not known, as this test has killed it meanwhile. */
static bool is_killed_source(Run *r, const char *state)
{
    return !*state && g_atomic_int_get(&r->o.qemu_killed) & 1;
}

/* TRUE: it continues. */
static bool migrate_again(Run *r, OperatorEnd end)
{
    uint64_t unheard;
    bool was_mute = proxy_was_mute(r->proxy, &unheard);

    g_assert_true(!r->mute || was_mute || end != OPERATOR_DESTINATION);
    g_assert_cmpuint(unheard, <, UNHEARD_MAX);
    if (end != OPERATOR_SOURCE || !r->again || r->o.d_ended) {
        return false;
    }
    r->again--;
    proxy_end_mute(r->proxy);
    r->o.switched = false;
    g_autofree char *state = operator_run_state(&r->o, r->o.s);
    if (is_killed_source(r, state)) {
        return true; /* what that means is operator_look()'s to say */
    }
    g_assert_cmpstr(state, ==, "running");
    operator_again(&r->o, g_rand_boolean(r->rand));
    return true;
}

static void obey_orders(Run *r)
{
    unsigned asked = g_atomic_int_and((guint *)&r->asked, 0);

    if (asked & 1u << DO_CANCEL) {
        operator_try(&r->o, r->o.s, "migrate_cancel", NULL);
    }
    if (asked & 1u << DO_PAUSE_SOURCE) {
        operator_try(&r->o, r->o.s, "migrate-pause", NULL);
    }
    if (asked & 1u << DO_PAUSE_DESTINATION) {
        operator_try(&r->o, r->o.d, "migrate-pause", NULL);
    }
    if (asked & 1u << DO_EMPTY_POOL) {
        if (r->o.seen && strstr(r->o.seen, "/ postcopy-active")) {
            empty_pool(r);
        } else {
            g_atomic_int_or((guint *)&r->asked, 1u << DO_EMPTY_POOL); /* not yet */
        }
    }
}

/* Nobody but a recovery needs them; and at the end the guest may. */
static void end_shortage(Run *r, bool now)
{
    if (now || r->o.recoveries >= r->patience) {
        if (g_atomic_int_compare_and_exchange(&r->emptied, 1, 0)) {
            hugepages_give(r->pool);
        }
    }
}

static void check_end(Run *r, OperatorEnd end)
{
    Vm *vm = end == OPERATOR_SOURCE ? r->o.s : r->o.d;

    if (end == OPERATOR_LOST ||
        (end == OPERATOR_DESTINATION && g_atomic_int_get(&r->o.qemu_killed) & 2)) {
        return;
    }
    g_autofree char *state = operator_run_state(&r->o, vm);
    if (end == OPERATOR_SOURCE && is_killed_source(r, state)) {
        return;
    }
    g_assert_cmpstr(state, ==, "running");
    if (r->alone) {
        g_assert_cmpint(end, ==, OPERATOR_DESTINATION);
    }
    r->guest->check(vm);
}

static void run_one(gconstpointer data)
{
    static const char *const ends[] = {"", "at the source", "at the destination", "lost"};
    const char *name = g_getenv("FF_CHAOS_GUEST");
    Run r = {.rand = g_rand_new_with_seed(GPOINTER_TO_UINT(data)),
             .plan = g_string_new(NULL),
             .guest = chaos_guest(name),
             .wake = eventfd(0, EFD_CLOEXEC)};
    OperatorEnd end;

    get_huge_pages(&r);
    draw_plan(&r);
    draw_unheard(&r, GPOINTER_TO_UINT(data));
    ChaosSide sides[2] = {{"source", NULL, r.points[0], NULL},
                          {"destination", "defer", r.points[1], NULL}};
    g_auto(GStrv) qemus = draw_qemus(&r, GPOINTER_TO_UINT(data), sides);
    Vm *s = r.guest->start(&sides[0]), *d = r.guest->start(&sides[1]);
    operator_init(&r.o, s, d);
    r.o.wake = r.wake;
    r.o.port = by_the_proxy;
    r.o.opaque = &r;
    r.proxy = proxy_new(r.faults, r.n_faults);
    r.guest->wait(s);
    begin(&r);
    while ((end = operator_look(&r.o)) == OPERATOR_GO_ON || migrate_again(&r, end)) {
        obey_orders(&r);
        end_shortage(&r, false);
        operator_wait(&r.o);
    }
    end_shortage(&r, true);
    check_end(&r, end);
    g_print("# end: %s, %u recoveries\n",
            end == OPERATOR_LOST && g_atomic_int_get(&r.o.qemu_killed) ? "QEMU was killed"
                                                                       : ends[end],
            r.o.recoveries);
    /* A thread that looked for an engine of a guest that is gone would find those of others. */
    g_atomic_int_set(&r.over, 1);
    g_mutex_lock(&r.guests);
    g_mutex_unlock(&r.guests);
    if (r.guest->end) {
        r.guest->end();
    }
    operator_end(&r.o, end);
    proxy_free(r.proxy);
    hugepages_free(r.pool);
    if (r.keys) {
        certs_remove(r.keys);
    }
    g_free(r.keys);
    close(r.wake);
    g_rand_free(r.rand);
    g_free(r.points[0]);
    g_free(r.points[1]);
    g_string_free(r.plan, TRUE);
    g_mutex_clear(&r.guests);
}

/* ---- runs ------------------------------------------------------------------------------------ */

/* FALSE: it failed; *TEXT (g_free) is what it wrote. */
static bool spawn_run(const char *self, unsigned seed, char **text)
{
    g_autofree char *name = NULL;
    g_autofree char *number = g_strdup_printf("%u", seed);
    int out = g_file_open_tmp("chaos-XXXXXX", &name, NULL), status = -1;

    g_assert_cmpint(out, >=, 0);
    /* Everything that makes a temporary file makes it here: the test, the launcher, the engine. */
    g_autofree char *folder = g_dir_make_tmp("chaos-XXXXXX", NULL);
    pid_t pid = fork();
    if (pid == 0) {
        g_setenv("TMPDIR", folder, TRUE);
        g_unsetenv("XDG_RUNTIME_DIR");
        dup2(out, 1);
        dup2(out, 2);
        execl(self, self, "--one", number, NULL);
        _exit(127);
    }
    int pidfd = pidfd_open(pid, 0);
    bool in_time = test_wait_readable(pidfd, test_deadline(RUN_SECONDS));
    if (!in_time) {
        kill(pid, SIGKILL); /* its QEMUs die with it */
    }
    waitpid(pid, &status, 0);
    close(pidfd);
    close(out);
    g_file_get_contents(name, text, NULL, NULL);
    unlink(name);
    g_autofree char *left = chaos_left_files(folder);
    if (!in_time || left) {
        char *more = g_strconcat(*text, in_time ? "left over: files" : "it did not come to an end",
                                 left, "\n", NULL);
        g_free(*text);
        *text = more;
    }
    return in_time && !left && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The comments that begin with WHAT, in one line. */
static char *comment(const char *text, const char *what)
{
    const char *at = strstr(text, what);

    return at ? g_strndup(at + strlen(what), strcspn(at + strlen(what), "\n")) : g_strdup("");
}

static int run_all(const char *self, unsigned seed, unsigned runs)
{
    unsigned bad = 0;

    printf("1..%u\n", runs);
    for (unsigned i = 0; i < runs; i++) {
        g_autofree char *text = NULL;
        unsigned pool = hugepages_size();
        bool ok = spawn_run(self, seed + i, &text);
        if (!ok && hugepages_size() != pool) {
            hugepages_set_size(pool); /* what it reserved, and could not give back */
        }
        g_autofree char *plan = comment(text, "# plan:"), *end = comment(text, "# end: ");

        printf("%s %u - chaos/seed-%u:%s; %s\n", ok ? "ok" : "not ok", i + 1, seed + i, plan, end);
        if (!ok) {
            g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
            for (unsigned l = 0; lines[l]; l++) {
                printf("# %s\n", lines[l]);
            }
            bad++;
        }
        fflush(stdout);
    }
    return bad != 0;
}

int main(int argc, char **argv)
{
    const char *why;
    unsigned seed = 1, runs = 3;

    if (!vm_farfault_available(&why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "--one")) {
        seed = strtoul(argv[2], NULL, 10);
        argc = 1;
        g_test_init(&argc, &argv, NULL);
        g_test_add_data_func("/chaos", GUINT_TO_POINTER(seed), run_one);
        return chaos_left_run(g_test_run);
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned *value = !strcmp(argv[i], "--seed") ? &seed : &runs;
        if (!strcmp(argv[i], "--guest")) {
            g_setenv("FF_CHAOS_GUEST", argv[i + 1], TRUE);
        } else {
            *value = strtoul(argv[i + 1], NULL, 10);
        }
    }
    if (!chaos_guest(g_getenv("FF_CHAOS_GUEST"))) {
        printf("1..0 # SKIP the guest is not built: run scripts/build-guest\n");
        return 0;
    }
    const ChaosGuest *guest = chaos_guest(g_getenv("FF_CHAOS_GUEST"));
    if (g_str_has_prefix(guest->name, "kvm") && !ring3_available(RING3_KVM, NULL, &why)) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    unsigned huge = guest->hugepages;
    HugePages *pool = huge ? hugepages_try(huge + SPARE, &why) : NULL;
    if (huge && !pool) {
        printf("1..0 # SKIP %s\n", why);
        return 0;
    }
    hugepages_free(pool);
    return run_all("/proc/self/exe", seed, runs);
}
