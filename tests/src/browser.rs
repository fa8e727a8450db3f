//! Headless Chromium, driven through chromedriver (WebDriver: https://www.w3.org/TR/webdriver2/).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long the browser may take to start, and for each command.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A browser with its own profile; both are removed when dropped.
pub struct Browser {
    driver: Child,
    base: String,
    agent: ureq::Agent,
    profile: PathBuf,
}

impl Browser {
    /// Starts one with a window of this size.
    ///
    /// # Panics
    /// If chromedriver is not installed: `cargo xtask setup` installs it.
    pub fn start(width: u32, height: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("director-browser{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        fs::create_dir_all(&profile).expect("a directory");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (Debian: chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver prints its port");
        // Drains the pipe, so that it does not fill.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let base = format!("http://127.0.0.1:{port}");
        let mut browser = Self { driver, base, agent, profile };
        let window = format!("--window-size={width},{height}");
        let data = format!("--user-data-dir={}", browser.profile.display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &window,
            &data,
        ];
        let session = browser.post(
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL"},
            }}}),
        );
        let id = session["sessionId"].as_str().expect("a session");
        browser.base = format!("{}/session/{id}", browser.base);
        browser
    }

    /// Opens a page.
    ///
    /// # Panics
    /// If the browser does not.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page and returns its result.
    ///
    /// # Panics
    /// If it throws.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// As [`Browser::run`], for a script that returns text.
    ///
    /// # Panics
    /// If it does not.
    pub fn text(&self, script: &str) -> String {
        let value = self.run(script);
        value.as_str().unwrap_or_else(|| panic!("{script}: {value}")).to_owned()
    }

    /// Waits until the text that `script` returns contains `words`.
    ///
    /// # Panics
    /// If it does not within `at_most`.
    #[track_caller]
    pub fn wait_for(&self, script: &str, words: &str, at_most: Duration) {
        let began = Instant::now();
        loop {
            let text = self.text(script);
            if text.contains(words) {
                return;
            }
            assert!(began.elapsed() < at_most, "no {words:?} within {at_most:?}:\n{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Emulates a screen of this size and a colour scheme (`light`, `dark`).
    ///
    /// # Panics
    /// If the browser does not.
    pub fn emulate(&self, width: u32, height: u32, scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true}),
        );
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": feature }));
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Writes a screenshot of the whole page, PNG.
    ///
    /// # Panics
    /// If it cannot.
    pub fn screenshot(&self, path: &Path) {
        let shot = self.devtools("Page.captureScreenshot", &json!({"captureBeyondViewport": true}));
        let encoded = shot["data"].as_str().expect("a screenshot");
        fs::write(path, decode(encoded)).expect("written");
    }

    /// Errors and warnings that the page wrote to the console since the last call.
    ///
    /// # Panics
    /// If the log cannot be read.
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list").iter();
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        entries.map(text).collect()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(&url).header("content-type", "application/json");
        let mut answer =
            request.send(body.to_string()).unwrap_or_else(|error| panic!("{url}: {error}"));
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().expect("text");
        let mut answer: Value = serde_json::from_str(&text).expect("JSON");
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{path}: {}: {}", value["error"], value["message"]);
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser, a child of the driver, ends with the session.
        let _ = self.agent.delete(&self.base).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// Base64, as the driver writes it.
fn decode(text: &str) -> Vec<u8> {
    let (mut bits, mut n_bits, mut bytes) = (0_u32, 0, Vec::new());
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode("RGlyZWN0b3I="), b"Director");
        assert_eq!(decode("+/8="), [0xfb, 0xff]);
    }
}
