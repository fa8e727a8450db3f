//! `director attach`: applies a configuration without a daemon.

use std::{io::Write as _, process::ExitCode};

use super::{ConfigFile, DaemonOf, load_config, print_message};
use crate::{
    control::director::{Director, HostChanges, Waits},
    kernel::net::Netlink,
    serve::api::types::Applied,
};

/// Attach with a file, without a daemon: forwarding continues after this command
///
/// Next hops are looked up once, and the kernel keeps them fresh; a changed MAC address of a next
/// hop is noticed only if ip_forward is on, or while `director run` runs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    daemon: DaemonOf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.daemon.client();
    if client.is_reachable().await {
        let applied: Applied = client.post("/v1/attach", &()).await?;
        for warning in &applied.warnings {
            print_message("warning", warning);
        }
        let done = if applied.steps.is_empty() { "already attached" } else { "attached" };
        writeln!(std::io::stdout(), "{done}\n{}", applied.steps.join("\n"))?;
        writeln!(std::io::stdout(), "the running daemon uses its own file")?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = load_config(&args.file.config)?;
    let instance = args.daemon.instance();
    let (mut director, changed) = Director::start(
        Netlink::connect()?,
        instance,
        &loaded.config,
        HostChanges::default(),
        Waits::No,
    )
    .await?;
    for warning in &changed.warnings {
        print_message("warning", warning);
    }
    // No daemon will: an earlier one may have ended long ago.
    let repaired = director.scrub_all();
    if !repaired.is_empty() {
        print_message(
            "warning",
            &format!("another process had changed the maps; repaired:\n{repaired}"),
        );
    }
    drop(director);
    let names: Vec<_> = loaded.config.interfaces.iter().map(|i| i.name.as_str()).collect();
    writeln!(std::io::stdout(), "{}", changed.plan)?;
    writeln!(
        std::io::stdout(),
        "attached to {}; forwarding continues until `director detach`",
        names.join(", ")
    )?;
    Ok(ExitCode::SUCCESS)
}
