//! One clear line out of a failure of DPDK's.

use super::{PortSetup, port_of};
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

/// The last lines of DPDK's log say why; the first of these what came of it.
fn explain(what: &str, error: &str, log: &str, root: bool) -> String {
    // What EAL says at every start.
    const USUAL: [&str; 6] =
        ["Detected", "Selected IOVA", "Multi-process", "No free", "VFIO support", "Static memory layout"];
    let lines: Vec<_> =
        log.lines().map(str::trim).filter(|l| !l.is_empty() && !USUAL.iter().any(|usual| l.contains(usual))).collect();
    let said = lines[lines.len().saturating_sub(3)..].join("; ");
    let busy =
        ["Device or resource busy", "cannot open /dev/vfio", "Failed to open VFIO group", "failed to open /dev/vfio"];
    let hint = if lines.iter().any(|l| busy.iter().any(|busy| l.contains(busy))) {
        if root {
            " (in use by another process: fuser -v /dev/vfio/*)"
        } else {
            " (DPDK wants root, or the right to /dev/vfio)"
        }
    } else if root {
        ""
    } else {
        " (DPDK wants root)"
    };
    if said.is_empty() {
        format!("dpdk: {what}: {error}{hint}")
    } else {
        format!("dpdk: {what}: {error}: {said}{hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_says_what_dpdk_said() {
        let log =
            "EAL: Detected CPU lcores: 2\nEAL: failed to parse device \"net_foo0\"\nEAL: Bus (vdev) probe failed.\n";
        let line = explain("cannot start", "No such device", log, true);
        assert_eq!(
            line,
            "dpdk: cannot start: No such device: EAL: failed to parse device \"net_foo0\"; EAL: Bus (vdev) probe failed."
        );
        assert!(explain("cannot start", "Operation not permitted", "", false).ends_with("(DPDK wants root)"));
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
