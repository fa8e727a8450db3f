//! `cargo xtask`: Director's developer commands.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use xtask::{
    bench, build, ci, demo, dist, fuzz,
    setup::{self, Need},
    test,
    vm::{KernelVersion, System, Vm},
};

/// Director's developer commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building, the demo and the tests need; every verb does this for itself
    Setup {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Watch real clients reach real web servers through a director, in a private network
    Demo {
        /// Do not ask before installing what is missing
        #[arg(long)]
        yes: bool,
        /// Use this `director` instead of building it
        #[arg(long, value_name = "FILE", hide = true)]
        built: Option<PathBuf>,
    },
    /// Build the release binary
    Build,
    /// Build the binary for distribution, and a Debian package
    Dist {
        /// The profile it is built with
        #[arg(long, default_value = "dist")]
        profile: String,
        /// Where the files go [default: target/package]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Measure Director beside other programs; `bench --help` lists the parts
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<std::ffi::OsString>,
    },
    /// Run the tests; those of the tests crate as root, through sudo if necessary
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Only this package's tests
        #[arg(long, short)]
        package: Option<String>,
    },
    /// Fuzz guided by coverage: one target, or all in turn
    Fuzz {
        /// The target: a directory of tests/fuzz/corpus
        target: Option<String>,
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Add inputs that reach further code to the corpus
        #[arg(long)]
        keep: bool,
    },
    /// Format every crate
    Fmt,
    /// Run clippy on every crate, warnings denied
    Lint,
    /// All checks that a change must pass
    Ci,
    /// Run a shell script in a virtual machine with a stock Debian kernel
    Vm(VmArgs),
}

#[derive(clap::Args)]
struct VmArgs {
    /// The kernel's series
    #[arg(long, default_value_t = KernelVersion::V6_1)]
    kernel: KernelVersion,
    /// A module to load first, with those it depends on; may be repeated
    #[arg(long = "module", short, value_name = "NAME")]
    modules: Vec<String>,
    /// A file to put into the machine, with its shared libraries; may be repeated
    #[arg(long = "file", short, value_name = "HOST:GUEST")]
    files: Vec<String>,
    /// Boot a bare Debian 12 with systemd instead of busybox alone
    #[arg(long)]
    debian: bool,
    /// Kill the machine after this many seconds
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// What the machine's shell runs
    script: String,
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Demo { yes, built } => return demo::verb(yes, built),
        Verb::Bench { args } => return bench::verb(&args),
        Verb::Setup { yes } => setup::verb(yes)?,
        Verb::Build => println!("{}", build::director()?.display()),
        Verb::Dist { profile, to } => dist::verb(&profile, to)?,
        Verb::Test { filter, package } => test::verb(filter.as_deref(), package.as_deref())?,
        Verb::Fuzz { target, seconds, keep } => fuzz::verb(target.as_deref(), seconds, keep)?,
        Verb::Fmt => ci::format(false)?,
        Verb::Lint => ci::lint()?,
        Verb::Ci => ci::verb()?,
        Verb::Vm(args) => run_vm(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_vm(args: VmArgs) -> Result<()> {
    setup::ensure(&[Need::Vm], false)?;
    let current_dir = std::env::current_dir().context("cannot find the current directory")?;
    let mut vm = Vm::new(args.kernel)
        .modules(args.modules)
        .script(args.script)
        .timeout(Duration::from_secs(args.timeout))
        .echo();
    if args.debian {
        vm = vm.system(&System::fetch()?);
    }
    for file in args.files {
        let (host, guest) = file
            .split_once(':')
            .with_context(|| format!("--file {file}: not of the form HOST:GUEST"))?;
        vm = vm.file(current_dir.join(PathBuf::from(host)), guest);
    }
    let output = vm.run()?;
    eprintln!("exit status {} after {:.1} s", output.status, output.elapsed.as_secs_f64());
    match output.status {
        0 => Ok(()),
        status => bail!("the script failed with {status}"),
    }
}
