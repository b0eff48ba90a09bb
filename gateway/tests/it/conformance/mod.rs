//! What the MQTT specifications demand, one test a statement, and who keeps the count.

mod auth;
mod connect;
mod disconnect;
mod exchange;
mod information;
mod keep_alive;
mod maximum_packet_size;
mod ping;
mod publish;
mod publish_properties;
mod receive_maximum;
mod retain;
mod session;
mod statements;
mod topic_alias;
mod will;
