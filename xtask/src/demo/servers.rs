//! The web servers: nginx on every backend, each in its own directory.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{lab::Lab, scene::PORT};
use crate::sh;

/// A file that takes [`LARGE_FILE_TIME`] to download.
pub(super) const LARGE_FILE: &str = "large";
/// The header with the name of the server.
pub(super) const SERVED_BY: &str = "X-Served-By";
/// The error log in the directory of a server.
pub(super) const LOG: &str = "error.log";
const LARGE_FILE_TIME: Duration = Duration::from_secs(5);
/// Bytes per second of one download.
const LARGE_FILE_RATE: u64 = 128 * 1024;

/// The large file's size, in bytes.
pub(super) fn large_file_len() -> u64 {
    LARGE_FILE_RATE * LARGE_FILE_TIME.as_secs()
}

/// The byte of the large file at an offset: a pattern that lost or duplicated data shifts.
pub(super) fn large_file_byte(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// Starts the server of `node` below `directory`. It answers every request with its name and the
/// client's address and port.
pub(super) fn start(lab: &Lab, directory: &Path, node: &str) -> Result<Child> {
    let prefix = directory.join(node);
    let file = prefix.join("nginx.conf");
    fs::create_dir_all(prefix.join("temp"))
        .and_then(|()| fs::write(&file, configuration(node)))
        .and_then(|()| write_large_file(&prefix.join(LARGE_FILE)))
        .with_context(|| format!("cannot write to {}", prefix.display()))?;
    let nginx =
        sh::find("nginx").context("nginx is not installed: `apt-get install nginx-light`")?;
    let mut command = lab.on(node, nginx);
    command.arg("-p").arg(&prefix).arg("-c").arg(&file).args(["-e", LOG]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start nginx")
}

fn write_large_file(path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for offset in 0..large_file_len() {
        file.write_all(&[large_file_byte(offset)])?;
    }
    file.flush()
}

/// One process, so that one signal ends it, and nothing outside its directory.
fn configuration(node: &str) -> String {
    format!(
        r#"daemon off;
master_process off;
user root;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path temp/client_body;
  proxy_temp_path temp/proxy;
  fastcgi_temp_path temp/fastcgi;
  uwsgi_temp_path temp/uwsgi;
  scgi_temp_path temp/scgi;
  server {{
    listen {PORT} backlog=4096;
    listen [::]:{PORT} backlog=4096;
    add_header {SERVED_BY} {node};
    location / {{ return 200 "{node} $remote_addr $remote_port\n"; }}
    location = /{LARGE_FILE} {{ root .; limit_rate {LARGE_FILE_RATE}; }}
  }}
}}
"#
    )
}
