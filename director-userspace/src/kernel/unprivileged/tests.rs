use std::time::Instant;

use super::*;

/// Runs a shell script as nobody.
async fn script(text: &str, input: &[u8], timeout: Duration) -> Result<Outcome, RunError> {
    let user = User::find(DEFAULT_USER).await.expect("every system has nobody");
    let command = ["/bin/sh", "-c", text].map(str::to_owned);
    let environment = [("DIRECTOR_ADDRESS", "192.0.2.1")];
    let job = Job { command: &command, user: &user, environment: &environment, input, timeout };
    run(&job).await
}

/// Only root can become another user; `cargo xtask test` runs as root.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("not root: nothing tested");
    }
    root
}

const LONG: Duration = Duration::from_secs(10);

fn stdout(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stdout.clone()).expect("text")
}

#[tokio::test]
async fn a_program_runs_as_nobody_without_privileges() {
    if !is_root() {
        return;
    }
    let text = "id -u; pwd; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Groups)' /proc/self/status; \
                ls /proc/self/fd | tr '\\n' ' '; ps -o sid= -p $$ 2>/dev/null | tr -d ' '; env";
    let outcome = script(text, b"", LONG).await.expect("runs");
    let output = stdout(&outcome);
    let user = User::find(DEFAULT_USER).await.expect("nobody");
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(user.uid.to_string().as_str()), "{output}");
    assert_eq!(lines.next(), Some("/"), "{output}");
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(output.contains(&format!("{capabilities}:\t0000000000000000")), "{output}");
    }
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    // `ls` has the three, and the directory that it reads.
    assert!(output.contains("\n0 1 2 3 "), "{output}");
    assert!(output.contains("DIRECTOR_ADDRESS=192.0.2.1"), "{output}");
    assert!(!output.contains("CARGO"), "the environment is not the daemon's: {output}");
    let root = script("cat /etc/shadow", b"", LONG).await.expect("runs");
    assert!(!root.status.success() && root.describe().contains("denied"), "{}", root.describe());
}

#[tokio::test]
async fn input_output_and_status_come_through() {
    if !is_root() {
        return;
    }
    let outcome = script("cat; echo oh >&2; exit 3", b"{\"a\": 1}", LONG).await.expect("runs");
    assert_eq!(stdout(&outcome), "{\"a\": 1}");
    assert_eq!(outcome.status.code(), Some(3));
    assert_eq!(outcome.describe(), "status 3: oh");
    // A program that reads nothing of a long input is not waited for.
    let outcome = script("exit 0", &vec![b'x'; 1 << 20], LONG).await.expect("runs");
    assert!(outcome.status.success());
    let outcome = script("kill -9 $$", b"", LONG).await.expect("runs");
    assert_eq!(outcome.describe(), "ended by signal 9");
}

#[tokio::test]
async fn output_is_bounded_and_its_end_is_not_waited_for() {
    if !is_root() {
        return;
    }
    let outcome = script("head -c 100000 /dev/zero", b"", LONG).await.expect("runs");
    assert_eq!(outcome.stdout.len(), KEPT_BYTES);
    assert!(outcome.status.success());
    // Endless output.
    let began = Instant::now();
    let error = script("yes", b"", Duration::from_millis(300)).await.expect_err("endless");
    assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Whether a process exists, and is not a zombie that awaits its new parent.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn gone(pid: &str) -> bool {
    let began = Instant::now();
    while is_running(pid) {
        if began.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[tokio::test]
async fn the_whole_group_is_killed_on_timeout() {
    if !is_root() {
        return;
    }
    let file = format!("/tmp/unprivileged-{}", std::process::id());
    let text = format!("sleep 60 & echo $! > {file}; trap '' TERM; wait");
    let began = Instant::now();
    let error = script(&text, b"", Duration::from_millis(500)).await.expect_err("hangs");
    assert!(error.to_string().contains("/bin/sh took longer than 500ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let pid = std::fs::read_to_string(&file).expect("written");
    std::fs::remove_file(&file).expect("there");
    assert!(gone(&pid), "{pid} is running");
}

#[tokio::test]
async fn remaining_processes_are_killed_and_cause_no_delay() {
    if !is_root() {
        return;
    }
    let began = Instant::now();
    let outcome = script("sleep 60 & echo $!", b"", LONG).await.expect("runs");
    assert!(gone(&stdout(&outcome)), "it is running");
    // Not in the group any more: it keeps running, and holds the pipe.
    let outcome = script("setsid sleep 3 & echo $!; sleep 0.3", b"", LONG).await.expect("runs");
    assert!(!stdout(&outcome).is_empty());
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_program_whose_future_is_dropped_is_killed() {
    if !is_root() {
        return;
    }
    let file = format!("/tmp/unprivileged-dropped-{}", std::process::id());
    let text = format!("echo $$ > {file}; sleep 60");
    let dropped = timeout(Duration::from_millis(500), script(&text, b"", LONG)).await;
    assert!(dropped.is_err());
    let pid = std::fs::read_to_string(&file).expect("written");
    std::fs::remove_file(&file).expect("there");
    assert!(gone(&pid), "{pid} is running");
}

#[tokio::test]
async fn an_error_gives_the_reason() {
    if !is_root() {
        return;
    }
    let user = User::find(DEFAULT_USER).await.expect("nobody");
    let run = async |program: &str| {
        let command = [program.to_owned()];
        let job =
            Job { command: &command, user: &user, environment: &[], input: b"", timeout: LONG };
        run(&job).await.expect_err("refused").to_string()
    };
    assert!(run("sh").await.contains("not an absolute path"));
    let error = run("/nowhere/at-all").await;
    assert!(error.contains("cannot run /nowhere/at-all as nobody: No such file"), "{error}");
    let error = run("/etc/passwd").await;
    assert!(error.contains("ermission denied"), "{error}");
}

#[tokio::test]
async fn root_and_unknown_users_are_refused() {
    assert!(matches!(User::find("root").await, Err(UserError::Root { .. })));
    let error = User::find("no-such-user-here").await.expect_err("unknown").to_string();
    assert!(error.contains("useradd --system no-such-user-here"), "{error}");
    assert!(User::find("a\0b").await.is_err());
    assert_eq!(User::find(DEFAULT_USER).await.expect("nobody").name(), "nobody");
    let by_number = User::find("65534").await.expect("nobody");
    assert_eq!(by_number.uid, User::find(DEFAULT_USER).await.expect("nobody").uid);
    assert!(matches!(User::find("0").await, Err(UserError::Root { .. })));
    assert!(matches!(User::find("4123456789").await, Err(UserError::Unknown { .. })));
}
