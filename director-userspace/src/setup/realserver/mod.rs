//! Sets a backend host up for a director's packets, and reverts that.
//!
//! The VIPs go on the loopback interface, ARP is configured not to answer for them, and an XDP
//! program decapsulates the tunnels that come from the directors. In reading order:
//!
//! - `settings`: the desired state
//! - `observe`: the current state
//! - `plan`: the difference as [`Step`]s; pure
//! - `state`: what was changed, on disk, so that it can be reverted exactly
//! - `program`: the XDP program
//!
//! Everything happens in the network namespace of the [`Netlink`] it is given; the state file and
//! the BPF pins are in the caller's mount namespace, distinguished by the instance's name.

mod error;
mod observe;
mod plan;
mod program;
mod settings;
mod state;
mod step;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Serialize;

pub use self::{
    error::{RealServerError, Refusal},
    program::{Counts, PASS, counts, load, load_pass},
    settings::{Forward, Mode, NoPrefix, Prefix, Settings},
    step::{Decap, Step},
};
use self::{
    observe::{in_namespace, observe},
    program::Pins,
    state::{State, StateFile},
    step::LOOPBACK,
};
use crate::kernel::net::{NetError, Netlink};

/// How long the kernel may take to release a program that was detached.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// The backend role of the host, or network namespace, that a [`Netlink`] belongs to.
#[derive(Debug)]
pub struct RealServer {
    netlink: Netlink,
    pins: Pins,
    state_file: StateFile,
}

/// Removes the pins and the state file of an instance and changes nothing else: for a network
/// namespace that is gone or about to be removed.
///
/// # Errors
/// [`RealServerError::Bpf`] or [`RealServerError::StateFile`] if they can't be removed.
pub fn forget(instance: Option<&str>) -> Result<(), RealServerError> {
    let (pins, state_file) = places(instance)?;
    forget_at(&pins, &state_file)
}

fn forget_at(pins: &Pins, state_file: &StateFile) -> Result<(), RealServerError> {
    pins.remove()?;
    state_file.save(&State::new(""))
}

/// Whether this process needs the privileges to apply the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privileges {
    Needed,
    Assumed,
}

/// The pins and the state file of an instance.
fn places(instance: Option<&str>) -> Result<(Pins, StateFile), RealServerError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let name = match instance {
        None => "realserver".to_owned(),
        Some(name) if (1..=63).contains(&name.len()) && name.bytes().all(allowed) => {
            format!("realserver-{name}")
        }
        Some(name) => return Err(RealServerError::BadInstance { name: name.to_owned() }),
    };
    let pins = Pins::new(PathBuf::from(format!("/sys/fs/bpf/director-{name}")));
    Ok((pins, StateFile::new(PathBuf::from(format!("/run/director/{name}.json")))?))
}

/// The current state of a real server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether anything is set up here.
    pub up: bool,
    /// The VIPs that were added to the loopback interface.
    pub vips: Vec<VipStatus>,
    /// The kernel settings that were changed.
    pub sysctls: Vec<SysctlStatus>,
    /// The decapsulation program, if tunnels are accepted.
    pub decapsulation: Option<DecapStatus>,
}

/// A VIP that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VipStatus {
    /// The VIP.
    pub address: IpAddr,
    /// Whether it is still there.
    pub present: bool,
}

/// A kernel setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SysctlStatus {
    /// Below /proc/sys.
    pub key: String,
    /// The value it was given.
    pub set: String,
    /// The value it has now; none if it is gone, with its interface.
    pub current: Option<String>,
    /// The value that will be restored.
    pub original: String,
}

/// The decapsulation program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecapStatus {
    /// Its interface, the allowed sources, and the VIPs.
    #[serde(flatten)]
    pub settings: Decap,
    /// Whether it is still on its interface.
    pub attached: bool,
    /// Packets by outcome, since it was first attached.
    pub packets: Counts,
}

impl RealServer {
    /// The real server of one instance: `None` for the host's only one.
    ///
    /// # Errors
    /// [`RealServerError::BadInstance`]; [`RealServerError::StateFile`] if /proc is not mounted.
    pub fn new(netlink: Netlink, instance: Option<&str>) -> Result<Self, RealServerError> {
        let (pins, state_file) = places(instance)?;
        Ok(Self { netlink, pins, state_file })
    }

    /// The steps that bring this host to the settings: none if it is there already. Whether this
    /// process may take them is not checked.
    ///
    /// # Errors
    /// [`RealServerError::Refused`] with all obstacles, or why the host could not be read.
    pub async fn plan_up(&self, settings: &Settings) -> Result<Vec<Step>, RealServerError> {
        self.plan(Some(settings), Privileges::Assumed).await
    }

    /// The steps that revert all changes. Whether this process may take them is not checked.
    ///
    /// # Errors
    /// As [`RealServer::plan_up`].
    pub async fn plan_down(&self) -> Result<Vec<Step>, RealServerError> {
        self.plan(None, Privileges::Assumed).await
    }

    /// Applies a plan. If a step fails, it and the steps before it are undone. After a crash, a new
    /// plan continues where this one stopped.
    ///
    /// # Errors
    /// [`RealServerError::Step`], or [`RealServerError::StateFile`] if nothing could be begun.
    pub async fn apply(&self, steps: &[Step]) -> Result<(), RealServerError> {
        let mut state = self.state_file.load()?;
        for (done, step) in steps.iter().enumerate() {
            if let Err(source) = self.carry_out(step, &mut state).await {
                let left = self.undo(step, &steps[..done], &mut state).await;
                let (step, source) = (step.to_string(), Box::new(source));
                return Err(RealServerError::Step { step, source, left });
            }
        }
        Ok(())
    }

    /// Plans and applies the settings. Returns the steps taken.
    ///
    /// # Errors
    /// As [`RealServer::plan_up`] and [`RealServer::apply`].
    pub async fn up(&self, settings: &Settings) -> Result<Vec<Step>, RealServerError> {
        let steps = self.plan(Some(settings), Privileges::Needed).await?;
        self.apply(&steps).await?;
        Ok(steps)
    }

    /// Plans and reverts all changes. Returns the steps taken.
    ///
    /// # Errors
    /// As [`RealServer::plan_down`] and [`RealServer::apply`].
    pub async fn down(&self) -> Result<Vec<Step>, RealServerError> {
        let steps = self.plan(None, Privileges::Needed).await?;
        self.apply(&steps).await?;
        // What is left on record is settings that another program has changed since: they stay.
        forget_at(&self.pins, &self.state_file)?;
        Ok(steps)
    }

    /// The current state of this real server.
    ///
    /// # Errors
    /// Why the host could not be read.
    pub async fn status(&self) -> Result<Status, RealServerError> {
        let state = self.state_file.load()?;
        let our_program = self.pins.program_id()?;
        let observed = observe(&self.netlink, our_program, None, &state).await?;
        let packets = self.pins.counts()?.unwrap_or_default();
        Ok(Status {
            up: !state.is_empty(),
            vips: state
                .addresses
                .iter()
                .map(|&address| VipStatus {
                    address,
                    present: plan::on_loopback(address, &observed),
                })
                .collect(),
            sysctls: state
                .sysctls
                .into_iter()
                .map(|changed| SysctlStatus {
                    current: observed.sysctls.get(&changed.key).cloned(),
                    key: changed.key,
                    set: changed.ours,
                    original: changed.original,
                })
                .collect(),
            decapsulation: state.decap.map(|settings| DecapStatus {
                attached: plan::is_attached(&settings, &observed),
                settings,
                packets,
            }),
        })
    }

    async fn plan(
        &self,
        settings: Option<&Settings>,
        privileges: Privileges,
    ) -> Result<Vec<Step>, RealServerError> {
        let state = self.state_file.load()?;
        let program = self.pins.program_id()?;
        let mut observed = observe(&self.netlink, program, settings, &state).await?;
        if privileges == Privileges::Assumed {
            observed.capabilities = u64::MAX;
        }
        let steps = match settings {
            Some(settings) => plan::plan_up(settings, &observed, &state),
            None => plan::plan_down(&observed, &state),
        };
        steps.map_err(RealServerError::Refused)
    }

    /// One step, on record before it is begun.
    async fn carry_out(&self, step: &Step, state: &mut State) -> Result<(), RealServerError> {
        state.before(step);
        self.state_file.save(state)?;
        self.execute(step).await?;
        state.after(step);
        self.state_file.save(state)
    }

    /// Undoes steps, the last first. Returns those that could not be undone, and why.
    async fn undo(&self, failed: &Step, done: &[Step], state: &mut State) -> Vec<String> {
        let mut left = Vec::new();
        // The failed step may be half done. If it did nothing, this may fail too.
        let inverse = failed.inverse();
        if self.carry_out(&inverse, state).await.is_err() {
            state.after(&inverse);
        }
        for step in done.iter().rev() {
            let inverse = step.inverse();
            if let Err(error) = self.carry_out(&inverse, state).await {
                left.push(format!("{inverse}: {error}"));
            }
        }
        left
    }

    async fn execute(&self, step: &Step) -> Result<(), RealServerError> {
        match step {
            Step::SetSysctl { key, to, .. } => Ok(self.netlink.set_sysctl(key, to)?),
            Step::AddAddress { vip } => {
                let lo = self.netlink.link_by_name(LOOPBACK).await?.index;
                self.netlink.add_address(lo, *vip, Prefix::from(*vip).len).await?;
                Ok(())
            }
            Step::RemoveAddress { vip } => {
                let lo = self.netlink.link_by_name(LOOPBACK).await?.index;
                self.netlink.remove_address(lo, *vip, Prefix::from(*vip).len).await?;
                Ok(())
            }
            Step::AttachDecap(Decap { interface, mode, from, vips }) => {
                let index = self.netlink.link_by_name(interface).await?.index;
                in_namespace(&self.netlink, || self.pins.attach(index, *mode, from, vips))
            }
            Step::ReplaceDecap { to, .. } => self.pins.replace(&to.from, &to.vips),
            Step::DetachDecap(decap) => self.detach(&decap.interface).await,
        }
    }

    /// Detaches, and waits until the interface is free: the next step may attach to it.
    async fn detach(&self, interface: &str) -> Result<(), RealServerError> {
        let ours = self.pins.program_id()?;
        self.pins.remove()?;
        let deadline = tokio::time::Instant::now() + DETACH_TIMEOUT;
        loop {
            let xdp = match self.netlink.link_by_name(interface).await {
                Ok(link) => link.xdp.map(|xdp| xdp.prog_id),
                Err(NetError::NoSuchInterface { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            if xdp.is_none() || xdp != ours {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(RealServerError::Bpf {
                    doing: format!("detach the XDP program from {interface}"),
                    reason: "its pin is removed, but something else holds its link \
                             (`bpftool link` shows it)"
                        .into(),
                });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
