//! A private network of namespaces on this host to try a configuration in.
//!
//! ```text
//!  client1   client2   ...      director        b1   b2   b3   ...
//!     |         |                  |             |    |    |
//!     +---------+------ switch ----+-------------+----+----+
//! ```
//!
//! Every node is a network namespace `LAB-NODE` with an interface of its own; the switch is a
//! bridge. The director's node has the VIPs, so that it answers ARP and neighbour discovery for
//! them, and runs nothing by itself. Backends are real servers as [`crate::setup::realserver`] sets
//! them up. A [`Lab`] that goes out of scope is removed; [`Lab::persist`] leaves it for other
//! processes, and [`Lab::remove`] ends it.
//!
//! ```no_run
//! # async fn example(config: &director_userspace::policy::config::Config) -> anyhow::Result<()> {
//! use director_userspace::setup::lab::Lab;
//!
//! let lab = Lab::builder().name("try").config(config).clients(2).build().await?;
//! let server = lab.serve_http("b1")?;
//! let vip = server.listen()[0];
//! let answer = lab.node("client1")?.run(|| std::net::TcpStream::connect(vip))?;
//! # Ok(())
//! # }
//! ```

mod error;
mod http;
mod node;
mod process;
mod record;
mod topology;
mod wiring;

use std::net::IpAddr;

pub use self::{error::LabError, http::HttpServer, node::Node, topology::MAX_CLIENTS};
use self::{record::Record, topology::Topology};
use crate::{
    kernel::net::NetNs,
    policy::config::{self, Config},
};

/// The name of a lab that is given none.
pub const DEFAULT_NAME: &str = "lab";
/// The configuration of a lab that is given none: two services, three backends.
pub const DEFAULT_CONFIG: &str = include_str!("default.yaml");

const SWITCH: &str = "switch";
const BRIDGE: &str = "br0";

/// A network of namespaces.
#[derive(Debug)]
pub struct Lab {
    record: Record,
    nodes: Vec<Node>,
    persistent: bool,
}

/// The options of a lab.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    name: String,
    config: Option<Config>,
    hosts: Vec<Vec<IpAddr>>,
    clients: usize,
}

impl Builder {
    /// Its name, unique on this host: 1 to 32 of a-z, 0-9 and `-`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The configuration to build for. [`DEFAULT_CONFIG`] by default.
    pub fn config(mut self, config: &Config) -> Self {
        self.config = Some(config.clone());
        self
    }

    /// Puts these backend addresses on one machine. Every other address has a machine of its own.
    pub fn host(mut self, addresses: &[IpAddr]) -> Self {
        self.hosts.push(addresses.to_vec());
        self
    }

    /// How many clients, at most [`MAX_CLIENTS`]; one by default.
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Builds it. What a lab of this name left behind when its process died is removed first.
    ///
    /// # Errors
    /// [`LabError::Exists`] if a lab of this name is in use; else what could not be made. Nothing
    /// is left behind.
    pub async fn build(self) -> Result<Lab, LabError> {
        let mut hosts = self.hosts;
        let config = match self.config {
            Some(config) => config,
            None => {
                hosts.extend(default_hosts());
                default_config()?
            }
        };
        let topology = Topology::of(&config, self.clients, &hosts)?;
        let record = Record::new(&self.name, &topology.nodes)?;
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NeedsRoot);
        }
        record.claim()?;
        // From here on, dropping the lab removes what there is.
        let mut lab = Lab { record, nodes: Vec::new(), persistent: false };
        let mut namespaces = wiring::build(&lab.record, &topology).await?;
        for node in &lab.record.nodes {
            if let Some(netns) = namespaces.remove(&node.name) {
                lab.nodes.push(Node::new(node, netns));
            }
        }
        Ok(lab)
    }
}

impl Lab {
    /// A lab to be built: named [`DEFAULT_NAME`], with one client.
    pub fn builder() -> Builder {
        Builder { name: DEFAULT_NAME.into(), config: None, hosts: Vec::new(), clients: 1 }
    }

    /// Opens a lab that another process left for others.
    ///
    /// # Errors
    /// [`LabError::NoSuchLab`]; [`LabError::Net`] if parts of it are gone.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let record = Record::load(name)?;
        let open = |node: &record::NodeRecord| {
            let netns = NetNs::open(&record.namespace(&node.name));
            let netns = netns.map_err(|source| LabError::Net { node: node.name.clone(), source });
            Ok::<_, LabError>(Node::new(node, netns?))
        };
        let nodes = record.nodes.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { record, nodes, persistent: true })
    }

    /// Removes a lab, or what is left of one, with all processes that run in it. Not one that a
    /// living process still uses, unless `force`d.
    ///
    /// # Errors
    /// [`LabError::NoSuchLab`], [`LabError::Exists`], or what could not be removed.
    pub fn remove(name: &str, force: bool) -> Result<(), LabError> {
        let record = Record::load(name)?;
        match record.creator.as_ref().filter(|creator| creator.is_alive()) {
            Some(creator) if !force => {
                Err(LabError::Exists { name: name.into(), creator: Some(creator.pid) })
            }
            _ => record.remove_lab(),
        }
    }

    /// The names of all labs on this host, sorted.
    ///
    /// # Errors
    /// [`LabError::System`] if the directory of their records can't be read.
    pub fn names() -> Result<Vec<String>, LabError> {
        record::names()
    }

    /// Leaves the lab to other processes: dropping this value no longer removes it.
    ///
    /// # Errors
    /// [`LabError::System`] if its record can't be written.
    pub fn persist(&mut self) -> Result<(), LabError> {
        self.record.creator = None;
        self.record.save()?;
        self.persistent = true;
        Ok(())
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// All nodes: the switch, the director, the clients, the backends.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name: `director`, `client1`, `b1`, `switch`.
    ///
    /// # Errors
    /// [`LabError::NoSuchNode`].
    pub fn node(&self, name: &str) -> Result<&Node, LabError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| LabError::NoSuchNode {
            name: name.into(),
            existing: self.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    /// Node and address of every backend address of the configuration, and of the addresses that
    /// the lab added so that every node speaks both families.
    pub fn backends(&self) -> Vec<(&str, IpAddr)> {
        let backends = self.nodes.iter().filter(|node| node.backend);
        backends
            .flat_map(|node| node.addresses.iter().map(|&address| (node.name.as_str(), address)))
            .collect()
    }

    /// The instance name of a backend of this lab, for `director realserver --instance`.
    pub fn realserver_instance(&self, node: &str) -> String {
        self.record.instance(node)
    }

    /// Starts an HTTP server on a backend, on all VIPs and TCP ports it serves. It answers every
    /// request with `200` and the node's name. Returns when it is ready.
    ///
    /// # Errors
    /// [`LabError::NotInstalled`] if there is no nginx; [`LabError::ServerFailed`];
    /// [`LabError::NoSuchNode`].
    pub fn serve_http(&self, node: &str) -> Result<HttpServer, LabError> {
        let node = self.node(node)?;
        HttpServer::start(self.name(), node, node.listen())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.persistent {
            // What is left is still on record, and `director lab down` tries again.
            let _ = self.record.remove_lab();
        }
    }
}

fn default_config() -> Result<Config, LabError> {
    match config::parse("the built-in configuration", DEFAULT_CONFIG) {
        Ok(loaded) => Ok(loaded.config),
        Err(errors) => Err(LabError::Unplaceable { why: errors.to_string() }),
    }
}

/// Which addresses of [`DEFAULT_CONFIG`] are one machine.
fn default_hosts() -> impl Iterator<Item = Vec<IpAddr>> {
    (11..=13).map(|n| {
        vec![
            IpAddr::from([10, 0, 0, n]),
            IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(n) + 6]),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_valid_and_has_three_backends() {
        let config = default_config().expect("valid");
        let hosts: Vec<_> = default_hosts().collect();
        let topology = Topology::of(&config, 1, &hosts).expect("fits");
        let names: Vec<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["director", "client1", "b1", "b2", "b3"]);
        for node in &topology.nodes[2..] {
            assert_eq!(node.addresses.len(), 2, "{node:?}");
        }
    }
}
