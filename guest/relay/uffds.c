/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See uffds.h. One thread (ff_unprotect_start() has its own, which knows of nothing here); no
 * locks. System calls: close. */
#include "guest/relay/uffds.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "guest/relay/hook.h"
#include "uffd/backing.h"
#include "uffd/unprotect.h"

#define RAM "ram:"

static const char *const names[FF_KINDS] = FF_KIND_NAMES;

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void stop_timer(FfGuest *guest)
{
    if (guest->uffd_timer) {
        g_source_remove(guest->uffd_timer);
        guest->uffd_timer = 0;
    }
}

void ff_uffds_init(FfGuest *guest)
{
    for (unsigned i = 0; i < FF_KINDS; i++) {
        guest->uffds[i] = -1;
    }
}

unsigned ff_uffds_count(const FfAgentHello *hello)
{
    unsigned n = 0;

    for (unsigned i = 0; i < FF_KINDS; i++) {
        n += hello->error[i] == 0;
    }
    return n;
}

/* ---- why there is none ----------------------------------------------------------------------- */

/* What the kernel of this host does not do for KIND. */
static const char *unsupported_kind(FfKind kind)
{
    static const char *const text[FF_KINDS] = {
        [FF_KIND_TRACKING] = "writes cannot be tracked: Linux 6.7 or newer is needed",
        [FF_KIND_MISSING] = "no userfaultfd: this kernel does not support it",
        [FF_KIND_PROTECT] = "no live snapshots: Linux 5.19 or newer is needed",
    };

    return text[kind];
}

/* FIX (can be NULL): what the launcher has found for this user. */
static char *error_text(FfKind kind, int error, const char *fix)
{
    switch (error) {
    case EPERM:
    case EACCES:
        return g_strdup_printf("no userfaultfd for this user (%s): %s",
                               error == EPERM ? "EPERM" : "EACCES",
                               fix ? fix
                                   : "farfault doctor has what helps, or set "
                                     "vm.unprivileged_userfaultfd=1");
    case ENOSYS:
        return g_strdup("this kernel has no userfaultfd: use one with CONFIG_USERFAULTFD");
    case EOPNOTSUPP:
        return g_strdup(unsupported_kind(kind));
    case FF_AGENT_EOLDER:
        return g_strdup("no live snapshots: an older farfault has started this guest; they need it "
                        "to be started again");
    case FF_AGENT_ELOST:
        return g_strdup(
            "no live snapshots: the process that had the userfaultfd for them has not "
            "given it back; they need the guest to be started again, or farfault upgrade");
    default:
        return g_strdup_printf("no userfaultfd: %s", g_strerror(error));
    }
}

/* ERROR 0: there is one. */
static void set_error(FfRelay *relay, FfKind kind, int error)
{
    char **text = &relay->guest.uffd_error[kind];

    g_free(*text);
    *text = error ? error_text(kind, error, relay->plan->userfault_fix) : NULL;
    relay->state->kind_error[kind] = error;
}

/* ---- the agent's hand-over ------------------------------------------------------------------- */

/* For a relay that comes after this one: it can take QEMU's copies (guest/launch/attach.c). The
 * first fields are for one of before the kinds, which wants a first userfaultfd that tracks and a
 * second one for missing pages: it finds out by itself that the same one twice cannot track. */
static void note_hello(FfStateHeader *state, const FfAgentHello *hello)
{
    int32_t missing = hello->kept[FF_KIND_MISSING], tracking = hello->kept[FF_KIND_TRACKING];
    int error = hello->error[FF_KIND_MISSING];

    state->agent = error ? FF_STATE_AGENT_REFUSED : FF_STATE_AGENT_READY;
    state->uffd_errno = error;
    state->n_uffds = error ? 0 : 2;
    state->uffd_in_qemu[0] = tracking >= 0 ? tracking : missing;
    state->uffd_in_qemu[1] = missing;
    state->n_kinds = FF_KINDS;
    memcpy(state->kind_in_qemu, hello->kept, sizeof(hello->kept));
}

void ff_uffds_adopt(FfRelay *relay, const FfAgentHello *hello, const int *fds)
{
    FfGuest *guest = &relay->guest;
    unsigned n = 0;

    for (unsigned i = 0; i < FF_KINDS; i++) {
        close_fd(&guest->uffds[i]);
        guest->uffds[i] = hello->error[i] ? -1 : fds[n++];
        set_error(relay, i, hello->error[i]);
    }
    guest->uffd_lent = guest->uffd_overdue = guest->uffd_lifted = false;
    stop_timer(guest);
    ff_state_unmark(relay->state, FF_MARK_PROTECTED); /* this one was never used */
    note_hello(relay->state, hello);
}

/* ---- the one that is lent -------------------------------------------------------------------- */

int ff_uffds_take(FfRelay *relay, const char *name, const char **why)
{
    FfGuest *guest = &relay->guest;
    int fd = guest->uffds[FF_KIND_PROTECT];
    const char *error = guest->uffd_error[FF_KIND_PROTECT];

    *why = NULL;
    if (strcmp(name, names[FF_KIND_PROTECT]) != 0) {
        *why = "the engine has all other userfaultfds from its start on";
        return -1;
    }
    if (guest->uffd_lent || guest->uffd_lifting || fd < 0) {
        *why = guest->uffd_lent ? "the userfaultfd for live snapshots is the engine's already"
               : guest->uffd_lifting
                   ? "what the live snapshot before this one has left is just taken away: repeat "
                     "the command"
               : error          ? error
               : guest->refusal ? guest->refusal
                                : "QEMU has not handed over its userfaultfds yet";
        return -1;
    }
    guest->uffd_lent = true;
    guest->uffd_lifted = false;
    return fd;
}

bool ff_uffds_must_wait(const FfRelay *relay, const char *name)
{
    return relay->guest.uffd_lifting && !strcmp(name, names[FF_KIND_PROTECT]);
}

void ff_uffds_untake(FfRelay *relay)
{
    relay->guest.uffd_lent = false;
}

/* A thread that waits in it continues, if no engine has it. */
static void lose_protection(FfRelay *relay)
{
    stop_timer(&relay->guest);
    relay->guest.uffd_overdue = false;
    close_fd(&relay->guest.uffds[FF_KIND_PROTECT]);
    set_error(relay, FF_KIND_PROTECT, FF_AGENT_ELOST);
    ff_relay_log(relay, "%s", relay->guest.uffd_error[FF_KIND_PROTECT]);
    ff_state_unmark(relay->state, FF_MARK_PROTECTED);
}

void ff_uffds_give(FfRelay *relay, const char *name, int fd)
{
    FfGuest *guest = &relay->guest;

    if (strcmp(name, names[FF_KIND_PROTECT]) != 0 || !guest->uffd_lent) {
        ff_relay_log(relay, "the engine gives back a userfaultfd that it has not taken");
        close_fd(&fd);
        return;
    }
    stop_timer(guest);
    guest->uffd_lent = guest->uffd_overdue = false;
    if (fd < 0) {
        lose_protection(relay);
    } else {
        close_fd(&fd);
    }
}

/* ---- what an engine has left ----------------------------------------------------------------- */

static gboolean engine_overdue(gpointer opaque);

/* The engine that was killed still has its copy, so closing this one would let nobody continue. */
static void lift_again(FfRelay *relay, const GError *error)
{
    FfGuest *guest = &relay->guest;

    if (!guest->uffd_refused) {
        ff_relay_log(relay, "%s; it is tried again each second", error->message);
    }
    guest->uffd_refused = true;
    stop_timer(guest);
    guest->uffd_timer = g_timeout_add(FF_UFFDS_LIFT_MS, engine_overdue, relay);
}

static void protection_lifted(const GError *error, void *opaque)
{
    FfRelay *relay = opaque;
    FfGuest *guest = &relay->guest;

    guest->uffd_lifting = false;
    if (error && guest->uffd_killed) {
        lift_again(relay, error);
        return;
    }
    if (error) {
        ff_relay_log(relay, "%s", error->message);
        lose_protection(relay);
    } else {
        guest->uffd_overdue = guest->uffd_refused = false;
        guest->uffd_lifted = true;
        ff_hook_engine_dead(relay); /* no other engine can have armed it */
        ff_relay_log(relay, "the live snapshot has ended with its engine, which was killed; the "
                            "guest is unharmed");
    }
    guest->uffd_free(relay, names[FF_KIND_PROTECT]);
}

static void lift_protection(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;
    g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof(FfLiftBlock));

    for (guint i = 0; i < relay->held->len; i++) {
        const FfHeld *held = relay->held->pdata[i];
        FfBacking b;

        /* The size of its pages is that of the file, whatever an engine has said. */
        if (g_str_has_prefix(held->name, RAM) && ff_backing_of_file(held->fd, &b) == 0) {
            FfLiftBlock block = {held->fd, b.page_size};

            g_array_append_val(blocks, block);
        }
    }
    guest->uffd_lifting = true;
    ff_unprotect_start(guest->uffds[FF_KIND_PROTECT], guest->maps,
                       (const FfLiftBlock *)blocks->data, blocks->len, protection_lifted, relay);
}

static gboolean engine_overdue(gpointer opaque)
{
    FfRelay *relay = opaque;
    FfGuest *guest = &relay->guest;

    guest->uffd_timer = 0;
    if (guest->uffd_lent) {
        guest->uffd_overdue = true;
    } else if (guest->uffd_killed) {
        lift_protection(relay);
    } else {
        lose_protection(relay);
    }
    return G_SOURCE_REMOVE;
}

static void wait_for_next(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;

    if (guest->uffd_overdue && !guest->uffd_killed) {
        lose_protection(relay);
    } else if (!guest->uffd_timer) {
        guest->uffd_timer = g_timeout_add(FF_UFFDS_LIFT_MS, engine_overdue, relay);
    }
}

void ff_uffds_engine_ended(FfRelay *relay, bool killed)
{
    FfGuest *guest = &relay->guest;

    if (!guest->uffd_lent) {
        return;
    }
    guest->uffd_lent = false;
    guest->uffd_killed = killed;
    ff_state_mark(relay->state, FF_MARK_PROTECTED); /* it may have died before it had done so */
    /* This QEMU is ended then, or the next engine finds that the guest is its own. */
    if (!ff_state_is_guarded(relay->state)) {
        wait_for_next(relay);
    }
}

void ff_uffds_engine_dead(FfRelay *relay)
{
    FfGuest *guest = &relay->guest;

    if (!guest->uffd_killed) {
        return;
    }
    guest->uffd_killed = false;
    if (guest->uffd_refused) {
        guest->uffd_refused = false;
        stop_timer(guest); /* that was for the next try: the next engine has a whole second */
    }
    /* What was lifted harms nobody, however late the next engine looks at it. */
    if (!guest->uffd_lifting && !guest->uffd_lifted && !ff_state_is_guarded(relay->state)) {
        wait_for_next(relay);
    }
}
