//! Links by system calls of our own: what aya does not offer.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::DatapathError;
use crate::policy::config::model::AttachMode;

/// `BPF_OBJ_PIN`, `BPF_OBJ_GET`, `BPF_OBJ_GET_INFO_BY_FD`, `BPF_LINK_CREATE` and `BPF_LINK_DETACH` of linux/bpf.h.
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_XDP` of linux/bpf.h: how a program on an interface is attached.
const ATTACH_TYPE_XDP: u32 = 37;
/// `BPF_LINK_TYPE_XDP` of linux/bpf.h.
const LINK_TYPE_XDP: u32 = 6;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` and `BPF_OBJ_GET` read.
#[repr(C)]
struct Obj {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct ObjInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first part of `struct bpf_link_info`, of a link of XDP.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    ifindex: u32,
    _rest: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the program of the link pinned at `path` from its interface and removes the pin.
/// Removing the pin alone leaves the program there until the kernel frees the link, and attaching
/// meanwhile would find the interface taken.
///
/// # Errors
///
/// If the pin cannot be removed.
pub(super) fn detach(path: &Path) -> Result<(), DatapathError> {
    if let Ok(link) = open(path) {
        // A link whose interface is gone needs no detach; otherwise removing the pin detaches it.
        let _ = bpf(LINK_DETACH, &LinkDetach { link_fd: link.as_raw_fd() as u32 });
    }
    fs::remove_file(path).map_err(|error| DatapathError::File { path: path.to_path_buf(), error })
}

/// Opens what is pinned at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Obj { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf(OBJ_GET, &attr).map(owned)
}

/// Pins what a descriptor stands for.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = fd.as_raw_fd() as u32;
    let attr = Obj { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    bpf(OBJ_PIN, &attr).map(drop)
}

/// The index of the interface that a link is attached to, and the id of its program. `None` if it is
/// detached, its interface is gone, or it is no link of XDP.
pub(super) fn attached(link: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut info = LinkInfo::default();
    let attr = ObjInfo {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &attr).ok()?;
    (info.kind == LINK_TYPE_XDP && info.ifindex != 0).then_some((info.ifindex, info.prog_id))
}

/// Attaches a loaded program to an interface by a new link, which is pinned at `path`.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    mode: AttachMode,
    path: &Path,
) -> io::Result<()> {
    let flags = match mode {
        AttachMode::Native => DRV_MODE,
        AttachMode::Generic => SKB_MODE,
    };
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: ATTACH_TYPE_XDP,
        flags,
    };
    let link = bpf(LINK_CREATE, &attr).map(owned)?;
    pin(link.as_fd(), path)
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor; it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The system call bpf(2).
pub(super) fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, which the attribute has, and the path in one
    // outlives the call; it treats what is not given as zeros.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
