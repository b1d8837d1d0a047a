//! Example order service.
