use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;

/// A directory that every user may write to.
struct TempDir(PathBuf);

impl TempDir {
    fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not root: nothing tested");
            return None;
        }
        let path = std::env::temp_dir().join(format!("alarm-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("created");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("permitted");
        Some(Self(path))
    }

    /// A hook that runs this script, with the directory as `$1`.
    fn hook(&self, text: &str) -> model::Alarms {
        let dir = self.0.to_str().expect("text");
        let command = ["/bin/sh", "-c", text, "hook", dir].map(str::to_owned);
        model::Alarms { exec: vec![command.into()], ..model::Alarms::default() }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok().filter(|text| text.ends_with("done\n"))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_hook_runs_as_nobody_and_gets_environment_and_json() {
    let Some(dir) = TempDir::new("hook") else { return };
    let config = dir.hook("{ id -u; env | grep ^DIRECTOR_ | sort; cat; echo; echo done; } >$1/a");
    let mut notifier = Notifier::with("edge", &config, quick());
    notifier.notify(backend(11, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let output = dir.read("a").expect("ran");
    let (id, output) = output.split_once('\n').unwrap();
    assert_eq!(id, nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.to_string());
    let environment: Vec<_> = output.lines().take_while(|l| l.starts_with("DIRECTOR_")).collect();
    assert_eq!(
        environment,
        [
            "DIRECTOR_BACKEND=10.0.0.11",
            "DIRECTOR_EVENT=transition",
            "DIRECTOR_FROM=up",
            "DIRECTOR_FRONTEND=tcp 192.0.2.10:80",
            "DIRECTOR_INSTANCE=edge",
            "DIRECTOR_KIND=backend",
            "DIRECTOR_REASON=connection refused",
            "DIRECTOR_SERVICE=web",
            "DIRECTOR_SEVERITY=warning",
            "DIRECTOR_TEXT=backend 10.0.0.11 of web: up -> down (connection refused)",
            "DIRECTOR_TO=down",
        ]
    );
    let json = output.lines().find(|line| line.starts_with('{')).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!((&json["to"], &json["instance"]), (&"down".into(), &"edge".into()));
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_and_the_next_message_comes_in_its_order() {
    let Some(dir) = TempDir::new("hangs") else { return };
    let config = dir.hook(
        "case $DIRECTOR_BACKEND in *.1) sleep 60;; esac; echo $DIRECTOR_BACKEND >>$1/a; \
         case $DIRECTOR_BACKEND in *.3) cat >$1/json; echo >>$1/json; echo done >>$1/a;; *) exit 1;; \
         esac",
    );
    let mut notifier = Notifier::with("main", &config, quick());
    for n in 1..=3 {
        notifier.notify(backend(n, "web", "down"));
    }
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(dir.read("a").expect("all ran"), "10.0.0.2\n10.0.0.3\ndone\n");
    // A killed hook counts as lost, which the second message reported; exit status 1 does not
    // count.
    let json = fs::read_to_string(dir.0.join("json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["lost"], 0);
}

#[tokio::test]
async fn no_more_than_four_hooks_run_at_a_time() {
    let Some(dir) = TempDir::new("four") else { return };
    let mut config = dir.hook("");
    // Each records how many are running while it runs.
    let text = "touch $1/running.$2; ls $1 | grep -c running >$1/count.$2; sleep 0.2; \
                rm $1/running.$2; echo done >>$1/all";
    config.exec = (0..10)
        .map(|n| {
            let dir = dir.0.to_str().unwrap();
            ["/bin/sh", "-c", text, "hook", dir, &n.to_string()].map(str::to_owned).into()
        })
        .collect();
    let mut notifier = Notifier::with("main", &config, quick());
    notifier.notify(backend(1, "web", "down"));
    notifier.flush(Duration::from_secs(8)).await;
    assert_eq!(dir.read("all").expect("ran").lines().count(), 10);
    let counts: Vec<usize> = (0..10)
        .map(|n| fs::read_to_string(dir.0.join(format!("count.{n}"))).unwrap())
        .map(|count| count.trim().parse().unwrap())
        .collect();
    assert!(counts.iter().all(|&n| n <= crate::alarm::exec::MAX_CONCURRENT), "{counts:?}");
    assert!(counts.iter().any(|&n| n > 1), "side by side: {counts:?}");
}

#[tokio::test]
async fn hooks_do_not_run_as_root() {
    let Some(dir) = TempDir::new("root") else { return };
    let mut config = dir.hook("echo done >$1/a");
    config.user = Some("root".into());
    let mut notifier = Notifier::with("main", &config, quick());
    notifier.notify(backend(1, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(dir.read("a"), None);
    config.user = None;
    notifier.configure(&config);
    notifier.notify(backend(2, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(dir.read("a").as_deref(), Some("done\n"));
}

#[tokio::test]
async fn the_example_hook_forwards_warnings() {
    let Some(dir) = TempDir::new("example") else { return };
    let script = |name: &str, text: &str| {
        let path = dir.0.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permitted");
        path.to_str().expect("text").to_owned()
    };
    let hook = script("hook", include_str!("../../../../docs/examples/alarm-hook.sh"));
    let path = dir.0.display();
    let pager = script(
        "pager",
        &format!("#!/bin/sh\n{{ echo \"$1 $2\"; cat >/dev/null; echo done; }} >>{path}/a\n"),
    );
    let config = model::Alarms { exec: vec![vec![hook, pager]], ..model::Alarms::default() };
    let mut notifier = Notifier::with("edge", &config, quick());
    notifier.notify(backend(11, "web", "up"));
    notifier.notify(backend(12, "web", "down"));
    notifier.notify(Transition::now(Subject::Director, "in effect", "refused", "line 3"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(
        dir.read("a").expect("ran"),
        "low edge: backend 10.0.0.12 of web: up -> down (connection refused)\ndone\n\
         high edge: director: in effect -> refused (line 3)\ndone\n"
    );
}
