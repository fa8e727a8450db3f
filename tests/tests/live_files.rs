//! Files that the daemon reads and writes: who can read them, what may stand in their place, and what
//! happens when they cannot be written or are replaced with their directory.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use director_tests::live::{Daemon, Live, TIMEOUT, VIPS, command, finish, wait_until};
use director_userspace::{serve::api, setup::lab::DEFAULT_CONFIG};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::mkfifo,
};

const SOON: Duration = Duration::from_secs(1);
/// How soon a replaced directory is noticed, if no event tells of it.
const POLLED: Duration = Duration::from_secs(15);

fn with_weight(weight: u32) -> String {
    DEFAULT_CONFIG.replace("weight: 3", &format!("weight: {weight}"))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777
}

/// Every file and directory below, and `path` itself.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        found.extend(below(&entry.path()));
    }
    found
}

/// Asserts that nothing in the state and run directories is open to other users, except for the way
/// to the socket.
#[track_caller]
fn is_private(live: &Live) {
    for path in below(&live.directory().join("state").join(live.instance().name())) {
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    let run_dir = live.instance().run_dir();
    assert_eq!(mode(&run_dir), 0o755, "a group may reach the socket");
    for path in below(&run_dir).into_iter().skip(1) {
        let is_socket = path.ends_with("director.sock");
        assert!(is_socket || mode(&path) & 0o077 == 0, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_writes_is_private_from_the_first_byte() {
    let live = Live::new("secrets").await;
    let yaml = format!(
        "api: {{group: nogroup}}\nalarms: {{webhook: \"http://127.0.0.1:1/token\"}}\n{DEFAULT_CONFIG}"
    );
    fs::set_permissions(live.file(), fs::Permissions::from_mode(0o600)).expect("set");
    live.write(&yaml);
    // What a former version and a killed process left.
    let history = live.directory().join(format!("state/{}/history", live.instance().name()));
    fs::create_dir_all(&history).expect("made");
    fs::write(history.join(".000009.yaml.4194305"), "token").expect("written");
    fs::write(history.join("000008.yaml"), "token").expect("written");
    let left = [".director.yaml.4194305", ".director.yaml.apply", "..director.yaml.apply.4194305"];
    let left = left.map(|name| live.directory().join(name));
    for path in &left {
        fs::write(path, "token").expect("written");
    }
    // With neither too narrow nor too wide a mask.
    for mask in [Mode::empty(), Mode::from_bits_truncate(0o077)] {
        let before = umask(mask);
        let daemon = live.run();
        umask(before);
        assert!(!history.join(".000009.yaml.4194305").exists(), "swept");
        left.iter().for_each(|path| assert!(!path.exists(), "{} is swept", path.display()));
        for (wanted, owner) in [(0o600, 0), (0o640, 65_534), (0o644, 1)] {
            fs::set_permissions(live.file(), fs::Permissions::from_mode(wanted)).expect("set");
            chown(live.file(), Some(owner), Some(owner)).expect("given");
            let new = live.directory().join("new.yaml");
            fs::write(&new, yaml.replace("weight: 3", &format!("weight: {}", 30 + owner % 7)))
                .expect("written");
            live.director("apply -f new.yaml").succeeded();
            let file = fs::metadata(live.file()).expect("there");
            assert_eq!((mode(&live.file()), file.uid(), file.gid()), (wanted, owner, owner));
        }
        live.director("drain web 10.0.0.11").succeeded();
        live.director("undrain web 10.0.0.11").succeeded();
        is_private(&live);
        assert_eq!(mode(&api::socket_of(live.instance())), 0o660);
        daemon.end(Signal::SIGKILL);
    }
    chown(live.file(), Some(0), Some(0)).expect("given");
}

/// A daemon that is killed while it writes leaves nothing that others can read, and the next one
/// removes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_while_it_applies_leaves_nothing_readable() {
    let live = Live::new("killed").await;
    fs::set_permissions(live.file(), fs::Permissions::from_mode(0o600)).expect("set");
    let padding = format!("# {}\n", "token ".repeat(30)).repeat(20_000);
    for round in 0..6 {
        let daemon = live.run();
        let text = format!("{}{padding}", with_weight(10 + round));
        let mut stream = UnixStream::connect(api::socket_of(live.instance())).expect("listens");
        let head =
            format!("POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", text.len());
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(text.as_bytes()).expect("sent");
        // Somewhere between the request and its answer.
        let began = Instant::now();
        let state = live.directory().join("state");
        let kill_after = Duration::from_millis(5 + 40 * u64::from(round));
        while began.elapsed() < kill_after {
            for path in below(&state).into_iter().chain(below(live.directory())) {
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_own = path.starts_with(&state) || name.starts_with(".director.yaml");
                assert!(!is_own || metadata.mode() & 0o077 == 0, "{}", path.display());
            }
        }
        daemon.end(Signal::SIGKILL);
        is_private(&live);
    }
    let daemon = live.run();
    let temporary: Vec<PathBuf> = below(live.directory())
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .collect();
    assert_eq!(temporary, [] as [PathBuf; 0], "swept at the start");
    daemon.end(Signal::SIGTERM);
}

/// What is no regular file is refused by name, by every command, and by the running daemon.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused_by_name() {
    let live = Live::new("fifo").await;
    let at = |name: &str| live.directory().join(name);
    mkfifo(&at("fifo"), Mode::S_IRWXU).expect("made");
    let _socket = UnixListener::bind(at("socket")).expect("bound");
    fs::create_dir(at("directory")).expect("made");
    std::os::unix::fs::symlink("/dev/zero", at("device")).expect("linked");
    let rows = [
        ("fifo", "it is a pipe (FIFO)"),
        ("socket", "it is a socket"),
        ("directory", "it is a directory"),
        ("device", "it is a device"),
    ];
    for (name, why) in rows {
        let mut check = command(&["check", "-f", name]);
        check.current_dir(live.directory());
        finish(check).refused(2).reports(&[why]);
        for command in ["run -c", "attach -c", "plan -f"] {
            live.director(&format!("{command} {name}")).refused(2).reports(&[why]);
        }
    }
    let daemon = live.run();
    for (name, why) in rows {
        for command in ["apply -f", "plan -f"] {
            live.director(&format!("{command} {name}")).refused(2).reports(&[why]);
        }
        daemon.clear_log();
        let aside = at("aside");
        fs::rename(live.file(), &aside).expect("moved");
        fs::rename(at(name), live.file()).expect("moved");
        daemon.wait_for("refused, the configuration in effect stays", SOON);
        assert!(daemon.log().contains(why), "{}", daemon.log());
        let began = Instant::now();
        assert_eq!(live.json("status")["daemon"], true);
        assert!(began.elapsed() < TIMEOUT, "it answers");
        fs::rename(live.file(), at(name)).expect("moved");
        fs::rename(&aside, live.file()).expect("moved");
    }
    daemon.clear_log();
    live.replace(&with_weight(30));
    daemon.wait_for("weight 3 -> 30", SOON);
    daemon.end(Signal::SIGTERM);
}

/// A disk without room for revisions: `apply` says so, and `rollback` restores none but the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_does_not_skip_what_was_not_kept() {
    let live = Live::new("hole").await;
    let state = Mounted::tmpfs(&live.directory().join("state"), "size=64k,mode=700");
    let mut daemon = live.run();
    let apply = |weight: u32| {
        let padding = "# padding\n".repeat(800);
        let text = format!("{}{padding}", with_weight(weight));
        fs::write(live.directory().join("new.yaml"), text).expect("written");
        live.director("apply -f new.yaml").succeeded()
    };
    let mut weight = 30;
    let lost = loop {
        let applied = apply(weight);
        if applied.stderr.contains("could not be kept, so that it cannot be rolled back to") {
            assert!(applied.stderr.contains("No space left on device"), "{applied:?}");
            break weight;
        }
        weight += 1;
        assert!(weight < 50, "64 KiB are never full");
    };
    assert!(lost > 31, "some were kept");
    // It is in effect, and the one before was kept.
    live.director("rollback --dry-run").succeeded();
    apply(lost + 1);
    for restarted in [false, true] {
        if restarted {
            daemon.end(Signal::SIGTERM);
            daemon = live.run();
        }
        let refused = live.director("rollback").refused(1);
        let kept = live.json("rollback --list")["revisions"].clone();
        let kept = kept.as_array().expect("a list").iter();
        let kept =
            kept.filter(|one| one["lost"] != true).filter_map(|one| one["revision"].as_u64());
        let last = kept.max().expect("some are kept");
        refused.reports(&["was not kept", &format!("director rollback --to {last}` restores it")]);
        assert_eq!(live.json("backends web")[2]["weight"], lost + 1, "nothing has changed");
        if restarted {
            live.director(&format!("rollback --to {last}")).succeeded();
            assert_eq!(live.json("backends web")[2]["weight"], lost - 1);
        }
    }
    daemon.end(Signal::SIGTERM);
    drop(state);
}

/// A mounted file system.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).expect("made");
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mounted");
        Self(at.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Starts a daemon by the file in a directory of its own.
fn run_in(live: &Live, directory: &Path) -> Daemon {
    fs::create_dir_all(directory).expect("made");
    fs::remove_file(live.file()).expect("removed");
    fs::write(directory.join("director.yaml"), DEFAULT_CONFIG).expect("written");
    let link = live.file();
    std::os::unix::fs::symlink(directory.join("director.yaml"), link).expect("linked");
    live.run()
}

/// The file's directory is replaced, moved away and made again: each later change is applied at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_directory_is_followed() {
    let live = Live::new("replaced").await;
    let etc = live.directory().join("etc/director");
    let daemon = run_in(&live, &etc);
    let write = |weight: u32| {
        fs::write(etc.join("director.yaml"), with_weight(weight)).expect("written");
    };
    let next = live.directory().join("etc/next");
    fs::create_dir(&next).expect("made");
    fs::write(next.join("director.yaml"), with_weight(4)).expect("written");
    fs::rename(&etc, live.directory().join("etc/old")).expect("moved");
    fs::rename(&next, &etc).expect("moved");
    daemon.wait_for("weight 3 -> 4", SOON);
    write(5);
    daemon.wait_for("weight 4 -> 5", SOON);
    // A directory above it is moved away; for a while there is none.
    fs::rename(live.directory().join("etc"), live.directory().join("away")).expect("moved");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
    assert_eq!(live.spread(VIPS[0], 20).values().sum::<usize>(), 20);
    fs::create_dir_all(&etc).expect("made");
    write(6);
    daemon.wait_for("weight 5 -> 6", SOON);
    write(7);
    daemon.wait_for("weight 6 -> 7", SOON);
    // A mount over it causes no event.
    let mounted = Mounted::tmpfs(&etc, "mode=755");
    write(8);
    daemon.wait_for("weight 7 -> 8", POLLED);
    wait_until("it is watched again", POLLED, || {
        daemon.clear_log();
        write(9);
        let before = Instant::now();
        while before.elapsed() < SOON && !daemon.log().contains("-> 9") {
            std::thread::sleep(Duration::from_millis(20));
        }
        let is_seen = daemon.log().contains("-> 9");
        write(8);
        std::thread::sleep(Duration::from_secs(2));
        is_seen
    });
    daemon.end(Signal::SIGTERM);
    drop(mounted);
}
