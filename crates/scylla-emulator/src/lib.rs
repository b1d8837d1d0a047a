#![doc = include_str!("../README.md")]

pub mod ast;
pub mod cdc;
pub mod cluster;
pub mod engine;
pub mod error;
pub mod functions;
mod hits;
pub mod hooks;
pub mod mutation;
pub mod parser;
mod protocol;
pub mod schema;
pub mod server;
pub mod storage;
mod system;
pub mod types;
pub mod visibility;

pub use server::{Builder, Emulator, NodeError, StartError, control, faults};
#[cfg(feature = "tls")]
pub use server::{Tls, TlsError};
