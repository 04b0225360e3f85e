/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A record is a list of lines, each a JSON object. It is taken apart in one place (take_line()),
 * whether a line was just made or read from a file: so a page made at once and one made later are
 * the same. A line goes to the file at once: what was seen is there also if this program is killed.
 *
 * What is under way may take days. So answers to query-migrate are taken at larger and larger
 * intervals: the record grows with the logarithm of the time.
 *
 * One thread. A file that is read is not trusted to have any shape.
 */
#include "cli/common/record.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/words.h"
#include "qmp/json.h"

#define PART                                                                                       \
    1000 /* of the time so far has to pass between two answers of a side with one status           \
          */

struct FfRecord {
    char *path;
    FILE *file;     /* NULL: memory alone */
    int error;      /* the first errno of writing */
    gint64 begin;   /* monotonic us */
    gint64 started; /* real us */
    bool local;
    GPtrArray *lines; /* JsonNode: what entries point into */
    GArray *entries;  /* FfRecordEntry */
    JsonObject *side[FF_SIDES], *result;
    JsonObject *last[FF_SIDES]; /* answer that was taken; NULL: none. In .lines */
    gint64 looked[FF_SIDES];    /* us, when */
};

static const char *const side_name[FF_SIDES] = {"source", "destination"};

const char *ff_side_name(FfSide side)
{
    return side_name[side];
}

static FfRecord *record_new(const char *path)
{
    FfRecord *r = g_new0(FfRecord, 1);

    r->path = g_strdup(path);
    r->lines = g_ptr_array_new_with_free_func((GDestroyNotify)json_node_unref);
    r->entries = g_array_new(FALSE, FALSE, sizeof(FfRecordEntry));
    return r;
}

/* A file in which nothing has come to be is in the way of the next try. */
static int close_file(FfRecord *r)
{
    FILE *file = g_steal_pointer(&r->file);

    if (file && !r->entries->len && !r->result) {
        unlink(r->path);
    }
    return file && fclose(file) != 0 ? errno : 0;
}

void ff_record_free(FfRecord *r)
{
    if (!r) {
        return;
    }
    close_file(r);
    g_array_unref(r->entries);
    g_ptr_array_unref(r->lines);
    g_free(r->path);
    g_free(r);
}

FfRecord *ff_record_new(const char *path, GError **error)
{
    g_autoptr(FfRecord) r = record_new(path);

    if (path) {
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

        r->file = fd >= 0 ? fdopen(fd, "w") : NULL;
        if (!r->file) {
            int err = errno;
            bool folder = err == EEXIST && g_file_test(path, G_FILE_TEST_IS_DIR);

            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(err), "%s: %s%s", path,
                        folder          ? "is a folder: give the name of a new file in it"
                        : err == EEXIST ? "is there already, give another name: "
                                        : "",
                        folder ? "" : g_strerror(err));
            return NULL;
        }
    }
    return g_steal_pointer(&r);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static bool side_of(JsonObject *line, FfSide *side)
{
    const char *name = ff_json_string_or(line, "side", "");

    for (*side = 0; *side < FF_SIDES; (*side)++) {
        if (!strcmp(name, side_name[*side])) {
            return true;
        }
    }
    return false;
}

/* Takes NODE. FALSE: it is no line of a record. */
static bool take_line(FfRecord *r, JsonNode *node)
{
    JsonObject *line = ff_json_node_object(node);
    FfRecordEntry entry = {.us = ff_json_int(line, "us", -1)};
    JsonObject *result = ff_json_object(line, "result");

    g_ptr_array_add(r->lines, node);
    if (!line) {
        return false;
    }
    if (ff_json_int(line, "farfault-record", 0) == FF_RECORD_VERSION) {
        r->started = ff_json_int(line, "started-us", 0);
        r->local = ff_json_bool(line, "same-clock");
        return true;
    }
    if (result) {
        r->result = result;
        return true;
    }
    if (!side_of(line, &entry.side)) {
        return false;
    }
    entry.event = ff_json_object(line, "event");
    entry.info = ff_json_object(line, "info");
    if (ff_json_object(line, "who")) {
        r->side[entry.side] = ff_json_object(line, "who");
    } else if (entry.us >= 0 && !entry.event != !entry.info) {
        g_array_append_val(r->entries, entry);
    } else {
        return false;
    }
    return true;
}

/* LINE is taken. */
static void add_line(FfRecord *r, JsonObject *line)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, line);
    if (r->file) {
        g_autofree char *text = json_to_string(node, FALSE);

        if ((fprintf(r->file, "%s\n", text) < 0 || fflush(r->file) != 0) && !r->error) {
            r->error = errno;
        }
    }
    take_line(r, node);
}

static JsonObject *timed_line(FfSide side, gint64 us)
{
    JsonObject *line = json_object_new();

    json_object_set_int_member(line, "us", us);
    json_object_set_string_member(line, "side", side_name[side]);
    return line;
}

void ff_record_begin(FfRecord *r, bool local)
{
    JsonObject *line = json_object_new();

    r->begin = g_get_monotonic_time();
    json_object_set_int_member(line, "farfault-record", FF_RECORD_VERSION);
    json_object_set_int_member(line, "started-us", g_get_real_time());
    json_object_set_boolean_member(line, "same-clock", local);
    add_line(r, line);
}

static void set_text(JsonObject *object, const char *name, const char *value)
{
    if (value) {
        g_autofree char *valid = g_utf8_make_valid(value, -1);

        json_object_set_string_member(object, name, valid);
    }
}

void ff_record_side(FfRecord *r, FfSide side, const char *address, const char *version,
                    const char *name)
{
    JsonObject *line = json_object_new(), *who = json_object_new();

    set_text(who, "address", address);
    set_text(who, "version", version);
    set_text(who, "name", name);
    json_object_set_string_member(line, "side", side_name[side]);
    json_object_set_object_member(line, "who", who);
    add_line(r, line);
}

void ff_record_event(FfRecord *r, FfSide side, JsonObject *event)
{
    JsonObject *line = timed_line(side, g_get_monotonic_time() - r->begin);

    json_object_set_object_member(line, "event", json_object_ref(event));
    add_line(r, line);
}

/* Each first answer with a status is taken, and all that are different of what is over: the last
 * numbers are in the record. */
static bool is_wanted(const FfRecord *r, FfSide side, JsonObject *info, gint64 us)
{
    const char *status = ff_json_string_or(info, "status", "none");

    if (!r->last[side] || strcmp(status, ff_json_string_or(r->last[side], "status", "none")) != 0) {
        return true;
    }
    return ff_words_over(status) ? !json_object_equal(r->last[side], info)
                                 : us - r->looked[side] >= us / PART;
}

void ff_record_info_at(FfRecord *r, FfSide side, JsonObject *info, gint64 us)
{
    if (!is_wanted(r, side, info, us)) {
        return;
    }
    JsonObject *line = timed_line(side, us);

    json_object_set_object_member(line, "info", json_object_ref(info));
    add_line(r, line);
    r->last[side] = info;
    r->looked[side] = us;
}

void ff_record_info(FfRecord *r, FfSide side, JsonObject *info)
{
    ff_record_info_at(r, side, info, g_get_monotonic_time() - r->begin);
}

void ff_record_result(FfRecord *r, JsonObject *result)
{
    JsonObject *line = json_object_new();

    json_object_set_object_member(line, "result", json_object_ref(result));
    add_line(r, line);
}

bool ff_record_close(FfRecord *r, GError **error)
{
    int errnum = close_file(r);

    r->error = r->error ? r->error : errnum;
    if (r->error) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(r->error),
                    "%s: not all of the record could be written: %s", r->path,
                    g_strerror(r->error));
    }
    return !r->error;
}

/* ---- reading --------------------------------------------------------------------------------- */

FfRecord *ff_record_load(const char *path, GError **error)
{
    g_autoptr(FfRecord) r = record_new(path);
    g_autoptr(GFile) file = g_file_new_for_path(path);
    g_autoptr(GFileInputStream) in = g_file_read(file, NULL, error);
    g_autoptr(GDataInputStream) data = in ? g_data_input_stream_new(G_INPUT_STREAM(in)) : NULL;

    for (unsigned n = 1; data; n++) {
        g_autoptr(GError) why = NULL;
        g_autofree char *text = g_data_input_stream_read_line_utf8(data, NULL, NULL, &why);
        JsonNode *node = text ? ff_json_from_text(text) : NULL;

        if (!text && !why) {
            break;
        }
        bool good = node ? take_line(r, node) : false;
        if (n == 1 && (!good || !r->started)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                        "%s: is no record of farfault's (--record FILE writes one)", path);
            return NULL;
        }
        if (!good && (!node || why)) {
            break; /* its writer was killed in the middle of a line */
        }
    }
    return data ? g_steal_pointer(&r) : NULL;
}

const GArray *ff_record_entries(const FfRecord *r)
{
    return r->entries;
}

JsonObject *ff_record_of_side(const FfRecord *r, FfSide side)
{
    return r->side[side];
}

JsonObject *ff_record_get_result(const FfRecord *r)
{
    return r->result;
}

gint64 ff_record_started(const FfRecord *r)
{
    return r->started;
}

bool ff_record_is_local(const FfRecord *r)
{
    return r->local;
}
