//! Where MQTT and NATS meet: topics and subjects, properties and headers, topics and partitions.
//!
//! [`topic_subject`] maps names, [`message_headers`] maps what a PUBLISH says besides its topic and
//! payload, [`ring`] says which partition owns a topic. All of it is text to text: who sends what
//! where is for the upstream to know.

pub mod message_headers;
pub mod ring;
pub mod ring_change;
pub mod ring_table;
pub mod topic_subject;

mod escape;
