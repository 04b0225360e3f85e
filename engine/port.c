/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connects the driver with the relay (frames) and with QEMU (private monitor, undo log).
 *
 * Main loop's thread; the private monitor's client runs on the default main context, too, which
 * the migration's threads wait for.
 *
 * System calls: memfd_create, fallocate, ftruncate.
 */
#include "engine/port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "guest/qemu/device-state.h"
#include "guest/qemu/hotplug.h"
#include "guest/qemu/settings.h"
#include "guest/qemu/vmm-qemu.h"
#include "qapi/json.h"

/* A QEMU that has not answered for so long hangs in a command, which should be known. */
#define SAY_MS 10000

struct FfEnginePort {
    FfEngineInit *init;
    FfLink *link;
    FfQmpClient *qmp;
    FfQemu *qemu;
    bool ram_changed; /* since qemu was made */
    FfDriverConfig config;
    FfDriver *driver; /* NULL: not there yet */
    void (*fail)(void *opaque);
    void *fail_opaque;
};

static void port_send(void *opaque, FfLinkType type, unsigned mon, uint32_t seq,
                      const char *payload, size_t length, int fd)
{
    FfEnginePort *port = opaque;

    /* A dead link ends the main loop by itself. */
    ff_link_send(port->link, type, mon, seq, payload, length, &fd, fd >= 0 ? 1 : 0);
}

typedef struct {
    FfPortReply reply;
    gpointer data;
} Wait;

static void got_reply(FfQmpClient *client, JsonNode *result, const GError *error, void *opaque)
{
    g_autofree Wait *wait = opaque;
    g_autoptr(GError) own = NULL;

    if (error) {
        gboolean not_found = g_error_matches(error, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND);

        own = g_error_new_literal(FF_DRIVER_ERROR,
                                  not_found ? FF_DRIVER_ERROR_COMMAND_NOT_FOUND
                                            : FF_DRIVER_ERROR_GENERIC,
                                  error->message);
    }
    wait->reply(result, own, wait->data);
}

static void port_inner(void *opaque, const char *command, JsonObject *args, int fd,
                       FfPortReply reply, gpointer data)
{
    FfEnginePort *port = opaque;
    Wait *wait = g_new(Wait, 1);

    wait->reply = reply;
    wait->data = data;
    ff_qmp_call(port->qmp, command, args, &fd, fd >= 0 ? 1 : 0, got_reply, wait);
}

static JsonNode *port_view(void *opaque, bool parameters)
{
    FfEnginePort *port = opaque;

    return parameters ? ff_qemu_view_parameters(port->qemu) : ff_qemu_view_capabilities(port->qemu);
}

static bool set_capabilities(FfQemu *qemu, JsonArray *list, GError **error)
{
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *status = json_array_get_object_element(list, i);

        if (!ff_qemu_view_set_capability(qemu, ff_json_string(status, "capability"),
                                         ff_json_bool(status, "state"), error)) {
            return false;
        }
    }
    return true;
}

static bool set_parameters(FfQemu *qemu, JsonObject *parameters, GError **error)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *value;

    json_object_iter_init_ordered(&iter, parameters);
    while (json_object_iter_next_ordered(&iter, &name, &value)) {
        if (!ff_qemu_view_set_parameter(qemu, name, value, error)) {
            return false;
        }
    }
    return true;
}

static bool port_set_view(void *opaque, bool parameters, JsonNode *changes, GError **error)
{
    FfEnginePort *port = opaque;
    GError *own = NULL;
    bool ok = parameters ? set_parameters(port->qemu, json_node_get_object(changes), &own)
                         : set_capabilities(port->qemu, json_node_get_array(changes), &own);

    if (!ok) {
        /* Without text: the undo log was cleared in this very moment. */
        g_set_error(error, FF_DRIVER_ERROR, FF_DRIVER_ERROR_GENERIC, "%s",
                    own ? own->message : "The migration has just ended; try again");
        g_clear_error(&own);
    }
    return ok;
}

/* ---- memory that is plugged later ------------------------------------------------------------ */

typedef struct {
    FfPortObjectReply reply;
    gpointer data;
} ObjectWait;

static int make_ram(const FfPlanRam *ram, GError **error, void *opaque)
{
    g_autofree char *name = g_strdup_printf("farfault-%s", ram->id);
    unsigned flags = MFD_CLOEXEC | (ram->seal ? MFD_ALLOW_SEALING : 0);

    if (ram->page_size > 4096) {
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(ram->page_size) << MAP_HUGE_SHIFT;
    }
    int fd = memfd_create(name, flags);

    if (fd < 0 || ftruncate(fd, (off_t)ram->size) < 0 ||
        (ram->seal && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)) {
        g_set_error(error, FF_DRIVER_ERROR,
                    errno == EFBIG ? FF_DRIVER_ERROR_FILE_TOO_LARGE : FF_DRIVER_ERROR_GENERIC,
                    "cannot make %" G_GUINT64_FORMAT " bytes of memory for '%s': %s", ram->size,
                    ram->id, g_strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static void object_done(const char *text, const FfPlanRam *ram, int memfd, int64_t fdset,
                        const GError *error, void *opaque)
{
    g_autofree ObjectWait *wait = opaque;
    const FfPortObject object = {
        .text = text,
        .id = ram ? ram->id : NULL,
        .size = ram ? ram->size : 0,
        .page_size = ram ? ram->page_size : 0,
        .memfd = memfd,
        .fdset = fdset,
    };

    wait->reply(&object, error, wait->data);
}

static void port_object_add(void *opaque, const char *text, FfPortObjectReply reply, gpointer data)
{
    FfEnginePort *port = opaque;
    ObjectWait *wait = g_new(ObjectWait, 1);
    const FfObjectAdd ops = {
        .sys = ff_argv_system_real(),
        .incoming = port->init->incoming,
        .make_ram = make_ram,
        .done = object_done,
        .opaque = wait,
    };

    wait->reply = reply;
    wait->data = data;
    ff_qemu_object_add(port->qmp, text, &ops);
}

/* QEMU keeps the file open of what it was started with, so its pages would stay. */
static void empty_ram(FfEnginePort *port, const char *id)
{
    for (guint i = 0; i < port->init->ram->len; i++) {
        const FfRamBlock *b = port->init->ram->pdata[i];

        if (!strcmp(b->id, id) && fallocate(b->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                                            (off_t)b->size) < 0) {
            g_message("memory '%s', which was unplugged, stays with QEMU: %s", id,
                      g_strerror(errno));
        }
    }
}

static void port_ram_changed(void *opaque, const char *id, uint64_t size, uint64_t page_size,
                             int memfd)
{
    FfEnginePort *port = opaque;

    /* Of a guest that changes its QEMU the memory is another one's as well. */
    if (memfd < 0 && !ff_state_is_marked(port->init->state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
        empty_ram(port, id);
    }
    ff_engine_init_set_ram(port->init, id, size, page_size, memfd);
    port->ram_changed = true;
}

static bool port_has_ram(void *opaque, const char *id)
{
    const FfEnginePort *port = opaque;

    for (guint i = 0; i < port->init->ram->len; i++) {
        if (!strcmp(((FfRamBlock *)port->init->ram->pdata[i])->id, id)) {
            return true;
        }
    }
    return false;
}

static FfQemu *new_qemu(FfEnginePort *port)
{
    const FfQemuConfig config = {
        .qmp = port->qmp,
        .state = port->init->state,
        .ram = port->init->ram,
        .name = port->init->name,
        .qemu_pid = port->init->qemu_pid,
        .backends = port->init->backends_fd,
        .deadline_ms = 10000,
    };

    return ff_qemu_new(&config);
}

/* What a migration uses stays until that is over. */
static FfVmm *port_vmm(void *opaque)
{
    FfEnginePort *port = opaque;

    if (port->ram_changed && !(port->driver && ff_driver_migrates(port->driver))) {
        ff_qemu_free(port->qemu);
        port->qemu = new_qemu(port);
        port->ram_changed = false;
    }
    return ff_qemu_vmm(port->qemu);
}

static unsigned port_version(void *opaque)
{
    FfEnginePort *port = opaque;

    return ff_qmp_client_version(port->qmp);
}

static void port_log(void *opaque, const char *line)
{
    fprintf(stderr, "%s\n", line);
    fflush(stderr);
}

static void port_fail(void *opaque)
{
    FfEnginePort *port = opaque;

    port->fail(port->fail_opaque);
}

static const FfDriverPort port_ops = {
    .send = port_send,
    .inner = port_inner,
    .view = port_view,
    .set_view = port_set_view,
    .object_add = port_object_add,
    .ram_changed = port_ram_changed,
    .has_ram = port_has_ram,
    .vmm = port_vmm,
    .version = port_version,
    .log = port_log,
    .fail = port_fail,
};

static void on_event(FfQmpClient *client, const char *name, JsonObject *event, void *opaque)
{
    FfEnginePort *port = opaque;

    JsonNode *node = json_object_get_member(event, "data");
    JsonObject *data = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;

    if (port->driver) {
        ff_driver_qemu_event(port->driver, name, data ? ff_json_string(data, "status") : NULL);
        ff_driver_qemu_said(port->driver, name, event);
    }
}

void ff_engine_port_set_driver(FfEnginePort *port, FfDriver *driver)
{
    port->driver = driver;
}

static FfQmpClient *monitor_new(FfEnginePort *port, GError **error)
{
    if (FF_FAULT_CALL("engine-monitor", 0) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "cannot connect to QEMU's private monitor: %s", g_strerror(errno));
        return NULL;
    }
    return ff_qmp_client_new_to(port->init->monitor_fd, NULL, on_event, NULL, port, error);
}

FfEnginePort *ff_engine_port_new(FfEngineInit *init, FfLink *link, void (*fail)(void *opaque),
                                 void *opaque, GError **error)
{
    FfEnginePort *port = g_new0(FfEnginePort, 1);

    port->init = init;
    port->qmp = monitor_new(port, error);
    if (!port->qmp) {
        g_free(port);
        return NULL;
    }
    port->link = link;
    port->fail = fail;
    port->fail_opaque = opaque;
    ff_qmp_client_set_patience(port->qmp, SAY_MS);
    port->qemu = new_qemu(port);
    if (init->inner_fd >= 0) {
        ff_qemu_adopt_stream(port->qemu, fcntl(init->inner_fd, F_DUPFD_CLOEXEC, 3));
    }
    port->config = (FfDriverConfig){
        .port = &port_ops,
        .port_opaque = port,
        .state = init->state,
        .state_fd = init->state_fd,
        .uffds = init->uffds,
        .pagemap_fd = init->pagemap_fd,
        .maps_fd = init->maps_fd,
        .mem_fd = g_steal_fd(&init->mem_fd),
        .pidfd = init->pidfd,
        .inner_fd = init->inner_fd,
        .listener_fd = init->listener_fd,
        .incoming_fds = init->incoming_fds,
        .device_fd = init->device_fd,
        .file_fd = init->file_fd,
        .lease_fd = init->lease_fd,
        .pact_fd = init->pact_fd,
        .heir_fd = init->heir_fd,
        .taps_fd = init->taps_fd,
        .qemu_pid = init->qemu_pid,
        .command_line = init->command_line,
        .vhost_user = init->vhost_user,
        .leaves_backends = init->leaves_backends,
        .listening = init->listening,
        .given = init->given,
        .door = init->door,
        .front = init->front,
        .front_door = init->front_door,
        .tls_fd = init->tls_fd,
        .start_paused = init->start_paused,
        .incoming = init->incoming,
        .incoming_taken = init->incoming_taken,
        .engine_refused = init->engine_refused,
        .shares_ram = !init->engine_refused || init->ram->len,
        .uffd_error = init->uffd_error,
        .lends = init->lends,
        .follows_devices = init->backends_fd >= 0 && !init->backends_later,
        .follows_plugged = init->backends_fd >= 0,
        .discard_fd = init->discard_fd,
        .sharers_fd = init->sharers_fd,
        .discard_error = init->discard_error,
    };
    return port;
}

const FfDriverConfig *ff_engine_port_config(FfEnginePort *port)
{
    return &port->config;
}

void ff_engine_port_free(FfEnginePort *port)
{
    ff_qemu_free(port->qemu);
    ff_qmp_client_close(port->qmp);
    ff_qmp_client_unref(port->qmp);
    g_free(port);
}
