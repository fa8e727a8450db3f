//! The clients of known flows: cold records beside the flow table, written only if the
//! configuration enables them (`flows.clients`).

use crate::{
    address::Address,
    flow::{FlowHash, FlowKey, KeyWords},
    flow_table::SET_WAYS,
};

/// The part of a flow's key that its entry does not hold. The rest, the VIP, is its service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: Address,
    /// Its port, wire order.
    pub port: [u8; 2],
    /// The destination port of its packets, wire order.
    pub vip_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6; 0: no client is recorded.
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

/// The clients of one set of the flow table, by way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientSet {
    /// By way of the set.
    pub clients: [Client; SET_WAYS],
}

const _: () = assert!(size_of::<Client>() == 24 && size_of::<ClientSet>() == 96);

impl Client {
    /// The client of a flow.
    #[inline(always)]
    pub const fn of(flow: &FlowKey) -> Self {
        Self {
            address: flow.source,
            port: flow.source_port,
            vip_port: flow.destination_port,
            protocol: flow.protocol,
            family: flow.family,
            _pad: [0; 2],
        }
    }

    /// The flow from this client to `vip`.
    pub const fn flow_to(&self, vip: Address) -> FlowKey {
        FlowKey {
            source: self.address,
            destination: vip,
            source_port: self.port,
            destination_port: self.vip_port,
            protocol: self.protocol,
            family: self.family,
            _pad: [0; 2],
        }
    }

    /// Whether this is the client of the flow `hash` to `vip`. A record is not written atomically,
    /// and after its entry: a torn one, or another flow's, does not produce the hash.
    pub fn is_of(&self, hash: FlowHash, vip: Address, key: &impl KeyWords) -> bool {
        self.family != 0 && self.flow_to(vip).hash(key) == hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;

    #[test]
    fn a_torn_record_matches_no_flow() {
        let vip = Address::v4([192, 0, 2, 10]);
        let flow = |last: u8, port: u16| FlowKey {
            source: Address::v4([198, 51, 100, last]),
            destination: vip,
            source_port: port.to_be_bytes(),
            destination_port: [1, 187],
            protocol: 6,
            family: 4,
            _pad: [0; 2],
        };
        let key = HashKey::expand([7; 16]);
        let (a, b) = (flow(1, 40_000), flow(2, 50_000));
        let client = Client::of(&a);
        assert_eq!(client.flow_to(vip), a);
        assert!(client.is_of(a.hash(&key), vip, &key));
        assert!(!client.is_of(b.hash(&key), vip, &key));
        let torn = Client { address: Client::of(&b).address, ..client };
        assert!(!torn.is_of(a.hash(&key), vip, &key) && !torn.is_of(b.hash(&key), vip, &key));
        assert!(!Client::default().is_of(a.hash(&key), vip, &key));
    }
}
