//! What the tests share: packets built byte by byte, the shipped program run over them, and the
//! result that an independent implementation of the rules expects.

pub mod authority;
pub mod browser;
pub mod case;
pub mod fuzz;
pub mod given;
pub mod health;
pub mod live;
pub mod model;
pub mod oracle;
pub mod packet;
pub mod pcap;
pub mod read;
pub mod tree;
