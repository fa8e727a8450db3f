//! Fuzz targets: whatever the input, each returns, within bounds of time and memory, and keeps the
//! promise that it checks.
//!
//! `tests/tests/fuzz_corpus.rs` runs them over the corpus and mutations of it, everywhere;
//! `tests/fuzz/main.rs` under libFuzzer, guided by coverage (`cargo xtask fuzz`). The corpus is
//! `tests/fuzz/corpus/TARGET`; a crash becomes a named file there.

mod health;
mod http;
mod mutate;
mod net;
mod packet;
mod state;
mod stream;
mod text;

use std::path::PathBuf;

pub use self::mutate::mutate;
use crate::tree;

/// What a target made of an input, as a small number: a guided run counts each as coverage.
pub type Outcome = usize;

/// A function over inputs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Directories below the project's with further inputs, apart from its corpus.
    pub seeds: &'static [&'static str],
    /// Runs it over an input. Panics if a promise is broken.
    pub run: fn(&[u8]) -> Outcome,
}

/// All targets.
pub const TARGETS: [Target; 14] = [
    target("agent", &[], health::agent),
    target("api", &[], http::api),
    target("capture", &[], net::capture),
    target("config", &[], text::config),
    target("dns", &[], health::dns),
    target("grpc", &[], health::grpc),
    target("http", &[], health::http),
    target("icmp", &[], health::icmp),
    target("ipvsadm", &["tests/tests/import/ipvsadm"], text::ipvsadm),
    target("keepalived", &["tests/tests/import/keepalived"], text::keepalived),
    target("netlink", &[], net::netlink),
    target("packet", &[], packet::packet),
    target("page", &[], http::page),
    target("state", &[], state::state),
];

const fn target(
    name: &'static str,
    seeds: &'static [&'static str],
    run: fn(&[u8]) -> Outcome,
) -> Target {
    Target { name, seeds, run }
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Directories of inputs, its corpus first.
    pub fn directories(&self) -> Vec<PathBuf> {
        let corpus = format!("tests/fuzz/corpus/{}", self.name);
        let all = [corpus.as_str()].into_iter().chain(self.seeds.iter().copied());
        all.map(|directory| tree::root().join(directory)).collect()
    }
}
