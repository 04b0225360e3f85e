/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where things lie: farfault's own helpers, the real QEMU, the configuration file.
 *
 * Nothing is compiled in but the name of the configuration file: helpers are found from
 * /proc/self/exe (without /proc: by the path that was executed), so a build folder and an installed
 * tree can be moved. Programs are told apart
 * by device and inode, not by name: libvirt's <emulator> is a symlink to farfault, and may
 * itself stand on PATH.
 *
 * Threads: no state; any thread.
 */
#include "guest/launch/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_FILE "/etc/farfault/farfault.conf"
/* PATH when the environment has none: what libvirt gives its emulators. */
#define DEFAULT_PATH "/usr/sbin:/usr/bin:/sbin:/bin"

/* Of this program (g_free); NULL: nobody knows. */
static char *own_path(void)
{
    char *path = g_file_read_link("/proc/self/exe", NULL);
    const char *executed = (const char *)getauxval(AT_EXECFN); /* a script's is the script's */

    return path || !executed ? path : realpath(executed, NULL);
}

char *ff_find_helper(const char *name)
{
    static const char *const places[] = {
        "../lib/farfault", ".", "../engine", "../cli", "../content", "../guest/relay",
        "../guest/agent",
    };
    g_autofree char *exe = own_path();
    if (!exe) {
        return NULL;
    }
    g_autofree char *dir = g_path_get_dirname(exe);
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = g_build_filename(dir, places[i], name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
            return g_canonicalize_filename(path, NULL);
        }
    }
    return NULL;
}

char *ff_preload(const char *agent)
{
    const char *foreign = g_getenv("LD_PRELOAD");

    return foreign && *foreign ? g_strdup_printf("%s:%s", agent, foreign) : g_strdup(agent);
}

char *ff_config_get(const char *group, const char *key, GError **error)
{
    const char *file = g_getenv("FARFAULT_CONF") ?: CONFIG_FILE;
    g_autoptr(GKeyFile) config = g_key_file_new();
    g_autoptr(GError) err = NULL;
    g_autofree char *value = NULL;

    if (g_key_file_load_from_file(config, file, G_KEY_FILE_NONE, &err)) {
        value = g_key_file_get_string(config, group, key, &err);
    }
    if (!err || g_error_matches(err, G_FILE_ERROR, G_FILE_ERROR_NOENT) ||
        g_error_matches(err, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_GROUP_NOT_FOUND) ||
        g_error_matches(err, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_KEY_NOT_FOUND)) {
        return g_steal_pointer(&value);
    }
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "cannot use %s: %s", file, err->message);
    return NULL;
}

bool ff_is_elf(const char *path)
{
    char magic[4];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return true; /* a program that may be run but not read: not a script, sh must read it */
    }
    ssize_t n = read(fd, magic, sizeof(magic));
    close(fd);
    return n == sizeof(magic) && memcmp(magic, "\177ELF", 4) == 0;
}

/* TRUE if PATH is this very program, under whatever name. */
static bool is_self(const char *path)
{
    struct stat self, other;
    g_autofree char *exe = NULL;

    if (stat("/proc/self/exe", &self) < 0 && (!(exe = own_path()) || stat(exe, &self) < 0)) {
        return false;
    }
    return stat(path, &other) == 0 && self.st_dev == other.st_dev && self.st_ino == other.st_ino;
}

static bool is_program(const char *path)
{
    return g_file_test(path, G_FILE_TEST_IS_REGULAR) && access(path, X_OK) == 0;
}

/* PATH, named by the setting WHERE, must be a program and not farfault. */
static char *check_setting(const char *where, const char *path, GError **error)
{
    if (!is_program(path)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOENT,
                    "%s names \"%s\", which is not a program that can be run", where, path);
        return NULL;
    }
    if (is_self(path)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "%s names farfault itself: name the real QEMU there", where);
        return NULL;
    }
    return g_strdup(path);
}

static char *search_path(const char *name, GError **error)
{
    const char *path = g_getenv("PATH");
    g_auto(GStrv) dirs = g_strsplit(path && *path ? path : DEFAULT_PATH, ":", -1);
    for (char **dir = dirs; *dir; dir++) {
        g_autofree char *file = g_build_filename(**dir ? *dir : ".", name, NULL);
        if (is_program(file) && !is_self(file)) {
            return g_steal_pointer(&file);
        }
    }
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOENT,
                "there is no %s on PATH (besides farfault itself): install QEMU, or name it in "
                "FARFAULT_QEMU or in %s, [qemu] binary=",
                name, CONFIG_FILE);
    return NULL;
}

unsigned ff_find_wrapped_qemu(char *const *argv)
{
    const char *slash = strrchr(argv[0], '/');

    if (strstr(slash ? slash : argv[0], "qemu") || strstr(slash ? slash : argv[0], "kvm")) {
        return 0;
    }
    for (unsigned i = 1; argv[i]; i++) {
        g_autofree char *name = g_path_get_basename(argv[i]);
        g_autofree char *found = g_find_program_in_path(argv[i]);

        if (found && strcmp(argv[i - 1], "-name") &&
            (g_str_has_prefix(name, "qemu-system-") || !strcmp(name, "qemu-kvm"))) {
            return i;
        }
    }
    return 0;
}

char *ff_find_real_qemu(const char *argv0, GError **error)
{
    bool has_slash = strchr(argv0, '/') != NULL;
    if (has_slash && !is_self(argv0)) {
        if (!is_program(argv0)) {
            /* A folder may be run by nobody, and passes access(). */
            int err = access(argv0, X_OK) < 0 ? errno : EACCES;
            g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOENT, "cannot run %s: %s", argv0,
                        g_strerror(err));
            return NULL;
        }
        return g_strdup(argv0);
    }

    const char *env = g_getenv("FARFAULT_QEMU");
    if (env && *env) {
        return check_setting("FARFAULT_QEMU", env, error);
    }
    GError *err = NULL;
    g_autofree char *binary = ff_config_get("qemu", "binary", &err);
    if (err) {
        g_propagate_error(error, err);
        return NULL;
    }
    if (binary && *binary) {
        return check_setting("[qemu] binary= of " CONFIG_FILE, binary, error);
    }
    g_autofree char *name = g_path_get_basename(argv0);
    return search_path(name, error);
}
