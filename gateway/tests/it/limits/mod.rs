//! What happens at the limits of a whole node: quotas, retention, queues, a store that fails.

mod admission;
mod deliver_rate;
mod events;
mod mesh;
mod packets;
mod quota;
mod retention;
mod store_failures;
