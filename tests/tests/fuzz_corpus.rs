//! Every fuzz target over its corpus, and for some seconds over random changes of that.

use std::{
    cell::Cell,
    fs,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Once,
    time::{Duration, Instant},
};

use director_tests::fuzz::{TARGETS, Target, mutate};
use fastrand::Rng;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use rstest::rstest;

/// How long changes of the corpus are tried, for each target, and how many at most.
const MUTATING: Duration = Duration::from_secs(3);
const MUTATIONS: u32 = 20_000;
/// What they begin with: the same in each run, so that a change elsewhere does not fail by chance.
/// Others are for `cargo xtask fuzz`, and for `FUZZ_SEED` in the environment.
const SEED: u64 = 0xd1ec_7025;
/// Time of the CPU that one input may take: a thousand times what the slowest takes.
const LIMIT: Duration = Duration::from_secs(5);
/// Memory of the whole process, bytes; a target that asks for more ends the test.
const MEMORY: u64 = 8 << 30;
/// A corpus is small enough to be read: files, and bytes in all.
const MAX_FILES: usize = 150;
const MAX_BYTES: usize = 256 << 10;

/// An input and its name.
type Input = (String, Vec<u8>);

fn corpus(target: &Target) -> Vec<Input> {
    let mut inputs = Vec::new();
    for directory in target.directories() {
        let files = fs::read_dir(&directory);
        let files = files.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut paths: Vec<PathBuf> = files.map(|file| file.expect("an entry").path()).collect();
        paths.sort();
        for path in paths.into_iter().filter(|path| path.is_file()) {
            inputs.push((path.display().to_string(), fs::read(&path).expect("readable")));
        }
    }
    inputs
}

thread_local! {
    /// Panics of this thread, those included that a task's runtime has caught.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts panics, as well as showing them.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let show = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            show(info);
        }));
    });
}

/// Runs a target; panics with `what` if it does, or takes too long.
fn run(target: &Target, input: &[u8], what: &dyn Fn() -> String) {
    let began = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let held = result.is_ok() && PANICS.get() == 0;
    let ended = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    let took = Duration::from(ended).saturating_sub(began.into());
    assert!(held && took < LIMIT, "{}: {took:?} for {}", target.name, what());
}

#[rstest]
fn corpora_and_changes_of_them_break_no_promise(
    #[values(
        "agent",
        "api",
        "capture",
        "config",
        "dns",
        "grpc",
        "http",
        "icmp",
        "ipvsadm",
        "keepalived",
        "netlink",
        "packet",
        "page",
        "state"
    )]
    name: &str,
) {
    count_panics();
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("a limit");
    setrlimit(Resource::RLIMIT_AS, MEMORY.min(hard), hard).expect("a lower one");
    let target = Target::named(name).expect("a target");
    let inputs = corpus(&target);
    for (name, input) in &inputs {
        run(&target, input, &|| name.clone());
    }
    let asked = std::env::var("FUZZ_SEED").ok();
    let seed = asked.and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("{name}: {} inputs; seed {seed:#x}", inputs.len());
    let mut rng = Rng::with_seed(seed);
    let (began, mut tried) = (Instant::now(), 0);
    while began.elapsed() < MUTATING && tried < MUTATIONS {
        let (name, input) = &inputs[rng.usize(..inputs.len())];
        let (_, other) = &inputs[rng.usize(..inputs.len())];
        let input = mutate(&mut rng, input, other);
        // To reproduce a failure: the file goes into the corpus, under a name that says what broke.
        run(&target, &input, &|| {
            let path = std::env::temp_dir().join(format!("fuzz-{}-{seed:x}", target.name));
            fs::write(&path, &input).expect("written");
            format!("seed {seed:#x}, number {tried}, from {name}: {}", path.display())
        });
        tried += 1;
    }
    println!("{tried} changed inputs");
}

#[test]
fn each_target_has_a_small_corpus() {
    let directory = director_tests::tree::root().join("tests/fuzz/corpus");
    for entry in fs::read_dir(directory).expect("the corpora") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        assert!(Target::named(&name).is_some(), "a corpus without a target: {name}");
    }
    for target in TARGETS {
        let own: Vec<Input> = corpus(&Target { seeds: &[], ..target });
        let bytes: usize = own.iter().map(|(_, input)| input.len()).sum();
        let name = target.name;
        assert!((5..=MAX_FILES).contains(&own.len()), "{name}: {} files", own.len());
        assert!(bytes <= MAX_BYTES, "{name}: {bytes} bytes");
    }
}
