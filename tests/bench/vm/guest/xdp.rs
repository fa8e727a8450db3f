//! XDP programs of two instructions, loaded without a compiler: `r0 = ACTION; exit`.

use std::{
    ffi::c_long,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::libc;

/// Drops every frame.
pub(super) const DROP: u32 = 1;
/// Sends every frame back by the device that it came from.
pub(super) const TX: u32 = 3;

const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Native mode only.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `mov64 r0, IMMEDIATE`.
const MOV: u64 = 0xb7;
/// `exit`.
const EXIT: u64 = 0x95;

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// A program on a device, detached when dropped.
pub(super) struct Attached(#[expect(dead_code, reason = "keeps the link open")] OwnedFd);

/// Attaches a program that returns `action` for every frame to a device of the calling thread's
/// namespace, in native mode.
pub(super) fn attach(device: &str, action: u32) -> Result<Attached> {
    let index = nix::net::if_::if_nametoindex(device)
        .with_context(|| format!("there is no device {device}"))?;
    let insns = [MOV | u64::from(action) << 32, EXIT];
    let load = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: insns.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the attribute names two instructions and a string, which live until after the call.
    let program = unsafe { bpf(BPF_PROG_LOAD, &load) }.context("cannot load an XDP program")?;
    let link = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: index,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the attribute holds numbers only.
    let link = unsafe { bpf(BPF_LINK_CREATE, &link) };
    Ok(Attached(link.with_context(|| format!("cannot attach an XDP program to {device}"))?))
}

/// bpf(2), for commands that return a file descriptor.
///
/// # Safety
///
/// `attribute` must be what `command` reads, and its pointers must be valid.
unsafe fn bpf<T>(command: c_long, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the kernel reads no more than the size that it is given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}
