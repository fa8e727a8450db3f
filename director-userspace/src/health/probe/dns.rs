//! Checks by a DNS question over UDP.

use std::str::FromStr as _;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{
    super::{failure::Failure, socket},
    Destination,
};
use crate::policy::config::model::DnsProbe;

/// Larger than any UDP answer to a client without EDNS.
const DATAGRAM: usize = 4096;
/// Most datagrams that do not answer the question before the probe fails.
const MAX_STRAYS: usize = 100;

pub(in super::super) struct Question {
    query: Query,
    answer: bool,
}

impl Question {
    pub(in super::super) fn new(probe: &DnsProbe) -> Result<Self, Failure> {
        let invalid =
            |what, text: &str| Failure::host(format!("not probed: {text:?} is not a {what}"));
        let mut name =
            Name::from_ascii(&probe.name).map_err(|_| invalid("domain name", &probe.name))?;
        name.set_fqdn(true);
        let record = RecordType::from_str(&probe.record.to_ascii_uppercase())
            .map_err(|_| invalid("record type", &probe.record))?;
        Ok(Self { query: Query::query(name, record), answer: probe.answer })
    }

    pub(super) async fn query(&self, to: Destination) -> Result<(), Failure> {
        let id = fastrand::u16(..);
        let mut message = Message::new();
        message.set_id(id).set_op_code(OpCode::Query).set_message_type(MessageType::Query);
        message.set_recursion_desired(true).add_query(self.query.clone());
        let bytes = message
            .to_vec()
            .map_err(|error| Failure::host(format!("not probed: invalid question: {error}")))?;
        let socket = socket::udp(to.socket()?, to.mark).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..MAX_STRAYS {
            let length = socket.recv(&mut buffer).await.map_err(super::udp::refused)?;
            // Late or forged answers are ignored.
            if let Some(result) = self.result_of(id, &buffer[..length]) {
                return result;
            }
        }
        Err(Failure::backend("sent only datagrams that do not answer the question"))
    }

    /// The result by a datagram; none if it does not answer this question.
    pub(in super::super) fn result_of(&self, id: u16, bytes: &[u8]) -> Option<Result<(), Failure>> {
        self.answer(id, bytes).map(|answer| self.evaluate(&answer))
    }

    /// The message if it answers this question.
    fn answer(&self, id: u16, bytes: &[u8]) -> Option<Message> {
        let message = Message::from_vec(bytes).ok()?;
        // Servers that refuse a question may leave it out.
        let same = match message.query() {
            Some(query) => *query == self.query,
            None => message.response_code() != ResponseCode::NoError,
        };
        (message.id() == id && message.message_type() == MessageType::Response && same)
            .then_some(message)
    }

    fn evaluate(&self, answer: &Message) -> Result<(), Failure> {
        let code = answer.response_code();
        if code != ResponseCode::NoError {
            return Err(Failure::backend(format!("answered {}, wanted NOERROR", name_of(code))));
        }
        let record = self.query.query_type();
        let has = |record| answer.answers().iter().any(|one| one.record_type() == record);
        // ANY matches records of other types.
        let found = match record {
            RecordType::ANY => !answer.answers().is_empty(),
            record => has(record),
        };
        if self.answer && !found {
            let cut = if answer.truncated() { " (truncated)" } else { "" };
            return Err(Failure::backend(format!("answered without a {record} record{cut}")));
        }
        Ok(())
    }
}

/// The code's name in IANA's registry.
fn name_of(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        code => format!("code {}", u16::from(code)),
    }
}
