/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owns the decision what becomes of guest RAM: all of it moves to memfds, or nothing is touched.
 *
 * QEMU takes the RAM of the machine from one of three places: -machine memory-backend=ID,
 * -numa node,memdev=ID (then it builds the machine's RAM out of these), or a default backend of
 * the size in -m, named after the machine type and placed by -mem-path. The first two are
 * rewritten where the -object stands; the third is replaced by an -object of the same name and
 * size. Hotpluggable backends (pc-dimm, virtio-mem) are rewritten like the others.
 *
 * Half of a guest cannot migrate, and shared memory has its price (no transparent huge pages by
 * default), so one backend that must stay as it is leaves all of them as they are; the plan then
 * says why. Pure but for the injected questions; any thread.
 */
#include "guest/launch/argv-rewrite.h"

#include <inttypes.h>
#include <string.h>

#define DEFAULT_RAM_SIZE (UINT64_C(128) << 20)
/* machine_set_mem() rounds the size of -m up to this. */
#define RAM_SIZE_ALIGN UINT64_C(8192)

/* MachineClass::default_ram_id, which is also the name of the RAM block. */
static const struct {
    const char *type;
    bool prefix; /* type and all that follows: the versions of a machine */
    const char *ram_id;
} machines[] = {
    {"pc", false, "pc.ram"},     {"q35", false, "pc.ram"},   {"pc-i440fx-", true, "pc.ram"},
    {"pc-q35-", true, "pc.ram"}, {"isapc", false, "pc.ram"}, {"microvm", false, "microvm.ram"},
};

/* The machine's RAM when neither memory-backend= nor memdev= names it. */
typedef struct {
    bool used;
    char *id; /* g_free */
    uint64_t size, page_size;
    char *mount;
} DefaultRam;

static void default_ram_clear(DefaultRam *ram)
{
    g_free(ram->id);
    g_free(ram->mount);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(DefaultRam, default_ram_clear)

static const char *table_ram_id(const char *type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(machines); i++) {
        if (machines[i].prefix ? g_str_has_prefix(type, machines[i].type)
                               : g_str_equal(type, machines[i].type)) {
            return machines[i].ram_id;
        }
    }
    return NULL;
}

/* Proxmox: "+pveN" says how the machine is configured; QEMU takes the name before it. */
static char *machine_name(const char *type)
{
    const char *code = strstr(type, "+pve");

    return code ? g_strndup(type, (gsize)(code - type)) : g_strdup(type);
}

/* TRUE: *ID (g_free) is what the machine TYPE calls its RAM, NULL if it makes none of its own. QEMU
 * is asked only for a name that is not in the table: that takes a start of QEMU. */
static bool machine_ram_id(const FfRewrite *rw, const char *type, char **id)
{
    g_autofree char *name = machine_name(type);
    const FfArgvSystem *sys = rw->sys;

    *id = g_strdup(table_ram_id(name));
    return *id || (sys->machine_ram_id && sys->machine_ram_id(name, id, sys->opaque));
}

static bool is_x86(const char *program)
{
    static const char *const x86[] = {"x86_64", "i386"};
    const char *arch = strstr(program, "qemu-system-");

    if (!arch) {
        return true; /* other names (qemu-kvm, a wrapper's) are those of x86 distributions */
    }
    arch += strlen("qemu-system-");
    for (size_t i = 0; i < G_N_ELEMENTS(x86); i++) {
        size_t len = strlen(x86[i]);

        /* Debian has qemu-system-x86_64-spice, Ubuntu qemu-system-x86_64-microvm. */
        if (strncmp(arch, x86[i], len) == 0 && (arch[len] == '\0' || arch[len] == '-')) {
            return true;
        }
    }
    return false;
}

/* The machine without -machine. That of qemu-system-x86_64-microvm knows no other. */
static const char *default_machine(const char *program)
{
    return g_str_has_suffix(program, "-microvm") ? "microvm" : "pc";
}

/* Machine options that give RAM a meaning which the engine must not change. */
static void check_machine(FfRewrite *rw)
{
    static const char *const encrypted[] = {"confidential-guest-support", "memory-encryption"};
    const char *type = ff_opts_get(rw->machine, "type");
    const char *accel = ff_opts_get(rw->machine, "accel");
    g_autofree char *program = g_path_get_basename(rw->plan->argv->pdata[0]);

    if (!is_x86(program)) {
        ff_rewrite_refuse(rw, g_strdup_printf("%s: farfault migrates x86 guests only", program));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(encrypted); i++) {
        if (ff_opts_get(rw->machine, encrypted[i])) {
            ff_rewrite_refuse(rw, g_strdup_printf("-machine %s: encrypted guest RAM cannot be "
                                                  "moved from outside QEMU",
                                                  encrypted[i]));
        }
    }
    /* What cpr-transfer is asked for with: there QEMU hands its own RAM fds to the next QEMU. */
    if (ff_opt_bool(ff_opts_get(rw->machine, "aux-ram-share"), false)) {
        ff_rewrite_refuse(rw, g_strdup("-machine aux-ram-share=on is for cpr-transfer, which "
                                       "needs QEMU's own RAM: leave it out"));
    }
    if ((type && g_str_has_prefix(type, "xen")) || (accel && g_str_has_prefix(accel, "xen"))) {
        ff_rewrite_refuse(rw, g_strdup("Xen keeps the guest's RAM itself: use -accel kvm or tcg"));
    }
}

static void check_incoming(FfRewrite *rw, const char *value)
{
    if (ff_incoming_is_cpr(value)) {
        ff_rewrite_refuse(rw, g_strdup("-incoming cpr: guest RAM comes from the old QEMU as it "
                                       "is; farfault serves the next start without it"));
    }
}

static void check_accel(FfRewrite *rw, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, "accel");

    if (!g_strcmp0(ff_opts_get(opts, "accel"), "xen")) {
        ff_rewrite_refuse(rw, g_strdup("Xen keeps the guest's RAM itself: use -accel kvm or tcg"));
    }
}

/* Defaults and afterthoughts that change backends behind the command line's back. */
static void check_global(FfRewrite *rw, const char *value)
{
    g_autoptr(GPtrArray) opts = ff_opts_parse(value, NULL);
    const char *driver = ff_opts_get(opts, "driver");

    if (g_str_has_prefix(value, "memory-backend") ||
        (driver && g_str_has_prefix(driver, "memory-backend"))) {
        ff_rewrite_refuse(rw, g_strdup_printf("-global %s: write the property at each -object "
                                              "to let farfault migrate this guest",
                                              value));
    }
}

static void check_set(FfRewrite *rw, const char *value)
{
    bool memdev = (g_str_has_prefix(value, "device.") || g_str_has_prefix(value, "numa.")) &&
                  strstr(value, "memdev=");

    /* mode=control makes a QMP monitor of another one, past the engine. */
    if (memdev || g_str_has_prefix(value, "mon.")) {
        ff_rewrite_refuse(rw, g_strdup_printf("-set %s: write it at the option itself to let "
                                              "farfault migrate this guest",
                                              value));
    }
}

static void check_device(FfRewrite *rw, const char *value)
{
    static const char *const ram[] = {"pc-dimm",
                                      "virtio-mem",
                                      "virtio-mem-pci",
                                      "virtio-mem-pci-transitional",
                                      "virtio-mem-pci-non-transitional",
                                      NULL};
    static const char *const keys[] = {"memdev", "volatile-memdev", "persistent-memdev", "lsa"};
    g_autoptr(FfBackend) device = ff_backend_new_device(value);

    if (!device || !device->type || g_strv_contains(ram, device->type)) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *memdev = ff_backend_get(device, keys[i]);

        if (memdev) {
            ff_rewrite_refuse(rw, g_strdup_printf("-device %s,%s=%s: its memory persists or is "
                                                  "shared with others; farfault migrates plain "
                                                  "RAM and DIMMs only",
                                                  device->type, keys[i], memdev));
        }
    }
}

static void check_options(FfRewrite *rw)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        switch (ff_arg_kind(arg)) {
        case FF_OPT_ACCEL:
            check_accel(rw, arg->value);
            break;
        case FF_OPT_INCOMING:
            check_incoming(rw, arg->value);
            break;
        case FF_OPT_GLOBAL:
            check_global(rw, arg->value);
            break;
        case FF_OPT_SET:
            check_set(rw, arg->value);
            break;
        case FF_OPT_DEVICE:
            check_device(rw, arg->value);
            break;
        default:
            break;
        }
    }
}

static void collect_backends(FfRewrite *rw, GPtrArray *backends)
{
    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];
        FfBackend *backend;
        bool broken;

        if (ff_arg_kind(arg) != FF_OPT_OBJECT) {
            continue;
        }
        backend = ff_backend_new(arg, &broken);
        if (backend) {
            g_autofree char *why = ff_backend_check(backend, rw->sys);
            const char *file = ff_arg_file(arg);

            if (!why && ff_arg_is_fixed(arg)) {
                why = g_strdup("stays as it is: put it on the command line");
            }
            if (why) {
                ff_rewrite_refuse(rw, g_strdup_printf("-object %s,id=%s%s%s %s", backend->type,
                                                      backend->id ? backend->id : "?",
                                                      file ? " of " : "", file ? file : "", why));
            }
            g_ptr_array_add(backends, backend);
        } else if (broken) {
            ff_rewrite_refuse(rw, g_strdup_printf("-object %s: not valid JSON", arg->value));
        }
    }
}

static bool has_backend(const GPtrArray *backends, const char *id)
{
    for (guint i = 0; i < backends->len; i++) {
        if (!g_strcmp0(((FfBackend *)backends->pdata[i])->id, id)) {
            return true;
        }
    }
    return false;
}

static bool numa_has_memdev(const FfRewrite *rw)
{
    for (guint i = 0; i < rw->args->len; i++) {
        const FfArg *arg = rw->args->pdata[i];

        if (ff_arg_kind(arg) == FF_OPT_NUMA) {
            g_autoptr(GPtrArray) opts = ff_opts_parse(arg->value, "type");

            if (ff_opts_get(opts, "memdev") || strstr(arg->value, "\"memdev\"")) {
                return true;
            }
        }
    }
    return false;
}

/* The size that QEMU will take, by its own order: -m, -machine memory.size=, the default. */
static bool ram_size(const FfRewrite *rw, uint64_t *size)
{
    const char *text = ff_opts_get(rw->memory, "size");
    const char *property = ff_opts_get(rw->machine, "memory.size");

    *size = 0;
    if (text && !ff_opt_size(text, 'M', size)) {
        return false;
    }
    if (*size == 0) { /* "-m 0" is no -m at all */
        *size = DEFAULT_RAM_SIZE;
        if (property && (!ff_opt_size(property, 'B', size) || *size == 0)) {
            return false;
        }
    }
    if (*size > G_MAXINT64) {
        return false;
    }
    *size = (*size + RAM_SIZE_ALIGN - 1) & ~(RAM_SIZE_ALIGN - 1);
    return true;
}

static void place_default(FfRewrite *rw, DefaultRam *ram)
{
    const FfArg *mem_path = ff_rewrite_find(rw, FF_OPT_MEM_PATH);
    char fs = 't';

    ram->page_size = 4096;
    if (mem_path) {
        g_autofree char *directory = NULL;

        /* The last one counts. */
        for (guint i = 0; i < rw->args->len; i++) {
            const FfArg *arg = rw->args->pdata[i];

            mem_path = ff_arg_kind(arg) == FF_OPT_MEM_PATH ? arg : mem_path;
        }
        directory = g_build_filename(mem_path->value, ".", NULL);
        fs = rw->sys->fs_kind(directory, &ram->page_size, rw->sys->opaque);
    }
    if (fs == 't') {
        ram->page_size = 4096;
    } else if (fs != 'h') {
        ff_rewrite_refuse(rw, g_strdup_printf("-mem-path %s keeps guest RAM in a file%s: name a "
                                              "directory of tmpfs or hugetlbfs, or leave it out",
                                              mem_path->value,
                                              ff_backend_disk(mem_path->value, rw->sys)));
    } else if (ram->page_size < 4096 || ram->size % ram->page_size) {
        ff_rewrite_refuse(rw, g_strdup_printf("-mem-path %s: -m is no multiple of the huge page "
                                              "size, %" PRIu64 " bytes: round it up",
                                              mem_path->value, ram->page_size));
    } else {
        ram->mount = g_strdup(mem_path->value);
    }
}

static void plan_default(FfRewrite *rw, const GPtrArray *backends, DefaultRam *ram)
{
    const char *type = ff_opts_get(rw->machine, "type");
    const char *named = ff_opts_get(rw->machine, "memory-backend");

    if (named) {
        if (!has_backend(backends, named)) {
            ff_rewrite_refuse(rw, g_strdup_printf("-machine memory-backend=%s: there is no "
                                                  "-object of this id",
                                                  named));
        } else if (ff_rewrite_find(rw, FF_OPT_MEM_PATH)) {
            ff_rewrite_refuse(rw, g_strdup("-mem-path and -machine memory-backend exclude each "
                                           "other: leave -mem-path out"));
        }
        return;
    }
    if (numa_has_memdev(rw)) {
        return;
    }
    if (rw->plan->engine_refused) {
        place_default(rw, ram); /* which may have a reason that counts more */
        return;
    }
    bool known =
        machine_ram_id(rw, type ? type : default_machine(rw->plan->argv->pdata[0]), &ram->id);
    ram->used = ram->id;
    if (known && !ram->id) {
        return; /* all its RAM, if it has any, is that of the backends */
    }
    if (!known) {
        ff_rewrite_refuse(rw, g_strdup_printf("-machine %s: farfault does not know what this "
                                              "machine calls its RAM: give memory-backend=",
                                              type));
    } else if (!ram_size(rw, &ram->size)) {
        ff_rewrite_refuse(rw, g_strdup("the size of guest RAM cannot be read: give -m in M or G"));
    } else if (has_backend(backends, ram->id)) {
        ff_rewrite_refuse(rw, g_strdup_printf("-object id=%s: the id is reserved for the "
                                              "machine's RAM: add -machine memory-backend=%s",
                                              ram->id, ram->id));
    } else if (ff_rewrite_find(rw, FF_OPT_PRECONFIG)) {
        /* set-numa-node memdev= may come over QMP, and excludes memory-backend=. */
        ff_rewrite_refuse(rw, g_strdup("-preconfig may still give the machine its RAM: use "
                                       "-machine memory-backend="));
    } else {
        place_default(rw, ram);
    }
}

static FfPlanRam *add_ram(FfRewrite *rw, const char *id, uint64_t size, uint64_t page_size)
{
    FfPlanRam *ram = g_new0(FfPlanRam, 1);

    ram->id = g_strdup(id);
    ram->size = size;
    ram->page_size = page_size;
    g_ptr_array_add(rw->plan->ram, ram);
    return ram;
}

static void drop_all(FfRewrite *rw, FfOptKind kind)
{
    for (guint i = 0; i < rw->args->len; i++) {
        FfArg *arg = rw->args->pdata[i];

        arg->drop |= ff_arg_kind(arg) == kind;
    }
}

static void apply_default(FfRewrite *rw, const DefaultRam *ram, bool incoming)
{
    bool thp = ff_may_have_thp(ram->size, ram->page_size);
    g_autofree char *align = thp ? g_strdup_printf(",align=%u", FF_THP_BYTES) : g_strdup("");

    drop_all(rw, FF_OPT_MEM_PATH);
    g_ptr_array_add(rw->tail, g_strdup("-object"));
    g_ptr_array_add(rw->tail, g_strdup_printf("memory-backend-file,id=%s,size=%" PRIu64
                                              ",mem-path=/proc/self/fd/@FF_RAM%u@,share=on,"
                                              "x-use-canonical-path-for-ramblock-id=off%s",
                                              ram->id, ram->size, rw->plan->ram->len, align));
    g_ptr_array_add(rw->tail, g_strdup("-machine"));
    g_ptr_array_add(rw->tail, g_strdup_printf("memory-backend=%s", ram->id));
    FfPlanRam *new = add_ram(rw, ram->id, ram->size, ram->page_size);
    new->thp = thp && !incoming;
    new->mount = g_strdup(ram->mount);
}

void ff_argv_rewrite_memory(FfRewrite *rw)
{
    g_autoptr(GPtrArray) backends = g_ptr_array_new_with_free_func((GDestroyNotify)ff_backend_free);
    bool incoming = ff_rewrite_find(rw, FF_OPT_INCOMING) != NULL;
    g_auto(DefaultRam) ram = {0};

    check_machine(rw);
    check_options(rw);
    collect_backends(rw, backends);
    plan_default(rw, backends, &ram);
    if (rw->plan->engine_refused) {
        return;
    }
    for (guint i = 0; i < backends->len; i++) {
        FfBackend *backend = backends->pdata[i];
        FfPlanRam *new = add_ram(rw, backend->id, backend->size, backend->page_size);

        ff_backend_rewrite(backend, i, incoming ? FF_BACKEND_INCOMING : FF_BACKEND_WHOLE);
        new->seal = backend->seal;
        new->thp = backend->thp;
        new->unreserved = backend->unreserved;
        new->mount = g_strdup(backend->mount);
    }
    if (ram.used) {
        apply_default(rw, &ram, incoming);
    }
    if (incoming) {
        drop_all(rw, FF_OPT_MEM_PREALLOC);
    }
}
