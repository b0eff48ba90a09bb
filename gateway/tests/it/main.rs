//! The one integration test binary: one link, shared helpers.

mod conformance;
mod sources;
mod tidy;
