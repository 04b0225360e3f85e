/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The inside of one client monitor, shared by monitor.c (commands), which stands on
 * monitor-inject.c, monitor-overdue.c, monitor-answer.c (what QEMU says), monitor-plug.c
 * (vhost-user devices), monitor-fds.c (getfd) and monitor-item.c. One thread; no locks. */
#ifndef FF_GUEST_RELAY_MONITOR_INTERNAL_H
#define FF_GUEST_RELAY_MONITOR_INTERNAL_H

#include "guest/relay/accept.h"
#include "guest/relay/conn.h"
#include "guest/relay/hotplug-vhost.h"
#include "guest/relay/qmp-frame.h"
#include "guest/relay/shared.h"

/* A message of the client. */
typedef struct {
    GBytes *raw;
    FfQmpCommand *command; /* NULL: QEMU's parser will refuse it */
    int *fds;              /* owned */
    unsigned n_fds;
    uint32_t seq;    /* once the engine has it */
    unsigned losses; /* engines that died over it */
    bool plugged;    /* its chardev has been looked at: FfTaking */
    unsigned caps;   /* FF_CLIENT_CAP_*: QEMU is told of them for want of an engine */
} FfItem;

/* What QEMU must answer. */
typedef struct FfSent {
    bool injected, lost; /* LOST: the engine that asked is gone */
    bool overdue;        /* the client has an answer; what QEMU says goes nowhere */
    gint64 since;        /* monotonic time, us */
    bool barrier;        /* injected by the relay itself: ends a lifted event filter */
    char *id;            /* plain JSON; NULL if none */
    uint32_t seq;        /* of an injected one */
    bool negotiates, enables_oob;
    bool conts;      /* cont, which QEMU carries out when it continues */
    const char *own; /* goes into the list that QEMU answers with: ff_own_entries() */
    FfSaid says;
    char *getfd; /* name, with GETFD_COPY; becomes valid with the reply */
    int getfd_copy;
    char *closefd;
    char *chardev;    /* the whole command, which changes chardevs, or may; NULL */
    guint plugged;    /* what ff_hotplug_passes() has said of it; 0: that it may */
    bool adds;        /* a device: a migration begins when it is there, or not */
    unsigned caps;    /* FfItem.caps */
    uint32_t carried; /* what FfStateTotals.carried is when QEMU has obeyed; 0: as it was */
    void (*answered)(FfMonitor *mon, struct FfSent *sent, bool error); /* can be NULL */
} FfSent;

/* A chardev is taken over before a device gets it (monitor-plug.c). */
typedef struct {
    FfPlug *plug;
    int spare; /* which of QEMU's listening sockets: ff_backends_spare() */
    bool network;
    int backend; /* the connection to the back-end; -1: it is the relay's already */
    /* The back-end is asked for a connection; then QEMU: to change the chardev; to make it on that
     * socket, as it is removed already; to make it as it was. */
    enum { FF_TAKING_CONNECT, FF_TAKING_CHANGE, FF_TAKING_ADD, FF_TAKING_RESTORE } step;
    char *change, *add; /* the commands for the first two of QEMU's; NULL while connecting */
    unsigned tries;
    guint timer; /* until it is asked again; 0: it has been */
    bool closes; /* the client has gone: the connection to QEMU ends with this */
} FfTaking;

/* Where the bytes of QEMU's current message go. */
typedef enum {
    FF_OUT_UNDECIDED, /* into held, until it is known what it is */
    FF_OUT_PASS,      /* to the client */
    FF_OUT_SWALLOW,   /* nowhere */
    FF_OUT_CAPTURE,   /* into held, for the engine */
} FfOut;

/* Where FfSent.own is put into QEMU's answer. */
typedef enum { FF_OWN_NOWHERE, FF_OWN_AFTER_RETURN, FF_OWN_AFTER_BRACKET } FfOwnPlace;

struct FfMonitor {
    FfRelay *relay;
    unsigned index;
    const FfRelayMonitor *plan;
    FfAccept *accept;
    void (*pump)(FfMonitor *mon); /* ff_monitor_pump(), for the parts below it */
    FfConn *client, *qemu;        /* either can be NULL */
    bool client_ended;            /* it will send no more */
    guint hang_up;                /* QEMU has hung up, and may have ended; 0: not so */

    /* client -> QEMU */
    FfQmpFramer *framer;
    int *fds; /* came, and belong to the message that is not complete yet */
    unsigned n_fds;
    GQueue todo; /* FfItem *: in-band, not passed yet */
    size_t todo_bytes;
    GQueue inband, oob; /* FfSent *: QEMU must answer them */
    FfItem *owned;      /* in-band, at the engine; nothing in-band is passed meanwhile */
    GQueue owned_oob;   /* FfItem * */
    FfItem *plugging;   /* the same, while its chardev is taken over */
    bool plugged;       /* that has come to an end: it may be passed */
    FfTaking *taking;   /* NULL: none is */
    bool negotiated, oob_enabled;
    GByteArray *greeting;  /* of this connection to QEMU */
    bool greeted;          /* it has passed, or begun to */
    bool qemu_oob;         /* what was negotiated on it */
    bool kept;             /* it was a client's that is gone: QEMU owes that one answers */
    bool accepting;        /* the next client may come, though the connection is kept */
    bool may_be_overdue;   /* FF_FILTER_OVERDUE, as it was at the last look */
    GSource *overdue;      /* looks for overdue answers; NULL: none is waited for */
    GHashTable *named_fds; /* name -> GINT_TO_POINTER(fd) */
    bool going, gone;      /* the client is offered to another relay; it is that one's */
    bool adopting;         /* it was another relay's: QEMU is told what it has negotiated */
    bool awaited;          /* it is another relay's still: what QEMU says is kept in batch */

    /* QEMU -> client */
    unsigned event_filters; /* relay->filters, and those whose lifting waits for a barrier */
    unsigned barriers;
    FfQmpSplitter *splitter;
    FfOut out;
    const char *own; /* FfSent.own of the command that QEMU is answering */
    FfOwnPlace own_place;
    bool inside; /* bytes of QEMU's current message are with the client */
    GByteArray *held;
    GByteArray *batch; /* for the client, written at the end of the turn */
    GQueue inserts;    /* GBytes *: wait for the end of QEMU's message */
    size_t insert_bytes;
};

/* monitor-item.c */
void ff_sent_free(FfSent *sent);
void ff_item_free(FfItem *item);

/* monitor-answer.c */
void ff_answer_data(FfMonitor *mon, const char *buf, size_t len);
/* LINE (without newline) goes to the client between two messages of QEMU. */
void ff_answer_insert(FfMonitor *mon, const char *line, size_t len);
/* What was kept goes to the client, which has come. */
void ff_answer_flush(FfMonitor *mon);
void ff_answer_reset(FfMonitor *mon);

/* monitor-inject.c */
bool ff_inject_pending(const FfMonitor *mon);
void ff_inject_give_up(FfMonitor *mon); /* no answer will come any more */

/* JSON as that of the engine's, for the relay itself; the answer goes nowhere. */
FfSent *ff_inject_own(FfMonitor *mon, const char *json);

/* monitor-plug.c */
void ff_plug_note(FfMonitor *mon, const FfItem *item, FfSent *sent); /* before it is passed */
/* TRUE: ITEM waits in mon->plugging. FALSE with *REFUSED_WHY: it must not be carried out. */
bool ff_plug_begins(FfMonitor *mon, FfItem *item, const char **refused_why);
/* QEMU answers no more: what it has carried out is not known. */
void ff_plug_unheard(FfMonitor *mon);
/* The client has gone: nothing more is asked for it. */
void ff_plug_client_gone(FfMonitor *mon);
/* The connection to QEMU has ended. */
void ff_plug_end(FfMonitor *mon);

/* monitor-overdue.c. QEMU owes an answer that the client waits for. */
bool ff_overdue_waits(const FfMonitor *mon);
/* Something was passed to QEMU, or the filters have changed. */
void ff_overdue_watch(FfMonitor *mon);
void ff_overdue_end(FfMonitor *mon);
/* The client has gone. TRUE: the connection is kept for the next one. */
bool ff_overdue_keep(FfMonitor *mon);
/* A client has come, and the connection was kept. */
void ff_overdue_greet(FfMonitor *mon);
/* Takes ITEM, of a client that was greeted so and has not negotiated. */
void ff_overdue_negotiate(FfMonitor *mon, FfItem *item);

/* monitor-fds.c */
void ff_fds_note(FfMonitor *mon, const FfItem *item, FfSent *sent); /* before it is passed */
void ff_fds_answered(FfMonitor *mon, FfSent *sent, bool error);     /* QEMU has answered */
void ff_fds_reset(FfMonitor *mon);

#endif
