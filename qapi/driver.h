/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver: answers the commands that farfault owns, and drives the migration by them.
 *
 * It knows QMP and nothing of sockets to the relay or to QEMU: both are reached through the
 * functions of FfDriverPort, so the tests put fakes there. Everything runs on the thread of the
 * default main context; nothing blocks.
 */
#ifndef FF_QAPI_DRIVER_H
#define FF_QAPI_DRIVER_H

#include "qapi/port.h"

typedef struct FfDriver FfDriver;

/* CONFIG is copied (not what it points to). */
FfDriver *ff_driver_new(const FfDriverConfig *config);
/* QEMU's event NAME on the private monitor, with the "status" of its data (can be NULL). */
void ff_driver_qemu_event(FfDriver *driver, const char *name, const char *status);
/* The same event as a whole. What clients must hear of that come only later is kept for them. */
void ff_driver_qemu_said(FfDriver *driver, const char *name, JsonObject *event);
void ff_driver_free(FfDriver *driver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDriver, ff_driver_free)

/* A frame from the relay other than INIT. Takes FD (-1: none came). */
void ff_driver_frame(FfDriver *driver, FfLinkType type, unsigned mon, uint32_t seq,
                     const char *payload, size_t length, int fd);

/* The relay's PING: what others see of a migration in the state memfd is brought up to date. */
void ff_driver_look(FfDriver *driver);

/* A migration of the engine's is under way, or has just ended. */
bool ff_driver_migrates(const FfDriver *driver);

/* QEMU has ended, and this process is about to: what a peer still waits for is said. */
void ff_driver_last_words(FfDriver *driver);
#define FF_DRIVER_LAST_WORDS_MS 3000

#endif
