# SPDX-License-Identifier: GPL-2.0-or-later
# Packages that are not of this machine's own sources: apt with a configuration of its own, which
# changes neither /etc/apt nor the lists in /var. Sourced after lib.sh, never run. If archive_release
# names other Debian releases then, all of this is about those, and nothing of them is installed.
# shellcheck shell=bash

# shellcheck disable=SC2154 # lib.sh sets it
archive_dir=$root/.cache/apt${archive_release:+-${archive_release// /-}}
archive_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# private_apt COMMAND [ARGUMENT...]: apt-get or apt-cache on the private lists.
private_apt() {
    local command=$1 nothing=()
    shift
    [ -z "${archive_release-}" ] || nothing=(-o Dir::State::status=/dev/null)
    LC_ALL=C "$command" -q "${nothing[@]}" -o Dir::Etc::sourcelist="$archive_dir/sources.list" \
        -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=- -o Dir::Etc::preferences=- \
        -o Dir::State::lists="$archive_dir/lists" -o Dir::Cache="$archive_dir/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# archive_of SUITE: where this machine gets SUITE from; nothing if it does not.
# shellcheck disable=SC2016 # apt's own variable
archive_of() {
    apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Component: main' \
        "Codename: $1" 2>/dev/null | sort -u | head -n 1
}

# update_archive: the lists of the Debian releases, their security archives and backports, with
# sources. Returns 1 and prints the reason when they cannot be had.
update_archive() {
    local codename release part where log=$archive_dir/update.log
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    if [ -z "$codename" ] || [ ! -r "$archive_keyring" ]; then
        say "this is no Debian with $archive_keyring"
        return 1
    fi
    mkdir -p "$archive_dir/lists/partial" "$archive_dir/cache/archives/partial"
    for release in ${archive_release:-$codename}; do
        for part in "" -backports -security; do
            # sid has nothing beside it.
            [ "$release" != sid ] || [ -z "$part" ] || continue
            where=$(archive_of "$codename$part")
            # Backports lie beside the release.
            [ -n "$where" ] || [ "$part" = -security ] || where=$(archive_of "$codename")
            [ -n "$where" ] || continue
            printf '%s [signed-by=%s] %s %s main\n' \
                deb "$archive_keyring" "$where" "$release$part" deb-src "$archive_keyring" "$where" "$release$part"
        done
    done >"$archive_dir/sources.list"
    # Lists of the last day are good enough.
    [ -z "$(find "$archive_dir/update.log" -mtime -1 2>/dev/null)" ] || return 0
    # What cannot be reached is an error, not a warning: else the next day has empty lists.
    private_apt apt-get update --error-on=any >"$log.new" 2>&1 || {
        say "the archive cannot be reached: $(sed -n 's/^\(Err\|E\|W\): *//p' "$log.new" | tail -n 1)"
        return 1
    }
    mv "$log.new" "$log"
}
