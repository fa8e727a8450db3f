//! VIPs that Director adds to interfaces itself (`assign_vips: true`), and removes again.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::HostErrors;
use crate::{
    kernel::{
        net::{NetError, Netlink},
        private_file,
    },
    policy::config::Config,
};

/// Adds the configuration's VIPs to every interface with `assign_vips`, announces new ones, and
/// removes those that an earlier call added and that are gone from the configuration. What was
/// added is recorded in `run_dir`.
///
/// # Errors
///
/// If an address cannot be added.
pub async fn assign_vips(
    netlink: &Netlink,
    config: &Config,
    run_dir: &Path,
) -> Result<(), HostErrors> {
    let added = read(run_dir);
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|s| s.frontend.address).collect();
    let mut wanted = BTreeSet::new();
    for interface in config.interfaces.iter().filter(|interface| interface.assign_vips) {
        wanted.extend(vips.iter().map(|vip| (interface.name.clone(), *vip)));
    }
    let mut ours = added.clone();
    for (interface, vip) in &wanted {
        let link = match netlink.link_by_name(interface).await {
            // Removed under a running daemon: the VIPs are added when it is back.
            Err(NetError::NoSuchInterface { .. }) => continue,
            link => link?,
        };
        if netlink.add_address(link.index, *vip, prefix(*vip)).await? {
            ours.insert((interface.clone(), *vip));
            write(run_dir, &ours);
            // An interface that is down cannot announce.
            let _ = netlink.announce(link.index, *vip).await;
        }
    }
    let gone: Vec<_> = added.difference(&wanted).cloned().collect();
    for (interface, vip) in gone {
        remove_vip(netlink, &interface, vip).await?;
        ours.remove(&(interface, vip));
    }
    write(run_dir, &ours);
    Ok(())
}

/// Removes every VIP that [`assign_vips`] added.
///
/// # Errors
///
/// If an address cannot be removed.
pub async fn withdraw_vips(netlink: &Netlink, run_dir: &Path) -> Result<(), NetError> {
    for (interface, vip) in read(run_dir) {
        remove_vip(netlink, &interface, vip).await?;
    }
    write(run_dir, &BTreeSet::new());
    Ok(())
}

async fn remove_vip(netlink: &Netlink, interface: &str, vip: IpAddr) -> Result<(), NetError> {
    match netlink.link_by_name(interface).await {
        Ok(link) => netlink.remove_address(link.index, vip, prefix(vip)).await.map(|_| ()),
        // Gone with its interface.
        Err(NetError::NoSuchInterface { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn record_path(run_dir: &Path) -> PathBuf {
    run_dir.join("vips")
}

/// `INTERFACE ADDRESS` a line.
fn read(run_dir: &Path) -> BTreeSet<(String, IpAddr)> {
    let text = fs::read_to_string(record_path(run_dir)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (interface, address) = line.split_once(' ')?;
            Some((interface.to_owned(), address.parse().ok()?))
        })
        .collect()
}

fn write(run_dir: &Path, added: &BTreeSet<(String, IpAddr)>) {
    let path = record_path(run_dir);
    if added.is_empty() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
        return;
    }
    let text: String = added.iter().map(|(i, a)| format!("{i} {a}\n")).collect();
    if let Err(error) = private_file::replace(&path, text.as_bytes()) {
        tracing::warn!(
            "cannot record in {} which VIPs were added: {error}; `director detach` will not remove \
             them",
            path.display()
        );
    }
}
