/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session whose back-end is another QEMU's still (docs/design/vhost-user.md, "Upgrades"): QEMU
 * asks it a few things when it makes the device, the same that the other QEMU has asked, and is
 * answered the same. All else that it says is held, as before a back-end may have memory.
 *
 * One thread; no locks. No system calls.
 */
#include <string.h>

#include "guest/vhost/session-internal.h"

/* A part of it that lies behind what is known says nothing of what is between. */
void ff_vhost_absent_note_config(FfVhostSession *s, const FfVhostMessage *msg)
{
    FfVhostConfig config;

    if (msg->header.size < sizeof(config)) {
        return; /* it has none, or an error */
    }
    memcpy(&config, msg->payload, sizeof(config));
    if (config.offset > s->known.config_size || config.size > FF_VHOST_MAX_CONFIG ||
        config.offset + config.size > FF_VHOST_MAX_CONFIG ||
        msg->header.size != sizeof(config) + config.size) {
        return;
    }
    memcpy(s->known.config + config.offset, msg->payload + sizeof(config), config.size);
    s->known.config_size = MAX(s->known.config_size, config.offset + config.size);
}

void ff_vhost_absent_note(FfVhostSession *s, const FfVhostMessage *msg)
{
    switch (msg->header.request) {
    case FF_VHOST_GET_FEATURES:
        s->offered = ff_vhost_u64(msg);
        s->knows_offer = true;
        break;
    case FF_VHOST_GET_PROTOCOL_FEATURES:
        s->offered_protocol = ff_vhost_u64(msg);
        break;
    case FF_VHOST_GET_QUEUE_NUM:
        s->known.queues = ff_vhost_u64(msg);
        break;
    case FF_VHOST_GET_MAX_MEM_SLOTS:
        s->known.slots = ff_vhost_u64(msg);
        break;
    case FF_VHOST_GET_CONFIG:
        ff_vhost_absent_note_config(s, msg);
        break;
    default:
        break;
    }
}

void ff_vhost_session_remember(FfVhostSession *s, const FfVhostKnown *known)
{
    s->known = *known;
}

bool ff_vhost_session_known(const FfVhostSession *s, FfVhostKnown *known)
{
    *known = s->known;
    known->offered = s->offered;
    known->offered_protocol = s->offered_protocol;
    return s->knows_offer && !s->odd && !s->absent;
}

/* ---- while there is none --------------------------------------------------------------------- */

bool ff_vhost_session_is_absent(const FfVhostSession *s)
{
    return s->absent;
}

/* The answer to a question for the configuration; FALSE: that much of it is not known. */
static bool config_of(const FfVhostSession *s, const FfVhostMessage *msg, uint8_t *payload,
                      uint32_t *size)
{
    FfVhostConfig config;

    if (msg->header.size < sizeof(config)) {
        return false;
    }
    memcpy(&config, msg->payload, sizeof(config));
    if (config.offset > s->known.config_size ||
        config.size > s->known.config_size - config.offset) {
        return false;
    }
    memcpy(payload, &config, sizeof(config));
    memcpy(payload + sizeof(config), s->known.config + config.offset, config.size);
    *size = sizeof(config) + config.size;
    return true;
}

/* PAYLOAD and *SIZE are the answer to MSG. FALSE: none is known. */
static bool answer_of(const FfVhostSession *s, const FfVhostMessage *msg, uint8_t *payload,
                      uint32_t *size)
{
    uint64_t number = 0;

    switch (msg->header.request) {
    case FF_VHOST_GET_FEATURES:
        number = s->offered;
        break;
    case FF_VHOST_GET_PROTOCOL_FEATURES:
        number = s->offered_protocol;
        break;
    case FF_VHOST_GET_QUEUE_NUM:
        number = s->known.queues;
        break;
    case FF_VHOST_GET_MAX_MEM_SLOTS:
        number = s->known.slots;
        break;
    case FF_VHOST_GET_CONFIG:
        return config_of(s, msg, payload, size);
    default:
        return false;
    }
    memcpy(payload, &number, sizeof(number));
    *size = sizeof(number);
    return number || msg->header.request == FF_VHOST_GET_PROTOCOL_FEATURES;
}

/* What a ring's base and the device's status are is known from what is held. */
static bool is_question(const FfVhostMessage *msg)
{
    return ff_vhost_has_answer(msg->header.request, 0) &&
           msg->header.request != FF_VHOST_GET_VRING_BASE &&
           msg->header.request != FF_VHOST_GET_STATUS;
}

bool ff_vhost_absent_must_wait(const FfVhostSession *s, const FfVhostMessage *msg)
{
    uint8_t payload[sizeof(FfVhostConfig) + FF_VHOST_MAX_CONFIG];
    uint32_t size;

    return s->absent && is_question(msg) && !answer_of(s, msg, payload, &size);
}

bool ff_vhost_absent_answer(FfVhostSession *s, const FfVhostMessage *msg)
{
    uint8_t payload[sizeof(FfVhostConfig) + FF_VHOST_MAX_CONFIG];
    uint32_t size, request = msg->header.request;

    if (!s->absent || !is_question(msg) || !answer_of(s, msg, payload, &size)) {
        return false;
    }
    s->ops->to_qemu(ff_vhost_message_new(request, FF_VHOST_REPLY, payload, size), s->opaque);
    return true;
}

/* ---- there it is ----------------------------------------------------------------------------- */

static void send_own(FfVhostSession *s, uint32_t request)
{
    ff_vhost_say(s, ff_vhost_message_new(request, 0, NULL, 0), true);
}

void ff_vhost_session_arrived(FfVhostSession *s)
{
    send_own(s, FF_VHOST_GET_FEATURES);
    if (s->offered & FF_VHOST_F_PROTOCOL_FEATURES) {
        send_own(s, FF_VHOST_GET_PROTOCOL_FEATURES);
    }
}

/* What it must have heard before QEMU asks it anything, and what has nothing to do with memory;
 * then what it is asked after SET_PROTOCOL_FEATURES alone, which some insist on. (Without that QEMU
 * asks itself.) */
static void introduce_backend(FfVhostSession *s)
{
    bool agreed = false;

    s->introduced = true;
    for (GList *l = s->held.head, *next; l; l = next) {
        FfVhostMessage *msg = l->data;
        uint32_t request = msg->header.request;

        next = l->next;
        if (request == FF_VHOST_SET_PROTOCOL_FEATURES || request == FF_VHOST_SET_OWNER ||
            request == FF_VHOST_SET_BACKEND_REQ_FD) {
            g_queue_delete_link(&s->held, l);
            /* QEMU has its acknowledgement. */
            msg->header.flags &= ~(uint32_t)FF_VHOST_NEED_REPLY;
            agreed |= request == FF_VHOST_SET_PROTOCOL_FEATURES;
            ff_vhost_say(s, msg, false);
        }
    }
    if (agreed && s->known.queues) {
        send_own(s, FF_VHOST_GET_QUEUE_NUM);
    }
    if (agreed && s->known.slots) {
        send_own(s, FF_VHOST_GET_MAX_MEM_SLOTS);
    }
}

/* TRUE: what NOW says is no less than what QEMU was told. */
static bool is_enough(const FfVhostSession *s, uint32_t request, uint64_t now)
{
    switch (request) {
    case FF_VHOST_GET_FEATURES:
        return !(s->offered & ~now);
    case FF_VHOST_GET_PROTOCOL_FEATURES:
        return !(s->offered_protocol & ~now);
    case FF_VHOST_GET_QUEUE_NUM:
        return now >= s->known.queues;
    default:
        return now >= s->known.slots;
    }
}

bool ff_vhost_absent_answered(FfVhostSession *s, uint32_t request, const FfVhostMessage *msg)
{
    if (msg->header.size != sizeof(uint64_t) || !is_enough(s, request, ff_vhost_u64(msg))) {
        return false;
    }
    ff_vhost_absent_note(s, msg);
    if (!s->ours.length && !s->introduced) {
        introduce_backend(s);
    }
    s->absent = s->ours.length;
    return true;
}
