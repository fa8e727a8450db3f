//! The configuration file: what it says comes into effect when it changes.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tracing::{error, info, warn};

use super::{Daemon, report};
use crate::{
    control::director::{Changed, DirectorError},
    policy::config::{
        self, Config, Loaded,
        model::{Frontend, Service},
    },
    serve::api::server::Server,
};

/// When the file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// As soon as it was touched. What is wrong with it may be right in a moment, and is left unsaid.
    AtOnce,
    /// When nothing has happened to it for a while.
    Settled,
    /// By the operator's wish: also what has not changed is done again.
    Asked,
}

/// Tells a file from what was there before: device, inode, length, and when it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 2], u64, [i64; 2]);

impl Stamp {
    /// Of the file that links at `path` lead to, if there is one.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self([file.dev(), file.ino()], file.len(), [file.mtime(), file.mtime_nsec()]))
    }
}

/// Why the file is not in effect. Said already, where it is to be said.
pub(super) struct NotInEffect(pub(super) String);

impl Daemon {
    /// Brings the file into effect.
    pub(super) async fn reload(&mut self, when: When) -> Result<Changed, NotInEffect> {
        let at_once = when == When::AtOnce;
        let refuse = |daemon: &mut Self, why: String| {
            if !at_once {
                error!("{} refused, what was in effect stays{why}", daemon.path.display());
                daemon.notify_director("in effect", "refused", &why);
                daemon.refused = Some(why.trim_start_matches([':', '\n', ' ']).to_owned());
                daemon.is_stale = true;
            }
            Err(NotInEffect(why))
        };
        self.read = Stamp::of(&self.path);
        let (text, Loaded { config, warnings }) = match config::load_with_text(&self.path) {
            Ok(read) => read,
            Err(errors) => return refuse(self, format!(":\n{errors}")),
        };
        if config == self.config && when != When::Asked {
            if !at_once && self.refused.take().is_some() {
                self.is_stale = true;
                info!("{} is again what is in effect", self.path.display());
            }
            // A file that was refused, written back: said when it has settled.
            return match &self.refused {
                Some(_) => Err(NotInEffect(String::new())),
                None => Ok(Changed::default()),
            };
        }
        if loses_all(&self.config, &config) {
            let why = ": it has no services any more (`director apply --force` insists, `director \
                       detach` ends forwarding)";
            return refuse(self, why.into());
        }
        // The beginning of a file may be a valid one, and what is taken away loses connections.
        let is_risky = config.interfaces != self.config.interfaces;
        if at_once && (is_risky || takes_away(&self.config, &config)) {
            return Err(NotInEffect(String::new()));
        }
        match self.put(config).await {
            Ok(changed) => {
                self.refused = None;
                for warning in &warnings {
                    warn!("{warning}");
                }
                self.warnings = warnings.iter().map(ToString::to_string).collect();
                report("configuration applied", &changed);
                self.warned.clone_from(&changed.warnings);
                self.note(text, "file");
                Ok(changed)
            }
            Err(error) => refuse(self, format!(":\n{error}")),
        }
    }

    /// Reads the file if it is another and no event told of it: links lead elsewhere, or its directory
    /// was replaced. Twice the same, so that nobody is writing it.
    pub(super) async fn look_at_file(&mut self) {
        let before = std::mem::replace(&mut self.seen, Stamp::of(&self.path));
        if self.seen.is_some() && self.seen != self.read && self.seen == before {
            drop(self.reload(When::Settled).await);
        }
    }

    /// Brings a configuration into effect. On an error, the one before stays.
    pub(super) async fn put(&mut self, config: Config) -> Result<Changed, DirectorError> {
        // Judged with what is known; what is new is probed when it is in effect.
        let effective = self.health_tracker.preview(&config, &self.marks);
        let changed = match &mut self.director {
            Some(director) => {
                let changed = director.change(&effective).await;
                director.datapath().heartbeat();
                changed?
            }
            None => Changed::default(),
        };
        self.config = config;
        self.effective = effective;
        self.lost = None;
        self.alarms.configure(&self.config.alarms);
        self.watch_health().await;
        self.listen().await;
        self.evaluate_all().await;
        Ok(changed)
    }

    /// Judges everything, and brings what follows into effect.
    pub(super) async fn evaluate_all(&mut self) {
        let all: Vec<usize> = (0..self.config.services.len()).collect();
        drop(self.evaluate(&all).await);
    }

    /// What `config` would change.
    pub(super) async fn planned(&self, config: &Config) -> Result<Changed, DirectorError> {
        match &self.director {
            Some(director) => {
                director.plan(&self.health_tracker.preview(config, &self.marks)).await
            }
            None => Ok(Changed::default()),
        }
    }

    /// Serves the API, metrics and the page where the configuration says, if they are not there.
    pub(super) async fn listen(&mut self) {
        let could = self.web.lost().len();
        self.web.listen(&self.config.api, &self.instance, &self.published).await;
        self.is_stale |= could != self.web.lost().len();
        if self.server.as_ref().is_some_and(|server| server.is_for(&self.config.api)) {
            return;
        }
        // The old socket goes first: the new one may be at the same place, for another group.
        self.server = None;
        let started = Server::start(&self.config.api, &self.instance, self.commands.clone());
        let lost = match started {
            Ok(server) => {
                self.server = Some(server);
                None
            }
            Err(error) => Some(format!("no command reaches this daemon: {error}")),
        };
        if lost != self.unheard {
            lost.iter().for_each(|why| error!("{why}"));
            self.unheard = lost;
            self.is_stale = true;
        }
    }
}

/// Whether nothing would be left.
pub(super) fn loses_all(before: &Config, after: &Config) -> bool {
    after.services.is_empty() && !before.services.is_empty()
}

/// Whether some service or backend of `before` is not in `after`.
fn takes_away(before: &Config, after: &Config) -> bool {
    let services: HashMap<Frontend, &Service> =
        after.services.iter().map(|service| (service.frontend, service)).collect();
    before.services.iter().any(|old| {
        let Some(new) = services.get(&old.frontend) else { return true };
        if old.backends.iter().map(|b| b.address).eq(new.backends.iter().map(|b| b.address)) {
            return false;
        }
        let there: HashSet<IpAddr> = new.backends.iter().map(|b| b.address).collect();
        old.backends.iter().any(|backend| !there.contains(&backend.address))
    })
}
