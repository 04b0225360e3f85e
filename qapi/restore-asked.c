/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A restore that a client asks for in QEMU's own way, as virsh restore does, where the setting
 * "restore" is lazy: the guest runs before its memory is there, and the client, which waits for
 * "completed", is told so then (migration-ops.c). Nothing of the setting is needed by a client that
 * asks for a lazy restore itself (restore.c).
 *
 * A client that is told so may do with the file what it likes. So it is QEMU's restore, all of it
 * first, wherever the rest could be lost by that: a managed save, which libvirt removes; a file
 * that nobody could find again, or that cannot be kept from being overwritten. And wherever it
 * could not be lazy. Then the reason is in the log, and in query-migrate. Main loop's thread.
 *
 * System calls: fstatfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "migration/restore/file.h"
#include "qapi/incoming.h"

/* Not in <linux/magic.h>, or not in that of old headers. */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#define BCACHEFS_SUPER_MAGIC 0xca451a4e
#define ZFS_SUPER_MAGIC 0x2fc12fc1

static bool is_number(const char *name)
{
    return g_ascii_isdigit(name[0]) && strlen(name) <= 9 &&
           strspn(name, "0123456789") == strlen(name);
}

bool ff_restore_is_asked(const FfCall *call)
{
    const FfStateHeader *state = call->driver->config.state;
    const FfUri *t = &call->target;

    return state->restore == FF_RESTORE_LAZY && state->policy != FF_POLICY_NEVER &&
           state->peer != FF_PEER_WISH_NATIVE &&
           (t->kind == FF_URI_FILE || (t->kind == FF_URI_FD && is_number(t->name)) ||
            (t->kind == FF_URI_OTHER && t->in_fdset));
}

/* WHY (static) is NULL: it is none of a restore's. */
static void leave_to_qemu(FfCall *call, const char *why)
{
    if (call->fd >= 0) {
        close(call->fd);
        call->fd = -1;
    }
    call->native = why;
    ff_incoming_pass_native(call);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* The file of call->fd, which may be QEMU's own description, is opened once more in its place: what
 * the client has set of that one does not matter then, it stays where QEMU is to read from, and a
 * lease is nobody else's. FALSE: the user that we are may not. */
static bool open_again(FfCall *call)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", call->fd);
    int own = FF_FAULT_CALL("open-again", open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK));

    if (own >= 0) {
        close(call->fd);
        call->fd = own;
    }
    return own >= 0;
}

/* A lease, and the time of the last change, say nothing of what other hosts do with a file. Of all
 * other file systems nobody knows that no other host has them. */
static bool is_local(int fd)
{
    static const unsigned long types[] = {
        EXT4_SUPER_MAGIC, /* ext2 and ext3 as well */
        XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC,     F2FS_SUPER_MAGIC, BCACHEFS_SUPER_MAGIC,
        ZFS_SUPER_MAGIC,  OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
    };
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if ((unsigned long)fs.f_type == types[i]) {
            return true;
        }
    }
    return false;
}

/* libvirt takes the file's label back when it was told that the restore is over, and from then on
 * SELinux lets QEMU's label read it no more, through no descriptor. */
static bool may_be_relabelled(void)
{
    g_autofree char *enforce = NULL;
    g_autoptr(GError) error = NULL;

    if (!g_file_get_contents("/sys/fs/selinux/enforce", &enforce, NULL, &error)) {
        return !g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT);
    }
    return enforce[0] != '0';
}

/* libvirt's name of a managed save, wherever its folder is: it removes the file when the guest was
 * started. Of a guest without a name each may be that. */
static bool is_managed_save(const char *path, const char *guest)
{
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *managed = g_strdup_printf("%s.save", guest);

    return *guest ? !strcmp(base, managed) : g_str_has_suffix(base, managed);
}

/* call->fd is the file of GUEST, and call->target says where in it. Why it is QEMU's; "": that is
 * nothing to speak of. */
static const char *doubt_file(FfCall *call, const char *guest, bool *own)
{
    struct stat st;

    if (fstat(call->fd, &st) < 0 || S_ISSOCK(st.st_mode)) {
        return "";
    }
    if (!S_ISREG(st.st_mode)) { /* a device is left alone: to open one does things */
        return "what comes in is no regular file (a pipe?), so that it cannot be restored lazily";
    }
    *own = open_again(call);
    g_free(call->target.path);
    call->target.path = ff_restore_path_of(call->fd);
    if (call->target.path && is_managed_save(call->target.path, guest)) {
        return "a managed save, which libvirt removes when its guest was started, is not restored "
               "lazily";
    }
    if (!*own) {
        return "the file that is restored cannot be opened by QEMU's user, so that it cannot be "
               "restored lazily";
    }
    if (!is_local(call->fd)) {
        return "the file that is restored is on no local file system, so that nobody on another "
               "host could be held back from overwriting it: it is not restored lazily";
    }
    if (FF_FAULT_STEP("relabelled", may_be_relabelled())) {
        return "SELinux is enforcing, and libvirt takes the label of the file that is restored "
               "back, with which it can be read no more: it is not restored lazily";
    }
    if (!call->target.path) {
        return "the file that is restored has no name here by which it could be found again, so "
               "that it is not restored lazily";
    }
    return ff_restore_file_doubt(call->fd, call->target.path,
                                 call->target.offset ? (int64_t)call->target.offset : -1);
}

/* QEMU would end with status 1. */
static bool only_lazily(const FfCall *call)
{
    return !ff_capability(call->capabilities, "mapped-ram") &&
           ff_restore_file_is_mapped(call->fd,
                                     call->target.offset ? (int64_t)call->target.offset : -1);
}

/* FfCallInner */
static void got_name(FfCall *call, JsonNode *result, const GError *error)
{
    JsonObject *object = error ? NULL : ff_json_node_object(result);
    const char *guest = object ? ff_json_string(object, "name") : NULL;

    if (error) {
        ff_call_gerror(call, error);
        return;
    }
    bool own = false;
    const char *why = doubt_file(call, guest ? guest : "", &own);
    if (why && own && only_lazily(call)) {
        ff_call_error(call,
                      "%s. QEMU could not load it either: it is mapped-ram, and the capability of "
                      "that name is off (as libvirt has it for a raw image)",
                      why);
    } else if (why) {
        leave_to_qemu(call, *why ? why : NULL);
    } else {
        /* It has a path now, and so perhaps a working set. */
        g_clear_pointer(&call->target.name, g_free);
        call->as_eager = true;
        ff_restore_start(call);
    }
}

/* call->fd is it. */
static void got_file(FfCall *call)
{
    const char *why = ff_driver_refusal(call->driver);

    if (why) {
        leave_to_qemu(call, why);
    } else {
        ff_call_inner(call, "query-name", NULL, got_name);
    }
}

/* QEMU reads from where its descriptor stands. */
static void take_number(FfCall *call, int number, bool from_there)
{
    int fd = ff_incoming_copy_fd(call->driver, number);

    if (fd < 0) {
        leave_to_qemu(call, errno == EBADF
                                ? NULL
                                : "the file that is restored cannot be taken from QEMU (is ptrace "
                                  "forbidden?), so that it cannot be restored lazily");
        return;
    }
    off_t at = from_there ? lseek(fd, 0, SEEK_CUR) : -1;
    if (at > 0) {
        call->target.offset = (uint64_t)at;
    }
    call->fd = fd;
    got_file(call);
}

/* ---- where it is ----------------------------------------------------------------------------- */

/* FfCallInner: newer libvirts add a second descriptor for O_DIRECT; each is of the same file. */
static void got_fdsets(FfCall *call, JsonNode *result, const GError *error)
{
    guint n = error ? 0 : ff_json_node_length(result);

    for (guint i = 0; i < n; i++) {
        JsonObject *set = ff_json_node_nth(result, i);
        JsonArray *fds = set && json_object_has_member(set, "fds")
                             ? json_object_get_array_member(set, "fds")
                             : NULL;

        if (fds && json_array_get_length(fds) &&
            json_object_get_int_member_with_default(set, "fdset-id", -1) == call->target.fdset) {
            JsonObject *first = json_array_get_object_element(fds, 0);

            take_number(call, (int)json_object_get_int_member_with_default(first, "fd", -1), false);
            return;
        }
    }
    leave_to_qemu(call, NULL); /* there is none: QEMU says so */
}

void ff_restore_asked(FfCall *call)
{
    if (call->target.kind == FF_URI_FD) {
        take_number(call, (int)g_ascii_strtoll(call->target.name, NULL, 10), true);
        return;
    }
    if (call->target.kind == FF_URI_OTHER) {
        ff_call_inner(call, "query-fdsets", NULL, got_fdsets);
        return;
    }
    /* Not for reading: of a FIFO that would let the writer go, and of a device it does things. */
    call->fd = open(call->target.path, O_PATH | O_CLOEXEC);
    if (call->fd < 0) {
        leave_to_qemu(call, NULL); /* QEMU says why */
    } else {
        got_file(call);
    }
}
