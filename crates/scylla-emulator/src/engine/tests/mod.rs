//! The engine by tables of statements and what they give.

mod reads;
mod reconciliation;
mod schema;
mod support;
mod writes;
