//! What can go wrong between userspace and the kernel.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// A failure of the BPF side, with what an operator can do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object could not be loaded.
    #[error("cannot create the BPF maps: {}", chain(.0))]
    Load(#[from] EbpfError),
    /// The verifier or the kernel refused a program.
    #[error("the kernel refused the program {program}: {}", chain(.error))]
    Program {
        /// Its name in the object.
        program: &'static str,
        /// The kernel's error.
        error: ProgramError,
    },
    /// A map could not be opened or written.
    #[error("map {name}: {}", chain(.error))]
    Map {
        /// Its name in the object.
        name: &'static str,
        /// The kernel's error.
        error: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {name} into memory: {error}")]
    Mmap {
        /// Its name in the object.
        name: &'static str,
        /// The error of mmap(2).
        error: io::Error,
    },
    /// A link or map could not be pinned.
    #[error("cannot pin {}: {}; is {} a mounted and writable bpffs?", .path.display(), chain(.error), super::instance::BPFFS)]
    Pin {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        error: PinError,
    },
    /// A pinned link could not be opened.
    #[error("cannot open the pinned link {}: {}", .path.display(), chain(.error))]
    Link {
        /// Where.
        path: PathBuf,
        /// The kernel's error.
        error: LinkError,
    },
    /// Pins of another version.
    #[error(
        "{} was made by a director with map layout {found}, and this one has {expected}: nothing was \
         changed. `director detach` removes it (forwarding stops), then attach again",
        .path.display()
    )]
    Abi {
        /// The pin directory.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Nothing is pinned.
    #[error("director{} is not attached: `director attach` or `director run` starts it", instance_of(.0))]
    NotAttached(String),
    /// An interface could not be added as an egress port.
    #[error("cannot add {interface} as an egress port: {}", chain(.error))]
    TxPort {
        /// The interface.
        interface: String,
        /// The kernel's error.
        error: aya::maps::xdp::XdpMapError,
    },
    /// Not on this interface.
    #[error("director is not on {0}: `director status` lists its interfaces")]
    NotOn(String),
    /// Another program is attached.
    #[error(
        "{interface} already carries the XDP program {name} (id {id}), which is not this \
         director's: remove it first (`ip link set dev {interface} xdp off`), or ask its owner, \
         which `bpftool link` shows"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Its program's name.
        name: String,
        /// Its program's id.
        id: u32,
    },
    /// No native XDP.
    #[error(
        "{interface} has no native XDP ({error}): its driver cannot run the program. Set `mode: \
         generic` for this interface to run it in the kernel's stack instead, which is slower"
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// The program could not be attached.
    #[error("cannot attach to {interface}: {}", chain(.error))]
    Attach {
        /// The interface.
        interface: String,
        /// The kernel's error.
        error: ProgramError,
    },
    /// The kernel attached without a link.
    #[error(
        "the kernel has no BPF links for XDP, so forwarding would end with this process: Director \
         needs Linux 5.9 or newer"
    )]
    NoLinks,
    /// A file or directory.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another process holds the instance.
    #[error(
        "another director (pid {holder}) is using instance {instance}: stop it first, or name \
         another instance with --instance"
    )]
    Busy {
        /// The instance.
        instance: String,
        /// The holder's pid, if known.
        holder: String,
    },
    /// Another process traces the instance.
    #[error(
        "another `director trace` or `capture` (pid {holder}) already traces this instance: end \
         that one first"
    )]
    Traced {
        /// Its pid, if known.
        holder: String,
    },
    /// The attached programs cannot be traced, or the kernel refused the tracing program.
    #[error(
        "the attached programs cannot be traced (an older director may have attached them): \
         restart the daemon or run `director attach` to replace them (no packet is lost)"
    )]
    CannotTrace,
    /// Not allowed.
    #[error("{0}")]
    Privilege(String),
    /// No room in the maps.
    #[error(transparent)]
    Plan(#[from] crate::policy::plan::PlanError),
    /// Only [`super::Simulation`]: the program would see only a part of the frame.
    #[error("the frame has {length} bytes, and the kernel tests programs with at most {limit}")]
    FrameTooLong {
        /// Its length.
        length: usize,
        /// What fits.
        limit: usize,
    },
    /// Only [`super::Simulation`]: the kernel refused to run the program over a frame.
    #[error("cannot run the program over frame {number} of {length} bytes: {}", chain(.error))]
    TestRun {
        /// Which frame, from 1.
        number: u64,
        /// Its length.
        length: usize,
        /// The kernel's error.
        error: ProgramError,
    },
}

/// An error and its causes in one line, without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

fn instance_of(name: &str) -> String {
    if name == super::instance::DEFAULT { String::new() } else { format!(" instance {name}") }
}
