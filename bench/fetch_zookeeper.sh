#!/bin/sh
# Bring ZooKeeper into .tools/zookeeper/, for `make bench` alone: no test needs it.
#
# As in tests/support/fetch_tools.sh: Debian's packages, downloaded by the system's own apt and unpacked, without
# root and without installing. Only the jars that one server runs with. Java is the system's; where there is none,
# the bench leaves ZooKeeper out and says so, so nothing is fetched.
#
# Quick when everything is there already. `rm -rf .tools/zookeeper` starts over.
set -eu

PACKAGES="libzookeeper-java libslf4j-java libdropwizard-metrics-java libsnappy-java"
JARS="zookeeper zookeeper-jute slf4j-api slf4j-simple metrics-core snappy-java"

cd "$(dirname "$0")/.."
TOOLS=$PWD/.tools/zookeeper
APT=$TOOLS/apt
DONE=$TOOLS/packages

fail() {
    echo "fetch_zookeeper: $*" >&2
    exit 1
}

# apt with lists and archives of its own, so that neither root nor the system's lists are needed.
private_apt() {
    apt-get -q -o Dir::State::Lists="$APT/lists" -o Dir::Cache="$APT/cache" -o APT::Sandbox::User= \
        -o Debug::NoLocking=1 -o Acquire::Retries=3 "$@"
}

# One unreachable archive of several is no failure: what is missing in the end is.
update() {
    mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial"
    private_apt update >"$APT/update.log" 2>&1 || true
}

download() {
    rm -rf "$APT/deb"
    mkdir -p "$APT/deb"
    # shellcheck disable=SC2086
    (cd "$APT/deb" && private_apt download $PACKAGES >"$APT/download.log" 2>&1)
}

unpack() {
    rm -rf "$APT/root" "$TOOLS/jars"
    mkdir -p "$APT/root" "$TOOLS/jars"
    for package in "$APT"/deb/*.deb; do
        dpkg-deb -x "$package" "$APT/root" || fail "$package cannot be unpacked"
    done
    for jar in $JARS; do
        cp -L "$APT/root/usr/share/java/$jar.jar" "$TOOLS/jars/" || fail "no package of '$PACKAGES' brought $jar.jar"
    done
    rm -rf "$APT/root"
}

check() {
    shown=$(java -cp "$TOOLS/jars/*" org.apache.zookeeper.version.VersionInfoMain 2>&1 | head -n 1)
    case $shown in
    "Apache ZooKeeper, version "*) echo "zookeeper: $shown" ;;
    *) fail "ZooKeeper does not run: ${shown:-it says nothing}" ;;
    esac
}

if ! command -v java >/dev/null; then
    echo "zookeeper: left out, there is no java in PATH (Debian: default-jre-headless)"
    exit 0
fi
if [ "$(cat "$DONE" 2>/dev/null || true)" = "$PACKAGES" ]; then
    check
    exit 0
fi
for needed in apt-get dpkg-deb; do
    command -v $needed >/dev/null || fail "$needed is needed: ZooKeeper comes as Debian packages"
done
update
download || {
    cat "$APT/update.log" "$APT/download.log" >&2 2>/dev/null || true
    fail "the packages '$PACKAGES' cannot be downloaded (see above)"
}
unpack
check
echo "$PACKAGES" >"$DONE"
