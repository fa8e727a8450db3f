use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;

/// A directory that everybody may write into.
struct Place(PathBuf);

impl Place {
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

    /// A hook that does this, with the place as `$1`.
    fn hook(&self, text: &str) -> model::Alarms {
        let place = self.0.to_str().expect("text");
        let command = ["/bin/sh", "-c", text, "hook", place].map(str::to_owned);
        model::Alarms { exec: vec![command.into()], ..model::Alarms::default() }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok().filter(|text| text.ends_with("done\n"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_hook_is_nobody_and_gets_everything() {
    let Some(place) = Place::new("hook") else { return };
    let config = place.hook("{ id -u; env | grep ^DIRECTOR_ | sort; cat; echo; echo done; } >$1/a");
    let mut notifier = Notifier::with("edge", &config, quick());
    notifier.notify(backend(11, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    let said = place.read("a").expect("ran");
    let (id, said) = said.split_once('\n').unwrap();
    assert_eq!(id, nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.to_string());
    let environment: Vec<_> = said.lines().take_while(|l| l.starts_with("DIRECTOR_")).collect();
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
    let json = said.lines().find(|line| line.starts_with('{')).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!((&json["to"], &json["instance"]), (&"down".into(), &"edge".into()));
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_and_the_next_message_comes_in_its_order() {
    let Some(place) = Place::new("hangs") else { return };
    let config = place.hook(
        "case $DIRECTOR_BACKEND in *.1) sleep 60;; esac; echo $DIRECTOR_BACKEND >>$1/a; \
         case $DIRECTOR_BACKEND in *.3) cat >$1/json; echo >>$1/json; echo done >>$1/a;; *) exit 1;; \
         esac",
    );
    let mut notifier = Notifier::with("main", &config, quick());
    for n in 1..=3 {
        notifier.notify(backend(n, "web", "down"));
    }
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(place.read("a").expect("all ran"), "10.0.0.2\n10.0.0.3\ndone\n");
    // The one that was killed counts as lost, and was told so with the next; one that says 1 does not.
    let json = fs::read_to_string(place.0.join("json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["lost"], 0);
}

#[tokio::test]
async fn no_more_than_four_hooks_run_at_a_time() {
    let Some(place) = Place::new("four") else { return };
    let mut config = place.hook("");
    // Each notes how many there are while it runs.
    let text = "touch $1/running.$2; ls $1 | grep -c running >$1/count.$2; sleep 0.2; \
                rm $1/running.$2; echo done >>$1/all";
    config.exec = (0..10)
        .map(|n| {
            let place = place.0.to_str().unwrap();
            ["/bin/sh", "-c", text, "hook", place, &n.to_string()].map(str::to_owned).into()
        })
        .collect();
    let mut notifier = Notifier::with("main", &config, quick());
    notifier.notify(backend(1, "web", "down"));
    notifier.flush(Duration::from_secs(8)).await;
    assert_eq!(place.read("all").expect("ran").lines().count(), 10);
    let counts: Vec<usize> = (0..10)
        .map(|n| fs::read_to_string(place.0.join(format!("count.{n}"))).unwrap())
        .map(|count| count.trim().parse().unwrap())
        .collect();
    assert!(counts.iter().all(|&n| n <= crate::alarm::exec::AT_ONCE), "{counts:?}");
    assert!(counts.iter().any(|&n| n > 1), "side by side: {counts:?}");
}

#[tokio::test]
async fn root_runs_nothing() {
    let Some(place) = Place::new("root") else { return };
    let mut config = place.hook("echo done >$1/a");
    config.user = Some("root".into());
    let mut notifier = Notifier::with("main", &config, quick());
    notifier.notify(backend(1, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(place.read("a"), None);
    config.user = None;
    notifier.configure(&config);
    notifier.notify(backend(2, "web", "down"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(place.read("a").as_deref(), Some("done\n"));
}

#[tokio::test]
async fn the_example_hands_warnings_on() {
    let Some(place) = Place::new("example") else { return };
    let script = |name: &str, text: &str| {
        let path = place.0.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permitted");
        path.to_str().expect("text").to_owned()
    };
    let hook = script("hook", include_str!("../../../../docs/examples/alarm-hook.sh"));
    let there = place.0.display();
    let pager = script(
        "pager",
        &format!("#!/bin/sh\n{{ echo \"$1 $2\"; cat >/dev/null; echo done; }} >>{there}/a\n"),
    );
    let config = model::Alarms { exec: vec![vec![hook, pager]], ..model::Alarms::default() };
    let mut notifier = Notifier::with("edge", &config, quick());
    notifier.notify(backend(11, "web", "up"));
    notifier.notify(backend(12, "web", "down"));
    notifier.notify(Transition::now(Subject::Director, "in effect", "refused", "line 3"));
    notifier.flush(Duration::from_secs(5)).await;
    assert_eq!(
        place.read("a").expect("ran"),
        "low edge: backend 10.0.0.12 of web: up -> down (connection refused)\ndone\n\
         high edge: director: in effect -> refused (line 3)\ndone\n"
    );
}
