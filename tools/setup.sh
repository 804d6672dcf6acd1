#!/bin/bash
# Makes .venv with pinned packages, and installs the system packages that are missing, saying which and why.
#
#   tools/setup.sh runtime   to run it (make setup, make demo)
#   tools/setup.sh dev       to work on it (make check, make test)
#   tools/setup.sh ci        as dev, and everything that any tier needs
#
# Does nothing when nothing has changed since the last time: .venv/.stamp-* hold a sum of what was installed.
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-runtime}

say() { printf 'setup     %s\n' "$*"; }
fail() { printf 'setup     %s\n' "$@" >&2; exit 1; }

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

packages=() reasons=()
want() { packages+=("$1"); reasons+=("$1: $2"); }
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || want "$2" "$3"; }

list_missing() {
    python=$(find_python)
    if [ -z "$python" ]; then
        if command -v python3 >/dev/null 2>&1; then
            fail "the python3 of this system is $(python3 -V 2>&1); please install 3.11 or newer beside it, then try again"
        fi
        want python3 "littlelb is written in Python, 3.11 or newer"
        want python3-venv "keeps its packages out of your system"
    elif ! [ -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        want "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" "keeps its packages out of your system"
    fi
    need ip iproute2 "looks into the network namespaces of the demo and the tests"
    if [ "$level" = ci ]; then
        need nft nftables "tests of packets beside other people's firewall rules"
        need conntrack conntrack "kube-proxy in the tests on a real API server"
        need iptables iptables "kube-proxy in its iptables mode, in the same tests"
        need arping iputils-arping "tests that ask the LAN who has an address"
        need tcpdump tcpdump "tests that listen to what is said on the LAN"
        need cc gcc "the benches' maker of load, which a test runs on a small scale"
        [ -e /usr/include/stdio.h ] || want libc6-dev "the same"
    fi
}

install_missing() {
    [ ${#packages[@]} -eq 0 ] && return
    printf 'setup     missing  %s\n' "${reasons[@]}"
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "this machine has no apt: please install what the list above names, then try again"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "installing them needs root; run this, then try again:" "    sudo apt-get install ${packages[*]}"
    fi
    say "installing ${packages[*]} with apt"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    python=$(find_python)
    [ -n "$python" ] || fail "the python3 of this system is older than 3.11; please install a newer one"
}

sum_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

# $1 the name of the stamp, $2 what it is for, then the lock files.
install_locked() {
    local stamp=.venv/.stamp-$1 what=$2 sum args=() file
    shift 2
    sum=$(sum_of "$@" pyproject.toml)
    [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return
    for file in "$@"; do args+=(-r "$file"); done
    say "installing $what into .venv (pinned, every hash checked)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes "${args[@]}"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$sum" >"$stamp"
}

list_missing
install_missing
if ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv with $("$python" -V 2>&1) ($python)"
    "$python" -m venv --clear .venv
fi
case $level in
    runtime) [ -e .venv/.stamp-dev ] || install_locked runtime "what the program needs" requirements/runtime.txt requirements/build.txt ;;
    dev) install_locked dev "what the program, its checks and its tests need" requirements/dev.txt ;;
    ci)
        install_locked dev "what the program, its checks and its tests need" requirements/dev.txt
        # tests/controlplane is built with Go; distributions have older ones. The tests find .venv/bin on their PATH.
        command -v go >/dev/null 2>&1 || install_locked go "Go, to build the control plane of the tests" requirements/go.txt
        ;;
    *) fail "unknown level $level: runtime, dev or ci" ;;
esac
