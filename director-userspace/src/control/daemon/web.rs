//! Metrics and the status page over HTTP, where configured.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tracing::{error, info};

use crate::{
    kernel::datapath::Instance,
    policy::config::model::Api,
    serve::{
        Names, metrics, page,
        view::{Sampler, Status, serve},
    },
};

/// Addresses of metrics and the page, and their names.
type Wanted = (Option<SocketAddr>, Option<SocketAddr>, Vec<String>);

/// The HTTP listeners. Dropping the value closes them.
#[derive(Default)]
pub(super) struct Web {
    wanted: Wanted,
    serving: Vec<(SocketAddr, JoinHandle<()>)>,
    errors: Vec<String>,
}

impl Web {
    /// Listens where `config` says, if that changed or failed before. Failures are logged, and
    /// forwarding does not depend on them; called repeatedly.
    pub(super) async fn listen(
        &mut self,
        config: &Api,
        instance: &Instance,
        status: &watch::Sender<Arc<Status>>,
    ) {
        let wanted = (config.metrics, config.page, config.names.clone());
        if self.wanted == wanted && self.errors.is_empty() {
            return;
        }
        if self.wanted != wanted {
            self.close().await;
            self.wanted = wanted;
        }
        let names: Names = self.wanted.2.clone().into();
        let wanted = (config.metrics, config.page);
        if wanted == (None, None) {
            self.errors.clear();
            return;
        }
        let sampler = Sampler::of(instance, status.subscribe());
        let mut routers = Vec::new();
        match wanted {
            (Some(metrics), Some(page)) if metrics == page => {
                let both = metrics::router(sampler.clone(), names.clone())
                    .merge(page::router(sampler, names));
                routers.push(("metrics and the status page", page, both));
            }
            (metrics, page) => {
                let metrics =
                    metrics.map(|at| (at, metrics::router(sampler.clone(), names.clone())));
                routers.extend(metrics.map(|(at, router)| ("metrics", at, router)));
                let page = page.map(|at| (at, page::router(sampler, names)));
                routers.extend(page.map(|(at, router)| ("the status page", at, router)));
            }
        }
        let before = std::mem::take(&mut self.errors);
        routers.retain(|(_, at, _)| !self.serving.iter().any(|(there, _)| there == at));
        for (what, at, router) in routers {
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    info!("{what}: http://{at}/");
                    self.serving.push((at, tokio::spawn(serve(listener, router))));
                }
                Err(error) => {
                    let why = format!("{what} cannot be served at {at}: {error}");
                    // Retried repeatedly: the same error is logged once.
                    if !before.contains(&why) {
                        error!("{why}");
                    }
                    self.errors.push(why);
                }
            }
        }
    }

    /// Errors of configured listeners that are not open.
    pub(super) fn errors(&self) -> &[String] {
        &self.errors
    }

    async fn close(&mut self) {
        for (_, task) in self.serving.drain(..) {
            task.abort();
            // The port is free once the task has ended.
            let _ = task.await;
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.iter().for_each(|(_, task)| task.abort());
    }
}
