//! One phase of the demo: monitors the requests and shows them until it is over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    counters::Counters,
    interrupt::Interrupt,
    lab::Lab,
    load::{Load, Transfer},
    scene::{REMOVED, Service},
    screen::{Screen, View},
    tally::Phase,
};

/// Time limit of a phase; one that takes longer is ended, and the verdict reports why.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long the director may take to follow its file.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the screen is updated, and how often the director's counters are read for it.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
const COUNTERS_INTERVAL: Duration = Duration::from_millis(500);

/// The progress of a phase.
pub(super) struct Now {
    /// Since it began.
    pub(super) elapsed: Duration,
    /// Requests of its phase that were answered, of the service with the fewest.
    pub(super) answered: u64,
    /// Whether no download is in progress.
    pub(super) transfers_are_over: bool,
}

/// The display of a phase.
pub(super) struct Show<'a> {
    pub(super) lab: &'a mut Lab,
    load: &'a Load,
    services: &'a [Service],
    interrupt: &'a Interrupt,
    screen: Screen,
    phase: Phase,
    title: String,
    began: Instant,
    transfers: Vec<Transfer>,
    /// Packets at the beginning of the phase, and since.
    before: Counters,
    counters: Counters,
    counters_due: Instant,
}

impl<'a> Show<'a> {
    pub(super) fn new(
        lab: &'a mut Lab,
        load: &'a Load,
        services: &'a [Service],
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            lab,
            load,
            services,
            interrupt,
            screen: Screen::new(),
            phase: Phase::Steady,
            title: String::new(),
            began: Instant::now(),
            transfers: Vec::new(),
            before: Counters::default(),
            counters: Counters::default(),
            counters_due: Instant::now(),
        }
    }

    /// Begins a phase: its requests are those of `phase`, its packets those from now on.
    pub(super) fn begin(&mut self, phase: Phase, title: String) -> Result<()> {
        self.before = self.read_counters()?;
        (self.phase, self.title, self.began) = (phase, title, Instant::now());
        self.counters_due = Instant::now();
        self.screen.begin();
        Ok(())
    }

    /// Shows it until it is over.
    pub(super) fn run(&mut self, is_over: impl Fn(&Now) -> bool) -> Result<()> {
        while !is_over(&self.now()) && self.began.elapsed() < TIMEOUT {
            self.interrupt.sleep(FRAME_INTERVAL)?;
            self.lab.check()?;
            if Instant::now() >= self.counters_due {
                self.counters = self.read_counters()?.since(&self.before);
                self.counters_due = Instant::now() + COUNTERS_INTERVAL;
            }
            self.draw(Screen::show);
        }
        Ok(())
    }

    /// Leaves its last frame on the screen.
    pub(super) fn keep(&mut self) -> Result<()> {
        self.counters = self.read_counters()?.since(&self.before);
        self.draw(Screen::keep);
        Ok(())
    }

    /// Shows a download too.
    pub(super) fn follow(&mut self, transfer: Transfer) {
        self.transfers.push(transfer);
    }

    /// Waits until the director schedules nothing to the removed backend any more.
    pub(super) fn wait_for_removal(&self) -> Result<()> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        while self.is_scheduled_to(REMOVED)? {
            ensure!(
                Instant::now() < deadline,
                "{REMOVED} was removed from {}, and {} s later it still gets new connections; the \
                 director's log:\n{}",
                self.lab.config().display(),
                CHANGE_TIMEOUT.as_secs(),
                self.lab.log()
            );
            self.interrupt.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// The downloads.
    pub(super) fn end(self) -> Vec<Transfer> {
        self.transfers
    }

    fn now(&self) -> Now {
        let tally = self.load.tally();
        let answered = (0..self.services.len())
            .map(|service| tally.counts(service, self.phase).answered())
            .min();
        Now {
            elapsed: self.began.elapsed(),
            answered: answered.unwrap_or(0),
            transfers_are_over: self.transfers.iter().all(Transfer::is_over),
        }
    }

    fn draw(&mut self, draw: fn(&mut Screen, &View<'_>)) {
        let view = View {
            services: self.services,
            tally: &self.load.tally(),
            counters: &self.counters,
            phase: self.phase,
            title: &self.title,
            elapsed: self.began.elapsed(),
            transfers: &self.transfers,
        };
        draw(&mut self.screen, &view);
    }

    fn read_counters(&self) -> Result<Counters> {
        Counters::read(&self.lab.query("stats")?, self.services)
    }

    fn is_scheduled_to(&self, node: &str) -> Result<bool> {
        let counters = self.read_counters()?;
        let found = self.services.iter().enumerate().any(|(number, service)| {
            let backends = service.backends.iter().enumerate();
            backends
                .filter(|(_, backend)| backend.node == node)
                .any(|(index, _)| counters.backend(number, index).active)
        });
        Ok(found)
    }
}
