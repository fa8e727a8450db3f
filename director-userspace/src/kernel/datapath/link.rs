//! Detaches a pinned link at once.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::DatapathError;

/// `BPF_OBJ_GET` and `BPF_LINK_DETACH` of linux/bpf.h.
const OBJ_GET: libc::c_int = 7;
const LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
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
    let attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(OBJ_GET, &attr)?;
    // SAFETY: the kernel has just returned this descriptor; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call bpf(2).
pub(super) fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, which the attribute has, and the path in one
    // outlives the call; it treats what is not given as zeros.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
