//! The relay's configuration: raw text in, resolved values out.
//!
//! Owns the layers (defaults, files, environment, flags), the check of every value, and the
//! resolved [`Config`] that the rest of the relay reads. Invariants:
//!
//! 1. An unknown key is an error; all problems are reported at once, each with its origin.
//! 2. The rest of the relay sees resolved values only: no string is parsed after start.
//! 3. A secret never appears in `Debug`, in logs or in `config print`.

pub mod resolved;

pub use resolved::*;
