//! What the system lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes all the file descriptors that are to be had: a probe under way has one, and thousands may
/// be under way when backends hang. Systems set the soft limit low for programs that use select(2),
/// which this one does not.
pub(super) fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of file descriptors stays");
    }
}
