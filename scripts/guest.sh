# Sourced: makes what a guest boots, out of files of packages. Nothing is taken from an installed system but these, and nothing is installed.
#
#   fetch_kernel DIR           the package with Debian's kernel for virtual machines, downloaded into DIR
#   guest_kernel DEB OUT       its kernel, as OUT/vmlinuz; what else is in it, unpacked in OUT/kernel
#   guest_modules OUT NAME...  modules, with those that they need, into OUT/root
#   guest_programs OUT FILE... programs into OUT/root/bin, with the libraries that they need
#   guest_pack OUT             OUT/initrd, out of OUT/root; what is only needed to make it is removed

# One that needs no libraries.
need_busybox() {
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then install_packages busybox-static; fi
}

fetch_kernel() {
    try_fetch_kernel "$1" || { apt-get update >"$1/apt" 2>&1 && try_fetch_kernel "$1"; } ||
        { tail -n 5 "$1/apt" >&2; die "no kernel package linux-image-cloud-amd64"; }
}

try_fetch_kernel() {
    local name
    name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }')
    [ -n "$name" ] || return 1
    say "fetching $name"
    (cd "$1" && apt-get download "$name") >"$1/apt" 2>&1
}

guest_kernel() {
    mkdir -p "$2/root"/{bin,dev,proc,sys,run,etc,lib64}
    dpkg -x "$1" "$2/kernel"
    cp "$2/kernel"/boot/vmlinuz-* "$2/vmlinuz"
    cp "$(command -v busybox)" "$2/root/bin/busybox"
    ln -s busybox "$2/root/bin/sh"
}

guest_modules() {
    local out=$1 version module files file
    shift
    version=$(basename "$out"/kernel/lib/modules/*)
    # As depmod sees what they need.
    busybox depmod -b "$out/kernel" "$version"
    for module in "$@"; do
        files=$(awk -F'[: ]+' -v "m=/$module.ko" 'index($1, m) { for (i = 1; i <= NF; i++) if ($i != "") print $i }' "$out/kernel/lib/modules/$version/modules.dep")
        [ -n "$files" ] || die "the kernel $version has no module $module"
        for file in $files; do install -D -m 644 "$out/kernel/lib/modules/$version/$file" "$out/root/lib/modules/$version/$file"; done
    done
    busybox depmod -b "$out/root" "$version"
}

# guest_libraries OUT DIRECTORY: of the files named on standard input, and the loader under the name that they ask for.
guest_libraries() {
    local out=$1 lib=$2 file target files
    files=$(cat)
    for file in $files; do ldd "$file"; done | awk '/=> \// { print $3 }' | sort -u | while read -r file; do
        target=$out/root$lib/$(basename "$file")
        [ -e "$target" ] || [ -L "$target" ] || install -D -m 755 "$file" "$target"
    done
    for file in $files; do ldd "$file"; done | awk '$1 ~ /ld-linux/ { print $1 }' | sort -u | while read -r file; do
        install -D -m 755 "$file" "$out/root$file"
    done
    echo "$lib" >"$out/root/etc/ld.so.conf"
    ldconfig -r "$out/root"
}

guest_programs() {
    local out=$1 file
    shift
    for file in "$@"; do cp -L "$file" "$out/root/bin/$(basename "$file")"; done
    printf '%s\n' "$@" | guest_libraries "$out" /lib/x86_64-linux-gnu
}

guest_pack() {
    (cd "$1/root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$1/initrd"
    rm -rf "$1/kernel" "$1/root"
}
