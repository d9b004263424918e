//! One clear line out of a failure of DPDK's.

use super::PortSetup;
use super::ports::port_of;
use crate::io::OpenError;
use capsule_ffi as ffi;

/// One line out of an error of capsule's, what DPDK said before it, and what can be seen of the ports.
pub(super) fn failed(what: &str, error: &str, ports: &[PortSetup], cores: &[usize]) -> OpenError {
    let mut text = [0u8; 4096];
    // SAFETY: room for as many bytes as said.
    let n = unsafe { ffi::dispatcher_log_read(text.as_mut_ptr().cast(), text.len()) };
    let log = String::from_utf8_lossy(&text[..n]).into_owned();
    for PortSetup { device, .. } in ports {
        let Some((_, info)) = port_of(&device.name) else { continue };
        let queues = info.max_rx_queues.min(info.max_tx_queues);
        if usize::from(queues) < cores.len() {
            return OpenError(too_few_queues(&device.name, queues, cores.len()));
        }
    }
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    OpenError(explain(what, error, &log, root))
}

fn too_few_queues(name: &str, queues: u16, workers: usize) -> String {
    format!(
        "dpdk:{name}: has {queues} queue{}, and each of {workers} workers needs one of its own: --workers {queues}, or \
         fewer --cores",
        if queues == 1 { "" } else { "s" }
    )
}

/// What EAL says at every start, or after what has said more.
const NOISE: [&str; 10] = [
    "Detected",
    "Selected IOVA",
    "selecting IOVA",
    "Multi-process",
    "No free",
    "VFIO support",
    "Static memory layout",
    "vdev_probe()",
    "probe failed.",
    "Unable to parse device",
];

/// What EAL says of a card that another process has.
const BUSY: [&str; 3] = ["Device or resource busy", "already in use", "cannot open /dev/vfio"];

/// How many lines of the log are told: the first, because the others are what came of it.
const LINES: usize = 2;

fn explain(what: &str, error: &str, log: &str, root: bool) -> String {
    let mut lines: Vec<_> =
        log.lines().map(str::trim).filter(|l| !l.is_empty() && !NOISE.iter().any(|noise| l.contains(noise))).collect();
    lines.dedup();
    if let Some(name) = lines.iter().find_map(|l| l.split_once("failed to parse device \"")?.1.split('"').next()) {
        return format!("dpdk: no driver of DPDK's is called like '{name}'");
    }
    let busy = lines.iter().any(|l| BUSY.iter().any(|busy| l.contains(busy)));
    let hint = match (busy, root) {
        (true, true) => " (in use by another process: fuser -v /dev/vfio/*)",
        (_, false) => " (not root: what DPDK needs beside that is in docs/operating.md)",
        _ => "",
    };
    // "No such device" is what capsule finds when DPDK has passed over one.
    let said = lines[..lines.len().min(LINES)].join("; ");
    match said.as_str() {
        "" => match log.lines().find_map(|l| l.split_once("failed to initialize ")?.1.split(' ').next()) {
            Some(device) => format!("dpdk: {what}: {device}: its driver refuses it, or its arguments{hint}"),
            None => format!("dpdk: {what}: {error}{hint}"),
        },
        said if error == "No such device" => format!("dpdk: {what}: {said}{hint}"),
        said => format!("dpdk: {what}: {error}: {said}{hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_says_what_dpdk_said() {
        let log = "EAL: Detected CPU lcores: 2\nEAL: failed to parse device \"net_foo0\"\nEAL: Unable to parse device 'net_foo0'\n";
        assert!(
            explain("cannot start", "No such device", log, true)
                .starts_with("dpdk: no driver of DPDK's is called like 'net_foo0'")
        );
        let log = "EAL: Physical addresses are unavailable, selecting IOVA as VA mode.\nopen_single_rx_pcap(): Couldn't open x: no such file\nvdev_probe(): failed to initialize net_pcap0 device\nEAL: Bus (vdev) probe failed.\n";
        assert_eq!(
            explain("cannot start", "No such device", log, true),
            "dpdk: cannot start: open_single_rx_pcap(): Couldn't open x: no such file"
        );
        let log = "vdev_probe(): failed to initialize net_af_packet0 device\n";
        assert!(explain("cannot start", "No such device", log, true).contains("net_af_packet0: its driver refuses it"));
        assert!(explain("cannot start", "Operation not permitted", "", false).contains("not root"));
    }

    #[test]
    fn a_card_that_another_process_has_is_told_as_such() {
        let log =
            "EAL: Cannot open /dev/vfio/7: Device or resource busy\nEAL: 0000:03:00.0 Failed to open VFIO group 7\n";
        assert!(explain("cannot start", "No such device", log, true).contains("in use by another process"));
    }

    #[test]
    fn the_queues_that_are_missing_are_named() {
        let line = too_few_queues("0000:03:00.0", 1, 2);
        assert_eq!(
            line,
            "dpdk:0000:03:00.0: has 1 queue, and each of 2 workers needs one of its own: --workers 1, or fewer --cores"
        );
    }
}
