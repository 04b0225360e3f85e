# SPDX-License-Identifier: GPL-2.0-or-later
# What the scripts share: messages, the check for Debian packages, the build folders.
# Sourced, never run. The caller has set -euo pipefail.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything that building needs, and what the tests and the demo need besides.
build_packages=(gcc libc6-dev meson ninja-build pkg-config python3 libglib2.0-dev libjson-glib-dev
    liburing-dev libzstd-dev libssl-dev python3-numpy)
run_packages=(qemu-system-x86 qemu-utils busybox-static iproute2 cpio xz-utils util-linux openssl)
lint_packages=(clang-format git)
model_packages=(spin gcc libc6-dev)
fuzz_packages=(clang libclang-rt-14-dev)

say() {
    printf '%s\n' "$*"
}

# One line that names what is wrong and what to do, then the end.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs apt-get without questions. Its output is shown only when it fails.
quiet_apt() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# need_packages PACKAGE...: installs those that are missing. Fast when none is.
need_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "these Debian packages, or their like, are needed: ${missing[*]}"
    [ "$(id -u)" = 0 ] ||
        die "packages are missing; install them as root: apt-get install ${missing[*]}"
    say "installing: ${missing[*]}"
    quiet_apt update || die "apt-get update failed; is there a network?"
    quiet_apt install --no-install-recommends "${missing[@]}" ||
        die "apt-get install failed: ${missing[*]}"
}

# setup_build FOLDER [MESON-OPTION...]: configures FOLDER once, with the points at which tests make
# the engine fail.
setup_build() {
    local folder=$1
    shift
    [ -f "$folder/build.ninja" ] || meson setup "$folder" "$root" -Dfaults=true "$@" >"$folder.log" 2>&1 || {
        cat "$folder.log" >&2
        rm -rf "$folder" "$folder.log"
        return 1
    }
    rm -f "$folder.log"
}
