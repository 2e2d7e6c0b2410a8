#!/usr/bin/env bash
# A Docker Engine and a Python image for the tests of containers.
#
#   engine.sh install   install Debian's engine where there is none
#   engine.sh start     start it unless one runs; prints the process number of what it started
#   engine.sh base      print the name of the image to build on: python:3.11-slim-bookworm if the
#                       engine has it or can fetch it, else a stand-in made of Debian's packages
#
# It installs and starts nothing without root: elsewhere an engine that runs is all that is needed.
set -euo pipefail

PUBLIC=python:3.11-slim-bookworm
STAND_IN=farsim-test/python:3.11-bookworm
WAIT_SECONDS=60

answers() { docker version >/dev/null 2>&1; }

fail() {
    echo "engine.sh: $1" >&2
    exit 1
}

# Whether this user may change the machine, and it is a Debian.
may_install() { [[ $(id -u) = 0 ]] && command -v apt-get >/dev/null; }

install_packages() {
    local missing=()
    for package in "$@"; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
            || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install() {
    answers && return
    command -v dockerd >/dev/null && return
    if may_install; then
        echo "installing docker.io, for the tests of containers" >&2
        install_packages docker.io iptables ca-certificates
    else
        echo "the tests of containers need a Docker Engine: sudo apt-get install docker.io" >&2
    fi
}

start() {
    answers && return
    command -v dockerd >/dev/null || fail "there is no Docker Engine; on Debian or Ubuntu: sudo apt-get install docker.io"
    [[ $(id -u) = 0 ]] || fail "the Docker Engine does not answer; start it: sudo systemctl start docker"
    local log=$1
    setsid dockerd >"$log" 2>&1 </dev/null &
    local engine=$!
    for _ in $(seq $((WAIT_SECONDS * 4))); do
        if answers; then
            echo "$engine"
            return
        fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.25
    done
    kill "$engine" 2>/dev/null || true
    tail -n 20 "$log" >&2
    fail "the Docker Engine did not start within $WAIT_SECONDS s"
}

base() {
    for image in "$PUBLIC" "$STAND_IN"; do
        if docker image inspect "$image" >/dev/null 2>&1; then
            echo "$image"
            return
        fi
    done
    if timeout 120 docker pull --quiet "$PUBLIC" >/dev/null 2>&1; then
        echo "$PUBLIC"
        return
    fi
    may_install || fail "no image registry answers, and making an image takes root on Debian"
    install_packages debootstrap ca-certificates
    # Not local: the trap comes after this function.
    root=$(mktemp --directory --tmpdir=/dev/shm)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3-minimal,python3-venv,ca-certificates bookworm "$root" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        rm -f "$root.log"
        fail "debootstrap could not make an image"
    }
    rm -f "$root.log"
    # The authorities that this machine trusts, as pip within a build needs them.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    tar -C "$root" --exclude=./var/cache/apt/* --exclude=./var/lib/apt/lists/* -c . \
        | docker import - "$STAND_IN" >/dev/null
    echo "$STAND_IN"
}

case ${1:-} in
    install) install ;;
    start) start "${2:?the file for its log}" ;;
    base) base ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
