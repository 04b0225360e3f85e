/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dialogs of client, driver and QEMU, each a file of tests/unit/dialogs, which says in its first
 * lines what it shows. One thing a line:
 *
 *   incoming: URI        first of all: QEMU was started to receive
 *   refused: WHY         first of all: the engine does not migrate this guest
 *   client: COMMAND      a client says it; "client 1:" another one
 *   gone                 the first client goes
 *   qemu NAME: ANSWER    QEMU was asked NAME, and answers; "!TEXT" is an error
 *   relay: FRAME         the next that the relay is told: a reply, an event, "pass"
 *   migration: STATUS    that of the migration that was begun, from now on; "over STATUS": its end
 *
 * Before the next line of a client, and at the end, all that the relay was told must have been
 * said here. scripts/fuzz takes the same files as seeds.
 */
#include <string.h>

#include "tests/unit/driver-world.h"

typedef struct {
    World w;
    const char *file;
    unsigned line;
    char *incoming, *refused;
    bool begun;
} Dialog;

static void G_GNUC_PRINTF(2, 3) G_GNUC_NORETURN wrong(const Dialog *d, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_autofree char *what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_error("%s:%u: %s", d->file, d->line, what);
}

/* The text of LINE after HEAD and ": "; NULL: it begins with something else. */
static const char *after(const char *line, const char *head)
{
    size_t n = strlen(head);

    return g_str_has_prefix(line, head) && g_str_has_prefix(line + n, ": ") ? line + n + 2 : NULL;
}

static void begin(Dialog *d)
{
    if (!d->begun) {
        world_init(&d->w, d->incoming, d->refused);
        d->begun = true;
    }
}

static void expect_all_said(Dialog *d)
{
    if (d->w.out->len) {
        wrong(d, "before this the relay was told also: %s", d->w.out->str);
    }
}

static void relay_is_told(Dialog *d, const char *frame)
{
    GString *out = d->w.out;
    char *end = strchr(out->str, '\n');
    size_t n = end ? (size_t)(end - out->str) : 0;

    if (!end || strlen(frame) != n || memcmp(out->str, frame, n)) {
        wrong(d, "the relay was told: %s", end ? out->str : "nothing");
    }
    g_string_erase(out, 0, (gssize)n + 1);
}

static void qemu_line(Dialog *d, const char *line)
{
    const char *colon = strstr(line, ": ");
    const Asked *asked = g_queue_peek_head(&d->w.questions);

    if (!colon) {
        wrong(d, "a line of QEMU's is \"qemu NAME: ANSWER\"");
    }
    g_autofree char *name = g_strndup(line, colon - line);
    if (g_strcmp0(asked ? asked->command : NULL, name)) {
        wrong(d, "QEMU was asked %s", asked ? asked->command : "nothing");
    }
    qemu_answers(&d->w, name, colon + 2);
}

static void migration_line(Dialog *d, const char *text)
{
    if (!migration) {
        wrong(d, "there is no migration");
    }
    if (!become_named(text)) {
        wrong(d, "there is no status \"%s\"", text);
    }
}

static void client_line(Dialog *d, unsigned mon, const char *text)
{
    begin(d);
    expect_all_said(d);
    command_of(&d->w, mon, text);
}

static void one_line(Dialog *d, const char *line)
{
    const char *text;

    if ((text = after(line, "incoming")) && !d->begun) {
        d->incoming = g_strdup(text);
    } else if ((text = after(line, "refused")) && !d->begun) {
        d->refused = g_strdup(text);
    } else if ((text = after(line, "client"))) {
        client_line(d, 0, text);
    } else if ((text = after(line, "client 1"))) {
        client_line(d, 1, text);
    } else if (!strcmp(line, "gone") && d->begun) {
        expect_all_said(d);
        ff_driver_frame(d->w.driver, FF_LINK_CLIENT_GONE, 0, 0, "", 0, -1);
    } else if (g_str_has_prefix(line, "qemu ") && d->begun) {
        qemu_line(d, line + strlen("qemu "));
    } else if ((text = after(line, "relay")) && d->begun) {
        relay_is_told(d, text);
    } else if ((text = after(line, "migration")) && d->begun) {
        migration_line(d, text);
    } else {
        wrong(d, "this line says nothing: %s", line);
    }
}

static void test_dialog(gconstpointer path)
{
    g_autofree char *text = NULL;
    Dialog d = {.file = path};

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        d.line++;
        if (**line && **line != '#') {
            one_line(&d, *line);
        }
    }
    begin(&d);
    expect_all_said(&d);
    if (!g_queue_is_empty(&d.w.questions)) {
        wrong(&d, "QEMU was asked more");
    }
    world_clear(&d.w);
    g_free(d.incoming);
    g_free(d.refused);
}

int main(int argc, char **argv)
{
    const char *source = g_getenv("FF_SOURCE");
    g_autofree char *folder = g_build_filename(source ? source : ".", "tests/unit/dialogs", NULL);
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    const char *name;

    g_test_init(&argc, &argv, NULL);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    if (!dir) {
        g_error("%s cannot be read: set FF_SOURCE to the source tree", folder);
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *test = g_strdup_printf("/dialogs/%s", name);
        char *path = g_build_filename(folder, name, NULL);

        g_ptr_array_add(paths, path);
        g_test_add_data_func(test, path, test_dialog);
    }
    g_assert_cmpuint(paths->len, >, 0);
    return g_test_run();
}
