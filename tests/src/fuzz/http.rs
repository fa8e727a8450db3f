//! Requests to the daemon: the API's and the page's paths, behind the HTTP server.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use director_userspace::{
    kernel::datapath::Instance,
    serve::{
        Names,
        api::{self, Command, Refused, Request},
        fuzz, metrics, page,
        view::{Sampler, Status},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Outcome, stream};

/// The API's paths, with a daemon that reads configurations and refuses to do anything.
pub(super) fn api(input: &[u8]) -> Outcome {
    stream::run(async {
        let (sender, mut receiver) = mpsc::channel(1);
        let instance = Instance::new("fuzz").expect("a name");
        let serving = serve(input, api::router_for(0, sender, instance));
        let daemon = async {
            let mut commands = 0;
            while let Some(request) = receiver.recv().await {
                commands = commands * 13 % 64 + refuse(request);
            }
            commands
        };
        tokio::join!(serving, daemon).1
    })
}

/// Answers a command; returns which it was.
fn refuse(request: Request) -> Outcome {
    let refused = || Refused::Failed("not here".into());
    // The receiver of a reply may be gone.
    match request.command {
        Command::Status(reply) => reply.send(Ok(Status::default())).map_or(0, |()| 1),
        Command::Config(reply) => reply.send(Ok(String::new())).map_or(0, |()| 2),
        Command::Plan(_, reply) => reply.send(Err(refused())).map_or(0, |()| 3),
        Command::Apply(_, _, reply) => reply.send(Err(refused())).map_or(0, |()| 4),
        Command::History(reply) => reply.send(Err(refused())).map_or(0, |()| 5),
        Command::Rollback(_, reply) => reply.send(Err(refused())).map_or(0, |()| 6),
        Command::Drain(_, reply) => reply.send(Err(refused())).map_or(0, |()| 7),
        Command::Undrain(_, reply) => reply.send(Err(refused())).map_or(0, |()| 8),
        Command::Weight(_, reply) => reply.send(Err(refused())).map_or(0, |()| 9),
        Command::Reload(reply) => reply.send(Err(refused())).map_or(0, |()| 10),
        Command::Detach(_, reply) => reply.send(Err(refused())).map_or(0, |()| 11),
        Command::Attach(reply) => reply.send(Err(refused())).map_or(0, |()| 12),
    }
}

/// Metrics and the page.
pub(super) fn page(input: &[u8]) -> Outcome {
    stream::run(async {
        let (_status, receiver) = watch::channel(Arc::new(Status::default()));
        let sampler = Sampler::new(|| Err("no director".into()), receiver);
        let router = metrics::router(sampler.clone(), Names::default())
            .merge(page::router(sampler, Names::default()));
        let mut serving = pin!(serve(input, router));
        // A stream of events goes on as long as its client reads.
        let is_endless = input.windows(EVENTS.len()).any(|part| part == EVENTS);
        if timeout(SHORTLY, &mut serving).await.is_err() && !is_endless {
            serving.await;
        }
        0
    })
}

const EVENTS: &[u8] = b"/events";
/// How long a stream of events is read.
const SHORTLY: Duration = Duration::from_millis(5);

async fn serve(input: &[u8], router: Router) {
    let Some((portion, sent)) = input.split_first() else { return };
    fuzz::serve(stream::Sent::new(sent, usize::from(*portion) * 8), router).await;
}
