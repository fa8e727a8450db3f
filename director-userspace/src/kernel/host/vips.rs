//! VIPs that Director adds to interfaces itself (`assign_vips: true`), and takes away again.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::HostErrors;
use crate::{
    kernel::net::{NetError, Netlink},
    policy::config::Config,
};

/// Gives every interface that asks for it the configuration's VIPs, announces new ones, and takes
/// away those that an earlier call gave and that are gone from the configuration. What was given is
/// noted in `run_dir`.
///
/// # Errors
///
/// If an address cannot be added.
pub async fn assign_vips(
    netlink: &Netlink,
    config: &Config,
    run_dir: &Path,
) -> Result<(), HostErrors> {
    let given = read(run_dir);
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|s| s.frontend.address).collect();
    let mut wanted = BTreeSet::new();
    for interface in config.interfaces.iter().filter(|interface| interface.assign_vips) {
        wanted.extend(vips.iter().map(|vip| (interface.name.clone(), *vip)));
    }
    let mut ours = given.clone();
    for (interface, vip) in &wanted {
        let link = match netlink.link_by_name(interface).await {
            // Pulled out under a running daemon: it gets them when it is back.
            Err(NetError::NoSuchInterface { .. }) => continue,
            link => link?,
        };
        if netlink.add_address(link.index, *vip, prefix(*vip)).await? {
            ours.insert((interface.clone(), *vip));
            write(run_dir, &ours);
            // An interface that is down has nobody to tell.
            let _ = netlink.announce(link.index, *vip).await;
        }
    }
    let gone: Vec<_> = given.difference(&wanted).cloned().collect();
    for (interface, vip) in gone {
        take_away(netlink, &interface, vip).await?;
        ours.remove(&(interface, vip));
    }
    write(run_dir, &ours);
    Ok(())
}

/// Takes away every VIP that [`assign_vips`] gave.
///
/// # Errors
///
/// If an address cannot be removed.
pub async fn withdraw_vips(netlink: &Netlink, run_dir: &Path) -> Result<(), NetError> {
    for (interface, vip) in read(run_dir) {
        take_away(netlink, &interface, vip).await?;
    }
    write(run_dir, &BTreeSet::new());
    Ok(())
}

async fn take_away(netlink: &Netlink, interface: &str, vip: IpAddr) -> Result<(), NetError> {
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

fn note(run_dir: &Path) -> PathBuf {
    run_dir.join("vips")
}

/// `INTERFACE ADDRESS` a line.
fn read(run_dir: &Path) -> BTreeSet<(String, IpAddr)> {
    let text = fs::read_to_string(note(run_dir)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (interface, address) = line.split_once(' ')?;
            Some((interface.to_owned(), address.parse().ok()?))
        })
        .collect()
}

fn write(run_dir: &Path, given: &BTreeSet<(String, IpAddr)>) {
    let path = note(run_dir);
    if given.is_empty() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
        return;
    }
    let text: String = given.iter().map(|(i, a)| format!("{i} {a}\n")).collect();
    if let Err(error) = fs::write(&path, text) {
        tracing::warn!(
            "cannot note in {} which VIPs were added: {error}; `director detach` will leave them",
            path.display()
        );
    }
}
