//! The status page in a real browser: what it shows, on which screens, and what it says when the
//! daemon is gone. The data is made up: see `live_view.rs` for a real director's.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use director_tests::browser::Browser;
use director_userspace::serve::{
    page,
    view::{
        Sampler,
        fixture::{conditions, snapshot},
        serve,
        status::Status,
    },
};
use serde_json::json;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

/// A daemon's page, whose backends are as a test says.
struct Daemon {
    runtime: Runtime,
    address: SocketAddr,
    conditions: watch::Sender<Arc<Status>>,
}

impl Daemon {
    fn start(address: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (conditions, receiver) = watch::channel(conditions(&[]));
        let packets = AtomicU64::new(100_000);
        let read = move || {
            let count = packets.fetch_add(12_345, Ordering::Relaxed);
            // Something that goes up and down.
            Ok(snapshot(count + (count / 12_345 % 5) * 1000))
        };
        let address = runtime.block_on(async {
            let sampler = Sampler::new(read, receiver);
            let listener = TcpListener::bind(address).await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(serve(listener, page::router(sampler)));
            address
        });
        Self { runtime, address, conditions }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn stop(self) -> SocketAddr {
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.address
    }
}

/// Where pictures go, for people to look at.
fn picture(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&directory).expect("a directory");
    directory.join(name)
}

const MAIN: &str = "return document.querySelector('main').innerText";

#[test]
fn a_backend_that_goes_down_is_shown_within_two_seconds_and_nothing_is_wrong() {
    let daemon = Daemon::start("127.0.0.1:0");
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "10.0.0.12", Duration::from_secs(10));
    let shown = browser.text(MAIN);
    assert!(!shown.contains("down"), "{shown}");
    for words in ["web", "tcp 192.0.2.10:80", "up, 3 of 3", "Packets a second", "no-neighbour"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    daemon.conditions.send_replace(conditions(&["10.0.0.12"]));
    let began = Instant::now();
    browser.wait_for(MAIN, "connection refused", Duration::from_secs(2));
    let took = began.elapsed();
    println!("shown after {took:?}");
    let shown = browser.text(MAIN);
    for words in ["degraded, 2 of 3", "10.0.0.12 of web: up → down (connection refused)"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    daemon.conditions.send_replace(conditions(&[]));
    browser.wait_for(MAIN, "down → up", Duration::from_secs(2));

    // Rates come with the second look, and are drawn.
    browser.wait_for(
        "return String([...document.querySelectorAll('svg path')].every(p => p.getAttribute('d').length > 9))",
        "true",
        Duration::from_secs(5),
    );
    browser.screenshot(&picture("wide.png"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn it_is_readable_on_a_phone_in_light_and_dark() {
    let daemon = Daemon::start("127.0.0.1:0");
    daemon.conditions.send_replace(conditions(&["10.0.0.12", "2001:db8:1::11"]));
    let browser = Browser::start(400, 800);
    browser.emulate(400, 800, "light");
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "connection refused", Duration::from_secs(10));
    thread::sleep(Duration::from_millis(2500));
    let mut grounds = BTreeMap::new();
    for scheme in ["light", "dark"] {
        browser.emulate(400, 800, scheme);
        // Opened details need room as well.
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)");
        let width = browser.run("return document.documentElement.scrollWidth");
        assert!(width.as_u64().expect("a number") <= 400, "{scheme}: {width}");
        let inner = browser.run("return window.innerWidth");
        assert_eq!(inner, 400);
        // No text sticks out of its box either.
        let out = browser.run(
            "return [...document.querySelectorAll('main *')].filter(e => \
             e.getBoundingClientRect().right > 400.5 && getComputedStyle(e).position !== 'absolute')\
             .map(e => e.outerHTML.slice(0, 80))",
        );
        assert_eq!(out, json!([]), "{scheme}");
        let ground = browser.text("return getComputedStyle(document.body).backgroundColor");
        grounds.insert(scheme, ground);
        browser.screenshot(&picture(&format!("phone-{scheme}.png")));
    }
    assert_ne!(grounds["light"], grounds["dark"]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Every table has headings for its rows and columns, every picture words.
#[test]
fn it_can_be_read_without_seeing_it() {
    let daemon = Daemon::start("127.0.0.1:0");
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "10.0.0.12", Duration::from_secs(10));
    let tables = browser.run(
        "return [...document.querySelectorAll('table')].filter(t => !t.hidden).map(t => [\
         t.caption && t.caption.textContent.length > 5,\
         [...t.querySelectorAll('thead th')].every(h => h.scope === 'col'),\
         [...t.querySelectorAll('tbody tr')].every(r => r.cells[0].scope === 'row')])",
    );
    let tables = tables.as_array().expect("a list").clone();
    assert!(tables.len() >= 3, "{tables:?}");
    assert!(tables.iter().all(|table| *table == json!([true, true, true])), "{tables:?}");
    let pictures = browser.run(
        "return [...document.querySelectorAll('svg')].map(s => s.getAttribute('role') + \
         s.getAttribute('aria-label'))",
    );
    for label in pictures.as_array().expect("a list") {
        let label = label.as_str().expect("text");
        assert!(label.starts_with("img") && label.contains(": now "), "{label}");
    }
    let colours = "return document.querySelector('#link').getAttribute('role')";
    assert_eq!(browser.text(colours), "status");
}

/// What backends answer is shown, never run or laid out.
#[test]
fn answers_of_backends_stay_text() {
    let daemon = Daemon::start("127.0.0.1:0");
    let mut evil = (*conditions(&["10.0.0.12"])).clone();
    let markup = "<img src=x onerror=\"document.title='run'\"><b>bold</b>";
    for backend in &mut evil.services[0].backends {
        backend.reason = markup.into();
        backend.agent = Some(markup.into());
        backend.checks[0].reason = markup.into();
    }
    evil.warnings.push(markup.into());
    daemon.conditions.send_replace(Arc::new(evil));
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "<b>bold</b>", Duration::from_secs(10));
    assert_eq!(browser.run("return document.querySelectorAll('img, b').length"), 0);
    assert!(browser.text("return document.title").contains("Director"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn it_says_that_it_is_stale_and_finds_a_daemon_that_comes_back() {
    let daemon = Daemon::start("127.0.0.1:0");
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    let link = "return document.querySelector('#link').textContent";
    browser.wait_for(link, "live", Duration::from_secs(10));
    browser.wait_for(MAIN, "10.0.0.12", Duration::from_secs(5));
    let address = daemon.stop();
    browser.wait_for(link, "stale: no news since", Duration::from_secs(6));
    // What was seen last stays.
    assert!(browser.text(MAIN).contains("10.0.0.12"));
    thread::sleep(Duration::from_secs(3));
    let daemon = Daemon::start(&address.to_string());
    daemon.conditions.send_replace(conditions(&["10.0.0.13"]));
    browser.wait_for(link, "live", Duration::from_secs(5));
    browser.wait_for(MAIN, "10.0.0.13 of web: up → down", Duration::from_secs(2));
}
