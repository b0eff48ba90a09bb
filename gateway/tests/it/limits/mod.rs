//! What happens at the limits of a whole node: quotas, retention, queues, a store that fails.

mod packets;
mod retention;
