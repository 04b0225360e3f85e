/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration in query-migrate's fields, and what is left of it when the engine has gone.
 *
 * Which field stands in which state follows fill_source_migration_info() and
 * fill_destination_migration_info() of QEMU. The last one is kept as JSON in the state memfd. Main
 * loop's thread.
 */
#include <inttypes.h>
#include <string.h>

#include "contract/vmm-run.h"
#include "migration/common/states.h"
#include "qapi/driver-private.h"

static JsonObject *ram_to_json(const FfMigrationInfo *info, unsigned version)
{
    JsonObject *ram = json_object_new();
    bool over = info->status == FF_STATUS_COMPLETED;
    uint64_t page = info->page_size;
    uint64_t precopy = info->ram_transferred > info->postcopy_bytes
                           ? info->ram_transferred - info->postcopy_bytes
                           : 0;
    double pages_per_second = page ? info->mbps * 1e6 / 8 / (double)page : 0;

    json_object_set_int_member(ram, "total", (gint64)info->ram_total);
    json_object_set_int_member(ram, "postcopy-requests", (gint64)info->requests);
    json_object_set_int_member(ram, "dirty-sync-count", (gint64)info->dirty_sync_count);
    json_object_set_int_member(ram, "multifd-bytes", 0);
    json_object_set_int_member(ram, "pages-per-second", (gint64)pages_per_second);
    json_object_set_int_member(ram, "downtime-bytes", (gint64)info->device_bytes);
    json_object_set_int_member(ram, "page-size", (gint64)page);
    json_object_set_int_member(ram, "remaining", over ? 0 : (gint64)info->ram_remaining);
    json_object_set_int_member(ram, "postcopy-bytes", (gint64)info->postcopy_bytes);
    json_object_set_double_member(ram, "mbps", info->mbps);
    json_object_set_int_member(ram, "transferred", (gint64)info->ram_transferred);
    json_object_set_int_member(ram, "dirty-sync-missed-zero-copy", 0);
    json_object_set_int_member(ram, "precopy-bytes", (gint64)precopy);
    json_object_set_int_member(ram, "duplicate", (gint64)info->pages_zero);
    json_object_set_int_member(ram, "dirty-pages-rate", (gint64)info->dirty_pages_rate);
    if (version < FF_QEMU_9_1) {
        json_object_set_int_member(ram, "skipped", 0);
    }
    json_object_set_int_member(ram, "normal-bytes", (gint64)(info->pages_normal * page));
    json_object_set_int_member(ram, "normal", (gint64)info->pages_normal);
    return ram;
}

static JsonArray *latency_to_json(const uint64_t latency[FF_LATENCY_BUCKETS])
{
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < FF_LATENCY_BUCKETS; i++) {
        if (latency[i]) {
            JsonArray *pair = json_array_new();

            json_array_add_int_element(pair, i ? INT64_C(1) << i : 0);
            json_array_add_int_element(pair, (gint64)latency[i]);
            json_array_add_array_element(list, pair);
        }
    }
    return list;
}

static JsonArray *places_to_json(const FfMigrationInfo *info)
{
    JsonArray *list = json_array_new();

    for (unsigned i = 0; i < FF_PLACES; i++) {
        json_array_add_int_element(list, (gint64)info->places[i]);
    }
    return list;
}

static JsonObject *snapshot_to_json(const FfMigrationInfo *info)
{
    JsonObject *o = json_object_new();
    gint64 page = (gint64)info->page_size;

    json_object_set_int_member(o, "buffer", page * info->buffer_slots);
    json_object_set_int_member(o, "buffer-used", page * (info->buffer_slots - info->buffer_free));
    json_object_set_int_member(o, "waits", (gint64)info->write_waits);
    json_object_set_int_member(o, "passes", info->passes);
    json_object_set_int_member(o, "arm-us", (gint64)info->arm_us);
    json_object_set_string_member(o, "way", info->way);
    return o;
}

static JsonObject *restore_to_json(const FfMigrationInfo *info)
{
    JsonObject *o = json_object_new();

    json_object_set_int_member(o, "read-for-faults", (gint64)info->fault_bytes);
    json_object_set_int_member(o, "read-by-fill", (gint64)info->fill_bytes);
    /* A new engine does not know it at first: 0 would say that the file is not needed any more. */
    if (info->ram_total) {
        bool over = info->status == FF_STATUS_COMPLETED;

        json_object_set_int_member(o, "remaining", over ? 0 : (gint64)info->ram_remaining);
    }
    if (info->set_bytes) {
        json_object_set_int_member(o, "working-set", (gint64)info->set_bytes);
        json_object_set_int_member(o, "working-set-used", (gint64)info->set_used);
    }
    return o;
}

JsonObject *ff_info_beside_restore(FfStatus status, const FfMigrationInfo *info)
{
    JsonObject *out = json_object_new();
    JsonObject *own = json_object_new();

    json_object_set_string_member(own, "engine", "farfault");
    if (info) {
        json_object_set_object_member(own, "restore", restore_to_json(info));
    }
    json_object_set_string_member(out, "status", ff_status_name(status));
    json_object_set_object_member(out, "x-farfault", own);
    return out;
}

static JsonObject *own_to_json(const FfMigrationInfo *info)
{
    JsonObject *own = json_object_new();

    json_object_set_string_member(own, "engine", "farfault");
    json_object_set_array_member(own, "latency-us", latency_to_json(info->latency));
    json_object_set_double_member(own, "latency-mean-us", info->latency_mean_us);
    json_object_set_double_member(own, "latency-p99-us", info->latency_p99_us);
    json_object_set_int_member(own, "requests", (gint64)info->requests);
    if (info->device_waits) {
        json_object_set_int_member(own, "device-waits", (gint64)info->device_waits);
        json_object_set_double_member(own, "device-wait-mean-us", info->device_wait_mean_us);
        json_object_set_int_member(own, "device-wait-max-us", (gint64)info->device_wait_max_us);
        json_object_set_array_member(own, "device-latency-us",
                                     latency_to_json(info->device_latency));
    }
    if (info->vcpu_wait_max_us) {
        json_object_set_int_member(own, "vcpu-wait-max-us", (gint64)info->vcpu_wait_max_us);
    }
    if (info->role == FF_ROLE_SOURCE && !info->snapshot) {
        json_object_set_array_member(own, "request-places", places_to_json(info));
    }
    json_object_set_int_member(own, "pages-bulk", (gint64)info->pages_bulk);
    json_object_set_int_member(own, "pages-urgent", (gint64)info->pages_urgent);
    json_object_set_int_member(own, "pages-zero", (gint64)info->pages_zero);
    json_object_set_int_member(own, "pages-duplicate", (gint64)info->pages_duplicate);
    json_object_set_int_member(own, "pages-compressed", (gint64)info->pages_compressed);
    json_object_set_boolean_member(own, "urgent-shared", info->urgent_shared);
    json_object_set_int_member(own, "bytes-wire", (gint64)info->bytes_wire);
    json_object_set_int_member(own, "device-bytes", (gint64)info->device_bytes);
    json_object_set_int_member(own, "device-bytes-wire", (gint64)info->device_wire);
    if (info->untracked) {
        json_object_set_string_member(own, "no-precopy", info->untracked);
    }
    if (info->differences) {
        json_object_set_string_member(own, "differences", info->differences);
    }
    if (info->not_started) {
        json_object_set_string_member(own, "not-started", info->not_started);
    }
    if (info->snapshot) {
        json_object_set_object_member(own, "snapshot", snapshot_to_json(info));
    }
    if (info->restore) {
        json_object_set_object_member(own, "restore", restore_to_json(info));
    }
    if (info->upgrade) {
        json_object_set_boolean_member(own, "upgrade", TRUE);
    }
    if (info->split) {
        json_object_set_object_member(own, "half", ff_split_to_json(info));
    }
    return own;
}

static void source_fields(JsonObject *out, const FfMigrationInfo *info, const FfInfoView *view)
{
    switch (info->status) {
    case FF_STATUS_NONE:
    case FF_STATUS_SETUP:
    case FF_STATUS_FAILED:
    case FF_STATUS_CANCELLED:
        return;
    default:
        break;
    }
    if (info->status == FF_STATUS_COMPLETED ||
        (view->version >= FF_QEMU_8_2 && ff_state_is_postcopy(info->status))) {
        json_object_set_int_member(out, "downtime", MAX(info->downtime, 0));
    } else {
        json_object_set_int_member(out, "expected-downtime",
                                   info->downtime >= 0            ? info->downtime
                                   : info->expected_downtime >= 0 ? info->expected_downtime
                                                                  : (gint64)view->downtime_limit);
    }
    if (info->status != FF_STATUS_COMPLETED && view->version >= FF_QEMU_11_1) {
        json_object_set_int_member(out, "remaining", (gint64)info->ram_remaining);
    }
    json_object_set_int_member(out, "setup-time", info->setup_time);
    json_object_set_int_member(out, "total-time", info->total_time);
    json_object_set_object_member(out, "ram", ram_to_json(info, view->version));
}

/* In nanoseconds, as BLOCKTIME_LATENCY_BUCKET_N in QEMU's migration/postcopy-ram.c. */
static void latency_fields(JsonObject *out, const FfMigrationInfo *info)
{
    enum { BUCKETS = 24 };
    JsonArray *dist = json_array_new(), *vcpus = json_array_new();

    G_STATIC_ASSERT(BUCKETS <= FF_LATENCY_BUCKETS);
    for (unsigned i = 0; i < BUCKETS; i++) {
        json_array_add_int_element(dist, (gint64)info->latency[i]);
    }
    for (uint32_t i = 0; i < info->n_vcpus; i++) {
        json_array_add_int_element(vcpus, (gint64)info->vcpu_latency_ns[i]);
    }
    json_object_set_int_member(out, "postcopy-latency", (gint64)(info->latency_mean_us * 1000));
    json_object_set_array_member(out, "postcopy-latency-dist", dist);
    json_object_set_array_member(out, "postcopy-vcpu-latency", vcpus);
    json_object_set_int_member(out, "postcopy-non-vcpu-latency", (gint64)info->other_latency_ns);
}

static void destination_fields(JsonObject *out, const FfMigrationInfo *info, const FfInfoView *view)
{
    /* The source may say "completed" a moment before this side does: a client that has seen it
     * there may ask here, and with QEMU the two are too near to each other to be told apart. */
    bool over = info->status == FF_STATUS_COMPLETED ||
                (info->status == FF_STATUS_POSTCOPY_ACTIVE && info->all_here);

    if (!over || !view->blocktime) {
        return;
    }
    JsonArray *list = json_array_new();

    for (uint32_t i = 0; i < info->n_vcpus; i++) {
        json_array_add_int_element(list, info->vcpu_blocktime_ms[i]);
    }
    json_object_set_int_member(out, "postcopy-blocktime", info->blocktime_ms);
    json_object_set_array_member(out, "postcopy-vcpu-blocktime", list);
    if (view->version >= FF_QEMU_10_1) {
        latency_fields(out, info);
    }
}

JsonObject *ff_info_to_json(const FfMigrationInfo *info, const FfInfoView *view)
{
    JsonObject *out = json_object_new();

    bool over = info->status == FF_STATUS_COMPLETED || info->status == FF_STATUS_FAILED;

    /* QEMU forgets it at the end. */
    if (info->role == FF_ROLE_DESTINATION && view->socket_address && !over) {
        json_object_set_array_member(out, "socket-address", json_array_ref(view->socket_address));
    }
    if (info->status == FF_STATUS_NONE) {
        return out;
    }
    json_object_set_string_member(out, "status", ff_status_name(info->status));
    if (info->role == FF_ROLE_SOURCE) {
        source_fields(out, info, view);
    } else {
        destination_fields(out, info, view);
    }
    if (info->error_desc &&
        (info->status == FF_STATUS_FAILED || info->status == FF_STATUS_POSTCOPY_PAUSED)) {
        json_object_set_string_member(out, "error-desc", info->error_desc);
    }
    if (info->status != FF_STATUS_SETUP) {
        JsonObject *own = own_to_json(info);

        if (view->client_stopped && info->role == FF_ROLE_DESTINATION) {
            json_object_set_boolean_member(own, "client-stopped", true);
        }
        json_object_set_object_member(out, "x-farfault", own);
    }
    return out;
}

static char *snapshot_summary(const FfMigrationInfo *info)
{
    return g_strdup_printf(
        "farfault: snapshot %s%s%s%s: total %" PRId64 " ms, guest stood %" PRId64
        " ms (memory %" PRIu64 " us, %u passes), %" PRIu64 " bytes (%s), pages of zeros %" PRIu64
        ", writes to what was not saved %" PRIu64 " (waited %" PRIu64 ")",
        ff_status_name(info->status), info->error_desc ? " (" : "",
        info->error_desc ? info->error_desc : "", info->error_desc ? ")" : "", info->total_time,
        MAX(info->downtime, 0), info->arm_us, info->passes, info->bytes_wire, info->way,
        info->pages_zero, info->requests, info->write_waits);
}

static char *restore_summary(const FfMigrationInfo *info)
{
    return g_strdup_printf("farfault: restore %s%s%s%s: total %" PRId64 " ms, %" PRIu64
                           " bytes read for faults, %" PRIu64
                           " by the fill, pages of zeros %" PRIu64 ", faults %" PRIu64
                           ", latency mean %.0f us p99 %.0f us",
                           ff_status_name(info->status), info->error_desc ? " (" : "",
                           info->error_desc ? info->error_desc : "", info->error_desc ? ")" : "",
                           info->total_time, info->fault_bytes, info->fill_bytes, info->pages_zero,
                           info->requests, info->latency_mean_us, info->latency_p99_us);
}

static char *downtime_text(const FfMigrationInfo *info)
{
    return info->downtime >= 0 ? g_strdup_printf(", downtime %" PRId64 " ms", info->downtime)
                               : g_strdup("");
}

static char *upgrade_summary(const FfMigrationInfo *info)
{
    g_autofree char *downtime = downtime_text(info);

    return g_strdup_printf("farfault: upgrade, %s QEMU: %s%s%s%s: total %" PRId64
                           " ms%s, device state %" PRIu64 " bytes",
                           info->role == FF_ROLE_SOURCE ? "old" : "new",
                           ff_status_name(info->status), info->error_desc ? " (" : "",
                           info->error_desc ? info->error_desc : "", info->error_desc ? ")" : "",
                           info->total_time, downtime, info->device_bytes);
}

char *ff_info_summary(const FfMigrationInfo *info)
{
    g_autofree char *downtime = downtime_text(info);

    if (info->upgrade) {
        return upgrade_summary(info);
    }
    if (info->restore) {
        return restore_summary(info);
    }
    if (info->snapshot) {
        return snapshot_summary(info);
    }
    return g_strdup_printf(
        "farfault: migration %s %s%s%s%s: total %" PRId64 " ms%s, %" PRIu64 " bytes, pages %" PRIu64
        " (normal %" PRIu64 ", zero %" PRIu64 ", urgent %" PRIu64 ", bulk %" PRIu64
        "), requests %" PRIu64 ", latency mean %.0f us p99 %.0f us",
        info->role == FF_ROLE_SOURCE ? "source" : "destination", ff_status_name(info->status),
        info->error_desc ? " (" : "", info->error_desc ? info->error_desc : "",
        info->error_desc ? ")" : "", info->total_time, downtime, info->bytes_wire,
        info->pages_normal + info->pages_zero, info->pages_normal, info->pages_zero,
        info->pages_urgent, info->pages_bulk, info->requests, info->latency_mean_us,
        info->latency_p99_us);
}

/* At a destination: the client that started the migration must not continue such a guest. */
static bool client_stopped(const FfStateHeader *state)
{
    if (state->driver_flags & FF_DRIVER_CLIENT_STOP) {
        return true;
    }
    if (state->run_state[0] && !ff_vmm_runs(state->run_state)) {
        return true; /* the source's, by the grant: no cont that was said before it starts that */
    }
    return state->said == FF_SAID_STOP && !(state->driver_flags & FF_DRIVER_CLIENT_CONT);
}

FfInfoView ff_info_view(FfDriver *d)
{
    return (FfInfoView){
        .version = ff_driver_version(d),
        .downtime_limit = d->downtime_limit,
        .blocktime = d->blocktime,
        .socket_address = d->socket_address,
        .client_stopped =
            d->config.state->role == FF_ROLE_DESTINATION && client_stopped(d->config.state),
    };
}

/* ---- kept in the state memfd ----------------------------------------------------------------- */

static void store_object(FfDriver *d, JsonObject *object)
{
    FfStateHeader *state = d->config.state;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(GString) text = g_string_new(NULL);

    json_node_set_object(node, object);
    ff_json_print(text, node, ff_qapi_command("query-migrate")->returns);
    __atomic_store_n(&state->info_len, 0, __ATOMIC_RELEASE);
    if (text->len <= sizeof(state->info)) {
        memcpy(state->info, text->str, text->len);
        /* A new engine, started after this one has died, sees either nothing or the whole. */
        __atomic_store_n(&state->info_len, (uint32_t)text->len, __ATOMIC_RELEASE);
    }
}

void ff_driver_store_info(FfDriver *d, const FfMigrationInfo *info)
{
    if (!info) {
        d->config.state->driver_flags &= ~FF_DRIVER_PLAIN_PEER;
        d->config.state->native[0] = 0;
        __atomic_store_n(&d->config.state->info_len, 0, __ATOMIC_RELEASE);
        return;
    }
    const FfInfoView view = ff_info_view(d);
    g_autoptr(JsonObject) object = ff_info_to_json(info, &view);

    store_object(d, object);
}

void ff_driver_store_native(FfDriver *d, const char *why)
{
    /* Whole characters: a client's JSON parser takes nothing else. */
    g_autofree char *text = g_utf8_make_valid(why, -1);
    gsize max = sizeof(d->config.state->native) - 1;
    const char *end = strlen(text) > max ? g_utf8_find_prev_char(text, text + max + 1) : NULL;

    if (end) {
        text[end - text] = 0;
    }
    g_strlcpy(d->config.state->native, text, sizeof(d->config.state->native));
    ff_driver_log(d, "farfault: QEMU carries the migration: %s", why);
}

void ff_driver_store_failure(FfDriver *d, FfRole role, const char *why)
{
    ff_driver_store_end(d, role, FF_STATUS_FAILED, why);
}

void ff_driver_store_end(FfDriver *d, FfRole role, FfStatus status, const char *why)
{
    g_autofree char *desc = g_strdup(why);
    FfMigrationInfo info = {.role = role, .status = status, .error_desc = desc};
    const FfInfoView view = ff_info_view(d);
    g_autoptr(JsonObject) object = ff_info_to_json(&info, &view);

    store_object(d, object);
}

char *ff_driver_stored_status(FfDriver *d)
{
    FfStateHeader *state = d->config.state;
    gsize length = MIN(state->info_len, sizeof(state->info));
    g_autoptr(JsonNode) node = ff_json_parse(state->info, length, NULL, NULL);
    const char *status = node && JSON_NODE_HOLDS_OBJECT(node)
                             ? ff_json_string(json_node_get_object(node), "status")
                             : NULL;

    return g_strdup(status ? status : ff_status_name(FF_STATUS_NONE));
}
