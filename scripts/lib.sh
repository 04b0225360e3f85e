# SPDX-License-Identifier: GPL-2.0-or-later
# What the scripts share: messages, the check for Debian packages, the build folders.
# Sourced, never run. The caller has set -euo pipefail.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# SCRIPT --help: what stands at the script's head.
case ${1-} in
-h | --help)
    sed -n '3,${/^#/!q;s/^# \?//;p}' "$0"
    exit
    ;;
esac

# What lets this user use userfaultfd, for a person to do: as farfault doctor says it (cli/common/userfault.c).
userfaultfd_fix() {
    local device=/dev/userfaultfd user group
    user=$(id -un)
    group=$(stat -c '%A %G' $device 2>/dev/null) || group=
    case $group in
    "" | *" root") group= ;;
    ????rw*) group=${group#* } ;;
    *) group= ;;
    esac
    if [ -n "$group" ] && id -nG "$user" | grep -qw -- "$group"; then
        printf '%s\n' "log in again ($user has come into group $group, which has $device, since)"
    elif [ -n "$group" ]; then
        printf '%s\n' "have root say: usermod -aG $group $user, and log in again"
    elif [ -e $device ]; then
        printf '%s\n' "have root say: scripts/install-host && usermod -aG kvm $user, and log in again"
    else
        printf '%s\n' "have root say: sysctl vm.unprivileged_userfaultfd=1"
    fi
}

# Everything that building needs, and what the tests and the demo need besides.
build_packages=(gcc libc6-dev meson ninja-build pkg-config python3 libglib2.0-dev libjson-glib-dev
    liburing-dev libzstd-dev libssl-dev python3-numpy systemtap-sdt-dev)
run_packages=(qemu-system-x86 qemu-utils busybox-static iproute2 cpio xz-utils util-linux openssl)
lint_packages=(clang-format git)
model_packages=(spin gcc libc6-dev)
fuzz_packages=(clang)

# What ldd names, by whole paths: those libraries, and the linker that starts programs.
libraries_of() {
    LC_ALL=C ldd "$1" | sed -n 's#^.*=> \(/[^ ]*\) (.*#\1#p; s#^\t\(/[^ ]*\) (.*#\1#p'
}

say() {
    printf '%s\n' "$*"
}

# One line that names what is wrong and what to do, then the end.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# show_last FILTER: of the lines that come in, and that FILTER (a sed script) prints, the last one is
# seen, in one line of the terminal, which is empty again at the end.
show_last() {
    local line
    sed -u -n -E "$1" | while IFS= read -r line; do
        printf '\r\e[K  %.76s' "$line"
    done
    printf '\r\e[K'
}

# Runs apt-get without questions. Its output is shown only when it fails; a terminal sees how far it is.
quiet_apt() {
    local log status=0 progress options=(-q -y)
    log=$(mktemp)
    if [ -t 1 ]; then
        # "pmstatus:gcc:12.5:Unpacking gcc"
        exec {progress}> >(show_last 's/^[a-z]+:[^:]*(:[a-z0-9]+)?:([0-9]+)\.[0-9]*:(.*)/\2 %  \3/p')
        options+=(-o "APT::Status-Fd=$progress")
    fi
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ -t 1 ]; then
        exec {progress}>&-
        wait $! || true # until its line is empty again
    fi
    [ $status = 0 ] || cat "$log" >&2
    rm -f "$log"
    return $status
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

# What clang links sanitizers and fuzzers with: the package has clang's version in its name.
need_clang_runtime() {
    local version
    version=$(clang -dumpversion)
    need_packages "libclang-rt-${version%%.*}-dev"
}

# has_option FOLDER NAME: the build folder has that boolean option switched on.
has_option() {
    grep -qF "{\"name\": \"$2\", \"value\": true," "$1/meson-info/intro-buildoptions.json"
}

# setup_build FOLDER [MESON-OPTION...]: configures FOLDER once, with the points at which tests make
# the engine fail, and with each warning an error (not where an option says -Dwerror=false). A folder that was
# made without these gets them.
setup_build() {
    local folder=$1 option new=$1 command=()
    shift
    [ ! -d "$folder" ] || [ -w "$folder" ] ||
        die "$folder cannot be written to; it belongs to $(stat -c %U "$folder"): remove it, or run this as that user"
    # A tree that was copied or moved: meson would continue in the old place.
    [ ! -f "$folder/build.ninja" ] || grep -qF "\"source\": \"$root\"" "$folder/meson-info/meson-info.json" ||
        die "$folder was made for another folder than $root: remove it"
    if [ ! -f "$folder/build.ninja" ]; then
        command=(meson setup "$folder" "$root" -Dfaults=true -Dwerror=true "$@")
    else
        new=
        for option in faults werror; do
            [[ " $* " == *" -D$option=false "* ]] || has_option "$folder" $option || command+=("-D$option=true")
        done
        [ ${#command[@]} = 0 ] || command=(meson configure "$folder" "${command[@]}")
    fi
    "${command[@]}" >"$folder.log" 2>&1 || {
        cat "$folder.log" >&2
        rm -rf ${new:+"$new"} "$folder.log"
        return 1
    }
    rm -f "$folder.log"
}

# inside ROOT COMMAND...: in / or a root that debootstrap has made, with the tree as the current folder; as root.
inside() {
    local in=$1
    shift
    if [ "$in" = / ]; then
        (cd "$root" && "$@")
    else
        # Mounts of its own, which end with it.
        # shellcheck disable=SC2016
        unshare --mount --kill-child bash -c '
            mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/mnt" &&
                exec chroot "$1" env -C /mnt "${@:3}"' bash "$in" "$root" "$@"
    fi
}
