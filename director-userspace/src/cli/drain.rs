//! `director drain`, `undrain` and `weight`: admin overrides of one backend.

use std::{io::Write as _, net::IpAddr, process::ExitCode, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

use super::{DaemonOf, output::Output};
use crate::{
    policy::config::units,
    serve::api::{
        client::{Client, ClientError},
        types::{Acted, BackendRequest, Connections, DrainRequest, WeightRequest},
    },
};

/// How often remaining connections are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest pause between polls, when the deadline is near.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a restart of the daemon may take.
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait without a deadline.
const MAX_WAIT: Duration = Duration::from_secs(7 * 86_400);

/// Take a backend out of service: no new flows, known ones stay. Lasts until `undrain`
#[derive(Debug, clap::Args)]
#[command(override_usage = "director drain [OPTIONS] SERVICE BACKEND\n       director drain \
                            [OPTIONS] --all BACKEND")]
pub(super) struct DrainArgs {
    #[command(flatten)]
    which: Which,
    /// Wait until its connections have ended, and show how many are left
    #[arg(long)]
    wait: bool,
    /// When to reschedule the flows that are left
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Bring a drained backend back into service
#[derive(Debug, clap::Args)]
#[command(override_usage = "director undrain [OPTIONS] SERVICE BACKEND\n       director undrain \
                            [OPTIONS] --all BACKEND")]
pub(super) struct UndrainArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Override the file's weight of a backend, until `reset`
#[derive(Debug, clap::Args)]
#[command(override_usage = "director weight [OPTIONS] SERVICE BACKEND <WEIGHT|reset>\n       \
                            director weight [OPTIONS] --all BACKEND <WEIGHT|reset>")]
pub(super) struct WeightArgs {
    /// The service's name (not with --all), the backend's address, and 0 to 65535 or `reset`
    #[arg(value_name = "SERVICE BACKEND WEIGHT", num_args = 2..=3, required = true)]
    words: Vec<String>,
    /// In every service that has the backend
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    daemon: DaemonOf,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// The arguments that name a backend.
#[derive(Debug, clap::Args)]
struct Which {
    /// The service's name (not with --all), and the backend's address
    #[arg(value_name = "SERVICE BACKEND", num_args = 1..=2, required = true)]
    words: Vec<String>,
    /// In every service that has the backend, as before a shutdown of its host
    #[arg(long)]
    all: bool,
}

/// Parses the words into service and backend; with `all` there is no service.
fn named(words: &[String], all: bool) -> anyhow::Result<(Option<String>, String)> {
    let backend = |text: &str| {
        // A port is ignored: packets reach backends with the port of the VIP.
        let bare = text.parse::<std::net::SocketAddr>().map(|address| address.ip().to_string());
        bare.unwrap_or_else(|_| text.trim_matches(['[', ']']).to_owned())
    };
    match (words, all) {
        ([one], true) => Ok((None, backend(one))),
        ([service, one], false) => Ok((Some(service.clone()), backend(one))),
        ([_], false) => bail!(Usage("name the service too, or use --all".into())),
        _ => bail!(Usage("--all and a service's name exclude each other".into())),
    }
}

/// An invalid command line, detected after parsing: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| format!("{text} {error}: write 90s, 10m or 1h"))
}

pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let (service, backend) = named(&args.which.words, args.which.all)?;
    let client = args.daemon.client();
    let request = DrainRequest {
        service,
        backend,
        // Rounded up.
        deadline_s: args.deadline.map(|deadline| deadline.as_millis().div_ceil(1000) as u64),
    };
    let acted: Acted = client.post("/v1/drain", &request).await?;
    if !args.wait {
        args.output.print(&acted, || done(&acted, "drains: no new flows, known ones stay"))?;
        return Ok(ExitCode::SUCCESS);
    }
    wait(&client, &acted, args.deadline, args.output).await
}

/// Prints the remaining connections until there are none, or the deadline is over.
async fn wait(
    client: &Client,
    acted: &Acted,
    deadline: Option<Duration>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let at_most = deadline.unwrap_or(MAX_WAIT);
    let address = acted.backends.first().map(|b| b.address.clone()).unwrap_or_default();
    let path = format!("/v1/connections?backend={address}");
    let mut before = 0;
    let mut answered = began;
    loop {
        let all: Connections = match client.get(&path).await {
            Ok(all) => all,
            // The drain stays in effect while the daemon restarts.
            Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. })
                if answered.elapsed() < RESTART_TIMEOUT =>
            {
                sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        answered = Instant::now();
        let ours: Vec<_> =
            all.backends.iter().filter(|of| acted.backends.contains(&of.backend)).collect();
        let left: u64 = ours.iter().map(|of| of.established).sum();
        // The daemon reschedules the remaining flows at the same moment.
        let is_over = began.elapsed() >= at_most && before + left > 0;
        before = left;
        let elapsed = began.elapsed().as_secs();
        if output == Output::Table {
            let each: Vec<_> = ours
                .iter()
                .map(|of| format!("{} {}", of.backend.service, of.established))
                .collect();
            let each = each.join(", ");
            let mut stdout = std::io::stdout();
            writeln!(stdout, "{elapsed:>5} s  {left} connections left on {address} ({each})")?;
            stdout.flush()?;
        }
        if left == 0 || is_over {
            if output != Output::Table {
                output.print(&all, String::new)?;
            } else if is_over && deadline.is_none() {
                writeln!(
                    std::io::stdout(),
                    "{address} is still draining: the wait ended after 7 days"
                )?;
                return Ok(ExitCode::FAILURE);
            } else if is_over {
                let text = "the deadline is over: the remaining flows are rescheduled";
                writeln!(std::io::stdout(), "{address}: {text}")?;
            } else {
                writeln!(std::io::stdout(), "{address} has no connections left")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        sleep(POLL_INTERVAL.min(at_most.saturating_sub(began.elapsed())).max(MIN_POLL_INTERVAL))
            .await;
    }
}

pub(super) async fn undrain(args: UndrainArgs) -> anyhow::Result<ExitCode> {
    let (service, backend) = named(&args.which.words, args.which.all)?;
    let request = BackendRequest { service, backend };
    let acted: Acted = args.daemon.client().post("/v1/undrain", &request).await?;
    args.output.print(&acted, || done(&acted, "is in service again"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn weight(mut args: WeightArgs) -> anyhow::Result<ExitCode> {
    let word = args.words.pop().unwrap_or_default();
    let weight = match word.as_str() {
        "reset" => None,
        word => match word.parse::<u16>() {
            Ok(weight) => Some(weight),
            Err(_) => {
                let is_missing = word.parse::<IpAddr>().is_ok();
                let hint = if is_missing { "the weight is missing" } else { "not a weight" };
                bail!(Usage(format!("{word}: {hint}: write 0 to 65535, or reset")));
            }
        },
    };
    let (service, backend) = named(&args.words, args.all)?;
    let request = WeightRequest { service, backend, weight };
    let acted: Acted = args.daemon.client().post("/v1/weight", &request).await?;
    let what = weight.map_or_else(
        || "has the weight of the file".to_owned(),
        |weight| format!("has weight {weight} instead of the file's, until reset"),
    );
    args.output.print(&acted, || done(&acted, &what))?;
    Ok(ExitCode::SUCCESS)
}

fn done(acted: &Acted, what: &str) -> String {
    let one = |backend: &crate::serve::api::types::Backend| {
        format!("{} of {} ({}) {what}\n", backend.address, backend.service, backend.frontend)
    };
    acted.backends.iter().map(one).collect()
}
