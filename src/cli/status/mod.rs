//! How a relay is.

pub mod http;
