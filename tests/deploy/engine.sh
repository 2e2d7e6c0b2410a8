#!/usr/bin/env bash
# A Docker Engine and a Python image for the tests of containers.
#
#   engine.sh install   install Debian's engine and Compose where there is none
#   engine.sh start     start it unless one runs; prints the process number of what it started
#   engine.sh base      print the name of the image to build on: python:3.11-slim-bookworm if the
#                       engine has it or can fetch it, else a stand-in made of the files of this
#                       machine's own packages, which takes Debian 12
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

composes() { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null; }

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
    local missing=()
    answers || command -v dockerd >/dev/null || missing+=(docker.io iptables ca-certificates)
    composes || missing+=(docker-compose)
    ((${#missing[@]})) || return 0
    if may_install; then
        echo "installing ${missing[*]}, for the tests of containers" >&2
        install_packages "${missing[@]}"
    else
        echo "the tests of containers need: sudo apt-get install ${missing[*]}" >&2
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

# The names of packages that a small Debian with Python has, and of all that they need.
packages() {
    local essential
    essential=$(dpkg-query --show --showformat='${Essential} ${Package}\n' | sed -n 's/^yes //p')
    # shellcheck disable=SC2086 # One word a package.
    apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
        --no-breaks --no-replaces --no-enhances \
        $essential ca-certificates libstdc++6 passwd python3-venv \
        | sort -u \
        | comm -12 - <(dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort -u)
}

# A root file system as a tar file. Packages are not configured anew: their files as they are here
# will do, but for the accounts, which are those that Debian begins with.
stand_in() {
    {
        printf '%s\n' /bin /sbin /lib /lib64
        # Where those are links into /usr, packages may still name files by the link.
        packages | xargs dpkg-query --listfiles \
            | grep '^/.' | sed -E 's,^/(bin|sbin|lib|lib64)/,/usr&,'
        find /etc/ssl/certs
    } | sort -u \
        | grep -Ev '^/(etc/(passwd|group|hostname|hosts|resolv\.conf)$|usr/share/(doc|man|info|locale|lintian)/)' \
        | perl -nle 'print substr($_, 1) if -e || -l' \
        | tar --directory=/ --create --no-recursion --files-from=- \
            --transform='s,^usr/share/base-passwd/\(passwd\|group\)\.master$,etc/\1,'
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
    may_install || fail "no image registry answers, and making an image takes root on Debian 12"
    install_packages ca-certificates libstdc++6 passwd python3-venv
    [[ -x /usr/bin/python3.11 ]] || fail "no image registry answers, and Debian's Python here is not 3.11"
    stand_in | docker import - "$STAND_IN" >/dev/null
    echo "$STAND_IN"
}

case ${1:-} in
    install) install ;;
    start) start "${2:?the file for its log}" ;;
    base) base ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
