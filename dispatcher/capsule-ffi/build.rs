//! Finds DPDK by `pkg-config`, compiles the shims and generates the bindings.

use std::env;
use std::path::PathBuf;
use std::process::{exit, Command};

/// What the shared libraries of DPDK are called that hold the names used here. Drivers are plug-ins that EAL loads.
const LIBRARIES: [&str; 4] = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    let flags: Vec<String> = pkg_config("--cflags").split_whitespace().map(str::to_owned).collect();
    for flag in pkg_config("--libs-only-L").split_whitespace() {
        println!("cargo:rustc-link-search=native={}", flag.trim_start_matches("-L"));
    }

    let mut shim = cc::Build::new();
    // DPDK's headers are not written for every warning of every compiler.
    shim.file("src/shim.c").warnings(false).opt_level(3);
    flags.iter().for_each(|flag| _ = shim.flag(flag));
    shim.compile("capsule_shim");
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let bindings = bindgen::Builder::default()
        .header("src/compat.h")
        .clang_args(&flags)
        .clang_arg("-D_GNU_SOURCE")
        .allowlist_function("(_rte|dispatcher)_.*")
        .allowlist_function("rte_(eal_cleanup|strerror|socket_(id|count|id_by_idx))")
        .allowlist_function("rte_eth_(allmulticast|promiscuous)_(enable|disable)")
        .allowlist_function("rte_eth_dev_(adjust_nb_rx_tx_desc|close|default_mac_addr_set|get_mtu|get_port_by_name|info_get)")
        .allowlist_function("rte_eth_dev_(socket_id|start|stop)")
        .allowlist_function("rte_eth_(macaddr_get|rx_queue_setup|stats_get|tx_queue_setup)")
        .allowlist_function("rte_mempool_(free|in_use_count|lookup)|rte_pktmbuf_pool_create|rte_lcore_to_socket_id")
        .allowlist_type("rte_cpuset_t|rte_eth_conf|rte_eth_dev_info|rte_eth_stats|rte_ether_addr|rte_mempool")
        .allowlist_var("CAPSULE_.*")
        // Its layout is binary interface and checked by the shim; how it is nested in C changes from version to version.
        .blocklist_type("rte_mbuf|rte_eth_rx_mq_mode")
        .derive_copy(true)
        .derive_default(true)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .formatter(bindgen::Formatter::None)
        .generate()
        .unwrap_or_else(|e| {
            give_up(&format!("bindgen: {e} (does clang have its headers? apt-get install clang libclang-dev)"))
        });
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    bindings.write_to_file(&out).unwrap_or_else(|e| give_up(&format!("{}: {e}", out.display())));
}

fn pkg_config(what: &str) -> String {
    match Command::new("pkg-config").args([what, "libdpdk"]).output() {
        Ok(told) if told.status.success() => String::from_utf8_lossy(&told.stdout).into_owned(),
        Ok(_) => give_up("pkg-config knows no libdpdk"),
        Err(e) => give_up(&format!("pkg-config: {e}")),
    }
}

fn give_up(why: &str) -> ! {
    eprintln!("{why}");
    eprintln!("The feature `dpdk` needs DPDK and clang to build; the build without it needs neither. On Debian:");
    eprintln!("    apt-get install libdpdk-dev dpdk pkg-config clang libclang-dev");
    exit(1)
}
