//! The generator's device, and the forwarder's in a separate namespace.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use director_userspace::kernel::net::NetNs;

use super::{super::row::Wire, xdp};

/// The generator's device, in the machine's first namespace.
pub(super) const GENERATOR: &str = "gen0";
/// The forwarder's device, in its own.
pub(super) const FORWARDER: &str = "fwd0";
/// Name of the generator's device while it is not used.
const IDLE: &str = "idle0";
/// The generator's address, and thereby that of every next hop.
pub(crate) const GENERATOR_MAC: &str = "02:00:00:00:00:01";
/// The forwarder's.
pub(crate) const FORWARDER_MAC: &str = "02:00:00:00:00:02";
/// The forwarder's namespace.
const NAMESPACE: &str = "forwarder";
/// Time limit for the removal of a namespace.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A wire from the generator to a new, unconfigured namespace.
pub(super) struct Line {
    pub(super) forwarder: NetNs,
    wire: Wire,
    /// Drops the frames that come back, in the driver.
    _sink: xdp::Attached,
}

impl Line {
    /// Connects the wire.
    pub(super) fn connect(wire: Wire) -> Result<Self> {
        let forwarder = NetNs::create(NAMESPACE)?;
        match wire {
            Wire::Veth => ip(&[
                &["link", "add", GENERATOR, "address", GENERATOR_MAC, "type", "veth"],
                &["peer", "name", FORWARDER, "address", FORWARDER_MAC, "netns", NAMESPACE],
            ])?,
            Wire::VirtioNet => {
                for (mac, name) in [(GENERATOR_MAC, GENERATOR), (FORWARDER_MAC, FORWARDER)] {
                    let found = device_with(mac)?;
                    ip(&[&["link", "set", &found, "down"]])?;
                    if found != name {
                        ip(&[&["link", "set", &found, "name", name]])?;
                    }
                }
                ip(&[&["link", "set", FORWARDER, "netns", NAMESPACE]])?;
            }
        }
        // Its own IPv6 packets would mix with those of the generator.
        fs::write(format!("/proc/sys/net/ipv6/conf/{GENERATOR}/disable_ipv6"), "1")
            .context("cannot turn IPv6 off on the generator's device")?;
        let sink = xdp::attach(GENERATOR, xdp::DROP)?;
        // Frames that come back unchanged have the forwarder's address.
        ip(&[&["link", "set", GENERATOR, "promisc", "on", "up"]])?;
        Ok(Self { forwarder, wire, _sink: sink })
    }

    /// Removes the wire, and waits until the kernel has: this work must not count for any packets.
    pub(super) fn disconnect(self) -> Result<()> {
        let Self { forwarder, wire, _sink: sink } = self;
        drop(forwarder);
        NetNs::delete(NAMESPACE)?;
        let deadline = Instant::now() + TIMEOUT;
        let gone = || match wire {
            Wire::Veth => !fs::exists(format!("/sys/class/net/{GENERATOR}")).unwrap_or(false),
            Wire::VirtioNet => device_with(FORWARDER_MAC).is_ok(),
        };
        while !gone() {
            if Instant::now() > deadline {
                bail!("the forwarder's namespace still exists after {TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        drop(sink);
        if wire == Wire::VirtioNet {
            // The next wire's device needs the name.
            ip(&[&["link", "set", GENERATOR, "down"]])?;
            ip(&[&["link", "set", GENERATOR, "name", IDLE]])?;
        }
        Ok(())
    }
}

/// The device of the machine's first namespace that has this address.
fn device_with(mac: &str) -> Result<String> {
    let devices = fs::read_dir("/sys/class/net").context("cannot list the devices")?;
    let found = devices.flatten().find(|device| {
        let address = fs::read_to_string(device.path().join("address"));
        address.is_ok_and(|address| address.trim() == mac)
    });
    let found = found.with_context(|| format!("there is no device {mac}"))?;
    Ok(found.file_name().to_string_lossy().into_owned())
}

/// Runs iproute2 with the arguments of all parts.
fn ip(parts: &[&[&str]]) -> Result<()> {
    let mut command = Command::new("/host/ip");
    command.args(parts.concat());
    succeed(&mut command)
}

/// Runs a command; its stderr is in the error.
pub(super) fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, stderr.trim());
    }
    Ok(())
}
