//! MQTT over everything that carries it: the same exchanges over each, and what each adds.

mod attacks;
mod attacks_on_rules;
mod banned;
mod certificate_login;
pub(crate) mod certificates;
mod clients;
mod exchange;
mod hostile;
mod mosquitto;
mod party;
mod proxied;
mod reload;
pub(crate) mod replay;
mod resumption;
mod strangers;
mod target;
mod tls;
mod tools;
mod upgrade;
mod vanished;
mod websocket;
mod websocket_client;
mod wire;
