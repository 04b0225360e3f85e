/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who has connected to a destination and has not yet said who he is. Several wait here at once, so
 * that nobody who says nothing, or half a sentence, stands in front of the source.
 *
 * One thread: the acceptor. All functions are its.
 */
#ifndef FF_MIGRATION_LOBBY_H
#define FF_MIGRATION_LOBBY_H

#include <gio/gio.h>

/* So many wait at once. Who comes then takes the place of the one that has waited longest, if that
 * was longer than FF_LOBBY_GRACE_MS; else he waits outside, in the kernel's queue. */
#define FF_LOBBY_PLACES 32
#define FF_LOBBY_GRACE_MS 1000
/* Who has not spoken by then is sent away. */
#define FF_LOBBY_DEADLINE_MS 10000

typedef struct FfLobby FfLobby;

/* LISTEN_FD and CANCEL are borrowed. */
FfLobby *ff_lobby_new(int listen_fd, GCancellable *cancel);
/* The next one whose first words are there to be read, whole (or whose end is), as a non-blocking
 * fd (the caller's). Nothing has been read of it. -1 and ERROR: cancelled, or accept() failed. */
int ff_lobby_next(FfLobby *lobby, GError **error);
/* Those who came after the last one that was taken: an array of int, the caller's, which closes
 * them with it. Who takes one out leaves -1. */
GArray *ff_lobby_later(FfLobby *lobby);
/* Closes those who wait still. */
void ff_lobby_free(FfLobby *lobby);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfLobby, ff_lobby_free)

#endif
