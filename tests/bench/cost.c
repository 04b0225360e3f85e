/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What farfault costs a guest that does not migrate, side by side with plain QEMU: start time,
 * QMP round trip, the relay's CPU time and memory while nothing happens, the guest's speed.
 *
 * QEMU connects to a socket that is listened on here: its greeting ends the start. The relay of a
 * QEMU is the one that holds a pidfd of it. The guests of
 * the speed test are both up all the time and run in turn, by cont and stop; their work is
 * related to the CPU time of QEMU, so that others on the machine matter little. With --accel the
 * guest of the speed test, and that test alone, is the ring-3 one, by KVM or TCG; beside the two
 * then stands a plain QEMU whose memory is shared as farfault's is, of a plain memfd.
 *
 * One thread, the default main context.
 */
#include "cli/common/qmp.h"
#include "qmp/json.h"
#include "sampled.h"

#include <fcntl.h>
#include <gio/gunixsocketaddress.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    gint starts, calls, idle, turns, mem;
    char *guest, *farfault, *qemu, *accel;
    Ring3 ring3; /* with .accel */
} opt = {.starts = 20, .calls = 1000, .idle = 10, .turns = 10, .mem = 512};

static const GOptionEntry entries[] = {
    {"starts", 0, 0, G_OPTION_ARG_INT, &opt.starts, "Starts that are timed (20)", "N"},
    {"calls", 0, 0, G_OPTION_ARG_INT, &opt.calls, "QMP round trips (1000)", "N"},
    {"idle", 0, 0, G_OPTION_ARG_INT, &opt.idle, "Seconds of idleness (10)", "S"},
    {"turns", 0, 0, G_OPTION_ARG_INT, &opt.turns, "Turns of each guest (10)", "N"},
    {"mem", 0, 0, G_OPTION_ARG_INT, &opt.mem, "RAM of the guest (512)", "MIB"},
    {"guest", 0, 0, G_OPTION_ARG_FILENAME, &opt.guest, "Folder of vmlinuz, initrd.img", "DIR"},
    {"farfault", 0, 0, G_OPTION_ARG_FILENAME, &opt.farfault, "farfault's program", "PATH"},
    {"qemu", 0, 0, G_OPTION_ARG_FILENAME, &opt.qemu, "QEMU", "PATH"},
    {"accel", 0, 0, G_OPTION_ARG_STRING, &opt.accel,
     "kvm, tcg: only the guest's speed, of the ring-3 guest of the tests", "NAME"},
    G_OPTION_ENTRY_NULL,
};

/* One QEMU with a monitor, and with the Linux guest if .guest. */
typedef struct {
    GSubprocess *process; /* without the Linux guest */
    BenchGuest *guest;    /* with it */
    GSocket *socket;
    FfCliQmp *qmp;
    pid_t peer; /* who is at the other end of the monitor */
    double start_ms;
} Vm;

static void vm_clear(Vm *vm)
{
    g_clear_pointer(&vm->qmp, ff_cli_qmp_free);
    g_clear_object(&vm->socket);
    g_clear_pointer(&vm->guest, bench_guest_free);
    if (vm->process) {
        g_subprocess_force_exit(vm->process);
        g_subprocess_wait(vm->process, NULL, NULL);
        g_clear_object(&vm->process);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Vm, vm_clear)

static void add_words(GPtrArray *argv, const char *words)
{
    g_auto(GStrv) word = g_strsplit(words, " ", -1);

    for (char **w = word; *w; w++) {
        g_ptr_array_add(argv, g_strdup(*w));
    }
}

static GPtrArray *command_line(bool farfault)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);

    if (farfault) {
        g_ptr_array_add(argv, g_strdup(opt.farfault));
        add_words(argv, "run --");
    }
    g_ptr_array_add(argv, g_strdup(opt.qemu));
    add_words(argv, "-nodefaults -display none -m");
    g_ptr_array_add(argv, g_strdup_printf("%d", opt.mem));
    return argv;
}

/* Its last words. */
static void add_monitor(GPtrArray *argv, const char *monitor)
{
    g_ptr_array_add(argv, g_strdup("-qmp"));
    g_ptr_array_add(argv, g_strdup(monitor));
    g_ptr_array_add(argv, NULL);
}

static GSocket *listen_at(const char *path, GError **error)
{
    g_autoptr(GSocket) socket =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);

    if (!socket || !g_socket_bind(socket, address, TRUE, error) ||
        !g_socket_listen(socket, error)) {
        return NULL;
    }
    return g_steal_pointer(&socket);
}

static double now_ms(void)
{
    return g_get_monotonic_time() / 1000.0;
}

/* Starts QEMU with its monitor connected to us, and times it up to the greeting. */
static bool vm_start(Vm *vm, bool farfault, const char *dir, GError **error)
{
    g_autofree char *path = g_build_filename(dir, "monitor", NULL);
    g_autofree char *monitor = g_strdup_printf("unix:%s", path);
    g_autoptr(GSocket) listener = listen_at(path, error);
    g_autoptr(GPtrArray) argv = command_line(farfault);
    double start = now_ms();

    add_words(argv, "-accel tcg");
    add_monitor(argv, monitor);
    if (!listener) {
        return false;
    }
    vm->process =
        g_subprocess_newv((const char *const *)argv->pdata, G_SUBPROCESS_FLAGS_NONE, error);
    if (!vm->process) {
        unlink(path);
        return false;
    }
    g_socket_set_timeout(listener, 30);
    vm->socket = g_socket_accept(listener, NULL, error);
    unlink(path);
    if (!vm->socket) {
        return false;
    }
    vm->qmp = ff_cli_qmp_open_fd(fcntl(g_socket_get_fd(vm->socket), F_DUPFD_CLOEXEC, 3), path,
                                 "cost", error);
    vm->start_ms = now_ms() - start;
    return vm->qmp != NULL;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *value, unsigned n)
{
    qsort(value, n, sizeof(*value), compare);
    return n % 2 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2;
}

static void print_pair(const char *what, double plain, double farfault, const char *unit)
{
    printf("%-34s %10.2f %10.2f  %s\n", what, plain, farfault, unit);
    fflush(stdout);
}

static bool measure_start(const char *dir, GError **error)
{
    g_autofree double *plain = g_new(double, opt.starts);
    g_autofree double *wrapped = g_new(double, opt.starts);

    for (gint i = 0; i < 2 * opt.starts; i++) {
        g_auto(Vm) vm = {0};

        if (!vm_start(&vm, i % 2, dir, error)) {
            return false;
        }
        (i % 2 ? wrapped : plain)[i / 2] = vm.start_ms;
    }
    print_pair("start to the QMP greeting", median(plain, opt.starts), median(wrapped, opt.starts),
               "ms, median");
    return true;
}

static bool round_trips(Vm *vm, double *us, GError **error)
{
    for (gint i = 0; i < opt.calls; i++) {
        gint64 start = g_get_monotonic_time();
        g_autoptr(JsonNode) answer = ff_cli_qmp_call(vm->qmp, "query-name", NULL, error);

        if (!answer) {
            return false;
        }
        us[i] = g_get_monotonic_time() - start;
    }
    return true;
}

/* Nanoseconds on a CPU (first field of schedstat), or the number after NAME in FILE. */
static double proc_number(pid_t pid, const char *file, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, file);
    g_autofree char *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return NAN;
    }
    at = name ? strstr(text, name) : text;
    return at ? g_ascii_strtod(at + (name ? strlen(name) : 0), NULL) : NAN;
}

static gboolean quit_loop(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

/* The time of the measurement itself; nothing is waited for. */
static void let_idle(unsigned seconds)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);

    g_timeout_add_seconds(seconds, quit_loop, loop);
    g_main_loop_run(loop);
}

/* TRUE if process PID is a relay that holds a pidfd of QEMU. */
static bool is_relay_of(const char *pid, const char *qemu)
{
    g_autofree char *comm_path = g_strdup_printf("/proc/%s/comm", pid);
    g_autofree char *info_path = g_strdup_printf("/proc/%s/fdinfo", pid);
    g_autofree char *comm = NULL;
    g_autofree char *wanted = g_strdup_printf("\nPid:\t%s\n", qemu);
    g_autoptr(GDir) dir = NULL;
    const char *name;

    if (!g_file_get_contents(comm_path, &comm, NULL, NULL) || strcmp(comm, "farfault-relay\n")) {
        return false;
    }
    dir = g_dir_open(info_path, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(info_path, name, NULL);
        g_autofree char *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL) && strstr(text, wanted)) {
            return true;
        }
    }
    return false;
}

/* The relay of VM, or -1. */
static pid_t relay_of(const Vm *vm)
{
    const char *qemu = g_subprocess_get_identifier(vm->process);
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        if (g_ascii_isdigit(*name) && is_relay_of(name, qemu)) {
            return atoi(name);
        }
    }
    return -1;
}

static void measure_idle(const Vm *vm)
{
    pid_t relay = relay_of(vm);
    double cpu = proc_number(relay, "schedstat", NULL);
    double woken = proc_number(relay, "status", "\nvoluntary_ctxt_switches:");

    let_idle(opt.idle);
    printf("relay: %.0f us of CPU and %.0f wake-ups in %d s; RSS %.0f KiB, PSS %.0f KiB\n",
           (proc_number(relay, "schedstat", NULL) - cpu) / 1000,
           proc_number(relay, "status", "\nvoluntary_ctxt_switches:") - woken, opt.idle,
           proc_number(relay, "smaps_rollup", "\nRss:"),
           proc_number(relay, "smaps_rollup", "\nPss:"));
}

static bool measure_monitor(const char *dir, GError **error)
{
    g_auto(Vm) plain = {0};
    g_auto(Vm) wrapped = {0};
    g_autofree double *a = g_new(double, opt.calls);
    g_autofree double *b = g_new(double, opt.calls);

    if (!vm_start(&plain, false, dir, error) || !round_trips(&plain, a, error)) {
        return false;
    }
    vm_clear(&plain);
    if (!vm_start(&wrapped, true, dir, error) || !round_trips(&wrapped, b, error)) {
        return false;
    }
    print_pair("QMP round trip (query-name)", median(a, opt.calls), median(b, opt.calls),
               "us, median");
    measure_idle(&wrapped);
    return true;
}

/* ---- the guest's speed ----------------------------------------------------------------------- */

typedef enum { PLAIN, FARFAULT, SHARED, MOST_RUNNERS } Kind;

static const char *const kind_name[] = {"plain", "farfault", "shared"};

typedef struct {
    Vm vm;
    double *rate; /* writes per second of QEMU's CPU time, one for each turn */
    double *wall; /* writes per second of the guest's clock */
} Runner;

static void runner_clear(Runner *r)
{
    vm_clear(&r->vm);
    g_free(r->rate);
    g_free(r->wall);
}

typedef struct {
    Runner runner[MOST_RUNNERS];
} Runners;

static void runners_clear(Runners *all)
{
    for (unsigned i = 0; i < MOST_RUNNERS; i++) {
        runner_clear(&all->runner[i]);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Runners, runners_clear)

static bool reports_reached(const BenchGuest *guest, void *opaque)
{
    return guest->ready && guest->reports >= *(unsigned *)opaque;
}

static bool let_work(BenchGuest *guest, unsigned more, GError **error)
{
    unsigned target = guest->reports + more;

    return bench_guest_wait(guest, reports_reached, &target, 120, "the guest's report", error);
}

static void add_linux(GPtrArray *argv)
{
    add_words(argv, "-accel tcg -chardev stdio,id=console,signal=off -serial chardev:console "
                    "-kernel");
    g_ptr_array_add(argv, g_strdup_printf("%s/vmlinuz", opt.guest));
    g_ptr_array_add(argv, g_strdup("-initrd"));
    g_ptr_array_add(argv, g_strdup_printf("%s/initrd.img", opt.guest));
    g_ptr_array_add(argv, g_strdup("-append"));
    g_ptr_array_add(argv, g_strdup_printf("console=ttyS0 quiet pti=on no_timer_check ff.mib=%d",
                                          opt.mem / 4 * 3));
}

static void add_shared_memory(GPtrArray *argv)
{
    g_autofree char *words = g_strdup_printf(
        "-object memory-backend-memfd,id=ram,share=on,size=%dM -machine memory-backend=ram",
        opt.mem);

    add_words(argv, words);
}

static bool runner_start(Runner *r, Kind kind, const char *dir, GError **error)
{
    g_autofree char *path = g_strdup_printf("%s/%s", dir, kind_name[kind]);
    g_autofree char *log = g_strdup_printf("%s.log", path);
    g_autofree char *rom = g_strdup_printf("%s.rom", path);
    g_autofree char *monitor = g_strdup_printf("unix:%s,server=on,wait=off", path);
    g_autoptr(GPtrArray) argv = command_line(kind == FARFAULT);

    r->rate = g_new0(double, opt.turns);
    r->wall = g_new0(double, opt.turns);
    if (opt.accel) {
        bench_sampled_add_args(&opt.ring3, rom, path, argv);
    } else {
        add_linux(argv);
    }
    if (kind == SHARED) {
        add_shared_memory(argv);
    }
    add_monitor(argv, monitor);
    const char *const *words = (const char *const *)argv->pdata;
    r->vm.guest =
        opt.accel ? bench_guest_start_by(&bench_sampled_voice, &opt.ring3, words, path, log, error)
                  : bench_guest_start(words, path, log, error);
    unlink(log);
    unlink(rom);
    if (!r->vm.guest || !let_work(r->vm.guest, 2, error)) {
        return false;
    }
    r->vm.qmp = ff_cli_qmp_open(path, "cost", error);
    return r->vm.qmp != NULL;
}

static bool command(Runner *r, const char *name, GError **error)
{
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(r->vm.qmp, name, NULL, error);

    return answer != NULL;
}

/* CPU time of all threads, seconds. */
static double cpu_seconds(const Runner *r)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%s/stat", g_subprocess_get_identifier(r->vm.guest->process));
    g_autofree char *text = NULL;
    g_auto(GStrv) field = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !strrchr(text, ')')) {
        return NAN;
    }
    /* After the name in brackets: state is field 3, utime and stime are 14 and 15. */
    field = g_strsplit(strrchr(text, ')') + 2, " ", -1);
    return (g_ascii_strtod(field[11], NULL) + g_ascii_strtod(field[12], NULL)) /
           sysconf(_SC_CLK_TCK);
}

static bool take_turn(Runner *r, gint turn, GError **error)
{
    BenchGuest *guest = r->vm.guest;
    BenchReport before;
    double cpu;

    /* The first report of a turn covers the pause; the next three are measured. */
    if (!command(r, "cont", error) || !let_work(guest, 1, error)) {
        return false;
    }
    before = guest->last;
    cpu = cpu_seconds(r);
    if (!let_work(guest, 3, error)) {
        return false;
    }
    double writes = (double)(guest->last.writes - before.writes);
    r->rate[turn] = writes / (cpu_seconds(r) - cpu);
    r->wall[turn] = writes / (guest->last.clock_us - before.clock_us) * 1e6;
    return command(r, "stop", error);
}

/* MiB of QEMU's that are in huge pages. */
static double huge_mib(const Runner *r)
{
    static const char *const kinds[] = {
        "\nAnonHugePages:", "\nShmemPmdMapped:", "\nFilePmdMapped:"};
    pid_t pid = atoi(g_subprocess_get_identifier(r->vm.guest->process));
    double kib = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        kib += proc_number(pid, "smaps_rollup", kinds[i]);
    }
    return kib / 1024;
}

/* One value of each of N. */
static void print_row(const char *what, const double *value, unsigned n, const char *unit)
{
    printf("%-34s", what);
    for (unsigned i = 0; i < n; i++) {
        printf(" %10.2f", value[i]);
    }
    printf("  %s\n", unit);
    fflush(stdout);
}

static void print_speed(Runners *all, unsigned n)
{
    double wall[MOST_RUNNERS], rate[MOST_RUNNERS], huge[MOST_RUNNERS];

    for (unsigned i = 0; i < n; i++) {
        wall[i] = median(all->runner[i].wall, opt.turns);
        rate[i] = median(all->runner[i].rate, opt.turns);
        huge[i] = huge_mib(&all->runner[i]);
    }
    print_row("guest's writes per second", wall, n, "median of turns");
    print_row("the same per second of CPU", rate, n, "median of turns");
    print_row("in huge pages", huge, n, "MiB");
    for (unsigned i = 1; i < n; i++) {
        printf("guest speed, %s: %+.2f %%\n", kind_name[i], 100 * (rate[i] / rate[PLAIN] - 1));
    }
}

static bool measure_speed(const char *dir, GError **error)
{
    g_auto(Runners) all = {0};
    unsigned n = opt.accel ? MOST_RUNNERS : SHARED;

    for (unsigned i = 0; i < n; i++) {
        if (!runner_start(&all.runner[i], (Kind)i, dir, error) ||
            !command(&all.runner[i], "stop", error)) {
            return false;
        }
    }
    for (gint turn = 0; turn < opt.turns; turn++) {
        /* Each begins in turn: what the machine does in waves meets all. */
        for (unsigned i = 0; i < n; i++) {
            if (!take_turn(&all.runner[((unsigned)turn + i) % n], turn, error)) {
                return false;
            }
        }
    }
    print_speed(&all, n);
    return true;
}

/* Monitors of a QEMU that was killed. */
static void remove_folder(const char *dir)
{
    for (unsigned i = 0; i < MOST_RUNNERS; i++) {
        g_autofree char *path = g_build_filename(dir, kind_name[i], NULL);
        g_autofree char *own = bench_sampled_monitor(path);

        unlink(path);
        unlink(own);
    }
    rmdir(dir);
}

/* FALSE: said on stderr. */
static bool settle_ring3(int *status)
{
    const char *why;

    *status = 2;
    if (!g_str_equal(opt.accel, "kvm") && !g_str_equal(opt.accel, "tcg")) {
        g_printerr("cost: --accel %s: known are kvm, tcg\n", opt.accel);
        return false;
    }
    opt.ring3 = (Ring3){.accel = g_str_equal(opt.accel, "kvm") ? RING3_KVM : RING3_TCG,
                        .busy_mib = (unsigned)MIN(opt.mem / 4 * 3, BENCH_SAMPLED_MIB)};
    *status = 77;
    if (!ring3_available(opt.ring3.accel, opt.qemu, &why)) {
        g_printerr("cost: --accel %s: %s\n", opt.accel, why);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- what an idle farfault costs");
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = NULL;
    int status;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("cost: %s\n", error->message);
        return 2;
    }
    if ((!opt.guest && !opt.accel) || !opt.farfault || opt.starts < 1 || opt.calls < 1 ||
        opt.turns < 1) {
        g_printerr("cost: give --guest and --farfault and counts from 1, or use scripts/cost\n");
        return 2;
    }
    opt.qemu = opt.qemu ? opt.qemu : g_strdup("qemu-system-x86_64");
    if (opt.accel && !settle_ring3(&status)) {
        return status;
    }
    dir = g_dir_make_tmp("farfault-cost-XXXXXX", &error);
    printf("%-34s %10s %10s %10s\n", "", "plain", "farfault", opt.accel ? "shared" : "");
    if (!dir || (!opt.accel && (!measure_start(dir, &error) || !measure_monitor(dir, &error))) ||
        !measure_speed(dir, &error)) {
        g_printerr("cost: %s\n", error->message);
        return 1;
    }
    remove_folder(dir);
    return 0;
}
