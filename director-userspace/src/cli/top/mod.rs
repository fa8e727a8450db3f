//! `director top`: shows services and backends live.
//!
//! - `app`: the state of the screen, and the keys; no terminal;
//! - `grid`: a snapshot as rows and columns;
//! - `draw`: the layout of the screen;
//! - `screen`: the terminal, and restoring it.

mod app;
mod draw;
mod grid;
mod screen;

use std::{
    io::{IsTerminal as _, Write as _, stdin, stdout},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    app::{App, Outcome},
    screen::{Input, Screen},
};
use super::{InstanceName, state_reader::StateReader};
use crate::{kernel::datapath::Instance, policy::config::units, serve::view::Snapshot};

/// Watch services and backends live: rates, connections, health, drops
///
/// Without a terminal, or with --once, one frame is printed as text.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: InstanceName,
    /// Time between updates
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    interval: Duration,
    /// Print one frame and exit
    #[arg(long)]
    once: bool,
}

/// Shorter intervals cost too much for their use.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// A snapshot, and why the daemon's state is missing from it; or why there is none.
type Update = Result<(Snapshot, Option<String>), String>;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let min_interval = MIN_INTERVAL.as_millis();
    anyhow::ensure!(args.interval >= MIN_INTERVAL, "--interval: at least {min_interval}ms");
    let mut reader = StateReader::new(&args.instance.instance);
    let (before, _) = reader.read().await?;
    if args.once || !stdout().is_terminal() || !stdin().is_terminal() {
        sleep(args.interval).await;
        let (now, missing) = reader.read().await?;
        let mut app = App::new();
        app.show(now.since(&before), missing);
        writeln!(stdout(), "{}", draw::text(&app))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut app = App::new();
    app.show(before.clone(), None);
    let updates = read_periodically(args.instance.instance, args.interval, before);
    let mut screen = Screen::enter()?;
    let result = watch(&mut screen, &mut app, updates).await;
    // Restores the terminal before an error is printed.
    drop(screen);
    result.map(|()| ExitCode::SUCCESS)
}

/// Draws until the user quits or a signal arrives.
async fn watch(
    screen: &mut Screen,
    app: &mut App,
    mut updates: mpsc::Receiver<Update>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        screen.draw(app)?;
        tokio::select! {
            input = screen.input() => match input {
                Some(Input::Key(key)) => {
                    if app.key(key) == Outcome::Quit {
                        return Ok(());
                    }
                }
                Some(Input::Resized) => {}
                None => return Ok(()),
            },
            update = updates.recv() => match update {
                Some(Ok((snapshot, missing))) => app.show(snapshot, missing),
                Some(Err(error)) => app.fail(error),
                None => anyhow::bail!("the background reader has ended"),
            },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Reads a snapshot every `period`, in the background, with the rates since the previous one.
fn read_periodically(
    instance: Instance,
    period: Duration,
    first: Snapshot,
) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut reader = StateReader::new(&instance);
        let mut before = Some(first);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let update = match reader.read().await {
                Ok((now, missing)) => {
                    let shown =
                        before.as_ref().map_or_else(|| now.clone(), |b| now.clone().since(b));
                    before = Some(now);
                    Ok((shown, missing))
                }
                Err(error) => {
                    before = None;
                    Err(format!("{error:#}"))
                }
            };
            if sender.send(update).await.is_err() {
                return;
            }
        }
    });
    receiver
}
