#!/bin/sh
# Bring the programs that tests and benches run beside Gemot into .tools/, without root and without installing.
#
# Debian packages are downloaded by the system's own apt, from the archives it is set up for, and unpacked.
# .tools/bin/<program> then runs the unpacked program with the unpacked libraries. A program that cannot be had,
# or does not run, is an error: nothing that needs it may be skipped in silence.
#
# Quick when everything is there already. `rm -rf .tools` starts over.
set -eu

PACKAGES="etcd-server etcd-client nginx-light wrk bind9-dnsutils dnsperf"
PROGRAMS="etcd etcdctl nginx wrk dig dnsperf"

cd "$(dirname "$0")/../.."
TOOLS=$PWD/.tools
APT=$TOOLS/apt
ROOT=$TOOLS/root
BIN=$TOOLS/bin
DONE=$TOOLS/packages

fail() {
    echo "fetch_tools: $*" >&2
    exit 1
}

# apt with lists and archives of its own, so that neither root nor the system's lists are needed.
private_apt() {
    command=$1
    shift
    "$command" -q -o Dir::State::Lists="$APT/lists" -o Dir::Cache="$APT/cache" -o APT::Sandbox::User= \
        -o Debug::NoLocking=1 -o Acquire::Retries=3 "$@"
}

update() {
    mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial"
    # One unreachable archive of several is no failure: what is missing in the end is.
    private_apt apt-get update >"$APT/update.log" 2>&1 || true
}

# The packages and all they need that this system has not, by name. The C library stays the system's: a newer
# one does not work under the system's own loader.
missing_packages() {
    # shellcheck disable=SC2086
    private_apt apt-get install --simulate --no-install-recommends $PACKAGES 2>"$APT/simulate.log" |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -v -x -e libc6 -e libc-bin || true
}

download() {
    names=$(missing_packages)
    [ -n "$names" ] || return 1
    rm -rf "$APT/deb"
    mkdir -p "$APT/deb"
    # shellcheck disable=SC2086
    (cd "$APT/deb" && private_apt apt-get download $names >"$APT/download.log" 2>&1)
}

unpack() {
    rm -rf "$ROOT"
    mkdir -p "$ROOT"
    for package in "$APT"/deb/*.deb; do
        dpkg-deb -x "$package" "$ROOT" || fail "$package cannot be unpacked"
    done
}

libraries() {
    find "$ROOT" -name '*.so*' -exec dirname {} \; | sort -u | tr '\n' ':' | sed 's/:$//'
}

wrap() {
    mkdir -p "$BIN"
    paths=$(libraries)
    for program in $PROGRAMS; do
        file=$(find "$ROOT/usr/bin" "$ROOT/usr/sbin" "$ROOT/bin" "$ROOT/sbin" -name "$program" 2>/dev/null | head -n 1)
        [ -n "$file" ] || file=$(command -v "$program" || true)
        [ -n "$file" ] || fail "no package of '$PACKAGES' brought the program $program"
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$paths" "$file" >"$BIN/$program"
        chmod +x "$BIN/$program"
    done
}

# The program's version, or what it says when it does not run.
version() {
    case $1 in
    etcd) "$BIN/etcd" --version ;;
    etcdctl) ETCDCTL_API=3 "$BIN/etcdctl" version ;;
    nginx | wrk | dig) "$BIN/$1" -v ;;
    dnsperf) "$BIN/dnsperf" -h ;;
    esac 2>&1 | head -n 1
}

check() {
    for program in $PROGRAMS; do
        shown=$(version "$program" || true)
        case $shown in
        *"error while loading"* | *"not found"* | "") fail "$program does not run: ${shown:-it says nothing}" ;;
        esac
        echo "$program: $shown"
    done
}

# Unpacked trees hold absolute paths in their wrappers, so a moved checkout is wrapped again.
wanted="$PACKAGES in $TOOLS"
if [ "$(cat "$DONE" 2>/dev/null || true)" = "$wanted" ]; then
    check
    exit 0
fi
for needed in apt-get dpkg-deb; do
    command -v $needed >/dev/null || fail "$needed is needed: these tools come as Debian packages"
done
[ -d "$APT/lists/partial" ] || update
if ! download; then
    # Lists that name superseded versions are the usual reason.
    update
    download || {
        cat "$APT/simulate.log" "$APT/download.log" >&2 2>/dev/null || true
        fail "the packages '$PACKAGES' cannot be downloaded (see above and $APT/update.log)"
    }
fi
unpack
wrap
check
echo "$wanted" >"$DONE"
