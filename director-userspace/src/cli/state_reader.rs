//! How the looking commands look: at the pinned maps, and at what the daemon knows.

use std::{sync::Arc, time::Duration};

use super::{explained, say};
use crate::{
    kernel::datapath::Instance,
    serve::{
        api::client::{Client, ClientError},
        view::{Reader, Snapshot, Status},
    },
};

/// How long the daemon may take: whoever looks is in a hurry.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Looks at one instance, again and again.
pub(super) struct StateReader {
    reader: Reader,
    client: Client,
}

impl StateReader {
    pub(super) fn new(instance: &Instance) -> Self {
        let socket = std::env::var_os(super::SOCKET_VARIABLE).map(Into::into);
        Self { reader: Reader::new(instance), client: Client::new(instance, socket) }
    }

    /// Everything there is to see. Without a daemon that is what the maps hold; then also why its
    /// knowledge is missing.
    pub(super) async fn look(&mut self) -> anyhow::Result<(Snapshot, Option<String>)> {
        let snapshot = self.reader.read().map_err(explained)?;
        let asked = self.client.get::<Status>("/v1/conditions");
        let missing = match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(conditions)) => return Ok((snapshot.with(Some(Arc::new(conditions))), None)),
            Ok(Err(ClientError::NoDaemon { .. })) => {
                "no daemon runs: health is as it was last, and why is not known".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the daemon did not answer within a second: the maps alone are shown".into(),
        };
        Ok((snapshot, Some(missing)))
    }
}

/// Everything there is to see, now. Says so if there is no daemon to ask.
pub(super) async fn look(instance: &Instance) -> anyhow::Result<Snapshot> {
    let (snapshot, missing) = StateReader::new(instance).look().await?;
    if let Some(missing) = missing {
        say("note", &missing);
    }
    Ok(snapshot)
}
