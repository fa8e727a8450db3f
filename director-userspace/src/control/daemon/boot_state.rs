//! State in /run that a daemon leaves for the next one of the same boot: which backends are down,
//! and whether it was detached.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use director_common::backend::BackendState;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    kernel::{
        datapath::{self, Datapath, Instance},
        private_file, wall_clock,
    },
    policy::{
        config::{
            Config,
            model::{Frontend, Service},
        },
        plan::key_of,
    },
};

#[derive(Serialize, Deserialize)]
struct Down {
    /// `tcp 192.0.2.10:443`
    service: String,
    backend: IpAddr,
}

fn down_path(instance: &Instance) -> PathBuf {
    instance.run_dir().join("down.json")
}

/// Writes a file beside the API's socket, which a group may reach.
fn leave(instance: &Instance, path: &Path, content: &[u8]) -> std::io::Result<()> {
    private_file::create_passable_directory(&instance.run_dir())?;
    private_file::replace(path, content)
}

fn detached_path(instance: &Instance) -> PathBuf {
    instance.run_dir().join("detached")
}

/// Backends of `config` that were down when the last daemon ended, and since when: by the maps if
/// their flows were rescheduled, by the file if they were kept.
pub(super) fn read(instance: &Instance, config: &Config) -> HashMap<(Frontend, IpAddr), u64> {
    let mut down = HashMap::new();
    let since = wall_clock::now();
    let text = fs::read(down_path(instance)).unwrap_or_default();
    down.extend(recorded(&text, config).into_iter().map(|backend| (backend, since)));
    if let Ok(opened) = Datapath::open(instance) {
        let observed = datapath::observe(&opened.tables);
        let by_key: HashMap<_, Frontend> =
            config.services.iter().map(|s| (key_of(&s.frontend), s.frontend)).collect();
        for backend in observed.backends.values().filter(|b| b.state == BackendState::Down) {
            let service = observed.services.get(&backend.service);
            if let Some(frontend) = service.and_then(|service| by_key.get(&service.key)) {
                down.insert((*frontend, backend.address), since);
            }
        }
    }
    // A backend that was drained until its deadline is down in the maps, too: only backends with
    // checks count.
    let checked: HashMap<Frontend, bool> =
        config.services.iter().map(|s| (s.frontend, !s.health.checks.is_empty())).collect();
    down.retain(|(frontend, _), _| checked.get(frontend).copied().unwrap_or(false));
    down
}

/// The backends of `config` that a file of this text has.
pub(super) fn recorded(text: &[u8], config: &Config) -> Vec<(Frontend, IpAddr)> {
    let recorded: Vec<Down> = serde_json::from_slice(text).unwrap_or_default();
    if recorded.is_empty() {
        return Vec::new();
    }
    let fronts: HashMap<String, Frontend> =
        config.services.iter().map(|s| (s.frontend.to_string(), s.frontend)).collect();
    let known = recorded.into_iter().filter_map(|Down { service, backend }| {
        fronts.get(&service).map(|frontend| (*frontend, backend))
    });
    known.collect()
}

/// Writes which backends are down.
pub(super) fn write<'a>(instance: &Instance, down: impl Iterator<Item = (&'a Service, IpAddr)>) {
    let down: Vec<Down> = down
        .map(|(service, backend)| Down { service: service.frontend.to_string(), backend })
        .collect();
    let written = serde_json::to_vec(&down)
        .map_err(std::io::Error::from)
        .and_then(|text| leave(instance, &down_path(instance), &text));
    if let Err(error) = written {
        // The maps still hold most of it.
        warn!("{}: {error}", down_path(instance).display());
    }
}

/// Removes what killed processes were writing.
pub(super) fn sweep(instance: &Instance) {
    let revision = instance.run_dir().join(super::history::LAST);
    for path in [down_path(instance), detached_path(instance), revision] {
        private_file::sweep(&path);
    }
}

/// Whether it was detached and stays so.
pub(super) fn is_detached(instance: &Instance) -> bool {
    detached_path(instance).exists()
}

/// Records that it is detached, or no longer.
///
/// # Errors
///
/// If that cannot be recorded.
pub(super) fn set_detached(instance: &Instance, detached: bool) -> std::io::Result<()> {
    let path = detached_path(instance);
    if detached {
        return leave(instance, &path, b"");
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
