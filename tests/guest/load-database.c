/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See load.h. One table of rows of 3000 bytes, so that nearly each has a page of its own, with a
 * write-ahead log, in a tmpfs; SQLite's own cache is small, so rows are read out of the page cache.
 * What a row must hold is known from its key and its version, which stands beside.
 */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum { WORDS = 375, SIZE = WORDS * 8 };

static sqlite3 *db;
static sqlite3_stmt *reading, *writing, *beginning, *ending;
static uint32_t *version; /* of each row */
static uint64_t n_rows, state = 1;

static void fill(uint64_t *word, uint64_t key, uint32_t v)
{
    uint64_t seed = key << 32 | v;

    for (unsigned i = 0; i < WORDS; i++)
        word[i] = load_random(&seed);
}

static bool run(const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

static sqlite3_stmt *prepared(const char *sql)
{
    sqlite3_stmt *s = NULL;

    sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL);
    return s;
}

static bool done(sqlite3_stmt *s)
{
    bool good = sqlite3_step(s) == SQLITE_DONE;

    return sqlite3_reset(s) == SQLITE_OK && good;
}

static bool write_row(sqlite3_stmt *s, uint64_t key)
{
    uint64_t row[WORDS];

    fill(row, key, version[key]);
    sqlite3_bind_blob(s, 1, row, SIZE, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, (sqlite3_int64)key);
    bool good = done(s);
    sqlite3_clear_bindings(s);
    return good;
}

static bool row_is_right(uint64_t key)
{
    uint64_t row[WORDS];

    fill(row, key, version[key]);
    sqlite3_bind_int64(reading, 1, (sqlite3_int64)key);
    bool right = sqlite3_step(reading) == SQLITE_ROW && sqlite3_column_bytes(reading, 0) == SIZE &&
                 !memcmp(sqlite3_column_blob(reading, 0), row, SIZE);
    return sqlite3_reset(reading) == SQLITE_OK && right;
}

static const char *prepare(uint64_t mib)
{
    n_rows = mib << 8;
    version = calloc(n_rows, sizeof *version);
    if (!version || sqlite3_open("rows.db", &db) != SQLITE_OK ||
        !run("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-8192;"
             "CREATE TABLE rows(key INTEGER PRIMARY KEY, value BLOB) STRICT"))
        return "SQLite's database cannot be made";
    reading = prepared("SELECT value FROM rows WHERE key=?1");
    writing = prepared("UPDATE rows SET value=?1 WHERE key=?2");
    beginning = prepared("BEGIN");
    ending = prepared("COMMIT");
    sqlite3_stmt *adding = prepared("INSERT INTO rows(value, key) VALUES(?1, ?2)");
    bool good = reading && writing && beginning && ending && adding;
    for (uint64_t key = 0; good && key < n_rows; key++) {
        good = key % 1024 || done(beginning);
        good = good && write_row(adding, key);
        good = good && ((key % 1024 != 1023 && key + 1 < n_rows) || done(ending));
    }
    sqlite3_finalize(adding);
    return good ? NULL : "SQLite cannot add a row";
}

/* Each power of two of ranks is equally likely: Zipf's law with exponent 1. A prime spreads
 * neighbours over the table. */
static uint64_t choose(void)
{
    unsigned octaves = 64 - (unsigned)__builtin_clzll(n_rows);
    uint64_t rank;

    do {
        uint64_t r = load_random(&state);
        unsigned octave = (r >> 48) % octaves;
        rank = (1ull << octave) + (r & ((1ull << octave) - 1));
    } while (rank > n_rows);
    return (rank - 1) * 2654435761u % n_rows;
}

static unsigned step(unsigned worker)
{
    uint64_t key = choose();
    bool rewrite = load_random(&state) >> 63;

    (void)worker;
    bool good = done(beginning);
    good = row_is_right(key) && good;
    if (rewrite) {
        version[key]++;
        good = write_row(writing, key) && good;
    }
    return !(done(ending) && good);
}

static int count_complaint(void *count, int n, char **text, char **name)
{
    (void)name;
    *(uint64_t *)count += n != 1 || strcmp(text[0], "ok") != 0;
    return 0;
}

static uint64_t verify(void)
{
    uint64_t wrong = 0;

    wrong += sqlite3_exec(db, "PRAGMA integrity_check", count_complaint, &wrong, NULL) != SQLITE_OK;
    for (uint64_t key = 0; key < n_rows; key++)
        wrong += !row_is_right(key);
    return wrong;
}

static void damage(void)
{
    run("UPDATE rows SET value=zeroblob(3000) WHERE key=0");
}

const Load load_database = {.name = "database",
                            .report_ms = 500,
                            .prepare = prepare,
                            .step = step,
                            .verify = verify,
                            .damage = damage};
