//! A DNS question over UDP.

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

/// More than a server sends over UDP to somebody who did not offer room for more.
const DATAGRAM: usize = 4096;
/// Datagrams that are no answer to this question, until the probe has had enough.
const STRAYS: usize = 100;

pub(super) struct Question {
    query: Query,
    answer: bool,
}

impl Question {
    pub(super) fn new(probe: &DnsProbe) -> Result<Self, Failure> {
        let unfit = |what, text: &str| Failure::host(format!("not probed: {text:?} is no {what}"));
        let mut name =
            Name::from_ascii(&probe.name).map_err(|_| unfit("domain name", &probe.name))?;
        name.set_fqdn(true);
        let record = RecordType::from_str(&probe.record.to_ascii_uppercase())
            .map_err(|_| unfit("record type", &probe.record))?;
        Ok(Self { query: Query::query(name, record), answer: probe.answer })
    }

    pub(super) async fn ask(&self, to: Destination) -> Result<(), Failure> {
        let id = fastrand::u16(..);
        let mut message = Message::new();
        message.set_id(id).set_op_code(OpCode::Query).set_message_type(MessageType::Query);
        message.set_recursion_desired(true).add_query(self.query.clone());
        let bytes = message
            .to_vec()
            .map_err(|error| Failure::host(format!("not probed: no such question: {error}")))?;
        let socket = socket::udp(to.socket()?, to.mark).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..STRAYS {
            let length = socket.recv(&mut buffer).await.map_err(super::udp::refused)?;
            // Late or forged ones do not count, nor do they end the wait for the true one.
            if let Some(answer) = self.answer(id, &buffer[..length]) {
                return self.judge(&answer);
            }
        }
        Err(Failure::backend("sends what is no answer to the question"))
    }

    /// The message, if it answers this question.
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

    fn judge(&self, answer: &Message) -> Result<(), Failure> {
        let code = answer.response_code();
        if code != ResponseCode::NoError {
            return Err(Failure::backend(format!("answered {}, wanted NOERROR", name_of(code))));
        }
        let record = self.query.query_type();
        let has = |record| answer.answers().iter().any(|one| one.record_type() == record);
        // ANY and the like ask for records of other types.
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

/// Its name in the registry.
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
