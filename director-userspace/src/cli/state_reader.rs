//! Reads the state that commands show: from the pinned maps and from the daemon.

use std::{sync::Arc, time::Duration};

use super::{explained, print_message};
use crate::{
    kernel::datapath::Instance,
    serve::{
        api::client::{Client, ClientError},
        view::{Reader, Snapshot, Status},
    },
};

/// How long the daemon may take to answer: commands should return quickly.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the state of one instance, repeatedly.
pub(super) struct StateReader {
    reader: Reader,
    client: Client,
}

impl StateReader {
    pub(super) fn new(instance: &Instance) -> Self {
        let socket = std::env::var_os(super::SOCKET_VARIABLE).map(Into::into);
        Self { reader: Reader::new(instance), client: Client::new(instance, socket) }
    }

    /// The complete state. If the daemon does not answer, the state of the maps only, and the
    /// reason.
    pub(super) async fn read(&mut self) -> anyhow::Result<(Snapshot, Option<String>)> {
        let snapshot = self.reader.read().map_err(explained)?;
        let answer = self.client.get::<Status>("/v1/status");
        let missing = match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(status)) => return Ok((snapshot.with(Some(Arc::new(status))), None)),
            Ok(Err(ClientError::NoDaemon { .. })) => {
                "no daemon runs: health states are the last known, without reasons".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the daemon did not answer within a second: only the maps are shown".into(),
        };
        Ok((snapshot, Some(missing)))
    }
}

/// The complete state. Prints a note if the daemon does not answer.
pub(super) async fn read_state(instance: &Instance) -> anyhow::Result<Snapshot> {
    let (snapshot, missing) = StateReader::new(instance).read().await?;
    if let Some(missing) = missing {
        print_message("note", &missing);
    }
    Ok(snapshot)
}
