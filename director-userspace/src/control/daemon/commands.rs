//! Requests to the API.

use std::{collections::HashSet, net::IpAddr};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    Daemon, boot_state,
    file::{self, When, off_the_loop},
    history::NoRollback,
};
use crate::{
    control::director::{Changed, Director, DirectorError, Waits},
    kernel::{
        datapath::{Pulse, clock_ns},
        private_file::Replacement,
        unprivileged::DEFAULT_USER,
        wall_clock,
    },
    policy::{
        config::{
            Config, Loaded,
            model::{AgentSource, Probe},
        },
        health_policy::{Drain, Override},
    },
    serve::api::{
        Command, Parsed, Refused, Reply, Request,
        types::{
            Acted, Applied, ApplyOptions, Backend, DetachRequest, Detached, DrainRequest, History,
            Planned, RollbackRequest, WeightRequest,
        },
    },
};

/// Most steps that an answer lists.
const STEPS: usize = 10_000;

impl Daemon {
    /// Carries out a request and replies. A request that its client no longer waits for is dropped:
    /// it was reported as not done. The client may disconnect meanwhile.
    pub(super) async fn command(&mut self, Request { command, by, is_root }: Request) {
        if command.is_abandoned() {
            return;
        }
        match command {
            Command::Status(reply) => answer(reply, Ok(self.status())),
            Command::Config(reply) => answer(reply, Ok(self.history.current().to_owned())),
            Command::Plan(parsed, reply) => {
                let planned = self.plan(*parsed).await;
                answer(reply, planned);
            }
            Command::Apply(parsed, options, reply) => {
                let applied = self.apply(*parsed, options, &by, is_root).await;
                answer(reply, applied);
            }
            Command::History(reply) => {
                answer(reply, Ok(History { revisions: self.history.revisions().to_vec() }));
            }
            Command::Rollback(request, reply) => {
                let applied = self.rollback(request, &by, is_root).await;
                answer(reply, applied);
            }
            Command::Drain(request, reply) => {
                let acted = self.drain(request, &by).await;
                answer(reply, acted);
            }
            Command::Undrain(request, reply) => {
                let change = |current: Override| Override { drain: None, ..current };
                let acted = self
                    .admin_override(request.service, &request.backend, "undrain", &by, change)
                    .await;
                answer(reply, acted);
            }
            Command::Weight(request, reply) => {
                let WeightRequest { service, backend, weight } = request;
                let change =
                    |current: Override| Override { weight, since: wall_clock::now(), ..current };
                let acted = self.admin_override(service, &backend, "weight", &by, change).await;
                answer(reply, acted);
            }
            Command::Reload(reply) => {
                self.forget_next_hops();
                let result = self.reload(When::Requested).await;
                let result = result.map_err(|why| Refused::Invalid(why.0));
                let result = result.map(|changed| self.applied(&changed, Vec::new(), false));
                answer(reply, result);
            }
            Command::Detach(request, reply) => {
                let detached = self.detach(&request, &by).await;
                answer(reply, detached);
            }
            Command::Attach(reply) => {
                let applied = self.attach(&by).await;
                answer(reply, applied);
            }
        }
    }

    async fn plan(&mut self, parsed: Parsed) -> Result<Planned, Refused> {
        let Loaded { config, warnings } = parsed.loaded;
        let changed = self.planned(&config).await.map_err(failed)?;
        let warnings = warnings.iter().map(ToString::to_string).chain(changed.warnings);
        Ok(Planned {
            changes: !changed.plan.is_empty() || config != self.config,
            steps: steps(&changed.plan),
            warnings: warnings.collect(),
            revision: self.history.revision(),
        })
    }

    fn applied(&self, changed: &Changed, warnings: Vec<String>, dry_run: bool) -> Applied {
        Applied {
            revision: self.history.revision(),
            steps: steps(&changed.plan),
            warnings: warnings.into_iter().chain(changed.warnings.iter().cloned()).collect(),
            dry_run,
        }
    }

    /// Applies all of it or nothing: a temporary file is written first, so that a full disk is
    /// noticed before anything has changed, and replaces the file once the maps are right.
    async fn apply(
        &mut self,
        parsed: Parsed,
        options: ApplyOptions,
        by: &str,
        is_root: bool,
    ) -> Result<Applied, Refused> {
        let Parsed { text, loaded: Loaded { config, warnings } } = parsed;
        if !is_root {
            no_new_programs(&self.config, &config)?;
            same_api(&self.config, &config)?;
        }
        let revision = self.history.revision();
        if options.if_revision.is_some_and(|expected| expected != revision) {
            return Err(Refused::Conflict(format!(
                "another configuration came into effect meanwhile: revision {revision}. Check \
                 what yours would change now (`director plan`), and apply it again"
            )));
        }
        if file::removes_all(&self.config, &config) && !options.force {
            return Err(Refused::NeedsForce(
                "this configuration has no services, but the one in effect has: --force applies it \
                 anyway"
                    .into(),
            ));
        }
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        if options.dry_run {
            let changed = self.planned(&config).await.map_err(failed)?;
            return Ok(self.applied(&changed, warnings, true));
        }
        let path = self.path.clone();
        let (text, replacement) = off_the_loop({
            let path = path.clone();
            move || {
                let replacement = Replacement::write_as_it_was(&path, text.as_bytes());
                (text, replacement)
            }
        })
        .await;
        let replacement =
            replacement.map_err(|error| Refused::Failed(format!("{}: {error}", path.display())))?;
        let changed = self.put(config).await.map_err(failed)?;
        if let Err(error) = off_the_loop(|| replacement.rename()).await {
            let message = format!(
                "in effect, but {} could not be replaced: {error}. A restart would load its old \
                 content",
                path.display()
            );
            error!("{message}");
            self.record_revision(text, by).await;
            return Err(Refused::Failed(message));
        }
        self.refused = None;
        self.file_warnings.clone_from(&warnings);
        super::report(&format!("configuration applied ({by})"), &changed);
        warnings.extend(self.record_revision(text, by).await);
        Ok(self.applied(&changed, warnings, false))
    }

    async fn rollback(
        &mut self,
        RollbackRequest { to, dry_run }: RollbackRequest,
        by: &str,
        is_root: bool,
    ) -> Result<Applied, Refused> {
        let refused = |why: NoRollback| match &why {
            NoRollback::Nothing | NoRollback::AllLost { .. } => Refused::Unknown(why.to_string()),
            NoRollback::Lost { .. } => Refused::Conflict(why.to_string()),
        };
        let to = to.map_or_else(|| self.history.previous(), Ok).map_err(refused)?;
        let text = self.history.text(to).map_err(|error| Refused::Unknown(error.to_string()))?;
        let parsed = off_the_loop(|| Parsed::new(text)).await;
        let parsed = parsed.map_err(|errors| Refused::Invalid(errors.to_string()))?;
        let options = ApplyOptions { dry_run, force: true, if_revision: None };
        self.apply(parsed, options, &format!("rollback to {to}, {by}"), is_root).await
    }

    async fn drain(
        &mut self,
        DrainRequest { service, backend, deadline_s }: DrainRequest,
        by: &str,
    ) -> Result<Acted, Refused> {
        let deadline_ns = deadline_s
            .map(|seconds| clock_ns().saturating_add(seconds.saturating_mul(1_000_000_000)));
        let since = wall_clock::now();
        let change = |current: Override| {
            // A drain that is repeated continues with the new deadline.
            let since = current.drain.as_ref().map_or(since, |drain| drain.since);
            Override { drain: Some(Drain { since, deadline_ns }), ..current }
        };
        self.admin_override(service, &backend, "drain", by, change).await
    }

    /// Changes the admin override of every backend that matches.
    async fn admin_override(
        &mut self,
        service: Option<String>,
        backend: &str,
        verb: &str,
        by: &str,
        change: impl Fn(Override) -> Override,
    ) -> Result<Acted, Refused> {
        let mut changes = Vec::new();
        let mut backends = Vec::new();
        let matching = match matching_backends(&self.config, service.as_deref(), backend) {
            Ok(matching) => matching,
            // The override of a backend that is no longer in the configuration can be removed.
            Err(unknown) => {
                let address = backend.parse::<IpAddr>().map_err(|_| unknown.clone())?;
                let named = self.config.services.iter().find(|known| {
                    service.as_deref().is_some_and(|name| known.name.as_str() == name)
                });
                let front = named.map(|service| service.frontend.to_string());
                let is_removal = change(Override::default()).is_empty();
                let stale = self.health_tracker.overrides.iter().filter(|(frontend, known, _)| {
                    is_removal
                        && *known == address
                        && (service.is_none() || front.as_deref() == Some(*frontend))
                });
                changes.extend(stale.map(|(frontend, known, current)| {
                    (frontend.to_owned(), known, change(current.clone()))
                }));
                if changes.is_empty() {
                    return Err(unknown);
                }
                Vec::new()
            }
        };
        for (at, address) in &matching {
            let service = &self.config.services[*at];
            let frontend = service.frontend.to_string();
            changes.push((
                frontend.clone(),
                *address,
                change(self.health_tracker.overrides.of(&frontend, *address)),
            ));
            let (service, address) = (service.name.to_string(), address.to_string());
            backends.push(Backend { service, frontend, address });
        }
        let changed = self.health_tracker.overrides.changed(changes);
        let stored = off_the_loop(|| changed.store()).await.map_err(|error| {
            Refused::Failed(format!(
                "the override could not be saved, so nothing was changed: {error}. Is the state \
                 directory's disk full?"
            ))
        })?;
        self.health_tracker.overrides.replace(stored);
        let of: Vec<_> =
            backends.iter().map(|b| format!("{} of {}", b.address, b.service)).collect();
        info!("{verb} {} ({by})", of.join(", "));
        let services: Vec<usize> = matching.into_iter().map(|(at, _)| at).collect();
        let steps = self.evaluate_now(&services).await;
        Ok(Acted { backends, steps })
    }

    async fn detach(&mut self, request: &DetachRequest, by: &str) -> Result<Detached, Refused> {
        let failed = |error: DirectorError| Refused::Failed(error.to_string());
        let is_all = request.interfaces.is_empty();
        if !is_all {
            return Err(Refused::Failed(
                "to detach a single interface, remove it from the configuration: else this daemon \
                 would attach to it again"
                    .into(),
            ));
        }
        boot_state::set_detached(&self.instance, true).map_err(|error| {
            Refused::Failed(format!("cannot record that it is detached: {error}"))
        })?;
        // Closes the maps and releases the lock first.
        self.heart.set(None);
        self.director = None;
        let gone = Director::detach(&self.netlink, &self.instance, &request.interfaces).await;
        let gone = gone.map_err(failed)?;
        warn!("detached from {} ({by}): packets are not forwarded any more", gone.join(", "));
        self.status_changed = true;
        Ok(Detached { interfaces: gone })
    }

    async fn attach(&mut self, by: &str) -> Result<Applied, Refused> {
        if self.director.is_some() {
            let nothing = Changed::default();
            return Ok(self.applied(&nothing, Vec::new(), false));
        }
        let (director, changed) = Director::start(
            self.netlink.clone(),
            &self.instance,
            &self.effective,
            self.host.clone(),
            Waits::ForInterfaces,
        )
        .await
        .map_err(failed)?;
        self.director = Some(director);
        match Pulse::open(&self.instance) {
            Ok(pulse) => self.heart.set(Some(pulse)),
            Err(error) => warn!("next hops are not trusted: {error}"),
        }
        if let Err(error) = boot_state::set_detached(&self.instance, false) {
            warn!("a restart would leave it detached: {error}");
        }
        super::report(&format!("attached ({by})"), &changed);
        self.watch_health().await;
        self.status_changed = true;
        Ok(self.applied(&changed, Vec::new(), false))
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, Refused>) {
    let reply: oneshot::Sender<_> = reply;
    let _ = reply.send(result);
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: DirectorError) -> Refused {
    Refused::Failed(error.to_string())
}

fn steps(plan: &crate::policy::plan::Plan) -> Vec<String> {
    plan.brief(STEPS).lines().map(ToOwned::to_owned).collect()
}

/// Access to the socket does not permit running programs on this host.
fn no_new_programs(before: &Config, after: &Config) -> Result<(), Refused> {
    let known: HashSet<Program<'_>> = programs(before).collect();
    match programs(after).find(|program| !known.contains(program)) {
        None => Ok(()),
        Some(program) => Err(Refused::Denied(format!(
            "it would run {} as {} for {}, which the configuration in effect does not: programs \
             (of checks, agents and alarms) are accepted from root only, by editing the file or \
             `director apply`",
            program.command.join(" "),
            program.user,
            program.purpose
        ))),
    }
}

/// A program that a configuration names: its arguments, user and purpose.
#[derive(PartialEq, Eq, Hash)]
struct Program<'a> {
    command: &'a [String],
    user: &'a str,
    purpose: &'static str,
}

fn programs(config: &Config) -> impl Iterator<Item = Program<'_>> {
    let of_services = config.services.iter().flat_map(|service| {
        let checks = service.health.checks.iter().filter_map(|check| match &check.probe {
            Probe::Exec(exec) => {
                Some(Program { command: &exec.command, user: &exec.user, purpose: "a check" })
            }
            _ => None,
        });
        let agent = service.health.agent.iter().filter_map(|agent| match &agent.source {
            AgentSource::Exec(exec) => {
                Some(Program { command: &exec.command, user: &exec.user, purpose: "an agent" })
            }
            _ => None,
        });
        checks.chain(agent)
    });
    let user = config.alarms.user.as_deref().unwrap_or(DEFAULT_USER);
    let of_alarms =
        config.alarms.exec.iter().map(move |command| Program { command, user, purpose: "alarms" });
    of_services.chain(of_alarms)
}

/// Access to the socket does not permit changing its path and group, or the HTTP addresses.
fn same_api(before: &Config, after: &Config) -> Result<(), Refused> {
    if before.api == after.api {
        return Ok(());
    }
    Err(Refused::Denied(
        "its `api` (socket, group, metrics, page) differs from the configuration in effect: that \
         is accepted from root only, by editing the file or `director apply`"
            .into(),
    ))
}

/// The backends that match: index of the service, and address.
fn matching_backends(
    config: &Config,
    service: Option<&str>,
    backend: &str,
) -> Result<Vec<(usize, IpAddr)>, Refused> {
    let unknown = |message: String| Err(Refused::Unknown(message));
    let Ok(address) = backend.parse::<IpAddr>() else {
        return unknown(format!("{backend:?} is not an IP address: name a backend by its address"));
    };
    let named = |at: &usize| service.is_none_or(|name| config.services[*at].name.as_str() == name);
    let services: Vec<usize> = (0..config.services.len()).filter(named).collect();
    if services.is_empty() {
        let name = service.unwrap_or_default();
        return unknown(format!("there is no service {name:?}: see `director services`"));
    }
    let has = |at: &usize| config.services[*at].backends.iter().any(|b| b.address == address);
    let of: Vec<usize> = services.into_iter().filter(has).collect();
    if of.is_empty() {
        let of = service.unwrap_or("any service");
        return unknown(format!("{address} is not a backend of {of}: see `director backends`"));
    }
    Ok(of.into_iter().map(|at| (at, address)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(health: &str) -> Config {
        let yaml = format!(
            "services: [{{name: web, address: 192.0.2.1, protocol: tcp, port: 80, forward: tunnel, \
             {health} backends: [{{address: 10.0.0.1}}]}}]"
        );
        crate::policy::config::parse("test", &yaml).expect("valid").config
    }

    #[test]
    fn programs_come_from_the_file_only() {
        let none = config("");
        let check = config("health: {type: exec, command: [/bin/true, a]},");
        let other = config("health: {type: exec, command: [/bin/true, b]},");
        let agent = config("agent: {type: exec, command: [/bin/echo]},");
        assert_eq!(no_new_programs(&none, &none), Ok(()));
        assert_eq!(no_new_programs(&check, &check), Ok(()));
        assert_eq!(no_new_programs(&check, &none), Ok(()));
        for (before, after) in [(&none, &check), (&check, &other), (&none, &agent)] {
            let refused = no_new_programs(before, after).expect_err("refused");
            assert!(refused.to_string().contains("accepted from root only"), "{refused}");
        }
        let other_user = config("health: {type: exec, command: [/bin/true, a], user: backup},");
        assert!(no_new_programs(&check, &other_user).is_err());
        let mut reused = check.clone();
        reused.alarms.exec.push(vec!["/bin/true".into(), "a".into()]);
        assert!(no_new_programs(&check, &reused).is_err());
        let mut alarm = none.clone();
        alarm.alarms.exec.push(vec!["/bin/false".into()]);
        assert!(no_new_programs(&none, &alarm).is_err());
    }

    #[test]
    fn backends_are_named_by_service_and_address() {
        let config = config("");
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        assert_eq!(matching_backends(&config, Some("web"), "10.0.0.1"), Ok(vec![(0, address)]));
        assert_eq!(matching_backends(&config, None, "10.0.0.1"), Ok(vec![(0, address)]));
        for (service, backend) in [(Some("x"), "10.0.0.1"), (None, "10.0.0.2"), (None, "web")] {
            assert!(matches!(
                matching_backends(&config, service, backend),
                Err(Refused::Unknown(_))
            ));
        }
    }
}
