/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager --receive, with a sender that does what Cloud Hypervisor does (sender.h), and with
 * senders that do not. The folder has a whole snapshot or none, whatever happens; and nothing says
 * that the guest may be given up before it is whole.
 *
 * Not for sanitizers: processes are forked and end in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/pager/daemon.h"
#include "tests/pager/sender.h"

#define LAST (SENDER_STEPS - 1)
#define MIB ((uint64_t)1 << 20)

static const char *const names[] = {"migration_config.json", "state.json", "memory-0", "memory-3",
                                    "memory-7"};

typedef struct {
    Daemon *d;
    Sender s;
    char *into;
    int writer; /* of the gate that is open; 0: none */
} World;

/* ---- what is in the folder ------------------------------------------------------------------- */

static void remove_folder(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        g_unlink(file);
    }
    g_rmdir(path);
}

static unsigned count_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    unsigned n = 0;

    while (dir && g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static bool has_file(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* Both have data at the same places, and holes at the others. */
static void assert_same_holes(const char *path, const char *other)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), fd_of_other = open(other, O_RDONLY | O_CLOEXEC);

    for (off_t at = 0; at >= 0;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        g_assert_cmpint(data, ==, lseek(fd_of_other, at, SEEK_DATA));
        at = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        g_assert_cmpint(at, ==, data < 0 ? -1 : lseek(fd_of_other, data, SEEK_HOLE));
    }
    close(fd);
    close(fd_of_other);
}

static void assert_same(const char *name, const char *folder, const char *other)
{
    g_autofree char *path = g_build_filename(folder, name, NULL), *text = NULL;
    g_autofree char *path_of_other = g_build_filename(other, name, NULL), *text_of_other = NULL;
    gsize len, len_of_other;
    struct stat st;

    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    g_assert_true(g_file_get_contents(path_of_other, &text_of_other, &len_of_other, NULL));
    g_assert_cmpuint(len, ==, len_of_other);
    g_assert_cmpint(memcmp(text, text_of_other, len), ==, 0);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode, ==, S_IFREG | 0600);
    if (g_str_has_prefix(name, "memory-")) {
        assert_same_holes(path, path_of_other);
    }
}

static void assert_whole(const char *folder)
{
    g_autofree char *other = g_dir_make_tmp("farfault-receive-XXXXXX", NULL);

    vmm_write_snapshot(other);
    g_assert_cmpuint(count_files(folder), ==, G_N_ELEMENTS(names));
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        assert_same(names[i], folder, other);
    }
    remove_folder(other);
}

/* ---- a world --------------------------------------------------------------------------------- */

/* FALSE: skipped. */
static bool start(World *w, const DaemonKind *kind, const char *faults, const char *more)
{
#ifndef FF_FAULTS
    if (faults) {
        g_test_skip("needs -Dfaults=true");
        return false;
    }
#endif
    DaemonKind k = kind ? *kind : (DaemonKind){.said_to = -1};

    *w = (World){.into = g_strdup(k.into)};
    if (!w->into) { /* a name that nothing has */
        w->into = g_dir_make_tmp("farfault-receive-XXXXXX", NULL);
        g_assert_cmpint(g_rmdir(w->into), ==, 0);
    }
    k.into = w->into;
    daemon_next(&k);
    w->d = daemon_start(0, 0, NULL, faults, more);
    return true;
}

static bool begin(World *w, const DaemonKind *kind, const char *faults)
{
    if (!start(w, kind, faults, NULL)) {
        return false;
    }
    daemon_wait_said(w->d, "waits for");
    sender_begin(&w->s, w->d->socket);
    return true;
}

/* All but the sender. */
static void stop(World *w)
{
    daemon_stop(w->d);
    remove_folder(w->into);
    g_free(w->into);
    if (w->writer) {
        close(w->writer);
    }
}

static void end(World *w)
{
    sender_end(&w->s);
    stop(w);
}

/* Of one that has ended. */
static void assert_said(const Daemon *d, const char *text)
{
    g_autofree char *said = daemon_said(d);

    if (!strstr(said, text)) {
        g_error("not said: %s; but: %s", text, said);
    }
}

/* There is none, the guest's owner was not told otherwise, and the user was told why. */
static void end_without(World *w, const char *said)
{
    g_assert_cmpint(daemon_wait(w->d), ==, 1);
    assert_said(w->d, said);
    g_assert_cmpuint(count_files(w->into), ==, 0);
    g_assert_false(g_file_test(w->into, G_FILE_TEST_EXISTS)); /* it had made it */
    g_assert_false(g_file_test(w->d->socket, G_FILE_TEST_EXISTS));
    end(w);
}

/* ---- a process that waits at a point --------------------------------------------------------- */

static char *gate(const World *w, const char *name)
{
    return g_build_filename(w->d->dir, name, NULL);
}

static void make_gates(const World *w)
{
    g_autofree char *hold = gate(w, "hold"), *held = gate(w, "held");

    g_assert_cmpint(mkfifo(hold, 0600), ==, 0);
    g_assert_cmpint(mkfifo(held, 0600), ==, 0);
}

static void meet(const World *w, const char *name)
{
    g_autofree char *path = gate(w, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
}

/* It does not wait there again: as long as somebody writes, a reader need not. */
static void let_go(World *w)
{
    g_autofree char *hold = gate(w, "hold"), *held = gate(w, "held");

    g_assert_cmpint(unlink(held), ==, 0);
    w->writer = open(hold, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(w->writer, >=, 0);
}

/* All but the answer to the last step: the process waits at MOMENT. */
static bool begin_held(World *w, const char *moment)
{
    g_autofree char *fault = g_strdup_printf("receiver/none/at/%s=hold", moment);

    if (!begin(w, NULL, fault)) {
        return false;
    }
    make_gates(w);
    sender_send_until(&w->s, LAST);
    sender_send(&w->s, LAST);
    meet(w, "held");
    g_assert_true(sender_hears_nothing(&w->s));
    return true;
}

/* ---- what goes well -------------------------------------------------------------------------- */

static void test_taken(gconstpointer paused)
{
    World w;

    begin(&w, NULL, NULL);
    w.s.paused = paused;
    sender_send_until(&w.s, SENDER_STEPS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_said(w.d, "12.0 MiB of memory, of which 3.4 MiB are written");
    assert_said(w.d, paused ? "was paused before" : "was running before");
    assert_whole(w.into);
    end(&w);
}

static void take_into(const char *dir, const char *socket, void *opaque)
{
    World w;

    begin(&w, &(DaemonKind){.said_to = -1, .into = dir}, NULL);
    sender_send_until(&w.s, SENDER_STEPS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    sender_end(&w.s);
    daemon_stop(w.d);
    g_free(w.into);
    VmmPlan *plan = opaque;
    plan->listener = vmm_listen(socket);
    /* That was the next one. */
    daemon_next(&(DaemonKind){.said_to = -1, .restores = take_into, .opaque = opaque});
}

/* What was taken can be restored, and each page is what it was. */
static void test_restored(void)
{
    VmmPlan plan = {.vcpus = 4, .ops = 1000, .flags = VMM_PREFAULTS, .seed = 5};

    for (unsigned i = 0; i < 2; i++) {
        daemon_next(&(DaemonKind){.said_to = -1, .restores = take_into, .opaque = &plan});
        Daemon *d = daemon_start(0, 0, NULL, NULL, i ? "--no-bulk" : NULL);
        pid_t vmm = vmm_start(&plan);
        assert_ended_well(vmm);
        g_assert_cmpint(daemon_wait(d), ==, 0);
        close(plan.listener);
        daemon_stop(d);
    }
}

/* Up to the last sync nothing has a name; then all have, and only then is it acknowledged. */
static void test_order(void)
{
    World w;

    if (!begin_held(&w, "receive-copied")) {
        return;
    }
    g_assert_cmpuint(count_files(w.into), ==, 0);
    let_go(&w);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_whole(w.into);
    end(&w);
    begin_held(&w, "receive-stored");
    assert_whole(w.into);
    let_go(&w);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

/* A byte at a time. */
static void test_pieces(void)
{
    uint8_t bytes[16] = {7, [8] = 4};
    World w;

    begin(&w, NULL, NULL);
    sender_send_until(&w.s, 3);
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        g_assert_cmpint(send(w.s.sock, bytes + i, 1, MSG_NOSIGNAL), ==, 1);
    }
    for (unsigned i = 0; i < 4; i++) { /* the slot is 0 */
        struct iovec iov = {bytes + 1, 1};
        union {
            struct cmsghdr align;
            char room[CMSG_SPACE(sizeof(int))];
        } control = {.align = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
        struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
        memcpy(CMSG_DATA(&control.align), &w.s.memory[0], sizeof(int));
        if (i == 2) {
            mh.msg_control = &control;
            mh.msg_controllen = sizeof(control);
        }
        g_assert_cmpint(sendmsg(w.s.sock, &mh, MSG_NOSIGNAL), ==, 1);
    }
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    for (unsigned step = 4; step < SENDER_STEPS; step++) {
        sender_send(&w.s, step);
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    }
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_whole(w.into);
    end(&w);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

/* Instead of a step. Its answer is an error, and the guest continues where it is. */
typedef struct {
    const char *name;
    unsigned step;
    void (*does)(World *w);
    const char *said;
} Wrong;

static void leave(World *w)
{
    close(w->s.sock);
    w->s.sock = -1;
}

static void config_of_private_file(World *w)
{
    g_autoptr(GString) text = g_string_new(vmm_config());

    g_assert_cmpuint(g_string_replace(text, "\"size\": 4194304, \"shared\": true",
                                      "\"size\": 0, \"zones\": [{\"id\": \"mem0\", \"size\": "
                                      "4194304, \"file\": \"/dev/hugepages/a\", \"shared\": "
                                      "false, \"hugepages\": true}]",
                                      1),
                     ==, 1);
    sender_request(&w->s, 2, 0, text->len);
    sender_text(&w->s, text->str);
}

static void leave_in_request(World *w)
{
    send(w->s.sock, "\7", 1, MSG_NOSIGNAL);
    leave(w);
}

static void leave_in_text(World *w)
{
    sender_request(&w->s, 2, 0, 1000);
    sender_text(&w->s, "{");
    leave(w);
}

static void abandon(World *w)
{
    sender_request(&w->s, 6, 0, 0);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_LEFT);
    leave(w);
}

static void speak_later_version(World *w)
{
    sender_request(&w->s, 1, 1, 0);
}

static void config_at_once(World *w)
{
    sender_request(&w->s, 2, 0, strlen(vmm_config()));
    sender_text(&w->s, vmm_config());
}

static void config_of_2_63(World *w)
{
    sender_request(&w->s, 2, 0, UINT64_C(1) << 63);
}

static void config_of_nothing(World *w)
{
    sender_request(&w->s, 2, 0, 0);
}

static void config_that_is_none(World *w)
{
    sender_request(&w->s, 2, 0, 2);
    sender_text(&w->s, "{}");
}

static void state_of_2_64(World *w)
{
    sender_request(&w->s, 3, 0, UINT64_MAX);
}

static void complete_with_payload(World *w)
{
    sender_request(&w->s, 5, 0, 1);
}

static void pass(World *w, uint32_t slot, int fd, unsigned n)
{
    const int fds[] = {fd, fd, fd, fd, fd, fd, fd, fd};

    sender_request(&w->s, 7, 0, 4);
    sender_pass(&w->s, slot, fds, n);
}

static void pass_nothing(World *w)
{
    pass(w, 0, w->s.memory[0], 0);
}

static void pass_two(World *w)
{
    pass(w, 0, w->s.memory[0], 2);
}

static void pass_eight(World *w)
{
    pass(w, 0, w->s.memory[0], 8);
}

static void pass_same_slot(World *w)
{
    pass(w, vmm_slot[1].slot, w->s.memory[1], 1);
}

static void pass_socket(World *w)
{
    pass(w, 0, w->s.sock, 1);
}

static void pass_with_length(World *w)
{
    sender_request(&w->s, 7, 0, 5);
}

/* In place of the last slot's, and then Config. */
static void pass_and_configure(World *w, uint32_t slot, int fd)
{
    pass(w, slot, fd, 1);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    sender_send(&w->s, VMM_SLOTS + 1);
}

static void pass_other_slot(World *w)
{
    pass_and_configure(w, 1, w->s.memory[0]);
}

static void pass_small(World *w)
{
    int fd = memfd_create("small", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(fd, (off_t)vmm_slot[0].size - 1), ==, 0);
    pass_and_configure(w, 0, fd);
    close(fd);
}

static void pass_one_too_many(World *w)
{
    pass(w, 1, w->s.memory[0], 1);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    sender_send(&w->s, VMM_SLOTS + 1);
}

static void pass_33(World *w)
{
    for (uint32_t i = VMM_SLOTS; i < 32; i++) {
        pass(w, 100 + i, w->s.memory[0], 1);
        g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    }
    pass(w, 99, w->s.memory[0], 1);
}

/* Its Config says that it is larger than it is. */
static void cut_before(World *w)
{
    g_assert_cmpint(ftruncate(w->s.memory[0], 4096), ==, 0);
    sender_send(&w->s, LAST);
}

/* For a part the writer has no right to read. */
static void pass_write_only(World *w)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", w->s.memory[0]);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    pass_and_configure(w, 0, fd);
    close(fd);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    sender_send(&w->s, LAST - 1);
    g_assert_cmpint(sender_answer(&w->s), ==, SENDER_OK);
    sender_send(&w->s, LAST);
}

static const Wrong wrongs[] = {
    {"leaves-after-start", 1, leave, "has left"},
    {"leaves-after-memory", 3, leave, "has left"},
    {"leaves-after-config", 5, leave, "has left"},
    {"leaves-after-state", 6, leave, "has left"},
    {"leaves-in-request", 1, leave_in_request, "has left"},
    {"leaves-in-text", 4, leave_in_text, "has left"},
    {"abandons", 1, abandon, "has abandoned it"},
    {"abandons-late", 6, abandon, "has abandoned it"},
    {"later-version", 0, speak_later_version, "speaks version 1"},
    {"not-local", 1, config_at_once, "send-migration needs local=on"},
    {"config-first", 0, config_at_once, "where Start was expected"},
    {"huge-config", 4, config_of_2_63, "command 2 with 9223372036854775808 bytes"},
    {"no-config", 4, config_of_nothing, "command 2 with 0 bytes"},
    {"bad-config", 4, config_that_is_none, "must have guest_ram_mappings"},
    {"private-file", 4, config_of_private_file, "a file that is not shared"},
    {"huge-state", 5, state_of_2_64, "command 3 with 18446744073709551615 bytes"},
    {"complete-with-payload", 6, complete_with_payload, "command 5 with 1 bytes"},
    {"no-descriptor", 3, pass_nothing, "has passed no descriptor"},
    {"two-descriptors", 3, pass_two, "or more than one"},
    {"eight-descriptors", 3, pass_eight, "or more than one"},
    {"slot-twice", 3, pass_same_slot, "of one slot twice"},
    {"socket", 3, pass_socket, "is no memory"},
    {"length", 3, pass_with_length, "command 7 with 5 bytes"},
    {"other-slot", 3, pass_other_slot, "memory of slot 0 was not passed"},
    {"small", 3, pass_small, "memory of slot 0 is smaller"},
    {"one-too-many", 4, pass_one_too_many, "a slot that Config does not name"},
    {"33-slots", 4, pass_33, "too many slots"},
    {"cut-before", 6, cut_before, "the guest's memory was cut"},
    {"write-only", 3, pass_write_only, "Bad file descriptor"},
};

static void test_wrong(gconstpointer data)
{
    const Wrong *wrong = data;
    World w;

    begin(&w, NULL, NULL);
    sender_send_until(&w.s, wrong->step);
    wrong->does(&w);
    if (w.s.sock >= 0) {
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_LEFT);
    }
    end_without(&w, wrong->said);
}

/* Each command but those that may come, at each step. */
static void test_order_of_commands(void)
{
    static const unsigned may[SENDER_STEPS][2] = {{1, 1}, {7, 7}, {7, 2}, {7, 2},
                                                  {7, 2}, {3, 3}, {5, 8}};

    for (unsigned step = 0; step < SENDER_STEPS; step++) {
        for (unsigned command = 0; command <= 10; command++) {
            World w;
            if (command == may[step][0] || command == may[step][1] || (command == 6 && step)) {
                continue;
            }
            begin(&w, NULL, NULL);
            sender_send_until(&w.s, step);
            sender_request(&w.s, command, 0, command == 7 ? 4 : command == 2 || command == 3);
            g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
            end_without(&w, "no snapshot was taken");
        }
    }
}

/* It is cut between the look for data and the read, or after its last read. */
static void test_cut(gconstpointer moment)
{
    World w;

    if (!begin_held(&w, moment)) {
        return;
    }
    g_assert_cmpint(ftruncate(w.s.memory[0], 0), ==, 0);
    let_go(&w);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
    end_without(&w, "the guest's memory was cut");
}

/* While its memory is copied its guest may not continue: it has, if the connection has ended. */
static void test_leaves(gconstpointer moment)
{
    World w;

    if (!begin_held(&w, moment)) {
        return;
    }
    leave(&w);
    let_go(&w);
    end_without(&w, "its guest may run already");
}

/* The same of one that speaks before it has an answer. */
static void test_impatient(void)
{
    World w;

    if (!begin_held(&w, "receive-piece")) {
        return;
    }
    sender_request(&w.s, 6, 0, 0);
    let_go(&w);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
    end_without(&w, "its guest may run already");
}

/* It leaves when all is on the disk: that is kept, and the user is told. */
static void test_leaves_late(void)
{
    World w;

    if (!begin_held(&w, "receive-stored")) {
        return;
    }
    leave(&w);
    let_go(&w);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    assert_said(w.d, "the snapshot is whole, but");
    assert_whole(w.into);
    end(&w);
}

/* A sender that is a process of its own, and dies while its memory is copied: there is no guest any
 * more that could continue, and what it has passed is all that is left of it. */
static void test_dies(gconstpointer moment)
{
    g_autofree char *fault = g_strdup_printf("receiver/none/at/%s=hold", (const char *)moment);
    World w;

    if (!start(&w, NULL, fault, NULL)) {
        return;
    }
    daemon_wait_said(w.d, "waits for");
    make_gates(&w);
    pid_t pid = fork();
    if (pid == 0) {
        sender_begin(&w.s, w.d->socket);
        sender_send_until(&w.s, LAST);
        sender_send(&w.s, LAST);
        pause();
    }
    meet(&w, "held");
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    let_go(&w);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_said(w.d, "its guest is gone");
    assert_whole(w.into);
    stop(&w);
}

static bool has_ended(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid;
}

/* One that has ended the connection itself, and dies some time after it: its guest may have run in
 * between. */
static void test_leaves_and_dies(void)
{
    World w;
    int go[2];
    char byte = 0;

    if (!start(&w, NULL, "receiver/none/at/receive-piece=hold", NULL)) {
        return;
    }
    daemon_wait_said(w.d, "waits for");
    make_gates(&w);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        sender_begin(&w.s, w.d->socket);
        sender_send_until(&w.s, LAST);
        sender_send(&w.s, LAST);
        g_assert_cmpint(read(go[0], &byte, 1), ==, 1);
        close(w.s.sock);
        g_assert_cmpint(write(go[0], &byte, 1), ==, 1);
        pause();
    }
    meet(&w, "held");
    g_assert_cmpint(write(go[1], &byte, 1), ==, 1);
    g_assert_cmpint(read(go[1], &byte, 1), ==, 1);
    let_go(&w);
    while (!has_ended(w.d->pid) && !is_waiting_in(w.d->pid, "poll")) {
    } /* there is no event of it */
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    close(go[0]);
    close(go[1]);
    w.s = (Sender){.sock = -1, .memory = {-1, -1, -1}};
    end_without(&w, "its guest may run already");
}

static void test_signal(gconstpointer signal)
{
    World w;

    /* Before anybody connects. */
    start(&w, NULL, NULL, NULL);
    daemon_wait_said(w.d, "waits for");
    kill(w.d->pid, GPOINTER_TO_INT(signal));
    w.s = (Sender){.sock = -1, .memory = {-1, -1, -1}};
    end_without(&w, "was ended by a signal");
    /* While it is spoken to. */
    begin(&w, NULL, NULL);
    sender_send_until(&w.s, LAST);
    kill(w.d->pid, GPOINTER_TO_INT(signal));
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
    end_without(&w, "was ended by a signal");
    /* While it copies. */
    if (begin_held(&w, "receive-copied")) {
        kill(w.d->pid, GPOINTER_TO_INT(signal));
        let_go(&w);
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
        end_without(&w, "was ended by a signal");
    }
}

/* ---- disks ----------------------------------------------------------------------------------- */

/* Each file is as large as its memory, whatever of it is data. */
static void test_too_large(void)
{
    World w;

    begin(&w, &(DaemonKind){.said_to = -1, .file_max = 4 * MIB}, NULL);
    sender_send_until(&w.s, LAST);
    sender_send(&w.s, LAST);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
    end_without(&w, "memory-7: File too large");
}

/* Of the five files' calls the Nth fails. */
static void test_disk(gconstpointer call)
{
    for (unsigned n = 1; n <= (g_str_equal(call, "receive-sync") ? VMM_SLOTS : 5); n++) {
        g_autofree char *fault = g_strdup_printf("receiver/none/call/%s#%u=%s", (const char *)call,
                                                 n, n % 2 ? "ENOSPC" : "EIO");
        World w;
        if (!begin(&w, NULL, fault)) {
            return;
        }
        sender_send_until(&w.s, LAST);
        sender_send(&w.s, LAST);
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
        g_assert_true(daemon_fault_happened(w.d, 0));
        end_without(&w, n % 2 ? "No space left on device" : "Input/output error");
    }
}

/* At each of these moments, at the Nth time that it comes. */
static const char *const moments[] = {"receive-piece", "receive-copied", "committing", "named",
                                      "receive-stored"};

/* Without its name migration_config.json the rest is no snapshot, and not taken for one. */
static void test_killed(gconstpointer moment)
{
    const unsigned times = g_str_equal(moment, "receive-piece")    ? 4
                           : g_str_equal(moment, "receive-copied") ? 3
                           : g_str_equal(moment, "receive-stored") ? 1
                                                                   : 5;

    for (unsigned n = 1; n <= times; n++) {
        g_autofree char *fault =
            g_strdup_printf("receiver/none/at/%s#%u=kill", (const char *)moment, n);
        int status;
        World w;
        if (!begin(&w, NULL, fault)) {
            return;
        }
        sender_send_until(&w.s, LAST);
        sender_send(&w.s, LAST);
        g_assert_cmpint(sender_answer(&w.s), ==, SENDER_LEFT);
        g_assert_cmpint(waitpid(w.d->pid, &status, 0), ==, w.d->pid);
        w.d->pid = 0;
        g_assert_true(WIFSIGNALED(status));
        bool whole =
            g_str_equal(moment, "receive-stored") || (g_str_equal(moment, "named") && n == times);
        g_assert_cmpint(has_file(w.into, "migration_config.json"), ==, whole);
        if (whole) {
            assert_whole(w.into);
        } else if (!g_str_equal(moment, "named") && !g_str_equal(moment, "committing")) {
            g_assert_cmpuint(count_files(w.into), ==, 0);
        }
        end(&w);
    }
}

/* One that is there is never touched; nor is a part of one taken for the beginning of another. */
static void test_there_already(gconstpointer name)
{
    g_autofree char *dir = g_dir_make_tmp("farfault-receive-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, name, NULL), *text = NULL;
    World w;

    g_assert_true(g_file_set_contents(path, "mine", -1, NULL));
    start(&w, &(DaemonKind){.said_to = -1, .into = dir}, NULL, NULL);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    assert_said(w.d, "is there already");
    g_assert_cmpuint(count_files(dir), ==, 1);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "mine");
    w.s = (Sender){.sock = -1, .memory = {-1, -1, -1}};
    end(&w);
}

/* Somebody makes one while ours is copied. */
static void test_there_meanwhile(gconstpointer name)
{
    g_autofree char *text = NULL;
    World w;

    if (!begin_held(&w, "receive-copied")) {
        return;
    }
    g_autofree char *path = g_build_filename(w.into, name, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(write(fd, "mine", 4), ==, 4);
    close(fd);
    let_go(&w);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_ERROR);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    assert_said(w.d, "is there already");
    g_assert_cmpuint(count_files(w.into), ==, 1);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "mine");
    end(&w);
}

static void test_no_folder(void)
{
    World w;

    start(&w, &(DaemonKind){.said_to = -1, .into = "/no/such/folder"}, NULL, NULL);
    g_assert_cmpint(daemon_wait(w.d), ==, 1);
    assert_said(w.d, "/no/such/folder: No such file or directory");
    daemon_stop(w.d);
    g_free(w.into);
}

/* ---- who connects ---------------------------------------------------------------------------- */

/* One that says nothing, and one that leaves at once, do not keep it from the guest. */
static void test_silent(void)
{
    Sender silent, left;
    World w;

    start(&w, NULL, NULL, NULL);
    daemon_wait_said(w.d, "waits for");
    sender_begin(&left, w.d->socket);
    sender_end(&left);
    daemon_wait_said(w.d, "has left without a word");
    sender_begin(&silent, w.d->socket);
    daemon_wait_said(w.d, "has said nothing");
    g_assert_cmpint(sender_answer(&silent), ==, SENDER_LEFT);
    sender_end(&silent);
    sender_begin(&w.s, w.d->socket);
    sender_send_until(&w.s, SENDER_STEPS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_whole(w.into);
    end(&w);
}

/* It may take its time between two steps. */
static void test_slow(void)
{
    World w;

    begin(&w, NULL, NULL);
    sender_send_until(&w.s, LAST - 1);
    daemon_wait_said(w.d, "says nothing: still waiting");
    sender_send(&w.s, LAST - 1);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    sender_send(&w.s, LAST);
    g_assert_cmpint(sender_answer(&w.s), ==, SENDER_OK);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    assert_whole(w.into);
    end(&w);
}

static void connect_as(const char *path, uid_t uid)
{
    pid_t pid = fork();

    if (pid == 0) {
        Sender s;
        if (setuid(uid) < 0) {
            _exit(1);
        }
        sender_begin(&s, path);
        _exit(0);
    }
    assert_ended_well(pid);
}

static void test_users(void)
{
    World w;

    if (geteuid() != 0) {
        g_test_skip("needs root, to be another user");
        return;
    }
    start(&w, NULL, NULL, "--allow=12345");
    daemon_wait_said(w.d, "waits for");
    g_assert_cmpint(chmod(w.d->dir, 0755), ==, 0);
    connect_as(w.d->socket, 12346);
    daemon_wait_said(w.d, "is a user's who may not connect");
    connect_as(w.d->socket, 12345);
    daemon_wait_said(w.d, "has left without a word");
    sender_begin(&w.s, w.d->socket);
    sender_send_until(&w.s, SENDER_STEPS);
    g_assert_cmpint(daemon_wait(w.d), ==, 0);
    end(&w);
}

int main(int argc, char **argv)
{
    static const char *const calls[] = {"receive-sync", "output-sync", "output-link",
                                        "output-folder"};
    static const char *const cuts[] = {"receive-piece", "receive-copied"};

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/receive/taken/running", NULL, test_taken);
    g_test_add_data_func("/receive/taken/paused", GINT_TO_POINTER(1), test_taken);
    g_test_add_func("/receive/restored", test_restored);
    g_test_add_func("/receive/order", test_order);
    g_test_add_func("/receive/pieces", test_pieces);
    for (unsigned i = 0; i < G_N_ELEMENTS(wrongs); i++) {
        g_autofree char *path = g_strdup_printf("/receive/wrong/%s", wrongs[i].name);
        g_test_add_data_func(path, &wrongs[i], test_wrong);
    }
    g_test_add_func("/receive/wrong/order", test_order_of_commands);
    for (unsigned i = 0; i < G_N_ELEMENTS(cuts); i++) {
        g_autofree char *cut = g_strdup_printf("/receive/cut/%s", cuts[i]);
        g_autofree char *leaves = g_strdup_printf("/receive/leaves/%s", cuts[i]);
        g_autofree char *dies = g_strdup_printf("/receive/dies/%s", cuts[i]);
        g_test_add_data_func(cut, cuts[i], test_cut);
        g_test_add_data_func(leaves, cuts[i], test_leaves);
        g_test_add_data_func(dies, cuts[i], test_dies);
    }
    /* After the last piece. */
    g_test_add_data_func("/receive/leaves/last", "receive-copied#3", test_leaves);
    g_test_add_data_func("/receive/dies/last", "receive-copied#3", test_dies);
    g_test_add_data_func("/receive/dies/receive-stored", "receive-stored", test_dies);
    g_test_add_func("/receive/leaves-and-dies", test_leaves_and_dies);
    g_test_add_func("/receive/impatient", test_impatient);
    g_test_add_func("/receive/leaves-late", test_leaves_late);
    g_test_add_data_func("/receive/signal/term", GINT_TO_POINTER(SIGTERM), test_signal);
    g_test_add_data_func("/receive/signal/int", GINT_TO_POINTER(SIGINT), test_signal);
    g_test_add_func("/receive/disk/too-large", test_too_large);
    for (unsigned i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_autofree char *path = g_strdup_printf("/receive/disk/%s", calls[i]);
        g_test_add_data_func(path, calls[i], test_disk);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(moments); i++) {
        g_autofree char *path = g_strdup_printf("/receive/killed/%s", moments[i]);
        g_test_add_data_func(path, moments[i], test_killed);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *before = g_strdup_printf("/receive/there/%s", names[i]);
        g_autofree char *meanwhile = g_strdup_printf("/receive/there-meanwhile/%s", names[i]);
        g_test_add_data_func(before, names[i], test_there_already);
        g_test_add_data_func(meanwhile, names[i], test_there_meanwhile);
    }
    g_test_add_func("/receive/no-folder", test_no_folder);
    g_test_add_func("/receive/silent", test_silent);
    g_test_add_func("/receive/slow", test_slow);
    g_test_add_func("/receive/users", test_users);
    return g_test_run();
}
