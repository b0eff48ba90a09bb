//! What the MQTT specifications demand, one test a statement, and who keeps the count.

mod auth;
mod connect;
mod disconnect;
mod exchange;
mod flow_control;
mod information;
mod keep_alive;
mod maximum_packet_size;
mod order;
mod ping;
mod publish;
mod publish_ack;
mod publish_properties;
mod qos;
mod receive_maximum;
mod redelivery;
mod retain;
mod retained;
mod scene;
mod session;
mod statements;
mod subscribe;
mod topic_alias;
mod topics;
mod unsubscribe;
mod will;
