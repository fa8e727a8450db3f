//! One run of the benchmark: what was measured, and what could not be.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    host::Host,
    measurement::{Measurement, Part, Spread},
    report::{self, Outputs},
};

/// One run.
pub(crate) struct Session {
    /// How often each figure is measured.
    pub(crate) repeats: u32,
    /// Fewer workloads and shorter runs.
    pub(crate) quick: bool,
    host: Host,
    results: Vec<Measurement>,
    skipped: Vec<String>,
    failed: Vec<String>,
    started: Instant,
}

impl Session {
    /// Starts a run on this machine.
    pub(crate) fn new(repeats: u32, quick: bool) -> Self {
        Self {
            repeats,
            quick,
            host: Host::here(),
            results: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
            started: Instant::now(),
        }
    }

    /// A result of this machine, to be filled in.
    pub(crate) fn blank(
        &self,
        part: Part,
        program: &str,
        unit: &str,
        samples: &[f64],
    ) -> Measurement {
        let Spread { median, min, max } = Spread::of(samples);
        Measurement {
            part,
            program: program.to_owned(),
            mode: String::new(),
            family: String::new(),
            workload: String::new(),
            wire: String::new(),
            flows: 0,
            size: 0,
            cpus: 1,
            services: 0,
            backends: 0,
            unit: unit.to_owned(),
            median,
            min,
            max,
            net: None,
            repeats: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            kernel: self.host.kernel.clone(),
            cpu: self.host.cpu.clone(),
            mitigations: self.host.mitigations.clone(),
        }
    }

    /// Records a result.
    pub(crate) fn record(&mut self, measurement: Measurement) {
        self.results.push(measurement);
    }

    /// The results so far.
    pub(crate) fn results(&self) -> &[Measurement] {
        &self.results
    }

    /// Prints progress, with the time since the start.
    pub(crate) fn progress(&self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    /// Records something that this machine lacks; the rest continues.
    pub(crate) fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.progress(&format!("skipped: {what}"));
        self.skipped.push(what);
    }

    /// Records a check of the benchmark's figures.
    pub(crate) fn check(&mut self, what: &str, holds: bool) {
        self.progress(&format!("{}: {what}", if holds { "holds" } else { "DOES NOT HOLD" }));
        if !holds {
            self.failed.push(what.to_owned());
        }
    }

    /// Prints and writes the results; fails if a check did.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub(crate) fn finish(self, outputs: &Outputs) -> Result<ExitCode> {
        // Part `vm` has already printed its own.
        report::show(&self.results, |part| part != Part::Vm);
        report::write(&self.results, outputs)?;
        for what in &self.skipped {
            println!("skipped: {what}");
        }
        for what in &self.failed {
            println!("does not hold: {what}");
        }
        Ok(if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
