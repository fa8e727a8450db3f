//! The status page in a real browser: its content, on several screens, and its state when the
//! daemon is gone. The data is synthetic: see `live_view.rs` for a real director.

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
    Names, page,
    view::{
        Sampler,
        fixture::{snapshot, status},
        serve,
        status::Status,
    },
};
use serde_json::json;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

/// A daemon's page with backends set by a test.
struct Daemon {
    runtime: Runtime,
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
}

impl Daemon {
    fn start(address: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (status, receiver) = watch::channel(status(&[]));
        let packets = AtomicU64::new(100_000);
        let read = move || {
            let count = packets.fetch_add(12_345, Ordering::Relaxed);
            // A varying value.
            Ok(snapshot(count + (count / 12_345 % 5) * 1000))
        };
        let address = runtime.block_on(async {
            let sampler = Sampler::new(read, receiver);
            let listener = TcpListener::bind(address).await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(serve(listener, page::router(sampler, Names::default())));
            address
        });
        Self { runtime, address, status }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn stop(self) -> SocketAddr {
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        self.address
    }
}

/// Path of a screenshot, for visual inspection.
fn screenshot_path(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&directory).expect("a directory");
    directory.join(name)
}

const MAIN: &str = "return document.querySelector('main').innerText";

#[test]
fn a_backend_that_goes_down_is_shown_within_two_seconds_without_console_errors() {
    let daemon = Daemon::start("127.0.0.1:0");
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "10.0.0.12", Duration::from_secs(10));
    let shown = browser.text(MAIN);
    assert!(!shown.contains("down"), "{shown}");
    for words in ["web", "tcp 192.0.2.10:80", "up, 3 of 3", "Packets a second", "no-neighbour"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    daemon.status.send_replace(status(&["10.0.0.12"]));
    let began = Instant::now();
    browser.wait_for(MAIN, "connection refused", Duration::from_secs(2));
    let took = began.elapsed();
    println!("shown after {took:?}");
    let shown = browser.text(MAIN);
    for words in ["degraded, 2 of 3", "10.0.0.12 of web: up → down (connection refused)"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    daemon.status.send_replace(status(&[]));
    browser.wait_for(MAIN, "down → up", Duration::from_secs(2));

    // Rates exist from the second sample on, and are drawn.
    browser.wait_for(
        "return String([...document.querySelectorAll('svg path')].every(p => p.getAttribute('d').length > 9))",
        "true",
        Duration::from_secs(5),
    );
    browser.screenshot(&screenshot_path("wide.png"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_page_fits_a_phone_in_light_and_dark() {
    let daemon = Daemon::start("127.0.0.1:0");
    daemon.status.send_replace(status(&["10.0.0.12", "2001:db8:1::11"]));
    let browser = Browser::start(400, 800);
    browser.emulate(400, 800, "light");
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "connection refused", Duration::from_secs(10));
    thread::sleep(Duration::from_millis(2500));
    let mut backgrounds = BTreeMap::new();
    for scheme in ["light", "dark"] {
        browser.emulate(400, 800, scheme);
        // Open details must fit as well.
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)");
        let width = browser.run("return document.documentElement.scrollWidth");
        assert!(width.as_u64().expect("a number") <= 400, "{scheme}: {width}");
        let inner = browser.run("return window.innerWidth");
        assert_eq!(inner, 400);
        // No element exceeds the screen either.
        let out = browser.run(
            "return [...document.querySelectorAll('main *')].filter(e => \
             e.getBoundingClientRect().right > 400.5 && getComputedStyle(e).position !== 'absolute')\
             .map(e => e.outerHTML.slice(0, 80))",
        );
        assert_eq!(out, json!([]), "{scheme}");
        let background = browser.text("return getComputedStyle(document.body).backgroundColor");
        backgrounds.insert(scheme, background);
        browser.screenshot(&screenshot_path(&format!("phone-{scheme}.png")));
    }
    assert_ne!(backgrounds["light"], backgrounds["dark"]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Every table has headings for its rows and columns, every chart a label.
#[test]
fn the_page_is_accessible() {
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
    let charts = browser.run(
        "return [...document.querySelectorAll('svg')].map(s => s.getAttribute('role') + \
         s.getAttribute('aria-label'))",
    );
    for label in charts.as_array().expect("a list") {
        let label = label.as_str().expect("text");
        assert!(label.starts_with("img") && label.contains(": now "), "{label}");
    }
    let colours = "return document.querySelector('#link').getAttribute('role')";
    assert_eq!(browser.text(colours), "status");
}

/// Answers of backends are shown as text, never executed or rendered.
#[test]
fn answers_of_backends_are_shown_as_text() {
    let daemon = Daemon::start("127.0.0.1:0");
    let mut hostile = (*status(&["10.0.0.12"])).clone();
    let markup = "<img src=x onerror=\"document.title='run'\"><b>bold</b>";
    for backend in &mut hostile.services[0].backends {
        backend.reason = markup.into();
        backend.agent = Some(markup.into());
        backend.checks[0].reason = markup.into();
    }
    hostile.warnings.push(markup.into());
    daemon.status.send_replace(Arc::new(hostile));
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    browser.wait_for(MAIN, "<b>bold</b>", Duration::from_secs(10));
    assert_eq!(browser.run("return document.querySelectorAll('img, b').length"), 0);
    assert!(browser.text("return document.title").contains("Director"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_page_shows_that_it_is_stale_and_reconnects_to_a_restarted_daemon() {
    let daemon = Daemon::start("127.0.0.1:0");
    let browser = Browser::start(1200, 900);
    browser.open(&daemon.url());
    let link = "return document.querySelector('#link').textContent";
    browser.wait_for(link, "live", Duration::from_secs(10));
    browser.wait_for(MAIN, "10.0.0.12", Duration::from_secs(5));
    let address = daemon.stop();
    browser.wait_for(link, "stale: no data since", Duration::from_secs(6));
    // The last data stays visible.
    assert!(browser.text(MAIN).contains("10.0.0.12"));
    thread::sleep(Duration::from_secs(3));
    let daemon = Daemon::start(&address.to_string());
    daemon.status.send_replace(status(&["10.0.0.13"]));
    browser.wait_for(link, "live", Duration::from_secs(5));
    browser.wait_for(MAIN, "10.0.0.13 of web: up → down", Duration::from_secs(2));
}
