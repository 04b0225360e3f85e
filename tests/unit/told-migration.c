/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See told-migration.h. */
#include "tests/unit/told-migration.h"

#include <string.h>
#include <unistd.h>

#include "migration/common/states.h"
#include "migration/dump.h"
#include "migration/restore/file.h"
#include "migration/upgrade/link.h"
#include "qapi/driver.h"
#include "uffd/unprotect.h"

FfMigration *migration;
bool refuse_start;

static const char *const names[] = {
    [FF_STATUS_NONE] = "none",
    [FF_STATUS_SETUP] = "setup",
    [FF_STATUS_CANCELLING] = "cancelling",
    [FF_STATUS_CANCELLED] = "cancelled",
    [FF_STATUS_ACTIVE] = "active",
    [FF_STATUS_POSTCOPY_ACTIVE] = "postcopy-active",
    [FF_STATUS_POSTCOPY_PAUSED] = "postcopy-paused",
    [FF_STATUS_POSTCOPY_RECOVER_SETUP] = "postcopy-recover-setup",
    [FF_STATUS_POSTCOPY_RECOVER] = "postcopy-recover",
    [FF_STATUS_COMPLETED] = "completed",
    [FF_STATUS_FAILED] = "failed",
    [FF_STATUS_PRE_SWITCHOVER] = "pre-switchover",
    [FF_STATUS_DEVICE] = "device",
};

unsigned ff_channels_default(void)
{
    return 4;
}

bool ff_state_is_final(FfStatus status)
{
    return status == FF_STATUS_COMPLETED || status == FF_STATUS_FAILED ||
           status == FF_STATUS_CANCELLED;
}

const char *ff_status_name(FfStatus status)
{
    return names[status];
}

FfMigration *ff_migration_start(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    if (refuse_start) {
        g_set_error_literal(error, FF_DRIVER_ERROR, 0, "Connection refused");
        return NULL;
    }
    migration = g_new0(FfMigration, 1);
    migration->ops = *ops;
    migration->config = *config;
    migration->config.uri = g_strdup(config->uri);
    migration->info.role = config->role;
    migration->info.status = FF_STATUS_SETUP;
    migration->info.downtime = -1;
    migration->info.page_size = 4096;
    migration->bandwidth = config->max_bandwidth;
    return migration;
}

FfMigration *ff_migration_adopt(const FfMigrationConfig *config, const FfMigrationOps *ops,
                                GError **error)
{
    return ff_migration_start(config, ops, error);
}

bool ff_migration_start_postcopy(FfMigration *m, GError **error)
{
    m->start_postcopy = true;
    return true;
}

bool ff_migration_continue(FfMigration *m, FfStatus from, GError **error)
{
    return m->info.status == from;
}

bool ff_migration_cancel(FfMigration *m, GError **error)
{
    m->cancelled = true;
    return true;
}

bool ff_migration_pause(FfMigration *m, GError **error)
{
    return true;
}

bool ff_migration_resume(FfMigration *m, const char *uri, int fd, bool recover_setup,
                         GError **error)
{
    m->resumed_at = g_strdup(uri);
    m->recover_setup = recover_setup;
    return true;
}

bool ff_migration_revoke(FfMigration *m, const char *uri, int fd, bool force, GError **error)
{
    g_assert_cmpint(fd, ==, -1);
    g_free(m->resumed_at);
    m->resumed_at = g_strconcat("back from ", uri ? uri : "there", NULL);
    return true;
}

bool ff_migration_reclaim(FfStateHeader *state, bool force, GError **error)
{
    if (!force) {
        g_set_error_literal(error, FF_M_ERROR, 0, "not by force");
    }
    return force;
}

bool ff_restore_is_uri(const char *path)
{
    return false;
}

bool ff_restore_file_is_mapped(int fd, int64_t offset)
{
    return false;
}

const char *ff_restore_file_doubt(int fd, const char *path, int64_t offset)
{
    return "no migrations here";
}

FfDump *ff_dump_new(FfMigration *m, GError **error)
{
    g_set_error_literal(error, G_IO_ERROR, 0, "not paused");
    return NULL;
}

bool ff_dump_write(FfDump *dump, const char *directory, uint64_t *bytes, GError **error)
{
    g_assert_not_reached();
}

bool ff_dump_has_device_state(const FfDump *dump)
{
    return false;
}

void ff_dump_free(FfDump *dump)
{
}

void ff_migration_set_auto_recover(FfMigration *m, unsigned seconds)
{
}

bool ff_migration_frees_uffd(const FfMigration *m)
{
    return true;
}

bool ff_migration_lives_on(FfMigration *m)
{
    return m->lives_on;
}

bool ff_migration_is_spare(const FfMigration *m)
{
    return m->spare;
}

void ff_migration_vmm_ended(FfMigration *m)
{
}

bool ff_migration_speaks(FfMigration *m)
{
    return false;
}

bool ff_migration_lacks_tls(FfMigration *m)
{
    return false;
}

void ff_migration_set_tls(FfMigration *m, FfTls *tls, const char *hostname)
{
    g_assert_not_reached();
}

void ff_migration_synced(FfMigration *m)
{
    m->synced = true;
}

bool ff_migration_recover(FfMigration *m, const char *uri, int fd, GError **error)
{
    if (fd >= 0) {
        close(fd);
    }
    m->resumed_at = g_strdup(uri);
    return true;
}

bool ff_migration_is_restore(FfMigration *m)
{
    return false;
}

void ff_migration_hurry(FfMigration *m)
{
}

bool ff_migration_recover_file(FfMigration *m, const char *path, GError **error)
{
    g_assert_not_reached();
}

bool ff_migration_recover_dump(FfMigration *m, const char *path, GError **error)
{
    g_assert_not_reached();
}

void ff_migration_stop_waiting(FfMigration *m)
{
}

bool ff_migration_client_cont(FfMigration *m, bool *now, GError **error)
{
    m->conted = true;
    *now = !m->holds;
    return true;
}

FfStopSaid ff_migration_client_stop(FfMigration *m, bool *holds, GError **error)
{
    m->conted = m->conted && !m->holds;
    *holds = m->holds;
    return m->moves ? FF_STOP_LATER : m->holds ? FF_STOP_STANDS : FF_STOP_IS_VMMS;
}

void ff_migration_words_heard(FfMigration *m)
{
    m->words_heard = true;
}

bool ff_migration_resumed(FfMigration *m)
{
    return m->holds;
}

void ff_migration_vmm_failed(FfMigration *m)
{
}

bool ff_migration_holds_guest(FfMigration *m)
{
    return m->holds;
}

void ff_migration_set_bandwidth(FfMigration *m, uint64_t max_bandwidth,
                                uint64_t max_postcopy_bandwidth)
{
    m->bandwidth = max_bandwidth;
}

void ff_migration_set_switchover(FfMigration *m, uint64_t downtime_limit,
                                 uint64_t switchover_bandwidth, bool auto_postcopy)
{
    m->downtime_limit = downtime_limit;
    m->auto_postcopy = auto_postcopy;
}

FfMigrationInfo *ff_migration_info(FfMigration *m)
{
    FfMigrationInfo *info = g_memdup2(&m->info, sizeof(m->info));

    info->error_desc = g_strdup(m->info.error_desc);
    info->vcpu_blocktime_ms =
        g_memdup2(m->info.vcpu_blocktime_ms, m->info.n_vcpus * sizeof(uint32_t));
    info->vcpu_latency_ns = g_new0(uint64_t, MAX(1, m->info.n_vcpus));
    return info;
}

void ff_migration_info_free(FfMigrationInfo *info)
{
    g_free(info->error_desc);
    g_free(info->vcpu_blocktime_ms);
    g_free(info->vcpu_latency_ns);
    g_free(info);
}

void ff_migration_free(FfMigration *m)
{
    if (m->config.fd >= 0) {
        close(m->config.fd);
    }
    g_free(m->config.uri);
    g_free(m->resumed_at);
    g_free(m);
}

void become(FfStatus status)
{
    migration->info.status = status;
    migration->ops.status(status, migration->ops.opaque);
}

void finish(FfStatus status)
{
    FfMigration *m = migration;

    become(status);
    migration = NULL;
    m->ops.done(m->ops.opaque);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

bool become_named(const char *text)
{
    bool over = g_str_has_prefix(text, "over ");
    const char *name = over ? text + strlen("over ") : text;

    for (int status = FF_STATUS_NONE + 1; status < FF_STATUS__MAX; status++) {
        if (!g_strcmp0(ff_status_name(status), name)) {
            (over ? finish : become)(status);
            return true;
        }
    }
    return false;
}

typedef struct {
    FfLiftDone *done;
    void *opaque;
} Lift;

static gboolean lifted(gpointer p)
{
    g_autofree Lift *l = p;

    l->done(NULL, l->opaque);
    return G_SOURCE_REMOVE;
}

/* No case has memory. */
void ff_unprotect_start(int uffd, int maps_fd, const FfLiftBlock *blocks, unsigned n,
                        FfLiftDone *done, void *opaque)
{
    Lift l = {done, opaque};

    g_idle_add(lifted, g_memdup2(&l, sizeof(l)));
}

/* No case has another QEMU. */
int ff_upgrade_send(int fd, int limit_ms, FfUpgradeType type, const void *data, size_t len,
                    const int *fds, unsigned n_fds)
{
    return 0;
}
