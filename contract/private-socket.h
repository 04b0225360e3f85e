/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The name of the sockets at which QEMU's monitors listen for the relay. Nothing is in the file
 * system under it (guest/launch/endpoint.c); it stays what getsockname() says in QEMU. Constant
 * data.
 */
#ifndef FF_CONTRACT_PRIVATE_SOCKET_H
#define FF_CONTRACT_PRIVATE_SOCKET_H

#define FF_PRIVATE_FOLDER "farfault-XXXXXX" /* for mkdtemp() */
#define FF_PRIVATE_NAME "monitor"
#define FF_PRIVATE_PATTERN "*/farfault-*/" FF_PRIVATE_NAME /* for fnmatch() */

#endif
