//! The gateway from outside: its engine over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::indexing_slicing, reason = "likewise")]

mod engine;
