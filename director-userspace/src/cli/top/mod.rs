//! `director top`: what a director does, live.
//!
//! - `app`: what is shown and what keys do; no terminal;
//! - `grid`: a snapshot as rows and columns;
//! - `draw`: where they are on the screen;
//! - `screen`: the terminal, and giving it back.

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
    /// From one look to the next
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    interval: Duration,
    /// Print one frame and exit
    #[arg(long)]
    once: bool,
}

/// Shorter intervals would cost more than they show.
const SHORTEST: Duration = Duration::from_millis(200);

/// A look, and why the daemon's knowledge is missing; or why there is nothing to see.
type Look = Result<(Snapshot, Option<String>), String>;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let shortest = SHORTEST.as_millis();
    anyhow::ensure!(args.interval >= SHORTEST, "--interval: at least {shortest}ms");
    let mut reader = StateReader::new(&args.instance.instance);
    let (before, _) = reader.look().await?;
    if args.once || !stdout().is_terminal() || !stdin().is_terminal() {
        sleep(args.interval).await;
        let (now, missing) = reader.look().await?;
        let mut app = App::new();
        app.show(now.since(&before), missing);
        writeln!(stdout(), "{}", draw::text(&app))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut app = App::new();
    app.show(before.clone(), None);
    let looks = look_again(args.instance.instance, args.interval, before);
    let mut screen = Screen::enter()?;
    let result = watch(&mut screen, &mut app, looks).await;
    // Before anything is said.
    drop(screen);
    result.map(|()| ExitCode::SUCCESS)
}

/// Draws until somebody has seen enough.
async fn watch(
    screen: &mut Screen,
    app: &mut App,
    mut looks: mpsc::Receiver<Look>,
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
            look = looks.recv() => match look {
                Some(Ok((snapshot, missing))) => app.show(snapshot, missing),
                Some(Err(error)) => app.fail(error),
                None => anyhow::bail!("nobody looks any more"),
            },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Looks every `period`, in the background; each look has the rates since the one before it.
fn look_again(instance: Instance, period: Duration, first: Snapshot) -> mpsc::Receiver<Look> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut reader = StateReader::new(&instance);
        let mut before = Some(first);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let look = match reader.look().await {
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
            if sender.send(look).await.is_err() {
                return;
            }
        }
    });
    receiver
}
