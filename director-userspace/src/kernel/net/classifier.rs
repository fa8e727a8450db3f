//! tc: BPF programs on ingress and egress, by a clsact qdisc.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        tc::{
            TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
        },
    },
};

use super::{NetError, Netlink, failed};

/// `ETH_P_ALL` (linux/if_ether.h), in network order: any packet.
const ANY_PACKET: u16 = 0x0003u16.to_be();
const CLSACT: &str = "clsact";
/// The qdisc that has the place of clsact and only one of its two sides.
const INGRESS: &str = "ingress";

/// A side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Received packets, after XDP.
    Ingress,
    /// Sent packets, before they are queued.
    Egress,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Its name in `tc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// A filter on a side of an interface: what `tc filter show` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Filters of lower numbers see a packet first.
    pub priority: u16,
    /// Its number among those of this priority.
    pub handle: u32,
    /// The name that it was given, if it is a BPF program's.
    pub name: Option<String>,
    /// The program's id.
    pub program: Option<u32>,
}

/// What an interface has in the place of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clsact {
    /// It was there.
    Present,
    /// It was created just now.
    Made,
    /// A qdisc `ingress` is there, which excludes clsact.
    Taken,
}

impl Netlink {
    /// Interfaces of this namespace that have a clsact qdisc.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn clsacts(&self) -> Result<Vec<u32>, NetError> {
        self.qdiscs(CLSACT).await
    }

    async fn qdiscs(&self, wanted: &str) -> Result<Vec<u32>, NetError> {
        let answer = self
            .dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))
            .await
            .map_err(|e| failed("list the queueing disciplines", e))?;
        let index_of = |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) if kind(&qdisc) == Some(wanted) => {
                u32::try_from(qdisc.header.index).ok()
            }
            _ => None,
        };
        Ok(answer.into_iter().filter_map(index_of).collect())
    }

    /// Adds a clsact qdisc to an interface, unless it has one.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn ensure_clsact(&self, index: u32) -> Result<Clsact, NetError> {
        let message = clsact(index);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.change(RouteNetlinkMessage::NewQueueDiscipline(message), flags).await {
            Ok(()) => Ok(Clsact::Made),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let taken = self.qdiscs(INGRESS).await?.contains(&index);
                Ok(if taken { Clsact::Taken } else { Clsact::Present })
            }
            Err(error) => Err(failed(format!("add a clsact qdisc to interface {index}"), error)),
        }
    }

    /// Removes the clsact qdisc from an interface, with all filters.
    ///
    /// # Errors
    /// [`NetError::System`].
    pub async fn remove_clsact(&self, index: u32) -> Result<(), NetError> {
        self.change(RouteNetlinkMessage::DelQueueDiscipline(clsact(index)), 0)
            .await
            .map_err(|e| failed(format!("remove the clsact qdisc from interface {index}"), e))
    }

    /// The filters on a side of an interface, in the order in which they run.
    ///
    /// # Errors
    /// [`NetError::System`]; also if there is no clsact qdisc.
    pub async fn filters(&self, index: u32, side: Side) -> Result<Vec<Filter>, NetError> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = side.parent();
        let answer =
            self.dump(RouteNetlinkMessage::GetTrafficFilter(message)).await.map_err(|e| {
                failed(format!("list the {} filters of interface {index}", side.as_str()), e)
            })?;
        let filters = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(filter) => as_filter(&filter),
            _ => None,
        });
        Ok(filters.collect())
    }

    /// Attaches a program to a side of an interface, in direct-action mode. A filter with this
    /// priority and handle is replaced atomically: every packet passes one of the two.
    ///
    /// # Errors
    /// [`NetError::System`]; "Invalid argument" means that filters of another kind have this
    /// priority.
    pub async fn put_classifier(
        &self,
        index: u32,
        side: Side,
        filter: &Filter,
        program: BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        let mut message = filter_message(index, side, filter);
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(filter.name.clone().unwrap_or_default()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let options = options.into_iter().map(TcOption::Bpf).collect();
        message.attributes.push(TcAttribute::Options(options));
        self.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE).await.map_err(
            |e| {
                let side = side.as_str();
                failed(format!("attach a tc program to the {side} side of interface {index}"), e)
            },
        )
    }

    /// Removes a BPF filter from a side of an interface.
    ///
    /// # Errors
    /// [`NetError::System`]; "No such file or directory" means that it is not there.
    pub async fn remove_classifier(
        &self,
        index: u32,
        side: Side,
        filter: &Filter,
    ) -> Result<(), NetError> {
        let message = filter_message(index, side, filter);
        self.change(RouteNetlinkMessage::DelTrafficFilter(message), 0).await.map_err(|e| {
            let side = side.as_str();
            failed(format!("remove a tc program from the {side} side of interface {index}"), e)
        })
    }
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind(CLSACT.into()));
    message
}

fn filter_message(index: u32, side: Side, filter: &Filter) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = side.parent();
    message.header.handle = filter.handle.into();
    message.header.info = u32::from(filter.priority) << 16 | u32::from(ANY_PACKET);
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.into()));
    message
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

/// None for the container of BPF filters of one priority, which is listed like one of them.
fn as_filter(message: &TcMessage) -> Option<Filter> {
    let handle: u32 = message.header.handle.into();
    if handle == 0 && kind(message) == Some(TcFilterBpf::KIND) {
        return None;
    }
    let priority = (message.header.info >> 16) as u16;
    let mut filter = Filter { priority, handle, name: None, program: None };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                    filter.name = Some(name.clone());
                }
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                _ => {}
            }
        }
    }
    Some(filter)
}
