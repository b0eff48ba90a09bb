//! What the MQTT specifications demand, one test a statement, and who keeps the count.

mod statements;
