//! How the looking commands look: at the pinned maps, and at what the daemon knows.

use super::{explained, say};
use crate::{
    datapath::Instance,
    view::{Reader, Snapshot},
};

/// Looks at one instance, again and again.
pub(super) struct Looker {
    reader: Reader,
}

impl Looker {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { reader: Reader::new(instance) }
    }

    /// Everything there is to see. Without a daemon that is what the maps hold; then also why its
    /// knowledge is missing.
    pub(super) async fn look(&mut self) -> anyhow::Result<(Snapshot, Option<String>)> {
        let snapshot = self.reader.read().map_err(explained)?;
        Ok((snapshot, Some("no daemon answers: health is not known".into())))
    }
}

/// Everything there is to see, now. Says so if there is no daemon to ask.
pub(super) async fn look(instance: &Instance) -> anyhow::Result<Snapshot> {
    let (snapshot, missing) = Looker::new(instance).look().await?;
    if let Some(missing) = missing {
        say("note", &missing);
    }
    Ok(snapshot)
}
