//! Another configuration: refused as a whole, with nothing changed, or accepted.

use std::sync::Arc;

use super::{
    CHANGE_WAIT, Changed, Director, DirectorError, Scope,
    prepare::{Accepts, Prepared},
    services::addresses_of,
};
use crate::{
    kernel::{
        datapath::{self, Attached, Attachments, DatapathError},
        host::{self, HostError, HostErrors},
    },
    policy::config::{Config, model::Service},
};

impl Director {
    /// Brings another configuration into effect, which differs within `scope`. On an error, the one
    /// before stays. What another process or the host prevents from being written afterwards is a
    /// warning, and is tried again.
    ///
    /// # Errors
    ///
    /// If this host cannot forward as it says.
    pub async fn change(
        &mut self,
        config: &Config,
        scope: Scope<'_>,
    ) -> Result<Changed, DirectorError> {
        let Some(services) = self.small_change(config, scope) else {
            return self.change_all(config).await;
        };
        let known = self.route_warnings.clone();
        let accepts = match scope {
            Scope::All => Accepts::Known(&known),
            // Health and operators change weights only.
            Scope::Services(_) => Accepts::Anything,
        };
        let prepared = match self.prepare_some(config, &services, accepts).await {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return self.change_all(config).await,
            Err(error) => return Err(error),
        };
        // Lack of memory is a refusal, and nothing is wanted then.
        if let Some(capacity) = prepared.growth(&self.datapath) {
            self.grow(capacity, &prepared)?;
        }
        self.want(config, &services);
        Arc::make_mut(&mut self.wanted).flows.clone_from(&config.flows);
        self.datapath.set_timeouts(config);
        let result = self.apply_some(prepared, &services).await;
        Ok(self.accepted(result, |doubtful| doubtful.services(services)))
    }

    /// Some services of the configuration in effect differ from now on: the next steps bring them
    /// right.
    pub fn want(&mut self, config: &Config, services: &[usize]) {
        let wanted = Arc::make_mut(&mut self.wanted);
        for at in services {
            wanted.services[*at].clone_from(&config.services[*at]);
        }
        self.doubtful.services(services.iter().copied());
    }

    /// What was accepted stays wanted; if it could not be written, that is tried again.
    fn accepted(
        &mut self,
        result: Result<Changed, DirectorError>,
        doubt: impl FnOnce(&mut super::Doubtful),
    ) -> Changed {
        match result {
            Ok(changed) => changed,
            Err(error) => {
                doubt(&mut self.doubtful);
                self.doubtful.whole_failed(&error);
                let warnings = vec![format!("not all of it is in effect; tried again: {error}")];
                Changed { warnings, ..Changed::default() }
            }
        }
    }

    /// The services that `config` changes, if everything else of it is in effect.
    fn small_change(&self, config: &Config, scope: Scope<'_>) -> Option<Vec<usize>> {
        let before = &self.wanted;
        let is_same = (&config.interfaces, &config.tunnel) == (&before.interfaces, &before.tunnel)
            && (config.hash_key, config.flows.size) == (before.hash_key, before.flows.size)
            && config.flows.clients == before.flows.clients
            && config.services.len() == before.services.len();
        if !is_same {
            return None;
        }
        match scope {
            Scope::Services(services) => Some(services.to_vec()),
            // What is doubtful may be what this configuration changes.
            Scope::All if self.doubtful.is_everything() => None,
            Scope::All => {
                let mut changed = Vec::new();
                let pairs = config.services.iter().zip(&before.services);
                for (at, (service, before)) in pairs.enumerate() {
                    if service.frontend != before.frontend {
                        return None;
                    }
                    if service != before {
                        changed.push(at);
                    }
                }
                Some(changed)
            }
        }
    }

    async fn change_all(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        let (found, missing) = self.find_interfaces(config).await?;
        let prepared = self.prepare_all(config, &found).await?;
        let rekeyed = self.replace_programs(config, &found, &prepared)?;
        self.interfaces.found(found, prepared.attachments.clone(), &missing);
        self.wanted = Arc::new(config.clone());
        self.doubtful.maps_are_right();
        self.datapath.set_timeouts(config);
        let result = self.apply_all(prepared).await;
        let mut changed = self.accepted(result, super::Doubtful::everything);
        if rekeyed == Rekeyed::Yes {
            changed.warnings.push(
                "hash_key changed: known flows are no longer recognised, and most go to another \
                 backend, which resets their connections"
                    .into(),
            );
        }
        self.assign_vips().await;
        changed.warnings.extend(self.host_warnings.iter().cloned());
        changed.warnings.extend(self.interfaces.warnings());
        Ok(changed)
    }

    /// The interfaces of `config` that are there. One that is missing already may stay missing.
    async fn find_interfaces(
        &self,
        config: &Config,
    ) -> Result<(Vec<Attached>, Vec<HostError>), DirectorError> {
        if config.interfaces.is_empty() {
            return Err(HostErrors(vec![HostError::NoInterfaces]).into());
        }
        let links = self.netlink.links().await?;
        let (found, missing) = host::present_interfaces(&self.netlink, &links, config);
        let (known, new): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|error| self.interfaces.is_missing(error));
        if new.is_empty() { Ok((found, known)) } else { Err(HostErrors(new).into()) }
    }

    async fn prepare_all(
        &mut self,
        config: &Config,
        interfaces: &[Attached],
    ) -> Result<Prepared, DirectorError> {
        let attachments = Attachments::assign(&self.datapath.tables, interfaces)?;
        let observed = datapath::observe(&self.datapath.tables);
        let addresses = addresses_of(&config.services, &observed);
        self.resolve(addresses, CHANGE_WAIT).await;
        let all: Vec<&Service> = config.services.iter().collect();
        let accepts = Accepts::Known(&self.route_warnings);
        Prepared::of(
            &self.netlink,
            observed,
            config,
            &all,
            interfaces,
            attachments,
            &self.hops,
            accepts,
        )
        .await
    }

    /// Attaches programs where `config` needs others than there are. Nothing else can be refused
    /// from here on; on an error, everything is as it was.
    fn replace_programs(
        &mut self,
        config: &Config,
        found: &[Attached],
        prepared: &Prepared,
    ) -> Result<Rekeyed, DirectorError> {
        let clients_before = self.datapath.clients();
        let key_before = self.datapath.set_hash_key(config);
        let rekeyed = if key_before.is_some() { Rekeyed::Yes } else { Rekeyed::No };
        match self.attach_all(config, found, prepared) {
            Ok(()) => Ok(rekeyed),
            Err(error) => {
                self.datapath.restore_hash_key(key_before);
                // A map of the refused configuration's size goes, and the one before is pinned.
                let restored = self.datapath.set_clients(clients_before);
                if let Err(error) = restored.and_then(|()| self.pins.restore().map(drop)) {
                    tracing::error!("after a refused change: {error}");
                }
                self.attachments().prune(&mut self.datapath.tables);
                // Programs that were replaced already are replaced by what they were.
                let present = self.interfaces.present.clone();
                let present: Vec<&Attached> = present.iter().collect();
                let attachments = self.attachments();
                let again = self.datapath.attach_some(&present, &attachments, &|_| true);
                let failed = again.unwrap_or_default();
                self.interfaces.record(&self.datapath, &present, &attachments, failed);
                Err(error.into())
            }
        }
    }

    fn attach_all(
        &mut self,
        config: &Config,
        found: &[Attached],
        prepared: &Prepared,
    ) -> Result<(), DatapathError> {
        let clients_before = self.datapath.clients();
        self.datapath.set_clients(config.flows.clients)?;
        let attachments = &prepared.attachments;
        attachments.write(&mut self.datapath.tables, found)?;
        let interfaces = &self.interfaces;
        let may_fail = |interface: &Attached| interfaces.is_failing(interface);
        let (tried, errors) = match prepared.growth(&self.datapath) {
            Some(capacity) => {
                let errors = self.datapath.grow(capacity, found, attachments, &may_fail)?;
                (found.iter().collect(), errors)
            }
            None => {
                let differing = interfaces.differing(&self.datapath, found, attachments);
                let errors = self.datapath.attach_some(&differing, attachments, &may_fail)?;
                self.datapath.detach_others(found)?;
                (differing, errors)
            }
        };
        self.interfaces.record(&self.datapath, &tried, attachments, errors);
        if clients_before != self.datapath.clients() {
            self.pins.forget(&self.datapath.clients_pin());
        }
        self.pins.hold_new(&self.datapath.instance)?;
        Ok(())
    }

    /// What [`Director::change`] would do; changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Director::change`].
    pub async fn plan(&mut self, config: &Config) -> Result<Changed, DirectorError> {
        let (found, _) = self.find_interfaces(config).await?;
        Ok(self.prepare_all(config, &found).await?.changed)
    }
}

/// Whether the hash key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rekeyed {
    Yes,
    No,
}
