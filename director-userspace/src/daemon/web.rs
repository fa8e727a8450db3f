//! Metrics and the status page over HTTP, where the configuration wants them.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tracing::{error, info};

use crate::{
    config::model::Api,
    datapath::Instance,
    metrics, page,
    view::{Conditions, Sampler, serve},
};

/// What listens. Ends with the value.
#[derive(Default)]
pub(super) struct Web {
    wanted: (Option<SocketAddr>, Option<SocketAddr>),
    serving: Vec<JoinHandle<()>>,
}

impl Web {
    /// Listens where `config` says, if that is elsewhere than before. What cannot be had is said, and
    /// forwarding does not need it.
    pub(super) async fn listen(
        &mut self,
        config: &Api,
        instance: &Instance,
        conditions: &watch::Sender<Arc<Conditions>>,
    ) {
        let wanted = (config.metrics, config.page);
        if self.wanted == wanted {
            return;
        }
        self.close().await;
        self.wanted = wanted;
        if wanted == (None, None) {
            return;
        }
        let sampler = Sampler::of(instance, conditions.subscribe());
        let mut routers = Vec::new();
        match wanted {
            (Some(metrics), Some(page)) if metrics == page => {
                let both = metrics::router(sampler.clone()).merge(page::router(sampler));
                routers.push(("metrics and the status page", page, both));
            }
            (metrics, page) => {
                let metrics = metrics.map(|at| (at, metrics::router(sampler.clone())));
                routers.extend(metrics.map(|(at, router)| ("metrics", at, router)));
                let page = page.map(|at| (at, page::router(sampler)));
                routers.extend(page.map(|(at, router)| ("the status page", at, router)));
            }
        }
        for (what, at, router) in routers {
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    info!("{what}: http://{at}/");
                    self.serving.push(tokio::spawn(serve(listener, router)));
                }
                Err(error) => error!("{what} cannot be served at {at}: {error}"),
            }
        }
    }

    async fn close(&mut self) {
        for task in self.serving.drain(..) {
            task.abort();
            // Its port is free when it has ended.
            let _ = task.await;
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}
