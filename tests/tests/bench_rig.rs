//! The benchmark program, as its users run it: invalid programs are refused with a reason, and a
//! pinned one is measured beside the others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use aya::{Ebpf, programs::Xdp};
use xtask::workspace;

fn bench() -> Command {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_director-bench"));
    bench.args(["packet", "--quick", "--repeats", "1", "--only", "v4 tunnel known, 1 flows"]);
    bench
}

/// A pinned program, unpinned when dropped.
struct Pinned(PathBuf);

impl Pinned {
    /// The benchmark's own `floor`, pinned like a program of another project.
    fn floor() -> Self {
        let object = fs::read(workspace::bpf_object("bench")).expect("built with the director's");
        let mut ebpf = Ebpf::load(&object).expect("root can load it");
        let floor: &mut Xdp = ebpf.program_mut("floor").expect("is there").try_into().expect("XDP");
        floor.load().expect("the kernel accepts it");
        let path = Path::new("/sys/fs/bpf").join(format!("director-bench-test-{}", process::id()));
        floor.pin(&path).expect("bpffs is mounted");
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_pinned_program_is_measured_beside_the_others() {
    let pinned = Pinned::floor();
    let json = std::env::temp_dir().join(format!("director-bench-test-{}.json", process::id()));
    let output = bench()
        .arg("--json")
        .arg(&json)
        .arg("--pinned")
        .arg(format!("mine={}", pinned.0.display()))
        .output()
        .expect("runs");
    let text = fs::read_to_string(&json).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let _ = fs::remove_file(&json);
    let results: Vec<serde_json::Value> = serde_json::from_str(&text).expect("an array");
    let of = |program: &str| {
        results
            .iter()
            .find(|result| result["program"] == program && result["workload"] == "known")
            .unwrap_or_else(|| panic!("no result of {program} in {text}"))
    };
    for program in ["floor", "conventional", "director", "mine"] {
        let result = of(program);
        assert_eq!(
            (&result["part"], &result["mode"], &result["family"], &result["unit"]),
            (&"packet".into(), &"tunnel".into(), &"v4".into(), &"ns/packet".into()),
            "{result}"
        );
        assert!(result["median"].as_f64().expect("a number") > 0.0, "{result}");
    }
    let net = |program| of(program)["net"].as_f64().expect("a number");
    assert_eq!(net("floor"), 0.0);
    assert!(net("director") > 0.0 && net("conventional") > 0.0, "{text}");
}

#[test]
fn invalid_pinned_programs_are_refused() {
    for (argument, reason) in [
        ("mine=/sys/fs/bpf/director-bench-nothing", "there is no such file"),
        ("mine=/etc/passwd", "not a pinned XDP program"),
        ("mine", "not of the form NAME=PATH"),
    ] {
        let output = bench().args(["--pinned", argument]).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{argument}: {stderr}");
        assert!(stderr.contains(reason), "{argument}: {stderr}");
    }
}
