#!/usr/bin/env bash
# Makes .venv with everything the Makefile's targets need; apt packages when root, else says what is missing.
# Usage: tools/setup.sh [apt package ...]
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '== %s\n' "$*"; }

apt_need=()
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || apt_need+=("$package")
done
python=""
for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { say "Python 3.11 or 3.12 is needed (Debian 12: apt-get install python3)"; exit 1; }
"$python" -c 'import ensurepip' 2>/dev/null || apt_need+=(python3-venv)
if [ ${#apt_need[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        say "please install first: sudo apt-get install ${apt_need[*]}"
        exit 1
    fi
    say "installing ${apt_need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if [ ! -e /usr/sbin/policy-rc.d ]; then  # tests and demo run servers of their own
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${apt_need[@]}" >/dev/null
fi
stamp=.venv/stamp
want=$(cat tools/pyproject.toml tools/setup.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    say "making .venv (once; about a minute)"
    "$python" -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check -e './tools[dev]'
    for stubs in rp2-rpi-pico-w esp32; do
        .venv/bin/pip install -q --disable-pip-version-check --upgrade \
            --target ".venv/stubs/${stubs%%-*}" "micropython-$stubs-stubs==1.29.0.post1"
    done
    printf '%s\n' "$want" >"$stamp"
fi
