//! What is behind the gateway: ordered, durable partitions and keyed data.

pub mod embedded;
pub mod inquiry;
pub mod jetstream;
