/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The new QEMU's side of clients.h. The old relay may hang, or be dead: then nobody comes, and
 * clients are disconnected when it ends. A monitor whose client is awaited takes no other one.
 *
 * One thread; no locks. System calls: socketpair, pread64, newfstatat.
 */
#include "guest/relay/clients.h"

#include <errno.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/rights.h"
#include "contract/succession.h"
#include "guest/relay/engine.h"
#include "guest/relay/monitor.h"
#include "net/outbox.h"
#include "qmp/json.h"

/* Until the old one has spoken, and, where its process ends, until all are here. The guest runs
 * here meanwhile, and the engine's SYNC waits (CLIENTS_MS of migration/common/control.c). */
#define COME_MS 900
/* The same where others know the guest by a front: for libvirt the end of its connection is that of
 * the guest. */
#define COME_BEHIND_MS 10000
/* Where the process stays, for those that come later: it lets them go before (LEAVE_MS). */
#define LATE_MS 90000
#define TEXT_MAX (4 << 20) /* what a client has said, and nobody has carried out */

struct FfClientsTake {
    int talk;           /* with the old relay; -1: it was not asked, or that is over */
    guint watch, timer; /* 0: none */
    GArray *seqs;       /* of uint32_t: SYNCs of the engine that wait */
    JsonNode *plan;     /* who is to come; NULL: it has not said */
    FfRights clients;   /* the first one is the plan's, and closed */
    bool only_late;     /* all but those that come later are here: the engine waits no more */
};

static void forget_clients(FfClientsTake *t)
{
    for (unsigned i = 0; i < t->clients.n; i++) {
        if (t->clients.fd[i] >= 0) {
            close(t->clients.fd[i]);
        }
    }
    t->clients.n = 0;
    g_clear_pointer(&t->plan, json_node_unref);
}

static void report_synced(FfRelay *relay)
{
    FfClientsTake *t = relay->takes;

    for (guint i = 0; i < t->seqs->len; i++) {
        ff_engine_synced(relay, g_array_index(t->seqs, uint32_t, i));
    }
    g_array_set_size(t->seqs, 0);
}

static void await_no_more(FfRelay *relay, guint i)
{
    if (ff_monitor_await_no_more(relay->monitors->pdata[i])) {
        ff_relay_log(relay, "the client of monitor '%s' does not come from the old QEMU",
                     ((FfRelayMonitor *)relay->plan->monitors->pdata[i])->id);
    }
}

static void end_taking(FfRelay *relay)
{
    FfClientsTake *t = relay->takes;

    g_clear_handle_id(&t->watch, g_source_remove);
    g_clear_handle_id(&t->timer, g_source_remove);
    close(g_steal_fd(&t->talk));
    forget_clients(t);
    for (guint i = 0; i < relay->monitors->len; i++) {
        await_no_more(relay, i);
    }
    report_synced(relay);
}

static int index_of(const FfRelay *relay, const char *id)
{
    for (guint i = 0; i < relay->plan->monitors->len; i++) {
        if (!strcmp(((FfRelayMonitor *)relay->plan->monitors->pdata[i])->id, id)) {
            return (int)i;
        }
    }
    return -1;
}

/* Takes what came with O's client out of ALL, in which those fds begin at BASE. Of FfUnreadFds;
 * they are in *OWN (g_free). */
static GArray *take_fds(JsonObject *o, FfRights *all, guint base, int **own)
{
    GArray *runs = g_array_new(FALSE, FALSE, sizeof(FfUnreadFds));
    JsonArray *numbers = ff_json_array(o, "fds");
    guint n = numbers ? json_array_get_length(numbers) : 0;

    *own = g_new0(int, all->n + 1);
    for (guint i = 0; i + 2 < n; i += 3) {
        gint64 at = json_array_get_int_element(numbers, i);
        gint64 many = json_array_get_int_element(numbers, i + 1);
        gint64 first = json_array_get_int_element(numbers, i + 2);

        if (at < 0 || many < 1 || many > all->n || first < 0 || first > all->n ||
            base + first + many > all->n) {
            continue;
        }
        for (gint64 k = base + first; k < base + first + many; k++) {
            (*own)[k] = g_steal_fd(&all->fd[k]);
        }
        FfUnreadFds run = {(size_t)at, *own + base + first, (unsigned)many};
        g_array_append_val(runs, run);
    }
    return runs;
}

/* Client number I of the plan, of monitor MON, as O says. WHICH: of the N that were to come, 1: it
 * is here. TRUE: it comes later. */
static bool adopt_client(FfRelay *relay, guint i, FfMonitor *mon, JsonObject *o, const char *which,
                         guint n)
{
    FfClientsTake *t = relay->takes;
    bool stays = ff_json_bool(o, "stays"), oob_enabled = ff_json_bool(o, "oob-enabled");

    if (!stays && (i >= n || i + 1 >= t->clients.n)) {
        return false;
    }
    if (stays || !which[i]) {
        ff_monitor_await(mon, oob_enabled);
        return true;
    }
    g_autofree int *own = NULL;
    g_autoptr(GArray) fds = take_fds(o, &t->clients, 1 + n, &own);
    if (ff_monitor_adopt(mon, t->clients.fd[i + 1], oob_enabled, ff_json_string_or(o, "unread", ""),
                         fds)) {
        t->clients.fd[i + 1] = -1;
    } else {
        for (guint k = 0; k < fds->len; k++) {
            const FfUnreadFds *run = &g_array_index(fds, FfUnreadFds, k);

            ff_outbox_close_fds(run->fds, run->n);
        }
    }
    return false;
}

/* TRUE: some come later. */
static bool adopt_all(FfRelay *relay, const char *which, guint n)
{
    JsonArray *all = json_node_get_array(relay->takes->plan);
    g_autofree bool *later = g_new0(bool, relay->monitors->len);
    bool some = false;

    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));
        int index = o ? index_of(relay, ff_json_string_or(o, "id", "")) : -1;

        if (index >= 0 && adopt_client(relay, i, relay->monitors->pdata[index], o, which, n)) {
            later[index] = some = true;
        }
    }
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (!later[i]) {
            await_no_more(relay, i); /* it has hung up */
        }
    }
    return some;
}

static JsonNode *read_plan(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_size > TEXT_MAX) {
        return NULL;
    }
    g_autofree char *text = g_malloc0(st.st_size + 1);
    JsonNode *node =
        pread(fd, text, st.st_size, 0) == st.st_size ? json_from_string(text, NULL) : NULL;
    if (node && !JSON_NODE_HOLDS_ARRAY(node)) {
        g_clear_pointer(&node, json_node_unref);
    }
    return node;
}

/* TRUE: it has said who is to come, and was told that they are welcome. */
static bool welcome_clients(FfClientsTake *t)
{
    const char take = FF_SUCCESSION_TAKE;

    t->plan = t->clients.n ? read_plan(t->clients.fd[0]) : NULL;
    /* Those for which there was no room here are the old one's still. */
    return t->plan && !t->clients.lost && ff_rights_send(t->talk, &take, 1, NULL, 0) == 1;
}

static gboolean too_late(gpointer opaque);

/* When this process had no turn the answer may be there, and is heard before. */
static void set_limit(FfRelay *relay, guint ms)
{
    FfClientsTake *t = relay->takes;

    g_clear_handle_id(&t->timer, g_source_remove);
    t->timer = g_timeout_add_full(G_PRIORITY_LOW, ms, too_late, relay, NULL);
}

static guint come_ms(const FfRelay *relay)
{
    return relay->plan->front_fd >= 0 ? COME_BEHIND_MS : COME_MS;
}

/* A round is over, and others come later. Where the old QEMU ends, it waits for them as well. */
static void await_others(FfRelay *relay)
{
    FfClientsTake *t = relay->takes;

    if (relay->plan->other_stays && !t->only_late) {
        t->only_late = true;
        set_limit(relay, LATE_MS);
        report_synced(relay);
    }
}

/* FALSE: that was all, or is no answer. */
static bool handle_message(FfRelay *relay, const char *words, ssize_t n, const FfRights *rights)
{
    FfClientsTake *t = relay->takes;

    if (n == 1 && words[0] == FF_SUCCESSION_PLAN && !t->plan && !t->clients.n) {
        t->clients = *rights;
        if (!t->only_late) {
            set_limit(relay, come_ms(relay)); /* it hangs no more */
        }
        return welcome_clients(t);
    }
    for (unsigned i = 0; i < rights->n; i++) {
        close(rights->fd[i]);
    }
    if (n >= 1 && words[0] == FF_SUCCESSION_GIVEN && t->plan) {
        FF_FAULT_AT("clients-taken");
        bool later = adopt_all(relay, words + 1, (guint)n - 1);

        forget_clients(t);
        if (later) {
            await_others(relay);
        }
        return later;
    }
    return false;
}

static gboolean message_came(gint talk, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;
    FfClientsTake *t = relay->takes;
    FfRights rights;
    char words[1 + FF_RIGHTS_MAX] = "";
    ssize_t n = ff_rights_receive(talk, words, sizeof(words), &rights);

    if (n == -EAGAIN || n == -EINTR || handle_message(relay, words, n, &rights)) {
        return G_SOURCE_CONTINUE;
    }
    t->watch = 0;
    end_taking(relay);
    return G_SOURCE_REMOVE;
}

static gboolean too_late(gpointer opaque)
{
    FfRelay *relay = opaque;
    FfClientsTake *t = relay->takes;
    guint watch = t->watch;

    t->timer = 0;
    /* From here on the old relay is told that nobody hears its GIVEN (EPIPE), and the clients are
     * its own. One that it has said is read: they would be nobody's. */
    shutdown(t->talk, SHUT_RD);
    if (t->plan && message_came(t->talk, G_IO_IN, relay) == G_SOURCE_REMOVE) {
        g_source_remove(watch);
    } else {
        end_taking(relay);
    }
    return G_SOURCE_REMOVE;
}

/* Returns the socket for what follows, or -1. */
static int ask_predecessor(const FfRelay *relay)
{
    static const char words[] = {FF_SUCCESSION_CLIENTS, FF_SUCCESSION_ROUNDS};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        return -1;
    }
    if (ff_rights_send(relay->plan->other_door, words, sizeof(words), &pair[1], 1) !=
        (ssize_t)sizeof(words)) {
        close(g_steal_fd(&pair[0]));
    }
    close(pair[1]);
    return pair[0];
}

void ff_clients_take(FfRelay *relay)
{
    if (relay->plan->other_door < 0 || relay->takes) {
        return;
    }
    FfClientsTake *t = relay->takes = g_new0(FfClientsTake, 1); /* lives as long as the process */

    t->seqs = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    t->talk = ask_predecessor(relay);
    if (t->talk < 0) {
        ff_relay_log(relay, "clients of the old QEMU are disconnected: %s", g_strerror(errno));
        return;
    }
    t->watch = g_unix_fd_add(t->talk, G_IO_IN | G_IO_HUP, message_came, relay);
    set_limit(relay, come_ms(relay));
}

bool ff_clients_are_coming(FfRelay *relay, uint32_t seq)
{
    bool coming = relay->takes && relay->takes->talk >= 0 && !relay->takes->only_late;

    if (coming) {
        g_array_append_val(relay->takes->seqs, seq);
    }
    return coming;
}
