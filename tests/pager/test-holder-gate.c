/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who opens the gate of a family when one of it goes: its next event may be read only when the one
 * before was applied, and the pager that has done so still opens the gate itself. A holder as it is
 * in memory, with a pipe in the place of a userfaultfd.
 */
#include "pager/holder/internal.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PARENT, CHILD, MEMBERS };

typedef struct {
    FfHolder *holder;
    int says[MEMBERS]; /* to the member's "userfaultfd" */
} Family;

static void add(Family *f, int i)
{
    FfHeldSpace *s = &f->holder->space[i];
    int ends[2];

    g_assert_no_errno(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
    *s = (FfHeldSpace){.id = (uint64_t)(i + 1) * FF_HOLDER_SPACES + i,
                       .root = PARENT,
                       .parent = i == PARENT ? -1 : PARENT,
                       .next = -1,
                       .uffd = ends[0],
                       .news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                       .told = -1,
                       .sock = -1,
                       .pidfd = -1,
                       .ready = true};
    s->memfd = ff_space_record_create(&s->rec);
    g_assert_cmpint(s->memfd, >=, 0);
    s->rec->taken = FF_TAKEN;
    f->says[i] = ends[1];
}

static void say_event(const Family *f, int i)
{
    const struct uffd_msg msg = {.event = UFFD_EVENT_REMOVE};

    g_assert_cmpint(write(f->says[i], &msg, sizeof(msg)), ==, sizeof(msg));
}

static Family *family_new(void)
{
    static const FfHolderConfig cfg = {.arrival = &ff_arrival_message};
    Family *f = g_new0(Family, 1);

    f->holder = g_new0(FfHolder, 1);
    f->holder->cfg = &cfg;
    f->holder->epoll = epoll_create1(EPOLL_CLOEXEC);
    f->holder->guard = f->holder->spare = f->holder->link = f->holder->pidfd = -1;
    add(f, PARENT);
    add(f, CHILD);
    f->holder->space[PARENT].next = CHILD;
    f->holder->space[PARENT].n_family = MEMBERS;
    return f;
}

static void family_free(Family *f)
{
    for (int i = 0; i < MEMBERS; i++) {
        FfHeldSpace *s = &f->holder->space[i];

        if (s->id) {
            ff_holder_close(f->holder, &s->uffd);
            ff_holder_close(f->holder, &s->news);
            ff_holder_close(f->holder, &s->memfd);
            ff_space_record_unmap(s->rec);
        }
        close(f->says[i]);
    }
    close(f->holder->epoll);
    g_free(f->holder);
    g_free(f);
}

/* Event 1 of member I was read. APPLIED: the pager has it, and has not opened the gate yet. */
static void event_was_read(Family *f, int i, bool applied)
{
    FfSpaceRecord *rec = f->holder->space[i].rec;

    rec->seq = 1;
    rec->applied = applied ? 1 << 1 : 0;
    ff_gate_set(f->holder->space[PARENT].rec, FF_GATE_EVENT);
    g_assert_cmpint(ff_space_record_has_event(rec), ==, !applied);
}

static FfGate gate(const Family *f)
{
    return ff_gate_state(ff_gate_look(f->holder->space[PARENT].rec));
}

/* The pager is about to open it: what is read now it would open it over. */
static void test_pagers(void)
{
    Family *f = family_new();

    event_was_read(f, PARENT, true);
    say_event(f, PARENT);
    ff_holder_drop(f->holder, f->holder->space[CHILD].id, false);
    g_assert_cmpint(f->holder->space[PARENT].rec->seq, ==, 1);
    g_assert_cmpint(gate(f), ==, FF_GATE_EVENT);
    family_free(f);
}

/* The one that goes has had it, and nobody will apply it. */
static void test_left(void)
{
    Family *f = family_new();

    event_was_read(f, CHILD, false);
    say_event(f, PARENT);
    ff_holder_drop(f->holder, f->holder->space[CHILD].id, false);
    g_assert_cmpint(f->holder->space[PARENT].rec->seq, ==, 1); /* its own first one */
    g_assert_true(ff_space_record_has_event(f->holder->space[PARENT].rec));
    g_assert_cmpint(gate(f), ==, FF_GATE_EVENT);
    family_free(f);
}

/* The same, and there is nothing to be read. */
static void test_quiet(void)
{
    Family *f = family_new();

    event_was_read(f, CHILD, false);
    ff_holder_drop(f->holder, f->holder->space[CHILD].id, false);
    g_assert_cmpint(gate(f), ==, FF_GATE_OPEN);
    family_free(f);
}

/* The pager has given the one up that goes, opened the gate for it, and is about to open it for
 * another one's. */
static void test_given_up(void)
{
    Family *f = family_new();

    event_was_read(f, CHILD, false);
    ff_space_record_forget_event(f->holder->space[CHILD].rec);
    g_assert_false(ff_space_record_has_event(f->holder->space[CHILD].rec));
    event_was_read(f, PARENT, true);
    say_event(f, PARENT);
    ff_holder_drop(f->holder, f->holder->space[CHILD].id, false);
    g_assert_cmpint(f->holder->space[PARENT].rec->seq, ==, 1);
    g_assert_cmpint(gate(f), ==, FF_GATE_EVENT);
    family_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/holder-gate/pagers", test_pagers);
    g_test_add_func("/holder-gate/left", test_left);
    g_test_add_func("/holder-gate/quiet", test_quiet);
    g_test_add_func("/holder-gate/given-up", test_given_up);
    return g_test_run();
}
