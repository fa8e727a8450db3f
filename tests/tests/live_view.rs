//! What `stats --interval`, `top`, `/metrics` and the status page show of a running director, while
//! real packets pass.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use director_tests::{
    browser::Browser,
    live::{Connection, Live, VIPS, command, wait_until},
};
use director_userspace::{serve::metrics, setup::lab::DEFAULT_CONFIG};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A tmux terminal, initially 80x24, closed when dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs `director` with the words of `line` in the director's namespace.
    fn run(live: &Live, line: &str) -> Self {
        let socket = format!("t{}", live.instance().name());
        let terminal = Self { socket };
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut director = command(&words);
        director.args(["--instance", live.instance().name()]);
        let program = director.get_program().to_str().expect("UTF-8").to_owned();
        let arguments: Vec<_> = director
            .get_args()
            .map(|argument| argument.to_str().expect("UTF-8").to_owned())
            .collect();
        // `stty` shows whether the program restores the terminal's settings.
        let script = format!(
            "stty -a > {0}/before; {program} {1}; echo ended $?; stty -a > {0}/after; sleep 30",
            live.directory().display(),
            arguments.join(" ")
        );
        let mut tmux = terminal.command(&["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(["-x", "80", "-y", "24", &script]);
        live.node("director").place(&mut tmux).expect("placed");
        assert!(tmux.status().expect("tmux").success());
        terminal
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(words).env("TERM", "xterm-256color");
        command
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("tmux");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn screen(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(ToOwned::to_owned).collect()
    }

    /// Waits until a line contains all these words and returns the screen.
    #[track_caller]
    fn shows(&self, words: &[&str]) -> Vec<String> {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if screen.iter().any(|line| words.iter().all(|word| line.contains(word))) {
                return screen;
            }
            let late = began.elapsed() > Duration::from_secs(10);
            assert!(!late, "no line with {words:?}:\n{}", screen.join("\n"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The process id of the program in the terminal.
    fn program(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = format!("/proc/{shell}/task/{shell}/children");
        let children = fs::read_to_string(children).expect("listed");
        let child = children.split_whitespace().next().expect("a child");
        Pid::from_raw(child.parse().expect("a number"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_works_in_an_80x24_terminal_and_restores_it() {
    let live = Live::new("top").await;
    live.attach();
    let connections: Vec<Connection> = (0..12).map(|_| live.connect(VIPS[0])).collect();
    let terminal = Terminal::run(&live, "top --interval 500ms");
    let screen = terminal.shows(&["web ", "tcp 192.0.2.10:80", "3/3"]);
    assert!(screen[0].starts_with(&format!("director {}", live.instance().name())), "{screen:?}");
    assert!(screen[23].starts_with("q quit"), "{screen:?}");
    // The flow table counts the open connections.
    terminal.shows(&["web ", "tcp 192.0.2.10:80", "12"]);
    let stop = Instant::now() + Duration::from_secs(20);
    let rate = loop {
        live.spread(VIPS[0], 40);
        let screen = terminal.screen();
        let line = screen.iter().find(|line| line.starts_with("web ")).expect("a service");
        let cells: Vec<&str> = line.split_whitespace().collect();
        // SERVICE, ADDRESS in two words, STATE, UP, CONNS, PKT/S.
        let rate: f64 = cells[6].trim_end_matches('k').parse().unwrap_or(0.0);
        if rate > 0.0 || Instant::now() > stop {
            break rate;
        }
    };
    assert!(rate > 0.0, "no packets a second while they pass");

    terminal.press(&["Down", "Up", "Enter"]);
    terminal.shows(&["BACKEND", "SHARE", "WEIGHT"]);
    terminal.shows(&["10.0.0.13", "50.0%"]);
    terminal.press(&["d"]);
    terminal.shows(&["no-neighbour", "the next hop does not answer"]);
    terminal.press(&["/", "n", "o", "-", "r", "o", "u", "Enter"]);
    let screen = terminal.shows(&["/no-rou"]);
    assert!(!screen.iter().any(|line| line.contains("no-neighbour")), "{screen:?}");
    terminal.press(&["Escape"]);
    terminal.shows(&["no-neighbour"]);

    terminal.tmux(&["resize-window", "-x", "60", "-y", "12"]);
    wait_until("the screen follows the size", Duration::from_secs(5), || {
        let screen = terminal.screen();
        screen.len() == 12 && screen[11].starts_with("q quit")
    });
    terminal.press(&["q"]);
    terminal.shows(&["ended 0"]);
    same_terminal(&live);
    drop(connections);
    drop(terminal);

    let terminal = Terminal::run(&live, "top");
    terminal.shows(&["web ", "tcp 192.0.2.10:80"]);
    kill(terminal.program(), Signal::SIGTERM).expect("the process exists");
    terminal.shows(&["ended 0"]);
    same_terminal(&live);
    live.detach();
}

/// Asserts that the terminal's settings are restored.
#[track_caller]
fn same_terminal(live: &Live) {
    let read = |name| fs::read_to_string(live.directory().join(name)).unwrap_or_default();
    wait_until("the shell prints its settings", Duration::from_secs(5), || {
        read("after").contains("icanon")
    });
    // Its size may have changed.
    let modes = |text: String| text.split_once("intr").expect("modes").1.to_owned();
    assert_eq!(modes(read("before")), modes(read("after")));
    fs::remove_file(live.directory().join("after")).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn top_without_a_terminal_prints_one_frame() {
    let live = Live::new("top-once").await;
    live.attach();
    let _open: Vec<Connection> = (0..7).map(|_| live.connect(VIPS[1])).collect();
    let frame = live.director("top --once --interval 300ms").succeeded();
    frame.clone().prints(&["director t", "forwarded", "no daemon", "web-v6", "10.0.0.11"]);
    assert!(frame.stdout.lines().all(|line| line.chars().count() <= 90), "{frame:?}");
    let line = frame.stdout.lines().find(|line| line.starts_with("web-v6 ")).expect("a service");
    assert!(line.contains("  7 ") && line.contains("3/3"), "{line}");
    let refused = live.director("top --interval 1ms");
    refused.refused(1).reports(&["--interval: at least 200ms"]);
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_shows_rates_per_second() {
    let live = Live::new("rates").await;
    live.attach();
    let interval = Duration::from_secs(2);
    let (stats, n_requests) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (began, mut n_requests) = (Instant::now(), 0);
            while began.elapsed() < interval + Duration::from_secs(1) {
                n_requests += live.spread(VIPS[0], 10).values().sum::<usize>();
            }
            n_requests as f64 / began.elapsed().as_secs_f64()
        });
        thread::sleep(Duration::from_millis(300));
        let stats = live.json("stats --interval 2s --count 1");
        (stats, load.join().expect("a load"))
    });
    let web = &stats["services"][0];
    let flows = web["rate"]["flows"].as_f64().expect("a rate");
    assert!(
        (n_requests * 0.5..n_requests * 2.0).contains(&flows),
        "{flows} flows/s for {n_requests} requests/s"
    );
    let sum: f64 = (0..3).map(|at| web["backends"][at]["rate"]["flows"].as_f64().expect("n")).sum();
    assert!((sum - flows).abs() < 1.0, "{web}");
    let tx = stats["rates"]["tx"].as_f64().expect("a rate");
    // The counters are read one after the other while packets pass.
    assert!(tx >= 0.8 * web["rate"]["packets"].as_f64().expect("a rate"), "{stats}");
    let bytes = web["rate"]["bytes"].as_f64().expect("a rate");
    assert!(bytes > 40.0 * flows, "{web}");

    let twice = live.director("stats --interval 200ms --count 2").succeeded();
    assert_eq!(twice.stdout.matches("VERDICT").count(), 2, "{twice:?}");
    twice.prints(&["PKT/S", "DROP/S"]);
    live.director("stats --interval 1ms").refused(1).reports(&["at least 100ms"]);
    assert_eq!(live.director("stats --count 3").code, Some(2));
    live.detach();
}

#[tokio::test(flavor = "multi_thread")]
async fn established_connections_are_counted_by_backend() {
    let live = Live::new("census").await;
    live.attach();
    let mut open: Vec<Connection> = (0..30).map(|_| live.connect(VIPS[0])).collect();
    let mut by_backend = [0; 3];
    for connection in &mut open {
        let name = connection.request().expect("answered");
        let at = ["b1", "b2", "b3"].iter().position(|b| *b == name).expect("a backend");
        by_backend[at] += 1;
    }
    let backends = live.json("backends web");
    let shown: Vec<u64> =
        (0..3).map(|at| backends[at]["established"].as_u64().expect("n")).collect();
    assert_eq!(shown, by_backend, "{backends}");
    // Closed connections are not counted.
    drop(open);
    wait_until("closing connections are not counted", Duration::from_secs(5), || {
        live.json("services")[0]["established"] == 0
    });
    live.detach();
}

/// The built-in configuration with checks, and metrics and the page on loopback.
fn watched() -> String {
    let more = "api: {metrics: \"127.0.0.1:9815\", page: \"127.0.0.1:9816\"}\ndefaults:\n  health: \
                {type: tcp, port: 80, interval: 300ms, timeout: 200ms, rise: 1, fall: 2}\nservices:";
    DEFAULT_CONFIG.replace("services:", more)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_page_and_commands_show_a_backend_that_goes_down() {
    let live = Live::with("page", &watched()).await;
    let mut servers: Vec<_> =
        ["b1", "b2", "b3"].map(|node| live.lab.serve_http(node).expect(node)).into();
    let daemon = live.spawn_run();
    daemon.wait_for("running with", Duration::from_secs(30));
    wait_until("all are up", Duration::from_secs(10), || {
        let services = live.json("services");
        (0..2).all(|at| services[at]["status"]["state"] == "up")
    });
    let status = live.json("status");
    assert_eq!(status["running"]["pid"], daemon.pid(), "{status}");
    live.director("status").succeeded().prints(&["running for ", "director.yaml, revision "]);

    let main = "return document.querySelector('main').innerText";
    let scraped = |live: &Live| {
        live.node("director").run(|| {
            let mut answer = ureq::get("http://127.0.0.1:9815/metrics").call().expect("answered");
            answer.body_mut().read_to_string().expect("text")
        })
    };
    let before = scraped(&live).expect("enters");
    for metric in metrics::ALL {
        assert!(before.contains(&format!("# TYPE {} ", metric.name)), "no {}", metric.name);
    }
    let up = |n| {
        format!(
            "director_backend_up{{service=\"web\",frontend=\"tcp 192.0.2.10:80\",backend=\"10.0.0.{n}\"}}"
        )
    };
    assert!(before.contains(&format!("{} 1\n", up(12))), "{before}");

    live.node("director")
        .run(|| {
            let browser = Browser::start(1200, 900);
            browser.open("http://127.0.0.1:9816/");
            browser.wait_for(main, "up, 3 of 3", Duration::from_secs(10));
            // From here the checker needs fall x interval + timeout, and the page 2 s.
            drop(servers.remove(1));
            let ended = Instant::now();
            browser.wait_for(main, "10.0.0.12 of web: up → down", Duration::from_secs(3));
            println!("shown {:?} after the server ended", ended.elapsed());
            assert!(browser.text(main).contains("degraded, 2 of 3"));
            assert_eq!(browser.console(), Vec::<String>::new());
        })
        .expect("enters");
    assert!(scraped(&live).expect("enters").contains(&format!("{} 0\n", up(12))));
    live.director("status").succeeded().prints(&["trouble    web degraded", "2 of 3 up"]);
    live.director("backends web").succeeded().prints(&["web 10.0.0.12: down since "]);
    live.director("services").succeeded().prints(&["degraded  2/3"]);
    live.director("top --once").succeeded().prints(&["revision ", "degraded", "down"]);

    // Without the daemon, the maps can still be read.
    daemon.end(Signal::SIGTERM);
    let output = live.director("backends web").succeeded().reports(&["note: no daemon runs"]);
    output.prints(&["10.0.0.12  down", "10.0.0.11  active"]);
    live.detach();
}
