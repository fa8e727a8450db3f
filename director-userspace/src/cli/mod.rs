//! The command line: one module per command.

pub mod doctor;
pub mod lab;
pub mod output;
pub mod realserver;
