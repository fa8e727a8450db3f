//! Resource limits of this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of file descriptors to the hard limit: each running probe uses one, and
/// thousands may run when backends hang. Systems set the soft limit low for programs that use
/// select(2); this one does not.
pub(super) fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of file descriptors cannot be raised");
    }
}
