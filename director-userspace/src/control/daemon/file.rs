//! The configuration file: its changes come into effect.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tracing::{error, info, warn};

use super::{Daemon, boot_state, report};
use crate::{
    control::director::{Changed, DirectorError, Scope},
    kernel::{datapath::Instance, private_file, wall_clock},
    policy::config::{
        self, Config, ConfigErrors, Loaded,
        model::{Frontend, Service},
    },
    serve::api::{server::Server, types::History},
};

/// When the file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// As soon as it was written. It may be incomplete: errors are not reported.
    AtOnce,
    /// When it has not changed for a while.
    Settled,
    /// When an operator requests it: an unchanged file is applied again, too.
    Requested,
}

/// Identifies a file's version: device, inode, length, and modification time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 2], u64, [i64; 2]);

impl Stamp {
    /// The stamp of the file that `path` resolves to, if there is one.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self([file.dev(), file.ino()], file.len(), [file.mtime(), file.mtime_nsec()]))
    }
}

/// Does what takes its time, such as reading, parsing and writing files, on a thread for that.
///
/// # Panics
/// If it panics.
pub(super) async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Removes what killed processes were writing, and makes the state of former versions private.
pub(super) fn sweep(path: &Path, state: &Path, instance: &Instance) {
    private_file::sweep(path);
    if let Err(error) = private_file::tidy(state) {
        warn!("{}: other users may be able to read it: {error}", state.display());
    }
    boot_state::sweep(instance);
}

/// Reads and checks the file.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) async fn load(path: &Path) -> Result<(String, Loaded), ConfigErrors> {
    let path = path.to_path_buf();
    off_the_loop(move || config::load_with_text(&path)).await
}

/// Why the file is not in effect. Reported already, if it must be.
pub(super) struct NotInEffect(pub(super) String);

impl Daemon {
    /// Brings the file into effect.
    pub(super) async fn reload(&mut self, when: When) -> Result<Changed, NotInEffect> {
        let at_once = when == When::AtOnce;
        let refuse = |daemon: &mut Self, why: String| {
            if !at_once {
                error!("{} refused, the configuration in effect stays{why}", daemon.path.display());
                daemon.notify_director("in effect", "refused", &why);
                daemon.refused = Some(why.trim_start_matches([':', '\n', ' ']).to_owned());
                daemon.status_changed = true;
            }
            Err(NotInEffect(why))
        };
        self.file_read = Stamp::of(&self.path);
        let (text, Loaded { config, warnings }) = match load(&self.path).await {
            Ok(read) => read,
            Err(errors) => return refuse(self, format!(":\n{errors}")),
        };
        if config == self.config && when != When::Requested {
            if !at_once && self.refused.take().is_some() {
                self.status_changed = true;
                info!("{} equals the configuration in effect again", self.path.display());
            }
            // A refused file that was written back: reported when it has settled.
            return match &self.refused {
                Some(_) => Err(NotInEffect(String::new())),
                None => Ok(Changed::default()),
            };
        }
        if removes_all(&self.config, &config) {
            let why = ": it has no services any more (`director apply --force` applies it, \
                       `director detach` ends forwarding)";
            return refuse(self, why.into());
        }
        // The beginning of a file may be valid by itself, and removals lose connections.
        let is_risky = config.interfaces != self.config.interfaces;
        if at_once && (is_risky || removes_any(&self.config, &config)) {
            return Err(NotInEffect(String::new()));
        }
        match self.put(config).await {
            Ok(changed) => {
                self.refused = None;
                for warning in &warnings {
                    warn!("{warning}");
                }
                self.file_warnings = warnings.iter().map(ToString::to_string).collect();
                report("configuration applied", &changed);
                self.logged.extend(changed.warnings.iter().cloned());
                self.record_revision(text, "file").await;
                Ok(changed)
            }
            Err(error) => refuse(self, format!(":\n{error}")),
        }
    }

    /// Reads the file if it changed without an event: a link was redirected, or its directory was
    /// replaced. Two equal stamps in a row show that it is not being written.
    pub(super) async fn check_file(&mut self) {
        let before = std::mem::replace(&mut self.file_seen, Stamp::of(&self.path));
        if self.file_seen.is_some() && self.file_seen != self.file_read && self.file_seen == before
        {
            drop(self.reload(When::Settled).await);
        }
    }

    /// Brings a configuration into effect. On an error, the one before stays.
    pub(super) async fn put(&mut self, config: Config) -> Result<Changed, DirectorError> {
        // Evaluated with the health that is known; new targets are probed once it is in effect.
        let effective = self.health_tracker.preview(&config, &self.marks);
        let changed = match &mut self.director {
            Some(director) => director.change(&effective, Scope::All).await?,
            None => Changed::default(),
        };
        self.config = config;
        self.effective = effective;
        self.alarms.configure(&self.config.alarms);
        self.watch_health().await;
        self.listen().await;
        self.evaluate_all().await;
        Ok(changed)
    }

    /// Keeps the text of the configuration in effect. Returns why it cannot be rolled back to, if it
    /// could not be kept.
    pub(super) async fn record_revision(&mut self, text: String, by: &str) -> Option<String> {
        let services = self.config.services.len();
        let backends = self.config.services.iter().map(|service| service.backends.len()).sum();
        let by = by.to_owned();
        let mut history = std::mem::take(&mut self.history);
        let (history, kept) = off_the_loop(move || {
            let kept = history.add(text, services, backends, &by, wall_clock::now());
            (history, kept)
        })
        .await;
        self.history = history;
        let revisions = self.history.revisions().to_vec();
        self.answers.set_configuration(self.history.current(), History { revisions });
        self.status_changed = true;
        let error = kept.err()?;
        let why = format!(
            "revision {} could not be kept, so that it cannot be rolled back to: {}: {error}",
            self.history.revision(),
            self.history.directory().display()
        );
        warn!("{why}");
        Some(why)
    }

    /// Evaluates all services, and brings the result into effect.
    pub(super) async fn evaluate_all(&mut self) {
        let all: Vec<usize> = (0..self.config.services.len()).collect();
        self.health_tracker.catch_up();
        self.evaluate_now(&all).await;
    }

    /// What `config` would change.
    pub(super) async fn planned(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        match &mut self.director {
            Some(director) => {
                director.plan(&self.health_tracker.preview(config, &self.marks)).await
            }
            None => Ok(Changed::default()),
        }
    }

    /// Serves the API, metrics and the page as configured, if they are not served yet.
    pub(super) async fn listen(&mut self) {
        let errors_before = self.web.errors().len();
        self.web.listen(&self.config.api, &self.instance, &self.published).await;
        self.status_changed |= errors_before != self.web.errors().len();
        if self.server.as_ref().is_some_and(|server| server.is_for(&self.config.api)) {
            return;
        }
        // The old socket is removed first: the new one may have the same path, for another group.
        self.server = None;
        let started = Server::start(
            &self.config.api,
            &self.instance,
            self.commands.clone(),
            self.answers.clone(),
        );
        let error = match started {
            Ok(server) => {
                self.server = Some(server);
                None
            }
            Err(error) => Some(format!("the API cannot be served: {error}")),
        };
        if error != self.server_error {
            error.iter().for_each(|why| error!("{why}"));
            self.server_error = error;
            self.status_changed = true;
        }
    }
}

/// Whether no service would be left.
pub(super) fn removes_all(before: &Config, after: &Config) -> bool {
    after.services.is_empty() && !before.services.is_empty()
}

/// Whether some service or backend of `before` is not in `after`.
fn removes_any(before: &Config, after: &Config) -> bool {
    let services: HashMap<Frontend, &Service> =
        after.services.iter().map(|service| (service.frontend, service)).collect();
    before.services.iter().any(|old| {
        let Some(new) = services.get(&old.frontend) else { return true };
        if old.backends.iter().map(|b| b.address).eq(new.backends.iter().map(|b| b.address)) {
            return false;
        }
        let kept: HashSet<IpAddr> = new.backends.iter().map(|b| b.address).collect();
        old.backends.iter().any(|backend| !kept.contains(&backend.address))
    })
}
