/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's process and the relay's end of the link: started when an owned command comes,
 * let go when it says IDLE, started again when it dies in the middle of something.
 *
 * What the engine may ask for is small (link.h) and every request is checked: the engine talks
 * to the network. It is killed when QEMU ends, and when its link has ended: it may live on behind a
 * broken one, and no other is started before it is dead, as two would act on one guest. One thread;
 * no locks.
 *
 * System calls: execve, waitid, wait4, pidfd_open, pidfd_send_signal, vfork.
 */
#include "relay/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CRASHES 5 /* without an answered command in between */
#define END_MS 4000   /* how long an engine may take to end when QEMU has ended */
#define MAX_HELD 64
/* How long a command waits for the end of an engine that was killed. */
#define KILLED_MS 1000

#define DIED "the migration engine ended unexpectedly; it has been restarted, repeat the command"
#define DIED_TOO_OFTEN                                                                             \
    "the migration engine ended unexpectedly five times; it is not started again: see the log of " \
    "QEMU"

struct FfEngine {
    FfLink *link; /* NULL: none runs, or it was let go */
    int pidfd;    /* of the current one; -1: none, or it was let go. Its watch closes it */
    int dying;    /* of one that was killed and is not dead yet; -1: none. As above */
    bool again;   /* another one is to be started when it is dead */
    unsigned restarts, crashes;
    uint32_t incoming_seq; /* of START_INCOMING until it is answered */
    bool incoming_sent;
    bool told_absent;
};

static bool engine_start(FfRelay *relay);

/* --- the process --- */

static gboolean engine_reap(gint pidfd, GIOCondition condition, gpointer data)
{
    FfRelay *relay = data;
    FfEngine *engine = relay->engine;
    siginfo_t info;

    waitid(P_PIDFD, pidfd, &info, WEXITED);
    close(pidfd);
    if (engine->pidfd == pidfd) {
        engine->pidfd = -1;
    }
    if (engine->dying == pidfd) {
        engine->dying = -1;
        if (engine->again && !engine->link && !ff_guest_has_ended(relay)) {
            engine_start(relay);
        }
    }
    return G_SOURCE_REMOVE;
}

/* --- INIT --- */

static void add_text(JsonBuilder *b, const char *name, const char *text)
{
    json_builder_set_member_name(b, name);
    if (text) {
        json_builder_add_string_value(b, text);
    } else {
        json_builder_add_null_value(b);
    }
}

static void add_int(JsonBuilder *b, const char *name, gint64 value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

static void add_bool(JsonBuilder *b, const char *name, bool value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_boolean_value(b, value);
}

static void add_fd(JsonBuilder *b, GArray *fds, const char *name, int fd)
{
    if (fd >= 0) {
        json_builder_add_string_value(b, name);
        g_array_append_val(fds, fd);
    }
}

static void init_fds(FfRelay *relay, JsonBuilder *b, GArray *fds)
{
    const FfGuest *guest = &relay->guest;

    json_builder_set_member_name(b, "fds");
    json_builder_begin_array(b);
    add_fd(b, fds, "state", relay->state_fd);
    add_fd(b, fds, "qemu-monitor", relay->plan->qemu_monitor);
    add_fd(b, fds, "pidfd", guest->pidfd);
    add_fd(b, fds, "pagemap", guest->pagemap);
    add_fd(b, fds, "maps", guest->maps);
    add_fd(b, fds, "mem", guest->mem);
    for (unsigned i = 0; i < guest->n_uffds; i++) {
        g_autofree char *name = g_strdup_printf("uffd:%u", i);

        add_fd(b, fds, name, guest->uffds[i]);
    }
    for (guint i = 0; i < relay->held->len; i++) {
        const FfHeld *held = relay->held->pdata[i];

        add_fd(b, fds, held->name, held->fd);
    }
    json_builder_end_array(b);
}

static char *init_text(FfRelay *relay, GArray *fds)
{
    static const char *const policies[] = {"auto", "always", "never"};
    const FfRelayPlan *plan = relay->plan;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonNode) root = NULL;

    json_builder_begin_object(b);
    add_int(b, "engine-restarts", relay->engine->restarts);
    add_text(b, "policy", policies[plan->policy]);
    add_bool(b, "start-paused", plan->start_paused);
    add_text(b, "incoming", plan->incoming);
    add_bool(b, "incoming-taken", plan->incoming_taken);
    add_text(b, "engine-refused", plan->engine_refused);
    add_text(b, "uffd-error", relay->guest.uffd_error);
    add_text(b, "name", plan->name);
    add_int(b, "qemu-pid", relay->guest.pid);
    json_builder_set_member_name(b, "monitors");
    json_builder_begin_array(b);
    for (guint i = 0; i < plan->monitors->len; i++) {
        json_builder_begin_object(b);
        add_text(b, "id", ((FfRelayMonitor *)plan->monitors->pdata[i])->id);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    init_fds(relay, b, fds);
    json_builder_set_member_name(b, "held");
    json_builder_begin_array(b);
    for (guint i = 0; i < relay->held->len; i++) {
        json_builder_add_value(b, json_from_string(((FfHeld *)relay->held->pdata[i])->json, NULL));
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    return json_to_string(root, FALSE);
}

/* --- requests of the engine --- */

static void held_free(void *data)
{
    FfHeld *held = data;

    close(held->fd);
    g_free(held->name);
    g_free(held->json);
    g_free(held);
}

static void drop_held(FfRelay *relay, const char *name)
{
    for (guint i = 0; i < relay->held->len; i++) {
        if (!strcmp(((FfHeld *)relay->held->pdata[i])->name, name)) {
            g_ptr_array_remove_index(relay->held, i);
            return;
        }
    }
}

static void hold(FfRelay *relay, char *json, int *fds, unsigned n_fds)
{
    g_autofree char *text = json;
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    JsonObject *o = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    const char *name = o ? json_object_get_string_member_with_default(o, "name", NULL) : NULL;
    FfHeld *held;

    if (!name || n_fds != 1) {
        ff_relay_log(relay, "the engine's HOLD needs a name and one fd");
        return;
    }
    drop_held(relay, name);
    if (relay->held->len >= MAX_HELD + relay->plan->ram->len) {
        ff_relay_log(relay, "the engine's HOLD of '%s': too many fds are held", name);
        return;
    }
    held = g_new0(FfHeld, 1);
    held->name = g_strdup(name);
    held->json = g_steal_pointer(&text);
    held->fd = fds[0];
    fds[0] = -1;
    g_ptr_array_add(relay->held, held);
}

static void take_fd(FfRelay *relay, const FfLinkHeader *header, const char *name)
{
    int fd = ff_monitor_take_fd(relay->monitors->pdata[header->mon], name);

    ff_link_send(relay->engine->link, FF_LINK_FD_REPLY, header->mon, header->seq, NULL, 0, &fd,
                 fd >= 0);
    if (fd >= 0) {
        close(fd);
    }
}

static void inject(FfRelay *relay, const FfLinkHeader *header, GBytes *command)
{
    if (!ff_monitor_inject(relay->monitors->pdata[header->mon], header->seq, command)) {
        ff_engine_inject_reply(relay, header->mon, header->seq, NULL, 0);
    }
}

static void incoming_done(FfRelay *relay)
{
    relay->engine->incoming_seq = 0;
    if (relay->clients_wait) {
        relay->clients_wait = false;
        for (guint i = 0; i < relay->monitors->len; i++) {
            ff_monitor_go(relay->monitors->pdata[i]);
        }
    }
}

static bool pending(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (ff_monitor_has_pending(relay->monitors->pdata[i])) {
            return true;
        }
    }
    return relay->engine->incoming_seq != 0;
}

static void set_filters(FfRelay *relay, unsigned filters)
{
    relay->filters = filters;
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_filters_changed(relay->monitors->pdata[i]);
    }
}

/* A command that was sent while IDLE was under way is still unanswered: the engine stays. */
static void idle(FfRelay *relay)
{
    if (!pending(relay)) {
        g_clear_pointer(&relay->engine->link, ff_link_free);
        relay->engine->pidfd = -1; /* the watch that reaps it owns it */
        set_filters(relay, 0);
    }
}

static void answer(FfRelay *relay, const FfLinkHeader *header, GBytes *payload)
{
    FfMonitor *mon = relay->monitors->pdata[header->mon];

    relay->engine->crashes = 0;
    if (header->type == FF_LINK_REPLY) {
        ff_monitor_reply(mon, header->seq, payload);
    } else {
        ff_monitor_pass(mon, header->seq, header->type == FF_LINK_PASS_AS ? payload : NULL);
    }
}

static void frame(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds, void *opaque)
{
    FfRelay *relay = opaque;
    gsize len;
    const char *data = g_bytes_get_data(payload, &len);
    g_autofree char *text = NULL;

    if (header->type == FF_LINK_REPLY && header->seq == relay->engine->incoming_seq &&
        header->seq) {
        incoming_done(relay);
        return;
    }
    switch (header->type) {
    case FF_LINK_REPLY:
    case FF_LINK_PASS:
    case FF_LINK_PASS_AS:
    case FF_LINK_TAKE_FD:
    case FF_LINK_INJECT:
        if (header->mon >= relay->monitors->len) {
            ff_relay_log(relay, "the engine named monitor %u of %u", header->mon,
                         relay->monitors->len);
            return;
        }
        break;
    }
    switch (header->type) {
    case FF_LINK_REPLY:
    case FF_LINK_PASS:
    case FF_LINK_PASS_AS:
        answer(relay, header, payload);
        break;
    case FF_LINK_EVENT:
        for (guint i = 0; i < relay->monitors->len; i++) {
            ff_monitor_event(relay->monitors->pdata[i], payload);
        }
        break;
    case FF_LINK_FILTER:
        if (len == sizeof(uint32_t)) {
            uint32_t filters;

            memcpy(&filters, data, sizeof(filters));
            set_filters(relay, filters);
        }
        break;
    case FF_LINK_TAKE_FD:
        text = g_strndup(data, len);
        take_fd(relay, header, text);
        break;
    case FF_LINK_INJECT:
        inject(relay, header, payload);
        break;
    case FF_LINK_HOLD:
        hold(relay, g_strndup(data, len), fds, header->n_fds);
        break;
    case FF_LINK_DROP:
        text = g_strndup(data, len);
        drop_held(relay, text);
        break;
    case FF_LINK_IDLE:
        idle(relay);
        break;
    case FF_LINK_SYNC:
        ff_link_send(relay->engine->link, FF_LINK_SYNCED, 0, header->seq, NULL, 0, NULL, 0);
        break;
    case FF_LINK_KILL_QEMU:
        text = g_strndup(data, len);
        ff_guest_kill(relay, text);
        break;
    default:
        ff_relay_log(relay, "the engine sent an unknown frame (type %u)", header->type);
    }
}

/* --- its death --- */

/* Whether it has ended by itself is not known: what ended is its link. */
static void make_sure(FfEngine *engine)
{
    if (engine->pidfd >= 0) {
        pidfd_send_signal(engine->pidfd, SIGKILL, NULL, 0);
        engine->dying = engine->pidfd;
        engine->pidfd = -1;
    }
}

/* FALSE: the one before still lives, which takes a kernel that hangs. */
static bool is_dead(FfEngine *engine)
{
    struct pollfd pfd = {engine->dying, POLLIN, 0};

    if (engine->dying >= 0 && poll(&pfd, 1, KILLED_MS) <= 0) {
        return false;
    }
    engine->dying = -1;
    return true;
}

static unsigned filters_of_state(const FfRelay *relay)
{
    uint32_t phase = __atomic_load_n(&relay->state->phase, __ATOMIC_ACQUIRE);

    bool lacks =
        relay->state->role == FF_ROLE_DESTINATION &&
        (phase == FF_PHASE_LOADING || phase == FF_PHASE_LOADED || phase == FF_PHASE_GRANTED);

    return phase == FF_PHASE_IDLE
               ? 0
               : FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS | (lacks ? FF_FILTER_OVERDUE : 0);
}

bool ff_engine_is_needed(const FfRelay *relay)
{
    return __atomic_load_n(&relay->state->phase, __ATOMIC_ACQUIRE) != FF_PHASE_IDLE ||
           __atomic_load_n(&relay->state->undo_len, __ATOMIC_ACQUIRE) != 0;
}

/* -incoming URI names no client that would say it again: it is listened for until somebody has
 * come, also if the first engine (or the relay before this one) did not get as far as to listen. */
static bool must_listen(const FfRelay *relay)
{
    uint32_t flags = relay->state->driver_flags;
    bool unheard =
        relay->state->role == FF_ROLE_NONE && !(flags & (uint32_t)FF_DRIVER_NATIVE_INCOMING);

    return relay->plan->incoming_taken && (flags & FF_DRIVER_LISTENS || unheard);
}

static void closed(FfLink *link, const GError *error, void *opaque)
{
    FfRelay *relay = opaque;
    FfEngine *engine = relay->engine;
    const char *desc = DIED;

    ff_link_free(g_steal_pointer(&engine->link));
    if (ff_guest_has_ended(relay)) {
        engine->pidfd = -1;
        return; /* the engine has seen it, too */
    }
    make_sure(engine);
    engine->restarts++;
    engine->crashes++;
    ff_relay_log(relay, "the migration engine ended unexpectedly%s%s", error ? ": " : "",
                 error ? error->message : "");
    set_filters(relay, filters_of_state(relay));
    if (engine->crashes >= MAX_CRASHES) {
        desc = DIED_TOO_OFTEN;
        incoming_done(relay);
    } else if (ff_engine_is_needed(relay) || engine->incoming_seq || must_listen(relay)) {
        engine->incoming_sent = engine->incoming_sent && !engine->incoming_seq &&
                                (ff_engine_is_needed(relay) || !must_listen(relay));
        engine->again = engine->dying >= 0;
        if (!engine->again) {
            engine_start(relay);
        }
    }
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_engine_lost(relay->monitors->pdata[i], desc);
    }
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_pump(relay->monitors->pdata[i]);
    }
}

static const FfLinkOps link_ops = {frame, closed};

/* --- start --- */

static void send_incoming(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    const char *uri = relay->plan->incoming;

    if (relay->plan->incoming_taken && !engine->incoming_sent) {
        engine->incoming_sent = true;
        engine->incoming_seq = ++relay->last_seq;
        ff_link_send(engine->link, FF_LINK_START_INCOMING, 0, engine->incoming_seq, uri,
                     strlen(uri), NULL, 0);
    }
}

static void engine_watch(FfRelay *relay, pid_t pid)
{
    FfEngine *engine = relay->engine;
    GSource *source;

    /* The child is not reaped yet, so the pid is its own. */
    engine->pidfd = pidfd_open(pid, 0);
    if (engine->pidfd < 0) {
        return;
    }
    source = g_unix_fd_source_new(engine->pidfd, G_IO_IN);
    g_source_set_callback(source, G_SOURCE_FUNC(engine_reap), relay, NULL);
    g_source_attach(source, NULL);
    g_source_unref(source);
}

static bool engine_start(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autofree char *init = NULL;
    int sv[2], pid, ret;

    engine->again = false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        pid = -errno;
    } else {
        pid = ff_engine_spawn(relay, sv[1]);
        close(sv[1]);
        if (pid < 0) {
            close(sv[0]);
        }
    }
    if (pid < 0) {
        if (!engine->told_absent) {
            ff_relay_log(relay,
                         "the migration engine %s cannot be started (%s): migrations are QEMU's "
                         "own",
                         relay->plan->engine, g_strerror(-pid));
        }
        engine->told_absent = true;
        return false;
    }
    engine_watch(relay, pid);
    ff_guest_look(relay);
    engine->link = ff_link_new(sv[0], NULL, &link_ops, relay);
    init = init_text(relay, fds);
    ret = ff_link_send(engine->link, FF_LINK_INIT, 0, 0, init, strlen(init), (int *)fds->data,
                       fds->len);
    if (ret < 0) {
        ff_relay_log(relay, "the migration engine cannot be told what it needs: %s",
                     g_strerror(-ret));
        g_clear_pointer(&engine->link, ff_link_free); /* it ends at the link's end */
        return false;
    }
    send_incoming(relay);
    return true;
}

FfEngineResult ff_engine_command(FfRelay *relay, unsigned mon, uint32_t seq, const char *json,
                                 const char **desc)
{
    FfEngine *engine = relay->engine;

    if (!engine->link && engine->crashes >= MAX_CRASHES) {
        *desc = DIED_TOO_OFTEN;
        return FF_ENGINE_BROKEN;
    }
    if (!engine->link && !is_dead(engine)) {
        *desc = DIED;
        return FF_ENGINE_BROKEN;
    }
    if (!engine->link && !engine_start(relay)) {
        *desc = "the migration engine cannot be started: see the log of QEMU";
        return ff_engine_is_needed(relay) ? FF_ENGINE_BROKEN : FF_ENGINE_ABSENT;
    }
    if (ff_link_send(engine->link, FF_LINK_COMMAND, mon, seq, json, strlen(json), NULL, 0) ==
        -EMSGSIZE) {
        *desc = "the command is too long";
        return FF_ENGINE_BROKEN;
    }
    return FF_ENGINE_SENT; /* a dead link is reported by closed(), which answers */
}

void ff_engine_read_now(FfRelay *relay)
{
    if (relay->engine->link) {
        ff_link_read_now(relay->engine->link);
    }
}

void ff_engine_inject_reply(FfRelay *relay, unsigned mon, uint32_t seq, const char *reply,
                            size_t len)
{
    if (relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_INJECT_REPLY, mon, seq, reply, len, NULL, 0);
    }
}

void ff_engine_client_gone(FfRelay *relay, unsigned mon)
{
    if (relay->engine && relay->engine->link) {
        ff_link_send(relay->engine->link, FF_LINK_CLIENT_GONE, mon, 0, NULL, 0, NULL, 0);
    }
}

void ff_engine_start_incoming(FfRelay *relay)
{
    FfEngine *engine = relay->engine;

    if (!engine->link && !(is_dead(engine) && engine_start(relay))) {
        ff_relay_log(relay, "incoming migration %s: nobody listens", relay->plan->incoming);
        incoming_done(relay);
    }
}

bool ff_engine_listens_first(const FfRelay *relay)
{
    return relay->plan->incoming_taken && relay->plan->incoming &&
           (!relay->plan->attached || (must_listen(relay) && !ff_engine_is_needed(relay)));
}

void ff_engine_take_over(FfRelay *relay)
{
    set_filters(relay, filters_of_state(relay));
    relay->engine->incoming_sent = !ff_engine_listens_first(relay);
    if (ff_engine_is_needed(relay)) {
        engine_start(relay);
    }
}

void ff_engine_end(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    struct pollfd pfd = {engine->pidfd, POLLIN, 0};

    if (!engine->link) {
        return;
    }
    g_clear_pointer(&engine->link, ff_link_free);
    if (engine->pidfd < 0) {
        return; /* it has ended already */
    }
    pidfd_send_signal(engine->pidfd, SIGTERM, NULL, 0);
    if (poll(&pfd, 1, END_MS) <= 0) {
        pidfd_send_signal(engine->pidfd, SIGKILL, NULL, 0);
    }
}

FfEngine *ff_engine_new(FfRelay *relay)
{
    FfEngine *engine = g_new0(FfEngine, 1);

    engine->pidfd = engine->dying = -1;
    ff_engine_keep_program(relay);
    relay->held = g_ptr_array_new_with_free_func(held_free);
    for (guint i = 0; i < relay->plan->ram->len; i++) {
        const FfRelayRam *ram = relay->plan->ram->pdata[i];
        g_autoptr(JsonBuilder) b = json_builder_new();
        g_autoptr(JsonNode) root = NULL;
        FfHeld *held = g_new0(FfHeld, 1);

        held->name = g_strdup_printf("ram:%s", ram->id);
        held->fd = ram->fd;
        json_builder_begin_object(b);
        add_text(b, "name", held->name);
        add_int(b, "size", ram->size);
        add_int(b, "page-size", ram->page_size);
        json_builder_end_object(b);
        root = json_builder_get_root(b);
        held->json = json_to_string(root, FALSE);
        g_ptr_array_add(relay->held, held);
    }
    for (guint i = 0; i < relay->plan->held->len; i++) {
        const FfRelayHeld *had = relay->plan->held->pdata[i];
        FfHeld *held = g_new0(FfHeld, 1);

        *held = (FfHeld){.name = g_strdup(had->name), .json = g_strdup(had->json), .fd = had->fd};
        g_ptr_array_add(relay->held, held);
    }
    return engine;
}
