//! Paths of the workspace.

use std::path::{Path, PathBuf};

/// The workspace's root directory.
pub fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// The directory of the tools that the project builds for itself.
pub fn tools() -> PathBuf {
    crate::bpf_toolchain::tools_dir(&root())
}

/// The directory of kernels and images for virtual machines.
pub fn vm() -> PathBuf {
    root().join("target/vm")
}

/// The object that the program `name` of director-ebpf is compiled to.
pub fn bpf_object(name: &str) -> PathBuf {
    crate::bpf_toolchain::target_dir(&root())
        .join(crate::bpf_toolchain::TARGET)
        .join(crate::bpf_toolchain::PROFILE)
        .join(name)
}
