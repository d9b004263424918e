//! What is wrong with values that are each right: seen before anything is opened.

use super::Refusal;
use super::args::{ReplayArgs, RunArgs, Service, Tuning};
use crate::control::backend::{BackendArg, set_keys};
use crate::control::configuration::{Configuration, Process};
use crate::control::own;
use crate::control::port::{Driver, PortArg};
use crate::control::rules::{self, About, Broken};
use crate::engine::{Config, Limits, PortSpec, TicketKey};
use crate::io::{self, DeviceInfo};
use crate::replay::ReplayOptions;
use crate::wire::Mac;
use crate::worker::{Device, PortPlan};
use lb::admission::Classes;
use lb::{Asked, Check, Policy, PoolSpec, Wanted};
use std::path::PathBuf;

/// Backends that there is room for in a process that can be changed, unless it begins with more. More room costs memory, 10 to 25 kB each.
const ROOM: usize = 1024;

/// What the engine is told of a configuration, without its ports.
fn config(wanted: Wanted, process: &Process, ticket_keys: &[TicketKey]) -> Config {
    Config {
        ports: Vec::new(),
        wanted,
        hash_seed: process.hash_seed,
        address_mode: process.address_mode,
        flow_idle_timeout: process.flow_idle_timeout,
        ticket_keys: ticket_keys.to_vec(),
        session_ttl: process.session_ttl,
        probe: true,
        loopback_sources: false,
        sealers: if process.tunnel_key.is_some() { process.worker_count() } else { 0 },
        keep_names: false,
        limits: Limits { flows: process.flow_capacity, sessions: process.session_capacity, ..Limits::default() },
    }
}

/// What flags of both commands say of the process.
fn process(tuning: &Tuning) -> Process {
    Process {
        address_mode: tuning.address_mode.into(),
        hash_seed: tuning.hash_seed,
        session_capacity: tuning.session_capacity,
        session_ttl: tuning.session_ttl,
        flow_capacity: tuning.flow_capacity,
        flow_idle_timeout: tuning.flow_idle_timeout,
        ..Process::default()
    }
}

/// What the flags of `run` want: the same as a file would say.
pub fn configuration(args: &RunArgs) -> Result<Configuration, Refusal> {
    if args.service.vips.is_empty() {
        return Err(Refusal::new("no --vip: nothing for clients to connect to"));
    }
    if args.service.backends.is_empty() {
        return Err(Refusal::new("no --backend: nowhere to send connections"));
    }
    check_ticket_keys(&args.service, &args.tuning)?;
    let configuration = Configuration {
        process: Process {
            workers: args.workers,
            cores: args.cores.clone(),
            idle: args.idle.into(),
            connections_log: args.connections_log.clone(),
            control: args.control.clone(),
            overrides: args.overrides.clone(),
            state: args.state.clone(),
            tunnel_key: args.tunnel_key.clone(),
            metrics: args.metrics,
            stats_interval: args.stats_interval,
            log_format: args.log_format.into(),
            log_level: args.log_level.into(),
            learn_keys: args.learn_keys.into(),
            ..process(&args.tuning)
        },
        ports: args.ports.clone(),
        wanted: checked(wanted(&args.service, &args.tuning)?, args.check.as_ref(), &args.service.backends)?,
        ticket_keys: args.tuning.ticket_keys.clone(),
    };
    first(rules::faults(&configuration))?;
    Ok(configuration)
}

/// The same, where all backends are asked this, and those that say a kind of their own are asked that in the same way.
fn checked(mut wanted: Wanted, check: Option<&Check>, flags: &[BackendArg]) -> Result<Wanted, Refusal> {
    for pool in &mut wanted.pools {
        pool.check = check.cloned();
        for (backend, flag) in pool.backends.iter_mut().zip(flags) {
            if let (Asked::This(own), Some(common)) = (&mut backend.check, check) {
                *own = Check { kind: own.kind, ..common.clone() };
                let named = |why| Refusal::new(format!("--backend {}: {why}", flag.backend.name));
                set_keys(own, &flag.check_keys).map_err(named)?;
            }
        }
    }
    Ok(wanted)
}

/// With flags the first broken rule is told, in one line.
fn first(broken: Vec<Broken>) -> Result<(), Refusal> {
    broken.into_iter().next().map_or(Ok(()), |broken| Err(Refusal::new(broken.what)))
}

/// The one service that flags describe.
fn wanted(service: &Service, tuning: &Tuning) -> Result<Wanted, Refusal> {
    let classes = if tuning.classes.is_empty() {
        Classes::default()
    } else {
        // The first fault is told, in one line.
        Classes::new(tuning.classes.clone()).map_err(|faults| Refusal::new(format!("--class: {}", faults[0])))?
    };
    let policy = Policy {
        affinity: tuning.affinity.on,
        cookie: tuning.affinity.cookie.clone(),
        proxy_protocol: tuning.proxy_protocol.is_some(),
        accept_proxy: lb::service::AcceptProxy {
            from: tuning.accept_proxy.clone(),
            pass: tuning.proxy_protocol.is_some_and(bool::from),
        },
        hello_timeout: tuning.hello_timeout,
        kind: tuning.service_kind.into(),
        servers_have_ech: tuning.servers_have_ech,
        classes,
        spill_after: tuning.spill_after.0,
    };
    let pool = PoolSpec {
        balance: tuning.balance.into(),
        hash_on: tuning.hash_on.into(),
        resume_fallback: tuning.resume_fallback,
        backends: service.backends.iter().map(|flag| flag.backend.clone()).collect(),
        ..PoolSpec::default()
    };
    Ok(Wanted::single(service.vips.clone(), policy, pool))
}

/// Ticket keys name backends that are there.
fn check_ticket_keys(service: &Service, tuning: &Tuning) -> Result<(), Refusal> {
    for key in &tuning.ticket_keys {
        let (TicketKey::Name { backend, .. } | TicketKey::Unknown { backend }) = key;
        if !service.backends.iter().any(|b| b.backend.name == *backend) {
            return Err(Refusal::new(format!("--ticket-key {backend}=...: there is no backend '{backend}'")));
        }
    }
    Ok(())
}

/// What `replay` is told.
pub fn replay_options(args: &ReplayArgs) -> Result<ReplayOptions, Refusal> {
    check_ticket_keys(&args.service, &args.tuning)?;
    if args.service.backends.is_empty() && !args.service.vips.is_empty() {
        return Err(Refusal::new("--vip without --backend: nowhere to send its connections"));
    }
    if args.service.backends.is_empty() && args.explain.is_some() {
        return Err(Refusal::new("--explain without --backend or --config: as recorded, nobody was asked where to go"));
    }
    check_out(args)?;
    let wanted = wanted(&args.service, &args.tuning)?;
    // Without backends the recording has its own; without VIPs the recorded servers' addresses stand in, and what only VIPs can have wrong
    // is not asked.
    let broken = if args.service.backends.is_empty() {
        Vec::new()
    } else if args.service.vips.is_empty() {
        let of_backends = |b: &Broken| matches!(b.about, About::Pool(_) | About::Backend(..) | About::Address(..));
        rules::services(&wanted).into_iter().filter(of_backends).collect()
    } else {
        rules::services(&wanted)
    };
    first(broken)?;
    let config = config(wanted, &process(&args.tuning), &args.tuning.ticket_keys);
    Ok(options(args, config))
}

/// What `replay` is told of a configuration file, whose rules are kept.
pub fn replay_of(args: &ReplayArgs, file: &Configuration) -> Result<ReplayOptions, Refusal> {
    check_out(args)?;
    Ok(options(args, engine(file)))
}

/// What an engine is told of a configuration, without its ports.
pub fn engine(file: &Configuration) -> Config {
    config(file.wanted.clone(), &file.process, &file.ticket_keys)
}

fn options(args: &ReplayArgs, config: Config) -> ReplayOptions {
    let config = Config { keep_names: true, ..config };
    ReplayOptions {
        files: args.files.clone(),
        json: args.json,
        out: args.out.clone(),
        explain: args.explain,
        report: args.report.clone(),
        config,
    }
}

/// No capture is overwritten while it is read.
fn check_out(args: &ReplayArgs) -> Result<(), Refusal> {
    for out in args.out.iter().chain(&args.report) {
        if args.files.iter().any(|f| f == out || same_file(f, out)) {
            return Err(Refusal::new(format!("{} would be overwritten while it is read", out.display())));
        }
    }
    match (&args.out, &args.report) {
        (Some(out), Some(report)) if out == report => {
            Err(Refusal::new(format!("--out and --report both name {}", out.display())))
        }
        _ => Ok(()),
    }
}

fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// What `run` is told, checked against itself and against the devices.
#[derive(Debug)]
pub struct Checked {
    /// For the engine.
    pub config: Config,
    /// What to open, in the order of `config.ports`.
    pub ports: Vec<PortPlan>,
    /// The core of each worker; none: any.
    pub cores: Vec<Option<usize>>,
    /// What is not wrong, but will not go well.
    pub warnings: Vec<String>,
}

/// Checks a configuration, whose rules are kept, against this machine. `changes`: it may change while it runs.
pub fn run(wanted: &Configuration, changes: bool) -> Result<Checked, Refusal> {
    let Configuration { process, ports: wanted_ports, .. } = wanted;
    let mut cores: Vec<Option<usize>> = match &process.cores {
        Some(cores) => cores.0.iter().copied().map(Some).collect(),
        None => vec![None; process.workers.unwrap_or(1)],
    };
    let mut config = config(wanted.wanted.clone(), process, &wanted.ticket_keys);
    config.keep_names = process.connections_log.is_some();
    // Who can be asked to change can be asked for more backends.
    config.limits.backends = if changes { ROOM } else { 0 };
    check_queues(wanted_ports, cores.len())?;
    check_cores(&cores, &io::allowed_cores(), io::can_bind_to)?;
    let (mut ports, mut warnings) = (Vec::new(), Vec::new());
    for (number, port) in wanted_ports.iter().enumerate() {
        let name = &port.name;
        let told = |e: io::OpenError| Refusal::new(format!("port '{name}': {e}"));
        let (device, mac, mtu) = match port.driver {
            Driver::AfPacket | Driver::AfXdp => {
                let info = io::device_info(&port.device).map_err(told)?;
                warn(port, &info, &mut warnings);
                let (mac, mtu) = (info.mac, info.mtu);
                let device = match port.driver {
                    Driver::AfXdp => {
                        check_device_queues(port, &info, cores.len())?;
                        Device::AfXdp(port.device.clone(), info, port.mode.unwrap_or_default())
                    }
                    _ => Device::AfPacket(port.device.clone(), info, port.takes_large_units()),
                };
                (device, mac, mtu)
            }
            Driver::Pcap => {
                let input = PathBuf::from(&port.device);
                let vips: Vec<_> = config.vips().iter().map(|vip| vip.ip()).collect();
                let recorded = io::pcap::destination(&input, &vips).map_err(told)?;
                // Locally administered; nobody else is on this wire.
                let mac = recorded.unwrap_or(Mac([2, 0, 0, 0, 0, number as u8 + 1]));
                (Device::Pcap(input, port.out.clone()), mac, 1500)
            }
            Driver::Dpdk => {
                let device = dpdk_device(port, &mut warnings).map_err(told)?;
                // Its address is the port's to tell, when it is open.
                (device, Mac::default(), DPDK_MTU)
            }
            Driver::Mem => {
                return Err(Refusal::new(format!(
                    "port '{name}': driver mem has its other end inside a program: it is for tests, not for the \
                     command line"
                )));
            }
        };
        if port.driver != Driver::Pcap && port.mtu.is_some_and(|n| n > mtu) {
            return Err(Refusal::new(format!("port '{name}': {} has an MTU of {mtu}", port.device)));
        }
        let mtu = port.mtu.unwrap_or(mtu);
        ports.push(PortPlan { name: name.clone(), device, mtu, tee: port.tee.clone(), standby: false });
        config.ports.push(PortSpec {
            name: name.clone(),
            mac,
            addresses: port.addresses.clone(),
            gateways: port.gateways.clone(),
            vlans: port.vlans.clone(),
            mtu,
        });
    }
    if wanted_ports.iter().any(|port| port.driver == Driver::Dpdk) {
        bind(&mut cores, &io::allowed_cores())?;
    }
    let ours = own::shared(wanted_ports, &config.vips());
    own::free(&ours).map_err(Refusal::new)?;
    own::warn_of_vips(wanted_ports, &config.vips(), &mut warnings);
    if !ours.is_empty() {
        own::warn_of_listeners(&config.vips(), &io::kernel::listeners(), &mut warnings);
    }
    Ok(Checked { config, ports, cores, warnings })
}

/// Workers can run on the cores that were told.
fn check_cores(cores: &[Option<usize>], ours: &[usize], can_bind_to: impl Fn(usize) -> bool) -> Result<(), Refusal> {
    match cores.iter().flatten().find(|core| !can_bind_to(**core)) {
        None => Ok(()),
        Some(core) => {
            Err(Refusal::new(format!("core {core}: the process may not run there; it may on {}", list(ours))))
        }
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(|core| core.to_string()).collect::<Vec<_>>().join(",")
}

/// DPDK binds each of its threads to a core of its own. Cores of our choice are as far from the first, which has most else to do,
/// as can be, among those the process runs on. Cores that were told may be others ([`check_cores`]): isolated ones, which no
/// thread is on until it is bound there.
fn bind(cores: &mut [Option<usize>], ours: &[usize]) -> Result<(), Refusal> {
    let untold = cores.iter().filter(|core| core.is_none()).count();
    if untold > ours.len() {
        return Err(Refusal::new(format!(
            "{untold} workers: DPDK wants a core for each, and the process runs on {} ({}); --cores takes isolated ones too",
            ours.len(),
            list(ours)
        )));
    }
    let mut free = ours.iter().rev();
    cores.iter_mut().filter(|core| core.is_none()).for_each(|core| *core = free.next().copied());
    Ok(())
}

/// Largest IP packet of a DPDK port: its buffers are made for it.
const DPDK_MTU: u16 = 1500;

#[cfg(not(feature = "dpdk"))]
fn dpdk_device(_: &PortArg, _: &mut Vec<String>) -> Result<Device, io::OpenError> {
    Err(io::OpenError(
        "this dispatcher was built without DPDK: install libdpdk-dev, dpdk, pkg-config, clang and libclang-dev, and \
         cargo build --release -p dispatcher --features dpdk"
            .into(),
    ))
}

/// The device as DPDK names it, seen to be there as far as that can be seen without DPDK.
#[cfg(feature = "dpdk")]
fn dpdk_device(port: &PortArg, warnings: &mut Vec<String>) -> Result<Device, io::OpenError> {
    use io::dpdk::{DpdkDevice, MAX_MTU, PortSetup};
    const { assert!(DPDK_MTU == MAX_MTU) };
    let device = DpdkDevice::parse(&port.device)?;
    device.check(std::path::Path::new("/sys"))?;
    device.permitted()?;
    if let Some(interface) = device.interface() {
        let info = io::device_info(interface)?;
        // Virtual devices on an interface take no large units, whatever is asked for.
        warn(&PortArg { device: interface.to_string(), offload: None, ..port.clone() }, &info, warnings);
    }
    Ok(Device::Dpdk(PortSetup {
        device,
        mtu: port.mtu.unwrap_or(MAX_MTU),
        huge: port.huge,
        offload: port.takes_large_units(),
    }))
}

fn warn(port: &PortArg, info: &DeviceInfo, warnings: &mut Vec<String>) {
    let (name, device) = (&port.name, &port.device);
    if !info.up {
        warnings.push(format!("port '{name}': {device} is down: ip link set {device} up"));
    }
    if port.driver == Driver::AfXdp && info.strips_vlan && !port.vlans.is_empty() {
        warnings.push(format!(
            "port '{name}': {device} takes VLAN tags off, which AF_XDP does not see then: ethtool -K {device} rxvlan off"
        ));
    }
    // Over AF_XDP the kernel does not see what is ours.
    if port.driver == Driver::AfPacket && io::kernel::forwards(device) {
        warnings.push(format!(
            "port '{name}': the kernel forwards what comes in by {device}, so it sends on what we take, too, or answers \
             it by ICMP: sysctl -w net.ipv4.conf.{}.forwarding=0",
            device.replace('.', "/")
        ));
    }
    if info.merges && !port.takes_large_units() {
        warnings.push(format!(
            "port '{name}': {device} merges received segments, which cannot be sent on (rx-oversized): \
             ethtool -K {device} gro off lro off"
        ));
    }
}

/// Each worker has one queue of every port.
fn check_queues(ports: &[PortArg], workers: usize) -> Result<(), Refusal> {
    for PortArg { name, queues, driver, .. } in ports {
        if *driver == Driver::AfXdp {
            // The workers take all queues of the device (`check_device_queues`).
            continue;
        }
        if let Some(queues) = queues.filter(|n| usize::from(*n) != workers) {
            return Err(Refusal::new(format!(
                "port '{name}': queues={queues} does not fit: each worker has one queue of every port, and there are {workers} \
                 (--workers, --cores)"
            )));
        }
        if *driver == Driver::Pcap && workers > 1 {
            return Err(Refusal::new(format!("port '{name}': a capture has one queue: --workers 1")));
        }
    }
    Ok(())
}

/// All queues of a device are taken, so that nothing that arrives is missed; a number is a claim to be checked. Each worker has
/// one at least.
fn check_device_queues(port: &PortArg, info: &DeviceInfo, workers: usize) -> Result<(), Refusal> {
    let PortArg { name, device, queues, .. } = port;
    if usize::from(info.queues) < workers {
        let why = io::af_xdp::too_few_queues(device, info.queues, workers);
        return Err(Refusal::new(format!("port '{name}': {why}")));
    }
    if let Some(queues) = queues.filter(|n| *n != info.queues) {
        let has = info.queues;
        return Err(Refusal::new(format!(
            "port '{name}': queues={queues}, but {device} has {has}: leave queues= away to take all of them, or change \
             the device (ethtool -L {device} combined {queues}; virtual pairs: rx {queues} tx {queues})"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores 0 and 1 are the process's, 2 and 3 are isolated, and there are no more.
    fn bound(told: &[Option<usize>]) -> Result<Vec<Option<usize>>, String> {
        let mut cores = told.to_vec();
        let checked = check_cores(&cores, &[0, 1], |core| core < 4).and_then(|()| bind(&mut cores, &[0, 1]));
        checked.map(|()| cores).map_err(|e| e.0)
    }

    #[test]
    fn what_a_flag_says_of_one_backends_check_goes_before_what_is_said_of_all() {
        let flags = [
            "a=10.0.0.1:1",
            "b=10.0.0.2:1,check=off",
            "c=10.0.0.3:1,check=tcp",
            "d=10.0.0.4:1,check=https,check-interval=2s,check-path=/up",
        ];
        let flags = flags.map(|flag| crate::control::backend::backend(flag).unwrap());
        let backends = flags.iter().map(|flag| flag.backend.clone()).collect();
        let wanted = Wanted::single(vec![], Policy::default(), PoolSpec { backends, ..PoolSpec::default() });
        let shown = |common: Option<&str>| {
            let common = common.map(|text| crate::control::checks::check(text).unwrap());
            let wanted = checked(wanted.clone(), common.as_ref(), &flags).unwrap_or_else(|why| panic!("{}", why.0));
            let asked = wanted.asked();
            ["a", "b", "c", "d"].map(|name| crate::control::checks::shown(&asked[name].0.cloned()))
        };
        assert_eq!(
            shown(Some("tls,interval=5s,rise=1")),
            [
                "kind=tls,interval=5s,rise=1",
                "none",
                "kind=tcp,interval=5s,rise=1",
                // Two seconds are usual, and were said.
                "kind=https,path=/up,rise=1",
            ]
        );
        assert_eq!(shown(None), ["none", "none", "kind=tcp", "kind=https,path=/up"]);
        let common = crate::control::checks::check("tls,timeout=1s").unwrap();
        let flag = crate::control::backend::backend("a=10.0.0.1:1,check=tcp,check-interval=500ms").unwrap();
        let backends = vec![flag.backend.clone()];
        let wanted = Wanted::single(vec![], Policy::default(), PoolSpec { backends, ..PoolSpec::default() });
        let why = checked(wanted, Some(&common), &[flag]).unwrap_err().0;
        assert!(why.starts_with("--backend a: ") && why.contains("overtake"), "{why}");
    }

    #[test]
    fn cores_that_are_told_may_be_isolated_ones() {
        assert_eq!(bound(&[Some(2), Some(3)]), Ok(vec![Some(2), Some(3)]));
        let expected = "core 4: the process may not run there; it may on 0,1";
        assert_eq!(bound(&[Some(1), Some(4)]), Err(expected.into()));
    }

    #[test]
    fn cores_of_our_choice_are_those_the_process_runs_on() {
        assert_eq!(bound(&[None]), Ok(vec![Some(1)]));
        assert_eq!(bound(&[None, None]), Ok(vec![Some(1), Some(0)]));
        assert!(bound(&[None, None, None]).unwrap_err().contains("3 workers"));
    }
}
